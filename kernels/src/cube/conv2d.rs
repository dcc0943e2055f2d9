//! The convolution on the GPU: whatever surrounds it in the network is read or written on the way.
//!
//! A group of threads computes a row of y, of some channels of one image. Each thread holds
//! [`SEGMENT`] neighbouring places of up to four channels, so that a value of x serves four products
//! and a weight seven. Neighbouring threads take neighbouring channels: their weights are neighbours
//! in memory, and their values of x are the same.
//!
//! On a GPU a group keeps what it sees of x in shared memory, zeros around it included; for a network
//! as narrow as ours these are most often all channels at once. The input channels are dealt out to
//! `slices` of the threads, which keeps a GPU busy even with a single image; the slices' sums are
//! added in the end. Software pays for every barrier more than for all the products between two of
//! them: there each thread works [`alone`](Tile::alone), straight from x, and the groups are small. They
//! share nothing at all: WebGPU clears shared memory first, and has the threads wait for that.

use cubecl::prelude::*;

use super::{laid, neighbours, zeros};

/// Places in a row that one thread computes. Every width of the network is a multiple of it.
pub(super) const SEGMENT: usize = 7;

/// Values that the shared memory of every WebGPU device holds.
const SHARED: usize = 16_384 / 4;

/// Threads of a group, at most: what every WebGPU device has.
const THREADS: usize = 256;

/// The lengths of one convolution, and how it is cut into groups of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    /// 0 for threads alone: how many there are is no constant for them.
    pub(super) channels_in: usize,
    /// Height and width of x, before it is folded or doubled.
    pub(super) size_in: [usize; 2],
    pub(super) channels_out: usize,
    /// Height and width of y, before it is unfolded.
    pub(super) size_out: [usize; 2],
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) upsample: usize,
    pub(super) fold: usize,
    pub(super) unfold: usize,
    /// Images of x, where y has more: image i of y is made of image i modulo this. Else 0: a batch of
    /// another length needs no other kernel.
    pub(super) images_in: usize,
    /// Channels of the two halves of the shortcut; 0 where there is none.
    pub(super) shortcut: [usize; 2],
    /// Threads side by side, each with its own channels of y.
    pub(super) lanes: usize,
    /// Channels of y of one thread, `lanes` apart.
    pub(super) channels: usize,
    /// Threads that share the sums of one place and channel.
    pub(super) slices: usize,
    /// Whether no thread waits for another.
    pub(super) alone: bool,
}

impl Tile {
    /// Cuts the work; `None` where a row does not fit the shared memory.
    pub(super) fn cut(mut self) -> Option<Self> {
        let divides = |n: usize| self.channels_out.is_multiple_of(n);
        self.lanes = [16, 8, 4, 2, 1].into_iter().find(|&n| divides(n))?;
        self.channels = [4, 2, 1].into_iter().find(|&n| divides(n * self.lanes))?;
        self.slices = 1;
        if self.alone {
            self.channels_in = 0;
            return Some(self);
        }
        while self.fits(2 * self.slices) {
            self.slices *= 2;
        }
        self.fits(self.slices).then_some(self)
    }

    fn fits(&self, slices: usize) -> bool {
        let next = Self { slices, ..*self };
        next.threads() <= THREADS
            && (slices == 1 || slices <= self.channels_in)
            && slices * next.plane().max(self.size_out[1]) <= SHARED
            && next.threads() * SEGMENT <= SHARED
    }

    pub(super) fn threads(&self) -> usize {
        self.slice() * self.slices
    }

    /// Threads of one slice.
    fn slice(&self) -> usize {
        self.segments() * self.lanes
    }

    fn segments(&self) -> usize {
        self.size_out[1] / SEGMENT
    }

    /// Channels of y of one group of threads.
    pub(super) fn block(&self) -> usize {
        self.lanes * self.channels
    }

    /// Columns of x that a group of threads sees.
    fn columns(&self) -> usize {
        (self.size_out[1] - 1) * self.stride + self.kernel
    }

    /// Values in a row that a thread sees.
    fn seen(&self) -> usize {
        (SEGMENT - 1) * self.stride + self.kernel
    }

    /// Values of x that a group of threads sees of one channel.
    fn plane(&self) -> usize {
        self.kernel * self.columns()
    }

    /// Channels that the shared memory holds at a time, of so many with so many values each.
    fn staged(&self, channels: usize, plane: usize) -> usize {
        let most = SHARED / plane / self.slices;
        most.min(channels.div_ceil(self.slices)) * self.slices
    }

    fn staged_in(&self) -> usize {
        self.staged(self.channels_in, self.plane())
    }

