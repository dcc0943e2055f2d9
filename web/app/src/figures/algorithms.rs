//! Figure 4, Algorithms 1 and 2: one training example at a time, and the numbers of the step that
//! figure 1 shows.

use std::{cell::RefCell, rc::Rc};

use fashion_ddpm::{
    Gallery, NoiseSchedule,
    diffusion::q_sample,
    noise::gaussian,
    sampler::{self, Step},
};
use protocol::Picture;
use web_sys::{Element, HtmlButtonElement, HtmlCanvasElement};

use super::{
    on_press,
    sampling::{self, grouped},
};
use crate::{
    canvas::{self, describe, put_grey, put_noise},
    chart::{Axis, Chart},
    data,
    desk::End,
    dom::{self, find, set_attribute, set_text},
    page::Page,
    plot::Plot,
    store::{Frames, PIXELS},
};

/// Examples of a longer press.
const MANY: usize = 25;

/// Starts the figure.
///
/// # Errors
/// Why there are no examples; Algorithm 2 works without.
pub async fn mount(page: Page) -> Result<(), String> {
    let step = Rc::new(RefCell::new(StepShown::new(page.clone())));
    sampling::watch({
        let step = step.clone();
        move || step.borrow_mut().show()
    });
    step.borrow_mut().show();
    let button: HtmlButtonElement = find("one-step");
    let follow = {
        let (page, button) = (page.clone(), button.clone());
        move || {
            button.set_disabled(!page.desk().is_ready());
            if let Some(model) = page.model() {
                set_text(&find("parameters"), &grouped(model.parameters));
            }
        }
    };
    follow();
    page.watch(follow);
    dom::listen(&button, "click", |_| sampling::step());

    let gallery = data::test_images("algorithms-load").await?;
    let examples = Rc::new(Examples::new(page.clone(), gallery));
    for (button, count) in [("example", 1), ("examples", MANY)] {
        let examples = examples.clone();
        on_press(&page, "algorithms", button, move || {
            take(examples.clone(), count)
        });
    }
    Ok(())
}

/// Marks the line of an algorithm that is being executed.
fn mark(algorithm: &str, current: &str) {
    let lines: Vec<Element> = dom::all(&format!("#{algorithm} [data-line]"));
    for line in lines {
        let name = line.get_attribute("data-line").unwrap_or_default();
        let within = line.class_list().contains("in");
        set_attribute(
            &line,
            "class",
            match (within, name == current) {
                (true, true) => "in current",
                (true, false) => "in",
                (false, true) => "current",
                (false, false) => "",
            },
        );
    }
}

/// The length of a list of numbers as a vector.
fn norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|v| f64::from(*v).powi(2))
        .sum::<f64>()
        .sqrt()
}

// Algorithm 1.

/// Examples of Algorithm 1, and the errors so far.
struct Examples {
    page: Page,
    gallery: Rc<Gallery>,
    pictures: [HtmlCanvasElement; 5],
    plot: Plot,
    /// t as the lecture counts it, and the squared error.
    points: RefCell<Vec<(f64, f64)>>,
}

impl Examples {
    fn new(page: Page, gallery: Rc<Gallery>) -> Self {
        let place: Element = find("example-pictures");
        let names = [
            ("x-0", "Example: x_0", "x₀, the image"),
            ("noise", "Example: noise", "ε, the noise"),
            ("x-t", "Example: x_t", "xₜ, mixed"),
            ("pred", "Example: predicted noise", "the answer"),
            ("error", "Example: squared error", "its error"),
        ];
        let pictures = names.map(|(id, name, caption)| {
            canvas::figure(&place, &format!("example-{id}-picture"), name, caption).0
        });
        let examples = Self {
            page,
            gallery,
            pictures,
            plot: Plot::find("example-chart"),
            points: RefCell::default(),
        };
        examples.draw();
        examples
    }

