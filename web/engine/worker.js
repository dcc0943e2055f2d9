// Starts an engine in a worker, and fetches for it meanwhile.
//
// Objects are for this file: {engine: "cpu"} downloads that build of the engine and starts it, telling
// how many bytes have come. {engine: "cpu", port} says that the page is fetching it: its module comes
// through the port, or null. {weights: {url, port}} says the same of a file which the engine is going to
// ask for. Arrays are for the engine: they wait until it is there and owns `onmessage`. Whatever goes wrong
// is told as an event of the engine, in the shape that web/protocol describes, so that the page has one
// kind of error to understand.

const waiting = [];

// Weights travel beside the engine: its own request for their address then gets what has come. Where
// nothing has, it asks the server, and says what went wrong.
const ahead = new Map();
const fetchNow = self.fetch.bind(self);
self.fetch = async (url, ...rest) => {
  const file = ahead.get(url);
  ahead.delete(url);
  return (await file) ?? whole(await fetchNow(url, ...rest));
};

// A response that fails where it breaks off. Not every browser sees to that: WebKit's network on Linux
// takes what has come for all there is.
function whole(response) {
  const total = length(response);
  if (total === null) return response;
  let missing = total;
  const counting = new TransformStream({
    transform(chunk, controller) {
      missing -= chunk.byteLength;
      controller.enqueue(chunk);
    },
    flush(controller) {
      if (missing > 0) controller.error(new TypeError(`${missing} of ${total} bytes are missing`));
    },
  });
  return new Response(response.body.pipeThrough(counting), response);
}

// Of a body, where that is known: the length of what is transferred says nothing about what it unpacks to.
function length({ body, headers }) {
  const known = body && !headers.has("Content-Encoding") && headers.get("Content-Length");
  return Number(known) || null;
}

self.onmessage = (event) => {
  const { data } = event;
  if (data.weights) expect(data.weights);
  if (data.engine) start(data);
  if (!Array.isArray(data)) return;
  waiting.push(event);
  const [request] = data;
  if (request.type === "load") fetchAhead(request);
};

function expect({ url, port }) {
  ahead.set(url, next(port).then((file) => file && new Response(file)));
}

function next(port) {
  return new Promise((come) => {
    port.onmessage = ({ data }) => come(data);
  });
}

// The whole file: a response that nobody reads stops coming.
function fetchAhead({ url, bytes }) {
  if (ahead.has(url)) return;
  const fetchWhole = async () => {
    const response = whole(await fetchNow(url, { priority: "low" }));
    if (!response.ok) return null;
    const body = counted(response.body, "weights", bytes || null);
    return new Response(await new Response(body).arrayBuffer(), { headers: response.headers });
  };
  ahead.set(url, fetchWhole().catch(() => null));
}

// What is broken is kept no longer (see web/app/sw.js), so that reloading the page helps.
self.forget = async (url) => {
  try {
    for (const name of await caches.keys()) await (await caches.open(name)).delete(url);
  } catch {
    // Where nothing can be kept.
  }
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

async function start({ engine, port }) {
  // The same version of both as of this file.
  const address = (file) => new URL(file + new URL(import.meta.url).search, import.meta.url).href;
  const files = [`engine-${engine}.js`, `engine-${engine}_bg.wasm`].map(address);
  if (self.GPUAdapter) pretendClocks(GPUAdapter);
  try {
    await run(...files, port);
  } catch (error) {
    await Promise.all(files.map(self.forget));
    fail(error.message ?? String(error));
    return;
  }
  for (const event of waiting) self.onmessage(event);
}

// CubeCL opens no GPU that keeps no time, although it asks for the time only where it tunes, which it has
// no reason to here. So each GPU is said to keep it, and those that do not are not asked for it.
function pretendClocks({ prototype }) {
  const { get } = Object.getOwnPropertyDescriptor(prototype, "features");
  const { requestDevice } = prototype;
  Object.defineProperty(prototype, "features", {
    get() {
      return new Set([...get.call(this), "timestamp-query"]);
    },
  });
  prototype.requestDevice = function ({ requiredFeatures = [], ...rest } = {}) {
    const there = get.call(this);
    return requestDevice.call(this, { ...rest, requiredFeatures: requiredFeatures.filter((f) => there.has(f)) });
  };
}

async function run(js, wasm, port) {
  const fetched = port ? next(port).then((module) => module ?? fetchModule(wasm)) : fetchModule(wasm);
  const [glue, module] = await Promise.all([importGlue(js), fetched]);
  try {
    // Runs the engine's `main`.
    await glue.default({ module_or_path: module });
  } catch (error) {
    const reason = error.message ?? error;
    throw new Error(
      `The engine from ${wasm} could not be started (${reason}). Check the connection and reload the page.`,
    );
  }
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
  return new Response(counted(response.body, "engine", length(response)), {
    headers: { "Content-Type": "application/wasm" },
  });
}

// A stream that tells how much of it has come, at most twenty times a second.
function counted(body, part, total) {
  let received = 0;
  let told = -Infinity;
  const tell = () => post({ type: "progress", part, received, total });
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
  return body.pipeThrough(counting);
}

function unreachable(url, reason) {
  return new Error(
    `The engine could not be fetched from ${url}: ${reason}. Check the connection and reload the page.`,
  );
}
