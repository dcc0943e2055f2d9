//! The reverse process: from noise to an image, step by step.
//!
//! Every sampler here does the same thing in a step. The network's noise gives an estimate of the
//! image, clipped to [-1, 1]; then the next state is a weighted sum of what is at hand:
//!
//! ```text
//! pred_x_start = clip((x_t - sqrt(1 - alpha_bar_t) pred_noise) / sqrt(alpha_bar_t))
//! noise_hat    = (x_t - sqrt(alpha_bar_t) pred_x_start) / sqrt(1 - alpha_bar_t)
//! x_next       = a x_t + b noise_hat + c pred_x_start + d previous pred_x_start + sigma z
//! ```
//!
//! `noise_hat` is the network's `pred_noise` wherever nothing was clipped. What a sampler is, then,
//! is five numbers a step; `ddpm.rs`, `ddim.rs` and `dpm_solver.rs` compute them in f64 from their
//! papers' equations, and [`Step::apply`] is the one place where tensors move.

mod ddim;
mod ddpm;
mod dpm_solver;

use std::{collections::VecDeque, fmt, ops::Range, str::FromStr};

use burn::tensor::{Device, Tensor, TensorData};

use crate::{
    NoiseSchedule,
    noise::{IMAGE_SIZE, gaussian, gaussian_batch},
};

/// A way to walk back from x_T to x_0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampler {
    /// Algorithm 2 of Ho et al. 2020; with fewer steps, its respaced form (Nichol & Dhariwal 2021).
    Ddpm,
    /// Song et al. 2020, equation 12. `eta` scales the noise: 0 is deterministic, 1 is as noisy as
    /// the respaced [`Sampler::Ddpm`].
    Ddim {
        /// From 0 to 1.
        eta: f64,
    },
    /// DPM-Solver++(2M), second order, deterministic (Lu et al. 2022, algorithm 2).
    DpmSolverMultistep,
}

impl Sampler {
    /// The word for it in commands and links.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Ddpm => "ddpm",
            Self::Ddim { .. } => "ddim",
            Self::DpmSolverMultistep => "dpm",
        }
    }

    /// The most steps it can take: T, and less for a fast sampler on a schedule whose last
    /// alpha_bar is so small that its start is moved down.
    pub fn max_steps(self, schedule: &NoiseSchedule) -> usize {
        self.first_timestep(schedule) + 1
    }

    /// The coefficients of each step, from the noisiest t to 0.
    ///
    /// # Errors
    /// [`PlanError`] where `steps` is not in 1..=[`Self::max_steps`] or eta not in 0..=1.
    pub fn plan(self, schedule: &NoiseSchedule, steps: usize) -> Result<Vec<Step>, PlanError> {
        let most = self.max_steps(schedule);
        if !(1..=most).contains(&steps) {
            return Err(PlanError::Steps { steps, most });
        }
        let descending: Vec<usize> = timesteps(most, steps).into_iter().rev().collect();
        match self {
            Self::Ddpm => Ok(ddpm::plan(schedule, &descending)),
            Self::Ddim { eta } if (0.0..=1.0).contains(&eta) => {
                Ok(ddim::plan(schedule, &descending, eta))
            }
            Self::Ddim { eta } => Err(PlanError::Eta(eta)),
            Self::DpmSolverMultistep => Ok(dpm_solver::plan(schedule, &descending)),
        }
    }

    /// Where the walk begins. The first estimate of the image divides by sqrt(alpha_bar_t); a
    /// stochastic walk forgets the error this magnifies, a deterministic one keeps it.
    fn first_timestep(self, schedule: &NoiseSchedule) -> usize {
        const LARGEST_DIVISION: f64 = 200.0;
        let last = schedule.timesteps() - 1;
        match self {
            Self::Ddpm => last,
            Self::Ddim { .. } | Self::DpmSolverMultistep => schedule
                .alphas_cumprod()
                .iter()
                .rposition(|alpha_cumprod| 1.0 / alpha_cumprod.sqrt() <= LARGEST_DIVISION)
                .unwrap_or(last),
        }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.slug())
    }
}

impl FromStr for Sampler {
    type Err = PlanError;

    /// Reads `ddpm`, `ddim` (eta = 0) or `dpm`.
    fn from_str(word: &str) -> Result<Self, PlanError> {
        match word {
            "ddpm" => Ok(Self::Ddpm),
            "ddim" => Ok(Self::Ddim { eta: 0.0 }),
            "dpm" => Ok(Self::DpmSolverMultistep),
            _ => Err(PlanError::Unknown(word.to_owned())),
        }
    }
}

