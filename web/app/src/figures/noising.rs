//! Figure 3, Noising: a real garment, or a drawn one, at any t; the schedule's curves; and from
//! there back again with the network.

use std::{cell::RefCell, rc::Rc};

use fashion_ddpm::{BetaSchedule, Gallery, Garment, NoiseSchedule, noise::IMAGE_SIZE};
use protocol::{Picture, Start};
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::spawn_local;
use web_sys::{
    Element, HtmlButtonElement, HtmlCanvasElement, HtmlElement, HtmlInputElement,
    HtmlSelectElement, KeyboardEvent, PointerEvent,
};

use crate::{
    canvas::{self, describe, put_grey, put_noise},
    chart::{Axis, Chart, power_of_ten},
    data,
    desk::{Control, End, Job, News},
    dom::{self, find, set_attribute, set_text},
    figures::note,
    noising::{At, Image, Pad, grey_levels_apart, noised},
    page::Page,
    plot::Plot,
    state::{Subject, decimal},
};

/// Results that are kept side by side.
const RESULTS: u32 = 6;

/// Half the width of the brush, in pixels of the 28.
const BRUSH: f64 = 1.0;

/// Starts the figure.
///
/// # Errors
/// None: without the real garments one can still draw.
pub async fn mount(page: Page) -> Result<(), String> {
    let figure = Rc::new(RefCell::new(Figure::new(page.clone())));
    listen(&figure);
    let watcher = figure.clone();
    page.watch(move || watcher.borrow_mut().render());
    figure.borrow_mut().render();
    match data::test_images("noising-load").await {
        Ok(gallery) => {
            let mut this = figure.borrow_mut();
            this.gallery = Some(gallery);
            this.show_subjects();
            this.render();
        }
        Err(reason) => {
            note("noising", &reason, true);
            page.change(|state| state.subject = Subject::Drawn);
        }
    }
    Ok(())
}

type Shared = Rc<RefCell<Figure>>;

struct Figure {
    page: Page,
    subjects: Element,
    x_0: HtmlCanvasElement,
    noise: HtmlCanvasElement,
    x_t: HtmlCanvasElement,
    slider: HtmlInputElement,
    t: Element,
    brush: HtmlSelectElement,
    pad_tools: HtmlElement,
    clear: HtmlButtonElement,
    weights: Plot,
    snr: Plot,
    numbers: Element,
    denoise: HtmlButtonElement,
    stop: HtmlButtonElement,
    result: HtmlCanvasElement,
    results: Element,
    gallery: Option<Rc<Gallery>>,
    pad: Pad,
    /// Where the last stroke ended, while one is drawn.
    stroke: Option<[f64; 2]>,
    /// The brush that the arrow keys move.
    key: [f64; 2],
    /// Whether they are what moves it now.
    by_keys: bool,
    /// What the curves were drawn for.
    drawn_curves: Option<(BetaSchedule, u32)>,
    /// Counts runs: each has other noise.
    runs: u32,
    running: bool,
    control: Option<Control>,
}

impl Figure {
    fn new(page: Page) -> Self {
        Self {
            page,
            subjects: find("noising-subjects"),
            x_0: find("noising-x-0"),
            noise: find("noising-noise"),
            x_t: find("noising-x-t"),
            slider: find("noising-t"),
            t: find("noising-t-value"),
            brush: find("noising-brush"),
            pad_tools: find("noising-pad"),
            clear: find("noising-clear"),
            weights: Plot::find("noising-weights"),
            snr: Plot::find("noising-snr"),
            numbers: find("noising-numbers"),
            denoise: find("noising-denoise"),
            stop: find("noising-stop"),
            result: find("noising-result"),
            results: find("noising-results"),
            gallery: None,
            pad: Pad::default(),
            stroke: None,
            key: [14.0; 2],
            by_keys: false,
            drawn_curves: None,
            runs: 0,
            running: false,
            control: None,
        }
    }

    /// The image under the noise, once it is there.
    fn image(&self) -> Option<Image> {
        match self.page.state().subject {
            Subject::Drawn => Some(self.pad.image()),
            Subject::Real { garment, which } => {
                let gallery = self.gallery.as_ref()?;
                Some(gallery.image(place_of(gallery, garment, which)?))
            }
        }
    }

    /// The garments to choose from, each a radio button with its picture.
    fn show_subjects(&self) {
        let Some(gallery) = &self.gallery else { return };
        for (garment, which) in Garment::ALL.into_iter().flat_map(|g| [(g, 1), (g, 2)]) {
            let id = format!("noising-{}", Subject::Real { garment, which }.slug());
            let Some(canvas) = dom::document().get_element_by_id(&id) else {
                continue;
            };
            if let Some(image) = place_of(gallery, garment, which) {
                put_grey(&canvas.unchecked_into(), &gallery.image(image));
            }
        }
    }

