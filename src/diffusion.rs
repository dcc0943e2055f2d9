//! The forward process q and the training objective.

#[cfg(feature = "network")]
use burn::tensor::{Device, Tensor, TensorData};

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

/// Gaussian diffusion over a [`NoiseSchedule`]: how images are noised, and what is learned from it.
#[cfg(feature = "network")]
#[derive(Debug, Clone)]
pub struct GaussianDiffusion {
    /// The tables of alpha_bar_t and beta_t.
    pub schedule: NoiseSchedule,
}

#[cfg(feature = "network")]
impl GaussianDiffusion {
    /// Diffusion over these tables.
    pub fn new(schedule: NoiseSchedule) -> Self {
        Self { schedule }
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
    /// |epsilon - epsilon_theta(sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon, t)|^2.
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
        let x_t = self.q_sample(x_0, t, noise.clone());
        let pred_noise = model.forward(x_t, t, labels);
        let error = noise - pred_noise;
        (error.clone() * error).mean()
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
