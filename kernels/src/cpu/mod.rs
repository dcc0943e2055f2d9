//! Our own operations for the CPU. Those that take gradients extend Burn's backend, which this file asks for
//! them; those of a step of sampling are made by [`recording`], and can be done again on the same memory.

use burn::{
    backend::{Backend, Dispatch, DispatchDevice, Flex, backend_extension, tensor::FloatTensor},
    tensor::{DType, Device, Int, Tensor, TensorData},
};

mod around;
mod attention;
mod conv2d;
mod group_norm;
mod matrix;
mod parallel;
mod primitive;
mod recording;
mod reverse_step;
mod simd;
#[cfg(test)]
mod testing;
mod winograd;

pub(crate) use around::conv2d_around;
pub(crate) use attention::attention;
pub(crate) use group_norm::concat_group_norm_silu;
use matrix::{Matrix, multiply};
use parallel::Threads;
use primitive::{Values, tensor};
pub(crate) use recording::{Graph, integer_zeros, zeros};
use recording::{Source, Target, make, primitive};
pub(crate) use reverse_step::reverse_step;
use simd::{for_each_instruction_set, sigmoid};
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

/// Whether this is the CPU itself, without gradients: where steps are recorded and weights laid out for it.
pub(crate) fn computes_on(device: &Device, dtype: DType) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_)) && dtype == DType::F32
}

/// See [`crate::resident_weight`].
pub(crate) fn resident_weight(weight: Tensor<4>, stride: usize) -> Tensor<4> {
    let here = computes_on(&weight.device(), weight.dtype());
    if !here || stride != 1 || !winograd::fits(weight.dims()) {
        return weight;
    }
    let shape = Kernels::dims(weight.dims());
    let kernels = winograd::transformed(Values::of(primitive(weight)).as_slice(), shape);
    Tensor::from_primitive::<Flex>(tensor(kernels, shape))
}

/// See [`crate::concat`].
pub(crate) fn concat(a: Tensor<4>, b: Option<Tensor<4>>) -> Tensor<4> {
    let Some(b) = b else {
        return a;
    };
    let ([images, first, height, width], [_, second, ..]) = (a.dims(), b.dims());
    assert_eq!(
        b.dims(),
        [images, second, height, width],
        "concat: other images"
    );
    let [first, second] = [first, second].map(|channels| channels * height * width);
    make([images, a.dims()[1] + b.dims()[1], height, width], || {
        let (a, b) = (Source::floats(a), Source::floats(b));
        move |y| {
            let a = a.values().chunks_exact(first);
            let parts = a.zip(b.values().chunks_exact(second));
            for (y, (a, b)) in y.chunks_exact_mut(first + second).zip(parts) {
                y[..first].copy_from_slice(a);
                y[first..].copy_from_slice(b);
            }
        }
    })
}

/// See [`crate::linear`].
pub(crate) fn linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Tensor<2>,
    activate: bool,
) -> Tensor<2> {
    let ([rows, d_in], [_, d_out]) = (x.dims(), weight.dims());
    make([rows, d_out], || {
        let (x, weight) = (Source::floats(x), Source::floats(weight));
        let bias = Source::floats(bias);
        move |y| {
            for (y, bias) in y
                .chunks_exact_mut(d_out)
                .zip(bias.values().chunks_exact(d_out).cycle())
            {
                y.copy_from_slice(bias);
            }
            let (x, weight) = (
                Matrix::rows(x.values(), d_in),
                Matrix::rows(weight.values(), d_out),
            );
            multiply([rows, d_in, d_out], x, weight, y, true, Threads::One);
            if activate {
                silu(y);
            }
        }
    })
}

for_each_instruction_set! {
    fn silu(y: &mut [f32]) {
        for y in y {
            *y *= sigmoid(*y);
        }
    }
}

/// See [`crate::assign`].
///
/// # Safety
/// As there.
pub(crate) unsafe fn assign<const D: usize>(target: &Tensor<D>, source: Tensor<D>) {
    // SAFETY: the caller's promise.
    unsafe { Target::floats(target).overwrite(&Source::floats(source)) };
}

/// See [`crate::assign_integers`].
///
/// # Safety
/// As there.
pub(crate) unsafe fn assign_integers(target: &Tensor<1, Int>, source: Tensor<1, Int>) {
    // SAFETY: the caller's promise.
    unsafe { Target::integers(target).overwrite(&Source::integers(source)) };
}

/// See [`crate::rows`].
pub(crate) fn rows<const D: usize>(x: &Tensor<D>, first: usize, count: usize) -> Tensor<D> {
    x.clone().narrow(0, first, count)
}

/// The same numbers in memory of their own.
pub(crate) fn copied<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let (device, shape) = (x.device(), x.dims());
    let numbers = x.into_data().try_to_vec::<f32>();
    let numbers = numbers.expect("what is recorded is in f32");
    Tensor::from_data(TensorData::new(numbers, shape), &device)
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