    /// Error against t, over all presses.
    fn draw(&self) {
        let points = self.points.borrow();
        let x = Axis::linear("t", [0.0, 1000.0], &[1.0, 250.0, 500.0, 750.0, 1000.0]);
        let y = Axis::logarithmic("squared error", [1e-5, 3.0]);
        let mut chart = Chart::new(x, y).points("one", points.iter().copied());
        if let Some(last) = points.last() {
            chart = chart.points("two", [*last]);
            let mean = |low: f64, high: f64| {
                let within: Vec<f64> = (points.iter())
                    .filter(|(t, _)| (low..high).contains(t))
                    .map(|(_, error)| *error)
                    .collect();
                match within.len() {
                    0 => "none yet".to_owned(),
                    n => format!("{:.4}", within.iter().sum::<f64>() / n as f64),
                }
            };
            let words = format!(
                "{} examples. Mean error for t up to 100: {}; from 100 to 500: {}; above: {}.",
                points.len(),
                mean(0.0, 100.0),
                mean(100.0, 500.0),
                mean(500.0, 1001.0),
            );
            describe(self.plot.place(), &words);
        }
        self.plot.show(chart);
    }
}

/// Takes so many examples, and shows each.
async fn take(examples: Rc<Examples>, count: usize) -> Result<(), End> {
    let page = &examples.page;
    for _ in 0..count {
        let schedule = page.schedule();
        let number = examples.points.borrow().len() as u32;
        let image = dom::any_seed() as usize % examples.gallery.len();
        let t = dom::any_seed() as usize % schedule.timesteps();
        let seed = page.state().seed;
        let x_0 = examples.gallery.image(image);
        let label = examples.gallery.labels()[image];
        let noise = gaussian(seed, number, 0, t);
        let x_t = q_sample(&schedule, &x_0, t, &noise);
        let [on_x_0, on_noise, on_x_t, on_pred, on_error] = &examples.pictures;

        mark("algorithm-1", "loss");
        let text = |id: &str, text: String| set_text(&find::<Element>(id), &text);
        text(
            "example-x-0",
            format!("image {}, {}", image + 1, label.slug()),
        );
        text("example-t", format!("t = {}", t + 1));
        text("example-noise", format!("‖ε‖ = {:.2}", norm(&noise)));
        text("example-loss", String::new());
        put_grey(on_x_0, &x_0);
        put_noise(on_noise, &noise);
        put_grey(on_x_t, &x_t);

        let picture = Picture {
            seed,
            garment: label.slug().to_owned(),
            sampler: "ddpm".to_owned(),
            steps: 1,
            guidance: 1.0,
            count: 1,
        };
        let answer = page.desk().ask(picture, None, t as u32, x_t).await?;
        let errors: Vec<f32> = (noise.iter().zip(&answer))
            .map(|(noise, answer)| (noise - answer).powi(2))
            .collect();
        let error = errors.iter().map(|e| f64::from(*e)).sum::<f64>() / PIXELS as f64;
        put_noise(on_pred, &answer);
        // Black is none, white is 1 and more.
        let shades: Vec<f32> = errors.iter().map(|e| e.min(1.0) * 2.0 - 1.0).collect();
        put_grey(on_error, &shades);
        text(
            "example-loss",
            format!("= {:.2}, per pixel {error:.5}", error * PIXELS as f64),
        );
        examples.points.borrow_mut().push((t as f64 + 1.0, error));
        examples.draw();
    }
    Ok(())
}

// Algorithm 2.

/// The step that figure 1 shows, with its numbers.
struct StepShown {
    page: Page,
    pictures: [HtmlCanvasElement; 3],
    values: Vec<Element>,
    /// The plan of the run that is shown, and which picture's it is.
    plan: Option<(Picture, Vec<Step>)>,
}

impl StepShown {
    fn new(page: Page) -> Self {
        let place: Element = find("step-pictures");
        let pictures = [
            ("before", "State before the step", "before"),
            ("answer", "The network’s answer", "the answer"),
            ("after", "State after the step", "after"),
        ]
        .map(|(id, name, caption)| canvas::figure(&place, &format!("step-{id}"), name, caption).0);
        Self {
            page,
            pictures,
            values: dom::all("#step-numbers td"),
            plan: None,
        }
    }

