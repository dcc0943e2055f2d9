//! The network that tells noise from cloth.
//!
//! A small U-Net (Ho et al. 2020, appendix B) that works on the image folded 2 x 2: `[1, 28, 28]`
//! becomes `[4, 14, 14]` without losing a pixel, and no convolution ever runs at full resolution.
//! Residual blocks and self-attention at 7 x 7 and in the middle; every block on the way down hands
//! its output to its mirror image on the way up. Timestep and garment enter as one vector a block,
//! added to its channels; at sampling time these vectors are a table with one row a timestep, and
//! the embedding layers need not run at all.

use std::{fmt, sync::OnceLock};

use burn::{
    module::{Initializer, Module, Param, ParamId},
    nn::{
        Embedding, EmbeddingConfig, Linear, LinearConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Int, Tensor, TensorData},
};
use kernels::{Around, Shifts, Shortcut};
use serde::{Deserialize, Serialize};

use crate::{Garment, GaussianDiffusion, PredictNoise, sampler::Step};

/// Width of the sinusoidal embedding of t, and of the vector made of it and the label.
const SINUSOIDAL: usize = 64;
const EMBEDDING: usize = 256;

/// Epsilon of every group normalisation.
const EPSILON: f64 = 1e-5;

/// The shape of a [`UNet`]; stored with the weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNetConfig {
    /// Width and height of an image.
    pub image_size: usize,
    /// Side of the squares of pixels folded into channels by the stem.
    pub pixel_unshuffle: usize,
    /// Channels of each resolution, each half the one before.
    pub channels: Vec<usize>,
    /// Residual blocks a resolution, on the way down and on the way up.
    pub blocks: usize,
    /// Whether there is self-attention at each resolution.
    pub attention: Vec<bool>,
    /// Groups of the group normalisation.
    pub groups: usize,
    /// Labels, not counting the null label.
    pub classes: usize,
}

impl Default for UNetConfig {
    /// The network the page ships.
    fn default() -> Self {
        Self {
            image_size: 28,
            pixel_unshuffle: 2,
            channels: vec![64, 64],
            blocks: 1,
            attention: vec![false, true],
            groups: 8,
            classes: 10,
        }
    }
}

/// A part of a forward pass that is one launch on a GPU: a kernel of `kernels`, and its lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `conv2d_around`.
    Convolution {
        /// In and out.
        channels: [usize; 2],
        /// Of the images it reads and of those it makes.
        widths: [usize; 2],
        /// Width of the kernel.
        kernel: usize,
        /// Whether the block's input is added.
        residual: bool,
        /// Channels of the block's input that are convolved 1 x 1 and added; 0 where none are.
        shortcut: usize,
    },
    /// `concat_group_norm_silu`.
    Norm {
        /// Of all inputs together.
        channels: usize,
        /// Of the images.
        width: usize,
    },
    /// `attention`.
    Attention {
        /// Of the images; queries, keys and values have three times as many.
        channels: usize,
        /// Of the images.
        width: usize,
    },
}

impl Part {
    /// The name of the kernel.
    pub fn kernel(&self) -> &'static str {
        match self {
            Self::Convolution { .. } => "conv2d",
            Self::Norm { .. } => "group_norm_silu",
            Self::Attention { .. } => "attention",
        }
    }

    /// Multiplications for one image; a normalisation's few are not counted.
    pub fn multiplications(&self) -> u64 {
        let count = match *self {
            Self::Convolution {
                channels: [channels_in, channels_out],
                widths: [_, width],
                kernel,
                shortcut,
                ..
            } => (channels_in * kernel.pow(2) + shortcut) * channels_out * width.pow(2),
            Self::Norm { .. } => 0,
            // Scores and mixture, a product of all places with all places each, and the projection.
            Self::Attention { channels, width } => {
                (2 * width.pow(2) + channels) * channels * width.pow(2)
            }
        };
        count as u64
    }

    /// Weights and biases.
    pub fn weights(&self) -> u64 {
        let count = match *self {
            Self::Convolution {
                channels: [channels_in, channels_out],
                kernel,
                shortcut,
                ..
            } => (channels_in * kernel.pow(2) + shortcut + 1) * channels_out,
            Self::Norm { channels, .. } => 2 * channels,
            Self::Attention { channels, .. } => (channels + 1) * channels,
        };
        count as u64
    }

    /// Values that it reads and writes for one image, each once.
    pub fn values(&self) -> u64 {
        let count = match *self {
            Self::Convolution {
                channels: [channels_in, channels_out],
                widths: [width_in, width],
                residual,
                shortcut,
                ..
            } => {
                let added = if residual { channels_out } else { shortcut };
                channels_in * width_in.pow(2) + (channels_out + added) * width.pow(2)
            }
            Self::Norm { channels, width } => 2 * channels * width.pow(2),
            // The image, queries, keys and values, and the result.
            Self::Attention { channels, width } => 5 * channels * width.pow(2),
        };
        count as u64
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.kernel();
        match self {
            Self::Convolution {
                channels: [channels_in, channels_out],
                widths: [width_in, width],
                kernel,
                residual,
                shortcut,
            } => {
                write!(
                    f,
                    "{name} {kernel} x {kernel}, {channels_in} to {channels_out} at {width} x {width}"
                )?;
                if width_in > width {
                    write!(f, ", halving")?;
                }
                if width_in < width {
                    write!(f, ", doubling")?;
                }
                if *residual {
                    write!(f, ", residual")?;
                }
                if *shortcut > 0 {
                    write!(f, ", shortcut of {shortcut}")?;
                }
                Ok(())
            }
            Self::Norm { channels, width } | Self::Attention { channels, width } => {
                write!(f, "{name} {channels} at {width} x {width}")
            }
        }
    }
}

