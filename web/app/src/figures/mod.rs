//! The page's figures, in the lecture's order. A figure is found by its title: its markup is the
//! `<section>` of that id in `index.html`, its behaviour the file of that name here, and one line
//! below brings the two together.
//!
//! A figure starts when its section comes near the screen, so that nobody loads what is not looked
//! at. Its section has `data-started` from then on, and, where it has the engine work, says in
//! `data-phase` whether it does. It has what all share from [`Page`]: the state, the engine's desk.
//! Where it fails, it says so in its own `<p class="note" role="status">`, and the others go on.

mod algorithms;
mod fewer_steps;
mod ink;
mod learning;
mod noising;
mod real_or_sampled;
mod sampling;
mod why;

use std::{cell::Cell, future::Future, pin::Pin, rc::Rc};

use wasm_bindgen_futures::spawn_local;
use web_sys::{Element, HtmlButtonElement};

use crate::{
    desk::End,
    dom::{self, find, set_attribute, set_text},
    page::Page,
};

pub use sampling::step;

/// A figure's start. An error is a sentence for its note.
type Mount = fn(Page) -> Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// All figures: the section's id, and what starts it.
pub const FIGURES: &[(&str, Mount)] = &[
    ("sampling", |page| Box::pin(sampling::mount(page))),
    ("ink", |page| Box::pin(ink::mount(page))),
    ("noising", |page| Box::pin(noising::mount(page))),
    ("algorithms", |page| Box::pin(algorithms::mount(page))),
    ("learning", |page| Box::pin(learning::mount(page))),
    ("why", |page| Box::pin(why::mount(page))),
    ("fewer-steps", |page| Box::pin(fewer_steps::mount(page))),
    ("real-or-sampled", |page| {
        Box::pin(real_or_sampled::mount(page))
    }),
];

/// Starts the first figure now, and each other one when its section comes near.
pub fn start(page: &Page) {
    for (i, (id, mount)) in FIGURES.iter().copied().enumerate() {
        let section: Element = find(id);
        let (page, started) = (page.clone(), section.clone());
        let begin = move || {
            spawn_local(async move {
                if let Err(reason) = mount(page).await {
                    note(id, &reason, true);
                }
                set_attribute(&started, "data-started", "");
            });
        };
        match i {
            0 => begin(),
            _ => dom::when_near(&section, begin),
        }
    }
}

/// Gives a button its work for the engine. It is out of use meanwhile, and while there are no
/// weights; where the work ends early, the figure's note says why.
pub fn on_press<W>(page: &Page, figure: &'static str, button: &str, work: impl Fn() -> W + 'static)
where
    W: Future<Output = Result<(), End>> + 'static,
{
    connect(page, figure, button, Box::new(move || Box::pin(work())));
}

/// Something a button does. An error is a sentence for the figure's note.
type Work = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), End>>>>>;

fn connect(page: &Page, figure: &'static str, button: &str, work: Work) {
    let (section, button): (Element, HtmlButtonElement) = (find(figure), find(button));
    let busy = Rc::new(Cell::new(false));
    let follow = {
        let (page, button, busy) = (page.clone(), button.clone(), busy.clone());
        move || {
            let phase = if busy.get() { "running" } else { "idle" };
            set_attribute(&section, "data-phase", phase);
            button.set_disabled(!page.desk().is_ready() || busy.get());
        }
    };
    follow();
    page.watch(follow.clone());
    dom::listen(&button, "click", move |_| {
        let (busy, follow, work) = (busy.clone(), follow.clone(), work());
        busy.set(true);
        follow();
        spawn_local(async move {
            let outcome = work.await;
            busy.set(false);
            follow();
            match outcome {
                Ok(()) => note(figure, "", false),
                Err(end) => note(figure, &end.to_string(), end != End::Taken),
            }
        });
    });
}

/// Says something in a figure's own note.
pub fn note(figure: &str, text: &str, failed: bool) {
    let element: Element = find(&format!("{figure}-note"));
    set_text(&element, text);
    set_attribute(
        &element,
        "class",
        if failed { "note error" } else { "note" },
    );
}
