//! Figure 2, A drop of ink: a thousand points spread by the schedule, and brought back by the exact
//! score of the clusters they came from, which the visitor may draw.

use std::{cell::RefCell, rc::Rc};

use wasm_bindgen::JsCast;
use web_sys::{
    Element, HtmlButtonElement, HtmlCanvasElement, HtmlInputElement, HtmlSelectElement,
    KeyboardEvent, PointerEvent,
};

use crate::{
    dom::{self, find, set_attribute, set_text},
    ink::{Drop, EXTENT, POINTS, SHAPES, from_canvas, to_canvas},
    page::Page,
    pen::{self, COLOURS, Pen},
    state::Ink,
};

/// How long the ink takes one way when it is let go, however often the display is refreshed.
const WAY_MS: f64 = 4000.0;

/// The longest time between two refreshes that is made up for: nobody has been looking meanwhile.
const LONGEST_MS: f64 = 250.0;

/// Milliseconds of a refresh that may be spent computing what has not been seen before.
const BUDGET_MS: f64 = 12.0;

/// How often the picture changes, at most, for those who asked their system for less motion.
const CALM_MS: f64 = 500.0;

/// Arrows in each direction.
const ARROWS: usize = 17;

/// How far the arrow keys move the brush.
const KEY_STEP: f64 = 0.1;

/// Starts the figure.
///
/// # Errors
/// None.
pub async fn mount(page: Page) -> Result<(), String> {
    let figure = Rc::new(RefCell::new(Figure::new(page.clone())));
    listen(&figure);
    let watcher = figure.clone();
    page.watch(move || {
        // Whoever draws is not interrupted: the state is what they have drawn.
        if let Ok(mut figure) = watcher.try_borrow_mut() {
            figure.follow_page();
            figure.render();
        }
    });
    let (redraw, plane) = (figure.clone(), figure.borrow().plane.clone());
    pen::when_resized(&plane, move || {
        if let Ok(figure) = redraw.try_borrow() {
            figure.paint();
        }
    });
    figure.borrow_mut().render();
    Ok(())
}

type Shared = Rc<RefCell<Figure>>;

struct Figure {
    page: Page,
    plane: HtmlCanvasElement,
    shape: HtmlSelectElement,
    time: HtmlInputElement,
    t: Element,
    spread: HtmlButtonElement,
    back: HtmlButtonElement,
    clear: HtmlButtonElement,
    arrows: HtmlInputElement,
    caption: Element,
    drop: Drop,
    /// What the drop was made from.
    made: (Ink, u32),
    moment: usize,
    /// Where the moment goes, and whether at once or in its own time.
    goal: Option<(usize, bool)>,
    /// When it last moved, and what was due then of the next moment.
    moved: Option<(f64, f64)>,
    ticking: bool,
    painted_at: f64,
    /// The brush that the arrow keys move.
    brush: Option<[f64; 2]>,
    drawing: bool,
}

impl Figure {
    fn new(page: Page) -> Self {
        let made = Self::wanted(&page);
        let drop = Self::make(&page, &made);
        Self {
            plane: find("ink-plane"),
            shape: find("ink-shape"),
            time: find("ink-time"),
            t: find("ink-t"),
            spread: find("ink-spread"),
            back: find("ink-back"),
            clear: find("ink-clear"),
            arrows: find("ink-arrows"),
            caption: find("ink-caption"),
            page,
            drop,
            made,
            moment: 0,
            goal: None,
            moved: None,
            ticking: false,
            painted_at: 0.0,
            brush: None,
            drawing: false,
        }
    }

    fn wanted(page: &Page) -> (Ink, u32) {
        let state = page.state();
        (state.ink.clone(), state.seed)
    }