/// Why there is no such walk.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Too many steps, or none.
    #[error("this sampler takes 1 to {most} steps, not {steps}")]
    Steps {
        /// What was asked for.
        steps: usize,
        /// What there is.
        most: usize,
    },
    /// Noise of less than nothing, or more than DDPM's.
    #[error("eta goes from 0 to 1, {0} does not")]
    Eta(f64),
    /// A word that names no sampler.
    #[error("`{0}` is no sampler: use ddpm, ddim or dpm")]
    Unknown(String),
}

/// `steps` of the timesteps 0..n, ascending, evenly spaced, the last one n - 1 ("trailing" spacing,
/// Lin et al. 2023, table 2): a walk must start where the noise is, or its start is not what the
/// network expects there.
fn timesteps(n: usize, steps: usize) -> Vec<usize> {
    (1..=steps)
        .map(|i| (i as f64 * n as f64 / steps as f64).round() as usize - 1)
        .collect()
}

/// One step's numbers; see the module's first lines for what they multiply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The 0-based timestep the step starts from.
    pub t: usize,
    /// sqrt(alpha_bar_t).
    pub sqrt_alpha_cumprod: f64,
    /// sqrt(1 - alpha_bar_t).
    pub sqrt_one_minus_alpha_cumprod: f64,
    /// Weight of x_t.
    pub x_t: f64,
    /// Weight of the noise consistent with the clipped estimate.
    pub pred_noise: f64,
    /// Weight of the clipped estimate of x_0.
    pub pred_x_start: f64,
    /// Weight of the step before's clipped estimate of x_0.
    pub previous_pred_x_start: f64,
    /// Standard deviation of the fresh noise z; 0 in the last step.
    pub noise: f64,
}

impl Step {
    /// A step at `t` whose weights are all zero, for a sampler to fill in.
    fn at(schedule: &NoiseSchedule, t: usize) -> Self {
        let alpha_cumprod = schedule.alphas_cumprod()[t];
        Self {
            t,
            sqrt_alpha_cumprod: alpha_cumprod.sqrt(),
            sqrt_one_minus_alpha_cumprod: (1.0 - alpha_cumprod).sqrt(),
            x_t: 0.0,
            pred_noise: 0.0,
            pred_x_start: 0.0,
            previous_pred_x_start: 0.0,
            noise: 0.0,
        }
    }

    /// The clipped estimate of x_0, x-hat-0 in the lecture. Shapes `[batch, 1, 28, 28]`.
    pub fn pred_x_start(&self, x_t: Tensor<4>, pred_noise: Tensor<4>) -> Tensor<4> {
        let a = self.sqrt_alpha_cumprod;
        let s = self.sqrt_one_minus_alpha_cumprod;
        (x_t * (1.0 / a) - pred_noise * (s / a)).clamp(-1.0, 1.0)
    }

