//! Noising: a real garment, or one that the visitor draws, at any t; and from there back again.

use fashion_ddpm::{
    NoiseSchedule,
    diffusion::q_sample,
    noise::{IMAGE_SIZE, PIXELS, gaussian},
};

/// The image under the noise: 784 numbers in [-1, 1], row by row.
pub type Image = Vec<f32>;

/// x_t of the lecture's t, 0 to T, and the noise in it: the start noise of the seed's run, so that
/// at t = T the picture is (nearly) where the run begins.
pub fn noised(schedule: &NoiseSchedule, x_0: &[f32], t: usize, seed: u32) -> (Image, Image) {
    let noise = gaussian(seed, 0, 0, schedule.timesteps());
    let x_t = match t.checked_sub(1) {
        None => x_0.to_vec(),
        Some(t) => q_sample(schedule, x_0, t.min(schedule.timesteps() - 1), &noise),
    };
    (x_t, noise)
}

/// The numbers of a schedule at the lecture's t, 0 to T.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct At {
    /// sqrt(alpha_bar_t), the weight of the image.
    pub image: f64,
    /// sqrt(1 - alpha_bar_t), the weight of the noise.
    pub noise: f64,
    /// alpha_bar_t / (1 - alpha_bar_t); infinite at t = 0.
    pub snr: f64,
}

impl At {
    /// Reads the schedule's tables.
    pub fn new(schedule: &NoiseSchedule, t: usize) -> Self {
        let t = t.min(schedule.timesteps());
        let alpha_cumprod = schedule.alpha_cumprod(t.checked_sub(1));
        Self {
            image: alpha_cumprod.sqrt(),
            noise: (1.0 - alpha_cumprod).sqrt(),
            snr: alpha_cumprod / (1.0 - alpha_cumprod),
        }
    }
}

/// What somebody draws: 28 x 28 grey levels, black at first.
#[derive(Debug, Clone, PartialEq)]
pub struct Pad {
    levels: Vec<f32>,
}

impl Default for Pad {
    fn default() -> Self {
        Self {
            levels: vec![0.0; PIXELS],
        }
    }
}

impl Pad {
    /// Draws a stroke from one place to another, in pixels with 0, 0 the upper left corner: a round
    /// brush of this radius with a soft edge one pixel wide. `level` is 0 for the eraser and up to 1
    /// for white; between strokes the lighter stays, except under the eraser.
    pub fn stroke(&mut self, from: [f64; 2], to: [f64; 2], radius: f64, level: f64) {
        for (i, old) in self.levels.iter_mut().enumerate() {
            let centre = [0.5 + (i % IMAGE_SIZE) as f64, 0.5 + (i / IMAGE_SIZE) as f64];
            let cover =
                (radius + 0.5 - distance_to_stroke(centre, from, to)).clamp(0.0, 1.0) as f32;
            *old = match level > 0.0 {
                true => old.max(cover * level as f32),
                false => *old * (1.0 - cover),
            };
        }
    }

    /// As the network sees it: black is -1.
    pub fn image(&self) -> Image {
        self.levels.iter().map(|level| 2.0 * level - 1.0).collect()
    }
}

fn distance_to_stroke(x: [f64; 2], from: [f64; 2], to: [f64; 2]) -> f64 {
    let along = [to[0] - from[0], to[1] - from[1]];
    let square = along[0].powi(2) + along[1].powi(2);
    let way = match square > 0.0 {
        true => ((x[0] - from[0]) * along[0] + (x[1] - from[1]) * along[1]) / square,
        false => 0.0,
    };
    let way = way.clamp(0.0, 1.0);
    (x[0] - from[0] - way * along[0]).hypot(x[1] - from[1] - way * along[1])
}

/// How far two pictures are apart: root of the mean squared difference, in grey levels, of what can
/// be seen of them.
pub fn grey_levels_apart(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    let square = |(a, b): (&f32, &f32)| f64::from(a.clamp(-1.0, 1.0) - b.clamp(-1.0, 1.0)).powi(2);
    let sum: f64 = pairs.map(square).sum();
    (sum / a.len().max(1) as f64).sqrt() * 127.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use fashion_ddpm::BetaSchedule;

    fn schedule(kind: BetaSchedule) -> NoiseSchedule {
        NoiseSchedule::new(kind, 1000).unwrap()
    }

    /// Equation 4 from beta alone, without the library's tables.
    #[test]
    fn noised_is_equation_4_at_the_lectures_t() {
        let schedule = schedule(BetaSchedule::Linear);
        let x_0: Vec<f32> = (0..PIXELS).map(|i| (i % 29) as f32 / 14.0 - 1.0).collect();
        let noise = gaussian(9, 0, 0, 1000);
        let (mut product, mut next) = (1.0, 0);
        for t in [0, 1, 250, 1000] {
            while next < t {
                product *= 1.0 - (1e-4 + (0.02 - 1e-4) * next as f64 / 999.0);
                next += 1;
            }
            let (x_t, epsilon) = noised(&schedule, &x_0, t, 9);
            assert_eq!(epsilon, noise);
            for i in 0..PIXELS {
                let expected = product.sqrt() * f64::from(x_0[i])
                    + (1.0 - product).sqrt() * f64::from(noise[i]);
                assert!((f64::from(x_t[i]) - expected).abs() < 1e-6, "t = {t}");
            }
            let at = At::new(&schedule, t);
            assert!((at.image.powi(2) - product).abs() < 1e-12);
            assert!((at.image.powi(2) + at.noise.powi(2) - 1.0).abs() < 1e-12);
        }
        assert_eq!(At::new(&schedule, 0).snr, f64::INFINITY);
    }

    #[test]
    fn a_brush_covers_what_it_passes() {
        let mut pad = Pad::default();
        let is_empty = |pad: &Pad| pad.image().iter().all(|x| *x == -1.0);
        assert!(is_empty(&pad));
        pad.stroke([4.5, 10.5], [20.5, 10.5], 1.5, 1.0);
        let at = |pad: &Pad, x: usize, y: usize| pad.image()[y * 28 + x];
        assert_eq!([4, 12, 20].map(|x| at(&pad, x, 10)), [1.0; 3]);
        assert_eq!([9, 11].map(|y| at(&pad, 12, y)), [1.0; 2]);
        assert_eq!((at(&pad, 12, 12), at(&pad, 12, 13)), (-1.0, -1.0));
        assert_eq!((at(&pad, 22, 10), at(&pad, 1, 10)), (-1.0, -1.0));
        // Grey over white stays white; the eraser takes all.
        pad.stroke([12.5, 10.5], [12.5, 10.5], 1.5, 0.5);
        assert_eq!(at(&pad, 12, 10), 1.0);
        pad.stroke([12.5, 10.5], [12.5, 10.5], 1.0, 0.0);
        assert_eq!((at(&pad, 12, 10), at(&pad, 8, 10)), (-1.0, 1.0));
        pad.stroke([0.0, 10.5], [28.0, 10.5], 4.0, 0.0);
        assert!(is_empty(&pad));
    }

    #[test]
    fn distances_are_grey_levels_of_what_is_seen() {
        assert_eq!(grey_levels_apart(&[1.0, -1.0], &[-1.0, 1.0]), 255.0);
        assert_eq!(grey_levels_apart(&[5.0, 0.0], &[1.0, 0.0]), 0.0);
        assert!((grey_levels_apart(&[0.2, 0.0], &[0.0, 0.0]) - 25.5 / 2f64.sqrt()).abs() < 1e-5);
    }
}
