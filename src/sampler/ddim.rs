//! Denoising diffusion implicit models (Song et al. 2020).

use super::Step;
use crate::NoiseSchedule;

/// Equation 12's coefficients for these timesteps, noisiest first:
///
/// x_prev = sqrt(alpha_bar_prev) x-hat-0 + sqrt(1 - alpha_bar_prev - sigma^2) epsilon-hat + sigma z,
/// with equation 16's sigma = eta sqrt((1 - alpha_bar_prev) / (1 - alpha_bar))
/// sqrt(1 - alpha_bar / alpha_bar_prev).
pub(super) fn plan(schedule: &NoiseSchedule, descending: &[usize], eta: f64) -> Vec<Step> {
    descending
        .iter()
        .enumerate()
        .map(|(i, &t)| {
            let alpha_cumprod = schedule.alphas_cumprod()[t];
            let alpha_cumprod_prev = schedule.alpha_cumprod(descending.get(i + 1).copied());
            let variance = eta.powi(2) * (1.0 - alpha_cumprod_prev) / (1.0 - alpha_cumprod)
                * (1.0 - alpha_cumprod / alpha_cumprod_prev);
            Step {
                pred_x_start: alpha_cumprod_prev.sqrt(),
                // At eta = 1 and a long step, rounding may leave a negative nothing.
                pred_noise: (1.0 - alpha_cumprod_prev - variance).max(0.0).sqrt(),
                noise: variance.sqrt(),
                ..Step::at(schedule, t)
            }
        })
        .collect()
}
