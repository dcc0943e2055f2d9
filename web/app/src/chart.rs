//! Plots: axes, lines, points and a cursor, as the markup of an SVG that the page's style sheet
//! colours. One look for all figures.
//!
//! A plot is drawn for the room that it has: one unit is a pixel of the page, and letters are as large
//! as the page's, on a telephone and on a projector.

use std::fmt::Write;

/// Height of a plot for its width, where that leaves room enough for the ticks.
const PROPORTION: f64 = 0.54;

/// Heights of a letter, for a plot at least.
const LEAST_HEIGHT: f64 = 13.0;

/// Width of a digit, in heights of a letter.
const DIGIT: f64 = 0.64;

/// What a plot is drawn in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    /// Its width, in pixels of the page.
    pub width: f64,
    /// The size of its letters, in the same.
    pub letter: f64,
}

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
    marks: Vec<Mark>,
}

/// What is drawn into the axes; `class` is its look: `one`, `two` or `three`.
#[derive(Debug, Clone)]
enum Mark {
    Line(String, Vec<(f64, f64)>),
    Point(&'static str, (f64, f64)),
    Word(&'static str, (f64, f64), String),
    Cursor(f64),
}

impl Chart {
    /// Empty axes.
    pub fn new(x: Axis, y: Axis) -> Self {
        Self {
            x,
            y,
            marks: Vec::new(),
        }
    }

    /// A line through points; `class` is its look: `one`, `two` or `three`.
    #[must_use]
    pub fn line(mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points = points.into_iter().collect();
        self.marks.push(Mark::Line(class.to_owned(), points));
        self
    }

    /// Single points.
    #[must_use]
    pub fn points(
        mut self,
        class: &'static str,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        let points = points.into_iter().map(|point| Mark::Point(class, point));
        self.marks.extend(points);
        self
    }

    /// A word beside a point of the plot.
    #[must_use]
    pub fn word(mut self, class: &'static str, x: f64, y: f64, word: &str) -> Self {
        self.marks.push(Mark::Word(class, (x, y), word.to_owned()));
        self
    }

    /// A line from top to bottom at an x.
    #[must_use]
    pub fn cursor(mut self, x: f64) -> Self {
        self.marks.push(Mark::Cursor(x));
        self
    }

    /// Where everything lies in this room.
    fn frame(&self, room: Room) -> Frame {
        let Room { width, letter } = room;
        let height = (PROPORTION * width).max(LEAST_HEIGHT * letter).round();
        let digits = self.y.ticks().map(|tick| number(tick).chars().count());
        // The ticks' numbers, and upright before them the axis's name.
        let left = (digits.max().unwrap_or_default() as f64 * DIGIT + 2.3) * letter;
        Frame {
            height,
            left,
            right: width - 1.2 * letter,
            top: 1.5 * letter,
            base: height - 3.3 * letter,
        }
    }

    /// Where a point is drawn.
    fn at(&self, frame: &Frame, (x, y): (f64, f64)) -> [f64; 2] {
        [
            frame.left + self.x.share(x) * (frame.right - frame.left),
            frame.base - self.y.share(y) * (frame.base - frame.top),
        ]
    }

    /// The markup.
    pub fn svg(&self, room: Room) -> String {
        let Room { width, letter } = room;
        let frame = self.frame(room);
        let Frame {
            height,
            left,
            right,
            top,
            base,
        } = frame;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {width} {height}\" font-size=\"{letter}\" aria-hidden=\"true\">"
        );
        for tick in self.y.ticks() {
            let y = self.at(&frame, (self.x.range[0], tick))[1];
            let word = number(tick);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{y:.1}\" dy=\".32em\">{word}</text>",
                left - 0.5 * letter
            );
        }
        for tick in self.x.ticks() {
            let x = self.at(&frame, (tick, self.y.range[0]))[0];
            let word = number(tick);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{base:.1}\" y2=\"{:.1}\"/>\
                 <text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{word}</text>",
                base + 0.3 * letter,
                base + 1.4 * letter
            );
        }
        let _ = write!(
            svg,
            "<text class=\"label\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"label\" text-anchor=\"middle\" transform=\"translate({letter:.1} {:.1}) rotate(-90)\">{}</text>\
             <line class=\"axis\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{base:.1}\" y2=\"{base:.1}\"/>",
            (left + right) / 2.0,
            height - 0.4 * letter,
            self.x.label,
            (top + base) / 2.0,
            self.y.label,
        );
        for mark in &self.marks {
            self.draw(&mut svg, &frame, letter, mark);
        }
        svg + "</svg>"
    }

    fn draw(&self, svg: &mut String, frame: &Frame, letter: f64, mark: &Mark) {
        let _ = match mark {
            Mark::Line(class, points) => {
                let _ = write!(svg, "<polyline class=\"line {class}\" points=\"");
                for point in points {
                    let [x, y] = self.at(frame, *point);
                    let _ = write!(svg, "{x:.1},{y:.1} ");
                }
                write!(svg, "\"/>")
            }
            Mark::Point(class, point) => {
                let [x, y] = self.at(frame, *point);
                write!(
                    svg,
                    "<circle class=\"point {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{:.1}\"/>",
                    0.32 * letter
                )
            }
            Mark::Word(class, point, word) => {
                let [x, y] = self.at(frame, *point);
                let is_last = x > frame.left + 0.8 * (frame.right - frame.left);
                let anchor = if is_last { "end" } else { "start" };
                write!(
                    svg,
                    "<text class=\"word {class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\" \
                     dy=\"-.55em\">{word}</text>"
                )
            }
            Mark::Cursor(x) => {
                let [x, _] = self.at(frame, (*x, self.y.range[0]));
                write!(
                    svg,
                    "<line class=\"cursor\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                    frame.top, frame.base
                )
            }
        };
    }
}

