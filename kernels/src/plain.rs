//! The plain twins: the same functions in Burn's own operations, for every backend.
//!
//! They say what the fast ones mean; the tests compare the two, gradients included, and for GPUs
//! `examples/twins` does so in the browser.

use burn::tensor::{
    Tensor,
    activation::{silu, softmax},
    module,
    ops::ConvOptions,
};

use crate::{Around, Resident};

/// The plain twin of [`crate::conv2d`].
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
    module::conv2d(x, weight, bias, options)
}

/// The plain twin of [`crate::group_norm_silu`].
pub fn group_norm_silu(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    activate: bool,
) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    let grouped = x.reshape([b, groups, c / groups * h * w]);
    let centred = grouped.clone() - grouped.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    let normal = (centred / (variance + epsilon).sqrt()).reshape([b, c, h, w]);
    let y = normal * gamma.reshape([1, c, 1, 1]) + beta.reshape([1, c, 1, 1]);
    if activate { silu(y) } else { y }
}

/// The plain twin of [`crate::linear`].
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<2>, activate: bool) -> Tensor<2> {
    let y = x.matmul(weight) + bias;
    if activate { silu(y) } else { y }
}

/// The plain twin of [`crate::conv2d_around`].
pub fn conv2d_around(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    around: Around,
) -> Tensor<4> {
    around_a_convolution(conv2d, x, weight, bias, around)
}

/// x, weight, bias, stride and padding.
type Convolution = fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>, usize, usize) -> Tensor<4>;

/// What surrounds a convolution, in Burn's operations, and the convolution by `conv2d`.
pub(crate) fn around_a_convolution(
    conv2d: Convolution,
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    around: Around,
) -> Tensor<4> {
    let padding = weight.dims()[2] / 2;
    let x = match around.repeat {
        1 => x,
        times => x.repeat_dim(0, times),
    };
    let x = double(fold(x, around.fold), around.upsample);
    let mut y = conv2d(x, weight, bias, around.stride, padding);
    if let Some(shifts) = around.shifts {
        let [_, channels, ..] = y.dims();
        let columns = shifts.first..shifts.first + channels;
        let table = match shifts.rows {
            Some(rows) => shifts.table.select(0, rows),
            None => shifts.table,
        };
        let [images, _] = table.dims();
        let shift = table.slice([0..images, columns]);
        y = y + shift.reshape([images, channels, 1, 1]);
    }
    if let Some(residual) = around.residual {
        y = y + residual;
    }
    if let Some(shortcut) = around.shortcut {
        let x = concat(shortcut.x, shortcut.concat);
        y = y + conv2d(x, shortcut.weight, None, 1, 0);
    }
    unfold(y, around.unfold)
}

/// Space to depth: `[b, c, h, w]` to `[b, c r^2, h / r, w / r]`, channel r i + j of each r^2
/// holding the pixels in row i, column j of each square of r x r.
fn fold(x: Tensor<4>, r: usize) -> Tensor<4> {
    if r == 1 {
        return x;
    }
    let [b, c, h, w] = x.dims();
    x.reshape([b, c, h / r, r, w / r, r])
        .permute([0, 1, 3, 5, 2, 4])
        .reshape([b, c * r * r, h / r, w / r])
}

/// The inverse of [`fold`].
fn unfold(x: Tensor<4>, r: usize) -> Tensor<4> {
    if r == 1 {
        return x;
    }
    let [b, c, h, w] = x.dims();
    x.reshape([b, c / (r * r), r, r, h, w])
        .permute([0, 1, 4, 2, 5, 3])
        .reshape([b, c / (r * r), h * r, w * r])
}

/// Every pixel becomes a square of n x n.
fn double(x: Tensor<4>, n: usize) -> Tensor<4> {
    if n == 1 {
        return x;
    }
    let [b, c, h, w] = x.dims();
    x.reshape([b, c, h, 1, w, 1])
        .expand([b, c, h, n, w, n])
        .reshape([b, c, h * n, w * n])
}

pub(crate) fn concat(a: Tensor<4>, b: Option<Tensor<4>>) -> Tensor<4> {
    match b {
        Some(b) => Tensor::cat(vec![a, b], 1),
        None => a,
    }
}

