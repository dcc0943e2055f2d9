//! The shipped page in real browsers: Trunk's release output, under a sub-path, found by role and
//! accessible name and by the events the page promises to whoever embeds it.
//!
//! What it computes is compared with the trainer's `sample`, natively, from the same weights.

use std::{fs, sync::Arc, time::Duration};

use burn::tensor::{Tensor, TensorData};
use fashion_ddpm::{
    Garment, Sampler,
    noise::{PIXELS, gaussian},
    sampler::to_pixels,
};
use fashion_ddpm_tests::{
    browser::{Browser, Gpu, MAKES, Make, SAVES_DATA, turn, workers},
    data, distance, load,
    page::{
        LEVELS, Picture, approach, assert_close, assert_quiet, default_entry, default_weights,
        dist, text, wait_text, weights_index, weights_of,
    },
    prepared,
    reference::References,
    server::{Fault, SUB_PATH, Server},
    values,
};
use serde_json::{Value, json};

/// f32 on any device against f64.
const TOLERANCE: f32 = 1e-4;

fn pixels(done: &Value) -> Vec<u8> {
    assert_eq!(done["isBytes"], true, "`pixels` is a Uint8Array");
    serde_json::from_value(done["pixels"].clone()).unwrap()
}

/// Pearson's correlation: whether one thing is shown, whatever its contrast.
fn correlation(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let n = a.len() as f32;
    let mean = |v: &[f32]| v.iter().sum::<f32>() / n;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        ab += (a - mean_a) * (b - mean_b);
        aa += (a - mean_a).powi(2);
        bb += (b - mean_b).powi(2);
    }
    ab / (aa * bb).sqrt()
}

/// A canvas as 28 x 28 numbers, whatever whole factor it is enlarged by.
fn shown(browser: &Browser, name: &str) -> Vec<f32> {
    let (width, pixels) = browser.canvas(&browser.find("image", name));
    assert!(
        width.is_multiple_of(28) && pixels.len() == width * width,
        "{name} is {width} wide"
    );
    let scale = width / 28;
    let middle = |i: usize| i * scale + scale / 2;
    let at = |i: usize| pixels[middle(i / 28) * width + middle(i % 28)];
    (0..PIXELS).map(|i| f32::from(at(i))).collect()
}

/// Opens the page and waits until it can sample.
fn open(browser: &Browser, server: &Server, query: &str) {
    browser.open(&server.url(query));
    browser.wait_for("ready");
    browser.wait_enabled("button", "Sample a garment");
}

