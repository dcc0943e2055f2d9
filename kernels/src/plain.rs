//! The plain twins: the same functions in Burn's own operations, for every backend.
//!
//! They say what the fast ones mean; the tests compare the two, gradients included.

use burn::tensor::{Tensor, activation::silu, module, ops::ConvOptions};

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
