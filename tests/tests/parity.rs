//! The method against a second implementation of it (`reference/reference.py`: NumPy, f64).

use burn::tensor::Tensor;
use fashion_ddpm::{
    BetaSchedule, Denoiser, Garment, GaussianDiffusion, NoiseSchedule, PredictNoise,
    ReverseProcess, Sampler,
    noise::{PIXELS, gaussian},
    sampler::to_pixels,
    weights::{Index, hex},
};
use fashion_ddpm_tests::{data, distance, load, reference::References, shipped_weights, values};
use sha2::{Digest, Sha256};

/// f32 against f64, through thirty layers or one step.
const TOLERANCE: f32 = 1e-4;

const SCHEDULES: [BetaSchedule; 2] = [BetaSchedule::Linear, BetaSchedule::Cosine];
const SAMPLERS: [Sampler; 4] = [
    Sampler::Ddpm,
    Sampler::Ddim { eta: 0.0 },
    Sampler::Ddim { eta: 1.0 },
    Sampler::DpmSolverMultistep,
];

fn schedule(kind: BetaSchedule) -> NoiseSchedule {
    NoiseSchedule::new(kind, 1000).unwrap()
}

#[track_caller]
fn assert_near(found: Tensor<4>, expected: Tensor<4>, tolerance: f32, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let expected = values(expected);
    let size = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    assert!(size > 0.1, "{what}: a reference of zeros proves nothing");
    let distance = distance(&values(found), &expected);
    assert!(
        distance <= tolerance,
        "{what}: off by {distance}, at most {tolerance} allowed"
    );
}

#[test]
fn schedules_are_the_references() {
    let reference = References::open("process.safetensors");
    for kind in SCHEDULES {
        let schedule = schedule(kind);
        let posterior: Vec<f64> = (0..1000).map(|t| schedule.posterior_variance(t)).collect();
        for (name, table) in [
            ("betas", schedule.betas()),
            ("alphas_cumprod", schedule.alphas_cumprod()),
            ("posterior_variance", &posterior),
        ] {
            let expected = reference.f64(&format!("{kind}.{name}"));
            assert_eq!(expected.len(), 1000);
            for (t, (found, expected)) in table.iter().zip(expected).enumerate() {
                let near = (found - expected).abs() <= 1e-10 * expected.abs();
                assert!(near, "{kind} {name} at t = {t}: {found}, not {expected}");
            }
        }
    }
}

#[test]
fn q_sample_is_the_references() {
    let device = kernels::cpu();
    let reference = References::open("process.safetensors");
    for kind in SCHEDULES {
        let x_t = GaussianDiffusion::new(schedule(kind)).q_sample(
            reference.images("q_sample.x_0", &device),
            &reference.indices("q_sample.t"),
            reference.images("q_sample.noise", &device),
        );
        let expected = reference.images(&format!("{kind}.x_t"), &device);
        assert_near(x_t, expected, 1e-6, kind.slug());
    }
}

/// A link names a garment by its seed, for good: neither may the generator become another one, nor the
/// way from its bits to normal numbers, in whatever version of the libraries.
#[test]
fn the_noise_is_the_references() {
    let reference = References::open("process.safetensors");
    let keys = reference.indices("noise.keys");
    let (keys, _) = keys.as_chunks::<4>();
    let (_, values) = reference.f32("noise.values");
    assert_eq!(values.len(), keys.len() * PIXELS);
    assert!(keys.len() > 1);
    for (key, expected) in keys.iter().zip(values.chunks(PIXELS)) {
        let [seed, image, branch] = [0, 1, 2].map(|i| u32::try_from(key[i]).unwrap());
        let off = distance(&gaussian(seed, image, branch, key[3]), expected);
        assert!(off <= 1e-6, "{key:?} is off by {off}");
    }
}

#[test]
fn the_tiny_network_is_the_references() {
    let reference = References::open("tiny.safetensors");
    network_is_the_references(&std::fs::read(data("tiny.bpk")).unwrap(), &reference);
}

