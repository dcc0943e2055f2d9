//! The convolution on the CPU: a few images at a time are unfolded into a matrix ("im2col",
//! Chellapilla et al. 2006) that stays in the cache, and matrix products do the rest.
//!
//! With K = channels_in k_h k_w taps and N = h_out w_out positions, an unfolded image is the matrix
//! X `[K, N]` and
//! - y = W X + b
//! - dL/dW = the sum over images of dL/dy X^T
//! - dL/dx = the convolution of dL/dy with the weight turned by 180 degrees, where the stride is 1;
//!   else W^T dL/dy, folded back
//!
//! Most of the network's convolutions have a faster way: see [`winograd`](crate::cpu::winograd).

use std::cell::Cell;

use burn::backend::{Flex, flex::FlexTensor};

use crate::cpu::{
    CpuOperations,
    matrix::{Matrix, multiply, with_scratch},
    parallel::{Threads, add_up, for_each_piece},
    primitive::{Values, dims, tensor},
    simd::{for_each_instruction_set, sum},
    winograd::Winograd,
};

impl CpuOperations for Flex {
    fn cpu_conv2d(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        stride: usize,
        padding: usize,
    ) -> FlexTensor {
        let shape = Convolution::new(dims(&x), dims(&weight), stride, padding);
        let (x, weight, bias) = (Values::of(x), Values::of(weight), Values::of(bias));
        let mut y = vec![0.0; shape.y_dims().iter().product()];
        shape.forward(x.as_slice(), weight.as_slice(), bias.as_slice(), &mut y);
        tensor(y, shape.y_dims())
    }

    fn cpu_group_norm_silu(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        groups: usize,
        epsilon: f64,
        activate: bool,
    ) -> FlexTensor {
        crate::cpu::group_norm::forward(x, gamma, beta, groups, epsilon, activate).0
    }
}

/// The gradient of the loss for each input of a convolution.
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
        flex::FlexTensor,
        tensor::FloatTensor,
    };

    use super::Convolution;
    use crate::cpu::{
        CpuOperations,
        primitive::{Values, dims, tensor},
    };

    #[derive(Debug)]
    struct Conv2d;

    impl Backward<Flex, 3> for Conv2d {
        /// x (for the weight's gradient), the weight (for x's), both shapes, stride and padding.
        type State = (Option<NodeId>, Option<NodeId>, Convolution);

        fn backward(
            self,
            ops: Ops<Self::State, 3>,
            grads: &mut Gradients,
            checkpointer: &mut Checkpointer,
        ) {
            let [x_node, weight_node, bias_node] = ops.parents;
            let (x, weight, shape) = ops.state;
            let mut restore = |id| Values::of(checkpointer.retrieve_node_output::<FlexTensor>(id));
            let (x, weight) = (x.map(&mut restore), weight.map(&mut restore));
            let dy = Values::of(grads.consume::<Flex>(&ops.node));

            if let (Some(node), Some(weight)) = (x_node, weight) {
                let dx = shape.input_gradient(dy.as_slice(), weight.as_slice());
                grads.register::<Flex>(node.id, tensor(dx, shape.x_dims()));
            }
            if let Some(node) = bias_node {
                let db = shape.bias_gradient(dy.as_slice());
                grads.register::<Flex>(node.id, tensor(db, [shape.channels_out]));
            }
            if let (Some(node), Some(x)) = (weight_node, x) {
                let dw = shape.weight_gradient(x.as_slice(), dy.as_slice());
                grads.register::<Flex>(node.id, tensor(dw, shape.weight_dims()));
            }
        }
    }

    impl<C: CheckpointStrategy> CpuOperations for Autodiff<Flex, C> {
        fn cpu_conv2d(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: FloatTensor<Self>,
            stride: usize,
            padding: usize,
        ) -> FloatTensor<Self> {
            let shape = Convolution::new(
                dims(x.primitive()),
                dims(weight.primitive()),
                stride,
                padding,
            );
            let nodes = [x.node(), weight.node(), bias.node()];
            let forward = |x, weight, bias| Flex::cpu_conv2d(x, weight, bias, stride, padding);
            match Conv2d.prepare::<C>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(mut operation) => {
                    let state = (
                        weight.is_tracked().then(|| operation.checkpoint(&x)),
                        x.is_tracked().then(|| operation.checkpoint(&weight)),
                        shape,
                    );
                    let y = forward(
                        x.into_primitive(),
                        weight.into_primitive(),
                        bias.into_primitive(),
                    );
                    operation.finish(state, y)
                }
                OpsKind::UnTracked(operation) => operation.finish(forward(
                    x.into_primitive(),
                    weight.into_primitive(),
                    bias.into_primitive(),
                )),
            }
        }

        fn cpu_group_norm_silu(
            x: FloatTensor<Self>,
            gamma: FloatTensor<Self>,
            beta: FloatTensor<Self>,
            groups: usize,
            epsilon: f64,
            activate: bool,
        ) -> FloatTensor<Self> {
            crate::cpu::group_norm::tracked::<C>(x, gamma, beta, groups, epsilon, activate)
        }
    }
}

