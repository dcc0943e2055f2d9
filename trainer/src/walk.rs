//! Walks through the reverse process: recorded where that can be trusted, step by step elsewhere.

use std::ops::{ControlFlow, Range};

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use fashion_ddpm::{
    Denoiser, Garment, GaussianDiffusion, RecordedProcess, ReverseProcess, UNet,
    noise::{IMAGE_SIZE, PIXELS, gaussian_batch},
    sampler::{STRIDE, Step},
};

/// Steps over which what was recorded has to be what the CPU computes: each way of issuing them has
/// been used by then.
const TRIED: usize = 2 * STRIDE;

/// By how much the two may differ, where a pixel goes from -1 to 1.
const TOLERANCE: f32 = 0.02;

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

/// Walks of one network on one device.
///
/// Telling a GPU what a step is takes longer than the step, so there a step is recorded once for
/// each number of images and issued again and again ([`RecordedProcess`]). Compilers and drivers are
/// many: what was recorded is used only where its first steps are the CPU's.
#[derive(Debug)]
pub struct Walker<'a> {
    unet: &'a UNet,
    diffusion: &'a GaussianDiffusion,
    device: &'a Device,
    recorded: Vec<RecordedProcess>,
    /// Whether something recorded was wrong.
    distrusted: bool,
}

impl<'a> Walker<'a> {
    /// For a network that was trained with `diffusion` and lives on `device`.
    pub fn new(unet: &'a UNet, diffusion: &'a GaussianDiffusion, device: &'a Device) -> Self {
        Self {
            unet,
            diffusion,
            device,
            recorded: Vec::new(),
            distrusted: false,
        }
    }

    /// Walks from noise to the finished `images` of the seed, as the network made them: 784 numbers
    /// each, about -1 to 1, and NaN where something went wrong. `look` sees the number of each step,
    /// from 0, and may ask for the state before it, shape `[images, 1, 28, 28]`, as long as it is
    /// being called; it may end the walk.
    pub fn walk<B>(
        &mut self,
        walk: &Walk,
        images: Range<u32>,
        look: impl FnMut(usize, &dyn Fn() -> Tensor<4>) -> ControlFlow<B>,
    ) -> ControlFlow<B, Vec<f32>> {
        let x_t = gaussian_batch(walk.seed, images.clone(), 0, self.timesteps(), self.device);
        let streams = images.map(|image| (image, 0)).collect();
        self.resume(walk, streams, x_t, look)
    }

    /// As [`Self::walk`], from the state before the plan's first step on, with the noise that
    /// [`ReverseProcess::resume`] takes.
    pub fn resume<B>(
        &mut self,
        walk: &Walk,
        streams: Vec<(u32, u32)>,
        x_t: Tensor<4>,
        mut look: impl FnMut(usize, &dyn Fn() -> Tensor<4>) -> ControlFlow<B>,
    ) -> ControlFlow<B, Vec<f32>> {
        let denoiser = self.denoiser(walk, self.unet);
        let (plan, seed, count) = (walk.plan.clone(), walk.seed, streams.len());
        let mut number = 0;
        if let Some(process) = self.record(walk, &denoiser, &streams, &x_t) {
            process.start(&denoiser, plan, seed, streams, x_t);
            while process.steps_left() > 0 {
                let taken = match process.steps(usize::MAX) {
                    Ok(taken) => taken,
                    Err(reason) => {
                        eprintln!("the device takes no step: {reason}");
                        // What did not run left no numbers.
                        return ControlFlow::Continue(vec![f32::NAN; count * PIXELS]);
                    }
                };
                for _ in 0..taken {
                    let x_t = || {
                        let frame = process.frames(number, 1).narrow(1, 0, count);
                        // A copy: the next steps write where this one was.
                        frame.reshape([count, 1, IMAGE_SIZE, IMAGE_SIZE]) * 1.0
                    };
                    look(number, &x_t)?;
                    number += 1;
                }
            }
            return ControlFlow::Continue(numbers(process.x()));
        }
        let mut process = ReverseProcess::resume(denoiser, plan, seed, streams, x_t);
        while let Some(frame) = process.step() {
            look(number, &|| frame.x_t.clone())?;
            number += 1;
        }
        ControlFlow::Continue(numbers(process.x()))
    }

