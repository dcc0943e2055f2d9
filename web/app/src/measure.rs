//! What the benchmark makes of its measurements.

/// What a run that counts should take, in milliseconds.
const RUN_MS: f64 = 1000.0;

/// Steps of a run that counts, where a step takes so many milliseconds.
pub fn steps_for(step_ms: f64) -> u32 {
    (RUN_MS / step_ms.max(1e-3)).clamp(10.0, 1000.0) as u32
}

/// Milliseconds a step, measured several times.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// Images at a time.
    pub count: u32,
    least: f64,
    median: f64,
    most: f64,
}

impl Timing {
    /// The middle of some runs, and their extremes.
    pub fn of(count: u32, mut runs: Vec<f64>) -> Self {
        runs.sort_by(f64::total_cmp);
        let at = |i: usize| runs.get(i).copied().unwrap_or(f64::NAN);
        Self {
            count,
            least: at(0),
            median: at(runs.len() / 2),
            most: at(runs.len().saturating_sub(1)),
        }
    }

    /// The median, with three figures.
    pub fn milliseconds(&self) -> String {
        three(self.median)
    }

    /// From the quickest run to the slowest.
    pub fn spread(&self) -> String {
        format!("{} to {}", three(self.least), three(self.most))
    }

    /// Garments of 1000 steps each.
    pub fn images_a_second(&self) -> String {
        three(f64::from(self.count) / self.median)
    }

    /// All of it, for the line to copy.
    pub fn in_words(&self) -> String {
        let images = if self.count == 1 { "image" } else { "images" };
        format!(
            "{} {images} {} ms a step, {} images/s at 1000 steps",
            self.count,
            self.milliseconds(),
            self.images_a_second()
        )
    }
}

/// Three figures, as many of them behind the point as it takes.
fn three(value: f64) -> String {
    let digits = (2 - value.abs().max(1e-9).log10().floor() as i32).clamp(0, 4);
    format!("{value:.*}", digits as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_its_extremes() {
        let timing = Timing::of(4, vec![2.5, 2.0, 16.0]);
        assert_eq!(timing.milliseconds(), "2.50");
        assert_eq!(timing.spread(), "2.00 to 16.0");
        // 4 images take 1000 steps of 2.5 ms: 1.6 images a second.
        assert_eq!(timing.images_a_second(), "1.60");
        assert_eq!(
            timing.in_words(),
            "4 images 2.50 ms a step, 1.60 images/s at 1000 steps"
        );
    }

    #[test]
    fn a_run_takes_about_a_second_and_no_more_than_a_picture() {
        assert_eq!(steps_for(0.1), 1000);
        assert_eq!(steps_for(0.0), 1000);
        assert_eq!(steps_for(5.0), 200);
        assert_eq!(steps_for(900.0), 10);
    }

    #[test]
    fn three_figures() {
        assert_eq!(three(0.0123), "0.0123");
        assert_eq!(three(0.123), "0.123");
        assert_eq!(three(12.34), "12.3");
        assert_eq!(three(1234.0), "1234");
    }
}
