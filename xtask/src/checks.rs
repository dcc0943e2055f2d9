//! Everything that must hold, in the order in which it is quickest to learn that it does not.
//!
//! Burn is large, and each set of features is another Burn to compile. So there is one native set
//! for all that runs (tests and benches), one for whatever is only checked (clippy and the docs: with
//! CUDA and Vulkan, which contains the rest), and for the browser what the page is built from. Nothing
//! is built a second time for the tests of the page: they drive the page of `dist/`. Only what is
//! measured is compiled as it is released: in the profile `checks`, most of Burn is not optimised.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    Failure, page, setup,
    toolbox::{Toolbox, describe, not_started, run},
};

/// All crates that compile natively. The engine is for the browser alone; of the page, what touches
/// no browser is tested here.
const NATIVE: [&str; 3] = ["--workspace", "--exclude", "engine"];

/// How they are compiled to be checked: sooner, see `Cargo.toml`.
const CHECKS: [&str; 2] = ["--profile", "checks"];

/// The devices the trainer knows, for what is checked and not run.
const DEVICES: [&str; 2] = ["--features", "trainer/cuda,fashion-ddpm-tests/gpu"];

/// What runs: with a trainer that knows GPUs in the one language that software speaks as well.
const RUNS: [&str; 3] = [
    "--no-default-features",
    "--features",
    "fashion-ddpm-tests/gpu",
];

/// The engines, both at once, and their kernels: the same Burn as the page's.
const ENGINES: [&str; 10] = [
    "--profile",
    "web",
    "--target",
    setup::WASM,
    "--package",
    "engine",
    "--package",
    "kernels",
    "--features",
    "engine/cpu,engine/webgpu",
];

/// The example of `kernels` that compares each with its plain twin.
const TWINS: &str = "twins";

const DENY_WARNINGS: [&str; 3] = ["--", "-D", "warnings"];

/// Sets up, and runs every check; prints the seconds each took and the tests' closing lines.
///
/// # Errors
/// The first failure; what had been done by then is printed all the same.
pub fn test(toolbox: &mut Toolbox) -> Result<(), Failure> {
    let mut report = Report::default();
    let outcome = run_all(toolbox, &mut report);
    report.print();
    outcome
}

