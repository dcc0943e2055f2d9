//! The same walk for a device on which a step is cheaper than telling it to take one.
//!
//! A browser takes longer to hand a GPU the launches of a step than the GPU takes to run them. So
//! one step is recorded, once, and a walk is that recording issued again and again. Whatever differs
//! from step to step stands in tables on the device, a row a step; each image counts its steps
//! there, and nothing goes up or down in between. The arithmetic is [`Step`]'s. On the CPU, a step that
//! was recorded allocates nothing.
//!
//! Issuing a recording is a submission, which costs a browser as much as many launches. Where steps
//! are fast, [`STRIDE`] of them are issued as one.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};
use kernels::{COEFFICIENTS, IN_EARNEST, Recording, Resident, ResidentShape};

use super::Step;
use crate::{
    UNet,
    noise::{IMAGE_SIZE, PIXELS, gaussian},
    unet::Denoiser,
};

/// Images' noise that goes up in one piece: 6 MB, for which the host computes a few dozen
/// milliseconds.
const NOISE: usize = 2048;

/// Images' states that the log holds: a [`STRIDE`] of up to 64 images.
const LOG: usize = 1024;

/// Steps of the longer recording.
pub const STRIDE: usize = 16;

/// Steps whose embedding and noise are there before the first one is taken. The rest comes when they are:
/// of a thousand steps it takes as long as some steps, and somebody is waiting for a picture.
const FIRST: usize = 4 * STRIDE;

/// A recorded step, and the walk it is used for now.
#[derive(Debug)]
pub struct RecordedProcess {
    // Before what it reads and writes, so that it is dropped before.
    recording: Recording,
    /// [`STRIDE`] steps: nothing until they first fit, and then the recording, if there can be one.
    stride: Option<Option<Recording>>,
    state: Resident,
    /// Read by every step.
    unet: UNet,
    shape: ResidentShape,
    /// Of the walk; none before there is one.
    denoiser: Option<Denoiser>,
    plan: Vec<Step>,
    seed: u32,
    /// (image, branch) of each image: with seed and t, what its noise depends on.
    streams: Vec<(u32, u32)>,
    taken: usize,
}

impl RecordedProcess {
    /// Records a step of `unet` for this many images, with guidance or without; `timesteps` is T.
    /// Everything that a step needs is compiled on the way.
    ///
    /// # Errors
    /// The device's complaint, where it does not replay: use [`super::ReverseProcess`] there.
    pub fn record(
        unet: &UNet,
        timesteps: usize,
        images: usize,
        guided: bool,
    ) -> Result<Self, String> {
        let device = unet.device();
        let shape = shape(unet, timesteps, images, guided);
        let state = Resident::new(shape, &device)?;
        let unet = unet.resident();
        let recording = Recording::of(&device, 1, || launch(&unet, &state))?;
        Ok(Self {
            recording,
            stride: None,
            state,
            unet,
            shape,
            denoiser: None,
            plan: Vec::new(),
            seed: 0,
            streams: Vec::new(),
            taken: 0,
        })
    }

    /// One step of one image for nothing, whatever the weights are: on a device that replays, all that a
    /// recording of it is going to need is compiled then. Nothing waits for that.
    pub fn rehearse(unet: &UNet, timesteps: usize) {
        let shape = shape(unet, timesteps, 1, false);
        if let Ok(state) = Resident::new(shape, &unet.device()) {
            let unet = unet.resident();
            let row = kernels::rows(&state.shifts, 0, 1);
            assign(&row, unet.shifts(&[0], &[None]));
            launch(&unet, &state);
        }
    }

