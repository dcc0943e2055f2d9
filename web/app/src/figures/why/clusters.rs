//! Part b: the map of real images, and the running sample's way over it into a cluster.

use std::{cell::RefCell, fmt::Write, rc::Rc};

use fashion_ddpm::{Garment, gallery::to_network};
use wasm_bindgen::JsCast;
use web_sys::{
    Element, HtmlCanvasElement, HtmlElement, HtmlInputElement, KeyboardEvent, PointerEvent,
};

use crate::{
    canvas::{describe, put_grey},
    data::Map,
    dom::{self, find, set_attribute, set_text},
    figures::sampling::{self, grouped},
    map::{Frame, Path, how_many, looks_like},
    page::Page,
    pen::{self, COLOURS, Pen},
    state::Sampler,
    store::PIXELS,
};

/// Real images that are shown beside the sample.
const NEIGHBOURS: usize = 3;

/// How near the pointer must come to a point.
const REACH: f32 = 14.0;

/// Milliseconds between two searches for the nearest images: one takes a few.
const SEARCH_MS: f64 = 120.0;

/// Starts the part.
pub fn mount(page: &Page, map: Rc<Map>) {
    let clusters = Rc::new(RefCell::new(Clusters::new(map)));
    listen(&clusters);
    let shared = clusters.clone();
    sampling::watch(move || follow(&shared));
    let (shared, of_page) = (clusters.clone(), page.clone());
    page.watch(move || {
        shared.borrow().quote_evaluation(&of_page);
        follow(&shared);
    });
    clusters.borrow().quote_evaluation(page);
    clusters.borrow().say_what_it_is();
    follow(&clusters);
}

type Shared = Rc<RefCell<Clusters>>;

/// The name of an evaluation for people: `DDIM, 50 steps, η = 1` for `ddim-50-eta-1.0`.
fn way_of(name: &str) -> String {
    let mut words = name.split('-');
    let sampler = words.next().unwrap_or_default();
    let sampler = Sampler::parse(sampler).map_or(sampler, |known| known.name());
    let mut text = sampler.to_owned();
    if let Some(steps) = words.next() {
        let _ = write!(text, ", {steps} steps");
    }
    if let (Some("eta"), Some(eta)) = (words.next(), words.next()) {
        let _ = write!(text, ", η = {}", eta.trim_end_matches(".0"));
    }
    text
}

/// Another stop of the run is shown.
fn follow(clusters: &Shared) {
    let Ok(mut this) = clusters.try_borrow_mut() else {
        return;
    };
    if !this.follow() && !std::mem::replace(&mut this.waiting, true) {
        let shared = clusters.clone();
        dom::after(SEARCH_MS as i32, move || {
            shared.borrow_mut().waiting = false;
            follow(&shared);
        });
    }
}

struct Clusters {
    map: Rc<Map>,
    plane: HtmlCanvasElement,
    caption: Element,
    legend: Element,
    method: Element,
    verdict: Element,
    copies: HtmlElement,
    hovered: HtmlCanvasElement,
    sample: HtmlCanvasElement,
    nearest: Vec<HtmlCanvasElement>,
    path: Path,
    /// The stop that is shown.
    stop: Option<usize>,
    /// The real image under the pointer.
    under: Option<usize>,
    searched: Option<(u32, usize)>,
    searched_at: f64,
    /// Whether a search is due.
    waiting: bool,
}

impl Clusters {
    fn new(map: Rc<Map>) -> Self {
        let nearest = (1..=NEIGHBOURS).map(|i| find(&format!("clusters-nearest-{i}")));
        Self {
            map,
            plane: find("clusters-plane"),
            caption: find("clusters-caption"),
            legend: find("clusters-legend"),
            method: find("clusters-method"),
            verdict: find("clusters-verdict"),
            copies: find("clusters-copies"),
            hovered: find("clusters-hovered"),
            sample: find("clusters-sample"),
            nearest: nearest.collect(),
            path: Path::default(),
            stop: None,
            under: None,
            searched: None,
            searched_at: f64::NEG_INFINITY,
            waiting: false,
        }
    }

    fn say_what_it_is(&self) {
        let (note, count) = (&self.map.index.projection, self.map.gallery.len());
        let [first, second] = note.explained_variance.map(|share| 100.0 * share);
        let text = format!(
            "{} training images, {} of each class, by {} of all {}: of 784 dimensions these two \
             hold {first:.1} % and {second:.1} % of the variance.",
            grouped(count as f64),
            count / Garment::ALL.len(),
            note.method,
            grouped(note.images as f64),
        );
        set_text(&self.method, &text);
    }

