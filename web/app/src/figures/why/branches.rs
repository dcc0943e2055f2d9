//! Part c: when is it decided? Back to any t of the run, and on from there with other noise.

use std::{cell::RefCell, rc::Rc};

use fashion_ddpm::{
    Garment,
    gallery::{BranchPoint, Branches},
    sampler::to_pixels,
};
use protocol::{Picture, Start};
use wasm_bindgen_futures::spawn_local;
use web_sys::{Element, HtmlButtonElement, HtmlCanvasElement, HtmlInputElement};

use crate::{
    canvas::{describe, put_grey},
    chart::{Axis, Chart},
    data::Map,
    desk::{Control, End, Job, News},
    dom::{self, find, set_attribute, set_text},
    figures::{note, sampling},
    map::{from_pixels, interval, looks_like, strip},
    page::Page,
    pen::{self, Pen},
    plot::Plot,
    state::Branch,
    store::PIXELS,
};

/// Branches at a time.
pub const BRANCHES: u32 = 4;

/// Pictures of the run in the tree.
const COLUMNS: usize = 9;

pub type Shared = Rc<RefCell<Figure>>;

/// Starts the part.
pub fn mount(page: &Page) -> Shared {
    let figure = Rc::new(RefCell::new(Figure::new(page.clone())));
    listen(&figure);
    let shared = figure.clone();
    sampling::watch(move || follow(&shared));
    let shared = figure.clone();
    page.watch(move || follow(&shared));
    follow(&figure);
    figure
}

/// A picture at a t of a run or a branch.
struct Leaf {
    t: u32,
    pixels: Vec<u8>,
}

/// What grew from one t of the run.
struct Tree {
    /// The lecture's t at which the branches begin.
    t: u32,
    /// Number of the first branch.
    first: u32,
    /// Of each branch, some states and, in the end, the garment.
    branches: Vec<Vec<Leaf>>,
    classes: Vec<Garment>,
}

/// The run on which branches grow.
struct Trunk {
    run: u32,
    picture: Picture,
    /// Of its weights: its branches are grown by the same.
    epoch: Option<u32>,
    /// 0-based timestep of each of its steps.
    steps: Vec<u32>,
    leaves: Vec<Leaf>,
    x_0: Vec<f32>,
}

pub struct Figure {
    page: Page,
    slider: HtmlInputElement,
    t: Element,
    go: HtmlButtonElement,
    stop: HtmlButtonElement,
    canvas: HtmlCanvasElement,
    run_end: HtmlCanvasElement,
    ends: Vec<(HtmlButtonElement, HtmlCanvasElement)>,
    curve: Plot,
    map: Option<Rc<Map>>,
    trunk: Option<Trunk>,
    tree: Option<Tree>,
    /// The visitor's own: t, and how many of [`BRANCHES`] kept the class.
    own: Vec<BranchPoint>,
    control: Option<Control>,
    growing: bool,
    /// Whether the link's branch has been grown.
    from_link: bool,
}

impl Figure {
    fn new(page: Page) -> Self {
        let ends = (1..=BRANCHES).map(|i| {
            let button = find(&format!("branch-{i}"));
            (button, find(&format!("branch-{i}-image")))
        });
        let from_link = page.state().branch.is_none();
        Self {
            page,
            slider: find("branches-t"),
            t: find("branches-t-value"),
            go: find("branches-go"),
            stop: find("branches-stop"),
            canvas: find("branches-tree"),
            run_end: find("branch-0-image"),
            ends: ends.collect(),
            curve: Plot::find("branches-curve"),
            map: None,
            trunk: None,
            tree: None,
            own: Vec::new(),
            control: None,
            growing: false,
            from_link,
        }
    }

    /// The curve of the page's weights, if there is one.
    fn measured(&self) -> Option<Branches> {
        let model = self.page.model()?;
        let index = &self.map.as_ref()?.index;
        index.branches_of(&model.sha256).cloned()
    }

    fn class(&self, x: &[f32]) -> Option<Garment> {
        let map = self.map.as_ref()?;
        let votes = map.index.neighbours.votes;
        looks_like(&map.gallery, x, votes).map(|(garment, _)| garment)
    }

