//! What all figures share: the state that a link holds, the engine's desk, the status line.

use std::{
    cell::{Cell, Ref, RefCell},
    rc::Rc,
};

use fashion_ddpm::{BetaSchedule, NoiseSchedule};
use js_sys::{Array, Object, Reflect};
use protocol::{ErrorCode, Model, Part};
use serde::Serialize;
use wasm_bindgen::{JsCast, prelude::*};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{Element, HtmlElement, HtmlProgressElement, UrlSearchParams};

use crate::{
    benchmark,
    desk::{self, Desk, Download, Notice},
    dom::{self, find, set_attribute, set_text, window},
    figures, lecture,
    state::State,
};

/// Starts the page.
pub fn start() {
    let (state, sentences) = read_address(dom::any_seed());
    let page = Page::new(state, sentences);
    figures::start(&page);
    benchmark::start(&page);
    lecture::start(&page);
    let (choice, epoch) = {
        let state = page.state();
        (state.engine, state.epoch)
    };
    page.desk().open(choice, epoch);
}

/// What the address says, and sentences on what it says in vain.
fn read_address(any_seed: u32) -> (State, Vec<String>) {
    State::parse(parameters(), any_seed, figures::FIGURES.len() as u8)
}

/// The address's parameters.
fn parameters() -> Vec<(String, String)> {
    let search = window().location().search().unwrap_or_default();
    let Ok(pairs) = UrlSearchParams::new_with_str(&search) else {
        return Vec::new();
    };
    let pairs = js_sys::try_iter(&pairs).ok().flatten();
    let pair = |pair: Result<JsValue, JsValue>| {
        let pair: Array = pair.unwrap_or_default().unchecked_into();
        let word = |i| pair.get(i).as_string().unwrap_or_default();
        (word(0), word(1))
    };
    pairs.into_iter().flatten().map(pair).collect()
}

/// The page, as figures see it. Cheap to clone: all clones are the same page.
#[derive(Clone)]
pub struct Page(Rc<Inner>);

struct Inner {
    state: RefCell<State>,
    desk: Desk,
    watchers: RefCell<Vec<Rc<dyn Fn()>>>,
    /// Whether the watchers are about to be told.
    telling: Cell<bool>,
    status: Status,
    /// The build's id.
    build: String,
    model: RefCell<Option<Model>>,
}

impl Page {
    fn new(state: State, vain: Vec<String>) -> Self {
        let build = dom::meta("build").unwrap_or_default();
        let page = Self(Rc::new_cyclic(|inner: &std::rc::Weak<Inner>| {
            let inner = inner.clone();
            let told = move |notice| {
                if let Some(inner) = inner.upgrade() {
                    Page(inner).hear(notice);
                }
            };
            Inner {
                state: RefCell::new(state),
                desk: Desk::new(build.clone(), told),
                watchers: RefCell::default(),
                telling: Cell::new(false),
                status: Status::find(vain),
                build,
                model: RefCell::default(),
            }
        }));
        page.0.status.show(&page.0.desk);
        let this = page.clone();
        dom::listen(&window(), "popstate", move |_| this.go_to_address());
        page
    }

