//! Figures for sets of images, as functions of numbers: no network, no files.
//!
//! | figure | from |
//! | --- | --- |
//! | [`Gaussian::frechet_distance`] | Heusel et al. 2017, equation 6, there in Inception's features |
//! | [`Manifold::precision`], [`Manifold::recall`] | Kynkäänniemi et al. 2019, section 2 |
//! | [`Manifold::density`], [`Manifold::coverage`] | Naeem et al. 2020, section 3 |
//! | [`nearest`] | distance to the nearest neighbour, for memorisation |
//! | [`chi_square`] | Pearson 1900 |
//! | [`interval`] | the bootstrap, Efron 1979 |

use std::f64::consts::PI;

use gemm::Parallelism;
use nalgebra::{DMatrix, DVector, SymmetricEigen};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Points of a space, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Points<'a> {
    values: &'a [f32],
    dimensions: usize,
}

impl<'a> Points<'a> {
    /// Takes `values` as points of `dimensions` numbers each.
    ///
    /// # Panics
    /// If they are no whole number of points.
    pub fn new(values: &'a [f32], dimensions: usize) -> Self {
        assert!(dimensions > 0 && values.len().is_multiple_of(dimensions));
        Self { values, dimensions }
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.values.len() / self.dimensions
    }

    /// Points `from` to `to`, without the latter.
    fn part(self, from: usize, to: usize) -> Self {
        let values = &self.values[from * self.dimensions..to * self.dimensions];
        Self { values, ..self }
    }

    fn point(self, i: usize) -> &'a [f32] {
        &self.values[i * self.dimensions..][..self.dimensions]
    }

    fn squared_norms(self) -> Vec<f32> {
        let squared = |point: &[f32]| point.iter().map(|v| v * v).sum();
        self.values
            .chunks_exact(self.dimensions)
            .map(squared)
            .collect()
    }
}

/// Mean and covariance of points, in f64.
#[derive(Debug, Clone)]
pub struct Gaussian {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
}

impl Gaussian {
    /// Of all points, the covariance with n - 1 below the line.
    ///
    /// # Panics
    /// If there are fewer than two points.
    pub fn of(points: Points) -> Self {
        Self::weighted(points, &vec![1; points.count()])
    }

    /// As if point i were there `times[i]` times.
    ///
    /// # Panics
    /// If `times` is of another length, or counts fewer than two points.
    pub fn weighted(points: Points, times: &[u32]) -> Self {
        assert_eq!(times.len(), points.count());
        let total: f64 = times.iter().map(|&times| f64::from(times)).sum();
        assert!(total > 1.0, "a covariance needs two points");
        let dimensions = points.dimensions;
        let mut mean = DVector::zeros(dimensions);
        for (point, &times) in points.values.chunks_exact(dimensions).zip(times) {
            for (mean, &value) in mean.iter_mut().zip(point) {
                *mean += f64::from(value) * f64::from(times);
            }
        }
        mean /= total;
        let mut covariance = DMatrix::zeros(dimensions, dimensions);
        // A thousand points at once: the matrix of all 60,000 would be needlessly large.
        for (block, times) in points
            .values
            .chunks(1024 * dimensions)
            .zip(times.chunks(1024))
        {
            let centred = DMatrix::from_fn(dimensions, block.len() / dimensions, |row, column| {
                let value = f64::from(block[column * dimensions + row]) - mean[row];
                value * f64::from(times[column]).sqrt()
            });
            covariance.gemm(1.0, &centred, &centred.transpose(), 1.0);
        }
        covariance /= total - 1.0;
        Self { mean, covariance }
    }

    /// The squared 2-Wasserstein distance of two normal distributions (Dowson & Landau 1982),
    /// |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^1/2 C_2 C_1^1/2)^1/2).
    ///
    /// # Panics
    /// If they are of different spaces.
    pub fn frechet_distance(&self, other: &Self) -> f64 {
        let root = square_root(&self.covariance);
        let product = &root * &other.covariance * &root;
        let eigenvalues = SymmetricEigen::new(symmetric(product)).eigenvalues;
        // Rounding leaves some a little below zero.
        let trace: f64 = eigenvalues.iter().map(|v| v.max(0.0).sqrt()).sum();
        let traces = self.covariance.trace() + other.covariance.trace();
        (&self.mean - &other.mean).norm_squared() + traces - 2.0 * trace
    }
}

