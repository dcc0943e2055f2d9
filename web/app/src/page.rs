//! The controls, and what they do.
//!
//! There is one [`Page`]. Whatever happens, a click, a message of the engine, a refresh of the
//! display, goes through [`act`]: it changes the page's state, then everything that is to be seen is
//! brought up to date, and then whoever embeds the page is told.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
};

use js_sys::{Array, Object, Reflect};
use protocol::{EngineKind, ErrorCode, Event, Model, Part, Picture, Request};
use serde::{Deserialize, Serialize};
use wasm_bindgen::{Clamped, JsCast, prelude::*};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{
    CanvasRenderingContext2d, Element, HtmlAnchorElement, HtmlButtonElement, HtmlCanvasElement,
    HtmlElement, HtmlInputElement, HtmlOptionElement, HtmlProgressElement, HtmlSelectElement,
    ImageData, UrlSearchParams,
};

use crate::{
    dom::{self, find, set_attribute, set_text, window},
    draw,
    engine::{self, Engine},
    player::{Phase, Player, Speed},
    state::{Sampler, State, garment},
    store::{Frames, to_pixel},
};

/// How long somebody rests on a frame before the network is asked about it again.
const REST_MS: i32 = 120;

/// How often the picture changes, at most, for those who asked their system for less motion.
const CALM_MS: f64 = 500.0;

thread_local! {
    static PAGE: RefCell<Option<Page>> = const { RefCell::new(None) };
}

/// Starts the page.
pub fn start() {
    let search = window().location().search().unwrap_or_default();
    let mut parameters = Vec::new();
    if let Ok(pairs) = UrlSearchParams::new_with_str(&search) {
        for pair in js_sys::try_iter(&pairs)
            .ok()
            .flatten()
            .into_iter()
            .flatten()
        {
            let pair: Array = pair.unwrap_or_default().unchecked_into();
            let word = |i| pair.get(i).as_string().unwrap_or_default();
            parameters.push((word(0), word(1)));
        }
    }
    let (state, sentences) = State::parse(parameters, dom::any_seed());
    let choice = state.engine;
    let page = Page::new(state, sentences.join(" "));
    PAGE.set(Some(page));
    listen();
    act(Page::draw_idle);
    spawn_local(load_index());
    spawn_local(async move {
        let (kind, reason) = engine::choose(choice).await;
        act(move |page| page.start_engine(kind, reason));
    });
}

/// Does something to the page, then shows and tells what follows from it.
fn act(change: impl FnOnce(&mut Page) + 'static) {
    PAGE.with(|cell| {
        let Ok(mut page) = cell.try_borrow_mut() else {
            // From within an event that is being handled: right after it.
            spawn_local(async move { act(change) });
            return;
        };
        let Some(page_mut) = page.as_mut() else {
            return;
        };
        change(page_mut);
        page_mut.render();
        let outbox = std::mem::take(&mut page_mut.outbox);
        drop(page);
        for (kind, detail) in outbox {
            dom::dispatch(kind, &detail);
        }
    });
}

/// `weights/index.json`, as far as the page needs it.
#[derive(Debug, Deserialize)]
struct Index {
    default: String,
    models: Vec<Weights>,
}

#[derive(Debug, Clone, Deserialize)]
struct Weights {
    file: String,
    bytes: u64,
    sha256: String,
    epoch: u32,
}

impl Weights {
    fn address(&self) -> String {
        dom::absolute(&format!("weights/{}?v={}", self.file, self.sha256))
    }
}

async fn load_index() {
    let index: Result<Index, String> = dom::fetch_json("weights/index.json").await;
    act(move |page| match index {
        Ok(index) => page.take_index(index),
        Err(reason) => page.fail(
            ErrorCode::WeightsMissing,
            &format!(
                "The list of weights, weights/index.json, could not be read ({reason}). Check the \
                 connection and reload the page."
            ),
        ),
    });
}

/// Details of the events for those who embed the page.
mod told {
    use super::{ErrorCode, Model, Serialize};

    #[derive(Serialize)]
    pub struct Ready<'a> {
        pub engine: &'static str,
        pub adapter: &'a str,
        pub model: &'a Model,
    }

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

    #[derive(Serialize)]
    pub struct Failure<'a> {
        pub code: ErrorCode,
        pub message: &'a str,
    }
}

