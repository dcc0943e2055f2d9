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
//! | the ten classes, and none | [`Garment`] in `garment.rs` |
//! | a drop of ink: the score in closed form | [`Mixture`] in `mixture.rs` |
//! | real garments, their map, and the nearest of them | [`Gallery`] in `gallery.rs` |
//! | the file the page loads | `weights.rs` |
//! | the list of those that ship | `index.rs` |
//!
//! Two programs stand on this crate: the trainer and the page. Neither defines a denoiser, a schedule or a
//! picture's random numbers of its own, so that the same seed is the same garment in both. The
//! crate knows no backend by name, no browser and no command line.
//!
//! The feature `network`, on by default, is all that holds tensors. Without it the process remains:
//! schedule, noise, the samplers' coefficients, noising of plain slices. That is what the page's
//! main thread shows and checks, beside the worker that runs the network.

pub mod diffusion;
#[cfg(feature = "network")]
pub mod ema;
pub mod gallery;
pub mod garment;
pub mod index;
pub mod mixture;
pub mod noise;
pub mod sampler;
pub mod schedule;
#[cfg(feature = "network")]
pub mod unet;
#[cfg(feature = "network")]
pub mod weights;

#[cfg(feature = "network")]
pub use diffusion::GaussianDiffusion;
pub use diffusion::Prediction;
#[cfg(feature = "network")]
pub use ema::Ema;
pub use gallery::{Gallery, Projection};
pub use garment::Garment;
pub use mixture::Mixture;
pub use sampler::Sampler;
#[cfg(feature = "network")]
pub use sampler::{Frame, PredictNoise, RecordedProcess, ReverseProcess};
pub use schedule::{BetaSchedule, NoiseSchedule};
#[cfg(feature = "network")]
pub use unet::{Denoiser, UNet, UNetConfig};
