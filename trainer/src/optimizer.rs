//! AdamW (Loshchilov & Hutter 2019, algorithm 2), with the gradient clipped by its norm.
//!
//! Burn has one, and it is what the test compares with. Ours differs in what surrounds it: the norm
//! is that of the whole gradient (Burn's clips each tensor by itself), the state is two vectors over
//! all weights, a dozen operations a step however many tensors there are, and it is restored on the
//! device of the model (Burn's goes by way of the default device, which may be a GPU that is not
//! there).

use std::ops::Range;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Gradients, Tensor},
};
use fashion_ddpm::UNet;

/// The numbers of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Step size.
    pub learning_rate: f64,
    /// Share of a weight that a step of size 1 would take off.
    pub weight_decay: f64,
    /// A gradient with a larger norm is scaled down to it.
    pub max_gradient_norm: f64,
}

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// AdamW's memory: the running moments of the gradient, in the order in which the model is visited.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// Running mean of the gradient, `[parameters]`.
    pub moment_1: Tensor<1>,
    /// Running mean of its square, `[parameters]`.
    pub moment_2: Tensor<1>,
    /// Steps that the moments remember.
    pub steps: u64,
}

impl AdamW {
    /// No memory yet.
    pub fn new(model: &UNet) -> Self {
        let device = model.devices()[0].clone().without_autodiff();
        let zeros = Tensor::zeros([model.num_params()], &device);
        Self {
            moment_1: zeros.clone(),
            moment_2: zeros,
            steps: 0,
        }
    }

    /// Moves the weights of `model` against the gradient of its loss.
    pub fn step(&mut self, model: UNet, gradients: Gradients, rates: Rates) -> UNet {
        let mut flatten = Flatten {
            gradients,
            parts: Vec::new(),
        };
        model.visit(&mut flatten);
        let gradient = Tensor::cat(flatten.parts, 0);
        let norm = gradient.clone().square().sum().sqrt();
        let scale = (norm + 1e-12).recip() * rates.max_gradient_norm;
        let gradient = gradient * scale.clamp_max(1.0);

        self.steps += 1;
        let blend = |moment: &Tensor<1>, new: Tensor<1>, beta: f64| {
            moment.clone() * beta + new * (1.0 - beta)
        };
        self.moment_1 = blend(&self.moment_1, gradient.clone(), BETA_1);
        self.moment_2 = blend(&self.moment_2, gradient.square(), BETA_2);
        let steps = self.steps as f64;
        let unbias = |beta: f64| 1.0 / (1.0 - beta.powf(steps));
        let mean = self.moment_1.clone() * (unbias(BETA_1) * rates.learning_rate);
        let root = (self.moment_2.clone() * unbias(BETA_2)).sqrt() + EPSILON;
        model.map(&mut Move {
            by: mean / root,
            next: 0,
            keep: 1.0 - rates.learning_rate * rates.weight_decay,
        })
    }
}

/// Takes the gradients out, one flat tensor a parameter. A parameter that had no part in the loss
/// has the gradient zero.
struct Flatten {
    gradients: Gradients,
    parts: Vec<Tensor<1>>,
}

impl ModuleVisitor for Flatten {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let weight = param.val();
        let elements = weight.shape().num_elements();
        let part = match weight.grad_remove(&mut self.gradients) {
            Some(gradient) => gradient.reshape([elements]),
            None => Tensor::zeros([elements], &weight.device().without_autodiff()),
        };
        self.parts.push(part);
    }
}

/// Subtracts each parameter's part of a flat vector from it.
struct Move {
    by: Tensor<1>,
    next: usize,
    keep: f64,
}

impl ModuleMapper for Move {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| {
            let weight = weight.inner();
            let range: Range<usize> = self.next..self.next + weight.shape().num_elements();
            self.next = range.end;
            let by = self.by.clone().slice([range]).reshape(weight.shape());
            Tensor::from_inner(weight * self.keep - by).require_grad()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::optim::{AdamWConfig, GradientsParams};
    use fashion_ddpm::{UNetConfig, noise::gaussian_batch};

