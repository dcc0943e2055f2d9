//! The walk itself, on tensors: from x_T to x_0 with a network that tells the noise.

use std::{collections::VecDeque, ops::Range};

use burn::tensor::{Device, Tensor, TensorData};

use super::Step;
use crate::noise::{IMAGE_SIZE, gaussian, gaussian_batch};

impl Step {
    /// The clipped estimate of x_0, x-hat-0 in the lecture. Shapes `[batch, 1, 28, 28]`.
    pub fn pred_x_start(&self, x_t: Tensor<4>, pred_noise: Tensor<4>) -> Tensor<4> {
        let a = self.sqrt_alpha_cumprod;
        let s = self.sqrt_one_minus_alpha_cumprod;
        (x_t * (1.0 / a) - pred_noise * (s / a)).clamp(-1.0, 1.0)
    }

    /// The next state. Shapes `[batch, 1, 28, 28]`; `previous` is the step before's
    /// `pred_x_start`, `z` is standard normal; either may be missing where its weight is 0.
    ///
    /// # Panics
    /// If one is missing elsewhere.
    pub fn apply(
        &self,
        x_t: Tensor<4>,
        pred_x_start: Tensor<4>,
        previous: Option<Tensor<4>>,
        z: Option<Tensor<4>>,
    ) -> Tensor<4> {
        assert!(previous.is_some() || self.previous_pred_x_start == 0.0);
        assert!(z.is_some() || self.noise == 0.0);
        let (x_t_weight, pred_x_start_weight) = self.folded();
        let mut next = x_t * x_t_weight + pred_x_start * pred_x_start_weight;
        if let Some(previous) = previous
            && self.previous_pred_x_start != 0.0
        {
            next = next + previous * self.previous_pred_x_start;
        }
        if let Some(z) = z
            && self.noise != 0.0
        {
            next = next + z * self.noise;
        }
        next
    }
}

/// Whatever can tell the noise in an image: the network, or an oracle in a test.
pub trait PredictNoise {
    /// The noise in `x_t`, shape `[batch, 1, 28, 28]`, at the 0-based timestep `t`.
    fn predict(&self, x_t: Tensor<4>, t: usize) -> Tensor<4>;
}

/// One step's input, and what the network made of it. Shapes `[batch, 1, 28, 28]`.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The 0-based timestep.
    pub t: usize,
    /// The state before the step.
    pub x_t: Tensor<4>,
    /// What the network says is noise in it.
    pub pred_noise: Tensor<4>,
    /// What remains without the noise, clipped to [-1, 1].
    pub pred_x_start: Tensor<4>,
}

/// A walk from x_T to x_0, one [`Frame`] at a time.
///
/// Nothing is read back from the device and nothing waits for it: a caller may queue as many steps
/// as it likes and read the frames later.
#[derive(Debug)]
pub struct ReverseProcess<P> {
    predictor: P,
    plan: VecDeque<Step>,
    seed: u32,
    /// (image, branch) of each image of the batch: with seed and t, what its noise depends on.
    streams: Vec<(u32, u32)>,
    device: Device,
    x: Tensor<4>,
    previous_pred_x_start: Option<Tensor<4>>,
    /// z of the steps to come, one tensor a step, in order.
    noise: VecDeque<Tensor<4>>,
}

impl<P: PredictNoise> ReverseProcess<P> {
    /// Starts from the noise x_T of the seed's `images`; `timesteps` is T.
    pub fn new(
        predictor: P,
        plan: Vec<Step>,
        seed: u32,
        images: Range<u32>,
        timesteps: usize,
        device: &Device,
    ) -> Self {
        let x_t = gaussian_batch(seed, images.clone(), 0, timesteps, device);
        let streams = images.map(|image| (image, 0)).collect();
        Self::resume(predictor, plan, seed, streams, x_t)
    }

    /// Goes on from `x_t`, shape `[batch, 1, 28, 28]`, the state before the plan's first step; see
    /// [`remaining`](super::remaining). Image i of the batch gets the noise of the seed's (image,
    /// branch) `streams[i]`: on branch 0 a state of an earlier walk goes where that one went.
    pub fn resume(
        predictor: P,
        plan: Vec<Step>,
        seed: u32,
        streams: Vec<(u32, u32)>,
        x_t: Tensor<4>,
    ) -> Self {
        Self {
            predictor,
            plan: plan.into(),
            seed,
            streams,
            device: x_t.device(),
            x: x_t,
            previous_pred_x_start: None,
            noise: VecDeque::new(),
        }
    }

