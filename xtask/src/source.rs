//! Where a tool may come from, one function a kind of source.
//!
//! Sources are tried in order, the ordinary one first. One that cannot be reached must say so in
//! seconds: a closed network is no reason to wait for minutes. Downloads are left to `curl` and
//! `tar`, which Windows, macOS and Linux bring along, rather than to a TLS stack that everybody
//! would have to compile before the first word appears.

use std::{
    env, fs,
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Failure,
    toolbox::{Toolbox, read, run},
};

/// A place a tool may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `rustup target add` for the toolchain in use.
    Rustup { target: &'static str },
    /// A prebuilt release from its project's GitHub page, the same that Trunk would download.
    Release {
        url: String,
        /// The folder below `tools` it is unpacked to, named after the version.
        folder: String,
        /// Where the program lies in it.
        programs: &'static str,
        /// Whether everything in the archive lies in one folder, named after the release.
        nested: bool,
    },
    /// `cargo install` from crates.io.
    Crate {
        name: &'static str,
        version: String,
        /// Whether with the dependencies its authors tested.
        locked: bool,
        /// About how long on two cores.
        minutes: &'static str,
    },
    /// `npm install`.
    Npm {
        name: &'static str,
        version: &'static str,
    },
    /// The builds that browser vendors publish for testing, through npm's `@puppeteer/browsers`;
    /// each name as `chrome@stable`.
    Browsers { names: Vec<String> },
    /// Packages of Debian.
    Debian { packages: &'static [&'static str] },
    /// Packages that Debian's descendants have as well, under the same names.
    DebianLike { packages: &'static [&'static str] },
    /// Debian's Rust toolchain for the web, which comes with the sources of the standard library;
    /// known to rustup as [`DEBIAN_TOOLCHAIN`] afterwards.
    DebianToolchain,
}

/// rustup's name for the toolchain of [`Source::DebianToolchain`].
pub const DEBIAN_TOOLCHAIN: &str = "debian";

/// What [`Source::DebianToolchain`] installs.
pub const DEBIAN_TOOLCHAIN_PACKAGES: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "rust-web-llvm",
    "lld-22",
    "rust-web-clippy",
];

impl Source {
    /// What is about to happen and about how long it takes; `None` where this machine cannot do
    /// it at all.
    fn announcement(&self, toolbox: &Toolbox) -> Option<String> {
        let has = |program| toolbox.find(program).is_some();
        match self {
            Self::Rustup { .. } => {
                has("rustup").then(|| "from rustup's server: about 20 seconds".to_owned())
            }
            Self::Release { url, .. } => {
                (has("curl") && has("tar")).then(|| format!("from {url}: about 10 seconds"))
            }
            Self::Crate {
                name,
                version,
                minutes,
                ..
            } => Some(format!(
                "from crates.io, `{name}` {version}, compiled here: about {minutes} minutes"
            )),
            Self::Npm { name, version } => {
                has("npm").then(|| format!("from npm, `{name}` {version}: about 10 seconds"))
            }
            Self::Browsers { names } => has("npx").then(|| {
                let names = names.join(", ");
                format!("from their makers by npm's `@puppeteer/browsers`, {names}: about a minute")
            }),
            Self::Debian { packages } | Self::DebianLike { packages } => {
                let served = match self {
                    Self::Debian { .. } => is_debian(),
                    _ => is_debian_like(),
                };
                let packages = packages.join(" ");
                served.then(|| format!("from Debian's packages, {packages}: about 2 minutes"))
            }
            Self::DebianToolchain => (is_debian() && has("rustup")).then(|| {
                let packages = DEBIAN_TOOLCHAIN_PACKAGES.join(" ");
                format!("from Debian's packages, {packages}: about 3 minutes")
            }),
        }
    }

    /// The folder whose programs this source provides.
    fn programs(&self, toolbox: &Toolbox) -> Option<PathBuf> {
        match self {
            Self::Release {
                folder, programs, ..
            } => Some(toolbox.tools.join(folder).join(programs)),
            Self::Crate { .. } => Some(toolbox.tools.join("cargo").join("bin")),
            Self::Npm { name, .. } => {
                Some(toolbox.tools.join(name).join("node_modules").join(".bin"))
            }
            _ => None,
        }
    }

