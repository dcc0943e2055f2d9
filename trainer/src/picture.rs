//! Images as files: a PNG for eyes, an NPY for programs.

use std::io::Cursor;

use fashion_ddpm::noise::{IMAGE_SIZE, PIXELS};
use image::{GrayImage, ImageFormat};

/// A grid without gaps as a PNG, filled row by row; places left over are black.
///
/// `pixels` holds 784 bytes an image, row by row, 0 = black.
///
/// # Panics
/// If `columns` is 0 or `pixels` is no whole number of images, at least one.
pub fn png_grid(pixels: &[u8], columns: usize) -> Vec<u8> {
    assert!(!pixels.is_empty() && pixels.len().is_multiple_of(PIXELS));
    let rows = (pixels.len() / PIXELS).div_ceil(columns);
    let side = IMAGE_SIZE as u32;
    let mut grid = GrayImage::new(columns as u32 * side, rows as u32 * side);
    for (i, image) in pixels.chunks_exact(PIXELS).enumerate() {
        let (row, column) = (i / columns, i % columns);
        for (place, &value) in image.iter().enumerate() {
            let x = column * IMAGE_SIZE + place % IMAGE_SIZE;
            let y = row * IMAGE_SIZE + place / IMAGE_SIZE;
            grid.put_pixel(x as u32, y as u32, image::Luma([value]));
        }
    }
    let mut png = Cursor::new(Vec::new());
    grid.write_to(&mut png, ImageFormat::Png)
        .expect("memory does not fail, and a gray image can be a PNG");
    png.into_inner()
}

/// Columns of a grid that is about as high as it is wide.
pub fn square(count: usize) -> usize {
    (1..).find(|side| side * side >= count).unwrap_or(1)
}

/// The images as NumPy's format, version 1.0: uint8 `[N, 28, 28]`.
pub fn npy(pixels: &[u8]) -> Vec<u8> {
    let count = pixels.len() / PIXELS;
    let mut header = format!(
        "{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, {IMAGE_SIZE}, {IMAGE_SIZE}), }}"
    );
    // Magic, version, length and header together fill a multiple of 64 bytes, up to a newline.
    const BEFORE: usize = 10;
    while !(BEFORE + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(pixels);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(count: usize) -> Vec<u8> {
        (0..count * PIXELS)
            .map(|i| (i / PIXELS * 40 + i % 41) as u8)
            .collect()
    }

    #[test]
    fn a_grid_is_filled_row_by_row_without_gaps() {
        let pixels = images(5);
        let grid = image::load_from_memory(&png_grid(&pixels, 3))
            .unwrap()
            .into_luma8();
        assert_eq!(grid.dimensions(), (84, 56));
        for (x, y, pixel) in grid.enumerate_pixels() {
            let (x, y) = (x as usize, y as usize);
            let image = y / 28 * 3 + x / 28;
            let expected = pixels.get(image * PIXELS + y % 28 * 28 + x % 28);
            assert_eq!(pixel.0[0], expected.copied().unwrap_or(0));
        }
    }

    #[test]
    fn a_grid_is_about_square() {
        for (count, side) in [(1, 1), (2, 2), (4, 2), (5, 3), (64, 8), (65, 9)] {
            assert_eq!(square(count), side);
        }
    }

    /// The format's own description (NEP 1): magic, version, header length, a dictionary padded by
    /// spaces to a multiple of 64 and ended by a newline, then the bytes.
    #[test]
    fn npy_is_numpys_format() {
        for count in [1, 12, 10_000] {
            let pixels = vec![3; count * PIXELS];
            let bytes = npy(&pixels);
            assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
            let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            assert!((10 + length).is_multiple_of(64));
            let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
            let dictionary =
                format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, 28, 28), }}");
            assert_eq!(header.trim_end(), dictionary);
            assert!(header.ends_with('\n'));
            assert_eq!(bytes[10 + length..], pixels);
        }
    }
}
