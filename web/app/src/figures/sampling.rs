//! Figure 1, Sampling: one run of the reverse process, to play, pause, step and rewind.
//!
//! There is one [`Sampling`]. Whatever happens, a click, news of the run, a refresh of the display,
//! goes through [`act`]: it changes the figure's state, then everything that is to be seen is
//! brought up to date, and then whoever embeds the page, and figures that look on, are told.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use fashion_ddpm::sampler::{to_pixel, to_pixels};
use js_sys::Reflect;
use protocol::{ErrorCode, Picture};
use serde::Serialize;
use wasm_bindgen::{JsCast, prelude::*};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{
    Element, FocusOptions, HtmlAnchorElement, HtmlButtonElement, HtmlCanvasElement, HtmlElement,
    HtmlInputElement, HtmlOptionElement, HtmlSelectElement,
};

use crate::{
    animation,
    canvas::{self, context, describe, put},
    desk::{Control, End, Job, News},
    dom::{self, find, set_attribute, set_text, window},
    draw,
    page::Page,
    player::{Phase, Player, Speed},
    state::{Sampler, decimal, garment},
    store::{Frames, Prediction},
};

/// How long somebody rests on a frame before the network is asked about it again.
const REST_MS: i32 = 120;

/// How often the picture changes, at most, for those who asked their system for less motion.
const CALM_MS: f64 = 500.0;

/// Pictures of the strip below: the lecture's ten, from noise to garment.
pub const STRIP: usize = 10;

thread_local! {
    static SAMPLING: RefCell<Option<Sampling>> = const { RefCell::new(None) };
    static ONLOOKERS: RefCell<Vec<Rc<dyn Fn()>>> = const { RefCell::new(Vec::new()) };
}

/// Starts the figure.
///
/// # Errors
/// None.
pub async fn mount(page: Page) -> Result<(), String> {
    SAMPLING.set(Some(Sampling::new(page.clone())));
    listen();
    act(Sampling::draw_idle);
    page.watch(|| act(Sampling::follow_page));
    Ok(())
}

/// Calls back whenever another stop of the run is shown, or more of it is there; [`look`] says what.
pub fn watch(onlooker: impl Fn() + 'static) {
    ONLOOKERS.with_borrow_mut(|onlookers| onlookers.push(Rc::new(onlooker)));
}

/// Shows the run so far, and the stop that is shown of it. `None` before the first one, and from
/// within this figure.
pub fn look<T>(show: impl FnOnce(&Frames, usize) -> T) -> Option<T> {
    SAMPLING.with(|cell| {
        let sampling = cell.try_borrow().ok()?;
        let sampling = sampling.as_ref()?;
        let frames = sampling.frames.as_ref()?;
        Some(show(frames, sampling.player.shown()?))
    })
}

/// Presses the figure's main button, for other figures that need a run.
pub fn press_sample() {
    act(Sampling::press);
}

/// Whether a run is going on or being shown.
pub fn is_busy() -> bool {
    SAMPLING.with(|cell| {
        let sampling = cell.try_borrow().ok();
        let phase = sampling.and_then(|sampling| Some(sampling.as_ref()?.player.phase()));
        matches!(phase, Some(Phase::Running | Phase::Paused))
    })
}

/// The number of the run that [`look`] shows: another run has another one.
pub fn run_number() -> u32 {
    SAMPLING
        .with(|cell| {
            let sampling = cell.try_borrow().ok();
            sampling.and_then(|sampling| Some(sampling.as_ref()?.run))
        })
        .unwrap_or_default()
}

/// Takes one step of the run, a new one where there is none; a run that plays is paused first.
pub fn step() {
    act(|sampling| match sampling.player.phase() {
        Phase::Running => sampling.pause_or_resume(),
        Phase::Paused => sampling.next_step(),
        Phase::Idle | Phase::Over => {
            sampling.press();
            sampling.pause_or_resume();
            sampling.next_step();
        }
    });
}

/// Does something to the figure, then shows and tells what follows from it.
fn act(change: impl FnOnce(&mut Sampling) + 'static) {
    act_boxed(Box::new(change));
}

/// [`act`], once for all that is done: as many copies would be a tenth of the program.
fn act_boxed(change: Box<dyn FnOnce(&mut Sampling)>) {
    SAMPLING.with(|cell| {
        let Ok(mut borrowed) = cell.try_borrow_mut() else {
            // From within an event that is being handled: right after it.
            spawn_local(async move { act_boxed(change) });
            return;
        };
        let Some(sampling) = borrowed.as_mut() else {
            return;
        };
        change(sampling);
        sampling.render();
        let outbox = std::mem::take(&mut sampling.outbox);
        let player = &sampling.player;
        let seen = (sampling.painted, player.computed(), player.phase());
        let news = std::mem::replace(&mut sampling.seen, seen) != seen;
        drop(borrowed);
        for (kind, detail) in outbox {
            dom::dispatch(kind, &detail);
        }
        if news {
            let onlookers = ONLOOKERS.with_borrow(Vec::clone);
            for onlooker in onlookers {
                onlooker();
            }
        }
    });
}

