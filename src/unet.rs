//! The network that tells noise from cloth.
//!
//! A small U-Net (Ho et al. 2020, appendix B) that works on the image folded 2 x 2: `[1, 28, 28]`
//! becomes `[4, 14, 14]` without losing a pixel, and no convolution ever runs at full resolution.
//! Residual blocks and self-attention at 7 x 7 and in the middle; every block on the way down hands
//! its output to its mirror image on the way up. Timestep and garment enter as one vector a block,
//! added to its channels; at sampling time these vectors are a table with one row a timestep, and
//! the embedding layers need not run at all.

use burn::{
    module::{Initializer, Module, Param},
    nn::{
        Embedding, EmbeddingConfig, Linear, LinearConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{
        Device, Int, Tensor, TensorData,
        activation::{silu, softmax},
    },
};
use serde::{Deserialize, Serialize};

use crate::{Garment, GaussianDiffusion, PredictNoise};

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

/// Why there is no such network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no U-Net: {0}")]
pub struct ConfigError(String);

impl UNetConfig {
    /// Whether a network can be built, in a size that a browser could hold.
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
        let conv = |channels_in: usize, channels_out: usize, kernel: usize, width: usize| {
            (channels_in * channels_out * (kernel * width).pow(2)) as u64
        };
        let attention = |channels: usize, width: usize| {
            // Scores and mixture: a product of all places with all places each.
            let products = 2 * (channels * width.pow(4)) as u64;
            conv(channels, 4 * channels, 1, width) + products
        };
        let block = |channels_in: usize, channels_out: usize, attended: bool, width: usize| {
            let skip = if channels_in == channels_out { 0 } else { 1 };
            conv(channels_in, channels_out, 3, width)
                + conv(channels_out, channels_out, 3, width)
                + skip * conv(channels_in, channels_out, 1, width)
                + if attended {
                    attention(channels_out, width)
                } else {
                    0
                }
        };
        let folded = self.pixel_unshuffle.pow(2);
        let first = self.image_size / self.pixel_unshuffle;
        let mut channels = self.channels[0];
        let mut sum = conv(folded, channels, 3, first);
        let mut skips = Vec::new();
        for (level, &level_channels) in self.channels.iter().enumerate() {
            let width = first >> level;
            for _ in 0..self.blocks {
                sum += block(channels, level_channels, self.attention[level], width);
                channels = level_channels;
                skips.push(channels);
            }
            if level + 1 < self.channels.len() {
                sum += conv(channels, channels, 3, width / 2);
            }
        }
        let last = first >> (self.channels.len() - 1);
        sum += block(channels, channels, true, last) + block(channels, channels, false, last);
        for (level, &level_channels) in self.channels.iter().enumerate().rev() {
            let width = first >> level;
            for _ in 0..self.blocks {
                let skip = skips.pop().unwrap_or_default();
                sum += block(
                    channels + skip,
                    level_channels,
                    self.attention[level],
                    width,
                );
                channels = level_channels;
            }
            if level > 0 {
                sum += conv(channels, channels, 3, width * 2);
            }
        }
        sum + conv(channels, folded, 3, first)
    }

    /// A network with fresh weights, whose first prediction is zero.
    ///
    /// # Panics
    /// Where [`Self::validate`] would refuse.
    pub fn init(&self, device: &Device) -> UNet {
        self.validate().expect("validated by whoever read it");
        let mut planner = Planner {
            groups: self.groups,
            shifts: 0,
            device,
        };
        let folded = self.pixel_unshuffle.pow(2);
        let stem = conv(folded, self.channels[0], 3, 1, Init::Kaiming, device);
        let mut channels = self.channels[0];
        let mut skips = Vec::new();
        let mut down = Vec::new();
        for (level, &width) in self.channels.iter().enumerate() {
            let mut blocks = Vec::new();
            for _ in 0..self.blocks {
                blocks.push(planner.block(channels, width, self.attention[level]));
                channels = width;
                skips.push(channels);
            }
            let resample = (level + 1 < self.channels.len())
                .then(|| conv(width, width, 3, 2, Init::Kaiming, device));
            down.push(Level { blocks, resample });
        }
        let middle = vec![
            planner.block(channels, channels, true),
            planner.block(channels, channels, false),
        ];
        let mut up = Vec::new();
        for (level, &width) in self.channels.iter().enumerate().rev() {
            let mut blocks = Vec::new();
            for _ in 0..self.blocks {
                let skip = skips.pop().expect("as many ways up as down");
                blocks.push(planner.block(channels + skip, width, self.attention[level]));
                channels = width;
            }
            let resample = (level > 0).then(|| conv(width, width, 3, 1, Init::Kaiming, device));
            up.push(Level { blocks, resample });
        }
        UNet {
            embed_time_in: LinearConfig::new(SINUSOIDAL, EMBEDDING).init(device),
            embed_time_out: LinearConfig::new(EMBEDDING, EMBEDDING).init(device),
            embed_label: EmbeddingConfig::new(self.classes + 1, EMBEDDING).init(device),
            embed_shifts: LinearConfig::new(EMBEDDING, planner.shifts).init(device),
            stem,
            down,
            middle,
            up,
            head_norm: Norm::new(channels, self.groups, device),
            head: conv(channels, folded, 3, 1, Init::Zeros, device),
            pixel_unshuffle: self.pixel_unshuffle,
        }
    }
}