/// The symmetric square root of a covariance.
fn square_root(covariance: &DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen {
        eigenvectors,
        eigenvalues,
    } = SymmetricEigen::new(covariance.clone());
    let roots = eigenvalues.map(|value| value.max(0.0).sqrt());
    &eigenvectors * DMatrix::from_diagonal(&roots) * eigenvectors.transpose()
}

fn symmetric(matrix: DMatrix<f64>) -> DMatrix<f64> {
    (&matrix + matrix.transpose()) * 0.5
}

/// Calls `look(i, distances)` with the squared distances of point i to all of `to`. Distances below
/// about a thousandth of a point's length are rounding.
fn for_each_distance(from: Points, to: Points, mut look: impl FnMut(usize, &[f32])) {
    const ROWS: usize = 256;
    assert_eq!(from.dimensions, to.dimensions);
    let (k, n) = (from.dimensions, to.count());
    let (from_norms, to_norms) = (from.squared_norms(), to.squared_norms());
    let mut products = vec![0.0f32; ROWS * n];
    for first in (0..from.count()).step_by(ROWS) {
        let block = from.part(first, (first + ROWS).min(from.count()));
        let m = block.count();
        // SAFETY: the product reads m x k values of `block`, n x k of `to`, and writes m x n of
        // `products`, which holds as many and is borrowed by nobody else.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                products.as_mut_ptr(),
                1,
                n as isize,
                false,
                block.values.as_ptr(),
                1,
                k as isize,
                to.values.as_ptr(),
                k as isize,
                1,
                0.0,
                -2.0,
                false,
                false,
                false,
                Parallelism::Rayon(0),
            );
        }
        for (row, products) in products.chunks_exact_mut(n.max(1)).take(m).enumerate() {
            let norm = from_norms[first + row];
            for (product, to_norm) in products.iter_mut().zip(&to_norms) {
                *product = (*product + norm + to_norm).max(0.0);
            }
            look(first + row, products);
        }
    }
}

/// For each point of `from`, the distance to the nearest of `to`, and which that is.
///
/// # Panics
/// If `to` holds no point or is of another space.
pub fn nearest(from: Points, to: Points) -> Vec<(f32, usize)> {
    let mut found = Vec::with_capacity(from.count());
    for_each_distance(from, to, |i, distances| {
        let nearest = distances.iter().enumerate();
        let (index, _) = nearest
            .min_by(|a, b| a.1.total_cmp(b.1))
            .expect("there are points to be near to");
        // Once more without the rounding: a copy is at distance 0.
        let pairs = from.point(i).iter().zip(to.point(index));
        let squared: f32 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
        found.push((squared.sqrt(), index));
    });
    found
}

/// For each point, the squared distance to its k-th nearest neighbour among the others.
fn squared_radii(points: Points, k: usize) -> Vec<f32> {
    let mut radii = Vec::with_capacity(points.count());
    for_each_distance(points, points, |i, distances| {
        let mut others = distances.to_vec();
        others.swap_remove(i);
        let (_, radius, _) = others.select_nth_unstable_by(k - 1, f32::total_cmp);
        radii.push(*radius);
    });
    radii
}

/// Two sets of points, each with the balls that reach to the k-th neighbour: the region where real
/// images are, and the one where samples are. Each figure is the mean of what it says of each point,
/// so that a bootstrap can draw points anew; the balls stay as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifold {
    /// Of each sample, 1 if it lies in a ball of a real image; the mean is the precision.
    pub precision: Vec<f64>,
    /// Of each real image, 1 if it lies in a ball of a sample; the mean is the recall.
    pub recall: Vec<f64>,
    /// Of each sample, 1 / k times the number of real images in whose balls it lies; the mean is the
    /// density, 1 where samples are as real images are.
    pub density: Vec<f64>,
    /// Of each real image, 1 if a sample lies in its ball; the mean is the coverage.
    pub coverage: Vec<f64>,
}

