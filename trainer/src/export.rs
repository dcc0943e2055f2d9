//! From a run to the page: one epoch's weights, and their line in the index.

use std::path::{Path, PathBuf};

use fashion_ddpm::weights::{Index, IndexEntry, Metadata, WeightsError, hex, read_metadata};
use sha2::{Digest, Sha256};

use crate::{
    files::{self, FileError},
    run::RunFolder,
};

/// Name of the index beside the weights.
pub const INDEX: &str = "index.json";

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No epoch has ended yet, or it is no run.
    #[error("{} holds no finished epoch; train first", .0.display())]
    Empty(PathBuf),
    /// No such epoch.
    #[error("the run has no epoch {asked}; it has {there}")]
    Epoch {
        /// What was asked for.
        asked: u32,
        /// What there is.
        there: String,
    },
    /// The system would not read or write it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The run's file is damaged.
    #[error("{}: {source}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: WeightsError,
    },
    /// An index that is none.
    #[error("{} is no index of weights ({reason}); move it away, or export into another folder", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No file name, or that of the index.
    #[error("{} names no file of weights; --out wants one, such as web/weights/epoch-012.bpk", .0.display())]
    NoName(PathBuf),
}

/// Writes the averaged weights of an epoch (the last one where none is named) to `out`, and adds
/// them to the `index.json` in the same folder, which is begun where there is none. The model with
/// most epochs becomes the index's default.
///
/// # Errors
/// [`ExportError`]; an index that cannot be read is found before anything is written.
pub fn export(run: &Path, epoch: Option<u32>, out: &Path) -> Result<Metadata, ExportError> {
    let folder = RunFolder::new(run);
    let epochs = epochs(&folder.averages());
    let last = *epochs
        .last()
        .ok_or_else(|| ExportError::Empty(run.to_owned()))?;
    let epoch = epoch.unwrap_or(last);
    if !epochs.contains(&epoch) {
        return Err(ExportError::Epoch {
            asked: epoch,
            there: ranges(&epochs),
        });
    }
    let path = folder.average(epoch);
    let bytes = files::read(&path)?;
    let (metadata, _) =
        read_metadata(&bytes).map_err(|source| ExportError::Weights { path, source })?;

    let name = out
        .file_name()
        .and_then(|name| name.to_str())
        .filter(|name| *name != INDEX)
        .ok_or_else(|| ExportError::NoName(out.to_owned()))?;
    let index_path = out.with_file_name(INDEX);
    let index = with_entry(
        read_index(&index_path)?,
        IndexEntry {
            file: name.to_owned(),
            bytes: bytes.len() as u64,
            sha256: hex(&Sha256::digest(&bytes)),
            epoch,
            evaluation: Default::default(),
        },
    );
    if let Some(parent) = out.parent() {
        files::create_folder(parent)?;
    }
    files::write(out, &bytes)?;
    write_index(&index_path, &index)?;
    Ok(metadata)
}