    fn fetch(&self, toolbox: &Toolbox) -> Result<(), Failure> {
        match self {
            Self::Rustup { target } => rustup(toolbox, target),
            Self::Release {
                url,
                folder,
                nested,
                ..
            } => release(toolbox, url, folder, *nested),
            Self::Crate {
                name,
                version,
                locked,
                ..
            } => crates_io(toolbox, name, version, *locked),
            Self::Npm { name, version } => npm(toolbox, name, version),
            Self::Browsers { names } => names.iter().try_for_each(|name| browser(toolbox, name)),
            Self::Debian { packages } | Self::DebianLike { packages } => debian(toolbox, packages),
            Self::DebianToolchain => {
                debian(toolbox, DEBIAN_TOOLCHAIN_PACKAGES)?;
                run(toolbox
                    .command("rustup")
                    .args(["toolchain", "link", DEBIAN_TOOLCHAIN, "/usr"]))
            }
        }
    }
}

/// A tool that is needed.
pub struct Need<'a> {
    /// Its name, with what version is asked for.
    pub what: String,
    /// Where it may come from, the ordinary place first.
    pub sources: Vec<Source>,
    /// The command that a person could give instead.
    pub by_hand: String,
    /// Whether a fit one is there now; `Err` says in a word what was found instead.
    pub check: &'a dyn Fn(&Toolbox) -> Result<(), String>,
}

/// Makes sure of a tool: nothing happens where a fit one is there, else the sources are tried.
///
/// # Errors
/// [`Failure::Missing`] where no source serves.
pub fn obtain(toolbox: &mut Toolbox, need: &Need) -> Result<(), Failure> {
    for source in &need.sources {
        if let Some(folder) = source.programs(toolbox) {
            toolbox.add_to_path(folder);
        }
    }
    let Err(found) = (need.check)(toolbox) else {
        return Ok(());
    };
    println!("set-up: {} ({found})", need.what);
    for source in &need.sources {
        let Some(announcement) = source.announcement(toolbox) else {
            continue;
        };
        println!("        {announcement}");
        let outcome = source
            .fetch(toolbox)
            .map_err(|failure| failure.to_string())
            .and_then(|()| (need.check)(toolbox));
        match outcome {
            Ok(()) => return Ok(()),
            Err(reason) => println!("        no, {reason}"),
        }
    }
    Err(Failure::Missing {
        what: need.what.clone(),
        command: need.by_hand.clone(),
    })
}

fn rustup(toolbox: &Toolbox, target: &str) -> Result<(), Failure> {
    // rustup itself would retry an unreachable server for minutes.
    let server = env::var("RUSTUP_DIST_SERVER")
        .unwrap_or_else(|_| "https://static.rust-lang.org".to_owned());
    if toolbox.find("curl").is_some() {
        let nowhere = if cfg!(windows) { "NUL" } else { "/dev/null" };
        run(curl(toolbox).args(["--head", "--output", nowhere, &server]))
            .map_err(|_| Failure::Unexpected("it could not be reached".into()))?;
    }
    run(toolbox.command("rustup").args(["target", "add", target]))
}

fn curl(toolbox: &Toolbox) -> Command {
    let mut command = toolbox.command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--location",
        "--connect-timeout",
        "5",
    ]);
    // Ten seconds without ten kilobytes a second: somebody swallows the packets.
    command.args(["--speed-limit", "10000", "--speed-time", "10"]);
    command
}

fn release(toolbox: &Toolbox, url: &str, folder: &str, nested: bool) -> Result<(), Failure> {
    let scratch = toolbox.scratch(folder)?;
    let unpacked = unpack(toolbox, url, &scratch, nested);
    if unpacked.is_err() {
        fs::remove_dir_all(&scratch).map_err(Failure::file(&scratch))?;
        return unpacked;
    }
    let folder = toolbox.tools.join(folder);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Failure::file(&folder))?;
    }
    fs::rename(&scratch, &folder).map_err(Failure::file(folder))
}