    /// The state now: x_T at first, the finished images x_0 in the end.
    pub fn x(&self) -> Tensor<4> {
        self.x.clone()
    }

    /// How many steps are still to be taken.
    pub fn steps_left(&self) -> usize {
        self.plan.len()
    }

    /// Takes a step; `None` where the walk is over.
    pub fn step(&mut self) -> Option<Frame> {
        let step = self.plan.pop_front()?;
        let x_t = self.x.clone();
        let pred_noise = self.predictor.predict(x_t.clone(), step.t);
        let pred_x_start = step.pred_x_start(x_t.clone(), pred_noise.clone());
        let z = (step.noise != 0.0).then(|| self.next_noise(step));
        let previous = self.previous_pred_x_start.replace(pred_x_start.clone());
        self.x = step.apply(x_t.clone(), pred_x_start.clone(), previous, z);
        Some(Frame {
            t: step.t,
            x_t,
            pred_noise,
            pred_x_start,
        })
    }

    /// z of this step. Up to a hundred steps' noise goes to the device in one piece: a transfer
    /// costs the same whether it carries one step's or a hundred's.
    fn next_noise(&mut self, step: Step) -> Tensor<4> {
        const STEPS_AT_ONCE: usize = 100;
        if self.noise.is_empty() {
            let steps: Vec<Step> = std::iter::once(step)
                .chain(self.plan.iter().copied())
                .filter(|step| step.noise != 0.0)
                .take(STEPS_AT_ONCE)
                .collect();
            let n = self.streams.len();
            let values: Vec<f32> = steps
                .iter()
                .flat_map(|step| self.streams.iter().map(|stream| (stream, step.t)))
                .flat_map(|(&(image, branch), t)| gaussian(self.seed, image, branch, t))
                .collect();
            let shape = [steps.len() * n, 1, IMAGE_SIZE, IMAGE_SIZE];
            let all = Tensor::<4>::from_data(TensorData::new(values, shape), &self.device);
            self.noise = (0..steps.len())
                .map(|i| all.clone().narrow(0, i * n, n))
                .collect();
        }
        self.noise
            .pop_front()
            .expect("filled above with this step's own")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BetaSchedule, NoiseSchedule, Sampler};

    /// A predictor that sees no noise: the walk's arithmetic alone.
    struct Nothing;

    impl PredictNoise for Nothing {
        fn predict(&self, x_t: Tensor<4>, _: usize) -> Tensor<4> {
            x_t.zeros_like()
        }
    }

    /// A batch is its images one by one, whatever the batching of the noise.
    #[test]
    fn images_do_not_depend_on_their_batch() {
        let device = kernels::cpu();
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1000).unwrap();
        let run = |images: Range<u32>| {
            let plan = Sampler::Ddpm.plan(&schedule, 250).unwrap();
            let mut process = ReverseProcess::new(Nothing, plan, 3, images, 1000, &device);
            assert_eq!(process.steps_left(), 250);
            let mut seen = 0;
            while process.step().is_some() {
                seen += 1;
            }
            assert_eq!(seen, 250);
            process
                .x()
                .into_data_as::<f32>()
                .try_to_vec::<f32>()
                .unwrap()
        };
        let both = run(4..6);
        assert_eq!(both, [run(4..5), run(5..6)].concat());
    }

    /// Stopped anywhere and gone on with, a walk on branch 0 ends where it would have; on another
    /// branch it does not.
    #[test]
    fn a_walk_resumes_where_it_stood_and_branches_part() {
        let device = kernels::cpu();
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1000).unwrap();
        let plan = Sampler::Ddpm.plan(&schedule, 1000).unwrap();
        let end = |mut process: ReverseProcess<Nothing>| {
            while process.step().is_some() {}
            let x = process.x().into_data_as::<f32>();
            x.try_to_vec::<f32>().unwrap()
        };
        let mut whole = ReverseProcess::new(Nothing, plan.clone(), 3, 2..3, 1000, &device);
        let x_t = loop {
            let frame = whole.step().unwrap();
            if frame.t == 30 {
                break frame.x_t;
            }
        };
        let whole = end(whole);
        let rest = super::super::remaining(&plan, 30);
        assert_eq!(rest.len(), 31);
        let x = Tensor::cat(vec![x_t.clone(), x_t], 0);
        let both = end(ReverseProcess::resume(
            Nothing,
            rest,
            3,
            vec![(2, 0), (2, 1)],
            x,
        ));
        let (same, other) = both.split_at(both.len() / 2);
        assert_eq!(same, whole);
        assert_ne!(other, whole);
    }
}