    fn make(page: &Page, (ink, seed): &(Ink, u32)) -> Drop {
        let centres = match ink {
            Ink::Shape(word) => SHAPES.iter().find(|(known, _)| known == word),
            Ink::Drawn(_) => None,
        };
        let centres = match (centres, ink) {
            (Some((_, centres)), _) => centres(),
            (None, Ink::Drawn(centres)) => centres
                .iter()
                .map(|c| c.map(|c| f64::from(c) / 100.0))
                .collect(),
            (None, Ink::Shape(_)) => Vec::new(),
        };
        Drop::new(page.schedule(), centres, *seed)
    }

    fn follow_page(&mut self) {
        let wanted = Self::wanted(&self.page);
        if wanted != self.made && !self.drawing {
            self.drop = Self::make(&self.page, &wanted);
            self.made = wanted;
            self.moment = 0;
            self.goal = None;
        }
    }

    /// Moves on for a refresh of the display; whether there is more to come.
    fn tick(&mut self, now: f64) -> bool {
        let Some((goal, at_once)) = self.goal else {
            return false;
        };
        let pace = self.drop.timesteps() as f64 / WAY_MS;
        let due = match self.moved {
            Some((before, rest)) => rest + (now - before).clamp(0.0, LONGEST_MS) * pace,
            None => 0.0,
        };
        self.moved = Some((now, due.fract()));
        let wanted = match at_once {
            true => goal,
            false => (self.moment + due as usize).min(goal),
        };
        while self.moment < wanted {
            // Somebody waits for this refresh.
            let enough = || dom::now() - now > BUDGET_MS;
            if self.moment == self.drop.computed() && (enough() || !self.drop.advance()) {
                break;
            }
            self.moment += 1;
        }
        self.goal = self.goal.filter(|_| self.moment < goal);
        self.goal.is_some()
    }

    /// Shows a moment, as soon as it is known.
    fn jump(&mut self, moment: usize) {
        self.moment = self.moment.min(moment);
        self.goal = (self.moment < moment).then_some((moment, true));
    }

    /// A button: let the ink go to a moment, or hold it on its way there. Where it has been there
    /// already it goes once more, from another one.
    fn let_go(&mut self, goal: usize, from: usize) {
        if self.goal == Some((goal, false)) {
            self.goal = None;
            return;
        }
        if self.moment >= goal {
            self.moment = from;
        }
        (self.goal, self.moved) = (Some((goal, false)), None);
    }

    fn is_drawn(&self) -> bool {
        matches!(self.made.0, Ink::Drawn(_))
    }

    /// Adds a cluster where somebody draws.
    fn add(&mut self, centre: [f64; 2]) {
        self.moment = 0;
        self.goal = None;
        if self.drop.add(centre) {
            let hundredths = |c: &[f64; 2]| c.map(|c| (c * 100.0).round() as i32);
            let centres = self.drop.mixture().centres.iter().map(hundredths);
            self.made.0 = Ink::Drawn(centres.collect());
        }
    }

    fn empty(&mut self) {
        self.made.0 = Ink::Drawn(Vec::new());
        self.drop = Self::make(&self.page, &self.made);
        self.moment = 0;
        self.goal = None;
    }

    /// Puts what was drawn into the link.
    fn keep(&mut self) {
        let ink = self.made.0.clone();
        if self.page.state().ink != ink {
            self.page.settle(move |state| state.ink = ink);
        }
    }

    // What is seen.