    fn t(&self) -> usize {
        self.page.state().noising_t as usize
    }

    fn render(&mut self) {
        let schedule = self.page.schedule();
        let (subject, t, seed) = {
            let state = self.page.state();
            (state.subject, state.noising_t, state.seed)
        };
        let t = t.min(schedule.timesteps() as u32);
        let radio = format!("input[value={}]", subject.slug());
        if let Ok(Some(radio)) = self.subjects.query_selector(&radio) {
            radio.unchecked_into::<HtmlInputElement>().set_checked(true);
        }
        let drawn = subject == Subject::Drawn;
        self.pad_tools.set_hidden(!drawn);
        let (role, name) = match drawn {
            true => ("application", "Drawing pad"),
            false => ("img", "x_0, the image"),
        };
        set_attribute(&self.x_0, "role", role);
        set_attribute(&self.x_0, "aria-label", name);
        match drawn {
            true => set_attribute(&self.x_0, "tabindex", "0"),
            false => {
                let _ = self.x_0.remove_attribute("tabindex");
            }
        }
        // Whoever draws is not interrupted: the state is what they have drawn.
        if self.stroke.is_none() && self.pad != self.page.state().drawing {
            self.pad = self.page.state().drawing.clone();
        }
        set_attribute(&self.slider, "max", &schedule.timesteps().to_string());
        if self.slider.value() != t.to_string() {
            self.slider.set_value(&t.to_string());
        }
        set_text(&self.t, &format!("t = {t}"));
        set_attribute(&self.slider, "aria-valuetext", &format!("t = {t}"));
        self.render_curves(&schedule, t);

        let ready = self.page.desk().is_ready();
        let image = self.image();
        self.denoise
            .set_disabled(!ready || self.running || t == 0 || image.is_none());
        self.stop.set_disabled(!self.running);
        let Some(x_0) = image else { return };
        let (x_t, noise) = noised(&schedule, &x_0, t as usize, seed);
        put_grey(&self.x_0, &x_0);
        put_noise(&self.noise, &noise);
        put_grey(&self.x_t, &x_t);
        if drawn {
            set_attribute(&self.x_0, "class", "drawing");
        }
        let at = At::new(&schedule, t as usize);
        let what = match subject {
            Subject::Drawn => self.drawing(),
            Subject::Real { garment, .. } => garment.name().to_owned(),
        };
        describe(&self.x_0, &what);
        describe(
            &self.x_t,
            &format!("{:.2} x₀ + {:.2} ε", at.image, at.noise),
        );
    }

    /// What is said of the drawing: with keys nothing else shows where the brush is.
    fn drawing(&self) -> String {
        let [column, row] = self.key.map(|place| place.floor() + 1.0);
        match self.by_keys {
            true => format!("Brush at column {column:.0}, row {row:.0}"),
            false => "The drawing".to_owned(),
        }
    }

    fn render_curves(&mut self, schedule: &NoiseSchedule, t: u32) {
        if self.drawn_curves == Some((schedule.kind(), t)) {
            return;
        }
        self.drawn_curves = Some((schedule.kind(), t));
        let timesteps = schedule.timesteps();
        let kinds = [BetaSchedule::Linear, BetaSchedule::Cosine];
        let tables = kinds.map(|kind| NoiseSchedule::new(kind, timesteps).ok());
        let cells = kinds.into_iter().zip(&tables).filter_map(|(kind, table)| {
            let at = At::new(table.as_ref()?, t as usize);
            let used = if kind == schedule.kind() { ", used here" } else { "" };
            Some(format!(
                "<tr><th scope=\"row\">{kind}{used}</th><td>{:.4}</td><td>{:.4}</td><td>{}</td></tr>",
                at.image,
                at.noise,
                ratio(at.snr),
            ))
        });
        self.numbers.set_inner_html(&cells.collect::<String>());

        let last = timesteps as f64;
        let quarters = [0.0, 0.25, 0.5, 0.75, 1.0];
        let axis = || Axis::linear("t", [0.0, last], &quarters.map(|q| q * last));
        let read = |table: &NoiseSchedule, value: fn(At) -> f64| {
            let moments = (0..=200).map(|i| i * timesteps / 200);
            let points = moments.map(|t| (t as f64, value(At::new(table, t))));
            points.collect::<Vec<_>>()
        };
        let mut weights = Chart::new(axis(), Axis::linear("weight", [0.0, 1.0], &[0.0, 0.5, 1.0]));
        let mut snr = Chart::new(
            axis(),
            Axis {
                label: "SNR",
                range: [1e-9, 1e4],
                logarithmic: true,
                ticks: vec![1e-8, 1e-4, 1.0, 1e4],
            },
        );
        for (table, class) in tables.iter().flatten().zip(["one", "two"]) {
            weights = weights
                .line(class, read(table, |at| at.image))
                .line(&format!("{class} noise"), read(table, |at| at.noise));
            snr = snr.line(class, read(table, |at| at.snr));
        }
        self.weights.show(weights.cursor(t.into()));
        self.snr.show(snr.cursor(t.into()));
    }