/// Details of the events for those who embed the page.
mod told {
    use super::Serialize;

    #[derive(Serialize)]
    pub struct Frame {
        pub t: u32,
        pub index: usize,
    }

    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    pub struct Done<'a> {
        pub seed: u32,
        pub garment: &'a str,
        pub sampler: &'a str,
        pub steps: u32,
        pub elapsed_ms: f64,
    }
}

/// Everything on the page that changes.
struct Elements {
    section: Element,
    sample: HtmlButtonElement,
    pause: HtmlButtonElement,
    next: HtmlButtonElement,
    stop: HtmlButtonElement,
    replay: HtmlButtonElement,
    new_seed: HtmlButtonElement,
    copy_link: HtmlButtonElement,
    save_image: HtmlButtonElement,
    save_gif: HtmlButtonElement,
    playback: HtmlSelectElement,
    garment: HtmlSelectElement,
    sampler: HtmlSelectElement,
    count: HtmlSelectElement,
    epoch: HtmlSelectElement,
    seed: HtmlInputElement,
    steps: HtmlInputElement,
    guidance: HtmlInputElement,
    timestep: HtmlInputElement,
    process: HtmlElement,
    eta: Element,
    steps_value: Element,
    guidance_value: Element,
    t: Element,
    caption: Element,
    model: Element,
    strip: Vec<HtmlCanvasElement>,
    x_t: HtmlCanvasElement,
    pred_noise: HtmlCanvasElement,
    pred_x_0: HtmlCanvasElement,
}

impl Elements {
    fn find() -> Self {
        Self {
            section: find("sampling"),
            sample: find("sample"),
            pause: find("pause"),
            next: find("next"),
            stop: find("stop"),
            replay: find("replay"),
            new_seed: find("new-seed"),
            copy_link: find("copy-link"),
            save_image: find("save-image"),
            save_gif: find("save-gif"),
            playback: find("playback"),
            garment: find("garment"),
            sampler: find("sampler"),
            count: find("count"),
            epoch: find("epoch"),
            seed: find("seed"),
            steps: find("steps"),
            guidance: find("guidance"),
            timestep: find("timestep"),
            process: find("process"),
            eta: find("eta"),
            steps_value: find("steps-value"),
            guidance_value: find("guidance-value"),
            t: find("t"),
            caption: find("x-t-caption"),
            model: find("model"),
            strip: make_strip(),
            x_t: find("x-t"),
            pred_noise: find("pred-noise"),
            pred_x_0: find("pred-x-0"),
        }
    }
}

/// What is painted: of which run which stop, and whether with the network's answer.
type Painted = (u32, usize, bool);

/// The figure's state, all of it.
struct Sampling {
    page: Page,
    elements: Elements,
    autoplayed: bool,
    run: u32,
    control: Option<Control>,
    /// Of the run: the controls may say something else by now.
    picture: Picture,
    run_epoch: Option<u32>,
    player: Player,
    frames: Option<Frames>,
    pace: Pace,
    ticking: bool,
    painted: Option<Painted>,
    /// What onlookers have been told of: what is painted, how much there is, and whether it goes on.
    seen: (Option<Painted>, usize, Phase),
    painted_at: f64,
    /// Pictures of the strip that are painted, and of which run.
    strip: (u32, Vec<bool>),
    /// The frame that the network has been asked about.
    asked: Option<(u32, usize)>,
    /// Counts rests: only the last one is a rest.
    rest: u32,
    outbox: Vec<(&'static str, JsValue)>,
}

impl Sampling {
    fn new(page: Page) -> Self {
        let picture = page.state().picture();
        let sampling = Self {
            page,
            elements: Elements::find(),
            autoplayed: false,
            run: 0,
            control: None,
            picture,
            run_epoch: None,
            player: Player::default(),
            frames: None,
            pace: Pace::default(),
            ticking: false,
            painted: None,
            seen: (None, 0, Phase::Idle),
            painted_at: 0.0,
            strip: (0, Vec::new()),
            asked: None,
            rest: 0,
            outbox: Vec::new(),
        };
        sampling.set_controls();
        sampling
    }