    /// What a link holds, now.
    pub fn state(&self) -> Ref<'_, State> {
        self.0.state.borrow()
    }

    /// Where figures ask for the engine's work.
    pub fn desk(&self) -> &Desk {
        &self.0.desk
    }

    /// Which build of the page this is.
    pub fn build(&self) -> &str {
        &self.0.build
    }

    /// The weights of the page's choice, once they are loaded.
    pub fn model(&self) -> Option<Model> {
        self.0.model.borrow().clone()
    }

    /// The schedule of the page's weights; before they are there, that of the paper.
    pub fn schedule(&self) -> NoiseSchedule {
        let model = self.0.model.borrow();
        let of_model = model.as_ref().and_then(|model| {
            NoiseSchedule::new(model.schedule.parse().ok()?, model.timesteps as usize).ok()
        });
        of_model.unwrap_or_else(|| {
            NoiseSchedule::new(BetaSchedule::Linear, 1000).expect("1000 timesteps are a schedule")
        })
    }

    /// Calls back after every change of the state, of the weights or of the engine, in a task of its
    /// own: whoever changes something is not interrupted by what follows from it.
    pub fn watch(&self, watcher: impl Fn() + 'static) {
        self.0.watchers.borrow_mut().push(Rc::new(watcher));
    }

    /// Changes the state while somebody drags or types: the address waits for [`Self::settle`].
    pub fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.borrow_mut());
        self.tell_watchers();
    }

    /// Changes the state for good: a step that the back button takes back.
    pub fn settle(&self, change: impl FnOnce(&mut State)) {
        self.heed();
        self.change(change);
        self.write_address();
    }

    /// Puts the state into the address, if it is not there already.
    pub fn write_address(&self) {
        let location = window().location();
        let hash = location.hash().unwrap_or_default();
        let query = self.state().query();
        let Ok(history) = window().history() else {
            return;
        };
        let address = format!("{query}{hash}");
        let before = location.search().unwrap_or_default();
        if before == query {
            return;
        }
        // A browser may refuse where there are very many changes; the next one will do. The first
        // address is only completed: there is nothing before it to go back to.
        let (mut parsed, _) = read_address(self.state().seed);
        parsed.epoch = parsed.epoch.or(self.state().epoch);
        let same = parsed.query() == query || before.is_empty();
        let _ = match same {
            true => history.replace_state_with_url(&JsValue::NULL, "", Some(&address)),
            false => history.push_state_with_url(&JsValue::NULL, "", Some(&address)),
        };
    }

    /// Back or forward: the address says what the state is.
    fn go_to_address(&self) {
        let before = self.state().clone();
        let (mut state, mut vain) = read_address(before.seed);
        if let (Some(asked), Some(epoch), Some(index)) =
            (state.epoch, before.epoch, self.desk().index())
            && !index.models.iter().any(|model| model.epoch == asked)
        {
            vain.push(there_is_not(asked, epoch));
            state.epoch = None;
        }
        self.say_in_vain(vain);
        state.epoch = state.epoch.or(before.epoch);
        let epoch = state.epoch;
        *self.0.state.borrow_mut() = state;
        if let Some(epoch) = epoch.filter(|_| epoch != before.epoch) {
            self.desk().prefer(epoch);
        }
        self.tell_watchers();
    }

    fn tell_watchers(&self) {
        if self.0.telling.replace(true) {
            return;
        }
        let page = self.clone();
        spawn_local(async move {
            page.0.telling.set(false);
            let watchers = page.0.watchers.borrow().clone();
            for watcher in watchers {
                watcher();
            }
        });
    }

    /// Says something in the status line.
    pub fn say(&self, message: impl Into<String>) {
        self.0.status.say(message.into(), false);
        self.0.status.show(&self.0.desk);
    }

    /// What the link asks for in vain has been read: somebody asks for something themselves.
    pub fn heed(&self) {
        self.say_in_vain(Vec::new());
    }

    /// Says what the link asks for in vain, until [`Self::heed`].
    fn say_in_vain(&self, sentences: Vec<String>) {
        self.0.status.vain.replace(sentences);
        self.0.status.show(&self.0.desk);
    }

    /// Says what failed, in the status line and to whoever embeds the page.
    pub fn complain(&self, code: ErrorCode, message: &str) {
        self.0.status.say(message.to_owned(), true);
        self.0.status.show(&self.0.desk);
        dom::dispatch("ddpm:error", &dom::plain(&Failure { code, message }));
    }

    fn hear(&self, notice: Notice) {
        match notice {
            Notice::Status => self.0.status.show(&self.0.desk),
            Notice::Busy(message) => self.say(message),
            Notice::Failed(code, message) => self.complain(code, &message),
            Notice::Index => self.take_index(),
            Notice::Ready {
                adapter,
                engine,
                model,
            } => {
                let ready = dom::plain(&Ready {
                    engine: engine.slug(),
                    adapter: &adapter,
                    model: &model,
                });
                self.0.model.borrow_mut().replace(model);
                // Where data are saved, a run has been waiting for this.
                self.say(match self.desk().is_busy() {
                    true => "Sampling.",
                    false => "Ready.",
                });
                self.work_offline();
                dom::dispatch("ddpm:ready", &ready);
            }
        }
        self.tell_watchers();
    }

    fn take_index(&self) {
        let Some(epoch) = self.desk().preferred() else {
            return;
        };
        let chosen = self.state().epoch;
        if let Some(chosen) = chosen.filter(|chosen| *chosen != epoch) {
            let mut vain = self.0.status.vain.take();
            vain.push(there_is_not(chosen, epoch));
            self.say_in_vain(vain);
        }
        self.0.state.borrow_mut().epoch = Some(epoch);
    }

    /// Has the service worker keep what this visit used, so that the next one needs no network.
    fn work_offline(&self) {
        let build = &self.0.build;
        // A build without an id cannot be told from the next one.
        if build == "dev" || !window().is_secure_context() {
            return;
        }
        let container = dom::get(&window().navigator(), "serviceWorker");
        if !container.is_object() {
            return;
        }
        let mut used = vec![
            dom::absolute("./"),
            dom::absolute("weights/index.json"),
            dom::absolute(&format!("worker.js?v={build}")),
        ];
        if let Some(engine) = self.desk().engine() {
            for end in [".js", "_bg.wasm"] {
                let file = format!("engine-{}{end}?v={build}", engine.slug());
                used.push(dom::absolute(&file));
            }
        }
        if let Some(index) = self.desk().index() {
            let mine = |weights: &&desk::Weights| Some(weights.epoch) == self.state().epoch;
            used.extend(index.models.iter().find(mine).map(desk::address));
        }
        let script = format!("sw.js?v={build}");
        spawn_local(async move {
            let container: web_sys::ServiceWorkerContainer = container.unchecked_into();
            let Ok(registration) = JsFuture::from(container.register(&script)).await else {
                // The page works without.
                return;
            };
            // This build's is the newest. The last build's may still be the active one: what that is
            // told to keep goes with it.
            let stages = ["installing", "waiting", "active"];
            let workers = stages.map(|stage| dom::get(&registration, stage));
            let Some(worker) = workers.into_iter().find(JsValue::is_object) else {
                return;
            };
            let worker: web_sys::ServiceWorker = worker.unchecked_into();
            let target = worker.clone();
            let keep = move || {
                if dom::get(&worker, "state") == "activated" {
                    let _ = worker.post_message(&all_used(&used));
                }
            };
            keep();
            dom::listen(&target, "statechange", move |_| keep());
        });
    }
}

