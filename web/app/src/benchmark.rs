//! *Benchmark*: what a step takes on this very machine, for one image and for several at a time.
//!
//! Only the engine's own clock is read: computing, reading the frames back and nothing of the page.
//! After a run to warm up, as many steps as fill about a second are timed, several times over.

use std::{cell::RefCell, rc::Rc};

use protocol::{EngineKind, Picture};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{Element, HtmlButtonElement, HtmlElement};

use crate::{
    desk::{Control, End, Job, News},
    dom::{self, document, find, set_attribute, set_text, window},
    measure::{Timing, steps_for},
    page::Page,
};

/// Images at a time.
const COUNTS: [u32; 3] = [1, 4, 16];

/// Steps that are not timed: the first run of a kind has its kernels compiled.
const WARM_UP: u32 = 2;

/// Steps from which the rest is estimated.
const ESTIMATE: u32 = 10;

/// Runs that count.
const RUNS: usize = 3;

/// Connects the disclosure.
pub fn start(page: &Page) {
    let this = Rc::new(Benchmark {
        page: page.clone(),
        begin: find("benchmark-begin"),
        stop: find("benchmark-stop"),
        note: find("benchmark-note"),
        table: find("benchmark-table"),
        line: find("benchmark-line"),
        copy: find("benchmark-copy"),
        control: RefCell::default(),
        running: RefCell::default(),
    });
    let follow = this.clone();
    page.watch(move || follow.follow());
    this.follow();
    let begun = this.clone();
    dom::listen(&this.begin, "click", move |_| {
        let this = begun.clone();
        spawn_local(async move { this.run().await });
    });
    let stopped = this.clone();
    dom::listen(&this.stop, "click", move |_| stopped.stop());
    let copied = this.clone();
    dom::listen(&this.copy, "click", move |_| {
        let this = copied.clone();
        spawn_local(async move { this.copy().await });
    });
}

struct Benchmark {
    page: Page,
    begin: HtmlButtonElement,
    stop: HtmlButtonElement,
    note: Element,
    table: HtmlElement,
    line: Element,
    copy: HtmlButtonElement,
    /// The run that is being timed.
    control: RefCell<Option<Control>>,
    /// Whether somebody has pressed the button, and nobody Stop.
    running: RefCell<bool>,
}

impl Benchmark {
    fn follow(&self) {
        let running = *self.running.borrow();
        self.begin
            .set_disabled(running || !self.page.desk().is_ready());
        self.stop.set_disabled(!running);
    }

    fn say(&self, text: &str, failed: bool) {
        set_text(&self.note, text);
        let class = if failed { "note error" } else { "note" };
        set_attribute(&self.note, "class", class);
    }

    fn stop(&self) {
        self.running.replace(false);
        if let Some(control) = self.control.take() {
            control.stop();
        }
    }

    async fn run(&self) {
        self.running.replace(true);
        self.table.set_inner_html("");
        set_text(&self.line, "");
        self.copy.set_hidden(true);
        self.follow();
        let outcome = self.measure().await;
        let stopped = !self.running.replace(false);
        self.control.take();
        self.follow();
        match outcome {
            Ok(()) => self.say("", false),
            Err(_) if stopped => self.say("Stopped.", false),
            Err(end) => self.say(&end.to_string(), end != End::Taken),
        }
    }

    async fn measure(&self) -> Result<(), End> {
        let mut timings = Vec::new();
        for count in COUNTS {
            let images = match count {
                1 => "1 image".to_owned(),
                _ => format!("{count} images at a time"),
            };
            self.say(&format!("{images}: warming up."), false);
            self.time(count, WARM_UP).await?;
            let steps = steps_for(self.time(count, ESTIMATE).await?);
            let mut runs = Vec::new();
            for i in 1..=RUNS {
                self.say(
                    &format!("{images}: {steps} steps, {i} of {RUNS} times."),
                    false,
                );
                runs.push(self.time(count, steps).await?);
            }
            let timing = Timing::of(count, runs);
            self.show(&timing);
            timings.push(timing);
        }
        let line = self.sentence(&timings);
        set_text(&self.line, &line);
        self.copy.set_hidden(false);
        Ok(())
    }

    /// Milliseconds a step, of a run of so many.
    async fn time(&self, count: u32, steps: u32) -> Result<f64, End> {
        let picture = Picture {
            seed: 0,
            garment: "any".to_owned(),
            sampler: "ddpm".to_owned(),
            steps,
            guidance: 1.0,
            count,
        };
        let job = Job {
            picture,
            epoch: None,
            start: None,
        };
        if !*self.running.borrow() {
            return Err(End::Taken);
        }
        let mut run = self.page.desk().start(job, false);
        self.control.replace(Some(run.control()));
        loop {
            if let News::Done { elapsed_ms, .. } = run.next().await? {
                return Ok(elapsed_ms / f64::from(steps));
            }
        }
    }

    fn show(&self, timing: &Timing) {
        let Ok(row) = document().create_element("tr") else {
            return;
        };
        for (kind, text) in [
            ("th", timing.count.to_string()),
            ("td", timing.milliseconds()),
            ("td", timing.spread()),
            ("td", timing.images_a_second()),
        ] {
            let Ok(cell) = document().create_element(kind) else {
                return;
            };
            if kind == "th" {
                set_attribute(&cell, "scope", "row");
            }
            set_text(&cell, &text);
            let _ = row.append_child(&cell);
        }
        let _ = self.table.append_child(&row);
    }

    /// Everything somebody else needs to know, in one line.
    fn sentence(&self, timings: &[Timing]) -> String {
        let desk = self.page.desk();
        let device = desk.device().unwrap_or_default();
        let threads = match (desk.engine(), desk.threads()) {
            (Some(EngineKind::Cpu), 1) => ", 1 thread".to_owned(),
            (Some(EngineKind::Cpu), threads) => {
                format!(", a thread an image, up to {threads}")
            }
            _ => String::new(),
        };
        let figures: Vec<String> = timings.iter().map(Timing::in_words).collect();
        let build = self.page.build();
        let browser = window().navigator().user_agent().unwrap_or_default();
        format!(
            "Fashion DDPM {build}, {device}{threads}: {}. {browser}",
            figures.join("; ")
        )
    }

    async fn copy(&self) {
        let line = self.line.text_content().unwrap_or_default();
        let clipboard = window().navigator().clipboard();
        // A page that is not from https has none.
        let copied =
            !clipboard.is_undefined() && JsFuture::from(clipboard.write_text(&line)).await.is_ok();
        let said = match copied {
            true => "Copied.",
            false => "This browser does not let the page copy: select the line instead.",
        };
        self.say(said, false);
    }
}