    /// Brings the controls in line with the state.
    fn set_controls(&self) {
        let (elements, state) = (&self.elements, self.page.state());
        let set = |input: &HtmlInputElement, value: f64| {
            // Whoever types is not to be interrupted. A number that they have typed is the state's, unless
            // they have gone back or forward since.
            let typing = dom::document()
                .active_element()
                .is_some_and(|e| e.id() == input.id());
            let said = input.value_as_number();
            let other = said != value && !said.is_nan() && input.check_validity();
            if !typing || other {
                input.set_value(&value.to_string());
            }
        };
        elements.garment.set_value(state.garment);
        set(&elements.seed, state.seed.into());
        elements.count.set_value(&state.count.to_string());
        elements.sampler.set_value(state.sampler.slug());
        set(&elements.steps, state.steps.into());
        set(&elements.guidance, state.guidance);
        if let Some(epoch) = state.epoch {
            elements.epoch.set_value(&epoch.to_string());
        }
    }

    /// Something about the page has changed: the state, the weights, the engine.
    fn follow_page(&mut self) {
        let epochs = &self.elements.epoch;
        if let Some(index) = self.page.desk().index()
            && epochs.get_attribute("data-filled").is_none()
        {
            epochs.set_length(0);
            for model in &index.models {
                let word = model.epoch.to_string();
                if let Ok(option) = HtmlOptionElement::new_with_text_and_value(&word, &word) {
                    let _ = epochs.append_child(&option);
                }
            }
            set_attribute(epochs, "data-filled", "");
        }
        self.set_controls();
        if let Some(model) = self.page.model() {
            self.elements.steps.set_max(&model.timesteps.to_string());
            let text = format!(
                "The network is a U-Net with {} numbers, trained on the 60,000 photographs of \
                 Fashion-MNIST: {}, {} images in all. Its schedule is {}, with T = {}.",
                grouped(model.parameters),
                plural(model.epoch, "epoch"),
                grouped(model.images_seen),
                model.schedule,
                model.timesteps,
            );
            set_text(&self.elements.model, &text);
        }
        if self.page.desk().is_ready() && self.page.state().autoplay && !self.autoplayed {
            self.autoplayed = true;
            self.sample();
        }
    }

    // What the run says.

    fn hear(&mut self, run: u32, news: Result<News, End>) {
        if run != self.run || self.player.has_ended() {
            return;
        }
        match news {
            Ok(News::Started(steps)) => {
                self.frames = Some(Frames::new(self.picture.clone(), self.run_epoch, steps));
            }
            Ok(News::Frames {
                first,
                x_t,
                pred_noise,
            }) => self.take_frames(first, &x_t, &pred_noise),
            Ok(News::Done { x_0, elapsed_ms }) => self.take_garment(x_0, elapsed_ms),
            Err(end) => {
                self.control = None;
                self.player.stop();
                match end {
                    End::Taken => self.page.say(end.to_string()),
                    // A failure of all is told by the page.
                    End::Failed(message) if self.page.desk().is_ready() => {
                        self.page.complain(ErrorCode::Picture, &message);
                    }
                    End::Failed(_) => {}
                }
            }
        }
    }

    fn take_frames(&mut self, first: usize, x_t: &[f32], pred_noise: &[f32]) {
        let Some(frames) = &mut self.frames else {
            return;
        };
        if first != frames.len() {
            return;
        }
        let taken = frames.add(x_t, pred_noise);
        for index in first..first + taken {
            let t = frames.steps[index].t;
            let frame = dom::plain(&told::Frame { t, index });
            self.outbox.push(("ddpm:frame", frame));
        }
        self.player.add_frames(taken);
        self.pace.computed(dom::now(), self.player.computed());
    }

    fn take_garment(&mut self, x_0: Vec<f32>, elapsed_ms: f64) {
        let Some(frames) = &mut self.frames else {
            return;
        };
        let pixels = to_pixels(&x_0);
        frames.finish(x_0);
        let picture = &frames.picture;
        let detail = dom::plain(&told::Done {
            seed: picture.seed,
            garment: &picture.garment,
            sampler: &picture.sampler,
            steps: picture.steps,
            elapsed_ms,
        });
        let _ = Reflect::set(&detail, &"pixels".into(), &dom::bytes(&pixels));
        self.outbox.push(("ddpm:done", detail));
        let message = format!(
            "{} computed in {}, {} each.",
            plural(picture.steps, "step"),
            duration(elapsed_ms),
            duration(elapsed_ms / f64::from(picture.steps.max(1))),
        );
        self.page.say(message);
        self.control = None;
        self.player.finish();
    }

    // What people do.

    fn press(&mut self) {
        self.page.heed();
        self.sample();
    }

