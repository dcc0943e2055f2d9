//! A data set in the plane whose score is known.
//!
//! What the network learns for images can be written down for a mixture of Gaussians: noised by
//! q(x_t given x_0) it stays one, and the gradient of its log density, the score, is a closed form
//! (Song et al. 2021, "Score-based generative modeling through SDEs", section 2). So the whole
//! method, schedule and Algorithm 2 included, can be watched where nothing is approximate.

use crate::{NoiseSchedule, sampler::Step};

/// Equally likely round Gaussian clusters in the plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// Where the clusters are.
    pub centres: Vec<[f64; 2]>,
    /// Standard deviation of each, in every direction; above 0.
    pub deviation: f64,
}

impl Mixture {
    /// A point of the data set, from the number of its cluster and two standard normal numbers; the
    /// clusters are counted round and round. The origin where there is no cluster.
    pub fn sample(&self, cluster: usize, normal: [f64; 2]) -> [f64; 2] {
        let count = self.centres.len().max(1);
        let centre = self.centres.get(cluster % count).copied();
        let centre = centre.unwrap_or_default();
        [0, 1].map(|i| centre[i] + self.deviation * normal[i])
    }

    /// Natural logarithm of the density of x_t where `alpha_cumprod` is alpha_bar_t: a mixture of
    /// N(sqrt(alpha_bar) centre, alpha_bar deviation^2 + 1 - alpha_bar). Minus infinity where there is no
    /// cluster.
    pub fn log_density(&self, x: [f64; 2], alpha_cumprod: f64) -> f64 {
        if self.centres.is_empty() {
            return f64::NEG_INFINITY;
        }
        let variance = self.variance(alpha_cumprod);
        let logits = self.logits(x, alpha_cumprod);
        let most = logits.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = logits.iter().map(|logit| (logit - most).exp()).sum();
        let count = self.centres.len() as f64;
        most + (sum / count).ln() - (std::f64::consts::TAU * variance).ln()
    }

    /// The score: the gradient of [`Self::log_density`]. It points to the clusters, weighted by how
    /// likely each is to have made this x_t. Zero where there is no cluster.
    pub fn score(&self, x: [f64; 2], alpha_cumprod: f64) -> [f64; 2] {
        let variance = self.variance(alpha_cumprod);
        let shrink = alpha_cumprod.sqrt();
        let logits = self.logits(x, alpha_cumprod);
        let most = logits.iter().copied().fold(f64::MIN, f64::max);
        let (mut sum, mut towards) = (0.0, [0.0; 2]);
        for (logit, centre) in logits.iter().zip(&self.centres) {
            let weight = (logit - most).exp();
            sum += weight;
            for i in 0..2 {
                towards[i] += weight * (shrink * centre[i] - x[i]);
            }
        }
        match sum > 0.0 {
            true => towards.map(|towards| towards / (sum * variance)),
            false => [0.0; 2],
        }
    }

    /// One step of a sampler with the exact noise in place of a network's, -sqrt(1 - alpha_bar_t)
    /// times the score (Ho et al. 2020, section 3.2). `z` is standard normal. Nothing is clipped:
    /// the plane has no black and no white. For samplers that remember no earlier step.
    pub fn step(&self, step: &Step, x_t: [f64; 2], z: [f64; 2]) -> [f64; 2] {
        let (a, s) = (step.sqrt_alpha_cumprod, step.sqrt_one_minus_alpha_cumprod);
        let score = self.score(x_t, a * a);
        [0, 1].map(|i| {
            let pred_noise = -s * score[i];
            let pred_x_start = (x_t[i] - s * pred_noise) / a;
            step.x_t * x_t[i]
                + step.pred_noise * pred_noise
                + step.pred_x_start * pred_x_start
                + step.noise * z[i]
        })
    }

