//! Group normalisation and SiLU on the CPU, in one visit to each value, forward and back.
//!
//! For a group with mean m and r = 1 / sqrt(variance + epsilon):
//! n = (x - m) r, u = gamma n + beta, y = u sigmoid(u).
//!
//! Backward, with g = dL/du and h = gamma g: dL/dgamma = sum g n, dL/dbeta = sum g,
//! dL/dx = r (h - mean(h) - n mean(h n)), the means over the group.

use std::cell::Cell;

use burn::{backend::flex::FlexTensor, tensor::Tensor};

use crate::cpu::{
    matrix::with_scratch,
    parallel::for_each_pair,
    primitive::{Values, dims, tensor},
    recording::{Source, make},
    simd::{for_each_instruction_set, sigmoid, sum},
};

/// The lengths of one normalisation.
#[derive(Debug, Clone, Copy)]
struct Normalisation {
    batch: usize,
    channels: usize,
    /// The values of one channel of an image.
    plane: usize,
    groups: usize,
    epsilon: f32,
    activate: bool,
}

impl Normalisation {
    /// The values of one image.
    fn image(&self) -> usize {
        self.channels * self.plane
    }
}

/// The mean and 1 / sqrt(variance + epsilon) of each group, image after image.
type Moments = Vec<f32>;

impl Normalisation {
    fn new(
        [batch, channels, height, width]: [usize; 4],
        [gamma, beta]: [usize; 2],
        groups: usize,
        epsilon: f64,
        activate: bool,
    ) -> Self {
        assert!(
            groups > 0 && channels % groups == 0,
            "group_norm_silu: {channels} channels do not fall into {groups} equal groups"
        );
        assert!(
            gamma == channels && beta == channels,
            "group_norm_silu: {channels} channels, but {gamma} values of gamma and {beta} of beta"
        );
        Self {
            batch,
            channels,
            plane: height * width,
            groups,
            epsilon: epsilon as f32,
            activate,
        }
    }

    /// How many [`Moments`] there are.
    fn moments(&self) -> usize {
        self.batch * 2 * self.groups
    }

    fn forward(&self, x: &[f32], gamma: &[f32], beta: &[f32], y: &mut [f32], moments: &mut [f32]) {
        if y.is_empty() {
            return;
        }
        let size = self.image();
        for_each_pair((y, size), (moments, 2 * self.groups), |i, y, moments| {
            normalise(*self, &x[i * size..][..size], gamma, beta, y, moments);
        });
    }
}

/// The result, and what the backward pass needs.
pub(crate) fn forward(
    x: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    groups: usize,
    epsilon: f64,
    activate: bool,
) -> (FlexTensor, Moments) {
    let shape = dims(&x);
    let (x, gamma, beta) = (Values::of(x), Values::of(gamma), Values::of(beta));
    let (x, gamma, beta) = (x.as_slice(), gamma.as_slice(), beta.as_slice());
    let affine = [gamma.len(), beta.len()];
    let normalisation = Normalisation::new(shape, affine, groups, epsilon, activate);
    let mut y = vec![0.0; x.len()];
    let mut moments = vec![0.0; normalisation.moments()];
    normalisation.forward(x, gamma, beta, &mut y, &mut moments);
    (tensor(y, shape), moments)
}

