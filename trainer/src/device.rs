//! Which device computes, and whether it is there.

use std::{fmt, fs, str::FromStr, thread};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use std::{
    panic,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
};

use burn::tensor::Device;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use burn::tensor::DeviceType;
#[cfg(any(test, feature = "cuda", feature = "wgpu"))]
use burn::tensor::Tensor;

/// What a person may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The fastest that is there: CUDA, then Vulkan, Metal or any GPU at all, then the CPU.
    Auto,
    /// An NVIDIA GPU through CUDA.
    Cuda,
    /// A GPU through Vulkan.
    Vulkan,
    /// A GPU through Metal.
    Metal,
    /// A GPU through whichever of them the system has.
    Wgpu,
    /// The processor.
    Cpu,
}

impl DeviceChoice {
    const ALL: [Self; 6] = [
        Self::Auto,
        Self::Cuda,
        Self::Vulkan,
        Self::Metal,
        Self::Wgpu,
        Self::Cpu,
    ];

    /// The word for it in commands.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cuda => "cuda",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Wgpu => "wgpu",
            Self::Cpu => "cpu",
        }
    }

    /// The feature of this crate that it needs.
    fn feature(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            _ => "wgpu",
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.slug())
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(word: &str) -> Result<Self, DeviceError> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.slug() == word)
            .ok_or_else(|| DeviceError::Unknown(word.to_owned()))
    }
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A word that names no device.
    #[error("`{0}` is no device: use auto, cuda, vulkan, metal, wgpu or cpu")]
    Unknown(String),
    /// This build cannot drive it.
    #[error(
        "this build of the trainer has no {choice}; build it with --features {feature}, or use --device cpu", choice = .0, feature = .0.feature()
    )]
    NotBuilt(DeviceChoice),
    /// It did not answer.
    #[error("there is no usable {choice} device ({reason}); use --device auto or --device cpu")]
    Absent {
        /// What was asked for.
        choice: DeviceChoice,
        /// What happened.
        reason: String,
    },
}

/// A device that has answered.
#[derive(Debug, Clone)]
pub struct Found {
    /// For tensors; without autodiff.
    pub device: Device,
    /// How it was reached.
    pub choice: DeviceChoice,
    /// Its name; none for the CPU.
    name: Option<String>,
}

impl Found {
    fn cpu() -> Self {
        Self {
            device: kernels::cpu(),
            choice: DeviceChoice::Cpu,
            name: None,
        }
    }

    /// What computes, in words.
    pub fn describe(&self) -> String {
        match (&self.name, self.choice) {
            (None, DeviceChoice::Cpu) => {
                let threads = thread::available_parallelism().map_or(1, usize::from);
                format!("the CPU, {threads} threads")
            }
            (Some(name), choice) => format!("{name} ({choice})"),
            (None, choice) => format!("a GPU ({choice})"),
        }
    }
}

/// How many programs wanted to compute in the last minute, where the system says.
pub fn load_average() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

/// Opens the device asked for, and computes a sum on it before trusting it.
///
/// `auto` passes over software that imitates a GPU: our own operations for the CPU are faster.
///
/// # Errors
/// [`DeviceError`] where it is not there; never for `cpu` and `auto`.
pub fn find(choice: DeviceChoice) -> Result<Found, DeviceError> {
    match choice {
        DeviceChoice::Cpu => Ok(Found::cpu()),
        DeviceChoice::Auto => {
            let gpus = [
                DeviceChoice::Cuda,
                DeviceChoice::Vulkan,
                DeviceChoice::Metal,
                DeviceChoice::Wgpu,
            ];
            let found = gpus.into_iter().find_map(|choice| open(choice, true).ok());
            Ok(found.unwrap_or_else(Found::cpu))
        }
        choice => open(choice, false),
    }
}

/// Without the features for it there is no GPU.
#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
fn open(choice: DeviceChoice, _hardware_only: bool) -> Result<Found, DeviceError> {
    Err(DeviceError::NotBuilt(choice))
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn open(choice: DeviceChoice, hardware_only: bool) -> Result<Found, DeviceError> {
    let kind = match choice {
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda => DeviceType::Cuda,
        #[cfg(feature = "vulkan")]
        DeviceChoice::Vulkan => DeviceType::Vulkan,
        #[cfg(feature = "metal")]
        DeviceChoice::Metal => DeviceType::Metal,
        #[cfg(feature = "wgpu")]
        DeviceChoice::Wgpu => DeviceType::Wgpu,
        _ => return Err(DeviceError::NotBuilt(choice)),
    };
    let (device, name) =
        probe(kind, hardware_only).map_err(|reason| DeviceError::Absent { choice, reason })?;
    Ok(Found {
        device,
        choice,
        name,
    })
}

/// Takes the first device of a kind and computes 1 + 1 on it. Where a driver is missing or old, the
/// libraries below panic; on a thread of its own, with the message caught, that is an answer like
/// another.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn probe(kind: DeviceType, hardware_only: bool) -> Result<(Device, Option<String>), String> {
    static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    static QUIET_MEANWHILE: Once = Once::new();
    QUIET_MEANWHILE.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if UNDER_WAY.load(Ordering::Relaxed) == 0 {
                loud(panic);
            }
        }));
    });
    UNDER_WAY.fetch_add(1, Ordering::Relaxed);
    let answer = thread::spawn(move || {
        for device in Device::enumerate(kind) {
            let identity = device.identity();
            let hardware = identity.as_ref().is_some_and(|i| i.physical.is_some());
            if hardware_only && !hardware {
                continue;
            }
            kernels::on_software(!hardware);
            let one = Tensor::<1>::ones([1], &device);
            let two = (one.clone() + one).into_data_as::<f32>();
            return match two.try_to_vec::<f32>() {
                Ok(two) if two == [2.0] => Ok((device, identity.map(|i| i.name))),
                other => Err(format!("it says that 1 + 1 is {other:?}")),
            };
        }
        Err("none was found".to_owned())
    })
    .join();
    UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    answer.unwrap_or_else(|cause| {
        let text = cause
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| cause.downcast_ref::<&str>().copied())
            .unwrap_or("its driver failed");
        Err(text.lines().next().unwrap_or_default().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_device_that_computes() {
        for choice in [DeviceChoice::Cpu, DeviceChoice::Auto] {
            let found = find(choice).unwrap();
            let sum = Tensor::<1>::ones([3], &found.device).sum();
            assert_eq!(sum.into_scalar::<f32>(), 3.0);
            assert_ne!(found.choice, DeviceChoice::Auto, "it says which");
            assert!(!found.describe().is_empty());
        }
    }

    /// Whatever this machine has: a device or one clear line, and never a panic.
    #[test]
    fn a_gpu_is_there_or_is_named_in_a_sentence() {
        for choice in [
            DeviceChoice::Cuda,
            DeviceChoice::Vulkan,
            DeviceChoice::Metal,
            DeviceChoice::Wgpu,
        ] {
            match find(choice) {
                Ok(found) => assert_eq!(found.choice, choice),
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains(choice.slug()), "{error}");
                    assert!(error.contains("--device cpu"), "{error}");
                    assert!(!error.contains('\n'), "{error}");
                }
            }
        }
    }

    #[test]
    fn words_are_devices() {
        for choice in DeviceChoice::ALL {
            assert_eq!(choice.slug().parse(), Ok(choice));
        }
        let error = "gpu".parse::<DeviceChoice>().unwrap_err();
        assert_eq!(error, DeviceError::Unknown("gpu".to_owned()));
    }
}
