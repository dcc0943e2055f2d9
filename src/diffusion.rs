//! The forward process q and the training objective.

use std::{fmt, str::FromStr};

#[cfg(feature = "network")]
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::NoiseSchedule;
#[cfg(feature = "network")]
use crate::{Garment, UNet};

/// Noises pixels in one go: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon
/// (Ho et al. 2020, equation 4). `x_0` in [-1, 1], `t` 0-based; the result is as long as the shorter
/// of `x_0` and `noise`.
pub fn q_sample(schedule: &NoiseSchedule, x_0: &[f32], t: usize, noise: &[f32]) -> Vec<f32> {
    let alpha_cumprod = schedule.alphas_cumprod()[t];
    let (image, rest) = (
        alpha_cumprod.sqrt() as f32,
        (1.0 - alpha_cumprod).sqrt() as f32,
    );
    x_0.iter()
        .zip(noise)
        .map(|(x_0, noise)| image * x_0 + rest * noise)
        .collect()
}

/// What a network is trained to tell from x_t. Either gives the other, given x_t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// epsilon (Ho et al. 2020).
    #[default]
    Noise,
    /// v = sqrt(alpha_bar_t) epsilon - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, appendix D).
    #[serde(rename = "v")]
    Velocity,
}

impl Prediction {
    /// The word for it in files and commands.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Velocity => "v",
        }
    }

    /// Whether it is the noise: what a file that does not say predicts.
    pub fn is_noise(&self) -> bool {
        *self == Self::Noise
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.slug())
    }
}

/// A word that names no [`Prediction`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is nothing a network predicts: use noise or v")]
pub struct UnknownPrediction(String);

impl FromStr for Prediction {
    type Err = UnknownPrediction;

    fn from_str(word: &str) -> Result<Self, UnknownPrediction> {
        [Self::Noise, Self::Velocity]
            .into_iter()
            .find(|prediction| prediction.slug() == word)
            .ok_or_else(|| UnknownPrediction(word.to_owned()))
    }
}

/// Gaussian diffusion over a [`NoiseSchedule`]: how images are noised, and what is learned from it.
#[cfg(feature = "network")]
#[derive(Debug, Clone)]
pub struct GaussianDiffusion {
    /// The tables of alpha_bar_t and beta_t.
    pub schedule: NoiseSchedule,
    /// What the network is trained to tell.
    pub prediction: Prediction,
}

#[cfg(feature = "network")]
impl GaussianDiffusion {
    /// Diffusion over these tables, for a network that tells the noise.
    pub fn new(schedule: NoiseSchedule) -> Self {
        Self {
            schedule,
            prediction: Prediction::Noise,
        }
    }

    /// The same for a network that tells something else.
    pub fn predicting(self, prediction: Prediction) -> Self {
        Self { prediction, ..self }
    }

    /// Noises images in one go: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon
    /// (Ho et al. 2020, equation 4).
    ///
    /// # Shapes
    /// - `x_0`, `noise`, result: `[batch, 1, 28, 28]`; images in [-1, 1]
    /// - `t`: one 0-based timestep an image
    pub fn q_sample(&self, x_0: Tensor<4>, t: &[usize], noise: Tensor<4>) -> Tensor<4> {
        let device = x_0.device();
        let column = |value: fn(f64) -> f64| self.column(t, value, &device);
        x_0 * column(f64::sqrt) + noise * column(|alpha_cumprod| (1.0 - alpha_cumprod).sqrt())
    }

    /// Algorithm 1, line 5 (Ho et al. 2020): the mean over all pixels of
    /// |epsilon - epsilon_theta(sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon, t)|^2, with v
    /// in the place of epsilon where v is what the network tells.
    ///
    /// # Shapes
    /// - `x_0`, `noise`: `[batch, 1, 28, 28]`
    /// - `t`, `labels`: one entry an image; `None` where the label was dropped
    /// - result: `[1]`
    pub fn training_loss(
        &self,
        model: &UNet,
        x_0: Tensor<4>,
        t: &[usize],
        labels: &[Option<Garment>],
        noise: Tensor<4>,
    ) -> Tensor<1> {
        let x_t = self.q_sample(x_0.clone(), t, noise.clone());
        let target = match self.prediction {
            Prediction::Noise => noise,
            Prediction::Velocity => {
                let device = x_t.device();
                let column = |value: fn(f64) -> f64| self.column(t, value, &device);
                noise * column(f64::sqrt) - x_0 * column(|a| (1.0 - a).sqrt())
            }
        };
        let error = target - model.forward(x_t, t, labels);
        (error.clone() * error).mean()
    }

    /// The noise in x_t by the network's `answer`: the answer itself, or
    /// sqrt(alpha_bar_t) v + sqrt(1 - alpha_bar_t) x_t. Shapes `[batch, 1, 28, 28]`, all at the
    /// 0-based timestep `t`.
    pub fn pred_noise(&self, answer: Tensor<4>, x_t: Tensor<4>, t: usize) -> Tensor<4> {
        match self.prediction {
            Prediction::Noise => answer,
            Prediction::Velocity => {
                let alpha_cumprod = self.schedule.alphas_cumprod()[t];
                answer * alpha_cumprod.sqrt() + x_t * (1.0 - alpha_cumprod).sqrt()
            }
        }
    }