/// Why there is no such network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no U-Net: {0}")]
pub struct ConfigError(String);

impl UNetConfig {
    /// Whether a network can be built, in a size that is not absurd.
    ///
    /// # Errors
    /// [`ConfigError`] names the first number that does not fit.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let levels = self.channels.len();
        let refuse = |reason: String| Err(ConfigError(reason));
        if self.image_size != crate::noise::IMAGE_SIZE {
            return refuse(format!(
                "images are 28 pixels wide, not {}",
                self.image_size
            ));
        }
        if self.classes != Garment::ALL.len() {
            return refuse(format!("there are 10 garments, not {}", self.classes));
        }
        if !(1..=4).contains(&levels) || self.attention.len() != levels {
            return refuse(format!(
                "1 to 4 resolutions with one attention switch each, not {levels} with {}",
                self.attention.len()
            ));
        }
        if !(1..=8).contains(&self.blocks) {
            return refuse(format!("1 to 8 blocks a resolution, not {}", self.blocks));
        }
        if !(1..=64).contains(&self.groups) {
            return refuse(format!("1 to 64 groups, not {}", self.groups));
        }
        for &channels in &self.channels {
            if !(1..=1024).contains(&channels) || !channels.is_multiple_of(self.groups) {
                return refuse(format!(
                    "channels are 1 to 1024 and a multiple of the {} groups, not {channels}",
                    self.groups
                ));
            }
        }
        let fold = self.pixel_unshuffle;
        if !(1..=4).contains(&fold) || !self.image_size.is_multiple_of(fold << (levels - 1)) {
            return refuse(format!(
                "{} pixels do not divide into squares of {fold} and {} halvings",
                self.image_size,
                levels - 1
            ));
        }
        Ok(())
    }

    /// Multiplications of a forward pass of one image, in convolutions and attention. The embedding
    /// is not counted: at sampling time it is a table.
    pub fn multiplications(&self) -> u64 {
        self.parts().iter().map(Part::multiplications).sum()
    }

    /// Launches of a step of sampling with our own kernels on a GPU, without guidance: one for each
    /// part, and the reverse step.
    pub fn launches(&self) -> usize {
        self.parts().len() + 1
    }

    /// What a forward pass consists of, in order. A shortcut's 1 x 1 convolution, a concatenation
    /// and a doubling are part of what reads them.
    pub fn parts(&self) -> Vec<Part> {
        let conv = |channels_in, channels_out, widths: [usize; 2]| Part::Convolution {
            channels: [channels_in, channels_out],
            widths,
            kernel: 3,
            residual: false,
            shortcut: 0,
        };
        let block = |channels_in, channels, attended, width| {
            let changes = channels_in != channels;
            let attention = [
                Part::Norm { channels, width },
                Part::Convolution {
                    channels: [channels, 3 * channels],
                    widths: [width; 2],
                    kernel: 1,
                    residual: false,
                    shortcut: 0,
                },
                Part::Attention { channels, width },
            ];
            let residual = [
                Part::Norm {
                    channels: channels_in,
                    width,
                },
                conv(channels_in, channels, [width; 2]),
                Part::Norm { channels, width },
                Part::Convolution {
                    channels: [channels; 2],
                    widths: [width; 2],
                    kernel: 3,
                    residual: !changes,
                    shortcut: if changes { channels_in } else { 0 },
                },
            ];
            let attention = attention.into_iter().filter(move |_| attended);
            residual.into_iter().chain(attention)
        };
        let folded = self.pixel_unshuffle.pow(2);
        let first = self.image_size / self.pixel_unshuffle;
        let mut channels = self.channels[0];
        let mut parts = vec![conv(folded, channels, [first; 2])];
        let mut skips = Vec::new();
        for (level, &level_channels) in self.channels.iter().enumerate() {
            let width = first >> level;
            for _ in 0..self.blocks {
                let attended = self.attention[level];
                parts.extend(block(channels, level_channels, attended, width));
                channels = level_channels;
                skips.push(channels);
            }
            if level + 1 < self.channels.len() {
                parts.push(conv(channels, channels, [width, width / 2]));
            }
        }
        let last = first >> (self.channels.len() - 1);
        parts.extend(block(channels, channels, true, last));
        parts.extend(block(channels, channels, false, last));
        for (level, &level_channels) in self.channels.iter().enumerate().rev() {
            let width = first >> level;
            for _ in 0..self.blocks {
                let both = channels + skips.pop().unwrap_or_default();
                let attended = self.attention[level];
                parts.extend(block(both, level_channels, attended, width));
                channels = level_channels;
            }
            if level > 0 {
                parts.push(conv(channels, channels, [width, 2 * width]));
            }
        }
        parts.push(Part::Norm {
            channels,
            width: first,
        });
        parts.push(conv(channels, folded, [first; 2]));
        parts
    }

    /// A network with fresh weights, whose first prediction is zero.
    ///
    /// # Panics
    /// Where [`Self::validate`] would refuse.
    pub fn init(&self, device: &Device) -> UNet {
        self.build::<Random>(device)
    }

    /// A network whose convolutions and embeddings are all zero, for others to take their place.
    ///
    /// # Panics
    /// Where [`Self::validate`] would refuse.
    pub fn zeroed(&self, device: &Device) -> UNet {
        self.build::<Zeroed>(device)
    }

    fn build<B: Beginning>(&self, device: &Device) -> UNet {
        self.validate().expect("validated by whoever read it");
        let mut planner = Planner {
            groups: self.groups,
            shifts: 0,
            device,
        };
        let folded = self.pixel_unshuffle.pow(2);
        let stem = conv::<B>(folded, self.channels[0], 3, 1, Init::Kaiming, device);
        let mut channels = self.channels[0];
        let mut skips = Vec::new();
        let mut down = Vec::new();
        for (level, &width) in self.channels.iter().enumerate() {
            let mut blocks = Vec::new();
            for _ in 0..self.blocks {
                blocks.push(planner.block::<B>(channels, width, self.attention[level]));
                channels = width;
                skips.push(channels);
            }
            let resample = (level + 1 < self.channels.len())
                .then(|| conv::<B>(width, width, 3, 2, Init::Kaiming, device));
            down.push(Level { blocks, resample });
        }
        let middle = vec![
            planner.block::<B>(channels, channels, true),
            planner.block::<B>(channels, channels, false),
        ];
        let mut up = Vec::new();
        for (level, &width) in self.channels.iter().enumerate().rev() {
            let mut blocks = Vec::new();
            for _ in 0..self.blocks {
                let skip = skips.pop().expect("as many ways up as down");
                blocks.push(planner.block::<B>(channels + skip, width, self.attention[level]));
                channels = width;
            }
            let resample =
                (level > 0).then(|| conv::<B>(width, width, 3, 1, Init::Kaiming, device));
            up.push(Level { blocks, resample });
        }
        UNet {
            embed_time_in: B::linear(LinearConfig::new(SINUSOIDAL, EMBEDDING), device),
            embed_time_out: B::linear(LinearConfig::new(EMBEDDING, EMBEDDING), device),
            embed_label: B::embedding(EmbeddingConfig::new(self.classes + 1, EMBEDDING), device),
            embed_shifts: B::linear(LinearConfig::new(EMBEDDING, planner.shifts), device),
            stem,
            down,
            middle,
            up,
            head_norm: Norm::new(channels, self.groups, device),
            head: conv::<B>(channels, folded, 3, 1, Init::Zeros, device),
            pixel_unshuffle: self.pixel_unshuffle,
        }
    }
}

