//! Real garments, the map they make, and which of them a picture resembles.
//!
//! The trainer picks the images and computes the projection; the page draws the map and asks the
//! same questions of its samples. Both by this file, so that a point of the map is where the
//! trainer's tests say it is.

use serde::{Deserialize, Serialize};

use crate::{Garment, noise::PIXELS};

/// A pixel as the network sees it: 0 to 255 becomes -1 to 1.
pub fn to_network(pixel: u8) -> f32 {
    f32::from(pixel) / 127.5 - 1.0
}

/// Images of the data set with their classes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gallery {
    labels: Vec<Garment>,
    pixels: Vec<u8>,
}

/// One of the images of a [`Gallery`] that are closest to a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its index in the gallery.
    pub index: usize,
    /// Root of the mean squared difference over all pixels, in grey levels: 0 is a copy, 255 the
    /// negative of a picture in pure black and white.
    pub distance: f32,
}

impl Gallery {
    /// Adds an image of 784 pixels, row by row, 0 = black.
    pub fn push(&mut self, label: Garment, pixels: &[u8; PIXELS]) {
        self.labels.push(label);
        self.pixels.extend(pixels);
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// All classes, image by image.
    pub fn labels(&self) -> &[Garment] {
        &self.labels
    }

    /// One image's 784 pixels, row by row, 0 = black; empty where there is no such image.
    pub fn pixels(&self, image: usize) -> &[u8] {
        let pixels = self.pixels.get(image * PIXELS..(image + 1) * PIXELS);
        pixels.unwrap_or_default()
    }

    /// One image as the network sees it: 784 numbers in [-1, 1].
    pub fn image(&self, image: usize) -> Vec<f32> {
        self.pixels(image).iter().copied().map(to_network).collect()
    }

    /// The `count` images closest to `x`, closest first. `x` has 784 numbers, of which [-1, 1] is
    /// looked at: what lies beyond is as black or white as a picture can be.
    pub fn nearest(&self, x: &[f32], count: usize) -> Vec<Neighbour> {
        let x: Vec<f32> = x
            .iter()
            .map(|x| (x + 1.0).clamp(0.0, 2.0) * 127.5)
            .collect();
        // A handful is asked for: each finds its place among those found so far.
        let mut closest: Vec<Neighbour> = Vec::with_capacity(count.min(self.len()) + 1);
        for (index, image) in self.pixels.chunks_exact(PIXELS).enumerate() {
            let pairs = image.iter().zip(&x);
            let squares: f32 = pairs.map(|(a, b)| (f32::from(*a) - b).powi(2)).sum();
            let distance = (squares / PIXELS as f32).sqrt();
            // Of two as close, the one that stands first.
            let place = closest.partition_point(|n| n.distance.total_cmp(&distance).is_le());
            if place < count {
                closest.insert(place, Neighbour { index, distance });
                closest.truncate(count);
            }
        }
        closest
    }

    /// The class that most of these neighbours have; of classes with as many, the one whose nearest
    /// is nearer. `None` without neighbours.
    pub fn vote(&self, neighbours: &[Neighbour]) -> Option<Garment> {
        let mut votes = [0usize; Garment::ALL.len()];
        for neighbour in neighbours {
            votes[self.labels[neighbour.index].label()] += 1;
        }
        let most = *votes.iter().max()?;
        neighbours
            .iter()
            .map(|neighbour| self.labels[neighbour.index])
            .find(|label| votes[label.label()] == most)
    }
}

/// A way to draw images in a plane: two numbers that tell most of how they differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// What is subtracted first: 784 numbers.
    pub mean: Vec<f32>,
    /// Two orthogonal unit vectors of 784 numbers each.
    pub axes: [Vec<f32>; 2],
}

impl Projection {
    /// Where a picture of 784 numbers, in the network's units, lies on the map.
    pub fn project(&self, x: &[f32]) -> [f32; 2] {
        let along = |axis: &Vec<f32>| {
            let numbers = x.iter().zip(&self.mean).zip(axis);
            numbers.map(|((x, mean), axis)| (x - mean) * axis).sum()
        };
        [along(&self.axes[0]), along(&self.axes[1])]
    }
}

/// The first bytes of a gallery, with the version of the format.
const MAGIC: &[u8; 8] = b"garment1";

/// Why bytes are no gallery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GalleryError {
    /// Another file.
    #[error("this is no file of garments, or one of another version; reload the page")]
    Magic,
    /// Cut off, or longer than it says.
    #[error("the file of garments should have {expected} bytes and has {found}; reload the page")]
    Length {
        /// What its first bytes say.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// A class there is not.
    #[error("the file of garments names a class {0}; there are 0 to 9")]
    Label(u8),
}

