//! The commands.

use std::{
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::{Args, Parser, Subcommand, error::ErrorKind};
use fashion_ddpm::{
    BetaSchedule, Garment, Prediction, Sampler, UNetConfig,
    garment::{UnknownGarment, parse_garment},
    weights::decode,
};

use crate::{
    branches,
    data::{Dataset, Split},
    device::{self, DeviceChoice},
    evaluate::{self, Subject},
    export, files,
    judge::{self, JudgeConfig},
    network::{self, Measuring, NetworkFigures},
    page_data,
    run::{self, Length, Options, Outcome, Settings},
    sample, table,
    train::DecayShape,
};

/// What stops a command, for `main` to print.
type Failure = Box<dyn std::error::Error>;

/// Trains the U-Net of Fashion DDPM, samples from it, and exports it for the page.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train on Fashion-MNIST.
    Train(TrainArguments),
    /// Sample garments from weights, into a PNG grid or a NPY array.
    Sample(SampleArguments),
    /// Export an epoch's averaged weights, and list them in the index.json beside the file.
    Export(ExportArguments),
    /// Measure how good samples are, or images from elsewhere: a table, a JSON file, two pictures.
    Evaluate(EvaluateArguments),
    /// Measure what networks cost: multiplications, bytes, images a second, side by side.
    Network(NetworkArguments),
    /// Turn what `evaluate` and `network` wrote into the rows of a table in Markdown.
    Table(TableArguments),
    /// Train the classifier that `evaluate` looks at samples with.
    TrainJudge(TrainJudgeArguments),
    /// Write the real garments that the page shows, and their map, into web/data.
    PageData(PageDataArguments),
    /// Measure how often a branch of the reverse process keeps its run's class, into web/data.
    Branches(BranchesArguments),
    /// Check a weights file and print what it says about itself.
    Info {
        /// A weights file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct TrainArguments {
    /// Folder with the four official .gz files [default: a cache folder, filled by downloading]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// auto, cuda, vulkan, metal, wgpu or cpu
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Passes over the data in all [default: the end of the decay, where the run was to end, or 50]
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=999))]
    epochs: Option<u32>,
    /// End within an epoch, once N images have been shown, repetitions counted
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        conflicts_with = "epochs",
        value_parser = clap::value_parser!(u64).range(1..=60_000_000)
    )]
    max_images: Option<u64>,
    /// Images a step [default: 64]
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    batch_size: Option<usize>,
    /// Of every random number [default: 0]
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    seed: Option<u32>,
    /// The network, or what differs: unshuffle=2,channels=64-64,blocks=1,attention=7,groups=8 (attention
    /// at these widths in pixels, or none) [default: that one]
    #[arg(long, value_name = "NETWORK", value_parser = network::parse)]
    network: Option<UNetConfig>,
    /// Noise schedule, linear or cosine [default: linear]
    #[arg(long, value_name = "SCHEDULE")]
    schedule: Option<BetaSchedule>,
    /// What the network is trained to tell, noise or v [default: noise]
    #[arg(long, value_name = "WHAT")]
    prediction: Option<Prediction>,
    /// Step size of AdamW after the warm-up [default: 0.001]
    #[arg(long, allow_negative_numbers = true, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Of the averaged weights [default: 0.999]
    #[arg(long, allow_negative_numbers = true, value_name = "D")]
    ema_decay: Option<f64>,
    /// Share of the images shown without their label [default: 0.1]
    #[arg(long, allow_negative_numbers = true, value_name = "P")]
    label_dropout: Option<f64>,
    /// Let the step size fall to nothing over the last N epochs; of a branch, over N of its own
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = decay_epochs)]
    decay_epochs: Option<f64>,
    /// How it falls [default: linear]
    #[arg(long, value_name = "SHAPE", requires = "decay_epochs")]
    decay: Option<DecayShape>,
    /// Begin with another run's state instead of fresh weights, or with exported weights, such as
    /// web/weights
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    branch_from: Option<PathBuf>,
    /// After which of its epochs [default: its last state]
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        requires = "branch_from"
    )]
    at_epoch: Option<u32>,
    /// Keep the state after these epochs, for branches to begin with
    #[arg(long, value_name = "N,N,..", value_delimiter = ',')]
    keep_checkpoints: Vec<u32>,
    /// Folder for checkpoints, weights, log and pictures
    #[arg(long, value_name = "DIR", default_value = "run")]
    run: PathBuf,
    /// Go on with the run in the folder
    #[arg(long)]
    resume: bool,
}

