//! The trainer's front door; everything behind it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    keep_memory();
    trainer::cli::main()
}

/// Tells glibc to keep the memory a training step frees.
///
/// A step on the CPU allocates and frees some hundred megabytes in large pieces. By default glibc
/// takes each from the kernel and gives it back at once, and the kernel clears every page anew: a
/// third of a step. Kept on the heap, the pages are simply used again.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only changes parameters of the allocator; it is called first thing in
    // `main`, before another thread could allocate. Its result says whether a parameter was
    // accepted, and nothing depends on it.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, 128 << 20);
    }
}