/// How a convolution starts. Zero where a branch is to begin as the identity or the answer as 0.
enum Init {
    Kaiming,
    Zeros,
}

fn conv<B: Beginning>(
    channels_in: usize,
    channels_out: usize,
    kernel: usize,
    stride: usize,
    init: Init,
    device: &Device,
) -> Conv2d {
    let config = Conv2dConfig::new([channels_in, channels_out], [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(
            kernel / 2,
            kernel / 2,
            kernel / 2,
            kernel / 2,
        ));
    let config = match init {
        Init::Kaiming => config,
        Init::Zeros => config.with_initializer(Initializer::Zeros),
    };
    B::conv(config, device)
}

/// What a network begins with.
trait Beginning {
    fn conv(config: Conv2dConfig, device: &Device) -> Conv2d;
    fn linear(config: LinearConfig, device: &Device) -> Linear;
    fn embedding(config: EmbeddingConfig, device: &Device) -> Embedding;
}

/// What Burn's layers begin with, for training.
struct Random;

impl Beginning for Random {
    fn conv(config: Conv2dConfig, device: &Device) -> Conv2d {
        config.init(device)
    }

    fn linear(config: LinearConfig, device: &Device) -> Linear {
        config.init(device)
    }

    fn embedding(config: EmbeddingConfig, device: &Device) -> Embedding {
        config.init(device)
    }
}

/// Zeros, made where they are read. A program that only reads weights then holds none of Burn's ways to
/// begin, nor the random numbers, sums and matrix products that these need: two fifths of the page's
/// engine for GPUs.
struct Zeroed;

impl Beginning for Zeroed {
    fn conv(config: Conv2dConfig, device: &Device) -> Conv2d {
        let [channels_in, channels_out] = config.channels;
        let [height, width] = config.kernel_size;
        Conv2d {
            weight: zeros([channels_out, channels_in, height, width], device),
            bias: Some(zeros([channels_out], device)),
            stride: config.stride,
            kernel_size: config.kernel_size,
            dilation: config.dilation,
            groups: config.groups,
            padding: config.padding,
        }
    }

    fn linear(config: LinearConfig, device: &Device) -> Linear {
        Linear {
            weight: zeros([config.d_input, config.d_output], device),
            bias: Some(zeros([config.d_output], device)),
        }
    }

    fn embedding(config: EmbeddingConfig, device: &Device) -> Embedding {
        Embedding {
            weight: zeros([config.n_embedding, config.d_model], device),
        }
    }
}

fn zeros<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    constant(shape, 0.0, device)
}

