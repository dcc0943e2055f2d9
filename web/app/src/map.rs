//! Why does it work? Almost all images are nothing; the garments lie in clusters; and when it is
//! decided which one a picture becomes.

use fashion_ddpm::{
    Garment,
    gallery::{Gallery, Neighbour, Projection},
    noise::PIXELS,
};

/// A sample's way over the map: one point for each stop of its run.
#[derive(Debug, Default)]
pub struct Path {
    run: u32,
    /// The state x_t.
    pub state: Vec<[f32; 2]>,
    /// What the network expects it to become.
    pub expected: Vec<Option<[f32; 2]>>,
}

impl Path {
    /// Follows a run up to a stop. `at` gives a stop's x, and x-hat-0 where that is known.
    pub fn follow(
        &mut self,
        projection: &Projection,
        run: u32,
        stop: usize,
        at: impl Fn(usize) -> Option<(Vec<f32>, Option<Vec<f32>>)>,
    ) {
        if run != self.run {
            *self = Self {
                run,
                ..Self::default()
            };
        }
        while self.state.len() <= stop {
            let Some((state, expected)) = at(self.state.len()) else {
                break;
            };
            self.state.push(projection.project(&state));
            let expected = expected.map(|expected| projection.project(&expected));
            self.expected.push(expected);
        }
    }
}

/// A part of the plane that is drawn into a canvas, as large as fits, the same scale both ways.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    middle: [f32; 2],
    scale: f32,
    size: [f32; 2],
}

impl Frame {
    /// All these points with a margin, in a canvas of this size.
    pub fn around(points: &[[f32; 2]], size: [f32; 2]) -> Self {
        const MARGIN: f32 = 0.04;
        let end = |axis: usize, pick: fn(f32, f32) -> f32| {
            points
                .iter()
                .map(|point| point[axis])
                .reduce(pick)
                .unwrap_or_default()
        };
        let low = [0, 1].map(|axis| end(axis, f32::min));
        let high = [0, 1].map(|axis| end(axis, f32::max));
        let room = [0, 1].map(|axis| {
            size[axis] * (1.0 - 2.0 * MARGIN) / (high[axis] - low[axis]).max(f32::EPSILON)
        });
        Self {
            middle: [0, 1].map(|axis| (low[axis] + high[axis]) / 2.0),
            scale: room[0].min(room[1]),
            size,
        }
    }

    /// Where a point is drawn; up is up.
    pub fn place(&self, point: [f32; 2]) -> [f32; 2] {
        let x = (point[0] - self.middle[0]) * self.scale;
        let y = (self.middle[1] - point[1]) * self.scale;
        [x + self.size[0] / 2.0, y + self.size[1] / 2.0]
    }

    /// The point nearest to a place of the canvas, if one is within `reach` of it.
    pub fn find(&self, points: &[[f32; 2]], place: [f32; 2], reach: f32) -> Option<usize> {
        let away = |point: &[f32; 2]| {
            let drawn = self.place(*point);
            (drawn[0] - place[0]).hypot(drawn[1] - place[1])
        };
        let distances = points.iter().map(away).enumerate();
        let nearest = distances.min_by(|a, b| a.1.total_cmp(&b.1))?;
        (nearest.1 <= reach).then_some(nearest.0)
    }

    /// The nearest point that lies in a direction, within 45 degrees of it, for the arrow keys.
    pub fn beyond(&self, points: &[[f32; 2]], from: [f32; 2], way: [f32; 2]) -> Option<usize> {
        let start = self.place(from);
        let ahead = points.iter().enumerate().filter_map(|(i, point)| {
            let place = self.place(*point);
            let step = [place[0] - start[0], place[1] - start[1]];
            let along = step[0] * way[0] + step[1] * way[1];
            let across = (step[0] * way[1] - step[1] * way[0]).abs();
            // A pixel at least, or two points on one place are never left.
            (along >= 1.0 && across <= along).then(|| (i, step[0].hypot(step[1])))
        });
        ahead.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
    }
}

/// A picture of random pixels, each grey level as likely, from random numbers of [0, 1).
pub fn random_image(mut random: impl FnMut() -> f64) -> [u8; PIXELS] {
    std::array::from_fn(|_| (random() * 256.0) as u8)
}

/// Grey levels as the network sees them.
pub fn from_pixels(pixels: &[u8]) -> Vec<f32> {
    let numbers = pixels.iter().copied();
    numbers.map(fashion_ddpm::gallery::to_network).collect()
}

/// What a picture looks like, by the vote of its nearest real images, and these.
pub fn looks_like(gallery: &Gallery, x: &[f32], votes: usize) -> Option<(Garment, Vec<Neighbour>)> {
    let neighbours = gallery.nearest(x, votes);
    let garment = gallery.vote(&neighbours)?;
    Some((garment, neighbours))
}

/// The 95 % interval of a share of which `kept` of `n` were seen (Wilson 1927): within 0 and 1, and
/// not empty where all were seen or none.
pub fn interval(kept: u32, n: u32) -> [f64; 2] {
    const Z: f64 = 1.959_964;
    let n = f64::from(n.max(1));
    let (share, z) = (f64::from(kept) / n, Z * Z / n);
    let middle = (share + z / 2.0) / (1.0 + z);
    let half = (share * (1.0 - share) * z + z * z / 4.0).sqrt() / (1.0 + z);
    // The share itself is within, whatever the last bit says.
    [(middle - half).min(share), (middle + half).max(share)]
}