/// Columns that a matrix product should have to fill the vector registers: small images are
/// unfolded several at a time.
const COLUMNS: usize = 192;

/// Pieces of the batch whose weight gradients are summed apart, then in order. More pieces serve
/// more threads and cost one pass over the weight each.
const PIECES: usize = 8;

/// The lengths of one convolution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Convolution {
    batch: usize,
    channels_in: usize,
    /// Height and width of x.
    size_in: [usize; 2],
    channels_out: usize,
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
    /// Height and width of y.
    size_out: [usize; 2],
}

impl Convolution {
    pub(crate) fn new(x: [usize; 4], weight: [usize; 4], stride: usize, padding: usize) -> Self {
        let [batch, channels_in, height, width] = x;
        let [channels_out, weight_channels, k_h, k_w] = weight;
        assert_eq!(
            channels_in, weight_channels,
            "conv2d: x has {channels_in} channels, the weight is for {weight_channels}"
        );
        assert!(
            stride > 0 && k_h > 0 && k_w > 0,
            "conv2d: the stride is {stride} and the kernel {k_h} x {k_w}; each must be at least 1"
        );
        let out = |length: usize, k: usize| match (length + 2 * padding).checked_sub(k) {
            Some(last) => last / stride + 1,
            None => 0,
        };
        Self {
            batch,
            channels_in,
            size_in: [height, width],
            channels_out,
            kernel: [k_h, k_w],
            stride,
            padding,
            size_out: [out(height, k_h), out(width, k_w)],
        }
    }

    fn x_dims(&self) -> [usize; 4] {
        let [height, width] = self.size_in;
        [self.batch, self.channels_in, height, width]
    }

    fn weight_dims(&self) -> [usize; 4] {
        let [k_h, k_w] = self.kernel;
        [self.channels_out, self.channels_in, k_h, k_w]
    }

    pub(crate) fn y_dims(&self) -> [usize; 4] {
        let [height, width] = self.size_out;
        [self.batch, self.channels_out, height, width]
    }

    /// K: the values of x that one value of y depends on.
    fn taps(&self) -> usize {
        self.channels_in * self.kernel[0] * self.kernel[1]
    }

    /// N: the positions of y.
    fn positions(&self) -> usize {
        self.size_out[0] * self.size_out[1]
    }

    /// The values of one image of x.
    fn x_image(&self) -> usize {
        self.channels_in * self.size_in[0] * self.size_in[1]
    }

    /// The values of one image of y.
    fn y_image(&self) -> usize {
        self.channels_out * self.positions()
    }

    /// The images that are unfolded together.
    fn group(&self) -> usize {
        COLUMNS
            .div_ceil(self.positions().max(1))
            .min(self.batch)
            .max(1)
    }

