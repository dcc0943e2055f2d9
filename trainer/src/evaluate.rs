//! How good samples are, through the eyes of the [`Judge`].
//!
//! Every figure stands beside what real images score at the same count, and beside images spoiled in
//! known ways: a distance means something only next to another one.
//!
//! Samples, and test images in their place, are compared with the training images: all of them for
//! the Fréchet distance and for memorisation, as many as there are samples for the manifolds. A
//! second Fréchet distance, to all test images, says whether the network learned the clothes or the
//! training set. A spoiled image is never compared with the image it was made of: test images are
//! spoiled for the one distance, training images for the other.

use std::{
    fmt, fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use fashion_ddpm::{
    Garment, Sampler,
    noise::{IMAGE_SIZE, PIXELS},
    sampler::PlanError,
    weights::Weights,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    data::{DataError, Dataset, Split},
    device::{self, DeviceChoice, DeviceError},
    export::{self, ExportError},
    files::{self, FileError},
    judge::{FEATURES, Judge, JudgeError, Verdicts},
    metrics::{
        self, DENSITY_NEIGHBOURS, Gaussian, Manifold, Points, interval, mean, median, weighted_mean,
    },
    network,
    picture::png_grid,
    progress::Progress,
    sample::{BATCH, MOST_GUIDANCE, SampleError, Source, finished},
    walk::{Walk, Walker},
};

/// Fewest and most images figures are taken of. The most is the number of test images, since
/// everything stands beside as many of them.
const COUNTS: std::ops::RangeInclusive<usize> = 20..=10_000;

/// What a person asks `evaluate` for.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to judge.
    pub subject: Subject,
    /// Samples with a class, a tenth of each; of given images, at most so many.
    pub count: usize,
    /// Samples without a class.
    pub unconditional: usize,
    /// Of all noise.
    pub seed: u32,
    /// The sampler.
    pub sampler: Sampler,
    /// Its steps; [`Sampler::usual_steps`] where none are named.
    pub steps: Option<usize>,
    /// w; 1 = off.
    pub guidance_scale: f64,
    /// What samples; the judge looks on the CPU.
    pub device: DeviceChoice,
    /// Folder with the official files; the cache where none is named.
    pub data: Option<PathBuf>,
    /// Folder for the JSON file and the pictures.
    pub out: PathBuf,
    /// Whether to write the figures into the index beside the weights.
    pub record: bool,
}

/// Where the images to judge come from.
#[derive(Debug, Clone)]
pub enum Subject {
    /// Weights of ours; the index's default where none are named.
    Weights(Option<PathBuf>),
    /// A NPY file, uint8 `[N, 28, 28]`, or a folder of pictures of 28 x 28 pixels.
    Images(PathBuf),
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// Too many images, or too few.
    #[error("figures are taken of {least} to {most} images, not of {0}", least = COUNTS.start(), most = COUNTS.end())]
    Count(usize),
    /// A data set to look at that is none to measure with.
    #[error("figures are taken beside {least} real images of either kind at least, and the data set has {0}", least = COUNTS.start())]
    Real(usize),
    /// Images that are none.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Images {
        /// The file or folder.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// Guidance that makes no garment.
    #[error("--guidance goes from 0 to {MOST_GUIDANCE}, {0} does not")]
    Guidance(f64),
    /// Figures of guided samples, which the index has no name for.
    #[error(
        "--record keeps figures of samples without guidance, not with {0}; leave out --record or --guidance"
    )]
    Guided(f64),
    /// Figures of images that no index lists.
    #[error("--record wants weights that an index.json beside them lists, {} is not", .0.display())]
    NotListed(PathBuf),
    /// No weights.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// No such walk.
    #[error("{0}; choose another --steps or --eta")]
    Plan(#[from] PlanError),
    /// No device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No judge.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// No index.
    #[error(transparent)]
    Index(#[from] ExportError),
    /// The system would not read or write it.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A figure and its 95 % interval, from a bootstrap over the images it is a mean over: of recall and
/// coverage these are the real ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Its interval.
    pub interval: [f64; 2],
}

impl Estimate {
    /// Of a figure that is a mean over images.
    fn mean(values: &[f64]) -> Self {
        let value = mean(values);
        let found = interval(values.len(), value, |times| weighted_mean(values, times));
        Self::new(value, found)
    }

    /// Of a figure that is a share of images.
    fn share(values: &[f64]) -> Self {
        let mut share = Self::mean(values);
        share.interval = share.interval.map(|end| end.min(1.0));
        share
    }

    /// No figure here can be below nothing, but an interval that is centred on it can.
    fn new(value: f64, interval: [f64; 2]) -> Self {
        Self {
            value,
            // The sum makes a plain zero of a negative one.
            interval: interval.map(|end| end.max(0.0) + 0.0),
        }
    }
}

/// One row: what is said of one set of images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// What the images are.
    pub name: String,
    /// How many there are.
    pub count: usize,
    /// Fréchet distance to all training images, in the judge's features.
    pub frechet_train: Estimate,
    /// Fréchet distance to all test images; of a row of real images, as many training images have
    /// it in place of these, spoiled in the same way.
    pub frechet_test: Estimate,
    /// Share of these images within the manifold of real ones.
    pub precision: Estimate,
    /// Share of real images within the manifold of these.
    pub recall: Estimate,
    /// Real images in whose neighbourhood one of these lies, against what is expected.
    pub density: Estimate,
    /// Share of real images with one of these in their neighbourhood.
    pub coverage: Estimate,
    /// Share the judge gives the class they were made as; none where there is no class.
    pub agreement: Option<Estimate>,
    /// Share the judge is less sure of than its threshold.
    pub broken: Estimate,
    /// How the classes are balanced, in the judge's eyes.
    pub balance: Balance,
    /// How near the images are to training images.
    pub memorisation: Memorisation,
}

