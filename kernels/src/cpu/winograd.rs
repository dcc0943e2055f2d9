//! 3 x 3 convolutions on the CPU with a quarter of the multiplications.
//!
//! Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin & Gray 2015, arXiv:1509.09308): a tile of
//! 4 x 4 results is y = A'[(G g G') * (B' d B)]A, where d is the patch of 6 x 6 values it depends
//! on, g the kernel, `'` transposes and `*` multiplies place by place: 36 multiplications instead
//! of 144. Summed over the channels, each of the 36 places is a matrix product,
//! `[tiles, channels_in]` by `[channels_in, channels_out]`.
//!
//! The gradients follow from the same formula: for the kernel dL/dg = G'[(A dy A') * (B' d B)]G;
//! for x it is a convolution again, of dy with the kernel turned by 180 degrees.
//!
//! Within, channels lie side by side, and each instruction transforms [`LANES`] of them.

use std::{array, cell::Cell};

use crate::cpu::{
    matrix::{Matrix, multiply, with_scratch},
    parallel::{Threads, add_up, for_each_piece},
    simd::{LANES, for_each_instruction_set},
};

/// Side of the square of results that belong together.
const TILE: usize = 4;

/// Side of the square of values they depend on.
const PATCH: usize = 6;

/// Places of a patch, each with a matrix product of its own.
const PLACES: usize = PATCH * PATCH;

/// Side of the kernel.
const KERNEL: usize = 3;

/// The margin of zeros around x.
const PADDING: usize = 1;

/// Tiles whose products are taken together: enough rows for a product to run at full speed, few
/// enough for its places to stay in the cache.
const TILES: usize = 96;

/// Images from which on transforming the kernel for one use of it pays.
const SMALLEST_BATCH: usize = 4;

/// Channels of y whose kernels lie side by side where [`multiply_block`] reads them.
const BLOCK: usize = 8;

/// Tiles that it takes at a time: with the channels as many sums as fit the registers of a machine
/// with vectors of four values.
const BLOCK_TILES: usize = 4;

/// Parts of the batch whose weight gradients are summed apart, then in order.
const PIECES: usize = 4;

/// One value of each of the channels that are transformed together.
type Lanes = [f32; LANES];

// The matrices of Cook and Toom's scheme for the points 0, 1, -1, 1/2, -2 and infinity (Blahut
// 2010, chapter 5), times a vector: rounding errors are a third of those of the usual 0, 1, -1, 2,
// -2.

/// B' d: row i holds the coefficients of the polynomial with a zero at every point but the i-th.
#[inline(always)]
fn patch([d0, d1, d2, d3, d4, d5]: [f32; PATCH]) -> [f32; PATCH] {
    [
        d0 + d4 + 1.5 * (d3 - d1) - 2.0 * d2,
        d4 - d1 + 0.5 * d2 + 2.5 * d3,
        d4 + d1 + 0.5 * d3 - 2.5 * d2,
        d4 - d2 + 2.0 * (d3 - d1),
        d4 - d2 + 0.5 * (d1 - d3),
        d1 + d5 + 1.5 * (d4 - d2) - 2.0 * d3,
    ]
}

/// G g: row i holds the powers of the i-th point, over the product of its distances to the others.
#[inline(always)]
fn kernel([g0, g1, g2]: [f32; KERNEL]) -> [f32; PATCH] {
    [
        g0,
        (g0 + g2 + g1) * (1.0 / 3.0),
        (g1 - g0 - g2) * (1.0 / 3.0),
        (4.0 * g0 + 2.0 * g1 + g2) * (-4.0 / 15.0),
        (g0 - 2.0 * g1 + 4.0 * g2) * (1.0 / 15.0),
        g2,
    ]
}

/// G' s.
#[inline(always)]
fn kernel_transposed([s0, s1, s2, s3, s4, s5]: [f32; PATCH]) -> [f32; KERNEL] {
    let (thirds, fifteenths) = ((s1 - s2) * (1.0 / 3.0), s4 * (1.0 / 15.0));
    let middle = s3 * (-4.0 / 15.0);
    [
        s0 + thirds + 4.0 * middle + fifteenths,
        (s1 + s2) * (1.0 / 3.0) + 2.0 * (middle - fifteenths),
        thirds + middle + 4.0 * fifteenths + s5,
    ]
}

