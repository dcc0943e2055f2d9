//! Which device computes, and whether it is there.

use std::{fmt, panic, str::FromStr, thread};

#[cfg(feature = "wgpu")]
use burn::tensor::DeviceKind;
use burn::tensor::{Device, Tensor};

/// What a person may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The fastest that is there: CUDA, then Vulkan or Metal, then the CPU.
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
        "this build of the trainer has no {0}; build it without --no-default-features on a system that has it, or use --device cpu"
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
}

/// Opens the device asked for, and computes a sum on it before trusting it.
///
/// # Errors
/// [`DeviceError`] where it is not there; never for `cpu` and `auto`.
pub fn find(choice: DeviceChoice) -> Result<Found, DeviceError> {
    if choice != DeviceChoice::Auto {
        let device = open(choice)?;
        return Ok(Found { device, choice });
    }
    let gpu = if cfg!(target_os = "macos") {
        DeviceChoice::Metal
    } else {
        DeviceChoice::Vulkan
    };
    let found = [DeviceChoice::Cuda, gpu]
        .into_iter()
        .find_map(|choice| open(choice).ok().map(|device| Found { device, choice }));
    Ok(found.unwrap_or_else(|| Found {
        device: kernels::cpu(),
        choice: DeviceChoice::Cpu,
    }))
}

fn open(choice: DeviceChoice) -> Result<Device, DeviceError> {
    let answer = match choice {
        DeviceChoice::Cpu | DeviceChoice::Auto => Ok(kernels::cpu()),
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda => probe(|| Device::cuda(0)),
        #[cfg(feature = "wgpu")]
        DeviceChoice::Vulkan => probe(|| Device::vulkan(DeviceKind::DefaultDevice)),
        #[cfg(all(feature = "wgpu", target_os = "macos"))]
        DeviceChoice::Metal => probe(|| Device::metal(DeviceKind::DefaultDevice)),
        #[cfg(feature = "wgpu")]
        DeviceChoice::Wgpu => probe(|| Device::wgpu(DeviceKind::DefaultDevice)),
        #[allow(unreachable_patterns)]
        _ => return Err(DeviceError::NotBuilt(choice)),
    };
    answer.map_err(|reason| DeviceError::Absent { choice, reason })
}

/// Computes 1 + 1 on a device. Where the driver is missing, the libraries below panic; on a thread
/// of its own, with the message caught, that is an answer like another.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), allow(dead_code))]
fn probe(make: fn() -> Device) -> Result<Device, String> {
    let loud = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let answer = thread::spawn(move || {
        let device = make();
        let one = Tensor::<1>::ones([1], &device);
        let two = (one.clone() + one).into_data_as::<f32>();
        (device, two.try_to_vec::<f32>().unwrap_or_default())
    })
    .join();
    panic::set_hook(loud);
    match answer {
        Ok((device, two)) if two == [2.0] => Ok(device),
        Ok((_, two)) => Err(format!("it says that 1 + 1 is {two:?}")),
        Err(cause) => {
            let text = cause
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| cause.downcast_ref::<&str>().copied())
                .unwrap_or("its driver failed");
            Err(text.lines().next().unwrap_or_default().to_owned())
        }
    }
}

impl Found {
    /// What computes, in words.
    pub fn describe(&self) -> String {
        match self.choice {
            DeviceChoice::Cpu | DeviceChoice::Auto => {
                let threads = thread::available_parallelism().map_or(1, usize::from);
                format!("the CPU, {threads} threads")
            }
            DeviceChoice::Cuda => "an NVIDIA GPU through CUDA".to_owned(),
            DeviceChoice::Vulkan => "a GPU through Vulkan".to_owned(),
            DeviceChoice::Metal => "a GPU through Metal".to_owned(),
            DeviceChoice::Wgpu => "a GPU through wgpu".to_owned(),
        }
    }
}