fn decay_epochs(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(epochs) if (0.0..=999.0).contains(&epochs) => Ok(epochs),
        _ => Err("a number from 0 to 999".to_owned()),
    }
}

#[derive(Debug, Args)]
struct SampleArguments {
    /// Weights file [default: the one that web/weights/index.json names]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Number of images
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        default_value_t = 1
    )]
    count: u32,
    /// Image i of a seed is the same whatever the count
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        default_value_t = 0
    )]
    seed: u32,
    /// any, t-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag or ankle-boot
    #[arg(long, value_name = "SLUG", default_value = "any", value_parser = garment)]
    garment: Label,
    #[command(flatten)]
    walk: WalkArguments,
    /// auto, cuda, vulkan, metal, wgpu or cpu
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// FILE.png for a grid without gaps, FILE.npy for uint8 [N, 28, 28]
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Folder for a grid of x_t before each step, and of the result: frame-0000.png and so on
    #[arg(long, value_name = "DIR")]
    frames: Option<PathBuf>,
}

/// A garment or any; clap would read an `Option` as an option left out.
#[derive(Debug, Clone, Copy)]
struct Label(Option<Garment>);

fn garment(slug: &str) -> Result<Label, UnknownGarment> {
    parse_garment(slug).map(Label)
}

#[derive(Debug, Args)]
struct ExportArguments {
    /// Folder of a run
    run: PathBuf,
    /// Which epoch [default: the last]
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    epoch: Option<u32>,
    /// File to write, such as web/weights/epoch-012.bpk
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct PageDataArguments {
    /// Folder with the four official .gz files [default: a cache folder, filled by downloading]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder to write into
    #[arg(long, value_name = "DIR", default_value = "web/data")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct BranchesArguments {
    /// Weights file [default: the one that web/weights/index.json names]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Number of runs, with ten branches each
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        default_value_t = 512
    )]
    runs: u32,
    /// Of all noise
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        default_value_t = 0
    )]
    seed: u32,
    /// Steps of DDPM
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        default_value_t = 100
    )]
    steps: usize,
    /// Folder with the map, to write into
    #[arg(long, value_name = "DIR", default_value = "web/data")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct EvaluateArguments {
    /// Weights file [default: the one that web/weights/index.json names]
    #[arg(long, value_name = "FILE", conflicts_with = "images")]
    weights: Option<PathBuf>,
    /// Images in place of samples: a folder of PNGs, or a NPY file of uint8 [N, 28, 28]
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with_all = ["record", "unconditional", "seed", "sampler", "steps", "eta", "guidance", "device"]
    )]
    images: Option<PathBuf>,
    /// Samples, a tenth of each class; of --images, at most so many
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        default_value_t = 10_000
    )]
    count: usize,
    /// Samples without a class, as a second line; 0 for none [default: as many]
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    unconditional: Option<usize>,
    /// Of all noise
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        default_value_t = 0
    )]
    seed: u32,
    #[command(flatten)]
    walk: WalkArguments,
    /// auto, cuda, vulkan, metal, wgpu or cpu
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Folder with the four official .gz files [default: a cache folder, filled by downloading]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder for evaluation.json, grid.png and closest.png
    #[arg(long, value_name = "DIR", default_value = "evaluation")]
    out: PathBuf,
    /// Also write the figures into the index.json beside the weights
    #[arg(long)]
    record: bool,
}

// The way from noise to image. Not a doc comment: clap would take it for the command's own.
#[derive(Debug, Args)]
struct WalkArguments {
    /// ddpm, ddim or dpm
    #[arg(long, value_name = "SAMPLER", default_value_t = Sampler::Ddpm)]
    sampler: Sampler,
    /// Steps of the sampler [default: T for ddpm, 50 for ddim, 20 for dpm]
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    steps: Option<usize>,
    /// Share of DDPM's noise in a step of ddim, 0 to 1 [default: 0]
    #[arg(long, allow_negative_numbers = true, value_name = "E")]
    eta: Option<f64>,
    /// How much the garment counts; 1 is off
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "W",
        default_value_t = 1.0
    )]
    guidance: f64,
}