/// The main act, on the CPU engine: all 1000 steps, every frame, the trainer's picture; then the
/// slider through all of them.
#[test]
fn the_cpu_engine_takes_all_1000_steps_and_paints_the_trainers_picture() {
    let picture = Picture {
        seed: 2026,
        garment: "ankle-boot",
        sampler: "ddpm",
        steps: 1000,
        guidance: 1.0,
        count: 1,
    };
    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::Software);
    // Sampler, steps, guidance and count are what the page has of itself.
    open(
        &browser,
        &server,
        "?engine=cpu&seed=2026&garment=ankle-boot",
    );
    assert!(
        browser.status().contains("CPU (WebAssembly)"),
        "{}",
        browser.status()
    );
    let ready = browser.wait_for("ready");
    assert_eq!(ready["engine"], "cpu");
    browser.click(&browser.find("button", "Sample a garment"));
    let done = browser.wait_for("done");

    assert_eq!(done["seed"], 2026);
    assert_eq!(done["garment"], "ankle-boot");
    assert_eq!(done["sampler"], "ddpm");
    assert_eq!(done["steps"], 1000);
    assert!(done["elapsedMs"].as_f64() > Some(0.0));
    let frames = browser.events("frame");
    let found: Vec<(u64, u64)> = frames
        .iter()
        .map(|frame| {
            (
                frame["index"].as_u64().unwrap(),
                frame["t"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected: Vec<(u64, u64)> = (0..1000).map(|index| (index, 999 - index)).collect();
    assert_eq!(found, expected, "every frame once, in order");
    let (states, expected) = picture.sample(&default_weights());
    assert_close(&pixels(&done), &expected, LEVELS, "CPU engine and trainer");

    // All frames are painted; then the slider has a stop for each, and one for the garment.
    browser.wait("the last frame is painted", || {
        let bar = browser.find("progressbar", "Reverse process");
        (browser.number(&bar, "aria-valuenow") == Some(1000.0)).then_some(())
    });
    let slider = browser.wait_enabled("slider", "Timestep");
    let end = |name: &str| -> i64 {
        browser
            .property(&slider, name)
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    };
    let (least, most) = (end("min"), end("max"));
    assert_eq!(most - least, 1000, "T + 1 stops");
    let garment: Vec<f32> = expected.iter().map(|v| f32::from(*v)).collect();
    browser.wait("the garment is shown", || {
        (correlation(&shown(&browser, "x_t"), &garment) > 0.99).then_some(())
    });
    // Whichever end is which, the two are x_T and x_0.
    browser.set(&slider, &least.to_string());
    let noise = gaussian(2026, 0, 0, 1000);
    let is = |x: &[f32]| {
        let x: Vec<f32> = to_pixels(x).into_iter().map(f32::from).collect();
        correlation(&shown(&browser, "x_t"), &x) > 0.9
    };
    let noise_at_least = browser.wait("an end of the timeline is shown", || {
        let garment = correlation(&shown(&browser, "x_t"), &garment) > 0.99;
        (is(&noise) || garment).then_some(!garment)
    });
    for index in [0, 1, 400, 800, 950, 999] {
        let stop = if noise_at_least {
            least + index
        } else {
            most - index
        };
        browser.set(&slider, &stop.to_string());
        let state = &states[index as usize];
        browser.wait(&format!("frame {index} is shown"), || {
            is(state).then_some(())
        });
    }
    browser.set(
        &slider,
        &if noise_at_least { most } else { least }.to_string(),
    );
    browser.wait("the garment is shown again", || {
        (correlation(&shown(&browser, "x_t"), &garment) > 0.99).then_some(())
    });

    let asked = server.asked();
    assert!(
        asked.iter().all(|path| path.starts_with(SUB_PATH)),
        "{asked:?}"
    );
    assert!(
        !asked.iter().any(|path| path.contains("engine-webgpu")),
        "the CPU engine needs no GPU code: {asked:?}"
    );
    let origins = browser.script(
        "return performance.getEntriesByType('resource').map((entry) => new URL(entry.name).origin)
            .filter((origin) => origin != location.origin)",
        json!([]),
    );
    assert_eq!(origins, json!([]), "no third party is asked for anything");
    assert_quiet(&browser);
}

/// A short run on WebGPU, in software, against the CPU engine and the trainer.
#[test]
fn webgpu_paints_what_the_cpu_paints() {
    for picture in [
        Picture {
            seed: 7,
            garment: "any",
            sampler: "ddim",
            steps: 4,
            guidance: 1.0,
            count: 1,
        },
        Picture {
            seed: 8,
            garment: "bag",
            sampler: "ddpm",
            steps: 5,
            guidance: 2.0,
            count: 1,
        },
        Picture {
            seed: 9,
            garment: "coat",
            sampler: "dpm",
            steps: 3,
            guidance: 3.0,
            count: 4,
        },
    ] {
        let (_, expected) = picture.sample(&default_weights());
        let [webgpu, cpu] = ["webgpu", "cpu"].map(|engine| {
            let server = Server::of(dist());
            let browser = Browser::chromium(Gpu::Software);
            open(&browser, &server, &picture.query(engine));
            assert_eq!(browser.wait_for("ready")["engine"], engine);
            if engine == "webgpu" {
                let status = browser.status();
                assert!(status.contains("WebGPU (software adapter)"), "{status}");
            }
            browser.click(&browser.find("button", "Sample a garment"));
            let done = browser.wait_for("done");
            assert_eq!(browser.count("frame"), picture.steps as u64);
            assert_quiet(&browser);
            pixels(&done)
        });
        assert_close(&cpu, &expected, LEVELS, "CPU engine and trainer");
        assert_close(&webgpu, &cpu, LEVELS, "WebGPU and CPU engine");
    }
}

/// An engine in a worker with this script, and these weights in it; `until` hears what it says up to
/// a message of some type.
const START: &str = "
    const start = async (script, engine, weights, bytes) => {
        const worker = new Worker(script, { type: 'module' });
        const inbox = [];
        let wake = () => {};
        worker.onmessage = ({ data }) => { inbox.push(data); wake(); };
        worker.onerror = ({ message }) => { inbox.push([{ type: 'error', message }]); wake(); };
        const until = async (type) => {
            const heard = [];
            for (;;) {
                while (inbox.length == 0) await new Promise((resolve) => { wake = resolve; });
                heard.push(inbox.shift());
                const [{ type: found, message }] = heard.at(-1);
                if (found == type) return heard;
                if (found == 'error') throw new Error(message);
            }
        };
        worker.postMessage({ engine });
        worker.postMessage([{ type: 'load', url: new URL(weights, location).href, bytes }]);
        const [ready] = (await until('ready')).at(-1);
        return { worker, until, ready };
    };";

/// Talks to an engine as the page does, without the page: its numbers, not its pictures.
const ASK: &str = "
    const [script, engine, weights, bytes, requests] = args;
    const { worker, until, ready } = await start(script, engine, weights, bytes);
    const answers = [];
    for (const { send, buffer, until: types } of requests) {
        const buffers = buffer ? [new Float32Array(buffer).buffer] : [];
        worker.postMessage([send, ...buffers], buffers);
        for (const type of types) {
            const [header, ...received] = (await until(type)).at(-1);
            answers.push([header, ...received.map((b) => Array.from(new Float32Array(b)))]);
        }
    }
    worker.terminate();
    return { ready, answers };";

/// What the engine's worker is without a stand-in.
const WORKER: &str = "worker.js?v=test";

/// The page's files, scripts that stand in for the engine's worker, a document that does nothing, and
/// small weights: so many bytes.
fn stage(stand_ins: &[(&str, &str)]) -> (Arc<Server>, usize) {
    let server = Server::of(dist());
    let tiny = fs::read(data("tiny.bpk")).unwrap();
    let bytes = tiny.len();
    server.add("tiny.bpk", tiny);
    for (name, script) in stand_ins {
        server.add(name, script.as_bytes().to_vec());
    }
    let blank = b"<!doctype html><title>Engine</title>";
    server.add("blank.html", blank.to_vec());
    (server, bytes)
}

fn ask_engine(engine: &str, requests: Value) -> Value {
    let (server, bytes) = stage(&[]);
    let browser = Browser::chromium(Gpu::Software);
    browser.open(&server.url("blank.html"));
    let arguments = json!([WORKER, engine, "tiny.bpk", bytes, requests]);
    browser.script_async(&format!("{START}{ASK}"), arguments)
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).expect("a list of floats")
}

/// Parity with the NumPy references through the shipped engines: the network at every label and
/// at timesteps from end to end.
#[test]
fn the_shipped_engines_compute_the_references() {
    for engine in ["webgpu", "cpu"] {
        assert_references(engine, |requests| ask_engine(engine, requests));
    }
}

/// Fails where an engine that is asked this way answers otherwise than NumPy.
fn assert_references(engine: &str, ask: impl FnOnce(Value) -> Value) {
    let reference = References::open("tiny.safetensors");
    let (_, x) = reference.f32("forward.x");
    let (_, expected) = reference.f32("forward.pred_noise");
    let timesteps = reference.indices("forward.t");
    let labels = reference.indices("forward.label");
    let requests: Vec<Value> = (timesteps.iter().zip(&labels).enumerate())
        .map(|(i, (t, label))| {
            let garment = Garment::from_label(*label).map_or("any", Garment::slug);
            json!({
                "send": { "type": "explain", "run": 0, "index": i, "t": t,
                    "picture": request("ddpm", 1000, garment) },
                "buffer": x[i * PIXELS..(i + 1) * PIXELS],
                "until": ["explained"],
            })
        })
        .collect();
    let answer = ask(json!(requests));
    assert_eq!(answer["ready"]["engine"], engine);
    let answers = answer["answers"].as_array().unwrap();
    assert_eq!(answers.len(), timesteps.len());
    for (i, answer) in answers.iter().enumerate() {
        let expected = &expected[i * PIXELS..(i + 1) * PIXELS];
        let off = distance(&floats(&answer[1]), expected);
        let (t, label) = (timesteps[i], labels[i]);
        assert!(
            off <= TOLERANCE,
            "{engine}, t = {t}, label {label}: off by {off}"
        );
    }
}

fn request(sampler: &str, steps: usize, garment: &str) -> Value {
    json!({ "seed": 5, "garment": garment, "sampler": sampler, "steps": steps, "guidance": 1.0,
        "count": 1 })
}

/// Steps of each sampler through the shipped engines: what follows in f64 from a frame's x_t and
/// predicted noise is the next frame's x_t.
#[test]
fn the_shipped_engines_take_the_samplers_steps() {
    let schedule = load(&data("tiny.bpk")).diffusion.schedule;
    let device = kernels::cpu();
    // Algorithm 2 of all 1000 steps is begun and stopped; the others go to their end.
    let walks = [
        ("ddpm", 1000, 4),
        ("ddpm", 5, 5),
        ("ddim", 5, 5),
        ("dpm", 6, 6),
    ];
    let mut requests = Vec::new();
    for (run, (sampler, steps, taken)) in walks.into_iter().enumerate() {
        let picture = request(sampler, steps, "any");
        let start = json!({ "type": "run", "run": run, "picture": picture, "paused": true });
        requests.push(json!({ "send": start, "until": ["started"] }));
        for step in 1..=taken {
            let last = step == steps;
            let until: &[&str] = if last {
                &["frames", "done"]
            } else {
                &["frames"]
            };
            let send = json!({ "type": "step", "run": run });
            requests.push(json!({ "send": send, "until": until }));
        }
        if taken < steps {
            let send = json!({ "type": "stop", "run": run });
            requests.push(json!({ "send": send, "until": ["stopped"] }));
        }
    }
    for engine in ["webgpu", "cpu"] {
        let answer = ask_engine(engine, json!(requests));
        let mut answers = answer["answers"].as_array().unwrap().iter();
        for (sampler, steps, taken) in walks {
            let plan = sampler
                .parse::<Sampler>()
                .unwrap()
                .plan(&schedule, steps)
                .unwrap();
            let started = answers.next().unwrap();
            assert_eq!(started[0]["steps"].as_array().unwrap().len(), steps);
            let mut states = Vec::new();
            let mut noises = Vec::new();
            for index in 0..taken {
                let frames = answers.next().unwrap();
                assert_eq!(frames[0]["first"], index);
                assert_eq!(frames[0]["count"], 1);
                states.push(floats(&frames[1]));
                noises.push(floats(&frames[2]));
            }
            let end = answers.next().unwrap();
            if taken == steps {
                states.push(floats(&end[1]));
            }
            let what = format!("{engine}, {sampler} of {steps} steps");
            let start = gaussian(5, 0, 0, schedule.timesteps());
            assert!(distance(&states[0], &start) < 1e-6, "{what}: x_T");
            let tensor = |values: &[f32]| {
                let data = TensorData::new(values.to_vec(), [1, 1, 28, 28]);
                Tensor::<4>::from_data(data, &device)
            };
            let mut previous = None;
            for (index, next) in states.iter().skip(1).enumerate() {
                let step = plan[index];
                let (x_t, pred_noise) = (tensor(&states[index]), tensor(&noises[index]));
                let x_0 = step.pred_x_start(x_t.clone(), pred_noise);
                let z = tensor(&gaussian(5, 0, 0, step.t));
                let expected = step.apply(x_t, x_0.clone(), previous.replace(x_0), Some(z));
                let off = distance(next, &values(expected));
                assert!(off <= TOLERANCE, "{what}, step {index}: off by {off}");
            }
        }
    }
}

/// What no page of ours asks for, but another's may, is a sentence, and the engine serves the next.
#[test]
fn what_an_engine_cannot_compute_is_a_sentence() {
    let schedule = load(&data("tiny.bpk")).diffusion.schedule;
    let one_step = Sampler::Ddpm.plan(&schedule, 1).unwrap();
    let below = one_step[0].t - 1;
    let run = |change: Value, picture: Value| {
        let mut send = json!({ "type": "run", "run": 1, "picture": picture, "paused": false });
        send.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        send
    };
    let begun_at =
        |t: usize, branches: &[u32]| json!({ "start": { "t": t, "branches": branches } });
    let (one, image) = (request("ddpm", 1, "coat"), vec![0.5; PIXELS]);
    let cases = [
        (
            run(json!({ "first": u32::MAX }), one.clone()),
            None,
            "no image of such a number",
        ),
        (
            run(begun_at(below, &[0]), one.clone()),
            Some(&image[..]),
            "no step to take",
        ),
        (
            run(begun_at(999, &[0, 1]), one.clone()),
            Some(&image[..]),
            "as many branches",
        ),
        (
            run(begun_at(999, &[0]), one.clone()),
            Some(&image[1..]),
            "784 pixels each, not 783",
        ),
        (
            run(begun_at(1000, &[0]), one.clone()),
            Some(&image[..]),
            "from 0 to 999, not 1000",
        ),
        (run(json!({}), coats((65, 1.0, 1))), None, "1 to 64 images"),
        (run(json!({}), coats((1, 1.0, 1001))), None, "1000"),
        (run(json!({}), request("ddpm", 1, "hat")), None, "hat"),
        (run(json!({}), request("euler", 1, "coat")), None, "euler"),
    ];
    let mut requests: Vec<Value> = (cases.iter())
        .map(|(send, buffer, _)| json!({ "send": send, "buffer": buffer, "until": ["error"] }))
        .collect();
    requests.push(json!({ "send": run(json!({}), one), "until": ["done"] }));
    for engine in ["webgpu", "cpu"] {
        let answer = ask_engine(engine, json!(requests));
        let answers = answer["answers"].as_array().unwrap();
        assert_eq!(answers.len(), requests.len());
        for ((_, _, words), answer) in cases.iter().zip(answers) {
            let (code, message) = (&answer[0]["code"], answer[0]["message"].as_str().unwrap());
            assert!(message.contains(words), "{engine}: {words}: {message}");
            assert_eq!(
                (code, &answer[0]["fatal"]),
                (&json!("picture"), &json!(false))
            );
        }
    }
}

/// Stands in for the engine's worker script and counts what the engine asks of WebGPU; every message
/// to the page carries the sums so far.
const COUNTING: &str = "
    import './worker.js?v=test';
    const sums = { pipelines: 0, launches: 0, bindGroups: 0, writes: 0, submits: 0 };
    const count = (type, method, what) => {
        const original = type.prototype[method];
        type.prototype[method] = function (...args) {
            sums[what] += 1;
            return original.apply(this, args);
        };
    };
    count(GPUDevice, 'createComputePipeline', 'pipelines');
    count(GPUComputePassEncoder, 'dispatchWorkgroups', 'launches');
    count(GPUDevice, 'createBindGroup', 'bindGroups');
    count(GPUQueue, 'writeBuffer', 'writes');
    count(GPUQueue, 'submit', 'submits');
    const post = self.postMessage.bind(self);
    self.postMessage = (message, ...rest) => {
        message[0].sums = { ...sums };
        post(message, ...rest);
    };";

/// What a step costs the browser, counted: a browser charges for each launch, bind group, upload and
/// submission, whatever it does. The shipped network, whose step is recorded before the first run.
#[test]
fn a_step_on_webgpu_is_one_recording_replayed() {
    let (server, _) = stage(&[("counting.js", COUNTING)]);
    let browser = Browser::chromium(Gpu::Software);
    browser.open(&server.url("blank.html"));
    let entry = default_entry();
    let expected = weights_of(&entry).metadata.config.launches() as f64;
    assert!(expected <= 70.0, "{expected} launches a step");
    // Of each kind, after a first run, two that differ in their number of steps alone.
    let runs = [2, 4, 10];
    let kinds = [(1, 1.0), (2, 3.0)];
    let mut requests = Vec::new();
    for (count, guidance) in kinds {
        for steps in runs {
            let picture = coats((count, guidance, steps));
            let run = requests.len();
            let send = json!({ "type": "run", "run": run, "picture": picture, "paused": false });
            requests.push(json!({ "send": send, "until": ["started", "done"] }));
        }
    }
    let weights = format!("weights/{}", entry.file);
    let arguments = json!(["counting.js", "webgpu", weights, entry.bytes, requests]);
    let answer = browser.script_async(&format!("{START}{ASK}"), arguments);
    // Each run has two answers.
    let sum = |i: usize, what: &str| answer["answers"][i][0]["sums"][what].as_f64().unwrap();
    // A visitor waits for each kernel to be compiled before the first run, and for none in it. Blocks
    // of the network that are alike share theirs.
    let compiled = sum(0, "pipelines");
    assert!((10.0..=24.0).contains(&compiled), "{compiled} pipelines");
    assert_eq!(sum(1, "pipelines"), compiled, "compiled during a run");
    for (kind, (count, guidance)) in kinds.into_iter().enumerate() {
        let a_step = |what: &str| {
            let run = |i: usize| {
                let i = 2 * (kind * runs.len() + i);
                sum(i + 1, what) - sum(i, what)
            };
            (run(2) - run(1)) / (runs[2] - runs[1]) as f64
        };
        let what = format!("{count} images, guidance {guidance}");
        let launches = a_step("launches");
        println!(
            "{what}: a step takes {launches} launches, {} submissions",
            a_step("submits")
        );
        assert_eq!(launches, expected, "{what}: launches a step");
        assert_eq!(a_step("bindGroups"), 0.0, "{what}: bind groups a step");
        assert_eq!(a_step("writes"), 0.0, "{what}: uploads a step");
        // A device this slow is asked for every step's frame by itself.
        let submits = a_step("submits");
        assert!(submits <= 2.0, "{what}: {submits} submissions a step");
    }
}

/// Stands in for the engine's worker script, on a driver that does what it is told once, and leaves out
/// a launch of what it is told again.
const FORGETFUL: &str = "
    import './honest.js';
    let again = 0;
    const create = GPUDevice.prototype.createBindGroup;
    GPUDevice.prototype.createBindGroup = function (...args) {
        again = 0;
        return create.apply(this, args);
    };
    const dispatch = GPUComputePassEncoder.prototype.dispatchWorkgroups;
    GPUComputePassEncoder.prototype.dispatchWorkgroups = function (...args) {
        again += 1;
        if (again != 20) dispatch.apply(this, args);
    };";

/// A GPU that computes wrong is found out before anybody sees a picture, even if only what was recorded
/// comes out wrong; and the CPU takes over.
#[test]
fn a_gpu_that_computes_wrong_is_found_out() {
    let server = Server::of(dist());
    server.add("honest.js", fs::read(dist().join("worker.js")).unwrap());
    server.add("worker.js", FORGETFUL.into());
    let browser = Browser::chromium(Gpu::Software);
    open(&browser, &server, "?engine=webgpu&sampler=ddim&steps=2");
    assert_eq!(browser.wait_for("ready")["engine"], "cpu");
    let status = browser.status();
    assert!(status.contains("computes wrong"), "{status}");
    browser.click(&browser.find("button", "Sample a garment"));
    browser.wait_for("done");
}

/// Pictures of one image and of many, with guidance and without, in any order: each kind has a
/// recording of its own, made in what memory the others have left, and computes what the CPU does.
#[test]
fn a_recording_finds_room_beside_the_others() {
    let kinds = [
        (1, 1.0, 3),
        (3, 2.0, 3),
        (17, 1.0, 3),
        (2, 1.0, 3),
        (40, 1.5, 3),
        (5, 3.0, 3),
    ];
    let [gpu, cpu] = ["webgpu", "cpu"].map(|engine| ask_engine(engine, runs(&kinds)));
    assert_same_garments(&kinds, &gpu, &cpu);
}

/// Images of a run, guidance, steps.
type Kind = (usize, f64, usize);

/// A picture of this kind.
fn coats((count, guidance, steps): Kind) -> Value {
    let mut picture = request("ddpm", steps, "coat");
    picture["count"] = json!(count);
    picture["guidance"] = json!(guidance);
    picture
}

fn runs(kinds: &[Kind]) -> Value {
    let run = |(run, kind): (usize, &Kind)| {
        let picture = coats(*kind);
        let send = json!({ "type": "run", "run": run, "picture": picture, "paused": false });
        json!({ "send": send, "until": ["done"] })
    };
    kinds.iter().enumerate().map(run).collect()
}

fn assert_same_garments(kinds: &[Kind], gpu: &Value, cpu: &Value) {
    for (i, (count, guidance, steps)) in kinds.iter().enumerate() {
        let [found, expected] = [gpu, cpu].map(|answer| floats(&answer["answers"][i][1]));
        let off = distance(&found, &expected);
        let what = format!("{count} images, guidance {guidance}, {steps} steps");
        assert_eq!(found.len(), count * PIXELS, "{what}");
        // At the largest t a step divides by sqrt(alpha_bar_t), and rounding with it.
        assert!(off <= f32::from(LEVELS) / 127.5, "{what}: off by {off}");
    }
}

/// Runs of engines in workers with these scripts, each twice: how many numbers of the second ones'
/// frames and garments are others than the first worker's, and what each second run asked of WebGPU.
const RACE: &str = "
    const [scripts, weights, bytes, pictures] = args;
    const all = [];
    for (const script of scripts) {
        const { worker, until } = await start(script, 'webgpu', weights, bytes);
        const runs = [];
        for (const picture of pictures) {
            let run;
            for (let turn = 0; turn < 2; turn++) {
                worker.postMessage([{ type: 'run', run: turn, picture, paused: false }]);
                run = await until('done');
            }
            const sums = (what) => run.at(-1)[0].sums[what] - run[0][0].sums[what];
            // x_t of all frames, their noise, and x_0: however many frames came at a time.
            const values = [[], [], []];
            let frames = 0;
            for (const [{ type, first, count }, ...buffers] of run) {
                if (type == 'frames' && first == frames) frames += count;
                const into = type == 'done' ? [values[2]] : values;
                buffers.forEach((buffer, i) => into[i].push(new Float32Array(buffer)));
            }
            const counts = ['launches', 'submits', 'bindGroups', 'writes'].map(sums);
            const flat = values.flat().flatMap((some) => Array.from(some));
            runs.push({ frames, counts, values: flat });
        }
        worker.terminate();
        all.push(runs);
    }
    const [first] = all;
    return all.map((runs) => runs.map(({ frames, counts, values }, i) => {
        const others = values.filter((value, at) => !Object.is(value, first[i].values[at]));
        return { frames, counts, values: values.length, others: others.length };
    }));";

/// On a GPU that takes less time for a step than for a submission, several steps are one. No such GPU
/// is here: the engine is shown a clock that makes this one look fast. What comes of it is the same
/// to the last bit.
#[test]
fn on_a_fast_gpu_several_steps_are_one_submission() {
    let hurried = "const now = performance.now.bind(performance);
        performance.now = () => now() / 1000;";
    let hurried = format!("{COUNTING}{hurried}");
    let scripts = ["counting.js", "hurried.js"];
    let (server, bytes) = stage(&[(scripts[0], COUNTING), (scripts[1], &hurried)]);
    // Across the ends of both tables, of noise and of frames.
    let kinds = [(1, 1.0, 140), (3, 2.0, 100), (17, 1.0, 120)];
    let pictures = kinds.map(coats);
    let browser = Browser::chromium(Gpu::Software);
    browser.open(&server.url("blank.html"));
    let arguments = json!([scripts, "tiny.bpk", bytes, pictures]);
    let answer = browser.script_async(&format!("{START}{RACE}"), arguments);
    for (i, (count, _, steps)) in kinds.into_iter().enumerate() {
        let [slow, fast] = [0, 1].map(|worker| &answer[worker][i]);
        let what = format!("{count} images, {steps} steps: {slow} and {fast}");
        println!("{what}");
        let values = (2 * steps + 1) * count * PIXELS;
        for run in [slow, fast] {
            assert_eq!(run["frames"], steps, "{what}");
            assert_eq!(run["values"], values, "{what}");
        }
        assert_eq!(fast["others"], 0, "{what}");
        let [[launches, submits, binds, _], found]: [[usize; 4]; 2] =
            [slow, fast].map(|run| serde_json::from_value(run["counts"].clone()).unwrap());
        assert_eq!(found[0], launches, "{what}: launches");
        assert!(submits >= steps, "{what}: a submission a step");
        // Some steps pass until a batch has room for several.
        assert!(found[1] < steps * 3 / 4, "{what}: fewer submissions");
        assert_eq!(found[2], binds, "{what}: bind groups, once recorded");
    }
}

/// What any visitor can run: three rows, a line to copy, and a way out at any time.
#[test]
fn the_benchmark_measures_and_can_be_stopped() {
    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::NoAdapter);
    browser.at_first(&three_cores(""));
    open(&browser, &server, "?engine=cpu");
    browser.wait_for("ready");
    browser.script(
        "document.querySelector('#benchmark').open = true",
        json!([]),
    );
    let rows = || {
        let script = "return [...document.querySelectorAll('#benchmark-table tr')].map((row) =>
            [...row.cells].map((cell) => cell.textContent))";
        let rows: Vec<Vec<String>> =
            serde_json::from_value(browser.script(script, json!([]))).unwrap();
        rows
    };
    let note = || {
        let script = "return document.querySelector('#benchmark-note').textContent";
        browser
            .script(script, json!([]))
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };

    browser.click(&browser.wait_enabled("button", "Run the benchmark"));
    browser.wait("a first row", || (!rows().is_empty()).then_some(()));
    browser.click(&browser.wait_enabled("button", "Stop the benchmark"));
    browser.wait("it stops", || (note() == "Stopped.").then_some(()));
    assert!(rows().len() < 3, "stopped before its end");
    assert!(!browser.has("button", "Copy this line"));

    browser.click(&browser.wait_enabled("button", "Run the benchmark"));
    browser.wait_enabled("button", "Copy this line");
    let rows = rows();
    let counts: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(counts, ["1", "4", "16"]);
    for row in &rows {
        let [count, step_ms, images_a_second] = [0, 1, 3].map(|i| row[i].parse::<f64>().unwrap());
        assert!(step_ms > 0.0);
        // Each of the two is rounded to three figures.
        let product = step_ms * images_a_second / count;
        assert!((product - 1.0).abs() < 0.02, "{row:?}");
    }
    let script = "return document.querySelector('#benchmark-line').textContent";
    let line = browser.script(script, json!([]));
    let line = line.as_str().unwrap_or_default();
    for part in [
        "CPU (WebAssembly), a thread an image, up to 3",
        "1 image ",
        "16 images ",
        &rows[0][1],
        "Chrome/",
    ] {
        assert!(line.contains(part), "`{part}` is missing in: {line}");
    }
    // The visitor's own picture is still to be had.
    browser.click(&browser.wait_enabled("button", "Sample a garment"));
    browser.wait("a frame", || (browser.count("frame") > 0).then_some(()));
    assert_quiet(&browser);
}