/// A parameter that is this number everywhere, made where it is read.
fn constant<const D: usize>(shape: [usize; D], value: f32, device: &Device) -> Param<Tensor<D>> {
    let make = move |device: &Device, gradients: bool| {
        // Not filled by the device: a GPU would have a kernel to compile for that.
        let tensor = Tensor::from_data(TensorData::full(shape, value), device);
        if gradients {
            tensor.require_grad()
        } else {
            tensor
        }
    };
    Param::uninitialized(ParamId::new(), make, device.clone(), true, shape.into())
}

/// Runs a layer made by [`conv`], with its stride and what surrounds it.
fn run(layer: &Conv2d, x: Tensor<4>, around: Around) -> Tensor<4> {
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    let stride = layer.stride[0];
    kernels::conv2d_around(x, layer.weight.val(), bias, Around { stride, ..around })
}

/// The same layer, its weight where this device's convolution reads it.
fn resident(layer: &Conv2d) -> Conv2d {
    let mut layer = layer.clone();
    let stride = layer.stride[0];
    layer.weight = layer
        .weight
        .map(|weight| kernels::resident_weight(weight, stride));
    layer
}

/// Hands each block its place in the vector of shifts.
struct Planner<'a> {
    groups: usize,
    shifts: usize,
    device: &'a Device,
}

impl Planner<'_> {
    fn block<B: Beginning>(
        &mut self,
        channels_in: usize,
        channels_out: usize,
        attention: bool,
    ) -> Block {
        let shift = self.shifts;
        self.shifts += channels_out;
        let (groups, device) = (self.groups, self.device);
        Block {
            norm_in: Norm::new(channels_in, groups, device),
            conv_in: conv::<B>(channels_in, channels_out, 3, 1, Init::Kaiming, device),
            norm_out: Norm::new(channels_out, groups, device),
            conv_out: conv::<B>(channels_out, channels_out, 3, 1, Init::Zeros, device),
            skip: (channels_in != channels_out)
                .then(|| conv::<B>(channels_in, channels_out, 1, 1, Init::Kaiming, device)),
            attention: attention.then(|| Attention {
                norm: Norm::new(channels_out, groups, device),
                qkv: conv::<B>(channels_out, 3 * channels_out, 1, 1, Init::Kaiming, device),
                out: conv::<B>(channels_out, channels_out, 1, 1, Init::Zeros, device),
            }),
            shift,
        }
    }
}

/// Group normalisation with an affine map.
#[derive(Module, Debug)]
struct Norm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
}

impl Norm {
    fn new(channels: usize, groups: usize, device: &Device) -> Self {
        Self {
            gamma: constant([channels], 1.0, device),
            beta: zeros([channels], device),
            groups,
        }
    }

    fn forward(&self, x: Tensor<4>, concat: Option<Tensor<4>>, activate: bool) -> Tensor<4> {
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        kernels::concat_group_norm_silu(x, concat, gamma, beta, self.groups, EPSILON, activate)
    }
}

/// Residual block: x + conv(silu(norm(conv(silu(norm(x))) + shift))), attention after it where
/// there is any.
#[derive(Module, Debug)]
struct Block {
    norm_in: Norm,
    conv_in: Conv2d,
    norm_out: Norm,
    conv_out: Conv2d,
    skip: Option<Conv2d>,
    attention: Option<Attention>,
    /// Where this block's shifts begin in the vector of all.
    #[module(skip)]
    shift: usize,
}

