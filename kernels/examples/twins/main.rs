//! Every kernel for GPUs, and the CPU's own operations, against their plain twins, in the browser.
//!
//! `cargo xtask test` builds this with the page's Burn, and `tests/tests/kernels.rs` runs it in
//! Chromium, Firefox and, for the CPU, WebKit. An example and no test, because a test would be built
//! with another Burn (its harness switches on features of shared dependencies) and would be a module
//! whose static constructors run again at every call from JavaScript.

#[cfg(target_arch = "wasm32")]
mod comparisons;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The system's allocator, and how often it was asked for memory.
struct Counting(AtomicUsize);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting(AtomicUsize::new(0));

/// How often memory was asked for.
#[cfg(target_arch = "wasm32")]
fn allocations() -> usize {
    MEMORY.0.load(Ordering::Relaxed)
}

fn main() {
    #[cfg(target_arch = "wasm32")]
    border::start();
}

/// The border with JavaScript.
#[cfg(target_arch = "wasm32")]
mod border {
    use js_sys::{Array, Date};
    use wasm_bindgen::prelude::*;

    use crate::comparisons;

    unsafe extern "C" {
        /// Runs the module's static constructors; made by the linker.
        fn __wasm_call_ctors();
    }

    pub(crate) fn start() {
        // SAFETY: they run once, here; see `web/engine/src/wasm.rs`.
        unsafe { __wasm_call_ctors() };
        // A panic is an exception with its words, not just `unreachable`.
        std::panic::set_hook(Box::new(|info| wasm_bindgen::throw_str(&info.to_string())));
    }

    /// Compares all kernels of a subject: `gpu`, `software` or `cpu`. A row each: the kernel, the case,
    /// how far it is off, and the milliseconds it took.
    #[wasm_bindgen]
    pub async fn compare(subject: &str) -> Result<Array, JsValue> {
        let rows = Array::new();
        let mut begun = Date::now();
        let report = |kernel: &str, case: &str, off: f32| {
            let now = Date::now();
            rows.push(&Array::of4(
                &kernel.into(),
                &case.into(),
                &off.into(),
                &(now - begun).into(),
            ));
            begun = now;
        };
        comparisons::all(subject.parse()?, report).await?;
        Ok(rows)
    }
}