    /// What the evaluation of these weights says of copies, if there is one.
    fn quote_evaluation(&self, page: &Page) {
        let epoch = page.desk().preferred();
        let index = page.desk().index();
        let mut models = index.iter().flat_map(|index| &index.models);
        let weights = models.find(|weights| Some(weights.epoch) == epoch);
        // The page's own way of sampling where that was judged, else what was judged most.
        let found = weights.and_then(|weights| {
            let all = weights.evaluation.0.iter();
            let quoted = all
                .filter_map(|(name, found)| Some((name, found.count, found.suspicious.as_ref()?)));
            quoted.max_by_key(|(name, count, _)| (*name == "ddpm-1000", *count))
        });
        self.copies.set_hidden(found.is_none());
        let Some((name, count, suspicious)) = found else {
            return;
        };
        let text = format!(
            "And of copies of any of the 60,000 training images? Of {} samples ({}, epoch {}) \
             {} nearer to one than 99 % of the test images are. Of new photographs 1 % would be.",
            grouped(count.into()),
            way_of(name),
            epoch.unwrap_or_default(),
            how_many(suspicious.value, suspicious.interval),
        );
        set_text(&self.copies, &text);
    }

    /// The classes whose boxes are ticked.
    fn shown_classes(&self) -> [bool; 10] {
        let boxes = self.legend.query_selector_all("input");
        let mut shown = [true; 10];
        if let Ok(boxes) = boxes {
            for (i, shown) in shown.iter_mut().enumerate() {
                let input = boxes.get(i as u32).and_then(|node| node.dyn_into().ok());
                *shown = input.is_none_or(|input: HtmlInputElement| input.checked());
            }
        }
        shown
    }

    /// Follows the run; whether the nearest images are those of the stop that is shown.
    fn follow(&mut self) -> bool {
        let number = sampling::run_number();
        let seen = sampling::look(|frames, stop| {
            let first = |x: Vec<f32>| x[..PIXELS].to_vec();
            self.path
                .follow(&self.map.projection, number, stop, |stop| {
                    let expected = frames.prediction(stop).map(|prediction| {
                        let levels = prediction.x_start[..PIXELS].iter().copied();
                        levels.map(to_network).collect()
                    });
                    Some((first(frames.x(stop)?), expected))
                });
            let last = frames.steps.len();
            let t = frames.steps.get(stop).map_or(0, |step| step.t + 1);
            let picture = match stop == last {
                true => frames.x(stop).map(first),
                false => frames.prediction(stop).map(|prediction| {
                    let levels = prediction.x_start[..PIXELS].iter().copied();
                    levels.map(to_network).collect()
                }),
            };
            (number, stop, t, picture)
        });
        self.stop = seen.as_ref().map(|(_, stop, ..)| *stop);
        let found = match seen {
            Some((run, stop, t, Some(picture))) => self.search(run, stop, t, &picture),
            _ => true,
        };
        self.paint();
        found
    }

    /// Finds the real images nearest to the sample, or to what the network expects of it. `false`
    /// where it is too early to search again.
    fn search(&mut self, run: u32, stop: usize, t: u32, picture: &[f32]) -> bool {
        if self.searched == Some((run, stop)) {
            return true;
        }
        let now = dom::now();
        if t > 0 && now - self.searched_at < SEARCH_MS {
            return false;
        }
        (self.searched, self.searched_at) = (Some((run, stop)), now);
        let note = &self.map.index.neighbours;
        let Some((garment, neighbours)) = looks_like(&self.map.gallery, picture, note.votes) else {
            return true;
        };
        put_grey(&self.sample, picture);
        let name = if t == 0 {
            "the sample"
        } else {
            "expected, x̂₀"
        };
        describe(&self.sample, &format!("{name}, t = {t}"));
        for (canvas, neighbour) in self.nearest.iter().zip(&neighbours) {
            put_grey(canvas, &self.map.gallery.image(neighbour.index));
            let label = self.map.gallery.labels()[neighbour.index];
            describe(
                canvas,
                &format!(
                    "{}, {:.0} levels",
                    label.name(),
                    f64::from(neighbour.distance)
                ),
            );
        }
        let nearest = neighbours
            .first()
            .map_or(0.0, |neighbour| f64::from(neighbour.distance));
        let subject = if t == 0 {
            "It is"
        } else {
            "What is expected is"
        };
        let verdict = format!(
            "By the vote of its {} nearest images: {}. {subject} {nearest:.0} grey levels a pixel away \
             from the nearest of these {}; of real images that are not among them, half are closer \
             than {:.0}.",
            neighbours.len(),
            garment.name(),
            grouped(self.map.gallery.len() as f64),
            note.median_distance,
        );
        set_text(&self.verdict, &verdict);
        true
    }

    fn frame(&self, pen: &Pen) -> Frame {
        // With room for the noise, which lies among the garments, and for a little more.
        Frame::around(&self.map.points, [pen.width as f32, pen.height as f32])
    }