/// Waits until no frame has come for a while, and says how many there are.
fn settled(browser: &Browser) -> u64 {
    let mut last = (u64::MAX, 0);
    browser.wait("frames stop coming", || {
        std::thread::sleep(Duration::from_millis(250));
        let count = browser.count("frame");
        last = if count == last.0 {
            (count, last.1 + 1)
        } else {
            (count, 0)
        };
        (last.1 == 4).then_some(count)
    })
}

#[test]
fn pause_step_resume_and_stop() {
    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::NoAdapter);
    // Sixteen at once: one alone may be finished before this test has asked for anything.
    open(&browser, &server, "?engine=cpu&seed=3&count=16");
    assert!(!browser.is_enabled(&browser.find("button", "Next step")));
    assert!(!browser.is_enabled(&browser.find("button", "Stop")));
    browser.click(&browser.find("button", "Sample a garment"));
    browser.wait("some frames are there", || {
        (browser.count("frame") > 20).then_some(())
    });
    browser.click(&browser.wait_enabled("button", "Pause"));
    browser.wait_enabled("button", "Resume");
    let computed = settled(&browser);
    assert!(computed < 1000 && browser.count("done") == 0);

    // One step at a time, computed where it was not yet.
    let shown = || {
        let bar = browser.find("progressbar", "Reverse process");
        browser.number(&bar, "aria-valuenow").unwrap_or_default()
    };
    let mut before = shown();
    assert!(before > 0.0);
    for _ in 0..3 {
        browser.click(&browser.wait_enabled("button", "Next step"));
        browser.wait("the next step is shown", || {
            (shown() > before).then_some(())
        });
        assert_eq!(shown(), before + 1.0, "one step, not more");
        before += 1.0;
    }
    assert!(settled(&browser) <= computed + 3);
    assert_eq!(shown(), before, "still paused");

    browser.click(&browser.find("button", "Resume"));
    browser.wait("it goes on", || (shown() > before + 5.0).then_some(()));
    browser.click(&browser.wait_enabled("button", "Stop"));
    browser.wait_enabled("button", "Sample a garment");
    let stopped = settled(&browser);
    assert!(stopped < 1000, "it was stopped before its end");
    assert_eq!(browser.count("done"), 0);

    // What was computed can be looked at, and a new run starts from its beginning.
    assert!(browser.is_enabled(&browser.find("slider", "Timestep")));
    browser.click(&browser.find("button", "Sample a garment"));
    browser.wait("a new run has begun", || {
        (browser.count("frame") > stopped + 2).then_some(())
    });
    let first = &browser.events("frame")[stopped as usize];
    assert_eq!(
        (first["index"].as_u64(), first["t"].as_u64()),
        (Some(0), Some(999))
    );
    assert_quiet(&browser);
}

