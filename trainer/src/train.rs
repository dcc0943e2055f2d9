//! Algorithm 1 (Ho et al. 2020), one step after the other.
//!
//! Every random number - the order of the images, t, the noise, which labels are dropped - is drawn
//! from a ChaCha generator keyed by (seed, epoch, step), on the host. No draw depends on an earlier
//! one, so a step needs no memory of the steps before it beyond the weights, and a run that was
//! killed and goes on is, bit for bit, the run that was not.

use std::{
    f64::consts::PI,
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
};

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use clap::ValueEnum;
use fashion_ddpm::{
    BetaSchedule, Ema, Garment, GaussianDiffusion, NoiseSchedule, Prediction, UNet, UNetConfig,
    noise::{IMAGE_SIZE, PIXELS},
    schedule::ScheduleError,
    unet::ConfigError,
    weights::{Metadata, WeightsError, encode},
};
use rand::{Rng, RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::{
    data::{Dataset, to_network},
    optimizer::{AdamW, Rates},
};

/// All that decides, with the data, what a run computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The network.
    pub network: UNetConfig,
    /// The shape of beta_t.
    pub schedule: BetaSchedule,
    /// T.
    pub timesteps: usize,
    /// Images a step; the last step of an epoch takes what is left.
    pub batch_size: usize,
    /// Of every random number.
    pub seed: u32,
    /// Step size of AdamW once warm.
    pub learning_rate: f64,
    /// Steps over which the step size rises from nothing, while AdamW's moments are young.
    pub warm_up_steps: u64,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// Largest norm of the gradient.
    pub max_gradient_norm: f64,
    /// Decay of the averaged weights.
    pub ema_decay: f64,
    /// Probability that an image is shown without its label (Ho & Salimans 2022, algorithm 1).
    pub label_dropout: f64,
    /// What the network is trained to tell.
    #[serde(default, skip_serializing_if = "Prediction::is_noise")]
    pub prediction: Prediction,
    /// How the step size falls in the end; none where it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay: Option<Decay>,
}

/// How the step size falls to nothing at the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decay {
    /// Steps of the run before it begins.
    pub from_step: u64,
    /// Steps it takes, at least 1; the run ends with them.
    pub steps: u64,
    /// Its way down.
    pub shape: DecayShape,
}

impl Decay {
    /// Steps of the whole run.
    pub fn end(&self) -> u64 {
        self.from_step + self.steps
    }

    /// What of the step size the run's step number `step`, from 0, gets. With s steps of the decay
    /// behind it, of n: 1 - s / n, or (1 + cos(pi s / n)) / 2 (Loshchilov & Hutter 2017, equation 5,
    /// without restarts).
    pub fn factor(&self, step: u64) -> f64 {
        let behind = step.saturating_sub(self.from_step).min(self.steps);
        let way = behind as f64 / self.steps as f64;
        match self.shape {
            DecayShape::Linear => 1.0 - way,
            DecayShape::Cosine => 0.5 * (1.0 + (PI * way).cos()),
        }
    }
}

/// The way down of a [`Decay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DecayShape {
    /// In equal steps.
    #[default]
    Linear,
    /// Along half a cosine.
    Cosine,
}

impl fmt::Display for DecayShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        })
    }
}

impl TrainConfig {
    /// Step size of the run's step number `step`, from 0, with `remembered` steps in AdamW's moments
    /// (as many, but in a run that began with exported weights): it rises over the warm-up, stays,
    /// and falls where there is a [`Decay`].
    pub fn learning_rate_at(&self, step: u64, remembered: u64) -> f64 {
        let warm_up = (remembered + 1) as f64 / self.warm_up_steps.max(1) as f64;
        let decay = self.decay.map_or(1.0, |decay| decay.factor(step));
        self.learning_rate * warm_up.min(1.0) * decay
    }

