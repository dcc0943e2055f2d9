//! What a seed means: every random number of a picture.
//!
//! A backend's own generator differs from device to device, so the noise is made here, on the
//! host, by a counter-based generator (ChaCha with 8 rounds) keyed by what the noise is for. No
//! draw depends on another one: pausing, rewinding, batching or leaving out steps changes nothing.

#[cfg(feature = "network")]
use std::ops::Range;

#[cfg(feature = "network")]
use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Width and height of an image.
pub const IMAGE_SIZE: usize = 28;

/// Pixels of an image.
pub const PIXELS: usize = IMAGE_SIZE * IMAGE_SIZE;

/// 784 standard normal numbers that belong to (seed, image, branch, t) and to nothing else.
///
/// `t` is 0-based: the noise added by the step that leaves t (the z of Algorithm 2) has that t, and
/// the start noise x_T has t = T, the number of timesteps. `branch` is 0 for the run itself;
/// another branch goes its own way from the same x_t.
pub fn gaussian(seed: u32, image: u32, branch: u32, t: usize) -> Vec<f32> {
    let mut key = [0u8; 32];
    key[0..4].copy_from_slice(&seed.to_le_bytes());
    key[4..8].copy_from_slice(&image.to_le_bytes());
    key[8..12].copy_from_slice(&branch.to_le_bytes());
    key[12..20].copy_from_slice(&(t as u64).to_le_bytes());
    // Keeps these streams apart from any other use of the generator with a small key.
    key[20..32].copy_from_slice(b"fashion-ddpm");
    let mut rng = ChaCha8Rng::from_seed(key);
    (0..PIXELS)
        .map(|_| StandardNormal.sample(&mut rng))
        .collect()
}

/// [`gaussian`] of several images, shape `[images.len(), 1, 28, 28]`.
#[cfg(feature = "network")]
pub fn gaussian_batch(
    seed: u32,
    images: Range<u32>,
    branch: u32,
    t: usize,
    device: &Device,
) -> Tensor<4> {
    let n = images.len();
    let values: Vec<f32> = images
        .flat_map(|image| gaussian(seed, image, branch, t))
        .collect();
    Tensor::from_data(
        TensorData::new(values, [n, 1, IMAGE_SIZE, IMAGE_SIZE]),
        device,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The law, not yesterday's numbers: moments of a standard normal, and no correlation between
    /// neighbouring keys. Over n = 156,800 values the standard errors are 0.0025, 0.0036, 0.012.
    #[test]
    fn the_noise_is_standard_normal() {
        let values: Vec<f64> = (0..200)
            .flat_map(|t| gaussian(7, 0, 0, t))
            .map(f64::from)
            .collect();
        let n = values.len() as f64;
        let moment = |k: i32| values.iter().map(|v| v.powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.012, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.018, "variance {}", moment(2));
        assert!(moment(3).abs() < 0.05, "skewness {}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.12, "kurtosis {}", moment(4));
        let inside = values.iter().filter(|v| v.abs() < 1.959_964).count() as f64 / n;
        assert!((inside - 0.95).abs() < 0.003, "inside 1.96 sigma: {inside}");
    }

    #[test]
    fn every_part_of_the_key_gives_other_uncorrelated_noise() {
        let base = gaussian(7, 3, 0, 500);
        assert_eq!(base, gaussian(7, 3, 0, 500));
        for other in [
            gaussian(8, 3, 0, 500),
            gaussian(7, 4, 0, 500),
            gaussian(7, 3, 1, 500),
            gaussian(7, 3, 0, 501),
        ] {
            let dot: f32 = base.iter().zip(&other).map(|(a, b)| a * b).sum();
            // One standard error is 1 / 28.
            assert!((dot / PIXELS as f32).abs() < 0.18, "correlated: {dot}");
        }
    }

    #[cfg(feature = "network")]
    #[test]
    fn a_batch_is_its_images() {
        let device = kernels::cpu();
        let batch = gaussian_batch(9, 2..5, 1, 10, &device);
        assert_eq!(batch.dims(), [3, 1, 28, 28]);
        let expected: Vec<f32> = (2..5).flat_map(|i| gaussian(9, i, 1, 10)).collect();
        assert_eq!(
            batch.into_data_as::<f32>().try_to_vec::<f32>().unwrap(),
            expected
        );
    }
}
