//! What the comparisons of an operation with its plain twin share.

use burn::tensor::Tensor;

/// The result of `operation` on flat inputs, and the gradient for each of them, for a loss that
/// weighs each value of the result by `pull`.
#[cfg(feature = "train")]
pub(crate) fn run(
    operation: impl Fn(&[Tensor<1>]) -> Tensor<4>,
    inputs: &[Vec<f32>],
    pull: &[f32],
) -> Vec<Vec<f32>> {
    let device = crate::cpu().autodiff();
    let leaves: Vec<Tensor<1>> = inputs
        .iter()
        .map(|values| Tensor::<1>::from_floats(values.as_slice(), &device).require_grad())
        .collect();
    let y = operation(&leaves);
    let pull = Tensor::<1>::from_floats(pull, &device).reshape(y.dims());
    let grads = (y.clone() * pull).sum().backward();
    let gradients = leaves
        .iter()
        .map(|leaf| values(leaf.grad(&grads).expect("every input takes a gradient")));
    std::iter::once(values(y)).chain(gradients).collect()
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("the tensor is f32")
}

/// Values between -1.7 and 1.7 with variance 1, the same for the same seed (SplitMix64).
pub(crate) fn random(seed: u64, count: usize) -> Vec<f32> {
    let value = |i: u64| {
        let mut z = (seed << 32)
            .wrapping_add(i + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let uniform = ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32;
        (uniform - 0.5) * 12f32.sqrt()
    };
    (0..count as u64).map(value).collect()
}

/// The largest difference, relative to the largest value; but to 1, the size of the inputs, where
/// sums cancel to less.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1.0f32, |max, b| max.max(b.abs()));
    let difference = |(a, b): (&f32, &f32)| (a - b).abs();
    let worst = a.iter().zip(b).map(difference);
    // `max` would drop a NaN.
    worst.fold(0.0f32, |max, d| if d <= max { max } else { d }) / scale
}
