//! Our kernels for GPUs and for the CPU against their plain twins, in browsers whose WebGPU and WebAssembly are
//! of different make: what `kernels/examples/twins` compares there, judged here.

use std::collections::BTreeMap;

use fashion_ddpm_tests::{
    browser::{Browser, Gpu},
    prepared,
    server::Server,
};
use serde_json::{Value, json};

/// A kernel's largest difference from its twin: a hundred times what the order of summation makes.
const TOLERANCE: f64 = 1e-5;

/// What is compared, and in how many cases.
const COMPARISONS: [(&str, usize); 6] = [
    ("attention", 5),
    ("conv2d", 26),
    ("conv2d_around", 24),
    ("group_norm_silu", 8),
    ("linear", 5),
    // Three states after each of six steps of three walks.
    ("reverse_step", 54),
];

#[test]
fn kernels_equal_their_plain_twins_in_chromium() {
    let browser = Browser::chromium(Gpu::Software);
    kernels_equal_their_plain_twins(&browser, &["software", "gpu", "cpu"]);
}

#[test]
fn kernels_equal_their_plain_twins_in_firefox() {
    kernels_equal_their_plain_twins(&Browser::firefox(), &["software", "gpu", "cpu"]);
}

#[cfg(target_os = "linux")]
#[test]
fn kernels_equal_their_plain_twins_in_webkit() {
    kernels_equal_their_plain_twins(&Browser::webkit(), &["cpu"]);
}

/// Every kernel equals its twin: in the cut for software, in the cut for GPUs, or on the CPU.
fn kernels_equal_their_plain_twins(browser: &Browser, subjects: &[&str]) {
    let server = Server::of(prepared("FASHION_DDPM_TWINS"));
    server.add(
        "twins.html",
        b"<!doctype html><title>Twins</title>".to_vec(),
    );
    for subject in subjects {
        // A page of its own, and with it a device of its own.
        browser.open(&server.url("twins.html"));
        let rows = browser.script_async(COMPARE, json!([subject]));
        let rows: Vec<(String, String, Value, f64)> = serde_json::from_value(rows).expect("rows");
        let mut counts = BTreeMap::new();
        let mut off = Vec::new();
        for (kernel, case, distance, ms) in &rows {
            println!("{subject}: {kernel}, {case}: off by {distance}, {ms:.0} ms");
            *counts.entry(kernel.as_str()).or_insert(0) += 1;
            // What is no number is no small one.
            if !distance.as_f64().is_some_and(|d| d < TOLERANCE) {
                off.push(format!("{kernel}, {case}: {distance}"));
            }
        }
        assert!(off.is_empty(), "{subject}: {off:#?}");
        let counts: Vec<_> = counts.into_iter().collect();
        assert_eq!(counts, COMPARISONS, "{subject}: cases of each kernel");
    }
}

/// A trap ends no promise: it is heard of as an error of the page.
const COMPARE: &str = "
    const died = new Promise((_, reject) => {
        addEventListener('error', (event) => reject(event.message));
        addEventListener('unhandledrejection', (event) => reject(event.reason));
    });
    const twins = await import(new URL('twins.js', document.baseURI));
    await twins.default();
    return await Promise.race([twins.compare(args[0]), died]);";