    /// Sets out from `x_t`, shape `[images, 1, 28, 28]`, the state before the plan's first step, with
    /// the noise of the seed's (image, branch) `streams[i]` for image i: what
    /// [`super::ReverseProcess::resume`] takes.
    ///
    /// # Panics
    /// If `denoiser` is guided and the recording is not, or the other way round, if there are not as
    /// many streams as images, or if the plan has more steps than the tables have room for: T at least.
    pub fn start(
        &mut self,
        denoiser: &Denoiser,
        plan: Vec<Step>,
        seed: u32,
        streams: Vec<(u32, u32)>,
        x_t: Tensor<4>,
    ) {
        let ResidentShape {
            images,
            guided,
            steps,
            ..
        } = self.shape;
        let guidance_scale = denoiser.guidance_scale();
        assert!(guidance_scale.is_some() == guided && plan.len() <= steps);
        assert_eq!(streams.len(), images);
        let (device, state) = (&self.unet.device(), &self.state);

        // A row a step, and rows that nobody reads.
        let mut coefficients = vec![0.0; steps * COEFFICIENTS];
        for (i, step) in plan.iter().enumerate() {
            let (a, s) = (step.sqrt_alpha_cumprod, step.sqrt_one_minus_alpha_cumprod);
            let (x_t, pred_x_start) = step.folded();
            let [answer, x_t_in_noise] = denoiser.noise_weights(step);
            let row = [
                1.0 / a,
                s / a,
                x_t,
                pred_x_start,
                step.previous_pred_x_start,
                step.noise,
                guidance_scale.unwrap_or(1.0),
                answer,
                x_t_in_noise,
            ];
            coefficients[i * COEFFICIENTS..][..COEFFICIENTS]
                .copy_from_slice(&row.map(|value| value as f32));
        }
        let coefficients = TensorData::new(coefficients, [steps, COEFFICIENTS]);
        assign(&state.coefficients, Tensor::from_data(coefficients, device));
        let halves = 1 + usize::from(guided);
        let rows: Vec<i32> = (0..halves)
            .flat_map(|half| vec![(half * steps) as i32; images])
            .collect();
        let rows = TensorData::new(rows, [halves * images]);
        let rows = Tensor::<1, Int>::from_data(rows, device);
        // SAFETY: as in `assign`.
        unsafe { kernels::assign_integers(&state.rows, rows) };
        assign(&state.previous, x_t.zeros_like());
        assign(&state.x, x_t);
        self.denoiser = Some(denoiser.clone());
        (self.plan, self.seed, self.streams, self.taken) = (plan, seed, streams, 0);
    }

    /// The number of images, and whether with guidance.
    pub fn kind(&self) -> (usize, bool) {
        (self.shape.images, self.shape.guided)
    }

    /// How many steps are still to be taken.
    pub fn steps_left(&self) -> usize {
        self.plan.len() - self.taken
    }

    /// Takes at least one step and at most so many, as many as one submission is made of. Gives back
    /// how many: none where the walk is over.
    ///
    /// # Errors
    /// The device's complaint.
    pub fn steps(&mut self, most: usize) -> Result<usize, String> {
        let ResidentShape {
            noise_rows,
            log_rows,
            ..
        } = self.shape;
        if self.steps_left() == 0 {
            return Ok(0);
        }
        let (taken, row) = (self.taken, self.taken % noise_rows);
        if taken == 0 {
            self.provide_shifts(0..FIRST);
            self.provide_noise(0..FIRST.min(noise_rows));
        } else if taken == FIRST || row == 0 {
            self.provide_noise(row..noise_rows);
        }
        if taken == FIRST {
            self.provide_shifts(FIRST..usize::MAX);
        }
        // To where the tables of noise and frames begin again, or have not been filled yet.
        let room = |rows: usize| rows - self.taken % rows;
        let room = room(noise_rows).min(room(log_rows)).min(room(FIRST));
        let fits = most.min(room).min(self.steps_left()) >= STRIDE;
        if fits && self.stride.is_none() {
            let mut launched = 0;
            let work = || {
                launch(&self.unet, &self.state);
                launched += 1;
            };
            let stride = Recording::of(&self.unet.device(), STRIDE, work);
            // Without the recording the walk goes on step by step.
            self.stride = Some(stride.ok());
            // What is done in earnest before it is recorded are the walk's next steps: none where the
            // device refuses before.
            let steps = launched.min(IN_EARNEST);
            if steps > 0 {
                self.taken += steps;
                return Ok(steps);
            }
        }
        let (recording, steps) = match &self.stride {
            Some(Some(stride)) if fits => (stride, STRIDE),
            _ => (&self.recording, 1),
        };
        // SAFETY: the state and the weights live as long as the recordings. The weights are read by all; of the
        // state, others see what is `shown`.
        unsafe { recording.replay() }?;
        self.taken += steps;
        Ok(steps)
    }

