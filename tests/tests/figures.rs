//! Figures 1, 4, 5 and 7 of the shipped page, and what all figures share, in a real browser: what
//! is shown against numbers that are computed here, from the library and the weights that ship.

use std::{io::Read, ops::ControlFlow, path::PathBuf, sync::Arc};

use burn::tensor::{Tensor, TensorData};
use fashion_ddpm::{
    Denoiser, Garment, NoiseSchedule, PredictNoise, Sampler,
    diffusion::q_sample,
    gallery,
    garment::parse_garment,
    noise::{PIXELS, gaussian},
    sampler::to_pixels,
    weights::{Index, Weights},
};
use fashion_ddpm_tests::{
    browser::{Browser, Gpu},
    load, prepared,
    server::Server,
    values,
};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use trainer::sample::{Walk, walk};

/// Levels of 255 by which two devices may differ.
const LEVELS: u8 = 2;

fn dist() -> PathBuf {
    prepared("FASHION_DDPM_DIST")
}

fn index() -> Index {
    let index = std::fs::read(dist().join("weights/index.json")).unwrap();
    serde_json::from_slice(&index).unwrap()
}

fn default_weights() -> Weights {
    let index = index();
    let entry = index.default_entry().expect("the default is listed");
    load(&dist().join("weights").join(&entry.file))
}

/// The trainer's picture, and the states that led to it, x_T first and the garment last.
fn sample(
    weights: &Weights,
    seed: u32,
    garment: &str,
    sampler: &str,
    steps: usize,
) -> Vec<Vec<f32>> {
    let schedule = &weights.diffusion.schedule;
    let sampler: Sampler = sampler.parse().unwrap();
    let way = Walk {
        plan: sampler.plan(schedule, steps).unwrap(),
        garment: parse_garment(garment).unwrap(),
        guidance_scale: 1.0,
        seed,
    };
    let mut states = Vec::new();
    let device = kernels::cpu();
    let pixels = walk(
        &weights.unet,
        &weights.diffusion,
        &way,
        0..1,
        &device,
        |_, frame| {
            states.push(values(frame.x_t.clone()));
            ControlFlow::<()>::Continue(())
        },
    );
    let ControlFlow::Continue(pixels) = pixels else {
        unreachable!("nobody ends this walk")
    };
    states.push(pixels.iter().map(|p| f32::from(*p) / 127.5 - 1.0).collect());
    states
}

/// Opens the page, waits until it can sample, and brings a figure near.
fn open(query: &str, figure: &str) -> (Browser, Arc<Server>) {
    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::NoAdapter);
    browser.open(&server.url(query));
    browser.wait_for("ready");
    browser.wait_enabled("button", "Sample a garment");
    approach(&browser, figure);
    (browser, server)
}

fn approach(browser: &Browser, figure: &str) {
    let script = "document.getElementById(arguments[0]).scrollIntoView({ behavior: 'instant' })";
    browser.script(script, json!([figure]));
}

fn text(browser: &Browser, id: &str) -> String {
    let script = "return document.getElementById(arguments[0]).textContent";
    let text = browser.script(script, json!([id]));
    text.as_str().unwrap_or_default().to_owned()
}

/// The numbers of the table beside Algorithm 2.
fn step_numbers(browser: &Browser) -> Vec<f64> {
    let script = "return [...document.querySelectorAll('#step-numbers td')]
        .map((cell) => cell.textContent)";
    let words: Vec<String> = serde_json::from_value(browser.script(script, json!([]))).unwrap();
    words
        .iter()
        .map(|word| word.parse().unwrap_or(f64::NAN))
        .collect()
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

fn answer(weights: &Weights, garment: Option<Garment>, x_t: &[f32], t: usize) -> Vec<f32> {
    let device = kernels::cpu();
    let timesteps = weights.metadata.timesteps;
    let denoiser = Denoiser::new(weights.unet.clone(), timesteps, garment, 1.0, &device);
    let data = TensorData::new(x_t.to_vec(), [1, 1, 28, 28]);
    values(denoiser.predict(Tensor::from_data(data, &device), t))
}

#[track_caller]
fn assert_shows(browser: &Browser, name: &str, x: &[f32]) {
    let expected = to_pixels(x);
    let (width, found) = browser.canvas(&browser.find("image", name));
    assert_eq!(width, 28, "{name}");
    let worst = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| a.abs_diff(*b))
        .max();
    assert!(worst <= Some(LEVELS), "{name} is off by {worst:?} of 255");
}

