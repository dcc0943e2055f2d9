//! Algorithm 2 of Ho et al. 2020.
//!
//! ```text
//! 1: x_T ~ N(0, I)
//! 2: for t = T, ..., 1 do
//! 3:     z ~ N(0, I) if t > 1, else z = 0
//! 4:     x_(t-1) = 1/sqrt(alpha_t) (x_t - (1 - alpha_t)/sqrt(1 - alpha_bar_t) epsilon_theta(x_t, t)) + sigma_t z
//! 5: end for
//! 6: return x_0
//! ```

use super::Step;
use crate::NoiseSchedule;

/// Line 4's coefficients for these timesteps, noisiest first.
///
/// At all T steps sigma_t^2 = beta_t, the paper's first choice. With fewer, a step spans several
/// noising steps: alpha_t becomes alpha_bar_t / alpha_bar_prev, and sigma_t^2 the variance of the
/// posterior q(x_prev given x_t, x_0), since beta of a long step would be too much noise
/// (Nichol & Dhariwal 2021, section 4).
pub(super) fn plan(schedule: &NoiseSchedule, descending: &[usize]) -> Vec<Step> {
    let full = descending.len() == schedule.timesteps();
    descending
        .iter()
        .enumerate()
        .map(|(i, &t)| {
            let alpha_cumprod = schedule.alphas_cumprod()[t];
            let alpha_cumprod_prev = schedule.alpha_cumprod(descending.get(i + 1).copied());
            let alpha = alpha_cumprod / alpha_cumprod_prev;
            let beta = 1.0 - alpha;
            let variance = match i + 1 == descending.len() {
                true => 0.0,
                false if full => beta,
                false => beta * (1.0 - alpha_cumprod_prev) / (1.0 - alpha_cumprod),
            };
            Step {
                x_t: 1.0 / alpha.sqrt(),
                pred_noise: -beta / (alpha.sqrt() * (1.0 - alpha_cumprod).sqrt()),
                noise: variance.sqrt(),
                ..Step::at(schedule, t)
            }
        })
        .collect()
}
