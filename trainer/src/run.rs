//! A run's folder, and the loop that fills it.
//!
//! ```text
//! run.json                       configuration, data, and each session's command, device, commit
//! checkpoint.bpk                 the last complete state; `--resume` goes on from it
//! checkpoints/epoch-010.bpk      states of epochs that a branch may begin at
//! ema/epoch-012.bpk              each epoch's averaged weights, as `export` hands them out
//! ema/images-00600064.bpk        the same where the run ended within an epoch
//! log.jsonl                      each epoch's loss, images/s, seconds and time
//! loss.svg                       the loss curve
//! samples-epoch-012-ddpm100.png  garments at epochs 1, 12, 24, 50 and the last: a column a class,
//!                                by respaced DDPM in 100 steps
//! ```
//!
//! Every file is written whole or not at all, an epoch's weights before the checkpoint, so that what a
//! checkpoint counts as done is there. Log and curve are written anew from the checkpoint's own history: a
//! killed run that goes on repeats no line.
//!
//! A branch is a run of its own that begins with another one's state after some epoch. It draws the
//! batches that the other run would have drawn; with a decay its step size falls to nothing over
//! its epochs, which gives the weights of a run of that length. It can also begin with exported
//! weights, of which there is no such state: then AdamW's moments are made anew.

use std::{
    fs, iter,
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
    BetaSchedule, Garment, Prediction, Sampler, UNetConfig,
    noise::PIXELS,
    sampler::PlanError,
    weights::{self, Index, WeightsError},
};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{self, CheckpointError},
    curve,
    data::{DataError, Dataset, Split},
    device::{self, DeviceChoice, DeviceError},
    export::{self, ExportError},
    files::{self, FileError},
    network,
    picture::png_grid,
    progress::Progress,
    sample::finished,
    train::{Decay, DecayShape, EpochRecord, Position, TrainConfig, TrainError, Trainer},
    walk::{Walk, Walker},
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
    /// Where it ends. Where nothing is named: at the end of the decay, or where the run in the folder
    /// was to end, or after [`EPOCHS`].
    pub length: Option<Length>,
    /// What decides the run, where it differs from the default.
    pub settings: Settings,
    /// Epochs at the end over which the step size falls; it stays where none are named, in a branch as
    /// well, unless it has begun to fall there.
    pub decay_epochs: Option<f64>,
    /// How it falls.
    pub decay_shape: Option<DecayShape>,
    /// The run this one begins with, and after which of its epochs; the last where none is named.
    pub branch: Option<(PathBuf, Option<u32>)>,
    /// Epochs after which the state is kept; those of the run in the folder where none are named.
    pub keep_checkpoints: Vec<u32>,
    /// The run's folder.
    pub run: PathBuf,
    /// Whether to go on with the run in the folder.
    pub resume: bool,
}

/// Passes over the data where nobody says how many.
pub const EPOCHS: u32 = 50;

/// Where a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// After so many passes over the data.
    Epochs(u32),
    /// After the step in which this many images have been shown, repetitions counted.
    Images(u64),
}

/// Settings of a run that a person can name. Where one is left out, a new run has the default, and
/// one that is gone on with its own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// Images a step.
    pub batch_size: Option<usize>,
    /// Of every random number.
    pub seed: Option<u32>,
    /// The network.
    pub network: Option<UNetConfig>,
    /// The shape of beta_t.
    pub schedule: Option<BetaSchedule>,
    /// What the network is trained to tell.
    pub prediction: Option<Prediction>,
    /// Step size of AdamW once warm.
    pub learning_rate: Option<f64>,
    /// Decay of the averaged weights.
    pub ema_decay: Option<f64>,
    /// Probability that an image is shown without its label.
    pub label_dropout: Option<f64>,
}

impl Settings {
    /// The configuration of a new run.
    fn config(&self) -> TrainConfig {
        let default = TrainConfig::default();
        TrainConfig {
            batch_size: self.batch_size.unwrap_or(default.batch_size),
            seed: self.seed.unwrap_or(default.seed),
            network: self.network.clone().unwrap_or(default.network),
            schedule: self.schedule.unwrap_or(default.schedule),
            prediction: self.prediction.unwrap_or(default.prediction),
            learning_rate: self.learning_rate.unwrap_or(default.learning_rate),
            ema_decay: self.ema_decay.unwrap_or(default.ema_decay),
            label_dropout: self.label_dropout.unwrap_or(default.label_dropout),
            ..default
        }
    }

