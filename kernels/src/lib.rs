//! Operations written for the hardware they run on, each beside its plain twin.
//!
//! Two operations take most of a training step on the CPU: the convolution and the group
//! normalisation with its SiLU. Burn has no weight gradient of its own for its CPU backend (it runs
//! one as a convolution with a kernel as large as the image), and composes the normalisation from a
//! dozen passes over memory. So [`conv2d`] and [`group_norm_silu`] bring their own on that backend
//! and use Burn's everywhere else.
//!
//! In a browser it is the number of launches that a GPU waits for. [`conv2d_around`],
//! [`concat_group_norm_silu`], [`attention`] and [`reverse_step`] each do in one launch what surrounds
//! an operation in the network (feature `cubecl`), and a [`Recording`] issues all launches of a step
//! at once, on the memory of a [`Resident`]. The CPU has these operations as well, and a recording of
//! them allocates nothing.
//!
//! An engine for GPUs alone leaves the feature `cpu` out, and with it everything here that is not one of
//! these kernels.
//!
//! This is the only crate with code for one backend or another. The rest of the workspace opens a device
//! and sees plain functions on tensors; [`plain`] holds the same functions in Burn's own operations: the
//! specification our own are tested against, and what runs where we have nothing better.
//!
//! Results and gradients do not depend on the number of threads or their timing.

// The backward halves have no caller without gradients.
#![cfg_attr(not(feature = "train"), allow(dead_code))]

use burn::tensor::{DType, Device, Int, Tensor};

#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cubecl")]
mod cube;
pub mod plain;
mod resident;

#[cfg(feature = "cpu")]
pub use cpu::cpu;
pub use resident::{COEFFICIENTS, Resident, ResidentShape};

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
    #[cfg(feature = "cpu")]
    if cpu::runs_on(&x) {
        return cpu::conv2d(x, weight, bias, stride, padding);
    }
    plain::conv2d(x, weight, bias, stride, padding)
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
    #[cfg(feature = "cpu")]
    if cpu::runs_on(&x) {
        return cpu::group_norm_silu(x, gamma, beta, groups, epsilon, activate);
    }
    plain::group_norm_silu(x, gamma, beta, groups, epsilon, activate)
}

/// What there is for devices without an operation of their own: with gradients, or GPUs without our kernels.
/// A build for the browser has no such device, and holds none of Burn's operations for one.
macro_rules! or_else {
    ($arguments:expr, $plain:expr) => {{
        #[cfg(any(feature = "train", all(feature = "cpu", feature = "gpu")))]
        return $plain;
        #[cfg(not(any(feature = "train", all(feature = "cpu", feature = "gpu"))))]
        not_made_for($arguments)
    }};
}

/// No device of this build leads here: a valid network asks for nothing that its kernels are not made for.
#[allow(dead_code)]
fn not_made_for<T>(_: T) -> ! {
    unreachable!("this build of `kernels` is for other devices")
}

/// u = x W + b for each row of `x`, followed by SiLU(u) if `activate`.
///
/// # Shapes
/// - `x`: `[rows, d_in]`
/// - `weight`: `[d_in, d_out]`
/// - `bias`: `[1 or rows, d_out]`
/// - result: `[rows, d_out]`
///
/// # Panics
/// If the shapes do not fit each other.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<2>, activate: bool) -> Tensor<2> {
    let ([rows, d_in], [channels, d_out]) = (x.dims(), weight.dims());
    let [bias_rows, columns] = bias.dims();
    assert!(
        d_in == channels && columns == d_out && (bias_rows == 1 || bias_rows == rows),
        "linear: {rows} rows of {d_in} numbers, a weight for {channels}, and {bias_rows} rows of bias"
    );
    #[cfg(feature = "cubecl")]
    if cube::runs_on(&x.device(), x.dtype()) {
        return cube::linear(x, weight, bias, activate);
    }
    #[cfg(feature = "cpu")]
    if cpu::computes_on(&x.device(), x.dtype()) {
        return cpu::linear(x, weight, bias, activate);
    }
    or_else!(
        (x, weight, bias, activate),
        plain::linear(x, weight, bias, activate)
    )
}

