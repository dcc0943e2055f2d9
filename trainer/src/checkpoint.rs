//! What a killed run goes on from: one file, written whole or not at all.
//!
//! A burnpack container in full precision with the weights, AdamW's moments and the average, and
//! two strings: `training` (configuration, position and losses as JSON) and `sha256` over the rest.
//! The container has no checksum of its own, and a run must not go on from damaged weights.

use std::sync::Arc;

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use fashion_ddpm::{Ema, UNet};
use serde::{Deserialize, Serialize};

use crate::{
    data::Dataset,
    optimizer::AdamW,
    sealed::{self, Flaw},
    train::{Position, TrainConfig, TrainError, Trainer},
};

/// Raised whenever an old reader would misunderstand a new file.
const FORMAT_VERSION: u32 = 1;

/// Why a checkpoint cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// No checkpoint, or a damaged one.
    #[error("the checkpoint is {0}; start again in another --run folder")]
    File(#[from] Flaw),
    /// Other images than it was trained on.
    #[error(
        "the run was begun on other images: expected SHA-256 {expected}, found {found}; name their folder with --data"
    )]
    OtherData {
        /// Of the images before.
        expected: String,
        /// Of the images now.
        found: String,
    },
    /// A configuration that describes no training.
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// All of a run but its tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Training {
    format_version: u32,
    /// What decides the run.
    pub config: TrainConfig,
    /// Where it stands.
    pub position: Position,
    dataset_sha256: String,
    optimizer_steps: u64,
    ema_updates: u64,
}

/// Makes the file.
///
/// # Errors
/// [`CheckpointError::File`] where the container fails; [`TrainError::Diverged`] where the
/// losses are no numbers.
pub fn encode(trainer: &mut Trainer) -> Result<Vec<u8>, CheckpointError> {
    trainer.settle()?;
    let training = Training {
        format_version: FORMAT_VERSION,
        config: trainer.config.clone(),
        position: trainer.position.clone(),
        dataset_sha256: trainer.dataset_sha256().to_owned(),
        optimizer_steps: trainer.optimizer.steps,
        ema_updates: trainer.ema.updates(),
    };
    let mut tensors = flatten("model", &trainer.model.valid())?;
    tensors.extend(flatten("average", trainer.ema.model())?);
    for (name, moment) in [
        ("moment_1", &trainer.optimizer.moment_1),
        ("moment_2", &trainer.optimizer.moment_2),
    ] {
        let (bytes, shape, dtype) = moment.clone().into_data().into_parts();
        tensors.push(burn_pack::Tensor::new(
            name.to_owned(),
            dtype,
            shape,
            None,
            bytes,
        ));
    }
    let (bytes, _) = sealed::seal("training", &training, tensors)?;
    Ok(bytes)
}

/// Goes on where [`encode`] was called.
///
/// # Errors
/// [`CheckpointError`] where the file is damaged, foreign, or belongs to other images.
pub fn decode(
    bytes: &[u8],
    dataset: Arc<Dataset>,
    device: &Device,
) -> Result<Trainer, CheckpointError> {
    let (training, tensors) = open(bytes)?;
    same_images(&training.dataset_sha256, &dataset)?;
    let config = training.config;
    config.network.validate().map_err(TrainError::from)?;
    let mut parts: [Vec<burn_pack::Tensor>; 2] = Default::default();
    let mut moments = [None, None];
    for mut tensor in tensors {
        if let Some(name) = tensor.name.strip_prefix("model.") {
            tensor.name = name.to_owned();
            parts[0].push(tensor);
        } else if let Some(name) = tensor.name.strip_prefix("average.") {
            tensor.name = name.to_owned();
            parts[1].push(tensor);
        } else if tensor.name == "moment_1" {
            moments[0] = Some(tensor);
        } else if tensor.name == "moment_2" {
            moments[1] = Some(tensor);
        }
    }
    let [model, average] = parts;
    let autodiff = device.clone().autodiff();
    let model = sealed::load(config.network.init(&autodiff), model)?;
    let average = sealed::load(config.network.init(device), average)?;
    let mut moment = |i: usize| -> Result<_, Flaw> {
        let tensor = moments[i]
            .take()
            .ok_or_else(|| Flaw::foreign("a moment is missing"))?;
        let (_, dtype, shape, _, bytes) = tensor.into_parts()?;
        if shape.num_elements() != model.num_params() || shape.num_dims() != 1 {
            return Err(Flaw::foreign("a moment of another network"));
        }
        let data = TensorData::from_bytes(bytes, shape, dtype);
        Ok(Tensor::<1>::from_data(data, device))
    };
    let optimizer = AdamW {
        moment_1: moment(0)?,
        moment_2: moment(1)?,
        steps: training.optimizer_steps,
    };
    let ema = Ema::resume(average, config.ema_decay, training.ema_updates);
    let parts = (model, optimizer, ema);
    Ok(Trainer::assemble(
        config,
        dataset,
        device,
        parts,
        training.position,
    )?)
}

