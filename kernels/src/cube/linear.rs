//! A matrix product on the GPU, for the few that there are: each thread holds a block of the result, so
//! that what it loads serves several products. Neighbouring threads take neighbouring columns, whose
//! weights are neighbours in memory.

use cubecl::prelude::*;

/// Threads of a group.
pub(super) const THREADS: usize = 64;

/// Rows and columns of the result that one thread computes.
pub(super) const BLOCK: [usize; 2] = [8, 4];

/// See [`crate::linear`]. `d_out` is a multiple of the columns of a block of `columns`; the launch covers
/// the rows and may go beyond them.
#[cube(launch_unchecked)]
pub(super) fn linear(
    x: &[f32],
    weight: &[f32],
    bias: ComptimeOption<&[f32]>,
    y: &mut [f32],
    rows: u32,
    d_in: u32,
    d_out: u32,
    #[comptime] columns: usize,
) {
    let block = comptime!(BLOCK[0]);
    let (rows, d_in, d_out) = (rows as usize, d_in as usize, d_out as usize);
    let lanes = d_out / columns;
    let lane = ABSOLUTE_POS % lanes;
    let first = ABSOLUTE_POS / lanes * block;
    if first < rows {
        let mut sums = Array::<f32>::new(comptime!(BLOCK[0] * columns));
        #[unroll]
        for i in 0..comptime!(BLOCK[0] * columns) {
            sums[i] = 0.0f32;
        }
        for i in 0..d_in {
            let mut w = Array::<f32>::new(columns);
            #[unroll]
            for c in 0..columns {
                w[c] = weight[i * d_out + c * lanes + lane];
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
        #[unroll]
        for r in 0..block {
            if first + r < rows {
                #[unroll]
                for c in 0..columns {
                    let column = c * lanes + lane;
                    let mut sum = sums[r * columns + c];
                    #[comptime]
                    if let ComptimeOption::Some(bias) = bias {
                        sum += bias[column];
                    }
                    y[(first + r) * d_out + column] = sum;
                }
            }
        }
    }
}
