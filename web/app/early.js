// What need not wait for the page's program: the weights travel beside it, and the engine's worker
// starts; the engine too, where there is no choice. The program takes over `early`, see
// web/app/src/engine.rs, and starts whatever is missing.
(() => {
  // Who saves data is asked first, by the program.
  if (navigator.connection?.saveData) return;
  const link = new URLSearchParams(location.search);
  const { content } = document.querySelector("meta[name=build]");
  const worker = new Worker(`worker.js?v=${content}`, { type: "module" });
  const early = { worker, heard: [] };
  worker.onmessage = worker.onerror = (event) => early.heard.push(event);

  // The default is the first.
  const list = JSON.parse(document.getElementById("weights").textContent);
  const epoch = link.get("epoch") ?? list[0]?.epoch;
  const weights = list.find((file) => file.epoch == epoch);
  if (weights) {
    // By this thread: the worker is there when this one has time for it, after the program's start.
    const url = new URL(weights.url, document.baseURI).href;
    const { port1, port2 } = new MessageChannel();
    worker.postMessage({ weights: { url, port: port2 } }, [port2]);
    const pass = (file) => port1.postMessage(file, file ? [file] : []);
    // Without a file the worker fetches it.
    fetchFile(url, weights.bytes).then(pass, () => pass(null));
  }

  if (!navigator.gpu || link.get("engine") === "cpu") {
    early.engine = "cpu";
    worker.postMessage({ engine: early.engine });
  } else {
    // A browser takes a while to look at its graphics card the first time.
    navigator.gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => {});
  }
  window.early = early;

  async function fetchFile(url, total) {
    // The program comes first, and the engine has more to do with what comes than the weights have.
    const response = await fetch(url, { priority: "low" });
    // Servers made for development answer any address with the page itself.
    const isPage = response.headers.get("Content-Type")?.startsWith("text/html");
    if (!response.ok || isPage) return null;
    let received = 0;
    let told = -Infinity;
    const tell = () => {
      told = performance.now();
      const progress = { type: "progress", part: "weights", received, total };
      worker.dispatchEvent(new MessageEvent("message", { data: [progress] }));
    };
    const counting = new TransformStream({
      transform(chunk, controller) {
        received += chunk.byteLength;
        if (performance.now() - told >= 50) tell();
        controller.enqueue(chunk);
      },
      flush: tell,
    });
    return new Response(response.body.pipeThrough(counting)).arrayBuffer();
  }
})();
