//! Self-attention on the GPU, with the projection behind it and the way around it: one group of
//! threads for some places of one image. On software each thread attends for some places by itself,
//! shares nothing, and waits for nobody.

use cubecl::prelude::*;

use super::{laid, neighbours, zeros};

/// Threads that share a query on a GPU.
const TEAM: usize = 32;

/// Places that are attended for at a time. Every image of the network has a multiple of it.
const QUERIES: usize = 7;

/// Threads of a group on software: what a CPU does at once.
const THREADS: usize = 4;

/// The lengths of one attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) channels: usize,
    /// Places of an image.
    pub(super) places: usize,
    /// Places that a group of threads attends for, or a thread alone.
    queries: usize,
    /// Whether no thread waits for another.
    alone: bool,
}

impl Shape {
    /// As many queries at a time as memory allows; `None` where it allows none.
    pub(super) fn cut(channels: usize, places: usize, alone: bool) -> Option<Self> {
        let fits = |queries: usize| {
            let shape = Self {
                channels,
                places,
                queries,
                alone,
            };
            // What WebGPU has for the variables of a thread, some of which are sums, and for those of a group.
            let (floats, bytes) = match alone {
                true => (queries * (places + channels) + 256, 8_192),
                false => (queries * (places + 2 * channels) + shape.threads(), 16_384),
            };
            (places.is_multiple_of(queries) && 4 * floats <= bytes).then_some(shape)
        };
        let shape = fits(QUERIES).or_else(|| fits(1));
        // Together, threads hold less each.
        shape.or_else(|| alone.then(|| Self::cut(channels, places, false))?)
    }

    /// Groups of threads for an image.
    pub(super) fn groups(&self) -> usize {
        let queries = self.places / self.queries;
        match self.alone {
            true => queries.div_ceil(THREADS),
            false => queries,
        }
    }

    /// Threads of a group.
    pub(super) fn threads(&self) -> usize {
        match self.alone {
            true => THREADS,
            false => self.queries * TEAM,
        }
    }

    /// Channels whose sums a thread alone holds at a time.
    fn block(&self) -> usize {
        let divides = |n: &usize| self.channels.is_multiple_of(*n);
        [4, 2, 1].into_iter().find(divides).unwrap_or(1)
    }
}

/// See [`crate::attention`].
#[cube(launch_unchecked)]
pub(super) fn attention(
    x: &[f32],
    qkv: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
    scale: f32,
    #[comptime] shape: Shape,
) {
    if comptime!(shape.alone) {
        attend_alone(x, qkv, weight, bias, y, scale, shape);
    } else {
        attend_together(x, qkv, weight, bias, y, scale, shape);
    }
}

/// [`attention`] by threads that share scores and mixtures.
#[cube]
fn attend_together(
    x: &[f32],
    qkv: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
    scale: f32,
    #[comptime] shape: Shape,
) {
    let channels = comptime!(shape.channels);
    let places = comptime!(shape.places);
    let queries = comptime!(shape.queries);
    let team = TEAM;
    let threads = comptime!(shape.threads());
    let unit = UNIT_POS as usize;
    let first = CUBE_POS_X as usize * queries;
    let image = CUBE_POS_Y as usize;
    let q = image * (3 * channels) * places;
    let k = q + channels * places;
    let v = k + channels * places;

    let mut query = Shared::<[f32]>::new_slice(comptime!(shape.queries * shape.channels));
    let mut score = Shared::<[f32]>::new_slice(comptime!(shape.queries * shape.places));
    let mut mixed = Shared::<[f32]>::new_slice(comptime!(shape.queries * shape.channels));
    let mut shared = Shared::<[f32]>::new_slice(comptime!(shape.threads()));

    let mut i = unit;
    while i < comptime!(shape.queries * shape.channels) {
        query[i] = qkv[q + (i / queries) * places + first + i % queries];
        i += threads;
    }
    sync_cube();
    let mut i = unit;
    while i < comptime!(shape.queries * shape.places) {
        let (own, place) = (i % queries, i / queries);
        let mut sum = 0.0f32;
        for c in 0..channels {
            sum += query[c * queries + own] * qkv[k + c * places + place];
        }
        score[i] = sum * scale;
        i += threads;
    }
    sync_cube();

    // Softmax: every member of a team sees what all of it found.
    let own = unit / team;
    let member = unit % team;
    let mut largest = score[own];
    let mut i = member;
    while i < places {
        largest = max(largest, score[i * queries + own]);
        i += team;
    }
    shared[unit] = largest;
    sync_cube();
    for i in 0..team {
        largest = max(largest, shared[own * team + i]);
    }
    sync_cube();
    let mut sum = 0.0f32;
    let mut i = member;
    while i < places {
        let e = (score[i * queries + own] - largest).exp();
        score[i * queries + own] = e;
        sum += e;
        i += team;
    }
    shared[unit] = sum;
    sync_cube();
    let mut sum = 0.0f32;
    for i in 0..team {
        sum += shared[own * team + i];
    }
    let mut i = member;
    while i < places {
        score[i * queries + own] /= sum;
        i += team;
    }
    sync_cube();

    let mut i = unit;
    while i < comptime!(shape.queries * shape.channels) {
        let (c, own) = (i / queries, i % queries);
        let mut sum = 0.0f32;
        for place in 0..places {
            sum += score[place * queries + own] * qkv[v + c * places + place];
        }
        mixed[i] = sum;
        i += threads;
    }
    sync_cube();
    let mut i = unit;
    while i < comptime!(shape.queries * shape.channels) {
        let (own, c) = (i % queries, i / queries);
        let mut sum = bias[c];
        for from in 0..channels {
            sum += weight[from * channels + c] * mixed[from * queries + own];
        }
        let at = (image * channels + c) * places + first + own;
        y[at] = x[at] + sum;
        i += threads;
    }
}