thread_local! {
    static MOMENTS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// See [`crate::concat_group_norm_silu`].
pub(crate) fn concat_group_norm_silu(
    a: Tensor<4>,
    b: Option<Tensor<4>>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    activate: bool,
) -> Tensor<4> {
    let x = super::concat(a, b);
    let affine = [gamma.dims()[0], beta.dims()[0]];
    let normalisation = Normalisation::new(x.dims(), affine, groups, epsilon, activate);
    make(x.dims(), || {
        let (x, gamma, beta) = (
            Source::floats(x),
            Source::floats(gamma),
            Source::floats(beta),
        );
        move |y| {
            with_scratch(&MOMENTS, normalisation.moments(), |moments| {
                let (gamma, beta) = (gamma.values(), beta.values());
                normalisation.forward(x.values(), gamma, beta, y, moments);
            });
        }
    })
}

for_each_instruction_set! {
    /// One image.
    fn normalise(
        shape: Normalisation,
        x: &[f32],
        gamma: &[f32],
        beta: &[f32],
        y: &mut [f32],
        moments: &mut [f32],
    ) {
        let channels = shape.channels / shape.groups;
        let size = channels * shape.plane;
        for (group, moments) in moments.chunks_exact_mut(2).enumerate() {
            let x = &x[group * size..][..size];
            let y = &mut y[group * size..][..size];
            let mean = sum(x, |x| x) / size as f32;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / size as f32;
            let r = 1.0 / (variance + shape.epsilon).sqrt();
            moments.copy_from_slice(&[mean, r]);
            let planes = x.chunks_exact(shape.plane).zip(y.chunks_exact_mut(shape.plane));
            for (channel, (x, y)) in planes.enumerate() {
                let channel = group * channels + channel;
                let scale = gamma[channel] * r;
                let shift = beta[channel] - mean * scale;
                if shape.activate {
                    for (y, &x) in y.iter_mut().zip(x) {
                        let u = x * scale + shift;
                        *y = u * sigmoid(u);
                    }
                } else {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = x * scale + shift;
                    }
                }
            }
        }
    }
}

#[cfg(feature = "train")]
pub(crate) use backward::tracked;

/// The gradient of the loss for each input.
#[cfg(feature = "train")]
mod backward {
    use burn::backend::{
        Autodiff, Flex,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::FloatTensor,
    };

    use super::*;
    use crate::cpu::simd::dot;

    #[derive(Debug)]
    struct GroupNormSilu;

    impl Backward<Flex, 3> for GroupNormSilu {
        /// x, gamma and beta; the moments; groups; whether SiLU follows.
        type State = ([NodeId; 3], Moments, usize, bool);

        fn backward(
            self,
            ops: Ops<Self::State, 3>,
            grads: &mut Gradients,
            checkpointer: &mut Checkpointer,
        ) {
            let (ids, moments, groups, activate) = ops.state;
            let [x, gamma, beta] =
                ids.map(|id| checkpointer.retrieve_node_output::<FlexTensor>(id));
            let dims = dims(&x);
            let channels = dims[1];
            let shape = Normalisation::new(dims, [channels; 2], groups, 0.0, activate);
            let inputs = [x, gamma, beta].map(Values::of);
            let dy = Values::of(grads.consume::<Flex>(&ops.node));
            let [dx, dgamma, dbeta] = gradients(
                shape,
                inputs.each_ref().map(Values::as_slice),
                dy.as_slice(),
                &moments,
            );
            let [x_node, gamma_node, beta_node] = ops.parents;
            if let Some(node) = x_node {
                grads.register::<Flex>(node.id, tensor(dx, dims));
            }
            if let Some(node) = gamma_node {
                grads.register::<Flex>(node.id, tensor(dgamma, [channels]));
            }
            if let Some(node) = beta_node {
                grads.register::<Flex>(node.id, tensor(dbeta, [channels]));
            }
        }
    }