    /// Whether it describes a training.
    ///
    /// # Errors
    /// [`TrainError`] names the first number that does not fit.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.network.validate()?;
        if !(1..=4096).contains(&self.batch_size) {
            return Err(TrainError::BatchSize(self.batch_size));
        }
        let within = |name, value: f64, holds: bool, range| match holds {
            true => Ok(()),
            false => Err(TrainError::Range { name, value, range }),
        };
        let rate = self.learning_rate;
        let rate_holds = rate > 0.0 && rate.is_finite();
        within("--learning-rate", rate, rate_holds, "above 0")?;
        let decay = self.ema_decay;
        within(
            "--ema-decay",
            decay,
            (0.0..1.0).contains(&decay),
            "from 0 to below 1",
        )?;
        let dropout = self.label_dropout;
        within(
            "--label-dropout",
            dropout,
            (0.0..=1.0).contains(&dropout),
            "from 0 to 1",
        )?;
        if self.decay.is_some_and(|decay| decay.steps == 0) {
            return Err(TrainError::NoDecay);
        }
        Ok(())
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            network: UNetConfig::default(),
            schedule: BetaSchedule::Linear,
            timesteps: 1000,
            batch_size: 64,
            seed: 0,
            learning_rate: 1e-3,
            warm_up_steps: 500,
            weight_decay: 1e-4,
            max_gradient_norm: 1.0,
            ema_decay: 0.999,
            label_dropout: 0.1,
            prediction: Prediction::Noise,
            decay: None,
        }
    }
}

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A number of images a step that makes no sense.
    #[error("a batch holds 1 to 4096 images, not {0}; choose another --batch-size")]
    BatchSize(usize),
    /// A number that makes no sense.
    #[error("{name} is {range}, {value} is not")]
    Range {
        /// The option.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be, in words.
        range: &'static str,
    },
    /// The step size has fallen already.
    #[error(
        "the step size of this state has begun to fall already; begin with an earlier one (--at-epoch), or leave --decay-epochs out"
    )]
    DecayPast,
    /// A decay without a step.
    #[error("a decay takes at least one step; choose more --decay-epochs")]
    NoDecay,
    /// No such network.
    #[error(transparent)]
    Network(#[from] ConfigError),
    /// No such schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The loss is no number any more.
    #[error(
        "the loss became {loss} in epoch {epoch}: training diverged; the last checkpoint is from before it"
    )]
    Diverged {
        /// What it became.
        loss: f64,
        /// When, 1-based.
        epoch: u32,
    },
}

/// One finished epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Its number, from 1.
    pub epoch: u32,
    /// Mean of the loss over its images.
    pub loss: f64,
    /// Speed.
    pub images_per_second: f64,
    /// Duration of the steps, without checkpoints and grids.
    pub seconds: f64,
    /// When it ended, in seconds since 1970 (UTC).
    pub unix_time: u64,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Position {
    /// Finished epochs.
    pub epoch: u32,
    /// Finished steps of the epoch begun.
    pub step: usize,
    /// Sum of the losses of this epoch's images so far.
    pub loss_sum: f64,
    /// Seconds spent on this epoch so far.
    pub seconds: f64,
    /// The finished epochs, in order.
    pub history: Vec<EpochRecord>,
}

/// A network being trained.
#[derive(Debug, Clone)]
pub struct Trainer {
    pub(crate) config: TrainConfig,
    pub(crate) model: UNet,
    pub(crate) optimizer: AdamW,
    pub(crate) ema: Ema,
    pub(crate) position: Position,
    diffusion: GaussianDiffusion,
    dataset: Arc<Dataset>,
    device: Device,
    /// Order of the images in the epoch begun.
    order: Vec<u32>,
    /// Losses still on the device, with the number of images behind each.
    pending: Vec<(Tensor<1>, usize)>,
}

impl Trainer {
    /// Fresh weights, which depend on the seed alone.
    ///
    /// # Errors
    /// [`TrainError`] where the configuration describes no training.
    pub fn new(
        config: TrainConfig,
        dataset: Arc<Dataset>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        let model = initialise(&config.network, config.seed, &device.clone().autodiff());
        let optimizer = AdamW::new(&model);
        let ema = Ema::new(&model, config.ema_decay);
        Self::assemble(
            config,
            dataset,
            device,
            (model, optimizer, ema),
            Position::default(),
        )
    }

