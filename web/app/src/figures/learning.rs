//! Figure 5, Learning: one seed through the weights of several epochs, beside the loss curve.

use std::{cell::RefCell, rc::Rc};

use web_sys::{Element, HtmlCanvasElement};

use super::{note, on_press};
use crate::{
    canvas::{self, describe, put_grey},
    chart::{Axis, Chart},
    desk::{End, Job},
    dom::{self, find, set_text},
    page::Page,
    plain::plain_struct,
    plot::Plot,
};

/// A line of `weights/log.jsonl`, as far as the curve needs it.
#[derive(Debug)]
struct Epoch {
    epoch: u32,
    loss: f64,
}

plain_struct!(Epoch { epoch, loss });

/// Starts the figure: its pictures when the list of weights is there, its curve when the log is.
///
/// # Errors
/// Why there is no curve; the pictures work without.
pub async fn mount(page: Page) -> Result<(), String> {
    let pictures = Rc::new(RefCell::new(Vec::new()));
    let fill = {
        let (page, pictures) = (page.clone(), pictures.clone());
        move || {
            let Some(index) = page.desk().index() else {
                return;
            };
            let mut pictures = pictures.borrow_mut();
            if pictures.is_empty() {
                let place: Element = find("learning-pictures");
                let models = index.models.iter();
                *pictures = models.map(|w| Picture::new(&place, w.epoch)).collect();
            }
        }
    };
    fill();
    page.watch(fill);
    let this = page.clone();
    on_press(&page, "learning", "learn", move || {
        sample_each(this.clone(), pictures.borrow().clone())
    });
    draw_curve(&page).await
}

/// The picture of an epoch.
#[derive(Clone)]
struct Picture {
    epoch: u32,
    canvas: HtmlCanvasElement,
    caption: Element,
}

impl Picture {
    fn new(place: &Element, epoch: u32) -> Self {
        let name = format!("Garment after {}", epochs(epoch));
        let id = format!("learning-{epoch}");
        let (canvas, caption) = canvas::figure(place, &id, &name, &epochs(epoch));
        Self {
            epoch,
            canvas,
            caption,
        }
    }
}

fn epochs(epoch: u32) -> String {
    match epoch {
        1 => "1 epoch".to_owned(),
        epoch => format!("{epoch} epochs"),
    }
}

/// The picture of the settings above, by one epoch after the other.
async fn sample_each(page: Page, pictures: Vec<Picture>) -> Result<(), End> {
    let mut picture = page.state().picture();
    picture.count = 1;
    for Picture {
        epoch,
        canvas,
        caption,
    } in &pictures
    {
        note(
            "learning",
            &format!("Sampling after {}.", epochs(*epoch)),
            false,
        );
        let job = Job {
            picture: picture.clone(),
            epoch: Some(*epoch),
            start: None,
        };
        let (x_0, _) = page
            .desk()
            .sample(job, |_, x_t| put_grey(canvas, x_t))
            .await?;
        put_grey(canvas, &x_0);
        set_text(
            caption,
            &format!("{}, seed {}", epochs(*epoch), picture.seed),
        );
    }
    Ok(())
}

/// The loss of the run whose weights these are.
async fn draw_curve(page: &Page) -> Result<(), String> {
    let log = dom::fetch_bytes("weights/log.jsonl", 1.0, |_| {}).await;
    let log = log.map_err(|reason| {
        format!("The log of the training run, weights/log.jsonl, could not be read ({reason}).")
    })?;
    let text = String::from_utf8_lossy(&log);
    let epochs: Vec<Epoch> = text.lines().filter_map(dom::parse_json).collect();
    let Some(last) = epochs.last() else {
        return Err("The log of the training run, weights/log.jsonl, is empty.".to_owned());
    };
    let plot = Plot::find("learning-chart");
    let (last, loss) = (f64::from(last.epoch), last.loss);
    let most = epochs.iter().map(|epoch| epoch.loss).fold(0.0, f64::max);
    let least = epochs.iter().map(|epoch| epoch.loss).fold(most, f64::min);
    let step = if last > 30.0 { 10 } else { 2 };
    let ticks: Vec<f64> = (0..=last as u32).step_by(step).map(f64::from).collect();
    let words = format!(
        "Loss over {last} epochs: it falls from {most:.3} in the first to {loss:.4} in the last."
    );
    describe(plot.place(), &words);
    let draw = {
        let page = page.clone();
        move || {
            let points = || epochs.iter().map(|e| (f64::from(e.epoch), e.loss));
            let y = Axis {
                logarithmic: true,
                ..Axis::linear(
                    "mean squared error",
                    [least * 0.95, most * 1.1],
                    &[0.04, 0.06, 0.08, 0.1, 0.15],
                )
            };
            let x = Axis::linear("epoch", [0.0, last], &ticks);
            let mut chart = Chart::new(x, y).line("one", points());
            let index = page.desk().index();
            for weights in index.iter().flat_map(|index| &index.models) {
                let epoch = f64::from(weights.epoch);
                let there = points().find(|point| point.0 == epoch);
                if let Some((x, y)) = there {
                    let word = weights.epoch.to_string();
                    chart = chart.points("one", [(x, y)]).word("one", x, y, &word);
                }
            }
            plot.show(chart);
        }
    };
    draw();
    page.watch(draw);
    Ok(())
}