    /// [`forward`] under autodiff.
    pub(crate) fn tracked<C: CheckpointStrategy>(
        x: FloatTensor<Autodiff<Flex, C>>,
        gamma: FloatTensor<Autodiff<Flex, C>>,
        beta: FloatTensor<Autodiff<Flex, C>>,
        groups: usize,
        epsilon: f64,
        activate: bool,
    ) -> FloatTensor<Autodiff<Flex, C>> {
        let nodes = [x.node(), gamma.node(), beta.node()];
        match GroupNormSilu.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut operation) => {
                let ids = [&x, &gamma, &beta].map(|input| operation.checkpoint(input));
                let [x, gamma, beta] = [x, gamma, beta].map(|input| input.into_primitive());
                let (y, moments) = forward(x, gamma, beta, groups, epsilon, activate);
                operation.finish((ids, moments, groups, activate), y)
            }
            OpsKind::UnTracked(operation) => {
                let [x, gamma, beta] = [x, gamma, beta].map(|input| input.into_primitive());
                operation.finish(forward(x, gamma, beta, groups, epsilon, activate).0)
            }
        }
    }

    /// dL/dx, dL/dgamma, dL/dbeta. Each image sums its own gamma and beta gradients; these are then
    /// added in the order of the images.
    fn gradients(
        shape: Normalisation,
        [x, gamma, beta]: [&[f32]; 3],
        dy: &[f32],
        moments: &[f32],
    ) -> [Vec<f32>; 3] {
        let (size, channels) = (shape.image(), shape.channels);
        let mut dx = vec![0.0; x.len()];
        let mut sums = vec![0.0; shape.batch * 2 * channels];
        if !dx.is_empty() {
            for_each_pair((&mut dx, size), (&mut sums, 2 * channels), |i, dx, sums| {
                let image = i * size..(i + 1) * size;
                let moments = &moments[i * 2 * shape.groups..][..2 * shape.groups];
                let (x, dy) = (&x[image.clone()], &dy[image]);
                image_gradients(shape, x, dy, gamma, beta, moments, dx, sums);
            });
        }
        let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
        for sums in sums.chunks_exact((2 * channels).max(1)) {
            for (channel, sums) in sums.chunks_exact(2).enumerate() {
                dgamma[channel] += sums[0];
                dbeta[channel] += sums[1];
            }
        }
        [dx, dgamma, dbeta]
    }

    for_each_instruction_set! {
        /// One image. `sums` takes sum g n and sum g of each channel.
        fn image_gradients(
            shape: Normalisation,
            x: &[f32],
            dy: &[f32],
            gamma: &[f32],
            beta: &[f32],
            moments: &[f32],
            dx: &mut [f32],
            sums: &mut [f32],
        ) {
            let channels = shape.channels / shape.groups;
            let plane = shape.plane;
            let size = (channels * plane) as f32;
            for (group, moments) in moments.chunks_exact(2).enumerate() {
                let (mean, r) = (moments[0], moments[1]);
                let members = group * channels..(group + 1) * channels;
                // First g, which stands in dx meanwhile, then with its sums dL/dx.
                let (mut mean_h, mut mean_h_n) = (0.0, 0.0);
                for channel in members.clone() {
                    let span = channel * plane..(channel + 1) * plane;
                    let (x, dy, g) = (&x[span.clone()], &dy[span.clone()], &mut dx[span]);
                    let scale = gamma[channel] * r;
                    let shift = beta[channel] - mean * scale;
                    if shape.activate {
                        for (g, (&x, &dy)) in g.iter_mut().zip(x.iter().zip(dy)) {
                            let u = x * scale + shift;
                            let s = sigmoid(u);
                            *g = dy * (s + u * s * (1.0 - s));
                        }
                    } else {
                        g.copy_from_slice(dy);
                    }
                    let sum_g_n = dot(g, x, |x| (x - mean) * r);
                    let sum_g = sum(g, |g| g);
                    sums[2 * channel] = sum_g_n;
                    sums[2 * channel + 1] = sum_g;
                    mean_h_n += gamma[channel] * sum_g_n / size;
                    mean_h += gamma[channel] * sum_g / size;
                }
                for channel in members {
                    let span = channel * plane..(channel + 1) * plane;
                    let gamma = gamma[channel];
                    for (dx, &x) in dx[span.clone()].iter_mut().zip(&x[span]) {
                        *dx = r * (gamma * *dx - mean_h - (x - mean) * r * mean_h_n);
                    }
                }
            }
        }
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use burn::tensor::Tensor;
    use proptest::prelude::*;

    use crate::{
        cpu::testing::{distance, random, run, values},
        plain,
    };

    type Function = fn(Tensor<4>, Tensor<1>, Tensor<1>, usize, f64, bool) -> Tensor<4>;

    /// One of the two normalisations, on flat inputs.
    fn apply(
        function: Function,
        shape: [usize; 4],
        groups: usize,
        activate: bool,
    ) -> impl Fn(&[Tensor<1>]) -> Tensor<4> {
        move |inputs| {
            let [x, gamma, beta] = [0, 1, 2].map(|i| inputs[i].clone());
            function(x.reshape(shape), gamma, beta, groups, 1e-5, activate)
        }
    }

    /// x with a mean and a scale that matter, gamma around 1, beta around 0.
    fn inputs([batch, channels, height, width]: [usize; 4]) -> Vec<Vec<f32>> {
        let x = random(1, batch * channels * height * width);
        let gamma = random(2, channels);
        vec![
            x.iter().map(|x| 3.0 * x + 0.7).collect(),
            gamma.iter().map(|gamma| 1.0 + 0.5 * gamma).collect(),
            random(3, channels),
        ]
    }

    fn compare(shape: [usize; 4], groups: usize, activate: bool) {
        let inputs = inputs(shape);
        let pull = random(4, shape.iter().product());
        let own = run(
            apply(crate::group_norm_silu, shape, groups, activate),
            &inputs,
            &pull,
        );
        let twin = run(
            apply(plain::group_norm_silu, shape, groups, activate),
            &inputs,
            &pull,
        );
        for (name, (own, twin)) in ["y", "dx", "dgamma", "dbeta"]
            .iter()
            .zip(own.iter().zip(&twin))
        {
            let error = distance(own, twin);
            assert!(
                error < 3e-5, // sums over a whole batch gather rounding
                "{name} of {shape:?}, {groups} groups: {error}"
            );
        }
        let device = crate::cpu();
        let inputs: Vec<_> = inputs
            .iter()
            .map(|values| Tensor::from_floats(values.as_slice(), &device))
            .collect();
        let untracked = apply(crate::group_norm_silu, shape, groups, activate)(&inputs);
        assert_eq!(values(untracked), own[0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        // Groups of 25 values and more: in smaller ones the gradient may cancel to mere rounding.
        #[test]
        fn equals_its_plain_twin(
            batch in 1usize..9,
            channels in 1usize..7,
            groups in 1usize..5,
            size in (5usize..15, 5usize..15),
            activate: bool,
        ) {
            compare([batch, channels * groups, size.0, size.1], groups, activate);
        }
    }

    #[test]
    fn equals_its_plain_twin_at_the_sizes_of_the_network() {
        compare([64, 64, 14, 14], 8, true);
        compare([64, 128, 7, 7], 8, true);
        compare([1, 32, 28, 28], 8, false);
    }

    /// The law of the operation: each group has mean 0 and variance 1, wherever it was before.
    #[test]
    fn a_group_becomes_standard() {
        let (shape, groups) = ([3, 6, 5, 7], 2);
        let mut inputs = inputs(shape);
        inputs[0].iter_mut().for_each(|x| *x += 100.0);
        inputs[1].fill(1.0);
        inputs[2].fill(0.0);
        let function = apply(crate::group_norm_silu, shape, groups, false);
        let y = run(function, &inputs, &random(4, 3 * 6 * 5 * 7)).remove(0);
        for group in y.chunks_exact(3 * 5 * 7) {
            let n = group.len() as f64;
            let mean = group.iter().map(|&y| f64::from(y)).sum::<f64>() / n;
            let square = group.iter().map(|&y| f64::from(y).powi(2)).sum::<f64>() / n;
            assert!(
                mean.abs() < 1e-4 && (square - 1.0).abs() < 1e-4,
                "{mean} {square}"
            );
        }
    }

    #[test]
    fn gradients_do_not_depend_on_thread_timing() {
        let shape = [37, 16, 14, 14];
        let inputs = inputs(shape);
        let pull = random(4, shape.iter().product());
        let once = || {
            run(
                apply(crate::group_norm_silu, shape, 8, true),
                &inputs,
                &pull,
            )
        };
        let first = once();
        for _ in 0..8 {
            assert_eq!(once(), first);
        }
    }

    #[test]
    fn takes_an_empty_batch() {
        let shape = [0, 4, 3, 3];
        let results = run(
            apply(crate::group_norm_silu, shape, 2, true),
            &inputs(shape),
            &[],
        );
        assert_eq!(results[2..], [vec![0.0; 4], vec![0.0; 4]]);
    }
}