    /// Goes on from weights without the state that made them, at `position`, the end of an epoch:
    /// network and average both begin with `average`, AdamW's moments with nothing.
    ///
    /// # Errors
    /// [`TrainError`] where the configuration describes no training.
    pub fn from_average(
        config: TrainConfig,
        dataset: Arc<Dataset>,
        device: &Device,
        average: UNet,
        position: Position,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        let autodiff = device.clone().autodiff();
        let record = average.clone().into_record();
        let model = config.network.init(&autodiff).load_record(record);
        let (optimizer, ema) = (AdamW::new(&model), Ema::new(&model, config.ema_decay));
        let parts = (model, optimizer, ema);
        let mut trainer = Self::assemble(config, dataset, device, parts, position)?;
        // An average that is no beginning any more: it does not warm up.
        let (decay, updates) = (trainer.config.ema_decay, trainer.steps_taken());
        trainer.ema = Ema::resume(average, decay, updates);
        Ok(trainer)
    }

    /// Puts a trainer together from its parts, as a checkpoint keeps them.
    pub(crate) fn assemble(
        config: TrainConfig,
        dataset: Arc<Dataset>,
        device: &Device,
        (model, optimizer, ema): (UNet, AdamW, Ema),
        position: Position,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        let schedule = NoiseSchedule::new(config.schedule, config.timesteps)?;
        Ok(Self {
            diffusion: GaussianDiffusion::new(schedule).predicting(config.prediction),
            order: order(config.seed, position.epoch, dataset.len()),
            device: device.clone().autodiff(),
            pending: Vec::new(),
            config,
            model,
            optimizer,
            ema,
            position,
            dataset,
        })
    }

    /// What decides the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Where it stands. Losses of the last few steps may be missing, see [`Self::settle`].
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The averaged weights, on the device without autodiff.
    pub fn averaged(&self) -> &UNet {
        self.ema.model()
    }

    /// The weights as the optimizer left them.
    pub fn model(&self) -> &UNet {
        &self.model
    }

    /// The device, without autodiff.
    pub fn device(&self) -> Device {
        self.device.clone().without_autodiff()
    }

    /// The tables of the schedule.
    pub fn diffusion(&self) -> &GaussianDiffusion {
        &self.diffusion
    }