    /// Whether a run was begun with these.
    fn check(&self, config: &TrainConfig) -> Result<(), RunError> {
        same("--batch-size", config.batch_size, self.batch_size)?;
        same("--seed", config.seed, self.seed)?;
        let asked = self.network.as_ref().map(network::name);
        same("--network", network::name(&config.network), asked)?;
        same("--schedule", config.schedule, self.schedule)?;
        same("--prediction", config.prediction, self.prediction)?;
        same("--learning-rate", config.learning_rate, self.learning_rate)?;
        same("--ema-decay", config.ema_decay, self.ema_decay)?;
        same("--label-dropout", config.label_dropout, self.label_dropout)
    }
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
    /// What a run or an export has left is in the folder, and no state to go on with.
    #[error("{} holds {file} of another run; choose another --run folder, or move it away", folder.display())]
    Remains {
        /// The folder.
        folder: PathBuf,
        /// What there is.
        file: String,
    },
    /// No run is in the folder.
    #[error("{} holds no run to go on with; start one without --resume and --branch-from", .0.display())]
    Empty(PathBuf),
    /// Another setting than the run was begun with.
    #[error(
        "the run was begun with {name} {begun}, not {asked}; leave the option out, or begin anew without --resume and --branch-from"
    )]
    Changed {
        /// The option.
        name: &'static str,
        /// What the run has.
        begun: String,
        /// What was asked for.
        asked: String,
    },
    /// A decay that begins before the run.
    #[error(
        "a decay of {asked} epochs does not fit into a run of {images} images; choose fewer --decay-epochs"
    )]
    Decay {
        /// What was asked for.
        asked: f64,
        /// How long the run is.
        images: u64,
    },
    /// Another end than the decay's.
    #[error(
        "the step size falls to nothing over {there} images in all, so the run ends there, not after {asked}; leave out --epochs and --max-images"
    )]
    End {
        /// Images that the run shows.
        there: u64,
        /// Images that were asked for.
        asked: u64,
    },
    /// A run that would end before it goes on.
    #[error(
        "the state to go on with has seen {seen} images already, and the run is to end after {end}; choose more --epochs, or for a branch an earlier state with --at-epoch"
    )]
    Over {
        /// Images that have been shown.
        seen: u64,
        /// Images after which this one would end.
        end: u64,
    },
    /// A state to keep that there is never going to be.
    #[error(
        "--keep-checkpoints {epoch}: the run goes on after epoch {after} and ends with {seen} images; name epochs that it finishes"
    )]
    Kept {
        /// The epoch.
        epoch: u32,
        /// The run's last finished one.
        after: u32,
        /// Images that it will have seen.
        seen: u64,
    },
    /// A run without the state that a branch is to begin with.
    #[error(
        "{} holds no state after epoch {asked}; it has {there}", run.display()
    )]
    NoState {
        /// The run.
        run: PathBuf,
        /// The epoch.
        asked: u32,
        /// What there is, in words.
        there: String,
    },
    /// A record that is not of the weights beside it, or none at all.
    #[error(
        "{} does not describe the training of {} ({reason}); a branch can begin with a run, or with a folder of weights as they were exported", record.display(), weights.display()
    )]
    NoRecord {
        /// Of the run, or its log.
        record: PathBuf,
        /// The weights.
        weights: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No weights to begin with.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// No loss curve.
    #[error("cannot draw the loss curve: {0}")]
    Curve(String),
}

impl RunError {
    /// About the file with a state.
    fn at(path: &Path) -> impl FnOnce(CheckpointError) -> Self {
        let path = path.to_owned();
        |source| Self::Checkpoint { path, source }
    }
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
    /// Steps in all, as the last session had them: it ends there when it is gone on with, if nobody
    /// names another end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_after_step: Option<u64>,
    /// Epochs after which the state is kept, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keeps_checkpoints: Vec<u32>,
    /// The epoch of another run that it began after; the sessions before it are that run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branched_after_epoch: Option<u32>,
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