#[track_caller]
fn assert_quiet(browser: &Browser) {
    let complaints = browser.complaints();
    assert!(
        complaints.is_empty(),
        "the page complained: {complaints:#?}"
    );
}

/// Figure 1: the strip shows ten frames of the run, and the GIF has its frames.
#[test]
fn the_strip_and_the_gif_are_the_run() {
    let (browser, _server) = open(
        "?engine=cpu&seed=7&garment=bag&sampler=ddim&steps=9",
        "sampling",
    );
    browser.script(
        "const make = URL.createObjectURL;
         URL.createObjectURL = (blob) => { window.saved = blob; return make.call(URL, blob) }",
        json!([]),
    );
    browser.click(&browser.find("button", "Sample a garment"));
    browser.wait_for("done");
    browser.click(&browser.wait_enabled("button", "Save as GIF"));
    let states = sample(&default_weights(), 7, "bag", "ddim", 9);
    for (i, state) in states.iter().enumerate() {
        assert_shows(
            &browser,
            &format!("Picture {} of 10 of the run", i + 1),
            state,
        );
    }
    let bytes = browser.script_async(
        "return Array.from(new Uint8Array(await window.saved.arrayBuffer()))",
        json!([]),
    );
    let bytes: Vec<u8> = serde_json::from_value(bytes).unwrap();
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    let mut decoder = options.read_info(&bytes[..]).unwrap();
    let scale = usize::from(decoder.width()) / 28;
    for (i, state) in states.iter().enumerate() {
        let frame = decoder
            .read_next_frame()
            .unwrap()
            .expect("a frame for each stop");
        let expected = to_pixels(state);
        for (pixel, expected) in expected.iter().enumerate() {
            let (x, y) = (pixel % 28 * scale, pixel / 28 * scale);
            let found = frame.buffer[y * 28 * scale + x];
            assert!(
                found.abs_diff(*expected) <= LEVELS,
                "frame {i}, pixel {pixel}"
            );
        }
    }
    assert!(decoder.read_next_frame().unwrap().is_none(), "and no more");
    assert_quiet(&browser);
}

/// Figure 4: the table's numbers are the schedule's and the network's.
#[test]
fn algorithm_2_shows_the_numbers_of_its_step() {
    let (browser, _server) = open("?engine=cpu&seed=7&garment=dress", "algorithms");
    let weights = default_weights();
    let schedule: &NoiseSchedule = &weights.diffusion.schedule;
    let mut x = gaussian(7, 0, 0, 1000);
    for t in [1000, 999, 998] {
        browser.click(&browser.wait_enabled("button", "Take one step of the run"));
        let expected_noise = answer(&weights, Some(Garment::Dress), &x, t - 1);
        let numbers = browser.wait(&format!("t = {t}"), || {
            let numbers = step_numbers(&browser);
            (numbers.first() == Some(&(t as f64)) && !numbers[5].is_nan()).then_some(numbers)
        });
        let (beta, alpha_cumprod) = (schedule.betas()[t - 1], schedule.alphas_cumprod()[t - 1]);
        let z = gaussian(7, 0, 0, t - 1);
        for (what, found, expected) in [
            ("alpha", numbers[1], 1.0 - beta),
            ("alpha_bar", numbers[2], alpha_cumprod),
            ("sigma", numbers[3], beta.sqrt()),
            ("the length of x", numbers[4], norm(&x)),
            (
                "the length of the answer",
                numbers[5],
                norm(&expected_noise),
            ),
            ("the length of z", numbers[6], norm(&z)),
        ] {
            assert!(
                (found - expected).abs() < 0.006,
                "{what} at {t}: {found}, not {expected}"
            );
        }
        assert!(
            (numbers[1] - (1.0 - beta)).abs() < 1e-6 && (numbers[3] - beta.sqrt()).abs() < 1e-6
        );
        let line = browser.script(
            "return document.querySelector('#algorithm-2 .current').dataset.line",
            json!([]),
        );
        assert_eq!(line, if t == 1000 { "start" } else { "step" });
        let plan = Sampler::Ddpm.plan(schedule, 1000).unwrap();
        let step = plan[1000 - t];
        let (a, s) = (step.sqrt_alpha_cumprod, step.sqrt_one_minus_alpha_cumprod);
        let (weight, pred_weight) = step.folded();
        x = (0..PIXELS)
            .map(|i| {
                let x_0 =
                    ((f64::from(x[i]) - s * f64::from(expected_noise[i])) / a).clamp(-1.0, 1.0);
                (weight * f64::from(x[i]) + pred_weight * x_0 + step.noise * f64::from(z[i])) as f32
            })
            .collect();
    }
    assert_quiet(&browser);
}