/// Where a plot's axes lie, from the upper left corner.
struct Frame {
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    base: f64,
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

    const ROOM: Room = Room {
        width: 480.0,
        letter: 13.0,
    };

    #[test]
    fn values_lie_where_their_axes_say() {
        let chart = chart();
        let frame = chart.frame(ROOM);
        let at = |x, y| chart.at(&frame, (x, y));
        let [[x0, y0], [x1, y1], [x2, y2]] = [at(0.0, 1e-4), at(500.0, 1e-2), at(1000.0, 1.0)];
        assert!((x0 + x2 - 2.0 * x1).abs() < 1e-9 && x0 < x2);
        assert!(
            (y0 + y2 - 2.0 * y1).abs() < 1e-9 && y0 > y2,
            "a hundredth is half way up"
        );
        // Beyond the axes is drawn at their ends.
        assert_eq!(at(-5.0, 0.0), [x0, y0]);
        assert_eq!(at(2000.0, f64::INFINITY), [x2, y2]);
        assert_eq!(at(f64::NAN, f64::NAN), [x0, y0]);
    }

    #[test]
    fn letters_have_room_on_a_telephone_and_on_a_projector() {
        for (width, letter) in [(290.0, 12.8), (480.0, 13.0), (480.0, 22.0), (900.0, 28.0)] {
            let frame = chart().frame(Room { width, letter });
            // `0.001` and, upright, the axis's name; both ends of the other axis's numbers.
            let number = 5.0 * 0.6 * letter;
            assert!(frame.left - 0.5 * letter - number > 1.3 * letter, "{width}");
            assert!(width - frame.right >= 2.0 * 0.6 * letter - 1e-9, "{width}");
            assert!(frame.height - frame.base > 3.0 * letter, "{width}");
            assert!(frame.base - frame.top > 7.0 * letter, "{width}");
            assert!(frame.right - frame.left > 0.5 * width, "{width}");
        }
    }

    #[test]
    fn every_tick_and_mark_is_in_the_markup() {
        let svg = chart()
            .line("one", [(0.0, 1.0), (1000.0, 0.1)])
            .points("two", [(1.0, 0.5), (2.0, 0.5)])
            .word("three", 1000.0, 0.1, "fifty")
            .cursor(500.0)
            .svg(ROOM);
        for part in [
            ">500<",
            ">10⁻⁴<",
            ">0.01<",
            "polyline",
            "class=\"cursor\"",
            ">error<",
            ">fifty<",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
    }
}
