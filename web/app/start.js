// What the page says when its program cannot start: a sentence instead of silence. A classic script,
// so that browsers too old for the rest still read it.
(function () {
  var started = false;

  function say(sentence) {
    if (started) return;
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

  addEventListener("TrunkApplicationStarted", function () {
    started = true;
  });
  addEventListener("unhandledrejection", function (event) {
    var reason = (event.reason && event.reason.message) || event.reason;
    say("This page's program could not be started (" + reason + "). Check the connection and reload the page.");
  });
  // A script that is missing says so here and nowhere else.
  addEventListener(
    "error",
    function (event) {
      var source = event.target && (event.target.src || event.target.href);
      if (source) say("Part of this page could not be loaded: " + source + ". Reload the page.");
    },
    true,
  );
  addEventListener("DOMContentLoaded", function () {
    if (typeof WebAssembly !== "object" || !("noModule" in HTMLScriptElement.prototype)) {
      say("This browser lacks WebAssembly or JavaScript modules. Take a current Chrome, Edge, Firefox or Safari.");
    }
  });
})();