    /// The embedding of these steps, as many as there are.
    fn provide_shifts(&self, steps: Range<usize>) {
        let steps = steps.start..steps.end.min(self.plan.len());
        let Some(denoiser) = &self.denoiser else {
            return;
        };
        let t: Vec<usize> = self.plan[steps.clone()].iter().map(|step| step.t).collect();
        for half in 0..1 + usize::from(self.shape.guided) {
            let first = half * self.shape.steps + steps.start;
            let target = kernels::rows(&self.state.shifts, first, t.len());
            assign(&target, denoiser.rows(&t, half == 0));
        }
    }

    /// z of the steps to come, in these rows of the table.
    fn provide_noise(&self, rows: Range<usize>) {
        let images = self.shape.images;
        let steps = self.plan[self.taken..].iter().take(rows.len());
        if steps.clone().all(|step| step.noise == 0.0) {
            return;
        }
        let count = steps.len();
        let values: Vec<f32> = steps
            .flat_map(|step| self.streams.iter().map(move |stream| (*stream, step)))
            .flat_map(|((image, branch), step)| match step.noise {
                0.0 => vec![0.0; PIXELS],
                _ => gaussian(self.seed, image, branch, step.t),
            })
            .collect();
        let shape = [count, images, IMAGE_SIZE, IMAGE_SIZE];
        let noise = Tensor::from_data(TensorData::new(values, shape), &self.unet.device());
        let target = kernels::rows(&self.state.noise, rows.start, count);
        assign(&target, noise);
    }

    /// How many of the last steps' frames are still there, at most; and a range of frames across a
    /// multiple of it is not in one piece.
    pub fn frames_kept(&self) -> usize {
        self.shape.log_rows
    }

    /// Frames of steps that have been taken, by their index in the plan: x_t of all images, then
    /// their predicted noise, `[count, 2 images, 28, 28]`. To be read before later steps come to stand in
    /// their place.
    ///
    /// # Panics
    /// If these are not in one piece; see [`Self::frames_kept`].
    pub fn frames(&self, first: usize, count: usize) -> Tensor<4> {
        kernels::shown(&self.state.log, first % self.shape.log_rows, count)
    }

    /// The state now: x_T at first, the finished images x_0 in the end. To be read before the next step.
    pub fn x(&self) -> Tensor<4> {
        kernels::shown(&self.state.x, 0, self.shape.images)
    }
}

/// The memory of a walk.
fn shape(unet: &UNet, timesteps: usize, images: usize, guided: bool) -> ResidentShape {
    ResidentShape {
        images,
        size: IMAGE_SIZE,
        guided,
        // Whatever begins at a multiple of so many rows is where a GPU can begin to read.
        steps: timesteps.next_multiple_of(FIRST),
        channels: unet.channels(),
        noise_rows: strides(NOISE / images).clamp(1, timesteps),
        log_rows: strides(LOG / images).clamp(8, 128),
    }
}

/// The launches of a step.
fn launch(unet: &UNet, state: &Resident) {
    let (x, table) = (state.x.clone(), state.shifts.clone());
    let prediction = unet.forward_rows(x, table, Some(state.rows.clone()));
    // SAFETY: as in `assign`.
    unsafe { kernels::reverse_step(prediction, state) };
}

/// Overwrites a table of a walk.
fn assign<const D: usize>(target: &Tensor<D>, source: Tensor<D>) {
    // SAFETY: the memory is the walk's, which is being changed and so in use by nobody else; what others see of
    // it is `shown`.
    unsafe { kernels::assign(target, source) }
}

/// So many rows, or somewhat fewer, so that strides end where they do.
fn strides(rows: usize) -> usize {
    match rows {
        STRIDE.. => rows - rows % STRIDE,
        _ => rows,
    }
}