impl Block {
    /// # Shapes
    /// - `x`, `concat`: `[batch, channels, h, w]`, `channels_in` together
    /// - `shifts`: a row an image, of the channels of all blocks
    fn forward(&self, x: Tensor<4>, concat: Option<Tensor<4>>, shifts: &Shifts) -> Tensor<4> {
        let shifts = Shifts {
            first: self.shift,
            ..shifts.clone()
        };
        let h = self.norm_in.forward(x.clone(), concat.clone(), true);
        let around = Around {
            shifts: Some(shifts),
            ..Around::default()
        };
        let h = run(&self.conv_in, h, around);
        let h = self.norm_out.forward(h, None, true);
        let (residual, shortcut) = match &self.skip {
            Some(skip) => {
                let weight = skip.weight.val();
                (None, Some(Shortcut { x, concat, weight }))
            }
            None => (Some(x), None),
        };
        let around = Around {
            residual,
            shortcut,
            ..Around::default()
        };
        let x = kernels::conv2d_around(h, self.conv_out.weight.val(), self.bias_out(), around);
        match &self.attention {
            Some(attention) => attention.forward(x),
            None => x,
        }
    }

    /// The biases of the two ways through the block, which meet in the end.
    fn bias_out(&self) -> Option<Tensor<1>> {
        let bias = |layer: &Conv2d| layer.bias.as_ref().map(|bias| bias.val());
        let ways = [bias(&self.conv_out), self.skip.as_ref().and_then(bias)];
        ways.into_iter().flatten().reduce(|a, b| a + b)
    }

    /// See [`UNet::resident`].
    fn resident(&self) -> Self {
        let mut block = self.clone();
        block.conv_in = resident(&self.conv_in);
        block.conv_out = resident(&self.conv_out);
        block.conv_out.bias = self.bias_out().map(Param::from_tensor);
        if let Some(skip) = &mut block.skip {
            *skip = resident(skip);
            skip.bias = None;
        }
        if let Some(attention) = &mut block.attention {
            attention.qkv = resident(&attention.qkv);
            attention.out = resident(&attention.out);
        }
        block
    }
}

/// Self-attention with one head over all places of the image.
#[derive(Module, Debug)]
struct Attention {
    norm: Norm,
    qkv: Conv2d,
    out: Conv2d,
}

impl Attention {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let normal = self.norm.forward(x.clone(), None, false);
        let qkv = run(&self.qkv, normal, Around::default());
        let bias = self.out.bias.as_ref().expect("every layer has a bias");
        kernels::attention(x, qkv, self.out.weight.val(), bias.val())
    }
}

/// The blocks of one resolution, and the way to the next one.
#[derive(Module, Debug)]
struct Level {
    blocks: Vec<Block>,
    resample: Option<Conv2d>,
}

/// epsilon_theta(x_t, t, label): the noise in a noisy image (or v, see
/// [`Prediction`](crate::Prediction)).
#[derive(Module, Debug)]
pub struct UNet {
    embed_time_in: Linear,
    embed_time_out: Linear,
    embed_label: Embedding,
    embed_shifts: Linear,
    stem: Conv2d,
    down: Vec<Level>,
    middle: Vec<Block>,
    up: Vec<Level>,
    head_norm: Norm,
    head: Conv2d,
    #[module(skip)]
    pixel_unshuffle: usize,
}

impl UNet {
    /// The noise in each image.
    ///
    /// # Shapes
    /// - `x_t`, result: `[batch, 1, 28, 28]`
    /// - `t`, `labels`: one entry an image; t is 0-based, `None` is the null label
    pub fn forward(&self, x_t: Tensor<4>, t: &[usize], labels: &[Option<Garment>]) -> Tensor<4> {
        let shifts = self.shifts(t, labels);
        self.forward_shifted(x_t, shifts)
    }

    /// Channels of all blocks: the columns of [`Self::shifts`].
    pub fn channels(&self) -> usize {
        let [_, channels] = self.embed_shifts.weight.dims();
        channels
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.embed_shifts.weight.lazy_device()
    }

    /// The embedding of timesteps and labels: what is added to the channels of all blocks, one
    /// row an entry, shape `[t.len(), channels of all blocks]`.
    pub fn shifts(&self, t: &[usize], labels: &[Option<Garment>]) -> Tensor<2> {
        let device = self.device();
        let labels = self.label_rows(labels, &device);
        let time = linear(&self.embed_time_in, sinusoidal(t, &device), None, true);
        let both = linear(&self.embed_time_out, time, Some(labels), true);
        linear(&self.embed_shifts, both, None, false)
    }

    /// The embeddings of labels, a row each; one row where all are the same.
    fn label_rows(&self, labels: &[Option<Garment>], device: &Device) -> Tensor<2> {
        let row = |label: &Option<Garment>| label.map_or(Garment::ALL.len(), Garment::label);
        let rows: Vec<i32> = labels.iter().map(|label| row(label) as i32).collect();
        match rows[..] {
            [first, ..] if rows.iter().all(|row| *row == first) => {
                let row = first as usize;
                self.embed_label.weight.val().narrow(0, row, 1)
            }
            _ => {
                let count = rows.len();
                let rows = Tensor::<2, Int>::from_data(TensorData::new(rows, [1, count]), device);
                self.embed_label.forward(rows).reshape([count, EMBEDDING])
            }
        }
    }