/// The index, if there is one.
///
/// # Errors
/// [`ExportError::Index`] where the file is something else.
pub fn read_index(path: &Path) -> Result<Option<Index>, ExportError> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = files::read(path)?;
    match serde_json::from_slice(&bytes) {
        Ok(index) => Ok(Some(index)),
        Err(error) => Err(ExportError::Index {
            path: path.to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// Whether the index beside the weights lists just this file, with these bytes.
///
/// # Errors
/// [`ExportError::Index`] where the index is something else.
pub fn lists(weights: &Path, bytes: &[u8]) -> Result<bool, ExportError> {
    let index = read_index(&weights.with_file_name(INDEX))?;
    Ok(index.is_some_and(|index| listed(&index, weights, bytes).is_some()))
}

/// Where the index lists just this file, with these bytes.
fn listed(index: &Index, weights: &Path, bytes: &[u8]) -> Option<usize> {
    let (name, sha256) = (weights.file_name()?, hex(&Sha256::digest(bytes)));
    let mut models = index.models.iter();
    models.position(|model| name == model.file.as_str() && model.sha256 == sha256)
}

/// Writes what `evaluate` found, under a name that says what it is of, into the index beside the
/// weights; figures of that name found before are replaced.
///
/// # Errors
/// [`ExportError`] where the index does not list these bytes any more, or cannot be written.
pub fn record(
    weights: &Path,
    bytes: &[u8],
    name: &str,
    figures: serde_json::Value,
) -> Result<(), ExportError> {
    let path = weights.with_file_name(INDEX);
    let gone = || ExportError::Index {
        path: path.clone(),
        reason: "it does not list these weights any more".to_owned(),
    };
    let mut index = read_index(&path)?.ok_or_else(gone)?;
    let entry = listed(&index, weights, bytes).ok_or_else(gone)?;
    let evaluation = &mut index.models[entry].evaluation;
    evaluation.insert(name.to_owned(), figures);
    write_index(&path, &index)
}

fn write_index(path: &Path, index: &Index) -> Result<(), ExportError> {
    let json = serde_json::to_string_pretty(index).expect("plain data") + "\n";
    Ok(files::write(path, json.as_bytes())?)
}

/// Puts an entry in its place. Figures found for the very same file stay with it.
fn with_entry(index: Option<Index>, mut entry: IndexEntry) -> Index {
    let mut models = index.map(|index| index.models).unwrap_or_default();
    if let Some(i) = models.iter().position(|model| model.file == entry.file) {
        let old = models.remove(i);
        if old.sha256 == entry.sha256 {
            entry.evaluation = old.evaluation;
        }
    }
    models.push(entry);
    models.sort_by(|a, b| a.epoch.cmp(&b.epoch).then_with(|| a.file.cmp(&b.file)));
    let default = models.last().expect("one was pushed").file.clone();
    Index { default, models }
}

/// The epochs N of which a folder holds `epoch-N.bpk`, ascending.
pub(crate) fn epochs(folder: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut epochs: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name
                .to_str()?
                .strip_prefix("epoch-")?
                .strip_suffix(".bpk")?;
            number.parse().ok()
        })
        .collect();
    epochs.sort_unstable();
    epochs
}

/// "1 to 12, 24".
pub(crate) fn ranges(sorted: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &epoch in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == epoch => *last = epoch,
            _ => runs.push((epoch, epoch)),
        }
    }
    let words: Vec<String> = runs
        .iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first} to {last}")
            }
        })
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(file: &str, epoch: u32, sha256: &str) -> IndexEntry {
        IndexEntry {
            file: file.to_owned(),
            bytes: 1,
            sha256: sha256.to_owned(),
            epoch,
            evaluation: Default::default(),
        }
    }

    #[test]
    fn the_index_is_in_order_and_most_epochs_are_the_default() {
        let index = with_entry(None, entry("epoch-012.bpk", 12, "a"));
        let index = with_entry(Some(index), entry("epoch-050.bpk", 50, "b"));
        let index = with_entry(Some(index), entry("epoch-001.bpk", 1, "c"));
        assert_eq!(index.default, "epoch-050.bpk");
        let epochs: Vec<u32> = index.models.iter().map(|model| model.epoch).collect();
        assert_eq!(epochs, [1, 12, 50]);
        assert_eq!(index.default_entry().unwrap().sha256, "b");
    }

    #[test]
    fn figures_stay_with_the_file_they_were_found_for() {
        let mut judged = entry("a.bpk", 1, "same");
        judged.evaluation.insert("count".to_owned(), 10.into());
        let index = with_entry(None, judged.clone());
        let again = with_entry(Some(index.clone()), entry("a.bpk", 1, "same"));
        assert_eq!(again, index);
        let other = with_entry(Some(index), entry("a.bpk", 1, "other"));
        assert_eq!(other.models, [entry("a.bpk", 1, "other")]);
    }

    #[test]
    fn figures_are_kept_for_the_very_bytes_they_are_of() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("a.bpk");
        let sha256 = hex(&Sha256::digest(b"weights"));
        let index = with_entry(None, entry("a.bpk", 1, &sha256));
        write_index(&folder.path().join(INDEX), &index).unwrap();
        assert!(lists(&weights, b"weights").unwrap() && !lists(&weights, b"others").unwrap());
        assert!(record(&weights, b"others", "ddpm-10", 1.into()).is_err());
        record(&weights, b"weights", "ddpm-10", 2.into()).unwrap();
        let index = read_index(&folder.path().join(INDEX)).unwrap().unwrap();
        assert_eq!(index.models[0].evaluation["ddpm-10"], 2);
    }

    #[test]
    fn epochs_are_named_in_ranges() {
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1 to 3, 7, 9 to 10");
        assert_eq!(ranges(&[4]), "4");
    }

    #[test]
    fn nothing_to_export_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = export(folder.path(), None, Path::new("x.bpk")).unwrap_err();
        assert!(matches!(error, ExportError::Empty(_)), "{error}");
    }
}
