//! What the integration tests share: reference numbers, a web server that can be told to fail, a
//! browser driven through WebDriver, and an eye for clothes.
//!
//! The tests of the page need what `cargo xtask test` prepares and names in environment variables;
//! see [`prepared`].

use std::{env, path::PathBuf};

use fashion_ddpm::weights::{self, Weights};
pub use trainer::walk::numbers as values;

pub mod browser;
pub mod clothing;
pub mod page;
pub mod reference;
pub mod server;

/// A file of `tests/data`.
pub fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(name)
}

/// The folder of the weights that ship with the page.
pub fn shipped_weights() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../web/weights")
}

/// What `cargo xtask test` has put at this environment variable: a program or a folder.
///
/// # Panics
/// Where it has not, in a sentence: a test that cannot run has failed.
pub fn prepared(variable: &str) -> PathBuf {
    let path = env::var_os(variable).unwrap_or_else(|| {
        panic!("{variable} is not set: `cargo xtask test` builds what this test needs and sets it")
    });
    let path = PathBuf::from(path);
    assert!(
        path.exists(),
        "{variable} names {}, which does not exist: `cargo xtask test` makes it",
        path.display()
    );
    path
}

/// Reads a weights file on the CPU.
///
/// # Panics
/// Where it cannot.
pub fn load(path: &std::path::Path) -> Weights {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    weights::decode(&bytes, &kernels::cpu()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The largest distance between two lists of numbers; NaN where either holds one.
///
/// # Panics
/// Where their lengths differ.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(
        a.len(),
        b.len(),
        "lists of different lengths do not compare"
    );
    let pairs = a.iter().zip(b);
    pairs.fold(0.0, |most, (a, b)| {
        let d = (a - b).abs();
        if d <= most { most } else { d }
    })
}
