// What the page says when its program cannot start: a sentence instead of silence. A classic script,
// so that browsers too old for the rest still read it.
(function () {
  var started = false;
  // The smallest module that splats a byte.
  var header = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
  var type = [1, 4, 1, 0x60, 0, 0];
  var functions = [3, 2, 1, 0];
  var code = [10, 9, 1, 7, 0, 0x41, 0, 0xfd, 0x0f, 0x1a, 0x0b];
  var simd = header.concat(type, functions, code);
  var outdated =
    !("noModule" in HTMLScriptElement.prototype) ||
    typeof WebAssembly !== "object" ||
    !WebAssembly.validate(new Uint8Array(simd));

  function say(sentence) {
    var device = document.getElementById("device");
    var message = document.getElementById("message");
    if (device && message) {
      device.textContent = "";
      message.textContent = sentence;
      message.className = "error";
    }
    document.dispatchEvent(
      new CustomEvent("ddpm:error", { detail: { code: "engine", message: sentence } }),
    );
  }

  // What was kept for visits without a network (see sw.js) and is broken is kept no longer when `then`
  // says that reloading the page helps: one file, or all of them where nobody knows which.
  function forget(file, then) {
    if (!window.caches) return then();
    var forgetting = caches.keys().then(function (names) {
      var ours = names.filter(function (name) {
        return name.indexOf("fashion-ddpm ") === 0;
      });
      return Promise.all(
        ours.map(function (name) {
          if (!file) return caches.delete(name);
          return caches.open(name).then(function (cache) {
            return cache.delete(file);
          });
        }),
      );
    });
    forgetting.then(then, then);
  }
  // For the program, of a file that it found broken; nobody waits until it is gone.
  window.forgetKept = function (file) {
    forget(file, function () {});
  };

  addEventListener("TrunkApplicationStarted", function () {
    started = true;
  });
  // What fails while the program is awaited is an error to some browsers and a rejection to others.
  function died(reason) {
    if (started || outdated) return;
    forget(null, function () {
      say("This page's program could not be started (" + reason + "). Check the connection and reload the page.");
    });
  }
  addEventListener("unhandledrejection", function (event) {
    died((event.reason && event.reason.message) || event.reason);
  });
  addEventListener(
    "error",
    function (event) {
      // A script that is missing says so here and nowhere else.
      var source = event.target && (event.target.src || event.target.href);
      if (!source) return died(event.message);
      if (started || outdated) return;
      forget(source, function () {
        say("Part of this page could not be loaded: " + source + ". Reload the page.");
      });
    },
    true,
  );
  addEventListener("DOMContentLoaded", function () {
    if (outdated) {
      say(
        "This browser lacks JavaScript modules, or WebAssembly with SIMD. " +
          "Take Chrome or Edge 91, Firefox 89, Safari 16.4, or a later one.",
      );
    }
  });
})();