fn run_all(toolbox: &mut Toolbox, report: &mut Report) -> Result<(), Failure> {
    let browsers = report.phase("set-up", || {
        setup::page(toolbox)?;
        setup::browsers(toolbox)
    })?;
    let toolbox = &*toolbox;

    report.phase("format", || {
        run(cargo(toolbox, "fmt").args(["--all", "--check"]))
    })?;
    report.phase("clippy", || {
        run(without_llvm(&mut cargo(toolbox, "clippy"))
            .args(CHECKS)
            .args(NATIVE)
            .args(DEVICES)
            .arg("--all-targets")
            .args(DENY_WARNINGS))
    })?;
    report.phase("clippy for the browser", || {
        run(browser(cargo(toolbox, "clippy"), toolbox)
            .args(["--package", "app", "--lib", "--bins", "--examples"])
            .args(DENY_WARNINGS))
    })?;
    report.phase("docs", || {
        let mut native = cargo(toolbox, "doc");
        let mut web = browser(cargo(toolbox, "doc"), toolbox);
        without_llvm(&mut native)
            .args(CHECKS)
            .args(NATIVE)
            .args(DEVICES);
        web.args(["--package", "app"]);
        for doc in [&mut native, &mut web] {
            run(doc.arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings"))?;
        }
        Ok(())
    })?;
    report.phase("page", || page::build(toolbox, OsStr::new("./")))?;
    let twins = report.phase("kernels for the browser", || twins(toolbox))?;

    let mut tests = cargo(toolbox, "test");
    tests
        .args(CHECKS)
        .args(NATIVE)
        .args(RUNS)
        .env("FASHION_DDPM_DIST", page::dist(toolbox))
        .env("FASHION_DDPM_WASM_DIR", page::modules(toolbox))
        .env("FASHION_DDPM_TWINS", twins)
        .env("FASHION_DDPM_BENCH", measurer(toolbox, CHECKS[1]))
        .envs(browsers);
    // Compiling is most of the first run and nothing of the next: a figure of its own.
    let mut compile = cargo(toolbox, "test");
    compile.args(CHECKS).args(NATIVE).args(RUNS).arg("--no-run");
    report.phase("compiling the tests", || run(&mut compile))?;
    let mut closing_lines = Vec::new();
    let outcome = report.phase("tests", || {
        echo(&mut tests, |line| {
            if line.starts_with("test result:") {
                closing_lines.push(line.to_owned());
            }
        })
    });
    report.closing_lines = closing_lines;
    outcome
}

/// Sets up, times our own operations against Burn's and our engines against onnxruntime-web, and
/// says where the figures are. The browser is Chromium, on its `software` or the machine's own
/// `hardware`, or else `firefox` or `webkit`. With a word, only what the browser measures under a title
/// that contains it.
///
/// # Errors
/// [`Failure::Failed`] where a bench fails to compile or to run.
pub fn bench(
    toolbox: &mut Toolbox,
    place: &str,
    steps: u32,
    word: Option<&str>,
) -> Result<(), Failure> {
    let browsers = setup::browsers(toolbox)?;
    let (engines, onnxruntime_web) = engines(toolbox)?;
    let toolbox = &*toolbox;

    let mut figures = String::new();
    let mut keep = |line: &str| {
        figures.push_str(line);
        figures.push('\n');
    };
    let mut benches = cargo(toolbox, "bench");
    benches.args(NATIVE).args(RUNS).args(["--bench", "*"]);
    if word.is_none() {
        echo(&mut benches, &mut keep)?;
    }
    let mut engines = toolbox.command(engines);
    engines
        .arg(page::dist(toolbox))
        .arg(onnxruntime_web)
        .arg(place)
        .arg(steps.to_string())
        .args(word)
        .envs(browsers);
    echo(&mut engines, &mut keep)?;
    if word.is_none() {
        page::print_sizes(toolbox)?;
    }
    let file = toolbox.target.join("bench.txt");
    fs::write(&file, figures).map_err(Failure::file(&file))?;
    println!("\nThese figures are also in {}", file.display());
    Ok(())
}

/// Leaves in a folder what [`bench()`] measures in the browser, for a machine of this kind that may have
/// neither Rust nor a network.
///
/// # Errors
/// [`Failure`] where something cannot be built or written.
pub fn pack(toolbox: &mut Toolbox, folder: &Path) -> Result<(), Failure> {
    let (engines, onnxruntime_web) = engines(toolbox)?;
    let script = toolbox.root.join("xtask/src/bench.sh");
    copy(&script, &folder.join("bench.sh"))?;
    copy(&engines, &folder.join("bench"))?;
    copy_folder(&page::dist(toolbox), &folder.join("page"), |_| true)?;
    let used = |file: &Path| {
        let kind = file.extension();
        kind.is_some_and(|kind| kind == "mjs" || kind == "wasm")
    };
    copy_folder(&onnxruntime_web, &folder.join("onnxruntime-web"), used)?;
    println!(
        "\n{} is to be started there.",
        folder.join("bench.sh").display()
    );
    Ok(())
}

/// Builds the page and the program that measures it; that one, and the folder of onnxruntime-web.
fn engines(toolbox: &mut Toolbox) -> Result<(PathBuf, PathBuf), Failure> {
    setup::page(toolbox)?;
    let onnxruntime_web = setup::onnxruntime_web(toolbox)?;
    page::build(toolbox, OsStr::new("./"))?;
    let mut compile = cargo(toolbox, "build");
    compile
        .arg("--release")
        .args(NATIVE)
        .args(RUNS)
        .args(["--example", "bench"]);
    run(&mut compile)?;
    Ok((measurer(toolbox, "release"), onnxruntime_web))
}

/// The program that measures the page, an example of the tests and built with them in some profile.
fn measurer(toolbox: &Toolbox, profile: &str) -> PathBuf {
    let program = format!("bench{}", env::consts::EXE_SUFFIX);
    toolbox.target.join(profile).join("examples").join(program)
}

/// Copies those files of a folder that are wanted.
fn copy_folder(from: &Path, to: &Path, wanted: impl Fn(&Path) -> bool) -> Result<(), Failure> {
    for file in page::files(from)?.iter().filter(|file| wanted(file)) {
        copy(file, &to.join(file.strip_prefix(from).unwrap_or(file)))?;
    }
    Ok(())
}

/// Copies a file, with its permissions.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(Failure::file(folder))?;
    }
    fs::copy(from, to).map_err(Failure::file(to))?;
    Ok(())
}

fn cargo(toolbox: &Toolbox, subcommand: &str) -> Command {
    let mut command = toolbox.command("cargo");
    command.arg(subcommand);
    command
}

