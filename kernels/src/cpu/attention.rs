//! Self-attention on the CPU, an image at a time.
//!
//! Scores stand with a column a query: T = K' Q, so that the softmax goes down columns, as many at a time as
//! there are lanes, and what is mixed is V T, a product of rows.

use std::cell::Cell;

use burn::tensor::Tensor;

use crate::cpu::{
    matrix::{Matrix, multiply, with_scratch},
    parallel::{Threads, for_each_piece},
    recording::{Source, make},
    simd::{exp, for_each_instruction_set},
};

thread_local! {
    static SCORES: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static MIXED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// See [`crate::attention`].
pub(crate) fn attention(
    x: Tensor<4>,
    qkv: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
) -> Tensor<4> {
    let [_, channels, height, width] = x.dims();
    let places = height * width;
    let size = channels * places;
    make(x.dims(), || {
        let (x, qkv) = (Source::floats(x), Source::floats(qkv));
        let (weight, bias) = (Source::floats(weight), Source::floats(bias));
        move |y| {
            let (x, qkv) = (x.values(), qkv.values());
            let (weight, bias) = (weight.values(), bias.values());
            for_each_piece(y, size, |image, y| {
                let [q, k, v] = [0, 1, 2].map(|i| &qkv[(3 * image + i) * size..][..size]);
                with_scratch(&SCORES, (places + 2) * places, |scores| {
                    let (scores, columns) = scores.split_at_mut(places * places);
                    let shape = [places, channels, places];
                    let keys = Matrix::rows(k, places).transposed();
                    multiply(
                        shape,
                        keys,
                        Matrix::rows(q, places),
                        scores,
                        false,
                        Threads::One,
                    );
                    softmax(scores, places, 1.0 / (channels as f32).sqrt(), columns);
                    with_scratch(&MIXED, size, |mixed| {
                        let shape = [channels, places, places];
                        let (v, scores) = (Matrix::rows(v, places), Matrix::rows(scores, places));
                        multiply(shape, v, scores, mixed, false, Threads::One);
                        let residual = x[image * size..][..size].chunks_exact(places);
                        for ((y, x), &bias) in y.chunks_exact_mut(places).zip(residual).zip(bias) {
                            for (y, x) in y.iter_mut().zip(x) {
                                *y = x + bias;
                            }
                        }
                        let shape = [channels, channels, places];
                        let weight = Matrix::rows(weight, channels);
                        multiply(
                            shape,
                            weight,
                            Matrix::rows(mixed, places),
                            y,
                            true,
                            Threads::One,
                        );
                    });
                });
            });
        }
    })
}

for_each_instruction_set! {
    /// Of each column of `scale` times `scores`, rows of `places`. `columns` is room for two rows.
    fn softmax(scores: &mut [f32], places: usize, scale: f32, columns: &mut [f32]) {
        let (largest, sums) = columns.split_at_mut(places);
        largest.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        for row in scores.chunks_exact(places) {
            for (largest, score) in largest.iter_mut().zip(row) {
                *largest = if *score > *largest { *score } else { *largest };
            }
        }
        for row in scores.chunks_exact_mut(places) {
            for ((score, largest), sum) in row.iter_mut().zip(&*largest).zip(&mut *sums) {
                *score = exp((*score - largest) * scale);
                *sum += *score;
            }
        }
        for row in scores.chunks_exact_mut(places) {
            for (score, sum) in row.iter_mut().zip(&*sums) {
                *score /= sum;
            }
        }
    }
}
