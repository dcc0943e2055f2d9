//! A convolution and what surrounds it, on the CPU: what comes before it is a copy of x in another order,
//! and what comes after it is added in place.

use std::cell::Cell;

use burn::tensor::Tensor;

use crate::{
    Around, Shifts,
    cpu::{
        conv2d::Convolution,
        matrix::with_scratch,
        parallel::for_each_piece,
        recording::{Source, make},
        simd::for_each_instruction_set,
        winograd::{Kernels, Winograd},
    },
};

thread_local! {
    static SEEN: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static FOLDED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static SHORTCUT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// See [`crate::conv2d_around`].
pub(crate) fn conv2d_around(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    around: Around,
) -> Tensor<4> {
    let Around {
        repeat,
        stride,
        upsample,
        fold,
        unfold,
        shifts,
        residual,
        shortcut,
    } = around;
    let stored = x.dims();
    let [images, channels, height, width] = stored;
    let seen = [height, width].map(|n| n / fold * upsample);
    let seen = [images * repeat, channels * fold * fold, seen[0], seen[1]];
    let convolution = Way::of(seen, weight.dims(), stride);
    let made = convolution.y_dims();
    let [images, channels, height, width] = made;
    let shape = [
        images,
        channels / (unfold * unfold),
        height * unfold,
        width * unfold,
    ];
    let (plane, image) = (height * width, channels * height * width);
    assert!(
        shape.iter().product::<usize>() == images * image
            && bias.as_ref().is_none_or(|bias| bias.dims() == [channels])
            && residual
                .as_ref()
                .is_none_or(|residual| residual.dims() == made)
            && shifts
                .as_ref()
                .is_none_or(|shifts| shifts.fit(images, channels)),
        "conv2d: bias, shifts, residual and what is unfolded must fit {made:?}"
    );
    let shortcut = shortcut.map(|shortcut| {
        let x = super::concat(shortcut.x, shortcut.concat);
        let way = Way::of(x.dims(), shortcut.weight.dims(), 1);
        assert_eq!(way.y_dims(), made, "conv2d: the shortcut must fit");
        (way, x, shortcut.weight)
    });

    make(shape, || {
        let (x, weight, bias) = (
            Source::floats(x),
            Source::floats(weight),
            Source::maybe(bias),
        );
        let residual = Source::maybe(residual);
        let shifts = shifts.map(Table::of);
        let shortcut =
            shortcut.map(|(way, x, weight)| (way, Source::floats(x), Source::floats(weight)));
        // With all that is added, from the image that the kernel slides over to channels that are squares still.
        let convolve = move |x: &[f32], y: &mut [f32]| {
            convolution.forward(x, weight.values(), bias.values(), y);
            for_each_piece(y, image, |i, y| {
                let shifts = shifts.as_ref().map(|shifts| &shifts.row(i)[..channels]);
                let residual = residual.values().get(i * image..);
                add(
                    y,
                    plane,
                    shifts.unwrap_or_default(),
                    residual.unwrap_or_default(),
                );
            });
            if let Some((way, x, weight)) = &shortcut {
                with_scratch(&SHORTCUT, y.len(), |short| {
                    way.forward(x.values(), weight.values(), &[], short);
                    let short = &*short;
                    for_each_piece(y, image, |i, y| add(y, plane, &[], &short[i * image..]));
                });
            }
        };
        move |y| {
            let see = |y: &mut [f32]| {
                let x = x.values();
                if stored == seen {
                    return convolve(x, y);
                }
                with_scratch(&SEEN, seen.iter().product(), |to| {
                    rearrange(x, stored, fold, upsample, seen, to);
                    convolve(to, y);
                });
            };
            if unfold == 1 {
                return see(y);
            }
            with_scratch(&FOLDED, y.len(), |folded| {
                see(folded);
                unfolded(folded, made, unfold, y);
            });
        }
    })
}

/// [`Shifts`] as they are read.
struct Table {
    values: Source<f32>,
    columns: usize,
    /// Which row an image takes. Without, its own, or the only one.
    rows: Option<Source<i32>>,
    first: usize,
}

impl Table {
    fn of(Shifts { table, rows, first }: Shifts) -> Self {
        let [_, columns] = table.dims();
        Self {
            values: Source::floats(table),
            columns,
            rows: rows.map(Source::integers),
            first,
        }
    }

    /// From the first channel on.
    fn row(&self, image: usize) -> &[f32] {
        let values = self.values.values();
        let row = match &self.rows {
            Some(rows) => rows.values()[image] as usize,
            None => image.min(values.len() / self.columns - 1),
        };
        &values[row * self.columns + self.first..]
    }
}

/// How a convolution with a padding of half the kernel is computed.
enum Way {
    /// By kernels that are transformed already.
    Winograd(Winograd, [usize; 4]),
    Product(Convolution),
}

impl Way {
    /// For a weight that may be a [`crate::resident_weight`].
    fn of(x: [usize; 4], weight: [usize; 4], stride: usize) -> Self {
        let [_, blocks, kernel, block] = weight;
        if !Kernels::are(weight) {
            return Self::Product(Convolution::new(x, weight, stride, kernel / 2));
        }
        assert_eq!(
            x[1], kernel,
            "conv2d: x has {} channels, the weight is for {kernel}",
            x[1]
        );
        Self::Winograd(Winograd::new(x, blocks * block), weight)
    }

    fn y_dims(&self) -> [usize; 4] {
        match self {
            Self::Winograd(shape, _) => shape.y_dims(),
            Self::Product(shape) => shape.y_dims(),
        }
    }

    /// y = W X + b, without b where it is empty.
    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
        match self {
            Self::Winograd(shape, dims) => {
                shape.forward_transformed(x, Kernels::new(weight, *dims), bias, y);
            }
            Self::Product(shape) => shape.forward(x, weight, bias, y),
        }
    }
}

