//! The repository's chores: `cargo xtask serve | build | test | bench`.
//!
//! | what | where |
//! | --- | --- |
//! | which tools are needed, and where each may come from | `setup.rs` |
//! | how a tool is fetched, one function a source | `source.rs` |
//! | the folder they go to, and how programs are run with it | `toolbox.rs` |
//! | versions: what a program says of itself, what `Cargo.lock` wants | `version.rs` |
//! | the release page, its build id, its weight in bytes | `page.rs` |
//! | format, clippy, docs, tests, benches | `checks.rs` |
//!
//! A person who has cloned the repository has Rust and a browser; whatever else the two commands
//! of the README need, they get themselves, into a cache folder of the project, saying so.

mod checks;
mod page;
mod setup;
mod source;
mod toolbox;
mod version;

use std::{ffi::OsStr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use toolbox::Toolbox;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The repository's chores", version)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Set up, build the page, serve it on this machine and rebuild it when a source changes
    Serve {
        /// The first port to try
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Set up and build the release page into dist/, ready for any static web server
    Build {
        /// Where the page will live; the default works at every address, sub-paths included
        #[arg(long, default_value = "./")]
        public_url: String,
    },
    /// Set up and run every check: format, clippy, docs, tests, the page in real browsers
    Test,
    /// Set up and time our operations against Burn's, our engines against onnxruntime-web
    Bench {
        /// Let the browser compute on this machine's own graphics card
        #[arg(long)]
        hardware: bool,
        /// Let Firefox compute, on the adapter that it finds
        #[arg(long, conflicts_with = "hardware")]
        firefox: bool,
        /// Let WebKit compute, on the CPU: it has no WebGPU on Linux, and is driven nowhere else
        #[arg(long, conflicts_with_all = ["hardware", "firefox"])]
        webkit: bool,
        /// Steps of each measurement; 1000 is a picture
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        steps: u32,
        /// Measure nothing: leave what measures in the browser in this folder, for a machine without Rust
        #[arg(long, value_name = "FOLDER", conflicts_with_all = ["hardware", "firefox", "webkit", "steps", "word"])]
        pack: Option<PathBuf>,
        /// Only what the browser measures under a title with this word: `ours`, `onnxruntime`,
        /// `kernels` (where the time of a step goes), `picture` (whether it is the trainer's), `visit`
        word: Option<String>,
    },
    /// The last step of Trunk's build (called by Trunk): optimise the engines, set the build id
    #[command(hide = true)]
    Finish,
}

/// Why a chore could not be done, in a sentence for the person who asked for it.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// A tool that no source could provide.
    #[error(
        "{what} is needed and could not be set up. This command would do it:\n\n    {command}\n"
    )]
    Missing { what: String, command: String },
    /// A program that could not be started at all.
    #[error("`{program}` could not be started: {reason}")]
    NotStarted {
        program: String,
        reason: std::io::Error,
    },
    /// A program that ran and failed; it has already said why.
    #[error("`{command}` failed ({status})")]
    Failed { command: String, status: String },
    /// A file or folder that could not be read or written.
    #[error("{path}: {reason}", path = path.display())]
    File {
        path: PathBuf,
        reason: std::io::Error,
    },
    /// Something in the repository is not as expected.
    #[error("{0}")]
    Unexpected(String),
}

impl Failure {
    /// For `map_err`: names the path an input or output error was about.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |reason| Self::File { path, reason }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nerror: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<(), Failure> {
    let mut toolbox = Toolbox::new()?;
    match chore {
        Chore::Serve { port } => {
            setup::page(&mut toolbox)?;
            page::build(&toolbox, OsStr::new("./"))?;
            page::serve(&toolbox, port)
        }
        Chore::Build { public_url } => {
            setup::page(&mut toolbox)?;
            page::build(&toolbox, OsStr::new(&public_url))?;
            page::print_sizes(&toolbox)
        }
        Chore::Test => checks::test(&mut toolbox),
        Chore::Bench {
            hardware,
            firefox,
            webkit,
            steps,
            pack,
            word,
        } => {
            if let Some(folder) = pack {
                return checks::pack(&mut toolbox, &folder);
            }
            let place = match (hardware, firefox, webkit) {
                (true, ..) => "hardware",
                (_, true, _) => "firefox",
                (.., true) => "webkit",
                _ => "software",
            };
            checks::bench(&mut toolbox, place, steps, word.as_deref())
        }
        Chore::Finish => page::finish(&toolbox),
    }
}
