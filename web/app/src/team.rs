//! The engine of the desk: one engine, or several CPU engines that share the images of a run.
//!
//! A CPU engine has one thread. So a run of several images goes to as many engines as there are
//! cores, each with the same weights and its own images, which nothing connects: no memory is
//! shared, and the page need not be cross-origin isolated for it. A single image gains nothing: its
//! steps come faster from one thread than a display shows them.
//!
//! The others are started for the first run of several images, which waits for them. Where one of
//! them cannot be had, the first engine computes everything alone.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
};

use protocol::{EngineKind, Event, Request};

use crate::{
    dom,
    engine::Engine,
    shares::{Said, Shared, shares},
};

/// Engines, at most: each has the weights in its memory.
const MOST: usize = 8;

/// A run waits no longer for the others, in milliseconds: where they need more, it is because they
/// have to be fetched once more, over a slow line.
const PATIENCE_MS: i32 = 3000;

/// One engine or more, which are asked as one.
pub struct Team(Rc<RefCell<Inner>>);

type Told = Rc<dyn Fn(Event, Vec<Vec<f32>>)>;

struct Inner {
    kind: EngineKind,
    build: String,
    told: Told,
    /// The first one answers for all.
    members: Vec<Member>,
    /// Members, at most.
    most: usize,
    /// Where the weights in use are, and how long.
    load: Option<(String, u64)>,
    held: Option<Held>,
    shared: Option<Shared>,
}

struct Member {
    engine: Engine,
    weights: Stage,
}

/// What a member that is not the first has of the weights in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Others,
    AskedFor,
    Loaded,
}

/// A run that waits for members to be ready, and what has been asked of it since.
struct Held {
    run: u32,
    request: Request,
    x_t: Option<Vec<f32>>,
    since: Vec<Request>,
}

impl Team {
    /// Starts the first engine, of this kind and build; `told` gets whatever it says, with the
    /// numbers that came along.
    ///
    /// # Errors
    /// A sentence for the status line.
    pub fn start(
        kind: EngineKind,
        build: String,
        told: impl Fn(Event, Vec<Vec<f32>>) + 'static,
    ) -> Result<Self, String> {
        let cores = dom::window().navigator().hardware_concurrency() as usize;
        let inner = Rc::new(RefCell::new(Inner {
            kind,
            build,
            told: Rc::new(told),
            members: Vec::new(),
            most: match kind {
                EngineKind::WebGpu => 1,
                // Where no cache has them, they are fetched once more for each.
                EngineKind::Cpu if dom::saves_data() => 1,
                EngineKind::Cpu => cores.clamp(1, MOST),
            },
            load: None,
            held: None,
            shared: None,
        }));
        inner.borrow_mut().add(&inner)?;
        Ok(Self(inner))
    }

    /// Which build they are.
    pub fn kind(&self) -> EngineKind {
        self.0.borrow().kind
    }

    /// How many images are computed at the same time, at most.
    pub fn threads(&self) -> usize {
        self.0.borrow().most
    }

    /// Asks for something; `values` go along.
    pub fn ask(&self, request: &Request, values: Option<&[f32]>) {
        self.0.borrow_mut().ask(&self.0, request, values);
    }
}

impl Inner {
    /// One member more.
    fn add(&mut self, this: &Rc<RefCell<Self>>) -> Result<(), String> {
        let index = self.members.len();
        let team = Rc::downgrade(this);
        let told = move |event, values| hear(&team, index, event, values);
        let engine = Engine::start(self.kind, &self.build, told)?;
        let weights = Stage::Others;
        self.members.push(Member { engine, weights });
        Ok(())
    }

    fn ask(&mut self, this: &Rc<RefCell<Self>>, request: &Request, values: Option<&[f32]>) {
        match request {
            Request::Load { url, bytes } => {
                self.load = Some((url.clone(), *bytes));
                for member in &mut self.members {
                    member.weights = Stage::Others;
                }
                self.ask_first(request, values);
            }
            Request::Run { run, picture, .. } => {
                if let Some(run) = self.shared.as_ref().map(Shared::run) {
                    self.stop(&Request::Stop { run });
                }
                let wanted = self.most.min(picture.count as usize);
                if wanted < 2 {
                    return self.ask_first(request, values);
                }
                self.held = Some(Held {
                    run: *run,
                    request: request.clone(),
                    x_t: values.map(<[f32]>::to_vec),
                    since: Vec::new(),
                });
                self.gather(this, wanted);
                self.let_go();
                let (team, run) = (Rc::downgrade(this), *run);
                dom::after(PATIENCE_MS, move || give_up(&team, run));
            }
            Request::Pause { .. } | Request::Resume { .. } | Request::Step { .. } => {
                match &mut self.held {
                    Some(held) => held.since.push(request.clone()),
                    None => self.ask_sharing(request),
                }
            }
            Request::Stop { .. } => self.stop(request),
            Request::Explain { .. } => self.ask_first(request, values),
        }
    }