    /// Steps an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.dataset.len().div_ceil(self.config.batch_size)
    }

    /// Steps of so many epochs.
    pub fn steps_of(&self, epochs: u32) -> u64 {
        u64::from(epochs) * self.steps_per_epoch() as u64
    }

    /// Steps taken in all.
    pub fn steps_taken(&self) -> u64 {
        let Position { epoch, step, .. } = self.position;
        self.steps_of(epoch) + step as u64
    }

    /// Size of the next step.
    pub fn learning_rate(&self) -> f64 {
        let remembered = self.optimizer.steps;
        self.config.learning_rate_at(self.steps_taken(), remembered)
    }

    /// Images shown in all, repetitions counted.
    pub fn images_seen(&self) -> u64 {
        self.images_after(self.steps_taken())
    }

    /// Images shown after so many steps of the run.
    pub fn images_after(&self, steps: u64) -> u64 {
        let (images, batch) = (self.dataset.len() as u64, self.config.batch_size as u64);
        let per_epoch = self.steps_per_epoch() as u64;
        steps / per_epoch * images + (steps % per_epoch * batch).min(images)
    }

    /// Fewest steps of the run after which so many images have been shown.
    pub fn steps_for(&self, images: u64) -> u64 {
        let (all, batch) = (self.dataset.len() as u64, self.config.batch_size as u64);
        images / all * self.steps_per_epoch() as u64 + (images % all).div_ceil(batch)
    }

    /// From here on another run: the step size falls as `decay` says, or stays, whatever it would
    /// have done.
    ///
    /// # Errors
    /// [`TrainError::DecayPast`] where it would have begun already, or an earlier one has.
    pub fn branch(&mut self, decay: Option<Decay>) -> Result<(), TrainError> {
        let step = self.steps_taken();
        if self.is_decaying() || decay.is_some_and(|decay| decay.from_step < step) {
            return Err(TrainError::DecayPast);
        }
        self.config.decay = decay;
        self.config.validate()
    }

    /// Whether the step size has begun to fall.
    pub fn is_decaying(&self) -> bool {
        let decay = self.config.decay;
        decay.is_some_and(|decay| decay.from_step < self.steps_taken())
    }

    /// Whether the last step was the last of its epoch, and [`Self::finish_epoch`] is due.
    pub fn epoch_is_over(&self) -> bool {
        self.position.step == self.steps_per_epoch()
    }

    /// What the next step draws.
    pub(crate) fn next_batch(&self) -> Batch {
        let Position { epoch, step, .. } = self.position;
        Batch::draw(&self.config, &self.dataset, &self.order, epoch, step)
    }

    /// One step of Algorithm 1, and of the average. Returns how many images it took.
    pub fn step(&mut self) -> usize {
        let batch = self.next_batch();
        let count = batch.t.len();
        let tensor = |values: Vec<f32>| {
            let shape = [count, 1, IMAGE_SIZE, IMAGE_SIZE];
            Tensor::<4>::from_data(TensorData::new(values, shape), &self.device)
        };
        let loss = self.diffusion.training_loss(
            &self.model,
            tensor(batch.x_0),
            &batch.t,
            &batch.labels,
            tensor(batch.noise),
        );
        self.pending.push((loss.clone().inner(), count));
        let gradients = loss.backward();
        let rates = Rates {
            learning_rate: self.learning_rate(),
            weight_decay: self.config.weight_decay,
            max_gradient_norm: self.config.max_gradient_norm,
        };
        self.model = self.optimizer.step(self.model.clone(), gradients, rates);
        self.ema.update(&self.model);
        self.position.step += 1;
        count
    }

    /// Reads the losses that are still on the device; a GPU has to finish its work for it, so not
    /// at every step. Returns their mean over the images, if there were any.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] where one is no finite number.
    pub fn settle(&mut self) -> Result<Option<f64>, TrainError> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let (losses, counts): (Vec<_>, Vec<_>) = mem::take(&mut self.pending).into_iter().unzip();
        let losses = Tensor::cat(losses, 0).into_data_as::<f32>();
        let losses = losses.try_to_vec::<f32>().unwrap_or_default();
        let mut sum = 0.0;
        for (&loss, &count) in losses.iter().zip(&counts) {
            let loss = f64::from(loss);
            if !loss.is_finite() {
                let epoch = self.position.epoch + 1;
                return Err(TrainError::Diverged { loss, epoch });
            }
            sum += loss * count as f64;
            self.position.loss_sum += loss * count as f64;
        }
        Ok(Some(sum / counts.iter().sum::<usize>() as f64))
    }

    /// Adds to the time spent on this epoch.
    pub fn spend(&mut self, seconds: f64) {
        self.position.seconds += seconds;
    }

    /// Closes an epoch: its record goes into the history, and the images are shuffled anew.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] as [`Self::settle`].
    pub fn finish_epoch(&mut self, unix_time: u64) -> Result<EpochRecord, TrainError> {
        self.settle()?;
        let images = self.dataset.len() as f64;
        let position = &mut self.position;
        position.epoch += 1;
        position.step = 0;
        let seconds = mem::take(&mut position.seconds);
        let record = EpochRecord {
            epoch: position.epoch,
            loss: mem::take(&mut position.loss_sum) / images,
            images_per_second: if seconds > 0.0 { images / seconds } else { 0.0 },
            seconds,
            unix_time,
        };
        position.history.push(record.clone());
        self.order = order(self.config.seed, position.epoch, self.dataset.len());
        Ok(record)
    }

    /// The averaged weights as the file the page loads.
    ///
    /// # Errors
    /// [`WeightsError`] where the container fails.
    pub fn weights(&self, source_commit: &str) -> Result<Vec<u8>, WeightsError> {
        let metadata = Metadata {
            config: self.config.network.clone(),
            timesteps: self.config.timesteps,
            schedule: self.config.schedule,
            epoch: self.position.epoch,
            images_seen: self.images_seen(),
            ema_decay: self.config.ema_decay,
            dataset: self.dataset.description(),
            dataset_sha256: self.dataset.sha256().to_owned(),
            source_commit: source_commit.to_owned(),
            parameters: self.averaged().num_params(),
            prediction: self.config.prediction,
        };
        encode(self.averaged(), &metadata, &self.device())
    }

    /// SHA-256 of the data set, by which a checkpoint knows it again.
    pub(crate) fn dataset_sha256(&self) -> &str {
        self.dataset.sha256()
    }
}