/// Notes every worker that the page makes and how many images each is asked for; of the second one,
/// `sabotage` makes what it likes.
fn three_cores(sabotage: &str) -> String {
    let cores = "Object.defineProperty(navigator, 'hardwareConcurrency', { value: 3 });
        window.images = [];";
    let before = format!("images.push([]); if (number == 1) {{ {sabotage} }}");
    let noted = "
        const post = worker.postMessage.bind(worker);
        worker.postMessage = (message, ...rest) => {
            if (message[0]?.type == 'run') {
                images[number].push([message[0].first, message[0].picture.count]);
            }
            post(message, ...rest);
        };";
    cores.to_owned() + &workers(&before, noted)
}

const FOUR: Picture = Picture {
    seed: 11,
    garment: "dress",
    sampler: "ddim",
    steps: 12,
    guidance: 2.0,
    count: 4,
};

/// On a machine with three cores, four images are computed by three engines, and are the four images.
#[test]
fn several_images_are_shared_by_the_cores() {
    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::NoAdapter);
    browser.at_first(&three_cores(""));
    open(&browser, &server, &FOUR.query("cpu"));
    let asked = || browser.script("return window.images", json!([]));
    assert_eq!(asked(), json!([[]]), "one engine is enough to begin with");

    let (_, expected) = FOUR.sample(&default_weights());
    let frames: Vec<u64> = (0..12).collect();
    for run in 1..=2 {
        browser.click(&browser.wait_enabled("button", "Sample a garment"));
        browser.wait("the run is over", || {
            (browser.count("done") == run).then_some(())
        });
        let done = &browser.events("done")[run as usize - 1];
        assert_close(
            &pixels(done),
            &expected,
            LEVELS,
            "three engines and the trainer",
        );
        let found = browser.events("frame").split_off((run as usize - 1) * 12);
        let indices = found.iter().map(|frame| frame["index"].as_u64().unwrap());
        assert_eq!(indices.collect::<Vec<_>>(), frames);
        let shares = [[0, 1], [1, 1], [2, 2]].map(|share| vec![share; run as usize]);
        assert_eq!(asked(), json!(shares));
    }
    assert_quiet(&browser);
}

