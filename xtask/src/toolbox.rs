//! The folder set-up installs into, and how programs are run with it.
//!
//! Nothing goes into the user's own `~/.cargo/bin` or npm's global folder: two checkouts may want
//! two versions, and what a repository put somewhere it should also be possible to delete. So the
//! tools lie in one folder, `tools`, beside the build output where `CARGO_TARGET_DIR` names a
//! place for that (a CI machine then keeps both or neither), else in the user's cache folder, and
//! come first on the `PATH` of every program started here, and of no other.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Failure, version::Version};

/// Where things are, and the environment programs run in.
pub struct Toolbox {
    /// The repository.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// What set-up has installed, each in a folder of its own.
    pub tools: PathBuf,
    /// For builds for the browser only: how to use a toolchain without a ready-made standard
    /// library, where rustup's server could not be reached.
    pub wasm_environment: Vec<(&'static str, &'static str)>,
    /// Folders of tools, in front of the user's own `PATH`.
    path: Vec<PathBuf>,
}

/// Cargo's target directory, wherever a person has said that it is: in the environment, or in a
/// configuration of cargo's.
fn target_directory(root: &Path) -> Result<PathBuf, Failure> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"));
    let output = command.output().map_err(not_started(&command))?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match metadata["target_directory"].as_str() {
        Some(directory) => Ok(directory.into()),
        None => Err(Failure::Unexpected(format!(
            "`{}` was expected to name the target directory: {}",
            describe(&command),
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

impl Toolbox {
    /// Finds the repository and its folders.
    ///
    /// # Errors
    /// [`Failure::Unexpected`] where the system has no cache folder for this user.
    pub fn new() -> Result<Self, Failure> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest)
            .parent()
            .ok_or_else(|| Failure::Unexpected("xtask must lie in the repository".into()))?
            .to_owned();
        let target = target_directory(&root)?;
        let tools = match env::var_os("CARGO_TARGET_DIR").filter(|d| !d.is_empty()) {
            Some(_) => target.join("tools"),
            None => {
                let cache = dirs::cache_dir().ok_or_else(|| {
                    Failure::Unexpected(
                        "this user has no cache folder; set CARGO_TARGET_DIR to a folder that \
                         build output and tools may go to"
                            .into(),
                    )
                })?;
                cache.join("fashion-ddpm").join("tools")
            }
        };
        Ok(Self {
            root,
            target,
            tools,
            wasm_environment: Vec::new(),
            path: Vec::new(),
        })
    }

    /// Puts a folder on the `PATH` of what is run from now on, after those put there before and
    /// ahead of the user's.
    pub fn add_to_path(&mut self, folder: PathBuf) {
        if !self.path.contains(&folder) {
            self.path.push(folder);
        }
    }

    fn search_path(&self) -> OsString {
        let own = env::var_os("PATH").unwrap_or_default();
        let folders = self.path.iter().cloned().chain(env::split_paths(&own));
        // Only a folder with a separator in its name cannot be joined; those of ours have none
        // unless the user's cache folder has, and then the tools on the user's PATH must do.
        env::join_paths(folders).unwrap_or(own)
    }

    /// The program of this name that would be run.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        find_program(program, &self.search_path())
    }

    /// A command run in the repository, with the tools on its `PATH`.
    ///
    /// What cargo told this program about this program is taken back: build scripts that look at
    /// such variables would otherwise see another build, and run again.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let program = program.as_ref();
        // Windows does not look for `npm.cmd` when asked for `npm`.
        let found = program.to_str().and_then(|name| self.find(name));
        let mut command = Command::new(found.as_deref().map_or(program, Path::as_os_str));
        command
            .current_dir(&self.root)
            // Relative, it would be another folder from there.
            .env("CARGO_TARGET_DIR", &self.target)
            .env("PATH", self.search_path());
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| {
                name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
            }) {
                command.env_remove(name);
            }
        }
        // Trunk understands `true` here, not the customary `1`.
        if env::var_os("NO_COLOR").is_some() {
            command.env("NO_COLOR", "true");
        }
        command
    }

    /// What a program prints when asked for its version.
    pub fn version(&self, program: impl AsRef<OsStr>) -> Option<Version> {
        let output = self
            .command(program)
            .arg("--version")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| Version::find(&String::from_utf8_lossy(&output.stdout)))?
    }

    /// An empty folder for half-finished things, under `tools`.
    ///
    /// # Errors
    /// [`Failure::File`] where it cannot be made.
    pub fn scratch(&self, name: &str) -> Result<PathBuf, Failure> {
        let folder = self.tools.join(format!("{name}.partial"));
        match fs::remove_dir_all(&folder) {
            Err(reason) if reason.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::file(&folder)(reason));
            }
            _ => {}
        }
        fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
        Ok(folder)
    }
}

/// Runs a command to its end, its output being the user's.
///
/// # Errors
/// [`Failure::NotStarted`] or [`Failure::Failed`].
pub fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command.status().map_err(not_started(command))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Failed {
        command: describe(command),
        status: status.to_string(),
    })
}

/// Runs a command for what it prints on stdout; what it complains of is dropped.
///
/// # Errors
/// [`Failure::NotStarted`] or [`Failure::Failed`].
pub fn read(command: &mut Command) -> Result<String, Failure> {
    let output = command.output().map_err(not_started(command))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Failure::Failed {
        command: describe(command),
        status: output.status.to_string(),
    })
}

/// For `map_err`: names the program that did not start.
pub fn not_started(command: &Command) -> impl FnOnce(std::io::Error) -> Failure + use<> {
    let program = command.get_program().to_string_lossy().into_owned();
    move |reason| Failure::NotStarted { program, reason }
}

/// A command as one would type it.
pub fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program
        .file_stem()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// The first file on `path` that could be this program; a path in `program` stands for itself.
fn find_program(program: &str, path: &OsStr) -> Option<PathBuf> {
    let suffixes: &[&str] = if cfg!(windows) {
        &[".exe", ".cmd", ".bat", ""]
    } else {
        &[""]
    };
    env::split_paths(path)
        .flat_map(|folder| {
            suffixes
                .iter()
                .map(move |suffix| folder.join(format!("{program}{suffix}")))
        })
        .find(|file| is_executable(file))
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(file: &Path) -> bool {
    file.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_first_executable_on_the_path_is_the_program() {
        use std::os::unix::fs::PermissionsExt;
        let folder = env::temp_dir().join(format!("xtask-path-{}", std::process::id()));
        let write = |name: &str, mode| {
            let file = folder.join(name).join("tool");
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            file
        };
        write("not-executable", 0o644);
        let first = write("first", 0o755);
        write("second", 0o755);
        fs::create_dir_all(folder.join("a-folder").join("tool")).unwrap();
        let path = env::join_paths(
            ["missing", "a-folder", "not-executable", "first", "second"].map(|f| folder.join(f)),
        )
        .unwrap();
        assert_eq!(find_program("tool", &path), Some(first));
        assert_eq!(find_program("other", &path), None);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn commands_read_as_typed() {
        let mut command = Command::new("/some/where/cargo");
        command.args(["fmt", "--check"]);
        assert_eq!(describe(&command), "cargo fmt --check");
    }
}
