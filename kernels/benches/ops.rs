//! How much faster our own operations are than their plain twins, in one run on one machine.
//!
//! Own and twin take turns, and the medians are compared, so that a busy machine slows both alike:
//! the ratio is the figure to read, not the milliseconds. A harness of our own, because the usual
//! one would switch on features of shared dependencies and have all of Burn compiled once more.
//!
//! Run `cargo bench --package kernels --features train,threads`.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use kernels::{Around, plain};

/// Measurements of each, after one to warm up.
const ROUNDS: usize = 30;

fn main() {
    println!("{:48} {:>9} {:>9} {:>6}", "", "own", "twin", "ratio");
    for (batch, channels, size, kernel) in [
        (64, 64, 14, 3),
        (64, 64, 7, 3),
        (64, 128, 7, 3),
        (64, 128, 14, 3),
        (64, 64, 14, 1),
        (64, 32, 28, 3),
        (1, 64, 14, 3),
    ] {
        let x = [batch, channels, size, size];
        let weight = [channels, channels, kernel, kernel];
        let name = format!("conv2d {x:?} {kernel}x{kernel}");
        let case = |device: &Device| (random(x, device), random(weight, device));
        compare(&name, case, |(x, w), own| {
            let function = if own { kernels::conv2d } else { plain::conv2d };
            function(x, w, None, 1, kernel / 2)
        });
    }
    for x in [[64, 64, 14, 14], [64, 128, 7, 7], [1, 64, 14, 14]] {
        let name = format!("group_norm_silu {x:?}");
        let case = |device: &Device| (random(x, device), random([x[1]], device));
        compare(&name, case, |(x, gamma), own| {
            let function = if own {
                kernels::group_norm_silu
            } else {
                plain::group_norm_silu
            };
            function(x, gamma.clone(), gamma, 8, 1e-5, true)
        });
    }
    sampling();
}

/// What only sampling asks for: without gradients, and with the weight laid out for it.
fn sampling() {
    let device = kernels::cpu();
    for x in [[1, 64, 14, 14], [16, 64, 14, 14], [1, 64, 7, 7]] {
        let channels = x[1];
        let (values, weight) = (
            random(x, &device),
            random([channels, channels, 3, 3], &device),
        );
        let laid_out = kernels::resident_weight(weight.clone(), 1);
        let around = Around {
            residual: Some(random(x, &device)),
            ..Around::default()
        };
        report(&format!("conv2d_around {x:?} residual"), |own| {
            let (x, around) = (values.clone(), around.clone());
            if own {
                kernels::conv2d_around(x, laid_out.clone(), None, around);
            } else {
                plain::conv2d_around(x, weight.clone(), None, around);
            }
        });
    }
    for x in [[1, 64, 7, 7], [16, 64, 7, 7]] {
        let channels = x[1];
        let qkv = random([x[0], 3 * channels, x[2], x[3]], &device);
        let weight = random([channels, channels, 1, 1], &device);
        let (x_t, bias) = (random(x, &device), random([channels], &device));
        report(&format!("attention {x:?}"), |own| {
            let function = if own {
                kernels::attention
            } else {
                plain::attention
            };
            function(x_t.clone(), qkv.clone(), weight.clone(), bias.clone());
        });
    }
}

/// Prints the times of an operation and of its twin, forward alone and with the gradients.
fn compare<const D: usize>(
    name: &str,
    case: impl Fn(&Device) -> (Tensor<4>, Tensor<D>),
    run: impl Fn((Tensor<4>, Tensor<D>), bool) -> Tensor<4>,
) {
    let device = kernels::cpu();
    let inputs = case(&device);
    report(&format!("{name} forward"), |own| {
        run(inputs.clone(), own);
    });
    #[cfg(feature = "train")]
    {
        let (a, b) = case(&device.autodiff());
        let (a, b) = (a.require_grad(), b.require_grad());
        report(&format!("{name} with gradients"), |own| {
            run((a.clone(), b.clone()), own).sum().backward();
        });
    }
}

fn report(name: &str, work: impl Fn(bool)) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..=ROUNDS {
        for own in [true, false] {
            let start = Instant::now();
            work(own);
            times[usize::from(!own)].push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let [own, twin] = times.map(|mut times| {
        times.remove(0);
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    println!("{name:48} {own:6.2} ms {twin:6.2} ms {:5.1}x", twin / own);
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}