/// Images a class, as the judge counts them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// In the order of [`Garment::ALL`].
    pub counts: Vec<u32>,
    /// Pearson's statistic against a tenth each, 9 degrees of freedom.
    pub chi_square: f64,
    /// The probability of at least as much by chance, where it is chance that decides each image's class.
    /// None where the classes were given: what varies then are the judge's errors alone.
    pub p: Option<f64>,
}

/// Euclidean distance to the nearest training image, over the 784 pixels from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Memorisation {
    /// The median over the images.
    pub median: Estimate,
    /// Share nearer than 99 % of the test images are; .01 for those.
    pub suspicious: Estimate,
}

/// `evaluation.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was judged: file, epoch, sampler, steps; or where the images were.
    pub subject: serde_json::Value,
    /// SHA-256 of the judge: figures of another one do not compare.
    pub judge: String,
    /// The judge's accuracy on the test images.
    pub judge_accuracy: f64,
    /// Below which confidence an image counts as broken.
    pub confidence_threshold: f32,
    /// The images that were to be judged.
    pub samples: Vec<Figures>,
    /// Real test images, as they are and spoiled.
    pub beside: Vec<Figures>,
}

/// Images, and what is known of them.
#[derive(Debug, Clone, Default)]
pub struct Images {
    /// 784 bytes each, 0 = black.
    pub pixels: Vec<u8>,
    /// The class each was made as, where all have one.
    pub labels: Option<Vec<Garment>>,
}

impl Images {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.pixels.len() / PIXELS
    }

    /// The first `count` of a data set.
    pub fn of(data: &Dataset, count: usize) -> Self {
        let images = 0..count.min(data.len());
        Self {
            pixels: images
                .clone()
                .flat_map(|i| data.pixels(i))
                .copied()
                .collect(),
            labels: Some(images.map(|i| data.label(i)).collect()),
        }
    }

    fn first(&self, count: usize) -> Self {
        Self {
            pixels: self.pixels[..count * PIXELS].to_vec(),
            labels: self.labels.as_ref().map(|l| l[..count].to_vec()),
        }
    }

    /// Each image changed by `change`.
    fn changed(&self, mut change: impl FnMut(&[u8]) -> Vec<u8>) -> Self {
        Self {
            pixels: self
                .pixels
                .chunks_exact(PIXELS)
                .flat_map(&mut change)
                .collect(),
            labels: self.labels.clone(),
        }
    }
}

/// Ways to spoil real images, so that a figure can be read by what it does to them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Anchor {
    /// As they are.
    Real,
    /// Normal noise of this standard deviation, pixels from 0 to 1.
    Noise(f64),
    /// Each pixel the mean of its neighbourhood, weighted 1 2 1 in both directions.
    Blurred,
    /// Left and right exchanged.
    Mirrored,
    /// No sneakers.
    OneClassMissing,
}

impl Anchor {
    /// All that stand beside samples.
    pub const ALL: [Self; 6] = [
        Self::Real,
        Self::Noise(0.02),
        Self::Noise(0.05),
        Self::Blurred,
        Self::Mirrored,
        Self::OneClassMissing,
    ];

    /// Spoils images.
    pub fn apply(self, images: &Images) -> Images {
        const N: usize = IMAGE_SIZE;
        match self {
            Self::Real => images.clone(),
            Self::Noise(sigma) => {
                let mut rng = ChaCha8Rng::seed_from_u64(0x616e_6368_6f72);
                images.changed(|image| {
                    let noisy = |&pixel: &u8| {
                        let noise: f64 = StandardNormal.sample(&mut rng);
                        // `as` saturates.
                        (f64::from(pixel) + 255.0 * sigma * noise).round() as u8
                    };
                    image.iter().map(noisy).collect()
                })
            }
            Self::Blurred => images.changed(|image| {
                let at = |y: usize, x: usize| {
                    let inside = (1..=N).contains(&y) && (1..=N).contains(&x);
                    if inside {
                        u32::from(image[(y - 1) * N + x - 1])
                    } else {
                        0
                    }
                };
                let row = |y, x| at(y, x) + 2 * at(y, x + 1) + at(y, x + 2);
                let mean = |y, x| (row(y, x) + 2 * row(y + 1, x) + row(y + 2, x) + 8) / 16;
                (0..PIXELS).map(|i| mean(i / N, i % N) as u8).collect()
            }),
            Self::Mirrored => images.changed(|image| {
                let rows = image.chunks_exact(N);
                rows.flat_map(|row| row.iter().rev()).copied().collect()
            }),
            Self::OneClassMissing => {
                let labels = images.labels.as_deref().unwrap_or_default();
                let kept = images
                    .pixels
                    .chunks_exact(PIXELS)
                    .zip(labels)
                    .filter(|(_, label)| **label != Garment::Sneaker);
                let (pixels, labels): (Vec<_>, Vec<_>) = kept.unzip();
                Images {
                    pixels: pixels.concat(),
                    labels: Some(labels),
                }
            }
        }
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real => f.write_str("test images"),
            Self::Noise(sigma) => write!(f, "+ noise {sigma}"),
            Self::Blurred => f.write_str("blurred"),
            Self::Mirrored => f.write_str("mirrored"),
            Self::OneClassMissing => f.write_str("no sneakers"),
        }
    }
}

