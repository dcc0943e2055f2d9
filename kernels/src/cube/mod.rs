//! Our kernels for GPUs, through CubeCL.
//!
//! A browser charges for every launch, whatever it does, so what these kernels have in common is
//! that they do a lot in one. Each is in the file of its name, and its plain twin, which is its
//! specification, in [`crate::plain`]; this file turns tensors into launches. `examples/twins`
//! compares each with its twin.
//!
//! A launch is refused by nobody: a kernel reads where its shape says, without bounds checks of
//! its own (WebGPU has them anyway). So every function here looks at shapes first.

mod attention;
mod conv2d;
#[cfg(feature = "fusion")]
mod fused;
mod graph;
mod group_norm;
mod linear;
mod reverse_step;

use std::sync::atomic::{AtomicBool, Ordering};

use burn::{
    backend::DispatchDevice,
    tensor::{DType, Device, Int, Tensor},
};
use burn_cubecl::{Cube, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::prelude::*;

use crate::{Around, Resident, Shortcut};
#[cfg(feature = "fusion")]
use fused::{known, launched};
pub(crate) use graph::Graph;
// Without Burn's fusion its tensors are these.
#[cfg(not(feature = "fusion"))]
use std::convert::{identity as known, identity as launched};

/// Whether our kernels run on this device, for this type of number.
pub(crate) fn runs_on(device: &Device, dtype: DType) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Cube(_)) && dtype == DType::F32
}

/// Whether the adapter is software; see [`crate::on_software`].
static ALONE: AtomicBool = AtomicBool::new(false);

/// See [`crate::on_software`].
pub(crate) fn on_software(yes: bool) {
    ALONE.store(yes, Ordering::Relaxed);
}

fn alone() -> bool {
    ALONE.load(Ordering::Relaxed)
}

/// The tensor's memory, in the order of its indices.
fn memory<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    let tensor = raw(tensor);
    if tensor.is_contiguous() {
        tensor
    } else {
        burn_cubecl::kernel::into_contiguous(tensor)
    }
}

/// The same tensor, in memory as [`memory`] has it.
pub(crate) fn in_order<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    tensor(memory(x))
}

fn raw<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    let tensor = tensor.try_into_primitive::<Cube>();
    launched(tensor.expect("`runs_on` has looked at the device"))
}

fn integers(tensor: Tensor<1, Int>) -> CubeTensor {
    let tensor = tensor.try_into_primitive::<Cube>();
    launched(tensor.expect("integers live where the floats do"))
}

/// Back to Burn.
fn tensor<const D: usize>(raw: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(known(raw))
}

fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D]) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, shape.into(), DType::F32)
}

fn cubes(x: usize, y: usize, z: usize) -> CubeCount {
    CubeCount::Static(x as u32, y as u32, z as u32)
}

/// At least so many groups, for a kernel that goes by `ABSOLUTE_POS` and knows where it ends: WebGPU
/// takes so many along an axis and no more.
fn cubes_in_rows(groups: usize) -> CubeCount {
    const MOST: usize = 65_535;
    cubes(groups.min(MOST), groups.div_ceil(MOST), 1)
}

/// A kernel's weight as our convolution reads it, `[channels_in, k_h, k_w, channels_out]` in memory:
/// either it lies there already (see [`crate::resident_weight`]), or it is copied. By a kernel of ours:
/// Burn has one more to compile for almost every shape.
fn channels_last(weight: Tensor<4>) -> CubeTensor {
    let [channels_out, channels_in, k_h, k_w] = weight.dims();
    let turned = raw(weight.clone().permute([1, 2, 3, 0]));
    if turned.is_contiguous() {
        return turned;
    }
    let weight = memory(weight);
    let y = empty(&weight, [channels_in, k_h, k_w, channels_out]);
    let (rows, columns) = (channels_out, channels_in * k_h * k_w);
    let client = weight.client.clone();
    let threads = conv2d::TRANSPOSING;
    // SAFETY: both have so many rows and columns, one as columns and rows.
    unsafe {
        conv2d::transpose::launch_unchecked(
            &client,
            cubes_in_rows((rows * columns).div_ceil(threads)),
            CubeDim::new_1d(threads as u32),
            weight.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            rows as u32,
            columns as u32,
        );
    }
    y
}

/// See [`crate::resident_weight`].
pub(crate) fn resident_weight(weight: Tensor<4>) -> Tensor<4> {
    tensor::<4>(channels_last(weight)).permute([3, 0, 1, 2])
}

