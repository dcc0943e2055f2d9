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

/// A pixel as the network sees it: 0 to 255 becomes -1 to 1.
pub fn to_network(pixel: u8) -> f32 {
    f32::from(pixel) / 127.5 - 1.0
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
    for official in [split.images(), split.labels()] {
        let path = folder.join(official.name);
        if path.exists() && checksum(&files::read(&path)?) == official.md5 {
            continue;
        }
        let mut reason = "there is no mirror".to_owned();
        let fetched = mirrors.iter().find_map(|mirror| {
            let url = format!("{mirror}/{}", official.name);
            eprintln!("downloading {url}");
            match download(&url) {
                Ok(bytes) if checksum(&bytes) == official.md5 => Some(bytes),
                Ok(bytes) => {
                    reason = format!(
                        "{url} gave {} bytes with the MD5 {}, expected {}",
                        bytes.len(),
                        checksum(&bytes),
                        official.md5
                    );
                    None
                }
                Err(error) => {
                    reason = format!("{url}: {error}");
                    None
                }
            }
        });
        let bytes = fetched.ok_or(DataError::Download {
            file: official.name,
            reason,
        })?;
        files::write(&path, &bytes)?;
    }
    Ok(())
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
        .build()
        .into();
    let response = agent.get(url).call()?;
    response
        .into_body()
        .with_config()
        .limit(LIMIT)
        .read_to_vec()
}