/// What the service worker is told to keep: these addresses, and those of all that has been loaded.
fn all_used(used: &[String]) -> Object {
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
    message
}

/// What is said of weights that a link asks for in vain.
fn there_is_not(asked: u32, epoch: u32) -> String {
    format!("The link asks for epoch {asked}, which there is not; this is epoch {epoch}.")
}

#[derive(Serialize)]
struct Ready<'a> {
    engine: &'static str,
    adapter: &'a str,
    model: &'a Model,
}

#[derive(Serialize)]
struct Failure<'a> {
    code: ErrorCode,
    message: &'a str,
}

/// The status line: what the engine runs on, what the link asks for in vain, what is being done, what
/// failed, what is being loaded.
struct Status {
    device: Element,
    in_vain: Element,
    message: Element,
    loading: HtmlElement,
    loading_text: Element,
    download: HtmlProgressElement,
    vain: RefCell<Vec<String>>,
    said: RefCell<(String, bool)>,
}

impl Status {
    fn find(vain: Vec<String>) -> Self {
        Self {
            device: find("device"),
            in_vain: find("vain"),
            message: find("message"),
            loading: find("loading"),
            loading_text: find("loading-text"),
            download: find("download"),
            vain: RefCell::new(vain),
            said: RefCell::default(),
        }
    }

    fn say(&self, message: String, failed: bool) {
        self.said.replace((message, failed));
    }

    fn show(&self, desk: &Desk) {
        let (message, failed) = &*self.said.borrow();
        let device = desk.device().unwrap_or_else(|| match failed {
            true => String::new(),
            false => "Starting the engine.".to_owned(),
        });
        set_text(&self.device, &device);
        set_text(&self.in_vain, &self.vain.borrow().join(" "));
        set_text(&self.message, message);
        let class = if *failed { "error" } else { "" };
        set_attribute(&self.message, "class", class);
        desk.with_downloads(|downloads| {
            self.loading.set_hidden(downloads.is_empty());
            if downloads.is_empty() {
                return;
            }
            let received: f64 = downloads.iter().map(|d| d.received).sum();
            match downloads.iter().map(|d| d.total).sum::<Option<f64>>() {
                Some(total) => {
                    self.download.set_max(total.max(1.0));
                    self.download.set_value(received);
                }
                None => {
                    let _ = self.download.remove_attribute("value");
                }
            }
            let parts: Vec<String> = downloads.iter().map(|d| in_words(d)).collect();
            set_text(&self.loading_text, &parts.join(", "));
        });
    }
}

fn in_words(download: &Download) -> String {
    let what = match download.part {
        Part::Engine => "Engine",
        Part::Weights => "Weights",
    };
    let megabytes = |bytes: f64| format!("{:.1}", bytes / 1e6);
    match download.total {
        Some(total) => format!(
            "{what}: {} of {} MB",
            megabytes(download.received),
            megabytes(total)
        ),
        None => format!("{what}: {} MB", megabytes(download.received)),
    }
}
