//! The judge: a small frozen classifier, through whose eyes samples are measured.
//!
//! What the U-Net paints is judged by a network that has seen real garments only. Its penultimate
//! layer is the space in which distances between sets of images are taken, its answer says what an
//! image shows, and its confidence whether the image shows anything. Figures taken through
//! different judges do not compare, so one judge is trained once ([`train`]), built into the
//! program ([`Judge::built_in`]), and its checksum is part of every figure's name.
//!
//! It is never shown mirrored garments, so that it can tell them from real ones: a bag has a side,
//! a sneaker points left.

use std::sync::OnceLock;

use burn::{
    module::{Initializer, Module, Param},
    nn::{
        Linear, LinearConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
        loss::CrossEntropyLossConfig,
    },
    optim::{AdamWConfig, GradientsParams},
    tensor::{
        DType, Device, Int, Tensor, TensorData,
        activation::{silu, softmax},
    },
};
use fashion_ddpm::{
    Garment,
    noise::{IMAGE_SIZE, PIXELS},
    weights::{self, WeightsError},
};
use rand::{Rng, RngExt, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use crate::{
    data::{Dataset, to_network},
    progress::Progress,
    sealed::{self, Flaw},
    train::{drawn, keyed},
};

/// Width of the penultimate layer: the dimensions of the feature space.
pub const FEATURES: usize = 128;

/// Share of the real test images that are less sure than [`JudgeCard::confidence_threshold`].
pub const UNSURE_SHARE: f64 = 0.02;

/// Raised whenever an old reader would misunderstand a new file.
const FORMAT_VERSION: u32 = 1;

/// Images looked at, at once.
const BATCH: usize = 128;

/// Groups of the normalisations.
const GROUPS: usize = 8;

/// Channels out and stride of each 3 x 3 convolution: 28 x 28, 14, 7, 7 and 4 pixels wide.
const CONVOLUTIONS: [(usize, usize); 5] = [(32, 1), (48, 2), (64, 2), (64, 1), (64, 2)];

/// Width and height after the last convolution.
const LAST_SIZE: usize = 4;

/// Why there is no judge.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JudgeError {
    /// No judge's file, or a damaged one.
    #[error("the judge's file is {0}; make one by `trainer train-judge`")]
    File(#[from] Flaw),
    /// Nothing to hold out, or nothing to learn from.
    #[error("a judge needs at least {least} training images, not {found}; use the full data set")]
    TooFew {
        /// The least.
        least: usize,
        /// What there was.
        found: usize,
    },
    /// The loss is no number any more.
    #[error("the loss became {0}: training diverged; choose another --seed")]
    Diverged(f64),
}

/// What a judge's file says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeCard {
    format_version: u32,
    /// Of every random number of its training.
    pub seed: u32,
    /// Passes over the data after which its weights were kept.
    pub epoch: u32,
    /// Images it was trained on, without those held out.
    pub training_images: usize,
    /// Images held out, by which training was stopped.
    pub held_out_images: usize,
    /// Share of the images it was trained on that it names rightly.
    pub train_accuracy: f64,
    /// The same of the images held out.
    pub held_out_accuracy: f64,
    /// The same of the test images.
    pub test_accuracy: f64,
    /// An image named with less confidence counts as broken; [`UNSURE_SHARE`] of the real test
    /// images are. Fixed here, before any sample is seen.
    pub confidence_threshold: f32,
    /// SHA-256 of the training images and labels, as [`Dataset::sha256`] counts it.
    pub train_sha256: String,
    /// The same of the test images.
    pub test_sha256: String,
}

/// A convolution, its normalisation and SiLU.
#[derive(Module, Debug)]
struct Layer {
    conv: Conv2d,
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
}

