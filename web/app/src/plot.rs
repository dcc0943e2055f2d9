//! A chart in its place on the page: drawn anew whenever there is more or less room for it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use web_sys::Element;

use crate::{
    chart::{Chart, Room},
    dom::{self, find, window},
    pen::when_resized,
    state::decimal,
};

/// The size of a chart's letters to that of the text round it.
const LETTER: f64 = 0.8;

/// An element with a chart in it. Cheap to clone: all clones are the same one.
#[derive(Clone)]
pub struct Plot(Rc<Inner>);

struct Inner {
    place: Element,
    chart: RefCell<Option<Chart>>,
    /// What the chart was drawn in.
    drawn: Cell<Option<Room>>,
}

impl Plot {
    /// The plot of this id.
    ///
    /// # Panics
    /// Where index.html has none.
    pub fn find(id: &str) -> Self {
        let inner = Rc::new(Inner {
            place: find(id),
            chart: RefCell::default(),
            drawn: Cell::default(),
        });
        let plot = Self(inner.clone());
        when_resized(&inner.place, move || {
            let plot = plot.clone();
            // A drawing has a height of its own: within the observer it would be observed again.
            dom::before_refresh(move |_| {
                if plot.room() != plot.0.drawn.get() {
                    plot.draw();
                }
            });
        });
        Self(inner)
    }

    /// The element.
    pub fn place(&self) -> &Element {
        &self.0.place
    }

    /// Shows another chart.
    pub fn show(&self, chart: Chart) {
        self.0.chart.replace(Some(chart));
        self.draw();
    }

    fn draw(&self) {
        if let (Some(room), Some(chart)) = (self.room(), &*self.0.chart.borrow()) {
            self.0.place.set_inner_html(&chart.svg(room));
            self.0.drawn.set(Some(room));
        }
    }

    /// `None` while the element has no size.
    fn room(&self) -> Option<Room> {
        let width = self.0.place.client_width();
        let style = window().get_computed_style(&self.0.place).ok()??;
        let size = dom::get(&style, "fontSize").as_string()?;
        let size = decimal(size.trim_end_matches("px"))?;
        (width > 0).then(|| Room {
            width: f64::from(width),
            letter: (LETTER * size * 10.0).round() / 10.0,
        })
    }
}
