//! Networks by name, `unshuffle=2,channels=64-128,blocks=1,attention=7`, and what they cost.
//!
//! Speeds are measured side by side: in every round each network has its turn, so that whatever
//! else the machine does slows all of them alike, and a figure is the median of its rounds. For
//! another implementation to be compared with, [`twin`] writes down some steps of a training.

use std::{fmt, sync::Arc, time::Instant};

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use burn_pack::Writer;
use fashion_ddpm::{
    Garment, UNet, UNetConfig,
    noise::{IMAGE_SIZE, gaussian_batch},
    unet::ConfigError,
    weights::WeightsError,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    checkpoint::{CheckpointError, flatten},
    data::Dataset,
    train::{TrainConfig, TrainError, Trainer},
};

/// Why words describe no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// A part that is not understood.
    #[error(
        "`{0}` says nothing about a network; write unshuffle=2,channels=64-64,blocks=1,attention=7, or some of it"
    )]
    Part(String),
    /// JSON of something else.
    #[error("this is no network in JSON: {0}")]
    Json(String),
    /// No such network.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Reads a network from a list of what differs from the default: `unshuffle` is the side of the
/// squares of pixels folded by the stem, `channels` those of each resolution, `blocks` how many a
/// resolution has on each way, `attention` the widths in pixels at which there is some (`none`, or
/// 7 where it is left out), `groups` those of the normalisations. JSON as a weights file has it is
/// understood too.
///
/// # Errors
/// [`NetworkError`] names the part that is not understood, or the number that does not fit.
pub fn parse(text: &str) -> Result<UNetConfig, NetworkError> {
    if text.trim_start().starts_with('{') {
        let config: UNetConfig =
            serde_json::from_str(text).map_err(|error| NetworkError::Json(error.to_string()))?;
        config.validate()?;
        return Ok(config);
    }
    let mut config = UNetConfig::default();
    let mut attention = None;
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let wrong = || NetworkError::Part(part.to_owned());
        let (key, value) = part.split_once('=').ok_or_else(wrong)?;
        let number = || value.parse().map_err(|_| wrong());
        let numbers = || -> Result<Vec<usize>, NetworkError> {
            let words = value.split('-');
            words
                .map(|word| word.parse().map_err(|_| wrong()))
                .collect()
        };
        match key {
            "unshuffle" => config.pixel_unshuffle = number()?,
            "channels" => config.channels = numbers()?,
            "blocks" => config.blocks = number()?,
            "attention" if value == "none" => attention = Some(Vec::new()),
            "attention" => attention = Some(numbers()?),
            "groups" => config.groups = number()?,
            _ => return Err(wrong()),
        }
    }
    let widths = widths(&config);
    let mut asked = attention.iter().flatten();
    if let Some(width) = asked.find(|width| !widths.contains(width)) {
        let part = format!("attention={width}");
        return Err(NetworkError::Part(part));
    }
    // Where a network has such a width.
    let attention = attention.unwrap_or(vec![7]);
    config.attention = widths
        .iter()
        .map(|width| attention.contains(width))
        .collect();
    config.validate()?;
    Ok(config)
}

/// What [`parse`] reads, in full.
pub fn name(config: &UNetConfig) -> String {
    let list = |numbers: Vec<usize>| match numbers.is_empty() {
        true => "none".to_owned(),
        false => numbers
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join("-"),
    };
    let switches = widths(config).into_iter().zip(&config.attention);
    let attention = switches.filter_map(|(width, on)| on.then_some(width));
    let mut name = format!(
        "unshuffle={},channels={},blocks={},attention={}",
        config.pixel_unshuffle,
        list(config.channels.clone()),
        config.blocks,
        list(attention.collect()),
    );
    if config.groups != UNetConfig::default().groups {
        name += &format!(",groups={}", config.groups);
    }
    name
}

/// What a network costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkFigures {
    /// As [`name`] has it.
    pub name: String,
    /// Multiplications of a forward pass of one image.
    pub multiplications: u64,
    /// Numbers in the network.
    pub parameters: usize,
    /// Length of its weights file, in half precision.
    pub bytes: usize,
    /// [`UNetConfig::launches`].
    pub launches: usize,
    /// Images a second of forward passes.
    pub forward: Speed,
    /// Images a second of training steps: batch, forward, backward, AdamW and average.
    pub training: Speed,
}

impl NetworkFigures {
    /// What [`Self::cells`] are.
    pub const COLUMNS: [&'static str; 7] = [
        "network",
        "MMAC",
        "parameters",
        "bytes",
        "launches",
        "images/s forward",
        "images/s training",
    ];