    /// Whether an unfolded image is the image.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.padding == 0
    }

    /// The faster way, where there is one.
    fn winograd(&self) -> Option<Winograd> {
        Winograd::of(self.x_dims(), self.weight_dims(), self.stride, self.padding)
    }

    /// Threads within one matrix product pay only where there is nothing else to share out.
    fn threads(&self) -> Threads {
        #[cfg(feature = "threads")]
        if self.group() == self.batch {
            return Threads::All;
        }
        Threads::One
    }

    /// y = W X + b, without b where it is empty.
    pub(crate) fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
        let (taps, n) = (self.taps(), self.positions());
        assert!(
            bias.is_empty() || bias.len() == self.channels_out,
            "conv2d: one bias for each channel"
        );
        if y.is_empty() {
            return;
        }
        if let Some(winograd) = self.winograd() {
            return winograd.forward(x, weight, bias, y);
        }
        let weight = Matrix::rows(weight, taps);
        let product = |columns: &[f32], pitch: usize, y: &mut [f32]| {
            for (row, &bias) in y.chunks_exact_mut(pitch).zip(bias) {
                row.fill(bias);
            }
            let size = [self.channels_out, taps, pitch];
            let columns = Matrix::rows(columns, pitch);
            let accumulate = !bias.is_empty();
            multiply(size, weight, columns, y, accumulate, self.threads());
        };
        for_each_piece(y, self.group() * self.y_image(), |i, y| {
            let images = y.len() / self.y_image();
            let x = self.images(x, i * self.group(), images, self.x_image());
            if images == 1 {
                self.with_columns(x, |columns| product(columns, n, y));
                return;
            }
            let pitch = images * n;
            self.with_columns(x, |columns| {
                with_scratch(&PRODUCT, self.channels_out * pitch, |joined| {
                    product(columns, pitch, joined);
                    for (image, y) in y.chunks_exact_mut(self.y_image()).enumerate() {
                        let rows = joined.chunks_exact(pitch);
                        for (y, row) in y.chunks_exact_mut(n).zip(rows) {
                            y.copy_from_slice(&row[image * n..][..n]);
                        }
                    }
                });
            });
        });
    }

    /// dL/dx, from dL/dy.
    fn input_gradient(&self, dy: &[f32], weight: &[f32]) -> Vec<f32> {
        let [k_h, k_w] = self.kernel;
        if self.stride == 1 && k_h == k_w && self.padding < k_h && !dy.is_empty() {
            let turned = Self::new(
                self.y_dims(),
                [self.channels_in, self.channels_out, k_h, k_w],
                1,
                k_h - 1 - self.padding,
            );
            let mut dx = vec![0.0; self.batch * self.x_image()];
            turned.forward(dy, &self.turned_weight(weight), &[], &mut dx);
            return dx;
        }
        let mut dx = vec![0.0; self.batch * self.x_image()];
        if dx.is_empty() || dy.is_empty() || self.channels_out == 0 {
            return dx;
        }
        let (taps, n) = (self.taps(), self.positions());
        for_each_piece(&mut dx, self.x_image(), |image, dx| {
            let dy = Matrix::rows(self.images(dy, image, 1, self.y_image()), n);
            with_scratch(&COLUMNS_OF_X, taps * n, |columns| {
                let weight = Matrix::rows(weight, taps).transposed();
                let size = [taps, self.channels_out, n];
                multiply(size, weight, dy, columns, false, Threads::One);
                self.fold(columns, dx);
            });
        });
        dx
    }

    /// The weight as seen from y: channels exchanged, each kernel turned by 180 degrees.
    fn turned_weight(&self, weight: &[f32]) -> Vec<f32> {
        let area = self.kernel[0] * self.kernel[1];
        let mut turned = vec![0.0; weight.len()];
        for (i, kernel) in weight.chunks_exact(area).enumerate() {
            let (c_out, c_in) = (i / self.channels_in, i % self.channels_in);
            let to = &mut turned[(c_in * self.channels_out + c_out) * area..][..area];
            for (to, &from) in to.iter_mut().zip(kernel.iter().rev()) {
                *to = from;
            }
        }
        turned
    }

    /// dL/dW, from dL/dy: each piece of the batch sums its own, and the pieces are added in order.
    fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        if let Some(winograd) = self.winograd() {
            return winograd.weight_gradient(x, dy);
        }
        let (taps, n) = (self.taps(), self.positions());
        let length = self.channels_out * taps;
        let groups = self.batch.div_ceil(self.group());
        let groups_each = groups.div_ceil(PIECES).max(1);
        let pieces = groups.div_ceil(groups_each);
        if length == 0 || n == 0 || pieces == 0 {
            return vec![0.0; length];
        }
        let mut partial = vec![0.0; pieces * length];
        for_each_piece(&mut partial, length, |piece, dw| {
            for group in (piece * groups_each..groups).take(groups_each) {
                let first = group * self.group();
                let images = self.group().min(self.batch - first);
                let x = self.images(x, first, images, self.x_image());
                let dy = self.images(dy, first, images, self.y_image());
                let pitch = images * n;
                let mut product = |columns: &[f32], dy: &[f32]| {
                    // dL/dW transposed: in this order the product is a third faster.
                    let columns = Matrix::rows(columns, pitch);
                    let dy = Matrix::rows(dy, pitch).transposed();
                    let size = [taps, pitch, self.channels_out];
                    multiply(size, columns, dy, dw, true, Threads::One);
                };
                self.with_columns(x, |columns| {
                    if images == 1 {
                        product(columns, dy);
                        return;
                    }
                    with_scratch(&PRODUCT, self.channels_out * pitch, |joined| {
                        for (image, dy) in dy.chunks_exact(self.y_image()).enumerate() {
                            let rows = joined.chunks_exact_mut(pitch);
                            for (dy, row) in dy.chunks_exact(n).zip(rows) {
                                row[image * n..][..n].copy_from_slice(dy);
                            }
                        }
                        product(columns, joined);
                    });
                });
            }
        });
        let total = add_up(&mut partial, length);
        let mut dw = vec![0.0; length];
        for (channel, dw) in dw.chunks_exact_mut(taps).enumerate() {
            for (dw, row) in dw.iter_mut().zip(total.chunks_exact(self.channels_out)) {
                *dw = row[channel];
            }
        }
        dw
    }

    /// dL/db, from dL/dy.
    fn bias_gradient(&self, dy: &[f32]) -> Vec<f32> {
        let mut db = vec![0.0; self.channels_out];
        if dy.is_empty() {
            return db;
        }
        // Channels are independent, so each thread sums whole ones, over the images in order.
        let channels = self.channels_out.div_ceil(PIECES);
        for_each_piece(&mut db, channels, |piece, db| {
            for dy in dy.chunks_exact(self.y_image()) {
                let first = piece * channels * self.positions();
                add_row_sums(&dy[first..], self.positions(), db);
            }
        });
        db
    }

    /// `count` images of a batch.
    fn images<'a>(&self, batch: &'a [f32], first: usize, count: usize, size: usize) -> &'a [f32] {
        &batch[first * size..][..count * size]
    }

    /// Calls `work` with the images of `x`, unfolded side by side: `[K, images N]`.
    fn with_columns(&self, x: &[f32], work: impl FnOnce(&[f32])) {
        let images = x.len() / self.x_image().max(1);
        if self.is_pointwise() && images == 1 {
            return work(x);
        }
        let (n, pitch) = (self.positions(), images * self.positions());
        with_scratch(&COLUMNS_OF_X, self.taps() * pitch, |columns| {
            let area = self.kernel[0] * self.kernel[1];
            let plane = self.size_in[0] * self.size_in[1];
            for (tap, row) in columns.chunks_exact_mut(pitch).enumerate() {
                let (channel, offset) = (tap / area, tap % area);
                let tap = [offset / self.kernel[1], offset % self.kernel[1]];
                for (image, row) in row.chunks_exact_mut(n).enumerate() {
                    let plane = &x[image * self.x_image() + channel * plane..][..plane];
                    self.unfold(plane, tap, row);
                }
            }
            work(columns);
        });
    }

    /// What tap `[i, j]` of a kernel sees of one plane of x, at each position; 0 in the padding.
    fn unfold(&self, plane: &[f32], [i, j]: [usize; 2], row: &mut [f32]) {
        let width = self.size_in[1];
        if self.stride == 1 && self.size_out == self.size_in {
            // The output is as large as the input: one shifted copy, then the margins.
            let n = plane.len();
            let (ahead, behind) = (i * width + j, self.padding * width + self.padding);
            let start = behind.saturating_sub(ahead).min(n);
            let from = ahead.saturating_sub(behind).min(n);
            let length = n - start.max(from);
            row[..start].fill(0.0);
            row[start..start + length].copy_from_slice(&plane[from..from + length]);
            row[start + length..].fill(0.0);
            let left = self.padding.saturating_sub(j).min(width);
            let right = j.saturating_sub(self.padding).min(width);
            if left + right > 0 {
                for row in row.chunks_exact_mut(width) {
                    row[..left].fill(0.0);
                    row[width - right..].fill(0.0);
                }
            }
            return;
        }
        for (y, row) in row.chunks_exact_mut(self.size_out[1]).enumerate() {
            let Some(line) = self.line(y, i) else {
                row.fill(0.0);
                continue;
            };
            let line = &plane[line * width..][..width];
            for (x, value) in row.iter_mut().enumerate() {
                let from = (x * self.stride + j).checked_sub(self.padding);
                *value = from.and_then(|from| line.get(from)).copied().unwrap_or(0.0);
            }
        }
    }

    /// The inverse of unfolding: adds each value of `columns` `[K, N]` where it came from.
    fn fold(&self, columns: &[f32], x: &mut [f32]) {
        let [k_h, k_w] = self.kernel;
        let width = self.size_in[1];
        let planes = x.chunks_exact_mut(self.size_in[0] * width);
        let taps = columns.chunks_exact(k_h * k_w * self.positions());
        for (plane, taps) in planes.zip(taps) {
            for (tap, row) in taps.chunks_exact(self.positions()).enumerate() {
                let (i, j) = (tap / k_w, tap % k_w);
                for (y, row) in row.chunks_exact(self.size_out[1]).enumerate() {
                    let Some(line) = self.line(y, i) else {
                        continue;
                    };
                    let line = &mut plane[line * width..][..width];
                    for (x, &value) in row.iter().enumerate() {
                        let to = (x * self.stride + j).checked_sub(self.padding);
                        if let Some(to) = to.and_then(|to| line.get_mut(to)) {
                            *to += value;
                        }
                    }
                }
            }
        }
    }

    /// The line of x that row `i` of the kernel sees at line `y` of the output.
    fn line(&self, y: usize, i: usize) -> Option<usize> {
        let line = (y * self.stride + i).checked_sub(self.padding)?;
        (line < self.size_in[0]).then_some(line)
    }
}