    fn sample(&mut self) {
        let busy = matches!(self.player.phase(), Phase::Running | Phase::Paused);
        if !self.page.desk().is_ready() || busy {
            return;
        }
        self.run += 1;
        self.frames = None;
        self.asked = None;
        self.picture = self.page.state().picture();
        self.run_epoch = self.page.desk().preferred();
        self.player.begin(self.picture.steps as usize);
        self.pace = Pace::default();
        self.page
            .say(format!("Sampling, seed {}.", self.picture.seed));
        self.page.write_address();
        let job = Job {
            picture: self.picture.clone(),
            epoch: self.run_epoch,
            start: None,
        };
        let mut run = self.page.desk().start(job, false);
        self.control = Some(run.control());
        let number = self.run;
        spawn_local(async move {
            loop {
                let news = run.next().await;
                let over = matches!(news, Ok(News::Done { .. }) | Err(_));
                act(move |sampling| sampling.hear(number, news));
                if over {
                    return;
                }
            }
        });
    }

    fn pause_or_resume(&mut self) {
        let control = self.control.as_ref().filter(|_| !self.player.has_ended());
        match self.player.phase() {
            Phase::Running => {
                if let Some(control) = control {
                    control.pause();
                }
                self.player.pause();
                self.page.say(match self.t() {
                    Some(t) => format!("Paused at t = {t}."),
                    None => "Paused.".to_owned(),
                });
            }
            Phase::Paused => {
                if let Some(control) = control {
                    control.resume();
                }
                self.player.resume();
                self.pace = Pace::default();
                self.page.say("");
            }
            Phase::Idle | Phase::Over => {}
        }
    }

    fn next_step(&mut self) {
        if self.player.next_step()
            && let Some(control) = &self.control
        {
            control.step();
        }
    }

    fn stop(&mut self) {
        let ended = self.player.has_ended();
        self.player.stop();
        if let Some(control) = self.control.take().filter(|_| !ended) {
            control.stop();
        }
        self.page.say(match self.t() {
            Some(t) => format!("Stopped at t = {t}."),
            None => "Stopped.".to_owned(),
        });
    }

    fn scrub(&mut self, stop: usize) {
        self.player.scrub(stop);
    }

    fn choose_epoch(&mut self, epoch: Option<u32>) {
        let chosen = self.page.state().epoch;
        let Some(epoch) = epoch.filter(|_| epoch != chosen) else {
            return;
        };
        self.page.settle(|state| state.epoch = Some(epoch));
        // Where data are saved they may wait for the engine.
        if self.page.desk().engine().is_some() {
            self.page.say("Loading other weights.");
        }
        self.page.desk().prefer(epoch);
    }

    fn set_seed(&mut self, text: &str, final_: bool) {
        match text.trim().parse() {
            Ok(seed) if final_ => self.page.settle(|state| state.seed = seed),
            Ok(seed) => self.page.change(|state| state.seed = seed),
            Err(_) if final_ => {
                self.page
                    .say("A seed is a whole number from 0 to 4294967295.");
                let seed = self.page.state().seed;
                self.elements.seed.set_value(&seed.to_string());
            }
            Err(_) => {}
        }
    }

    fn copy_link(&mut self) {
        self.page.heed();
        self.page.write_address();
        let link = window().location().href().unwrap_or_default();
        let clipboard = window().navigator().clipboard();
        spawn_local(async move {
            let copied = !clipboard.is_undefined()
                && JsFuture::from(clipboard.write_text(&link)).await.is_ok();
            act(move |sampling| {
                sampling.page.say(match copied {
                    true => "The link is copied: it is this picture.",
                    false => {
                        "This browser does not let the page copy. The address above is the link."
                    }
                });
            });
        });
    }

    /// Saves x_t as it is shown, every pixel enlarged.
    fn save_image(&mut self) {
        let Some(frames) = &self.frames else { return };
        let small = &self.elements.x_t;
        let size = small.width() * (560 / small.width().max(1)).max(1);
        let saved = (|| {
            let canvas: HtmlCanvasElement = dom::document()
                .create_element("canvas")
                .ok()?
                .dyn_into()
                .ok()?;
            canvas.set_width(size);
            canvas.set_height(size);
            let context = context(&canvas)?;
            context.set_image_smoothing_enabled(false);
            let size = f64::from(size);
            context
                .draw_image_with_html_canvas_element_and_dw_and_dh(small, 0.0, 0.0, size, size)
                .ok()?;
            let link: HtmlAnchorElement =
                dom::document().create_element("a").ok()?.dyn_into().ok()?;
            link.set_href(&canvas.to_data_url().ok()?);
            let t = match self.t() {
                Some(t) if t > 0 => format!("-t-{t}"),
                _ => String::new(),
            };
            let picture = &frames.picture;
            link.set_download(&format!("{}-seed-{}{t}.png", picture.garment, picture.seed));
            link.click();
            Some(())
        })();
        self.page.say(match saved {
            Some(()) => "The image is saved with your downloads.",
            None => "This browser does not let the page save the image.",
        });
    }