/// See [`crate::conv2d_around`]; `None` for a convolution that this kernel is not made for.
pub(crate) fn conv2d(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<&Tensor<1>>,
    around: &Around,
) -> Option<Tensor<4>> {
    let [channels_out, channels_in, kernel, k_w] = weight.dims();
    let [images_in, stored, height, width] = x.dims();
    let &Around {
        stride,
        upsample,
        fold,
        unfold,
        ..
    } = around;
    let seen = [height, width].map(|n| n * upsample / fold);
    let size_out = seen.map(|n| (n + 2 * (kernel / 2) - kernel) / stride + 1);
    let fits = kernel == k_w
        && kernel % 2 == 1
        && kernel <= 3
        && size_out[1].is_multiple_of(conv2d::SEGMENT)
        && size_out[1] <= 28
        && stored * fold * fold == channels_in
        && channels_out.is_multiple_of(unfold * unfold);
    let shifts = around.shifts.as_ref();
    let shortcut = around.shortcut.as_ref();
    let rows = shifts.and_then(|shifts| shifts.rows.as_ref());
    let images = images_in * around.repeat;
    if !fits {
        return None;
    }
    let channels = |x: &Tensor<4>| x.dims()[1];
    let made = [images, channels_out, size_out[0], size_out[1]];
    let is = |x: &Tensor<4>, channels: usize| x.dims() == [images, channels, made[2], made[3]];
    let around_fits = bias.is_none_or(|bias| bias.dims() == [channels_out])
        && around.residual.as_ref().is_none_or(|x| x.dims() == made)
        && shifts.is_none_or(|shifts| shifts.fit(images, channels_out))
        && shortcut.is_none_or(|Shortcut { x, concat, weight }| {
            let of_both = channels(x) + concat.as_ref().map_or(0, channels);
            is(x, channels(x))
                && concat.as_ref().is_none_or(|x| is(x, channels(x)))
                && weight.dims() == [channels_out, of_both, 1, 1]
        });
    assert!(
        around_fits,
        "conv2d: bias, shifts, residual and shortcut must fit {made:?}"
    );
    let tile = conv2d::Tile {
        channels_in,
        size_in: [height, width],
        channels_out,
        size_out,
        kernel,
        stride,
        upsample,
        fold,
        unfold,
        images_in: if around.repeat > 1 { images_in } else { 0 },
        shortcut: shortcut.map_or([0, 0], |s| {
            [channels(&s.x), s.concat.as_ref().map_or(0, channels)]
        }),
        lanes: 0,
        channels: 0,
        slices: 0,
        alone: alone(),
    }
    .cut()?;

    let x = memory(x.clone());
    let weight = channels_last(weight.clone());
    let [lines, columns] = size_out.map(|n| n * unfold);
    let y = empty(
        &x,
        [images, channels_out / (unfold * unfold), lines, columns],
    );
    let client = x.client.clone();
    let arg = |tensor: Option<CubeTensor>| tensor.map(CubeTensor::into_buffer_arg);
    let mut adds = 0;
    let mut added = |bit: u32, tensor: Option<CubeTensor>| {
        adds |= if tensor.is_some() { bit } else { 0 };
        tensor
    };
    let table = added(conv2d::SHIFTS, shifts.map(|s| memory(s.table.clone())));
    let list = added(conv2d::ROWS, rows.cloned().map(integers));
    let residual = added(conv2d::RESIDUAL, around.residual.clone().map(memory));
    // One kernel for whatever is added, so each has to be there, and x stands in for what is not. With a
    // shortcut it would be more than the eight that every WebGPU device takes.
    let some = adds != 0 && shortcut.is_none();
    let [table, list, residual] =
        [table, list, residual].map(|tensor| tensor.or_else(|| some.then(|| x.clone())));
    let of_table = conv2d::TableLaunch::new(
        shifts.map_or(1, |s| s.table.dims()[0] as u32),
        shifts.map_or(0, |s| s.table.dims()[1] as u32),
        shifts.map_or(0, |s| s.first as u32),
    );
    let (a, b, w) = match shortcut.cloned() {
        Some(Shortcut { x, concat, weight }) => (
            Some(memory(x)),
            concat.map(memory),
            Some(channels_last(weight)),
        ),
        None => (None, None, None),
    };
    // SAFETY: the shapes were looked at above.
    unsafe {
        conv2d::conv2d::launch_unchecked(
            &client,
            cubes(channels_out / tile.block(), size_out[0], images),
            CubeDim::new_1d(tile.threads() as u32),
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            arg(bias.cloned().map(memory)).into(),
            arg(table).into(),
            arg(list).into(),
            arg(residual).into(),
            arg(a).into(),
            arg(b).into(),
            arg(w).into(),
            y.clone().into_buffer_arg(),
            channels_in as u32,
            of_table,
            adds,
            tile,
        );
    }
    Some(tensor(y))
}

