//! The engine's desk: all figures share one engine, and ask for its work here.
//!
//! The engine computes one run at a time. Who asks last gets it, and whose run that ends is told so;
//! a question about a single image may come in between. A figure never talks to the worker: it
//! starts a [`Job`] and reads its [`News`], in plain order, or has [`Desk::sample`] do so.
//!
//! A run is stopped by dropping it. Which epoch's weights the engine holds is the desk's business:
//! it loads what the next job needs.

use std::{cell::RefCell, fmt, rc::Rc};

use futures_channel::{mpsc, oneshot};
use js_sys::{Array, Object};
use protocol::{EngineKind, ErrorCode, Event, Model, Part, Picture, Request, Start, StepInfo};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::spawn_local;

use crate::{
    dom, engine,
    plain::{Plain, plain_struct},
    state::EngineChoice,
    store::PIXELS,
    team::Team,
};

/// `weights/index.json`.
pub type Index = fashion_ddpm::index::Index<Evaluations>;

/// A weights file of the list.
pub type Weights = fashion_ddpm::index::IndexEntry<Evaluations>;

/// What `trainer evaluate` found, with its name of sampler and steps, for example `ddpm-1000`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluations(pub Vec<(String, Evaluation)>);

impl Plain for Evaluations {
    fn read(value: &JsValue) -> Option<Self> {
        let Some(value) = Object::try_from(value) else {
            return value.is_undefined().then(Self::default);
        };
        let pair = |pair: JsValue| {
            let pair: Array = pair.unchecked_into();
            Some((String::read(&pair.get(0))?, Evaluation::read(&pair.get(1))?))
        };
        let pairs = Object::entries(value).into_iter().map(pair);
        pairs.collect::<Option<_>>().map(Self)
    }
}

plain_struct!(Index { default, models });
plain_struct!(Weights {
    file,
    bytes,
    sha256,
    epoch,
    evaluation
});
plain_struct!(Evaluation { count, suspicious });
plain_struct!(Estimate { value, interval });

/// As much of an evaluation as the page quotes.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// How many samples were judged.
    pub count: u32,
    /// The share of them nearer to a training image, of all there are, than 99 % of the test images.
    pub suspicious: Option<Estimate>,
}

/// A figure of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// The figure itself.
    pub value: f64,
    /// Its 95 % interval.
    pub interval: [f64; 2],
}

/// Where a weights file is, with its checksum as a version.
pub fn address(weights: &Weights) -> String {
    dom::absolute(&format!("weights/{}?v={}", weights.file, weights.sha256))
}

/// Something to compute.
#[derive(Debug, Clone)]
pub struct Job {
    /// What.
    pub picture: Picture,
    /// With the weights of which epoch; `None` is the page's own choice.
    pub epoch: Option<u32>,
    /// From where, with x_t, `[count, 784]`; `None` is pure noise.
    pub start: Option<(Start, Vec<f32>)>,
}

/// What comes of a job.
#[derive(Debug)]
pub enum News {
    /// It has begun; the numbers of each step to come.
    Started(Vec<StepInfo>),
    /// Frames, in order.
    Frames {
        /// Index of the first one.
        first: usize,
        /// x_t of each frame, `[frames, count, 784]`.
        x_t: Vec<f32>,
        /// The predicted noise of each, in the same shape.
        pred_noise: Vec<f32>,
    },
    /// It is finished.
    Done {
        /// The garments, `[count, 784]`.
        x_0: Vec<f32>,
        /// Time spent computing.
        elapsed_ms: f64,
    },
}

