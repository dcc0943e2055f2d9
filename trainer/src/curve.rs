//! The loss curve of a run.

use std::error::Error;

use fashion_ddpm::Prediction;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::train::EpochRecord;

const SIZE: (u32, u32) = (880, 480);
const INK: RGBColor = RGBColor(0x33, 0x3a, 0x45);
const FAINT: RGBColor = RGBColor(0xe3, 0xe6, 0xeb);
const LINE: RGBColor = RGBColor(0x0b, 0x6b, 0xb8);

/// Draws the mean loss of each epoch, of what the network is trained to tell, on a logarithmic scale, as an
/// SVG.
///
/// # Errors
/// What the drawing library says; not for a history of finite, positive losses.
///
/// # Panics
/// If `history` is empty.
pub fn draw(history: &[EpochRecord], prediction: Prediction) -> Result<String, Box<dyn Error>> {
    let caption = match prediction {
        Prediction::Noise => "Mean squared error of the predicted noise",
        Prediction::Velocity => "Mean squared error of the predicted v",
    };
    let last = history.last().expect("an epoch has ended");
    let losses = || history.iter().map(|record| record.loss.max(1e-9));
    // Room for the words under the last point.
    let low = losses().fold(f64::INFINITY, f64::min) / 1.25;
    let high = losses().fold(0.0, f64::max) * 1.1;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let text = |size: u32| ("sans-serif", size).into_font().color(&INK);
        let mut chart = ChartBuilder::on(&root)
            .caption(caption, text(22))
            .margin(18)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(
                (0..last.epoch.max(2)).with_key_points(epochs(last.epoch)),
                (low..high)
                    .log_scale()
                    .with_key_points(round_losses(low, high)),
            )?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .x_desc("epoch")
            .y_desc("loss (logarithmic)")
            .label_style(text(14))
            .axis_desc_style(text(15))
            .y_label_formatter(&|y| format!("{y}"))
            .draw()?;
        let points = || history.iter().map(|r| (r.epoch, r.loss.max(1e-9)));
        chart.draw_series(LineSeries::new(points(), LINE.stroke_width(2)))?;
        chart.draw_series(points().map(|point| Circle::new(point, 3, LINE.filled())))?;
        let place = (last.epoch, last.loss.max(1e-9));
        let style = text(15).pos(Pos::new(HPos::Right, VPos::Top));
        let label = format!("{:.4} after epoch {}", last.loss, last.epoch);
        chart.draw_series([EmptyElement::at(place) + Text::new(label, (0, 10), style)])?;
        root.present()?;
    }
    Ok(svg)
}

/// At most a dozen whole epochs to name on the axis.
fn epochs(last: u32) -> Vec<u32> {
    let step = [1, 2, 5, 10, 20, 50, 100]
        .into_iter()
        .find(|step| last / step <= 12)
        .unwrap_or(200);
    (0..=last).step_by(step as usize).collect()
}

/// The round numbers between two losses.
fn round_losses(low: f64, high: f64) -> Vec<f64> {
    let decades = (-9..4).flat_map(|exponent| {
        let digits = ["1", "1.5", "2", "3", "4", "5", "6", "8"];
        digits.map(|digits| format!("{digits}e{exponent}"))
    });
    // Read rather than multiplied: the nearest number to 0.15 is written 0.15 again.
    let numbers = decades.map(|word| word.parse().expect("a number"));
    numbers.filter(|loss| (low..=high).contains(loss)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(epoch: u32, loss: f64) -> EpochRecord {
        EpochRecord {
            epoch,
            loss,
            images_per_second: 1.0,
            seconds: 1.0,
            unix_time: 0,
        }
    }

    #[test]
    fn every_history_has_a_curve() {
        for history in [
            vec![record(1, 0.08)],
            vec![record(1, 0.05), record(2, 0.05)],
            (1..=50).map(|e| record(e, 0.1 / f64::from(e))).collect(),
            vec![record(1, 0.0)],
        ] {
            let svg = draw(&history, Prediction::Noise).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            let points = svg.matches("<circle").count();
            assert_eq!(points, history.len());
        }
    }

    #[test]
    fn axes_name_round_numbers() {
        assert_eq!(epochs(1), [0, 1]);
        assert_eq!(epochs(12).len(), 13);
        assert_eq!(epochs(50)[..3], [0, 5, 10]);
        assert!((1..=999).all(|last| (2..=14).contains(&epochs(last).len())));
        assert_eq!(round_losses(0.041, 0.16), [0.05, 0.06, 0.08, 0.1, 0.15]);
    }

    /// On a logarithmic scale equal ratios are equal distances.
    #[test]
    fn the_scale_is_logarithmic() {
        let history = [record(1, 0.4), record(2, 0.2), record(3, 0.1)];
        let svg = draw(&history, Prediction::Velocity).unwrap();
        assert!(svg.contains("of the predicted v") && !svg.contains("noise"));
        let heights: Vec<f64> = svg
            .split("<circle")
            .skip(1)
            .map(|circle| {
                let (_, rest) = circle.split_once("cy=\"").unwrap();
                rest.split_once('"').unwrap().0.parse().unwrap()
            })
            .collect();
        let steps = (heights[1] - heights[0], heights[2] - heights[1]);
        assert!(
            steps.0 > 50.0 && (steps.0 - steps.1).abs() <= 2.0,
            "{heights:?}"
        );
    }
}
