//! Real garments for the page: a few to noise and to guess at, and more for a map of them.
//!
//! Nothing is chosen by hand or by chance: the first images of each class, in the data set's order.
//! The map's axes are the first two principal components of all training images in pixel space, a
//! projection that the page can apply to any picture at any moment, a half-noised one included.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use fashion_ddpm::{
    Garment,
    gallery::{
        self, Gallery, GalleryFile, Index, NeighboursNote, Projection, ProjectionNote, to_network,
    },
    noise::PIXELS,
    weights::hex,
};
use flate2::{Compression, write::GzEncoder};
use nalgebra::{DMatrix, DVector, SymmetricEigen};
use sha2::{Digest, Sha256};

use crate::{
    Dataset, Split,
    data::DataError,
    files::{self, FileError},
};

/// Training images of each class on the map: with them a visitor's download is about a megabyte.
const MAP_IMAGES: usize = 250;

/// Test images of each class.
const TEST_IMAGES: usize = 20;

/// How many nearest training images vote on a picture's class; more or fewer, from 3 to 10, find as
/// many right.
pub const VOTES: usize = 5;

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum PageDataError {
    /// No images.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An index that is another one's.
    #[error("{} is no index of the page's garments ({reason}); move it away and make it again by `trainer page-data`, or name another folder", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system would not read or write it.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The index's name in its folder.
pub const INDEX: &str = "index.json";

/// Writes `test.bin`, `map.bin` and the index that names them into `out`, from the data set in
/// `data`, else in the cache. What was measured on branches by the same map stays in the index.
///
/// # Errors
/// [`PageDataError`] says what is missing. The index is written last: it never names a file that is
/// not there.
pub fn write(data: Option<&Path>, out: &Path) -> Result<Index, PageDataError> {
    read_index(out)?;
    let training = Dataset::load(data, Split::Train)?;
    let test = Dataset::load(data, Split::Test)?;
    let (mut index, test_file, map_file) = build(&training, &test);
    files::create_folder(out)?;
    files::write(&out.join(&index.test.file), &test_file)?;
    files::write(&out.join(&index.map.file), &map_file)?;
    // Those of another map would be of other classes.
    let before = read_index(out)?.filter(|before| before.map == index.map);
    index.branches = before.map(|before| before.branches).unwrap_or_default();
    write_index(out, &index)?;
    Ok(index)
}

/// The index that is there already, if one is.
///
/// # Errors
/// [`PageDataError`] where it is something else, or cannot be read.
pub fn read_index(folder: &Path) -> Result<Option<Index>, PageDataError> {
    let path = folder.join(INDEX);
    if !path.exists() {
        return Ok(None);
    }
    let index = serde_json::from_slice(&files::read(&path)?);
    index.map(Some).map_err(|error| PageDataError::Index {
        path,
        reason: error.to_string(),
    })
}

/// Writes the index of the page's data.
///
/// # Errors
/// [`FileError`] names the file.
pub fn write_index(folder: &Path, index: &Index) -> Result<(), FileError> {
    let mut json = serde_json::to_vec_pretty(index).expect("plain data");
    json.push(b'\n');
    files::write(&folder.join(INDEX), &json)
}

/// The index and the two files it names: test images, and training images with their projection.
fn build(training: &Dataset, test: &Dataset) -> (Index, Vec<u8>, Vec<u8>) {
    let (projection, explained_variance) = principal_components(training);
    let map = first_of_each(training, MAP_IMAGES);
    let few = first_of_each(test, TEST_IMAGES);
    let map_bytes = compress(&gallery::encode(&map, Some(&projection)));
    let test_bytes = compress(&gallery::encode(&few, None));
    let index = Index {
        test: listed("test.bin", &test_bytes, &few),
        map: listed("map.bin", &map_bytes, &map),
        projection: ProjectionNote {
            method: "principal component analysis in pixel space".to_owned(),
            images: training.len(),
            explained_variance,
        },
        neighbours: trust(&map, test),
        branches: Vec::new(),
        training_sha256: training.sha256().to_owned(),
        test_sha256: test.sha256().to_owned(),
    };
    (index, test_bytes, map_bytes)
}

/// The first `count` images of each class, class by class; fewer where there are no more.
fn first_of_each(data: &Dataset, count: usize) -> Gallery {
    let mut gallery = Gallery::default();
    for garment in Garment::ALL {
        let of_class = (0..data.len()).filter(|image| data.label(*image) == garment);
        for image in of_class.take(count) {
            let pixels = data.pixels(image).try_into().expect("784 of each image");
            gallery.push(garment, pixels);
        }
    }
    gallery
}

/// The first two principal components of the images, in the network's units, and the share of the
/// variance along each. An axis points to where its largest number is positive: which way an
/// eigenvector points is nobody's decision otherwise.
fn principal_components(data: &Dataset) -> (Projection, [f64; 2]) {
    // What fits a cache beside the 784 x 784 sums.
    const ROWS: usize = 500;
    let mut sum = DVector::<f64>::zeros(PIXELS);
    let mut squares = DMatrix::<f64>::zeros(PIXELS, PIXELS);
    for first in (0..data.len()).step_by(ROWS) {
        let images = first..(first + ROWS).min(data.len());
        let pixels = images.clone().flat_map(|image| data.pixels(image));
        let numbers = pixels.map(|pixel| f64::from(to_network(*pixel)));
        let rows = DMatrix::from_iterator(PIXELS, images.len(), numbers);
        sum += rows.column_sum();
        squares.gemm(1.0, &rows, &rows.transpose(), 1.0);
    }
    let n = data.len() as f64;
    let mean = sum / n;
    let covariance = squares / n - &mean * mean.transpose();
    let total = covariance.trace();
    let eigen = SymmetricEigen::new(covariance);
    let mut order: Vec<usize> = (0..PIXELS).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let axis = |rank: usize| -> Vec<f32> {
        let column = eigen.eigenvectors.column(order[rank]);
        let sign = column[column.iamax()].signum();
        column.iter().map(|number| (sign * number) as f32).collect()
    };
    let share = |rank: usize| match total > 0.0 {
        true => eigen.eigenvalues[order[rank]] / total,
        false => 0.0,
    };
    let projection = Projection {
        mean: mean.iter().map(|number| *number as f32).collect(),
        axes: [axis(0), axis(1)],
    };
    (projection, [share(0), share(1)])
}

/// How often the vote of its nearest images names a test image's class, and how near the nearest is.
fn trust(map: &Gallery, test: &Dataset) -> NeighboursNote {
    let mut right = 0;
    let mut distances = Vec::with_capacity(test.len());
    for image in 0..test.len() {
        let x: Vec<f32> = test.pixels(image).iter().copied().map(to_network).collect();
        let neighbours = map.nearest(&x, VOTES);
        right += usize::from(map.vote(&neighbours) == Some(test.label(image)));
        distances.push(neighbours.first().map_or(0.0, |nearest| nearest.distance));
    }
    distances.sort_unstable_by(f32::total_cmp);
    NeighboursNote {
        votes: VOTES,
        test_images: test.len(),
        accuracy: right as f64 / test.len() as f64,
        median_distance: distances[distances.len() / 2].into(),
    }
}

fn listed(file: &str, bytes: &[u8], gallery: &Gallery) -> GalleryFile {
    GalleryFile {
        file: file.to_owned(),
        bytes: bytes.len() as u64,
        sha256: hex(&Sha256::digest(bytes)),
        images: gallery.len(),
    }
}

/// Gzip, with no time in it: the same images are the same file.
fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("memory does not fail")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use fashion_ddpm::gallery::Branches;
    use flate2::read::GzDecoder;

    use super::*;

    fn excerpt() -> Dataset {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/excerpt");
        Dataset::read(&folder, Split::Train).unwrap()
    }

    /// IDX files of two halves of these images.
    fn folder(images: &[(Vec<u8>, u8)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let header =
            |numbers: &[u32]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_be_bytes()).collect() };
        let count = images.len() as u32;
        let mut pixels = header(&[0x803, count, 28, 28]);
        let mut labels = header(&[0x801, count]);
        for (image, label) in images {
            pixels.extend(image);
            labels.push(*label);
        }
        for split in ["train", "t10k"] {
            let write = |kind: &str, bytes: &[u8]| {
                let path = folder.path().join(format!("{split}-{kind}-ubyte.gz"));
                std::fs::write(path, compress(bytes)).unwrap();
            };
            write("images-idx3", &pixels);
            write("labels-idx1", &labels);
        }
        folder
    }

    /// Images that differ along two known directions: 255 levels times a sine along pixel 3, half of
    /// them along pixel 700, uncorrelated. Their variances are 4 : 1 of the whole, 80 % and 20 %.
    #[test]
    fn principal_components_of_a_known_distribution() {
        let images: Vec<(Vec<u8>, u8)> = (0..64)
            .map(|i| {
                let angle = f64::from(i) * std::f64::consts::TAU / 64.0;
                let mut image = vec![100; PIXELS];
                image[3] = (127.5 + 120.0 * angle.sin()).round() as u8;
                image[700] = (127.5 + 60.0 * angle.cos()).round() as u8;
                (image, 0)
            })
            .collect();
        let folder = folder(&images);
        let data = Dataset::read(folder.path(), Split::Train).unwrap();
        let (projection, explained) = principal_components(&data);
        assert!((explained[0] - 0.8).abs() < 0.003, "{explained:?}");
        assert!((explained[0] + explained[1] - 1.0).abs() < 1e-9);
        for (axis, at) in projection.axes.iter().zip([3, 700]) {
            for (i, number) in axis.iter().enumerate() {
                let expected = if i == at { 1.0 } else { 0.0 };
                assert!((number - expected).abs() < 2e-3, "{i}: {number}");
            }
        }
        assert!((projection.mean[0] - to_network(100)).abs() < 1e-6);
        // And so a point of the map is what was put in.
        let x: Vec<f32> = images[16].0.iter().copied().map(to_network).collect();
        let [along, across] = projection.project(&x);
        assert!((along - 120.0 / 127.5).abs() < 0.02 && across.abs() < 0.02);
    }

    /// On the excerpt: axes that are orthogonal, centred points, and variances of the points as
    /// explained.
    #[test]
    fn the_map_of_the_excerpt_has_the_variance_it_claims() {
        let data = excerpt();
        let (projection, explained) = principal_components(&data);
        let dot =
            |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
        let [first, second] = &projection.axes;
        assert!((dot(first, first) - 1.0).abs() < 1e-5);
        assert!(dot(first, second).abs() < 1e-5);
        let x = |image: usize| -> Vec<f32> {
            data.pixels(image).iter().copied().map(to_network).collect()
        };
        let total: f64 = (0..data.len())
            .map(|i| {
                let centred = x(i)
                    .iter()
                    .zip(&projection.mean)
                    .map(|(x, m)| x - m)
                    .collect::<Vec<_>>();
                dot(&centred, &centred)
            })
            .sum();
        for (axis, explained) in explained.iter().enumerate() {
            let along: Vec<f64> = (0..data.len())
                .map(|i| projection.project(&x(i))[axis].into())
                .collect();
            let sum: f64 = along.iter().sum();
            assert!((sum / data.len() as f64).abs() < 1e-3);
            let share = along.iter().map(|v| v * v).sum::<f64>() / total;
            assert!((share - explained).abs() < 1e-5, "{share} {explained}");
        }
        assert!(explained[0] > explained[1]);
    }

    #[test]
    fn the_same_images_are_the_same_files_and_come_back() {
        let data = excerpt();
        let images: Vec<(Vec<u8>, u8)> = (0..200)
            .map(|i| (data.pixels(i).to_vec(), data.label(i).label() as u8))
            .collect();
        let folder = folder(&images);
        let out = tempfile::tempdir().unwrap();
        let index = write(Some(folder.path()), out.path()).unwrap();
        let files = |index: &Index| {
            [&index.test.file, &index.map.file, &"index.json".to_owned()]
                .map(|file| std::fs::read(out.path().join(file)).unwrap())
        };
        let first = files(&index);
        assert_eq!(write(Some(folder.path()), out.path()).unwrap(), index);
        assert_eq!(files(&index), first, "deterministic");
        assert_eq!(serde_json::from_slice::<Index>(&first[2]).unwrap(), index);

        let read = |bytes: &[u8]| {
            let mut content = Vec::new();
            GzDecoder::new(bytes).read_to_end(&mut content).unwrap();
            gallery::decode(&content).unwrap()
        };
        let (test, none) = read(&first[0]);
        let (map, projection) = read(&first[1]);
        assert!(none.is_none() && projection.is_some());
        assert_eq!((map.len(), index.map.images), (200, 200));
        // The first bag of the data set is the first bag of the map.
        let bag = (0..200).find(|i| data.label(*i) == Garment::Bag).unwrap();
        let first_bag = map
            .labels()
            .iter()
            .position(|l| *l == Garment::Bag)
            .unwrap();
        assert_eq!(map.pixels(first_bag), data.pixels(bag));
        let of = |garment| test.labels().iter().filter(|l| **l == garment).count();
        assert!(
            Garment::ALL
                .iter()
                .all(|garment| of(*garment) <= TEST_IMAGES)
        );
        // Every test image is on this map itself, at no distance.
        assert!(index.neighbours.median_distance < 1e-3);

        // What branches became on this map stays with it, and with no other.
        let curve = Branches {
            weights_sha256: "weights".to_owned(),
            epoch: 1,
            sampler: "ddpm".to_owned(),
            steps: 10,
            runs: 2,
            seed: 0,
            by_chance: 0.1,
            points: Vec::new(),
        };
        let mut measured = index.clone();
        measured.keep(curve);
        write_index(out.path(), &measured).unwrap();
        assert_eq!(write(Some(folder.path()), out.path()).unwrap(), measured);
        measured.map.sha256 = "another".to_owned();
        write_index(out.path(), &measured).unwrap();
        assert_eq!(write(Some(folder.path()), out.path()).unwrap(), index);

        // An index of weights stays one.
        let other = out.path().join(INDEX);
        std::fs::write(&other, r#"{"default": "a.bpk", "models": []}"#).unwrap();
        let error = write(Some(folder.path()), out.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no index of the page's garments")
        );
        assert_ne!(std::fs::read(&other).unwrap(), first[2]);
    }
}