/// Why a run ended before it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Another figure asked for the engine.
    Taken,
    /// It failed, and this is why.
    Failed(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str("Stopped: another figure is using the network now."),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

impl From<End> for String {
    fn from(end: End) -> Self {
        end.to_string()
    }
}

/// What the desk tells the page.
pub enum Notice {
    /// The list of weights has come.
    Index,
    /// Something about the engine or a download changed.
    Status,
    /// This is being done now.
    Busy(String),
    /// The page's own weights are loaded: runs may start.
    Ready {
        /// What it computes on, as the browser names it.
        adapter: String,
        /// Which engine.
        engine: EngineKind,
        /// The weights.
        model: Model,
    },
    /// Something failed that all figures need.
    Failed(ErrorCode, String),
}

/// The desk. Cheap to clone: all clones are the same desk.
#[derive(Clone)]
pub struct Desk(Rc<RefCell<Inner>>);

type Told = Rc<dyn Fn(Notice)>;

struct Inner {
    /// The build's id, for addresses of files whose names have none.
    build: String,
    told: Told,
    index: Option<Rc<Index>>,
    engine: Option<Team>,
    /// Which engine to start as soon as somebody needs one; `None` once one was started.
    asleep: Option<EngineChoice>,
    /// Counts engines: what one said that has been given up is not listened to.
    generation: u32,
    /// Why it is the CPU.
    reason: Option<String>,
    /// What the engine runs on, once it does.
    device: Option<String>,
    /// The epoch the page has chosen.
    preferred: Option<u32>,
    /// The weights the engine holds.
    loaded: Option<Model>,
    /// The weights that are on their way.
    loading: Option<u32>,
    /// Whether the page's own weights have been usable.
    ready: bool,
    /// Of the engine, and of the weights.
    downloads: [Option<Download>; 2],
    numbers: u32,
    run: Option<Active>,
    questions: Vec<Asked>,
}

struct Active {
    number: u32,
    /// What is to be sent once the weights are there.
    waiting: Option<Job>,
    /// What has been asked of it meanwhile.
    since: Vec<Request>,
    paused: bool,
    news: mpsc::UnboundedSender<Result<News, End>>,
}

struct Asked {
    number: u32,
    epoch: Option<u32>,
    /// What is to be sent once the weights are there.
    waiting: Option<(Request, Vec<f32>)>,
    answer: oneshot::Sender<Result<Vec<f32>, End>>,
}

/// A download that goes on.
pub struct Download {
    /// Of what.
    pub part: Part,
    /// Bytes so far.
    pub received: f64,
    /// Bytes in all, where known.
    pub total: Option<f64>,
}

impl Desk {
    /// A desk whose engine is still to come; `told` hears what happens.
    pub fn new(build: String, told: impl Fn(Notice) + 'static) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            build,
            told: Rc::new(told),
            index: None,
            engine: None,
            asleep: None,
            generation: 0,
            reason: None,
            device: None,
            preferred: None,
            loaded: None,
            loading: None,
            ready: false,
            downloads: [None, None],
            numbers: 0,
            run: None,
            questions: Vec::new(),
        })))
    }

    /// Fetches the list of weights and starts the engine; where the visitor saves data, the engine
    /// waits until somebody has work for it.
    pub fn open(&self, choice: EngineChoice, preferred: Option<u32>) {
        {
            let mut inner = self.0.borrow_mut();
            inner.preferred = preferred;
            inner.asleep = Some(choice);
        }
        let desk = self.clone();
        spawn_local(async move {
            match dom::fetch_json::<Index>("weights/index.json").await {
                Ok(index) => desk.take_index(index),
                Err(reason) => desk.tell(Notice::Failed(
                    ErrorCode::WeightsMissing,
                    format!(
                        "The list of weights, weights/index.json, could not be read ({reason}). \
                         Check the connection and reload the page."
                    ),
                )),
            }
        });
        match dom::saves_data() {
            true => self.tell(Notice::Status),
            false => self.wake(),
        }
    }

    /// Starts the engine, if nobody has yet.
    fn wake(&self) {
        let Some(choice) = self.0.borrow_mut().asleep.take() else {
            return;
        };
        let desk = self.clone();
        spawn_local(async move {
            let (kind, reason) = engine::choose(choice).await;
            desk.start_engine(kind, reason);
        });
    }

    fn tell(&self, notice: Notice) {
        let told = self.0.borrow().told.clone();
        told(notice);
    }

    fn take_index(&self, index: Index) {
        let default = index.default_entry().or(index.models.first());
        let Some(default) = default.map(|model| model.epoch) else {
            return self.tell(Notice::Failed(
                ErrorCode::WeightsMissing,
                "There are no weights beside this page yet. Train and export some, and reload it."
                    .to_owned(),
            ));
        };
        {
            let mut inner = self.0.borrow_mut();
            let chosen = inner.preferred.unwrap_or(default);
            let there = index.models.iter().any(|model| model.epoch == chosen);
            inner.preferred = Some(if there { chosen } else { default });
            inner.index = Some(Rc::new(index));
        }
        self.tell(Notice::Index);
        self.go_on();
    }

    fn start_engine(&self, kind: EngineKind, reason: Option<String>) {
        let (generation, build) = {
            let mut inner = self.0.borrow_mut();
            inner.generation += 1;
            inner.reason = reason;
            inner.device = None;
            inner.loaded = None;
            inner.loading = None;
            inner.ready = false;
            inner.downloads = [None, None];
            // The old one, if any, ends here.
            inner.engine = None;
            (inner.generation, inner.build.clone())
        };
        let desk = self.clone();
        let told = move |event, values| desk.hear(generation, event, values);
        match Team::start(kind, build, told) {
            Ok(engine) => {
                self.0.borrow_mut().engine = Some(engine);
                self.tell(Notice::Status);
                self.go_on();
            }
            Err(message) => self.tell(Notice::Failed(ErrorCode::Engine, message)),
        }
    }

    // What figures ask.

    /// The list of weights, once it is there.
    pub fn index(&self) -> Option<Rc<Index>> {
        self.0.borrow().index.clone()
    }

    /// The epoch that is used where none is asked for.
    pub fn preferred(&self) -> Option<u32> {
        self.0.borrow().preferred
    }

    /// Whether runs may start: the page's own weights are loaded, or will be as soon as one does.
    pub fn is_ready(&self) -> bool {
        let inner = self.0.borrow();
        inner.ready || inner.asleep.is_some() && inner.index.is_some()
    }

    /// Whether a run goes on, or waits for its weights.
    pub fn is_busy(&self) -> bool {
        self.0.borrow().run.is_some()
    }

    /// Which engine there is.
    pub fn engine(&self) -> Option<EngineKind> {
        Some(self.0.borrow().engine.as_ref()?.kind())
    }

    /// How many images the CPU engine computes at the same time, at most.
    pub fn threads(&self) -> usize {
        self.0.borrow().engine.as_ref().map_or(1, Team::threads)
    }

    /// What the engine runs on, as the status line says it; a sentence on its start before that.
    pub fn device(&self) -> Option<String> {
        let inner = self.0.borrow();
        if let Some(device) = &inner.device {
            return Some(device.clone());
        }
        if inner.asleep.is_some() {
            let saving = "This browser saves data: the network, 2 to 4 MB, is fetched when you \
                          start something.";
            return Some(saving.to_owned());
        }
        let which = match inner.engine.as_ref()?.kind() {
            EngineKind::WebGpu => "WebGPU engine",
            EngineKind::Cpu => "CPU engine",
        };
        Some(match &inner.reason {
            Some(reason) => format!("Starting the {which}. {reason}"),
            None => format!("Starting the {which}."),
        })
    }

    /// Shows the downloads that go on.
    pub fn with_downloads<T>(&self, show: impl FnOnce(&[&Download]) -> T) -> T {
        let inner = self.0.borrow();
        let downloads: Vec<&Download> = inner.downloads.iter().flatten().collect();
        show(&downloads)
    }

    /// The page chooses other weights. [`Notice::Ready`] follows.
    pub fn prefer(&self, epoch: u32) {
        {
            let mut inner = self.0.borrow_mut();
            if inner.preferred == Some(epoch) && inner.ready {
                return;
            }
            inner.preferred = Some(epoch);
            inner.ready = false;
        }
        self.go_on();
    }

    /// Starts a job; whatever runs now ends.
    pub fn start(&self, job: Job, paused: bool) -> Run {
        let (sender, news) = mpsc::unbounded();
        let number = {
            let mut inner = self.0.borrow_mut();
            inner.end_run(End::Taken);
            inner.numbers += 1;
            let number = inner.numbers;
            inner.run = Some(Active {
                number,
                waiting: Some(job),
                since: Vec::new(),
                paused,
                news: sender,
            });
            number
        };
        self.wake();
        self.go_on();
        Run {
            number,
            desk: self.clone(),
            news,
        }
    }

    /// Does a whole job: `show` gets the number of steps taken and the newest x_t, `[count, 784]`,
    /// as frames come in. Gives back the garments, `[count, 784]`, and the milliseconds spent
    /// computing.
    ///
    /// # Errors
    /// Why it ended before.
    pub async fn sample(
        &self,
        job: Job,
        mut show: impl FnMut(usize, &[f32]),
    ) -> Result<(Vec<f32>, f64), End> {
        let size = job.picture.count as usize * PIXELS;
        let mut run = self.start(job, false);
        loop {
            match run.next().await? {
                News::Started(_) => {}
                News::Frames { first, x_t, .. } => {
                    if let Some(newest) = x_t.chunks_exact(size).next_back() {
                        show(first + x_t.len() / size, newest);
                    }
                }
                News::Done { x_0, elapsed_ms } => return Ok((x_0, elapsed_ms)),
            }
        }
    }

    /// What noise the network sees in `x_t`, `[count, 784]`, at the 0-based timestep `t`; of the
    /// picture, label, guidance and count matter.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(
        &self,
        picture: Picture,
        epoch: Option<u32>,
        t: u32,
        x_t: Vec<f32>,
    ) -> Result<Vec<f32>, End> {
        let (sender, answer) = oneshot::channel();
        {
            let mut inner = self.0.borrow_mut();
            inner.numbers += 1;
            let number = inner.numbers;
            let request = Request::Explain {
                run: number,
                index: 0,
                t,
                picture,
            };
            inner.questions.push(Asked {
                number,
                epoch,
                waiting: Some((request, x_t)),
                answer: sender,
            });
        }
        self.wake();
        self.go_on();
        answer.await.unwrap_or(Err(End::Taken))
    }

    /// Sends whatever can be done with the weights that are there, and else has others loaded.
    fn go_on(&self) {
        let failed = {
            let mut inner = self.0.borrow_mut();
            inner.go_on()
        };
        if let Some(message) = failed {
            let mut inner = self.0.borrow_mut();
            inner.end_run(End::Failed(message.clone()));
            inner.fail_questions(&message, true);
        }
        self.tell(Notice::Status);
    }

    // What the engine says.

    fn hear(&self, generation: u32, event: Event, mut values: Vec<Vec<f32>>) {
        if generation != self.0.borrow().generation {
            return;
        }
        match event {
            Event::Progress {
                part,
                received,
                total,
            } => {
                let place = usize::from(part == Part::Weights);
                {
                    let download = &mut self.0.borrow_mut().downloads[place];
                    // The engine counts once more what was fetched for it before it was there.
                    let before = download.as_ref().map_or(0.0, |download| download.received);
                    let received = received.max(before);
                    *download = Some(Download {
                        part,
                        received,
                        total: total.filter(|total| *total >= received),
                    });
                }
                self.tell(Notice::Status);
            }
            Event::Busy { message } => {
                let quiet = {
                    let mut inner = self.0.borrow_mut();
                    // The engine works while its weights are on their way.
                    for download in &mut inner.downloads {
                        download.take_if(|d| d.total.is_none_or(|total| d.received >= total));
                    }
                    inner.ready
                };
                // Other weights for a figure's job are no news for the page.
                self.tell(if quiet {
                    Notice::Status
                } else {
                    Notice::Busy(message)
                });
            }
            Event::Ready {
                engine,
                adapter,
                software,
                model,
            } => self.take_ready(engine, adapter, software, model),
            Event::Started { run, steps } => self.send(run, News::Started(steps)),
            Event::Frames { run, first, .. } if values.len() == 2 => {
                let pred_noise = values.pop().unwrap_or_default();
                let x_t = values.pop().unwrap_or_default();
                let first = first as usize;
                self.send(
                    run,
                    News::Frames {
                        first,
                        x_t,
                        pred_noise,
                    },
                );
            }
            Event::Done { run, elapsed_ms } => {
                let x_0 = values.pop().unwrap_or_default();
                self.send(run, News::Done { x_0, elapsed_ms });
                {
                    let mut inner = self.0.borrow_mut();
                    if inner
                        .run
                        .as_ref()
                        .is_some_and(|active| active.number == run)
                    {
                        inner.run = None;
                    }
                }
                self.go_on();
            }
            Event::Explained { run, .. } => {
                let mut inner = self.0.borrow_mut();
                if let Some(at) = inner.questions.iter().position(|q| q.number == run) {
                    let asked = inner.questions.remove(at);
                    let _ = asked.answer.send(Ok(values.pop().unwrap_or_default()));
                }
            }
            Event::Error {
                code,
                message,
                fatal,
            } => self.take_failure(code, message, fatal),
            // Of a run that is over.
            Event::Stopped { .. } | Event::Frames { .. } => {}
        }
    }

    fn send(&self, run: u32, news: News) {
        let inner = self.0.borrow();
        if let Some(active) = inner.run.as_ref().filter(|active| active.number == run) {
            let _ = active.news.unbounded_send(Ok(news));
        }
    }

    fn take_ready(&self, engine: EngineKind, adapter: String, software: bool, model: Model) {
        // Otherwise they would be asked for again, for ever.
        let listed = self.0.borrow().loading.unwrap_or(model.epoch);
        if listed != model.epoch {
            self.0.borrow_mut().loaded = None;
            let message = format!(
                "The weights that this page lists as those of epoch {listed} are those of epoch \
                 {}. Choose another epoch.",
                model.epoch
            );
            return self.take_failure(ErrorCode::WeightsInvalid, message, false);
        }
        let ready = {
            let mut inner = self.0.borrow_mut();
            let mut device = match engine {
                EngineKind::Cpu => "CPU (WebAssembly)".to_owned(),
                EngineKind::WebGpu if software => "WebGPU (software adapter)".to_owned(),
                EngineKind::WebGpu => format!("WebGPU - {adapter}"),
            };
            if let Some(reason) = &inner.reason {
                device = format!("{device}. {reason}");
            }
            inner.device = Some(device);
            inner.downloads = [None, None];
            inner.loading = None;
            inner.loaded = Some(model.clone());
            let own = Some(model.epoch) == inner.preferred;
            let news = own && !inner.ready;
            inner.ready |= own;
            news
        };
        if ready {
            self.tell(Notice::Ready {
                adapter,
                engine,
                model,
            });
        }
        self.go_on();
    }

    fn take_failure(&self, code: ErrorCode, message: String, fatal: bool) {
        let (gpu, own, ended) = {
            let mut inner = self.0.borrow_mut();
            inner.downloads = [None, None];
            let kind = inner.engine.as_ref().map(Team::kind);
            let gpu = fatal && kind == Some(EngineKind::WebGpu);
            let loading = inner.loading.take();
            // Weights that only a figure wanted.
            let own = fatal || loading.is_none_or(|epoch| Some(epoch) == inner.preferred);
            // What has not been sent to the one engine the other one can do.
            let waits = |run: &Active| gpu && run.waiting.is_some();
            let ended = inner.run.as_ref().is_some_and(|run| !waits(run));
            if ended {
                inner.end_run(End::Failed(message.clone()));
            }
            inner.fail_questions(&message, !gpu);
            if code != ErrorCode::Picture && own {
                inner.ready = false;
            }
            if fatal {
                inner.engine = None;
                inner.loaded = None;
                inner.device = None;
            }
            (gpu, own, ended)
        };
        if gpu {
            if ended {
                self.tell(Notice::Failed(code, message.clone()));
            }
            self.tell(Notice::Busy("Starting the CPU engine instead.".to_owned()));
            return self.start_engine(EngineKind::Cpu, Some(message));
        }
        if own {
            self.tell(Notice::Failed(code, message));
        }
        self.tell(Notice::Status);
    }
}

