// Where the time of a step goes, by the GPU's own clock; and what its adapter could do at best.
//
// In the engine's worker, `watch` gives each launch of one run a compute pass of its own, between two
// timestamps. In a document, `floor` times three shaders that are nothing but products, copies, and a
// launch. Chromium tells timestamps in steps of 0.1 ms, but to the nanosecond where it is started with
// --enable-unsafe-webgpu or --enable-webgpu-developer-features.

import { sums } from "./contenders.js";

// The run whose launches are timed, and the first of those whose launches are emptied: they show what a
// step costs the thread on a machine whose GPU does not take the thread's own cores.
export const TIMED = 2;
export const EMPTIED = 3;

// What a set of queries holds.
const QUERIES = 4096;

function wrap(type, method, make) {
  type.prototype[method] = make(type.prototype[method]);
}

export function watch() {
  let device;
  let run;
  let launches = [];
  let queries;

  wrap(GPUAdapter, "requestDevice", (original) => async function (...args) {
    device = await original.apply(this, args);
    return device;
  });
  wrap(GPUCommandEncoder, "beginComputePass", (original) => function (...args) {
    return run === TIMED ? new Apart(this, original) : original.apply(this, args);
  });
  wrap(GPUComputePassEncoder, "dispatchWorkgroups", (original) => function (...groups) {
    return run >= EMPTIED ? original.call(this, 0, 0, 0) : original.apply(this, groups);
  });

  // Stands in for a compute pass, and makes one of each launch.
  class Apart {
    constructor(encoder, begin) {
      this.begin = (descriptor) => begin.call(encoder, descriptor);
    }
    setPipeline(pipeline) {
      this.pipeline = pipeline;
    }
    setBindGroup(...group) {
      this.group = group;
    }
    dispatchWorkgroups(...groups) {
      queries ??= device.createQuerySet({ type: "timestamp", count: QUERIES });
      const first = 2 * launches.length;
      const fits = first < QUERIES;
      const pass = this.begin(fits ? { timestampWrites: {
        querySet: queries, beginningOfPassWriteIndex: first, endOfPassWriteIndex: first + 1,
      } } : {});
      pass.setPipeline(this.pipeline);
      pass.setBindGroup(...this.group);
      pass.dispatchWorkgroups(...groups);
      pass.end();
      if (fits) launches.push({ kernel: this.pipeline.label, groups });
    }
    end() {}
  }

  const post = self.postMessage.bind(self);
  self.postMessage = (message, ...rest) => {
    const { type } = message[0];
    if (type === "started") run = message[0].run;
    message[0].sums = { ...sums };
    post(message, ...rest);
    if (type !== "done") return;
    const timed = run === TIMED;
    run = undefined;
    if (timed) read(device, queries, 2 * launches.length).then((times) => {
      launches.forEach((launch, i) => { [launch.begin, launch.end] = times.slice(2 * i, 2 * i + 2); });
      post([{ type: "timed", launches }]);
    }, (error) => post([{ type: "error", message: String(error) }]));
  };
}

// Nanoseconds since the first of the queries.
async function read(device, queries, count) {
  const size = 8 * count;
  const resolved = device.createBuffer({ size, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC });
  const mapped = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const encoder = device.createCommandEncoder();
  encoder.resolveQuerySet(queries, 0, count, resolved, 0);
  encoder.copyBufferToBuffer(resolved, 0, mapped, 0, size);
  device.queue.submit([encoder.finish()]);
  await mapped.mapAsync(GPUMapMode.READ);
  const times = [...new BigUint64Array(mapped.getMappedRange())];
  mapped.destroy();
  resolved.destroy();
  return times.map((time) => Number(time - times[0]));
}

// Eight chains of products to a thread, so that none of them waits for what it has just made.
const CHAINS = 8;
const LENGTH = 1024;
const PRODUCTS = `
  @group(0) @binding(0) var<storage, read_write> y: array<vec4f>;
  @compute @workgroup_size(64)
  fn products(@builtin(global_invocation_id) id: vec3u) {
    let a = vec4f(0.999);
    let b = vec4f(f32(id.x));
    ${chains((i) => `var x${i} = vec4f(${i}.0);`)}
    for (var i = 0u; i < ${LENGTH}u; i++) {
      ${chains((i) => `x${i} = fma(x${i}, a, b);`)}
    }
    y[id.x % 4096u] = ${chains((i) => `x${i}`, " + ")};
  }`;
const PRODUCTS_A_GROUP = 64 * CHAINS * LENGTH * 4;

function chains(of, between = "\n") {
  return Array.from({ length: CHAINS }, (_, i) => of(i)).join(between);
}

const COPY = `
  @group(0) @binding(0) var<storage, read> x: array<vec4f>;
  @group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
  @compute @workgroup_size(256)
  fn copy(@builtin(global_invocation_id) id: vec3u) {
    y[id.x] = x[id.x];
  }`;
const COPIED = 1 << 26;

const NOTHING = "@compute @workgroup_size(64) fn nothing() {}";

// Products and bytes that the adapter manages in a second, and the seconds of a launch of nothing.
export async function floor() {
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  const device = await adapter.requestDevice({ requiredFeatures: ["timestamp-query"] });
  const queries = device.createQuerySet({ type: "timestamp", count: 2 });
  const buffer = (size) => device.createBuffer({ size, usage: GPUBufferUsage.STORAGE });

  // The best of some, in seconds; launches between the timestamps follow each other.
  async function best(code, buffers, groups, times = 1) {
    const module = device.createShaderModule({ code });
    const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module } });
    const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
    const layout = pipeline.getBindGroupLayout(0);
    const group = device.createBindGroup({ layout, entries });
    let least = Infinity;
    for (let round = 0; round < 5; round++) {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass({ timestampWrites: {
        querySet: queries, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1,
      } });
      pass.setPipeline(pipeline);
      if (buffers.length) pass.setBindGroup(0, group);
      for (let i = 0; i < times; i++) pass.dispatchWorkgroups(groups);
      pass.end();
      device.queue.submit([encoder.finish()]);
      const [begin, end] = await read(device, queries, 2);
      least = Math.min(least, (end - begin) / 1e9);
    }
    return least;
  }

  const y = buffer(4096 * 16);
  let products;
  for (let groups = 64; ; groups *= 4) {
    const seconds = await best(PRODUCTS, [y], groups);
    products = (groups * PRODUCTS_A_GROUP) / seconds;
    if (seconds > 0.02 || groups * 4 > 65535) break;
  }
  const copied = await best(COPY, [buffer(COPIED), buffer(COPIED)], COPIED / 16 / 256);
  const launch = await best(NOTHING, [], 1);
  device.destroy();
  return { products, bytes: (2 * COPIED) / copied, launch };
}