/// Burn's CUDA brings a crate whose build script downloads an LLVM, which only linking needs. It
/// leaves that out on docs.rs, where nothing is linked; nor is it here.
fn without_llvm(command: &mut Command) -> &mut Command {
    command.env("DOCS_RS", "1")
}

/// A command about the engines and their kernels.
fn browser(mut command: Command, toolbox: &Toolbox) -> Command {
    command
        .args(ENGINES)
        .envs(toolbox.wasm_environment.iter().copied());
    command
}

/// Builds the comparison of our kernels with their twins for the browser; the folder it is in.
fn twins(toolbox: &Toolbox) -> Result<PathBuf, Failure> {
    run(browser(cargo(toolbox, "build"), toolbox).args(["--example", TWINS]))?;
    let examples = page::modules(toolbox).join("examples");
    let folder = examples.join(TWINS);
    run(toolbox
        .command("wasm-bindgen")
        .args(["--target", "web", "--no-typescript", "--out-dir"])
        .arg(&folder)
        .arg(examples.join(TWINS).with_extension("wasm")))?;
    Ok(folder)
}

/// Runs a command, showing what it prints and handing on each line.
fn echo(command: &mut Command, mut line: impl FnMut(&str)) -> Result<(), Failure> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(not_started(command))?;
    if let Some(output) = child.stdout.take() {
        for bytes in BufReader::new(output).split(b'\n') {
            let bytes = bytes.map_err(Failure::file("stdout"))?;
            let text = String::from_utf8_lossy(&bytes);
            println!("{text}");
            line(&text);
        }
    }
    let status = child.wait().map_err(not_started(command))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Failed {
        command: describe(command),
        status: status.to_string(),
    })
}

/// What took how long.
#[derive(Default)]
struct Report {
    phases: Vec<(&'static str, Duration, bool)>,
    closing_lines: Vec<String>,
}

impl Report {
    fn phase<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        println!("\n=== {name}");
        let start = Instant::now();
        let outcome = work();
        self.phases.push((name, start.elapsed(), outcome.is_ok()));
        outcome
    }

    fn print(&self) {
        println!("\n=== seconds");
        for (name, duration, passed) in &self.phases {
            let failed = if *passed { "" } else { "   FAILED" };
            println!("{:>8.1}  {name}{failed}", duration.as_secs_f64());
        }
        let total: Duration = self.phases.iter().map(|(_, duration, _)| *duration).sum();
        println!("{:>8.1}  in all", total.as_secs_f64());
        if self.closing_lines.is_empty() {
            return;
        }
        println!("\n=== tests");
        for line in self
            .closing_lines
            .iter()
            .filter(|line| counts(line) != [0; 3])
        {
            println!("{line}");
        }
        let [passed, failed, ignored] = self
            .closing_lines
            .iter()
            .map(|line| counts(line))
            .fold([0; 3], |sum, line| [0, 1, 2].map(|i| sum[i] + line[i]));
        println!("{passed} passed, {failed} failed, {ignored} ignored");
    }
}

/// Passed, failed and ignored in `test result: ok. 5 passed; 0 failed; 1 ignored; ...`.
fn counts(line: &str) -> [u32; 3] {
    let words: Vec<_> = line
        .split([' ', ';'])
        .filter(|word| !word.is_empty())
        .collect();
    ["passed", "failed", "ignored"].map(|kind| {
        let after = words.iter().position(|word| *word == kind);
        after
            .and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok())
            .unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered \
                    out; finished in 0.01s";
        assert_eq!(counts(line), [12, 3, 1]);
        assert_eq!(counts("test result: ok."), [0, 0, 0]);
        assert_eq!(counts("passed"), [0, 0, 0]);
    }

    #[test]
    fn a_failing_phase_is_reported_with_those_before_it() {
        let mut report = Report::default();
        assert!(report.phase("one", || Ok(())).is_ok());
        let failure = Failure::Unexpected("broken".into());
        assert!(report.phase("two", || Err::<(), _>(failure)).is_err());
        let names: Vec<_> = report.phases.iter().map(|p| (p.0, p.2)).collect();
        assert_eq!(names, [("one", true), ("two", false)]);
    }

    #[cfg(unix)]
    #[test]
    fn what_a_failing_program_printed_is_handed_on() {
        let mut lines = Vec::new();
        let mut program = Command::new("sh");
        program.args(["-c", "echo one; printf 'tw\\377'; exit 1"]);
        let outcome = echo(&mut program, |line| lines.push(line.to_owned()));
        assert!(matches!(outcome, Err(Failure::Failed { .. })));
        assert_eq!(lines, ["one", "tw\u{fffd}"]);
    }
}