/// See [`crate::linear`].
pub(crate) fn linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Tensor<2>,
    activate: bool,
) -> Tensor<2> {
    let ([rows, d_in], [_, d_out]) = (x.dims(), weight.dims());
    let [bias_rows, _] = bias.dims();
    let [block_rows, most] = linear::BLOCK;
    let divides = |n: &usize| d_out.is_multiple_of(*n);
    let columns = (1..=most).rev().find(divides).unwrap_or(1);
    let threads = rows.div_ceil(block_rows) * (d_out / columns);
    let x = memory(x);
    let y = empty(&x, [rows, d_out]);
    let client = x.client.clone();
    // SAFETY: the shapes were looked at above.
    unsafe {
        linear::linear::launch_unchecked(
            &client,
            cubes_in_rows(threads.div_ceil(linear::THREADS)),
            CubeDim::new_1d(linear::THREADS as u32),
            x.into_buffer_arg(),
            memory(weight).into_buffer_arg(),
            memory(bias).into_buffer_arg(),
            y.clone().into_buffer_arg(),
            rows as u32,
            d_in as u32,
            d_out as u32,
            bias_rows as u32,
            u32::from(activate),
            columns,
        );
    }
    tensor(y)
}

/// See [`crate::concat_group_norm_silu`].
pub(crate) fn group_norm_silu(
    a: Tensor<4>,
    b: Option<Tensor<4>>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    activate: bool,
) -> Tensor<4> {
    let [images, first, height, width] = a.dims();
    let second = b.as_ref().map_or(0, |b| b.dims()[1]);
    let channels = first + second;
    let both_fit = b
        .as_ref()
        .is_none_or(|b| b.dims() == [images, second, height, width]);
    assert!(
        groups > 0
            && channels.is_multiple_of(groups)
            && [gamma.dims(), beta.dims()] == [[channels]; 2]
            && both_fit,
        "group_norm_silu: {channels} channels do not fall into {groups} equal groups, each channel \
         with its gamma and beta"
    );
    let cut = group_norm::Cut::of(groups, alone());
    let lengths = [first, second, height * width, channels / groups].map(|n| n as u32);
    let [first, second, plane, group] = lengths;
    let (a, b) = (memory(a), b.map(memory));
    let y = empty(&a, [images, channels, height, width]);
    let client = a.client.clone();
    // SAFETY: the shapes were looked at above.
    unsafe {
        group_norm::group_norm_silu::launch_unchecked(
            &client,
            cubes(groups / cut.teams, images, 1),
            CubeDim::new_1d((cut.teams * cut.team) as u32),
            a.into_buffer_arg(),
            b.map(CubeTensor::into_buffer_arg).into(),
            memory(gamma).into_buffer_arg(),
            memory(beta).into_buffer_arg(),
            y.clone().into_buffer_arg(),
            epsilon as f32,
            group_norm::LengthsLaunch::new(first, second, plane, group),
            u32::from(activate),
            cut,
        );
    }
    tensor(y)
}

/// See [`crate::attention`]; `None` where a row of scores is too long for a group of threads.
pub(crate) fn attention(
    x: &Tensor<4>,
    qkv: &Tensor<4>,
    weight: &Tensor<4>,
    bias: &Tensor<1>,
) -> Option<Tensor<4>> {
    let [images, channels, height, width] = x.dims();
    let shape = attention::Shape::cut(channels, height * width, alone())?;
    let x = memory(x.clone());
    let y = empty(&x, [images, channels, height, width]);
    let client = x.client.clone();
    // SAFETY: the shapes were looked at above.
    unsafe {
        attention::attention::launch_unchecked(
            &client,
            cubes(shape.groups(), images, 1),
            CubeDim::new_1d(shape.threads() as u32),
            x.into_buffer_arg(),
            memory(qkv.clone()).into_buffer_arg(),
            channels_last(weight.clone()).into_buffer_arg(),
            memory(bias.clone()).into_buffer_arg(),
            y.clone().into_buffer_arg(),
            1.0 / (channels as f32).sqrt(),
            shape,
        );
    }
    Some(tensor(y))
}