    /// [`Self::forward`] with the embedding at hand; one row of it serves a whole batch.
    ///
    /// # Shapes
    /// - `x_t`, result: `[batch, 1, 28, 28]`
    /// - `shifts`: `[batch or 1, channels of all blocks]`, from [`Self::shifts`]
    pub fn forward_shifted(&self, x_t: Tensor<4>, shifts: Tensor<2>) -> Tensor<4> {
        self.forward_rows(x_t, shifts, None)
    }

    /// [`Self::forward_shifted`] with a whole table of embeddings, and for each image the number of
    /// its row, which the device alone needs to know. Where there are more rows than images, the
    /// images are taken several times: `[rows, 1, 28, 28]` is the result.
    pub fn forward_rows(
        &self,
        x_t: Tensor<4>,
        table: Tensor<2>,
        rows: Option<Tensor<1, Int>>,
    ) -> Tensor<4> {
        let [batch, ..] = x_t.dims();
        let repeat = rows.as_ref().map_or(1, |rows| rows.dims()[0] / batch);
        let shifts = Shifts {
            table,
            rows,
            first: 0,
        };
        let fold = self.pixel_unshuffle;
        let around = Around {
            repeat,
            fold,
            ..Around::default()
        };
        let mut x = run(&self.stem, x_t, around);
        let mut skips = Vec::new();
        for level in &self.down {
            for block in &level.blocks {
                x = block.forward(x, None, &shifts);
                skips.push(x.clone());
            }
            if let Some(halve) = &level.resample {
                x = run(halve, x, Around::default());
            }
        }
        for block in &self.middle {
            x = block.forward(x, None, &shifts);
        }
        for level in &self.up {
            for block in &level.blocks {
                let skip = skips.pop().expect("as many ways up as down");
                let (both, concat) = kernels::concat(x, skip);
                x = block.forward(both, concat, &shifts);
            }
            if let Some(double) = &level.resample {
                let around = Around {
                    upsample: 2,
                    ..Around::default()
                };
                x = run(double, x, around);
            }
        }
        let x = self.head_norm.forward(x, None, true);
        let around = Around {
            unfold: fold,
            ..Around::default()
        };
        run(&self.head, x, around)
    }

    /// The same network, laid out for sampling: weights as this device reads them, and biases that
    /// are only ever added to each other summed once.
    pub fn resident(&self) -> Self {
        let blocks = |blocks: &[Block]| blocks.iter().map(Block::resident).collect();
        let levels = |levels: &[Level]| {
            let level = |level: &Level| Level {
                blocks: blocks(&level.blocks),
                resample: level.resample.as_ref().map(resident),
            };
            levels.iter().map(level).collect()
        };
        Self {
            stem: resident(&self.stem),
            down: levels(&self.down),
            middle: blocks(&self.middle),
            up: levels(&self.up),
            head: resident(&self.head),
            ..self.clone()
        }
    }
}

/// Runs a layer; `added` to what it makes, for each row, before SiLU if `activate`.
fn linear(layer: &Linear, x: Tensor<2>, added: Option<Tensor<2>>, activate: bool) -> Tensor<2> {
    let bias = layer.bias.as_ref().expect("every layer has a bias");
    let bias = bias.val().unsqueeze::<2>();
    let bias = match added {
        Some(added) => added + bias,
        None => bias,
    };
    kernels::linear(x, layer.weight.val(), bias, activate)
}

/// The embedding of t (Vaswani et al. 2017, section 3.5): sines, then cosines, of t at frequencies
/// 10000^(-i / 32) for i in 0..32. Shape `[t.len(), 64]`.
fn sinusoidal(t: &[usize], device: &Device) -> Tensor<2> {
    let half = SINUSOIDAL / 2;
    let angle = |t: usize, i: usize| t as f64 * 10_000f64.powf(-(i as f64) / half as f64);
    let values: Vec<f32> = t
        .iter()
        .flat_map(|&t| {
            let sines = (0..half).map(move |i| angle(t, i).sin() as f32);
            sines.chain((0..half).map(move |i| angle(t, i).cos() as f32))
        })
        .collect();
    Tensor::from_data(TensorData::new(values, [t.len(), SINUSOIDAL]), device)
}

/// The network at sampling time: one garment, and classifier-free guidance.
#[derive(Debug, Clone)]
pub struct Denoiser {
    unet: UNet,
    timesteps: usize,
    garment: Option<Garment>,
    /// w, where guidance is on.
    guidance_scale: Option<f64>,
    /// Shifts of every timestep, with the garment's label and, where guidance is on, without.
    tables: OnceLock<(Tensor<2>, Option<Tensor<2>>)>,
    /// What makes noise of the network's answers, where they are none.
    diffusion: Option<GaussianDiffusion>,
}