/// Figure 4: an example is q_sample of a shipped image, and its error the network's.
#[test]
fn algorithm_1_is_one_real_example_a_press() {
    let (browser, _server) = open("?engine=cpu&seed=11", "algorithms");
    let weights = default_weights();
    let data: gallery::Index =
        serde_json::from_slice(&std::fs::read(dist().join("data/index.json")).unwrap()).unwrap();
    let packed = std::fs::read(dist().join("data").join(data.test.file)).unwrap();
    let mut bytes = Vec::new();
    GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
    let (gallery, _) = gallery::decode(&bytes).unwrap();

    for number in 0..3 {
        browser.click(&browser.wait_enabled("button", "Take an example"));
        browser.wait("the error", || {
            let points = browser.script(
                "return document.querySelectorAll('#example-chart circle.one').length",
                json!([]),
            );
            (points == number + 1).then_some(())
        });
        let words = text(&browser, "example-x-0");
        let image: usize = words
            .split([' ', ','])
            .nth(1)
            .and_then(|word| word.parse().ok())
            .expect("image N, its class");
        let t: usize = text(&browser, "example-t")
            .replace("t = ", "")
            .parse()
            .unwrap();
        let x_0 = gallery.image(image - 1);
        let label = gallery.labels()[image - 1];
        assert!(words.ends_with(label.slug()), "{words}");
        let noise = gaussian(11, number, 0, t - 1);
        let x_t = q_sample(&weights.diffusion.schedule, &x_0, t - 1, &noise);
        assert_shows(&browser, "Example: x_0", &x_0);
        assert_shows(&browser, "Example: x_t", &x_t);
        let pred = answer(&weights, Some(label), &x_t, t - 1);
        let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        let error = noise.iter().zip(&pred).map(square).sum::<f64>() / PIXELS as f64;
        let words = text(&browser, "example-loss");
        let found: f64 = words.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(
            (found - error).abs() < 1e-4 * error.max(0.1),
            "t = {t}: {found}, not {error}"
        );
    }
    browser.click(&browser.find("button", "Take 25 examples"));
    browser.wait("28 examples", || {
        text(&browser, "example-chart-text")
            .starts_with("28 examples")
            .then_some(())
    });
    assert_quiet(&browser);
}

/// Figure 5: each picture is what the weights of its epoch make of the seed.
#[test]
fn learning_shows_one_seed_through_all_epochs() {
    let query = "?engine=cpu&seed=3&garment=trouser&sampler=ddim&steps=6";
    let (browser, _server) = open(query, "learning");
    browser.click(&browser.wait_enabled("button", "Sample with every epoch"));
    browser.wait("all are sampled", || {
        let captions = text(&browser, "learning-pictures");
        (captions.matches("seed 3").count() == index().models.len()).then_some(())
    });
    for entry in index().models {
        let weights = load(&dist().join("weights").join(&entry.file));
        let states = sample(&weights, 3, "trouser", "ddim", 6);
        let s = if entry.epoch == 1 { "" } else { "s" };
        let name = format!("Garment after {} epoch{s}", entry.epoch);
        assert_shows(&browser, &name, states.last().unwrap());
    }
    let log = std::fs::read_to_string(dist().join("weights/log.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let words = browser.wait("the curve is there", || {
        let words = text(&browser, "learning-chart-text");
        words.starts_with("Loss").then_some(words)
    });
    let loss = format!("{:.4} in the last", last["loss"].as_f64().unwrap());
    assert!(words.contains(&loss), "{words}");
    // The page's own weights come back for the first figure.
    browser.click(&browser.find("button", "Sample a garment"));
    let done = browser.wait_for("done");
    let pixels: Vec<u8> = serde_json::from_value(done["pixels"].clone()).unwrap();
    let expected = to_pixels(
        sample(&default_weights(), 3, "trouser", "ddim", 6)
            .last()
            .unwrap(),
    );
    assert!(
        pixels
            .iter()
            .zip(&expected)
            .all(|(a, b)| a.abs_diff(*b) <= LEVELS)
    );
    assert_quiet(&browser);
}

