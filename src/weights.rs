//! The file the page loads: weights, and all that is needed to use and to trust them.
//!
//! A burnpack container (`.bpk`) with the tensors in half precision, and three strings beside
//! them: `format_version`, `metadata` (the [`Metadata`] as JSON) and `sha256`. The container has
//! no checksum of its own, and a flipped bit would load silently and paint rags. A reader builds
//! the network from the metadata, never from constants of its own.
//!
//! One more tensor, [`PROBE`], is what these weights predict for a known noise. A device that
//! answers otherwise computes wrong, however plausible its pictures.

use burn::{
    module::Module,
    store::ModuleRecord,
    tensor::{Bytes, DType, Device, Int, Tensor, TensorData},
};
use burn_pack::{Reader, Writer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    BetaSchedule, Denoiser, Garment, GaussianDiffusion, NoiseSchedule, Prediction, RecordedProcess,
    Sampler, UNet, UNetConfig, index,
    noise::{PIXELS, gaussian_batch},
    schedule::ScheduleError,
    unet::ConfigError,
};

/// Versions of the file's layout and of what its fields mean, of which another one is made whenever
/// an old reader would misunderstand a new file. In version 1 the network predicts the noise and
/// the file does not say so; in version 2 it predicts what `prediction` says.
pub const FORMAT_VERSIONS: [u32; 2] = [1, 2];

/// Of how [`checksum`] counts.
const CHECKSUM_VERSION: u32 = 1;

/// Name of the stored answer among the tensors.
pub const PROBE: &str = "probe.pred_noise";

/// What a weights file says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The network's shape.
    pub config: UNetConfig,
    /// T.
    pub timesteps: usize,
    /// The shape of beta_t.
    pub schedule: BetaSchedule,
    /// Passes over the data set.
    pub epoch: u32,
    /// Training images seen, repetitions counted.
    pub images_seen: u64,
    /// Decay of the averaged weights these are.
    pub ema_decay: f64,
    /// What it was trained on, in words.
    pub dataset: String,
    /// SHA-256 of the training images and labels, uncompressed, one after the other; hexadecimal.
    pub dataset_sha256: String,
    /// Commit of the source that trained it, `unknown` outside a repository.
    pub source_commit: String,
    /// Numbers in the network.
    pub parameters: usize,
    /// What the network tells.
    #[serde(default, skip_serializing_if = "Prediction::is_noise")]
    pub prediction: Prediction,
}

impl Metadata {
    /// The version of the file that these belong to, one of [`FORMAT_VERSIONS`].
    pub fn format_version(&self) -> u32 {
        match self.prediction {
            Prediction::Noise => 1,
            Prediction::Velocity => 2,
        }
    }

    /// The tables of the schedule it was trained with.
    ///
    /// # Errors
    /// [`ScheduleError`] where `timesteps` makes no schedule.
    pub fn diffusion(&self) -> Result<GaussianDiffusion, ScheduleError> {
        let schedule = NoiseSchedule::new(self.schedule, self.timesteps)?;
        Ok(GaussianDiffusion::new(schedule).predicting(self.prediction))
    }
}

/// A weights file, read.
#[derive(Debug, Clone)]
pub struct Weights {
    /// The network, in f32 on the device.
    pub unet: UNet,
    /// Noising with the schedule it was trained with.
    pub diffusion: GaussianDiffusion,
    /// What the file says about itself.
    pub metadata: Metadata,
    /// SHA-256 over all tensors and the metadata; hexadecimal.
    pub sha256: String,
    /// The stored answer, 784 numbers; see [`Self::probe`].
    pub expected_probe: Vec<f32>,
}

impl Weights {
    /// The network at sampling time, see [`Denoiser::new`]; it tells the noise whatever the network
    /// was trained to tell.
    pub fn denoiser(&self, garment: Option<Garment>, guidance_scale: f64) -> Denoiser {
        let (unet, timesteps) = (self.unet.clone(), self.metadata.timesteps);
        Denoiser::new(unet, timesteps, garment, guidance_scale).trained_with(&self.diffusion)
    }

    /// Asks the network what the file holds the answer to, shape `[1, 1, 28, 28]`.
    pub fn probe(&self) -> Tensor<4> {
        probe(&self.unet, self.metadata.timesteps)
    }
}