    /// Whether branches differ: only a sampler that adds noise has any.
    fn is_noisy(&self) -> bool {
        let sampler = self
            .trunk
            .as_ref()
            .map(|trunk| trunk.picture.sampler.as_str());
        sampler.is_none_or(|sampler| sampler == "ddpm")
    }

    /// Whether figure 1 still has the states of the trunk: it keeps those of its last run.
    fn is_current(&self) -> bool {
        let trunk = self.trunk.as_ref();
        trunk.is_some_and(|trunk| trunk.run == sampling::run_number())
    }

    /// Whether branches can grow now.
    fn is_ready(&self) -> bool {
        self.page.desk().is_ready() && self.is_current() && self.is_noisy()
    }

    /// The finished run, if there is another one than before.
    fn take_trunk(&mut self) {
        let known = self.trunk.as_ref().map(|trunk| trunk.run);
        let run = sampling::run_number();
        let trunk = sampling::look(|frames, _| {
            if Some(run) == known {
                return None;
            }
            let last = frames.steps.len();
            let first = |x: Vec<f32>| x[..PIXELS].to_vec();
            let x_0 = first(frames.x(last)?);
            let leaf = |stop: usize| {
                Some(Leaf {
                    t: frames.steps.get(stop).map_or(0, |step| step.t + 1),
                    pixels: to_pixels(&first(frames.x(stop)?)),
                })
            };
            Some(Trunk {
                run,
                picture: frames.picture.clone(),
                epoch: frames.epoch,
                steps: frames.steps.iter().map(|step| step.t).collect(),
                leaves: strip(0, last, COLUMNS)
                    .into_iter()
                    .filter_map(leaf)
                    .collect(),
                x_0,
            })
        });
        if let Some(trunk) = trunk.flatten() {
            self.trunk = Some(trunk);
            self.tree = None;
        }
    }

    /// The stop of the run whose t is nearest to the slider's.
    fn stop_at(&self, t: u32) -> Option<usize> {
        let steps = self.trunk.as_ref()?.steps.iter().enumerate();
        let nearest = steps.min_by_key(|(_, step)| (*step + 1).abs_diff(t));
        nearest.map(|(stop, _)| stop)
    }

    fn chosen(&self) -> u32 {
        self.slider.value().parse().unwrap_or(1)
    }

    // What is seen.

    fn render(&mut self) {
        self.go.set_disabled(!self.is_ready() || self.growing);
        self.stop.set_disabled(!self.growing);
        self.slider.set_disabled(self.trunk.is_none());
        let timesteps = self.page.schedule().timesteps().to_string();
        set_attribute(&self.slider, "max", &timesteps);
        let text = format!("t = {}", self.chosen());
        set_text(&self.t, &text);
        set_attribute(&self.slider, "aria-valuetext", &text);
        if let Some(trunk) = &self.trunk {
            put_grey(&self.run_end, &trunk.x_0);
            let class = self.class(&trunk.x_0).map_or("", Garment::name);
            describe(&self.run_end, &format!("the run: {class}"));
        }
        self.render_ends();
        self.paint();
        self.render_curve();
    }

    fn render_ends(&self) {
        let selected = self.page.state().branch;
        for (i, (button, canvas)) in self.ends.iter().enumerate() {
            let tree = self.tree.as_ref();
            let end = tree.and_then(|tree| tree.branches.get(i)?.last());
            let number = tree.map_or(1, |tree| tree.first) + i as u32;
            let (Some(end), Some(tree)) = (end, tree) else {
                button.set_disabled(true);
                set_attribute(button, "aria-pressed", "false");
                set_attribute(canvas, "class", "idle");
                describe(canvas, "a branch");
                continue;
            };
            let finished = end.t == 0;
            put_grey(canvas, &from_pixels(&end.pixels));
            button.set_disabled(!finished);
            let class = tree.classes.get(i).map_or("", |class| class.name());
            let text = match finished {
                true => format!("branch {number}: {class}"),
                false => format!("branch {number}, t = {}", end.t),
            };
            describe(canvas, &text);
            let is_selected = selected == Some(Branch { number, t: tree.t });
            set_attribute(
                button,
                "aria-pressed",
                if is_selected { "true" } else { "false" },
            );
        }
    }