impl Inner {
    fn send(&self, request: &Request, values: Option<&[f32]>) {
        if let Some(engine) = &self.engine {
            engine.ask(request, values);
        }
    }

    fn end_run(&mut self, why: End) {
        if let Some(active) = self.run.take() {
            if active.waiting.is_none() {
                let run = active.number;
                self.send(&Request::Stop { run }, None);
            }
            let _ = active.news.unbounded_send(Err(why));
        }
    }

    /// Ends the questions, or those alone that the engine has.
    fn fail_questions(&mut self, message: &str, waiting_as_well: bool) {
        for asked in std::mem::take(&mut self.questions) {
            if waiting_as_well || asked.waiting.is_none() {
                let _ = asked.answer.send(Err(End::Failed(message.to_owned())));
            } else {
                self.questions.push(asked);
            }
        }
    }

    /// `Some` is why the next job cannot be done.
    fn go_on(&mut self) -> Option<String> {
        self.engine.as_ref()?;
        self.index.as_ref()?;
        if self.loading.is_some() {
            return None;
        }
        let loaded = self.loaded.as_ref().map(|model| model.epoch);
        let preferred = self.preferred;
        // Questions that the present weights answer go first: they are short.
        for i in 0..self.questions.len() {
            if self.questions[i].epoch.or(preferred) == loaded
                && let Some((request, x_t)) = self.questions[i].waiting.take()
            {
                self.send(&request, Some(&x_t));
            }
        }
        let mut wanted = None;
        if let Some(active) = &mut self.run {
            if let Some(job) = active
                .waiting
                .take_if(|job| job.epoch.or(preferred) == loaded)
            {
                let request = Request::Run {
                    run: active.number,
                    picture: job.picture,
                    first: 0,
                    paused: active.paused,
                    start: job.start.as_ref().map(|(start, _)| start.clone()),
                };
                let x_t = job.start.map(|(_, x_t)| x_t);
                let since = std::mem::take(&mut active.since);
                self.send(&request, x_t.as_deref());
                for request in &since {
                    self.send(request, None);
                }
            }
            match self.run.as_ref().and_then(|active| active.waiting.as_ref()) {
                Some(job) => wanted = job.epoch.or(preferred),
                // Whatever else is wanted, a run keeps its weights to its end.
                None => return None,
            }
        }
        let asked = self.questions.iter().find(|q| q.waiting.is_some());
        let wanted = wanted
            .or_else(|| asked.and_then(|asked| asked.epoch.or(preferred)))
            .or_else(|| preferred.filter(|_| !self.ready))?;
        let models = &self.index.as_ref()?.models;
        let Some(weights) = models.iter().find(|model| model.epoch == wanted) else {
            return Some(format!(
                "There are no weights of epoch {wanted} beside this page."
            ));
        };
        let request = Request::Load {
            url: address(weights),
            bytes: weights.bytes,
        };
        self.loading = Some(wanted);
        self.send(&request, None);
        None
    }
}