/// The bytes of a gallery, before compression; all numbers are little-endian:
///
/// | bytes | what |
/// | --- | --- |
/// | 8 | `garment1` |
/// | 4 | N, the number of images |
/// | 4 | 1 where a projection follows, else 0 |
/// | N | labels, 0 to 9 |
/// | 784 N | pixels, image by image, row by row, 0 = black |
/// | 3 x 784 x 4 | the projection, if any: mean, first and second axis, in f32 |
pub fn encode(gallery: &Gallery, projection: Option<&Projection>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend((gallery.len() as u32).to_le_bytes());
    bytes.extend(u32::from(projection.is_some()).to_le_bytes());
    bytes.extend(gallery.labels.iter().map(|label| label.label() as u8));
    bytes.extend(&gallery.pixels);
    if let Some(Projection { mean, axes }) = projection {
        let numbers = mean.iter().chain(&axes[0]).chain(&axes[1]);
        bytes.extend(numbers.flat_map(|number| number.to_le_bytes()));
    }
    bytes
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`GalleryError`] says what was expected and what was found.
pub fn decode(bytes: &[u8]) -> Result<(Gallery, Option<Projection>), GalleryError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(GalleryError::Magic)?;
    let found = bytes.len();
    let (header, rest) = rest.split_at_checked(8).ok_or(GalleryError::Length {
        expected: 16,
        found,
    })?;
    let number = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| header[4 * i + j])) as usize;
    let (count, projected) = (number(0), number(1));
    let projected = match projected {
        0 | 1 => projected,
        _ => return Err(GalleryError::Magic),
    };
    // In u64, which a count of 2^32 - 1 does not exceed: usize has 32 bits in the browser.
    let expected = 16 + count as u64 * (1 + PIXELS as u64) + (projected * 3 * PIXELS * 4) as u64;
    if expected != found as u64 {
        return Err(GalleryError::Length {
            expected: usize::try_from(expected).unwrap_or(usize::MAX),
            found,
        });
    }
    let (labels, rest) = rest.split_at(count);
    let (pixels, numbers) = rest.split_at(count * PIXELS);
    let labels = labels
        .iter()
        .map(|label| Garment::from_label((*label).into()).ok_or(GalleryError::Label(*label)))
        .collect::<Result<_, _>>()?;
    let numbers: Vec<f32> = (numbers.chunks_exact(4))
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let part = |i: usize| numbers[i * PIXELS..(i + 1) * PIXELS].to_vec();
    let projection = (projected == 1).then(|| Projection {
        mean: part(0),
        axes: [part(1), part(2)],
    });
    let pixels = pixels.to_vec();
    Ok((Gallery { labels, pixels }, projection))
}

/// `web/data/index.json`: the page's files of garments, and what is to be said of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Test images: for noising, and to be told from samples.
    pub test: GalleryFile,
    /// Training images: for the map.
    pub map: GalleryFile,
    /// How the map was made.
    pub projection: ProjectionNote,
    /// How far the nearest neighbours can be trusted.
    pub neighbours: NeighboursNote,
    /// How often a branch keeps the class of its run: a curve for each weights file for which that
    /// has been measured, in the order of their epochs.
    #[serde(default)]
    pub branches: Vec<Branches>,
    /// SHA-256 of the training images and labels, uncompressed.
    pub training_sha256: String,
    /// SHA-256 of the test images and labels, uncompressed.
    pub test_sha256: String,
}

impl Index {
    /// Adds a curve, in place of the one that there was of the same epoch.
    pub fn keep(&mut self, branches: Branches) {
        self.branches.retain(|kept| kept.epoch != branches.epoch);
        let later = |kept: &Branches| kept.epoch < branches.epoch;
        let place = self.branches.partition_point(later);
        self.branches.insert(place, branches);
    }

    /// The curve of the weights with this checksum.
    pub fn branches_of(&self, weights_sha256: &str) -> Option<&Branches> {
        let mut all = self.branches.iter();
        all.find(|branches| branches.weights_sha256 == weights_sha256)
    }
}

/// A gzip file of what [`encode`] makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GalleryFile {
    /// Its name, in the folder of the index.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its checksum.
    pub sha256: String,
    /// How many images it has.
    pub images: usize,
}

/// What the map shows and what it leaves out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectionNote {
    /// The method, in words.
    pub method: String,
    /// How many images the axes were computed from.
    pub images: usize,
    /// The share of their variance along each axis.
    pub explained_variance: [f64; 2],
}

/// The class of a picture by the vote of its nearest neighbours, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NeighboursNote {
    /// How many vote.
    pub votes: usize,
    /// On how many test images it was measured.
    pub test_images: usize,
    /// The share of them whose class the vote finds.
    pub accuracy: f64,
    /// Half of them are closer to their nearest neighbour than this, in grey levels.
    pub median_distance: f64,
}

/// How often a branch keeps the class of its run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Branches {
    /// Checksum of the weights.
    pub weights_sha256: String,
    /// Their epoch.
    pub epoch: u32,
    /// The sampler.
    pub sampler: String,
    /// Its steps.
    pub steps: usize,
    /// The runs: images 0 to `runs` - 1 of the seed.
    pub runs: u32,
    /// The seed.
    pub seed: u32,
    /// The share of all pairs of different runs that have the same class.
    pub by_chance: f64,
    /// One for each t, the noisiest first.
    pub points: Vec<BranchPoint>,
}

