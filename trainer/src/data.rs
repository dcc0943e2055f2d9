//! Fashion-MNIST (Xiao et al. 2017), from its four official files.
//!
//! IDX files, gzipped: a magic number, the sizes, then bytes. From a folder of the person's they
//! are taken as they are, so that an excerpt or another data set of the same shape can be trained
//! on; in our own cache folder they are downloaded, and there each must have its published MD5.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use fashion_ddpm::{
    Garment,
    noise::{IMAGE_SIZE, PIXELS},
    weights::hex,
};
use flate2::read::GzDecoder;
use md5::Md5;
use sha2::{Digest, Sha256};

pub use fashion_ddpm::gallery::to_network;

use crate::files::{self, FileError};

/// Where the official files are; the second is tried where the first does not answer.
pub const MIRRORS: [&str; 2] = [
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
];

/// SHA-256 of the 60,000 official training images and labels, as [`Dataset::sha256`] counts it.
const OFFICIAL_TRAINING_SHA256: &str =
    "d9ef4273af5c2e360155dad0c06bd939447bf37a6620db007d69fc79e4732045";

/// The two halves of the data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// 60,000 images to learn from.
    Train,
    /// 10,000 images to judge by.
    Test,
}

/// One official file.
struct Official {
    name: &'static str,
    md5: &'static str,
}

impl Split {
    fn images(self) -> Official {
        match self {
            Self::Train => Official {
                name: "train-images-idx3-ubyte.gz",
                md5: "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            },
            Self::Test => Official {
                name: "t10k-images-idx3-ubyte.gz",
                md5: "bef4ecab320f06d8554ea6380940ec79",
            },
        }
    }

    fn labels(self) -> Official {
        match self {
            Self::Train => Official {
                name: "train-labels-idx1-ubyte.gz",
                md5: "25c81989df183df01b3e8a0aad5dffbe",
            },
            Self::Test => Official {
                name: "t10k-labels-idx1-ubyte.gz",
                md5: "bb300cfdad3c16e7a12a480ee83cd310",
            },
        }
    }
}

/// Why there are no images.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// No such file in the folder that was named.
    #[error(
        "{} is missing; --data wants the folder with the official .gz files, and without --data they are downloaded", .0.display()
    )]
    Missing(PathBuf),
    /// The system would not read or write it.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not gzip, or cut off.
    #[error("{} is no complete gzip file ({reason}); fetch it again", path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// The decoder's own complaint.
        reason: String,
    },
    /// Not the IDX file it should be.
    #[error("{} should hold {expected}, but holds {found}; use the official file", path.display())]
    Idx {
        /// The file.
        path: PathBuf,
        /// What an IDX file of this kind holds.
        expected: String,
        /// What was there.
        found: String,
    },
    /// Neither mirror gave the file.
    #[error(
        "cannot download {file} ({reason}); put the four official files into a folder and name it with --data"
    )]
    Download {
        /// Its name.
        file: &'static str,
        /// The last mirror's failure.
        reason: String,
    },
    /// No folder to keep downloads in.
    #[error(
        "this system names no cache folder; put the four official files into a folder and name it with --data"
    )]
    NoCache,
}

/// Images with their labels, in memory.
#[derive(Clone)]
pub struct Dataset {
    pixels: Vec<u8>,
    labels: Vec<Garment>,
    sha256: String,
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dataset({} images, {})", self.len(), self.sha256)
    }
}

impl Dataset {
    /// Reads a half of the data set from `folder`, else from the cache, which is filled first.
    ///
    /// # Errors
    /// [`DataError`] says which file is missing, cut off or another one.
    pub fn load(folder: Option<&Path>, split: Split) -> Result<Self, DataError> {
        if let Some(folder) = folder {
            return Self::read(folder, split);
        }
        let cache = dirs::cache_dir()
            .ok_or(DataError::NoCache)?
            .join("fashion-ddpm")
            .join("fashion-mnist");
        fill(&cache, split, &MIRRORS)?;
        Self::read(&cache, split)
    }

    /// Reads a half of the data set from the files in `folder`.
    ///
    /// # Errors
    /// [`DataError`] says which file is missing, cut off or another one.
    pub fn read(folder: &Path, split: Split) -> Result<Self, DataError> {
        let images_path = folder.join(split.images().name);
        let labels_path = folder.join(split.labels().name);
        let images = gunzip(&images_path)?;
        let labels = gunzip(&labels_path)?;
        let mut sha256 = Sha256::new();
        sha256.update(&images);
        sha256.update(&labels);
        let (size, pixels) = idx::<3>(&images_path, &images, "images")?;
        if size[1..] != [IMAGE_SIZE; 2] {
            return Err(DataError::Idx {
                path: images_path,
                expected: "images of 28 x 28 pixels".to_owned(),
                found: format!("images of {} x {}", size[1], size[2]),
            });
        }
        let ([count], numbers) = idx::<1>(&labels_path, &labels, "labels")?;
        if count != size[0] || count == 0 {
            return Err(DataError::Idx {
                path: labels_path,
                expected: format!("one label for each of the {} images", size[0]),
                found: format!("{count} labels"),
            });
        }
        let labels = numbers
            .iter()
            .map(|&label| Garment::from_label(label.into()).ok_or(label))
            .collect::<Result<_, _>>()
            .map_err(|label| DataError::Idx {
                path: labels_path,
                expected: "labels from 0 to 9".to_owned(),
                found: format!("the label {label}"),
            })?;
        Ok(Self {
            pixels: pixels.to_vec(),
            labels,
            sha256: hex(&sha256.finalize()),
        })
    }