fn unpack(toolbox: &Toolbox, url: &str, scratch: &Path, nested: bool) -> Result<(), Failure> {
    // Relative names: a GNU tar on Windows takes `C:\...` for a host.
    run(curl(toolbox)
        .current_dir(scratch)
        .args(["--fail", "--output", "archive", url]))
    .map_err(|_| Failure::Unexpected("it could not be downloaded".into()))?;
    let mut tar = toolbox.command("tar");
    tar.current_dir(scratch).args(["-xf", "archive"]);
    if nested {
        tar.arg("--strip-components=1");
    }
    run(&mut tar)?;
    let archive = scratch.join("archive");
    fs::remove_file(&archive).map_err(Failure::file(archive))
}

fn crates_io(toolbox: &Toolbox, name: &str, version: &str, locked: bool) -> Result<(), Failure> {
    let build = toolbox.scratch(&format!("{name}-build"))?;
    let mut cargo = toolbox.command("cargo");
    // The repository's own settings must not leak into somebody else's program.
    cargo
        .current_dir(&toolbox.tools)
        .env("CARGO_NET_RETRY", "1")
        .env("CARGO_HTTP_TIMEOUT", "15")
        // They are used for seconds, and their makers' settings compile them for minutes longer.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .args(["install", "--quiet", "--force", name, "--version", version])
        .arg("--root")
        .arg(toolbox.tools.join("cargo"))
        .arg("--target-dir")
        .arg(&build);
    if locked {
        cargo.arg("--locked");
    }
    let outcome = run(&mut cargo);
    // Hundreds of megabytes that nobody needs again.
    fs::remove_dir_all(&build).map_err(Failure::file(build))?;
    outcome
}

fn npm(toolbox: &Toolbox, name: &str, version: &str) -> Result<(), Failure> {
    let folder = toolbox.tools.join(name);
    fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
    run(toolbox
        .command("npm")
        .current_dir(&folder)
        .stdout(Stdio::null())
        .args(["install", "--no-audit", "--no-fund", "--no-update-notifier"])
        .arg("--loglevel=error")
        .args(["--fetch-timeout=20000", "--fetch-retries=1", "--prefix"])
        .arg(&folder)
        .arg(format!("{name}@{version}")))
}

/// The file that remembers where a browser or driver was put.
pub fn browser_note(toolbox: &Toolbox, name: &str) -> PathBuf {
    toolbox.tools.join("browsers").join(format!("{name}.path"))
}

fn browser(toolbox: &Toolbox, name: &str) -> Result<(), Failure> {
    let folder = toolbox.tools.join("browsers");
    fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
    let printed = read(
        toolbox
            .command("npx")
            .current_dir(&folder)
            .args(["--yes", "@puppeteer/browsers@2", "install", name, "--path"])
            .arg(&folder),
    )
    .map_err(|_| Failure::Unexpected("it could not be downloaded".into()))?;
    let path = installed_browser(&printed).ok_or_else(|| {
        Failure::Unexpected(format!(
            "`@puppeteer/browsers install {name}` was expected to print where it put it, and \
             printed: {printed}"
        ))
    })?;
    let note = browser_note(toolbox, name.split('@').next().unwrap_or(name));
    fs::write(&note, path).map_err(Failure::file(note))
}

/// The path in `chrome@156.0.8078.79 /where/it is/chrome`, the last line printed.
fn installed_browser(printed: &str) -> Option<&str> {
    let (_, path) = printed.trim().lines().last()?.split_once(' ')?;
    (!path.is_empty()).then_some(path)
}

/// Whether Debian's own packages are to be had: not Ubuntu's, whose browsers are stubs for another
/// packaging system.
pub fn is_debian() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| names_debian(&text, &["ID"]))
}

