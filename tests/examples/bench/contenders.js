// A contender, made by `setUp` and timed by `measure`; counts of what it asks of WebGPU.
//
// Each has a document of its own, and with it a device of its own: onnxruntime-web can replay only
// the first of the sessions that share one.

export const sums = { launches: 0, submits: 0, bindGroups: 0, writes: 0, enqueueMs: 0 };

// When this thread began to talk to WebGPU. It falls silent when it has nothing more to do at once.
let since;

function count(type, method, what) {
  if (!type) return;
  const original = type.prototype[method];
  type.prototype[method] = function (...args) {
    sums[what] += 1;
    if (since === undefined) {
      since = performance.now();
      queueMicrotask(() => {
        sums.enqueueMs += performance.now() - since;
        since = undefined;
      });
    }
    return original.apply(this, args);
  };
}
count(self.GPUComputePassEncoder, "dispatchWorkgroups", "launches");
count(self.GPUQueue, "submit", "submits");
count(self.GPUDevice, "createBindGroup", "bindGroups");
count(self.GPUQueue, "writeBuffer", "writes");

self.about = async () => {
  const adapter = await navigator.gpu?.requestAdapter();
  const { vendor, architecture, device, description } = adapter?.info ?? {};
  return {
    browser: navigator.userAgent,
    adapter: adapter ? [vendor, architecture, device, description].filter(Boolean).join(" ") || "unnamed" : "none",
  };
};

let contender;

self.setUp = async (name, batch, onGpu, weights, question) => {
  try {
    const make = name === "ours" ? ours : onnx;
    contender = await make(batch, onGpu, weights, question);
    return { version: contender.version, off: contender.off };
  } catch (error) {
    return { failed: String(error?.message ?? error) };
  }
};

self.measure = (steps) => contender.run(steps);

// What each of some steps adds to the sums.
function perStep(before, after, steps) {
  if (!after?.launches) return {};
  return Object.fromEntries(Object.keys(after).map((what) => [what, (after[what] - before[what]) / steps]));
}

const distance = (a, b) => a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);

// An engine of this page, in a worker with this script.
async function engine(kind, script, weights) {
  const worker = new Worker(script, { type: "module" });
  const inbox = [];
  let wake = () => {};
  worker.onmessage = ({ data }) => { inbox.push(data); wake(); };
  worker.onerror = (event) => { inbox.push([{ type: "error", message: event.message }]); wake(); };
  const next = async (type) => {
    for (;;) {
      while (inbox.length === 0) await new Promise((resolve) => { wake = resolve; });
      const message = inbox.shift();
      if (message[0].type === "error") throw new Error(message[0].message);
      if (message[0].type === type) return message;
    }
  };
  worker.postMessage({ engine: kind });
  const url = new URL(`weights/${weights.file}`, location).href;
  worker.postMessage([{ type: "load", url, bytes: weights.bytes }]);
  await next("ready");
  return { post: (...message) => worker.postMessage(...message), next };
}

const PICTURE = { seed: 1, garment: "coat", sampler: "ddpm", steps: 1000, guidance: 1, count: 1 };

// The milliseconds of a run, and the sums at its beginning and its end.
async function walk({ post, next }, run, steps, count) {
  post([{ type: "run", run, picture: { ...PICTURE, steps, count }, paused: false }]);
  const [begun] = await next("started");
  const [done] = await next("done");
  return { ms: done.elapsedMs, before: begun.sums, after: done.sums };
}

async function ours(batch, onGpu, weights, question) {
  const kind = onGpu ? "webgpu" : "cpu";
  const worker = await engine(kind, "counting.js", weights);
  const x = new Float32Array(question.x).buffer;
  worker.post([{ type: "explain", run: 0, index: 0, t: question.t, picture: PICTURE }, x], [x]);
  const [, answer] = await worker.next("explained");
  return {
    version: `this build, ${kind} engine`,
    off: distance([...new Float32Array(answer)], question.answer),
    run: async (steps) => {
      const { ms, before, after } = await walk(worker, 1, steps, batch);
      if (!onGpu) return { ms: ms / steps, counts: {} };
      // A run begins and ends with work of its own: what a step adds is what another number of them adds.
      const others = steps === 1 ? 2 : Math.ceil(steps / 2);
      const other = await walk(worker, 1, others, batch);
      const [own, theirs] = [perStep(before, after, 1), perStep(other.before, other.after, 1)];
      return { ms: ms / steps, counts: perStep(theirs, own, steps - others) };
    },
  };
}

// Every launch of some steps with its times, what the thread takes for a step whose launches are empty,
// and what the adapter could do at best.
self.launches = async (batch, steps, weights) => {
  const { TIMED, EMPTIED, floor } = await import("./launches.js");
  const worker = await engine("webgpu", "watching.js", weights);
  // All there is to compile and to allocate.
  await walk(worker, 1, steps, batch);
  await walk(worker, TIMED, steps, batch);
  const [{ launches }] = await worker.next("timed");
  // Runs of two lengths: what a step adds. The first ones warm up.
  const few = 100, many = 900;
  const thread = [];
  for (let round = 0; round < 6; round++) {
    const short = await walk(worker, EMPTIED, few, batch);
    const long = await walk(worker, EMPTIED, many, batch);
    const sums = perStep(perStep(short.before, short.after, 1), perStep(long.before, long.after, 1), many - few);
    if (round > 0) thread.push({ ...sums, ms: (long.ms - short.ms) / (many - few) });
  }
  return { launches, thread, floor: await floor() };
};

async function onnx(batch, onGpu, weights, question) {
  const ort = await import(onGpu ? "./ort/ort.webgpu.min.mjs" : "./ort/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL("ort/", location).href;
  const model = new Uint8Array(await (await fetch("unet.onnx")).arrayBuffer());
  const options = { freeDimensionOverrides: { batch }, graphOptimizationLevel: "all" };
  if (onGpu) {
    Object.assign(options, { executionProviders: ["webgpu"], enableGraphCapture: true, preferredOutputLocation: "gpu-buffer" });
  } else {
    options.executionProviders = ["wasm"];
  }
  const session = await ort.InferenceSession.create(model, options);
  const x = new Float32Array(batch * 784);
  for (let i = 0; i < batch; i++) x.set(question.x, i * 784);
  const data = { x: [x, [batch, 1, 28, 28]], shifts: [new Float32Array(question.shifts), [1, question.shifts.length]] };
  const feeds = {};
  const device = onGpu ? await ort.env.webgpu.device : undefined;
  for (const [name, [values, dims]] of Object.entries(data)) {
    if (!onGpu) {
      feeds[name] = new ort.Tensor("float32", values, dims);
      continue;
    }
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    const buffer = device.createBuffer({ size: values.byteLength, usage });
    device.queue.writeBuffer(buffer, 0, values);
    feeds[name] = ort.Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims });
  }
  const output = session.outputNames[0];
  const first = (await session.run(feeds))[output];
  const answer = onGpu ? await first.getData() : first.data;
  return {
    version: `onnxruntime-web ${ort.env.versions.web}${onGpu ? ", graph capture" : ""}`,
    off: distance([...answer.slice(0, 784)], question.answer),
    run: async (steps) => {
      const before = { ...sums };
      const begun = performance.now();
      for (let i = 0; i < steps; i++) await session.run(feeds);
      await device?.queue.onSubmittedWorkDone();
      const ms = performance.now() - begun;
      return { ms: ms / steps, counts: onGpu ? perStep(before, sums, steps) : {} };
    },
  };
}
