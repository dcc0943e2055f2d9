//! Self-attention on the GPU, with the projection behind it and the way around it: one group of
//! threads for some places of one image. On software each of them has a place to itself, and waits
//! for nobody.

use cubecl::prelude::*;

/// Threads that share a query on a GPU.
const TEAM: usize = 32;

/// The lengths of one attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) channels: usize,
    /// Places of an image.
    pub(super) places: usize,
    /// Places that a group of threads attends for.
    pub(super) queries: usize,
    /// Threads for each of them.
    pub(super) team: usize,
}

impl Shape {
    /// As many queries at a time as shared memory allows; `None` where it allows none.
    pub(super) fn cut(channels: usize, places: usize, alone: bool) -> Option<Self> {
        let fits = |queries: usize| {
            let shape = Self {
                channels,
                places,
                queries,
                team: if alone { 1 } else { TEAM },
            };
            let floats = queries * (places + 2 * channels) + shape.threads();
            (places.is_multiple_of(queries) && 4 * floats <= 16_384).then_some(shape)
        };
        fits(7).or_else(|| fits(1))
    }

    pub(super) fn threads(&self) -> usize {
        self.queries * self.team
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
    let channels = comptime!(shape.channels);
    let places = comptime!(shape.places);
    let queries = comptime!(shape.queries);
    let team = comptime!(shape.team);
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
    wait(shape);
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
    wait(shape);

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
    wait(shape);
    for i in 0..team {
        largest = max(largest, shared[own * team + i]);
    }
    wait(shape);
    let mut sum = 0.0f32;
    let mut i = member;
    while i < places {
        let e = (score[i * queries + own] - largest).exp();
        score[i * queries + own] = e;
        sum += e;
        i += team;
    }
    shared[unit] = sum;
    wait(shape);
    let mut sum = 0.0f32;
    for i in 0..team {
        sum += shared[own * team + i];
    }
    let mut i = member;
    while i < places {
        score[i * queries + own] /= sum;
        i += team;
    }
    wait(shape);

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
    wait(shape);
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

/// Waits for the other threads, where a query has several.
#[cube]
fn wait(#[comptime] shape: Shape) {
    if comptime!(shape.team > 1) {
        sync_cube();
    }
}