    /// Saves the run as an animation.
    fn save_gif(&mut self) {
        let Some(frames) = &self.frames else { return };
        let name = format!(
            "{}-seed-{}.gif",
            frames.picture.garment, frames.picture.seed
        );
        let saved =
            animation::encode(frames).is_some_and(|gif| dom::save(&name, "image/gif", &gif));
        self.page.say(match saved {
            true => "The animation is saved with your downloads.",
            false => "This browser does not let the page save the animation.",
        });
    }

    // What is seen.

    /// t of the stop that is shown, as the page counts: T is noise, 0 the garment.
    fn t(&self) -> Option<u32> {
        let stop = self.player.shown()?;
        let frames = self.frames.as_ref()?;
        match frames.steps.get(stop) {
            Some(step) => Some(step.t + 1),
            None => Some(0),
        }
    }

    /// A refresh of the display.
    fn tick(&mut self, now: f64) {
        self.ticking = false;
        self.pace.refreshed(now);
        self.player.tick();
    }

    fn render(&mut self) {
        self.render_controls();
        self.render_progress();
        self.paint_strip();
        self.paint();
        if self.player.phase() == Phase::Running && !self.ticking {
            self.ticking = true;
            dom::before_refresh(|now| act(move |sampling| sampling.tick(now)));
        }
    }

    fn render_controls(&self) {
        let (elements, player) = (&self.elements, &self.player);
        let phase = player.phase();
        let busy = matches!(phase, Phase::Running | Phase::Paused);
        let paused = phase == Phase::Paused;
        let ready = self.page.desk().is_ready();
        let frames = player.newest().is_some();
        let focused = dom::document().active_element().map(|element| element.id());

        let word = match phase {
            Phase::Idle => "idle",
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Over => "over",
        };
        set_attribute(&elements.section, "data-phase", word);
        let label = if paused { "Resume" } else { "Pause" };
        set_text(&elements.pause, label);
        elements.sample.set_disabled(!ready || busy);
        elements.pause.set_disabled(!busy);
        elements.next.set_disabled(!paused);
        elements.stop.set_disabled(!busy);
        elements
            .replay
            .set_disabled(phase != Phase::Over || player.newest() == Some(0));
        elements.timestep.set_disabled(!frames);
        elements.save_image.set_disabled(!frames);
        elements.save_gif.set_disabled(phase != Phase::Over);
        elements.epoch.set_disabled(
            self.page.desk().index().is_none()
                || !(ready || self.page.desk().engine().is_some())
                || busy,
        );
        for control in [
            &elements.playback,
            &elements.garment,
            &elements.sampler,
            &elements.count,
        ] {
            control.set_disabled(false);
        }
        for control in [&elements.seed, &elements.steps, &elements.guidance] {
            control.set_disabled(false);
        }
        elements.new_seed.set_disabled(false);
        elements.copy_link.set_disabled(false);

        // Who works by keyboard is not to lose the place when a button goes out of use.
        let next: Option<&HtmlButtonElement> = match focused.as_deref() {
            Some("sample" | "replay") if busy => Some(&elements.pause),
            Some("pause" | "stop" | "next") if !busy => Some(&elements.sample),
            _ => None,
        };
        if let Some(next) = next {
            // Nor whoever reads on, theirs on the page.
            let options = FocusOptions::new();
            options.set_prevent_scroll(true);
            let _ = next.focus_with_options(&options);
        }

        set_text(&elements.steps_value, &self.page.state().steps.to_string());
        let guidance = match self.page.state().guidance {
            1.0 => "off".to_owned(),
            guidance => guidance.to_string(),
        };
        set_text(&elements.guidance_value, &guidance);
        set_attribute(&elements.guidance, "aria-valuetext", &guidance);
    }

    fn render_progress(&mut self) {
        let (elements, player) = (&self.elements, &self.player);
        let steps = match player.phase() {
            Phase::Idle => self.page.state().steps as usize,
            _ => player.steps(),
        };
        let done = player.progress();
        set_attribute(&elements.process, "aria-valuemax", &steps.to_string());
        set_attribute(&elements.process, "aria-valuenow", &done.to_string());
        let share = format!("{:.5}", done as f64 / steps.max(1) as f64);
        let _ = elements.process.style().set_property("--done", &share);
        let text = match player.phase() {
            Phase::Idle => plural(steps as u32, "step"),
            Phase::Running => {
                let rest = self.pace.rest(dom::now(), player);
                format!("Step {done} of {steps}{rest}")
            }
            Phase::Paused => format!("Step {done} of {steps}, paused"),
            Phase::Over => format!("Step {done} of {steps}"),
        };
        set_text(&elements.eta, &text);
        set_attribute(&elements.process, "aria-valuetext", &text);

        let stop = player.shown().unwrap_or_default();
        let timestep = &elements.timestep;
        if timestep.max() != steps.to_string() {
            timestep.set_max(&steps.to_string());
        }
        if timestep.value() != stop.to_string() {
            timestep.set_value(&stop.to_string());
        }
        let t = match self.t() {
            Some(t) => format!("t = {t}"),
            None => String::new(),
        };
        set_text(&elements.t, &t);
        set_attribute(timestep, "aria-valuetext", &t);
    }

