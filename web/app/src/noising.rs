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

/// White on the pad; black is 0. As few levels as fit three bits, for the link.
const WHITE: u8 = 7;

/// Characters that a link holds as they are, one for each number below 64.
const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What somebody draws: 28 x 28 levels, black at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pad {
    levels: Vec<u8>,
}

impl Default for Pad {
    fn default() -> Self {
        Self {
            levels: vec![0; PIXELS],
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
            let cover = (radius + 0.5 - distance_to_stroke(centre, from, to)).clamp(0.0, 1.0);
            let rounded = |level: f64| (level * f64::from(WHITE)).round() as u8;
            *old = match level > 0.0 {
                true => rounded(cover * level).max(*old),
                false => rounded(1.0 - cover).min(*old),
            };
        }
    }

    /// As the network sees it: black is -1.
    pub fn image(&self) -> Image {
        let share = |level: &u8| f32::from(*level) / f32::from(WHITE);
        self.levels
            .iter()
            .map(|level| 2.0 * share(level) - 1.0)
            .collect()
    }

    /// Whether nothing is drawn.
    pub fn is_empty(&self) -> bool {
        self.levels.iter().all(|level| *level == 0)
    }

    /// The drawing for a link: one character for up to eight pixels of one level, row by row; the
    /// black at the end is left out. A few hundred characters for a garment.
    pub fn code(&self) -> String {
        let drawn = self.levels.iter().rposition(|level| *level > 0);
        let levels = &self.levels[..drawn.map_or(0, |last| last + 1)];
        let alike = levels.chunk_by(|a, b| a == b).flat_map(|run| run.chunks(8));
        let character = |run: &[u8]| CHARACTERS[usize::from(run[0]) * 8 + run.len() - 1];
        alike.map(|run| char::from(character(run))).collect()
    }

    /// Reads what [`Self::code`] wrote.
    pub fn parse(code: &str) -> Option<Self> {
        let mut levels = Vec::with_capacity(PIXELS);
        for character in code.bytes() {
            let number = CHARACTERS.iter().position(|known| *known == character)?;
            levels.extend(std::iter::repeat_n((number / 8) as u8, number % 8 + 1));
            if levels.len() > PIXELS {
                return None;
            }
        }
        levels.resize(PIXELS, 0);
        Some(Self { levels })
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
    fn a_drawing_is_in_its_code() {
        let mut pad = Pad::default();
        assert_eq!((pad.code(), pad.is_empty()), (String::new(), true));
        assert_eq!(Pad::parse(""), Some(Pad::default()));
        // A dress, more or less.
        pad.stroke([14.0, 4.0], [14.0, 12.0], 4.0, 1.0);
        pad.stroke([14.0, 12.0], [9.0, 25.0], 3.0, 0.6);
        pad.stroke([14.0, 12.0], [19.0, 25.0], 3.0, 0.6);
        let code = pad.code();
        assert!(!pad.is_empty() && code.len() < 400, "{}", code.len());
        assert_eq!(Pad::parse(&code), Some(pad));
        // Each pixel another than the one before: the longest there is.
        let levels = (0..PIXELS).map(|i| (i % 7) as u8 + 1).collect();
        let pad = Pad { levels };
        assert_eq!(pad.code().len(), PIXELS);
        assert_eq!(Pad::parse(&pad.code()), Some(pad.clone()));
        for wrong in ["A B", "é", "A=", &format!("{}A", pad.code())] {
            assert_eq!(Pad::parse(wrong), None, "{wrong}");
        }
        // By hand: one white pixel after nine black ones.
        let one = Pad::parse("HA4").unwrap();
        let white: Vec<usize> = (0..PIXELS).filter(|i| one.image()[*i] == 1.0).collect();
        assert_eq!(white, [9]);
    }

    #[test]
    fn distances_are_grey_levels_of_what_is_seen() {
        assert_eq!(grey_levels_apart(&[1.0, -1.0], &[-1.0, 1.0]), 255.0);
        assert_eq!(grey_levels_apart(&[5.0, 0.0], &[1.0, 0.0]), 0.0);
        assert!((grey_levels_apart(&[0.2, 0.0], &[0.0, 0.0]) - 25.5 / 2f64.sqrt()).abs() < 1e-5);
    }
}