    /// The next state. Shapes `[batch, 1, 28, 28]`; `previous` is the step before's
    /// `pred_x_start`, `z` is standard normal; either may be missing where its weight is 0.
    pub fn apply(
        &self,
        x_t: Tensor<4>,
        pred_x_start: Tensor<4>,
        previous: Option<Tensor<4>>,
        z: Option<Tensor<4>>,
    ) -> Tensor<4> {
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

    /// The weights of x_t and of the clipped estimate once noise_hat, which is made of these two,
    /// is written out.
    pub fn folded(&self) -> (f64, f64) {
        let a = self.sqrt_alpha_cumprod;
        let s = self.sqrt_one_minus_alpha_cumprod;
        (
            self.x_t + self.pred_noise / s,
            self.pred_x_start - self.pred_noise * a / s,
        )
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
    images: Range<u32>,
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
        Self {
            predictor,
            plan: plan.into(),
            seed,
            x: gaussian_batch(seed, images.clone(), 0, timesteps, device),
            images,
            device: device.clone(),
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
            let n = self.images.len();
            let values: Vec<f32> = steps
                .iter()
                .flat_map(|step| self.images.clone().map(|image| (image, step.t)))
                .flat_map(|(image, t)| gaussian(self.seed, image, 0, t))
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

/// Pixels for eyes: [-1, 1] to 0 (black) to 255, rounded, anything outside cut off.
pub fn to_pixels(x: &[f32]) -> Vec<u8> {
    // `as` saturates, and sends NaN to 0.
    x.iter()
        .map(|v| (v * 127.5 + 127.5).round() as u8)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BetaSchedule;
    use proptest::prelude::*;

    fn linear() -> NoiseSchedule {
        NoiseSchedule::new(BetaSchedule::Linear, 1000).unwrap()
    }

    const ALL: [Sampler; 4] = [
        Sampler::Ddpm,
        Sampler::Ddim { eta: 0.0 },
        Sampler::Ddim { eta: 1.0 },
        Sampler::DpmSolverMultistep,
    ];

    proptest! {
        /// Where x_t is really the image x_0 noised and the network is right, the mean of the next
        /// state is the image noised a little less: sqrt(alpha_bar_prev) x_0 + r epsilon with
        /// r^2 + sigma^2 = 1 - alpha_bar_prev for every sampler that keeps the marginals.
        #[test]
        fn steps_keep_the_marginals(steps in 1usize..=1000, cosine: bool) {
            let kind = if cosine { BetaSchedule::Cosine } else { BetaSchedule::Linear };
            let schedule = NoiseSchedule::new(kind, 1000).unwrap();
            for sampler in ALL {
                let steps = steps.min(sampler.max_steps(&schedule));
                let plan = sampler.plan(&schedule, steps).unwrap();
                prop_assert_eq!(plan.len(), steps);
                for (i, step) in plan.iter().enumerate() {
                    let prev = schedule.alpha_cumprod(plan.get(i + 1).map(|next| next.t));
                    let image = step.x_t * step.sqrt_alpha_cumprod
                        + step.pred_x_start + step.previous_pred_x_start;
                    let noise = step.x_t * step.sqrt_one_minus_alpha_cumprod + step.pred_noise;
                    prop_assert!((image - prev.sqrt()).abs() < 1e-9, "{sampler:?} {image}");
                    // Algorithm 2's own choice, sigma^2 = beta, exceeds the posterior's.
                    if sampler == Sampler::Ddpm && steps == 1000 { continue }
                    let variance = noise.powi(2) + step.noise.powi(2);
                    prop_assert!((variance - (1.0 - prev)).abs() < 1e-9, "{sampler:?} {variance}");
                }
                prop_assert_eq!(plan[steps - 1].noise, 0.0, "the last step adds no noise");
            }
        }
    }

    #[test]
    fn spacing_ends_at_the_last_timestep_and_takes_all_when_asked_for_all() {
        assert_eq!(timesteps(1000, 1), [999]);
        assert_eq!(timesteps(1000, 4), [249, 499, 749, 999]);
        assert_eq!(timesteps(1000, 1000), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn impossible_walks_are_refused() {
        let schedule = linear();
        for steps in [0, 1001] {
            assert!(matches!(
                Sampler::Ddpm.plan(&schedule, steps),
                Err(PlanError::Steps { most: 1000, .. })
            ));
        }
        for eta in [-0.1, 1.1, f64::NAN] {
            assert!(Sampler::Ddim { eta }.plan(&schedule, 10).is_err());
        }
        assert!("euler".parse::<Sampler>().is_err());
        for sampler in [Sampler::Ddpm, Sampler::Ddim { eta: 0.0 }] {
            assert_eq!(sampler.slug().parse(), Ok(sampler));
        }
    }

    /// A fast sampler on the cosine schedule starts where the division is harmless, and nowhere
    /// lower than needed.
    #[test]
    fn fast_samplers_start_where_the_division_is_harmless() {
        let cosine = NoiseSchedule::new(BetaSchedule::Cosine, 1000).unwrap();
        let most = Sampler::DpmSolverMultistep.max_steps(&cosine);
        assert!((990..1000).contains(&most), "{most}");
        assert_eq!(Sampler::Ddpm.max_steps(&cosine), 1000);
        assert_eq!(Sampler::DpmSolverMultistep.max_steps(&linear()), 1000);
    }

    #[test]
    fn pixels_are_rounded_and_saturate() {
        let pixels = to_pixels(&[-1.0, 1.0, 0.0, -3.0, 3.0, f32::NAN, -0.996]);
        assert_eq!(pixels, [0, 255, 128, 0, 255, 0, 1]);
    }

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
        let run = |images: Range<u32>| {
            let plan = Sampler::Ddpm.plan(&linear(), 250).unwrap();
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
}
