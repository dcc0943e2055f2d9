//! Figures 1, 4, 5 and 7 of the shipped page, and what all figures share, in a real browser: what
//! is shown against numbers that are computed here, from the library and the weights that ship.

use burn::tensor::{Tensor, TensorData};
use fashion_ddpm::{
    Denoiser, Garment, NoiseSchedule, PredictNoise, Sampler,
    diffusion::q_sample,
    gallery::to_network,
    noise::{PIXELS, gaussian},
    sampler::to_pixels,
    weights::Weights,
};
use fashion_ddpm_tests::{
    browser::{Browser, Gpu, SAVES_DATA, workers},
    page::{
        LEVELS, Picture, approach, assert_close, assert_quiet, assert_shows, data_index,
        default_weights, dist, garments, open, slide, text, wait_phase, wait_text, weights_index,
        weights_of,
    },
    prepared,
    server::Server,
    values,
};
use serde_json::{Value, json};

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
    let denoiser = Denoiser::new(weights.unet.clone(), timesteps, garment, 1.0);
    let data = TensorData::new(x_t.to_vec(), [1, 1, 28, 28]);
    values(denoiser.predict(Tensor::from_data(data, &device), t))
}

/// The states of a run of one image, the garment last.
fn sample(
    weights: &Weights,
    seed: u32,
    garment: &'static str,
    run: (&'static str, usize),
) -> Vec<Vec<f32>> {
    let (sampler, steps) = run;
    let picture = Picture {
        seed,
        garment,
        sampler,
        steps,
        guidance: 1.0,
        count: 1,
    };
    let (mut states, pixels) = picture.sample(weights);
    states.push(pixels.into_iter().map(to_network).collect());
    states
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
    let states = sample(&default_weights(), 7, "bag", ("ddim", 9));
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

    // And the image that is shown, 20 pixels for each of its own.
    browser.script(
        "HTMLAnchorElement.prototype.click = function () { window.saved = this }",
        json!([]),
    );
    browser.click(&browser.find("button", "Save image"));
    let saved = browser.script_async(
        "const image = new Image();
         image.src = window.saved.href;
         await image.decode();
         const canvas = new OffscreenCanvas(image.width, image.height).getContext('2d');
         canvas.drawImage(image, 0, 0);
         const { data } = canvas.getImageData(0, 0, image.width, image.height);
         const at = (i) => data[4 * ((Math.floor(i / 28) * 20 + 10) * image.width + i % 28 * 20 + 10)];
         return [window.saved.download, image.width, Array.from({ length: 784 }, (_, i) => at(i))]",
        json!([]),
    );
    let (name, width, found): (String, usize, Vec<u8>) = serde_json::from_value(saved).unwrap();
    assert_eq!((name.as_str(), width), ("bag-seed-7.png", 560));
    let garment = to_pixels(states.last().expect("the garment"));
    assert_close(&found, &garment, LEVELS, "the saved image");
    assert_quiet(&browser);
}

/// Figure 1: its end does not take those who read on below away from there. The keyboard's place is the
/// next button all the same.
#[test]
fn the_end_of_a_run_scrolls_nobody_back() {
    let query = "?engine=cpu&seed=5&sampler=dpm&steps=5";
    let (browser, _server) = open(query, "sampling");
    // Between its beginning and its end, however fast it is.
    browser.script(
        "const down = () => scrollTo({ top: document.body.scrollHeight, behavior: 'instant' });
         document.addEventListener('ddpm:frame', down, { once: true })",
        json!([]),
    );
    browser.click(&browser.find("button", "Sample a garment"));
    wait_phase(&browser, "sampling", "over");
    let place = browser.script(
        "const { id } = document.activeElement;
         return [id, document.getElementById('sample').getBoundingClientRect().bottom < 0]",
        json!([]),
    );
    assert_eq!(place, json!(["sample", true]));
    assert_quiet(&browser);
}

/// Holds back what the engine answers to questions about a frame, until it is let go.
const HELD: &str = "hold(worker, 'explained', (go) => held.push(go));";

/// Figure 1: of several images the network is asked again about the frame that somebody rests on, even
/// where they came to it while the answer on another one was awaited.
#[test]
fn a_frame_is_explained_after_another_one() {
    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::NoAdapter);
    browser.at_first(&workers("window.held ??= [];", HELD));
    browser.open(&server.url("?engine=cpu&seed=5&sampler=ddim&steps=6&count=4"));
    browser.click(&browser.wait_enabled("button", "Sample a garment"));
    wait_phase(&browser, "sampling", "over");
    let wait = |answers: usize| {
        browser.wait(&format!("{answers} answers have come"), || {
            let held = browser.script("return window.held.length", json!([]));
            (held == answers).then_some(())
        });
    };
    slide(&browser, "Timestep", 2);
    wait(1);
    slide(&browser, "Timestep", 4);
    // Longer than what counts as a rest.
    browser.script_async(
        "await new Promise((enough) => setTimeout(enough, 500))",
        json!([]),
    );
    browser.script("window.held[0]()", json!([]));
    wait(2);
    browser.script("window.held[1]()", json!([]));
    let schedule = default_weights().diffusion.schedule;
    let plan = Sampler::Ddim { eta: 0.0 }.plan(&schedule, 6).unwrap();
    for stop in [4, 2] {
        slide(&browser, "Timestep", stop);
        let known = format!("at t = {}: values of", plan[stop].t + 1);
        wait_text(&browser, "pred-noise-text", &known);
    }
    assert_quiet(&browser);
}