/// What images are compared with: the real ones, as the judge sees them.
#[derive(Debug)]
pub struct Reference<'a> {
    judge: &'a Judge,
    train_pixels: Vec<f32>,
    train: Verdicts,
    train_gaussian: Gaussian,
    test_gaussian: Gaussian,
    train_images: Images,
    test_images: Images,
    /// The distance to the nearest training image that 1 % of the test images fall short of.
    suspicious: f32,
}

impl<'a> Reference<'a> {
    /// Looks at all real images.
    ///
    /// # Panics
    /// If one of the sets holds fewer than two images.
    pub fn new(judge: &'a Judge, train_images: Images, test_images: Images) -> Self {
        let train = judge.look(&train_images.pixels);
        let test = judge.look(&test_images.pixels);
        let train_pixels = unit(&train_images.pixels);
        let test_pixels = unit(&test_images.pixels);
        let mut distances: Vec<f32> = nearest(&test_pixels, &train_pixels)
            .into_iter()
            .map(|(distance, _)| distance)
            .collect();
        distances.sort_by(f32::total_cmp);
        Self {
            judge,
            train_gaussian: Gaussian::of(features(&train)),
            test_gaussian: Gaussian::of(features(&test)),
            suspicious: distances[distances.len() / 100],
            train_pixels,
            train,
            train_images,
            test_images,
        }
    }

    /// The figures of images from anywhere.
    pub fn judge(&self, name: &str, images: &Images) -> Figures {
        self.figures(name, images, images)
    }

    /// The figures of real images, spoiled or not.
    ///
    /// `None` where too few are left to compare, as of images of one class without that.
    pub fn anchor(&self, anchor: Anchor, count: usize) -> Option<Figures> {
        let spoiled = [&self.test_images, &self.train_images]
            .map(|images| anchor.apply(&images.first(count.min(images.count()))));
        let enough = |images: &Images| images.count() > DENSITY_NEIGHBOURS;
        let [test, train] = &spoiled;
        spoiled
            .iter()
            .all(enough)
            .then(|| self.figures(&anchor.to_string(), test, train))
    }

    /// `for_test` is what the distance to the test images is taken of.
    fn figures(&self, name: &str, images: &Images, for_test: &Images) -> Figures {
        let verdicts = self.judge.look(&images.pixels);
        let points = features(&verdicts);
        let frechet = |points: Points, real: &Gaussian| {
            let value = Gaussian::of(points).frechet_distance(real);
            let found = interval(points.count(), value, |times| {
                Gaussian::weighted(points, times).frechet_distance(real)
            });
            Estimate::new(value, found)
        };
        let frechet_test = if std::ptr::eq(images, for_test) {
            frechet(points, &self.test_gaussian)
        } else {
            let verdicts = self.judge.look(&for_test.pixels);
            frechet(features(&verdicts), &self.test_gaussian)
        };
        let real = self.train.features.len() / FEATURES;
        let real = images.count().min(real) * FEATURES;
        let real = Points::new(&self.train.features[..real], FEATURES);
        let manifold = Manifold::compare(real, points);
        let labels = images.labels.as_ref();
        let share = |holds: Vec<bool>| {
            let values: Vec<f64> = holds
                .into_iter()
                .map(|holds| f64::from(u8::from(holds)))
                .collect();
            Estimate::share(&values)
        };
        let mut counts = vec![0; Garment::ALL.len()];
        for garment in &verdicts.garments {
            counts[garment.label()] += 1;
        }
        let (chi_square, p) = metrics::chi_square(&counts);
        Figures {
            name: name.to_owned(),
            count: images.count(),
            frechet_train: frechet(points, &self.train_gaussian),
            frechet_test,
            precision: Estimate::share(&manifold.precision),
            recall: Estimate::share(&manifold.recall),
            density: Estimate::mean(&manifold.density),
            coverage: Estimate::share(&manifold.coverage),
            agreement: labels.map(|labels| {
                let pairs = verdicts.garments.iter().zip(labels);
                share(pairs.map(|(seen, made)| seen == made).collect())
            }),
            broken: {
                let threshold = self.judge.card.confidence_threshold;
                share(
                    verdicts
                        .confidences
                        .iter()
                        .map(|c| *c < threshold)
                        .collect(),
                )
            },
            balance: Balance {
                counts,
                chi_square,
                p: labels.is_none().then_some(p),
            },
            memorisation: {
                let found = self.nearest(images);
                let distances: Vec<f64> = found.iter().map(|(d, _)| f64::from(*d)).collect();
                let value = median(&distances);
                Memorisation {
                    median: Estimate::new(
                        value,
                        interval(distances.len(), value, |times| {
                            let drawn = distances.iter().zip(times);
                            let drawn =
                                drawn.flat_map(|(d, &n)| std::iter::repeat_n(*d, n as usize));
                            median(&drawn.collect::<Vec<_>>())
                        }),
                    ),
                    suspicious: share(found.iter().map(|(d, _)| *d < self.suspicious).collect()),
                }
            },
        }
    }

