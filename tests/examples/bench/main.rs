//! Our engines against onnxruntime-web, in one browser, in one run: `cargo xtask bench` calls this.
//!
//! All run the shipped network with the shipped weights on the same x. The contenders take turns, in
//! one order and then in the other, and medians are printed with the extremes: on a busy machine all
//! suffer alike. Ours are timed for whole steps (network, update, noise, log, frames read back), the
//! peer for the network alone.
//!
//! Then the kernels of a step of ours: where its time goes. Then pictures: whether the page's are the
//! trainer's there. And a cold visit: how long a new visitor with an ordinary line waits for the first one.
//!
//! `bench DIST ORT [software|hardware|firefox|webkit] [STEPS] [WORD] [ROUNDS]`, where ORT is the folder `dist`
//! of the npm package `onnxruntime-web`; with a word, only those contenders, `kernels`, `picture`s and `visit`s
//! that contain it. It needs nothing else of the repository.

mod launches;
mod onnx;

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use fashion_ddpm::weights::Weights;
use fashion_ddpm_tests::browser::{Browser, Gpu};
use fashion_ddpm_tests::page::{LEVELS, Picture, difference};
use fashion_ddpm_tests::server::{Line, Server};
use launches::Found;
use onnx::Exported;
use serde_json::{Value, json};
use trainer::device::load_average;

/// The document of one contender: `setUp`, then `measure(steps)`, which resolves to the milliseconds a
/// step and the sums of what one step more asks of WebGPU. And `launches`, of our engine alone.
const CONTENDERS: &str = include_str!("contenders.js");

/// What times every launch.
const LAUNCHES: &str = include_str!("launches.js");

/// A visitor's line: 20 Mbit/s, 50 ms.
const LINE: Line = Line {
    rate: 20e6,
    latency: Duration::from_millis(50),
};

/// Visits, of which the median counts.
const VISITS: usize = 3;

/// Steps of a measurement on the CPU, at least: a run begins and ends with work of its own.
const CPU_STEPS: u32 = 100;

/// Name, batch, and whether it computes on WebGPU.
const CASES: [(&str, u32, bool); 6] = [
    ("ours", 1, true),
    ("onnxruntime-web", 1, true),
    ("ours", 16, true),
    ("onnxruntime-web", 16, true),
    ("ours", 1, false),
    ("onnxruntime-web", 1, false),
];

/// Images of a picture, and guidance.
const PICTURES: [(u32, f64); 2] = [(1, 1.0), (16, 3.0)];

/// Steps whose launches are timed, at most: Chromium's sets of timestamps hold 2048 launches.
const TIMED_STEPS: u32 = 40;

/// Which browser computes, and on what.
#[derive(Clone, Copy)]
enum Place {
    Chromium(Gpu),
    /// On the adapter that it finds: where there is no GPU, Mesa's in software.
    Firefox,
    /// On the CPU: it has no WebGPU. On Linux.
    WebKit,
}

impl Place {
    fn open(self) -> Browser {
        match self {
            Self::Chromium(gpu) => Browser::chromium(gpu),
            Self::Firefox => Browser::firefox(),
            Self::WebKit => Browser::webkit(),
        }
    }