/// What a step draws.
pub(crate) struct Batch {
    /// Images in [-1, 1], 784 numbers each.
    pub(crate) x_0: Vec<f32>,
    /// Standard normal, as many.
    pub(crate) noise: Vec<f32>,
    /// One timestep an image.
    pub(crate) t: Vec<usize>,
    /// One label an image, `None` where it was dropped.
    pub(crate) labels: Vec<Option<Garment>>,
}

impl Batch {
    fn draw(
        config: &TrainConfig,
        dataset: &Dataset,
        order: &[u32],
        epoch: u32,
        step: usize,
    ) -> Self {
        let first = step * config.batch_size;
        let images = &order[first..(first + config.batch_size).min(order.len())];
        let mut rng = generator(config.seed, epoch, step as u64);
        let pixels = images.iter().flat_map(|&i| dataset.pixels(i as usize));
        Self {
            x_0: pixels.map(|&pixel| to_network(pixel)).collect(),
            t: images
                .iter()
                .map(|_| rng.random_range(0..config.timesteps))
                .collect(),
            labels: images
                .iter()
                .map(|&i| {
                    let keep = rng.random::<f64>() >= config.label_dropout;
                    keep.then(|| dataset.label(i as usize))
                })
                .collect(),
            noise: (0..images.len() * PIXELS)
                .map(|_| StandardNormal.sample(&mut rng))
                .collect(),
        }
    }
}

/// The images of an epoch, shuffled.
fn order(seed: u32, epoch: u32, images: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..images as u32).collect();
    order.shuffle(&mut generator(seed, epoch, u64::MAX));
    order
}

/// The generator that belongs to a step, or, with the last number there is, to an epoch's order.
fn generator(seed: u32, epoch: u32, step: u64) -> impl Rng {
    keyed(b"ddpm-trainer", seed, epoch, step)
}

/// A generator that belongs to these numbers, and to what it is for, by a word that keeps its
/// streams apart from all others.
pub(crate) fn keyed(purpose: &[u8; 12], seed: u32, epoch: u32, step: u64) -> impl Rng + use<> {
    let mut key = [0u8; 32];
    key[0..4].copy_from_slice(&seed.to_le_bytes());
    key[4..8].copy_from_slice(&epoch.to_le_bytes());
    key[8..16].copy_from_slice(&step.to_le_bytes());
    key[20..32].copy_from_slice(purpose);
    ChaCha8Rng::from_seed(key)
}

/// Fresh weights that depend on the seed alone.
pub fn initialise(network: &UNetConfig, seed: u32, device: &Device) -> UNet {
    // Weights are drawn where they are first read: by the record, in the order of the layers.
    let record = drawn(seed, |cpu| network.init(cpu).into_record());
    network.init(device).load_record(record)
}

