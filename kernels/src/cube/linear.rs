//! A matrix product on the GPU, for the few that there are: each thread holds a block of the result, so
//! that what it loads serves several products. Neighbouring threads take neighbouring columns, whose
//! weights are neighbours in memory.

use cubecl::prelude::*;

use super::{laid, zeros};

/// Threads of a group.
pub(super) const THREADS: usize = 64;

/// Rows and columns of the result that one thread computes.
pub(super) const BLOCK: [usize; 2] = [8, 8];

/// See [`crate::linear`]. `d_out` is a multiple of the columns of a block of `columns`; the launch covers
/// the rows and may go beyond them. Whether to activate, 0 or 1, is no constant: one kernel for either.
#[allow(clippy::too_many_arguments)]
#[cube(launch_unchecked)]
pub(super) fn linear(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
    rows: u32,
    d_in: u32,
    d_out: u32,
    bias_rows: u32,
    activate: u32,
    #[comptime] columns: usize,
) {
    let block = comptime!(BLOCK[0]);
    let (rows, d_in, d_out) = (rows as usize, d_in as usize, d_out as usize);
    let lanes = d_out / columns;
    let lane = ABSOLUTE_POS % lanes;
    let first = ABSOLUTE_POS / lanes * block;
    if first < rows {
        let mut sums = zeros(comptime!(BLOCK[0] * columns));
        for i in 0..d_in {
            let mut w = Sequence::<f32>::new();
            #[unroll]
            for c in 0..columns {
                w.push(weight[i * d_out + c * lanes + lane]);
            }
            #[unroll]
            for r in 0..block {
                // Rows that are none repeat the last one, and are not written.
                let found = x[clamp_max(first + r, rows - 1) * d_in + i];
                #[unroll]
                for c in 0..columns {
                    sums[r * columns + c] += found * w[c];
                }
            }
        }
        let sums = laid(&sums, comptime!(BLOCK[0] * columns));
        for i in 0..comptime!(BLOCK[0] * columns).runtime() {
            let row = first + i / columns;
            if row < rows {
                let column = i % columns * lanes + lane;
                let mut u = sums[i] + bias[row % bias_rows as usize * d_out + column];
                if activate != 0 {
                    u = u / (1.0f32 + (0.0f32 - u).exp());
                }
                y[row * d_out + column] = u;
            }
        }
    }
}