    fn has_gpu(self) -> bool {
        matches!(self, Self::Chromium(_) | Self::Firefox)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |i: usize| arguments.get(i).map(String::as_str);
    let (Some(dist), Some(ort)) = (argument(0), argument(1)) else {
        return Err("which page, and which folder of onnxruntime-web?".into());
    };
    let place = match argument(2).unwrap_or("software") {
        "software" => Place::Chromium(Gpu::Software),
        "hardware" => Place::Chromium(Gpu::Hardware),
        "firefox" => Place::Firefox,
        "webkit" => Place::WebKit,
        other => return Err(format!("{other}: software, hardware, firefox or webkit?").into()),
    };
    let steps: u32 = argument(3).unwrap_or("10").parse()?;
    let wanted = |title: &str| argument(4).is_none_or(|word| title.contains(word));
    let rounds = argument(5).unwrap_or("5").parse::<usize>()?.max(1);

    let server = Server::of(PathBuf::from(dist));
    for entry in fs::read_dir(ort)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".mjs") || name.ends_with(".wasm") {
            server.add(&format!("ort/{name}"), fs::read(&path)?);
        }
    }
    let exported = onnx::exported(Path::new(dist))?;
    server.add("unet.onnx", exported.model.clone());
    for (name, script) in [
        ("contenders.js", CONTENDERS),
        ("counting.js", COUNTING_WORKER),
        ("launches.js", LAUNCHES),
        ("watching.js", WATCHING_WORKER),
    ] {
        server.add(name, script.into());
    }
    server.add(
        "contender.html",
        b"<!doctype html><title>Contender</title><script type=module src=contenders.js></script>"
            .to_vec(),
    );
    server.add(
        "bench.html",
        b"<!doctype html><title>Bench</title>".to_vec(),
    );
    let open = || {
        let browser = place.open();
        browser.open(&server.url("bench.html"));
        browser
    };

    let browser = open();
    let about = in_frame(&browser, "about", json!(["about"]));
    println!("{}", about["browser"].as_str().unwrap_or_default());
    println!("adapter: {}", about["adapter"].as_str().unwrap_or_default());
    println!("{}", load());
    let title = |(name, batch, on_gpu): (&str, u32, bool)| {
        let device = if on_gpu { "WebGPU" } else { "wasm, 1 thread" };
        format!("{name}, {device}, batch {batch}")
    };
    let cases = CASES
        .map(|case| (title(case), case))
        .into_iter()
        .filter(|(title, (_, _, on_gpu))| wanted(title) && (place.has_gpu() || !on_gpu))
        .collect();
    contenders(&browser, place, &exported, cases, steps, rounds)?;
    drop(browser);

    for batch in [1, 16] {
        let title = format!("the kernels of a step, batch {batch}");
        if !wanted(&title) || !place.has_gpu() {
            continue;
        }
        println!("\n{title}; {}", load());
        let browser = open();
        let steps = steps.clamp(4, TIMED_STEPS);
        let arguments = json!([title, batch, steps, exported.entry]);
        let answer = in_frame(&browser, "launches", arguments);
        Found::read(answer)?.print(&exported.weights.metadata.config, batch)?;
    }

    let weights = &exported.weights;
    let all = weights.metadata.timesteps;
    let (sampler, steps) = match steps as usize {
        steps if steps < all => ("ddim", steps),
        _ => ("ddpm", all),
    };
    for (count, guidance) in PICTURES {
        let engines = ["cpu", "webgpu"].into_iter();
        let engines = engines.filter(|engine| place.has_gpu() || *engine == "cpu");
        let pictures = engines.map(|engine| (format!("picture {engine}, batch {count}"), engine));
        let pictures: Vec<_> = pictures.filter(|(title, _)| wanted(title)).collect();
        let picture = Picture {
            seed: 7,
            garment: "coat",
            sampler,
            steps,
            guidance,
            count,
        };
        if !pictures.is_empty() {
            compare(&server, place, weights, picture, &pictures)?;
        }
    }

    // Nothing is told to watch a visitor from the first moment but Chromium.
    let Place::Chromium(gpu) = place else {
        return Ok(());
    };
    let visited = ["cpu", "webgpu"].map(|engine| (format!("visit {engine}"), engine));
    if visited.iter().any(|(title, _)| wanted(title)) {
        println!("\na cold visit at 20 Mbit/s and 50 ms, the button pressed as soon as it can be:");
    }
    for (_, engine) in visited.iter().filter(|(title, _)| wanted(title)) {
        visits(Path::new(dist), gpu, engine);
    }
    println!("{}", load());
    Ok(())
}

/// Lets the contenders with these titles take turns.
fn contenders(
    browser: &Browser,
    place: Place,
    exported: &Exported,
    cases: Vec<(String, (&str, u32, bool))>,
    steps: u32,
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    let mut contenders = Vec::new();
    for (title, (name, batch, on_gpu)) in cases {
        let Exported {
            entry, question, ..
        } = exported;
        let arguments = json!([title, name, batch, on_gpu, entry, question]);
        let made = in_frame(browser, "setUp", arguments);
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
        // In software a step of a large batch takes as long as many, and on the CPU one of a single
        // image may be over in no time.
        let steps = match (on_gpu, place) {
            (true, Place::Chromium(Gpu::Hardware)) => steps,
            (true, _) => (steps / batch).max(1),
            (false, _) => steps.max(CPU_STEPS),
        };
        contenders.push((title, steps, Vec::new(), json!(null)));
    }
    if contenders.is_empty() {
        return Ok(());
    }

    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            let (title, steps, times, counts) = &mut contenders[i];
            let measured = in_frame(browser, "measure", json!([title, steps]));
            // The first round warms up.
            if round > 0 {
                times.push(measured["ms"].as_f64().ok_or("no time")?);
            }
            *counts = measured["counts"].clone();
        }
    }

    println!("{}", load());
    println!(
        "\nmilliseconds a step: median of {rounds} runs, and the extremes; and of a step more:"
    );
    println!(
        "launches, submissions, bind groups, uploads, and the thread's milliseconds to ask for it\n"
    );
    for (title, steps, times, counts) in contenders {
        let count = |what: &str| match counts[what].as_f64() {
            Some(n) => format!("{n:.2}"),
            None => "-".to_owned(),
        };
        println!(
            "{title:40} {:>30}, {steps:3} steps  {:>7} {:>6} {:>6} {:>6} {:>6}",
            spread(times, "ms"),
            count("launches"),
            count("submits"),
            count("bindGroups"),
            count("writes"),
            count("enqueueMs"),
        );
    }
    Ok(())
}