/// See [`crate::reverse_step`].
pub(crate) fn reverse_step(prediction: Tensor<4>, state: &Resident) {
    let [images, _, height, width] = state.x.dims();
    let guided = state.rows.dims()[0] != images;
    let [log_rows, ..] = state.log.dims();
    let [noise_rows, ..] = state.noise.dims();
    let [table_rows, columns] = state.coefficients.dims();
    let prediction = memory(prediction);
    let client = prediction.client.clone();
    let shape = reverse_step::Shape {
        images,
        pixels: height * width,
        guided,
        noise_rows,
        log_rows,
    };
    // SAFETY: all lengths have been looked at (`Resident::fits`).
    unsafe {
        reverse_step::reverse_step::launch_unchecked(
            &client,
            cubes(images, 1, 1),
            CubeDim::new_1d(reverse_step::THREADS as u32),
            prediction.into_buffer_arg(),
            raw(state.coefficients.clone()).into_buffer_arg(),
            raw(state.noise.clone()).into_buffer_arg(),
            raw(state.x.clone()).into_buffer_arg(),
            raw(state.previous.clone()).into_buffer_arg(),
            integers(state.rows.clone()).into_buffer_arg(),
            raw(state.log.clone()).into_buffer_arg(),
            columns,
            table_rows,
            shape,
        );
    }
}

/// Overwrites `target` in place, wherever else it is in use: by a captured graph, for example.
pub(crate) fn assign<const D: usize>(target: &Tensor<D>, source: Tensor<D>) {
    copy(raw(target.clone()), memory(source));
}

/// [`assign`] for integers.
pub(crate) fn assign_integers(target: &Tensor<1, Int>, source: Tensor<1, Int>) {
    copy(integers(target.clone()), integers(source));
}

fn copy(target: CubeTensor, source: CubeTensor) {
    let length = target.meta.shape().iter().product::<usize>();
    let client = target.client.clone();
    let threads = reverse_step::THREADS;
    // SAFETY: both have this length.
    unsafe {
        reverse_step::assign::launch_unchecked(
            &client,
            cubes_in_rows(length.div_ceil(threads)),
            CubeDim::new_1d(threads as u32),
            source.into_buffer_arg(),
            target.into_buffer_arg(),
            length as u32,
        );
    }
}

/// Some of the first dimension's entries, without a launch: the same memory, from elsewhere on.
pub(crate) fn rows<const D: usize>(x: &Tensor<D>, first: usize, count: usize) -> Tensor<D> {
    let dims = x.dims();
    assert!(first + count <= dims[0], "rows: there are {}", dims[0]);
    let whole = raw(x.clone());
    let row = dims[1..].iter().product::<usize>() * 4;
    let handle = whole
        .handle
        .clone()
        .offset_start((first * row) as u64)
        .offset_end(((dims[0] - first - count) * row) as u64);
    let mut shape = dims;
    shape[0] = count;
    tensor(CubeTensor::new_contiguous(
        whole.client,
        whole.device,
        shape.into(),
        handle,
        DType::F32,
    ))
}

/// So many values that follow each other, under names of their own: software would look each up in an
/// array.
#[cube]
fn neighbours(x: &[f32], first: usize, #[comptime] count: usize) -> Sequence<f32> {
    let mut found = Sequence::<f32>::new();
    #[unroll]
    for i in 0..count {
        found.push(x[first + i]);
    }
    found
}

/// Sums to begin with.
#[cube]
fn zeros(#[comptime] length: usize) -> Array<f32> {
    let mut zeros = Array::<f32>::new(length);
    #[unroll]
    for i in 0..length {
        zeros[i] = 0.0f32;
    }
    zeros
}

/// The same sums, laid down where a loop finds them: what it does with them is compiled once then, and
/// not for each of them.
#[cube]
fn laid(sums: &Array<f32>, #[comptime] length: usize) -> Array<f32> {
    let mut laid = Array::<f32>::new(length);
    #[unroll]
    for i in 0..length {
        laid[i] = sums[i];
    }
    laid
}
