//! Part a: the space of all images is huge and almost empty. Random ones, for as long as one likes.

use std::{cell::RefCell, rc::Rc};

use web_sys::{Element, HtmlButtonElement, HtmlCanvasElement};

use crate::{
    canvas::{describe, put},
    data::Map,
    dom::{self, find, set_text},
    draw,
    figures::sampling::grouped,
    map::{from_pixels, random_image},
    store::PIXELS,
};

/// Images that are shown at a time.
const SHOWN: usize = 16;

/// Milliseconds of a refresh that may be spent drawing and comparing.
const BUDGET_MS: f64 = 8.0;

/// How often the picture changes, at most, for those who asked their system for less motion.
const CALM_MS: f64 = 500.0;

pub type Shared = Rc<RefCell<Space>>;

/// Random images, and how close the best of them came.
pub struct Space {
    images: HtmlCanvasElement,
    draw: HtmlButtonElement,
    count: Element,
    shown: Vec<u8>,
    drawn: u64,
    /// How many were compared, and the least distance to a real image, in grey levels.
    compared: u64,
    closest: f32,
    map: Option<Rc<Map>>,
    drawing: bool,
    painted_at: f64,
}

/// Starts the part.
pub fn mount() -> Shared {
    let space = Rc::new(RefCell::new(Space {
        images: find("space-images"),
        draw: find("space-draw"),
        count: find("space-count"),
        shown: Vec::new(),
        drawn: 0,
        compared: 0,
        closest: f32::INFINITY,
        map: None,
        drawing: false,
        painted_at: 0.0,
    }));
    {
        let mut this = space.borrow_mut();
        for _ in 0..SHOWN {
            this.draw_one();
        }
        this.render();
        this.draw.set_disabled(false);
    }
    let (target, shared) = (space.borrow().draw.clone(), space.clone());
    dom::listen(&target, "click", move |_| {
        let start = {
            let mut this = shared.borrow_mut();
            this.drawing = !this.drawing;
            this.render();
            this.drawing
        };
        if start {
            next(shared.clone());
        }
    });
    space
}

/// Draws on, until somebody has seen enough.
fn next(space: Shared) {
    dom::before_refresh(move |_| {
        {
            let mut this = space.borrow_mut();
            if !this.drawing {
                return;
            }
            let begun = dom::now();
            loop {
                this.draw_one();
                if dom::now() - begun >= BUDGET_MS {
                    break;
                }
            }
            let calm = dom::media("(prefers-reduced-motion: reduce)");
            if !calm || begun - this.painted_at >= CALM_MS {
                this.painted_at = begun;
                this.render();
            }
        }
        next(space);
    });
}

impl Space {
    /// From now on every image that is drawn is compared with these.
    pub fn compare_with(&mut self, map: Rc<Map>) {
        self.map = Some(map);
        self.render();
    }

    fn draw_one(&mut self) {
        let image = random_image(js_sys::Math::random);
        self.drawn += 1;
        if let Some(map) = &self.map {
            let nearest = map.gallery.nearest(&from_pixels(&image), 1);
            self.compared += 1;
            for neighbour in nearest {
                self.closest = self.closest.min(neighbour.distance);
            }
        }
        match self.shown.len() < SHOWN * PIXELS {
            true => self.shown.extend(image),
            false => {
                let place = self.drawn as usize % SHOWN * PIXELS;
                self.shown[place..place + PIXELS].copy_from_slice(&image);
            }
        }
    }

    fn render(&self) {
        put(&self.images, SHOWN, &draw::grey(self.shown.iter().copied()));
        set_text(
            &self.draw,
            if self.drawing {
                "Enough"
            } else {
                "Draw random images"
            },
        );
        let text = match &self.map {
            Some(map) if self.compared > 0 => format!(
                "{} drawn. The closest of them to any of {} real images is {:.0} grey levels a pixel \
                 away from it; of real images that were never trained on, half are closer than {:.0}.",
                grouped(self.drawn as f64),
                grouped(map.gallery.len() as f64),
                f64::from(self.closest),
                map.index.neighbours.median_distance,
            ),
            _ => format!("{} drawn.", grouped(self.drawn as f64)),
        };
        if !self.drawing || self.drawn.is_multiple_of(16) {
            describe(
                &self.images,
                &format!("{SHOWN} squares of grey noise; nothing else"),
            );
        }
        set_text(&self.count, &text);
    }
}
