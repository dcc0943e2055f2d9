//! Drawings in a plane: on a canvas as fine as the display, black like the pictures beside it.

use js_sys::{Array, Function};
use wasm_bindgen::{Clamped, JsCast, prelude::*};
use web_sys::{CanvasRenderingContext2d, Element, HtmlCanvasElement, ImageData, ResizeObserver};

use crate::{canvas::context, dom::window, draw};

/// The colours of the ten classes, and of whatever else is to be told apart: bright enough on black,
/// and as different as ten colours can be for eyes that see fewer.
pub const COLOURS: [&str; 10] = [
    "#5aa9f0", "#f5a742", "#79cf74", "#f2726f", "#b893f5", "#c99a6e", "#f5a0d3", "#b9bec8",
    "#dede54", "#4fd3d3",
];

/// What is drawn with; lengths are the page's, whatever the display has of pixels.
pub struct Pen {
    context: CanvasRenderingContext2d,
    /// Width of the canvas.
    pub width: f64,
    /// Height of the canvas.
    pub height: f64,
}

impl Pen {
    /// Fits the canvas to the display. `None` while it has no size.
    pub fn new(canvas: &HtmlCanvasElement) -> Option<Self> {
        let size = [canvas.client_width(), canvas.client_height()];
        if size.contains(&0) {
            return None;
        }
        let ratio = window().device_pixel_ratio().clamp(1.0, 3.0);
        let [width, height] = size.map(|length| (f64::from(length) * ratio).round() as u32);
        if canvas.width() != width || canvas.height() != height {
            canvas.set_width(width);
            canvas.set_height(height);
        }
        let context = context(canvas)?;
        context
            .set_transform(ratio, 0.0, 0.0, ratio, 0.0, 0.0)
            .ok()?;
        let [width, height] = size.map(f64::from);
        Some(Self {
            context,
            width,
            height,
        })
    }

    /// Black everywhere.
    pub fn clear(&self) {
        self.context.set_fill_style_str("#000000");
        self.context.fill_rect(0.0, 0.0, self.width, self.height);
    }

    /// A filled square round a point.
    pub fn square(&self, x: f64, y: f64, side: f64, colour: &str) {
        self.context.set_fill_style_str(colour);
        self.context
            .fill_rect(x - side / 2.0, y - side / 2.0, side, side);
    }

    /// A filled disc.
    pub fn disc(&self, x: f64, y: f64, radius: f64, colour: &str) {
        self.context.set_fill_style_str(colour);
        self.context.begin_path();
        // A radius of ours is not negative.
        let _ = self.context.arc(x, y, radius, 0.0, std::f64::consts::TAU);
        self.context.fill();
    }

    /// A thin circle.
    pub fn circle(&self, x: f64, y: f64, radius: f64, colour: &str) {
        self.context.set_stroke_style_str(colour);
        self.context.set_line_width(1.5);
        self.context.begin_path();
        let _ = self.context.arc(x, y, radius, 0.0, std::f64::consts::TAU);
        self.context.stroke();
    }

    /// A straight line.
    pub fn line(&self, x: f64, y: f64, to_x: f64, to_y: f64, colour: &str, width: f64) {
        self.path([(x, y), (to_x, to_y)], colour, width);
    }

    /// Straight lines from point to point.
    pub fn path(&self, points: impl IntoIterator<Item = (f64, f64)>, colour: &str, width: f64) {
        self.context.set_stroke_style_str(colour);
        self.context.set_line_width(width);
        self.context.set_line_join("round");
        self.context.begin_path();
        for (i, (x, y)) in points.into_iter().enumerate() {
            match i {
                0 => self.context.move_to(x, y),
                _ => self.context.line_to(x, y),
            }
        }
        self.context.stroke();
    }

    /// A line with a head at its end.
    pub fn arrow(&self, x: f64, y: f64, tip_x: f64, tip_y: f64, colour: &str) {
        self.line(x, y, tip_x, tip_y, colour, 1.2);
        let (along_x, along_y) = (tip_x - x, tip_y - y);
        let length = along_x.hypot(along_y).max(1e-9);
        let head = (0.45 * length).min(6.0) / length;
        let (along_x, along_y) = (head * along_x, head * along_y);
        let wing = |side: f64| {
            (
                tip_x - along_x + side * 0.5 * along_y,
                tip_y - along_y - side * 0.5 * along_x,
            )
        };
        self.path([wing(1.0), (tip_x, tip_y), wing(-1.0)], colour, 1.2);
    }

    /// A picture of 28 x 28 grey levels in a square, every pixel sharp.
    pub fn picture(&self, pixels: &[u8], x: f64, y: f64, side: f64) {
        let rgba = draw::grey(pixels.iter().copied());
        let image = ImageData::new_with_u8_clamped_array_and_sh(Clamped(&rgba), 28, 28);
        let scratch = scratch();
        if let (Ok(image), Some(scratch)) = (image, scratch)
            && let Some(small) = context(&scratch)
        {
            let _ = small.put_image_data(&image, 0.0, 0.0);
            self.context.set_image_smoothing_enabled(false);
            let _ = self
                .context
                .draw_image_with_html_canvas_element_and_dw_and_dh(&scratch, x, y, side, side);
        }
    }

    /// A frame round a square.
    pub fn frame(&self, x: f64, y: f64, side: f64, colour: &str, width: f64) {
        self.context.set_stroke_style_str(colour);
        self.context.set_line_width(width);
        self.context.stroke_rect(x, y, side, side);
    }
}

/// A canvas nobody sees.
fn scratch() -> Option<HtmlCanvasElement> {
    thread_local! {
        static SCRATCH: Option<HtmlCanvasElement> = {
            let canvas = crate::dom::document().create_element("canvas").ok();
            canvas.and_then(|canvas| {
                let canvas: HtmlCanvasElement = canvas.dyn_into().ok()?;
                canvas.set_width(28);
                canvas.set_height(28);
                Some(canvas)
            })
        };
    }
    SCRATCH.with(Clone::clone)
}

/// Calls back whenever an element gets another size, and once at first.
pub fn when_resized(element: &Element, callback: impl Fn() + 'static) {
    let resized = move |_: Array| callback();
    let closure = Closure::<dyn Fn(Array)>::new(resized).into_js_value();
    if let Ok(observer) = ResizeObserver::new(closure.unchecked_ref::<Function>()) {
        observer.observe(element);
    }
}