impl WalkArguments {
    /// The sampler with the eta asked for, which only one of them has.
    fn sampler(&self) -> Result<Sampler, Failure> {
        match (self.sampler, self.eta) {
            (sampler, None) => Ok(sampler),
            (Sampler::Ddim { .. }, Some(eta)) => Ok(Sampler::Ddim { eta }),
            (sampler, Some(_)) => {
                Err(format!("--eta goes with --sampler ddim, not {sampler}").into())
            }
        }
    }
}

#[derive(Debug, Args)]
struct NetworkArguments {
    /// Networks, as --network of train has them [default: the one that train has]
    #[arg(value_name = "NETWORK", value_parser = network::parse)]
    networks: Vec<UNetConfig>,
    /// Turns of each network
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of a turn, forward and training each
    #[arg(long, allow_negative_numbers = true, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Images at once
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        default_value_t = 64
    )]
    batch_size: usize,
    /// auto, cuda, vulkan, metal, wgpu or cpu
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Folder with the four official .gz files [default: a cache folder, filled by downloading]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// JSON file for the figures
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Instead of measuring, write down this many steps of a training, for trainer/peers/twin.py
    #[arg(long, allow_negative_numbers = true, value_name = "STEPS", requires = "out", value_parser = clap::value_parser!(u16).range(1..=1000))]
    twin: Option<u16>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number from 0 to 3600".to_owned()),
    }
}

#[derive(Debug, Args)]
struct TableArguments {
    /// Files named evaluation.json
    evaluations: Vec<PathBuf>,
    /// The JSON file of `network`, for a table of networks
    #[arg(long, value_name = "FILE")]
    networks: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct TrainJudgeArguments {
    /// Folder with the four official .gz files [default: a cache folder, filled by downloading]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Of every random number
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        default_value_t = 0
    )]
    seed: u32,
    /// Passes over the data at most
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value_t = JudgeConfig::default().epochs, value_parser = clap::value_parser!(u32).range(1..=999))]
    epochs: u32,
    /// File to write; the one that `evaluate` uses is trainer/judge/judge.bpk
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the command in the program's arguments. Exit status 0, or one line on stderr.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            // Into a closed pipe it cannot be said that it is closed.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{}", one_line(&error.to_string()));
            return ExitCode::from(2);
        }
    };
    let result = match cli.command {
        Command::Train(arguments) => train(arguments),
        Command::Sample(arguments) => sample(arguments),
        Command::Export(arguments) => export(&arguments),
        Command::Evaluate(arguments) => evaluate(arguments),
        Command::Network(arguments) => network(arguments),
        Command::Table(arguments) => table(&arguments),
        Command::TrainJudge(arguments) => train_judge(&arguments),
        Command::PageData(arguments) => page_data(&arguments),
        Command::Branches(arguments) => branches(arguments),
        Command::Info { file } => info(&file),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line, or several. Where nobody can be told, `println!` would panic.
fn say(what: impl fmt::Display) -> Result<(), Failure> {
    let what = what.to_string();
    writeln!(io::stdout(), "{}", what.trim_end())
        .map_err(|error| format!("cannot print: {error}").into())
}

/// The first paragraph of clap's message, in one line.
fn one_line(message: &str) -> String {
    let paragraph: Vec<&str> = message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    if paragraph
        .first()
        .is_some_and(|line| line.starts_with("error:"))
    {
        paragraph.join(" ")
    } else {
        "error: expected a command: train, sample, export, evaluate, network, table, train-judge, page-data, branches or info; see --help".to_owned()
    }
}

fn train(arguments: TrainArguments) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = stop.clone();
    #[cfg(unix)]
    let ignores_hangup = ignores_hangup();
    ctrlc::set_handler(move || {
        // Whoever asks twice does not want to wait for the checkpoint.
        if raised.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("saving; once more to leave without");
    })?;
    // The handler is for all signals that end a program, also for one that was not to end this.
    #[cfg(unix)]
    if ignores_hangup {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    }
    let options = Options {
        data: arguments.data,
        device: arguments.device,
        length: arguments
            .epochs
            .map(Length::Epochs)
            .or(arguments.max_images.map(Length::Images)),
        settings: Settings {
            batch_size: arguments.batch_size,
            seed: arguments.seed,
            network: arguments.network,
            schedule: arguments.schedule,
            prediction: arguments.prediction,
            learning_rate: arguments.learning_rate,
            ema_decay: arguments.ema_decay,
            label_dropout: arguments.label_dropout,
        },
        decay_epochs: arguments.decay_epochs,
        decay_shape: arguments.decay,
        branch: arguments.branch_from.map(|run| (run, arguments.at_epoch)),
        keep_checkpoints: arguments.keep_checkpoints,
        run: arguments.run,
        resume: arguments.resume,
    };
    match run::train(&options, &stop)? {
        Outcome::Finished => eprintln!("done: {}", options.run.display()),
        Outcome::Stopped => eprintln!("saved; go on with --resume"),
    }
    Ok(())
}