    fn staged_shortcut(&self) -> usize {
        self.staged(self.shortcut_channels(), self.size_out[1])
    }

    /// Values that the shared memory holds: the stages, then the sums.
    fn slab(&self) -> usize {
        let shortcut = self.staged_shortcut() * self.size_out[1];
        let stages = (self.staged_in() * self.plane()).max(shortcut);
        stages.max(self.threads() * SEGMENT)
    }

    fn shortcut_channels(&self) -> usize {
        self.shortcut[0] + self.shortcut[1]
    }
}

/// What [`conv2d`] adds to its sums, as bits: a row of the table of shifts; that row which the list says;
/// the residual.
pub(super) const SHIFTS: u32 = 1;
pub(super) const ROWS: u32 = 2;
pub(super) const RESIDUAL: u32 = 4;

/// The table of shifts.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Table {
    rows: u32,
    columns: u32,
    /// The column of the first channel.
    first: u32,
}

/// Threads of a group that transposes.
pub(super) const TRANSPOSING: usize = 64;

/// A matrix of so many rows and columns, its columns as rows.
#[cube(launch_unchecked)]
pub(super) fn transpose(x: &[f32], y: &mut [f32], rows: u32, columns: u32) {
    let (rows, columns) = (rows as usize, columns as usize);
    let at = ABSOLUTE_POS;
    if at < rows * columns {
        y[at] = x[at % rows * columns + at / rows];
    }
}

/// See [`crate::conv2d_around`]. `weight` is `[channels_in, kernel, kernel, channels_out]` in memory,
/// and so is `shortcut_weight`.
///
/// A browser takes longer to compile a kernel than to run it some hundred times. So what differs between
/// blocks that are cut alike is no constant: `channels_in`; the rows and columns of the table of shifts,
/// and the first one of ours; and what is added, of what is there, as [`SHIFTS`], [`ROWS`] and
/// [`RESIDUAL`] together.
#[allow(clippy::too_many_arguments)]
#[cube(launch_unchecked)]
pub(super) fn conv2d(
    x: &[f32],
    weight: &[f32],
    bias: ComptimeOption<&[f32]>,
    shifts: ComptimeOption<&[f32]>,
    shift_rows: ComptimeOption<&[i32]>,
    residual: ComptimeOption<&[f32]>,
    shortcut_a: ComptimeOption<&[f32]>,
    shortcut_b: ComptimeOption<&[f32]>,
    shortcut_weight: ComptimeOption<&[f32]>,
    y: &mut [f32],
    channels_in: u32,
    table: Table,
    adds: u32,
    #[comptime] tile: Tile,
) {
    if comptime!(tile.alone) {
        convolve_alone(
            x,
            weight,
            bias,
            shifts,
            shift_rows,
            residual,
            shortcut_a,
            shortcut_b,
            shortcut_weight,
            y,
            channels_in,
            &table,
            adds,
            tile,
        );
    } else {
        convolve_together(
            x,
            weight,
            bias,
            shifts,
            shift_rows,
            residual,
            shortcut_a,
            shortcut_b,
            shortcut_weight,
            y,
            &table,
            adds,
            tile,
        );
    }
}

