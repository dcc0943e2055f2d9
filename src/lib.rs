//! Denoising diffusion on Fashion-MNIST: the method, and nothing else.
//!
//! | the lecture's words | where |
//! | --- | --- |
//! | noising, q(x_t given x_0) | [`GaussianDiffusion::q_sample`] in `diffusion.rs` |
//! | the noise schedule | [`NoiseSchedule`] in `schedule.rs` |
//! | Algorithm 1, training | [`GaussianDiffusion::training_loss`] in `diffusion.rs` |
//! | Algorithm 2, sampling | `sampler/ddpm.rs` |
//! | fast samplers | `sampler/ddim.rs`, `sampler/dpm_solver.rs` |
//! | the network | [`UNet`] in `unet.rs` |
//! | averaged weights | [`Ema`] in `ema.rs` |
//! | what a seed means | `noise.rs` |
//! | the file the page loads | `weights.rs` |
//!
//! Two programs stand on this crate: the trainer and the page. Neither defines a network, a
//! schedule or a random number of its own, so that the same seed is the same garment in both. The
//! crate knows no backend by name, no browser and no command line.

pub mod diffusion;
pub mod ema;
pub mod garment;
pub mod noise;
pub mod sampler;
pub mod schedule;
pub mod unet;
pub mod weights;

pub use diffusion::GaussianDiffusion;
pub use ema::Ema;
pub use garment::Garment;
pub use sampler::{Frame, PredictNoise, ReverseProcess, Sampler};
pub use schedule::{BetaSchedule, NoiseSchedule};
pub use unet::{Denoiser, UNet, UNetConfig};
