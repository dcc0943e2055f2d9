//! The forward process q and the training objective.

use burn::tensor::{Device, Tensor, TensorData};

use crate::{Garment, NoiseSchedule, UNet};

/// Gaussian diffusion over a [`NoiseSchedule`]: how images are noised, and what is learned from it.
#[derive(Debug, Clone)]
pub struct GaussianDiffusion {
    /// The tables of alpha_bar_t and beta_t.
    pub schedule: NoiseSchedule,
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BetaSchedule,
        noise::{PIXELS, gaussian_batch},
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
}
