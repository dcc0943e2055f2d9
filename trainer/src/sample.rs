//! Garments from weights: the reverse process of `fashion-ddpm`, and what becomes of its frames.

use std::ops::{ControlFlow, Range};

use burn::tensor::Device;
use fashion_ddpm::{
    Denoiser, Frame, Garment, NoiseSchedule, ReverseProcess, UNet,
    sampler::{Step, to_pixels},
};

/// A way through the reverse process.
#[derive(Debug, Clone)]
pub struct Walk {
    /// The steps of a sampler.
    pub plan: Vec<Step>,
    /// The class; `None` for any.
    pub garment: Option<Garment>,
    /// w; 1 = off.
    pub guidance_scale: f64,
    /// Of all noise.
    pub seed: u32,
}

/// Walks from noise to the finished `images` of the seed: 784 bytes each, 0 = black. Before each
/// step's result is used, `look` sees its number, from 0, and its frame; it may end the walk.
pub fn walk<B>(
    unet: &UNet,
    schedule: &NoiseSchedule,
    walk: &Walk,
    images: Range<u32>,
    device: &Device,
    mut look: impl FnMut(usize, &Frame) -> ControlFlow<B>,
) -> ControlFlow<B, Vec<u8>> {
    let timesteps = schedule.timesteps();
    let denoiser = Denoiser::new(
        unet.clone(),
        timesteps,
        walk.garment,
        walk.guidance_scale,
        device,
    );
    let plan = walk.plan.clone();
    let mut process = ReverseProcess::new(denoiser, plan, walk.seed, images, timesteps, device);
    let mut number = 0;
    while let Some(frame) = process.step() {
        look(number, &frame)?;
        number += 1;
    }
    let x_0 = process.x().into_data_as::<f32>();
    ControlFlow::Continue(to_pixels(
        &x_0.try_to_vec::<f32>().expect("just converted to f32"),
    ))
}
