//! Files of tensors, something about them in JSON, and a checksum over both.

use burn::tensor::Bytes;
use burn_pack::{Error, Reader, Tensor, Writer};
use fashion_ddpm::weights::checksum;
use serde::{Serialize, de::DeserializeOwned};

/// What is wrong with a file.
pub(crate) enum Flaw {
    /// No container, or cut off.
    Container(String),
    /// A container of something else.
    Foreign(String),
    /// Bits that changed since it was written.
    Checksum {
        /// What the file says.
        expected: String,
        /// What its content says.
        found: String,
    },
}

/// The file's bytes, with `about` under `key`, and its checksum.
pub(crate) fn seal(
    key: &str,
    about: &impl Serialize,
    tensors: Vec<Tensor>,
) -> Result<(Vec<u8>, String), Error> {
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
    let container = |error: Error| Flaw::Container(error.to_string());
    let reader = Reader::from_bytes(Bytes::from_bytes_vec(bytes.to_vec())).map_err(container)?;
    let strings = reader.metadata().clone();
    let string = |key: &str| {
        strings
            .get(key)
            .ok_or_else(|| Flaw::Foreign(format!("it lacks `{key}`")))
    };
    let json = string(key)?;
    let expected = string("sha256")?;
    let tensors = reader.into_tensors().map_err(container)?;
    let found = checksum(json, &tensors).map_err(container)?;
    if found != *expected {
        let expected = expected.clone();
        return Err(Flaw::Checksum { expected, found });
    }
    let about = serde_json::from_str(json).map_err(|error| Flaw::Foreign(error.to_string()))?;
    Ok((about, tensors, found))
}
