//! Our own operations for the CPU, as extensions of Burn's backend for it: this file turns tensors into
//! calls, and the others hold what is called.

use burn::{
    backend::{Backend, Dispatch, DispatchDevice, backend_extension, tensor::FloatTensor},
    tensor::{DType, Device, Tensor},
};

mod conv2d;
mod group_norm;
mod matrix;
mod parallel;
mod primitive;
mod simd;
#[cfg(test)]
mod testing;
mod winograd;

use winograd::Kernels;

/// The CPU, in Burn's backend for it ("Flex").
pub fn cpu() -> Device {
    Device::flex()
}

/// Whether `x` is where our own operations are: f32 on the CPU, under autodiff only with `train`.
/// Burn panics on an extension called for a backend it does not list.
pub(crate) fn runs_on(x: &Tensor<4>) -> bool {
    let on_cpu = match x.device().as_dispatch() {
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "train")]
        DispatchDevice::Autodiff(device) => matches!(**device, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns)]
        _ => false,
    };
    on_cpu && x.dtype() == DType::F32
}

/// See [`crate::conv2d`].
pub(crate) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
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

/// See [`crate::group_norm_silu`].
pub(crate) fn group_norm_silu(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    activate: bool,
) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::cpu_group_norm_silu(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        groups,
        epsilon,
        activate,
    ))
}

/// See [`crate::resident_weight`].
pub(crate) fn resident_weight(weight: Tensor<4>, stride: usize) -> Tensor<4> {
    let alone = matches!(weight.device().as_dispatch(), DispatchDevice::Flex(_));
    if alone && weight.dtype() == DType::F32 && stride == 1 && winograd::fits(weight.dims()) {
        return Tensor::from_dispatch(Dispatch::cpu_transformed(weight.into_dispatch()));
    }
    weight
}

/// [`crate::conv2d`] with a padding of half the kernel, by a weight that may be a [`crate::resident_weight`].
pub(crate) fn resident_conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
) -> Tensor<4> {
    let [_, blocks, kernel, block] = weight.dims();
    if !Kernels::are(weight.dims()) {
        return crate::conv2d(x, weight, bias, stride, kernel / 2);
    }
    let bias = bias.unwrap_or_else(|| Tensor::zeros([blocks * block], &cpu()));
    Tensor::from_dispatch(Dispatch::cpu_conv2d_transformed(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// Of our own operations those that take no gradients.
#[backend_extension(Flex)]
trait CpuResident: Backend {
    /// [`Kernels`] of a weight `[channels_out, channels_in, 3, 3]`.
    fn cpu_transformed(weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// [`crate::conv2d`] with stride and padding 1, by what [`Self::cpu_transformed`] made.
    fn cpu_conv2d_transformed(
        x: FloatTensor<Self>,
        kernels: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// Our own operations, as extensions of Burn's backends. Burn writes the routing from [`Dispatch`].
#[backend_extension(Flex, Autodiff: cfg(feature = "train"))]
trait CpuOperations: Backend {
    /// See [`crate::conv2d`].
    fn cpu_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self>;

    /// See [`crate::group_norm_silu`].
    fn cpu_group_norm_silu(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        activate: bool,
    ) -> FloatTensor<Self>;
}
