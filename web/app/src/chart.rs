//! Plots: axes, lines, points and a cursor, as the markup of an SVG that the page's style sheet
//! colours. One look for all figures.

use std::fmt::Write;

/// Width of a plot in its own units; on the screen it takes what room there is.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 260.0;
/// Room for ticks and labels: left, right, top, bottom.
const MARGIN: [f64; 4] = [54.0, 14.0, 14.0, 42.0];

/// One of a plot's two directions.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What is measured.
    pub label: &'static str,
    /// From where to where.
    pub range: [f64; 2],
    /// Whether by orders of magnitude.
    pub logarithmic: bool,
    /// Where a number stands.
    pub ticks: Vec<f64>,
}

impl Axis {
    /// A linear axis.
    pub fn linear(label: &'static str, range: [f64; 2], ticks: &[f64]) -> Self {
        Self {
            label,
            range,
            logarithmic: false,
            ticks: ticks.to_vec(),
        }
    }

    /// A logarithmic axis with a tick at each power of ten; both ends above 0.
    pub fn logarithmic(label: &'static str, range: [f64; 2]) -> Self {
        let [first, last] = range.map(f64::log10);
        let powers = first.ceil() as i32..=last.floor() as i32;
        Self {
            label,
            range,
            logarithmic: true,
            ticks: powers.map(|power| 10f64.powi(power)).collect(),
        }
    }

    /// Its ticks, without those that lie beyond its ends.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let [first, last] = self.range;
        (self.ticks.iter().copied()).filter(move |tick| (first..=last).contains(tick))
    }

    /// Where a value lies, 0 at the axis's beginning and 1 at its end, and nowhere else.
    fn share(&self, value: f64) -> f64 {
        let scale = |v: f64| if self.logarithmic { v.log10() } else { v };
        let [first, last] = self.range.map(scale);
        // NaN is drawn at the beginning.
        ((scale(value) - first) / (last - first))
            .clamp(0.0, 1.0)
            .max(0.0)
    }
}

/// A plot.
#[derive(Debug, Clone)]
pub struct Chart {
    x: Axis,
    y: Axis,
    marks: String,
}

impl Chart {
    /// Empty axes.
    pub fn new(x: Axis, y: Axis) -> Self {
        Self {
            x,
            y,
            marks: String::new(),
        }
    }

    /// Where a point is drawn.
    pub fn at(&self, x: f64, y: f64) -> [f64; 2] {
        let [left, right, top, bottom] = MARGIN;
        [
            left + self.x.share(x) * (WIDTH - left - right),
            HEIGHT - bottom - self.y.share(y) * (HEIGHT - top - bottom),
        ]
    }

    /// A line through points; `class` is its look: `one`, `two` or `three`.
    #[must_use]
    pub fn line(mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points: Vec<String> = points
            .into_iter()
            .map(|(x, y)| {
                let [x, y] = self.at(x, y);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let points = points.join(" ");
        let _ = write!(
            self.marks,
            "<polyline class=\"line {class}\" points=\"{points}\"/>"
        );
        self
    }

    /// Single points.
    #[must_use]
    pub fn points(mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        for (x, y) in points {
            let [x, y] = self.at(x, y);
            let _ = write!(
                self.marks,
                "<circle class=\"point {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"
            );
        }
        self
    }

    /// A word beside a point of the plot.
    #[must_use]
    pub fn word(mut self, class: &str, x: f64, y: f64, word: &str) -> Self {
        let [x, y] = self.at(x, y);
        let anchor = if x > WIDTH * 0.8 { "end" } else { "start" };
        let _ = write!(
            self.marks,
            "<text class=\"word {class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\" dy=\"-7\">{word}</text>"
        );
        self
    }

    /// A line from top to bottom at an x.
    #[must_use]
    pub fn cursor(mut self, x: f64) -> Self {
        let [x, _] = self.at(x, self.y.range[0]);
        let (top, bottom) = (MARGIN[2], HEIGHT - MARGIN[3]);
        let _ = write!(
            self.marks,
            "<line class=\"cursor\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>"
        );
        self
    }

    /// The markup.
    pub fn svg(&self) -> String {
        let [left, right, top, bottom] = MARGIN;
        let (end, base) = (WIDTH - right, HEIGHT - bottom);
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" aria-hidden=\"true\">");
        for tick in self.y.ticks() {
            let y = self.at(self.x.range[0], tick)[1];
            let word = number(tick);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{left}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{y:.1}\" dy=\".32em\">{word}</text>",
                left - 7.0
            );
        }
        for tick in self.x.ticks() {
            let x = self.at(tick, self.y.range[0])[0];
            let word = number(tick);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{base}\" y2=\"{}\"/>\
                 <text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{}\">{word}</text>",
                base + 4.0,
                base + 18.0
            );
        }
        let (middle, low) = ((left + end) / 2.0, HEIGHT - 5.0);
        let _ = write!(
            svg,
            "<text class=\"label\" text-anchor=\"middle\" x=\"{middle}\" y=\"{low}\">{}</text>\
             <text class=\"label\" text-anchor=\"middle\" transform=\"translate(13 {}) rotate(-90)\">{}</text>\
             <line class=\"axis\" x1=\"{left}\" x2=\"{end}\" y1=\"{base}\" y2=\"{base}\"/>{}</svg>",
            self.x.label,
            (top + base) / 2.0,
            self.y.label,
            self.marks
        );
        svg
    }
}

/// A tick's number, as short as it can be; powers of ten from a million on, or below a thousandth.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || (1e-3..1e6).contains(&magnitude) {
        return value.to_string();
    }
    power_of_ten(magnitude.log10().round() as i32)
}

/// `10⁻⁹`
pub fn power_of_ten(power: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let digits = power.abs().to_string();
    let digits = digits
        .bytes()
        .map(|digit| DIGITS[usize::from(digit - b'0')]);
    let sign = if power < 0 { "⁻" } else { "" };
    format!("10{sign}{}", digits.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        Chart::new(
            Axis::linear("t", [0.0, 1000.0], &[0.0, 500.0, 1000.0]),
            Axis::logarithmic("error", [1e-4, 1.0]),
        )
    }

    #[test]
    fn values_lie_where_their_axes_say() {
        let chart = chart();
        let [[x0, y0], [x1, y1], [x2, y2]] =
            [(0.0, 1e-4), (500.0, 1e-2), (1000.0, 1.0)].map(|(x, y)| chart.at(x, y));
        assert!((x0 + x2 - 2.0 * x1).abs() < 1e-9 && x0 < x2);
        assert!(
            (y0 + y2 - 2.0 * y1).abs() < 1e-9 && y0 > y2,
            "a hundredth is half way up"
        );
        // Beyond the axes is drawn at their ends.
        assert_eq!(chart.at(-5.0, 0.0), [x0, y0]);
        assert_eq!(chart.at(2000.0, f64::INFINITY), [x2, y2]);
        assert_eq!(chart.at(f64::NAN, f64::NAN), [x0, y0]);
    }

    #[test]
    fn every_tick_and_mark_is_in_the_markup() {
        let svg = chart()
            .line("one", [(0.0, 1.0), (1000.0, 0.1)])
            .points("two", [(1.0, 0.5), (2.0, 0.5)])
            .cursor(500.0)
            .svg();
        for part in [
            ">500<",
            ">10⁻⁴<",
            ">0.01<",
            "polyline",
            "class=\"cursor\"",
            ">error<",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
    }
}