/// A' m: column i holds the powers of the i-th point.
#[inline(always)]
fn tile([m0, m1, m2, m3, m4, m5]: [f32; PATCH]) -> [f32; TILE] {
    let (sum, difference) = (m1 + m2, m1 - m2);
    [
        m0 + sum + m3 + m4,
        difference + 0.5 * m3 - 2.0 * m4,
        sum + 0.25 * m3 + 4.0 * m4,
        difference + 0.125 * m3 - 8.0 * m4 + m5,
    ]
}

/// A y.
#[inline(always)]
fn tile_transposed([y0, y1, y2, y3]: [f32; TILE]) -> [f32; PATCH] {
    let (even, odd) = (y0 + y2, y1 + y3);
    [
        y0,
        even + odd,
        even - odd,
        y0 + 0.5 * y1 + 0.25 * y2 + 0.125 * y3,
        y0 - 2.0 * y1 + 4.0 * y2 - 8.0 * y3,
        y3,
    ]
}

/// Whether kernels of a weight `[channels_out, channels_in, k_h, k_w]` can be transformed.
pub(crate) fn fits([channels_out, channels_in, k_h, k_w]: [usize; 4]) -> bool {
    let whole = |channels: usize| channels > 0 && channels.is_multiple_of(LANES);
    [k_h, k_w] == [KERNEL; 2] && whole(channels_in) && whole(channels_out)
}

/// G g G' of each kernel of a weight, `[36, channels_out / block, channels_in, block]`: place after
/// place, and within a place the channels of y in blocks.
#[derive(Clone, Copy)]
pub(crate) struct Kernels<'a> {
    values: &'a [f32],
    channels_in: usize,
    channels_out: usize,
    block: usize,
}

impl<'a> Kernels<'a> {
    /// The lengths of what [`transformed`] makes of a weight on this machine.
    ///
    /// A general matrix product rearranges its factors first, which pays where there are many tiles.
    /// In a browser one image is computed at a time, and all kernels come out of a distant cache at
    /// every step: there they lie in the order in which they are read.
    pub(crate) fn dims([channels_out, channels_in, ..]: [usize; 4]) -> [usize; 4] {
        let block = if cfg!(target_arch = "wasm32") {
            BLOCK
        } else {
            channels_out
        };
        [PLACES, channels_out / block, channels_in, block]
    }

    /// Whether a tensor of these lengths holds such kernels. No weight of an odd kernel does.
    pub(crate) fn are([places, _, channels_in, block]: [usize; 4]) -> bool {
        places == PLACES && channels_in.is_multiple_of(LANES) && block.is_multiple_of(BLOCK)
    }

    pub(crate) fn new(values: &'a [f32], [_, blocks, channels_in, block]: [usize; 4]) -> Self {
        Self {
            values,
            channels_in,
            channels_out: blocks * block,
            block,
        }
    }

    /// The sums over the channels of x: for each place `[tiles, channels_in]` by
    /// `[channels_in, channels_out]`, with so many values from one place to the next.
    fn multiply(
        &self,
        tiles: usize,
        (patches, patches_pitch): (&[f32], usize),
        (products, products_pitch): (&mut [f32], usize),
    ) {
        let Self {
            channels_in,
            channels_out,
            block,
            ..
        } = *self;
        let places = patches
            .chunks(patches_pitch)
            .zip(self.values.chunks_exact(channels_in * channels_out))
            .zip(products.chunks_mut(products_pitch));
        for ((patches, kernels), products) in places {
            if block == BLOCK {
                let patches = &patches[..tiles * channels_in];
                let products = &mut products[..tiles * channels_out];
                multiply_blocks(patches, channels_in, kernels, channels_out, products);
                continue;
            }
            multiply(
                [tiles, channels_in, channels_out],
                Matrix::rows(patches, channels_in),
                Matrix::rows(kernels, channels_out),
                products,
                false,
                Threads::One,
            );
        }
    }
}

