//! A step's last act on the GPU: guidance, the clipped estimate, the next state, the log.
//!
//! One group of threads an image, and a counter an image: so no thread reads a counter that
//! another one is moving.

use cubecl::prelude::*;

pub(super) const THREADS: usize = 256;

/// The lengths of a walk's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Images of the walk, and values of each.
    pub(super) images: usize,
    pub(super) pixels: usize,
    /// Whether the network also answers without the label, in the second half of its batch.
    pub(super) guided: bool,
    /// Rows of the noise and of the log.
    pub(super) noise_rows: usize,
    pub(super) log_rows: usize,
}

/// See [`crate::reverse_step`].
#[allow(clippy::too_many_arguments)]
#[cube(launch_unchecked)]
pub(super) fn reverse_step(
    prediction: &[f32],
    coefficients: &[f32],
    noise: &[f32],
    x: &mut [f32],
    previous: &mut [f32],
    rows: &mut [i32],
    log: &mut [f32],
    #[comptime] columns: usize,
    #[comptime] table_rows: usize,
    #[comptime] shape: Shape,
) {
    let images = comptime!(shape.images);
    let pixels = comptime!(shape.pixels);
    let unit = UNIT_POS as usize;
    let image = CUBE_POS_X as usize;
    let row = rows[image] as usize;
    let at_row = row * columns;
    let inverse_a = coefficients[at_row];
    let s_over_a = coefficients[at_row + 1];
    let weight_x_t = coefficients[at_row + 2];
    let weight_pred_x_start = coefficients[at_row + 3];
    let weight_previous = coefficients[at_row + 4];
    let sigma = coefficients[at_row + 5];
    let guidance = coefficients[at_row + 6];
    let answer_in_noise = coefficients[at_row + 7];
    let x_t_in_noise = coefficients[at_row + 8];
    let z = ((row % comptime!(shape.noise_rows)) * images + image) * pixels;
    let entry = (row % comptime!(shape.log_rows)) * (2 * images) + image;

    let mut i = unit;
    while i < pixels {
        let at = image * pixels + i;
        let x_t = x[at];
        let mut answer = prediction[at];
        if comptime!(shape.guided) {
            let free = prediction[images * pixels + at];
            answer = free * (1.0f32 - guidance) + answer * guidance;
        }
        let pred_noise = answer * answer_in_noise + x_t * x_t_in_noise;
        let estimate = x_t * inverse_a - pred_noise * s_over_a;
        // Of what is no number `min` and `max` may make one, and a broken answer would be a garment.
        let pred_x_start = clamp_nan(estimate, -1.0f32, 1.0f32);
        x[at] = x_t * weight_x_t
            + pred_x_start * weight_pred_x_start
            + previous[at] * weight_previous
            + noise[z + i] * sigma;
        previous[at] = pred_x_start;
        log[entry * pixels + i] = x_t;
        log[(entry + images) * pixels + i] = pred_noise;
        i += THREADS;
    }
    sync_cube();
    if unit == 0 {
        rows[image] = (row + 1) as i32;
        if comptime!(shape.guided) {
            rows[images + image] = (row + 1 + table_rows) as i32;
        }
    }
}

/// Overwrites a buffer in place, whatever its bits mean.
#[cube(launch_unchecked)]
pub(super) fn assign(source: &[u32], target: &mut [u32], length: u32) {
    if ABSOLUTE_POS < length as usize {
        target[ABSOLUTE_POS] = source[ABSOLUTE_POS];
    }
}