    /// The state after an epoch, where it was to be kept.
    pub fn kept(&self, epoch: u32) -> PathBuf {
        self.kept_folder().join(format!("epoch-{epoch:03}.bpk"))
    }

    fn kept_folder(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    fn record(&self) -> PathBuf {
        self.0.join("run.json")
    }

    fn log(&self) -> PathBuf {
        self.0.join("log.jsonl")
    }

    /// The averaged weights of the epochs.
    pub fn averages(&self) -> PathBuf {
        self.0.join("ema")
    }

    /// The averaged weights of an epoch.
    pub fn average(&self, epoch: u32) -> PathBuf {
        self.averages().join(format!("epoch-{epoch:03}.bpk"))
    }

    /// The averaged weights of a run that ended within an epoch, by the images it had seen.
    pub fn average_after(&self, images: u64) -> PathBuf {
        self.averages().join(format!("images-{images:08}.bpk"))
    }

    /// A file that a new run would write over, or that would be taken for one of its own. A record alone is
    /// what a run has left that was killed before its first state.
    fn remains(&self) -> Option<String> {
        let inside = |folder: &Path| {
            let files = fs::read_dir(folder).into_iter().flatten().flatten();
            files.map(|file| file.path())
        };
        let pictures = inside(&self.0).filter(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("samples-") || name == "loss.svg"
        });
        let mut found = iter::once(self.log())
            .filter(|log| log.exists())
            .chain(inside(&self.averages()))
            .chain(inside(&self.kept_folder()))
            .chain(pictures);
        let file = found.next()?;
        let name = file.strip_prefix(&self.0).unwrap_or(&file);
        Some(name.display().to_string())
    }

    /// The picture that belongs to averaged weights.
    fn grid(&self, average: &Path) -> PathBuf {
        let name = average.file_stem().unwrap_or_default().to_string_lossy();
        self.0.join(format!("samples-{name}-ddpm{GRID_STEPS}.png"))
    }
}