impl Layer {
    fn new(channels_in: usize, channels_out: usize, stride: usize, device: &Device) -> Self {
        Self {
            // The normalisation has a bias of its own.
            conv: Conv2dConfig::new([channels_in, channels_out], [3, 3])
                .with_stride([stride; 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_bias(false)
                .init(device),
            gamma: Initializer::Ones.init([channels_out], device),
            beta: Initializer::Zeros.init([channels_out], device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        const EPSILON: f64 = 1e-5;
        let x = kernels::conv2d(x, self.conv.weight.val(), None, self.conv.stride[0], 1);
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        kernels::group_norm_silu(x, gamma, beta, GROUPS, EPSILON, true)
    }
}

/// The classifier: five convolutions, a layer of [`FEATURES`], and one of ten.
#[derive(Module, Debug)]
pub struct Classifier {
    layers: Vec<Layer>,
    features: Linear,
    head: Linear,
}

impl Classifier {
    /// A classifier with fresh weights.
    pub fn new(device: &Device) -> Self {
        let mut channels = 1;
        let layers = CONVOLUTIONS
            .map(|(channels_out, stride)| {
                let channels_in = std::mem::replace(&mut channels, channels_out);
                Layer::new(channels_in, channels_out, stride, device)
            })
            .into();
        Self {
            layers,
            features: LinearConfig::new(channels * LAST_SIZE * LAST_SIZE, FEATURES).init(device),
            head: LinearConfig::new(FEATURES, Garment::ALL.len()).init(device),
        }
    }

    /// The penultimate layer.
    ///
    /// # Shapes
    /// - `x`: `[batch, 1, 28, 28]`, in [-1, 1]
    /// - result: `[batch, FEATURES]`
    pub fn features(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.layers.iter().fold(x, |x, layer| layer.forward(x));
        silu(self.features.forward(x.flatten(1, 3)))
    }

    /// The ten logits of [`Self::features`], shape `[batch, 10]`.
    pub fn logits(&self, features: Tensor<2>) -> Tensor<2> {
        self.head.forward(features)
    }
}

/// What a judge makes of images.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdicts {
    /// [`FEATURES`] numbers an image, one image after the other.
    pub features: Vec<f32>,
    /// What each image shows.
    pub garments: Vec<Garment>,
    /// The probability of it, from 0.1 to 1.
    pub confidences: Vec<f32>,
}

impl Verdicts {
    /// Share of images that show what `labels` say, one label an image.
    pub fn accuracy(&self, labels: &[Garment]) -> f64 {
        let right = self.garments.iter().zip(labels).filter(|(a, b)| a == b);
        right.count() as f64 / labels.len() as f64
    }
}

/// A trained classifier, and what is known of it. It computes on the CPU, wherever samples come
/// from, so that its figures are the same everywhere.
#[derive(Debug, Clone)]
pub struct Judge {
    classifier: Classifier,
    /// What its file says about itself.
    pub card: JudgeCard,
    /// SHA-256 over all tensors and the card; hexadecimal.
    pub sha256: String,
}

impl Judge {
    /// The judge that this program was built with: the one whose figures are published.
    ///
    /// # Errors
    /// [`JudgeError`] where the file in the repository is none.
    pub fn built_in() -> Result<Self, JudgeError> {
        static BUILT_IN: OnceLock<Result<Judge, JudgeError>> = OnceLock::new();
        BUILT_IN
            .get_or_init(|| decode(include_bytes!("../judge/judge.bpk")))
            .clone()
    }

    /// Looks at images: 784 bytes each, row by row, 0 = black.
    ///
    /// # Panics
    /// If `pixels` is no whole number of images.
    pub fn look(&self, pixels: &[u8]) -> Verdicts {
        look(&self.classifier, pixels)
    }
}

fn look(classifier: &Classifier, pixels: &[u8]) -> Verdicts {
    assert!(pixels.len().is_multiple_of(PIXELS));
    let mut verdicts = Verdicts::default();
    for batch in pixels.chunks(BATCH * PIXELS) {
        let values: Vec<f32> = batch.iter().map(|&pixel| to_network(pixel)).collect();
        let features = classifier.features(tensor(values, &kernels::cpu()));
        let probabilities = floats(softmax(classifier.logits(features.clone()), 1));
        verdicts.features.extend(floats(features));
        for row in probabilities.chunks_exact(Garment::ALL.len()) {
            let best = (0..row.len())
                .max_by(|&a, &b| row[a].total_cmp(&row[b]))
                .expect("ten classes");
            verdicts.garments.push(Garment::ALL[best]);
            verdicts.confidences.push(row[best]);
        }
    }
    verdicts
}

fn tensor(values: Vec<f32>, device: &Device) -> Tensor<4> {
    let shape = [values.len() / PIXELS, 1, IMAGE_SIZE, IMAGE_SIZE];
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn floats(x: Tensor<2>) -> Vec<f32> {
    x.into_data_as::<f32>()
        .try_to_vec()
        .expect("just converted to f32")
}

/// How a judge is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgeConfig {
    /// Of every random number.
    pub seed: u32,
    /// Passes over the data at most.
    pub epochs: u32,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            epochs: 20,
        }
    }
}

/// Training images that are held out: these, or a tenth where there are not ten times as many.
const HELD_OUT: usize = 5000;

/// Fewest training images a judge can be made of.
const FEWEST: usize = 200;

/// Epochs without a better accuracy on the images held out after which training ends.
const PATIENCE: u32 = 4;

/// Step size of AdamW at first; it falls to nothing along half a cosine.
const LEARNING_RATE: f64 = 2e-3;

/// Weight decay of AdamW.
const WEIGHT_DECAY: f32 = 0.02;

/// Share of the features hidden from the last layer in training.
const DROPOUT: f64 = 0.4;

/// Largest shift of a training image, in pixels.
const SHIFT: i32 = 2;

/// Trains a judge on the training images, and measures it on the test images; makes its file.
///
/// Training stops early: the weights kept are those of the epoch that names most of the images held
/// out rightly. The test images decide nothing but the threshold of confidence.
///
/// # Errors
/// [`JudgeError::TooFew`] for an excerpt too small, [`JudgeError::Diverged`] where the loss is no
/// number.
pub fn train(
    config: &JudgeConfig,
    training: &Dataset,
    test: &Dataset,
) -> Result<(Vec<u8>, Judge), JudgeError> {
    if training.len() < FEWEST {
        return Err(JudgeError::TooFew {
            least: FEWEST,
            found: training.len(),
        });
    }
    let mut images: Vec<usize> = (0..training.len()).collect();
    images.shuffle(&mut generator(config.seed, 0));
    let held_out = images.split_off(images.len() - HELD_OUT.min(images.len() / 10));
    let held_out = part(training, &held_out);

    let device = kernels::cpu().autodiff();
    let record = drawn(config.seed, |cpu| Classifier::new(cpu).into_record());
    let mut classifier = Classifier::new(&device).load_record(record);
    let mut optimizer = AdamWConfig::new().with_weight_decay(WEIGHT_DECAY).init();
    let loss = CrossEntropyLossConfig::new().init(&device);
    let steps = images.len().div_ceil(BATCH) * config.epochs as usize;
    let mut step = 0;
    let mut best: Option<(f64, u32, Classifier)> = None;
    let mut progress = Progress::new((images.len() * config.epochs as usize) as u64, 0, "images");
    for epoch in 1..=config.epochs {
        let mut rng = generator(config.seed, epoch);
        images.shuffle(&mut rng);
        let mut sum = 0.0;
        for batch in images.chunks(BATCH) {
            let x = batch
                .iter()
                .flat_map(|&image| shifted(training.pixels(image), &mut rng))
                .collect();
            let labels: Vec<i32> = batch
                .iter()
                .map(|&image| training.label(image).label() as i32)
                .collect();
            let labels = Tensor::<1, Int>::from_data(labels.as_slice(), &device);
            let features = classifier.features(tensor(x, &device));
            let logits = classifier.logits(features * mask(batch.len(), &mut rng, &device));
            let loss = loss.forward(logits, labels);
            let value = f64::from(loss.clone().inner().into_scalar::<f32>());
            if !value.is_finite() {
                return Err(JudgeError::Diverged(value));
            }
            sum += value * batch.len() as f64;
            let gradients = GradientsParams::from_grads(loss.backward(), &classifier);
            let way = step as f64 / steps as f64;
            let rate = LEARNING_RATE * 0.5 * (1.0 + (std::f64::consts::PI * way).cos());
            classifier = optimizer.step(rate, classifier, gradients);
            step += 1;
            progress.advance(batch.len() as u64, &format!("epoch {epoch}"));
        }
        let accuracy = look(&classifier.valid(), &held_out.pixels).accuracy(&held_out.labels);
        let mean = sum / images.len() as f64;
        progress.say(&format!(
            "epoch {epoch}: loss {mean:.4}, held-out accuracy {accuracy:.4}"
        ));
        match &best {
            Some((most, since, _)) if *most >= accuracy => {
                if epoch - since >= PATIENCE {
                    break;
                }
            }
            _ => best = Some((accuracy, epoch, classifier.valid())),
        }
    }
    let (_, epoch, classifier) = best.expect("there is at least one epoch");

    // What is measured is what is written: the rounded weights.
    let tensors = converted(sealed::tensors(classifier)?, DType::F16)?;
    let classifier = load(tensors.clone())?;
    let everything: Vec<usize> = (0..test.len()).collect();
    let test_part = part(test, &everything);
    let on_test = look(&classifier, &test_part.pixels);
    let accuracy = |part: &Part| look(&classifier, &part.pixels).accuracy(&part.labels);
    let card = JudgeCard {
        format_version: FORMAT_VERSION,
        seed: config.seed,
        epoch,
        training_images: images.len(),
        held_out_images: held_out.labels.len(),
        train_accuracy: accuracy(&part(training, &images)),
        held_out_accuracy: accuracy(&held_out),
        test_accuracy: on_test.accuracy(&test_part.labels),
        confidence_threshold: threshold(on_test.confidences),
        train_sha256: training.sha256().to_owned(),
        test_sha256: test.sha256().to_owned(),
    };
    let (bytes, sha256) = sealed::seal("judge", &card, tensors)?;
    let judge = Judge {
        classifier,
        card,
        sha256,
    };
    Ok((bytes, judge))
}

/// Some images of a data set.
struct Part {
    pixels: Vec<u8>,
    labels: Vec<Garment>,
}

fn part(data: &Dataset, images: &[usize]) -> Part {
    Part {
        pixels: images
            .iter()
            .flat_map(|&image| data.pixels(image))
            .copied()
            .collect(),
        labels: images.iter().map(|&image| data.label(image)).collect(),
    }
}

/// The confidence that [`UNSURE_SHARE`] of the images do not reach.
fn threshold(mut confidences: Vec<f32>) -> f32 {
    confidences.sort_by(f32::total_cmp);
    let unsure = (confidences.len() as f64 * UNSURE_SHARE).round() as usize;
    confidences[unsure.min(confidences.len() - 1)]
}

/// The image moved by up to [`SHIFT`] pixels each way, what comes in black; as the network sees it.
fn shifted(pixels: &[u8], rng: &mut impl Rng) -> Vec<f32> {
    let mut by = || rng.random_range(-SHIFT..=SHIFT);
    let (down, right) = (by(), by());
    let size = IMAGE_SIZE as i32;
    let at = |y: i32, x: i32| {
        let inside = (0..size).contains(&y) && (0..size).contains(&x);
        if inside {
            pixels[(y * size + x) as usize]
        } else {
            0
        }
    };
    (0..size)
        .flat_map(|y| (0..size).map(move |x| (y, x)))
        .map(|(y, x)| to_network(at(y - down, x - right)))
        .collect()
}

/// Dropout (Srivastava et al. 2014): zero, or what keeps the mean. Shape `[images, FEATURES]`.
fn mask(images: usize, rng: &mut impl Rng, device: &Device) -> Tensor<2> {
    let kept = (1.0 / (1.0 - DROPOUT)) as f32;
    let values: Vec<f32> = (0..images * FEATURES)
        .map(|_| {
            if rng.random::<f64>() < DROPOUT {
                0.0
            } else {
                kept
            }
        })
        .collect();
    Tensor::from_data(TensorData::new(values, [images, FEATURES]), device)
}

/// The generator of an epoch; of what is held out, with epoch 0.
fn generator(seed: u32, epoch: u32) -> impl Rng {
    keyed(b"ddpm---judge", seed, epoch, 0)
}

/// Reads a judge's file.
///
/// # Errors
/// [`JudgeError`] where it is cut off, altered, or another file.
pub fn decode(bytes: &[u8]) -> Result<Judge, JudgeError> {
    let (card, tensors, sha256) = sealed::open::<JudgeCard>("judge", bytes)?;
    if card.format_version != FORMAT_VERSION {
        let version = format_args!("version {}", card.format_version);
        return Err(Flaw::foreign(version).into());
    }
    Ok(Judge {
        classifier: load(tensors)?,
        card,
        sha256,
    })
}

/// A classifier with these weights, in f32 on the CPU.
fn load(tensors: Vec<burn_pack::Tensor>) -> Result<Classifier, Flaw> {
    let tensors = converted(tensors, DType::F32)?;
    sealed::load(Classifier::new(&kernels::cpu()), tensors)
}

fn converted(
    tensors: Vec<burn_pack::Tensor>,
    dtype: DType,
) -> Result<Vec<burn_pack::Tensor>, Flaw> {
    let convert = |tensor| {
        weights::converted(tensor, dtype).map_err(|error| match error {
            WeightsError::Architecture(found) => Flaw::Foreign(found),
            other => Flaw::Container(other.to_string()),
        })
    };
    tensors.into_iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::Split;

    fn excerpt() -> Dataset {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/excerpt");
        Dataset::read(&folder, Split::Train).unwrap()
    }

    /// What its card says of images it was trained on holds for the thousand at hand.
    #[test]
    fn the_built_in_judge_knows_clothes() {
        let judge = Judge::built_in().unwrap();
        assert!(judge.card.test_accuracy >= 0.92);
        let data = excerpt();
        let everything: Vec<usize> = (0..data.len()).collect();
        let part = part(&data, &everything);
        let verdicts = judge.look(&part.pixels);
        assert_eq!(verdicts.features.len(), 1000 * FEATURES);
        let accuracy = verdicts.accuracy(&part.labels);
        assert!(
            (accuracy - judge.card.train_accuracy).abs() < 0.03,
            "{accuracy}"
        );
        assert!(verdicts.confidences.iter().all(|c| (0.1..=1.0).contains(c)));
    }

    /// A judge of the excerpt is no good judge, but better than chance, and its file is read as it
    /// was written.
    #[test]
    fn training_teaches_and_the_file_keeps_it() {
        let data = excerpt();
        let config = JudgeConfig { seed: 1, epochs: 3 };
        let (bytes, judge) = train(&config, &data, &data).unwrap();
        assert!(judge.card.held_out_accuracy > 0.4, "{:?}", judge.card);
        assert_eq!(judge.card.training_images, 900);
        let read = decode(&bytes).unwrap();
        assert_eq!((&read.card, &read.sha256), (&judge.card, &judge.sha256));
        let pixels = data.pixels(3);
        assert_eq!(read.look(pixels), judge.look(pixels));
    }

    #[test]
    fn a_damaged_file_is_no_judge() {
        let good = include_bytes!("../judge/judge.bpk");
        let mut flipped = good.to_vec();
        let middle = flipped.len() - 1000;
        flipped[middle] ^= 1;
        let flaw = |bytes: &[u8]| match decode(bytes) {
            Err(JudgeError::File(flaw)) => flaw,
            other => panic!("{other:?}"),
        };
        assert!(matches!(flaw(&flipped), Flaw::Checksum { .. }));
        assert!(matches!(flaw(&good[..good.len() / 2]), Flaw::Container(_)));
        assert!(matches!(flaw(b""), Flaw::Container(_)));
        let weights = include_bytes!("../../tests/data/tiny.bpk");
        assert!(matches!(flaw(weights), Flaw::Foreign(_)));
    }

    /// The threshold leaves its share below it.
    #[test]
    fn the_threshold_is_a_quantile() {
        let confidences: Vec<f32> = (0..1000).rev().map(|i| i as f32 / 1000.0).collect();
        assert_eq!(threshold(confidences), 0.02);
        assert_eq!(threshold(vec![0.5]), 0.5);
    }
}