    /// The figures as a row of a table.
    pub fn cells(&self) -> [String; 7] {
        [
            self.name.clone(),
            format!("{:.1}", self.multiplications as f64 / 1e6),
            self.parameters.to_string(),
            self.bytes.to_string(),
            self.launches.to_string(),
            self.forward.to_string(),
            self.training.to_string(),
        ]
    }
}

/// Of some rounds, in images a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Their median.
    pub median: f64,
    /// The slowest.
    pub least: f64,
    /// The fastest.
    pub most: f64,
}

impl fmt::Display for Speed {
    /// `252 (250-252)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} ({:.0}-{:.0})", self.median, self.least, self.most)
    }
}

impl Speed {
    fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        let at = |i: usize| rounds.get(i).copied().unwrap_or(f64::NAN);
        let n = rounds.len();
        Self {
            median: (at(n.saturating_sub(1) / 2) + at(n / 2)) / 2.0,
            least: at(0),
            most: at(n.saturating_sub(1)),
        }
    }
}

/// How networks are measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measuring {
    /// Turns that each network has.
    pub rounds: usize,
    /// Seconds of a turn, forward and training each.
    pub seconds: f64,
    /// Images at once.
    pub batch_size: usize,
}

/// Why there are no figures of a network.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// No training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// No weights file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// No tensors.
    #[error(transparent)]
    Tensors(#[from] CheckpointError),
    /// More images than there are.
    #[error(
        "the data set has {there} images, too few for {asked}; choose fewer steps or images at once"
    )]
    TooFew {
        /// What was asked for.
        asked: usize,
        /// What there is.
        there: usize,
    },
    /// No container.
    #[error("the container fails: {0}")]
    Container(String),
}

/// Measures networks side by side.
///
/// # Errors
/// [`MeasureError`] where one cannot be trained.
pub fn measure(
    networks: &[UNetConfig],
    measuring: &Measuring,
    dataset: &Arc<Dataset>,
    device: &Device,
) -> Result<Vec<NetworkFigures>, MeasureError> {
    let mut trainers = networks
        .iter()
        .map(|network| trainer(network, measuring.batch_size, dataset, device))
        .collect::<Result<Vec<_>, _>>()?;
    let mut speeds = vec![[Vec::new(), Vec::new()]; networks.len()];
    // The first turn only warms caches and compiles kernels.
    for round in 0..=measuring.rounds {
        for (trainer, speeds) in trainers.iter_mut().zip(&mut speeds) {
            let seconds = if round == 0 { 0.0 } else { measuring.seconds };
            let forward = forward_speed(trainer.averaged(), measuring, seconds, device);
            let training = training_speed(trainer, seconds)?;
            if round > 0 {
                speeds[0].push(forward);
                speeds[1].push(training);
            }
        }
    }
    let figures = networks.iter().zip(trainers).zip(speeds);
    figures
        .map(|((network, trainer), [forward, training])| {
            Ok(NetworkFigures {
                name: name(network),
                multiplications: network.multiplications(),
                parameters: trainer.averaged().num_params(),
                bytes: trainer.weights("unknown")?.len(),
                launches: network.launches(),
                forward: Speed::of(forward),
                training: Speed::of(training),
            })
        })
        .collect()
}

fn trainer(
    network: &UNetConfig,
    batch_size: usize,
    dataset: &Arc<Dataset>,
    device: &Device,
) -> Result<Trainer, TrainError> {
    let config = TrainConfig {
        network: network.clone(),
        batch_size,
        ..TrainConfig::default()
    };
    Trainer::new(config, dataset.clone(), device)
}

/// Passes and steps before an answer is read, which waits for all that a GPU has been given: as often as a run
/// looks at its losses.
const AT_ONCE: usize = 10;

/// Images a second, over at least `seconds` and two passes.
fn forward_speed(unet: &UNet, measuring: &Measuring, seconds: f64, device: &Device) -> f64 {
    let images = measuring.batch_size;
    let x = gaussian_batch(0, 0..images as u32, 0, 0, device);
    let t: Vec<usize> = (0..images).map(|i| i * 1000 / images).collect();
    let labels: Vec<_> = (0..images).map(|i| Garment::from_label(i % 11)).collect();
    let begun = Instant::now();
    let mut passes = 0;
    while passes < 2 || begun.elapsed().as_secs_f64() < seconds {
        let count = if seconds > 0.0 { AT_ONCE } else { 2 };
        let answers = (0..count).map(|_| unet.forward(x.clone(), &t, &labels).sum());
        let _ = Tensor::cat(answers.collect(), 0).into_data();
        passes += count;
    }
    (passes * images) as f64 / begun.elapsed().as_secs_f64()
}

