//! Algorithm 1 (Ho et al. 2020), one step after the other.
//!
//! Every random number - the order of the images, t, the noise, which labels are dropped - is drawn
//! from a ChaCha generator keyed by (seed, epoch, step), on the host. No draw depends on an earlier
//! one, so a step needs no memory of the steps before it beyond the weights, and a run that was
//! killed and goes on is, bit for bit, the run that was not.

use std::{mem, sync::Arc, sync::Mutex, sync::PoisonError};

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use fashion_ddpm::{
    BetaSchedule, Ema, Garment, GaussianDiffusion, NoiseSchedule, UNet, UNetConfig,
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
    /// Steps over which the step size rises from nothing.
    pub warm_up_steps: u64,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// Largest norm of the gradient.
    pub max_gradient_norm: f64,
    /// Decay of the averaged weights.
    pub ema_decay: f64,
    /// Probability that an image is shown without its label (Ho & Salimans 2022, algorithm 1).
    pub label_dropout: f64,
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
        }
    }
}

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A number of images a step that makes no sense.
    #[error("a batch holds 1 to 4096 images, not {0}; choose another --batch-size")]
    BatchSize(usize),
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
        config.network.validate()?;
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

    /// Puts a trainer together from its parts, as a checkpoint keeps them.
    pub(crate) fn assemble(
        config: TrainConfig,
        dataset: Arc<Dataset>,
        device: &Device,
        (model, optimizer, ema): (UNet, AdamW, Ema),
        position: Position,
    ) -> Result<Self, TrainError> {
        if !(1..=4096).contains(&config.batch_size) {
            return Err(TrainError::BatchSize(config.batch_size));
        }
        let schedule = NoiseSchedule::new(config.schedule, config.timesteps)?;
        Ok(Self {
            diffusion: GaussianDiffusion::new(schedule),
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

    /// Images that the epoch begun has shown so far.
    pub fn images_this_epoch(&self) -> usize {
        (self.position.step * self.config.batch_size).min(self.dataset.len())
    }

    /// Whether the last step was the last of its epoch, and [`Self::finish_epoch`] is due.
    pub fn epoch_is_over(&self) -> bool {
        self.position.step == self.steps_per_epoch()
    }

    /// One step of Algorithm 1, and of the average. Returns how many images it took.
    pub fn step(&mut self) -> usize {
        let Position { epoch, step, .. } = self.position;
        let batch = Batch::draw(&self.config, &self.dataset, &self.order, epoch, step);
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
        let warm_up = (self.optimizer.steps + 1) as f64 / self.config.warm_up_steps.max(1) as f64;
        let rates = Rates {
            learning_rate: self.config.learning_rate * warm_up.min(1.0),
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
        let seen = u64::from(self.position.epoch) * self.dataset.len() as u64;
        let metadata = Metadata {
            config: self.config.network.clone(),
            timesteps: self.config.timesteps,
            schedule: self.config.schedule,
            epoch: self.position.epoch,
            images_seen: seen + self.images_this_epoch() as u64,
            ema_decay: self.config.ema_decay,
            dataset: self.dataset.description(),
            dataset_sha256: self.dataset.sha256().to_owned(),
            source_commit: source_commit.to_owned(),
            parameters: self.averaged().num_params(),
        };
        encode(self.averaged(), &metadata, &self.device())
    }

    /// SHA-256 of the data set, by which a checkpoint knows it again.
    pub(crate) fn dataset_sha256(&self) -> &str {
        self.dataset.sha256()
    }
}

/// What a step draws.
struct Batch {
    x_0: Vec<f32>,
    noise: Vec<f32>,
    t: Vec<usize>,
    labels: Vec<Option<Garment>>,
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
    let mut key = [0u8; 32];
    key[0..4].copy_from_slice(&seed.to_le_bytes());
    key[4..8].copy_from_slice(&epoch.to_le_bytes());
    key[8..16].copy_from_slice(&step.to_le_bytes());
    // Keeps these streams apart from those of a picture's noise.
    key[20..32].copy_from_slice(b"ddpm-trainer");
    ChaCha8Rng::from_seed(key)
}

/// Fresh weights that depend on the seed alone: drawn on the CPU, whose generator is Burn's own and
/// one for the whole process, and then brought to the device.
pub fn initialise(network: &UNetConfig, seed: u32, device: &Device) -> UNet {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let cpu = kernels::cpu();
    let record = {
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        cpu.seed(u64::from(seed));
        // Weights are drawn where they are first read: by the record, in the order of the layers.
        network.init(&cpu).into_record()
    };
    network.init(device).load_record(record)
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
        assert!(matches!(
            new(|c| c.network.groups = 0),
            Err(TrainError::Network(_))
        ));
    }

    /// A step size without bounds must end in an error, not in weights that are no numbers.
    #[test]
    fn divergence_is_noticed() {
        let config = TrainConfig {
            network: UNetConfig {
                pixel_unshuffle: 4,
                channels: vec![8],
                attention: vec![false],
                ..UNetConfig::default()
            },
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
