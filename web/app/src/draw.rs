//! Numbers into colours.

use crate::store::PIXELS;

/// The size of an image on each side.
const SIZE: usize = 28;

/// The predicted noise is drawn from minus this to this.
const NOISE_RANGE: f32 = 3.0;

/// Images on each side of the square in which `count` images are shown.
pub fn columns(count: usize) -> usize {
    (1..).find(|n| n * n >= count).unwrap_or(1)
}

/// Grey levels, image after image, as RGBA of one square.
pub fn grey(levels: impl ExactSizeIterator<Item = u8>) -> Vec<u8> {
    square(levels, |level| [level; 3])
}

/// Noise, image after image, as RGBA of one square: blue below zero, orange above.
pub fn diverging(noise: impl ExactSizeIterator<Item = f32>) -> Vec<u8> {
    square(noise, |value| diverging_colour(value / NOISE_RANGE))
}

/// From blue at -1 over near-black at 0 to orange at 1. Dark where there is nothing, as in the
/// pictures beside it.
fn diverging_colour(value: f32) -> [u8; 3] {
    const ZERO: [f32; 3] = [24.0, 24.0, 28.0];
    const BLUE: [[f32; 3]; 2] = [[38.0, 108.0, 196.0], [190.0, 224.0, 255.0]];
    const ORANGE: [[f32; 3]; 2] = [[206.0, 98.0, 22.0], [255.0, 226.0, 184.0]];
    let [middle, end] = if value < 0.0 { BLUE } else { ORANGE };
    // NaN is drawn as zero.
    let strength = value.abs().clamp(0.0, 1.0).max(0.0) * 2.0;
    let (from, to, way) = match strength {
        s if s > 1.0 => (middle, end, s - 1.0),
        s => (ZERO, middle, s),
    };
    std::array::from_fn(|i| (from[i] + (to[i] - from[i]) * way).round() as u8)
}

fn square<T>(values: impl ExactSizeIterator<Item = T>, colour: impl Fn(T) -> [u8; 3]) -> Vec<u8> {
    let columns = columns(values.len() / PIXELS);
    let width = columns * SIZE;
    // Opaque black where there is no image.
    let mut rgba = [0, 0, 0, 255].repeat(width * width);
    for (i, value) in values.enumerate() {
        let (image, pixel) = (i / PIXELS, i % PIXELS);
        let x = image % columns * SIZE + pixel % SIZE;
        let y = image / columns * SIZE + pixel / SIZE;
        let at = (y * width + x) * 4;
        if let Some(rgba) = rgba.get_mut(at..at + 3) {
            rgba.copy_from_slice(&colour(value));
        }
    }
    rgba
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_row_by_row() {
        assert_eq!([1, 4, 9, 16].map(columns), [1, 2, 3, 4]);
        let levels: Vec<u8> = (0..4 * PIXELS).map(|i| (i / PIXELS) as u8).collect();
        let rgba = grey(levels.into_iter());
        let at = |x: usize, y: usize| rgba[(y * 56 + x) * 4..][..4].to_vec();
        assert_eq!(at(27, 0), [0, 0, 0, 255]);
        assert_eq!(at(28, 27), [1, 1, 1, 255]);
        assert_eq!(at(0, 28), [2, 2, 2, 255]);
        assert_eq!(at(55, 55), [3, 3, 3, 255]);
    }

    #[test]
    fn the_sign_of_noise_is_its_colour() {
        let [blue, zero, orange, none] = [-0.5, 0.0, 0.5, f32::NAN].map(diverging_colour);
        assert!(blue[2] > blue[0] && orange[0] > orange[2]);
        assert!(zero.iter().all(|c| *c < 40));
        assert_eq!(none, zero);
        let sum = |c: [u8; 3]| c.map(u32::from).iter().sum::<u32>();
        assert!(sum(diverging_colour(1.0)) > sum(orange));
    }
}
