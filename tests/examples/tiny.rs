//! Writes `data/tiny.bpk`: a network of the shipped shape but a fraction of its size, whose every
//! weight is a random number (a fresh network predicts zero and would agree with anything).
//!
//! `cargo run --release -p fashion-ddpm-tests --example tiny`, then `reference/reference.py`.

use std::{error::Error, path::Path};

use burn::{
    module::Module,
    store::ModuleRecord,
    tensor::{Bytes, DType},
};
use burn_pack::{Reader, Tensor, Writer};
use fashion_ddpm::{
    BetaSchedule, Prediction, UNetConfig, noise,
    weights::{Metadata, encode},
};

fn main() -> Result<(), Box<dyn Error>> {
    let device = kernels::cpu();
    let config = UNetConfig {
        channels: vec![8, 16],
        ..UNetConfig::default()
    };
    let fresh = config.init(&device);
    let record = Reader::from_bytes(fresh.clone().into_record().into_bytes()?)?;
    let mut parameters = 0;
    let tensors = record
        .into_tensors()?
        .into_iter()
        .enumerate()
        .map(|(index, tensor)| {
            let shape = tensor.shape.to_vec();
            let count: usize = shape.iter().product();
            parameters += count;
            let (mean, deviation) = law(&tensor.name, &shape);
            let bytes = (0..count.div_ceil(noise::PIXELS))
                .flat_map(|part| noise::gaussian(0, index as u32, 0, part))
                .take(count)
                .flat_map(|z| (mean + deviation * z).to_le_bytes())
                .collect();
            let bytes = Bytes::from_bytes_vec(bytes);
            Tensor::new(tensor.name.clone(), DType::F32, shape, None, bytes)
        })
        .collect();
    let record = ModuleRecord::from_bytes(Writer::new(tensors).into_bytes()?)?;
    let unet = fresh.try_load_record(record)?;
    let metadata = Metadata {
        config,
        timesteps: 1000,
        schedule: BetaSchedule::Cosine,
        epoch: 0,
        images_seen: 0,
        ema_decay: 0.0,
        dataset: "none: random weights for tests".to_owned(),
        dataset_sha256: "none".to_owned(),
        source_commit: "none".to_owned(),
        parameters,
        prediction: Prediction::Noise,
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny.bpk");
    let bytes = encode(&unet, &metadata, &device)?;
    std::fs::write(&path, &bytes)?;
    println!("{}: {} bytes", path.display(), bytes.len());
    Ok(())
}

/// Mean and standard deviation of a tensor's numbers, such that activations stay of order one.
fn law(name: &str, shape: &[usize]) -> (f32, f32) {
    let kind = name.rsplit('.').next().unwrap_or_default();
    let fan_in: usize = match (kind, shape) {
        ("weight", [inputs, _]) if !name.starts_with("embed_label") => *inputs,
        ("weight", [_, rest @ ..]) if rest.len() == 3 => rest.iter().product(),
        ("weight", _) => 1,
        ("gamma", _) => return (1.0, 0.2),
        _ => return (0.0, 0.1),
    };
    (0.0, 1.2 / (fan_in as f32).sqrt())
}
