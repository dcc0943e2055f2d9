//! A run's folder, and the loop that fills it.
//!
//! ```text
//! run.json                       configuration, data, and each session's command, device, commit
//! checkpoint.bpk                 the last complete state; `--resume` goes on from it
//! ema/epoch-012.bpk              each epoch's averaged weights, as `export` hands them out
//! log.jsonl                      each epoch's loss, images/s, seconds and time
//! loss.svg                       the loss curve
//! samples-epoch-012-ddpm100.png  garments at epochs 1, 12, 24, 50 and the last: a column a class,
//!                                by respaced DDPM in 100 steps
//! ```
//!
//! Every file is written whole or not at all, weights before checkpoint, so that what a checkpoint
//! counts as done is there. Log and curve are written anew from the checkpoint's own history: a
//! killed run that goes on repeats no line.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use burn::module::Module;
use fashion_ddpm::{
    Garment, Sampler, UNetConfig, noise::PIXELS, sampler::PlanError, weights::WeightsError,
};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{self, CheckpointError},
    curve,
    data::{DataError, Dataset, Split},
    device::{self, DeviceChoice, DeviceError},
    files::{self, FileError},
    picture::png_grid,
    progress::Progress,
    sample::{self, Walk},
    train::{TrainConfig, TrainError, Trainer},
};

/// Epochs whose garments are painted, beside the last.
const GRID_EPOCHS: [u32; 4] = [1, 12, 24, 50];

/// Steps of the respaced DDPM that paints them: a tenth of Algorithm 2's, for a tenth of the time.
const GRID_STEPS: usize = 100;

/// Rows of a grid; a column is a class.
const GRID_ROWS: u32 = 6;

/// Steps between two looks at the loss.
const STEPS_A_LOOK: usize = 10;

/// What a person asks `train` for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder with the official files; the cache where none is named.
    pub data: Option<PathBuf>,
    /// What to compute on.
    pub device: DeviceChoice,
    /// Passes over the data in all.
    pub epochs: u32,
    /// Images a step; the run's own, or the default, where none is named.
    pub batch_size: Option<usize>,
    /// Seed of the run; likewise.
    pub seed: Option<u32>,
    /// The network; likewise.
    pub network: Option<UNetConfig>,
    /// The run's folder.
    pub run: PathBuf,
    /// Whether to go on with the run in the folder.
    pub resume: bool,
}

/// How `train` ended, if not by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are done.
    Finished,
    /// Someone asked it to stop; all is saved.
    Stopped,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No images.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// No state to go on from.
    #[error("{}: {source}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// No training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// No weights file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// No walk for the grid.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A run is in the folder already.
    #[error("{} holds a run already; go on with it by --resume, or choose another --run folder", .0.display())]
    Occupied(PathBuf),
    /// No run is in the folder.
    #[error("{} holds no run to go on with; leave out --resume to start one", .0.display())]
    Empty(PathBuf),
    /// Another setting than the run was begun with.
    #[error(
        "the run was begun with {name} {begun}, not {asked}; leave the option out, or choose another --run folder"
    )]
    Changed {
        /// The option.
        name: &'static str,
        /// What the run has.
        begun: String,
        /// What was asked for.
        asked: String,
    },
    /// No loss curve.
    #[error("cannot draw the loss curve: {0}")]
    Curve(String),
}

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// What decides the run.
    pub config: TrainConfig,
    /// What it is trained on, in words.
    pub dataset: String,
    /// SHA-256 of the images and labels.
    pub dataset_sha256: String,
    /// Numbers in the network.
    pub parameters: usize,
    /// Each time it was started or gone on with.
    pub sessions: Vec<Session>,
}

/// One start of the trainer on a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The command line.
    pub command: Vec<String>,
    /// What computed.
    pub device: String,
    /// Commit of the source, `-dirty` after it where files differed; `unknown` outside a repository.
    pub source_commit: String,
    /// The epoch it began in, from 1.
    pub from_epoch: u32,
    /// When, in seconds since 1970 (UTC).
    pub unix_time: u64,
}

/// The files of a run.
#[derive(Debug, Clone)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder at `path`, which need not exist.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The last complete state.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint.bpk")
    }

    /// The averaged weights of the epochs.
    pub fn averages(&self) -> PathBuf {
        self.0.join("ema")
    }

    /// The averaged weights of an epoch.
    pub fn average(&self, epoch: u32) -> PathBuf {
        self.averages().join(format!("epoch-{epoch:03}.bpk"))
    }

    fn grid(&self, epoch: u32) -> PathBuf {
        let name = format!("samples-epoch-{epoch:03}-ddpm{GRID_STEPS}.png");
        self.0.join(name)
    }
}