/// All workers but the first tell 1.5 s late that they are ready.
const LATE: &str = "if (number > 0) hold(worker, 'ready', (go) => setTimeout(go, 1500));";

/// An engine that tells of earlier weights when the page has chosen others already is not taken to have
/// these.
#[test]
fn late_weights_of_another_epoch_are_not_shared() {
    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::NoAdapter);
    browser.at_first(&three_cores(""));
    browser.at_first(&workers("", LATE));
    let chosen = weights_index().models[1].clone();
    assert_ne!(chosen.epoch, default_entry().epoch);
    open(&browser, &server, &FOUR.query("cpu"));
    browser.click(&browser.wait_enabled("button", "Sample a garment"));
    browser.wait("two more engines", || {
        let engines = browser.script("return window.images.length", json!([]));
        (engines == 3).then_some(())
    });
    assert_eq!(browser.count("frame"), 0, "the run waits for the others");
    browser.click(&browser.wait_enabled("button", "Stop"));
    browser.set(
        &browser.find("combobox", "Epoch"),
        &chosen.epoch.to_string(),
    );
    // Until they have told of the weights that nobody wants any more.
    std::thread::sleep(Duration::from_secs(3));
    browser.click(&browser.wait_enabled("button", "Sample a garment"));
    let done = browser.wait_for("done");
    let (_, expected) = FOUR.sample(&weights_of(&chosen));
    assert_close(
        &pixels(&done),
        &expected,
        LEVELS,
        "three engines and the trainer",
    );
    assert_quiet(&browser);
}

/// Where another engine cannot be had, or does not answer, the first one computes everything.
#[test]
fn what_cannot_be_shared_is_computed_alone() {
    let server = Server::of(dist());
    server.add("silent.js", b"onmessage = () => {};".to_vec());
    server.add("broken.js", b"throw new Error('broken');".to_vec());
    let (_, expected) = FOUR.sample(&default_weights());
    for sabotage in [
        "throw new Error('no more workers');",
        "url = 'missing.js';",
        "url = 'broken.js';",
        "url = 'silent.js';",
    ] {
        let browser = Browser::chromium(Gpu::NoAdapter);
        browser.at_first(&three_cores(sabotage));
        open(&browser, &server, &FOUR.query("cpu"));
        browser.click(&browser.wait_enabled("button", "Sample a garment"));
        let done = browser.wait_for("done");
        assert_close(&pixels(&done), &expected, LEVELS, sabotage);
        assert_eq!(browser.count("frame"), 12, "{sabotage}");
        let asked = browser.script("return window.images[0]", json!([]));
        assert_eq!(asked, json!([[0, 4]]), "{sabotage}");
    }
}

#[test]
fn a_link_is_a_picture() {
    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::NoAdapter);
    let epoch = default_entry().epoch;
    let query = format!(
        "?engine=cpu&seed=123&garment=bag&sampler=dpm&steps=12&guidance=2&count=4&epoch={epoch}"
    );
    open(&browser, &server, &query);
    let value = |role: &str, name: &str| {
        let value = browser.property(&browser.find(role, name), "value");
        value.as_str().unwrap_or_default().to_owned()
    };
    let controls = || {
        [
            value("spinbutton", "Seed"),
            value("combobox", "Garment"),
            value("combobox", "Sampler"),
            value("slider", "Steps"),
            value("slider", "Guidance"),
            value("combobox", "Images"),
        ]
    };
    assert_eq!(controls(), ["123", "bag", "dpm", "12", "2", "4"]);

    browser.set(&browser.find("combobox", "Garment"), "sandal");
    browser.click(&browser.find("button", "New seed"));
    browser.wait("the address follows", || {
        let url = browser.url();
        (url.contains("garment=sandal") && !url.contains("seed=123&")).then_some(())
    });
    let changed = controls();
    assert_eq!(changed[1], "sandal");
    assert_ne!(changed[0], "123");
    let link = browser.url();
    assert!(link.starts_with(&server.url("")), "{link}");
    browser.open("about:blank");
    browser.open(&link);
    browser.wait_for("ready");
    browser.wait_enabled("button", "Sample a garment");
    assert_eq!(controls(), changed, "the link restores it all");

    // A link without an epoch is completed, and no other one: there is nothing to go back to.
    browser.open(&server.url(VISIT));
    browser.wait_enabled("button", "Sample a garment");
    let pages = || browser.script("return history.length", json!([]));
    let before = pages();
    browser.click(&browser.find("button", "Sample a garment"));
    browser.wait_for("done");
    let completed = browser.url();
    assert!(completed.contains(&format!("epoch={epoch}")), "{completed}");
    assert_eq!(pages(), before);

    // With `autoplay` nobody needs to press anything.
    let picture = Picture {
        seed: 9,
        garment: "trouser",
        sampler: "dpm",
        steps: 6,
        guidance: 1.5,
        count: 4,
    };
    browser.open("about:blank");
    browser.open(&server.url(&format!("{}&autoplay=1", picture.query("cpu"))));
    let done = browser.wait_for("done");
    let (_, expected) = picture.sample(&default_weights());
    assert_close(&pixels(&done), &expected, LEVELS, "an autoplayed link");
    assert_quiet(&browser);
}

/// What a link asks for in vain can be read once the page is ready, all of it, until somebody asks for
/// something themselves; once more where they go back to it, which is no dead end; and beside the run that a
/// link begins and after it, where data are saved as well.
#[test]
fn what_a_link_asks_for_in_vain_is_said() {
    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::NoAdapter);
    let link = "?engine=cpu&seed=abc&epoch=9999&sampler=dpm&steps=3";
    open(&browser, &server, link);
    let said = || {
        let status = browser.status();
        status.contains("seed=abc") && status.contains("epoch 9999")
    };
    assert!(said(), "{}", browser.status());
    let sample = |run: u64| {
        browser.click(&browser.wait_enabled("button", "Sample a garment"));
        browser.wait("the run is over", || {
            (browser.count("done") == run).then_some(())
        });
    };
    sample(1);
    assert!(!said(), "there is news: {}", browser.status());
    browser.script("history.back()", json!([]));
    browser.wait("it is said again", || said().then_some(()));
    browser.click(&browser.find("button", "New seed"));
    assert!(!said(), "the link is another: {}", browser.status());
    sample(2);

    for connection in ["", SAVES_DATA] {
        browser.at_first(connection);
        let link = "?engine=cpu&seed=abc&epoch=9999&autoplay=1&sampler=ddim&steps=5";
        browser.open(&server.url(link));
        browser.wait_for("done");
        assert!(said(), "nobody has had time: {}", browser.status());
    }
    sample(2);
    assert!(!said(), "there is news: {}", browser.status());
    assert_quiet(&browser);
}