    fn paint_with(&mut self, to: [f64; 2]) {
        let from = self.stroke.unwrap_or(to);
        let level = decimal(&self.brush.value()).unwrap_or(1.0);
        let radius = if level > 0.0 { BRUSH } else { 1.5 * BRUSH };
        self.pad.stroke(from, to, radius, level);
    }

    /// Puts the drawing into the state; into the link, once a stroke is over.
    fn keep_drawing(&self, done: bool) {
        let drawing = self.pad.clone();
        match done {
            true => self.page.settle(|state| state.drawing = drawing),
            false => self.page.change(|state| state.drawing = drawing),
        }
    }

    /// What the engine is asked for: the way back from here, on another branch each time.
    fn job(&mut self) -> Option<(Job, Image)> {
        let x_0 = self.image()?;
        let schedule = self.page.schedule();
        let t = self.t().min(schedule.timesteps());
        let (seed, from) = (self.page.state().seed, t.checked_sub(1)?);
        let (x_t, _) = noised(&schedule, &x_0, t, seed);
        let branch = self.runs;
        self.runs += 1;
        let picture = Picture {
            seed,
            garment: "any".to_owned(),
            sampler: "ddpm".to_owned(),
            steps: schedule.timesteps() as u32,
            guidance: 1.0,
            count: 1,
        };
        let start = Start {
            t: from as u32,
            branches: vec![branch],
        };
        let job = Job {
            picture,
            epoch: None,
            start: Some((start, x_t)),
        };
        Some((job, x_0))
    }

    /// Keeps a result beside those before it.
    fn keep(&self, t: usize, x: &[f32], x_0: &[f32]) {
        while self.results.child_element_count() >= RESULTS
            && let Some(oldest) = self.results.first_element_child()
        {
            oldest.remove();
        }
        let apart = grey_levels_apart(x, x_0);
        let id = format!("noising-result-{}", self.runs);
        let name = format!("Denoised from t = {t}");
        let caption = format!("t = {t}: {apart:.0} levels off");
        let (canvas, _) = canvas::figure(&self.results, &id, &name, &caption);
        put_grey(&canvas, x);
    }
}

/// Where in the gallery a garment's first or second image is.
fn place_of(gallery: &Gallery, garment: Garment, which: usize) -> Option<usize> {
    let labels = gallery.labels().iter().enumerate();
    let mut of_class = labels.filter(|(_, label)| **label == garment);
    of_class.nth(which.checked_sub(1)?).map(|(image, _)| image)
}

/// A signal-to-noise ratio, to three digits.
fn ratio(snr: f64) -> String {
    match snr {
        snr if snr.is_infinite() => "no noise".to_owned(),
        snr if snr >= 100.0 => format!("{snr:.0}"),
        snr if snr >= 0.01 => format!("{snr:.3}"),
        snr => {
            let power = snr.log10().floor() as i32;
            format!("{:.2} × {}", snr / 10f64.powi(power), power_of_ten(power))
        }
    }
}

async fn denoise(figure: Shared) {
    let (job, x_0, t, page, result) = {
        let mut this = figure.borrow_mut();
        let t = this.t();
        let Some((job, x_0)) = this.job() else { return };
        this.running = true;
        this.render();
        (job, x_0, t, this.page.clone(), this.result.clone())
    };
    let mut run = page.desk().start(job, false);
    figure.borrow_mut().control = Some(run.control());
    note("noising", &format!("Denoising from t = {t}."), false);
    let mut steps = Vec::new();
    let outcome: Result<Image, End> = loop {
        match run.next().await {
            Ok(News::Started(plan)) => steps = plan,
            Ok(News::Frames { first, x_t, .. }) => {
                let frames = x_t.len() / (IMAGE_SIZE * IMAGE_SIZE);
                if let Some(x) = x_t.chunks(IMAGE_SIZE * IMAGE_SIZE).next_back() {
                    put_grey(&result, x);
                }
                let newest = (first + frames).saturating_sub(1);
                let t = steps.get(newest).map_or(0, |step| step.t + 1);
                describe(&result, &format!("t = {t}"));
            }
            Ok(News::Done { x_0, .. }) => break Ok(x_0),
            Err(end) => break Err(end),
        }
    };
    let mut this = figure.borrow_mut();
    this.running = false;
    // Whoever pressed Stop has taken it.
    let stopped = this.control.take().is_none();
    match outcome {
        Ok(x) => {
            put_grey(&result, &x);
            let apart = grey_levels_apart(&x, &x_0);
            let text = format!(
                "From t = {t} the network came back to a picture {apart:.0} grey levels away from \
                 the one before the noise."
            );
            describe(&result, "t = 0");
            note("noising", &text, false);
            this.keep(t, &x, &x_0);
        }
        Err(_) if stopped => note("noising", "Stopped.", false),
        Err(end) => note("noising", &end.to_string(), end != End::Taken),
    }
    this.render();
}