/// Trains until `options.epochs` are done or `stop` is raised.
///
/// # Errors
/// [`RunError`]; whatever it is, the folder holds the last complete state.
pub fn train(options: &Options, stop: &AtomicBool) -> Result<Outcome, RunError> {
    let folder = RunFolder::new(&options.run);
    let begun = folder.checkpoint().exists();
    if begun && !options.resume {
        return Err(RunError::Occupied(options.run.clone()));
    }
    if !begun && options.resume {
        return Err(RunError::Empty(options.run.clone()));
    }
    let found = device::find(options.device)?;
    eprintln!("training on {}", found.describe());
    let dataset = Arc::new(Dataset::load(options.data.as_deref(), Split::Train)?);
    let mut trainer = if begun {
        resume(options, &folder, dataset.clone(), &found.device)?
    } else {
        Trainer::new(new_config(options), dataset.clone(), &found.device)?
    };
    let commit = source_commit();
    files::create_folder(&folder.averages())?;
    record_session(&folder, &trainer, &dataset, &found, &commit)?;
    if !begun {
        // Even a run killed in its first epoch can be gone on with.
        save(&folder, &mut trainer)?;
    }

    let images = dataset.len() as u64;
    let done = u64::from(trainer.position().epoch) * images + trainer.images_this_epoch() as u64;
    let mut progress = Progress::new(u64::from(options.epochs) * images, done, "images");
    let mut loss = None;
    let mut clock = Instant::now();
    loop {
        // A grid may be missing where the run was killed while it was painted.
        if trainer.position().step == 0 {
            paint_grid(&folder, &trainer, options.epochs, stop, &progress)?;
            clock = Instant::now();
            progress.restart_clock();
        }
        if trainer.position().epoch >= options.epochs {
            return Ok(Outcome::Finished);
        }
        while !trainer.epoch_is_over() {
            if stop.load(Ordering::Relaxed) {
                save(&folder, &mut trainer)?;
                return Ok(Outcome::Stopped);
            }
            let count = trainer.step();
            if trainer.position().step % STEPS_A_LOOK == 0 {
                loss = trainer.settle()?.or(loss);
            }
            trainer.spend(clock.elapsed().as_secs_f64());
            clock = Instant::now();
            let loss = loss.map_or("-".to_owned(), |loss| format!("{loss:.4}"));
            let epoch = trainer.position().epoch + 1;
            progress.advance(count as u64, &format!("epoch {epoch}, loss {loss}"));
        }
        trainer.settle()?;
        trainer.spend(clock.elapsed().as_secs_f64());
        let record = trainer.finish_epoch(now())?;
        progress.say(&format!(
            "epoch {}: loss {:.5}, {:.0} images/s",
            record.epoch, record.loss, record.images_per_second
        ));
        files::write(&folder.average(record.epoch), &trainer.weights(&commit)?)?;
        save(&folder, &mut trainer)?;
        write_log(&folder, &trainer)?;
        clock = Instant::now();
    }
}

fn new_config(options: &Options) -> TrainConfig {
    let default = TrainConfig::default();
    TrainConfig {
        network: options.network.clone().unwrap_or(default.network),
        batch_size: options.batch_size.unwrap_or(default.batch_size),
        seed: options.seed.unwrap_or(default.seed),
        ..default
    }
}

/// Goes on with the run in the folder, if it is the one that was asked for.
fn resume(
    options: &Options,
    folder: &RunFolder,
    dataset: Arc<Dataset>,
    device: &burn::tensor::Device,
) -> Result<Trainer, RunError> {
    let path = folder.checkpoint();
    let bytes = files::read(&path)?;
    let trainer = checkpoint::decode(&bytes, dataset, device)
        .map_err(|source| RunError::Checkpoint { path, source })?;
    let config = trainer.config();
    same("--batch-size", config.batch_size, options.batch_size)?;
    same("--seed", config.seed, options.seed)?;
    if options
        .network
        .as_ref()
        .is_some_and(|n| *n != config.network)
    {
        return Err(RunError::Changed {
            name: "--network",
            begun: format!("{:?}", config.network),
            asked: format!("{:?}", options.network),
        });
    }
    let position = trainer.position();
    eprintln!(
        "going on after epoch {}, step {}",
        position.epoch, position.step
    );
    write_log(folder, &trainer)?;
    Ok(trainer)
}

