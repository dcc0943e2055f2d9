//! Matrix products on slices, and the buffers they work in.

#[cfg(any(target_arch = "wasm32", test))]
use std::array;
use std::{cell::Cell, thread::LocalKey};

use crate::cpu::parallel::Threads;

/// Lends `length` values of a buffer that this thread keeps; what they are is left over.
pub(crate) fn with_scratch(
    buffer: &'static LocalKey<Cell<Vec<f32>>>,
    length: usize,
    work: impl FnOnce(&mut [f32]),
) {
    let mut values = buffer.take();
    if values.len() < length {
        values.resize(length, 0.0);
    }
    work(&mut values[..length]);
    buffer.set(values);
}

/// A matrix within a slice: the value in row i and column j stands at `i * row + j * column`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> Matrix<'a> {
    /// Row after row, each of `length` values.
    pub(crate) fn rows(values: &'a [f32], length: usize) -> Self {
        let (row, column) = (length, 1);
        Self {
            values,
            row,
            column,
        }
    }

    /// With rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        let (row, column) = (self.column, self.row);
        Self {
            row,
            column,
            ..self
        }
    }

    /// Whether a matrix of these lengths lies within the slice.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// y = a b, or y += a b with `accumulate`: a `[m, k]`, b `[k, n]`, y `[m, n]` row after row.
pub(crate) fn multiply(
    [m, k, n]: [usize; 3],
    a: Matrix,
    b: Matrix,
    y: &mut [f32],
    accumulate: bool,
    threads: Threads,
) {
    assert!(a.holds(m, k) && b.holds(k, n) && y.len() >= m * n);
    #[cfg(target_arch = "wasm32")]
    {
        // There is one.
        let _ = threads;
        direct::multiply([m, k, n], a, b, y, accumulate);
    }
    // SAFETY: the assertion keeps every element that the product reads or writes within its slice;
    // y is borrowed mutably, so it overlaps neither a nor b; without `accumulate` y is not read.
    #[cfg(not(target_arch = "wasm32"))]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            match threads {
                Threads::One => gemm::Parallelism::None,
                #[cfg(feature = "threads")]
                Threads::All => gemm::Parallelism::Rayon(0),
            },
        );
    }
}

/// [`multiply`] for a browser, where a step's matrices are small, and lie in the cache. A general product
/// rearranges both factors first, in memory that it asks for each time.
#[cfg(any(target_arch = "wasm32", test))]
mod direct {
    use super::*;
    use crate::cpu::simd::for_each_instruction_set;

    /// Columns that are computed at a time, and rows: as many sums as fit the registers of a machine with
    /// vectors of four values.
    const WIDTH: usize = 8;
    const HEIGHT: usize = 4;

    thread_local! {
        static COLUMNS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    }

    pub(super) fn multiply(
        size: [usize; 3],
        a: Matrix,
        b: Matrix,
        y: &mut [f32],
        accumulate: bool,
    ) {
        with_scratch(&COLUMNS, size[1] * WIDTH, |scratch| {
            multiply_all(size, a, b, y, accumulate, scratch);
        });
    }

    for_each_instruction_set! {
        fn multiply_all(
            size: [usize; 3],
            a: Matrix,
            b: Matrix,
            y: &mut [f32],
            accumulate: bool,
            scratch: &mut [f32],
        ) {
            let n = size[2];
            let mut first = 0;
            // Not by a width that only the program knows: copies of so many values are calls.
            while first < n {
                first += match n - first {
                    WIDTH.. => multiply_columns::<WIDTH>(size, a, b, y, accumulate, first, scratch),
                    4.. => multiply_columns::<4>(size, a, b, y, accumulate, first, scratch),
                    _ => multiply_columns::<1>(size, a, b, y, accumulate, first, scratch),
                };
            }
        }
    }

    /// So many columns, from the `first` on.
    #[inline(always)]
    fn multiply_columns<const COUNT: usize>(
        [m, k, n]: [usize; 3],
        a: Matrix,
        b: Matrix,
        y: &mut [f32],
        accumulate: bool,
        first: usize,
        scratch: &mut [f32],
    ) -> usize {
        let columns = &mut scratch.as_chunks_mut::<COUNT>().0[..k];
        for (k, to) in columns.iter_mut().enumerate() {
            let from = &b.values[k * b.row + first * b.column..];
            *to = match b.column {
                1 => *from.first_chunk().expect("`multiply` has looked"),
                column => array::from_fn(|j| from[j * column]),
            };
        }
        let whole = m - m % HEIGHT;
        for row in (0..whole).step_by(HEIGHT) {
            let y = &mut y[row * n + first..];
            multiply_tile::<HEIGHT, COUNT>(a, columns, row, y, n, accumulate);
        }
        for row in whole..m {
            let y = &mut y[row * n + first..];
            multiply_tile::<1, COUNT>(a, columns, row, y, n, accumulate);
        }
        COUNT
    }

    /// So many rows of them. `y` begins with the first value, and has a row every `pitch` values.
    #[inline(always)]
    fn multiply_tile<const ROWS: usize, const COUNT: usize>(
        a: Matrix,
        columns: &[[f32; COUNT]],
        row: usize,
        y: &mut [f32],
        pitch: usize,
        accumulate: bool,
    ) {
        let mut sums = [[0.0; COUNT]; ROWS];
        if accumulate {
            for (i, sums) in sums.iter_mut().enumerate() {
                sums.copy_from_slice(&y[i * pitch..][..COUNT]);
            }
        }
        let mut add = |values: [f32; ROWS], column: &[f32; COUNT]| {
            for (sums, a) in sums.iter_mut().zip(values) {
                for (sum, b) in sums.iter_mut().zip(column) {
                    *sum += a * b;
                }
            }
        };
        let values = &a.values[row * a.row..];
        if a.column == 1 {
            // All as long as the loop, so that nothing in it is checked.
            let k = columns.len();
            let rows: [_; ROWS] = array::from_fn(|i| &values[i * a.row..][..k]);
            for k in 0..k {
                add(rows.map(|row| row[k]), &columns[k]);
            }
        } else {
            // Transposed, so that rows lie side by side.
            for (k, column) in columns.iter().enumerate() {
                let values = values[k * a.column..].first_chunk();
                add(*values.expect("`multiply` has looked"), column);
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            y[i * pitch..][..COUNT].copy_from_slice(sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{distance, random};

    /// In rows and in columns, whole tiles and what is left of them, from nothing and added.
    #[test]
    fn the_two_products_are_the_same() {
        for (m, k, n) in [(64, 128, 49), (7, 5, 23), (1, 1, 1), (12, 3, 8), (3, 9, 6)] {
            let (a, b) = (random(1, m * k), random(2, k * n));
            for transposed in 0..4 {
                let a = match transposed & 1 {
                    0 => Matrix::rows(&a, k),
                    _ => Matrix::rows(&a, m).transposed(),
                };
                let b = match transposed & 2 {
                    0 => Matrix::rows(&b, n),
                    _ => Matrix::rows(&b, k).transposed(),
                };
                for accumulate in [false, true] {
                    let mut both = [random(3, m * n), random(3, m * n)];
                    direct::multiply([m, k, n], a, b, &mut both[0], accumulate);
                    multiply([m, k, n], a, b, &mut both[1], accumulate, Threads::One);
                    let error = distance(&both[0], &both[1]);
                    assert!(error < 1e-6, "{m} {k} {n}, {transposed}: {error}");
                }
            }
        }
    }
}