fn training_speed(trainer: &mut Trainer, seconds: f64) -> Result<f64, TrainError> {
    let begun = Instant::now();
    let mut images = 0;
    let mut looked = false;
    while !looked || begun.elapsed().as_secs_f64() < seconds {
        let steps = if seconds > 0.0 { AT_ONCE } else { 2 };
        for _ in 0..steps {
            if trainer.epoch_is_over() {
                trainer.finish_epoch(0)?;
            }
            images += trainer.step();
        }
        trainer.settle()?;
        looked = true;
    }
    Ok(images as f64 / begun.elapsed().as_secs_f64())
}

/// Writes down the first `steps` steps of a training, for another implementation to repeat: a
/// burnpack container with
///
/// - `initial.*` and, after the steps, `model.*` and `average.*`: weights in f32
/// - `x_0` and `noise`, `[steps, batch, 1, 28, 28]`; `t` and `labels`, `[steps, batch]`, where the
///   label 10 stands for none
/// - `loss` and `learning_rate`, `[steps]`
/// - `answer`, `[batch, 1, 28, 28]`: what the trained network says of the first step's `noise` at
///   its `t` and `labels`
///
/// and the string `twin`, the configuration as JSON.
///
/// # Errors
/// [`MeasureError`] where there is no such training.
pub fn twin(
    network: &UNetConfig,
    steps: usize,
    batch_size: usize,
    dataset: &Arc<Dataset>,
    device: &Device,
) -> Result<Vec<u8>, MeasureError> {
    let (asked, there) = (steps * batch_size, dataset.len());
    if asked > there {
        return Err(MeasureError::TooFew { asked, there });
    }
    let mut trainer = trainer(network, batch_size, dataset, device)?;
    let mut tensors = flatten("initial", &trainer.model().valid())?;
    let mut rows: [Vec<f32>; 6] = Default::default();
    let mut first = None;
    for _ in 0..steps {
        let batch = trainer.next_batch();
        let labels = batch.labels.iter();
        let labels = labels.map(|label| label.map_or(Garment::ALL.len(), Garment::label) as f32);
        rows[0].extend(&batch.x_0);
        rows[1].extend(&batch.noise);
        rows[2].extend(batch.t.iter().map(|&t| t as f32));
        rows[3].extend(labels);
        rows[4].push(trainer.learning_rate() as f32);
        first.get_or_insert(batch);
        trainer.step();
        rows[5].push(trainer.settle()?.unwrap_or(f64::NAN) as f32);
    }
    tensors.extend(flatten("model", &trainer.model().valid())?);
    tensors.extend(flatten("average", trainer.averaged())?);
    let images = [steps, batch_size, 1, IMAGE_SIZE, IMAGE_SIZE];
    let mut push = |name: &str, values: Vec<f32>, shape: &[usize]| {
        let (bytes, shape, dtype) = TensorData::new(values, shape.to_vec()).into_parts();
        let name = name.to_owned();
        tensors.push(burn_pack::Tensor::new(name, dtype, shape, None, bytes));
    };
    if let Some(batch) = first {
        let x = TensorData::new(batch.noise, images[1..].to_vec());
        let x = Tensor::<4>::from_data(x, device);
        let answer = trainer.model().valid().forward(x, &batch.t, &batch.labels);
        let answer = answer
            .into_data_as::<f32>()
            .try_to_vec()
            .unwrap_or_default();
        push("answer", answer, &images[1..]);
    }
    let shapes: [&[usize]; 6] = [
        &images,
        &images,
        &images[..2],
        &images[..2],
        &images[..1],
        &images[..1],
    ];
    let names = ["x_0", "noise", "t", "labels", "learning_rate", "loss"];
    for ((name, values), shape) in names.into_iter().zip(rows).zip(shapes) {
        push(name, values, shape);
    }
    let figures = json!({
        "name": name(network),
        "multiplications": network.multiplications(),
        "config": trainer.config(),
    });
    let bytes = Writer::new(tensors)
        .with_metadata("twin", &figures.to_string())
        .into_bytes()
        .map_err(|error| MeasureError::Container(error.to_string()))?;
    Ok(bytes.to_vec())
}