/// How a convolution starts. Zero where a branch is to begin as the identity or the answer as 0.
enum Init {
    Kaiming,
    Zeros,
}

fn conv(
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
    match init {
        Init::Kaiming => config,
        Init::Zeros => config.with_initializer(Initializer::Zeros),
    }
    .init(device)
}

/// Runs a layer made by [`conv`].
fn run(layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    let padding = layer.kernel_size[0] / 2;
    kernels::conv2d(x, layer.weight.val(), bias, layer.stride[0], padding)
}

/// Hands each block its place in the vector of shifts.
struct Planner<'a> {
    groups: usize,
    shifts: usize,
    device: &'a Device,
}

impl Planner<'_> {
    fn block(&mut self, channels_in: usize, channels_out: usize, attention: bool) -> Block {
        let shift = self.shifts;
        self.shifts += channels_out;
        let (groups, device) = (self.groups, self.device);
        Block {
            norm_in: Norm::new(channels_in, groups, device),
            conv_in: conv(channels_in, channels_out, 3, 1, Init::Kaiming, device),
            norm_out: Norm::new(channels_out, groups, device),
            conv_out: conv(channels_out, channels_out, 3, 1, Init::Zeros, device),
            skip: (channels_in != channels_out)
                .then(|| conv(channels_in, channels_out, 1, 1, Init::Kaiming, device)),
            attention: attention.then(|| Attention {
                norm: Norm::new(channels_out, groups, device),
                qkv: conv(channels_out, 3 * channels_out, 1, 1, Init::Kaiming, device),
                out: conv(channels_out, channels_out, 1, 1, Init::Zeros, device),
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
            gamma: Initializer::Ones.init([channels], device),
            beta: Initializer::Zeros.init([channels], device),
            groups,
        }
    }

    fn forward(&self, x: Tensor<4>, activate: bool) -> Tensor<4> {
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        kernels::group_norm_silu(x, gamma, beta, self.groups, EPSILON, activate)
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
    /// - `x`: `[batch, channels_in, h, w]`
    /// - `shifts`: `[batch or 1, channels of all blocks]`
    fn forward(&self, x: Tensor<4>, shifts: &Tensor<2>) -> Tensor<4> {
        let h = run(&self.conv_in, self.norm_in.forward(x.clone(), true));
        let [_, channels, _, _] = h.dims();
        let [rows, _] = shifts.dims();
        let shift = shifts
            .clone()
            .slice([0..rows, self.shift..self.shift + channels])
            .reshape([rows, channels, 1, 1]);
        let h = run(&self.conv_out, self.norm_out.forward(h + shift, true));
        let x = match &self.skip {
            Some(skip) => run(skip, x),
            None => x,
        };
        let x = x + h;
        match &self.attention {
            Some(attention) => attention.forward(x),
            None => x,
        }
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
        let [batch, channels, height, width] = x.dims();
        let qkv = run(&self.qkv, self.norm.forward(x.clone(), false));
        let qkv = qkv.reshape([batch, 3 * channels, height * width]);
        let [q, k, v]: [Tensor<3>; 3] =
            [0, 1, 2].map(|i| qkv.clone().narrow(1, i * channels, channels));
        let scale = 1.0 / (channels as f64).sqrt();
        let scores = q.swap_dims(1, 2).matmul(k) * scale;
        let mixed = v.matmul(softmax(scores, 2).swap_dims(1, 2));
        x + run(&self.out, mixed.reshape([batch, channels, height, width]))
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
        let shifts = self.shifts(t, labels, &x_t.device());
        self.forward_shifted(x_t, shifts)
    }

    /// The embedding of timesteps and labels: what is added to the channels of all blocks, one
    /// row an entry, shape `[t.len(), channels of all blocks]`.
    pub fn shifts(&self, t: &[usize], labels: &[Option<Garment>], device: &Device) -> Tensor<2> {
        let null = Garment::ALL.len();
        let labels: Vec<i32> = labels
            .iter()
            .map(|label| label.map_or(null, Garment::label) as i32)
            .collect();
        let count = labels.len();
        let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [1, count]), device);
        let labels = self.embed_label.forward(labels).reshape([count, EMBEDDING]);
        let time = self.embed_time_in.forward(sinusoidal(t, device));
        let time = self.embed_time_out.forward(silu(time));
        self.embed_shifts.forward(silu(time + labels))
    }

    /// [`Self::forward`] with the embedding at hand; one row of it serves a whole batch.
    ///
    /// # Shapes
    /// - `x_t`, result: `[batch, 1, 28, 28]`
    /// - `shifts`: `[batch or 1, channels of all blocks]`, from [`Self::shifts`]
    pub fn forward_shifted(&self, x_t: Tensor<4>, shifts: Tensor<2>) -> Tensor<4> {
        let mut x = run(&self.stem, fold(x_t, self.pixel_unshuffle));
        let mut skips = Vec::new();
        for level in &self.down {
            for block in &level.blocks {
                x = block.forward(x, &shifts);
                skips.push(x.clone());
            }
            if let Some(halve) = &level.resample {
                x = run(halve, x);
            }
        }
        for block in &self.middle {
            x = block.forward(x, &shifts);
        }
        for level in &self.up {
            for block in &level.blocks {
                let skip = skips.pop().expect("as many ways up as down");
                x = block.forward(Tensor::cat(vec![x, skip], 1), &shifts);
            }
            if let Some(double) = &level.resample {
                x = run(double, double_size(x));
            }
        }
        let x = run(&self.head, self.head_norm.forward(x, true));
        unfold(x, self.pixel_unshuffle)
    }
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

/// Space to depth: `[b, 1, h, w]` to `[b, r^2, h / r, w / r]`, channel r i + j holding the pixels in
/// row i, column j of each square of r x r.
fn fold(x: Tensor<4>, r: usize) -> Tensor<4> {
    let [batch, _, height, width] = x.dims();
    x.reshape([batch, height / r, r, width / r, r])
        .permute([0, 2, 4, 1, 3])
        .reshape([batch, r * r, height / r, width / r])
}

/// The inverse of [`fold`].
fn unfold(x: Tensor<4>, r: usize) -> Tensor<4> {
    let [batch, _, height, width] = x.dims();
    x.reshape([batch, r, r, height, width])
        .permute([0, 3, 1, 4, 2])
        .reshape([batch, 1, height * r, width * r])
}

/// Every pixel becomes a square of four.
fn double_size(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height, 1, width, 1])
        .expand([batch, channels, height, 2, width, 2])
        .reshape([batch, channels, height * 2, width * 2])
}