/// Trains to the end that `options` name, or until `stop` is raised.
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
    if !begun && let Some(file) = folder.remains() {
        let folder = options.run.clone();
        return Err(RunError::Remains { folder, file });
    }
    let found = device::find(options.device)?;
    eprintln!("training on {}", found.describe());
    let dataset = Arc::new(Dataset::load(options.data.as_deref(), Split::Train)?);
    let mut trainer = match &options.branch {
        _ if begun => read(&folder.checkpoint(), dataset.clone(), &found.device)?,
        Some((run, epoch)) => branch(run, *epoch, dataset.clone(), &found.device)?,
        None => Trainer::new(options.settings.config(), dataset.clone(), &found.device)?,
    };
    options.settings.check(trainer.config())?;
    let earlier = begun.then(|| read_record(&folder)).flatten();
    let end = find_end(options, begun, earlier.as_ref(), &mut trainer)?;
    let taken = trainer.steps_taken();
    let over = match begun {
        true => options.length.is_some() && end < taken,
        false => options.branch.is_some() && end <= taken,
    };
    if over {
        return Err(RunError::Over {
            seen: trainer.images_seen(),
            end: trainer.images_after(end),
        });
    }
    let keep = match (options.keep_checkpoints.as_slice(), &earlier) {
        ([], Some(earlier)) => earlier.keeps_checkpoints.clone(),
        (named, _) => named.to_vec(),
    };
    let reached = |epoch: u32| (taken + 1..=end).contains(&trainer.steps_of(epoch));
    let mut named = options.keep_checkpoints.iter();
    if let Some(&epoch) = named.find(|epoch| !reached(**epoch) && !folder.kept(**epoch).exists()) {
        return Err(RunError::Kept {
            epoch,
            after: trainer.position().epoch,
            seen: trainer.images_after(end),
        });
    }
    if trainer.steps_taken() > 0 {
        let position = trainer.position();
        let (epoch, step) = (position.epoch, position.step);
        eprintln!("going on after epoch {epoch}, step {step}");
    }
    let commit = source_commit();
    files::create_folder(&folder.averages())?;
    let (branched_after_epoch, mut sessions) = origin(options, earlier, &trainer);
    sessions.push(Session {
        command: std::env::args_os()
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        device: found.describe(),
        source_commit: commit.clone(),
        from_epoch: trainer.position().epoch + 1,
        unix_time: now(),
    });
    let record = RunRecord {
        config: trainer.config().clone(),
        dataset: dataset.description(),
        dataset_sha256: dataset.sha256().to_owned(),
        parameters: trainer.averaged().num_params(),
        ends_after_step: Some(end),
        keeps_checkpoints: keep.clone(),
        branched_after_epoch,
        sessions,
    };
    let json = serde_json::to_string_pretty(&record).expect("plain data");
    files::write(&folder.record(), json.as_bytes())?;
    if !begun {
        // Even a run killed in its first epoch can be gone on with.
        save(&folder.checkpoint(), &mut trainer)?;
    }
    write_log(&folder, &trainer)?;

    let total = trainer.images_after(end);
    let mut progress = Progress::new(total, trainer.images_seen(), "images");
    let mut loss = None;
    let mut clock;
    loop {
        // Weights and grid may be missing: where the run was killed while that was painted, or has been
        // told only now that it is over.
        let ended = trainer.steps_taken() >= end;
        if ended && trainer.position().step > 0 {
            let path = folder.average_after(trainer.images_seen());
            if !path.exists() {
                files::write(&path, &trainer.weights(&commit)?)?;
                progress.say(&format!("wrote {}", path.display()));
            }
        }
        paint_grid(&folder, &trainer, ended, stop, &progress)?;
        clock = Instant::now();
        progress.restart_clock();
        if ended {
            return Ok(Outcome::Finished);
        }
        while !trainer.epoch_is_over() && trainer.steps_taken() < end {
            if stop.load(Ordering::Relaxed) {
                save(&folder.checkpoint(), &mut trainer)?;
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
        if !trainer.epoch_is_over() {
            save(&folder.checkpoint(), &mut trainer)?;
            continue;
        }
        let record = trainer.finish_epoch(now())?;
        progress.say(&format!(
            "epoch {}: loss {:.5}, {:.0} images/s",
            record.epoch, record.loss, record.images_per_second
        ));
        files::write(&folder.average(record.epoch), &trainer.weights(&commit)?)?;
        if keep.contains(&record.epoch) {
            files::create_folder(&folder.kept_folder())?;
            save(&folder.kept(record.epoch), &mut trainer)?;
        }
        save(&folder.checkpoint(), &mut trainer)?;
        write_log(&folder, &trainer)?;
    }
}

/// The state in a file.
fn read(
    path: &Path,
    dataset: Arc<Dataset>,
    device: &burn::tensor::Device,
) -> Result<Trainer, RunError> {
    let bytes = files::read(path)?;
    checkpoint::decode(&bytes, dataset, device).map_err(RunError::at(path))
}

/// The state of another run after one of its epochs, or its last one where none is named.
fn branch(
    run: &Path,
    epoch: Option<u32>,
    dataset: Arc<Dataset>,
    device: &burn::tensor::Device,
) -> Result<Trainer, RunError> {
    let folder = RunFolder::new(run);
    if let Some(epoch) = epoch
        && folder.kept(epoch).exists()
    {
        return read(&folder.kept(epoch), dataset, device);
    }
    let last = folder.checkpoint();
    if !last.exists() {
        return match export::read_index(&run.join(export::INDEX))? {
            Some(index) => branch_from_weights(&folder, &index, epoch, dataset, device),
            None => Err(RunError::Empty(run.to_owned())),
        };
    }
    let trainer = read(&last, dataset, device)?;
    let position = trainer.position();
    let Some(asked) = epoch.filter(|epoch| (*epoch, 0) != (position.epoch, position.step)) else {
        return Ok(trainer);
    };
    let mut there = export::epochs(&folder.kept_folder());
    if position.step == 0 && !there.contains(&position.epoch) {
        there.push(position.epoch);
    }
    Err(RunError::NoState {
        run: run.to_owned(),
        asked,
        there: match there.is_empty() {
            true => "none at the end of an epoch".to_owned(),
            false => export::ranges(&there),
        },
    })
}

/// Exported weights of an epoch, or of the index's default, as the beginning of a branch. What they
/// were trained with, and how the loss fell, stands beside them.
fn branch_from_weights(
    folder: &RunFolder,
    index: &Index,
    epoch: Option<u32>,
    dataset: Arc<Dataset>,
    device: &burn::tensor::Device,
) -> Result<Trainer, RunError> {
    let entry = match epoch {
        Some(epoch) => index.models.iter().find(|model| model.epoch == epoch),
        None => index.default_entry(),
    };
    let entry = entry.ok_or_else(|| RunError::NoState {
        run: folder.0.clone(),
        asked: epoch.unwrap_or_default(),
        there: export::ranges(&index.models.iter().map(|m| m.epoch).collect::<Vec<_>>()),
    })?;
    let path = folder.0.join(&entry.file);
    let bytes = files::read(&path)?;
    let weights = weights::decode(&bytes, device).map_err(|source| ExportError::Weights {
        path: path.clone(),
        source,
    })?;
    let metadata = weights.metadata;
    checkpoint::same_images(&metadata.dataset_sha256, &dataset).map_err(RunError::at(&path))?;
    let no_record = |record: PathBuf, reason: String| RunError::NoRecord {
        record,
        weights: path.clone(),
        reason,
    };
    let record = files::read(&folder.record())?;
    let record: RunRecord = serde_json::from_slice(&record)
        .map_err(|error| no_record(folder.record(), error.to_string()))?;
    let config = record.config;
    let found = TrainConfig {
        network: metadata.config,
        schedule: metadata.schedule,
        timesteps: metadata.timesteps,
        prediction: metadata.prediction,
        ema_decay: metadata.ema_decay,
        ..config.clone()
    };
    if found != config {
        let reason = "another network, schedule, prediction or average".to_owned();
        return Err(no_record(folder.record(), reason));
    }
    let history = String::from_utf8_lossy(&files::read(&folder.log())?)
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<EpochRecord>, _>>()
        .map_err(|error| no_record(folder.log(), error.to_string()))?;
    let position = Position {
        epoch: metadata.epoch,
        history: history
            .into_iter()
            .take_while(|record| record.epoch <= metadata.epoch)
            .collect(),
        ..Position::default()
    };
    let trainer = Trainer::from_average(config, dataset, device, weights.unet, position)?;
    if trainer.images_seen() != metadata.images_seen {
        let reason = format!("expected {} images", metadata.images_seen);
        return Err(no_record(folder.record(), reason));
    }
    Ok(trainer)
}

/// The number of steps after which the run ends. A new run or branch gets the decay that it is to end
/// with; one that is gone on with must have it.
fn find_end(
    options: &Options,
    begun: bool,
    earlier: Option<&RunRecord>,
    trainer: &mut Trainer,
) -> Result<u64, RunError> {
    let asked = options.length.map(|length| match length {
        Length::Epochs(epochs) => trainer.steps_of(epochs),
        Length::Images(images) => trainer.steps_for(images),
    });
    let default = earlier.and_then(|record| record.ends_after_step);
    let default = default.unwrap_or(trainer.steps_of(EPOCHS));
    let steps = options
        .decay_epochs
        .map(|epochs| (epochs * trainer.steps_per_epoch() as f64).round() as u64);
    let shape = options.decay_shape;
    if begun {
        let decay = trainer.config().decay;
        same(
            "--decay-epochs (in steps)",
            decay.map_or(0, |d| d.steps),
            steps,
        )?;
        same(
            "--decay",
            decay.map_or_else(DecayShape::default, |d| d.shape),
            shape,
        )?;
    } else if steps.is_some() || !trainer.is_decaying() {
        // Of a branch: a fall that the other run would have had later is not its own.
        let decay = match steps {
            None => None,
            Some(0) if options.decay_epochs == Some(0.0) => None,
            Some(steps) => {
                let from_step = match options.branch {
                    Some(_) => trainer.steps_taken(),
                    None => {
                        let end = asked.unwrap_or(default);
                        let too_long = RunError::Decay {
                            asked: options.decay_epochs.unwrap_or_default(),
                            images: trainer.images_after(end),
                        };
                        end.checked_sub(steps).ok_or(too_long)?
                    }
                };
                let shape = shape.unwrap_or_default();
                Some(Decay {
                    from_step,
                    steps,
                    shape,
                })
            }
        };
        trainer.branch(decay)?;
    }
    match trainer.config().decay {
        Some(decay) => at_end_of(decay, asked, trainer),
        None => Ok(asked.unwrap_or(default)),
    }
}

fn at_end_of(decay: Decay, asked: Option<u64>, trainer: &Trainer) -> Result<u64, RunError> {
    match asked {
        Some(asked) if asked != decay.end() => Err(RunError::End {
            there: trainer.images_after(decay.end()),
            asked: trainer.images_after(asked),
        }),
        _ => Ok(decay.end()),
    }
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

fn save(path: &Path, trainer: &mut Trainer) -> Result<(), RunError> {
    let bytes = checkpoint::encode(trainer).map_err(RunError::at(path))?;
    Ok(files::write(path, &bytes)?)
}

/// What a folder records, if it can be read: a run is not lost with it.
fn read_record(folder: &RunFolder) -> Option<RunRecord> {
    let bytes = files::read(&folder.record()).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The epoch after which a run branched off another one, and the sessions so far: its own, or the
/// other's up to there.
fn origin(
    options: &Options,
    earlier: Option<RunRecord>,
    trainer: &Trainer,
) -> (Option<u32>, Vec<Session>) {
    match (earlier, &options.branch) {
        (Some(record), _) => (record.branched_after_epoch, record.sessions),
        (None, Some((run, _))) => {
            let Position { epoch, step, .. } = *trainer.position();
            let begun = epoch + u32::from(step > 0);
            let source = read_record(&RunFolder::new(run));
            let mut sessions = source.map(|record| record.sessions).unwrap_or_default();
            sessions.retain(|session| session.from_epoch <= begun);
            (Some(epoch), sessions)
        }
        (None, None) => (None, Vec::new()),
    }
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
    files::write(&folder.log(), log.as_bytes())?;
    let prediction = trainer.config().prediction;
    let svg =
        curve::draw(history, prediction).map_err(|error| RunError::Curve(error.to_string()))?;
    Ok(files::write(&folder.0.join("loss.svg"), svg.as_bytes())?)
}

/// Paints garments of the averaged weights, if it is time and nobody waits for the program to end.
fn paint_grid(
    folder: &RunFolder,
    trainer: &Trainer,
    ended: bool,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<(), RunError> {
    let position = trainer.position();
    let (average, due) = match position.step {
        0 => {
            let due = ended || GRID_EPOCHS.contains(&position.epoch);
            (folder.average(position.epoch), due)
        }
        _ => (folder.average_after(trainer.images_seen()), ended),
    };
    let path = folder.grid(&average);
    // A branch paints nothing of the epochs before it, nor does a run before its first.
    if !due || path.exists() || !average.exists() {
        return Ok(());
    }
    let diffusion = trainer.diffusion();
    let steps = GRID_STEPS.min(diffusion.schedule.timesteps());
    let device = trainer.device();
    let mut walker = Walker::new(trainer.averaged(), diffusion, &device);
    let mut columns = Vec::new();
    for garment in Garment::ALL {
        let walk = Walk {
            plan: Sampler::Ddpm.plan(&diffusion.schedule, steps)?,
            garment: Some(garment),
            guidance_scale: 1.0,
            seed: trainer.config().seed,
        };
        let x_0 = walker.walk(&walk, 0..GRID_ROWS, |_, _| {
            if stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match x_0 {
            ControlFlow::Continue(x_0) => match finished(&x_0) {
                Ok(pixels) => columns.push(pixels),
                Err(error) => {
                    progress.say(&format!("{} is not painted: {error}", path.display()));
                    return Ok(());
                }
            },
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
