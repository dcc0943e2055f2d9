//! Files of tensors, something about them in JSON, and a checksum over both.

use std::fmt;

use burn::{module::Module, store::ModuleRecord, tensor::Bytes};
use burn_pack::{Error, Reader, Tensor, Writer};
use fashion_ddpm::weights::checksum;
use serde::{Serialize, de::DeserializeOwned};

/// What is wrong with a file, to be read after "it is".
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Flaw {
    /// No container, or cut off.
    #[error("damaged ({0})")]
    Container(String),
    /// A container of something else, or of another version.
    #[error("none of this version of the trainer ({0})")]
    Foreign(String),
    /// Bits that changed since it was written.
    #[error("damaged: expected the checksum {expected}, found {found}")]
    Checksum {
        /// What the file says.
        expected: String,
        /// What its content says.
        found: String,
    },
}

impl Flaw {
    pub(crate) fn foreign(reason: impl fmt::Display) -> Self {
        Self::Foreign(reason.to_string())
    }
}

impl From<Error> for Flaw {
    fn from(error: Error) -> Self {
        Self::Container(error.to_string())
    }
}

/// A module's tensors.
pub(crate) fn tensors(module: impl Module) -> Result<Vec<Tensor>, Flaw> {
    let bytes = module.into_record().into_bytes().map_err(Flaw::foreign)?;
    Ok(Reader::from_bytes(bytes)?.into_tensors()?)
}

/// The module with these tensors in place of its own.
pub(crate) fn load<M: Module>(module: M, tensors: Vec<Tensor>) -> Result<M, Flaw> {
    let bytes = Writer::new(tensors).into_bytes()?;
    let record = ModuleRecord::from_bytes(bytes).map_err(Flaw::foreign)?;
    module.try_load_record(record).map_err(Flaw::foreign)
}

/// The file's bytes, with `about` under `key`, and its checksum.
pub(crate) fn seal(
    key: &str,
    about: &impl Serialize,
    tensors: Vec<Tensor>,
) -> Result<(Vec<u8>, String), Flaw> {
    let json = serde_json::to_string(about).expect("plain data");
    let sha256 = checksum(&json, &tensors)?;
    let bytes = Writer::new(tensors)
        .with_metadata(key, &json)
        .with_metadata("sha256", &sha256)
        .into_bytes()?;
    Ok((bytes.to_vec(), sha256))
}

/// What stands under `key`, the tensors, and the checksum, which holds.
pub(crate) fn open<T: DeserializeOwned>(
    key: &str,
    bytes: &[u8],
) -> Result<(T, Vec<Tensor>, String), Flaw> {
    let reader = Reader::from_bytes(Bytes::from_bytes_vec(bytes.to_vec()))?;
    let strings = reader.metadata().clone();
    let string = |key: &str| {
        strings
            .get(key)
            .ok_or_else(|| Flaw::foreign(format_args!("it lacks `{key}`")))
    };
    let json = string(key)?;
    let expected = string("sha256")?;
    let tensors = reader.into_tensors()?;
    let found = checksum(json, &tensors)?;
    if found != *expected {
        let expected = expected.clone();
        return Err(Flaw::Checksum { expected, found });
    }
    let about = serde_json::from_str(json).map_err(Flaw::foreign)?;
    Ok((about, tensors, found))
}