impl Denoiser {
    /// Prepares `unet`, which tells the noise, for T = `timesteps`. See
    /// [`Weights::denoiser`](crate::weights::Weights::denoiser) for what a file holds.
    ///
    /// With a garment and a `guidance_scale` w other than 1, the prediction is
    /// (1 - w) epsilon(x_t, no label) + w epsilon(x_t, garment), two passes of the network
    /// (Ho & Salimans 2022, equation 6, where their w is this w - 1).
    pub fn new(
        unet: UNet,
        timesteps: usize,
        garment: Option<Garment>,
        guidance_scale: f64,
    ) -> Self {
        let guided = garment.is_some() && guidance_scale != 1.0;
        Self {
            unet: unet.resident(),
            timesteps,
            garment,
            guidance_scale: guided.then_some(guidance_scale),
            tables: OnceLock::new(),
            diffusion: None,
        }
    }

    /// Whether guidance is on: then every step asks the network twice.
    pub fn is_guided(&self) -> bool {
        self.guidance_scale.is_some()
    }

    /// Whether the network is asked twice, and how much the label then counts.
    pub(crate) fn guidance_scale(&self) -> Option<f64> {
        self.guidance_scale
    }

    /// How the noise of a step is made: the weights of the network's answer and of x_t.
    pub(crate) fn noise_weights(&self, step: &Step) -> [f64; 2] {
        match self.diffusion {
            None => [1.0, 0.0],
            Some(_) => [step.sqrt_alpha_cumprod, step.sqrt_one_minus_alpha_cumprod],
        }
    }

    /// The embedding of these timesteps with the garment's label or, as the other answer that guidance
    /// needs, without any; a row each.
    pub(crate) fn rows(&self, t: &[usize], labelled: bool) -> Tensor<2> {
        let label = self.garment.filter(|_| labelled);
        self.unet.shifts(t, &vec![label; t.len()])
    }

    /// The same for a network that was trained with `diffusion`, and may tell something else.
    pub fn trained_with(mut self, diffusion: &GaussianDiffusion) -> Self {
        self.diffusion = (!diffusion.prediction.is_noise()).then(|| diffusion.clone());
        self
    }
}