/// [`conv2d`] by threads that each read x as they need it.
#[allow(clippy::too_many_arguments)]
#[cube]
fn convolve_alone(
    x: &[f32],
    weight: &[f32],
    bias: ComptimeOption<&[f32]>,
    shifts: ComptimeOption<&[f32]>,
    shift_rows: ComptimeOption<&[i32]>,
    residual: ComptimeOption<&[f32]>,
    shortcut_a: ComptimeOption<&[f32]>,
    shortcut_b: ComptimeOption<&[f32]>,
    shortcut_weight: ComptimeOption<&[f32]>,
    y: &mut [f32],
    channels_in: u32,
    table: &Table,
    adds: u32,
    #[comptime] tile: Tile,
) {
    let height = comptime!(tile.size_out[0]);
    let width = comptime!(tile.size_out[1]);
    let channels_out = comptime!(tile.channels_out);
    let lanes = comptime!(tile.lanes);

    let unit = UNIT_POS as usize;
    let segment = unit / lanes;
    let first_channel = CUBE_POS_X as usize * comptime!(tile.block()) + unit % lanes;
    let line = CUBE_POS_Y as usize;
    let image = CUBE_POS_Z as usize;

    let mut sums = zeros(comptime!(tile.channels * SEGMENT));
    let kernel = comptime!(tile.kernel);
    let channels_in = channels_in as usize;
    let stored = channels_in / comptime!(tile.fold * tile.fold);
    for channel in 0..channels_in {
        let weights = channel * (kernel * kernel * channels_out) + first_channel;
        for i in 0..kernel {
            let mut seen = Sequence::<f32>::new();
            let at_line = line_of(
                image,
                stored,
                channel,
                line * comptime!(tile.stride) + i,
                tile,
            );
            let at_column = segment * comptime!(SEGMENT * tile.stride);
            #[unroll]
            for j in 0..comptime!(tile.seen()) {
                seen.push(look(x, &at_line, at_column + j, tile));
            }
            let weights = weights + i * (kernel * channels_out);
            multiply(
                weight,
                &mut sums,
                &seen,
                weights,
                kernel,
                comptime!(tile.stride),
                tile,
            );
        }
    }

    #[comptime]
    if let ComptimeOption::Some(shortcut_weight) = shortcut_weight {
        let plane = height * width;
        let at = line * width + segment * SEGMENT;
        let a = comptime!(tile.shortcut[0]);
        let b = comptime!(tile.shortcut[1]);
        #[comptime]
        if let ComptimeOption::Some(shortcut_a) = shortcut_a {
            for channel in 0..a {
                let from = (image * a + channel) * plane + at;
                let weights = channel * channels_out + first_channel;
                pass_by(shortcut_a, shortcut_weight, &mut sums, from, weights, tile);
            }
        }
        #[comptime]
        if let ComptimeOption::Some(shortcut_b) = shortcut_b {
            for channel in 0..b {
                let from = (image * b + channel) * plane + at;
                let weights = (a + channel) * channels_out + first_channel;
                pass_by(shortcut_b, shortcut_weight, &mut sums, from, weights, tile);
            }
        }
    }

    let sums = laid(&sums, comptime!(tile.channels * SEGMENT));
    for i in 0..comptime!(tile.channels * SEGMENT).runtime() {
        finish(
            sums[i],
            image,
            first_channel + i / SEGMENT * lanes,
            line,
            segment * SEGMENT + i % SEGMENT,
            &bias,
            &shifts,
            &shift_rows,
            &residual,
            y,
            table,
            adds,
            tile,
        );
    }
}

/// Adds the products of a channel of the shortcut.
#[cube]
fn pass_by(
    x: &[f32],
    weight: &[f32],
    sums: &mut Array<f32>,
    from: usize,
    weights: usize,
    #[comptime] tile: Tile,
) {
    let seen = neighbours(x, from, SEGMENT);
    multiply(weight, sums, &seen, weights, 1usize, 1usize, tile);
}

