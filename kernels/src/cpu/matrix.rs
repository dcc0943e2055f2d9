//! Matrix products on slices, and the buffers they work in.

use std::{cell::Cell, thread::LocalKey};

use gemm::Parallelism;

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
    parallelism: Parallelism,
) {
    assert!(a.holds(m, k) && b.holds(k, n) && y.len() >= m * n);
    // SAFETY: the assertion keeps every element that the product reads or writes within its slice;
    // y is borrowed mutably, so it overlaps neither a nor b; without `accumulate` y is not read.
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
            parallelism,
        );
    }
}