/// Everything on the page that changes.
struct Elements {
    sample: HtmlButtonElement,
    pause: HtmlButtonElement,
    next: HtmlButtonElement,
    stop: HtmlButtonElement,
    replay: HtmlButtonElement,
    new_seed: HtmlButtonElement,
    copy_link: HtmlButtonElement,
    save_image: HtmlButtonElement,
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
    device: Element,
    message: Element,
    loading: HtmlElement,
    loading_text: Element,
    download: HtmlProgressElement,
    steps_value: Element,
    guidance_value: Element,
    t: Element,
    now: Element,
    remark: Element,
    caption: Element,
    model: Element,
    x_t: HtmlCanvasElement,
    pred_noise: HtmlCanvasElement,
    pred_x_0: HtmlCanvasElement,
    lines: Vec<Element>,
}

impl Elements {
    fn find() -> Self {
        let lines = dom::document().query_selector_all("#algorithm [data-line]");
        let lines = lines.map_or_else(
            |_| Vec::new(),
            |list| {
                (0..list.length())
                    .filter_map(|i| list.get(i)?.dyn_into().ok())
                    .collect()
            },
        );
        Self {
            sample: find("sample"),
            pause: find("pause"),
            next: find("next"),
            stop: find("stop"),
            replay: find("replay"),
            new_seed: find("new-seed"),
            copy_link: find("copy-link"),
            save_image: find("save-image"),
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
            device: find("device"),
            message: find("message"),
            loading: find("loading"),
            loading_text: find("loading-text"),
            download: find("download"),
            steps_value: find("steps-value"),
            guidance_value: find("guidance-value"),
            t: find("t"),
            now: find("now"),
            remark: find("remark"),
            caption: find("x-t-caption"),
            model: find("model"),
            x_t: find("x-t"),
            pred_noise: find("pred-noise"),
            pred_x_0: find("pred-x-0"),
            lines,
        }
    }
}

/// A download.
struct Loading {
    part: Part,
    received: f64,
    total: Option<f64>,
}

/// What is painted: of which run which stop, and whether with the network's answer.
type Painted = (u32, usize, bool);

/// The page's state, all of it.
struct Page {
    elements: Elements,
    state: State,
    /// The build's id, for addresses of files whose names have none.
    build: String,
    index: Option<Index>,
    engine: Option<Engine>,
    /// Counts engines: what one said that has been given up is not listened to.
    generation: u32,
    /// Why it is the CPU.
    reason: Option<String>,
    /// What the engine runs on, once it does.
    device: Option<String>,
    model: Option<Model>,
    loading: BTreeMap<bool, Loading>,
    message: String,
    failed: bool,
    autoplayed: bool,
    run: u32,
    /// Of the run: the controls may say something else by now.
    picture: Picture,
    player: Player,
    frames: Option<Frames>,
    pace: Pace,
    ticking: bool,
    painted: Option<Painted>,
    painted_at: f64,
    /// The frame that the network has been asked about.
    asked: Option<(u32, usize)>,
    /// Counts rests: only the last one is a rest.
    rest: u32,
    outbox: Vec<(&'static str, JsValue)>,
}

impl Page {
    fn new(state: State, message: String) -> Self {
        let page = Self {
            elements: Elements::find(),
            picture: state.picture(),
            state,
            build: dom::meta("build").unwrap_or_default(),
            index: None,
            engine: None,
            generation: 0,
            reason: None,
            device: None,
            model: None,
            loading: BTreeMap::new(),
            message,
            failed: false,
            autoplayed: false,
            run: 0,
            player: Player::default(),
            frames: None,
            pace: Pace::default(),
            ticking: false,
            painted: None,
            painted_at: 0.0,
            asked: None,
            rest: 0,
            outbox: Vec::new(),
        };
        page.set_controls();
        page
    }

    /// Brings the controls in line with the state.
    fn set_controls(&self) {
        let (elements, state) = (&self.elements, &self.state);
        elements.garment.set_value(state.garment);
        elements.seed.set_value(&state.seed.to_string());
        elements.count.set_value(&state.count.to_string());
        elements.sampler.set_value(state.sampler.slug());
        elements.steps.set_value(&state.steps.to_string());
        elements.guidance.set_value(&state.guidance.to_string());
    }