    /// Noise for the eye, until there is a run: no x_T, and not shown as one.
    fn draw_idle(&mut self) {
        let level = || {
            let gaussian: f64 = (0..12).map(|_| js_sys::Math::random()).sum();
            to_pixel((gaussian - 6.0) as f32)
        };
        let levels: Vec<u8> = (0..crate::store::PIXELS).map(|_| level()).collect();
        put(&self.elements.x_t, 1, &draw::grey(levels.into_iter()));
        for canvas in [
            &self.elements.x_t,
            &self.elements.pred_noise,
            &self.elements.pred_x_0,
        ] {
            set_attribute(canvas, "class", "idle");
        }
    }

    fn paint(&mut self) {
        let (Some(frames), Some(stop)) = (&mut self.frames, self.player.shown()) else {
            return;
        };
        // The garment stands beside what led to it.
        let index = stop.min(frames.steps.len().saturating_sub(1));
        let prediction = frames.prediction(index);
        let painted = (self.run, stop, prediction.is_some());
        if self.painted == Some(painted) {
            return;
        }
        let now = dom::now();
        let moving = self.player.phase() == Phase::Running && self.player.is_following();
        let changed_run = self.painted.is_none_or(|(run, ..)| run != self.run);
        if moving
            && !changed_run
            && now - self.painted_at < CALM_MS
            && dom::media("(prefers-reduced-motion: reduce)")
        {
            return;
        }
        let Some(x) = frames.x(stop) else { return };
        let elements = &self.elements;
        let count = frames.picture.count as usize;
        put(
            &elements.x_t,
            count,
            &draw::grey(x.into_iter().map(to_pixel)),
        );
        set_attribute(&elements.x_t, "class", "");
        let class = match prediction {
            Some(prediction) => {
                put(
                    &elements.pred_noise,
                    count,
                    &draw::diverging(prediction.noise.iter().map(|v| v.to_f32())),
                );
                let x_start = prediction.x_start.iter().copied();
                put(&elements.pred_x_0, count, &draw::grey(x_start));
                ""
            }
            None => "pending",
        };
        set_attribute(&elements.pred_noise, "class", class);
        set_attribute(&elements.pred_x_0, "class", class);

        let last = frames.steps.len();
        let t = |stop: usize| frames.steps.get(stop).map_or(0, |step| step.t + 1);
        let caption = match stop {
            0 => "pure noise".to_owned(),
            stop if stop == last => "the garment".to_owned(),
            _ => "the image".to_owned(),
        };
        set_text(&elements.caption, &format!("{caption}, t = {}", t(stop)));
        let (noise, garment) = match prediction {
            Some(prediction) => in_words(prediction),
            None => ("Not known yet.".to_owned(), "Not known yet.".to_owned()),
        };
        describe(
            &elements.pred_noise,
            &format!("at t = {}: {noise}", t(index)),
        );
        describe(
            &elements.pred_x_0,
            &format!("at t = {}: {garment}", t(index)),
        );
        let known = prediction.is_some();
        if moving {
            frames.shown(index);
        }
        self.painted = Some(painted);
        self.painted_at = now;
        if !known {
            self.rest += 1;
            let rest = self.rest;
            dom::after(REST_MS, move || act(move |sampling| sampling.explain(rest)));
        }
    }

    /// The lecture's strip: frames evenly spaced over the run, the garment last.
    fn paint_strip(&mut self) {
        let Some(frames) = &self.frames else { return };
        if self.strip.0 != self.run {
            self.strip = (self.run, vec![false; STRIP]);
            for canvas in &self.elements.strip {
                set_attribute(canvas, "class", "idle");
            }
        }
        let last = frames.steps.len();
        // Not ahead of what has been shown: the strip is a memory of it.
        let shown = self
            .player
            .progress()
            .max(self.player.shown().unwrap_or_default());
        for (i, canvas) in self.elements.strip.iter().enumerate() {
            let stop = strip_stop(i, last);
            if self.strip.1[i] || stop > shown {
                continue;
            }
            let Some(x) = frames.x(stop) else { continue };
            put(
                canvas,
                1,
                &draw::grey(
                    x.into_iter()
                        .take(crate::store::PIXELS)
                        .map(to_pixel)
                        .collect::<Vec<_>>()
                        .into_iter(),
                ),
            );
            set_attribute(canvas, "class", "");
            let t = frames.steps.get(stop).map_or(0, |step| step.t + 1);
            if let Some(caption) = canvas.next_element_sibling() {
                set_text(&caption, &t.to_string());
            }
            self.strip.1[i] = true;
        }
    }