    /// How many images there are; never none.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// One image's 784 pixels, row by row, 0 = black.
    pub fn pixels(&self, image: usize) -> &[u8] {
        &self.pixels[image * PIXELS..(image + 1) * PIXELS]
    }

    /// One image's class.
    pub fn label(&self, image: usize) -> Garment {
        self.labels[image]
    }

    /// SHA-256 of the two files, uncompressed, images first; hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What it is, in words.
    pub fn description(&self) -> String {
        if self.sha256 == OFFICIAL_TRAINING_SHA256 {
            "Fashion-MNIST, 60000 training images".to_owned()
        } else {
            format!("{} images, not the whole of Fashion-MNIST", self.len())
        }
    }
}

fn gunzip(path: &Path) -> Result<Vec<u8>, DataError> {
    if !path.exists() {
        return Err(DataError::Missing(path.to_owned()));
    }
    let compressed = files::read(path)?;
    let mut bytes = Vec::new();
    GzDecoder::new(compressed.as_slice())
        .read_to_end(&mut bytes)
        .map_err(|error| DataError::Gzip {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    Ok(bytes)
}

/// The sizes and the content of an IDX file of unsigned bytes with N dimensions.
fn idx<'a, const N: usize>(
    path: &Path,
    bytes: &'a [u8],
    what: &str,
) -> Result<([usize; N], &'a [u8]), DataError> {
    let wrong = |expected: String, found: String| DataError::Idx {
        path: path.to_owned(),
        expected,
        found,
    };
    let number = |i: usize| {
        let four = bytes.get(4 * i..4 * i + 4)?;
        Some(u32::from_be_bytes(four.try_into().expect("four bytes")))
    };
    let magic = 0x0800 + N as u32;
    if number(0) != Some(magic) {
        return Err(wrong(
            format!("{what} (an IDX file that starts with {magic:#010x})"),
            number(0).map_or("next to nothing".to_owned(), |n| format!("{n:#010x}")),
        ));
    }
    let mut size = [0; N];
    for (i, size) in size.iter_mut().enumerate() {
        *size = number(i + 1).unwrap_or(0) as usize;
    }
    let content = bytes.get(4 * (N + 1)..).unwrap_or_default();
    let expected = size.iter().try_fold(1usize, |a, &b| a.checked_mul(b));
    if expected != Some(content.len()) {
        return Err(wrong(
            format!("{what} of the size {size:?}"),
            format!("{} bytes of them", content.len()),
        ));
    }
    Ok((size, content))
}

/// Downloads what a folder lacks of the official files. A file that is there is checked too.
///
/// # Errors
/// [`DataError::Download`] where no mirror gives a file with the published MD5.
pub fn fill(folder: &Path, split: Split, mirrors: &[&str]) -> Result<(), DataError> {
    files::create_folder(folder)?;
    fetch(folder, &split.images(), mirrors)?;
    fetch(folder, &split.labels(), mirrors)
}

fn fetch(folder: &Path, official: &Official, mirrors: &[&str]) -> Result<(), DataError> {
    let path = folder.join(official.name);
    if path.exists() && checksum(&files::read(&path)?) == official.md5 {
        return Ok(());
    }
    let mut reason = "there is no mirror".to_owned();
    for mirror in mirrors {
        let url = format!("{mirror}/{}", official.name);
        eprintln!("downloading {url}");
        match download(&url) {
            Ok(bytes) if checksum(&bytes) == official.md5 => {
                return Ok(files::write(&path, &bytes)?);
            }
            Ok(bytes) => {
                reason = format!(
                    "{url} gave {} bytes with the MD5 {}, expected {}",
                    bytes.len(),
                    checksum(&bytes),
                    official.md5
                );
            }
            Err(error) => reason = format!("{url}: {error}"),
        }
    }
    Err(DataError::Download {
        file: official.name,
        reason,
    })
}

fn checksum(bytes: &[u8]) -> String {
    hex(&Md5::digest(bytes))
}

fn download(url: &str) -> Result<Vec<u8>, ureq::Error> {
    // The largest file has 26 MB.
    const LIMIT: u64 = 64 << 20;
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .build()
        .into();
    let response = agent.get(url).call()?;
    response
        .into_body()
        .with_config()
        .limit(LIMIT)
        .read_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        thread,
    };

    use flate2::{Compression, write::GzEncoder};
    use tempfile::{TempDir, tempdir};

    fn excerpt() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/excerpt")
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn header(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    /// A folder with a data set of two images, one part of it replaced.
    fn folder(images: Option<&[u8]>, labels: Option<&[u8]>) -> TempDir {
        let folder = tempdir().unwrap();
        let good_images = [header(&[0x803, 2, 28, 28]), vec![7; 2 * 784]].concat();
        let good_labels = [header(&[0x801, 2]), vec![3, 9]].concat();
        let write = |name, bytes: &[u8]| fs_write(folder.path(), name, &gzip(bytes));
        write("train-images-idx3-ubyte.gz", images.unwrap_or(&good_images));
        write("train-labels-idx1-ubyte.gz", labels.unwrap_or(&good_labels));
        folder
    }

    fn fs_write(folder: &Path, name: &str, bytes: &[u8]) {
        std::fs::write(folder.join(name), bytes).unwrap();
    }

    #[test]
    fn the_excerpt_is_the_first_thousand_images() {
        let data = Dataset::read(&excerpt(), Split::Train).unwrap();
        assert_eq!(data.len(), 1000);
        // Counted by another program, and the start everybody knows: boot, T-shirt, T-shirt, dress.
        let mut counts = [0; 10];
        (0..1000).for_each(|i| counts[data.label(i).label()] += 1);
        assert_eq!(counts, [107, 104, 86, 92, 95, 100, 100, 115, 102, 99]);
        let first: Vec<usize> = (0..4).map(|i| data.label(i).label()).collect();
        assert_eq!(first, [9, 0, 0, 3]);
        assert_eq!(data.pixels(999).len(), 784);
        assert!(data.description().starts_with("1000 images"));
    }

    #[test]
    fn missing_cut_and_wrong_files_are_named() {
        let read = |folder: &TempDir| Dataset::read(folder.path(), Split::Train);
        assert_eq!(
            read(&folder(None, None)).unwrap().label(1),
            Garment::AnkleBoot
        );

        let empty = tempdir().unwrap();
        assert!(matches!(read(&empty), Err(DataError::Missing(_))));
        let test = Dataset::read(&excerpt(), Split::Test);
        assert!(matches!(test, Err(DataError::Missing(_))));

        let whole = gzip(&[header(&[0x803, 2, 28, 28]), vec![7; 2 * 784]].concat());
        for cut in [0, 5, whole.len() / 2, whole.len() - 1] {
            let folder = folder(None, None);
            fs_write(folder.path(), "train-images-idx3-ubyte.gz", &whole[..cut]);
            assert!(
                matches!(read(&folder), Err(DataError::Gzip { .. })),
                "{cut}"
            );
        }

        let images = |numbers: &[u32], bytes: usize| [header(numbers), vec![0; bytes]].concat();
        for (bytes, word) in [
            (vec![], "next to nothing"),
            (images(&[0x801, 2, 28, 28], 1568), "0x00000801"),
            (images(&[0x803, 2, 28, 28], 1567), "1567 bytes"),
            (images(&[0x803, 2, 28, 28], 1569), "1569 bytes"),
            (images(&[0x803, 2, 14, 56], 1568), "14 x 56"),
            (images(&[0x803, u32::MAX, u32::MAX, u32::MAX], 9), "9 bytes"),
            (images(&[0x803, 3, 28, 28], 3 * 784), "2 labels"),
            (images(&[0x803, 0, 28, 28], 0), "2 labels"),
        ] {
            let error = read(&folder(Some(&bytes), None)).unwrap_err();
            assert!(matches!(error, DataError::Idx { .. }), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        let hat = [header(&[0x801, 2]), vec![3, 10]].concat();
        let error = read(&folder(None, Some(&hat))).unwrap_err();
        assert!(error.to_string().contains("the label 10"), "{error}");
    }

    /// Answers every request with the same response, and hands out the address.
    fn server(response: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                stream.write_all(response).unwrap();
            }
        });
        address
    }

    /// `printf abc | md5sum` (RFC 1321, appendix A.5).
    const ABC: Official = Official {
        name: "abc.gz",
        md5: "900150983cd24fb0d6963f7d28e17f72",
    };

    #[test]
    fn only_a_download_with_the_published_checksum_is_kept() {
        let good = server(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc");
        let bad = server(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabd");
        let cut = server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nabc");
        let none =
            server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let folder = tempdir().unwrap();
        let there = || std::fs::read_dir(folder.path()).unwrap().count();
        for (mirror, word) in [(&bad, "MD5"), (&cut, "abc.gz"), (&none, "404")] {
            let error = fetch(folder.path(), &ABC, &[mirror]).unwrap_err();
            assert!(matches!(error, DataError::Download { .. }), "{error}");
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(there(), 0, "nothing is left behind");
        }
        // The second mirror serves where the first does not; a damaged file is fetched again.
        fetch(folder.path(), &ABC, &[&bad, &good]).unwrap();
        assert_eq!(std::fs::read(folder.path().join("abc.gz")).unwrap(), b"abc");
        fs_write(folder.path(), "abc.gz", b"ab");
        fetch(folder.path(), &ABC, &[&good]).unwrap();
        // And one that is right needs no network.
        fetch(folder.path(), &ABC, &[]).unwrap();
        assert_eq!(there(), 1);
    }
}
