//! When is it decided? How often a branch of the reverse process becomes the class of its run.
//!
//! Many runs, and of each one branch from every tenth of its steps: the same x_t, other noise from
//! there on. Both ends are classified by the vote of their nearest neighbours on the page's map, as
//! the page does it with the visitor's own branches.

use std::{
    convert::Infallible,
    io::Read,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use burn::tensor::Tensor;
use fashion_ddpm::{
    Gallery, Garment, Sampler,
    gallery::{self, BranchPoint, Branches, Index, to_network},
    noise::PIXELS,
    sampler::{PlanError, remaining},
};
use flate2::read::GzDecoder;

use crate::{
    device::{self, DeviceChoice, DeviceError},
    files::{self, FileError},
    page_data::{self, PageDataError},
    progress::Progress,
    sample::{SampleError, Source, finished},
    walk::{Walk, Walker},
};

/// Images computed at once.
const BATCH: u32 = 64;

/// Most runs; the curve would not change any more.
const MOST_RUNS: u32 = 10_000;

/// Branches of each run.
const BRANCHES: usize = 10;

/// The branch whose noise the branches get.
const BRANCH: u32 = 1;

/// What a person asks for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The weights; the index's default where none are named.
    pub weights: Option<PathBuf>,
    /// Runs, with the indices 0 to `runs` - 1 of the seed.
    pub runs: u32,
    /// Of all noise.
    pub seed: u32,
    /// Steps of DDPM, a multiple of 10.
    pub steps: usize,
    /// The page's data, which has the map.
    pub out: PathBuf,
}