for_each_instruction_set! {
    /// Adds the sum of each row of `length` values.
    fn add_row_sums(rows: &[f32], length: usize, sums: &mut [f32]) {
        for (total, row) in sums.iter_mut().zip(rows.chunks_exact(length)) {
            *total += sum(row, |value| value);
        }
    }
}

thread_local! {
    static COLUMNS_OF_X: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static PRODUCT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::{
        cpu::testing::{distance, random, run, values},
        plain,
    };
    use burn::tensor::Tensor;
    use proptest::prelude::*;

    /// One of the two convolutions, on flat inputs.
    fn apply(
        function: fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>, usize, usize) -> Tensor<4>,
        shape: Convolution,
    ) -> impl Fn(&[Tensor<1>]) -> Tensor<4> {
        move |inputs| {
            function(
                inputs[0].clone().reshape(shape.x_dims()),
                inputs[1].clone().reshape(shape.weight_dims()),
                inputs.get(2).cloned(),
                shape.stride,
                shape.padding,
            )
        }
    }

    fn inputs(shape: Convolution, biased: bool) -> Vec<Vec<f32>> {
        let mut inputs = vec![
            random(1, shape.batch * shape.x_image()),
            random(2, shape.channels_out * shape.taps()),
        ];
        inputs.extend(biased.then(|| random(3, shape.channels_out)));
        inputs
    }

    fn compare(x: [usize; 4], weight: [usize; 4], biased: bool, stride: usize, padding: usize) {
        let shape = Convolution::new(x, weight, stride, padding);
        let inputs = inputs(shape, biased);
        let pull = random(4, shape.batch * shape.y_image());
        let own = run(apply(crate::conv2d, shape), &inputs, &pull);
        let twin = run(apply(plain::conv2d, shape), &inputs, &pull);
        for (name, (own, twin)) in ["y", "dx", "dw", "db"].iter().zip(own.iter().zip(&twin)) {
            let error = distance(own, twin);
            assert!(error < 1e-5, "{name} of {shape:?}: {error}");
        }
        let device = crate::cpu();
        let inputs: Vec<_> = inputs
            .iter()
            .map(|values| Tensor::from_floats(values.as_slice(), &device))
            .collect();
        assert_eq!(values(apply(crate::conv2d, shape)(&inputs)), own[0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 128,
            failure_persistence: None,
            ..Default::default()
        })]

        #[test]
        fn equals_its_plain_twin(
            batch in 1usize..12,
            channels_in in 1usize..20,
            channels_out in 1usize..20,
            size in (1usize..17, 1usize..17),
            kernel in prop_oneof![Just([1usize, 1]), Just([3, 3]), Just([4, 4]), Just([5, 3])],
            stride in 1usize..4,
            padding in 0usize..4,
            biased: bool,
        ) {
            prop_assume!(size.0 + 2 * padding >= kernel[0]);
            prop_assume!(size.1 + 2 * padding >= kernel[1]);
            compare(
                [batch, channels_in, size.0, size.1],
                [channels_out, channels_in, kernel[0], kernel[1]],
                biased,
                stride,
                padding,
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 32,
            failure_persistence: None,
            ..Default::default()
        })]

        #[test]
        fn equals_its_plain_twin_where_tiles_overlap_the_edge(
            batch in 4usize..12,
            channels_in in 1usize..4,
            channels_out in 1usize..4,
            size in (1usize..19, 1usize..19),
            biased: bool,
        ) {
            let (channels_in, channels_out) = (16 * channels_in, 16 * channels_out);
            let x = [batch, channels_in, size.0, size.1];
            let weight = [channels_out, channels_in, 3, 3];
            prop_assert!(Convolution::new(x, weight, 1, 1).winograd().is_some());
            compare(x, weight, biased, 1, 1);
        }
    }

    #[test]
    fn equals_its_plain_twin_at_the_sizes_of_the_network() {
        for (batch, channels, size, kernel) in [
            (64, 64, 14, 3),
            (64, 64, 7, 3),
            (37, 16, 14, 3),
            (13, 64, 7, 1),
            (5, 32, 28, 3),
            (1, 128, 7, 3),
        ] {
            let weight = [channels, channels, kernel, kernel];
            compare([batch, channels, size, size], weight, true, 1, kernel / 2);
        }
        compare([16, 32, 28, 28], [64, 32, 3, 3], true, 2, 1);
    }

    #[test]
    fn gradients_do_not_depend_on_thread_timing() {
        let shape = Convolution::new([37, 16, 14, 14], [24, 16, 3, 3], 1, 1);
        let inputs = inputs(shape, true);
        let pull = random(4, shape.batch * shape.y_image());
        let first = run(apply(crate::conv2d, shape), &inputs, &pull);
        for _ in 0..8 {
            assert_eq!(run(apply(crate::conv2d, shape), &inputs, &pull), first);
        }
    }

    #[test]
    fn only_what_is_asked_for_gets_a_gradient() {
        let shape = Convolution::new([2, 3, 5, 5], [4, 3, 3, 3], 1, 1);
        let inputs = inputs(shape, true);
        let pull = random(4, shape.batch * shape.y_image());
        let all = run(apply(crate::conv2d, shape), &inputs, &pull);
        let plain_device = crate::cpu();
        for wanted in 0..3 {
            let constants: Vec<Tensor<1>> = inputs
                .iter()
                .map(|values| Tensor::from_floats(values.as_slice(), &plain_device))
                .collect();
            let one = run(
                |leaf| {
                    let mut inputs = constants.clone();
                    inputs[wanted] = leaf[0].clone();
                    apply(crate::conv2d, shape)(&inputs)
                },
                &inputs[wanted..=wanted],
                &pull,
            );
            assert_eq!(one, [all[0].clone(), all[wanted + 1].clone()]);
        }
    }

    #[test]
    fn reads_views_and_takes_empty_batches() {
        let device = crate::cpu();
        let tensor = |seed, shape: [usize; 4]| {
            let values = random(seed, shape.iter().product());
            Tensor::<1>::from_floats(values.as_slice(), &device).reshape(shape)
        };
        let x = tensor(1, [2, 9, 8, 3]).permute([0, 3, 1, 2]);
        let w = tensor(2, [3, 3, 4, 5])
            .permute([3, 0, 1, 2])
            .slice([1..4, 0..3, 0..3, 0..3]);
        let own = crate::conv2d(x.clone(), w.clone(), None, 1, 1);
        let twin = plain::conv2d(x, w.clone(), None, 1, 1);
        assert!(distance(&values(own), &values(twin)) < 1e-5);

        let empty = Tensor::<4>::zeros([0, 3, 8, 8], &device);
        assert_eq!(crate::conv2d(empty, w, None, 2, 1).dims(), [0, 3, 4, 4]);
        let shape = Convolution::new([0, 3, 8, 8], [4, 3, 3, 3], 1, 1);
        let results = run(apply(crate::conv2d, shape), &inputs(shape, true), &[]);
        assert_eq!(results[2..], [vec![0.0; 4 * 3 * 9], vec![0.0; 4]]);
    }
}