    /// Puts what the controls say into the address.
    fn write_address(&self) {
        let hash = window().location().hash().unwrap_or_default();
        let address = format!("{}{hash}", self.state.query());
        // A browser may refuse where there are very many changes; the next one will do.
        let _ = window()
            .history()
            .and_then(|history| history.replace_state_with_url(&JsValue::NULL, "", Some(&address)));
    }

    // Starting.

    fn take_index(&mut self, index: Index) {
        let default = index
            .models
            .iter()
            .find(|model| model.file == index.default);
        let Some(default) = default.or(index.models.first()).map(|model| model.epoch) else {
            return self.fail(
                ErrorCode::WeightsMissing,
                "There are no weights beside this page yet. Train and export some, and reload it.",
            );
        };
        let chosen = self.state.epoch.unwrap_or(default);
        let there = index.models.iter().any(|model| model.epoch == chosen);
        if !there {
            self.message = format!(
                "The link asks for epoch {chosen}, which there is not; this is epoch {default}."
            );
        }
        self.state.epoch = Some(if there { chosen } else { default });
        let select = &self.elements.epoch;
        select.set_length(0);
        for model in &index.models {
            let word = model.epoch.to_string();
            if let Ok(option) = HtmlOptionElement::new_with_text_and_value(&word, &word) {
                let _ = select.append_child(&option);
            }
        }
        select.set_value(&self.state.epoch.unwrap_or_default().to_string());
        self.index = Some(index);
        self.load();
    }

    fn start_engine(&mut self, kind: EngineKind, reason: Option<String>) {
        self.generation += 1;
        let generation = self.generation;
        self.reason = reason;
        self.device = None;
        self.model = None;
        self.loading.clear();
        // The old one, if any, ends here.
        self.engine = None;
        let told = move |event, values| act(move |page| page.hear(generation, event, values));
        match Engine::start(kind, &self.build, told) {
            Ok(engine) => self.engine = Some(engine),
            Err(message) => return self.fail(ErrorCode::Engine, &message),
        }
        self.load();
    }

    /// The weights of the chosen epoch.
    fn weights(&self) -> Option<&Weights> {
        let models = &self.index.as_ref()?.models;
        models
            .iter()
            .find(|model| Some(model.epoch) == self.state.epoch)
    }

    /// Has the engine load the chosen weights, once both are known.
    fn load(&mut self) {
        if let (Some(engine), Some(weights)) = (&self.engine, self.weights()) {
            let request = Request::Load {
                url: weights.address(),
                bytes: weights.bytes,
            };
            engine.ask(&request, None);
            self.model = None;
            self.failed = false;
        }
    }

    fn fail(&mut self, code: ErrorCode, message: &str) {
        self.message = message.to_owned();
        self.failed = true;
        self.loading.clear();
        self.tell("ddpm:error", &told::Failure { code, message });
    }

    fn tell(&mut self, kind: &'static str, detail: &impl Serialize) {
        self.outbox.push((kind, dom::plain(detail)));
    }

    // What the engine says.

    fn hear(&mut self, generation: u32, event: Event, mut values: Vec<Vec<f32>>) {
        if generation != self.generation {
            return;
        }
        match event {
            Event::Progress {
                part,
                received,
                total,
            } => {
                let total = total.filter(|total| *total >= received);
                let loading = Loading {
                    part,
                    received,
                    total,
                };
                self.loading.insert(part == Part::Weights, loading);
            }
            Event::Busy { message } => {
                self.loading.clear();
                self.message = message;
            }
            Event::Ready {
                engine,
                adapter,
                software,
                model,
            } => self.begin_ready(engine, &adapter, software, model),
            Event::Started { run, steps } if self.is_current(run) => {
                self.frames = Some(Frames::new(self.picture.clone(), steps));
            }
            Event::Frames { run, first, .. } if self.is_current(run) && values.len() == 2 => {
                self.take_frames(first as usize, &values[0], &values[1]);
            }
            Event::Done { run, elapsed_ms } if self.is_current(run) => {
                self.take_garment(values.pop().unwrap_or_default(), elapsed_ms);
            }
            Event::Explained { run, index } if run == self.run => {
                self.asked = None;
                if let (Some(frames), Some(noise)) = (&mut self.frames, values.pop()) {
                    frames.explain(index as usize, &noise);
                }
            }
            Event::Error {
                code,
                message,
                fatal,
            } => self.take_failure(code, &message, fatal),
            // Of a run that is over.
            _ => {}
        }
    }