/// A share of some samples, with its 95 % interval by bootstrap, and the verb. Where there was none,
/// each draw of the bootstrap has none: such an interval says nothing, and the count is all there is.
pub fn how_many(share: f64, interval: [f64; 2]) -> String {
    if share == 0.0 {
        return "none is".to_owned();
    }
    let [share, low, high] = [share, interval[0], interval[1]].map(|share| 100.0 * share);
    format!("{share:.1} % ({low:.1} to {high:.1} %) are")
}

/// Stops of a run to show in a strip of this many pictures from stop `first` to the last one, both
/// included.
pub fn strip(first: usize, last: usize, pictures: usize) -> Vec<usize> {
    let last = last.max(first);
    let gaps = pictures.saturating_sub(1).max(1);
    let mut stops: Vec<usize> = (0..pictures)
        .map(|i| first + ((last - first) as f64 * i as f64 / gaps as f64).round() as usize)
        .collect();
    stops.dedup();
    stops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_point_for_each_stop_and_starts_anew_with_each_run() {
        let axis = |at: usize| {
            let mut axis = vec![0.0; PIXELS];
            axis[at] = 1.0;
            axis
        };
        let projection = Projection {
            mean: vec![0.0; PIXELS],
            axes: [axis(0), axis(1)],
        };
        let picture = |value: f32| vec![value; PIXELS];
        let mut path = Path::default();
        let mut follow = |run, stop| {
            path.follow(&projection, run, stop, |stop| {
                let expected = (stop != 2).then(|| picture(0.5));
                (stop < 4).then(|| (picture(stop as f32), expected))
            });
            (path.state.clone(), path.expected.clone())
        };
        let (state, expected) = follow(1, 2);
        assert_eq!(state, [[0.0; 2], [1.0; 2], [2.0; 2]]);
        assert_eq!(expected, [Some([0.5; 2]), Some([0.5; 2]), None]);
        assert_eq!(follow(1, 1).0.len(), 3, "what is known stays");
        assert_eq!(follow(1, 9).0.len(), 4, "no further than there is");
        assert_eq!(follow(2, 0).0, [[0.0; 2]]);
    }

    #[test]
    fn a_frame_shows_all_points_and_finds_them_again() {
        let points = [[-10.0, -2.0], [30.0, 2.0], [10.0, 0.0], [10.0, 1.0]];
        let frame = Frame::around(&points, [400.0, 300.0]);
        assert_eq!(frame.place([10.0, 0.0]), [200.0, 150.0]);
        for (i, point) in points.iter().enumerate() {
            let place = frame.place(*point);
            assert!((0.0..=400.0).contains(&place[0]) && (0.0..=300.0).contains(&place[1]));
            assert_eq!(frame.find(&points, place, 1.0), Some(i));
        }
        assert!(frame.place([10.0, 1.0])[1] < 150.0, "up is up");
        assert_eq!(frame.find(&points, [0.0, 0.0], 10.0), None);
        assert_eq!(frame.find(&[], [0.0, 0.0], 1e9), None);
        // By the keys: up, then right, and no further.
        assert_eq!(frame.beyond(&points, points[2], [0.0, -1.0]), Some(3));
        assert_eq!(frame.beyond(&points, points[3], [1.0, 0.0]), Some(1));
        assert_eq!(frame.beyond(&points, points[1], [1.0, 0.0]), None);
        let single = Frame::around(&points[..1], [400.0, 300.0]);
        assert_eq!(single.place(points[0]), [200.0, 150.0]);
    }

    #[test]
    fn random_images_have_all_levels() {
        let mut next = 0;
        let image = random_image(|| {
            next = (next + 1) % 256;
            f64::from(next) / 256.0
        });
        let mut seen = image.to_vec();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn none_of_the_samples_is_no_share() {
        assert_eq!(how_many(0.0, [0.0, 0.0]), "none is");
        let two_of_2048 = how_many(2.0 / 2048.0, [0.0, 0.0028]);
        assert_eq!(two_of_2048, "0.1 % (0.0 to 0.3 %) are");
    }

    #[test]
    fn strips_have_both_ends() {
        assert_eq!(strip(0, 1000, 5), [0, 250, 500, 750, 1000]);
        assert_eq!(strip(998, 1000, 5), [998, 999, 1000]);
        assert_eq!(strip(7, 7, 5), [7]);
    }

    /// The ends of the interval solve (p - share)^2 = z^2 p (1 - p) / n, which is how it is defined.
    #[test]
    fn an_interval_holds_what_a_share_may_be_of() {
        for (kept, n) in [(0, 10), (5, 10), (10, 10), (25, 100), (127, 128)] {
            let share = f64::from(kept) / f64::from(n);
            for end in interval(kept, n) {
                let [left, right] = [(end - share).powi(2), end * (1.0 - end) / f64::from(n)];
                assert!(
                    (left - 1.959_964f64.powi(2) * right).abs() < 1e-12,
                    "{kept} of {n}"
                );
            }
            let [low, high] = interval(kept, n);
            assert!(low < high && (low..=high).contains(&share));
        }
    }
}
