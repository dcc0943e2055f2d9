//! The list of the weights that ship: written by the trainer's `export`, read by `sample` and by the
//! page.

use serde::{Deserialize, Serialize};

/// `web/weights/index.json`: which weights there are. `E` is as much of their evaluations as the
/// reader takes: the trainer keeps all of it, the page quotes a figure or two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "E: Default + Deserialize<'de>"))]
pub struct Index<E> {
    /// The file used where none is asked for; one of `models`.
    pub default: String,
    /// Every file, in the order of their epochs.
    pub models: Vec<IndexEntry<E>>,
}

impl<E> Index<E> {
    /// The entry of the default file.
    pub fn default_entry(&self) -> Option<&IndexEntry<E>> {
        self.models.iter().find(|model| model.file == self.default)
    }
}

/// One weights file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexEntry<E> {
    /// Name beside the index.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of the whole file; hexadecimal.
    pub sha256: String,
    /// Passes over the data set.
    pub epoch: u32,
    /// What `trainer evaluate` found; empty where it has not been run.
    #[serde(default)]
    pub evaluation: E,
}
