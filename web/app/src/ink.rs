//! A drop of ink: a thousand points in the plane, spread by the schedule of the images and brought
//! back by the exact score of the data set they came from.

use fashion_ddpm::{
    Mixture, NoiseSchedule, Sampler,
    mixture::noise_step,
    noise::{PIXELS, gaussian},
    sampler::Step,
};

/// How many points there are.
pub const POINTS: usize = 1000;

/// The plane is shown from minus this to this in both directions: pure noise fills it.
pub const EXTENT: f64 = 3.0;

/// Standard deviation of a cluster.
const DEVIATION: f64 = 0.1;

/// Clusters that can be drawn; each costs every step of every point an exponential.
const MOST_CLUSTERS: usize = 60;

/// A data set to choose: its word in links, and where its clusters are.
type Shape = (&'static str, fn() -> Vec<[f64; 2]>);

/// The data sets to choose from.
pub const SHAPES: [Shape; 4] = [
    ("drop", || vec![[0.0, 0.0]]),
    ("three", || vec![[-1.0, -0.7], [1.1, -0.5], [0.1, 1.1]]),
    ("ring", || circle(20, 1.2, [0.0, 0.0])),
    ("smile", || {
        let mut centres = vec![[-0.55, 0.6], [0.55, 0.6]];
        let mouth = circle(24, 1.1, [0.0, 0.25]);
        centres.extend(mouth.into_iter().filter(|c| c[1] < -0.25));
        centres
    }),
];

fn circle(count: usize, radius: f64, middle: [f64; 2]) -> Vec<[f64; 2]> {
    let angle = |i: usize| i as f64 / count as f64 * std::f64::consts::TAU;
    (0..count)
        .map(|i| {
            [
                middle[0] + radius * angle(i).cos(),
                middle[1] + radius * angle(i).sin(),
            ]
        })
        .collect()
}

/// The points of a moment.
pub type Points = Vec<[f32; 2]>;

/// The way there and back, computed as far as somebody has looked.
///
/// Moments are counted along the way: 0 is the drop, T the noise, 2 T the end of the way back.
#[derive(Debug)]
pub struct Drop {
    schedule: NoiseSchedule,
    plan: Vec<Step>,
    mixture: Mixture,
    seed: u32,
    moments: Vec<Points>,
}

impl Drop {
    /// A drop of these clusters; the seed names every random number.
    pub fn new(schedule: NoiseSchedule, centres: Vec<[f64; 2]>, seed: u32) -> Self {
        let plan = Sampler::Ddpm.plan(&schedule, schedule.timesteps());
        let mut drop = Self {
            // All T steps are always possible.
            plan: plan.unwrap_or_default(),
            schedule,
            mixture: Mixture {
                centres,
                deviation: DEVIATION,
            },
            seed,
            moments: Vec::new(),
        };
        drop.restart();
        drop
    }

    fn restart(&mut self) {
        // Branch 1: branch 0 is the noise of the pictures.
        let normals = normals(self.seed, 1, self.timesteps());
        let sample = |(i, normal)| self.mixture.sample(i, normal);
        let points = normals.into_iter().enumerate().map(sample);
        self.moments = vec![points.map(narrow).collect()];
    }

    /// T.
    pub fn timesteps(&self) -> usize {
        self.schedule.timesteps()
    }

    /// The data set.
    pub fn mixture(&self) -> &Mixture {
        &self.mixture
    }

    /// The cluster a point began in.
    pub fn cluster(&self, point: usize) -> usize {
        point % self.mixture.centres.len().max(1)
    }

    /// Adds a cluster, unless it is where one is already or there are enough. The way begins anew.
    pub fn add(&mut self, centre: [f64; 2]) -> bool {
        let centre = centre.map(|c| c.clamp(-EXTENT, EXTENT));
        let near = |c: &[f64; 2]| (c[0] - centre[0]).hypot(c[1] - centre[1]) < 1.5 * DEVIATION;
        let centres = &mut self.mixture.centres;
        if centres.len() >= MOST_CLUSTERS || centres.iter().any(near) {
            return false;
        }
        centres.push(centre);
        self.restart();
        true
    }

    /// The last moment that is known.
    pub fn computed(&self) -> usize {
        self.moments.len() - 1
    }

    /// Computes one more moment; `false` where the way is over.
    pub fn advance(&mut self) -> bool {
        let (now, timesteps) = (self.computed(), self.timesteps());
        let before = &self.moments[now];
        let next: Points = if now < timesteps {
            let normals = normals(self.seed, 2, now);
            let pairs = before.iter().zip(normals);
            pairs
                .map(|(x, normal)| narrow(noise_step(&self.schedule, now, widen(x), normal)))
                .collect()
        } else {
            let Some(step) = self.plan.get(now - timesteps) else {
                return false;
            };
            let normals = normals(self.seed, 3, step.t);
            let pairs = before.iter().zip(normals);
            pairs
                .map(|(x, z)| narrow(self.mixture.step(step, widen(x), z)))
                .collect()
        };
        self.moments.push(next);
        true
    }

    /// The points of a moment, or of the last one that is known.
    pub fn points(&self, moment: usize) -> &Points {
        &self.moments[moment.min(self.computed())]
    }

    /// t of a moment as the lecture counts: 0 is the drop, T the noise.
    pub fn t(&self, moment: usize) -> usize {
        match moment.checked_sub(self.timesteps()) {
            None => moment,
            Some(back) => self.timesteps().saturating_sub(back),
        }
    }

    /// alpha_bar of a moment.
    pub fn alpha_cumprod(&self, moment: usize) -> f64 {
        self.schedule.alpha_cumprod(self.t(moment).checked_sub(1))
    }

    /// The arrow of the score at a place: sqrt(1 - alpha_bar_t) times the score, which is minus the
    /// noise that a perfect network would see there. About 1 long where there are points.
    pub fn arrow(&self, x: [f64; 2], moment: usize) -> [f64; 2] {
        let alpha_cumprod = self.alpha_cumprod(moment);
        // Before the first step there is no noise to see; its own width is what a cluster has then.
        let noise = (1.0 - alpha_cumprod).sqrt().max(DEVIATION);
        self.mixture
            .score(x, alpha_cumprod)
            .map(|score| noise * score)
    }

    /// How many points of a moment lie in the data set's clusters.
    pub fn returned(&self, moment: usize) -> usize {
        self.mixture.within(self.points(moment).iter().map(widen))
    }
}

/// A pair of standard normal numbers for each point.
fn normals(seed: u32, branch: u32, t: usize) -> impl Iterator<Item = [f64; 2]> {
    let images = (2 * POINTS).div_ceil(PIXELS) as u32;
    (0..images)
        .flat_map(move |image| gaussian(seed, image, branch, t))
        .take(2 * POINTS)
        .collect::<Vec<f32>>()
        .chunks_exact(2)
        .map(|pair| [pair[0].into(), pair[1].into()])
        .collect::<Vec<_>>()
        .into_iter()
}

fn narrow(x: [f64; 2]) -> [f32; 2] {
    x.map(|x| x as f32)
}

fn widen(x: &[f32; 2]) -> [f64; 2] {
    x.map(f64::from)
}

/// Where a place of the plane is drawn on a square canvas of this width; up is up.
pub fn to_canvas(x: [f64; 2], width: f64) -> (f64, f64) {
    let scale = width / (2.0 * EXTENT);
    ((x[0] + EXTENT) * scale, (EXTENT - x[1]) * scale)
}

/// The place of the plane under a point of the canvas.
pub fn from_canvas(x: f64, y: f64, width: f64) -> [f64; 2] {
    let scale = 2.0 * EXTENT / width.max(1.0);
    [x * scale - EXTENT, EXTENT - y * scale]
}

#[cfg(test)]
mod tests {
    use super::*;
    use fashion_ddpm::BetaSchedule;

    fn drop_of(shape: &str) -> Drop {
        let (_, centres) = SHAPES.into_iter().find(|(word, _)| *word == shape).unwrap();
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1000).unwrap();
        Drop::new(schedule, centres(), 5)
    }

    #[test]
    fn the_ink_spreads_and_comes_back() {
        let mut ink = drop_of("three");
        let all = 0.978 * POINTS as f64;
        assert!(ink.returned(0) as f64 > all);
        while ink.advance() {}
        assert_eq!(ink.computed(), 2000);
        // Of a standard normal variable, a twentieth lies in three discs of this size.
        assert!(ink.returned(1000) < POINTS / 10, "{}", ink.returned(1000));
        assert!(ink.returned(2000) as f64 > all, "{}", ink.returned(2000));
        // Not each to where it came from, but as many to each.
        let place = |point: &[f32; 2]| {
            let distance =
                |c: &[f64; 2]| (f64::from(point[0]) - c[0]).hypot(f64::from(point[1]) - c[1]);
            let centres = &ink.mixture().centres;
            (0..3)
                .min_by(|a, b| distance(&centres[*a]).total_cmp(&distance(&centres[*b])))
                .unwrap()
        };
        let ends: Vec<usize> = ink.points(2000).iter().map(place).collect();
        let same = ends
            .iter()
            .enumerate()
            .filter(|(i, end)| ink.cluster(*i) == **end);
        let same = same.count();
        assert!((250..420).contains(&same), "a third by chance, not {same}");
        for cluster in 0..3 {
            let count = ends.iter().filter(|end| **end == cluster).count();
            assert!(
                (270..400).contains(&count),
                "{count} of {POINTS} in {cluster}"
            );
        }
    }

    #[test]
    fn moments_count_t_up_and_down() {
        let ink = drop_of("drop");
        let moments = [0, 1, 999, 1000, 1001, 1999, 2000];
        assert_eq!(moments.map(|m| ink.t(m)), [0, 1, 999, 1000, 999, 1, 0]);
        assert_eq!((ink.alpha_cumprod(0), ink.alpha_cumprod(2000)), (1.0, 1.0));
        assert!((ink.alpha_cumprod(1) - 0.9999).abs() < 1e-12);
        assert!((ink.alpha_cumprod(1000) - 4.036e-5).abs() < 1e-8);
    }

    #[test]
    fn arrows_point_to_the_drop_and_are_the_noise_that_was_added() {
        let ink = drop_of("drop");
        // In pure noise x is its own noise.
        let arrow = ink.arrow([1.5, -0.5], 1000);
        assert!(
            (arrow[0] + 1.5).abs() < 1e-3 && (arrow[1] - 0.5).abs() < 1e-3,
            "{arrow:?}"
        );
        let arrow = ink.arrow([0.2, 0.0], 300);
        assert!(arrow[0] < 0.0 && arrow[1] == 0.0);
        assert_eq!(ink.arrow([0.0, 0.0], 0), [0.0, 0.0]);
    }

    #[test]
    fn clusters_are_drawn_apart_and_not_without_end() {
        let mut ink = drop_of("drop");
        assert!(!ink.add([0.01, 0.0]), "there is one");
        assert!(ink.add([9.0, 0.0]));
        assert_eq!(ink.mixture().centres[1], [EXTENT, 0.0]);
        assert!(!ink.add([8.0, 0.01]), "there is one, at the same edge");
        assert_eq!(ink.computed(), 0);
        for i in 0..200 {
            ink.add([f64::from(i % 20) * 0.3 - 3.0, f64::from(i / 20) * 0.3]);
        }
        assert_eq!(ink.mixture().centres.len(), MOST_CLUSTERS);
        let none = NoiseSchedule::new(BetaSchedule::Linear, 1000).unwrap();
        let mut none = Drop::new(none, vec![], 1);
        assert!(none.advance());
        assert_eq!(none.returned(0), 0);
    }

    #[test]
    fn the_canvas_shows_the_plane() {
        for x in [[0.0, 0.0], [-EXTENT, EXTENT], [1.0, 2.0]] {
            let (left, top) = to_canvas(x, 640.0);
            let back = from_canvas(left, top, 640.0);
            assert!((0..2).all(|i| (back[i] - x[i]).abs() < 1e-9));
        }
        assert_eq!(to_canvas([-EXTENT, EXTENT], 640.0), (0.0, 0.0));
    }
}