/// `auto` in a browser without WebGPU, on a machine without a GPU, and with a software adapter.
#[test]
fn without_webgpu_the_cpu_engine_takes_over_and_says_why() {
    for gpu in [Gpu::Missing, Gpu::NoAdapter, Gpu::Software] {
        let server = Server::of(dist());
        let browser = Browser::chromium(gpu);
        open(&browser, &server, "?sampler=ddim&steps=2");
        assert_eq!(browser.wait_for("ready")["engine"], "cpu");
        let status = browser.status();
        assert!(status.contains("CPU (WebAssembly)"), "{status}");
        let reason = match gpu {
            Gpu::Missing | Gpu::NoAdapter => "WebGPU",
            Gpu::Software | Gpu::Hardware => "software",
        };
        assert!(status.contains(reason), "no reason: {status}");
        let asked = server.asked();
        assert!(
            !asked.iter().any(|path| path.contains("engine-webgpu")),
            "{asked:?}"
        );
        browser.click(&browser.find("button", "Sample a garment"));
        browser.wait_for("done");
        assert_quiet(&browser);
    }
}

#[test]
fn what_does_not_arrive_becomes_a_sentence() {
    let file = format!("weights/{}", default_entry().file);
    let (file, engine) = (file.as_str(), "engine-cpu_bg.wasm");
    let (line, again) = ("Check the connection", "fetch it again");
    let anywhere = [
        (file, Fault::Missing, "weights-missing", "404"),
        (file, Fault::Truncated, "weights-invalid", again),
        (file, Fault::Altered, "weights-invalid", again),
        (
            "weights/index.json",
            Fault::Missing,
            "weights-missing",
            "404",
        ),
        ("engine-cpu.js", Fault::Missing, "engine", line),
        (engine, Fault::Missing, "engine", "404"),
        (engine, Fault::Altered, "engine", line),
    ];
    // Each browser has words of its own for what breaks off, or takes it for all there is.
    let differing = [
        (file, Fault::CutOff, "weights-missing", line),
        (engine, Fault::CutOff, "engine", line),
    ];
    let chromium = &MAKES[0];
    let cases = (anywhere.iter().map(|case| (chromium, case))).chain(
        MAKES
            .iter()
            .flat_map(|make| differing.iter().map(move |case| (make, case))),
    );
    for (Make { name, start }, &(file, fault, code, words)) in cases {
        let server = Server::of(dist());
        server.fault(file, fault);
        let browser = start();
        browser.open(&server.url("?engine=cpu"));
        let error = browser.wait_for("error");
        let what = format!("{file} {fault:?} in {name}: {error}");
        assert_eq!(error["code"], code, "{what}");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(
            message.contains(words) && message.ends_with('.'),
            "{what}: no sentence"
        );
        browser.wait(&format!("the status line says so ({what})"), || {
            browser.status().contains(message).then_some(())
        });
        assert_eq!(browser.count("ready"), 0, "{what}");
        assert!(
            !browser.is_enabled(&browser.find("button", "Sample a garment")),
            "{what}"
        );
    }
}

/// What the page itself says first of what went wrong.
fn complaint(browser: &Browser) -> String {
    browser.wait("the page complains", || {
        let errors = browser.events("error").into_iter();
        let own = { errors }.find(|error| error["code"] != "uncaught")?;
        own["message"].as_str().map(str::to_owned)
    })
}

/// Whoever has an old browser hears what is missing, and not that the connection is bad.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_browser_without_simd_hears_so() {
    let server = Server::of(dist());
    // On a processor without these there is none in Chromium.
    let browser = Browser::chromium_with(Gpu::NoAdapter, &["--js-flags=--no-enable-sse4-1"]);
    browser.open(&server.url("?engine=cpu"));
    let message = complaint(&browser);
    assert!(
        message.contains("SIMD") && message.contains("Safari 16.4"),
        "{message}"
    );
}

/// Weights that the list takes for those of another epoch are not asked for over and over.
#[test]
fn weights_of_another_epoch_become_a_sentence() {
    let list = "weights/index.json";
    let mut index: Value = serde_json::from_slice(&fs::read(dist().join(list)).unwrap()).unwrap();
    let default = index["default"].clone();
    for model in index["models"].as_array_mut().unwrap() {
        if model["file"] == default {
            model["epoch"] = json!(7);
        }
    }
    let server = Server::of(dist());
    server.add(list, index.to_string().into_bytes());
    let browser = Browser::chromium(Gpu::NoAdapter);
    browser.open(&server.url("?engine=cpu"));
    let error = browser.wait_for("error");
    assert_eq!(error["code"], "weights-invalid", "{error}");
    let message = error["message"].as_str().unwrap_or_default();
    let there = default_entry().epoch.to_string();
    assert!(
        message.contains("epoch 7 ") && message.contains(&there),
        "{message}"
    );
    assert_eq!(browser.count("ready"), 0);
}

/// A slow server is no error: the page says what it waits for, and then works.
#[test]
fn late_weights_are_waited_for() {
    let server = Server::of(dist());
    let file = format!("weights/{}", default_entry().file);
    server.fault(&file, Fault::Held);
    let browser = Browser::chromium(Gpu::NoAdapter);
    browser.open(&server.url("?engine=cpu&sampler=ddim&steps=2"));
    browser.wait("the weights are asked for", || {
        (times(&file, &server.asked()) > 0).then_some(())
    });
    let status = browser.status();
    assert!(status.contains("Starting the CPU engine"), "{status}");
    assert!(!browser.is_enabled(&browser.find("button", "Sample a garment")));
    server.release(&file);
    browser.click(&browser.wait_enabled("button", "Sample a garment"));
    browser.wait_for("done");
    assert_eq!(browser.events("error"), Vec::<Value>::new());
    assert_quiet(&browser);
}

/// A file of the page whose name begins and ends like this; what is between them is its hash.
fn hashed(begin: &str, end: &str) -> String {
    let names = fs::read_dir(dist()).unwrap().flatten();
    let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let name = names.find(|name| name.starts_with(begin) && name.ends_with(end));
    name.unwrap_or_else(|| panic!("no {begin}...{end}"))
}

/// What was asked for before the page set out to work offline too, which asks for it once more.
fn asked(server: &Server) -> Vec<String> {
    let asked = server.asked().into_iter();
    asked.take_while(|path| !path.ends_with("sw.js")).collect()
}

fn times(file: &str, asked: &[String]) -> usize {
    asked.iter().filter(|path| path.ends_with(file)).count()
}

/// The first question for an adapter is answered at once: a machine may look for its own for longer than
/// the weights are kept waiting.
const AT_ONCE: &str = "
    const ask = GPU.prototype.requestAdapter;
    GPU.prototype.requestAdapter = async () => {
        GPU.prototype.requestAdapter = ask;
        return { info: { isFallbackAdapter: true } };
    };";