    fn render(&mut self) {
        let timesteps = self.drop.timesteps();
        let drawn = self.is_drawn();
        set_attribute(
            &self.plane,
            "class",
            if drawn { "plot drawing" } else { "plot" },
        );
        let shape = match &self.made.0 {
            Ink::Shape(word) => word,
            Ink::Drawn(_) => "drawn",
        };
        if self.shape.value() != shape {
            self.shape.set_value(shape);
        }
        let none = self.drop.mixture().centres.is_empty();
        for control in [&self.spread, &self.back] {
            control.set_disabled(none);
        }
        self.time.set_disabled(none);
        self.clear.set_disabled(drawn && none);
        let playing = |goal| self.goal == Some((goal, false));
        let word = |goal, word| if playing(goal) { "Hold" } else { word };
        set_text(&self.spread, word(timesteps, "Let it spread"));
        set_text(&self.back, word(2 * timesteps, "Bring it back"));
        set_attribute(&self.time, "max", &(2 * timesteps).to_string());
        let value = self.moment.to_string();
        if self.time.value() != value {
            self.time.set_value(&value);
        }
        let way = match self.moment {
            0 => "the drop",
            moment if moment < timesteps => "spreading",
            moment if moment == timesteps => "noise",
            moment if moment < 2 * timesteps => "coming back",
            _ => "back again",
        };
        let t = format!("t = {}, {way}", self.drop.t(self.moment));
        set_text(&self.t, &t);
        set_attribute(&self.time, "aria-valuetext", &t);
        self.paint();
    }

    fn describe(&self) {
        let text = match self.drop.mixture().centres.len() {
            0 => "An empty plane: draw clusters into it.".to_owned(),
            clusters => format!(
                "t = {}: {} of {POINTS} points lie within three standard deviations of {}.",
                self.drop.t(self.moment),
                self.drop.returned(self.moment),
                if clusters == 1 {
                    "the cluster".to_owned()
                } else {
                    format!("one of {clusters} clusters")
                },
            ),
        };
        set_text(&self.caption, &text);
    }

    fn paint(&self) {
        let Some(pen) = Pen::new(&self.plane) else {
            return;
        };
        let width = pen.width;
        pen.clear();
        let radius = 3.0 * self.drop.mixture().deviation * width / (2.0 * EXTENT);
        for centre in &self.drop.mixture().centres {
            let (x, y) = to_canvas(*centre, width);
            pen.circle(x, y, radius, "#ffffff30");
        }
        let side = (width / 200.0).clamp(2.0, 5.0);
        for (i, point) in self.drop.points(self.moment).iter().enumerate() {
            let (x, y) = to_canvas(point.map(f64::from), width);
            let colour = COLOURS[self.drop.cluster(i) % COLOURS.len()];
            pen.square(x, y, side, colour);
        }
        if self.arrows.checked() && !self.drop.mixture().centres.is_empty() {
            self.paint_arrows(&pen);
        }
        if let Some(brush) = self.brush {
            let (x, y) = to_canvas(brush, width);
            pen.line(x - 9.0, y, x + 9.0, y, "#ffffff", 1.5);
            pen.line(x, y - 9.0, x, y + 9.0, "#ffffff", 1.5);
        }
        if self.goal.is_none() || self.drop.t(self.moment).is_multiple_of(100) {
            self.describe();
        }
    }

    fn paint_arrows(&self, pen: &Pen) {
        let cell = 2.0 * EXTENT / ARROWS as f64;
        for i in 0..ARROWS * ARROWS {
            let at = |i: usize| (i as f64 + 0.5) * cell - EXTENT;
            let from = [at(i % ARROWS), at(i / ARROWS)];
            let arrow = self.drop.arrow(from, self.moment);
            let length = arrow[0].hypot(arrow[1]);
            if length < 1e-3 {
                continue;
            }
            // The longest fill their cell; all beyond are as long.
            let shown = (0.35 * length).min(0.9 * cell) / length;
            let to = [0, 1].map(|i| from[i] + shown * arrow[i]);
            let (x, y) = to_canvas(from, pen.width);
            let (tip_x, tip_y) = to_canvas(to, pen.width);
            pen.arrow(x, y, tip_x, tip_y, "#ffffffb0");
        }
    }
}

/// Changes the figure, shows it, and keeps it moving while it has somewhere to go.
fn act(figure: &Shared, change: impl FnOnce(&mut Figure)) {
    {
        let mut this = figure.borrow_mut();
        change(&mut this);
        this.render();
        if this.goal.is_none() || this.ticking {
            return;
        }
        this.ticking = true;
    }
    next(figure.clone());
}