/// Branches from one t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchPoint {
    /// As the lecture counts: T is noise, 0 the garment.
    pub t: usize,
    /// Runs whose branch has the run's own class.
    pub kept: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(level: u8) -> [u8; PIXELS] {
        [level; PIXELS]
    }

    fn gallery(images: &[(Garment, u8)]) -> Gallery {
        let mut gallery = Gallery::default();
        for (label, level) in images {
            gallery.push(*label, &flat(*level));
        }
        gallery
    }

    #[test]
    fn distances_are_grey_levels() {
        use Garment::{Bag, Coat, Dress};
        let gallery = gallery(&[(Bag, 0), (Coat, 255), (Dress, 100), (Bag, 100)]);
        // 0 is mid-grey, 127.5.
        let found = gallery.nearest(&[0.0; PIXELS], 3);
        let expected = [(2, 27.5), (3, 27.5), (0, 127.5)];
        for (found, (index, distance)) in found.iter().zip(expected) {
            assert_eq!(found.index, index);
            assert!((found.distance - distance).abs() < 1e-3, "{found:?}");
        }
        // One pixel of 784 off by 255 levels.
        let mut x = gallery.image(0);
        x[300] = 7.0;
        let found = gallery.nearest(&x, 99);
        assert_eq!(found.len(), 4);
        assert!((found[0].distance - 255.0 / 28.0).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn the_vote_is_the_majoritys_and_a_tie_the_nearests() {
        use Garment::{Bag, Coat, Dress};
        let gallery = gallery(&[(Bag, 10), (Coat, 20), (Coat, 30), (Bag, 40), (Dress, 50)]);
        let vote = |count| gallery.vote(&gallery.nearest(&[-1.0; PIXELS], count));
        assert_eq!(vote(0), None);
        assert_eq!(vote(1), Some(Bag));
        assert_eq!(vote(3), Some(Coat));
        assert_eq!(vote(5), Some(Bag), "two each, and a bag is nearest");
    }

    #[test]
    fn a_projection_is_two_scalar_products() {
        let axis = |at: usize| {
            let mut axis = vec![0.0; PIXELS];
            axis[at] = 1.0;
            axis
        };
        let projection = Projection {
            mean: vec![0.25; PIXELS],
            axes: [axis(3), axis(700)],
        };
        let x: Vec<f32> = (0..PIXELS).map(|i| i as f32).collect();
        assert_eq!(projection.project(&x), [2.75, 699.75]);
    }

    #[test]
    fn files_come_back_whole_or_not_at_all() {
        let gallery = gallery(&[(Garment::Bag, 1), (Garment::Coat, 2)]);
        let projection = Projection {
            mean: vec![0.5; PIXELS],
            axes: [vec![-1.0; PIXELS], vec![2.0; PIXELS]],
        };
        for projection in [None, Some(projection)] {
            let bytes = encode(&gallery, projection.as_ref());
            assert_eq!(decode(&bytes), Ok((gallery.clone(), projection)));
            for cut in 0..bytes.len() {
                assert!(decode(&bytes[..cut]).is_err(), "{cut}");
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert!(matches!(decode(&longer), Err(GalleryError::Length { .. })));
            let mut hat = bytes.clone();
            hat[17] = 10;
            assert_eq!(decode(&hat), Err(GalleryError::Label(10)));
            let mut more = bytes;
            more[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(matches!(decode(&more), Err(GalleryError::Length { .. })));
        }
    }

    #[test]
    fn each_epoch_has_one_curve() {
        let curve = |epoch, sha256: &str| Branches {
            weights_sha256: sha256.to_owned(),
            epoch,
            sampler: "ddpm".to_owned(),
            steps: 50,
            runs: 2,
            seed: 0,
            by_chance: 0.1,
            points: Vec::new(),
        };
        let file = || GalleryFile {
            file: String::new(),
            bytes: 0,
            sha256: String::new(),
            images: 0,
        };
        let mut index = Index {
            test: file(),
            map: file(),
            projection: ProjectionNote {
                method: String::new(),
                images: 0,
                explained_variance: [0.0; 2],
            },
            neighbours: NeighboursNote {
                votes: 5,
                test_images: 0,
                accuracy: 0.0,
                median_distance: 0.0,
            },
            branches: Vec::new(),
            training_sha256: String::new(),
            test_sha256: String::new(),
        };
        for (epoch, sha256) in [(12, "a"), (50, "b"), (1, "c"), (12, "d")] {
            index.keep(curve(epoch, sha256));
        }
        let epochs: Vec<u32> = index.branches.iter().map(|curve| curve.epoch).collect();
        assert_eq!(epochs, [1, 12, 50]);
        assert_eq!(index.branches_of("a"), None);
        assert_eq!(index.branches_of("d"), Some(&curve(12, "d")));
    }

    #[test]
    fn pixels_fill_the_networks_range() {
        assert_eq!((to_network(0), to_network(255)), (-1.0, 1.0));
        for pixel in 0..=255 {
            assert_eq!(crate::sampler::to_pixels(&[to_network(pixel)]), [pixel]);
        }
    }
}