/// A visitor's line does not idle until the page's program is there: engine and weights, those that
/// the link asks for, travel beside it, once.
#[test]
fn engine_and_weights_travel_beside_the_program() {
    let index = weights_index();
    let default = default_entry();
    let other = index.models.iter().find(|model| model.file != default.file);
    let of_other = format!("&epoch={}", other.unwrap().epoch);
    for (gpu, engine, query, entry) in [
        (Gpu::NoAdapter, "cpu", "&engine=cpu", &default),
        (Gpu::NoAdapter, "cpu", of_other.as_str(), other.unwrap()),
        (Gpu::NoAdapter, "cpu", "&epoch=9999", &default),
        (Gpu::Software, "webgpu", "&engine=webgpu", &default),
    ] {
        let server = Server::of(dist());
        let program = hashed("app-", "_bg.wasm");
        server.fault(&program, Fault::Delayed(Duration::from_secs(5)));
        let [glue, module] = [".js", "_bg.wasm"].map(|end| format!("engine-{engine}{end}"));
        server.fault(&module, Fault::Delayed(Duration::from_secs(3)));
        let browser = Browser::chromium(gpu);
        if engine == "webgpu" {
            browser.at_first(AT_ONCE);
        }
        let picture = "?sampler=ddim&steps=2";
        open(&browser, &server, &format!("{picture}{query}"));
        browser.click(&browser.find("button", "Sample a garment"));
        browser.wait_for("done");

        let asked = asked(&server);
        let place = |file: &str| {
            let at = asked.iter().position(|path| path.ends_with(file));
            at.unwrap_or_else(|| panic!("{file} was not asked for: {asked:?}"))
        };
        // The program's first request.
        let list = place("weights/index.json");
        assert!(place(&module) < list, "{asked:?}");
        // Of an epoch that there is not the page cannot know what it is going to be instead.
        let early = !query.contains("9999");
        assert_eq!(place(&entry.file) < list, early, "{query}: {asked:?}");
        // A GPU has its kernels to compile while the weights travel: they wait for the engine. Until that
        // comes the worker has long asked for its smaller half.
        if engine == "webgpu" {
            assert!(place(&glue) < place(&entry.file), "{asked:?}");
        }
        for file in [".bpk", "worker.js", &glue, &module] {
            assert_eq!(times(file, &asked), 1, "{query}, {file}: {asked:?}");
        }
        assert_quiet(&browser);
    }
}

/// What begins before the program goes by less than the program knows: another engine takes over, and
/// what the first one would have needed does not go on coming.
#[test]
fn the_programs_choice_of_an_engine_counts() {
    let server = Server::of(dist());
    server.fault(
        "engine-webgpu_bg.wasm",
        Fault::Delayed(Duration::from_secs(8)),
    );
    let browser = Browser::chromium(Gpu::NoAdapter);
    // First there is a GPU, and then there is none.
    browser.at_first(
        "let asked = 0;
         GPU.prototype.requestAdapter = async () => asked++ ? null :
             { info: { isFallbackAdapter: false } };
         const fetchNow = window.fetch;
         window.fetch = (url, options) => {
             if (String(url).includes('engine-webgpu')) window.travels = options.signal;
             return fetchNow(url, options);
         };",
    );
    open(&browser, &server, "?sampler=ddim&steps=2");
    assert_eq!(browser.wait_for("ready")["engine"], "cpu");
    browser.click(&browser.find("button", "Sample a garment"));
    browser.wait_for("done");
    let asked = asked(&server);
    for file in ["engine-webgpu_bg.wasm", "engine-cpu_bg.wasm", ".bpk"] {
        assert_eq!(times(file, &asked), 1, "{file}: {asked:?}");
    }
    assert_eq!(times("worker.js", &asked), 2, "{asked:?}");
    assert_eq!(browser.script("return travels.aborted", json!([])), true);
}

/// What went wrong before the page's program was there is done again, as if nothing had been.
#[test]
fn what_broke_off_early_is_fetched_again() {
    let weights = format!("weights/{}", default_entry().file);
    let chromium = &MAKES[0];
    let makes = MAKES.iter().map(|make| (make, Fault::CutOff));
    for (Make { name, start }, fault) in makes.chain([(chromium, Fault::Missing)]) {
        for file in [weights.as_str(), "engine-cpu_bg.wasm"] {
            let server = Server::of(dist());
            server.fault_once(file, fault);
            let browser = start();
            open(&browser, &server, "?engine=cpu&sampler=ddim&steps=2");
            browser.click(&browser.find("button", "Sample a garment"));
            browser.wait_for("done");
            let times = times(file, &asked(&server));
            assert_eq!(times, 2, "{file} {fault:?} in {name}");
        }
    }
}

/// One that is soon over.
const VISIT: &str = "?engine=cpu&sampler=ddim&steps=2";

/// A first visit of a build, of which all that it asked for is kept for the next one.
fn visit(browser: &Browser, server: &Server) {
    open(browser, server, VISIT);
    let kept = "
        const { content: build } = document.querySelector('meta[name=build]');
        const names = (await caches.keys()).filter((name) => name.endsWith(build));
        const caching = names.map(async (name) => (await caches.open(name)).keys());
        return (await Promise.all(caching)).flat().map(({ url }) => new URL(url).pathname);";
    let mut asked = asked(server);
    // That is for the browser, which may have it from the last build.
    asked.retain(|path| !path.contains("/icon-"));
    browser.wait("the visit is kept", || {
        let kept = browser.script_async(kept, json!([]));
        let kept: Vec<String> = serde_json::from_value(kept).expect("paths");
        asked.iter().all(|path| kept.contains(path)).then_some(())
    });
}

#[test]
fn a_second_visit_needs_no_network() {
    for Make { name, start } in MAKES {
        let server = Server::of(dist());
        let browser = start();
        visit(&browser, &server);
        // Whoever opens another file of it, as one opens a page, does not get that one ever after.
        browser.open(&server.url("weights/index.json"));
        assert_works_unplugged(&browser, &server, name);
    }
}

/// The same of a build that is new since the last visit, whose service worker is still there when the
/// new one is to be told what to keep.
#[test]
fn a_new_build_needs_one_visit_too() {
    let page = fs::read_to_string(dist().join("index.html")).unwrap();
    let (_, rest) = page.split_once("name=\"build\" content=\"").unwrap();
    let (build, _) = rest.split_once('"').unwrap();
    let next = page.replace(build, "another");
    // However long it takes to install.
    let worker = fs::read_to_string(dist().join("sw.js")).unwrap()
        + "self.addEventListener('install', (event) =>
            event.waitUntil(new Promise((enough) => setTimeout(enough, 1000))));";
    for Make { name, start } in MAKES {
        let server = Server::of(dist());
        let browser = start();
        visit(&browser, &server);
        server.add("index.html", next.clone().into_bytes());
        server.add("sw.js", worker.clone().into_bytes());
        visit(&browser, &server);
        assert_works_unplugged(&browser, &server, name);
    }
}

fn assert_works_unplugged(browser: &Browser, server: &Server, name: &str) {
    server.unplug();
    open(browser, server, "?engine=cpu&seed=8&sampler=ddim&steps=3");
    browser.click(&browser.find("button", "Sample a garment"));
    let done = browser.wait_for("done");
    assert_eq!(done["seed"], 8, "{name}");
    assert_eq!(browser.count("frame"), 3, "{name}");
}

/// Half of what is kept of a file.
const HALVE: &str = "
    for (const name of await caches.keys()) {
        const cache = await caches.open(name);
        const { url } = (await cache.keys()).find(({ url }) => url.includes(args[0]));
        const kept = await cache.match(url);
        const body = await kept.blob();
        await cache.put(url, new Response(body.slice(0, body.size / 2), kept));
    }";

/// What is broken where it is kept does not keep the page from working for ever: the page says so, and
/// reloading helps.
#[test]
fn what_was_kept_broken_is_fetched_again() {
    for file in [
        hashed("app-", ".js"),
        hashed("app-", "_bg.wasm"),
        "engine-cpu.js".to_owned(),
        "engine-cpu_bg.wasm".to_owned(),
        default_entry().file,
    ] {
        let server = Server::of(dist());
        let browser = Browser::chromium(Gpu::NoAdapter);
        visit(&browser, &server);
        browser.script_async(HALVE, json!([file]));
        browser.open(&server.url(VISIT));
        let message = complaint(&browser);
        let help = ["eload the page", "Check the connection"];
        assert!(
            help.iter().any(|help| message.contains(help)),
            "{file}: {message}"
        );
        open(&browser, &server, VISIT);
    }
}

/// The same of the real garments, which come when a figure that shows them comes near.
#[test]
fn garments_that_were_kept_broken_are_fetched_again() {
    for (file, figure, there) in [
        (
            "test.bin",
            "noising",
            "return document.getElementById('noising-x-0').className == ''",
        ),
        (
            "map.bin",
            "why",
            "return !document.getElementById('space-draw').disabled",
        ),
    ] {
        let server = Server::of(dist());
        let browser = Browser::chromium(Gpu::NoAdapter);
        visit(&browser, &server);
        let come_near = || {
            open(&browser, &server, VISIT);
            approach(&browser, figure);
        };
        come_near();
        let kept = "
            const all = (await caches.keys()).map(async (name) => (await caches.open(name)).keys());
            return (await Promise.all(all)).flat().some(({ url }) => url.includes(args[0]));";
        browser.wait(&format!("{file} is kept"), || {
            (browser.script_async(kept, json!([file])) == true).then_some(())
        });
        browser.script_async(HALVE, json!([file]));
        come_near();
        let note = format!("{figure}-note");
        wait_text(&browser, &note, "reload the page");
        let before = times(file, &server.asked());
        come_near();
        browser.wait(&format!("{file} is fetched"), || {
            (times(file, &server.asked()) > before).then_some(())
        });
        browser.wait(&format!("{figure} has its garments"), || {
            (browser.script(there, json!([])) == true).then_some(())
        });
        assert_eq!(text(&browser, &note), "");
    }
}

