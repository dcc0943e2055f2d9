//! The weights that ship with the page: whole, documented, and good for clothes.

use burn::tensor::Tensor;
use fashion_ddpm::{
    Garment, PredictNoise, ReverseProcess, Sampler, UNet,
    noise::{PIXELS, gaussian},
    sampler::to_pixels,
    weights::{Index, Weights, decode, hex, read_metadata},
};
use fashion_ddpm_tests::{clothing::Judge, data, distance, load, shipped_weights, values};
use sha2::{Digest, Sha256};
use trainer::{Dataset, Split};

fn index() -> Index {
    let path = shipped_weights().join("index.json");
    let json = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&json).unwrap()
}

#[test]
fn the_index_lists_what_there_is() {
    let index = index();
    assert!(index.default_entry().is_some(), "the default is listed");
    assert!(
        index.models.is_sorted_by(|a, b| a.epoch < b.epoch),
        "in the order of their epochs"
    );
    for entry in &index.models {
        let bytes = std::fs::read(shipped_weights().join(&entry.file)).unwrap();
        assert_eq!(bytes.len() as u64, entry.bytes, "{}", entry.file);
        assert_eq!(hex(&Sha256::digest(&bytes)), entry.sha256, "{}", entry.file);
        assert_eq!(entry.file, format!("epoch-{:03}.bpk", entry.epoch));
        let (metadata, _) = read_metadata(&bytes).unwrap();
        assert_eq!(metadata.epoch, entry.epoch, "{}", entry.file);
    }
    let files = std::fs::read_dir(shipped_weights()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut unlisted = names.filter(|name| name.ends_with(".bpk"));
    let listed = |name: &String| index.models.iter().any(|entry| entry.file == *name);
    assert_eq!(
        unlisted.find(|name| !listed(name)),
        None,
        "every file is listed"
    );
}

/// SHA-256 of the official training images, then labels, uncompressed (computed with Python's
/// hashlib from the files whose MD5 the data set's authors publish).
const FASHION_MNIST: &str = "d9ef4273af5c2e360155dad0c06bd939447bf37a6620db007d69fc79e4732045";

#[test]
fn the_metadata_are_complete_and_the_network_answers() {
    let device = kernels::cpu();
    for entry in index().models {
        let bytes = std::fs::read(shipped_weights().join(&entry.file)).unwrap();
        let weights = decode(&bytes, &device).unwrap();
        let metadata = &weights.metadata;
        let file = &entry.file;
        assert_eq!(metadata.timesteps, 1000, "{file}");
        assert_eq!(
            metadata.images_seen,
            u64::from(metadata.epoch) * 60_000,
            "{file}"
        );
        assert_eq!(metadata.dataset_sha256, FASHION_MNIST, "{file}");
        assert!(
            metadata.dataset.contains("Fashion-MNIST"),
            "{file}: {}",
            metadata.dataset
        );
        let commit = metadata.source_commit.trim_end_matches("-dirty");
        let hexadecimal = commit.chars().all(|c| c.is_ascii_hexdigit());
        assert!(commit.len() >= 7 && hexadecimal, "{file}: source {commit}");
        assert!(
            metadata.ema_decay > 0.9 && metadata.ema_decay < 1.0,
            "{file}"
        );
        let counted = burn::module::Module::num_params(&weights.unet);
        assert_eq!(metadata.parameters, counted, "{file}");
        let answer = values(weights.probe());
        assert!(distance(&answer, &weights.expected_probe) < 1e-4, "{file}");

        let mut altered = bytes.clone();
        let middle = bytes.len() / 2;
        altered[middle..middle + 300]
            .iter_mut()
            .for_each(|byte| *byte ^= 0x40);
        assert!(
            decode(&altered, &device).is_err(),
            "{file}: damage went unnoticed"
        );
    }
}

/// One image of each garment, all in one batch.
struct Wardrobe {
    unet: UNet,
    /// The embedding of every timestep, by garment.
    shifts: Vec<Tensor<2>>,
}

impl PredictNoise for Wardrobe {
    fn predict(&self, x_t: Tensor<4>, t: usize) -> Tensor<4> {
        let rows = self
            .shifts
            .iter()
            .map(|shifts| shifts.clone().narrow(0, t, 1));
        self.unet
            .forward_shifted(x_t, Tensor::cat(rows.collect(), 0))
    }
}

/// Algorithm 2 for images 0 to 9 of the seed, image i of the garment with label i; the finished
/// pixels, and those half-way.
fn wardrobe(weights: Weights, seed: u32) -> (Vec<u8>, Vec<u8>) {
    let device = kernels::cpu();
    let timesteps = weights.metadata.timesteps;
    let plan = Sampler::Ddpm
        .plan(&weights.diffusion.schedule, timesteps)
        .unwrap();
    let all: Vec<usize> = (0..timesteps).collect();
    let shifts = Garment::ALL
        .map(|garment| weights.unet.shifts(&all, &vec![Some(garment); timesteps]))
        .to_vec();
    let unet = weights.unet;
    let wardrobe = Wardrobe { unet, shifts };
    let mut process = ReverseProcess::new(wardrobe, plan, seed, 0..10, timesteps, &device);
    let mut half_way = Vec::new();
    while process.step().is_some() {
        if process.steps_left() == timesteps / 2 {
            half_way = to_pixels(&values(process.x()));
        }
    }
    (to_pixels(&values(process.x())), half_way)
}

/// What ten images, one a class, look like to the judge: for how many their class is among its
/// first two, and their mean distance to the nearest image it knows.
fn look(judge: &Judge, images: &[&[u8]]) -> (usize, f64) {
    assert_eq!(images.len(), 10);
    let recognised = images
        .iter()
        .zip(Garment::ALL)
        .filter(|(image, garment)| judge.ranking(image)[..2].contains(garment));
    let distance: f64 = images.iter().map(|image| judge.distance(image)).sum();
    (recognised.count(), distance / 10.0)
}

/// Eight of ten recognised, and no further from real images than real images are. Nine in ten
/// sets of real images pass; noise, black, grey and half-denoised images do not.
#[test]
fn ten_seeds_look_like_clothing() {
    const RECOGNISED: usize = 8;
    const KNOWN: usize = 800;
    let dataset = Dataset::read(&data("excerpt"), Split::Train).unwrap();
    let judge = Judge::of(&dataset, KNOWN);

    let held_out = KNOWN..dataset.len();
    let right = held_out
        .clone()
        .filter(|&i| judge.ranking(dataset.pixels(i))[0] == dataset.label(i));
    let accuracy = right.count() as f64 / held_out.len() as f64;
    assert!(
        accuracy > 0.75,
        "the judge is right for {accuracy} of the images it does not know"
    );

    // Sixty sets of ten held-out images, one of each class.
    let of_class = |garment: Garment| -> Vec<&[u8]> {
        let of_class = held_out.clone().filter(|&i| dataset.label(i) == garment);
        of_class.map(|i| dataset.pixels(i)).collect()
    };
    let classes = Garment::ALL.map(of_class);
    let sets: Vec<(usize, f64)> = (0..60)
        .map(|set| {
            let images: Vec<&[u8]> = (classes.iter().enumerate())
                .map(|(label, class)| class[set * (label + 1) % class.len()])
                .collect();
            look(&judge, &images)
        })
        .collect();
    let furthest = sets
        .iter()
        .map(|(_, distance)| *distance)
        .fold(0.0, f64::max);
    let passes =
        |(recognised, distance): (usize, f64)| recognised >= RECOGNISED && distance <= furthest;
    let passed = sets.iter().filter(|set| passes(**set)).count();
    assert!(passed >= 54, "only {passed} of 60 sets of real images pass");

    let index = index();
    let weights = load(&shipped_weights().join(&index.default));
    let (finished, half_way) = wardrobe(weights, 1);
    let ten = |pixels: &[u8]| look(&judge, &pixels.chunks(PIXELS).collect::<Vec<_>>());
    let noise: Vec<u8> = (0..10)
        .flat_map(|i| to_pixels(&gaussian(1, i, 0, 0)))
        .collect();
    for (name, pixels) in [
        ("noise", noise),
        ("black", vec![0; 10 * PIXELS]),
        ("grey", vec![128; 10 * PIXELS]),
        ("half-denoised", half_way),
    ] {
        let seen = ten(&pixels);
        assert!(
            !passes(seen),
            "{name} images pass for clothing: {seen:?}, furthest {furthest}"
        );
    }
    let seen = ten(&finished);
    println!(
        "{} of 10 recognised, at a distance of {:.2}, real ones at most {furthest:.2}",
        seen.0, seen.1
    );
    assert!(
        passes(seen),
        "the garments do not look like clothing: {seen:?}, furthest {furthest}"
    );
}