    /// How many of these points lie within three standard deviations of a cluster: of the data set's
    /// own, 1 - exp(-9/2) = 98.9 % or more.
    pub fn within(&self, points: impl IntoIterator<Item = [f64; 2]>) -> usize {
        let near = |x: &[f64; 2]| {
            let radius = 3.0 * self.deviation;
            let mut centres = self.centres.iter();
            centres.any(|c| (x[0] - c[0]).hypot(x[1] - c[1]) <= radius)
        };
        points.into_iter().filter(near).count()
    }

    fn variance(&self, alpha_cumprod: f64) -> f64 {
        alpha_cumprod * self.deviation.powi(2) + 1.0 - alpha_cumprod
    }

    /// Of each cluster, what its logarithm of density at x has that the others' have not.
    fn logits(&self, x: [f64; 2], alpha_cumprod: f64) -> Vec<f64> {
        let variance = self.variance(alpha_cumprod);
        let shrink = alpha_cumprod.sqrt();
        let distance = |c: &[f64; 2]| (x[0] - shrink * c[0]).hypot(x[1] - shrink * c[1]);
        let logit = |c| -distance(c).powi(2) / (2.0 * variance);
        self.centres.iter().map(logit).collect()
    }
}

/// One step of noising, q(x_t given x_(t-1)) = N(sqrt(1 - beta_t) x_(t-1), beta_t I): Ho et al. 2020,
/// equation 2. `t` is 0-based, `normal` standard normal.
pub fn noise_step(schedule: &NoiseSchedule, t: usize, x: [f64; 2], normal: [f64; 2]) -> [f64; 2] {
    let beta = schedule.betas()[t];
    [0, 1].map(|i| (1.0 - beta).sqrt() * x[i] + beta.sqrt() * normal[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BetaSchedule, Sampler, noise::gaussian};

    fn schedule() -> NoiseSchedule {
        NoiseSchedule::new(BetaSchedule::Linear, 1000).unwrap()
    }

    fn three() -> Mixture {
        Mixture {
            centres: vec![[-0.8, -0.5], [0.9, -0.4], [0.1, 0.8]],
            deviation: 0.08,
        }
    }

    /// N points' normal numbers, from the noise of `t`.
    fn normals(n: usize, t: usize) -> Vec<[f64; 2]> {
        let numbers = (0..).flat_map(|image| gaussian(3, image, 0, t));
        let numbers: Vec<f64> = numbers.take(2 * n).map(f64::from).collect();
        numbers.chunks(2).map(|pair| [pair[0], pair[1]]).collect()
    }

    #[test]
    fn the_score_is_the_derivative_of_the_log_density() {
        const H: f64 = 1e-5;
        for alpha_cumprod in [0.9999, 0.7, 0.3, 1e-3] {
            for x in [[0.0, 0.0], [0.5, -0.3], [-1.2, 0.9], [2.0, -2.5]] {
                let score = three().score(x, alpha_cumprod);
                for i in 0..2 {
                    let at = |h: f64| {
                        let mut x = x;
                        x[i] += h;
                        three().log_density(x, alpha_cumprod)
                    };
                    let derivative = (at(H) - at(-H)) / (2.0 * H);
                    // The rounding of two logarithms divided by 2 H, and the third derivative.
                    let allowed = 1e-5 * (1.0 + derivative.abs());
                    assert!(
                        (score[i] - derivative).abs() < allowed,
                        "alpha_bar {alpha_cumprod}, {x:?}: {} {derivative}",
                        score[i]
                    );
                }
            }
        }
    }

    /// One cluster is a normal distribution, whose score everybody knows; many clusters that are one.
    #[test]
    fn one_cluster_is_a_normal_distribution() {
        let (centre, deviation) = ([0.4, -0.7], 0.3);
        for copies in [1, 5] {
            let mixture = Mixture {
                centres: vec![centre; copies],
                deviation,
            };
            for alpha_cumprod in [1.0, 0.5, 0.01] {
                let variance = alpha_cumprod * 0.09 + 1.0 - alpha_cumprod;
                let x = [0.1, 0.2];
                let d = [0, 1].map(|i| x[i] - f64::sqrt(alpha_cumprod) * centre[i]);
                let square = d[0] * d[0] + d[1] * d[1];
                let density =
                    (-square / (2.0 * variance)).exp() / (std::f64::consts::TAU * variance);
                let found = mixture.log_density(x, alpha_cumprod);
                assert!((found - density.ln()).abs() < 1e-12);
                let score = mixture.score(x, alpha_cumprod);
                assert!((0..2).all(|i| (score[i] + d[i] / variance).abs() < 1e-12));
            }
        }
    }

    /// T small steps are the one step of equation 4: mean sqrt(alpha_bar) x_0 and variance
    /// 1 - alpha_bar, over 4,000 numbers with standard errors of 0.016 and 0.022.
    #[test]
    fn noising_step_by_step_is_q_sample() {
        const N: usize = 2000;
        let schedule = schedule();
        let mut points = vec![[1.5, 1.5]; N];
        for t in 0..1000 {
            for (x, normal) in points.iter_mut().zip(normals(N, t)) {
                *x = noise_step(&schedule, t, *x, normal);
            }
            if [50, 300, 999].contains(&t) {
                let alpha_cumprod = schedule.alphas_cumprod()[t];
                let all: Vec<f64> = points.iter().flatten().copied().collect();
                let n = all.len() as f64;
                let mean = all.iter().sum::<f64>() / n;
                let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                assert!(
                    (mean - 1.5 * alpha_cumprod.sqrt()).abs() < 0.065,
                    "{t}: {mean}"
                );
                assert!(
                    (variance - (1.0 - alpha_cumprod)).abs() < 0.09,
                    "{t}: {variance}"
                );
            }
        }
    }

    /// Algorithm 2 with the exact score brings pure noise back to the data: to its clusters, each as
    /// often as the data, and round them as far as the data.
    #[test]
    fn algorithm_2_with_the_exact_score_draws_from_the_data() {
        const N: usize = 1500;
        let (schedule, mixture) = (schedule(), three());
        let mut points = normals(N, 1000);
        assert!(mixture.within(points.clone()) < N / 10);
        for step in Sampler::Ddpm.plan(&schedule, 1000).unwrap() {
            for (x, z) in points.iter_mut().zip(normals(N, step.t)) {
                *x = mixture.step(&step, *x, z);
            }
        }
        // Of the data itself 98.9 %; four standard errors of a binomial are 1.1 %.
        let within = mixture.within(points.iter().copied());
        assert!(within as f64 > 0.978 * N as f64, "{within} of {N}");
        let mut counts = [0.0; 3];
        let mut squares = 0.0;
        for x in &points {
            let distance = |c: &[f64; 2]| (x[0] - c[0]).hypot(x[1] - c[1]);
            let distances: Vec<f64> = mixture.centres.iter().map(distance).collect();
            let nearest = (0..3)
                .min_by(|a, b| distances[*a].total_cmp(&distances[*b]))
                .unwrap();
            counts[nearest] += 1.0;
            squares += distances[nearest].powi(2);
        }
        // chi^2 with two degrees of freedom exceeds 13.8 once in a thousand.
        let expected = N as f64 / 3.0;
        let chi_square: f64 = counts
            .iter()
            .map(|c: &f64| (c - expected).powi(2) / expected)
            .sum();
        assert!(chi_square < 13.8, "{counts:?}");
        // Two coordinates of variance 0.08^2, and beta_1 = 1e-4 that the last step leaves out.
        let variance = squares / (2.0 * N as f64);
        assert!((variance / 0.0064 - 1.0).abs() < 0.12, "{variance}");
    }

    #[test]
    fn without_clusters_nothing_breaks() {
        let none = Mixture {
            centres: vec![],
            deviation: 0.1,
        };
        assert_eq!(none.sample(3, [1.0, 0.0]), [0.1, 0.0]);
        assert_eq!(none.score([1.0, 1.0], 0.5), [0.0, 0.0]);
        assert_eq!(none.log_density([1.0, 1.0], 0.5), f64::NEG_INFINITY);
        assert_eq!(none.within([[0.0, 0.0]]), 0);
    }
}
