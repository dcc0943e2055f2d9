//! Training really trains, judged from outside: by the loss written out anew, by the loss of
//! predicting nothing, and by a run that is broken off and gone on with.

use std::{path::Path, sync::Arc};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Tensor, TensorData},
};
use fashion_ddpm::{UNet, UNetConfig, noise::gaussian};
use trainer::{Dataset, Split, TrainConfig, Trainer, checkpoint};

fn excerpt() -> Arc<Dataset> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/excerpt");
    Arc::new(Dataset::read(&folder, Split::Train).unwrap())
}

fn config() -> TrainConfig {
    TrainConfig {
        network: UNetConfig {
            pixel_unshuffle: 4,
            channels: vec![16],
            attention: vec![false],
            ..UNetConfig::default()
        },
        batch_size: 32,
        warm_up_steps: 20,
        learning_rate: 3e-3,
        ema_decay: 0.98,
        ..TrainConfig::default()
    }
}

/// Mean squared error of the predicted noise over 80 images and all parts of the schedule, in plain
/// numbers and f64: the linear schedule from its definition, not from the crate's tables.
fn loss(model: &UNet, data: &Dataset) -> f64 {
    let device = kernels::cpu();
    let mut alphas_cumprod = Vec::new();
    let mut product = 1.0f64;
    for t in 0..1000 {
        product *= 1.0 - (1e-4 + (0.02 - 1e-4) * f64::from(t) / 999.0);
        alphas_cumprod.push(product);
    }
    let images: Vec<usize> = (0..80).collect();
    let t: Vec<usize> = images.iter().map(|i| (i * 997 + 13) % 1000).collect();
    let noise: Vec<f32> = images
        .iter()
        .flat_map(|&i| gaussian(77, i as u32, 0, 0))
        .collect();
    let mut x_t = Vec::new();
    for (&i, &t) in images.iter().zip(&t) {
        for (pixel, noise) in data.pixels(i).iter().zip(&noise[i * 784..]) {
            let x_0 = f64::from(*pixel) / 255.0 * 2.0 - 1.0;
            let a = alphas_cumprod[t];
            x_t.push((a.sqrt() * x_0 + (1.0 - a).sqrt() * f64::from(*noise)) as f32);
        }
    }
    let x_t = Tensor::<4>::from_data(TensorData::new(x_t, [80, 1, 28, 28]), &device);
    let labels: Vec<_> = images.iter().map(|&i| Some(data.label(i))).collect();
    let answer = model
        .valid()
        .forward(x_t, &t, &labels)
        .into_data_as::<f32>();
    let answer = answer.try_to_vec::<f32>().unwrap();
    let squares = answer
        .iter()
        .zip(&noise)
        .map(|(a, b)| f64::from(a - b).powi(2));
    squares.sum::<f64>() / noise.len() as f64
}

/// Whoever predicts nothing has the loss 1, the variance of the noise, and that is how a network
/// with a zero last layer begins. Eight passes over a thousand images bring it far below, in the
/// weights and in their average, and the trainer's own figure agrees with the one from outside.
#[test]
fn training_lowers_the_loss() {
    let data = excerpt();
    let mut trainer = Trainer::new(config(), data.clone(), &kernels::cpu()).unwrap();
    let before = loss(trainer.model(), &data);
    // Standard error of a mean of 62,720 squares: 0.006.
    assert!((before - 1.0).abs() < 0.03, "{before}");
    trainer.step();
    let first = trainer.settle().unwrap().unwrap();
    assert!((first - 1.0).abs() < 0.05, "{first}");
    let mut last = f64::NAN;
    for epoch in 1..=8 {
        while !trainer.epoch_is_over() {
            trainer.step();
        }
        let record = trainer.finish_epoch(0).unwrap();
        assert_eq!(record.epoch, epoch);
        last = record.loss;
    }
    let (model, average) = (
        loss(trainer.model(), &data),
        loss(trainer.averaged(), &data),
    );
    assert!(model < 0.35 && average < 0.35, "{model} {average}");
    assert!((last / model - 1.0).abs() < 0.5, "{last} {model}");
    let losses = trainer.position().history.iter().map(|record| record.loss);
    assert!(losses.is_sorted_by(|a, b| a > b), "every pass helps");
}

fn bits(model: &UNet) -> Vec<u32> {
    struct Collect(Vec<u32>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let data = param.val().into_data_as::<f32>();
            let values = data.try_to_vec::<f32>().unwrap();
            self.0.extend(values.into_iter().map(f32::to_bits));
        }
    }
    let mut collect = Collect(Vec::new());
    model.valid().visit(&mut collect);
    collect.0
}

/// Steps to just beyond the end of an epoch, broken off at `breaks`.
fn trained(breaks: &[usize]) -> Trainer {
    let config = TrainConfig {
        // Three steps an epoch and a rest.
        batch_size: 300,
        network: UNetConfig {
            channels: vec![8],
            ..config().network
        },
        ..config()
    };
    let data = excerpt();
    let mut trainer = Trainer::new(config, data.clone(), &kernels::cpu()).unwrap();
    for step in 0..6 {
        if breaks.contains(&step) {
            let bytes = checkpoint::encode(&mut trainer).unwrap();
            drop(trainer);
            trainer = checkpoint::decode(&bytes, data.clone(), &kernels::cpu()).unwrap();
        }
        trainer.step();
        if trainer.epoch_is_over() {
            trainer.finish_epoch(0).unwrap();
        }
    }
    trainer.settle().unwrap();
    trainer
}

/// The same seed gives the same weights, broken off wherever; another seed gives others.
#[test]
fn a_run_broken_off_gives_the_same_weights() {
    let whole = trained(&[]);
    assert_eq!((whole.position().epoch, whole.position().step), (1, 2));
    for breaks in [&[][..], &[0], &[1], &[3, 4], &[5]] {
        let broken = trained(breaks);
        assert_eq!(broken.position(), whole.position(), "{breaks:?}");
        assert_eq!(bits(broken.model()), bits(whole.model()), "{breaks:?}");
        assert_eq!(
            bits(broken.averaged()),
            bits(whole.averaged()),
            "{breaks:?}"
        );
    }
    let other = TrainConfig {
        seed: 1,
        ..whole.config().clone()
    };
    let other = Trainer::new(other, excerpt(), &kernels::cpu()).unwrap();
    let same = Trainer::new(whole.config().clone(), excerpt(), &kernels::cpu()).unwrap();
    let again = Trainer::new(whole.config().clone(), excerpt(), &kernels::cpu()).unwrap();
    assert_eq!(bits(same.model()), bits(again.model()));
    assert_ne!(bits(same.model()), bits(other.model()));
}