/// Width in pixels of each resolution.
fn widths(config: &UNetConfig) -> Vec<usize> {
    let first = config.image_size / config.pixel_unshuffle.max(1);
    (0..config.channels.len())
        .map(|level| first >> level.min(63))
        .collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Bytes;

    use super::*;

    #[test]
    fn names_are_networks_and_networks_names() {
        let default = "unshuffle=2,channels=64-64,blocks=1,attention=7";
        assert_eq!(parse(default).unwrap(), UNetConfig::default());
        assert_eq!(parse("").unwrap(), UNetConfig::default());
        assert_eq!(name(&UNetConfig::default()), default);
        let wide = parse("unshuffle=1,channels=32-64-128,blocks=2,attention=14-7").unwrap();
        assert_eq!(wide.pixel_unshuffle, 1);
        assert_eq!(wide.channels, [32, 64, 128]);
        assert_eq!(wide.blocks, 2);
        assert_eq!(wide.attention, [false, true, true]);
        assert_eq!(parse(&name(&wide)).unwrap(), wide);
        // No resolution is 7 pixels wide, and nobody asked for attention there.
        let shallow = parse("unshuffle=1,channels=32-32,groups=4").unwrap();
        assert_eq!(shallow.attention, [false, false]);
        assert_eq!(parse(&name(&shallow)).unwrap(), shallow);
        let json = serde_json::to_string(&wide).unwrap();
        assert_eq!(parse(&json).unwrap(), wide);
    }

    /// A fresh network answers zero: the first loss is the mean square of the noise written down.
    /// The weights before are those of the seed, those after are others, and the answer is theirs.
    #[test]
    fn a_twin_gets_all_it_needs() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/excerpt");
        let data = Arc::new(Dataset::read(&folder, crate::data::Split::Train).unwrap());
        let (network, device) = (parse("unshuffle=4,channels=8").unwrap(), kernels::cpu());
        let bytes = twin(&network, 3, 4, &data, &device).unwrap();
        let reader = burn_pack::Reader::from_bytes(Bytes::from_bytes_vec(bytes)).unwrap();
        let strings: serde_json::Value = serde_json::from_str(&reader.metadata()["twin"]).unwrap();
        assert_eq!(strings["name"], name(&network).as_str());
        let tensors = reader.into_tensors().unwrap();
        let values = |name: &str| {
            let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
            let (_, dtype, shape, _, bytes) = tensor.clone().into_parts().unwrap();
            let data = TensorData::from_bytes(bytes, shape.clone(), dtype);
            (shape.to_vec(), data.try_to_vec::<f32>().unwrap())
        };
        let (shape, noise) = values("noise");
        assert_eq!(shape, [3, 4, 1, 28, 28]);
        let first = &noise[..4 * 784];
        let mean = first.iter().map(|v| v * v).sum::<f32>() / first.len() as f32;
        let (_, loss) = values("loss");
        assert!((loss[0] / mean - 1.0).abs() < 1e-5, "{} {mean}", loss[0]);
        let (_, rates) = values("learning_rate");
        assert_eq!(
            rates,
            [1, 2, 3].map(|step| (1e-3 * (f64::from(step) / 500.0)) as f32)
        );
        let fresh = crate::train::initialise(&network, 0, &device);
        let fresh = flatten("initial", &fresh).unwrap();
        let stem = fresh
            .iter()
            .find(|tensor| tensor.name == "initial.stem.weight")
            .unwrap();
        let written = tensors
            .iter()
            .find(|tensor| tensor.name == stem.name)
            .unwrap();
        assert_eq!(*stem.to_bytes().unwrap(), *written.to_bytes().unwrap());
        assert_ne!(values("initial.stem.weight"), values("model.stem.weight"));
        assert_ne!(values("average.stem.weight"), values("model.stem.weight"));
        assert!(values("answer").1.iter().any(|v| v.abs() > 1e-4));
        let error = twin(&network, 300, 4, &data, &device).unwrap_err();
        assert!(matches!(
            error,
            MeasureError::TooFew {
                asked: 1200,
                there: 1000
            }
        ));
    }

    #[test]
    fn speeds_are_medians() {
        let speed = Speed::of(vec![5.0, 1.0, 3.0]);
        assert_eq!((speed.median, speed.least, speed.most), (3.0, 1.0, 5.0));
        assert_eq!(Speed::of(vec![4.0, 1.0]).median, 2.5);
    }

    #[test]
    fn what_is_no_network_is_named() {
        for (text, word) in [
            ("channels", "channels"),
            ("channels=64-x", "channels=64-x"),
            ("depth=3", "depth=3"),
            ("attention=5", "attention=5"),
            ("attention=28-7", "attention=28"),
            ("unshuffle=1,channels=32-32,attention=7", "attention=7"),
            ("channels=60", "multiple"),
            ("unshuffle=3", "divide"),
            ("unshuffle=0", "divide"),
            ("blocks=0", "blocks"),
            ("{}", "JSON"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
