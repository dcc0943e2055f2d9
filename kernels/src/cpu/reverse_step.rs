//! A step's last act on the CPU: guidance, the clipped estimate, the next state, the log.

use burn::tensor::Tensor;

use crate::{
    COEFFICIENTS, Resident,
    cpu::{
        recording::{Source, Target, perform},
        simd::for_each_instruction_set,
    },
};

/// See [`crate::reverse_step`].
///
/// # Safety
/// As there.
pub(crate) unsafe fn reverse_step(prediction: Tensor<4>, state: &Resident) {
    let [images, _, height, width] = state.x.dims();
    let pixels = height * width;
    let [table_rows, _] = state.coefficients.dims();
    let ([noise_rows, ..], [log_rows, ..]) = (state.noise.dims(), state.log.dims());
    let prediction = Source::floats(prediction);
    let coefficients = Source::floats(state.coefficients.clone());
    let noise = Source::floats(state.noise.clone());
    let (x, previous) = (Target::floats(&state.x), Target::floats(&state.previous));
    let (rows, log) = (Target::integers(&state.rows), Target::floats(&state.log));
    perform(move || {
        // SAFETY: the caller's promise, and that of a replay; a `Resident` is made of such memory.
        let (x, previous, rows, log) =
            unsafe { (x.values(), previous.values(), rows.values(), log.values()) };
        let (labelled, free) = prediction.values().split_at(images * pixels);
        for image in 0..images {
            let row = rows[image] as usize;
            let span = image * pixels..(image + 1) * pixels;
            let entry = row % log_rows * 2 * images + image;
            let [logged, predicted] =
                [entry, entry + images].map(|at| at * pixels..(at + 1) * pixels);
            take(
                &coefficients.values()[row * COEFFICIENTS..][..COEFFICIENTS],
                &labelled[span.clone()],
                free.get(span.clone()).unwrap_or_default(),
                &noise.values()[(row % noise_rows * images + image) * pixels..][..pixels],
                &mut x[span.clone()],
                &mut previous[span],
                &mut log[logged.start..predicted.end],
            );
            rows[image] = row as i32 + 1;
            if let Some(second) = rows.get_mut(images + image) {
                *second = (row + 1 + table_rows) as i32;
            }
        }
    });
}

for_each_instruction_set! {
    /// One image. `log` begins with its x_t and ends with its predicted noise.
    fn take(
        coefficients: &[f32],
        labelled: &[f32],
        free: &[f32],
        z: &[f32],
        x: &mut [f32],
        previous: &mut [f32],
        log: &mut [f32],
    ) {
        let &[inverse_a, s_over_a, of_x_t, of_start, of_previous, sigma, guidance, of_answer, in_noise] =
            coefficients
        else {
            return;
        };
        let pixels = x.len();
        let (logged, rest) = log.split_at_mut(pixels);
        let predicted = rest.len() - pixels;
        let predicted = &mut rest[predicted..];
        // The answer stands where the noise is going to.
        predicted.copy_from_slice(labelled);
        for (answer, free) in predicted.iter_mut().zip(free) {
            *answer = free * (1.0 - guidance) + *answer * guidance;
        }
        logged.copy_from_slice(x);
        for ((x, noise), (previous, z)) in
            x.iter_mut().zip(predicted).zip(previous.iter_mut().zip(z))
        {
            let x_t = *x;
            *noise = *noise * of_answer + x_t * in_noise;
            let pred_x_start = (x_t * inverse_a - *noise * s_over_a).clamp(-1.0, 1.0);
            *x = x_t * of_x_t + pred_x_start * of_start + *previous * of_previous + z * sigma;
            *previous = pred_x_start;
        }
    }
}
