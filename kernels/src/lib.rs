//! Operations written for the hardware they run on, each beside its plain twin.
//!
//! Two operations take most of a training step on the CPU: the convolution and the group
//! normalisation with its SiLU. Burn has no weight gradient of its own for its CPU backend (it runs
//! one as a convolution with a kernel as large as the image), and composes the normalisation from a
//! dozen passes over memory. So [`conv2d`] and [`group_norm_silu`] bring their own on that backend
//! and use Burn's everywhere else.
//!
//! This is the only crate that names backends. The rest of the workspace sees plain functions on
//! tensors; [`plain`] holds the same functions in Burn's own operations: the specification our own
//! are tested against, and what runs where we have nothing better.
//!
//! Results and gradients do not depend on the number of threads or their timing.

// The backward halves have no caller without gradients.
#![cfg_attr(not(feature = "train"), allow(dead_code))]

use burn::{
    backend::{Backend, Dispatch, DispatchDevice, backend_extension, tensor::FloatTensor},
    tensor::{DType, Device, Tensor},
};

mod conv2d;
mod group_norm;
mod matrix;
mod parallel;
pub mod plain;
mod primitive;
mod simd;
#[cfg(all(test, feature = "train"))]
mod testing;
mod winograd;

/// The CPU, in Burn's backend for it ("Flex").
pub fn cpu() -> Device {
    Device::flex()
}

/// Cross-correlation of `x` with `weight`, plus `bias` for each output channel.
///
/// # Shapes
/// - `x`: `[batch, channels_in, height, width]`
/// - `weight`: `[channels_out, channels_in, k_h, k_w]`
/// - `bias`: `[channels_out]`
/// - result: `[batch, channels_out, (height + 2 padding - k_h) / stride + 1, ...]`
///
/// # Panics
/// If the shapes do not fit each other or `stride` is 0, as Burn's own operation does.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    if !runs_our_own(&x) {
        return plain::conv2d(x, weight, bias, stride, padding);
    }
    // A constant zero costs nothing and takes no gradient: one operation serves both cases.
    let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[0]], &cpu()));
    Tensor::from_dispatch(Dispatch::cpu_conv2d(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        stride,
        padding,
    ))
}

/// Group normalisation (Wu & He 2018) with an affine map for each channel, followed by
/// SiLU(u) = u sigmoid(u) if `activate`.
///
/// The mean and the variance are those of all `channels / groups * height * width` values of a
/// group; `epsilon` is added to the variance.
///
/// # Shapes
/// - `x`, result: `[batch, channels, height, width]`
/// - `gamma`, `beta`: `[channels]`
///
/// # Panics
/// If `groups` does not divide the channels, or `gamma` and `beta` have other lengths.
pub fn group_norm_silu(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    activate: bool,
) -> Tensor<4> {
    if !runs_our_own(&x) {
        return plain::group_norm_silu(x, gamma, beta, groups, epsilon, activate);
    }
    Tensor::from_dispatch(Dispatch::cpu_group_norm_silu(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        groups,
        epsilon,
        activate,
    ))
}

/// Whether `x` is where our own operations are: f32 on the CPU, under autodiff only with `train`.
/// Burn panics on an extension called for a backend it does not list.
fn runs_our_own(x: &Tensor<4>) -> bool {
    let on_cpu = match x.device().as_dispatch() {
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "train")]
        DispatchDevice::Autodiff(device) => matches!(**device, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns)]
        _ => false,
    };
    on_cpu && x.dtype() == DType::F32
}

/// Our own operations, as extensions of Burn's backends. Burn writes the routing from [`Dispatch`].
#[backend_extension(Flex, Autodiff: cfg(feature = "train"))]
trait CpuOperations: Backend {
    /// See [`conv2d`].
    fn cpu_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self>;

    /// See [`group_norm_silu`].
    fn cpu_group_norm_silu(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        activate: bool,
    ) -> FloatTensor<Self>;
}
