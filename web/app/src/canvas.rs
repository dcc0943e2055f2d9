//! Pictures on canvases: one canvas pixel for each of an image, enlarged without smoothing, and a
//! text for those who do not see it.

use wasm_bindgen::{Clamped, JsCast};
use web_sys::{CanvasRenderingContext2d, Element, HtmlCanvasElement, ImageData};

use crate::{
    dom::{self, set_attribute, set_text},
    draw,
};

/// A canvas's pen.
pub fn context(canvas: &HtmlCanvasElement) -> Option<CanvasRenderingContext2d> {
    canvas.get_context("2d").ok()??.dyn_into().ok()
}

/// Shows the RGBA values of a square of `count` images.
pub fn put(canvas: &HtmlCanvasElement, count: usize, rgba: &[u8]) {
    let width = (draw::columns(count) * 28) as u32;
    if canvas.width() != width || canvas.height() != width {
        canvas.set_width(width);
        canvas.set_height(width);
    }
    let image = ImageData::new_with_u8_clamped_array_and_sh(Clamped(rgba), width, width);
    if let (Ok(image), Some(context)) = (image, context(canvas)) {
        let _ = context.put_image_data(&image, 0.0, 0.0);
    }
}

/// Shows images in [-1, 1] as grey levels, black to white.
pub fn put_grey(canvas: &HtmlCanvasElement, x: &[f32]) {
    let levels = fashion_ddpm::sampler::to_pixels(x);
    put(canvas, x.len() / 784, &draw::grey(levels.into_iter()));
    set_attribute(canvas, "class", "");
}

/// Shows noise, blue below zero and orange above.
pub fn put_noise(canvas: &HtmlCanvasElement, noise: &[f32]) {
    put(
        canvas,
        noise.len() / 784,
        &draw::diverging(noise.iter().copied()),
    );
    set_attribute(canvas, "class", "");
}

/// What a canvas shows, in words: kept in the element that its `aria-describedby` names.
pub fn describe(canvas: &Element, text: &str) {
    let Some(id) = canvas.get_attribute("aria-describedby") else {
        return;
    };
    if let Some(element) = dom::document().get_element_by_id(&id) {
        set_text(&element, text);
    }
}

/// A canvas for one image, with a caption that also describes it: `<figure>` into `parent`.
///
/// # Panics
/// Never in a browser: it makes elements of known names.
pub fn figure(
    parent: &Element,
    id: &str,
    name: &str,
    caption: &str,
) -> (HtmlCanvasElement, Element) {
    let make = |tag: &str| {
        dom::document()
            .create_element(tag)
            .expect("a known element")
    };
    let (figure, canvas, text) = (make("figure"), make("canvas"), make("figcaption"));
    let caption_id = format!("{id}-caption");
    for (key, value) in [
        ("id", id),
        ("role", "img"),
        ("aria-label", name),
        ("aria-describedby", &caption_id),
        ("width", "28"),
        ("height", "28"),
        ("class", "idle"),
    ] {
        set_attribute(&canvas, key, value);
    }
    text.set_id(&caption_id);
    set_text(&text, caption);
    let _ = figure.append_child(&canvas);
    let _ = figure.append_child(&text);
    let _ = parent.append_child(&figure);
    (canvas.unchecked_into(), text)
}