/// Pure noise shown as if it were half an image, with no label: far from anything a network was
/// trained on, so that all of it has work to do.
pub fn probe(unet: &UNet, timesteps: usize) -> Tensor<4> {
    let device = unet.device();
    let (x_t, t) = question(timesteps, &device);
    let shifts = unet.shifts(&[t], &[None]);
    // By the number of its row, as a recorded step: on a GPU these are the same kernels.
    let row = Tensor::<1, Int>::from_data([0], &device);
    unet.forward_rows(x_t, shifts, Some(row))
}

/// [`probe`], but by a recorded step of one image without guidance, from the start of a walk to its
/// frame: x_t, then the answer, shape `[1, 2, 28, 28]`. A driver may do well what it is told once, and
/// not what is issued again.
///
/// # Errors
/// The device's complaint.
pub fn probe_recorded(
    process: &mut RecordedProcess,
    unet: &UNet,
    schedule: &NoiseSchedule,
) -> Result<Tensor<4>, String> {
    let timesteps = schedule.timesteps();
    let (x_t, t) = question(timesteps, &unet.device());
    let plan = Sampler::Ddpm.plan(schedule, timesteps);
    let plan = plan.map_err(|error| error.to_string())?;
    let step = plan.into_iter().find(|step| step.t == t).into_iter();
    // Whatever the network tells, and not the noise that is made of it.
    let denoiser = Denoiser::new(unet.clone(), timesteps, None, 1.0);
    process.start(&denoiser, step.collect(), 0, vec![(0, 0)], x_t);
    process.steps(1)?;
    Ok(process.frames(0, 1))
}

/// x_t and t of a [`probe`].
fn question(timesteps: usize, device: &Device) -> (Tensor<4>, usize) {
    let x_t = gaussian_batch(0, 0..1, 0, timesteps, device);
    (x_t, timesteps / 2)
}

/// Why a weights file cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WeightsError {
    /// Not a burnpack file, or cut off.
    #[error(
        "expected a complete weights file (.bpk), found {bytes} bytes that are none ({reason}); fetch it again"
    )]
    Container {
        /// How much there was.
        bytes: usize,
        /// The container's own complaint.
        reason: String,
    },
    /// A container whose tensors cannot be had, or made into one.
    #[error(
        "expected tensors to read or to pack, found some that fail ({0}); fetch the file again, or export it again"
    )]
    Tensors(String),
    /// A burnpack file that is not ours.
    #[error(
        "expected a weights file of Fashion DDPM, found a burnpack file without `{0}`; use one made by `trainer export`"
    )]
    Foreign(&'static str),
    /// Another version of the layout.
    #[error(
        "expected format version 1 or 2, found {0}; export the weights again with this version of the trainer"
    )]
    Version(String),
    /// Bits that changed since the file was written.
    #[error(
        "expected the checksum {expected}, found {found}: the file was altered or damaged; fetch it again"
    )]
    Checksum {
        /// What the file says.
        expected: String,
        /// What its content says.
        found: String,
    },
    /// Metadata that cannot be read, though the checksum holds.
    #[error(
        "expected the metadata of format version 1 or 2, found something else ({0}); export the weights again"
    )]
    Metadata(String),
    /// Metadata that describe no network.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Metadata that describe no schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Tensors that are not the described network's.
    #[error(
        "expected the tensors of the network that the metadata describe, found others ({0}); export the weights again"
    )]
    Architecture(String),
    /// A network that is past saying anything.
    #[error(
        "expected a network that answers with numbers, found one that does not: its training diverged; use an earlier state, and a smaller step size"
    )]
    Diverged,
}