fn listen(figure: &Shared) {
    let page = figure.borrow().page.clone();
    let this = figure.borrow();
    let (slider, shared) = (this.slider.clone(), page.clone());
    dom::listen(&this.slider, "input", move |_| {
        let t = slider.value().parse().unwrap_or_default();
        shared.change(|state| state.noising_t = t);
    });
    let shared = page.clone();
    dom::listen(&this.slider, "change", move |_| shared.settle(|_| {}));
    dom::listen(&this.subjects, "change", move |event| {
        let chosen = event
            .target()
            .and_then(|target| target.dyn_into::<HtmlInputElement>().ok());
        if let Some(subject) = chosen.and_then(|radio| Subject::parse(&radio.value())) {
            page.settle(|state| state.subject = subject);
        }
    });
    let shared = figure.clone();
    dom::listen(&this.denoise, "click", move |_| {
        spawn_local(denoise(shared.clone()))
    });
    let shared = figure.clone();
    dom::listen(&this.stop, "click", move |_| {
        let control = shared.borrow_mut().control.take();
        if let Some(control) = control {
            control.stop();
        }
    });
    let page_of_pad = this.page.clone();
    dom::listen(&this.clear, "click", move |_| {
        page_of_pad.settle(|state| state.drawing = Pad::default());
    });

    let on_pad = |kind: &str, change: fn(&mut Figure, &PointerEvent)| {
        let figure = figure.clone();
        dom::listen(&this.x_0, kind, move |event| {
            let mut figure = figure.borrow_mut();
            if figure.page.state().subject == Subject::Drawn {
                change(&mut figure, &event.unchecked_into());
            }
        });
    };
    on_pad("pointerdown", |figure, event| {
        let _ = figure.x_0.set_pointer_capture(event.pointer_id());
        let at = place(&figure.x_0, event);
        figure.by_keys = false;
        figure.stroke = Some(at);
        figure.paint_with(at);
        figure.render();
    });
    on_pad("pointermove", |figure, event| {
        if figure.stroke.is_some() {
            let at = place(&figure.x_0, event);
            figure.paint_with(at);
            figure.stroke = Some(at);
            figure.render();
        }
    });
    for kind in ["pointerup", "pointercancel"] {
        on_pad(kind, |figure, _| {
            if figure.stroke.take().is_some() {
                figure.keep_drawing(true);
            }
        });
    }
    let keys = figure.clone();
    dom::listen(&this.x_0, "keydown", move |event| {
        let event: KeyboardEvent = event.unchecked_into();
        let mut figure = keys.borrow_mut();
        if figure.page.state().subject != Subject::Drawn {
            return;
        }
        let Some(way) = dom::way(&event) else { return };
        event.prevent_default();
        event.stop_propagation();
        figure.by_keys = true;
        figure.key = [0, 1].map(|i| (figure.key[i] + f64::from(way[i])).clamp(0.5, 27.5));
        let key = figure.key;
        // With Shift held, moving draws.
        if way == [0.0, 0.0] || event.shift_key() {
            figure.paint_with(key);
            figure.keep_drawing(false);
        }
        describe(&figure.x_0, &figure.drawing());
    });
    let keys = figure.clone();
    dom::listen(&this.x_0, "blur", move |_| {
        if let Ok(mut figure) = keys.try_borrow_mut() {
            figure.by_keys = false;
            figure.render();
        }
    });
    // A key that is held paints on; the link has it when it is let go.
    let keys = figure.clone();
    dom::listen(&this.x_0, "keyup", move |_| {
        let figure = keys.borrow();
        if figure.by_keys {
            figure.keep_drawing(true);
        }
    });
}

fn place(pad: &HtmlCanvasElement, event: &PointerEvent) -> [f64; 2] {
    let scale =
        |offset: i32, length: i32| f64::from(offset) / f64::from(length.max(1)) * IMAGE_SIZE as f64;
    [
        scale(event.offset_x(), pad.client_width()),
        scale(event.offset_y(), pad.client_height()),
    ]
}