/// One of the shipped files; which one is the references' choice.
fn shipped(reference: &References) -> Vec<u8> {
    let index = std::fs::read(shipped_weights().join("index.json")).unwrap();
    let index: Index = serde_json::from_slice(&index).unwrap();
    let sha256 = sha256(reference);
    let entry = index.models.iter().find(|entry| entry.sha256 == sha256);
    let entry = entry
        .expect("none of the shipped weights is the references': run tests/reference/reference.py");
    std::fs::read(shipped_weights().join(&entry.file)).unwrap()
}

#[test]
fn a_shipped_network_is_the_references() {
    let reference = References::open("shipped.safetensors");
    network_is_the_references(&shipped(&reference), &reference);
}

/// From the seed to the finished picture, as a link names it; with each sampler, with a class and
/// without, and with guidance.
#[test]
fn whole_walks_are_the_references() {
    let device = kernels::cpu();
    let reference = References::open("shipped.safetensors");
    let file = shipped(&reference);
    belongs_to(&reference, &file);
    let weights = fashion_ddpm::weights::decode(&file, &device).unwrap();
    let timesteps = weights.diffusion.schedule.timesteps();
    let cases = reference.indices("walk.cases");
    let (cases, _) = cases.as_chunks::<4>();
    let (_, scales) = reference.f32("walk.guidance_scale");
    let (_, pictures) = reference.f32("walk.x_0");
    assert_eq!(cases.len(), SAMPLERS.len());
    assert_eq!(pictures.len(), cases.len() * PIXELS);
    for (i, &[sampler, steps, seed, label]) in cases.iter().enumerate() {
        let sampler = SAMPLERS[sampler];
        let garment = Garment::from_label(label);
        let plan = sampler.plan(&weights.diffusion.schedule, steps).unwrap();
        let scale = f64::from(scales[i]);
        let denoiser = Denoiser::new(weights.unet.clone(), timesteps, garment, scale);
        let denoiser = denoiser.trained_with(&weights.diffusion);
        let seed = u32::try_from(seed).unwrap();
        let mut walk = ReverseProcess::new(denoiser, plan, seed, 0..1, timesteps, &device);
        while walk.step().is_some() {}
        let found = to_pixels(&values(walk.x()));
        let expected = to_pixels(&pictures[i * PIXELS..][..PIXELS]);
        assert!(expected.iter().any(|&pixel| pixel > 128), "no garment");
        let off = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
        let off = off.max().unwrap();
        assert!(
            off <= 2,
            "{sampler:?}, {steps} steps, seed {seed}: a pixel is off by {off} of 255"
        );
    }
}

fn network_is_the_references(file: &[u8], reference: &References) {
    let device = kernels::cpu();
    belongs_to(reference, file);
    let weights = fashion_ddpm::weights::decode(file, &device).unwrap();
    let unet = &weights.unet;
    let t = reference.indices("forward.t");
    let labels: Vec<Option<Garment>> = reference
        .indices("forward.label")
        .into_iter()
        .map(Garment::from_label)
        .collect();
    let x = reference.images("forward.x", &device);
    let expected = reference.images("forward.pred_noise", &device);

    let all = unet.forward(x.clone(), &t, &labels);
    assert_near(
        all,
        expected.clone(),
        TOLERANCE,
        "a batch of all timesteps and labels",
    );
    let image = |x: &Tensor<4>, i: usize| x.clone().narrow(0, i, 1);
    for i in 0..t.len() {
        let found = unet.forward(image(&x, i), &t[i..=i], &labels[i..=i]);
        let what = format!("t = {}, {:?}", t[i], labels[i]);
        assert_near(found, image(&expected, i), TOLERANCE, &what);
        // The tables used at sampling time.
        let denoiser = Denoiser::new(unet.clone(), 1000, labels[i], 1.0);
        let found = denoiser.predict(image(&x, i), t[i]);
        assert_near(
            found,
            image(&expected, i),
            TOLERANCE,
            &format!("{what}, by table"),
        );
    }

    let (shape, shifts) = reference.f32("shifts");
    let found = unet.shifts(&t, &labels);
    assert_eq!(found.dims().to_vec(), shape);
    // Rounded sums are off by a share of the largest of them, which grows as a network is trained.
    let largest = shifts
        .iter()
        .fold(0f32, |most, shift| most.max(shift.abs()));
    let off = distance(&values(found), &shifts);
    assert!(
        off <= TOLERANCE.max(2e-6 * largest),
        "shifts are off by {off}"
    );

    let expected = reference.images("guided.pred_noise", &device);
    let denoiser = Denoiser::new(unet.clone(), 1000, Garment::from_label(7), 2.5);
    for (i, &t) in t.iter().take(3).enumerate() {
        let found = denoiser.predict(image(&x, i), t);
        assert_near(found, image(&expected, i), TOLERANCE, "guidance 2.5");
    }

    steps_are_the_references(unet, reference);
}

