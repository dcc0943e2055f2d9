//! Lecture mode: one figure at a time on the whole screen, large, worked by keys.
//!
//! Which figure stands in the address (`lecture=3`), so that a slide can link to it. The figures do
//! not know of it: their main button carries `data-play`, their button for a single step
//! `data-step`, and the keys press those. Only a single step of figure 1 is more than its button,
//! which is out of use until somebody pauses.

use wasm_bindgen::JsCast;
use web_sys::{Element, HtmlDialogElement, HtmlElement, KeyboardEvent};

use crate::{
    dom::{self, find, set_attribute, set_text, window},
    figures,
    page::Page,
};

/// Connects lecture mode.
pub fn start(page: &Page) {
    let this = page.clone();
    dom::listen(&find::<Element>("lecture"), "click", move |_| {
        let shown = this.state().lecture;
        match shown {
            Some(_) => leave(&this),
            None => {
                // Where the browser refuses, the figure fills the window.
                let _ = root().request_fullscreen();
                go(&this, nearest());
            }
        }
    });
    for (id, by) in [("lecture-back", -1), ("lecture-on", 1)] {
        let this = page.clone();
        dom::listen(&find::<Element>(id), "click", move |_| go_by(&this, by));
    }
    dom::listen(&find::<Element>("lecture-keys"), "click", |_| show_keys());
    let this = page.clone();
    dom::listen(&dom::document(), "keydown", move |event| {
        let event: KeyboardEvent = event.unchecked_into();
        if press(&this, &event) {
            event.prevent_default();
        }
    });
    // Esc leaves the full screen without telling the page its key.
    let this = page.clone();
    dom::listen(&dom::document(), "fullscreenchange", move |_| {
        if dom::document().fullscreen_element().is_none() && this.state().lecture.is_some() {
            leave(&this);
        }
    });
    let this = page.clone();
    page.watch(move || show(&this));
    show(page);
}

fn root() -> Element {
    dom::document()
        .document_element()
        .expect("a document has a root")
}

fn chapters() -> Vec<HtmlElement> {
    dom::all("main > .chapter[data-figure]")
}

/// The figure that is on the screen now.
fn nearest() -> u8 {
    let middle = dom::get(&window(), "innerHeight").as_f64().unwrap_or(0.0) / 2.0;
    let chapters = chapters();
    let passed = chapters
        .iter()
        .filter(|chapter| chapter.get_bounding_client_rect().top() < middle);
    (passed.count() as u8).max(1)
}

fn go(page: &Page, figure: u8) {
    page.settle(|state| state.lecture = Some(figure));
}

fn go_by(page: &Page, by: i16) {
    let last = chapters().len() as i16;
    let now = page.state().lecture;
    if let Some(now) = now {
        go(page, (i16::from(now) + by).clamp(1, last) as u8);
    }
}

fn leave(page: &Page) {
    let shown = page.state().lecture;
    if dom::document().fullscreen_element().is_some() {
        dom::document().exit_fullscreen();
    }
    page.settle(|state| state.lecture = None);
    // Back in the article, at the same place.
    show(page);
    let chapter = shown.and_then(|figure| chapters().into_iter().nth(usize::from(figure) - 1));
    if let Some(chapter) = chapter {
        chapter.scroll_into_view();
    }
}

fn show_keys() {
    let keys: HtmlDialogElement = find("keys");
    if !keys.open() {
        let _ = keys.show_modal();
    }
}

/// Brings what is seen in line with the state.
fn show(page: &Page) {
    let shown = page.state().lecture;
    let root = root();
    let was = root.get_attribute("data-lecture");
    let is = shown.map(|figure| figure.to_string());
    if was == is {
        return;
    }
    match &is {
        Some(figure) => set_attribute(&root, "data-lecture", figure),
        None => {
            let _ = root.remove_attribute("data-lecture");
        }
    }
    for (i, chapter) in chapters().iter().enumerate() {
        let current = shown.is_none_or(|figure| usize::from(figure) == i + 1);
        let _ = chapter.class_list().toggle_with_force("away", !current);
    }
    let (label, place) = match shown {
        Some(figure) => (
            "Leave lecture mode",
            format!("{figure} of {}", chapters().len()),
        ),
        None => ("Lecture mode", String::new()),
    };
    set_text(&find::<Element>("lecture"), label);
    set_text(&find::<Element>("lecture-place"), &place);
    if shown.is_some() {
        window().scroll_to_with_x_and_y(0.0, 0.0);
    }
}

/// `true` where the key was ours.
fn press(page: &Page, event: &KeyboardEvent) -> bool {
    if event.ctrl_key() || event.alt_key() || event.meta_key() || event.default_prevented() {
        return false;
    }
    let target = event.target().and_then(|t| t.dyn_into::<Element>().ok());
    let within = |selector: &str| {
        let target = target.as_ref();
        target.is_some_and(|target| target.closest(selector).ok().flatten().is_some())
    };
    let key = event.key();
    if within("dialog, input[type=number], textarea, select") {
        return false;
    }
    if key == "?" {
        show_keys();
        return true;
    }
    if page.state().lecture.is_none() {
        return false;
    }
    // A control's own keys come first.
    match key.as_str() {
        " " | "Enter" if within("button, a, summary, input, [tabindex]") => false,
        "ArrowLeft" | "ArrowRight" | "ArrowUp" | "ArrowDown" | "PageUp" | "PageDown"
            if within("input, [tabindex]") =>
        {
            false
        }
        " " => click("data-play"),
        "." if page.state().lecture == Some(1) => {
            figures::step();
            true
        }
        "." => click("data-step"),
        "ArrowDown" | "PageDown" if scroll(1.0) => true,
        "ArrowUp" | "PageUp" if scroll(-1.0) => true,
        "ArrowRight" | "ArrowDown" | "PageDown" => {
            go_by(page, 1);
            true
        }
        "ArrowLeft" | "ArrowUp" | "PageUp" => {
            go_by(page, -1);
            true
        }
        "Escape" => {
            leave(page);
            true
        }
        digit => match digit.parse::<u8>() {
            Ok(figure) if (1..=chapters().len() as u8).contains(&figure) => {
                go(page, figure);
                true
            }
            _ => false,
        },
    }
}

/// Shows more of a figure that is higher than the window, downwards or up. `false` where there is no
/// more.
fn scroll(way: f64) -> bool {
    let root = root();
    let (height, top) = (root.client_height(), root.scroll_top());
    let rest = match way > 0.0 {
        true => root.scroll_height() - height - top,
        false => top,
    };
    // Fractions of a pixel are rounded.
    if rest <= 1 {
        return false;
    }
    // What was at the edge stays in sight.
    window().scroll_by_with_x_and_y(0.0, way * 0.8 * f64::from(height));
    true
}

/// Presses the shown figure's first button of this kind that can be used; of a figure that is higher
/// than the window, the first in sight.
fn click(kind: &str) -> bool {
    let selector = format!(".chapter:not(.away) [{kind}]:not(:disabled)");
    let buttons: Vec<HtmlElement> = dom::all(&selector);
    let height = f64::from(root().client_height());
    let mut in_sight = buttons.iter().filter(|button| {
        let place = button.get_bounding_client_rect();
        place.top() >= 0.0 && place.bottom() <= height
    });
    if let Some(button) = in_sight.next().or(buttons.first()) {
        button.click();
    }
    true
}