/// The network at sampling time: one garment, classifier-free guidance, and the embedding of every
/// timestep computed beforehand.
#[derive(Debug)]
pub struct Denoiser {
    unet: UNet,
    /// Shifts of every timestep, with the garment's label.
    shifts: Tensor<2>,
    /// The same with the null label, and the guidance scale, where guidance is on.
    guidance: Option<(Tensor<2>, f64)>,
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
        device: &Device,
    ) -> Self {
        let all: Vec<usize> = (0..timesteps).collect();
        let table = |label| unet.shifts(&all, &vec![label; timesteps], device);
        let shifts = table(garment);
        let guided = garment.is_some() && guidance_scale != 1.0;
        Self {
            shifts,
            guidance: guided.then(|| (table(None), guidance_scale)),
            diffusion: None,
            unet,
        }
    }

    /// The same for a network that was trained with `diffusion`, and may tell something else.
    pub fn trained_with(mut self, diffusion: &GaussianDiffusion) -> Self {
        self.diffusion = (!diffusion.prediction.is_noise()).then(|| diffusion.clone());
        self
    }
}

impl PredictNoise for Denoiser {
    fn predict(&self, x_t: Tensor<4>, t: usize) -> Tensor<4> {
        let row = |table: &Tensor<2>| table.clone().narrow(0, t, 1);
        let conditional = |x_t| self.unet.forward_shifted(x_t, row(&self.shifts));
        let answer = match &self.guidance {
            None => conditional(x_t.clone()),
            Some((null, scale)) => {
                let free = self.unet.forward_shifted(x_t.clone(), row(null));
                free * (1.0 - scale) + conditional(x_t.clone()) * *scale
            }
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
    fn folding_keeps_every_pixel_where_it_belongs() {
        let device = kernels::cpu();
        let x = gaussian_batch(1, 0..2, 0, 0, &device);
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
        let device = kernels::cpu();
        let x = Tensor::<4>::from_data([[[[1.0, 2.0], [3.0, 4.0]]]], &device);
        let expected = [
            [1.0, 1.0, 2.0, 2.0],
            [1.0, 1.0, 2.0, 2.0],
            [3.0, 3.0, 4.0, 4.0],
            [3.0, 3.0, 4.0, 4.0],
        ];
        assert_eq!(values(double_size(x)), expected.concat());
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