/// The plain twin of [`crate::concat_group_norm_silu`].
pub fn concat_group_norm_silu(
    a: Tensor<4>,
    b: Option<Tensor<4>>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    activate: bool,
) -> Tensor<4> {
    group_norm_silu(concat(a, b), gamma, beta, groups, epsilon, activate)
}

/// The plain twin of [`crate::attention`].
pub fn attention(x: Tensor<4>, qkv: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    attention_by(conv2d, x, qkv, weight, bias)
}

pub(crate) fn attention_by(
    conv2d: Convolution,
    x: Tensor<4>,
    qkv: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let qkv = qkv.reshape([batch, 3 * channels, height * width]);
    let [q, k, v]: [Tensor<3>; 3] =
        [0, 1, 2].map(|i| qkv.clone().narrow(1, i * channels, channels));
    let scale = 1.0 / (channels as f64).sqrt();
    let scores = q.swap_dims(1, 2).matmul(k) * scale;
    let mixed = v.matmul(softmax(scores, 2).swap_dims(1, 2));
    let mixed = mixed.reshape([batch, channels, height, width]);
    x + conv2d(mixed, weight, Some(bias), 1, 0)
}

/// The plain twin of [`crate::reverse_step`], which changes nothing: the next state, the clipped
/// estimate, and the entry of the log, `[2 images, 1, height, width]`.
pub fn reverse_step(prediction: Tensor<4>, state: &Resident) -> [Tensor<4>; 3] {
    let [images, _, height, width] = state.x.dims();
    let rows = state.rows.clone().narrow(0, 0, images);
    let c = state.coefficients.clone().select(0, rows.clone());
    let c = |column: usize| c.clone().narrow(1, column, 1).reshape([images, 1, 1, 1]);
    let x_t = state.x.clone();
    let labelled = prediction.clone().narrow(0, 0, images);
    let answer = if prediction.dims()[0] == images {
        labelled
    } else {
        prediction.narrow(0, images, images) * (c(6) * -1.0 + 1.0) + labelled * c(6)
    };
    let pred_noise = answer * c(7) + x_t.clone() * c(8);
    let pred_x_start = (x_t.clone() * c(0) - pred_noise.clone() * c(1)).clamp(-1.0, 1.0);
    // All images take the same step.
    let [noise_rows, ..] = state.noise.dims();
    let z = state
        .noise
        .clone()
        .select(0, rows.narrow(0, 0, 1).remainder_scalar(noise_rows as i32));
    let z = z.reshape([images, 1, height, width]);
    let next =
        x_t.clone() * c(2) + pred_x_start.clone() * c(3) + state.previous.clone() * c(4) + z * c(5);
    [next, pred_x_start, Tensor::cat(vec![x_t, pred_noise], 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(x: Tensor<4>) -> Vec<f32> {
        x.into_data().try_to_vec().expect("the tensor is f32")
    }

    #[test]
    fn folding_keeps_every_pixel_where_it_belongs() {
        let x: Vec<f32> = (0..2 * 28 * 28).map(|i| i as f32).collect();
        let x = Tensor::<1>::from_floats(x.as_slice(), &crate::cpu()).reshape([2, 1, 28, 28]);
        let folded = fold(x.clone(), 2);
        assert_eq!(folded.dims(), [2, 4, 14, 14]);
        // Image 1, row 5 = 2 * 2 + 1, column 8 = 2 * 4 + 0: channel 2 * 1 + 0, place (2, 4).
        assert_eq!(
            values(folded.clone())[((4 + 2) * 14 + 2) * 14 + 4],
            values(x.clone())[(28 + 5) * 28 + 8]
        );
        assert_eq!(values(unfold(folded, 2)), values(x));
    }

    #[test]
    fn doubling_repeats_pixels() {
        let x = Tensor::<4>::from_data([[[[1.0, 2.0], [3.0, 4.0]]]], &crate::cpu());
        let expected = [
            [1.0, 1.0, 2.0, 2.0],
            [1.0, 1.0, 2.0, 2.0],
            [3.0, 3.0, 4.0, 4.0],
            [3.0, 3.0, 4.0, 4.0],
        ];
        assert_eq!(values(double(x, 2)), expected.concat());
    }
}
