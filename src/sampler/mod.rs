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
//! papers' equations. Tensors move in `Step::apply` (`reverse.rs`), or, where steps are recorded
//! (`recorded.rs`), in one operation of the crate `kernels` that reads them from a table.

mod ddim;
mod ddpm;
mod dpm_solver;
#[cfg(feature = "network")]
mod recorded;
#[cfg(feature = "network")]
mod reverse;

use std::{fmt, str::FromStr};

use crate::NoiseSchedule;

#[cfg(feature = "network")]
pub use recorded::{RecordedProcess, STRIDE};
#[cfg(feature = "network")]
pub use reverse::{Frame, PredictNoise, ReverseProcess};

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

    /// The steps that one takes with it; `None` is every one there is.
    pub fn usual_steps(self) -> Option<usize> {
        match self {
            Self::Ddpm => None,
            Self::Ddim { .. } => Some(50),
            Self::DpmSolverMultistep => Some(20),
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

/// What is left of a plan at the 0-based timestep `t`: its steps from there on.
///
/// Nothing is known of a step before, so that a multistep sampler begins anew, with a step of first
/// order.
pub fn remaining(plan: &[Step], t: usize) -> Vec<Step> {
    let mut rest: Vec<Step> = plan.iter().filter(|step| step.t <= t).copied().collect();
    if let Some(first) = rest.first_mut() {
        first.pred_x_start += std::mem::take(&mut first.previous_pred_x_start);
    }
    rest
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

/// A pixel for eyes: [-1, 1] to 0 (black) to 255, rounded, anything outside cut off.
pub fn to_pixel(x: f32) -> u8 {
    // `as` saturates, and sends NaN to 0.
    (x * 127.5 + 127.5).round() as u8
}

/// [`to_pixel`] of many.
pub fn to_pixels(x: &[f32]) -> Vec<u8> {
    x.iter().copied().map(to_pixel).collect()
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

    /// The rest of a plan is its tail, but for a first step that has no step before.
    #[test]
    fn a_plan_begun_in_the_middle() {
        let schedule = linear();
        for sampler in ALL {
            let plan = sampler.plan(&schedule, 100).unwrap();
            assert_eq!(remaining(&plan, 999), plan);
            let rest = remaining(&plan, 500);
            assert_eq!(rest.first().map(|step| step.t), Some(499));
            assert_eq!(rest[1..], plan[51..]);
            assert_eq!(rest[0].previous_pred_x_start, 0.0);
            let weight = |step: &Step| step.pred_x_start + step.previous_pred_x_start;
            assert!((weight(&rest[0]) - weight(&plan[50])).abs() < 1e-12);
            assert!(remaining(&plan, 8).is_empty());
        }
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
        let division = |t: usize| 1.0 / cosine.alphas_cumprod()[t].sqrt();
        assert!(
            division(most - 1) <= 200.0 && division(most) > 200.0,
            "{most}"
        );
        assert_eq!(Sampler::Ddpm.max_steps(&cosine), 1000);
        assert_eq!(Sampler::DpmSolverMultistep.max_steps(&linear()), 1000);
    }

    #[test]
    fn pixels_are_rounded_and_saturate() {
        let pixels = to_pixels(&[-1.0, 1.0, 0.0, -3.0, 3.0, f32::NAN, -0.996]);
        assert_eq!(pixels, [0, 255, 128, 0, 255, 0, 1]);
    }
}