/// One step of each sampler, at the beginning, in the middle and at the end of a walk: the network
/// on x_t, the clipped estimate, the next state.
fn steps_are_the_references(unet: &fashion_ddpm::UNet, reference: &References) {
    let device = kernels::cpu();
    let images = |name: &str| reference.images(&format!("step.{name}"), &device);
    let (x_t, previous, z) = (images("x_t"), images("previous"), images("z"));
    let (pred_x_start, x_prev) = (images("pred_x_start"), images("x_prev"));
    let cases = reference.indices("step.cases");
    let (cases, _) = cases.as_chunks::<6>();
    assert!(
        SAMPLERS
            .iter()
            .enumerate()
            .all(|(i, _)| cases.iter().any(|c| c[1] == i))
    );
    for (i, &[kind, sampler, steps, index, t, label]) in cases.iter().enumerate() {
        let image = |x: &Tensor<4>| x.clone().narrow(0, i, 1);
        let (kind, sampler) = (SCHEDULES[kind], SAMPLERS[sampler]);
        let what = format!("{kind} {sampler:?}, step {index} of {steps}");
        let step = sampler.plan(&schedule(kind), steps).unwrap()[index];
        assert_eq!(step.t, t, "{what}");

        let pred_noise = unet.forward(image(&x_t), &[t], &[Garment::from_label(label)]);
        // An error of the network's, divided by sqrt(alpha_bar_t).
        let magnified = TOLERANCE.max(1e-5 / step.sqrt_alpha_cumprod as f32);
        let x_0 = step.pred_x_start(image(&x_t), pred_noise);
        assert_near(
            x_0.clone(),
            image(&pred_x_start),
            magnified,
            &format!("{what}, x_0"),
        );
        let next = step.apply(image(&x_t), x_0, Some(previous.clone()), Some(z.clone()));
        assert_near(
            next,
            image(&x_prev),
            TOLERANCE,
            &format!("{what}, next state"),
        );
    }
}

/// SHA-256 of the weights file that the references were made from; hexadecimal.
fn sha256(reference: &References) -> String {
    let bytes = reference.indices("weights_sha256");
    hex(&bytes.into_iter().map(|byte| byte as u8).collect::<Vec<_>>())
}

/// References of other weights would be refuted, or confirmed, by accident.
fn belongs_to(reference: &References, file: &[u8]) {
    assert_eq!(
        hex(&Sha256::digest(file)),
        sha256(reference),
        "the references belong to other weights; run tests/reference/reference.py"
    );
}

/// The committed network has a say in every layer: without one of its tensors the answer changes.
#[test]
fn the_tiny_network_predicts_something() {
    let weights = load(&data("tiny.bpk"));
    let answer = values(weights.probe());
    let spread = answer.iter().map(|v| v * v).sum::<f32>() / answer.len() as f32;
    assert!((0.05..20.0).contains(&spread), "{spread}");
    assert!(distance(&answer, &weights.expected_probe) < TOLERANCE);
}