    fn paint(&self) {
        let class = match self.tree {
            Some(_) => "plot tree",
            None => "plot tree bare",
        };
        set_attribute(&self.canvas, "class", class);
        let Some(pen) = Pen::new(&self.canvas) else {
            return;
        };
        pen.clear();
        let Some(trunk) = &self.trunk else {
            describe(&self.canvas, "Nothing yet: sample a garment above first.");
            return;
        };
        let timesteps = self.page.schedule().timesteps() as f64;
        let rows = 1.0
            + self
                .tree
                .as_ref()
                .map_or(0.0, |tree| tree.branches.len() as f64);
        let side = (pen.width / (COLUMNS as f64 * 1.12)).min(pen.height / (rows * 1.12));
        let gap = (pen.height - rows * side) / rows;
        let x = |t: u32| (pen.width - side) * (1.0 - f64::from(t) / timesteps) + side / 2.0;
        let y = |row: usize| row as f64 * (side + gap) + (side + gap) / 2.0;
        let line = |points: &[(f64, f64)]| pen.path(points.iter().copied(), "#ffffff90", 2.0);
        let leaf = |leaf: &Leaf, row: usize| {
            let (left, top) = (x(leaf.t) - side / 2.0, y(row) - side / 2.0);
            pen.picture(&leaf.pixels, left, top, side);
            pen.frame(left, top, side, "#ffffff50", 1.0);
        };
        line(&[
            (x(trunk.leaves.first().map_or(0, |leaf| leaf.t)), y(0)),
            (x(0), y(0)),
        ]);
        if let Some(tree) = &self.tree {
            for row in 1..=tree.branches.len() {
                let fork = x(tree.t);
                line(&[(fork, y(0)), (fork, y(row)), (x(0), y(row))]);
            }
        }
        for picture in &trunk.leaves {
            leaf(picture, 0);
        }
        if let Some(tree) = &self.tree {
            for (row, branch) in tree.branches.iter().enumerate() {
                // The last one is always whole; those before it where there is room.
                let mut free = f64::INFINITY;
                for picture in branch.iter().rev() {
                    if x(picture.t) + side * 1.05 <= free || free.is_infinite() {
                        leaf(picture, row + 1);
                        free = x(picture.t);
                    }
                }
            }
        }
        let fork = x(self.tree.as_ref().map_or(self.chosen(), |tree| tree.t));
        pen.line(fork, 0.0, fork, pen.height, "#ff8a3c", 1.5);
        let mut words = self.in_words();
        if !self.is_current() {
            words += " Another run has begun since: let it or a new one come to its end, and branch from that.";
        }
        describe(&self.canvas, &words);
    }

    fn in_words(&self) -> String {
        let (Some(trunk), Some(tree)) = (&self.trunk, &self.tree) else {
            return match self.is_noisy() {
                true => "The run from noise, left, to its garment, right; no branches yet.",
                false => "The run from noise, left, to its garment, right. This sampler adds no noise: branches are DDPM’s.",
            }
            .to_owned();
        };
        let own = self.class(&trunk.x_0).map_or("a garment", Garment::name);
        let classes: Vec<&str> = tree.classes.iter().map(|class| class.name()).collect();
        match classes.is_empty() {
            true => format!(
                "Branches grow from t = {} of the run, which became: {own}.",
                tree.t
            ),
            false => format!(
                "The run became: {own}. Its branches from t = {} became: {}.",
                tree.t,
                classes.join(", ")
            ),
        }
    }

