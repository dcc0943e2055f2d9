//! Work shared between threads so that the result does not depend on their number or timing: the
//! cuts are fixed by the shapes, and each piece is written by one thread.

/// How many threads share a matrix product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    #[cfg(feature = "threads")]
    All,
}

/// Calls `work(i, piece)` for each piece of `size` values (the last may be shorter).
#[cfg(feature = "threads")]
pub(crate) fn for_each_piece(
    values: &mut [f32],
    size: usize,
    work: impl Fn(usize, &mut [f32]) + Sync,
) {
    use rayon::prelude::*;
    values
        .par_chunks_mut(size.max(1))
        .enumerate()
        .for_each(|(i, piece)| work(i, piece));
}

/// Calls `work(i, piece)` for each piece of `size` values (the last may be shorter).
#[cfg(not(feature = "threads"))]
pub(crate) fn for_each_piece(
    values: &mut [f32],
    size: usize,
    work: impl Fn(usize, &mut [f32]) + Sync,
) {
    for (i, piece) in values.chunks_mut(size.max(1)).enumerate() {
        work(i, piece);
    }
}

/// Adds up parts of `length` values each, in their order, into the first, and returns it.
pub(crate) fn add_up(parts: &mut [f32], length: usize) -> &[f32] {
    /// Values that are summed by one thread.
    const PIECE: usize = 4096;

    let (total, rest) = parts.split_at_mut(length);
    for_each_piece(total, PIECE, |i, total| {
        for part in rest.chunks_exact(length) {
            for (total, &value) in total.iter_mut().zip(&part[i * PIECE..]) {
                *total += value;
            }
        }
    });
    total
}

/// As [`for_each_piece`], for two slices cut into equally many pieces.
#[cfg(feature = "threads")]
pub(crate) fn for_each_pair(
    (a, a_size): (&mut [f32], usize),
    (b, b_size): (&mut [f32], usize),
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    use rayon::prelude::*;
    a.par_chunks_mut(a_size.max(1))
        .zip(b.par_chunks_mut(b_size.max(1)))
        .enumerate()
        .for_each(|(i, (a, b))| work(i, a, b));
}

/// As [`for_each_piece`], for two slices cut into equally many pieces.
#[cfg(not(feature = "threads"))]
pub(crate) fn for_each_pair(
    (a, a_size): (&mut [f32], usize),
    (b, b_size): (&mut [f32], usize),
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let pairs = a.chunks_mut(a_size.max(1)).zip(b.chunks_mut(b_size.max(1)));
    for (i, (a, b)) in pairs.enumerate() {
        work(i, a, b);
    }
}
