//! Garments from weights: the reverse process of `fashion-ddpm`, and what becomes of its frames.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Tensor};
use fashion_ddpm::{
    Garment, GaussianDiffusion, Sampler,
    noise::PIXELS,
    sampler::{PlanError, Step, to_pixels},
    weights::{self, Metadata, Weights, WeightsError},
};

use crate::{
    device::{self, DeviceChoice, DeviceError},
    export::{self, ExportError},
    files::{self, FileError},
    picture::{npy, png_grid, square},
    progress::Progress,
    walk::{Walk, Walker, numbers},
};

/// Images computed at once.
pub(crate) const BATCH: u32 = 64;

/// Most images of a run.
const MOST_IMAGES: u32 = 100_000;

/// Largest guidance scale; far below it the pictures are caricatures already.
pub(crate) const MOST_GUIDANCE: f64 = 20.0;

/// What a person asks `sample` for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The weights; the index's default where none are named.
    pub weights: Option<PathBuf>,
    /// Images, with the indices 0 to `count` - 1 of the seed.
    pub count: u32,
    /// Of all noise.
    pub seed: u32,
    /// The class; `None` for any.
    pub garment: Option<Garment>,
    /// The sampler.
    pub sampler: Sampler,
    /// Its steps; [`Sampler::usual_steps`] where none are named.
    pub steps: Option<usize>,
    /// w; 1 = off.
    pub guidance_scale: f64,
    /// What computes.
    pub device: DeviceChoice,
    /// A PNG or NPY file.
    pub out: PathBuf,
    /// Folder for the frames, one grid of x_t each.
    pub frames: Option<PathBuf>,
}

/// Why there are no samples.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// Too many images, or none.
    #[error("--count goes from 1 to {MOST_IMAGES}, {0} does not")]
    Count(u32),
    /// Frames of more images than are computed at once.
    #[error("--frames works for up to {BATCH} images, not {0}; ask for fewer, or leave it out")]
    FramesCount(u32),
    /// Guidance that makes no garment.
    #[error("--guidance goes from 0 to {MOST_GUIDANCE}, {0} does not")]
    Guidance(f64),
    /// Guidance towards nothing.
    #[error(
        "--guidance makes more of a garment, and none is asked for; name one with --garment, or leave --guidance out"
    )]
    Unguided,
    /// A file of another kind.
    #[error("{} is neither a .png nor a .npy file; name --out so", .0.display())]
    Kind(PathBuf),
    /// No weights anywhere.
    #[error(
        "there are no weights in web/weights; name a file with --weights, or make one by `trainer export`"
    )]
    NoWeights,
    /// Weights that cannot be used.
    #[error("{}: {source}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: WeightsError,
    },
    /// An index that is none.
    #[error(transparent)]
    Index(#[from] ExportError),
    /// No such walk.
    #[error("{0}; choose another --steps or --eta")]
    Plan(#[from] PlanError),
    /// The network's answer is no number.
    #[error(
        "{count} of the samples hold values that are no numbers: the weights or the device are broken; check the weights with `trainer info`, or use --device cpu"
    )]
    NotANumber {
        /// How many.
        count: usize,
    },
    /// No device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The system would not read or write it.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A weights file that has been read, and whose checksum holds. Whether a walk is possible can be
/// asked before a device is opened.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
    /// What it says about itself.
    pub metadata: Metadata,
    /// Its own checksum.
    pub sha256: String,
    diffusion: GaussianDiffusion,
}

impl Source {
    /// Reads the file named, or the index's default.
    ///
    /// # Errors
    /// [`SampleError`] where there is none, or it is damaged.
    pub fn read(named: Option<&Path>) -> Result<Self, SampleError> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => default_weights()?,
        };
        let bytes = files::read(&path)?;
        let read = weights::read_metadata(&bytes).and_then(|(metadata, sha256)| {
            let diffusion = metadata.diffusion()?;
            Ok((metadata, sha256, diffusion))
        });
        match read {
            Ok((metadata, sha256, diffusion)) => Ok(Self {
                path,
                bytes,
                metadata,
                sha256,
                diffusion,
            }),
            Err(source) => Err(SampleError::Weights { path, source }),
        }
    }

    /// The steps of a sampler; [`Sampler::usual_steps`] where none are named.
    ///
    /// # Errors
    /// [`PlanError`] where it cannot take so many.
    pub fn plan(&self, sampler: Sampler, steps: Option<usize>) -> Result<Vec<Step>, PlanError> {
        let schedule = &self.diffusion.schedule;
        let most = sampler.max_steps(schedule);
        let steps = steps.unwrap_or(sampler.usual_steps().map_or(most, |usual| usual.min(most)));
        sampler.plan(schedule, steps)
    }

    /// The network, on a device.
    ///
    /// # Errors
    /// [`SampleError::Weights`] where the tensors are not the described network's.
    pub fn load(&self, device: &Device) -> Result<Weights, SampleError> {
        weights::decode(&self.bytes, device).map_err(|source| SampleError::Weights {
            path: self.path.clone(),
            source,
        })
    }
}