/// Neighbours that precision and recall look at, as their authors do.
pub const PRECISION_NEIGHBOURS: usize = 3;

/// Neighbours that density and coverage look at, as their authors do.
pub const DENSITY_NEIGHBOURS: usize = 5;

impl Manifold {
    /// Compares `samples` with `real` images.
    ///
    /// # Panics
    /// If one of the sets holds fewer than [`DENSITY_NEIGHBOURS`] + 1 points, or they are of
    /// different spaces.
    pub fn compare(real: Points, samples: Points) -> Self {
        let least = real.count().min(samples.count());
        assert!(
            least > DENSITY_NEIGHBOURS,
            "{least} points have too few neighbours"
        );
        let near = squared_radii(real, PRECISION_NEIGHBOURS);
        let wide = squared_radii(real, DENSITY_NEIGHBOURS);
        let sampled = squared_radii(samples, PRECISION_NEIGHBOURS);
        let mut precision = vec![0.0; samples.count()];
        let mut density = vec![0.0; samples.count()];
        let mut recall = vec![0.0; real.count()];
        let mut coverage = vec![0.0; real.count()];
        for_each_distance(real, samples, |i, distances| {
            for (j, &distance) in distances.iter().enumerate() {
                if distance <= near[i] {
                    precision[j] = 1.0;
                }
                if distance <= wide[i] {
                    density[j] += 1.0 / DENSITY_NEIGHBOURS as f64;
                    coverage[i] = 1.0;
                }
                if distance <= sampled[j] {
                    recall[i] = 1.0;
                }
            }
        });
        Self {
            precision,
            recall,
            density,
            coverage,
        }
    }
}

/// The mean.
///
/// # Panics
/// If there is nothing to take it of.
pub fn mean(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "a mean of nothing");
    values.iter().sum::<f64>() / values.len() as f64
}

/// The median; the mean of the two in the middle where there are two.
///
/// # Panics
/// If there is nothing to take it of.
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "a median of nothing");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// Pearson's statistic of `counts` against equal shares, and the probability of at least as much
/// by chance.
///
/// # Panics
/// If there are no counts, or all are 0.
pub fn chi_square(counts: &[u32]) -> (f64, f64) {
    let total: f64 = counts.iter().map(|&count| f64::from(count)).sum();
    let expected = total / counts.len() as f64;
    assert!(expected > 0.0, "counts of nothing");
    let statistic = counts
        .iter()
        .map(|&count| (f64::from(count) - expected).powi(2) / expected)
        .sum();
    (statistic, chi_square_tail(statistic, counts.len() - 1))
}

/// P(chi^2 >= x) with `freedom` degrees of it (Abramowitz & Stegun 1964, 26.4.4 and 26.4.5).
fn chi_square_tail(x: f64, freedom: usize) -> f64 {
    let odd = freedom % 2 == 1;
    let (mut tail, mut term, first) = if odd {
        let root = x.sqrt();
        let normal = (-x / 2.0).exp() / (2.0 * PI).sqrt();
        (libm::erfc(root / 2f64.sqrt()), 2.0 * normal * root, 1)
    } else {
        (0.0, (-x / 2.0).exp(), 0)
    };
    let mut divisor = first;
    while divisor < freedom {
        tail += term;
        divisor += 2;
        term *= x / divisor as f64;
    }
    tail.clamp(0.0, 1.0)
}

/// Resamples of a bootstrap.
pub const RESAMPLES: usize = 200;

/// The 95 % interval of `statistic`, from [`RESAMPLES`] resamples of `count` things: it is told how
/// often each was drawn. The same for the same arguments.
///
/// The spread is the resamples', the middle is the figure's own: a distance between distributions
/// is larger in every resample, which repeats points, than in the sample itself.
pub fn interval(count: usize, value: f64, statistic: impl Fn(&[u32]) -> f64) -> [f64; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(0x006d_6574_7269_6373);
    let mut found: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut times = vec![0u32; count];
            for _ in 0..count {
                times[rng.random_range(0..count)] += 1;
            }
            statistic(&times)
        })
        .collect();
    found.sort_by(f64::total_cmp);
    let middle = mean(&found);
    let quantile = |q: f64| found[(q * (RESAMPLES - 1) as f64).round() as usize];
    [0.025, 0.975].map(|q| value + quantile(q) - middle)
}

