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