/// [`Kernels`] of a weight `[channels_out, channels_in, 3, 3]`, in blocks of `dims`.
pub(crate) fn transformed(weight: &[f32], dims: [usize; 4]) -> Vec<f32> {
    let [places, blocks, channels_in, block] = dims;
    let mut kernels = vec![0.0; places * blocks * channels_in * block];
    transform_kernels(weight, channels_in, blocks * block, block, &mut kernels);
    kernels
}

/// A 3 x 3 convolution with stride 1 and padding 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Winograd {
    batch: usize,
    channels_in: usize,
    channels_out: usize,
    height: usize,
    width: usize,
}

impl Winograd {
    /// The convolution of `x`, if this way of computing it pays.
    pub(crate) fn of(
        x: [usize; 4],
        weight: [usize; 4],
        stride: usize,
        padding: usize,
    ) -> Option<Self> {
        let [batch, _, height, width] = x;
        let pays = batch >= SMALLEST_BATCH && height > 0 && width > 0;
        (pays && stride == 1 && padding == PADDING && fits(weight)).then(|| Self::new(x, weight[0]))
    }

    /// The convolution of `x` with kernels that are transformed already.
    pub(crate) fn new(
        [batch, channels_in, height, width]: [usize; 4],
        channels_out: usize,
    ) -> Self {
        Self {
            batch,
            channels_in,
            channels_out,
            height,
            width,
        }
    }

    /// The lengths of y.
    pub(crate) fn y_dims(&self) -> [usize; 4] {
        [self.batch, self.channels_out, self.height, self.width]
    }

