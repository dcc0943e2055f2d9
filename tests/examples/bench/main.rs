//! Our engines against onnxruntime-web, in one browser, in one run: `cargo xtask bench` calls this.
//!
//! All run the shipped network with the shipped weights on the same x. The contenders take turns, in
//! one order and then in the other, and medians are printed with the extremes: on a busy machine all
//! suffer alike. Ours are timed for whole steps (network, update, noise, log, frames read back), the
//! peer for the network alone.
//!
//! `bench DIST ORT [software|hardware] [STEPS] [ROUNDS]`, where ORT is the folder `dist` of the npm
//! package `onnxruntime-web`.

mod onnx;

use std::{error::Error, fs, path::PathBuf};

use fashion_ddpm_tests::browser::{Browser, Gpu};
use fashion_ddpm_tests::server::Server;
use serde_json::{Value, json};

/// The page of the measurements. `contenders` maps a name to an object with `measure(steps)`, which
/// resolves to the milliseconds a step, and `counts`, the sums of what was asked of WebGPU.
const CONTENDERS: &str = include_str!("contenders.js");

/// Name, batch, and whether it computes on WebGPU.
const CASES: [(&str, u32, bool); 6] = [
    ("ours", 1, true),
    ("onnxruntime-web", 1, true),
    ("ours", 16, true),
    ("onnxruntime-web", 16, true),
    ("ours", 1, false),
    ("onnxruntime-web", 1, false),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |i: usize| arguments.get(i).map(String::as_str);
    let (Some(dist), Some(ort)) = (argument(0), argument(1)) else {
        return Err("which page, and which folder of onnxruntime-web?".into());
    };
    let gpu = match argument(2).unwrap_or("software") {
        "software" => Gpu::Software,
        "hardware" => Gpu::Hardware,
        other => return Err(format!("{other}: software or hardware?").into()),
    };
    let steps: u32 = argument(3).unwrap_or("10").parse()?;
    let rounds: usize = argument(4).unwrap_or("5").parse()?;

    let server = Server::of(PathBuf::from(dist));
    for entry in fs::read_dir(ort)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".mjs") || name.ends_with(".wasm") {
            server.add(&format!("ort/{name}"), fs::read(&path)?);
        }
    }
    let (model, question, weights) = onnx::exported()?;
    server.add("unet.onnx", model);
    server.add("contenders.js", CONTENDERS.into());
    server.add("counting.js", COUNTING_WORKER.into());
    server.add(
        "bench.html",
        b"<!doctype html><title>Bench</title><script type=module src=contenders.js></script>"
            .to_vec(),
    );
    let browser = Browser::chromium(gpu);
    browser.open(&server.url("bench.html"));
    let about = browser.script_async("return await about()", json!([]));
    println!("{}", about["browser"].as_str().unwrap_or_default());
    println!("adapter: {}", about["adapter"].as_str().unwrap_or_default());

    let mut contenders = Vec::new();
    for (name, batch, on_gpu) in CASES {
        let device = if on_gpu { "WebGPU" } else { "wasm, 1 thread" };
        let title = format!("{name}, {device}, batch {batch}");
        let set_up = "return await setUp(...args)";
        let made = browser.script_async(
            set_up,
            json!([title, name, batch, on_gpu, weights, question]),
        );
        if let Some(reason) = made["failed"].as_str() {
            println!("{title}: {reason}");
            continue;
        }
        let version = made["version"].as_str().unwrap_or_default().to_owned();
        let off = made["off"].as_f64().unwrap_or(f64::INFINITY);
        if off > 1e-4 {
            return Err(format!("{title}: another network, its answer is off by {off}").into());
        }
        println!("{title}: {version}; off by {off:.1e}");
        contenders.push((title, Vec::new(), json!(null)));
    }

    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            let (title, times, counts) = &mut contenders[i];
            let measured =
                browser.script_async("return await measure(...args)", json!([title, steps]));
            // The first round warms up.
            if round > 0 {
                times.push(measured["ms"].as_f64().ok_or("no time")?);
            }
            *counts = measured["counts"].clone();
        }
    }

    println!("\nmilliseconds a step: median of {rounds} runs of {steps} steps, and the extremes;");
    println!("and, of a step: launches, submissions, bind groups, uploads\n");
    for (title, mut times, counts) in contenders {
        times.sort_by(f64::total_cmp);
        let count = |what: &str| match &counts[what] {
            Value::Number(n) => format!("{:.1}", n.as_f64().unwrap_or(f64::NAN)),
            _ => "-".to_owned(),
        };
        println!(
            "{title:40} {:9.2} ({:.2} to {:.2})   {:>6} {:>6} {:>6} {:>6}",
            times[times.len() / 2],
            times[0],
            times[times.len() - 1],
            count("launches"),
            count("submits"),
            count("bindGroups"),
            count("writes"),
        );
    }
    Ok(())
}

/// Stands in for the engine's worker script; every message carries the sums so far.
const COUNTING_WORKER: &str = "
    import './worker.js?v=bench';
    import { sums } from './contenders.js';
    const post = self.postMessage.bind(self);
    self.postMessage = (message, ...rest) => {
        message[0].sums = { ...sums };
        post(message, ...rest);
    };";