/// What surrounds a convolution in a U-Net. A GPU does it all in the launch of the convolution.
#[derive(Debug, Clone)]
pub struct Around {
    /// How often the batch is taken, once after the other.
    pub repeat: usize,
    /// Places of the input from one place of the output to the next.
    pub stride: usize,
    /// Every pixel becomes a square of so many, before the convolution.
    pub upsample: usize,
    /// Squares of so many pixels become channels, before the convolution ("space to depth").
    pub fold: usize,
    /// Channels become squares of so many pixels, last of all.
    pub unfold: usize,
    /// Added to the channels.
    pub shifts: Option<Shifts>,
    /// Added to the result.
    pub residual: Option<Tensor<4>>,
    /// Convolved with a 1 x 1 kernel and added to the result.
    pub shortcut: Option<Shortcut>,
}

impl Default for Around {
    /// Nothing but the convolution.
    fn default() -> Self {
        Self {
            repeat: 1,
            stride: 1,
            upsample: 1,
            fold: 1,
            unfold: 1,
            shifts: None,
            residual: None,
            shortcut: None,
        }
    }
}

/// A row of a table for each image, some columns of which are added to the image's channels.
#[derive(Debug, Clone)]
pub struct Shifts {
    /// `[rows, columns]`.
    pub table: Tensor<2>,
    /// Which row, `[images]`. Without, image i takes row i, or all take the only one.
    pub rows: Option<Tensor<1, Int>>,
    /// The column of the first channel.
    pub first: usize,
}

impl Shifts {
    /// Whether there is a row for each of so many images, with so many channels in it.
    fn fit(&self, images: usize, channels: usize) -> bool {
        let [lines, columns] = self.table.dims();
        let rows_fit = match &self.rows {
            Some(rows) => rows.dims() == [images],
            None => lines == 1 || lines == images,
        };
        rows_fit && self.first + channels <= columns
    }
}

/// The short way around a residual block.
#[derive(Debug, Clone)]
pub struct Shortcut {
    /// `[batch, channels, height, width]`.
    pub x: Tensor<4>,
    /// More channels of the same places.
    pub concat: Option<Tensor<4>>,
    /// `[channels_out, channels of both, 1, 1]`.
    pub weight: Tensor<4>,
}

/// [`conv2d`] with an odd kernel and a padding of half of it, and what surrounds it.
///
/// # Shapes
/// - `x`: `[batch, channels_in / fold^2, height, width]`
/// - `weight`: `[channels_out, channels_in, k, k]`
/// - `bias`: `[channels_out]`
/// - `residual`: `[batch repeat, channels_out, h_out, w_out]`, added before anything is unfolded
/// - result: `[batch repeat, channels_out / unfold^2, h_out unfold, w_out unfold]`
///
/// # Panics
/// If the shapes do not fit each other.
pub fn conv2d_around(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    around: Around,
) -> Tensor<4> {
    #[cfg(feature = "cubecl")]
    if cube::runs_on(&x.device(), x.dtype())
        && let Some(y) = cube::conv2d(&x, &weight, bias.as_ref(), &around)
    {
        return y;
    }
    #[cfg(feature = "cpu")]
    if cpu::computes_on(&x.device(), x.dtype()) {
        return cpu::conv2d_around(x, weight, bias, around);
    }
    or_else!(
        (x, weight, bias, around),
        plain::around_a_convolution(conv2d, x, weight, bias, around)
    )
}

/// [`group_norm_silu`] of the channels of `a`, then those of `b`, as one.
pub fn concat_group_norm_silu(
    a: Tensor<4>,
    b: Option<Tensor<4>>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    activate: bool,
) -> Tensor<4> {
    #[cfg(feature = "cubecl")]
    if cube::runs_on(&a.device(), a.dtype()) {
        return cube::group_norm_silu(a, b, gamma, beta, groups, epsilon, activate);
    }
    #[cfg(feature = "cpu")]
    if cpu::computes_on(&a.device(), a.dtype()) {
        return cpu::concat_group_norm_silu(a, b, gamma, beta, groups, epsilon, activate);
    }
    or_else!(
        (a, b, gamma, beta, groups, epsilon, activate),
        group_norm_silu(plain::concat(a, b), gamma, beta, groups, epsilon, activate)
    )
}

/// The channels of two tensors one after the other, for [`concat_group_norm_silu`] and
/// [`Shortcut`]: still apart on a device that joins them as it reads.
pub fn concat(a: Tensor<4>, b: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
    #[cfg(feature = "cubecl")]
    if cube::runs_on(&a.device(), a.dtype()) {
        return (a, Some(b));
    }
    #[cfg(feature = "cpu")]
    if cpu::computes_on(&a.device(), a.dtype()) {
        return (cpu::concat(a, Some(b)), None);
    }
    or_else!((a, b), (plain::concat(a, Some(b)), None))
}