impl PredictNoise for Denoiser {
    fn predict(&self, x_t: Tensor<4>, t: usize) -> Tensor<4> {
        // By the numbers of their rows, as a recorded step: on a GPU these are the same kernels.
        let [batch, ..] = x_t.dims();
        let rows = TensorData::new(vec![t as i32; batch], [batch]);
        let rows = Tensor::<1, Int>::from_data(rows, &x_t.device());
        let ask = |table: &Tensor<2>| {
            let (x_t, table, rows) = (x_t.clone(), table.clone(), rows.clone());
            self.unet.forward_rows(x_t, table, Some(rows))
        };
        let (labelled, free) = self.tables.get_or_init(|| {
            let all: Vec<usize> = (0..self.timesteps).collect();
            let free = self.guidance_scale.map(|_| self.rows(&all, false));
            (self.rows(&all, true), free)
        });
        let answer = match (free, self.guidance_scale) {
            (Some(free), Some(scale)) => ask(free) * (1.0 - scale) + ask(labelled) * scale,
            _ => ask(labelled),
        };
        // Guidance mixes answers, and the noise is linear in them: mixed first or last is the same.
        match &self.diffusion {
            None => answer,
            Some(diffusion) => diffusion.pred_noise(answer, x_t, t),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::gaussian_batch;

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data_as::<f32>().try_to_vec::<f32>().unwrap()
    }

    #[test]
    fn a_fresh_network_predicts_nothing_in_every_shape_allowed() {
        let device = kernels::cpu();
        let x = gaussian_batch(2, 0..2, 0, 0, &device);
        for (pixel_unshuffle, channels, blocks, attention) in [
            (2, vec![64, 64], 1, vec![false, true]),
            (1, vec![8, 16, 16], 2, vec![false, false, true]),
            (4, vec![16], 1, vec![true]),
        ] {
            let config = UNetConfig {
                pixel_unshuffle,
                channels,
                blocks,
                attention,
                ..UNetConfig::default()
            };
            let y = config
                .init(&device)
                .forward(x.clone(), &[0, 999], &[None, Some(Garment::Bag)]);
            assert_eq!(y.dims(), [2, 1, 28, 28]);
            assert!(values(y).iter().all(|v| *v == 0.0));
        }
    }

    /// Of the same shape: what it is for.
    #[test]
    fn a_zeroed_network_has_the_same_shape_and_no_weights() {
        let device = kernels::cpu();
        let fresh = UNetConfig::default().init(&device);
        let zeroed = UNetConfig::default().zeroed(&device);
        assert_eq!(zeroed.num_params(), fresh.num_params());
        let shifts = |unet: &UNet| values(unet.shifts(&[7], &[Some(Garment::Coat)]));
        assert!(shifts(&fresh).iter().any(|v| *v != 0.0));
        assert!(shifts(&zeroed).iter().all(|v| *v == 0.0));
        assert_eq!(shifts(&zeroed).len(), shifts(&fresh).len());
    }

    /// Layer by layer with pencil and paper: 14 x 14 = 196 places, then 7 x 7 = 49.
    #[test]
    fn multiplications_are_counted() {
        let (wide, narrow) = (64 * 64 * 9 * 196, 64 * 64 * 9 * 49);
        let attention = 64 * 4 * 64 * 49 + 2 * 64 * 49 * 49;
        let stem_and_head = 2 * 4 * 64 * 9 * 196;
        let down = 2 * wide + narrow + 2 * narrow + attention;
        let middle = 4 * narrow + attention;
        // The ways up begin with twice the channels, and skip by a convolution of 1 x 1.
        let up = 3 * narrow + 128 * 64 * 49 + attention + wide + 3 * wide + 128 * 64 * 196;
        let expected = stem_and_head + down + middle + up;
        assert_eq!(UNetConfig::default().multiplications(), expected);
    }

    /// The same of the values that are read and written: planes of 64 channels at 14 x 14, and small
    /// ones at 7 x 7.
    #[test]
    fn values_are_counted() {
        let values = |plane: usize, small: usize| (plane * 64 * 196 + small * 64 * 49) as u64;
        let stem_and_head = 2 * 4 * 196 + values(1 + 3, 0);
        // Norm, convolution, norm, convolution and residual: 2 + 2 + 2 + 3; of twice the channels
        // with a shortcut 4 + 3 + 2 + 4; attended, a norm, 1 + 3 for queries, keys and values, and
        // these, the image and the result.
        let (block, doubled, attention) = (9, 13, 2 + 4 + 5);
        let down = values(block, 0) + values(1, 1) + values(0, block + attention);
        let middle = values(0, 2 * block + attention);
        let up = values(0, doubled + attention) + values(1, 1) + values(doubled, 0);
        let parts = UNetConfig::default().parts();
        let sum: u64 = parts.iter().map(Part::values).sum();
        assert_eq!(sum, stem_and_head + down + middle + up);
    }

    /// The parts know as many weights as a network has, without those of its embedding, and with
    /// the biases of the ways around, which add up with others once and for all.
    #[test]
    fn weights_of_the_parts_are_those_of_the_network() {
        let device = kernels::cpu();
        for channels in [vec![64, 64], vec![8, 16]] {
            let config = UNetConfig {
                channels,
                ..UNetConfig::default()
            };
            let unet = config.init(&device);
            let embedding = unet.embed_time_in.num_params()
                + unet.embed_time_out.num_params()
                + unet.embed_label.num_params()
                + unet.embed_shifts.num_params();
            let blocks = unet.down.iter().chain(&unet.up).flat_map(|l| &l.blocks);
            let skips = blocks.filter_map(|block| block.skip.as_ref());
            let merged: usize = skips
                .filter_map(|skip| skip.bias.as_ref())
                .map(|bias| bias.num_params())
                .sum();
            let sum: u64 = config.parts().iter().map(Part::weights).sum();
            assert_eq!(sum as usize, unet.num_params() - embedding - merged);
        }
    }

    /// What the page's test counts in a browser: 19 convolutions, 16 normalisations, 3 attentions,
    /// and the reverse step.
    #[test]
    fn launches_are_counted() {
        let launches = |change: fn(&mut UNetConfig)| {
            let mut config = UNetConfig::default();
            change(&mut config);
            config.launches()
        };
        assert_eq!(launches(|_| ()), 39);
        // Without attention on the ways, one block each less: norm, convolution, attention.
        assert_eq!(launches(|c| c.attention = vec![false, false]), 39 - 6);
        // Four blocks more, two of them attended.
        assert_eq!(launches(|c| c.blocks = 2), 39 + 4 * 4 + 2 * 3);
    }

    #[test]
    fn impossible_networks_are_refused() {
        let with = |change: fn(&mut UNetConfig)| {
            let mut config = UNetConfig::default();
            change(&mut config);
            config.validate()
        };
        assert!(with(|_| {}).is_ok());
        assert!(with(|c| c.image_size = 32).is_err());
        assert!(with(|c| c.channels = vec![]).is_err());
        assert!(with(|c| c.channels = vec![64, 60]).is_err());
        assert!(with(|c| c.channels = vec![64, 1 << 40]).is_err());
        assert!(with(|c| c.attention = vec![true]).is_err());
        assert!(with(|c| c.blocks = 0).is_err());
        assert!(with(|c| c.groups = 0).is_err());
        assert!(with(|c| c.pixel_unshuffle = 3).is_err());
        assert!(with(|c| c.pixel_unshuffle = 0).is_err());
        assert!(with(|c| c.classes = 9).is_err());
        let three = with(|c| {
            c.channels = vec![64; 4];
            c.attention = vec![false; 4];
        });
        assert!(three.is_err(), "14 pixels cannot be halved three times");
    }
}