    fn show(&mut self) {
        let (page, plan) = (&self.page, &mut self.plan);
        sampling::look(|frames, stop| {
            let schedule = page.schedule();
            if plan.as_ref().is_none_or(|(of, _)| *of != frames.picture) {
                let sampler: Option<sampler::Sampler> = frames.picture.sampler.parse().ok();
                let steps = frames.picture.steps as usize;
                let steps = sampler.and_then(|sampler| sampler.plan(&schedule, steps).ok());
                *plan = Some((frames.picture.clone(), steps.unwrap_or_default()));
            }
            let steps = plan.as_ref().map_or(&[][..], |(_, steps)| steps);
            show_step(&self.pictures, &self.values, &schedule, steps, frames, stop);
        });
    }
}

fn show_step(
    [before, answer, after]: &[HtmlCanvasElement; 3],
    values: &[Element],
    schedule: &NoiseSchedule,
    plan: &[Step],
    frames: &Frames,
    stop: usize,
) {
    let last = plan.len();
    let now: Element = find("now");
    mark(
        "algorithm-2",
        match stop {
            0 => "start",
            stop if stop >= last => "end",
            _ => "step",
        },
    );
    // The garment stands beside the step that made it.
    let index = stop.min(last.saturating_sub(1));
    let (Some(step), Some(x_t)) = (plan.get(index), frames.x(index)) else {
        return;
    };
    set_text(
        &now,
        &format!("t = {}", if stop >= last { 0 } else { step.t + 1 }),
    );
    let first = |x: &[f32]| x[..PIXELS.min(x.len())].to_vec();
    let next = frames.x(index + 1);
    let prediction = frames.prediction(index);
    let noise: Option<Vec<f32>> =
        prediction.map(|p| p.noise.iter().take(PIXELS).map(|v| v.to_f32()).collect());
    put_grey(before, &first(&x_t));
    match &noise {
        Some(noise) => put_noise(answer, noise),
        None => set_attribute(answer, "class", "pending"),
    }
    match &next {
        Some(next) => put_grey(after, &first(next)),
        None => set_attribute(after, "class", "pending"),
    }
    let to = plan.get(index + 1).map(|next| next.t);
    let alpha_cumprod = schedule.alphas_cumprod()[step.t];
    let alpha = alpha_cumprod / schedule.alpha_cumprod(to);
    let z = (step.noise != 0.0).then(|| gaussian(frames.picture.seed, 0, 0, step.t));
    let length = |x: &[f32]| format!("{:.2}", norm(x));
    let unknown = || "\u{2013}".to_owned();
    let words = [
        (step.t + 1).to_string(),
        format!("{alpha:.6}"),
        format!("{alpha_cumprod:.6}"),
        format!("{:.6}", step.noise),
        length(&first(&x_t)),
        noise.as_deref().map_or_else(unknown, length),
        z.as_deref().map_or_else(|| "0".to_owned(), length),
        next.map_or_else(unknown, |next| length(&first(&next))),
    ];
    for (value, word) in values.iter().zip(words) {
        set_text(value, &word);
    }
    let from = step.t + 1;
    let to = to.map_or(0, |t| t + 1);
    let clipped = prediction.map_or(0.0, |prediction| prediction.clipped);
    let mut remark = match frames.picture.sampler.as_str() {
        "ddpm" if from - to == 1 => format!("Line 4 takes the image from t = {from} to {to}."),
        "ddpm" => format!("Respaced: one step from t = {from} to {to}."),
        "ddim" => format!("DDIM takes another line 4, from t = {from} to {to} at once."),
        _ => format!("DPM-Solver++ takes another line 4, from t = {from} to {to} at once."),
    };
    if clipped > 0.0 {
        remark += &format!(
            " Clipping changed x̂₀ in {:.0} % of its pixels.",
            100.0 * f64::from(clipped)
        );
    }
    set_text(&find::<Element>("remark"), &remark);
}
