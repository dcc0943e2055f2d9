//! Files that are there whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried: "read", "write", ...
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: what was tried, on what.
    pub fn when<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Reads a whole file.
///
/// # Errors
/// [`FileError`] names the file.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(FileError::when("read", path))
}

/// Makes a folder and those above it, where they are missing.
///
/// # Errors
/// [`FileError`] names the folder.
pub fn create_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::when("create the folder", path))
}

/// Makes the folders above a file that is going to be written, and tries whether it can be: what is
/// computed first may take hours.
///
/// # Errors
/// [`FileError`] names the folder or the file.
pub fn prepare(path: &Path) -> Result<(), FileError> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let tried = target(path).and_then(|path| {
        let temporary = beside(&path);
        File::create(&temporary)?;
        fs::remove_file(&temporary)
    });
    tried.map_err(FileError::when("write", path))
}

/// The file that is meant, which a link may name. Renaming would put a file in the place of a link, and as well
/// of a device.
fn target(path: &Path) -> io::Result<PathBuf> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => fs::canonicalize(path),
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => Err(io::Error::other("it is there already, and no file")),
        // Nothing yet, or whatever says so when it is made.
        Err(_) => Ok(path.to_owned()),
    }
}

/// The name under which a file is written until it is whole.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Writes a file under another name, waits until it is on the disk, and renames it: whoever opens
/// `path`, even after a power cut, finds the old content or the new, never a part.
///
/// # Errors
/// [`FileError`] names the file; what was there before is still there then.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let written = target(path).and_then(|path| {
        let temporary = beside(&path);
        let result = File::create(&temporary)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, &path));
        match result {
            // Some file systems refuse it, and some folders may be written to but not opened: the file is
            // there all the same.
            Ok(()) => drop(sync_folder(&path)),
            Err(_) => drop(fs::remove_file(&temporary)),
        }
        result
    });
    written.map_err(FileError::when("write", path))
}

/// Removes a file.
///
/// # Errors
/// [`FileError`] names it.
pub fn remove(path: &Path) -> Result<(), FileError> {
    fs::remove_file(path).map_err(FileError::when("remove", path))
}

/// Makes the renaming itself durable, where the system has a way.
fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let here = folder.as_os_str().is_empty();
        File::open(if here { Path::new(".") } else { folder })?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // A folder in the file's place cannot be replaced; the error says what was tried, on what.
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        let error = write(&taken, b"x").unwrap_err().to_string();
        assert!(
            error.contains("cannot write") && error.contains("taken"),
            "{error}"
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    /// Before hours of work: the folders are there afterwards, the file is not, and one that cannot be
    /// written is told at once.
    #[test]
    fn a_place_is_prepared_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a").join("b").join("file");
        prepare(&path).unwrap();
        let inner = path.parent().unwrap();
        assert_eq!(fs::read_dir(inner).unwrap().count(), 0);
        write(&path, b"kept").unwrap();
        prepare(&path).unwrap();
        assert_eq!(read(&path).unwrap(), b"kept");
        assert!(prepare(inner).is_err(), "a folder is in its place");
        #[cfg(unix)]
        {
            let device = inner.join("device");
            let _socket = std::os::unix::net::UnixListener::bind(&device).unwrap();
            for refused in [prepare(&device), write(&device, b"x")] {
                let error = refused.unwrap_err().to_string();
                assert!(error.contains("and no file"), "{error}");
            }
            let link = inner.join("link");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            prepare(&link).unwrap();
            write(&link, b"new").unwrap();
            assert!(link.is_symlink(), "what it names is written");
            assert_eq!(read(&path).unwrap(), b"new");
        }
        assert!(prepare(&path.join("file")).is_err(), "a file is above it");
        // Administrators may write everywhere, but not this.
        let long = inner.join("x".repeat(300));
        assert!(prepare(&long).is_err(), "no file has such a name");
        prepare(Path::new("a-bare-name")).unwrap();
    }
}