/// Makes the file: the network's weights rounded to half precision, and the metadata.
///
/// # Errors
/// [`WeightsError`] where the weights do not fit `metadata.config`, the rounded network answers with something
/// else than numbers, or the container fails.
pub fn encode(unet: &UNet, metadata: &Metadata, device: &Device) -> Result<Vec<u8>, WeightsError> {
    let record = unet.clone().into_record();
    let full = record.into_bytes().map_err(unreadable)?;
    let reader = Reader::from_bytes(full).map_err(unreadable)?;
    let mut tensors = reader.into_tensors().map_err(unreadable)?;
    for tensor in &mut tensors {
        *tensor = converted(tensor.clone(), DType::F16)?;
    }
    // The answer belongs to the rounded weights, not to those in memory.
    let rounded = load(&metadata.config, tensors.clone(), device)?;
    let answer = probe(&rounded, metadata.timesteps).into_data_as::<f32>();
    let numbers = answer.iter::<f32>().all(f32::is_finite);
    if !numbers {
        return Err(WeightsError::Diverged);
    }
    let (bytes, shape, dtype) = answer.into_parts();
    tensors.push(burn_pack::Tensor::new(
        PROBE.to_owned(),
        dtype,
        shape,
        None,
        bytes,
    ));

    let json = serde_json::to_string(metadata).expect("plain data");
    let sha256 = checksum(&json, &tensors).map_err(unreadable)?;
    let bytes = Writer::new(tensors)
        .with_metadata("format_version", &metadata.format_version().to_string())
        .with_metadata("metadata", &json)
        .with_metadata("sha256", &sha256)
        .into_bytes()
        .map_err(unreadable)?;
    Ok(bytes.to_vec())
}

/// What a file says about itself, and its checksum, once that is found to be true.
///
/// # Errors
/// [`WeightsError`] where the file is cut off, altered, foreign or of another version.
pub fn read_metadata(bytes: &[u8]) -> Result<(Metadata, String), WeightsError> {
    open(bytes).map(|(metadata, sha256, _)| (metadata, sha256))
}

/// Builds the network that the file describes, with its weights in f32 on `device`.
///
/// # Errors
/// [`WeightsError`] where the file is cut off, altered, foreign, of another version, or describes a
/// network that its tensors do not fit.
pub fn decode(bytes: &[u8], device: &Device) -> Result<Weights, WeightsError> {
    let (metadata, sha256, mut tensors) = open(bytes)?;
    metadata.config.validate()?;
    let diffusion = metadata.diffusion()?;
    let probe = tensors
        .iter()
        .position(|tensor| tensor.name == PROBE)
        .ok_or(WeightsError::Foreign(PROBE))?;
    let probe = data(tensors.swap_remove(probe))?;
    let expected_probe = probe
        .convert::<f32>()
        .try_to_vec::<f32>()
        .unwrap_or_default();
    if expected_probe.len() != PIXELS {
        let found = format!("{PROBE} of {} numbers", expected_probe.len());
        return Err(WeightsError::Architecture(found));
    }
    let unet = load(&metadata.config, tensors, device)?;
    Ok(Weights {
        unet,
        diffusion,
        metadata,
        sha256,
        expected_probe,
    })
}

/// Reads the container and compares the checksum, before anything in it is believed.
fn open(bytes: &[u8]) -> Result<(Metadata, String, Vec<burn_pack::Tensor>), WeightsError> {
    let container = |error: burn_pack::Error| WeightsError::Container {
        bytes: bytes.len(),
        reason: error.to_string(),
    };
    let reader = Reader::from_bytes(Bytes::from_bytes_vec(bytes.to_vec())).map_err(container)?;
    let strings = reader.metadata().clone();
    let string = |key: &'static str| strings.get(key).ok_or(WeightsError::Foreign(key));
    let version = string("format_version")?;
    if FORMAT_VERSIONS
        .iter()
        .all(|known| *version != known.to_string())
    {
        return Err(WeightsError::Version(version.clone()));
    }
    let json = string("metadata")?;
    let expected = string("sha256")?;
    let tensors = reader.into_tensors().map_err(container)?;
    let found = checksum(json, &tensors).map_err(container)?;
    if found != *expected {
        let expected = expected.clone();
        return Err(WeightsError::Checksum { expected, found });
    }
    let metadata =
        serde_json::from_str(json).map_err(|error| WeightsError::Metadata(error.to_string()))?;
    Ok((metadata, found, tensors))
}