    fn nearest(&self, images: &Images) -> Vec<(f32, usize)> {
        nearest(&unit(&images.pixels), &self.train_pixels)
    }

    /// The samples nearest to a training image, each followed by it: a picture of `pairs` columns
    /// and two rows.
    fn closest_pairs(&self, images: &Images, pairs: usize) -> Vec<u8> {
        let mut found: Vec<(f32, usize, usize)> = self
            .nearest(images)
            .into_iter()
            .enumerate()
            .map(|(i, (distance, j))| (distance, i, j))
            .collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        found.truncate(pairs);
        let image = |pixels: &[u8], i: usize| pixels[i * PIXELS..(i + 1) * PIXELS].to_vec();
        let above = found.iter().map(|&(_, i, _)| image(&images.pixels, i));
        let below = found
            .iter()
            .map(|&(_, _, j)| image(&self.train_images.pixels, j));
        let pixels: Vec<u8> = above.chain(below).flatten().collect();
        png_grid(&pixels, found.len())
    }
}

fn features(verdicts: &Verdicts) -> Points<'_> {
    Points::new(&verdicts.features, FEATURES)
}

fn nearest(pixels: &[f32], real: &[f32]) -> Vec<(f32, usize)> {
    metrics::nearest(Points::new(pixels, PIXELS), Points::new(real, PIXELS))
}

/// Pixels from 0 to 1.
fn unit(pixels: &[u8]) -> Vec<f32> {
    pixels
        .iter()
        .map(|&pixel| f32::from(pixel) / 255.0)
        .collect()
}

/// Samples or reads images, judges them, and writes `evaluation.json`, `grid.png` and `closest.png`.
///
/// # Errors
/// [`EvaluateError`]; no file is written then.
pub fn evaluate(options: &Options) -> Result<Report, EvaluateError> {
    let judge = Judge::built_in()?;
    let given = match &options.subject {
        Subject::Images(path) => Some(read_images(path, options.count)?),
        Subject::Weights(_) => None,
    };
    if given.is_none() && !COUNTS.contains(&options.count) {
        return Err(EvaluateError::Count(options.count));
    }
    if options.record && options.guidance_scale != 1.0 {
        return Err(EvaluateError::Guided(options.guidance_scale));
    }
    let train = Dataset::load(options.data.as_deref(), Split::Train)?;
    let test = Dataset::load(options.data.as_deref(), Split::Test)?;
    let real = train.len().min(test.len());
    if real < *COUNTS.start() {
        return Err(EvaluateError::Real(real));
    }

    let (subject, sets, recorded) = match (&options.subject, given) {
        (Subject::Images(path), Some(images)) => {
            prepare(&options.out)?;
            let subject = json!({ "images": path.to_string_lossy() });
            (subject, vec![("images", images)], None)
        }
        (subject, _) => {
            let named = match subject {
                Subject::Weights(Some(path)) => Some(path.as_path()),
                _ => None,
            };
            let source = Source::read(named)?;
            if options.record && !export::lists(&source.path, &source.bytes)? {
                return Err(EvaluateError::NotListed(source.path));
            }
            if options.record {
                files::prepare(&source.path.with_file_name(export::INDEX))?;
            }
            let (subject, sets) = samples(options, &source)?;
            (subject, sets, options.record.then_some(source))
        }
    };

    eprintln!("looking at the real images");
    let reference = Reference::new(
        &judge,
        Images::of(&train, train.len()),
        Images::of(&test, test.len()),
    );
    let count = sets[0].1.count();
    let mut report = Report {
        subject,
        judge: judge.sha256.clone(),
        judge_accuracy: judge.card.test_accuracy,
        confidence_threshold: judge.card.confidence_threshold,
        samples: Vec::new(),
        beside: Vec::new(),
    };
    for (name, images) in &sets {
        eprintln!("judging: {name}");
        report.samples.push(reference.judge(name, images));
    }
    for anchor in Anchor::ALL {
        eprintln!("judging: {anchor}");
        report.beside.extend(reference.anchor(anchor, count));
    }

    let images = &sets[0].1;
    let grid = png_grid(&images.pixels[..images.count().min(100) * PIXELS], 10);
    let pairs = reference.closest_pairs(images, 8);
    let json = serde_json::to_string_pretty(&report).expect("plain data") + "\n";
    for (file, bytes) in FILES.into_iter().zip([json.into_bytes(), grid, pairs]) {
        files::write(&options.out.join(file), &bytes)?;
    }
    if let Some(Source { path, bytes, .. }) = recorded {
        let (name, figures) = report.summary();
        export::record(&path, &bytes, &name, figures)?;
    }
    Ok(report)
}