/// Whether what was trained on images of this checksum can be trained on with these.
///
/// # Errors
/// [`CheckpointError::OtherData`] where they are others.
pub(crate) fn same_images(expected: &str, dataset: &Dataset) -> Result<(), CheckpointError> {
    match dataset.sha256() {
        found if found == expected => Ok(()),
        found => Err(CheckpointError::OtherData {
            expected: expected.to_owned(),
            found: found.to_owned(),
        }),
    }
}

/// Configuration and position, once the checksum is found to be true.
///
/// # Errors
/// [`CheckpointError`] where the file is damaged or foreign.
pub fn inspect(bytes: &[u8]) -> Result<Training, CheckpointError> {
    open(bytes).map(|(training, _)| training)
}

fn open(bytes: &[u8]) -> Result<(Training, Vec<burn_pack::Tensor>), CheckpointError> {
    let (training, tensors, _) = sealed::open::<Training>("training", bytes)?;
    if training.format_version != FORMAT_VERSION {
        let version = format_args!("version {}", training.format_version);
        return Err(Flaw::foreign(version).into());
    }
    Ok((training, tensors))
}

/// A network's tensors under `prefix`.
pub(crate) fn flatten(
    prefix: &str,
    model: &UNet,
) -> Result<Vec<burn_pack::Tensor>, CheckpointError> {
    let mut tensors = sealed::tensors(model.clone())?;
    for tensor in &mut tensors {
        tensor.name = format!("{prefix}.{}", tensor.name);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use fashion_ddpm::UNetConfig;

    use crate::data::Split;

    fn dataset() -> Arc<Dataset> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/excerpt");
        Arc::new(Dataset::read(&folder, Split::Train).unwrap())
    }

    fn trainer() -> Trainer {
        let config = TrainConfig {
            network: UNetConfig {
                pixel_unshuffle: 4,
                channels: vec![8],
                attention: vec![true],
                ..UNetConfig::default()
            },
            batch_size: 2,
            ..TrainConfig::default()
        };
        let mut trainer = Trainer::new(config, dataset(), &kernels::cpu()).unwrap();
        for _ in 0..3 {
            trainer.step();
        }
        trainer
    }

    #[test]
    fn what_was_written_is_read() {
        let mut trainer = trainer();
        let bytes = encode(&mut trainer).unwrap();
        assert_eq!(inspect(&bytes).unwrap().position, *trainer.position());
        let mut again = decode(&bytes, dataset(), &kernels::cpu()).unwrap();
        assert_eq!(again.position(), trainer.position());
        assert_eq!(again.config(), trainer.config());
        assert_eq!(
            encode(&mut again).unwrap(),
            bytes,
            "nothing is lost on the way"
        );
    }

    /// Every cut and every flipped bit is noticed, except where nobody reads.
    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let bytes = encode(&mut trainer()).unwrap();
        let decode = |bytes: &[u8]| decode(bytes, dataset(), &kernels::cpu());
        for cut in (0..bytes.len()).step_by(bytes.len() / 23) {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for place in (0..bytes.len()).step_by(bytes.len() / 61) {
            let mut altered = bytes.clone();
            altered[place] ^= 0x40;
            if let Ok(mut trainer) = decode(&altered) {
                assert_eq!(trainer.position().step, 3);
                let again = encode(&mut trainer).unwrap();
                assert_eq!(again, bytes, "byte {place} went unnoticed");
            }
        }
        let error = decode(b"no checkpoint").unwrap_err();
        assert!(
            matches!(error, CheckpointError::File(Flaw::Container(_))),
            "{error}"
        );
        let weights = trainer().weights("unknown").unwrap();
        let error = decode(&weights).unwrap_err();
        assert!(
            matches!(error, CheckpointError::File(Flaw::Foreign(_))),
            "{error}"
        );
    }

    #[test]
    fn other_images_are_noticed() {
        let bytes = encode(&mut trainer()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let excerpt = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/excerpt");
        let images = "train-images-idx3-ubyte.gz";
        std::fs::copy(excerpt.join(images), folder.path().join(images)).unwrap();
        // The same images under other labels: all zero.
        let labels = [&[0, 0, 8, 1, 0, 0, 3, 0xe8][..], &[0; 1000]].concat();
        let file = std::fs::File::create(folder.path().join("train-labels-idx1-ubyte.gz")).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &labels).unwrap();
        gzip.finish().unwrap();
        let other = Arc::new(Dataset::read(folder.path(), Split::Train).unwrap());
        let error = decode(&bytes, other, &kernels::cpu()).unwrap_err();
        assert!(
            matches!(error, CheckpointError::OtherData { .. }),
            "{error}"
        );
    }
}