/// SHA-256 over the metadata and, in the order of their names, all tensors; every part preceded by
/// its length, so that no byte can change sides.
///
/// # Errors
/// The container's own, where a tensor's bytes cannot be read.
pub fn checksum(json: &str, tensors: &[burn_pack::Tensor]) -> Result<String, burn_pack::Error> {
    let mut sha256 = Sha256::new();
    let mut part = |bytes: &[u8]| {
        sha256.update((bytes.len() as u64).to_le_bytes());
        sha256.update(bytes);
    };
    part(&CHECKSUM_VERSION.to_le_bytes());
    part(json.as_bytes());
    let mut ordered: Vec<_> = tensors.iter().collect();
    ordered.sort_by(|a, b| a.name.cmp(&b.name));
    for tensor in ordered {
        part(tensor.name.as_bytes());
        part(format!("{:?}", tensor.dtype).as_bytes());
        for size in tensor.shape.iter() {
            part(&(*size as u64).to_le_bytes());
        }
        part(&tensor.to_bytes()?);
    }
    Ok(hex(&sha256.finalize()))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A network of this shape with these weights, in f32.
fn load(
    config: &UNetConfig,
    tensors: Vec<burn_pack::Tensor>,
    device: &Device,
) -> Result<UNet, WeightsError> {
    let architecture =
        |error: &dyn std::fmt::Display| WeightsError::Architecture(error.to_string());
    let tensors = tensors
        .into_iter()
        .map(|tensor| converted(tensor, DType::F32))
        .collect::<Result<Vec<_>, _>>()?;
    let bytes = Writer::new(tensors)
        .into_bytes()
        .map_err(|error| architecture(&error))?;
    let record = ModuleRecord::from_bytes(bytes).map_err(|error| architecture(&error))?;
    config
        .zeroed(device)
        .try_load_record(record)
        .map_err(|error| architecture(&error))
}

/// The same numbers in another precision, without the training's identities.
///
/// # Errors
/// [`WeightsError::Architecture`] where the tensor holds no floats.
pub fn converted(
    tensor: burn_pack::Tensor,
    dtype: DType,
) -> Result<burn_pack::Tensor, WeightsError> {
    let name = tensor.name.clone();
    let (bytes, shape, dtype) = data(tensor)?.convert_dtype(dtype).into_parts();
    Ok(burn_pack::Tensor::new(name, dtype, shape, None, bytes))
}

fn data(tensor: burn_pack::Tensor) -> Result<TensorData, WeightsError> {
    if !matches!(tensor.dtype, DType::F16 | DType::F32) {
        let found = format!("{} in {:?}", tensor.name, tensor.dtype);
        return Err(WeightsError::Architecture(found));
    }
    let (_, dtype, shape, _, bytes) = tensor.into_parts().map_err(unreadable)?;
    // A file may lay its tensors anywhere, and numbers are read where their size divides the place.
    TensorData::try_from_bytes_vec(bytes.to_vec(), shape, dtype)
        .map_err(|error| WeightsError::Architecture(error.to_string()))
}

fn unreadable(error: impl std::fmt::Display) -> WeightsError {
    WeightsError::Tensors(error.to_string())
}

/// `web/weights/index.json`, with all that `trainer evaluate` found.
pub type Index = index::Index<Evaluations>;

/// One weights file of the [`Index`].
pub type IndexEntry = index::IndexEntry<Evaluations>;

/// What was found, by sampler and steps: as it was written, for whoever reads it.
pub type Evaluations = serde_json::Map<String, serde_json::Value>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PredictNoise;
    use burn::module::{ModuleMapper, Param};

    fn metadata() -> Metadata {
        Metadata {
            config: UNetConfig {
                channels: vec![8, 8],
                ..UNetConfig::default()
            },
            timesteps: 1000,
            schedule: BetaSchedule::Linear,
            epoch: 3,
            images_seen: 180_000,
            ema_decay: 0.999,
            dataset: "none".to_owned(),
            dataset_sha256: "00".to_owned(),
            source_commit: "unknown".to_owned(),
            parameters: 1,
            prediction: Prediction::Noise,
        }
    }

    /// A file of a network that answers something; a fresh one answers zero.
    fn encoded() -> Vec<u8> {
        struct Shift;
        impl ModuleMapper for Shift {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|weight| weight + 0.05)
            }
        }
        let device = kernels::cpu();
        let metadata = metadata();
        let unet = metadata.config.init(&device).map(&mut Shift);
        encode(&unet, &metadata, &device).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let device = kernels::cpu();
        let bytes = encoded();
        let weights = decode(&bytes, &device).unwrap();
        assert_eq!(weights.metadata, metadata());
        assert_eq!(
            read_metadata(&bytes).unwrap(),
            (metadata(), weights.sha256.clone())
        );
        assert_eq!(weights.expected_probe.len(), 784);
        assert!(
            weights
                .expected_probe
                .iter()
                .any(|answer| answer.abs() > 0.01)
        );
        // Half precision is kept exactly: a second round trip changes no bit.
        assert_eq!(encode(&weights.unet, &metadata(), &device).unwrap(), bytes);
        let answer = weights.probe().into_data_as::<f32>();
        assert_eq!(answer.try_to_vec::<f32>().unwrap(), weights.expected_probe);
    }

    #[test]
    fn a_network_that_says_nothing_is_not_written() {
        struct Break;
        impl ModuleMapper for Break {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                // A number, but not in half precision.
                param.map(|weight| weight + 1e6)
            }
        }
        let device = kernels::cpu();
        let unet = metadata().config.init(&device).map(&mut Break);
        let error = encode(&unet, &metadata(), &device).unwrap_err();
        assert!(matches!(error, WeightsError::Diverged), "{error}");
    }

    /// A reader that knows nothing of v must not take it for noise: such files have a version of
    /// their own. Files that predict the noise say nothing more than they always did.
    #[test]
    fn a_network_that_predicts_v_says_so() {
        let device = kernels::cpu();
        let strings = |bytes: &[u8]| {
            let reader = Reader::from_bytes(Bytes::from_bytes_vec(bytes.to_vec())).unwrap();
            let strings = reader.metadata().clone();
            (
                strings["format_version"].clone(),
                strings["metadata"].clone(),
            )
        };
        let (version, json) = strings(&encoded());
        assert!(version == "1" && !json.contains("prediction"), "{json}");
        let metadata = Metadata {
            prediction: Prediction::Velocity,
            ..metadata()
        };
        let unet = metadata.config.init(&device);
        let bytes = encode(&unet, &metadata, &device).unwrap();
        let (version, json) = strings(&bytes);
        assert!(
            version == "2" && json.contains(r#""prediction":"v""#),
            "{json}"
        );
        let weights = decode(&bytes, &device).unwrap();
        assert_eq!(weights.metadata, metadata);

        // A fresh network answers zero: as noise that is none, as v it leaves
        // sqrt(1 - alpha_bar_t) x_t.
        let x_t = gaussian_batch(5, 0..1, 0, 0, &device);
        let noise = weights
            .denoiser(Some(Garment::Bag), 2.0)
            .predict(x_t.clone(), 600);
        let alpha_cumprod = weights.diffusion.schedule.alphas_cumprod()[600];
        let values = |x: Tensor<4>| x.into_data_as::<f32>().try_to_vec::<f32>().unwrap();
        for (noise, x) in values(noise).iter().zip(values(x_t)) {
            let expected = (1.0 - alpha_cumprod).sqrt() * f64::from(x);
            assert!((f64::from(*noise) - expected).abs() < 1e-6);
        }
    }

    /// Every cut and every flipped bit is noticed, except in the padding between tensors, which
    /// nobody reads.
    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let device = kernels::cpu();
        let bytes = encoded();
        for cut in (0..bytes.len()).step_by(bytes.len() / 37) {
            let error = decode(&bytes[..cut], &device).unwrap_err();
            assert!(matches!(error, WeightsError::Container { .. }), "{error}");
        }
        let original = decode(&bytes, &device).unwrap();
        for place in (0..bytes.len()).step_by(bytes.len() / 211) {
            let mut altered = bytes.clone();
            altered[place] ^= 0x40;
            match decode(&altered, &device) {
                Err(_) => {}
                Ok(weights) => {
                    assert_eq!(weights.sha256, original.sha256);
                    let again = encode(&weights.unet, &weights.metadata, &device).unwrap();
                    assert_eq!(again, bytes, "byte {place} went unnoticed");
                }
            }
        }
    }

    /// Nothing says that a tensor lies where its numbers can be read in place, nor does the checksum: here
    /// one is moved by a byte, into the padding behind it.
    #[test]
    fn a_tensor_may_lie_anywhere() {
        let find = |bytes: &[u8], what: &[u8], from: usize| {
            let found = bytes[from..].windows(what.len()).position(|b| b == what);
            from + found.unwrap() + what.len()
        };
        let original = encoded();
        let mut bytes = original.clone();
        let header = 10 + u32::from_le_bytes(bytes[6..10].try_into().unwrap()) as usize;
        let name = find(&bytes, b"head.bias", 0);
        // CBOR: a list of two, and how many bytes each number takes after its first.
        let mut at = find(&bytes, b"data_offsets", name);
        assert_eq!(bytes[at], 0x82);
        let offsets = [0, 1].map(|_| {
            let width = 1 << (bytes[at + 1] - 24);
            let digits = at + 2..at + 2 + width;
            at += 1 + width;
            bytes[digits.end - 1] += 1;
            let digits = bytes[digits].iter();
            digits.fold(0, |number, &digit| number << 8 | usize::from(digit)) - 1
        });
        let payload = header.next_multiple_of(256);
        let [from, to] = offsets.map(|offset| payload + offset);
        bytes.copy_within(from..to, from + 1);
        let device = kernels::cpu();
        let weights = decode(&bytes, &device).unwrap();
        let again = encode(&weights.unet, &metadata(), &device).unwrap();
        assert!(again == original, "another network came of it");
    }

    /// One digit of the metadata, which no tensor depends on.
    #[test]
    fn a_changed_word_about_the_weights_is_noticed() {
        let mut altered = encoded();
        let word = br#""epoch":3"#;
        let place = altered.windows(word.len()).position(|bytes| bytes == word);
        altered[place.unwrap() + word.len() - 1] = b'4';
        let error = read_metadata(&altered).unwrap_err();
        assert!(matches!(error, WeightsError::Checksum { .. }), "{error}");
    }

    #[test]
    fn other_versions_and_architectures_are_named() {
        let device = kernels::cpu();
        let repack = |change: fn(&mut String, &mut Metadata, &mut Vec<burn_pack::Tensor>)| {
            let reader = Reader::from_bytes(Bytes::from_bytes_vec(encoded())).unwrap();
            let (mut version, mut metadata) = ("1".to_owned(), metadata());
            let mut tensors = reader.into_tensors().unwrap();
            change(&mut version, &mut metadata, &mut tensors);
            let json = serde_json::to_string(&metadata).unwrap();
            let sha256 = checksum(&json, &tensors).unwrap();
            let bytes = Writer::new(tensors)
                .with_metadata("format_version", &version)
                .with_metadata("metadata", &json)
                .with_metadata("sha256", &sha256)
                .into_bytes()
                .unwrap();
            decode(&bytes, &device).map(|weights| weights.metadata)
        };
        assert_eq!(repack(|_, _, _| {}).unwrap(), metadata());
        let version = repack(|version, _, _| *version = "3".to_owned()).unwrap_err();
        assert_eq!(version, WeightsError::Version("3".to_owned()));
        let wider = repack(|_, m, _| m.config.channels = vec![16, 16]).unwrap_err();
        assert!(matches!(wider, WeightsError::Architecture(_)), "{wider}");
        let deeper = repack(|_, m, _| m.config.blocks = 2).unwrap_err();
        assert!(matches!(deeper, WeightsError::Architecture(_)), "{deeper}");
        let unanswered = repack(|_, _, tensors| {
            let answer = tensors.iter_mut().find(|tensor| tensor.name == PROBE);
            let bytes = Bytes::from_bytes_vec(vec![0; 4]);
            *answer.unwrap() =
                burn_pack::Tensor::new(PROBE.to_owned(), DType::F32, [1], None, bytes);
        });
        let unanswered = unanswered.unwrap_err();
        assert!(
            matches!(unanswered, WeightsError::Architecture(_)),
            "{unanswered}"
        );
        let none = repack(|_, m, _| m.config.groups = 0).unwrap_err();
        assert!(matches!(none, WeightsError::Config(_)), "{none}");
        let steps = repack(|_, m, _| m.timesteps = 1).unwrap_err();
        assert!(matches!(steps, WeightsError::Schedule(_)), "{steps}");
    }
}
