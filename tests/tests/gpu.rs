//! The trainer on a GPU, or on software that passes for one, against the trainer on the CPU.

use std::{
    convert::Infallible,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, OnceLock},
};

use fashion_ddpm::{
    Garment, Sampler, UNetConfig,
    sampler::to_pixels,
    weights::{self, Weights},
};
use fashion_ddpm_tests::distance;
use trainer::{
    Dataset, Split, TrainConfig, Trainer,
    device::{self, DeviceChoice, Found},
    sample,
    walk::{Walk, Walker, numbers},
};

/// Whatever speaks WebGPU's language here.
fn gpu() -> &'static Found {
    // Found once: to find it is to choose the kernels' cut.
    static GPU: OnceLock<Found> = OnceLock::new();
    GPU.get_or_init(|| device::find(DeviceChoice::Wgpu).unwrap())
}

fn shipped(on: &Found) -> Weights {
    let path = sample::default_weights().unwrap();
    weights::decode(&std::fs::read(path).unwrap(), &on.device).unwrap()
}

/// The walk's images, and the states of some of its steps.
fn walked(on: &Found, walk: &Walk, count: u32) -> (Vec<f32>, Vec<Vec<f32>>) {
    let weights = shipped(on);
    let mut walker = Walker::new(&weights.unet, &weights.diffusion, &on.device);
    let mut outcome = None;
    // The second walk finds what the first one recorded.
    for _ in 0..2 {
        let mut states = Vec::new();
        let x_0 = walker.walk(walk, 5..5 + count, |number, x_t| {
            if number % 7 == 0 {
                states.push(numbers(x_t()));
            }
            ControlFlow::<Infallible>::Continue(())
        });
        let ControlFlow::Continue(x_0) = x_0;
        let before = outcome.replace((x_0, states));
        assert!(before.is_none() || before == outcome, "once more, the same");
        assert_eq!(walker.recordings(), 1);
    }
    outcome.unwrap()
}

/// Garments, and the states on the way to them, with guidance and without, of every sampler, in
/// walks that are recorded in ones, twos and sixteens of steps, by kernels cut for a GPU and for
/// software.
#[test]
fn a_gpu_paints_the_cpus_garments() {
    let (gpu, cpu) = (gpu(), &device::find(DeviceChoice::Cpu).unwrap());
    let schedule = shipped(cpu).diffusion.schedule;
    let ddim = Sampler::Ddim { eta: 0.0 };
    let coat = Some(Garment::Coat);
    let dpm = Sampler::DpmSolverMultistep;
    for (software, sampler, steps, garment, guidance_scale, count) in [
        (false, Sampler::Ddpm, 50, None, 1.0, 3),
        (true, ddim, 40, coat, 2.5, 1),
        (false, dpm, 20, coat, 1.0, 2),
    ] {
        let walk = Walk {
            plan: sampler.plan(&schedule, steps).unwrap(),
            garment,
            guidance_scale,
            seed: 7,
        };
        kernels::on_software(software);
        let (expected, expected_states) = walked(cpu, &walk, count);
        let (found, states) = walked(gpu, &walk, count);
        assert_eq!(states.len(), steps.div_ceil(7));
        for (number, (a, b)) in states.iter().zip(&expected_states).enumerate() {
            let most = distance(a, b);
            assert!(most < 0.01, "{sampler:?}, {number}: {most}");
        }
        let pixels = [to_pixels(&found), to_pixels(&expected)];
        assert_eq!(pixels[0].len(), pixels[1].len());
        let off = pixels[0].iter().zip(&pixels[1]);
        let most = off.map(|(a, b)| a.abs_diff(*b)).max();
        assert!(most <= Some(2), "{sampler:?}: {most:?}");
    }
}

/// The same losses from the same weights and noise, and so the same gradients.
#[test]
fn a_gpu_trains_as_the_cpu_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/excerpt");
    let data = Arc::new(Dataset::read(&folder, Split::Train).unwrap());
    let config = TrainConfig {
        network: UNetConfig {
            pixel_unshuffle: 4,
            channels: vec![16],
            attention: vec![true],
            ..UNetConfig::default()
        },
        batch_size: 32,
        warm_up_steps: 1,
        learning_rate: 3e-3,
        ..TrainConfig::default()
    };
    let losses = |on: &Found| -> Vec<f64> {
        let mut trainer = Trainer::new(config.clone(), data.clone(), &on.device).unwrap();
        let mut step = || {
            trainer.step();
            trainer.settle().unwrap().unwrap()
        };
        (0..4).map(|_| step()).collect()
    };
    let cpu = losses(&device::find(DeviceChoice::Cpu).unwrap());
    let gpu = losses(gpu());
    assert!(cpu[3] < 0.95 * cpu[0], "{cpu:?}");
    for (a, b) in cpu.iter().zip(&gpu) {
        assert!((a - b).abs() < 1e-4 * a, "{cpu:?} {gpu:?}");
    }
}
