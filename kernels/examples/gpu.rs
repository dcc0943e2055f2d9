//! What each kernel of a step costs on this machine's adapter, beside Burn's own operations.
//!
//! Kernel and twin take turns, each several launches between two waits for the device. On a machine
//! without a GPU a software one answers: lavapipe, or with
//! `VK_DRIVER_FILES=/usr/lib/chromium/vk_swiftshader_icd.json` the one that Chromium brings.
//!
//! Run `cargo run --release --package kernels --features cubecl --example gpu [WORD]`; with a word,
//! only the cases that contain it. An example and no bench, because as such it is checked with the
//! page, which is built from the same Burn.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use kernels::{Around, Shortcut, plain};

/// Measurements of each, after one to warm up.
const ROUNDS: usize = 7;

/// Launches of a measurement.
const LAUNCHES: usize = 4;

/// Name, input and output channels, places to a side of the output, kernel, how often in a step,
/// and what surrounds the convolution.
type Convolution = (&'static str, [usize; 2], usize, usize, usize, Around);

fn main() {
    let word = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let device = Device::wgpu(Default::default());
    let twins = std::env::var_os("OWN_ALONE").is_none();
    let mut sums = [0.0; 2];
    println!("{:36} {:>5} {:>9} {:>9}", "ms", "times", "own", "twin");
    for batch in [1, 16] {
        let mut report = |name: String, times: usize, work: &dyn Fn(bool)| {
            let name = format!("{name} [{batch}]");
            if word
                .as_ref()
                .is_some_and(|word| !name.contains(word.as_str()))
            {
                return;
            }
            let medians = compare(&device, twins, work);
            if batch == 1 {
                sums[0] += medians[0] * times as f64;
                sums[1] += medians[1] * times as f64;
            }
            println!("{name:36} {times:>5} {:9.2} {:9.2}", medians[0], medians[1]);
        };
        for (name, [from, to], size, kernel, times, around) in convolutions(batch, &device) {
            let side = size * around.fold * around.stride / around.upsample;
            let x = random([batch, from / around.fold.pow(2), side, side], &device);
            let weight = random([to, from, kernel, kernel], &device);
            let weight = kernels::resident_weight(weight, around.stride);
            let bias = random([to], &device);
            report(format!("conv2d {name}"), times, &|own| {
                let function = if own {
                    kernels::conv2d_around
                } else {
                    plain::conv2d_around
                };
                function(
                    x.clone(),
                    weight.clone(),
                    Some(bias.clone()),
                    around.clone(),
                );
            });
        }
        for (channels, size, times) in [(64, 14, 4), (128, 14, 1), (64, 7, 9), (128, 7, 1)] {
            let x = random([batch, channels, size, size], &device);
            let gamma = random([channels], &device);
            report(
                format!("group_norm_silu {channels} @{size}"),
                times,
                &|own| {
                    let function = if own {
                        kernels::concat_group_norm_silu
                    } else {
                        plain::concat_group_norm_silu
                    };
                    function(x.clone(), None, gamma.clone(), gamma.clone(), 8, 1e-5, true);
                },
            );
        }
        let x = random([batch, 64, 7, 7], &device);
        let qkv = random([batch, 192, 7, 7], &device);
        let weight = kernels::resident_weight(random([64, 64, 1, 1], &device), 1);
        let bias = random([64], &device);
        report("attention".to_owned(), 3, &|own| {
            let function = if own {
                kernels::attention
            } else {
                plain::attention
            };
            function(x.clone(), qkv.clone(), weight.clone(), bias.clone());
        });
    }
    println!(
        "{:42} {:9.2} {:9.2}",
        "a step of one image", sums[0], sums[1]
    );
}

/// The shipped network's.
fn convolutions(batch: usize, device: &Device) -> Vec<Convolution> {
    let plain = Around::default;
    let residual = |size| Around {
        residual: Some(random([batch, 64, size, size], device)),
        ..plain()
    };
    let shortcut = |size| Around {
        shortcut: Some(Shortcut {
            x: random([batch, 64, size, size], device),
            concat: Some(random([batch, 64, size, size], device)),
            weight: kernels::resident_weight(random([64, 128, 1, 1], device), 1),
        }),
        ..plain()
    };
    vec![
        (
            "stem 4 to 64 @14",
            [4, 64],
            14,
            3,
            1,
            Around { fold: 2, ..plain() },
        ),
        ("64 to 64 @14", [64, 64], 14, 3, 1, plain()),
        ("64 to 64 @14 residual", [64, 64], 14, 3, 1, residual(14)),
        (
            "64 to 64 @7 halve",
            [64, 64],
            7,
            3,
            1,
            Around {
                stride: 2,
                ..plain()
            },
        ),
        ("64 to 64 @7", [64, 64], 7, 3, 3, plain()),
        ("64 to 64 @7 residual", [64, 64], 7, 3, 3, residual(7)),
        ("128 to 64 @7", [128, 64], 7, 3, 1, plain()),
        ("64 to 64 @7 shortcut", [64, 64], 7, 3, 1, shortcut(7)),
        ("64 to 192 @7 qkv", [64, 192], 7, 1, 3, plain()),
        (
            "64 to 64 @14 double",
            [64, 64],
            14,
            3,
            1,
            Around {
                upsample: 2,
                ..plain()
            },
        ),
        ("128 to 64 @14", [128, 64], 14, 3, 1, plain()),
        ("64 to 64 @14 shortcut", [64, 64], 14, 3, 1, shortcut(14)),
        (
            "head 64 to 4 @14",
            [64, 4],
            14,
            3,
            1,
            Around {
                unfold: 2,
                ..plain()
            },
        ),
    ]
}

fn compare(device: &Device, twins: bool, work: &dyn Fn(bool)) -> [f64; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..=ROUNDS {
        for own in [true, false] {
            if !own && !twins {
                times[1].push(f64::NAN);
                continue;
            }
            let start = Instant::now();
            for _ in 0..LAUNCHES {
                work(own);
            }
            device.sync().expect("the device computes");
            times[usize::from(!own)].push(start.elapsed().as_secs_f64() * 1e3 / LAUNCHES as f64);
        }
    }
    times.map(|mut times| {
        times.remove(0);
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}