/// Figure 7: three samplers from one noise, each the trainer's picture, each with its seconds.
#[test]
fn fewer_steps_runs_three_samplers_from_one_noise() {
    let (browser, _server) = open("?engine=cpu&seed=5&garment=sneaker", "fewer-steps");
    browser.click(&browser.wait_enabled("button", "Run all three"));
    let seconds = browser.wait("all have run", || {
        let captions = text(&browser, "race-pictures");
        (captions.matches(" s").count() >= 3 && captions.matches(" s,").count() == 0)
            .then(|| captions.clone())
            .filter(|captions| captions.contains("20 steps: ") && captions.ends_with(" s"))
    });
    assert!(!seconds.contains(": 0.00 s"), "{seconds}");
    let weights = default_weights();
    for (name, sampler, steps) in [
        ("DDPM", "ddpm", 1000),
        ("DDIM", "ddim", 50),
        ("DPM-Solver++", "dpm", 20),
    ] {
        let states = sample(&weights, 5, "sneaker", sampler, steps);
        let name = format!("Garment by {name}, {steps} steps");
        assert_shows(&browser, &name, states.last().unwrap());
    }
    assert_eq!(browser.count("done"), 0, "figure 1 has not run");
    assert_quiet(&browser);
}

/// Back and forward walk through the settings.
#[test]
fn back_and_forward_walk_through_the_state() {
    let (browser, _server) = open("?engine=cpu&seed=5&garment=bag", "sampling");
    let garment = || {
        let value = browser.property(&browser.find("combobox", "Garment"), "value");
        value.as_str().unwrap_or_default().to_owned()
    };
    browser.set(&browser.find("combobox", "Garment"), "coat");
    browser.set(&browser.find("combobox", "Garment"), "dress");
    for (way, expected) in [("back", "coat"), ("back", "bag"), ("forward", "coat")] {
        browser.script(&format!("history.{way}()"), json!([]));
        browser.wait(&format!("{way} to {expected}"), || {
            let there = browser.url().contains(&format!("garment={expected}"));
            (garment() == expected && there).then_some(())
        });
    }
    assert_quiet(&browser);
}

/// Nothing of the later figures is loaded before they come near.
#[test]
fn later_figures_load_when_they_come_near() {
    let (browser, server) = open("?engine=cpu&seed=5&sampler=dpm&steps=5", "sampling");
    let asked = |part: &str| server.asked().iter().any(|path| path.contains(part));
    assert!(
        !asked("data/") && !asked("log.jsonl"),
        "{:?}",
        server.asked()
    );
    approach(&browser, "learning");
    browser.wait("the log is asked for", || asked("log.jsonl").then_some(()));
    assert_quiet(&browser);
}

/// axe-core finds nothing, with every figure started, in the article and in lecture mode.
#[test]
fn axe_finds_nothing() {
    let axe = std::fs::read_to_string(prepared("FASHION_DDPM_AXE")).unwrap();
    let (browser, _server) = open("?engine=cpu&seed=5&sampler=dpm&steps=5", "sampling");
    browser.click(&browser.find("button", "Sample a garment"));
    browser.wait_for("done");
    let sections = browser.script(
        "return [...document.querySelectorAll('[data-figure]')].map((section) => section.id)",
        json!([]),
    );
    let sections: Vec<String> = serde_json::from_value(sections).unwrap();
    assert_eq!(sections.len(), 8);
    for section in &sections {
        approach(&browser, section);
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    let look = |what: &str| {
        let found = browser.script_async(
            "(0, eval)(args[0]);
             document.querySelectorAll('details').forEach((details) => { details.open = true });
             const { violations } = await axe.run(document);
             return violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)])",
            json!([axe]),
        );
        assert_eq!(found, json!([]), "{what}");
    };
    look("the article");
    browser.click(&browser.find("button", "Lecture mode"));
    look("lecture mode");
}
