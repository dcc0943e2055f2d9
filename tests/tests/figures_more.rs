//! Figures 2, 3, 6 and 8 of the shipped page in a real browser: what they show against numbers that
//! are computed here, from the library, the weights and the data that ship.

use burn::tensor::{Tensor, TensorData};
use fashion_ddpm::{
    Denoiser, Garment, Mixture, NoiseSchedule, ReverseProcess, Sampler,
    diffusion::q_sample,
    gallery::to_network,
    mixture::noise_step,
    noise::{PIXELS, gaussian},
    sampler::{remaining, to_pixels},
    weights::{IndexEntry, Metadata, encode, hex},
};
use fashion_ddpm_tests::{
    page::{
        LEVELS, approach, assert_close, assert_quiet, data_index, default_entry, default_weights,
        dist, garments, number_after, open, open_from, shown, slide, text, wait_phase, wait_text,
        weights_index, weights_of,
    },
    server::{Fault, Server},
    values,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const T: usize = 1000;

/// The whole way of the ink, there and back, computed once more here: as many points in the clusters
/// as the page says, at the ends and on the way.
#[test]
fn the_ink_spreads_and_comes_back_as_the_library_has_it() {
    const POINTS: usize = 1000;
    let (browser, _server) = open(
        "?engine=cpu&seed=5&ink=drawn_-100,-70_110,-50_10,110",
        "ink",
    );
    let schedule = default_weights().diffusion.schedule;
    let mixture = Mixture {
        centres: vec![[-1.0, -0.7], [1.1, -0.5], [0.1, 1.1]],
        deviation: 0.1,
    };
    let normals = |branch: u32, t: usize| -> Vec<[f64; 2]> {
        let numbers: Vec<f32> = (0..3)
            .flat_map(|image| gaussian(5, image, branch, t))
            .collect();
        let pairs = numbers.chunks_exact(2).take(POINTS);
        pairs.map(|pair| [pair[0].into(), pair[1].into()]).collect()
    };
    let narrow = |x: [f64; 2]| x.map(|x| f64::from(x as f32));
    let first = normals(1, T).into_iter().enumerate();
    let mut points: Vec<[f64; 2]> = first.map(|(i, n)| narrow(mixture.sample(i, n))).collect();
    let mut inside = vec![mixture.within(points.clone())];
    for t in 0..T {
        for (x, normal) in points.iter_mut().zip(normals(2, t)) {
            *x = narrow(noise_step(&schedule, t, *x, normal));
        }
        inside.push(mixture.within(points.clone()));
    }
    for step in Sampler::Ddpm.plan(&schedule, T).unwrap() {
        for (x, z) in points.iter_mut().zip(normals(3, step.t)) {
            *x = narrow(mixture.step(&step, *x, z));
        }
        inside.push(mixture.within(points.clone()));
    }
    for (moment, t) in [
        (0, 0),
        (300, 300),
        (1000, 1000),
        (1700, 300),
        (2000, 0),
        (1000, 1000),
    ] {
        slide(&browser, "There and back", moment);
        let caption = wait_text(
            &browser,
            "ink-caption",
            &format!("t = {t}: {} of", inside[moment]),
        );
        assert!(caption.contains("one of 3 clusters"), "{caption}");
    }
    assert!(
        inside[1000] < 150 && inside[2000] > 970,
        "{} {}",
        inside[1000],
        inside[2000]
    );

    // Let go, it goes all the way in its own time, there and back.
    slide(&browser, "There and back", 0);
    for (button, last, end) in [
        ("Let it spread", "1000", 1000),
        ("Bring it back", "2000", 2000),
    ] {
        browser.click(&browser.wait_enabled("button", button));
        browser.wait("the ink has come to its end", || {
            let value = browser.property(&browser.find("slider", "There and back"), "value");
            (value == last).then_some(())
        });
        // It says so, and the button is its own again.
        let there = format!("{} of", inside[end]);
        wait_text(&browser, "ink-caption", &there);
        browser.wait_enabled("button", button);
    }

    // By the keys: an empty plane, and a cluster in it that is in the link.
    browser.click(&browser.find("button", "Draw your own"));
    wait_text(&browser, "ink-caption", "An empty plane");
    let plane = browser.find("application", "Plane of the ink");
    // WebDriver's keys: arrow up, twice arrow right, space.
    browser.type_keys(&plane, "\u{e013}\u{e014}\u{e014} ");
    wait_text(&browser, "ink-caption", "the cluster");
    browser.wait("the cluster is in the link", || {
        browser.url().contains("ink=drawn_20,10").then_some(())
    });
    assert_quiet(&browser);
}

/// The noised image is `q_sample` of the test image with the seed's noise, at both ends and between;
/// the numbers beside it are the schedules'; and what is denoised from there is what the library's
/// reverse process makes of it.
#[test]
fn noising_is_q_sample_and_denoising_goes_back_from_there() {
    const SEED: u32 = 11;
    let (browser, _server) = open(
        &format!("?engine=cpu&seed={SEED}&x0=bag-2&noising=400"),
        "noising",
    );
    let weights = default_weights();
    let schedule = &weights.diffusion.schedule;
    let (test, _) = garments(&data_index().test.file);
    let of_class = |(_, label): &(usize, &Garment)| **label == Garment::Bag;
    let (bag, _) = test
        .labels()
        .iter()
        .enumerate()
        .filter(of_class)
        .nth(1)
        .unwrap();
    let x_0 = test.image(bag);
    let noise = gaussian(SEED, 0, 0, T);
    browser.wait("the test image is shown", || {
        (shown(&browser, "x_0, the image") == test.pixels(bag)).then_some(())
    });
    for t in [400, 1, 1000, 20] {
        slide(&browser, "Noise up to", t);
        wait_text(&browser, "noising-t-value", &format!("t = {t}"));
        let expected = to_pixels(&q_sample(schedule, &x_0, t - 1, &noise));
        let what = format!("x_t at t = {t}");
        // f32 in the browser and here: a rounded half may fall either way.
        assert_close(
            &shown(&browser, "x_t, the noised image"),
            &expected,
            1,
            &what,
        );
        let rows = text(&browser, "noising-numbers");
        let alpha_cumprod = schedule.alphas_cumprod()[t - 1];
        for number in [alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt()] {
            assert!(rows.contains(&format!("{number:.4}")), "{number} in {rows}");
        }
    }
    let cosine = NoiseSchedule::new(fashion_ddpm::BetaSchedule::Cosine, T).unwrap();
    let rows = text(&browser, "noising-numbers");
    assert!(
        rows.contains(&format!("{:.4}", cosine.alphas_cumprod()[19].sqrt())),
        "{rows}"
    );

    let device = kernels::cpu();
    let plan = Sampler::Ddpm.plan(schedule, T).unwrap();
    // Each caption names the t of the picture above it: the last state before the end is x_1.
    let captions = "
        const picture = document.querySelector('[aria-label=\"Denoised image\"]');
        const caption = document.getElementById(picture.getAttribute('aria-describedby'));
        window.captions = [];
        const note = () => window.captions.push(caption.textContent);
        new MutationObserver(note).observe(caption, { childList: true, characterData: true, subtree: true });";
    browser.script(captions, json!([]));
    for branch in [0, 1] {
        browser.click(&browser.wait_enabled("button", "Denoise from here"));
        let results = 1 + branch as u64;
        browser.wait("it has come back", || {
            let script = "return document.querySelectorAll('#noising-results canvas').length";
            (browser.script(script, json!([])) == results).then_some(())
        });
        let x_t = q_sample(schedule, &x_0, 19, &noise);
        let x_t = Tensor::from_data(TensorData::new(x_t, [1, 1, 28, 28]), &device);
        let denoiser = Denoiser::new(weights.unet.clone(), T, None, 1.0);
        let rest = remaining(&plan, 19);
        let mut process = ReverseProcess::resume(denoiser, rest, SEED, vec![(0, branch)], x_t);
        while process.step().is_some() {}
        let expected = to_pixels(&values(process.x()));
        let what = format!("denoised on branch {branch}");
        assert_close(&shown(&browser, "Denoised image"), &expected, LEVELS, &what);
        // From this little noise the same bag returns.
        let said = wait_text(&browser, "noising-note", "grey levels away");
        let apart = number_after(&said, "a picture");
        let pairs = expected.iter().zip(test.pixels(bag));
        let squares: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
        assert!(
            (apart - (squares / PIXELS as f64).sqrt()).abs() < 1.5,
            "{said}"
        );
        assert!(apart < 20.0, "{said}");
    }

    let captions = browser.script("return window.captions", json!([]));
    let captions: Vec<String> = serde_json::from_value(captions).unwrap();
    for ends in captions.windows(2).filter(|pair| pair[1] == "t = 0") {
        assert_eq!(ends[0], "t = 1", "{captions:?}");
    }
    assert_eq!(captions.last().unwrap(), "t = 0");

    // A drawing: a stroke by the keys is noised like everything else.
    browser.script(
        "document.querySelector('input[value=drawn]').click()",
        json!([]),
    );
    let pad = browser.wait_enabled("application", "Drawing pad");
    let black = browser.canvas(&pad).1;
    assert!(
        black.iter().all(|level| *level == 0),
        "an empty pad is black"
    );
    // From the middle three columns to the right and one row up.
    browser.type_keys(&pad, "\u{e014}\u{e014}\u{e014}\u{e013} ");
    browser.wait("the brush has painted", || {
        let levels = browser.canvas(&pad).1;
        // The brush is soft: a touch is lighter in its middle than at its edge, and nowhere white.
        levels.iter().any(|level| *level > 100).then_some(())
    });
    // Nothing but the words says where the brush is.
    wait_text(&browser, "noising-x-0-text", "Brush at column 18, row 14");
    let painted = browser.canvas(&pad).1;
    let middle = |place: fn(usize) -> usize| {
        let ink = |i: usize| f64::from(painted[i]);
        let moment: f64 = (0..PIXELS).map(|i| ink(i) * (place(i) as f64 + 0.5)).sum();
        moment / (0..PIXELS).map(ink).sum::<f64>()
    };
    // A place between two pixels: the words name the one after it.
    let [column, row] = [middle(|i| i % 28), middle(|i| i / 28)];
    let off = (column - 17.0).hypot(row - 13.0);
    assert!(off < 0.01, "painted at {column}, {row}");
    let drawn: Vec<f32> = painted.into_iter().map(to_network).collect();
    let expected = to_pixels(&q_sample(schedule, &drawn, 19, &noise));
    // The pad's grey levels are rounded to 255 on the canvas.
    assert_close(
        &shown(&browser, "x_t, the noised image"),
        &expected,
        1,
        "the drawing noised",
    );

    // And it is in the link.
    let drawn = browser.canvas(&pad).1;
    let link = browser.wait("the drawing is in the link", || {
        Some(browser.url()).filter(|url| url.contains("&drawing="))
    });
    browser.open("about:blank");
    browser.open(&link);
    approach(&browser, "noising");
    let pad = browser.wait_enabled("application", "Drawing pad");
    browser.wait("the link's drawing is on the pad", || {
        (browser.canvas(&pad).1 == drawn).then_some(())
    });
    assert_quiet(&browser);
}

/// The map's path ends where the garment is projected, its nearest images are the gallery's, and the
/// branches are those of the library: they begin at the run's own state, with other noise.
#[test]
fn the_path_ends_at_the_garment_and_branches_leave_the_run_where_they_say() {
    const SEED: u32 = 3;
    const STEPS: usize = 10;
    let query = format!("?engine=cpu&seed={SEED}&sampler=ddpm&steps={STEPS}&autoplay=1");
    let (browser, _server) = open(&query, "why");
    browser.wait_for("done");
    let weights = default_weights();
    let schedule = &weights.diffusion.schedule;
    let device = kernels::cpu();
    let plan = Sampler::Ddpm.plan(schedule, STEPS).unwrap();
    let denoiser = || Denoiser::new(weights.unet.clone(), T, None, 1.0);
    let mut process = ReverseProcess::new(denoiser(), plan.clone(), SEED, 0..1, T, &device);
    let mut states = Vec::new();
    while let Some(frame) = process.step() {
        states.push((frame.t, frame.x_t));
    }
    let x_0 = values(process.x());
    let index = data_index();
    let (map, projection) = garments(&index.map.file);
    let projection = projection.expect("the map's file has a projection");

    let nearest = map.nearest(&x_0, index.neighbours.votes);
    let verdict = wait_text(&browser, "clusters-verdict", "It is ");
    let class = map.vote(&nearest).unwrap();
    assert!(
        verdict.contains(class.name()),
        "{verdict}, not {}",
        class.name()
    );
    let distance = number_after(&verdict, "It is");
    assert!(
        (distance - f64::from(nearest[0].distance)).abs() < 1.5,
        "{verdict}"
    );
    for (i, neighbour) in nearest.iter().take(3).enumerate() {
        let picture = shown(&browser, &format!("Nearest real image {}", i + 1));
        assert_eq!(picture, map.pixels(neighbour.index), "neighbour {i}");
    }
    let place = |x: &[f32]| projection.project(x).map(f64::from);
    let expect_at = |x: &[f32]| {
        let [across, up] = place(x);
        browser.wait("the path has come to its place", || {
            let caption = text(&browser, "clusters-caption");
            let (_, pair) = caption.split_once("now at (")?;
            let (first, rest) = pair.split_once(", ")?;
            let (second, _) = rest.split_once(')')?;
            let found: [f64; 2] = [first.parse().ok()?, second.parse().ok()?];
            // States are kept in f16, 784 of them are summed, and devices differ in rounding.
            let near = (found[0] - across).abs() < 0.06 && (found[1] - up).abs() < 0.06;
            near.then_some(())
        });
    };
    expect_at(&x_0);
    slide(&browser, "Timestep", 0);
    expect_at(&gaussian(SEED, 0, 0, T));
    slide(&browser, "Timestep", 6);
    expect_at(&values(states[6].1.clone()));

    // Of copies is quoted what was found of the default weights, or nothing.
    let evaluation = default_entry().evaluation;
    let said = text(&browser, "clusters-copies");
    let quoted = evaluation.values().any(|found| {
        let share = |value: &Value| format!("{:.1}", 100.0 * value.as_f64().unwrap());
        let [low, high] = [0, 1].map(|end| share(&found["suspicious"]["interval"][end]));
        let value = &found["suspicious"]["value"];
        let many = match value.as_f64() {
            Some(0.0) => "none is nearer".to_owned(),
            _ => format!("{} % ({low} to {high} %) are nearer", share(value)),
        };
        let count = found["count"].as_u64().unwrap();
        said.replace(',', "")
            .contains(&format!("Of {count} samples"))
            && said.contains(&many)
    });
    assert_eq!(quoted, !evaluation.is_empty(), "{said}");

    // The measured curve is that of the weights on the page, or there is none.
    if let Some(curve) = index.branches_of(&weights.sha256) {
        let runs = format!("{} runs", curve.runs);
        wait_text(&browser, "branches-curve-caption", &runs);
        let points = text(&browser, "branches-curve-text");
        for point in &curve.points {
            let share = 100.0 * f64::from(point.kept) / f64::from(curve.runs);
            let said = format!("{share:.0} % from t = {}", point.t);
            assert!(points.contains(&said), "{said} in {points}");
        }
    } else {
        wait_text(&browser, "branches-curve-caption", "not been measured");
    }

    // Branches from the state before step 6 of 10, at t = 400 of the lecture.
    let (t, x_t) = &states[6];
    assert_eq!(*t + 1, 400);
    slide(&browser, "Branch at", 410);
    let other = weights_index()
        .models
        .into_iter()
        .map(|entry| entry.epoch)
        .find(|epoch| *epoch != weights.metadata.epoch)
        .expect("weights of two epochs");
    let mut first = 1;
    for epoch in [weights.metadata.epoch, other] {
        // Branches grow by the weights of their run, whatever the page's are by now.
        browser.set(&browser.find("combobox", "Epoch"), &epoch.to_string());
        browser.click(&browser.wait_enabled("button", "Branch here"));
        wait_text(
            &browser,
            "branch-4-text",
            &format!("branch {}: ", first + 3),
        );
        let streams = (first..first + 4).map(|branch| (0, branch)).collect();
        let rest = remaining(&plan, *t);
        let x_t = x_t.clone().repeat_dim(0, 4);
        let mut process = ReverseProcess::resume(denoiser(), rest, SEED, streams, x_t);
        while process.step().is_some() {}
        let ends = to_pixels(&values(process.x()));
        let mut kept = 0;
        for (i, end) in ends.chunks_exact(PIXELS).enumerate() {
            let what = format!("branch {}", first as usize + i);
            let script = "const canvas = document.getElementById(arguments[0]);
                return Array.from(canvas.getContext('2d').getImageData(0, 0, 28, 28).data)
                    .filter((_, i) => i % 4 == 0)";
            let found = browser.script(script, json!([format!("branch-{}-image", i + 1)]));
            let found: Vec<u8> = serde_json::from_value(found).unwrap();
            // The page keeps the run's states in f16.
            assert_close(&found, end, 4, &what);
            let x: Vec<f32> = end.iter().copied().map(to_network).collect();
            let own = map.vote(&map.nearest(&x, index.neighbours.votes)).unwrap();
            let said = text(&browser, &format!("branch-{}-text", i + 1));
            assert!(said.contains(own.name()), "{said}, not {}", own.name());
            kept += u32::from(own == class);
        }
        let note = wait_text(&browser, "branches-note", "branches became");
        assert!(note.contains(&format!("{kept} of 4")), "{note}");
        first += 4;
    }
    browser.script("document.getElementById('branch-2').click()", json!([]));
    browser.wait("the branch is in the link", || {
        browser
            .url()
            .contains("branch=6&branch-t=400")
            .then_some(())
    });
    let own = weights.metadata.epoch.to_string();
    browser.set(&browser.find("combobox", "Epoch"), &own);
    browser.wait("the link has its weights", || {
        let there = format!("epoch={own}&");
        (browser.url() + "&").contains(&there).then_some(())
    });
    // The link grows its branch by itself.
    browser.open(&browser.url());
    browser.wait_for("done");
    browser.script("document.getElementById('why').scrollIntoView()", json!([]));
    wait_text(&browser, "branch-2-text", "branch 6: ");
    let pressed = browser.script(
        "return document.getElementById('branch-2').getAttribute('aria-pressed')",
        json!([]),
    );
    assert_eq!(pressed, "true");

    // Part a: as many as have been drawn, and nothing near a garment.
    browser.click(&browser.wait_enabled("button", "Draw random images"));
    let count = browser.wait("some hundred were drawn and compared", || {
        let text = text(&browser, "space-count");
        let drawn: u32 = text.split(' ').next()?.parse().ok()?;
        (drawn > 200 && text.contains("closest")).then_some(text)
    });
    browser.click(&browser.wait_enabled("button", "Enough"));
    // Two independent uniform pixels differ by sqrt(1/6) of 255 = 104 as the root of the mean square;
    // from an image half black, 255 / sqrt(3) and 255 / sqrt(12): nothing comes much closer than 85.
    let closest = number_after(&count, "real images is");
    assert!((80.0..160.0).contains(&closest), "{count}");
    assert_quiet(&browser);
}

/// The arrow keys lead from one real garment to the next that is shown, and are the browser's own where
/// another key is held with them.
#[test]
fn keys_explore_the_map() {
    let (browser, _server) = open("?engine=cpu", "why");
    let map = browser.wait_enabled("application", "Map of real images");
    browser.script(
        "for (const box of document.querySelectorAll('#clusters-legend input'))
             if (box.checked != !!box.closest('#class-sneaker')) box.click()",
        json!([]),
    );
    let said = || text(&browser, "clusters-hovered-text");
    assert_eq!(said(), "pointed at");
    let mut pictures = Vec::new();
    // WebDriver's names for the arrows.
    for key in ["\u{e014}", "\u{e014}", "\u{e013}", "\u{e012}", "\u{e015}"] {
        browser.type_keys(&map, key);
        assert_eq!(said(), "Sneaker, a real one");
        pictures.push(shown(&browser, "Image pointed at"));
    }
    pictures.dedup();
    assert!(pictures.len() > 2, "they lead somewhere");
    let taken = "
        const map = document.getElementById('clusters-plane');
        return [false, true].map((altKey) => {
            const init = { key: 'ArrowLeft', altKey, cancelable: true, bubbles: true };
            const press = new KeyboardEvent('keydown', init);
            map.dispatchEvent(press);
            return press.defaultPrevented;
        });";
    assert_eq!(browser.script(taken, json!([])), json!([true, false]));
    assert_quiet(&browser);
}

/// A run that is stopped while it is still shown is over for the other figures as well.
#[test]
fn who_stops_what_is_shown_can_sample_again() {
    let (browser, _server) = open("?engine=cpu&sampler=ddim&steps=200", "why");
    let again = || browser.wait_enabled("button", "Run the sample");
    again();
    browser.click(&browser.find("button", "Sample a garment"));
    browser.set(&browser.wait_enabled("combobox", "Playback"), "0.25");
    browser.wait_for("done");
    // Without noise there is nothing to branch by.
    wait_text(&browser, "branches-tree-text", "branches are DDPM’s");
    browser.click(&browser.wait_enabled("button", "Stop"));
    browser.click(&again());
    browser.wait("another run", || (browser.count("done") == 2).then_some(()));
    assert_quiet(&browser);
}

/// Branches grow on the last run. One that was stopped has none; that is said, and another one helps.
#[test]
fn a_stopped_run_has_no_branches() {
    let query = "?engine=cpu&seed=3&sampler=ddpm&steps=3&autoplay=1";
    let (browser, _server) = open(query, "why");
    browser.wait_enabled("button", "Branch here");
    let steps = |steps: &str| browser.set(&browser.find("slider", "Steps"), steps);
    // No machine takes that many before it hears that it is to take one.
    steps("1000");
    approach(&browser, "algorithms");
    browser.click(&browser.wait_enabled("button", "Take one step of the run"));
    browser.wait("a frame of the second run", || {
        (browser.count("frame") > 3).then_some(())
    });
    browser.click(&browser.wait_enabled("button", "Stop"));
    wait_phase(&browser, "sampling", "over");
    let why = "Another run has begun";
    wait_text(&browser, "branches-tree-text", why);
    assert!(!browser.is_enabled(&browser.find("button", "Branch here")));

    steps("3");
    browser.click(&browser.wait_enabled("button", "Sample a garment"));
    browser.click(&browser.wait_enabled("button", "Branch here"));
    wait_text(&browser, "branch-4-text", "branch 4: ");
    assert!(!text(&browser, "branches-tree-text").contains(why));
    // Of the next run there are none, and nothing is said of those that were.
    browser.script("document.getElementById('branch-4').click()", json!([]));
    browser.click(&browser.find("button", "Sample a garment"));
    wait_text(&browser, "branch-4-text", "a branch");
    let pressed = browser.script(
        "return document.getElementById('branch-4').getAttribute('aria-pressed')",
        json!([]),
    );
    assert_eq!(pressed, "false");
    browser.wait("the third run", || {
        (browser.count("done") == 3).then_some(())
    });
    assert_eq!(browser.count("done"), 3, "the stopped one has no end");
    assert_quiet(&browser);
}

/// Twenty pictures, ten of them photographs of the test set; who knows them all is told so.
#[test]
fn the_quiz_deals_ten_of_each_and_counts() {
    let (browser, _server) = open("?engine=cpu&seed=1", "real-or-sampled");
    browser.click(&browser.wait_enabled("button", "Begin"));
    wait_text(&browser, "quiz-result", "20 to judge");
    let (test, _) = garments(&data_index().test.file);
    let mut real = Vec::new();
    for i in 1..=20 {
        let picture = shown(&browser, &format!("Picture {i}"));
        real.push((0..test.len()).any(|image| test.pixels(image) == picture));
    }
    assert_eq!(real.iter().filter(|real| **real).count(), 10);
    let answer = |i: usize, real: bool| {
        let value = if real { "real" } else { "sampled" };
        let script = "document.querySelector(`input[name=quiz-${arguments[0]}][value=${arguments[1]}]`).click()";
        browser.script(script, json!([i, value]));
    };
    // All but three right.
    for (i, real) in real.iter().enumerate() {
        answer(i + 1, if i < 3 { !real } else { *real });
    }
    let result = wait_text(&browser, "quiz-result", "17 of 20 right");
    // P(X >= 17) for n = 20, p = 1/2: 1351 / 2^20.
    assert!(result.contains("0.1 %"), "{result}");
    let right = "return document.querySelectorAll('.judged.right').length";
    assert_eq!(browser.script(right, json!([])), 17);
    assert_quiet(&browser);
}

/// Data that cannot be had, or is no data, is said where it is missed, and stops nothing else.
#[test]
fn without_the_real_garments_the_rest_works() {
    for (map, test) in [
        (Fault::Missing, Fault::Truncated),
        (Fault::Altered, Fault::Missing),
        (Fault::CutOff, Fault::Altered),
    ] {
        let server = Server::of(dist());
        server.fault("data/map.bin", map);
        server.fault("data/test.bin", test);
        server.fault("weights/log.jsonl", Fault::Missing);
        let (browser, _server) =
            open_from(server, "?engine=cpu&seed=1&sampler=ddim&steps=3", "why");
        wait_text(&browser, "why-note", "could not be loaded");
        browser.wait_enabled("button", "Draw random images");
        approach(&browser, "noising");
        wait_text(&browser, "noising-note", "could not be loaded");
        // One can still draw.
        browser.wait_enabled("application", "Drawing pad");
        approach(&browser, "algorithms");
        wait_text(&browser, "algorithms-note", "could not be loaded");
        approach(&browser, "learning");
        wait_text(&browser, "learning-note", "could not be read");
        browser.click(&browser.wait_enabled("button", "Sample with every epoch"));
        wait_phase(&browser, "learning", "idle");
        let captions = text(&browser, "learning-pictures");
        let sampled = captions.matches("seed 1").count();
        assert_eq!(sampled, weights_index().models.len(), "{captions}");
        approach(&browser, "algorithms");
        browser.click(&browser.wait_enabled("button", "Take one step of the run"));
        wait_phase(&browser, "sampling", "paused");
        approach(&browser, "sampling");
        browser.click(&browser.wait_enabled("button", "Resume"));
        browser.wait_for("done");
    }
}

/// Figures 5 and 8 and the choice of figure 1 have the weights of the list, whatever it holds.
#[test]
fn the_figures_have_the_weights_of_the_list() {
    let entry = default_entry();
    let device = kernels::cpu();
    let mut list = weights_index();
    let server = Server::of(dist());
    // The same network under other epochs: what is asked here is which there are.
    let mut add = |epoch: u32| {
        let weights = weights_of(&entry);
        let metadata = Metadata {
            epoch,
            ..weights.metadata
        };
        let bytes = encode(&weights.unet, &metadata, &device).unwrap();
        let file = format!("of-{epoch}.bpk");
        list.models.push(IndexEntry {
            file: file.clone(),
            bytes: bytes.len() as u64,
            sha256: hex(&Sha256::digest(&bytes)),
            epoch,
            evaluation: Default::default(),
        });
        server.add(&format!("weights/{file}"), bytes);
    };
    for epoch in [124, 150] {
        add(epoch);
    }
    list.models.remove(0);
    list.default = "of-124.bpk".to_owned();
    server.add("weights/index.json", serde_json::to_vec(&list).unwrap());
    let expected: Vec<String> = list.models.iter().map(|m| m.epoch.to_string()).collect();

    let query = "?engine=cpu&seed=2&sampler=dpm&steps=3";
    let (browser, _server) = open_from(server, query, "learning");
    let choice = |id: &str| -> (String, Vec<String>) {
        let script = "const select = document.getElementById(arguments[0]);
            return [select.value, [...select.options].map((option) => option.value)]";
        serde_json::from_value(browser.script(script, json!([id]))).unwrap()
    };
    assert_eq!(choice("epoch"), ("124".to_owned(), expected.clone()));
    browser.click(&browser.wait_enabled("button", "Sample with every epoch"));
    wait_phase(&browser, "learning", "idle");
    for epoch in &expected {
        let s = if epoch == "1" { "" } else { "s" };
        let picture = shown(&browser, &format!("Garment after {epoch} epoch{s}"));
        assert!(picture.iter().any(|level| *level > 120), "epoch {epoch}");
    }
    let captions = text(&browser, "learning-pictures");
    assert_eq!(captions.matches("seed 2").count(), expected.len());
    approach(&browser, "real-or-sampled");
    browser.wait_enabled("button", "Begin");
    assert_eq!(choice("quiz-epoch"), ("124".to_owned(), expected));
    browser.set(&browser.find("combobox", "Weights of epoch"), "150");
    browser.click(&browser.wait_enabled("button", "Begin"));
    wait_text(&browser, "real-or-sampled-note", "epoch 150");
    wait_text(&browser, "quiz-result", "20 to judge");
    assert_quiet(&browser);
}