    /// y = W X + b, without b where it is empty.
    pub(crate) fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
        let dims = Kernels::dims([self.channels_out, self.channels_in, KERNEL, KERNEL]);
        let kernels = transformed(weight, dims);
        self.forward_transformed(x, Kernels::new(&kernels, dims), bias, y);
    }

    /// [`Self::forward`] with kernels that are transformed already.
    pub(crate) fn forward_transformed(
        &self,
        x: &[f32],
        kernels: Kernels,
        bias: &[f32],
        y: &mut [f32],
    ) {
        let [x_plan, y_plan] = [self.channels_in, self.channels_out].map(|c| self.plan(c));
        if y.is_empty() {
            return;
        }
        for_each_piece(y, self.group() * y_plan.image(), |i, y| {
            let images = y.len() / y_plan.image();
            let x = &x[i * self.group() * x_plan.image()..][..images * x_plan.image()];
            self.with_patches(x, |patches| {
                with_scratch(&PRODUCTS, PLACES * y_plan.pitch(images), |products| {
                    kernels.multiply(
                        self.tiles() * images,
                        (patches, x_plan.pitch(images)),
                        (products, y_plan.pitch(images)),
                    );
                    with_scratch(&CHANNELS, y_plan.block(0), |scratch| {
                        let (pitch, scratch) = (y_plan.pitch(images), lanes(scratch));
                        for (image, y) in y.chunks_exact_mut(y_plan.image()).enumerate() {
                            let products = &products[image * y_plan.place()..];
                            gather_tiles(products, y_plan, pitch, scratch, bias, y);
                        }
                    });
                });
            });
        });
    }

    /// dL/dW, from dL/dy: each piece of the batch sums its own, and the pieces are added in order.
    pub(crate) fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let [x_plan, y_plan] = [self.channels_in, self.channels_out].map(|c| self.plan(c));
        let length = PLACES * self.kernel_area();
        let groups = self.batch.div_ceil(self.group());
        let groups_each = groups.div_ceil(PIECES);
        let mut partial = vec![0.0; groups.div_ceil(groups_each) * length];
        for_each_piece(&mut partial, length, |piece, sums| {
            for group in (piece * groups_each..groups).take(groups_each) {
                let first = group * self.group();
                let images = self.group().min(self.batch - first);
                let x = &x[first * x_plan.image()..][..images * x_plan.image()];
                let dy = &dy[first * y_plan.image()..][..images * y_plan.image()];
                self.with_patches(x, |patches| {
                    with_scratch(&PRODUCTS, PLACES * y_plan.pitch(images), |spread| {
                        with_scratch(&CHANNELS, y_plan.block(0), |scratch| {
                            scratch.fill(0.0);
                            let (pitch, scratch) = (y_plan.pitch(images), lanes(scratch));
                            for (image, dy) in dy.chunks_exact(y_plan.image()).enumerate() {
                                let spread = &mut spread[image * y_plan.place()..];
                                spread_tiles(dy, y_plan, pitch, scratch, spread);
                            }
                        });
                        for (place, sums) in sums.chunks_exact_mut(self.kernel_area()).enumerate() {
                            let patches = &patches[place * x_plan.pitch(images)..];
                            let spread = &spread[place * y_plan.pitch(images)..];
                            multiply(
                                [self.channels_in, self.tiles() * images, self.channels_out],
                                Matrix::rows(patches, self.channels_in).transposed(),
                                Matrix::rows(spread, self.channels_out),
                                sums,
                                true,
                                Threads::One,
                            );
                        }
                    });
                });
            }
        });
        let total = add_up(&mut partial, length);
        let mut dw = vec![0.0; self.kernel_area() * KERNEL * KERNEL];
        let rows = LANES * self.channels_in * KERNEL * KERNEL;
        for_each_piece(&mut dw, rows, |i, dw| {
            gather_kernels(total, self.channels_in, self.channels_out, i * LANES, dw);
        });
        dw
    }

    /// Calls `work` with B' d B of each patch of `x`.
    fn with_patches(&self, x: &[f32], work: impl FnOnce(&[f32])) {
        let plan = self.plan(self.channels_in);
        let images = x.len() / plan.image();
        with_scratch(&PATCHES, PLACES * plan.pitch(images), |patches| {
            with_scratch(&CHANNELS, plan.block(PADDING), |scratch| {
                scratch.fill(0.0);
                let (pitch, scratch) = (plan.pitch(images), lanes(scratch));
                for (image, x) in x.chunks_exact(plan.image()).enumerate() {
                    let patches = &mut patches[image * plan.place()..];
                    transform_patches(x, plan, pitch, scratch, patches);
                }
            });
            work(patches);
        });
    }

    fn plan(&self, channels: usize) -> Plan {
        Plan {
            channels,
            height: self.height,
            width: self.width,
        }
    }

    /// Tiles of one image.
    fn tiles(&self) -> usize {
        self.plan(0).tiles()
    }

    /// Images whose products are taken together.
    fn group(&self) -> usize {
        (TILES / self.tiles()).clamp(1, self.batch)
    }

    /// Values at one place of all kernels.
    fn kernel_area(&self) -> usize {
        self.channels_in * self.channels_out
    }
}

/// Where the values of x, or of y, stand.
#[derive(Clone, Copy)]
struct Plan {
    channels: usize,
    height: usize,
    width: usize,
}

