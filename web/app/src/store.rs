//! All frames of a run, as they were computed.
//!
//! x_t is kept in f16, 1.6 MB for 1000 frames of an image. Of a single image the network's answers
//! are kept as well; of more, only until they have been shown, and the network is asked again where
//! somebody looks back.

use fashion_ddpm::sampler::to_pixel;
use half::f16;
use protocol::{Picture, StepInfo};

pub use fashion_ddpm::noise::PIXELS;

/// What the network made of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// epsilon-hat, as the network gave it.
    pub noise: Vec<f16>,
    /// x-hat-0, as grey levels. From the f32 numbers that came from the engine: at large t it is a
    /// difference divided by a small number, for which f16 is too coarse.
    pub x_start: Vec<u8>,
    /// The share of the first image's pixels where clipping changed x-hat-0.
    pub clipped: f32,
}

/// A run's frames.
#[derive(Debug)]
pub struct Frames {
    /// Which picture it is.
    pub picture: Picture,
    /// Of its weights; `None` before the list of weights was there.
    pub epoch: Option<u32>,
    /// The numbers of each step.
    pub steps: Vec<StepInfo>,
    x_t: Vec<f16>,
    /// Of each frame, where it is known.
    predictions: Vec<Option<Prediction>>,
    /// Answers before this frame have been let go.
    kept_from: usize,
    x_0: Option<Vec<f32>>,
}

impl Frames {
    /// None so far, of these steps.
    pub fn new(picture: Picture, epoch: Option<u32>, steps: Vec<StepInfo>) -> Self {
        let values = steps.len() * picture.count as usize * PIXELS;
        Self {
            picture,
            epoch,
            steps,
            x_t: Vec::with_capacity(values),
            predictions: Vec::new(),
            kept_from: 0,
            x_0: None,
        }
    }

    /// Values of a frame.
    fn size(&self) -> usize {
        self.picture.count as usize * PIXELS
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.x_t.len() / self.size()
    }

    /// Adds frames: x_t and predicted noise of each, one frame after the other. Gives back how many
    /// were taken: whole frames of steps that exist.
    pub fn add(&mut self, x_t: &[f32], pred_noise: &[f32]) -> usize {
        let size = self.size();
        let frames = x_t.chunks_exact(size).zip(pred_noise.chunks_exact(size));
        let mut taken = 0;
        for (x_t, pred_noise) in frames {
            let index = self.len();
            let Some(step) = self.steps.get(index) else {
                break;
            };
            self.predictions.push(Some(predict(x_t, pred_noise, step)));
            self.x_t.extend(x_t.iter().map(|v| f16::from_f32(*v)));
            taken += 1;
        }
        taken
    }

    /// The end of the run.
    pub fn finish(&mut self, x_0: Vec<f32>) {
        self.x_0 = Some(x_0);
    }

    /// What the network says when asked again about a frame.
    pub fn explain(&mut self, index: usize, pred_noise: &[f32]) {
        if let (Some(x_t), Some(step)) = (self.x(index), self.steps.get(index))
            && x_t.len() == pred_noise.len()
            && let Some(place) = self.predictions.get_mut(index)
        {
            *place = Some(predict(&x_t, pred_noise, step));
            self.kept_from = self.kept_from.min(index);
        }
    }

    /// x at a stop: of a frame, or the garment after the last.
    pub fn x(&self, stop: usize) -> Option<Vec<f32>> {
        if stop == self.steps.len() {
            return self.x_0.clone();
        }
        let size = self.size();
        let x_t = self.x_t.get(stop * size..(stop + 1) * size)?;
        Some(x_t.iter().map(|v| v.to_f32()).collect())
    }

    /// What the network made of a frame, where that is known.
    pub fn prediction(&self, index: usize) -> Option<&Prediction> {
        self.predictions.get(index)?.as_ref()
    }

    /// The network's answers before this frame have been shown.
    pub fn shown(&mut self, index: usize) {
        if self.picture.count > 1 {
            let seen = self.predictions.iter_mut().take(index).skip(self.kept_from);
            seen.for_each(|prediction| *prediction = None);
            self.kept_from = self.kept_from.max(index);
        }
    }
}