/// Whether the terminal's end was to be ignored, as `nohup` has it.
#[cfg(unix)]
fn ignores_hangup() -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the present one, where there is room for it;
    // zeros are an action as well.
    let now = unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_IGN
}

fn sample(arguments: SampleArguments) -> Result<(), Failure> {
    sample::sample(&sample::Options {
        weights: arguments.weights,
        count: arguments.count,
        seed: arguments.seed,
        garment: arguments.garment.0,
        sampler: arguments.walk.sampler()?,
        steps: arguments.walk.steps,
        guidance_scale: arguments.walk.guidance,
        device: arguments.device,
        out: arguments.out,
        frames: arguments.frames,
    })?;
    Ok(())
}

fn export(arguments: &ExportArguments) -> Result<(), Failure> {
    let metadata = export::export(&arguments.run, arguments.epoch, &arguments.out)?;
    say(format_args!(
        "{}: epoch {}, {} images seen",
        arguments.out.display(),
        metadata.epoch,
        metadata.images_seen
    ))?;
    Ok(())
}

fn page_data(arguments: &PageDataArguments) -> Result<(), Failure> {
    let index = page_data::write(arguments.data.as_deref(), &arguments.out)?;
    let [first, second] = index.projection.explained_variance;
    say(format_args!(
        "{}: {} training and {} test images; the map's axes explain {:.1} % and {:.1} % of the \
         variance; {} neighbours name the class of {:.1} % of {} test images",
        arguments.out.display(),
        index.map.images,
        index.test.images,
        100.0 * first,
        100.0 * second,
        index.neighbours.votes,
        100.0 * index.neighbours.accuracy,
        index.neighbours.test_images,
    ))?;
    Ok(())
}

fn branches(arguments: BranchesArguments) -> Result<(), Failure> {
    let branches = branches::write(&branches::Options {
        weights: arguments.weights,
        runs: arguments.runs,
        seed: arguments.seed,
        steps: arguments.steps,
        out: arguments.out,
    })?;
    say(format_args!("{:>6} {:>8}", "t", "kept"))?;
    for point in &branches.points {
        let share = f64::from(point.kept) / f64::from(branches.runs);
        say(format_args!("{:>6} {:>7.1} %", point.t, 100.0 * share))?;
    }
    say(format_args!(
        "{:>6} {:>7.1} %",
        "chance",
        100.0 * branches.by_chance
    ))
}

fn evaluate(arguments: EvaluateArguments) -> Result<(), Failure> {
    let report = evaluate::evaluate(&evaluate::Options {
        subject: match arguments.images {
            Some(images) => Subject::Images(images),
            None => Subject::Weights(arguments.weights),
        },
        count: arguments.count,
        unconditional: arguments.unconditional.unwrap_or(arguments.count),
        seed: arguments.seed,
        sampler: arguments.walk.sampler()?,
        steps: arguments.walk.steps,
        guidance_scale: arguments.walk.guidance,
        device: arguments.device,
        data: arguments.data,
        out: arguments.out,
        record: arguments.record,
    })?;
    say(report)
}