    /// Somebody has rested on a frame whose answer is not kept.
    fn explain(&mut self, rest: u32) {
        let (Some(frames), Some(stop)) = (&self.frames, self.player.shown()) else {
            return;
        };
        let index = stop.min(frames.steps.len().saturating_sub(1));
        let known = frames.prediction(index).is_some();
        let asked = self.asked.is_some();
        if rest != self.rest || known || asked || !self.page.desk().is_ready() {
            return;
        }
        let (Some(x_t), Some(step)) = (frames.x(index), frames.steps.get(index)) else {
            return;
        };
        let (run, t, picture) = (self.run, step.t, frames.picture.clone());
        let epoch = frames.epoch;
        self.asked = Some((run, index));
        let desk = self.page.desk().clone();
        spawn_local(async move {
            let answer = desk.ask(picture, epoch, t, x_t).await;
            act(move |sampling| {
                if sampling.asked == Some((run, index)) {
                    sampling.asked = None;
                }
                if let (Ok(noise), true, Some(frames)) =
                    (answer, run == sampling.run, &mut sampling.frames)
                {
                    frames.explain(index, &noise);
                    // Somebody may rest on another one by now.
                    sampling.explain(sampling.rest);
                }
            });
        });
    }
}

/// A prediction for those who do not see it: how much noise, and how light and how sharp a picture.
fn in_words(prediction: &Prediction) -> (String, String) {
    let n = prediction.noise.len().max(1) as f32;
    let square: f32 = prediction.noise.iter().map(|v| v.to_f32().powi(2)).sum();
    let levels = &prediction.x_start;
    let light = levels.iter().filter(|level| **level > 40).count() as f32 / n;
    // Neighbours in a row differ little in a blur, and much in fabric and noise.
    let steps = levels
        .windows(2)
        .map(|pair| f32::from(pair[0].abs_diff(pair[1])));
    let contrast = steps.sum::<f32>() / n;
    let look = match contrast {
        c if c < 8.0 => "a blur",
        c if c < 16.0 => "a shape with soft outlines",
        _ => "a shape with sharp outlines",
    };
    (
        format!(
            "values of standard deviation {:.2}",
            f64::from((square / n).sqrt())
        ),
        format!(
            "{look}, covering {:.0} % of the picture",
            f64::from(light * 100.0)
        ),
    )
}

/// Which stop of a run of `steps` picture i of the strip shows: noise first, the garment last.
pub fn strip_stop(i: usize, steps: usize) -> usize {
    i * steps / (STRIP - 1)
}

/// Measures both clocks, for the time that is left.
#[derive(Default)]
struct Pace {
    /// Frames computed by which time, of the last few seconds.
    computed: VecDeque<(f64, usize)>,
    /// When the display was refreshed last, and how long a refresh takes.
    refreshed: Option<f64>,
    refresh_ms: Option<f64>,
    /// What was said last, and when: a figure that changes 60 times a second cannot be read.
    said: RefCell<(f64, String)>,
}

impl Pace {
    const WINDOW_MS: f64 = 4000.0;
    const SAY_MS: f64 = 500.0;

    fn computed(&mut self, now: f64, computed: usize) {
        self.computed.push_back((now, computed));
        while self.computed.len() > 2
            && self
                .computed
                .front()
                .is_some_and(|(then, _)| now - then > Self::WINDOW_MS)
        {
            self.computed.pop_front();
        }
    }

    fn refreshed(&mut self, now: f64) {
        if let Some(before) = self.refreshed.replace(now)
            && (1.0..250.0).contains(&(now - before))
        {
            let refresh = self.refresh_ms.get_or_insert(now - before);
            *refresh += (now - before - *refresh) * 0.05;
        }
    }

    /// The rest of a sentence on progress: how fast, how long still.
    fn rest(&self, now: f64, player: &Player) -> String {
        let mut said = self.said.borrow_mut();
        if said.0 == 0.0 || now - said.0 > Self::SAY_MS {
            said.1 = self.measure(player).unwrap_or_default();
            said.0 = now;
        }
        said.1.clone()
    }