/// x-hat-0 = clip((x_t - sqrt(1 - alpha_bar_t) epsilon-hat) / sqrt(alpha_bar_t)); Ho et al. 2020,
/// equation 15.
fn predict(x_t: &[f32], pred_noise: &[f32], step: &StepInfo) -> Prediction {
    let mut clipped = 0;
    let x_start = x_t
        .iter()
        .zip(pred_noise)
        .enumerate()
        .map(|(i, (x_t, noise))| {
            let x_start = (f64::from(*x_t) - step.sqrt_one_minus_alpha_cumprod * f64::from(*noise))
                / step.sqrt_alpha_cumprod;
            clipped += u32::from(i < PIXELS && x_start.abs() > 1.0);
            to_pixel(x_start as f32)
        })
        .collect();
    Prediction {
        noise: pred_noise.iter().map(|v| f16::from_f32(*v)).collect(),
        x_start,
        clipped: clipped as f32 / x_t.len().clamp(1, PIXELS) as f32,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of which nothing has been computed.
    pub(crate) fn frames(count: u32, steps: usize) -> Frames {
        let picture = Picture {
            seed: 0,
            garment: "any".to_owned(),
            sampler: "ddpm".to_owned(),
            steps: steps as u32,
            guidance: 1.0,
            count,
        };
        let step = StepInfo {
            t: 0,
            sqrt_alpha_cumprod: 0.6,
            sqrt_one_minus_alpha_cumprod: 0.8,
        };
        Frames::new(picture, Some(12), vec![step; steps])
    }

    #[test]
    fn the_prediction_undoes_q_sample_and_is_clipped() {
        // x_t = 0.6 x_0 + 0.8 noise
        let (x_0, noise) = ([0.5, -1.0, 1.5, -2.0], [1.0, -0.5, 0.25, 2.0]);
        let x_t: Vec<f32> = (0..4).map(|i| 0.6 * x_0[i] + 0.8 * noise[i]).collect();
        let step = frames(1, 1).steps[0];
        let prediction = predict(&x_t, &noise, &step);
        assert_eq!(prediction.x_start, [191, 0, 255, 0]);
        assert!((0.5..=0.75).contains(&prediction.clipped));
        assert_eq!(prediction.noise, noise.map(f16::from_f32));
        // Of several images the first one is explained.
        let mut x_t = vec![0.0; 2 * PIXELS];
        x_t[PIXELS..].fill(0.9);
        let clipped = |x_t: &[f32]| predict(x_t, &[0.0; 2 * PIXELS], &step).clipped;
        assert_eq!(clipped(&x_t), 0.0);
        x_t[..PIXELS / 2].fill(-0.9);
        assert_eq!(clipped(&x_t), 0.5);
    }

    #[test]
    fn frames_are_found_again_and_the_garment_after_them() {
        let mut frames = frames(1, 3);
        let x: Vec<f32> = (0..3 * PIXELS).map(|i| (i / PIXELS) as f32).collect();
        assert_eq!(frames.add(&x[..2 * PIXELS], &x[..2 * PIXELS]), 2);
        assert_eq!(frames.x(1), Some(vec![1.0; PIXELS]));
        assert_eq!(frames.x(2), None);
        // No more than the run has steps.
        assert_eq!(frames.add(&x[PIXELS..], &x[PIXELS..]), 1);
        assert_eq!(frames.len(), 3);
        assert_eq!(frames.x(3), None);
        frames.finish(vec![0.25; PIXELS]);
        assert_eq!(frames.x(3), Some(vec![0.25; PIXELS]));
        frames.shown(2);
        assert!(frames.prediction(0).is_some(), "one image: all are kept");
    }

    #[test]
    fn of_many_images_only_answers_not_yet_shown_are_kept() {
        let mut frames = frames(4, 3);
        let x = vec![0.5; 3 * 4 * PIXELS];
        frames.add(&x, &x);
        frames.shown(2);
        assert!(frames.prediction(1).is_none() && frames.prediction(2).is_some());
        frames.explain(1, &x[..4 * PIXELS]);
        assert!(frames.prediction(1).is_some());
        // Not of this run's shape.
        frames.explain(0, &x[..PIXELS]);
        assert!(frames.prediction(0).is_none());
    }
}