/// [`conv2d`] by threads that share what they see of x.
#[allow(clippy::too_many_arguments)]
#[cube]
fn convolve_together(
    x: &[f32],
    weight: &[f32],
    bias: ComptimeOption<&[f32]>,
    shifts: ComptimeOption<&[f32]>,
    shift_rows: ComptimeOption<&[i32]>,
    residual: ComptimeOption<&[f32]>,
    shortcut_a: ComptimeOption<&[f32]>,
    shortcut_b: ComptimeOption<&[f32]>,
    shortcut_weight: ComptimeOption<&[f32]>,
    y: &mut [f32],
    table: &Table,
    adds: u32,
    #[comptime] tile: Tile,
) {
    let height = comptime!(tile.size_out[0]);
    let width = comptime!(tile.size_out[1]);
    let channels_out = comptime!(tile.channels_out);
    let lanes = comptime!(tile.lanes);
    let slices = comptime!(tile.slices);
    let threads = comptime!(tile.threads());

    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    let segment = (unit / lanes) % comptime!(tile.segments());
    let slice = unit / comptime!(tile.slice());
    let first_channel = CUBE_POS_X as usize * comptime!(tile.block());
    let line = CUBE_POS_Y as usize;
    let image = CUBE_POS_Z as usize;

    let mut slab = Shared::<[f32]>::new_slice(comptime!(tile.slab()));
    let mut sums = zeros(comptime!(tile.channels * SEGMENT));

    let kernel = comptime!(tile.kernel);
    let channels_in = comptime!(tile.channels_in);
    let stored = comptime!(tile.channels_in / (tile.fold * tile.fold));
    let rest = first_channel + lane;
    let columns = comptime!(tile.columns());
    let plane = comptime!(tile.plane());
    let staged = comptime!(tile.staged_in());
    // Each thread takes one place in the window, of every so manieth channel.
    let teams = comptime!(usize::max(tile.threads() / tile.plane(), 1));
    for stage in 0..comptime!(tile.channels_in.div_ceil(tile.staged_in())) {
        sync_cube();
        let first = stage * staged;
        let mut team = 0usize;
        let mut at = unit;
        if comptime!(tile.threads() > tile.plane()) {
            team = unit / plane;
            at = unit % plane;
        }
        if team < teams {
            while at < plane {
                let at_line = line * comptime!(tile.stride) + at / columns;
                let at_column = at % columns;
                let mut c = team;
                while c < staged {
                    let mut found = 0.0f32;
                    if first + c < channels_in {
                        let at_line = line_of(image, stored, first + c, at_line, tile);
                        found = look(x, &at_line, at_column, tile);
                    }
                    slab[c * plane + at] = found;
                    c += teams;
                }
                at += threads;
            }
        }
        sync_cube();
        for round in 0..comptime!(tile.staged_in() / tile.slices) {
            let c = round * slices + slice;
            // Beyond the last channel the slab is 0, whatever weight that meets.
            let channel = clamp_max(first + c, channels_in - 1);
            let weights = channel * (kernel * kernel * channels_out) + rest;
            let from = c * plane + segment * comptime!(SEGMENT * tile.stride);
            for i in 0..kernel {
                let seen = neighbours(&slab, from + i * columns, comptime!(tile.seen()));
                let weights = weights + i * (kernel * channels_out);
                multiply(
                    weight,
                    &mut sums,
                    &seen,
                    weights,
                    kernel,
                    comptime!(tile.stride),
                    tile,
                );
            }
        }
    }

    #[comptime]
    if let ComptimeOption::Some(shortcut_weight) = shortcut_weight {
        let a = comptime!(tile.shortcut[0]);
        let both = comptime!(tile.shortcut_channels());
        let plane = height * width;
        let staged = comptime!(tile.staged_shortcut());
        for stage in 0..comptime!(tile.shortcut_channels().div_ceil(tile.staged_shortcut())) {
            sync_cube();
            let first = stage * staged;
            let mut i = unit;
            while i < comptime!(tile.staged_shortcut() * tile.size_out[1]) {
                let channel = first + i / width;
                let at = line * width + i % width;
                let mut found = 0.0f32;
                if channel < a {
                    #[comptime]
                    if let ComptimeOption::Some(shortcut_a) = shortcut_a {
                        found = shortcut_a[(image * a + channel) * plane + at];
                    }
                } else if channel < both {
                    #[comptime]
                    if let ComptimeOption::Some(shortcut_b) = shortcut_b {
                        found = shortcut_b[(image * (both - a) + channel - a) * plane + at];
                    }
                }
                slab[i] = found;
                i += threads;
            }
            sync_cube();
            for round in 0..comptime!(tile.staged_shortcut() / tile.slices) {
                let c = round * slices + slice;
                let channel = clamp_max(first + c, both - 1);
                let from = c * width + segment * SEGMENT;
                let weights = channel * channels_out + rest;
                pass_by(&slab, shortcut_weight, &mut sums, from, weights, tile);
            }
        }
    }

    // The slices lay down their sums, and each thread adds those of some places.
    let places = comptime!(tile.slice() * SEGMENT);
    #[unroll]
    for c in 0..comptime!(tile.channels) {
        sync_cube();
        #[unroll]
        for p in 0..SEGMENT {
            slab[unit * SEGMENT + p] = sums[c * SEGMENT + p];
        }
        sync_cube();
        let mut place = unit;
        while place < places {
            let mut sum = 0.0f32;
            for s in 0..slices {
                sum += slab[s * places + place];
            }
            let owner = place / SEGMENT;
            finish(
                sum,
                image,
                first_channel + c * lanes + owner % lanes,
                line,
                (owner / lanes) * SEGMENT + place % SEGMENT,
                &bias,
                &shifts,
                &shift_rows,
                &residual,
                y,
                table,
                adds,
                tile,
            );
            place += threads;
        }
    }
}

