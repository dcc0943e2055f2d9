//! Figure 7, Fewer steps: one start noise through three samplers.

use std::rc::Rc;

use web_sys::{Element, HtmlCanvasElement};

use super::{note, on_press};
use crate::{
    canvas::{self, put_grey},
    desk::{End, Job},
    dom::{find, set_attribute, set_text},
    page::Page,
    state::Sampler,
};

/// Starts the figure.
///
/// # Errors
/// None.
pub async fn mount(page: Page) -> Result<(), String> {
    let place: Element = find("race-pictures");
    let lanes =
        [Sampler::Ddpm, Sampler::Ddim, Sampler::Dpm].map(|sampler| Lane::new(&place, sampler));
    let lanes = Rc::new(lanes);
    on_press(&page.clone(), "fewer-steps", "race", move || {
        race(page.clone(), lanes.clone())
    });
    Ok(())
}

/// A sampler's picture.
struct Lane {
    sampler: Sampler,
    canvas: HtmlCanvasElement,
    caption: Element,
}

impl Lane {
    fn new(place: &Element, sampler: Sampler) -> Self {
        let (slug, steps) = (sampler.slug(), sampler.usual_steps());
        let name = format!("Garment by {}, {steps} steps", sampler.name());
        let caption = format!("{}, {steps} steps", sampler.name());
        let (canvas, caption) = canvas::figure(place, &format!("race-{slug}"), &name, &caption);
        Self {
            sampler,
            canvas,
            caption,
        }
    }
}

/// All of them, one after the other: side by side they would wait for each other.
async fn race(page: Page, lanes: Rc<[Lane; 3]>) -> Result<(), End> {
    let mut picture = page.state().picture();
    picture.count = 1;
    for lane in &*lanes {
        set_attribute(&lane.canvas, "class", "idle");
    }
    for Lane {
        sampler,
        canvas,
        caption,
    } in &*lanes
    {
        picture.sampler = sampler.slug().to_owned();
        picture.steps = sampler.usual_steps();
        let what = format!("{}, {} steps", sampler.name(), picture.steps);
        note("fewer-steps", &format!("{what}."), false);
        let job = Job {
            picture: picture.clone(),
            epoch: None,
            start: None,
        };
        let show = |taken: usize, x_t: &[f32]| {
            set_text(caption, &format!("{what}: step {taken}"));
            put_grey(canvas, x_t);
        };
        let (x_0, elapsed_ms) = page.desk().sample(job, show).await?;
        put_grey(canvas, &x_0);
        set_text(caption, &format!("{what}: {:.2} s", elapsed_ms / 1000.0));
    }
    Ok(())
}
