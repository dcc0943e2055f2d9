//! The loss curve of a run.

use std::error::Error;

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::train::EpochRecord;

const SIZE: (u32, u32) = (880, 480);
const INK: RGBColor = RGBColor(0x33, 0x3a, 0x45);
const FAINT: RGBColor = RGBColor(0xe3, 0xe6, 0xeb);
const LINE: RGBColor = RGBColor(0x0b, 0x6b, 0xb8);

/// Draws the mean loss of each epoch, on a logarithmic scale, as an SVG.
///
/// # Errors
/// What the drawing library says; not for a history of finite, positive losses.
///
/// # Panics
/// If `history` is empty.
pub fn draw(history: &[EpochRecord]) -> Result<String, Box<dyn Error>> {
    let last = history.last().expect("an epoch has ended");
    let losses = || history.iter().map(|record| record.loss.max(1e-9));
    let low = losses().fold(f64::INFINITY, f64::min) / 1.08;
    let high = losses().fold(0.0, f64::max) * 1.08;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let text = |size: u32| ("sans-serif", size).into_font().color(&INK);
        let mut chart = ChartBuilder::on(&root)
            .caption("Mean squared error of the predicted noise", text(22))
            .margin(18)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(
                0.0..f64::from(last.epoch.max(2)) * 1.02,
                (low..high).log_scale(),
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
            .x_labels(11)
            .y_labels(8)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.4}"))
            .draw()?;
        let points = || {
            history
                .iter()
                .map(|r| (f64::from(r.epoch), r.loss.max(1e-9)))
        };
        chart.draw_series(LineSeries::new(points(), LINE.stroke_width(2)))?;
        chart.draw_series(points().map(|point| Circle::new(point, 3, LINE.filled())))?;
        let place = (f64::from(last.epoch), last.loss.max(1e-9));
        let style = text(15).pos(Pos::new(HPos::Right, VPos::Bottom));
        let label = format!("{:.4} after epoch {}", last.loss, last.epoch);
        chart.draw_series([EmptyElement::at(place) + Text::new(label, (0, -10), style)])?;
        root.present()?;
    }
    Ok(svg)
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
            let svg = draw(&history).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            let points = svg.matches("<circle").count();
            assert_eq!(points, history.len());
        }
    }

    /// On a logarithmic scale equal ratios are equal distances.
    #[test]
    fn the_scale_is_logarithmic() {
        let history = [record(1, 0.4), record(2, 0.2), record(3, 0.1)];
        let svg = draw(&history).unwrap();
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