/// Whether the system is Debian or descends from it.
pub fn is_debian_like() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| names_debian(&text, &["ID", "ID_LIKE"]))
}

/// Whether one of these lines of the file names Debian, among others or alone.
fn names_debian(os_release: &str, keys: &[&str]) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| keys.contains(key))
        .any(|(_, names)| names.trim_matches('"').split(' ').any(|n| n == "debian"))
}

/// The command that installs these packages.
pub fn debian_command(packages: &[&str]) -> String {
    format!("sudo apt-get install -y {}", packages.join(" "))
}

#[derive(Debug, PartialEq, Eq)]
enum Consent {
    Given,
    Ask,
    Impossible,
}

/// Packages change the whole machine. A CI job's machine is its own; a person is asked; where
/// there is nobody to ask, nothing is installed. `may` says that it takes no password.
fn consent(may: bool, ci: bool, terminal: bool) -> Consent {
    match (may && ci, terminal) {
        (true, _) => Consent::Given,
        (false, true) => Consent::Ask,
        (false, false) => Consent::Impossible,
    }
}

fn debian(toolbox: &Toolbox, packages: &[&str]) -> Result<(), Failure> {
    let root = read(toolbox.command("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    let ci = env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "false");
    let may = root || read(toolbox.command("sudo").args(["-n", "true"])).is_ok();
    match consent(may, ci, io::stdin().is_terminal()) {
        Consent::Given => {}
        Consent::Ask => {
            print!("        install these packages on this machine? [y/N] ");
            io::stdout().flush().map_err(Failure::file("stdout"))?;
            let mut answer = String::new();
            io::stdin()
                .lock()
                .read_line(&mut answer)
                .map_err(Failure::file("stdin"))?;
            if !matches!(answer.trim(), "y" | "Y" | "yes") {
                return Err(Failure::Unexpected("not wanted".into()));
            }
        }
        Consent::Impossible => {
            return Err(Failure::Unexpected(
                "not without being asked to, and there is no terminal to ask on".into(),
            ));
        }
    }
    let apt = |arguments: &[&str]| {
        // `sudo` passes no variables on.
        let mut command = toolbox.command(if root { "env" } else { "sudo" });
        if !root {
            command.arg("env");
        }
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .stdout(Stdio::null())
            .args(["-q", "-y", "-o", "Acquire::Retries=1"])
            .args(["-o", "Acquire::http::Timeout=15"])
            .args(arguments);
        command
    };
    run(&mut apt(&["update"]))?;
    let mut install = apt(&["install", "--no-install-recommends"]);
    run(install.args(packages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_installed_on_the_machine_without_a_yes() {
        assert_eq!(consent(true, true, false), Consent::Given);
        assert_eq!(consent(true, false, true), Consent::Ask);
        assert_eq!(consent(false, true, true), Consent::Ask);
        assert_eq!(consent(false, false, true), Consent::Ask);
        assert_eq!(consent(true, false, false), Consent::Impossible);
        assert_eq!(consent(false, true, false), Consent::Impossible);
    }

    #[test]
    fn debian_is_told_from_its_descendants() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n";
        let mint = "NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
        let itself = |text| names_debian(text, &["ID"]);
        assert!(itself(debian) && itself("ID=\"debian\"\n"));
        assert!(!itself("ID=ubuntu\nID_LIKE=debian\n") && !itself(mint) && !itself(""));
        let like = |text| names_debian(text, &["ID", "ID_LIKE"]);
        assert!(like(debian) && like("ID=ubuntu\nID_LIKE=debian\n") && like(mint));
        assert!(!like("ID=fedora\nNAME=debian\n") && !like("ID_LIKE=debianish\n"));
    }

    #[test]
    fn a_browsers_path_may_have_spaces() {
        assert_eq!(
            installed_browser("downloading\nchrome@1.2 /Google Chrome for Testing.app/chrome\n"),
            Some("/Google Chrome for Testing.app/chrome")
        );
        assert_eq!(installed_browser(""), None);
        assert_eq!(installed_browser("chrome@1.2"), None);
    }
}