    fn measure(&self, player: &Player) -> Option<String> {
        let (mut left_ms, mut speed) = (0.0, String::new());
        if !player.has_ended() {
            let (first, last) = (self.computed.front()?, self.computed.back()?);
            let frames = last.1 - first.1;
            if frames < 2 {
                return None;
            }
            let step_ms = (last.0 - first.0) / frames as f64;
            left_ms = step_ms * (player.steps() - player.computed().min(player.steps())) as f64;
            speed = format!(" · {} each", duration(step_ms));
        }
        if let (true, Some(refresh)) = (player.is_following(), self.refresh_ms)
            && let Some(frames) = player.frames_per_refresh()
        {
            let last = match player.has_ended() {
                true => player.newest().unwrap_or_default(),
                false => player.steps(),
            };
            let left = last.saturating_sub(player.shown().unwrap_or_default());
            left_ms = f64::max(left_ms, left as f64 * refresh / frames);
        }
        Some(format!("{speed} · about {} left", rough(left_ms)))
    }
}

/// `1 step`, `2 steps`.
fn plural(n: u32, word: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {word}{s}")
}

/// A whole number with its thousands apart.
pub fn grouped(n: f64) -> String {
    let digits = format!("{n:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time that was measured.
fn duration(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 100_000.0 => format!("{:.1} s", ms / 1000.0),
        _ => rough(ms),
    }
}

/// A time that is guessed.
fn rough(ms: f64) -> String {
    let seconds = (ms / 1000.0).ceil() as u64;
    match seconds {
        0..=99 => format!("{} s", seconds.max(1)),
        _ => format!("{} min", (seconds + 30) / 60),
    }
}

/// The strip's canvases.
fn make_strip() -> Vec<HtmlCanvasElement> {
    let strip: Element = find("strip");
    (0..STRIP)
        .map(|i| {
            let name = format!("Picture {} of {STRIP} of the run", i + 1);
            canvas::figure(&strip, &format!("strip-{i}"), &name, "\u{a0}").0
        })
        .collect()
}

/// Connects the controls.
fn listen() {
    type Click = fn(&mut Sampling);
    type Choose = fn(&mut Sampling, String);
    // Whether the value is final or still being dragged or typed.
    type Change = fn(&mut Sampling, String, bool);
    let clicks: [(&str, Click); 9] = [
        ("sample", Sampling::press),
        ("pause", Sampling::pause_or_resume),
        ("next", Sampling::next_step),
        ("stop", Sampling::stop),
        ("replay", |sampling| {
            sampling.player.replay();
            sampling.pace = Pace::default();
        }),
        ("new-seed", |sampling| {
            sampling.page.settle(|state| state.seed = dom::any_seed());
        }),
        ("copy-link", Sampling::copy_link),
        ("save-image", Sampling::save_image),
        ("save-gif", Sampling::save_gif),
    ];
    for (id, click) in clicks {
        dom::listen(&find::<Element>(id), "click", move |_| act(click));
    }
    let form: Element = find("settings");
    dom::listen(&form, "submit", |event| {
        // Enter in the seed's field.
        event.prevent_default();
        act(Sampling::press);
    });

    let selects: [(&str, Choose); 5] = [
        ("garment", |sampling, value| {
            let page = &sampling.page;
            page.settle(|state| state.garment = garment(&value).unwrap_or(state.garment));
        }),
        ("sampler", |sampling, value| {
            if let Some(sampler) = Sampler::parse(&value) {
                sampling.page.settle(|state| {
                    state.sampler = sampler;
                    state.steps = sampler.usual_steps();
                });
            }
        }),
        ("count", |sampling, value| {
            let page = &sampling.page;
            page.settle(|state| state.count = value.parse().unwrap_or(state.count));
        }),
        ("epoch", |sampling, value| {
            sampling.choose_epoch(value.parse().ok())
        }),
        ("playback", |sampling, value| {
            let frames = decimal(&value);
            let speed = frames.map_or(Speed::AsComputed, Speed::Frames);
            sampling.player.set_speed(speed);
        }),
    ];
    for (id, choose) in selects {
        let select: HtmlSelectElement = find(id);
        let target = select.clone();
        dom::listen(&target, "change", move |_| {
            let value = select.value();
            act(move |sampling| choose(sampling, value));
        });
    }

    let inputs: [(&str, Change); 4] = [
        ("seed", |sampling, value, done| {
            sampling.set_seed(&value, done)
        }),
        ("steps", |sampling, value, done| {
            let Ok(steps) = value.parse() else { return };
            match done {
                true => sampling.page.settle(|state| state.steps = steps),
                false => sampling.page.change(|state| state.steps = steps),
            }
        }),
        ("guidance", |sampling, value, done| {
            let Some(guidance) = decimal(&value) else {
                return;
            };
            match done {
                true => sampling.page.settle(|state| state.guidance = guidance),
                false => sampling.page.change(|state| state.guidance = guidance),
            }
        }),
        ("timestep", |sampling, value, done| {
            if !done && let Ok(stop) = value.parse() {
                sampling.scrub(stop);
            }
        }),
    ];
    for (id, change) in inputs {
        for (kind, done) in [("input", false), ("change", true)] {
            let input: HtmlInputElement = find(id);
            let target = input.clone();
            dom::listen(&target, kind, move |_| {
                let value = input.value();
                act(move |sampling| change(sampling, value, done));
            });
        }
    }
}