fn same<T: PartialEq + ToString>(
    name: &'static str,
    begun: T,
    asked: Option<T>,
) -> Result<(), RunError> {
    match asked {
        Some(asked) if asked != begun => Err(RunError::Changed {
            name,
            begun: begun.to_string(),
            asked: asked.to_string(),
        }),
        _ => Ok(()),
    }
}

fn save(folder: &RunFolder, trainer: &mut Trainer) -> Result<(), RunError> {
    let path = folder.checkpoint();
    let bytes = checkpoint::encode(trainer).map_err(|source| RunError::Checkpoint {
        path: path.clone(),
        source,
    })?;
    Ok(files::write(&path, &bytes)?)
}

fn record_session(
    folder: &RunFolder,
    trainer: &Trainer,
    dataset: &Dataset,
    found: &device::Found,
    commit: &str,
) -> Result<(), RunError> {
    let path = folder.0.join("run.json");
    // Of an earlier record only the list of sessions is kept; one that cannot be read is no reason
    // to lose the run.
    let earlier = files::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<RunRecord>(&bytes).ok());
    let mut record = RunRecord {
        config: trainer.config().clone(),
        dataset: dataset.description(),
        dataset_sha256: dataset.sha256().to_owned(),
        parameters: trainer.averaged().num_params(),
        sessions: earlier.map(|record| record.sessions).unwrap_or_default(),
    };
    record.sessions.push(Session {
        command: std::env::args().collect(),
        device: found.describe(),
        source_commit: commit.to_owned(),
        from_epoch: trainer.position().epoch + 1,
        unix_time: now(),
    });
    let json = serde_json::to_string_pretty(&record).expect("plain data");
    Ok(files::write(&path, json.as_bytes())?)
}

/// Log and curve, from the history that the checkpoint keeps.
fn write_log(folder: &RunFolder, trainer: &Trainer) -> Result<(), RunError> {
    let history = &trainer.position().history;
    if history.is_empty() {
        return Ok(());
    }
    let log: String = history
        .iter()
        .map(|record| serde_json::to_string(record).expect("plain data") + "\n")
        .collect();
    files::write(&folder.0.join("log.jsonl"), log.as_bytes())?;
    let svg = curve::draw(history).map_err(|error| RunError::Curve(error.to_string()))?;
    Ok(files::write(&folder.0.join("loss.svg"), svg.as_bytes())?)
}

/// Paints garments of the averaged weights, if it is time and nobody waits for the program to end.
fn paint_grid(
    folder: &RunFolder,
    trainer: &Trainer,
    epochs: u32,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<(), RunError> {
    let epoch = trainer.position().epoch;
    let path = folder.grid(epoch);
    let due = GRID_EPOCHS.contains(&epoch) || (epoch > 0 && epoch == epochs);
    if !due || path.exists() {
        return Ok(());
    }
    let schedule = &trainer.diffusion().schedule;
    let steps = GRID_STEPS.min(schedule.timesteps());
    let mut columns = Vec::new();
    for garment in Garment::ALL {
        let walk = Walk {
            plan: Sampler::Ddpm.plan(schedule, steps)?,
            garment: Some(garment),
            guidance_scale: 1.0,
            seed: trainer.config().seed,
        };
        let (unet, device) = (trainer.averaged(), trainer.device());
        let pixels = sample::walk(unet, schedule, &walk, 0..GRID_ROWS, &device, |_, _| {
            if stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match pixels {
            ControlFlow::Continue(pixels) => columns.push(pixels),
            ControlFlow::Break(()) => return Ok(()),
        }
    }
    let rows = (0..GRID_ROWS as usize).flat_map(|row| {
        let of_row = move |column: &Vec<u8>| column[row * PIXELS..(row + 1) * PIXELS].to_vec();
        columns.iter().flat_map(of_row).collect::<Vec<u8>>()
    });
    let pixels: Vec<u8> = rows.collect();
    files::write(&path, &png_grid(&pixels, Garment::ALL.len()))?;
    progress.say(&format!("painted {}", path.display()));
    Ok(())
}

/// The commit this was built from, as far as the repository it was built in can tell.
fn source_commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(env!("CARGO_MANIFEST_DIR"))
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]).filter(|commit| !commit.is_empty()) else {
        return "unknown".to_owned();
    };
    // What a run computes stands in these; a text edited elsewhere changes nothing.
    let sources = [
        "--",
        ".",
        "../src",
        "../kernels",
        "../Cargo.toml",
        "../Cargo.lock",
    ];
    match git(&[
        &["status", "--porcelain", "--untracked-files=no"],
        &sources[..],
    ]
    .concat())
    {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}-dirty"),
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