    fn paint(&self) {
        let Some(pen) = Pen::new(&self.plane) else {
            return;
        };
        let frame = self.frame(&pen);
        let place = |point: [f32; 2]| {
            let [x, y] = frame.place(point).map(f64::from);
            (x, y)
        };
        pen.clear();
        let shown = self.shown_classes();
        let side = (pen.width / 230.0).clamp(2.0, 4.5);
        for (point, label) in self.map.points.iter().zip(self.map.gallery.labels()) {
            if shown[label.label()] {
                let (x, y) = place(*point);
                pen.square(x, y, side, COLOURS[label.label()]);
            }
        }
        if let Some(stop) = self.stop {
            let until = (stop + 1).min(self.path.state.len());
            let expected = self.path.expected[..until].iter().flatten().copied();
            let expected: Vec<_> = expected.map(place).collect();
            pen.path(expected, "#000000", 4.0);
            let expected = self.path.expected[..until].iter().flatten().copied();
            pen.path(expected.map(place), "#ffffff80", 1.3);
            let state: Vec<_> = self.path.state[..until]
                .iter()
                .copied()
                .map(place)
                .collect();
            pen.path(state.iter().copied(), "#000000", 5.0);
            pen.path(state.iter().copied(), "#ffffff", 2.2);
            if let (Some(first), Some(last)) = (state.first(), state.last()) {
                pen.disc(first.0, first.1, 4.0, "#ffffff");
                pen.disc(last.0, last.1, 7.0, "#000000");
                pen.disc(last.0, last.1, 5.5, "#ff8a3c");
            }
        }
        if let Some(under) = self.under {
            let (x, y) = place(self.map.points[under]);
            pen.circle(x, y, 9.0, "#ffffff");
        }
        let text = match self.stop {
            None => "Sample a garment above, and its way appears here.".to_owned(),
            Some(stop) => {
                let point = self.path.state.get(stop).copied().unwrap_or_default();
                let point = point.map(f64::from);
                format!(
                    "White: xₜ on its way, now at ({:.2}, {:.2}); grey: x̂₀, what the network expects.",
                    point[0], point[1]
                )
            }
        };
        set_text(&self.caption, &text);
    }

    fn point_at(&mut self, image: Option<usize>) {
        self.under = image;
        if let Some(image) = image {
            put_grey(&self.hovered, &self.map.gallery.image(image));
            let label = self.map.gallery.labels()[image];
            describe(&self.hovered, &format!("{}, a real one", label.name()));
        }
        self.paint();
    }

    /// The real image nearest to a place of the canvas, of those that are shown.
    fn find(&self, place: [f32; 2], reach: f32) -> Option<usize> {
        let pen = Pen::new(&self.plane)?;
        let (images, points) = self.shown();
        Some(images[self.frame(&pen).find(&points, place, reach)?])
    }

    /// The images that are seen, and where.
    fn shown(&self) -> (Vec<usize>, Vec<[f32; 2]>) {
        let shown = self.shown_classes();
        let visible = |image: &usize| shown[self.map.gallery.labels()[*image].label()];
        let images: Vec<usize> = (0..self.map.points.len()).filter(visible).collect();
        let points = images.iter().map(|i| self.map.points[*i]).collect();
        (images, points)
    }
}

fn listen(clusters: &Shared) {
    let this = clusters.borrow();
    for garment in Garment::ALL {
        let colour = COLOURS[garment.label()];
        if let Ok(Some(swatch)) = this
            .legend
            .query_selector(&format!("#class-{}", garment.slug()))
        {
            set_attribute(&swatch, "style", &format!("--swatch: {colour}"));
        }
    }
    let shared = clusters.clone();
    dom::listen(&this.legend, "change", move |_| shared.borrow().paint());
    let shared = clusters.clone();
    pen::when_resized(&this.plane, move || {
        if let Ok(clusters) = shared.try_borrow() {
            clusters.paint();
        }
    });
    for kind in ["pointermove", "pointerdown"] {
        let shared = clusters.clone();
        dom::listen(&this.plane, kind, move |event| {
            let event: PointerEvent = event.unchecked_into();
            let place = [event.offset_x() as f32, event.offset_y() as f32];
            let mut clusters = shared.borrow_mut();
            let image = clusters.find(place, REACH);
            if image != clusters.under {
                clusters.point_at(image);
            }
        });
    }
    let shared = clusters.clone();
    dom::listen(&this.plane, "pointerleave", move |_| {
        shared.borrow_mut().point_at(None)
    });
    let shared = clusters.clone();
    dom::listen(&this.plane, "keydown", move |event| {
        let event: KeyboardEvent = event.unchecked_into();
        let Some(way) = dom::way(&event).filter(|way| *way != [0.0, 0.0]) else {
            return;
        };
        event.prevent_default();
        event.stop_propagation();
        let mut clusters = shared.borrow_mut();
        let Some(pen) = Pen::new(&clusters.plane) else {
            return;
        };
        let next = match clusters.under {
            None => clusters.find(
                [pen.width as f32 / 2.0, pen.height as f32 / 2.0],
                f32::INFINITY,
            ),
            Some(under) => {
                let (images, points) = clusters.shown();
                let from = clusters.map.points[under];
                let next = clusters.frame(&pen).beyond(&points, from, way);
                next.map_or(Some(under), |next| images.get(next).copied())
            }
        };
        clusters.point_at(next);
    });
}
