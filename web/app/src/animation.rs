//! A run as an animated GIF: what was seen, to take along.

use fashion_ddpm::sampler::to_pixels;

use crate::{draw, store::Frames};

/// Frames of the animation, at most: the run's, evenly spaced, and the garment.
const FRAMES: usize = 100;

/// Each pixel of an image is as many wide and high.
const ENLARGED: usize = 8;

/// Hundredths of a second that a frame is seen, and the garment.
const DELAY: u16 = 5;
const DELAY_AT_THE_END: u16 = 200;

/// The stops of a run of `steps` that are in the animation, in order.
pub fn stops(steps: usize) -> Vec<usize> {
    let count = FRAMES.min(steps + 1).max(2);
    (0..count).map(|i| i * steps / (count - 1)).collect()
}

/// The run so far as a GIF that repeats for ever; `None` where nothing has been computed.
pub fn encode(frames: &Frames) -> Option<Vec<u8>> {
    let columns = draw::columns(frames.picture.count as usize);
    let side = u16::try_from(columns * 28 * ENLARGED).ok()?;
    // Grey levels as they are: 256 of them is what a GIF can hold.
    let palette: Vec<u8> = (0..=255).flat_map(|level| [level; 3]).collect();
    let mut file = Vec::new();
    let mut encoder = gif::Encoder::new(&mut file, side, side, &palette).ok()?;
    encoder.set_repeat(gif::Repeat::Infinite).ok()?;
    let stops = stops(frames.steps.len());
    let states: Vec<Vec<f32>> = stops.iter().map_while(|stop| frames.x(*stop)).collect();
    for (i, x) in states.iter().enumerate() {
        let mut frame = gif::Frame {
            width: side,
            height: side,
            buffer: enlarge(&to_pixels(x), columns).into(),
            delay: if i + 1 == states.len() {
                DELAY_AT_THE_END
            } else {
                DELAY
            },
            ..gif::Frame::default()
        };
        frame.make_lzw_pre_encoded();
        encoder.write_lzw_pre_encoded_frame(&frame).ok()?;
    }
    drop(encoder);
    (!states.is_empty()).then_some(file)
}

/// Images row by row in a square of `columns` each way, every pixel enlarged.
fn enlarge(pixels: &[u8], columns: usize) -> Vec<u8> {
    let side = columns * 28 * ENLARGED;
    let at = |x: usize, y: usize| {
        let image = y / 28 * columns + x / 28;
        pixels
            .get(image * 784 + y % 28 * 28 + x % 28)
            .copied()
            .unwrap_or(0)
    };
    (0..side * side)
        .map(|i| at(i % side / ENLARGED, i / side / ENLARGED))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(steps: usize, count: u32) -> Frames {
        let size = count as usize * 784;
        let mut frames = crate::store::tests::frames(count, steps);
        for step in 0..steps {
            let x: Vec<f32> = (0..size)
                .map(|i| (i + step) as f32 % 7.0 / 3.5 - 1.0)
                .collect();
            frames.add(&x, &x);
        }
        frames.finish((0..size).map(|i| i as f32 % 3.0 - 1.0).collect());
        frames
    }

    #[test]
    fn the_stops_begin_with_noise_and_end_with_the_garment() {
        assert_eq!(stops(1), [0, 1]);
        assert_eq!(stops(20), (0..=20).collect::<Vec<_>>());
        let many = stops(1000);
        assert_eq!((many.len(), many[0], many[99]), (100, 0, 1000));
        assert!(many.is_sorted_by(|a, b| a < b));
    }

    /// Another decoder's reading of it: as many frames, and their pixels.
    #[test]
    fn the_gif_has_the_frames() {
        for (steps, count) in [(6, 1), (150, 4)] {
            let frames = run(steps, count);
            let file = encode(&frames).unwrap();
            let mut options = gif::DecodeOptions::new();
            options.set_color_output(gif::ColorOutput::Indexed);
            let mut decoder = options.read_info(&file[..]).unwrap();
            let mut found = 0;
            for stop in stops(steps) {
                let frame = decoder.read_next_frame().unwrap().unwrap();
                let pixels = to_pixels(&frames.x(stop).unwrap());
                let columns = draw::columns(count as usize);
                let side = columns * 28 * ENLARGED;
                assert_eq!(frame.buffer.len(), side * side);
                for image in 0..count as usize {
                    let (x, y) = (image % columns * 28 + 3, image / columns * 28 + 5);
                    let at = y * ENLARGED * side + x * ENLARGED;
                    assert_eq!(
                        frame.buffer[at],
                        pixels[image * 784 + 5 * 28 + 3],
                        "stop {stop}"
                    );
                }
                found += 1;
            }
            assert!(decoder.read_next_frame().unwrap().is_none());
            assert_eq!(found, stops(steps).len());
        }
    }
}
