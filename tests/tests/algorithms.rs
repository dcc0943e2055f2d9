//! The reverse process against the algorithms' own words and against a denoiser that is right.

use std::f64::consts::FRAC_PI_2;

use burn::tensor::{Tensor, TensorData};
use fashion_ddpm::{
    BetaSchedule, Denoiser, Frame, Garment, NoiseSchedule, PredictNoise, RecordedProcess,
    ReverseProcess, Sampler,
    noise::{PIXELS, gaussian, gaussian_batch},
    sampler::to_pixels,
};
use fashion_ddpm_tests::{data, distance, load, values};

const T: usize = 1000;

fn schedule(kind: BetaSchedule) -> NoiseSchedule {
    NoiseSchedule::new(kind, T).unwrap()
}

/// beta_t as the papers define it, not as the library tabulates it.
fn beta(kind: BetaSchedule, t: usize) -> f64 {
    let t = t as f64;
    match kind {
        BetaSchedule::Linear => 1e-4 + (0.02 - 1e-4) * t / 999.0,
        BetaSchedule::Cosine => {
            let f = |t: f64| ((t / 1000.0 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
            (1.0 - f(t + 1.0) / f(t)).min(0.999)
        }
    }
}

/// Line 4 of Algorithm 2, pixel by pixel in f64, for all 1000 steps of a run of the network:
/// x_(t-1) = 1/sqrt(alpha_t) (x_t - (1 - alpha_t)/sqrt(1 - alpha_bar_t) epsilon) + sqrt(beta_t) z.
///
/// epsilon is the network's wherever its estimate of the image was inside [-1, 1], and the noise
/// consistent with the clipped estimate elsewhere. What the run computed in f32 differs by the
/// rounding of three products, two sums and their weights, each at most 2^-24 of a term; no term
/// exceeds 8: 8 * 8 * 2^-24 = 3.8e-6.
#[test]
fn algorithm_2_line_4_holds_for_every_frame() {
    const ROUNDING: f64 = 4e-6;
    const SEED: u32 = 11;
    let device = kernels::cpu();
    let unet = load(&data("tiny.bpk")).unet;
    for kind in [BetaSchedule::Linear, BetaSchedule::Cosine] {
        let denoiser = Denoiser::new(unet.clone(), T, None, 1.0);
        let plan = Sampler::Ddpm.plan(&schedule(kind), T).unwrap();
        let mut process = ReverseProcess::new(denoiser, plan, SEED, 0..1, T, &device);
        assert_eq!(values(process.x()), gaussian(SEED, 0, 0, T), "line 1");

        let mut frames = Vec::new();
        while let Some(frame) = process.step() {
            frames.push(frame);
        }
        assert_eq!(frames.len(), T);
        let mut states: Vec<Vec<f32>> = frames.iter().map(|f| values(f.x_t.clone())).collect();
        states.push(values(process.x()));

        let mut alpha_bars: Vec<f64> = Vec::new();
        for t in 0..T {
            let before = alpha_bars.last().copied().unwrap_or(1.0);
            alpha_bars.push(before * (1.0 - beta(kind, t)));
        }
        let (mut network, mut clipped) = (0, 0);
        for (i, frame) in frames.iter().enumerate() {
            let t = T - 1 - i;
            assert_eq!(frame.t, t, "line 2");
            let Frame {
                pred_noise,
                pred_x_start,
                ..
            } = frame.clone();
            let (pred_noise, pred_x_start) = (values(pred_noise), values(pred_x_start));
            let z = match t {
                0 => vec![0.0; PIXELS],
                _ => gaussian(SEED, 0, 0, t),
            };
            let (alpha, alpha_bar) = (1.0 - beta(kind, t), alpha_bars[t]);
            for pixel in 0..PIXELS {
                let x_t = f64::from(states[i][pixel]);
                let x_0 = f64::from(pred_x_start[pixel]);
                assert!((-1.0..=1.0).contains(&x_0));
                let epsilon = (x_t - alpha_bar.sqrt() * x_0) / (1.0 - alpha_bar).sqrt();
                let expected = 1.0 / alpha.sqrt()
                    * (x_t - (1.0 - alpha) / (1.0 - alpha_bar).sqrt() * epsilon)
                    + beta(kind, t).sqrt() * f64::from(z[pixel]);
                let found = f64::from(states[i + 1][pixel]);
                assert!(
                    (found - expected).abs() <= ROUNDING,
                    "{kind}, t = {t}, pixel {pixel}: {found}, not {expected}"
                );
                if x_0.abs() < 1.0 {
                    // x_0's own rounding, 2^-24 of terms magnified by 1 / sqrt(alpha_bar), shrinks
                    // again on the way back; what stays is divided by sqrt(1 - alpha_bar) >= 0.006.
                    let difference = (epsilon - f64::from(pred_noise[pixel])).abs();
                    let allowed = 4e-6 / (1.0 - alpha_bar).sqrt();
                    assert!(
                        difference <= allowed,
                        "{kind}, t = {t}: epsilon off by {difference}"
                    );
                    network += 1;
                } else {
                    clipped += 1;
                }
            }
        }
        // Both halves of the rule were at work.
        assert!(
            network > 50_000 && clipped > 50_000,
            "{kind}: {network} and {clipped}"
        );
    }
}

/// Eight pictures nobody could mistake for one another: stripes, discs, a chequerboard, ...
fn pictures() -> Vec<Vec<f32>> {
    let shapes: [fn(f32, f32) -> bool; 8] = [
        |_, y| (y / 4.0) as i32 % 2 == 0,
        |x, _| (x / 4.0) as i32 % 2 == 0,
        |x, y| (x - 13.5).hypot(y - 13.5) < 9.0,
        |x, y| (x - 8.0).hypot(y - 8.0) < 6.0,
        |x, y| ((x / 7.0) as i32 + (y / 7.0) as i32) % 2 == 0,
        |x, y| x + y < 28.0,
        |x, y| (9.0..19.0).contains(&x) && y > 3.0,
        |x, y| (x - y).abs() < 4.0,
    ];
    let pixel = |i: usize| ((i % 28) as f32, (i / 28) as f32);
    let picture = |shape: fn(f32, f32) -> bool| {
        let value = |i| {
            let (x, y) = pixel(i);
            if shape(x, y) { 0.9 } else { -0.7 }
        };
        (0..PIXELS).map(value).collect()
    };
    shapes.map(picture).to_vec()
}

/// The denoiser that knows the data: the mean of the posterior over finitely many pictures,
/// E[x_0 given x_t] = sum of w_i x_i, w_i ~ p_i exp(-|x_t - sqrt(alpha_bar) x_i|^2 / 2(1 - alpha_bar)).
/// No network can do better, and nothing in it is approximate.
struct Oracle {
    pictures: Vec<Vec<f32>>,
    probabilities: Vec<f64>,
    alphas_cumprod: Vec<f64>,
}

impl Oracle {
    fn new(schedule: &NoiseSchedule, probabilities: &[f64]) -> Self {
        Self {
            pictures: pictures(),
            probabilities: probabilities.to_vec(),
            alphas_cumprod: schedule.alphas_cumprod().to_vec(),
        }
    }

    fn noise_in(&self, x_t: &[f32], alpha_bar: f64) -> Vec<f32> {
        let (a, s) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        // log p_i + a <x_t, x_i> / s^2 - a^2 |x_i|^2 / 2 s^2: what depends on i.
        let logits: Vec<f64> = (self.pictures.iter().zip(&self.probabilities))
            .map(|(picture, p)| {
                let (mut dot, mut square) = (0.0f64, 0.0f64);
                for (x, y) in x_t.iter().zip(picture) {
                    dot += f64::from(x * y);
                    square += f64::from(y * y);
                }
                p.ln() + (a * dot - a * a * square / 2.0) / (s * s)
            })
            .collect();
        let most = logits.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = logits.iter().map(|logit| (logit - most).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut mean = vec![0.0f64; PIXELS];
        for (weight, picture) in weights.iter().zip(&self.pictures) {
            for (mean, x) in mean.iter_mut().zip(picture) {
                *mean += weight / sum * f64::from(*x);
            }
        }
        let noise = |(x_t, mean): (&f32, &f64)| ((f64::from(*x_t) - a * mean) / s) as f32;
        x_t.iter().zip(&mean).map(noise).collect()
    }
}

impl PredictNoise for &Oracle {
    fn predict(&self, x_t: Tensor<4>, t: usize) -> Tensor<4> {
        let (device, dims) = (x_t.device(), x_t.dims());
        let noise: Vec<f32> = values(x_t)
            .chunks(PIXELS)
            .flat_map(|x_t| self.noise_in(x_t, self.alphas_cumprod[t]))
            .collect();
        Tensor::from_data(TensorData::new(noise, dims), &device)
    }
}

/// How often each picture came out; every result must be one of them.
fn counts(oracle: &Oracle, plan: Vec<fashion_ddpm::sampler::Step>, images: u32) -> Vec<usize> {
    let mut process = ReverseProcess::new(oracle, plan, 5, 0..images, T, &kernels::cpu());
    while process.step().is_some() {}
    let mut counts = vec![0; oracle.pictures.len()];
    for (image, x_0) in values(process.x()).chunks(PIXELS).enumerate() {
        let near = oracle.pictures.iter().position(|p| distance(p, x_0) < 1e-3);
        counts[near.unwrap_or_else(|| panic!("image {image} is none of the data"))] += 1;
    }
    counts
}

fn chi_square(counts: &[usize], probabilities: &[f64]) -> f64 {
    let n = counts.iter().sum::<usize>() as f64;
    let pairs = counts.iter().zip(probabilities);
    pairs
        .map(|(&count, p)| (count as f64 - n * p).powi(2) / (n * p))
        .sum()
}

#[test]
fn with_a_perfect_denoiser_every_sampler_lands_on_the_data() {
    for kind in [BetaSchedule::Linear, BetaSchedule::Cosine] {
        let schedule = schedule(kind);
        let oracle = Oracle::new(&schedule, &[0.125; 8]);
        for (sampler, steps) in [
            (Sampler::Ddpm, 1000),
            (Sampler::Ddpm, 100),
            (Sampler::Ddim { eta: 0.0 }, 50),
            (Sampler::Ddim { eta: 0.5 }, 50),
            (Sampler::Ddim { eta: 1.0 }, 100),
            (Sampler::DpmSolverMultistep, 20),
        ] {
            let plan = sampler.plan(&schedule, steps).unwrap();
            let counts = counts(&oracle, plan, 24);
            let found = counts.iter().filter(|count| **count > 0).count();
            assert!(
                found >= 4,
                "{kind} {sampler:?}: noise decides between pictures, {counts:?}"
            );
        }
    }
}

/// Algorithm 2 draws from the data's distribution, not merely from the data: pictures that are one
/// to eight times as frequent come out so. chi^2 with 7 degrees of freedom exceeds 24.3 once in a
/// thousand; equal frequencies in place of these would exceed it by far.
#[test]
fn with_a_perfect_denoiser_ddpm_draws_from_the_data() {
    const IMAGES: u32 = 384;
    let probabilities: Vec<f64> = (1..=8).map(|i| f64::from(i) / 36.0).collect();
    for kind in [BetaSchedule::Linear, BetaSchedule::Cosine] {
        let schedule = schedule(kind);
        let oracle = Oracle::new(&schedule, &probabilities);
        let plan = Sampler::Ddpm.plan(&schedule, T).unwrap();
        let counts = counts(&oracle, plan, IMAGES);
        let found = chi_square(&counts, &probabilities);
        assert!(found < 24.3, "{kind}: chi^2 = {found}, {counts:?}");
        let equal = chi_square(&[IMAGES as usize / 8; 8], &probabilities);
        assert!(equal > 48.6, "the test could not tell: {equal}");
    }
}

/// A picture is its seed and index, whatever company it is computed in.
#[test]
fn the_same_seed_is_the_same_picture_in_any_batch() {
    let device = kernels::cpu();
    let unet = load(&data("tiny.bpk")).unet;
    let schedule = schedule(BetaSchedule::Cosine);
    for sampler in [Sampler::Ddpm, Sampler::DpmSolverMultistep] {
        let run = |images: std::ops::Range<u32>| {
            let plan = sampler.plan(&schedule, 40).unwrap();
            let denoiser = Denoiser::new(unet.clone(), T, None, 1.0);
            let mut process = ReverseProcess::new(denoiser, plan, 77, images, T, &device);
            while process.step().is_some() {}
            values(process.x())
        };
        let all = run(0..5);
        for image in 0..5 {
            let alone = run(image..image + 1);
            let together = &all[image as usize * PIXELS..][..PIXELS];
            // A batch is computed in another order than one image; a level of 255 is 8e-3.
            assert!(
                distance(&alone, together) < 1e-3,
                "{sampler:?}, image {image}"
            );
            let pixels = to_pixels(&alone).into_iter().zip(to_pixels(together));
            assert!(pixels.into_iter().all(|(a, b)| a.abs_diff(b) <= 1));
        }
        assert!(
            distance(&all[..PIXELS], &all[PIXELS..2 * PIXELS]) > 0.5,
            "one picture for all"
        );
    }
}

/// Recorded on the CPU, a walk leads where it leads step by step, frame for frame, and so does the next one
/// of its kind. What remains of a difference is the order in which guidance is rounded.
#[test]
fn a_recorded_walk_is_the_walk() {
    let device = kernels::cpu();
    let unet = load(&data("tiny.bpk")).unet;
    let schedule = schedule(BetaSchedule::Cosine);
    let coat = Some(Garment::Coat);
    for (images, garment, scale) in [(1, None, 1.0), (3, coat, 2.5), (40, None, 1.0)] {
        let denoiser = Denoiser::new(unet.clone(), T, garment, scale);
        let guided = denoiser.is_guided();
        let mut recorded =
            RecordedProcess::record(&unet, T, images, guided).expect("the CPU replays");
        assert_eq!(recorded.kind(), (images, guided));
        // Steps by sixteens and one by one; the log begun anew, and, where images are many, the noise.
        for (seed, sampler, steps) in [
            (1, Sampler::Ddpm, 150),
            (2, Sampler::Ddim { eta: 0.5 }, 40),
            (3, Sampler::DpmSolverMultistep, 7),
        ] {
            let plan = sampler.plan(&schedule, steps).unwrap();
            let streams: Vec<(u32, u32)> = (0..images as u32).map(|i| (4 + i, i)).collect();
            let x_t = gaussian_batch(seed, 4..4 + images as u32, 0, T, &device);
            let mut process = ReverseProcess::resume(
                denoiser.clone(),
                plan.clone(),
                seed,
                streams.clone(),
                x_t.clone(),
            );
            recorded.start(&denoiser, plan, seed, streams, x_t);
            let mut taken = 0;
            while recorded.steps_left() > 0 {
                let steps = recorded.steps(16).unwrap();
                for step in taken..taken + steps {
                    let frame = process.step().expect("as many steps");
                    let log = values(recorded.frames(step, 1));
                    let (x_t, pred_noise) = log.split_at(images * PIXELS);
                    for (what, found, expected) in [
                        ("x_t", x_t, values(frame.x_t)),
                        ("noise", pred_noise, values(frame.pred_noise)),
                    ] {
                        let off = distance(found, &expected);
                        assert!(off < 1e-5, "{sampler}, step {step}: {what} off by {off}");
                    }
                }
                taken += steps;
            }
            assert!(process.step().is_none());
            let off = distance(&values(recorded.x()), &values(process.x()));
            assert!(off < 1e-5, "{sampler}: x_0 off by {off}");
        }
    }
}