/// Figure 4: a step that is asked for before the network is there is taken once it has come.
#[test]
fn a_step_waits_for_the_network() {
    let server = Server::of(dist());
    let browser = Browser::chromium(Gpu::NoAdapter);
    // It comes with the first work for it.
    browser.at_first(SAVES_DATA);
    browser.open(&server.url("?engine=cpu&seed=7"));
    approach(&browser, "algorithms");
    for t in [1000, 999] {
        browser.click(&browser.wait_enabled("button", "Take one step of the run"));
        browser.wait(&format!("t = {t}"), || {
            (step_numbers(&browser).first() == Some(&f64::from(t))).then_some(())
        });
    }
    assert_eq!(browser.count("frame"), 2, "no more than was asked for");
    wait_phase(&browser, "sampling", "paused");
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
    // The text knows the network's size from its file.
    let said = text(&browser, "parameters").replace(',', "");
    assert_eq!(said, weights.metadata.parameters.to_string());
    assert_quiet(&browser);
}

/// Figure 4: an example is q_sample of a shipped image, and its error the network's.
#[test]
fn algorithm_1_is_one_real_example_a_press() {
    let (browser, _server) = open("?engine=cpu&seed=11", "algorithms");
    let weights = default_weights();
    let (gallery, _) = garments(&data_index().test.file);

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
        (captions.matches("seed 3").count() == weights_index().models.len()).then_some(())
    });
    for entry in weights_index().models {
        let weights = weights_of(&entry);
        let states = sample(&weights, 3, "trouser", ("ddim", 6));
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
        sample(&default_weights(), 3, "trouser", ("ddim", 6))
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
        let states = sample(&weights, 5, "sneaker", (sampler, steps));
        let name = format!("Garment by {name}, {steps} steps");
        assert_shows(&browser, &name, states.last().unwrap());
    }
    assert_eq!(browser.count("done"), 0, "figure 1 has not run");
    assert_quiet(&browser);
}