    use crate::train::initialise;

    fn model() -> UNet {
        let network = UNetConfig {
            pixel_unshuffle: 4,
            channels: vec![8],
            attention: vec![true],
            ..UNetConfig::default()
        };
        initialise(&network, 1, &kernels::cpu().autodiff())
    }

    /// A loss whose gradient differs from step to step.
    fn gradients(model: &UNet, step: u32, scale: f64) -> Gradients {
        let device = kernels::cpu().autodiff();
        let x = gaussian_batch(step, 0..2, 0, 0, &device);
        let noise = gaussian_batch(step, 2..4, 0, 0, &device);
        let error = model.forward(x, &[5, 700], &[None, None]) - noise;
        ((error.clone() * error).mean() * scale).backward()
    }

    fn values(model: &UNet) -> Vec<f32> {
        struct Collect(Vec<f32>);
        impl ModuleVisitor for Collect {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let data = param.val().inner().into_data_as::<f32>();
                self.0.extend(data.try_to_vec::<f32>().unwrap());
            }
        }
        let mut collect = Collect(Vec::new());
        model.visit(&mut collect);
        collect.0
    }

    /// Against Burn's own, another implementation of the paper.
    #[test]
    fn the_steps_are_burns() {
        let start = model();
        let rates = Rates {
            learning_rate: 0.01,
            weight_decay: 0.1,
            max_gradient_norm: 1e9,
        };
        let (mut ours, mut adamw) = (start.clone(), AdamW::new(&start));
        let mut theirs = start.clone();
        let mut burns = AdamWConfig::new()
            .with_epsilon(EPSILON as f32)
            .with_weight_decay(rates.weight_decay as f32)
            .init();
        for step in 0..5 {
            // The same gradient for both: near zero, its sign is rounding, and Adam looks at little
            // else.
            let gradient = || gradients(&ours, step, 1.0);
            let (for_ours, for_theirs) = (gradient(), gradient());
            let for_theirs = GradientsParams::from_grads(for_theirs, &ours);
            ours = adamw.step(ours, for_ours, rates);
            theirs = burns.step(rates.learning_rate, theirs, for_theirs);
        }
        let mut moved = 0.0f32;
        for ((ours, theirs), start) in values(&ours)
            .into_iter()
            .zip(values(&theirs))
            .zip(values(&start))
        {
            assert!((ours - theirs).abs() < 1e-5, "{ours} {theirs}");
            moved = moved.max((ours - start).abs());
        }
        assert!(moved > 0.03, "five steps of 0.01: {moved}");
    }

    /// The norm of the whole gradient is what is clipped, and a small one is left alone.
    #[test]
    fn the_gradient_is_clipped_by_its_norm() {
        let model = model();
        let first_moment = |scale: f64, max_gradient_norm: f64| {
            let mut adamw = AdamW::new(&model);
            let rates = Rates {
                learning_rate: 1e-3,
                weight_decay: 0.0,
                max_gradient_norm,
            };
            adamw.step(model.clone(), gradients(&model, 0, scale), rates);
            // After one step the moment is (1 - beta_1) times the gradient.
            adamw.moment_1 / (1.0 - BETA_1)
        };
        let norm = |x: Tensor<1>| f64::from(x.square().sum().sqrt().into_scalar::<f32>());
        let whole = norm(first_moment(1.0, 1e9));
        assert!(whole > 1e-3, "{whole}");
        let clipped = first_moment(1.0, whole / 3.0);
        assert!((norm(clipped.clone()) / whole - 1.0 / 3.0).abs() < 1e-4);
        let third = first_moment(1.0 / 3.0, 1e9);
        assert!(norm(clipped - third) < 1e-5 * whole, "the direction stays");
        let small = first_moment(0.5, whole);
        assert!((norm(small) / whole - 0.5).abs() < 1e-4);
    }
}