/// What is written, the figures first.
const FILES: [&str; 3] = ["evaluation.json", "grid.png", "closest.png"];

/// What may take hours should have a place to be written to.
fn prepare(folder: &Path) -> Result<(), FileError> {
    FILES
        .iter()
        .try_for_each(|file| files::prepare(&folder.join(file)))
}

/// Named sets of images; the first is the one that pictures are made of.
type Sets = Vec<(&'static str, Images)>;

/// Samples with a class, a tenth of each in turn, and samples without.
fn samples(options: &Options, source: &Source) -> Result<(serde_json::Value, Sets), EvaluateError> {
    let guidance = options.guidance_scale;
    if !(0.0..=MOST_GUIDANCE).contains(&guidance) {
        return Err(EvaluateError::Guidance(guidance));
    }
    if options.unconditional > 0 && !COUNTS.contains(&options.unconditional) {
        return Err(EvaluateError::Count(options.unconditional));
    }
    let plan = source.plan(options.sampler, options.steps)?;
    let steps = plan.len();
    prepare(&options.out)?;
    let found = device::find(options.device)?;
    eprintln!("sampling on {}", found.describe());
    let Weights {
        unet, diffusion, ..
    } = source.load(&found.device)?;

    let total = (options.count + options.unconditional) * steps;
    let mut progress = Progress::new(total as u64, 0, "image steps");
    let mut next_image = 0;
    let mut walker = Walker::new(&unet, &diffusion, &found.device);
    let mut run = |garment: Option<Garment>, count: usize| {
        let walk = Walk {
            plan: plan.clone(),
            garment,
            guidance_scale: guidance,
            seed: options.seed,
        };
        sampled(&mut walker, &walk, count, &mut next_image, &mut progress)
    };
    let of_class = |class: usize| options.count / 10 + usize::from(class < options.count % 10);
    let mut columns = Vec::new();
    for (class, garment) in Garment::ALL.into_iter().enumerate() {
        columns.push(run(Some(garment), of_class(class))?);
    }
    // One of each class in turn, so that the first hundred are a grid with a column a class.
    let mut conditional = Images {
        labels: Some(Vec::new()),
        ..Images::default()
    };
    for i in 0..options.count {
        let (row, class) = (i / 10, i % 10);
        let column = &columns[class];
        conditional
            .pixels
            .extend(&column[row * PIXELS..(row + 1) * PIXELS]);
        conditional
            .labels
            .as_mut()
            .expect("begun above")
            .push(Garment::ALL[class]);
    }
    let mut sets = vec![("samples", conditional)];
    if options.unconditional > 0 {
        let pixels = run(None, options.unconditional)?;
        sets.push((
            "without class",
            Images {
                pixels,
                labels: None,
            },
        ));
    }
    let subject = json!({
        "weights": source.path.file_name().map(|name| name.to_string_lossy()),
        "sha256": source.sha256,
        "network": network::name(&source.metadata.config),
        "schedule": source.metadata.schedule,
        "prediction": source.metadata.prediction,
        "epoch": source.metadata.epoch,
        "images_seen": source.metadata.images_seen,
        "sampler": options.sampler.slug(),
        "eta": match options.sampler { Sampler::Ddim { eta } => Some(eta), _ => None },
        "steps": steps,
        "guidance_scale": guidance,
        "seed": options.seed,
        "device": found.describe(),
    });
    Ok((subject, sets))
}

/// `count` finished images, as pixels, in batches; none is used if one holds a NaN.
fn sampled(
    walker: &mut Walker<'_>,
    walk: &Walk,
    count: usize,
    next_image: &mut u32,
    progress: &mut Progress,
) -> Result<Vec<u8>, EvaluateError> {
    let end = *next_image + count as u32;
    let mut pixels = Vec::with_capacity(count * PIXELS);
    while *next_image < end {
        let images = *next_image..(*next_image + BATCH).min(end);
        let size = images.len() as u64;
        *next_image = images.end;
        let what = walk.garment.map_or("without class", Garment::slug);
        let x_0 = walker.walk(walk, images, |_, _| {
            progress.advance(size, what);
            ControlFlow::<std::convert::Infallible>::Continue(())
        });
        let ControlFlow::Continue(x_0) = x_0;
        pixels.extend(finished(&x_0)?);
    }
    Ok(pixels)
}

/// At most `count` images of a NPY file or a folder of pictures.
fn read_images(path: &Path, count: usize) -> Result<Images, EvaluateError> {
    let mut pixels = if path.is_dir() {
        read_folder(path)?
    } else {
        read_npy(path)?
    };
    pixels.truncate(count * PIXELS);
    let found = pixels.len() / PIXELS;
    if !COUNTS.contains(&found) {
        return Err(EvaluateError::Count(found));
    }
    Ok(Images {
        pixels,
        labels: None,
    })
}

fn read_folder(folder: &Path) -> Result<Vec<u8>, EvaluateError> {
    let wrong = |path: &Path, found: String| EvaluateError::Images {
        path: path.to_owned(),
        expected: "pictures of 28 x 28 pixels",
        found,
    };
    let entries = fs::read_dir(folder).map_err(FileError::when("read", folder))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("png"))
    });
    files.sort();
    if files.is_empty() {
        return Err(wrong(folder, "no PNG file".to_owned()));
    }
    let mut pixels = Vec::with_capacity(files.len() * PIXELS);
    for path in files {
        let picture = image::load_from_memory(&files::read(&path)?)
            .map_err(|error| wrong(&path, error.to_string()))?
            .into_luma8();
        if picture.dimensions() != (IMAGE_SIZE as u32, IMAGE_SIZE as u32) {
            let (width, height) = picture.dimensions();
            return Err(wrong(&path, format!("{width} x {height}")));
        }
        pixels.extend(picture.into_raw());
    }
    Ok(pixels)
}