/// A second figure takes the engine, and the first one says so and can go on.
#[test]
fn who_asks_last_gets_the_engine() {
    let (browser, _server) = open("?engine=cpu&seed=5", "algorithms");
    // A run that is held at its beginning: no machine is so fast that it is over by then.
    browser.click(&browser.wait_enabled("button", "Take one step of the run"));
    wait_phase(&browser, "sampling", "paused");
    browser.wait("its first frame", || {
        (browser.count("frame") > 0).then_some(())
    });
    approach(&browser, "fewer-steps");
    browser.click(&browser.wait_enabled("button", "Run all three"));
    wait_phase(&browser, "sampling", "over");
    let status = browser.status();
    assert!(status.contains("another figure"), "{status}");
    assert_eq!(browser.count("done"), 0, "its run has no end");
    wait_phase(&browser, "fewer-steps", "idle");
    let captions = text(&browser, "race-pictures");
    assert!(captions.ends_with(" s"), "the other one's has: {captions}");

    // And back.
    browser.click(&browser.wait_enabled("button", "Run all three"));
    approach(&browser, "sampling");
    browser.set(&browser.find("combobox", "Sampler"), "dpm");
    browser.click(&browser.wait_enabled("button", "Sample a garment"));
    browser.wait_for("done");
    wait_phase(&browser, "fewer-steps", "idle");
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

/// Nor does a control stay behind because it has the focus, unless it holds a text that is no value yet:
/// that is left to whoever types it.
#[test]
fn back_and_forward_reach_the_control_in_use() {
    let (browser, _server) = open("?engine=cpu&seed=4&sampler=dpm&steps=3", "sampling");
    let wait = |role: &str, name: &str, expected: &str| {
        browser.wait(&format!("{name} is {expected}"), || {
            let value = browser.property(&browser.find(role, name), "value");
            (value == expected).then_some(())
        });
    };
    let go = |by: i32| browser.script("history.go(arguments[0])", json!([by]));
    for (role, name, id, [first, second]) in [
        ("spinbutton", "Seed", "seed", ["5", "6"]),
        ("slider", "Steps", "steps", ["4", "5"]),
    ] {
        let focus = "document.getElementById(arguments[0]).focus()";
        browser.script(focus, json!([id]));
        for value in [first, second] {
            browser.set(&browser.find(role, name), value);
        }
        go(-1);
        wait(role, name, first);
        go(1);
        wait(role, name, second);
    }
    browser.script(
        "const seed = document.getElementById('seed');
         seed.focus();
         seed.value = '';
         seed.dispatchEvent(new Event('input', { bubbles: true }))",
        json!([]),
    );
    // To another seed and other steps.
    go(-3);
    wait("slider", "Steps", "3");
    let seed = browser.property(&browser.find("spinbutton", "Seed"), "value");
    assert_eq!(seed, "");
    assert_quiet(&browser);
}

/// Lecture mode: one figure at a time, by keys, and in the address.
#[test]
fn lecture_mode_shows_one_figure_and_obeys_its_keys() {
    let (browser, _server) = open("?engine=cpu&seed=5&sampler=dpm&steps=5", "sampling");
    browser.click(&browser.find("button", "Lecture mode"));
    let shown = || -> Vec<String> {
        let script = "return [...document.querySelectorAll('main > section')]
            .filter((section) => section.checkVisibility()).map((section) => section.id)";
        serde_json::from_value(browser.script(script, json!([]))).unwrap()
    };
    let wait = |figure: &str| {
        browser.wait(&format!("{figure} alone is shown"), || {
            (shown() == [figure]).then_some(())
        });
    };
    // As a person does it who has nothing in focus.
    let press = |key: &str| {
        browser.script(
            "document.activeElement.blur();
             document.body.dispatchEvent(
                 new KeyboardEvent('keydown', { key: arguments[0], bubbles: true }))",
            json!([key]),
        );
    };
    wait("sampling");
    press("5");
    wait("learning");
    assert!(browser.url().contains("lecture=5"), "{}", browser.url());
    press("ArrowRight");
    wait("why");
    press("ArrowLeft");
    press("ArrowLeft");
    wait("algorithms");
    // Down and up show all of a figure first that is higher than the window.
    press("6");
    wait("why");
    // How much is out of sight above and below.
    let hidden = || -> [f64; 2] {
        let script = "const { scrollHeight, clientHeight } = document.documentElement;
            return [scrollY, scrollHeight - clientHeight - scrollY]";
        serde_json::from_value(browser.script(script, json!([]))).unwrap()
    };
    let [above, below] = hidden();
    assert!(above == 0.0 && below > 100.0, "{above} {below}");
    // Of its parts the one in sight is started and stopped.
    browser.wait_enabled("button", "Draw random images");
    press(" ");
    browser.wait_enabled("button", "Enough");
    press(" ");
    browser.wait_enabled("button", "Draw random images");
    while hidden()[1] > 1.0 {
        let [before, _] = hidden();
        press("PageDown");
        browser.wait("more is in sight", || (hidden()[0] > before).then_some(()));
        wait("why");
    }
    press("PageDown");
    wait("fewer-steps");
    browser.wait("its beginning is in sight", || {
        (hidden()[0] == 0.0).then_some(())
    });
    press("ArrowUp");
    wait("why");
    press("1");
    wait("sampling");
    press("?");
    browser.wait("the keys are listed", || {
        let open = browser.script("return document.getElementById('keys').open", json!([]));
        (open == true).then_some(())
    });
    browser.script("document.getElementById('keys').close()", json!([]));
    browser.wait_enabled("button", "Sample a garment");
    press(" ");
    browser.wait_for("done");
    wait_phase(&browser, "sampling", "over");
    // One step: a new run, held.
    press(".");
    wait_phase(&browser, "sampling", "paused");
    press(" ");
    wait_phase(&browser, "sampling", "over");
    browser.click(&browser.find("button", "Leave lecture mode"));
    browser.wait("all figures are there again", || {
        (shown().len() > 8).then_some(())
    });
    assert!(!browser.url().contains("lecture="), "{}", browser.url());
    assert_quiet(&browser);
}

/// Nothing is wider than the window, whoever has what; what one presses first is in sight; and in
/// lecture mode so is the main button of each figure.
#[test]
fn the_page_fits_telephones_and_projectors() {
    let (browser, _server) = open("?engine=cpu&seed=5&sampler=dpm&steps=5&autoplay=1", "why");
    browser.wait_for("done");
    let figures = browser.script(
        "return [...document.querySelectorAll('[data-figure]')].map((section) => section.id)",
        json!([]),
    );
    let figures: Vec<String> = serde_json::from_value(figures).unwrap();
    for figure in &figures {
        approach(&browser, figure);
    }
    // How far what is pressed first reaches down, the figures that are in sight.
    let measure = || -> (f64, f64) {
        let script = "scrollTo({ top: 0, behavior: 'instant' });
            const button = document.querySelector('.chapter:not(.away) [data-play]');
            return [document.documentElement.scrollWidth, button.getBoundingClientRect().bottom]";
        serde_json::from_value(browser.script(script, json!([]))).unwrap()
    };
    for (width, height) in [
        (360, 600),
        (375, 553),
        (768, 1024),
        (1280, 720),
        (1920, 1080),
    ] {
        browser.resize(width, height);
        let (wide, bottom) = measure();
        assert!(wide <= f64::from(width), "{wide} of {width}");
        assert!(
            bottom <= f64::from(height),
            "{bottom} of {height} at {width}"
        );
    }
    browser.click(&browser.find("button", "Lecture mode"));
    for (width, height) in [(1024, 768), (1920, 1080)] {
        browser.resize(width, height);
        for number in 1..=figures.len() {
            let key = "document.activeElement.blur();
                document.body.dispatchEvent(
                    new KeyboardEvent('keydown', { key: arguments[0], bubbles: true }))";
            browser.script(key, json!([number.to_string()]));
            browser.wait(&format!("figure {number} is shown"), || {
                let url = browser.url();
                url.ends_with(&format!("lecture={number}")).then_some(())
            });
            let (wide, bottom) = measure();
            assert!(wide <= f64::from(width), "{number}: {wide} of {width}");
            assert!(
                bottom <= f64::from(height),
                "{number}: {bottom} of {height}"
            );
        }
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

/// axe-core finds nothing, in light and in dark: with every figure started and used, in the article
/// and in lecture mode, with the keys listed.
#[test]
fn axe_finds_nothing() {
    let axe = std::fs::read_to_string(prepared("FASHION_DDPM_AXE")).unwrap();
    let (browser, _server) = open("?engine=cpu&seed=5&steps=10", "sampling");
    let look = |what: &str| {
        for scheme in ["light", "dark"] {
            browser.prefer_colours(scheme);
            let found = browser.script_async(
                "(0, eval)(args[0]);
                 document.querySelectorAll('details').forEach((details) => { details.open = true });
                 const { violations } = await axe.run(document);
                 return violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)])",
                json!([axe]),
            );
            assert_eq!(found, json!([]), "{what}, {scheme}");
        }
    };
    look("before anything has run");
    browser.click(&browser.find("button", "Sample a garment"));
    browser.wait_for("done");
    wait_phase(&browser, "sampling", "over");
    let sections = browser.script(
        "return [...document.querySelectorAll('[data-figure]')].map((section) => section.id)",
        json!([]),
    );
    let sections: Vec<String> = serde_json::from_value(sections).unwrap();
    assert!(sections.len() >= 8, "{sections:?}");
    for section in &sections {
        approach(&browser, section);
    }
    look("the article");
    // Its own drawing, examples, branches, a round that is judged.
    approach(&browser, "noising");
    browser.script(
        "document.querySelector('input[value=drawn]').click()",
        json!([]),
    );
    browser.wait_enabled("application", "Drawing pad");
    approach(&browser, "algorithms");
    browser.click(&browser.wait_enabled("button", "Take an example"));
    wait_phase(&browser, "algorithms", "idle");
    approach(&browser, "why");
    browser.click(&browser.wait_enabled("button", "Branch here"));
    wait_text(&browser, "branch-4-text", "branch 4: ");
    approach(&browser, "real-or-sampled");
    browser.click(&browser.wait_enabled("button", "Begin"));
    wait_text(&browser, "quiz-result", "20 to judge");
    look("pictures to judge");
    browser.script(
        "document.querySelectorAll('.judged input[value=real]').forEach((input) => input.click())",
        json!([]),
    );
    wait_text(&browser, "quiz-result", "of 20 right");
    look("everything used");
    approach(&browser, "sampling");
    browser.click(&browser.find("button", "Lecture mode"));
    look("lecture mode");
    browser.click(&browser.find("button", "Keys"));
    look("the keys");
}