/// Self-attention with one head over all places of an image, its projection, and the way around it:
/// x + W (V softmax(Q^T K / sqrt(channels))^T) + b.
///
/// # Shapes
/// - `x`, result: `[batch, channels, height, width]`
/// - `qkv`: `[batch, 3 channels, height, width]`, Q then K then V
/// - `weight`: `[channels, channels, 1, 1]`; `bias`: `[channels]`
///
/// # Panics
/// If the shapes do not fit each other.
pub fn attention(x: Tensor<4>, qkv: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let [images, channels, height, width] = x.dims();
    assert!(
        qkv.dims() == [images, 3 * channels, height, width]
            && weight.dims() == [channels, channels, 1, 1]
            && bias.dims() == [channels],
        "attention: queries, keys, values and the projection must fit x"
    );
    #[cfg(feature = "cubecl")]
    if cube::runs_on(&x.device(), x.dtype())
        && let Some(y) = cube::attention(&x, &qkv, &weight, &bias)
    {
        return y;
    }
    #[cfg(feature = "cpu")]
    if cpu::computes_on(&x.device(), x.dtype()) {
        return cpu::attention(x, qkv, weight, bias);
    }
    or_else!(
        (x, qkv, weight, bias),
        plain::attention_by(conv2d, x, qkv, weight, bias)
    )
}

/// The same weight, laid out once and for all as this device's [`conv2d_around`] with that stride
/// reads it. Nothing else may: on the CPU kernels of 3 x 3 are in Winograd's form then, and the
/// tensor has other lengths. What is laid out already stays as it is.
pub fn resident_weight(weight: Tensor<4>, stride: usize) -> Tensor<4> {
    #[cfg(feature = "cubecl")]
    if cube::runs_on(&weight.device(), weight.dtype()) {
        return cube::resident_weight(weight);
    }
    #[cfg(feature = "cpu")]
    return cpu::resident_weight(weight, stride);
    #[cfg(not(feature = "cpu"))]
    not_made_for((weight, stride))
}

/// Says whether the adapters of this process are software: a CPU that pretends to be a GPU. Threads
/// of a group take turns there, and every barrier costs more than the work between two of them: the
/// kernels then do without. The results are the same within rounding.
pub fn on_software(yes: bool) {
    #[cfg(feature = "cubecl")]
    cube::on_software(yes);
    #[cfg(not(feature = "cubecl"))]
    let _ = yes;
}

/// Whether steps can be recorded on this device, and issued again as a whole.
pub fn replays(device: &Device) -> bool {
    #[cfg(feature = "cpu")]
    if cpu::computes_on(device, DType::F32) {
        return true;
    }
    #[cfg(feature = "cubecl")]
    return cube::runs_on(device, DType::F32);
    #[cfg(not(feature = "cubecl"))]
    false
}

/// A step's last act: what the network predicts becomes the next state (see `fashion_ddpm::sampler`
/// for the equations), x_t and the predicted noise go to the log, and the counters move on.
///
/// # Shapes
/// - `prediction`: `[images, 1, height, width]`, or twice as many where guidance is on
///
/// # Panics
/// If these are others, or on a device that does not replay: there is no [`Resident`] for it.
///
/// # Safety
/// Nobody else may be reading or writing what `state` shows.
pub unsafe fn reverse_step(prediction: Tensor<4>, state: &Resident) {
    assert!(
        state.fits(prediction.dims()),
        "reverse_step: one prediction for each row of a state in step with itself"
    );
    #[cfg(feature = "cubecl")]
    if cube::runs_on(&prediction.device(), prediction.dtype()) {
        return cube::reverse_step(prediction, state);
    }
    #[cfg(feature = "cpu")]
    // SAFETY: the caller's promise.
    return unsafe { cpu::reverse_step(prediction, state) };
    #[cfg(not(feature = "cpu"))]
    not_made_for((prediction, state))
}

/// Overwrites a tensor of a [`Resident`] in place.
///
/// # Panics
/// If the shapes differ, or on a device that does not replay.
///
/// # Safety
/// Nobody else may be reading or writing this memory.
pub unsafe fn assign<const D: usize>(target: &Tensor<D>, source: Tensor<D>) {
    assert_eq!(target.dims(), source.dims(), "assign: other shapes");
    #[cfg(feature = "cubecl")]
    if cube::runs_on(&target.device(), target.dtype()) {
        return cube::assign(target, source);
    }
    #[cfg(feature = "cpu")]
    // SAFETY: the caller's promise.
    return unsafe { cpu::assign(target, source) };
    #[cfg(not(feature = "cpu"))]
    not_made_for((target, source))
}