/// A job that was started; dropping it stops it.
pub struct Run {
    number: u32,
    desk: Desk,
    news: mpsc::UnboundedReceiver<Result<News, End>>,
}

impl Run {
    /// What comes next.
    ///
    /// # Errors
    /// Why nothing will.
    pub async fn next(&mut self) -> Result<News, End> {
        self.news.recv().await.unwrap_or(Err(End::Taken))
    }

    /// A way to pause it while somebody else reads its news.
    pub fn control(&self) -> Control {
        Control {
            number: self.number,
            desk: self.desk.clone(),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.control().stop();
    }
}

/// Pause, resume, step and stop, of one run.
#[derive(Clone)]
pub struct Control {
    number: u32,
    desk: Desk,
}

impl Control {
    /// Compute no further step.
    pub fn pause(&self) {
        self.send(Request::Pause { run: self.number }, Some(true));
    }

    /// Go on.
    pub fn resume(&self) {
        self.send(Request::Resume { run: self.number }, Some(false));
    }

    /// Compute one step of a paused run.
    pub fn step(&self) {
        self.send(Request::Step { run: self.number }, None);
    }

    /// Forget the run.
    pub fn stop(&self) {
        {
            let mut inner = self.desk.0.borrow_mut();
            let ours = |active: &Active| active.number == self.number;
            if !inner.run.as_ref().is_some_and(ours) {
                return;
            }
            inner.end_run(End::Taken);
        }
        self.desk.go_on();
    }

    fn send(&self, request: Request, paused: Option<bool>) {
        let mut inner = self.desk.0.borrow_mut();
        let Some(active) = inner.run.as_mut().filter(|a| a.number == self.number) else {
            return;
        };
        active.paused = paused.unwrap_or(active.paused);
        match active.waiting {
            Some(_) => active.since.push(request),
            None => inner.send(&request, None),
        }
    }
}