/// Why there is no curve.
#[derive(Debug, thiserror::Error)]
pub enum BranchesError {
    /// Too many runs, or none.
    #[error("--runs goes from 2 to {MOST_RUNS}, {0} does not")]
    Runs(u32),
    /// Steps that have no tenths.
    #[error("--steps is a multiple of {BRANCHES} up to T, not {0}")]
    Steps(usize),
    /// No map to classify by.
    #[error("{} is no map that can be used ({reason}); make it by `trainer page-data`", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An index that is another one's.
    #[error(transparent)]
    Index(#[from] PageDataError),
    /// No weights.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// No such walk.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The system would not read or write it.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Computes the curve and writes it into the index of the page's data.
///
/// # Errors
/// [`BranchesError`]; what is asked for is checked before anything is computed.
pub fn write(options: &Options) -> Result<Branches, BranchesError> {
    let &Options {
        runs, seed, steps, ..
    } = options;
    if !(2..=MOST_RUNS).contains(&runs) {
        return Err(BranchesError::Runs(runs));
    }
    if steps == 0 || !steps.is_multiple_of(BRANCHES) {
        return Err(BranchesError::Steps(steps));
    }
    let (map, index) = read_map(&options.out)?;
    files::prepare(&options.out.join(page_data::INDEX))?;
    let votes = index.neighbours.votes;
    let source = Source::read(options.weights.as_deref())?;
    let plan = source.plan(Sampler::Ddpm, Some(steps))?;
    let found = device::find(DeviceChoice::Auto)?;
    let weights = source.load(&found.device)?;
    let mut walker = Walker::new(&weights.unet, &weights.diffusion, &found.device);
    let way = Walk {
        plan: plan.clone(),
        garment: None,
        guidance_scale: 1.0,
        seed,
    };
    let class = |pixels: &[u8]| {
        let x: Vec<f32> = pixels.iter().copied().map(to_network).collect();
        map.vote(&map.nearest(&x, votes))
    };
    let stride = steps / BRANCHES;
    let mut points: Vec<BranchPoint> = (0..BRANCHES)
        .map(|tenth| BranchPoint {
            t: plan[tenth * stride].t + 1,
            kept: 0,
        })
        .collect();
    let mut counts = [0u32; Garment::ALL.len()];
    // A run, and branches of all its lengths.
    let cost =
        |runs: u32| u64::from(runs) * (steps + stride * BRANCHES * (BRANCHES + 1) / 2) as u64;
    let mut progress = Progress::new(cost(runs), 0, "images x steps");
    for first in (0..runs).step_by(BATCH as usize) {
        let images = first..(first + BATCH).min(runs);
        let what = format!("runs {} to {} of {runs}", images.start + 1, images.end);
        let batch = images.len() as u64;
        let mut states: Vec<Tensor<4>> = Vec::with_capacity(BRANCHES);
        let x_0 = walker.walk(&way, images.clone(), |number, x_t| {
            if number % stride == 0 {
                states.push(x_t());
            }
            progress.advance(batch, &what);
            ControlFlow::<Infallible>::Continue(())
        });
        let ControlFlow::Continue(x_0) = x_0;
        let classes: Vec<_> = finished(&x_0)?.chunks_exact(PIXELS).map(class).collect();
        for garment in classes.iter().flatten() {
            counts[garment.label()] += 1;
        }
        for (point, x_t) in points.iter_mut().zip(states) {
            let branch = Walk {
                plan: remaining(&plan, point.t - 1),
                ..way.clone()
            };
            let streams = images.clone().map(|image| (image, BRANCH)).collect();
            let x_0 = walker.resume(&branch, streams, x_t, |_, _| {
                progress.advance(batch, &what);
                ControlFlow::<Infallible>::Continue(())
            });
            let ControlFlow::Continue(x_0) = x_0;
            let x_0 = finished(&x_0)?;
            let pairs = x_0.chunks_exact(PIXELS).map(class).zip(&classes);
            point.kept += pairs.filter(|(branch, run)| branch == *run).count() as u32;
        }
    }
    let branches = Branches {
        weights_sha256: weights.sha256,
        epoch: weights.metadata.epoch,
        sampler: Sampler::Ddpm.slug().to_owned(),
        steps,
        runs,
        seed,
        by_chance: by_chance(&counts),
        points,
    };
    // Others may have written a curve of theirs meanwhile, or another map.
    let (_, mut now) = read_map(&options.out)?;
    if now.map != index.map {
        return Err(BranchesError::Map {
            path: options.out.join(page_data::INDEX),
            reason: "its map became another one meanwhile".to_owned(),
        });
    }
    now.keep(branches.clone());
    page_data::write_index(&options.out, &now)?;
    Ok(branches)
}

/// How often two of these have the same class: two different runs of them, any two.
fn by_chance(counts: &[u32]) -> f64 {
    let pairs = |n: u32| f64::from(n) * (f64::from(n) - 1.0);
    let all = counts.iter().sum();
    counts.iter().map(|n| pairs(*n)).sum::<f64>() / pairs(all).max(1.0)
}

/// The page's map and the index of its data.
fn read_map(folder: &Path) -> Result<(Gallery, Index), BranchesError> {
    let unusable = |path: PathBuf, reason: String| BranchesError::Map { path, reason };
    let index = page_data::read_index(folder)?
        .ok_or_else(|| unusable(folder.join(page_data::INDEX), "it is not there".to_owned()))?;
    let path = folder.join(&index.map.file);
    let mut bytes = Vec::new();
    let map = match GzDecoder::new(files::read(&path)?.as_slice()).read_to_end(&mut bytes) {
        Ok(_) => gallery::decode(&bytes).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let (map, _) = map.map_err(|reason| unusable(path, reason))?;
    Ok((map, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_any_two_of_them() {
        // Of three, two alike: of the three pairs one.
        assert!((by_chance(&[2, 1, 0]) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(by_chance(&[7]), 1.0);
        assert_eq!(by_chance(&[1, 1, 1]), 0.0);
        assert_eq!(by_chance(&[0, 0]), 0.0);
    }

    #[test]
    fn what_is_asked_for_is_checked_first() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            weights: None,
            runs: 10,
            seed: 0,
            steps: 100,
            out: folder.path().to_owned(),
        };
        let refused = |options: &Options| write(options).unwrap_err().to_string();
        for runs in [0, 1, MOST_RUNS + 1] {
            let message = refused(&Options {
                runs,
                ..options.clone()
            });
            assert!(message.contains("--runs"), "{message}");
        }
        for steps in [0, 5, 101] {
            let message = refused(&Options {
                steps,
                ..options.clone()
            });
            assert!(message.contains("--steps"), "{message}");
        }
        assert!(refused(&options).contains("index.json"));
        std::fs::write(folder.path().join("index.json"), "{}").unwrap();
        assert!(refused(&options).contains("page-data"));
    }
}
