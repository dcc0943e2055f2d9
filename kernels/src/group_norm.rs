//! Group normalisation and SiLU on the CPU, in one visit to each value, forward and back.
//!
//! For a group with mean m and r = 1 / sqrt(variance + epsilon):
//! n = (x - m) r, u = gamma n + beta, y = u sigmoid(u).
//!
//! Backward, with g = dL/du and h = gamma g: dL/dgamma = sum g n, dL/dbeta = sum g,
//! dL/dx = r (h - mean(h) - n mean(h n)), the means over the group.

use burn::backend::flex::FlexTensor;

use crate::{
    parallel::for_each_pair,
    primitive::{Values, dims, tensor},
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
    let [batch, channels, height, width] = shape;
    assert!(
        groups > 0 && channels % groups == 0,
        "group_norm_silu: {channels} channels do not fall into {groups} equal groups"
    );
    let normalisation = Normalisation {
        batch,
        channels,
        plane: height * width,
        groups,
        epsilon: epsilon as f32,
        activate,
    };
    let (x, gamma, beta) = (Values::of(x), Values::of(gamma), Values::of(beta));
    let (x, gamma, beta) = (x.as_slice(), gamma.as_slice(), beta.as_slice());
    assert!(
        gamma.len() == channels && beta.len() == channels,
        "group_norm_silu: {channels} channels, but {} values of gamma and {} of beta",
        gamma.len(),
        beta.len()
    );
    let mut y = vec![0.0; x.len()];
    let mut moments = vec![0.0; batch * 2 * groups];
    if !y.is_empty() {
        let size = normalisation.image();
        for_each_pair(
            (&mut y, size),
            (&mut moments, 2 * groups),
            |i, y, moments| {
                normalise(
                    normalisation,
                    &x[i * size..][..size],
                    gamma,
                    beta,
                    y,
                    moments,
                );
            },
        );
    }
    (tensor(y, shape), moments)
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
    use crate::simd::dot;

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
            let [batch, channels, height, width] = dims;
            let shape = Normalisation {
                batch,
                channels,
                plane: height * width,
                groups,
                epsilon: 0.0,
                activate,
            };
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
