// What need not wait for the page's program: the engine and the weights travel beside it, and the
// engine's worker starts. The program takes over `early`, see web/app/src/engine.rs, and starts whatever
// is missing.
(() => {
  // Who saves data is asked first, by the program.
  if (navigator.connection?.saveData) return;
  const link = new URLSearchParams(location.search);
  const { content: build } = document.querySelector("meta[name=build]");
  const worker = new Worker(`worker.js?v=${build}`, { type: "module" });
  const travelling = new AbortController();
  const early = { worker, heard: [], stop: () => travelling.abort() };
  worker.onmessage = worker.onerror = (event) => early.heard.push(event);
  window.early = early;

  // By this thread: the worker is there when this one has time for it, after the program's start.
  const chosen = choose().catch(() => null);
  const engine = chosen.then(startEngine);

  // The default is the first.
  const list = JSON.parse(document.getElementById("weights").textContent);
  const epoch = link.get("epoch") ?? list[0]?.epoch;
  const weights = list.find((file) => file.epoch == epoch);
  if (weights) {
    const url = new URL(weights.url, document.baseURI).href;
    const port = passage((port) => ({ weights: { url, port } }));
    // A GPU has seconds of work with its engine, and none with weights alone. But the line should not
    // idle where a browser takes long to look at its graphics card.
    const patience = new Promise((enough) => setTimeout(enough, 300));
    Promise.race([chosen, patience])
      .then((kind) => kind === "webgpu" && engine)
      .then(() => fetchFile(url, "weights", weights.bytes))
      .then((file) => file?.arrayBuffer())
      .then((file) => port.postMessage(file ?? null, file ? [file] : []))
      .catch(() => port.postMessage(null));
  }

  // As the program will; it knows more about software, and has the last word.
  async function choose() {
    const asked = link.get("engine");
    if (!navigator.gpu || asked === "cpu") return "cpu";
    const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
    const software = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter;
    return adapter && (asked === "webgpu" || !software) ? "webgpu" : "cpu";
  }

  async function startEngine(kind) {
    // Nobody knows, or the program was faster.
    if (!kind || window.early !== early) return;
    early.engine = kind;
    const port = passage((port) => ({ engine: kind, port }));
    try {
      const file = await fetchFile(`engine-${kind}_bg.wasm?v=${build}`, "engine");
      port.postMessage(file && (await WebAssembly.compileStreaming(file)));
    } catch {
      port.postMessage(null);
    }
  }

  // A way to hand the worker what is still to come. Where that is null it fetches it itself, and says
  // what goes wrong.
  function passage(message) {
    const { port1, port2 } = new MessageChannel();
    worker.postMessage(message(port2), [port2]);
    return port1;
  }

  // A file that tells how much of it has come; null where it is not there.
  async function fetchFile(url, part, total = null) {
    // The program comes first, and the engine has more to do with what comes than the weights have.
    const priority = part === "weights" ? "low" : "auto";
    const response = await fetch(url, { priority, signal: travelling.signal });
    // Servers made for development answer any address with the page itself.
    const type = response.headers.get("Content-Type");
    if (!response.ok || type?.startsWith("text/html")) return null;
    let received = 0;
    let told = -Infinity;
    const tell = () => {
      told = performance.now();
      const progress = { type: "progress", part, received, total };
      worker.dispatchEvent(new MessageEvent("message", { data: [progress] }));
    };
    const counting = new TransformStream({
      transform(chunk, controller) {
        received += chunk.byteLength;
        if (performance.now() - told >= 50) tell();
        controller.enqueue(chunk);
      },
      flush(controller) {
        tell();
        // Not every browser takes that for a failure. The worker will fetch it again.
        if (received < total) controller.error(new TypeError("it broke off"));
      },
    });
    const headers = part === "engine" ? { "Content-Type": "application/wasm" } : {};
    return new Response(response.body.pipeThrough(counting), { headers });
  }
})();