/// Who saves data gets the text, the figures that need no network, and a button; the network comes
/// when it is pressed.
#[test]
fn who_saves_data_downloads_what_is_used() {
    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::NoAdapter);
    browser.at_first(SAVES_DATA);
    browser.open(&server.url("?engine=cpu&sampler=ddim&steps=2"));
    let button = browser.wait_enabled("button", "Sample a garment");
    let status = browser.status();
    assert!(status.contains("saves data"), "{status}");
    let network = |path: &String| {
        ["worker.js", "engine-", ".bpk"]
            .iter()
            .any(|part| path.contains(part))
    };
    let early = server.asked();
    assert!(!early.iter().any(network), "{early:?}");
    assert_eq!(browser.count("ready"), 0);

    browser.click(&button);
    browser.wait_for("done");
    assert_eq!(browser.count("frame"), 2);
    let status = browser.status();
    assert!(
        status.contains("CPU (WebAssembly)") && !status.contains("saves data"),
        "{status}"
    );
    assert_eq!(times(".bpk", &asked(&server)), 1);
    assert_quiet(&browser);
}

/// A run that has waited for a GPU's engine is the other engine's where that one does not come; one that was
/// under way is over, and whoever embeds the page hears so.
#[test]
fn a_run_has_an_end_where_its_engine_fails() {
    let server = Server::of(dist());
    server.fault("engine-webgpu.js", Fault::Missing);
    let browser = Browser::chromium(Gpu::Software);
    browser.at_first(SAVES_DATA);
    browser.open(&server.url("?engine=webgpu&sampler=ddim&steps=2"));
    browser.click(&browser.wait_enabled("button", "Sample a garment"));
    browser.wait_for("done");
    assert_eq!(browser.wait_for("ready")["engine"], "cpu");
    assert_eq!((browser.count("frame"), browser.count("error")), (2, 0));
    drop(browser);

    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::Software);
    browser.at_first(&workers("", LOST));
    open(&browser, &server, "?engine=webgpu&sampler=ddim&steps=200");
    browser.click(&browser.find("button", "Sample a garment"));
    let error = browser.wait_for("error");
    assert_eq!(error["code"], "device-lost");
    let ready = browser.wait("the other engine", || {
        browser.events("ready").get(1).cloned()
    });
    assert_eq!(ready["engine"], "cpu");
    browser.click(&browser.wait_enabled("button", "Sample a garment"));
    browser.wait("its picture", || (browser.count("done") == 1).then_some(()));
}

/// The first engine says after its first frames that its device is lost.
const LOST: &str = "
    let lasting = number > 0;
    worker.addEventListener('message', ({ data }) => {
        if (lasting || data[0].type != 'frames') return;
        lasting = true;
        const lost = { type: 'error', code: 'device-lost', message: 'Gone.', fatal: true };
        worker.dispatchEvent(new MessageEvent('message', { data: [lost] }));
    });";

#[test]
fn other_browsers_paint_the_trainers_picture_too() {
    let picture = Picture {
        seed: 31,
        garment: "t-shirt",
        sampler: "ddpm",
        steps: 40,
        guidance: 1.0,
        count: 1,
    };
    let (_, expected) = picture.sample(&default_weights());
    let server = Server::of(dist());
    for Make { name: make, start } in &MAKES[1..] {
        let browser = start();
        for (engine, name) in [("cpu", "CPU (WebAssembly)"), ("webgpu", "WebGPU (")] {
            if (*make, engine) == ("WebKit", "webgpu") {
                // It has none.
                continue;
            }
            browser.open(&server.url(&picture.query(engine)));
            browser.click(&browser.wait_enabled("button", "Sample a garment"));
            let done = browser.wait_for("done");
            assert!(browser.status().contains(name), "{}", browser.status());
            assert_eq!(browser.count("frame"), 40);
            let what = format!("{engine} in {make} and trainer");
            assert_close(&pixels(&done), &expected, LEVELS, &what);
        }
    }
}

/// Leaves adapters with no feature, and with the limits that every one has.
const THE_LEAST: &str = "
    const ask = GPU.prototype.requestAdapter;
    GPU.prototype.requestAdapter = async function (...options) {
        const ordinary = await ask.apply(this, options);
        const { limits } = await ordinary.requestDevice();
        const adapter = await ask.apply(this, options);
        Object.defineProperty(adapter, 'limits', { value: limits });
        return adapter;
    };
    Object.defineProperty(GPUAdapter.prototype, 'features', { get: () => new Set(), configurable: true });";

/// Makes an engine take its adapter for hardware, and so the other cut of the kernels.
const NOT_SOFTWARE: &str = "
    Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { value: false });";

/// What every graphics card with WebGPU has is enough, for either cut of the kernels.
#[test]
fn a_gpu_with_the_least_will_do() {
    let picture = Picture {
        seed: 5,
        garment: "bag",
        sampler: "ddim",
        steps: 4,
        guidance: 2.0,
        count: 4,
    };
    let (_, expected) = picture.sample(&default_weights());
    let chromium: fn() -> Browser = || Browser::chromium(Gpu::Software);
    for (start, more, device) in [
        (chromium, "", "WebGPU (software adapter)"),
        (Browser::firefox, NOT_SOFTWARE, "WebGPU - "),
    ] {
        let server = Server::of(dist());
        let worker = fs::read_to_string(dist().join("worker.js")).unwrap();
        server.add("worker.js", (worker + THE_LEAST + more).into_bytes());
        let browser = start();
        browser.open(&server.url(&picture.query("webgpu")));
        browser.click(&browser.wait_enabled("button", "Sample a garment"));
        let done = browser.wait_for("done");
        let status = browser.status();
        assert!(status.contains(device), "{status}");
        assert_close(&pixels(&done), &expected, LEVELS, device);
    }
}

/// A folder like that of `cargo xtask bench --pack` is all that measuring needs, from wherever it is
/// started; here with pictures of the engine on the CPU.
#[cfg(unix)]
#[test]
fn measuring_needs_its_folder_alone() {
    use std::{os::unix::fs::symlink, path::Path, process::Command};

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packed");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("onnxruntime-web")).unwrap();
    symlink(prepared("FASHION_DDPM_BENCH"), folder.join("bench")).unwrap();
    symlink(dist(), folder.join("page")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/src/bench.sh");
    fs::copy(script, folder.join("bench.sh")).unwrap();

    let _turn = turn();
    let output = Command::new(folder.join("bench.sh"))
        .args(["software", "20", "picture cpu"])
        .current_dir("/")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{complaint}");
    let found = printed.lines().filter(|line| line.starts_with("picture"));
    let found: Vec<&str> = found.collect();
    assert_eq!(found.len(), 2, "{printed}");
    for (line, pixels) in found.into_iter().zip([784, 16 * 784]) {
        assert!(
            line.contains(&format!(" of {pixels} pixels differ")),
            "{line}"
        );
    }
}

/// WebGPU of another make than Chromium's, a GPU that has no more than it must, and the kernels as GPUs
/// get them: a step against NumPy, and whole runs of one image and of several, with guidance and without,
/// against the CPU.
#[test]
fn firefox_computes_as_a_gpu_would() {
    let worker = format!("import './worker.js?v=test'; {NOT_SOFTWARE} {THE_LEAST}");
    let (server, bytes) = stage(&[("gpu.js", &worker)]);
    let browser = Browser::firefox();
    let ask = |script: &str, engine: &str, requests: Value| {
        browser.open(&server.url("blank.html"));
        let arguments = json!([script, engine, "tiny.bpk", bytes, requests]);
        browser.script_async(&format!("{START}{ASK}"), arguments)
    };
    assert_references("webgpu", |requests| ask("gpu.js", "webgpu", requests));
    let kinds = [(1, 1.0, 40), (3, 2.0, 20), (16, 1.0, 10)];
    let gpu = ask("gpu.js", "webgpu", runs(&kinds));
    assert_eq!(gpu["ready"]["software"], false);
    assert_same_garments(&kinds, &gpu, &ask(WORKER, "cpu", runs(&kinds)));
}
