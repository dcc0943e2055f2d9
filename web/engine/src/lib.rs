//! The web worker that runs the reverse process, so that the page scrolls and answers at all times.
//!
//! Two binaries share this library: `engine-webgpu`, and `engine-cpu` for browsers that have no
//! WebGPU, a sixth of the size. Both read the same weights file, take the same steps with
//! the same noise and give the same picture within float rounding.
//!
//! | what | where |
//! | --- | --- |
//! | start-up, before any of this has arrived | `worker.js` |
//! | everything that touches JavaScript | `wasm.rs` |
//! | opening the CPU or the GPU | `device.rs` |
//! | answering the page's requests | `engine.rs` |
//! | a run: pausing, stepping, sending frames | `run.rs` |
//!
//! What must not be done here, and is not obvious: a browser's worker cannot block. Reading a
//! tensor waits for a promise (`into_data_async`); `into_data`, `into_scalar` and `Device::sync`
//! compile and then panic. And a message from the page arrives only while the worker is idle, so
//! whatever takes longer than a blink gives way to the browser in between.
#![cfg(target_arch = "wasm32")]

mod device;
mod engine;
mod run;
mod wasm;

pub use wasm::start;