    fn stop(&mut self, request: &Request) {
        if self.held.take().is_none() {
            self.ask_sharing(request);
            self.shared = None;
        }
    }

    fn ask_first(&self, request: &Request, values: Option<&[f32]>) {
        if let Some(first) = self.members.first() {
            first.engine.ask(request, values);
        }
    }

    /// How many compute the present run, or would.
    fn sharing(&self) -> usize {
        self.shared.as_ref().map_or(1, Shared::engines)
    }

    /// Asks those that compute the present run.
    fn ask_sharing(&self, request: &Request) {
        for member in self.members.iter().take(self.sharing()) {
            member.engine.ask(request, None);
        }
    }

    /// Has so many members load the weights in use.
    fn gather(&mut self, this: &Rc<RefCell<Self>>, wanted: usize) {
        while self.members.len() < wanted {
            if self.add(this).is_err() {
                return self.dismiss();
            }
        }
        let Some((url, bytes)) = self.load.clone() else {
            return;
        };
        let load = Request::Load { url, bytes };
        for member in self.members.iter_mut().take(wanted).skip(1) {
            if member.weights == Stage::Others {
                member.engine.ask(&load, None);
                member.weights = Stage::AskedFor;
            }
        }
    }

    /// Does without all those that compute no part of the present run, from now on.
    fn dismiss(&mut self) {
        self.most = self.sharing();
        self.members.truncate(self.most);
    }

    /// Sends the run that waits on its way, if nobody is waited for.
    fn let_go(&mut self) {
        let loading = |member: &Member| member.weights == Stage::AskedFor;
        if !self.members.iter().skip(1).any(loading) {
            self.send_held();
        }
    }

    /// Sends the run that waits to all members that are ready.
    fn send_held(&mut self) {
        let Some(held) = self.held.take() else { return };
        let others = self.members.iter().skip(1);
        let ready = others.take_while(|member| member.weights == Stage::Loaded);
        let parts = shares(&held.request, held.x_t.as_deref(), 1 + ready.count());
        for (member, (request, x_t)) in self.members.iter().zip(&parts) {
            member.engine.ask(request, x_t.as_deref());
        }
        self.shared = (parts.len() > 1).then(|| Shared::new(held.run, parts.len()));
        for request in &held.since {
            self.ask_sharing(request);
        }
    }

    /// What the page is told of what a member has said.
    fn hear(&mut self, index: usize, event: Event, values: Vec<Vec<f32>>) -> Option<Said> {
        let sharing = self.sharing();
        let member = self.members.get_mut(index)?;
        match event {
            Event::Ready { .. } if index > 0 => {
                // Or else of weights that the page has given up since.
                if member.weights == Stage::AskedFor {
                    member.weights = Stage::Loaded;
                    self.let_go();
                }
                None
            }
            Event::Error { fatal, .. }
                if index >= sharing && (fatal || member.weights != Stage::Loaded) =>
            {
                self.dismiss();
                self.send_held();
                None
            }
            event => match &mut self.shared {
                Some(shared) => {
                    let heard = shared.hear(index, event, values);
                    self.shared
                        .take_if(|_| matches!(heard, Some((Event::Done { .. }, _))));
                    heard
                }
                None => (index == 0).then_some((event, values)),
            },
        }
    }
}

/// Has the run begin, if it still waits, with those that are ready.
fn give_up(team: &Weak<RefCell<Inner>>, waiting: u32) {
    let Some(team) = team.upgrade() else { return };
    let mut inner = team.borrow_mut();
    if inner.held.as_ref().is_some_and(|held| held.run == waiting) {
        inner.send_held();
    }
}

fn hear(team: &Weak<RefCell<Inner>>, member: usize, event: Event, values: Vec<Vec<f32>>) {
    let Some(team) = team.upgrade() else { return };
    let heard = team.borrow_mut().hear(member, event, values);
    if let Some((event, values)) = heard {
        let told = team.borrow().told.clone();
        told(event, values);
    }
}
