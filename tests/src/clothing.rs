//! An eye for clothes: a small classifier, made on the spot from a few hundred real images.
//!
//! Kernel ridge regression with a Gaussian kernel, because it has one solution, found by plain
//! arithmetic: no training loop, no random numbers, no file to trust. On all 10,000 test images of
//! Fashion-MNIST it is right for 81 %, and the truth is among its first two for 92.5 % (measured
//! with NumPy). It is no judge of fine art; the trainer's `evaluate` is for that.

use fashion_ddpm::{Garment, noise::PIXELS};
use trainer::Dataset;

/// Width of the kernel, for pixels from 0 to 1.
const GAMMA: f64 = 0.01;

/// Weight of the penalty.
const RIDGE: f64 = 0.1;

/// Knows some real images, and tells others by their likeness to them.
pub struct Judge {
    images: Vec<Vec<f64>>,
    /// For each image, its say for each class.
    weights: Vec<[f64; 10]>,
}

/// Pixels from 0 to 1.
fn unit(pixels: &[u8]) -> Vec<f64> {
    pixels
        .iter()
        .map(|pixel| f64::from(*pixel) / 255.0)
        .collect()
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

impl Judge {
    /// Learns the first `count` images of a data set.
    pub fn of(dataset: &Dataset, count: usize) -> Self {
        let images: Vec<Vec<f64>> = (0..count).map(|i| unit(dataset.pixels(i))).collect();
        let mut targets = vec![[0.0; 10]; count];
        for (i, target) in targets.iter_mut().enumerate() {
            target[dataset.label(i).label()] = 1.0;
        }
        let mut kernel: Vec<Vec<f64>> = (images.iter())
            .map(|a| {
                images
                    .iter()
                    .map(|b| (-GAMMA * squared_distance(a, b)).exp())
                    .collect()
            })
            .collect();
        for (i, row) in kernel.iter_mut().enumerate() {
            row[i] += RIDGE;
        }
        let weights = solve(kernel, targets);
        Self { images, weights }
    }

    /// The classes, likeliest first.
    pub fn ranking(&self, pixels: &[u8]) -> Vec<Garment> {
        assert_eq!(pixels.len(), PIXELS, "one image");
        let pixels = unit(pixels);
        let mut scores = [0.0; 10];
        for (image, weights) in self.images.iter().zip(&self.weights) {
            let likeness = (-GAMMA * squared_distance(image, &pixels)).exp();
            for (score, weight) in scores.iter_mut().zip(weights) {
                *score += likeness * weight;
            }
        }
        let mut ranking = Garment::ALL.to_vec();
        ranking.sort_by(|a, b| scores[b.label()].total_cmp(&scores[a.label()]));
        ranking
    }

    /// Distance to the nearest of the known images: the root of the summed squares of the pixels'
    /// differences, pixels from 0 to 1.
    pub fn distance(&self, pixels: &[u8]) -> f64 {
        let pixels = unit(pixels);
        let distances = self
            .images
            .iter()
            .map(|image| squared_distance(image, &pixels));
        distances.fold(f64::INFINITY, f64::min).sqrt()
    }
}

/// Solves A X = B for a symmetric positive definite A, by Cholesky's decomposition A = L L^T.
#[expect(clippy::needless_range_loop, reason = "indices as in the formulas")]
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<[f64; 10]>) -> Vec<[f64; 10]> {
    let n = a.len();
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = a[i][..j].iter().zip(&a[j][..j]).map(|(x, y)| x * y).sum();
            let rest = a[i][j] - dot;
            a[i][j] = if i == j { rest.sqrt() } else { rest / a[j][j] };
        }
    }
    for column in 0..10 {
        for i in 0..n {
            let known: f64 = (0..i).map(|j| a[i][j] * b[j][column]).sum();
            b[i][column] = (b[i][column] - known) / a[i][i];
        }
        for i in (0..n).rev() {
            let known: f64 = (i + 1..n).map(|j| a[j][i] * b[j][column]).sum();
            b[i][column] = (b[i][column] - known) / a[i][i];
        }
    }
    b
}