/// [`assign`] for integers.
///
/// # Panics
/// As it does.
///
/// # Safety
/// As there.
pub unsafe fn assign_integers(target: &Tensor<1, Int>, source: Tensor<1, Int>) {
    assert_eq!(target.dims(), source.dims(), "assign: other shapes");
    #[cfg(feature = "cubecl")]
    if cube::runs_on(&target.device(), DType::F32) {
        return cube::assign_integers(target, source);
    }
    #[cfg(feature = "cpu")]
    // SAFETY: the caller's promise.
    return unsafe { cpu::assign_integers(target, source) };
    #[cfg(not(feature = "cpu"))]
    not_made_for((target, source))
}

/// Some entries of the first dimension of a [`Resident`]'s tensor: the same memory, without a launch.
///
/// # Panics
/// If there are not so many, or on a device that does not replay.
pub fn rows<const D: usize>(x: &Tensor<D>, first: usize, count: usize) -> Tensor<D> {
    #[cfg(feature = "cubecl")]
    if cube::runs_on(&x.device(), x.dtype()) {
        return cube::rows(x, first, count);
    }
    #[cfg(feature = "cpu")]
    return cpu::rows(x, first, count);
    #[cfg(not(feature = "cpu"))]
    not_made_for((x, first, count))
}

/// [`rows`] for whoever keeps them. On a GPU it is the same memory, which is read as it is when its turn
/// comes in the queue; on the CPU, where nothing waits for its turn, a copy.
///
/// # Panics
/// As it does.
pub fn shown<const D: usize>(x: &Tensor<D>, first: usize, count: usize) -> Tensor<D> {
    let rows = rows(x, first, count);
    #[cfg(feature = "cpu")]
    if cpu::computes_on(&x.device(), x.dtype()) {
        return cpu::copied(rows);
    }
    rows
}

/// The complaint of a device that does not replay.
fn cannot_record(device: &Device) -> String {
    format!("steps cannot be recorded on {device:?}")
}

/// How often work is done in earnest before it is recorded.
pub const IN_EARNEST: usize = 2;

/// A sequence of launches, or of operations, recorded once.
pub struct Recording(Graph);

enum Graph {
    #[cfg(feature = "cubecl")]
    Gpu(cube::Graph),
    #[cfg(feature = "cpu")]
    Cpu(cpu::Graph),
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").finish_non_exhaustive()
    }
}

impl Recording {
    /// Runs `work` [`IN_EARNEST`] times in earnest, so that all it needs is compiled and allocated. On a
    /// GPU it is then run on paper, so many `times`, which a replay repeats. On the CPU the last time in
    /// earnest is what is recorded, of the operations of this crate, and a replay repeats that so many times.
    ///
    /// # Errors
    /// The device's complaint. It may then refuse other recordings.
    pub fn of(device: &Device, times: usize, work: impl FnMut()) -> Result<Self, String> {
        #[cfg(feature = "cubecl")]
        if cube::runs_on(device, DType::F32) {
            return cube::Graph::capture(device, times, work).map(|graph| Self(Graph::Gpu(graph)));
        }
        #[cfg(feature = "cpu")]
        if cpu::computes_on(device, DType::F32) {
            return Ok(Self(Graph::Cpu(cpu::Graph::capture(times, work))));
        }
        let _ = (times, work);
        Err(cannot_record(device))
    }

    /// Issues the launches once more, on the memory they were recorded with.
    ///
    /// # Safety
    /// Every tensor that the recorded work did not make itself must still be alive, and no one else may be
    /// reading or writing them.
    ///
    /// # Errors
    /// The device's complaint.
    pub unsafe fn replay(&self) -> Result<(), String> {
        match &self.0 {
            #[cfg(feature = "cubecl")]
            // SAFETY: the caller's promise.
            Graph::Gpu(graph) => unsafe { graph.replay() },
            #[cfg(feature = "cpu")]
            Graph::Cpu(graph) => {
                // SAFETY: the caller's promise.
                unsafe { graph.replay() };
                Ok(())
            }
        }
    }
}