/// Calls a function of the frame that the first argument names, which is made the first time.
fn in_frame(browser: &Browser, function: &str, arguments: Value) -> Value {
    let script = "const [call, [title, ...rest]] = args;
        let frame = document.getElementsByName(title)[0];
        if (!frame) {
            frame = document.createElement('iframe');
            Object.assign(frame, { name: title, src: 'contender.html' });
            document.body.append(frame);
            await new Promise((loaded) => { frame.onload = loaded; });
        }
        return await frame.contentWindow[call](...rest);";
    browser.script_async(script, json!([function, arguments]))
}

/// Has the page's engines sample what the trainer samples on the CPU, and compares the pixels.
fn compare(
    server: &Server,
    place: Place,
    weights: &Weights,
    picture: Picture,
    engines: &[(String, &str)],
) -> Result<(), Box<dyn Error>> {
    let (_, expected) = picture.sample(weights);
    println!("\n{}, and the trainer's own on the CPU:", picture.query(""));
    for (title, engine) in engines {
        let browser = place.open();
        browser.open(&server.url(&picture.query(engine)));
        browser.click(&browser.wait_enabled("button", "Sample a garment"));
        let done = browser.wait_for("done");
        let found: Vec<u8> = serde_json::from_value(done["pixels"].clone())?;
        let (differ, most) = difference(&found, &expected);
        let ms = done["elapsedMs"].as_f64().unwrap_or(f64::NAN);
        println!(
            "{title}: {differ} of {} pixels differ, by {most} of 255 at most; {:.2} s, {:.2} ms a step",
            found.len(),
            ms / 1e3,
            ms / picture.steps as f64,
        );
        if most > LEVELS {
            return Err(format!("{title}: another picture; {LEVELS} of 255 are allowed").into());
        }
    }
    Ok(())
}

/// Prints how long a visitor waits who has never been here: until the button can be pressed, and until
/// the first frame is painted; beside it how long the line needs for the bytes alone.
fn visits(dist: &Path, gpu: Gpu, engine: &str) {
    let mut pressed = Vec::new();
    let mut painted = Vec::new();
    let mut bytes = 0;
    for _ in 0..VISITS {
        let server = Server::of(dist.to_owned());
        server.narrow(LINE);
        let browser = Browser::chromium(gpu);
        browser.at_first(VISITOR);
        browser.open(&server.url(&format!("?engine={engine}")));
        let times = browser.wait("the first frame is painted", || {
            let times = browser.script("return [window.pressed, window.painted]", json!([]));
            bytes = server.carried();
            Some([times[0].as_f64()?, times[1].as_f64()?])
        });
        pressed.push(times[0] / 1e3);
        painted.push(times[1] / 1e3);
    }
    let transfer = LINE.transfer(bytes).as_secs_f64();
    println!(
        "engine {engine:7} pressed after {}, painted after {}; {bytes} bytes take {transfer:.2} s",
        spread(pressed, "s"),
        spread(painted, "s"),
    );
}

/// The median, and the extremes.
fn spread(mut values: Vec<f64>, unit: &str) -> String {
    values.sort_by(f64::total_cmp);
    let middle = values[values.len() / 2];
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{middle:.2} {unit} ({least:.2} to {most:.2})")
}

/// Presses the button as soon as it is enabled, and notes when, and when the first frame is on the
/// screen: two refreshes after it was there.
const VISITOR: &str = "
    const observer = new MutationObserver(() => {
        const button = document.getElementById('sample');
        if (!button || button.disabled) return;
        observer.disconnect();
        window.pressed = performance.now();
        button.click();
    });
    observer.observe(document, { subtree: true, childList: true, attributeFilter: ['disabled'] });
    document.addEventListener('ddpm:frame', () => {
        requestAnimationFrame(() => requestAnimationFrame(() => {
            window.painted = performance.now();
        }));
    }, { once: true });";

/// How busy the machine is, where it says so.
fn load() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match load_average() {
        Some(load) => format!("load {load} on {cores} cores"),
        None => format!("{cores} cores"),
    }
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

/// The same, and times the launches.
const WATCHING_WORKER: &str = "
    import './worker.js?v=bench';
    import { watch } from './launches.js';
    watch();";
