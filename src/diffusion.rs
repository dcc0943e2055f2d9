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
    use crate::{BetaSchedule, noise::gaussian_batch};

    /// The law of the forward process: from any x_0, x_T is a standard normal; at t = 0 it is x_0.
    #[test]
    fn q_sample_goes_from_the_image_to_noise() {
        let device = kernels::cpu();
        let diffusion =
            GaussianDiffusion::new(NoiseSchedule::new(BetaSchedule::Cosine, 1000).unwrap());
        let x_0 = Tensor::<4>::ones([2, 1, 28, 28], &device) * 0.5;
        let noise = gaussian_batch(1, 0..2, 0, 0, &device);
        let x_t = diffusion.q_sample(x_0.clone(), &[0, 999], noise.clone());
        let distance = |a: Tensor<4>, b: Tensor<4>| (a - b).abs().max().into_scalar::<f32>();
        let image = |x: &Tensor<4>, i: usize| x.clone().slice([i..i + 1]);
        assert!(distance(image(&x_t, 0), image(&x_0, 0)) < 0.03);
        assert!(distance(image(&x_t, 1), image(&noise, 1)) < 1e-4);
    }
}