impl Plan {
    /// Values of an image.
    fn image(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Rows of tiles.
    fn rows(&self) -> usize {
        self.height.div_ceil(TILE)
    }

    /// Tiles in a row.
    fn columns(&self) -> usize {
        self.width.div_ceil(TILE)
    }

    /// Tiles of an image.
    fn tiles(&self) -> usize {
        self.rows() * self.columns()
    }

    /// Positions of a line of whole tiles with `margin` at either end.
    fn line(&self, margin: usize) -> usize {
        self.columns() * TILE + 2 * margin
    }

    /// Values of [`LANES`] channels of whole tiles with `margin` at each side.
    fn block(&self, margin: usize) -> usize {
        (self.rows() * TILE + 2 * margin) * self.line(margin) * LANES
    }

    /// Values at one place of all tiles of an image.
    fn place(&self) -> usize {
        self.tiles() * self.channels
    }

    /// Values from one place to the next. Not a power of two, or all 36 places would compete for
    /// the same lines of the cache.
    fn pitch(&self, images: usize) -> usize {
        images * self.place() + LANES
    }
}

thread_local! {
    static CHANNELS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static PATCHES: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static PRODUCTS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// M V M', for each lane, where `multiply` is M times a vector.
#[inline(always)]
fn sandwich<const M: usize, const N: usize>(
    multiply: impl Fn([f32; N]) -> [f32; M],
    v: impl Fn(usize, usize) -> Lanes,
) -> [[Lanes; M]; M] {
    let mut half = [[[0.0; LANES]; N]; M];
    for j in 0..N {
        let column: [Lanes; N] = array::from_fn(|i| v(i, j));
        for lane in 0..LANES {
            let results = multiply(column.each_ref().map(|v| v[lane]));
            for (half, result) in half.iter_mut().zip(results) {
                half[j][lane] = result;
            }
        }
    }
    let mut full = [[[0.0; LANES]; M]; M];
    for (full, half) in full.iter_mut().zip(&half) {
        for lane in 0..LANES {
            let results = multiply(half.each_ref().map(|v| v[lane]));
            for (full, result) in full.iter_mut().zip(results) {
                full[lane] = result;
            }
        }
    }
    full
}

fn lanes(values: &mut [f32]) -> &mut [Lanes] {
    values.as_chunks_mut().0
}

#[inline(always)]
fn load(values: &[f32], at: usize) -> Lanes {
    let mut lanes = [0.0; LANES];
    lanes.copy_from_slice(&values[at..at + LANES]);
    lanes
}

#[inline(always)]
fn store(values: &mut [f32], at: usize, lanes: &Lanes) {
    values[at..at + LANES].copy_from_slice(lanes);
}

/// Puts [`LANES`] channels of an image side by side, within a margin that stays as it is.
#[inline(always)]
fn channels_last(x: &[f32], plan: Plan, margin: usize, to: &mut [Lanes]) {
    let area = plan.height * plan.width;
    let lines = to.chunks_exact_mut(plan.line(margin)).skip(margin);
    for (line, row) in lines.zip(0..plan.height) {
        for (to, column) in line[margin..].iter_mut().zip(0..plan.width) {
            let from = &x[row * plan.width + column..];
            *to = array::from_fn(|lane| from[lane * area]);
        }
    }
}

/// The inverse, plus the bias of each channel, where there is one.
#[inline(always)]
fn channels_first(from: &[Lanes], plan: Plan, bias: &[f32], y: &mut [f32]) {
    for (channel, y) in y.chunks_exact_mut(plan.height * plan.width).enumerate() {
        let bias = bias.get(channel).copied().unwrap_or(0.0);
        let lines = from.chunks_exact(plan.line(0));
        for (y, line) in y.chunks_exact_mut(plan.width).zip(lines) {
            for (y, from) in y.iter_mut().zip(line) {
                *y = from[channel] + bias;
            }
        }
    }
}

/// M v M' of each tile of an image, `v` being the values from the tile's first on. What `scratch`
/// holds beside the image, its margin, is 0 before and after.
#[inline(always)]
fn transform_tiles<const N: usize>(
    multiply: impl Fn([f32; N]) -> [f32; PATCH],
    x: &[f32],
    plan: Plan,
    pitch: usize,
    scratch: &mut [Lanes],
    places: &mut [f32],
) {
    let margin = (N - TILE) / 2;
    let line = plan.line(margin);
    for channel in (0..plan.channels).step_by(LANES) {
        channels_last(
            &x[channel * plan.height * plan.width..],
            plan,
            margin,
            scratch,
        );
        for index in 0..plan.tiles() {
            let (row, column) = (index / plan.columns(), index % plan.columns());
            let values = &scratch[TILE * (row * line + column)..];
            let results = sandwich(&multiply, |i, j| values[i * line + j]);
            let to = &mut places[index * plan.channels + channel..];
            for (place, lanes) in results.as_flattened().iter().enumerate() {
                store(to, place * pitch, lanes);
            }
        }
    }
}

for_each_instruction_set! {
    /// B' d B of each patch of an image.
    fn transform_patches(
        x: &[f32],
        plan: Plan,
        pitch: usize,
        scratch: &mut [Lanes],
        patches: &mut [f32],
    ) {
        transform_tiles(patch, x, plan, pitch, scratch, patches);
    }
}

for_each_instruction_set! {
    /// A dy A' of each tile of an image.
    fn spread_tiles(
        dy: &[f32],
        plan: Plan,
        pitch: usize,
        scratch: &mut [Lanes],
        spread: &mut [f32],
    ) {
        transform_tiles(tile_transposed, dy, plan, pitch, scratch, spread);
    }
}

for_each_instruction_set! {
    /// A' m A of each tile of an image, plus the bias.
    fn gather_tiles(
        products: &[f32],
        plan: Plan,
        pitch: usize,
        scratch: &mut [Lanes],
        bias: &[f32],
        y: &mut [f32],
    ) {
        let line = plan.line(0);
        let block = LANES * plan.height * plan.width;
        for (y, channel) in y.chunks_exact_mut(block).zip((0..plan.channels).step_by(LANES)) {
            for index in 0..plan.tiles() {
                let (row, column) = (index / plan.columns(), index % plan.columns());
                let from = &products[index * plan.channels + channel..];
                let results = sandwich(tile, |i, j| load(from, (i * PATCH + j) * pitch));
                let to = &mut scratch[TILE * (row * line + column)..];
                for (i, results) in results.iter().enumerate() {
                    to[i * line..][..TILE].copy_from_slice(results);
                }
            }
            channels_first(scratch, plan, bias.get(channel..).unwrap_or_default(), y);
        }
    }
}

for_each_instruction_set! {
    /// One place of [`Kernels::multiply`], with kernels in blocks of [`BLOCK`].
    fn multiply_blocks(
        patches: &[f32],
        channels_in: usize,
        kernels: &[f32],
        channels_out: usize,
        products: &mut [f32],
    ) {
        let tiles = patches
            .chunks(BLOCK_TILES * channels_in)
            .zip(products.chunks_mut(BLOCK_TILES * channels_out));
        for (patches, products) in tiles {
            if patches.len() == BLOCK_TILES * channels_in {
                multiply_block::<BLOCK_TILES>(patches, channels_in, kernels, channels_out, products);
                continue;
            }
            let tiles = patches.chunks_exact(channels_in);
            for (patch, products) in tiles.zip(products.chunks_exact_mut(channels_out)) {
                multiply_block::<1>(patch, channels_in, kernels, channels_out, products);
            }
        }
    }
}

/// [`multiply_blocks`] for so many tiles.
#[inline(always)]
fn multiply_block<const TILES: usize>(
    patches: &[f32],
    channels_in: usize,
    kernels: &[f32],
    channels_out: usize,
    products: &mut [f32],
) {
    let patches: [&[f32]; TILES] =
        array::from_fn(|tile| &patches[tile * channels_in..][..channels_in]);
    for (block, kernels) in kernels.chunks_exact(BLOCK * channels_in).enumerate() {
        let mut sums = [[0.0; BLOCK]; TILES];
        // As long as the patches, so that nothing in the loop is checked.
        let kernels = &kernels.as_chunks::<BLOCK>().0[..channels_in];
        for channel in 0..channels_in {
            for (sums, patch) in sums.iter_mut().zip(patches) {
                for (sum, kernel) in sums.iter_mut().zip(&kernels[channel]) {
                    *sum += patch[channel] * kernel;
                }
            }
        }
        for (products, sums) in products.chunks_exact_mut(channels_out).zip(&sums) {
            products[block * BLOCK..][..BLOCK].copy_from_slice(sums);
        }
    }
}

for_each_instruction_set! {
    /// G g G' of each kernel of a weight `[channels_out, channels_in, 3, 3]`; see [`Kernels`].
    fn transform_kernels(
        weight: &[f32],
        channels_in: usize,
        channels_out: usize,
        block: usize,
        kernels: &mut [f32],
    ) {
        let row = channels_in * KERNEL * KERNEL;
        for channel_in in 0..channels_in {
            for channel_out in (0..channels_out).step_by(LANES) {
                let from = &weight[channel_out * row + channel_in * KERNEL * KERNEL..];
                let places = sandwich(kernel, |i, j| {
                    array::from_fn(|lane| from[lane * row + i * KERNEL + j])
                });
                for (place, lanes) in places.as_flattened().iter().enumerate() {
                    let place = place * channels_in * channels_out;
                    for (lanes, channel) in lanes.chunks_exact(BLOCK).zip((channel_out..).step_by(BLOCK)) {
                        let to = (channel / block * channels_in + channel_in) * block + channel % block;
                        kernels[place + to..][..BLOCK].copy_from_slice(lanes);
                    }
                }
            }
        }
    }
}

for_each_instruction_set! {
    /// G' s G of each kernel of [`LANES`] channels of y from `channel_out` on.
    fn gather_kernels(
        sums: &[f32],
        channels_in: usize,
        channels_out: usize,
        channel_out: usize,
        dw: &mut [f32],
    ) {
        let row = channels_in * KERNEL * KERNEL;
        for channel_in in 0..channels_in {
            let from = &sums[channel_in * channels_out + channel_out..];
            let kernel = sandwich(kernel_transposed, |i, j| {
                load(from, (i * PATCH + j) * channels_in * channels_out)
            });
            let to = &mut dw[channel_in * KERNEL * KERNEL..];
            for (tap, lanes) in kernel.as_flattened().iter().enumerate() {
                for (lane, &value) in lanes.iter().enumerate() {
                    to[lane * row + tap] = value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::*;
    use crate::{
        Around,
        cpu::testing::{distance, random, values},
        plain,
    };

    /// In either order of the kernels, for tiles in and over the edge, in fours and left over.
    #[test]
    fn transformed_kernels_convolve_as_the_plain_twin_does() {
        for (x_dims, channels_out) in [
            ([1, 64, 14, 14], 64),
            ([1, 128, 7, 7], 64),
            ([1, 16, 9, 13], 48),
            ([3, 32, 5, 1], 16),
            ([7, 16, 14, 14], 32),
        ] {
            let channels_in = x_dims[1];
            let weight_dims = [channels_out, channels_in, KERNEL, KERNEL];
            let x = random(1, x_dims.iter().product());
            let weight = random(2, weight_dims.iter().product());
            let bias = random(3, channels_out);
            let tensor = |values: &[f32]| Tensor::<1>::from_floats(values, &crate::cpu());
            let twin = values(plain::conv2d(
                tensor(&x).reshape(x_dims),
                tensor(&weight).reshape(weight_dims),
                Some(tensor(&bias)),
                1,
                1,
            ));
            for block in [BLOCK, channels_out] {
                let dims = [PLACES, channels_out / block, channels_in, block];
                assert!(Kernels::are(dims));
                let kernels = transformed(&weight, dims);
                let kernels = Kernels::new(&kernels, dims);
                let shape = Winograd::new(x_dims, channels_out);
                let mut y = vec![0.0; twin.len()];
                shape.forward_transformed(&x, kernels, &bias, &mut y);
                let error = distance(&y, &twin);
                assert!(error < 1e-5, "{x_dims:?}, blocks of {block}: {error}");
            }
        }
    }

    /// Laid out once, twice or not at all, a weight convolves the same.
    #[test]
    fn resident_weights_are_the_same_weights() {
        let tensor = |seed, dims: [usize; 4]| {
            let values = random(seed, dims.iter().product());
            Tensor::<1>::from_floats(values.as_slice(), &crate::cpu()).reshape(dims)
        };
        for (kernel, stride, channels_out) in [(3, 1, 32), (3, 2, 32), (1, 1, 32), (3, 1, 4)] {
            let x = tensor(1, [2, 16, 14, 14]);
            let weight = tensor(2, [channels_out, 16, kernel, kernel]);
            let around = Around {
                stride,
                ..Around::default()
            };
            let once = crate::resident_weight(weight.clone(), stride);
            let twice = crate::resident_weight(once.clone(), stride);
            assert_eq!(once.dims(), twice.dims());
            let own = values(crate::conv2d_around(x.clone(), twice, None, around.clone()));
            let twin = values(plain::conv2d_around(x, weight, None, around));
            let error = distance(&own, &twin);
            assert!(
                error < 1e-5,
                "{kernel} x {kernel}, stride {stride}: {error}"
            );
        }
    }
}