/// Computes garments and writes them.
///
/// # Errors
/// [`SampleError`]; what is asked for is checked before anything is computed.
pub fn sample(options: &Options) -> Result<(), SampleError> {
    let &Options {
        count,
        guidance_scale,
        ..
    } = options;
    if !(1..=MOST_IMAGES).contains(&count) {
        return Err(SampleError::Count(count));
    }
    if options.frames.is_some() && count > BATCH {
        return Err(SampleError::FramesCount(count));
    }
    if !(0.0..=MOST_GUIDANCE).contains(&guidance_scale) {
        return Err(SampleError::Guidance(guidance_scale));
    }
    if options.garment.is_none() && guidance_scale != 1.0 {
        return Err(SampleError::Unguided);
    }
    let encode: fn(&[u8]) -> Vec<u8> = match options.out.extension() {
        Some(kind) if kind == "png" => |pixels| png_grid(pixels, square(pixels.len() / PIXELS)),
        Some(kind) if kind == "npy" => npy,
        _ => return Err(SampleError::Kind(options.out.clone())),
    };
    let source = Source::read(options.weights.as_deref())?;
    let plan = source.plan(options.sampler, options.steps)?;
    let steps = plan.len();
    files::prepare(&options.out)?;
    let found = device::find(options.device)?;
    eprintln!("sampling on {}", found.describe());
    let Weights {
        unet, diffusion, ..
    } = source.load(&found.device)?;
    if let Some(folder) = &options.frames {
        files::create_folder(folder)?;
    }

    let settings = Walk {
        plan,
        garment: options.garment,
        guidance_scale,
        seed: options.seed,
    };
    let mut walker = Walker::new(&unet, &diffusion, &found.device);
    let batches = count.div_ceil(BATCH);
    let mut progress = Progress::new(u64::from(batches) * steps as u64, 0, "steps");
    let mut all = Vec::with_capacity(count as usize * PIXELS);
    for first in (0..count).step_by(BATCH as usize) {
        let images = first..(first + BATCH).min(count);
        let what = format!("images {} to {} of {count}", images.start + 1, images.end);
        let look = |number, x_t: &dyn Fn() -> Tensor<4>| {
            progress.advance(1, &what);
            match &options.frames {
                Some(folder) => match write_frame(folder, number, to_pixels(&numbers(x_t()))) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => ControlFlow::Break(error),
                },
                None => ControlFlow::Continue(()),
            }
        };
        match walker.walk(&settings, images, look) {
            ControlFlow::Continue(x_0) => all.extend(finished(&x_0)?),
            ControlFlow::Break(error) => return Err(error.into()),
        }
    }
    if let Some(folder) = &options.frames {
        write_frame(folder, steps, all.clone())?;
        // A longer film that was there before would go on after this one's end.
        for path in (steps + 1..).map(|number| frame(folder, number)) {
            if !path.exists() {
                break;
            }
            files::remove(&path)?;
        }
    }
    Ok(files::write(&options.out, &encode(&all))?)
}

fn frame(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("frame-{number:04}.png"))
}

/// One frame of the film: `frame-0000.png` is the noise a run starts from, the last one the result.
fn write_frame(folder: &Path, number: usize, pixels: Vec<u8>) -> Result<(), FileError> {
    let path = frame(folder, number);
    let png = png_grid(&pixels, square(pixels.len() / PIXELS));
    // A film is thousands of files: not each is waited for until it is on the disk.
    fs::write(&path, png).map_err(FileError::when("write", &path))
}

/// The default of `web/weights/index.json`, looked for from the working folder upwards, and then in
/// the repository this was built in.
///
/// # Errors
/// [`SampleError::NoWeights`] where there are none, and whatever is wrong with the index.
pub fn default_weights() -> Result<PathBuf, SampleError> {
    let here = std::env::current_dir().unwrap_or_default();
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in here.ancestors().chain(built_in.ancestors()) {
        let weights = folder.join("web").join("weights");
        if let Some(index) = export::read_index(&weights.join(export::INDEX))? {
            let entry = index.default_entry().ok_or(SampleError::NoWeights)?;
            return Ok(weights.join(&entry.file));
        }
    }
    Err(SampleError::NoWeights)
}

/// Finished images as pixels, as [`to_pixels`] has them, if each of them is numbers.
///
/// # Errors
/// [`SampleError::NotANumber`] says how many are not.
pub(crate) fn finished(x_0: &[f32]) -> Result<Vec<u8>, SampleError> {
    let broken = |image: &&[f32]| image.iter().any(|v| !v.is_finite());
    match x_0.chunks_exact(PIXELS).filter(broken).count() {
        0 => Ok(to_pixels(x_0)),
        count => Err(SampleError::NotANumber { count }),
    }
}