/// What is drawn on the CPU, by Burn's own generator, which is one for the whole process.
pub(crate) fn drawn<T>(seed: u32, draw: impl FnOnce(&Device) -> T) -> T {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cpu = kernels::cpu();
    cpu.seed(u64::from(seed));
    draw(&cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use crate::data::Split;

    fn excerpt() -> Dataset {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/excerpt");
        Dataset::read(&folder, Split::Train).unwrap()
    }

    /// A network that is trained in no time.
    fn small() -> UNetConfig {
        UNetConfig {
            pixel_unshuffle: 4,
            channels: vec![8],
            attention: vec![false],
            ..UNetConfig::default()
        }
    }

    #[test]
    fn an_epoch_shows_every_image_once_in_an_order_of_its_own() {
        let first = order(3, 0, 1000);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<u32>>());
        assert_eq!(first, order(3, 0, 1000));
        for other in [order(3, 1, 1000), order(4, 0, 1000), sorted] {
            let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
            // One place in common is what chance gives.
            assert!(same < 12, "{same} places in common");
        }
    }

    /// The laws of Algorithm 1's draws over an epoch of 1000 images: t uniform, a tenth of the
    /// labels dropped and the others right, the noise standard normal, the images the data set's.
    #[test]
    fn batches_follow_the_laws_they_are_drawn_from() {
        let data = excerpt();
        let config = TrainConfig::default();
        let order = order(config.seed, 7, data.len());
        let batches: Vec<Batch> = (0..16)
            .map(|step| Batch::draw(&config, &data, &order, 7, step))
            .collect();
        assert_eq!(
            batches[15].t.len(),
            1000 - 15 * 64,
            "the last takes what is left"
        );

        let t: Vec<usize> = batches.iter().flat_map(|b| b.t.clone()).collect();
        assert!(t.iter().all(|&t| t < 1000));
        let mean = t.iter().sum::<usize>() as f64 / 1000.0;
        // Standard error 289 / sqrt(1000) = 9.1.
        assert!((mean - 499.5).abs() < 40.0, "{mean}");
        let high = t.iter().filter(|&&t| t >= 900).count();
        assert!(
            (60..140).contains(&high),
            "{high} of 1000 in the last tenth"
        );

        let mut dropped = 0;
        for (i, label) in batches.iter().flat_map(|b| &b.labels).enumerate() {
            match label {
                Some(label) => assert_eq!(*label, data.label(order[i] as usize)),
                None => dropped += 1,
            }
        }
        // Standard deviation 9.5.
        assert!((60..140).contains(&dropped), "{dropped} of 1000 dropped");

        let noise: Vec<f64> = batches
            .iter()
            .flat_map(|b| b.noise.iter().map(|&v| f64::from(v)))
            .collect();
        let n = noise.len() as f64;
        assert_eq!(noise.len(), 784_000);
        let moment = |k: i32| noise.iter().map(|v| v.powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.006 && (moment(2) - 1.0).abs() < 0.008);
        assert!((moment(4) - 3.0).abs() < 0.06);

        let x_0 = &batches[2].x_0;
        let image = order[2 * 64 + 5] as usize;
        for (value, &pixel) in x_0[5 * 784..6 * 784].iter().zip(data.pixels(image)) {
            assert_eq!(*value, to_network(pixel));
        }
    }

    #[test]
    fn no_two_steps_share_their_draws() {
        let data = excerpt();
        let config = TrainConfig::default();
        let order = order(0, 0, data.len());
        let noise = |seed, epoch, step| {
            let config = TrainConfig {
                seed,
                ..config.clone()
            };
            Batch::draw(&config, &data, &order, epoch, step).noise
        };
        let base = noise(0, 0, 0);
        assert_eq!(base, noise(0, 0, 0));
        for other in [noise(1, 0, 0), noise(0, 1, 0), noise(0, 0, 1)] {
            let n = base.len() as f32;
            let dot: f32 = base.iter().zip(&other).map(|(a, b)| a * b).sum();
            // One standard error is 1 / 224.
            assert!((dot / n).abs() < 0.025, "{}", dot / n);
        }
    }

    #[test]
    fn impossible_trainings_are_refused() {
        let data = Arc::new(excerpt());
        let new = |change: fn(&mut TrainConfig)| {
            let mut config = TrainConfig::default();
            change(&mut config);
            Trainer::new(config, data.clone(), &kernels::cpu()).map(|_| ())
        };
        assert!(matches!(
            new(|c| c.batch_size = 0),
            Err(TrainError::BatchSize(0))
        ));
        assert!(matches!(
            new(|c| c.batch_size = 5000),
            Err(TrainError::BatchSize(_))
        ));
        assert!(matches!(
            new(|c| c.timesteps = 1),
            Err(TrainError::Schedule(_))
        ));
        for change in [
            (|c| c.learning_rate = 0.0) as fn(&mut TrainConfig),
            |c| c.learning_rate = f64::INFINITY,
            |c| c.ema_decay = 1.0,
            |c| c.ema_decay = f64::NAN,
            |c| c.label_dropout = -0.1,
        ] {
            assert!(matches!(new(change), Err(TrainError::Range { .. })));
        }
        assert!(matches!(
            new(|c| c.network.groups = 0),
            Err(TrainError::Network(_))
        ));
    }

    /// The step size against its closed form: up, level, down to nothing just after the last step.
    #[test]
    fn the_step_size_follows_its_closed_form() {
        let decay = |shape| {
            Some(Decay {
                from_step: 600,
                steps: 400,
                shape,
            })
        };
        let constant = TrainConfig::default();
        let [linear, cosine] = [DecayShape::Linear, DecayShape::Cosine].map(|shape| TrainConfig {
            decay: decay(shape),
            ..constant.clone()
        });
        for step in 0..1000 {
            let before = constant.learning_rate_at(step, step);
            let expected = 1e-3 * ((step + 1) as f64 / 500.0).min(1.0);
            assert_eq!(before, expected, "step {step}");
            let (down, along) = (
                linear.learning_rate_at(step, step),
                cosine.learning_rate_at(step, step),
            );
            if step <= 600 {
                assert_eq!((down, along), (before, before), "step {step}");
                continue;
            }
            let left = (1000 - step) as f64 / 400.0;
            assert!((down - 1e-3 * left).abs() < 1e-15, "step {step}: {down}");
            // (1 + cos(pi (1 - left))) / 2 = sin^2(pi left / 2).
            let sine = (PI * left / 2.0).sin();
            assert!(
                (along - 1e-3 * sine * sine).abs() < 1e-15,
                "step {step}: {along}"
            );
        }
        assert_eq!(linear.learning_rate_at(1000, 1000), 0.0);
        assert_eq!(cosine.learning_rate_at(2000, 2000), 0.0);
        // With young moments it rises once more, below what it falls along.
        assert_eq!(linear.learning_rate_at(800, 49), 1e-3 * 0.1 * 0.5);
    }

    /// What goes on from averaged weights draws what their run would have drawn, with the smallest
    /// step of the warm-up; and before its first step it is those weights.
    #[test]
    fn averaged_weights_are_gone_on_with() {
        let config = TrainConfig {
            network: small(),
            batch_size: 500,
            ..TrainConfig::default()
        };
        let data = Arc::new(excerpt());
        let device = kernels::cpu();
        let mut trunk = Trainer::new(config.clone(), data.clone(), &device).unwrap();
        trunk.step();
        trunk.step();
        trunk.finish_epoch(0).unwrap();
        let (average, position) = (trunk.averaged().clone(), trunk.position().clone());
        let mut trainer =
            Trainer::from_average(config, data, &device, average.clone(), position).unwrap();
        let bits = |model: &UNet| {
            let tensors = crate::checkpoint::flatten("", &model.clone()).unwrap();
            let parts = tensors.into_iter().map(|t| t.into_parts().unwrap().4);
            parts.map(|bytes| bytes.to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(bits(trainer.averaged()), bits(&average));
        assert_eq!(bits(&trainer.model().valid()), bits(&average));
        let (own, twin) = (trainer.next_batch(), trunk.next_batch());
        assert_eq!((own.t, own.noise), (twin.t, twin.noise));
        assert_eq!((own.x_0, own.labels), (twin.x_0, twin.labels));
        assert_eq!(trainer.steps_taken(), 2);
        assert_eq!(trainer.ema.updates(), trunk.ema.updates());
        assert_eq!(trainer.learning_rate(), 1e-3 / 500.0);
        trainer.step();
        assert_ne!(bits(trainer.averaged()), bits(&average));
        assert_eq!(trainer.learning_rate(), 1e-3 * (2.0 / 500.0));
    }

    #[test]
    fn images_are_counted_in_steps_and_steps_in_images() {
        let data = Arc::new(excerpt());
        // 1000 images: 15 steps of 64 and one of 40.
        let trainer = Trainer::new(TrainConfig::default(), data, &kernels::cpu()).unwrap();
        for (steps, images) in [
            (0, 0),
            (1, 64),
            (15, 960),
            (16, 1000),
            (17, 1064),
            (48, 3000),
        ] {
            assert_eq!(trainer.images_after(steps), images);
            assert_eq!(trainer.steps_for(images), steps);
        }
        assert_eq!(trainer.steps_for(1001), 17);
        assert_eq!(trainer.steps_for(961), 16);
    }

    /// A step size without bounds must end in an error, not in weights that are no numbers.
    #[test]
    fn divergence_is_noticed() {
        let config = TrainConfig {
            network: small(),
            learning_rate: 1e30,
            warm_up_steps: 0,
            batch_size: 2,
            ..TrainConfig::default()
        };
        let mut trainer = Trainer::new(config, Arc::new(excerpt()), &kernels::cpu()).unwrap();
        for _ in 0..4 {
            trainer.step();
        }
        assert!(matches!(
            trainer.settle(),
            Err(TrainError::Diverged { epoch: 1, .. })
        ));
    }
}