/// [`attention`] by threads that each have some queries to themselves, so that a key serves all of them.
#[cube]
fn attend_alone(
    x: &[f32],
    qkv: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
    scale: f32,
    #[comptime] shape: Shape,
) {
    let channels = comptime!(shape.channels);
    let places = comptime!(shape.places);
    let queries = comptime!(shape.queries);
    let block = comptime!(shape.block());
    let first = ABSOLUTE_POS_X as usize * queries;
    let image = CUBE_POS_Y as usize;
    let q = image * (3 * channels) * places + first;
    let k = image * (3 * channels) * places + channels * places;
    let v = k + channels * places;

    if first < places {
        // [places, queries]
        let mut score = Array::<f32>::new(comptime!(shape.places * shape.queries));
        let mut from = 0usize;
        while from < places {
            let mut sums = zeros(comptime!(shape.queries * shape.queries));
            for c in 0..channels {
                let query = neighbours(qkv, q + c * places, queries);
                multiply(
                    &mut sums,
                    qkv,
                    k + c * places + from,
                    1usize,
                    &query,
                    queries,
                    queries,
                );
            }
            let sums = laid(&sums, comptime!(shape.queries * shape.queries));
            for i in 0..comptime!(shape.queries * shape.queries).runtime() {
                score[from * queries + i] = sums[i] * scale;
            }
            from += queries;
        }

        // Softmax, but for the sum that each query is divided by.
        let mut total = Array::<f32>::new(queries);
        for i in 0..queries {
            let mut largest = score[i];
            for place in 0..places {
                largest = max(largest, score[place * queries + i]);
            }
            let mut sum = 0.0f32;
            for place in 0..places {
                let e = (score[place * queries + i] - largest).exp();
                score[place * queries + i] = e;
                sum += e;
            }
            total[i] = sum;
        }

        // [channels, queries]
        let mut mixed = Array::<f32>::new(comptime!(shape.channels * shape.queries));
        let mut from = 0usize;
        while from < channels {
            let mut sums = zeros(comptime!(shape.block() * shape.queries));
            for place in 0..places {
                let weights = neighbours(score.as_slice(), place * queries, queries);
                multiply(
                    &mut sums,
                    qkv,
                    v + from * places + place,
                    places,
                    &weights,
                    block,
                    queries,
                );
            }
            let sums = laid(&sums, comptime!(shape.block() * shape.queries));
            for i in 0..comptime!(shape.block() * shape.queries).runtime() {
                mixed[from * queries + i] = sums[i] / total[i % queries];
            }
            from += block;
        }

        let mut to = 0usize;
        while to < channels {
            let mut sums = zeros(comptime!(shape.block() * shape.queries));
            for from in 0..channels {
                let seen = neighbours(mixed.as_slice(), from * queries, queries);
                multiply(
                    &mut sums,
                    weight,
                    from * channels + to,
                    1usize,
                    &seen,
                    block,
                    queries,
                );
            }
            let sums = laid(&sums, comptime!(shape.block() * shape.queries));
            for i in 0..comptime!(shape.block() * shape.queries).runtime() {
                let channel = to + i / queries;
                let at = (image * channels + channel) * places + first + i % queries;
                y[at] = x[at] + bias[channel] + sums[i];
            }
            to += block;
        }
    }
}

/// Adds to `sums`, `[rows, columns]`, the products of `rows` values of `x`, so far apart from each
/// other, with `columns` others.
#[cube]
fn multiply(
    sums: &mut Array<f32>,
    x: &[f32],
    first: usize,
    apart: usize,
    others: &Sequence<f32>,
    #[comptime] rows: usize,
    #[comptime] columns: usize,
) {
    #[unroll]
    for r in 0..rows {
        let found = x[first + r * apart];
        #[unroll]
        for c in 0..columns {
            sums[r * columns + c] += found * others[c];
        }
    }
}