fn network(arguments: NetworkArguments) -> Result<(), Failure> {
    let networks = match arguments.networks.is_empty() {
        true => vec![UNetConfig::default()],
        false => arguments.networks,
    };
    let batch_size = arguments.batch_size;
    if let Some(out) = &arguments.out {
        files::prepare(out)?;
    }
    let found = device::find(arguments.device)?;
    let dataset = Arc::new(Dataset::load(arguments.data.as_deref(), Split::Train)?);
    if let (Some(steps), Some(out)) = (arguments.twin, &arguments.out) {
        let [one] = networks.as_slice() else {
            return Err("--twin writes down the training of one network; name one".into());
        };
        let bytes = network::twin(one, steps.into(), batch_size, &dataset, &found.device)?;
        files::write(out, &bytes)?;
        return say(format_args!(
            "{}: {steps} steps of {batch_size} images",
            out.display()
        ));
    }
    let busy = device::load_average().map_or(String::new(), |load| {
        format!("; load average {load} before")
    });
    let measuring = Measuring {
        rounds: arguments.rounds as usize,
        seconds: arguments.seconds,
        batch_size,
    };
    let figures = network::measure(&networks, &measuring, &dataset, &found.device)?;
    if let Some(out) = &arguments.out {
        let json = serde_json::to_string_pretty(&figures)? + "\n";
        files::write(out, json.as_bytes())?;
    }
    say(format_args!(
        "{}{busy}; {} rounds of {} s, {batch_size} images at once; median (slowest-fastest)",
        found.describe(),
        measuring.rounds,
        measuring.seconds
    ))?;
    let width = figures.iter().map(|f| f.name.len()).max().unwrap_or(0);
    let print = |[name, macs, parameters, bytes, launches, forward, training]: [String; 7]| {
        say(format_args!(
            "{name:<width$}{macs:>8}{parameters:>12}{bytes:>11}{launches:>10}{forward:>20}{training:>20}"
        ))
    };
    print(NetworkFigures::COLUMNS.map(str::to_owned))?;
    for network in &figures {
        print(network.cells())?;
    }
    Ok(())
}

fn table(arguments: &TableArguments) -> Result<(), Failure> {
    let table = match &arguments.networks {
        Some(networks) => table::networks(networks, &arguments.evaluations)?,
        None if arguments.evaluations.is_empty() => {
            return Err(
                "name the files of `evaluate`, or --networks with that of `network`".into(),
            );
        }
        None => table::evaluations(&arguments.evaluations)?,
    };
    say(table)
}

fn train_judge(arguments: &TrainJudgeArguments) -> Result<(), Failure> {
    files::prepare(&arguments.out)?;
    let training = Dataset::load(arguments.data.as_deref(), Split::Train)?;
    let test = Dataset::load(arguments.data.as_deref(), Split::Test)?;
    let config = JudgeConfig {
        seed: arguments.seed,
        epochs: arguments.epochs,
    };
    let (bytes, judge) = judge::train(&config, &training, &test)?;
    files::write(&arguments.out, &bytes)?;
    let card = &judge.card;
    say(format_args!(
        "{}: {} bytes",
        arguments.out.display(),
        bytes.len()
    ))?;
    say(format_args!("sha256 {}", judge.sha256))?;
    say(format_args!(
        "accuracy {:.4} on {} training images, {:.4} on {} held out, {:.4} on {} test images, epoch {}",
        card.train_accuracy,
        card.training_images,
        card.held_out_accuracy,
        card.held_out_images,
        card.test_accuracy,
        test.len(),
        card.epoch
    ))?;
    say(format_args!(
        "{} % of the test images are named with a confidence below {:.4}",
        judge::UNSURE_SHARE * 100.0,
        card.confidence_threshold
    ))?;
    Ok(())
}

fn info(file: &Path) -> Result<(), Failure> {
    let bytes = files::read(file)?;
    // Decoded in full: that the tensors fit the network is part of the answer.
    let weights =
        decode(&bytes, &kernels::cpu()).map_err(|error| format!("{}: {error}", file.display()))?;
    let metadata = &weights.metadata;
    let network = &metadata.config;
    let lines = [
        ("file", format!("{}, {} bytes", file.display(), bytes.len())),
        ("format version", metadata.format_version().to_string()),
        ("sha256", format!("{} (correct)", weights.sha256)),
        (
            "network",
            format!(
                "{} parameters; pixels folded {n} x {n}, channels {:?}, {} blocks a resolution, \
                 attention {:?}, {} groups, {} classes",
                metadata.parameters,
                network.channels,
                network.blocks,
                network.attention,
                network.groups,
                network.classes,
                n = network.pixel_unshuffle,
            ),
        ),
        (
            "diffusion",
            format!(
                "T = {}, {} schedule; the network predicts {}",
                metadata.timesteps,
                metadata.schedule,
                match metadata.prediction {
                    Prediction::Noise => "the noise",
                    Prediction::Velocity => "v",
                }
            ),
        ),
        (
            "training",
            format!(
                "epoch {}, {} images seen",
                metadata.epoch, metadata.images_seen
            ),
        ),
        ("average", format!("decay {}", metadata.ema_decay)),
        ("data set", metadata.dataset.clone()),
        ("data sha256", metadata.dataset_sha256.clone()),
        ("source commit", metadata.source_commit.clone()),
    ];
    for (name, value) in lines {
        say(format_args!("{name:<14} {value}"))?;
    }
    Ok(())
}