fn next(figure: Shared) {
    dom::before_refresh(move |_| {
        let now = dom::now();
        let more = {
            let mut this = figure.borrow_mut();
            let more = this.tick(now);
            this.ticking = more;
            let calm = dom::media("(prefers-reduced-motion: reduce)");
            if !more || !calm || now - this.painted_at >= CALM_MS {
                this.painted_at = now;
                this.render();
            }
            more
        };
        if more {
            next(figure);
        }
    });
}

fn listen(figure: &Shared) {
    let on = |target: &Element, kind: &str, change: fn(&mut Figure)| {
        let figure = figure.clone();
        dom::listen(target, kind, move |_| act(&figure, change));
    };
    let (plane, shape) = {
        let this = figure.borrow();
        on(&this.spread, "click", |figure| {
            let timesteps = figure.drop.timesteps();
            figure.let_go(timesteps, 0);
        });
        on(&this.back, "click", |figure| {
            let timesteps = figure.drop.timesteps();
            figure.let_go(2 * timesteps, timesteps);
        });
        on(&this.clear, "click", |figure| {
            figure.empty();
            figure.keep();
        });
        on(&this.arrows, "change", |_| {});
        on(&this.time, "input", |figure| {
            let moment = figure.time.value().parse().unwrap_or_default();
            figure.jump(moment);
        });
        (this.plane.clone(), this.shape.clone())
    };
    let (chosen, page) = (shape.clone(), figure.borrow().page.clone());
    let this = figure.clone();
    dom::listen(&shape, "change", move |_| {
        let word = chosen.value();
        match SHAPES.iter().find(|(known, _)| *known == word) {
            Some((word, _)) => page.settle(|state| state.ink = Ink::Shape(word)),
            None => act(&this, |figure| {
                figure.empty();
                figure.keep();
            }),
        }
    });

    // Drawing: by a finger or a mouse, and by the keys.
    let on_plane = |kind: &str, change: fn(&mut Figure, &PointerEvent)| {
        let figure = figure.clone();
        dom::listen(&plane, kind, move |event| {
            let event: PointerEvent = event.unchecked_into();
            act(&figure, |figure| change(figure, &event));
        });
    };
    on_plane("pointerdown", |figure, event| {
        let _ = figure.plane.set_pointer_capture(event.pointer_id());
        figure.drawing = figure.is_drawn();
        if figure.drawing {
            figure.add(place(&figure.plane, event));
        }
    });
    on_plane("pointermove", |figure, event| {
        if figure.drawing {
            figure.add(place(&figure.plane, event));
        }
    });
    for kind in ["pointerup", "pointercancel"] {
        on_plane(kind, |figure, _| {
            if std::mem::take(&mut figure.drawing) {
                figure.keep();
            }
        });
    }
    let keys = figure.clone();
    dom::listen(&plane, "keydown", move |event| {
        let event: KeyboardEvent = event.unchecked_into();
        if !keys.borrow().is_drawn() {
            return;
        }
        let Some([right, down]) = dom::way(&event) else {
            return;
        };
        let way = [right, -down].map(|way| f64::from(way) * KEY_STEP);
        event.prevent_default();
        event.stop_propagation();
        act(&keys, |figure| {
            let brush = figure.brush.unwrap_or_default();
            figure.brush = Some([0, 1].map(|i| (brush[i] + way[i]).clamp(-EXTENT, EXTENT)));
            if way == [0.0, 0.0] {
                figure.add(brush);
                figure.keep();
            }
        });
    });
    on(&plane, "blur", |figure| figure.brush = None);
}

fn place(plane: &HtmlCanvasElement, event: &PointerEvent) -> [f64; 2] {
    let width = f64::from(plane.client_width());
    from_canvas(event.offset_x().into(), event.offset_y().into(), width)
}