/// The mean of resampled values.
///
/// # Panics
/// If the lengths differ.
pub fn weighted_mean(values: &[f64], times: &[u32]) -> f64 {
    assert_eq!(values.len(), times.len());
    let total: u32 = times.iter().sum();
    let sum: f64 = values
        .iter()
        .zip(times)
        .map(|(v, &n)| v * f64::from(n))
        .sum();
    sum / f64::from(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, test_runner::RngSeed};
    use rand_distr::{Distribution, StandardNormal};

    fn normal(seed: u64, count: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .map(|_| StandardNormal.sample(&mut rng))
            .collect()
    }

    fn gaussian(mean: &[f64], covariance: &[f64]) -> Gaussian {
        let n = mean.len();
        Gaussian {
            mean: DVector::from_column_slice(mean),
            covariance: DMatrix::from_row_slice(n, n, covariance),
        }
    }

    /// Commuting covariances have a closed form: |m_1 - m_2|^2 + sum of (s_i - t_i)^2 over the
    /// standard deviations along the common axes, here turned by 30 degrees.
    #[test]
    fn frechet_distance_is_the_closed_form() {
        let turn = |s: f64, t: f64| {
            let (sin, cos) = (PI / 6.0).sin_cos();
            let rotation = DMatrix::from_row_slice(2, 2, &[cos, -sin, sin, cos]);
            let diagonal = DMatrix::from_diagonal(&DVector::from_column_slice(&[s * s, t * t]));
            let turned: DMatrix<f64> = &rotation * diagonal * rotation.transpose();
            turned.iter().copied().collect::<Vec<f64>>()
        };
        let a = gaussian(&[1.0, 2.0], &turn(3.0, 0.5));
        let b = gaussian(&[-1.0, 2.5], &turn(1.0, 2.0));
        let expected = 4.0 + 0.25 + 4.0 + 2.25;
        assert!((a.frechet_distance(&b) - expected).abs() < 1e-9);
        assert!((b.frechet_distance(&a) - expected).abs() < 1e-9);
        assert!(a.frechet_distance(&a).abs() < 1e-9);
        // Without a common axis: tr (C_1^1/2 C_2 C_1^1/2)^1/2 = sqrt(tr C_1 C_2 + 2 sqrt(det C_1 C_2))
        // in two dimensions.
        let c = gaussian(&[0.0, 0.0], &[2.0, 0.7, 0.7, 1.0]);
        let d = gaussian(&[0.0, 0.0], &[1.0, -0.4, -0.4, 3.0]);
        let product = &c.covariance * &d.covariance;
        let root = (product.trace() + 2.0 * product.determinant().sqrt()).sqrt();
        assert!((c.frechet_distance(&d) - (3.0 + 4.0 - 2.0 * root)).abs() < 1e-9);
    }

    #[test]
    fn weights_are_repetitions() {
        let values = normal(1, 5 * 3);
        let points = Points::new(&values, 3);
        let repeated: Vec<f32> = [0, 0, 2, 3, 3, 3]
            .into_iter()
            .flat_map(|i: usize| values[i * 3..i * 3 + 3].to_vec())
            .collect();
        let a = Gaussian::weighted(points, &[2, 0, 1, 3, 0]);
        let b = Gaussian::of(Points::new(&repeated, 3));
        assert!((&a.mean - &b.mean).norm() < 1e-12);
        assert!((&a.covariance - &b.covariance).norm() < 1e-12);
    }

    /// The estimate approaches the distance of what was drawn from: two normal distributions, one
    /// moved by 2 along an axis.
    #[test]
    fn samples_give_the_distance_of_their_distributions() {
        let a = normal(2, 4 * 20_000);
        let mut b = normal(3, 4 * 20_000);
        b.iter_mut().step_by(4).for_each(|value| *value += 2.0);
        let [a, b] = [&a, &b].map(|values| Gaussian::of(Points::new(values, 4)));
        assert!((a.frechet_distance(&b) - 4.0).abs() < 0.1);
    }

    proptest! {
        // The same cases each time: two ways to compute a distance in f32 may disagree about which of two
        // that are nearly equal is the smaller, once in some thousand runs.
        #![proptest_config(ProptestConfig {
            cases: 32,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(1),
            ..Default::default()
        })]

        /// Against the definitions, point by point.
        #[test]
        fn manifolds_are_their_definitions(seed: u64, real in 6usize..40, samples in 6usize..40) {
            let a = normal(seed, real * 3);
            let b: Vec<f32> = normal(!seed, samples * 3).iter().map(|v| v * 1.5).collect();
            let distance = |p: &[f32], q: &[f32]| -> f32 {
                p.iter().zip(q).map(|(p, q)| (p - q).powi(2)).sum::<f32>().sqrt()
            };
            let radius = |set: &[f32], i: usize, k: usize| {
                let mut distances: Vec<f32> = set.chunks(3).enumerate()
                    .filter(|(j, _)| *j != i)
                    .map(|(_, q)| distance(&set[i * 3..i * 3 + 3], q))
                    .collect();
                distances.sort_by(f32::total_cmp);
                distances[k - 1]
            };
            let found = Manifold::compare(Points::new(&a, 3), Points::new(&b, 3));
            for (j, sample) in b.chunks(3).enumerate() {
                let balls = |k| a.chunks(3).enumerate()
                    .filter(|(i, real)| distance(real, sample) <= radius(&a, *i, k)).count();
                prop_assert_eq!(found.precision[j] == 1.0, balls(3) > 0);
                prop_assert!((found.density[j] - balls(5) as f64 / 5.0).abs() < 1e-9);
            }
            for (i, real) in a.chunks(3).enumerate() {
                let near = |radius: &dyn Fn(usize) -> f32| b.chunks(3).enumerate()
                    .any(|(j, sample)| distance(real, sample) <= radius(j));
                prop_assert_eq!(found.recall[i] == 1.0, near(&|j| radius(&b, j, 3)));
                prop_assert_eq!(found.coverage[i] == 1.0, near(&|_| radius(&a, i, 5)));
            }
        }

        #[test]
        fn the_nearest_is_the_nearest(seed: u64, from in 1usize..300, to in 1usize..50) {
            let a = normal(seed, from * 2);
            let b = normal(!seed, to * 2);
            for (i, (found, index)) in nearest(Points::new(&a, 2), Points::new(&b, 2)).into_iter().enumerate() {
                let distance = |j: usize| f64::from((a[i * 2] - b[j * 2]).hypot(a[i * 2 + 1] - b[j * 2 + 1]));
                let least = (0..to).map(distance).fold(f64::INFINITY, f64::min);
                prop_assert!((distance(index) - least).abs() < 3e-3 && (f64::from(found) - least).abs() < 3e-3);
            }
        }
    }

    /// Against the printed tables: the 95th and the 99th percentile.
    #[test]
    fn chi_square_is_the_tables() {
        for (x, freedom, p) in [
            (3.841, 1, 0.05),
            (5.991, 2, 0.05),
            (16.919, 9, 0.05),
            (21.666, 9, 0.01),
            (18.307, 10, 0.05),
        ] {
            assert!((chi_square_tail(x, freedom) - p).abs() < 1e-4, "{freedom}");
        }
        assert_eq!(chi_square(&[5; 10]), (0.0, 1.0));
        let (statistic, p) = chi_square(&[10, 20, 30]);
        assert!((statistic - 10.0).abs() < 1e-12 && (p - (-5.0f64).exp()).abs() < 1e-12);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    /// The interval of a mean is 1.96 standard errors to either side.
    #[test]
    fn an_interval_is_as_wide_as_theory_says() {
        let values: Vec<f64> = normal(5, 400).into_iter().map(f64::from).collect();
        let value = mean(&values);
        let variance = values.iter().map(|v| (v - value).powi(2)).sum::<f64>() / 399.0;
        let [low, high] = interval(400, value, |times| weighted_mean(&values, times));
        let expected = 2.0 * 1.96 * (variance / 400.0).sqrt();
        assert!(low < value && value < high);
        assert!(
            ((high - low) / expected - 1.0).abs() < 0.2,
            "{low} {high} {expected}"
        );
    }
}