    /// A function of alpha_bar_t for each image, shape `[batch, 1, 1, 1]`.
    fn column(&self, t: &[usize], value: fn(f64) -> f64, device: &Device) -> Tensor<4> {
        let values: Vec<f32> = t
            .iter()
            .map(|&t| value(self.schedule.alphas_cumprod()[t]) as f32)
            .collect();
        Tensor::from_data(TensorData::new(values, [t.len(), 1, 1, 1]), device)
    }
}

#[cfg(all(test, feature = "network"))]
mod tests {
    use super::*;
    use crate::{
        BetaSchedule,
        noise::{PIXELS, gaussian, gaussian_batch},
    };

    /// Equation 4 in f64 on the host, from the image nearly whole to nearly nothing of it.
    #[test]
    fn q_sample_is_equation_4() {
        let device = kernels::cpu();
        let diffusion =
            GaussianDiffusion::new(NoiseSchedule::new(BetaSchedule::Cosine, 1000).unwrap());
        let noise = gaussian_batch(1, 0..3, 0, 0, &device);
        let x_0 = gaussian_batch(2, 0..3, 0, 0, &device).clamp(-1.0, 1.0);
        let t = [0, 400, 999];
        let x_t = diffusion.q_sample(x_0.clone(), &t, noise.clone());
        let values = |x: Tensor<4>| x.into_data_as::<f32>().try_to_vec::<f32>().unwrap();
        let (x_0, noise) = (values(x_0), values(noise));
        for (i, value) in values(x_t).into_iter().enumerate() {
            let alpha_cumprod = diffusion.schedule.alphas_cumprod()[t[i / PIXELS]];
            let expected = alpha_cumprod.sqrt() * f64::from(x_0[i])
                + (1.0 - alpha_cumprod).sqrt() * f64::from(noise[i]);
            assert!(
                (f64::from(value) - expected).abs() < 1e-6,
                "{value} {expected}"
            );
        }
    }

    /// v is written out from its definition, in f64: a fresh network answers zero, so that its loss
    /// is the mean square of what it should have told; and the noise comes back from v and x_t.
    #[test]
    fn velocity_is_salimans_and_ho_2022() {
        let device = kernels::cpu();
        let schedule = NoiseSchedule::new(BetaSchedule::Cosine, 1000).unwrap();
        let diffusion = GaussianDiffusion::new(schedule).predicting(Prediction::Velocity);
        let noise = gaussian_batch(1, 0..4, 0, 0, &device);
        let x_0 = gaussian_batch(2, 0..4, 0, 0, &device).clamp(-1.0, 1.0);
        let t = [0, 300, 700, 999];
        let values = |x: Tensor<4>| x.into_data_as::<f32>().try_to_vec::<f32>().unwrap();
        let v: Vec<f64> = values(x_0.clone())
            .iter()
            .zip(values(noise.clone()))
            .enumerate()
            .map(|(i, (&x_0, noise))| {
                let a = diffusion.schedule.alphas_cumprod()[t[i / PIXELS]];
                a.sqrt() * f64::from(noise) - (1.0 - a).sqrt() * f64::from(x_0)
            })
            .collect();
        let fresh = crate::UNetConfig::default().init(&device);
        let loss = diffusion.training_loss(&fresh, x_0.clone(), &t, &[None; 4], noise.clone());
        let expected = v.iter().map(|v| v * v).sum::<f64>() / v.len() as f64;
        let loss = f64::from(loss.into_scalar::<f32>());
        assert!((loss / expected - 1.0).abs() < 1e-5, "{loss} {expected}");

        let x_t = diffusion.q_sample(x_0, &t, noise.clone());
        for (i, &t) in t.iter().enumerate() {
            let v: Vec<f32> = v[i * PIXELS..][..PIXELS]
                .iter()
                .map(|v| *v as f32)
                .collect();
            let v = Tensor::from_data(TensorData::new(v, [1, 1, 28, 28]), &device);
            let found = diffusion.pred_noise(v, x_t.clone().narrow(0, i, 1), t);
            let expected = values(noise.clone().narrow(0, i, 1));
            for (a, b) in values(found).iter().zip(expected) {
                assert!((a - b).abs() < 2e-6, "t = {t}: {a} {b}");
            }
        }
        assert_eq!("v".parse(), Ok(Prediction::Velocity));
        assert!("x_0".parse::<Prediction>().is_err());
    }

    /// Images one by one on plain slices are the batch on tensors.
    #[test]
    fn slices_and_tensors_are_noised_alike() {
        let device = kernels::cpu();
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1000).unwrap();
        let diffusion = GaussianDiffusion::new(schedule.clone());
        let (x_0, noise) = (gaussian(2, 0, 0, 0), gaussian(1, 0, 0, 0));
        for t in [0, 1, 400, 999] {
            let tensor = |values: &[f32]| {
                let data = TensorData::new(values.to_vec(), [1, 1, 28, 28]);
                Tensor::<4>::from_data(data, &device)
            };
            let x_t = diffusion.q_sample(tensor(&x_0), &[t], tensor(&noise));
            let x_t = x_t.into_data_as::<f32>().try_to_vec::<f32>().unwrap();
            for (a, b) in x_t.iter().zip(q_sample(&schedule, &x_0, t, &noise)) {
                assert!((a - b).abs() < 1e-6, "t = {t}: {a} {b}");
            }
        }
    }
}