    fn is_current(&self, run: u32) -> bool {
        run == self.run && !self.player.has_ended()
    }

    fn begin_ready(&mut self, engine: EngineKind, adapter: &str, software: bool, model: Model) {
        let mut device = match engine {
            EngineKind::Cpu => "CPU (WebAssembly)".to_owned(),
            EngineKind::WebGpu if software => "WebGPU (software adapter)".to_owned(),
            EngineKind::WebGpu => format!("WebGPU - {adapter}"),
        };
        if let Some(reason) = &self.reason {
            device = format!("{device}. {reason}");
        }
        let ready = told::Ready {
            engine: match engine {
                EngineKind::WebGpu => "webgpu",
                EngineKind::Cpu => "cpu",
            },
            adapter,
            model: &model,
        };
        let ready = dom::plain(&ready);
        self.outbox.push(("ddpm:ready", ready));
        let first = self.device.is_none();
        if !first || !self.message.starts_with("The link") {
            self.message = "Ready.".to_owned();
        }
        self.device = Some(device);
        self.loading.clear();
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
        self.model = Some(model);
        self.work_offline();
        if self.state.autoplay && !self.autoplayed {
            self.autoplayed = true;
            self.sample();
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
        let pixels: Vec<u8> = x_0.iter().map(|x| to_pixel(*x)).collect();
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
        self.message = format!(
            "{} computed in {}, {} each.",
            plural(picture.steps, "step"),
            duration(elapsed_ms),
            duration(elapsed_ms / f64::from(picture.steps.max(1))),
        );
        self.player.finish();
    }

    fn take_failure(&mut self, code: ErrorCode, message: &str, fatal: bool) {
        let gpu = self
            .engine
            .as_ref()
            .is_some_and(|engine| engine.kind == EngineKind::WebGpu);
        if fatal {
            let running = matches!(self.player.phase(), Phase::Running | Phase::Paused);
            if running && !self.player.has_ended() {
                self.player.stop();
            }
            self.asked = None;
            if gpu {
                self.message = "Starting the CPU engine instead.".to_owned();
                return self.start_engine(EngineKind::Cpu, Some(message.to_owned()));
            }
            self.engine = None;
        }
        match code {
            ErrorCode::Picture => {
                self.asked = None;
                if !self.player.has_ended() {
                    self.player.stop();
                }
            }
            _ => self.model = None,
        }
        self.fail(code, message);
    }

    // What people do.

    fn ask(&self, request: &Request) {
        if let Some(engine) = &self.engine {
            engine.ask(request, None);
        }
    }

    fn sample(&mut self) {
        if self.model.is_none() || matches!(self.player.phase(), Phase::Running | Phase::Paused) {
            return;
        }
        self.run += 1;
        self.frames = None;
        self.asked = None;
        self.failed = false;
        self.picture = self.state.picture();
        self.player.begin(self.state.steps as usize);
        self.pace = Pace::default();
        self.message = format!("Sampling, seed {}.", self.state.seed);
        self.write_address();
        self.ask(&Request::Run {
            run: self.run,
            picture: self.picture.clone(),
            paused: false,
        });
    }

    fn pause_or_resume(&mut self) {
        let run = self.run;
        match self.player.phase() {
            Phase::Running => {
                self.player.pause();
                self.message = match self.t() {
                    Some(t) => format!("Paused at t = {t}."),
                    None => "Paused.".to_owned(),
                };
                if !self.player.has_ended() {
                    self.ask(&Request::Pause { run });
                }
            }
            Phase::Paused => {
                self.player.resume();
                self.pace = Pace::default();
                self.message.clear();
                if !self.player.has_ended() {
                    self.ask(&Request::Resume { run });
                }
            }
            Phase::Idle | Phase::Over => {}
        }
    }

    fn next_step(&mut self) {
        if self.player.next_step() {
            self.ask(&Request::Step { run: self.run });
        }
    }

    fn stop(&mut self) {
        if !self.player.has_ended() {
            self.ask(&Request::Stop { run: self.run });
        }
        self.player.stop();
        self.message = match self.t() {
            Some(t) => format!("Stopped at t = {t}."),
            None => "Stopped.".to_owned(),
        };
    }

    fn scrub(&mut self, stop: usize) {
        self.player.scrub(stop);
    }

    fn choose_epoch(&mut self, epoch: Option<u32>) {
        self.state.epoch = epoch;
        self.write_address();
        self.message = "Loading other weights.".to_owned();
        self.load();
    }

    fn set_seed(&mut self, text: &str, final_: bool) {
        let valid = text.trim().parse().ok();
        if let Some(seed) = valid {
            self.state.seed = seed;
        }
        if final_ {
            if valid.is_none() {
                self.message = "A seed is a whole number from 0 to 4294967295.".to_owned();
            }
            self.elements.seed.set_value(&self.state.seed.to_string());
            self.write_address();
        }
    }

    fn copy_link(&mut self) {
        self.write_address();
        let link = window().location().href().unwrap_or_default();
        let clipboard = window().navigator().clipboard();
        spawn_local(async move {
            let copied = !clipboard.is_undefined()
                && JsFuture::from(clipboard.write_text(&link)).await.is_ok();
            act(move |page| {
                page.message = match copied {
                    true => "The link is copied: it is this picture.",
                    false => {
                        "This browser does not let the page copy. The address above is the link."
                    }
                }
                .to_owned();
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
        self.message = match saved {
            Some(()) => "The image is saved with your downloads.",
            None => "This browser does not let the page save the image.",
        }
        .to_owned();
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
        self.render_status();
        self.paint();
        if self.player.phase() == Phase::Running && !self.ticking {
            self.ticking = true;
            dom::before_refresh(|now| act(move |page| page.tick(now)));
        }
    }

    fn render_controls(&self) {
        let (elements, player) = (&self.elements, &self.player);
        let phase = player.phase();
        let busy = matches!(phase, Phase::Running | Phase::Paused);
        let paused = phase == Phase::Paused;
        let ready = self.model.is_some();
        let frames = player.newest().is_some();
        let focused = dom::document().active_element().map(|element| element.id());

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
        elements
            .epoch
            .set_disabled(self.index.is_none() || self.engine.is_none() || busy);
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
            let _ = next.focus();
        }

        set_text(&elements.steps_value, &self.state.steps.to_string());
        let guidance = match self.state.guidance {
            1.0 => "off".to_owned(),
            guidance => guidance.to_string(),
        };
        set_text(&elements.guidance_value, &guidance);
        set_attribute(&elements.guidance, "aria-valuetext", &guidance);
    }

    fn render_progress(&mut self) {
        let (elements, player) = (&self.elements, &self.player);
        let steps = match player.phase() {
            Phase::Idle => self.state.steps as usize,
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

    fn render_status(&self) {
        let elements = &self.elements;
        let device = match (&self.device, &self.engine) {
            (Some(device), _) => device.clone(),
            (None, Some(engine)) => {
                let which = match engine.kind {
                    EngineKind::WebGpu => "WebGPU engine",
                    EngineKind::Cpu => "CPU engine",
                };
                match &self.reason {
                    Some(reason) => format!("Starting the {which}. {reason}"),
                    None => format!("Starting the {which}."),
                }
            }
            (None, None) if self.failed => String::new(),
            (None, None) => "Starting the engine.".to_owned(),
        };
        set_text(&elements.device, &device);
        set_text(&elements.message, &self.message);
        set_attribute(
            &elements.message,
            "class",
            if self.failed { "error" } else { "" },
        );

        elements.loading.set_hidden(self.loading.is_empty());
        if !self.loading.is_empty() {
            let received: f64 = self.loading.values().map(|l| l.received).sum();
            let total: Option<f64> = self.loading.values().map(|l| l.total).sum();
            match total {
                Some(total) => {
                    elements.download.set_max(total.max(1.0));
                    elements.download.set_value(received);
                }
                None => {
                    let _ = elements.download.remove_attribute("value");
                }
            }
            let parts: Vec<String> = self.loading.values().map(Loading::text).collect();
            set_text(&elements.loading_text, &parts.join(", "));
        }
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
                    &draw::diverging(&prediction.noise),
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
        set_text(&elements.now, &format!("t = {}", t(stop)));
        let current = match stop {
            0 => "start",
            stop if stop == last => "end",
            _ => "step",
        };
        for line in &elements.lines {
            let is_current = line.get_attribute("data-line").as_deref() == Some(current);
            set_attribute(
                line,
                "class",
                match (current, is_current) {
                    ("step", true) => "in current",
                    (_, true) => "current",
                    _ if line.get_attribute("data-line").as_deref() == Some("step") => "in",
                    _ => "",
                },
            );
        }
        let sampler = Sampler::parse(&frames.picture.sampler);
        let stride = match sampler {
            _ if stop == last => "Finished.".to_owned(),
            Some(Sampler::Ddpm) if last as u32 == frames.steps[0].t + 1 => {
                format!(
                    "Line 4 takes the image from t = {} to {}.",
                    t(stop),
                    t(stop + 1)
                )
            }
            Some(sampler) => format!(
                "{} goes from t = {} to {} at once.",
                sampler.name(),
                t(stop),
                t(stop + 1)
            ),
            None => String::new(),
        };
        let clipping = prediction.map(|prediction| prediction.clipped);
        let clipping = match clipping.filter(|_| stop < last) {
            Some(clipped) if clipped > 0.0 => {
                format!(
                    " Clipping changed x̂₀ in {:.0} % of its pixels.",
                    clipped * 100.0
                )
            }
            _ => String::new(),
        };
        set_text(&elements.remark, &format!("{stride}{clipping}"));

        let known = prediction.is_some();
        if moving {
            frames.shown(index);
        }
        self.painted = Some(painted);
        self.painted_at = now;
        if !known {
            self.rest += 1;
            let rest = self.rest;
            dom::after(REST_MS, move || act(move |page| page.explain(rest)));
        }
    }

    /// Somebody has rested on a frame whose answer is not kept.
    fn explain(&mut self, rest: u32) {
        let (Some(frames), Some(stop), Some(engine)) =
            (&self.frames, self.player.shown(), &self.engine)
        else {
            return;
        };
        let index = stop.min(frames.steps.len().saturating_sub(1));
        if rest != self.rest || self.asked.is_some() || self.model.is_none() {
            return;
        }
        let (Some(x_t), Some(step)) = (frames.x(index), frames.steps.get(index)) else {
            return;
        };
        let request = Request::Explain {
            run: self.run,
            index: index as u32,
            t: step.t,
            picture: frames.picture.clone(),
        };
        engine.ask(&request, Some(&x_t));
        self.asked = Some((self.run, index));
    }

    /// Has the service worker keep what this visit used, so that the next one needs no network.
    fn work_offline(&self) {
        // A build without an id cannot be told from the next one.
        if self.build == "dev" || !window().is_secure_context() {
            return;
        }
        let container = dom::get(&window().navigator(), "serviceWorker");
        if !container.is_object() {
            return;
        }
        let mut used = vec![
            dom::absolute("./"),
            dom::absolute("weights/index.json"),
            dom::absolute(&format!("worker.js?v={}", self.build)),
        ];
        if let Some(engine) = &self.engine {
            let name = match engine.kind {
                EngineKind::WebGpu => "engine-webgpu",
                EngineKind::Cpu => "engine-cpu",
            };
            used.push(dom::absolute(&format!("{name}.js?v={}", self.build)));
            used.push(dom::absolute(&format!("{name}_bg.wasm?v={}", self.build)));
        }
        used.extend(self.weights().map(Weights::address));
        let script = format!("sw.js?v={}", self.build);
        spawn_local(async move {
            let container: web_sys::ServiceWorkerContainer = container.unchecked_into();
            if JsFuture::from(container.register(&script)).await.is_err() {
                // The page works without.
                return;
            }
            let Ok(ready) = container.ready() else { return };
            let Ok(registration) = JsFuture::from(ready).await else {
                return;
            };
            let registration: web_sys::ServiceWorkerRegistration = registration.unchecked_into();
            let performance = dom::get(&window(), "performance");
            let entries = dom::get(&performance, "getEntriesByType")
                .dyn_into::<js_sys::Function>()
                .and_then(|entries| entries.call1(&performance, &"resource".into()));
            let used: Array = used.iter().map(JsValue::from).collect();
            for entry in entries.map(|e| Array::from(&e)).unwrap_or_default().iter() {
                used.push(&dom::get(&entry, "name"));
            }
            let message = Object::new();
            let _ = Reflect::set(&message, &"keep".into(), &used);
            if let Some(worker) = registration.active() {
                let _ = worker.post_message(&message);
            }
        });
    }
}

impl Loading {
    fn text(&self) -> String {
        let what = match self.part {
            Part::Engine => "Engine",
            Part::Weights => "Weights",
        };
        let megabytes = |bytes: f64| format!("{:.1}", bytes / 1e6);
        match self.total {
            Some(total) => format!(
                "{what}: {} of {} MB",
                megabytes(self.received),
                megabytes(total)
            ),
            None => format!("{what}: {} MB", megabytes(self.received)),
        }
    }
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
            let left = player.newest().unwrap_or_default().max(player.steps())
                - player.shown().unwrap_or_default();
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
fn grouped(n: f64) -> String {
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

fn context(canvas: &HtmlCanvasElement) -> Option<CanvasRenderingContext2d> {
    canvas.get_context("2d").ok()??.dyn_into().ok()
}

/// Shows RGBA values in a canvas that has one pixel for each.
fn put(canvas: &HtmlCanvasElement, count: usize, rgba: &[u8]) {
    let width = (draw::columns(count) * 28) as u32;
    if canvas.width() != width {
        canvas.set_width(width);
        canvas.set_height(width);
    }
    let image = ImageData::new_with_u8_clamped_array_and_sh(Clamped(rgba), width, width);
    if let (Ok(image), Some(context)) = (image, context(canvas)) {
        let _ = context.put_image_data(&image, 0.0, 0.0);
    }
}

/// Connects the controls.
fn listen() {
    type Click = fn(&mut Page);
    type Choose = fn(&mut Page, String);
    // Whether the value is final or still being dragged or typed.
    type Change = fn(&mut Page, String, bool);
    let clicks: [(&str, Click); 8] = [
        ("sample", Page::sample),
        ("pause", Page::pause_or_resume),
        ("next", Page::next_step),
        ("stop", Page::stop),
        ("replay", |page| {
            page.player.replay();
            page.pace = Pace::default();
        }),
        ("new-seed", |page| {
            page.state.seed = dom::any_seed();
            page.set_controls();
            page.write_address();
        }),
        ("copy-link", Page::copy_link),
        ("save-image", Page::save_image),
    ];
    for (id, click) in clicks {
        dom::listen(&find::<Element>(id), "click", move |_| act(click));
    }
    let form: Element = find("settings");
    dom::listen(&form, "submit", |event| {
        // Enter in the seed's field.
        event.prevent_default();
        act(Page::sample);
    });

    let selects: [(&str, Choose); 5] = [
        ("garment", |page, value| {
            page.state.garment = garment(&value).unwrap_or(page.state.garment);
        }),
        ("sampler", |page, value| {
            if let Some(sampler) = Sampler::parse(&value) {
                page.state.sampler = sampler;
                page.state.steps = sampler.usual_steps();
                page.set_controls();
            }
        }),
        ("count", |page, value| {
            page.state.count = value.parse().unwrap_or(page.state.count);
        }),
        ("epoch", |page, value| page.choose_epoch(value.parse().ok())),
        ("playback", |page, value| {
            page.player.set_speed(match value.parse() {
                Ok(frames) => Speed::Frames(frames),
                Err(_) => Speed::AsComputed,
            });
        }),
    ];
    for (id, choose) in selects {
        let select: HtmlSelectElement = find(id);
        let target = select.clone();
        dom::listen(&target, "change", move |_| {
            let value = select.value();
            act(move |page| {
                choose(page, value);
                if id != "playback" {
                    page.write_address();
                }
            });
        });
    }

    let inputs: [(&str, Change); 4] = [
        ("seed", |page, value, done| page.set_seed(&value, done)),
        ("steps", |page, value, done| {
            page.state.steps = value.parse().unwrap_or(page.state.steps);
            if done {
                page.write_address();
            }
        }),
        ("guidance", |page, value, done| {
            page.state.guidance = value.parse().unwrap_or(page.state.guidance);
            if done {
                page.write_address();
            }
        }),
        ("timestep", |page, value, done| {
            if !done && let Ok(stop) = value.parse() {
                page.scrub(stop);
            }
        }),
    ];
    for (id, change) in inputs {
        for (kind, done) in [("input", false), ("change", true)] {
            let input: HtmlInputElement = find(id);
            let target = input.clone();
            dom::listen(&target, kind, move |_| {
                let value = input.value();
                act(move |page| change(page, value, done));
            });
        }
    }
}
