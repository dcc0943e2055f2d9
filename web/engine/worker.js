// Starts an engine in a worker.
//
// The page posts where the engine is, {engine, js, wasm}; this file downloads it, telling how many
// bytes have come, and starts it. From then on the engine owns `onmessage`. What arrives before
// that waits. Whatever goes wrong is told as an event of the engine, in the shape that
// web/protocol describes, so that the page has one kind of error to understand.

const early = [];

// Weights that the page asks for while the engine is still on its way travel beside it: the engine's
// own request for that address then gets the answer that is already coming.
const ahead = new Map();
const fetchNow = self.fetch.bind(self);
self.fetch = (url, ...rest) => {
  const answer = ahead.get(url);
  ahead.delete(url);
  return answer ?? fetchNow(url, ...rest);
};

function wait(event) {
  early.push(event);
  const { type, url } = event.data[0] ?? {};
  if (type !== "load" || ahead.has(url)) return;
  const answer = fetchNow(url);
  // Whoever asks for it is told.
  answer.catch(() => {});
  ahead.set(url, answer);
}

self.onmessage = (event) => {
  self.onmessage = wait;
  start(event.data).catch((error) => fail(error.message ?? String(error)));
};

// A trap that is no panic (out of memory, a stack too deep) ends here.
self.addEventListener("error", (event) => stopped(event.message));
self.addEventListener("unhandledrejection", (event) => stopped(event.reason?.message ?? event.reason));

function stopped(reason) {
  fail(`The engine stopped working (${reason}). Reload the page.`);
}

function post(event) {
  self.postMessage([event]);
}

function fail(message) {
  post({ type: "error", code: "engine", message, fatal: true });
}

async function start({ js, wasm }) {
  const [glue, module] = await Promise.all([importGlue(js), fetchModule(wasm)]);
  try {
    // Runs the engine's `main`.
    await glue.default({ module_or_path: module });
  } catch (error) {
    throw new Error(
      `This browser could not start the engine (${error.message ?? error}). ` +
        "It needs WebAssembly with SIMD: Chrome or Edge 91, Firefox 89, Safari 16.4, or later.",
    );
  }
  for (const event of early) self.onmessage(event);
}

async function importGlue(url) {
  try {
    return await import(url);
  } catch (error) {
    throw unreachable(url, error.message ?? error);
  }
}

// The module as a response that counts its bytes, so that it is compiled while it arrives.
async function fetchModule(url) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw unreachable(url, error.message ?? error);
  }
  if (!response.ok) throw unreachable(url, `the server answered ${response.status}`);
  // Servers made for development answer any address with the page itself.
  if (response.headers.get("Content-Type")?.startsWith("text/html")) {
    throw unreachable(url, "the server answered with a page of HTML");
  }
  // The length of what is transferred says nothing about what it unpacks to.
  const packed = response.headers.has("Content-Encoding");
  const total = (!packed && Number(response.headers.get("Content-Length"))) || null;
  let received = 0;
  let told = -Infinity;
  const tell = () => post({ type: "progress", part: "engine", received, total });
  const counting = new TransformStream({
    transform(chunk, controller) {
      received += chunk.byteLength;
      if (performance.now() - told >= 50) {
        told = performance.now();
        tell();
      }
      controller.enqueue(chunk);
    },
    flush: tell,
  });
  return new Response(response.body.pipeThrough(counting), {
    headers: { "Content-Type": "application/wasm" },
  });
}

function unreachable(url, reason) {
  return new Error(
    `The engine could not be fetched from ${url}: ${reason}. Check the connection and reload the page.`,
  );
}