/// The format's description is NumPy's NEP 1.
fn read_npy(path: &Path) -> Result<Vec<u8>, EvaluateError> {
    let wrong = |found: &str| EvaluateError::Images {
        path: path.to_owned(),
        expected: "a folder, or a NPY file of uint8 [N, 28, 28] in C order",
        found: found.to_owned(),
    };
    let bytes = files::read(path)?;
    let [b'\x93', b'N', b'U', b'M', b'P', b'Y', version, _, rest @ ..] = bytes.as_slice() else {
        return Err(wrong("a file of another kind"));
    };
    let width = if *version == 1 { 2 } else { 4 };
    let (length, rest) = rest
        .split_at_checked(width)
        .ok_or_else(|| wrong("a file cut off"))?;
    let length = length
        .iter()
        .rev()
        .fold(0, |sum, &byte| sum * 256 + usize::from(byte));
    let (header, pixels) = rest
        .split_at_checked(length)
        .ok_or_else(|| wrong("a file cut off"))?;
    let header: String = String::from_utf8_lossy(header)
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    let u8s = header.contains("'descr':'|u1'") || header.contains("'descr':'u1'");
    if !u8s || !header.contains("'fortran_order':False") {
        return Err(wrong(&header));
    }
    let count = pixels.len() / PIXELS;
    let shapes = [
        format!("({count},28,28)"),
        format!("({count},784)"),
        format!("({count},1,28,28)"),
        format!("({count},28,28,1)"),
    ];
    let fits = shapes.iter().any(|shape| header.contains(shape.as_str()));
    if !fits || !pixels.len().is_multiple_of(PIXELS) {
        return Err(wrong(&format!("{header} and {} bytes", pixels.len())));
    }
    Ok(pixels.to_vec())
}

impl Report {
    /// What the subject says under a key, as text.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        match &self.subject[key] {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// What the index keeps of it: a name that says what the figures are of, and the figures.
    pub fn summary(&self) -> (String, serde_json::Value) {
        let eta = self.text("eta").map(|eta| format!("eta-{eta}"));
        let parts = [self.text("sampler"), self.text("steps"), eta];
        let name = parts.into_iter().flatten().collect::<Vec<_>>().join("-");
        let figures = &self.samples[0];
        let value = json!({
            "count": figures.count,
            "judge": self.judge[..12],
            "frechet_train": figures.frechet_train,
            "frechet_test": figures.frechet_test,
            "precision": figures.precision,
            "recall": figures.recall,
            "agreement": figures.agreement,
            "broken": figures.broken,
            "suspicious": figures.memorisation.suspicious,
        });
        (name, value)
    }
}

