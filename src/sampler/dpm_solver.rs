//! DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2).

use super::Step;
use crate::NoiseSchedule;

/// Coefficients for these timesteps, noisiest first.
///
/// With alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), lambda = ln(alpha / sigma),
/// h = lambda_prev - lambda_t and r = (the step before's h) / h:
///
/// x_prev = sigma_prev / sigma_t x_t + alpha_prev (1 - e^(-h)) D,
/// D = (1 + 1 / 2r) x-hat-0 - 1 / 2r (the step before's x-hat-0).
///
/// The first step knows no step before, and the last one ends at lambda = infinity, where the
/// extrapolation means nothing: both are of first order, D = x-hat-0.
pub(super) fn plan(schedule: &NoiseSchedule, descending: &[usize]) -> Vec<Step> {
    let lambda = |alpha_cumprod: f64| 0.5 * (alpha_cumprod / (1.0 - alpha_cumprod)).ln();
    let mut h_before = None;
    descending
        .iter()
        .enumerate()
        .map(|(i, &t)| {
            let alpha_cumprod = schedule.alphas_cumprod()[t];
            let Some(&prev) = descending.get(i + 1) else {
                return Step {
                    pred_x_start: 1.0,
                    ..Step::at(schedule, t)
                };
            };
            let alpha_cumprod_prev = schedule.alphas_cumprod()[prev];
            let h = lambda(alpha_cumprod_prev) - lambda(alpha_cumprod);
            let extrapolation = h_before.map_or(0.0, |before: f64| h / (2.0 * before));
            h_before = Some(h);
            let weight = -alpha_cumprod_prev.sqrt() * (-h).exp_m1();
            Step {
                x_t: ((1.0 - alpha_cumprod_prev) / (1.0 - alpha_cumprod)).sqrt(),
                pred_x_start: weight * (1.0 + extrapolation),
                previous_pred_x_start: -weight * extrapolation,
                ..Step::at(schedule, t)
            }
        })
        .collect()
}