    fn render_curve(&self) {
        let timesteps = self.page.schedule().timesteps() as f64;
        let quarters = [0.0, 0.25, 0.5, 0.75, 1.0];
        let mut chart = Chart::new(
            Axis::linear(
                "branch at t",
                [0.0, timesteps],
                &quarters.map(|q| q * timesteps),
            ),
            Axis::linear("class kept", [0.0, 1.0], &[0.0, 0.25, 0.5, 0.75, 1.0]),
        );
        let measured = self.measured();
        if let Some(measured) = &measured {
            let share =
                |point: &BranchPoint| f64::from(point.kept) / f64::from(measured.runs.max(1));
            for point in &measured.points {
                let t = point.t as f64;
                let ends = interval(point.kept, measured.runs).map(|end| (t, end));
                chart = chart.line("one error", ends);
            }
            let line = measured
                .points
                .iter()
                .map(|point| (point.t as f64, share(point)));
            chart = chart.line("one", line);
            let chance = measured.by_chance;
            chart = chart.line("chance", [(0.0, chance), (timesteps, chance)]);
        }
        let own = self
            .own
            .iter()
            .map(|point| (point.t as f64, f64::from(point.kept) / f64::from(BRANCHES)));
        chart = chart.points("own", own);
        self.curve.show(chart.cursor(self.chosen().into()));
        let (caption, points) = match &measured {
            None => (
                "It has not been measured for these weights. Your own branches appear here as points."
                    .to_owned(),
                String::new(),
            ),
            Some(measured) => {
                let said = measured.points.iter().map(|point| {
                    let share = 100.0 * f64::from(point.kept) / f64::from(measured.runs.max(1));
                    format!("{share:.0} % from t = {}", point.t)
                });
                let caption = format!(
                    "Line: how many branches end in the class of their run, by the vote of the nearest \
                     images; {} runs (DDPM, {} steps, epoch {}) with one branch from every tenth of their \
                     steps. Bars: 95 % intervals. Dotted: two different runs agree in {:.0} %. Points: \
                     your own, {BRANCHES} branches each.",
                    measured.runs,
                    measured.steps,
                    measured.epoch,
                    100.0 * measured.by_chance,
                );
                (caption, said.collect::<Vec<_>>().join(", "))
            }
        };
        set_text(&find("branches-curve-text"), &points);
        set_text(&find("branches-curve-caption"), &caption);
    }

    /// What the engine is asked for: branches from the chosen t.
    fn job(&mut self, first: u32) -> Option<Job> {
        let stop = self.stop_at(self.chosen())?;
        let trunk = self.trunk.as_ref()?;
        let t = *trunk.steps.get(stop)?;
        let current = self.is_current();
        let x_t = sampling::look(|frames, _| {
            let x = frames.x(stop).filter(|_| current)?;
            Some(x[..PIXELS].to_vec())
        })??;
        let (mut picture, epoch) = (trunk.picture.clone(), trunk.epoch);
        picture.count = BRANCHES;
        let start = Start {
            t,
            branches: (first..first + BRANCHES).collect(),
        };
        self.tree = Some(Tree {
            t: t + 1,
            first,
            branches: (0..BRANCHES).map(|_| Vec::new()).collect(),
            classes: Vec::new(),
        });
        Some(Job {
            picture,
            epoch,
            start: Some((start, x_t.repeat(BRANCHES as usize))),
        })
    }

    /// Adds a state of each branch.
    fn add(&mut self, t: u32, x: &[f32]) {
        if let Some(tree) = &mut self.tree {
            for (branch, x) in tree.branches.iter_mut().zip(x.chunks_exact(PIXELS)) {
                branch.push(Leaf {
                    t,
                    pixels: to_pixels(x),
                });
            }
        }
    }

    /// The branches have come to their end.
    fn finish(&mut self, x_0: &[f32]) {
        self.add(0, x_0);
        let classes: Vec<Garment> = x_0
            .chunks_exact(PIXELS)
            .filter_map(|x| self.class(x))
            .collect();
        let own = self.trunk.as_ref().and_then(|trunk| self.class(&trunk.x_0));
        let kept = classes.iter().filter(|class| Some(**class) == own).count() as u32;
        let Some(tree) = &mut self.tree else { return };
        if !classes.is_empty() {
            self.own.push(BranchPoint {
                t: tree.t as usize,
                kept,
            });
        }
        tree.classes = classes;
        let text = match own {
            Some(own) => format!(
                "From t = {} on: {kept} of {BRANCHES} branches became what the run did, by the vote: {}.",
                tree.t,
                own.name(),
            ),
            None => format!("{BRANCHES} branches from t = {}.", tree.t),
        };
        note("branches", &text, false);
    }
}

/// From now on the ends of branches are classified by these images. A link's branch may have waited
/// for them.
pub fn classify_by(figure: &Shared, map: Rc<Map>) {
    figure.borrow_mut().map = Some(map);
    follow(figure);
}