/// Adds to the sum of a place what is added to it, and puts it where it belongs.
// One `if` is for the host, one for the device: they do not collapse.
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
#[cube]
fn finish(
    sum: f32,
    image: usize,
    channel: usize,
    line: usize,
    column: usize,
    bias: &ComptimeOption<&[f32]>,
    shifts: &ComptimeOption<&[f32]>,
    shift_rows: &ComptimeOption<&[i32]>,
    residual: &ComptimeOption<&[f32]>,
    y: &mut [f32],
    table: &Table,
    adds: u32,
    #[comptime] tile: Tile,
) {
    let height = comptime!(tile.size_out[0]);
    let width = comptime!(tile.size_out[1]);
    let channels_out = comptime!(tile.channels_out);
    let mut sum = sum;
    #[comptime]
    if let ComptimeOption::Some(bias) = bias {
        sum += bias[channel];
    }
    #[comptime]
    if let ComptimeOption::Some(shifts) = shifts {
        if adds & SHIFTS != 0 {
            let mut row = image % table.rows as usize;
            #[comptime]
            if let ComptimeOption::Some(shift_rows) = shift_rows {
                if adds & ROWS != 0 {
                    row = shift_rows[image] as usize;
                }
            }
            let at = row * table.columns as usize + table.first as usize;
            sum += shifts[at + channel];
        }
    }
    let at = ((image * channels_out + channel) * height + line) * width + column;
    #[comptime]
    if let ComptimeOption::Some(residual) = residual {
        if adds & RESIDUAL != 0 {
            sum += residual[at];
        }
    }
    if comptime!(tile.unfold > 1) {
        let r = comptime!(tile.unfold);
        let plane = image * (channels_out / (r * r)) + channel / (r * r);
        let to_line = (plane * height + line) * r + (channel % (r * r)) / r;
        y[to_line * (width * r) + column * r + channel % r] = sum;
    } else {
        y[at] = sum;
    }
}

/// A line of what the kernel slides over: x folded and doubled, with zeros around it.
#[derive(CubeType)]
struct Line {
    /// Where it begins in x; its neighbours are `fold` apart.
    from: usize,
    /// Whether it is none of the zeros.
    inside: bool,
}

/// Lines and columns are counted from the first zeros, so that no number is negative. An image of x
/// has `stored` channels, before it is folded.
#[cube]
fn line_of(image: usize, stored: usize, channel: usize, at: usize, #[comptime] tile: Tile) -> Line {
    let fold = comptime!(tile.fold);
    let width_in = comptime!(tile.size_in[1]);
    let plane = comptime!(tile.size_in[0] * tile.size_in[1]);
    let mut image_in = image;
    if comptime!(tile.images_in > 0) {
        image_in %= comptime!(tile.images_in);
    }
    // Selected, not branched: a branch for each value takes software minutes to compile.
    let padding = comptime!(tile.kernel / 2).runtime();
    let lines = comptime!(tile.size_in[0] * tile.upsample / tile.fold + tile.kernel / 2).runtime();
    let inside = select(at >= padding, at, lines) < lines;
    // What is outside is read from the first line, and not used.
    let line = halved(select(inside, at, padding) - padding, tile);
    let mut from = (image_in * stored + channel) * plane + line * width_in;
    if comptime!(tile.fold > 1) {
        let inner = channel % (fold * fold);
        let line = line * fold + inner / fold;
        from = (image_in * stored + channel / (fold * fold)) * plane + line * width_in;
        from += inner % fold;
    }
    Line { from, inside }
}

/// A value of the line.
#[cube]
fn look(x: &[f32], line: &Line, at: usize, #[comptime] tile: Tile) -> f32 {
    let padding = comptime!(tile.kernel / 2).runtime();
    let columns =
        comptime!(tile.size_in[1] * tile.upsample / tile.fold + tile.kernel / 2).runtime();
    let column = select(at >= padding, at, columns);
    let inside = select(line.inside, column, columns) < columns;
    let column = halved(select(inside, at, padding) - padding, tile);
    select(
        inside,
        x[line.from + column * comptime!(tile.fold)],
        0.0f32.runtime(),
    )
}

/// The place before doubling.
#[cube]
fn halved(place: usize, #[comptime] tile: Tile) -> usize {
    let mut place = place;
    if comptime!(tile.upsample == 2) {
        place >>= 1usize;
    } else if comptime!(tile.upsample > 2) {
        place /= comptime!(tile.upsample);
    }
    place
}

/// Adds the products of a row of values with a row of the kernel, for all channels of a thread.
#[cube]
fn multiply(
    weight: &[f32],
    sums: &mut Array<f32>,
    seen: &Sequence<f32>,
    weights: usize,
    #[comptime] kernel: usize,
    #[comptime] stride: usize,
    #[comptime] tile: Tile,
) {
    #[unroll]
    for c in 0..comptime!(tile.channels) {
        let mut row = Sequence::<f32>::new();
        #[unroll]
        for j in 0..kernel {
            let at = j * comptime!(tile.channels_out) + c * comptime!(tile.lanes);
            row.push(weight[weights + at]);
        }
        #[unroll]
        for p in 0..SEGMENT {
            let mut partial = Sequence::<f32>::new();
            partial.push(sums[c * SEGMENT + p]);
            #[unroll]
            for j in 0..kernel {
                partial.push(partial[j] + row[j] * seen[p * stride + j]);
            }
            sums[c * SEGMENT + p] = partial[kernel];
        }
    }
}