for_each_instruction_set! {
    /// Adds to each channel, a plane each, its shift, and to each value another one, where there are any.
    fn add(y: &mut [f32], plane: usize, shifts: &[f32], residual: &[f32]) {
        for (y, shift) in y.chunks_exact_mut(plane).zip(shifts) {
            for y in y {
                *y += shift;
            }
        }
        for (y, residual) in y.iter_mut().zip(residual) {
            *y += residual;
        }
    }
}

/// The batch taken again and again, squares of pixels folded into channels, and then every pixel enlarged
/// to a square.
fn rearrange(
    x: &[f32],
    [stored_images, stored, stored_height, stored_width]: [usize; 4],
    fold: usize,
    upsample: usize,
    [_, channels, height, width]: [usize; 4],
    to: &mut [f32],
) {
    for (at, line) in to.chunks_exact_mut(width).enumerate() {
        let (at, row) = (at / height, at % height);
        let (image, channel) = (at / channels % stored_images, at % channels);
        let (i, j) = (channel / fold % fold, channel % fold);
        let row = row / upsample * fold + i;
        let from = (image * stored + channel / (fold * fold)) * stored_height + row;
        let from = x[from * stored_width..][..stored_width][j..]
            .iter()
            .step_by(fold);
        for (pixels, value) in line.chunks_exact_mut(upsample).zip(from) {
            pixels.fill(*value);
        }
    }
}

/// Channels become squares of `unfold` pixels.
fn unfolded(x: &[f32], [_, channels, height, width]: [usize; 4], unfold: usize, to: &mut [f32]) {
    for (at, line) in x.chunks_exact(width).enumerate() {
        let (at, row) = (at / height, at % height);
        let (image, channel) = (at / channels, at % channels);
        let (i, j) = (channel / unfold % unfold, channel % unfold);
        let plane = image * (channels / (unfold * unfold)) + channel / (unfold * unfold);
        let line_to = (plane * height + row) * unfold + i;
        let to = &mut to[line_to * width * unfold..][..width * unfold][j..];
        for (to, value) in to.iter_mut().step_by(unfold).zip(line) {
            *to = *value;
        }
    }
}
