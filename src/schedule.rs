//! How fast an image drowns in noise.

use std::{f64::consts::FRAC_PI_2, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The shape of beta_t over t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BetaSchedule {
    /// beta_t in equal steps from 1e-4 to 0.02 at T = 1000 (Ho et al. 2020, section 4); at another
    /// T both ends are scaled by 1000 / T, so that the last alpha_bar stays about the same.
    Linear,
    /// alpha_bar_t = f(t) / f(0), f(t) = cos^2((t/T + s) / (1 + s) * pi/2), s = 0.008, beta_t at most
    /// 0.999 (Nichol & Dhariwal 2021, equation 17).
    Cosine,
}

impl BetaSchedule {
    /// The word for it in files and commands.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        }
    }
}

impl fmt::Display for BetaSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.slug())
    }
}

impl FromStr for BetaSchedule {
    type Err = ScheduleError;

    fn from_str(word: &str) -> Result<Self, ScheduleError> {
        match word {
            "linear" => Ok(Self::Linear),
            "cosine" => Ok(Self::Cosine),
            _ => Err(ScheduleError::Unknown(word.to_owned())),
        }
    }
}

/// Why there is no such schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// A number of steps for which the tables make no sense.
    #[error("a noise schedule has 21 to 10000 timesteps, not {0}")]
    Timesteps(usize),
    /// A word that names no schedule.
    #[error("`{0}` is no noise schedule: use linear or cosine")]
    Unknown(String),
}

/// The tables of a variance schedule, in f64; index t is 0-based (the lecture's t minus 1).
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    kind: BetaSchedule,
    betas: Vec<f64>,
    alphas_cumprod: Vec<f64>,
}

impl NoiseSchedule {
    /// Computes the tables for T = `timesteps`.
    ///
    /// # Errors
    /// [`ScheduleError::Timesteps`] outside 21..=10000: at 20 the scaled linear schedule would end at beta = 1.
    pub fn new(kind: BetaSchedule, timesteps: usize) -> Result<Self, ScheduleError> {
        if !(21..=10_000).contains(&timesteps) {
            return Err(ScheduleError::Timesteps(timesteps));
        }
        let n = timesteps as f64;
        let betas: Vec<f64> = match kind {
            BetaSchedule::Linear => {
                let (first, last) = (1e-4 * 1000.0 / n, 0.02 * 1000.0 / n);
                (0..timesteps)
                    .map(|t| first + (last - first) * t as f64 / (n - 1.0))
                    .collect()
            }
            BetaSchedule::Cosine => {
                let f = |t: f64| ((t / n + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
                (0..timesteps)
                    .map(|t| (1.0 - f(t as f64 + 1.0) / f(t as f64)).min(0.999))
                    .collect()
            }
        };
        let alphas_cumprod = betas
            .iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        Ok(Self {
            kind,
            betas,
            alphas_cumprod,
        })
    }

    /// Which shape this is.
    pub fn kind(&self) -> BetaSchedule {
        self.kind
    }

    /// T.
    pub fn timesteps(&self) -> usize {
        self.betas.len()
    }

    /// beta_t, the variance added by noising step t.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// alpha_bar_t = product of (1 - beta_s) for s up to t: what is left of the image, as variance.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// alpha_bar of a state, where `None` is the finished image x_0: 1.
    pub fn alpha_cumprod(&self, t: Option<usize>) -> f64 {
        t.map_or(1.0, |t| self.alphas_cumprod[t])
    }

    /// alpha_bar_(t-1), which is 1 before the first noising step.
    pub fn alpha_cumprod_prev(&self, t: usize) -> f64 {
        self.alpha_cumprod(t.checked_sub(1))
    }

    /// beta-tilde_t, the variance of q(x_(t-1) given x_t, x_0) (Ho et al. 2020, equation 7).
    pub fn posterior_variance(&self, t: usize) -> f64 {
        self.betas[t] * (1.0 - self.alpha_cumprod_prev(t)) / (1.0 - self.alphas_cumprod[t])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_is_ho_2020() {
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1000).unwrap();
        assert!((schedule.betas()[0] - 1e-4).abs() < 1e-15);
        assert!((schedule.betas()[999] - 0.02).abs() < 1e-15);
        // The closed form of the sum of logarithms, to second and third order of beta.
        let moment = |k: i32| schedule.betas().iter().map(|b| b.powi(k)).sum::<f64>();
        let log = -moment(1) - moment(2) / 2.0 - moment(3) / 3.0 - moment(4) / 4.0;
        assert!((schedule.alphas_cumprod()[999].ln() - log).abs() < 1e-6);
        // L_T of the paper: about 4.04e-5 of the variance is still the image's.
        assert!((schedule.alphas_cumprod()[999] - 4.036e-5).abs() < 1e-8);
    }

    #[test]
    fn cosine_is_nichol_and_dhariwal_2021() {
        let schedule = NoiseSchedule::new(BetaSchedule::Cosine, 1000).unwrap();
        let f = |t: f64| ((t / 1000.0 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
        for t in 0..998 {
            let closed = f(t as f64 + 1.0) / f(0.0);
            let table = schedule.alphas_cumprod()[t];
            assert!((table / closed - 1.0).abs() < 1e-10, "t = {t}");
        }
        assert_eq!(schedule.betas()[999], 0.999);
    }

    #[test]
    fn tables_fall_and_the_posterior_starts_at_zero() {
        for kind in [BetaSchedule::Linear, BetaSchedule::Cosine] {
            for timesteps in [21, 100, 1000, 4000] {
                let schedule = NoiseSchedule::new(kind, timesteps).unwrap();
                assert_eq!(schedule.timesteps(), timesteps);
                assert!(schedule.alphas_cumprod().is_sorted_by(|a, b| a > b));
                assert!(schedule.betas().iter().all(|b| (0.0..1.0).contains(b)));
                assert_eq!(schedule.posterior_variance(0), 0.0);
                for t in 1..timesteps {
                    assert!(schedule.posterior_variance(t) < schedule.betas()[t]);
                }
            }
        }
    }

    #[test]
    fn impossible_schedules_are_refused() {
        for timesteps in [0, 1, 20, 10_001] {
            assert_eq!(
                NoiseSchedule::new(BetaSchedule::Linear, timesteps),
                Err(ScheduleError::Timesteps(timesteps))
            );
        }
        assert_eq!("cosine".parse(), Ok(BetaSchedule::Cosine));
        assert!("sqrt".parse::<BetaSchedule>().is_err());
    }
}