impl fmt::Display for Report {
    /// The table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "subject   {}", self.subject)?;
        writeln!(
            f,
            "judge     {}, accuracy {:.4}; broken: confidence below {:.3}",
            &self.judge[..12],
            self.judge_accuracy,
            self.confidence_threshold
        )?;
        writeln!(f, "intervals of 95 % below the figures\n")?;
        writeln!(
            f,
            "{:<14}{:>6}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}",
            "",
            "N",
            "FD train",
            "FD test",
            "precision",
            "recall",
            "density",
            "coverage",
            "agreement",
            "broken"
        )?;
        for row in self.samples.iter().chain(&self.beside) {
            let figures = [
                Some(row.frechet_train),
                Some(row.frechet_test),
                Some(row.precision),
                Some(row.recall),
                Some(row.density),
                Some(row.coverage),
                row.agreement,
                Some(row.broken),
            ];
            write!(f, "{:<14}{:>6}", row.name, row.count)?;
            for figure in figures {
                let text = figure.map_or("-".to_owned(), |figure| format!("{:.3}", figure.value));
                write!(f, "{text:>11}")?;
            }
            write!(f, "\n{:<20}", "")?;
            for figure in figures {
                let text = figure.map_or(String::new(), |figure| {
                    let [low, high] = figure.interval;
                    if high < 10.0 {
                        format!("{low:.2}-{high:.2}")
                    } else {
                        format!("{low:.1}-{high:.1}")
                    }
                });
                write!(f, "{text:>11}")?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "\n{:<14}{:>26}{:>26}{:>16}{:>10}",
            "", "nearest training image", "nearer than 99 % of test", "chi-square", "p"
        )?;
        for row in self.samples.iter().chain(&self.beside) {
            let range = |e: &Estimate| {
                format!("{:.3} ({:.3}-{:.3})", e.value, e.interval[0], e.interval[1])
            };
            writeln!(
                f,
                "{:<14}{:>26}{:>26}{:>16.1}{:>10}",
                row.name,
                range(&row.memorisation.median),
                range(&row.memorisation.suspicious),
                row.balance.chi_square,
                row.balance.p.map_or("-".to_owned(), |p| format!("{p:.3}"))
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{Module, ModuleMapper, Param},
        tensor::Tensor,
    };
    use fashion_ddpm::{BetaSchedule, GaussianDiffusion, NoiseSchedule, UNetConfig};
    use rand::RngExt;

    use super::*;
    use crate::{picture::npy, train::initialise};

    /// The excerpt's thousand images: `train` of them as training images, the others as test images.
    fn halves(train: usize) -> (Images, Images) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/excerpt");
        let all = Images::of(&Dataset::read(&folder, Split::Train).unwrap(), 1000);
        let labels = all.labels.as_ref().unwrap();
        let rest = Images {
            pixels: all.pixels[train * PIXELS..].to_vec(),
            labels: Some(labels[train..].to_vec()),
        };
        (all.first(train), rest)
    }

    /// Known cases, and the order in which the figures must find them.
    #[test]
    fn figures_find_what_is_wrong() {
        let judge = Judge::built_in().unwrap();
        let (train, test) = halves(600);
        let reference = Reference::new(&judge, train.clone(), test.clone());
        let [real, faint, noisy, blurred, mirrored, missing] =
            Anchor::ALL.map(|anchor| reference.anchor(anchor, 400).unwrap());

        // What is spoiled is never compared with its own originals.
        let of_train = reference.judge("", &train.first(400)).frechet_test;
        assert_eq!(real.frechet_test.value, of_train.value);
        let sneakers = Images {
            pixels: test.pixels[..20 * PIXELS].to_vec(),
            labels: Some(vec![Garment::Sneaker; 20]),
        };
        let alone = Reference::new(&judge, train.clone(), sneakers);
        assert!(alone.anchor(Anchor::OneClassMissing, 20).is_none());

        let distance = |figures: &Figures| figures.frechet_train.value;
        for (less, more) in [
            (&real, &faint),
            (&faint, &noisy),
            (&noisy, &blurred),
            (&noisy, &mirrored),
            (&real, &missing),
        ] {
            assert!(
                distance(less) < distance(more),
                "{} {}",
                less.name,
                more.name
            );
        }
        assert!(real.agreement.unwrap().value > 0.9);
        assert!(real.precision.value > 0.8 && real.recall.value > 0.8);
        assert_eq!(missing.balance.counts[Garment::Sneaker.label()], 0);

        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let noise = Images {
            pixels: (0..200 * PIXELS).map(|_| rng.random()).collect(),
            labels: None,
        };
        let noise = reference.judge("noise", &noise);
        assert!(distance(&noise) > 3.0 * distance(&mirrored));
        // Not its precision: the ball of one real image far from all others holds a lot of noise,
        // which is why there are density and coverage (Naeem et al. 2020, section 3.1).
        assert!(noise.coverage.value < 0.1 && noise.recall.value < 0.1);
        assert!(noise.density.value < 0.8 * real.density.value && noise.agreement.is_none());

        let trousers = test
            .pixels
            .chunks_exact(PIXELS)
            .zip(test.labels.as_ref().unwrap());
        let trousers = trousers.filter(|(_, label)| **label == Garment::Trouser);
        let trousers: Vec<u8> = trousers.flat_map(|(pixels, _)| pixels).copied().collect();
        let one_class = reference.judge(
            "trousers",
            &Images {
                pixels: trousers,
                labels: None,
            },
        );
        let unnamed = reference.judge(
            "unnamed",
            &Images {
                labels: None,
                ..test.clone()
            },
        );
        assert!(one_class.balance.p < Some(1e-6) && unnamed.balance.p > Some(1e-3));
        assert_eq!(real.balance.p, None, "of given classes nothing varies");
        assert!(one_class.precision.value > 0.8 && one_class.recall.value < 0.3);
        assert!(distance(&one_class) > distance(&missing));

        let copies = reference.judge("copies", &train.first(400));
        assert_eq!(copies.memorisation.median.value, 0.0);
        assert_eq!(copies.memorisation.suspicious.value, 1.0);
        assert!(real.memorisation.suspicious.value < 0.02);
        // The images called by other names.
        let mut wrong = test.clone();
        wrong.labels.as_mut().unwrap().rotate_right(1);
        assert!(reference.judge("wrong", &wrong).agreement.unwrap().value < 0.3);
    }

    /// Shares stay shares at both ends, where an interval centred on the figure would leave them.
    #[test]
    fn intervals_of_shares_are_shares() {
        for ones in [0, 1, 2, 38, 39, 40] {
            let values: Vec<f64> = (0..40).map(|i| f64::from(u8::from(i < ones))).collect();
            let Estimate { value, interval } = Estimate::share(&values);
            assert!((value - ones as f64 / 40.0).abs() < 1e-12);
            let [low, high] = interval;
            assert!(
                0.0 <= low && low <= value && value <= high && high <= 1.0,
                "{interval:?}"
            );
            assert!(low.is_sign_positive(), "{low}");
            // Off the ends it is the spread of a mean: about two standard errors.
            if (2..=38).contains(&ones) {
                let error = (value * (1.0 - value) / 40.0).sqrt();
                assert!(high - low > error, "{interval:?}");
            }
        }
        // A density may exceed one.
        let [low, high] = Estimate::mean(&[0.0, 3.0, 3.0, 3.0]).interval;
        assert!(low >= 0.0 && high > 1.0);
    }

    /// The anchors against their definitions, on an image of one white pixel.
    #[test]
    fn anchors_are_what_they_are_called() {
        let mut pixels = vec![0; PIXELS];
        pixels[5 * IMAGE_SIZE + 3] = 160;
        let image = Images {
            pixels,
            labels: Some(vec![Garment::Sneaker]),
        };
        let at =
            |anchor: Anchor, y: usize, x: usize| anchor.apply(&image).pixels[y * IMAGE_SIZE + x];
        assert_eq!(at(Anchor::Mirrored, 5, 24), 160);
        let kernel = [(5, 3, 40), (4, 3, 20), (6, 4, 10), (5, 1, 0)];
        for (y, x, value) in kernel {
            assert_eq!(at(Anchor::Blurred, y, x), value);
        }
        assert_eq!(Anchor::OneClassMissing.apply(&image).count(), 0);
        let gray = Images {
            pixels: vec![128; 100 * PIXELS],
            labels: None,
        };
        let noisy = Anchor::Noise(0.05).apply(&gray);
        let differences = noisy.pixels.iter().map(|&p| (f64::from(p) - 128.0) / 255.0);
        let deviation = mean(&differences.map(|d| d * d).collect::<Vec<_>>()).sqrt();
        assert!((deviation - 0.05).abs() < 5e-4, "{deviation}");
    }

    #[test]
    fn a_network_that_says_nan_gets_no_figure() {
        struct Break;
        impl ModuleMapper for Break {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|weight| weight * f32::NAN)
            }
        }
        let device = kernels::cpu();
        let config = UNetConfig {
            pixel_unshuffle: 4,
            channels: vec![8],
            attention: vec![false],
            ..UNetConfig::default()
        };
        let unet = initialise(&config, 0, &device).map(&mut Break);
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1000).unwrap();
        let diffusion = GaussianDiffusion::new(schedule);
        let walk = Walk {
            plan: Sampler::Ddpm.plan(&diffusion.schedule, 2).unwrap(),
            garment: None,
            guidance_scale: 1.0,
            seed: 0,
        };
        let mut progress = Progress::new(1, 0, "steps");
        let mut walker = Walker::new(&unet, &diffusion, &device);
        let result = sampled(&mut walker, &walk, 3, &mut 0, &mut progress);
        assert!(matches!(
            result,
            Err(EvaluateError::Sample(SampleError::NotANumber { count: 3 }))
        ));
    }

    #[test]
    fn images_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let (images, _) = halves(30);
        let file = folder.path().join("images.npy");
        fs::write(&file, npy(&images.pixels)).unwrap();
        assert_eq!(read_images(&file, 100).unwrap().pixels, images.pixels);
        assert_eq!(read_images(&file, 25).unwrap().count(), 25);
        let pictures = folder.path().join("pictures");
        fs::create_dir(&pictures).unwrap();
        for (i, image) in images.pixels.chunks_exact(PIXELS).enumerate() {
            fs::write(pictures.join(format!("{i:02}.png")), png_grid(image, 1)).unwrap();
        }
        assert_eq!(read_images(&pictures, 100).unwrap().pixels, images.pixels);
        fs::write(pictures.join("large.png"), png_grid(&images.pixels, 6)).unwrap();
        let error = read_images(&pictures, 100).unwrap_err().to_string();
        assert!(
            error.contains("large.png") && error.contains("168 x 140"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_image_gets_no_figure() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            read_images(&path, 100).unwrap_err().to_string()
        };
        let good = npy(&[7; 30 * PIXELS]);
        assert!(refused("text.npy", b"hello").contains("another kind"));
        assert!(refused("cut.npy", &good[..20]).contains("cut off"));
        assert!(refused("short.npy", &good[..good.len() - 1]).contains("bytes"));
        let mut signed = good.clone();
        let kind = signed.iter().position(|&byte| byte == b'|').unwrap() + 1;
        signed[kind] = b'i';
        assert!(refused("signed.npy", &signed).contains("|i1"));
        assert!(
            refused("few.npy", &npy(&[7; 3 * PIXELS])).contains("20 to 10000 images, not of 3")
        );
        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let error = read_images(&empty, 100).unwrap_err().to_string();
        assert!(error.contains("no PNG file"), "{error}");
    }
}