/// Something about the run or the page has changed.
fn follow(figure: &Shared) {
    let grow_from_link = {
        let Ok(mut this) = figure.try_borrow_mut() else {
            return;
        };
        this.take_trunk();
        let link = this.page.state().branch;
        let can = this.is_ready() && this.map.is_some();
        let grow = link.filter(|_| !this.from_link && can);
        if let Some(Branch { number, t }) = grow {
            this.from_link = true;
            this.slider.set_value(&t.to_string());
            // The four that it is one of.
            Some(number.saturating_sub(1) / BRANCHES * BRANCHES + 1)
        } else {
            this.render();
            None
        }
    };
    if let Some(first) = grow_from_link {
        spawn_local(grow(figure.clone(), first));
    }
}

async fn grow(figure: Shared, first: u32) {
    let (job, page) = {
        let mut this = figure.borrow_mut();
        let Some(job) = this.job(first) else { return };
        this.growing = true;
        this.render();
        (job, this.page.clone())
    };
    let mut run = page.desk().start(job, false);
    figure.borrow_mut().control = Some(run.control());
    note("branches", "The branches grow.", false);
    let (mut steps, mut wanted) = (Vec::new(), Vec::new());
    let outcome: Result<Vec<f32>, End> = loop {
        match run.next().await {
            Ok(News::Started(plan)) => {
                wanted = strip(0, plan.len(), COLUMNS);
                steps = plan;
            }
            Ok(News::Frames { first, x_t, .. }) => {
                let size = BRANCHES as usize * PIXELS;
                for (i, x) in x_t.chunks_exact(size).enumerate() {
                    // The first is the run's own state, which the trunk shows.
                    let shown = first + i > 0 && wanted.contains(&(first + i));
                    if let (true, Some(step)) = (shown, steps.get(first + i)) {
                        let mut this = figure.borrow_mut();
                        this.add(step.t + 1, x);
                        this.render_ends();
                        this.paint();
                    }
                }
            }
            Ok(News::Done { x_0, .. }) => break Ok(x_0),
            Err(end) => break Err(end),
        }
    };
    let mut this = figure.borrow_mut();
    this.growing = false;
    // Whoever pressed Stop has taken it.
    let stopped = this.control.take().is_none();
    match outcome {
        Ok(x_0) => this.finish(&x_0),
        Err(_) if stopped => note("branches", "Stopped.", false),
        Err(end) => note("branches", &end.to_string(), end != End::Taken),
    }
    this.render();
}

fn listen(figure: &Shared) {
    let this = figure.borrow();
    let shared = figure.clone();
    dom::listen(&this.slider, "input", move |_| shared.borrow_mut().render());
    let shared = figure.clone();
    dom::listen(&this.go, "click", move |_| {
        let first = {
            let figure = shared.borrow();
            let stop = figure.stop_at(figure.chosen());
            let step = figure.trunk.as_ref().zip(stop);
            let t = step.and_then(|(trunk, stop)| Some(trunk.steps.get(stop)? + 1));
            // Once more at the same place: the next branches.
            let before = figure.tree.as_ref().filter(|tree| Some(tree.t) == t);
            before.map_or(1, |tree| tree.first + BRANCHES)
        };
        spawn_local(grow(shared.clone(), first));
    });
    let shared = figure.clone();
    dom::listen(&this.stop, "click", move |_| {
        let control = shared.borrow_mut().control.take();
        if let Some(control) = control {
            control.stop();
        }
    });
    for (i, (button, _)) in this.ends.iter().enumerate() {
        let shared = figure.clone();
        dom::listen(button, "click", move |_| {
            let (page, branch) = {
                let figure = shared.borrow();
                let branch = figure.tree.as_ref().map(|tree| Branch {
                    number: tree.first + i as u32,
                    t: tree.t,
                });
                (figure.page.clone(), branch)
            };
            page.settle(|state| {
                // Once more takes it out of the link.
                state.branch = branch.filter(|branch| state.branch != Some(*branch));
            });
        });
    }
    let shared = figure.clone();
    pen::when_resized(&this.canvas, move || {
        if let Ok(figure) = shared.try_borrow() {
            figure.paint();
        }
    });
}
