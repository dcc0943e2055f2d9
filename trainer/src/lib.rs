//! The trainer: from the data set's files to the weights the page loads.
//!
//! | the job | where |
//! | --- | --- |
//! | Fashion-MNIST's files, and fetching them | `data.rs` |
//! | which device computes | `device.rs` |
//! | Algorithm 1, step by step | [`Trainer`] in `train.rs` |
//! | AdamW | `optimizer.rs` |
//! | networks by name, and what they cost | `network.rs` |
//! | what a killed run goes on from | `checkpoint.rs` |
//! | files of tensors with a checksum | `sealed.rs` |
//! | a run's folder: checkpoints, log, loss curve, grids | `run.rs`, `curve.rs` |
//! | walks through the reverse process, recorded where that can be trusted | `walk.rs` |
//! | garments from weights, to PNG and NPY | `sample.rs`, `picture.rs` |
//! | the classifier that looks at samples | `judge.rs` |
//! | how good samples are | `evaluate.rs`, and the mathematics of it in `metrics.rs` |
//! | figures as rows in Markdown | `table.rs` |
//! | from a run to the page | `export.rs` |
//! | real garments for the page, and their map | `page_data.rs` |
//! | how often a branch keeps its run's class | `branches.rs` |
//! | files whole or not at all; how far a command has come | `files.rs`, `progress.rs` |
//! | the commands | `cli.rs` |
//!
//! The method itself - network, schedule, loss, samplers - is the crate `fashion-ddpm`'s. This is
//! the only crate that knows files, devices and progress bars.

pub mod branches;
pub mod checkpoint;
pub mod cli;
pub mod curve;
pub mod data;
pub mod device;
pub mod evaluate;
pub mod export;
pub mod files;
pub mod judge;
pub mod metrics;
pub mod network;
pub mod optimizer;
pub mod page_data;
pub mod picture;
pub mod progress;
pub mod run;
pub mod sample;
pub mod sealed;
pub mod table;
pub mod train;
pub mod walk;

pub use data::{Dataset, Split};
pub use train::{TrainConfig, Trainer};