    /// For how many kinds of walk, by their number of images and whether they are guided, a step is
    /// recorded.
    pub fn recordings(&self) -> usize {
        self.recorded.len()
    }

    fn timesteps(&self) -> usize {
        self.diffusion.schedule.timesteps()
    }

    fn denoiser(&self, walk: &Walk, unet: &UNet) -> Denoiser {
        let (garment, scale) = (walk.garment, walk.guidance_scale);
        Denoiser::new(unet.clone(), self.timesteps(), garment, scale).trained_with(self.diffusion)
    }

    /// What was recorded for such a walk, now or before. `None` where the device does not replay, or
    /// not what was recorded.
    fn record(
        &mut self,
        walk: &Walk,
        denoiser: &Denoiser,
        streams: &[(u32, u32)],
        x_t: &Tensor<4>,
    ) -> Option<&mut RecordedProcess> {
        let kind = (streams.len(), denoiser.is_guided());
        if let Some(at) = self.recorded.iter().position(|known| known.kind() == kind) {
            return self.recorded.get_mut(at);
        }
        if self.distrusted {
            return None;
        }
        let ((images, guided), timesteps) = (kind, self.timesteps());
        let recorded = RecordedProcess::record(self.unet, timesteps, images, guided);
        let tried = recorded.and_then(|mut recorded| {
            // The CPU has nobody else to ask.
            if *self.device != kernels::cpu() {
                self.try_out(&mut recorded, walk, denoiser, streams, x_t)?;
            }
            Ok(recorded)
        });
        match tried {
            Ok(recorded) => self.recorded.push(recorded),
            Err(reason) => {
                eprintln!("steps are computed one by one, which takes longer: {reason}");
                self.distrusted = true;
                return None;
            }
        }
        self.recorded.last_mut()
    }

    /// Takes the walk's first steps, and compares where they lead the first and the last image with
    /// where the CPU's lead them.
    fn try_out(
        &self,
        recorded: &mut RecordedProcess,
        walk: &Walk,
        denoiser: &Denoiser,
        streams: &[(u32, u32)],
        x_t: &Tensor<4>,
    ) -> Result<(), String> {
        let (plan, seed) = (&walk.plan[..walk.plan.len().min(TRIED)], walk.seed);
        recorded.start(denoiser, plan.to_vec(), seed, streams.to_vec(), x_t.clone());
        while recorded.steps(usize::MAX)? > 0 {}
        let found = ends(&numbers(recorded.x()));

        let cpu = kernels::cpu();
        let unet = self.unet.clone().to_device(&cpu);
        let denoiser = self.denoiser(walk, &unet);
        let last = streams.len() - 1;
        let x_t = ends(&numbers(x_t.clone()));
        let x_t = Tensor::<1>::from_floats(x_t.as_slice(), &cpu);
        let mut process = ReverseProcess::resume(
            denoiser,
            plan.to_vec(),
            seed,
            vec![streams[0], streams[last]],
            x_t.reshape([2, 1, IMAGE_SIZE, IMAGE_SIZE]),
        );
        while process.step().is_some() {}
        let expected = numbers(process.x());
        let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        match off.clone().all(|off| off <= TOLERANCE) {
            true => Ok(()),
            false => Err(format!(
                "recorded, the first {} lead {} away from where the CPU's lead, and {TOLERANCE} is allowed",
                plan.len(),
                off.fold(0.0, f32::max)
            )),
        }
    }
}

/// The first and the last image.
fn ends(images: &[f32]) -> Vec<f32> {
    [&images[..PIXELS], &images[images.len() - PIXELS..]].concat()
}

/// The values of a tensor.
///
/// # Panics
/// Where the device cannot give them.
pub fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let x = x.into_data_as::<f32>();
    x.try_to_vec::<f32>().expect("just converted to f32")
}
