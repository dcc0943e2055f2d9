//! How far a run is, for whoever waits for it.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// A bar on a terminal; elsewhere a line now and then, so that a log stays readable.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    /// Where and when the present stretch of work began: what its speed is measured from.
    stretch: (u64, Instant),
    last_line: Instant,
    unit: &'static str,
}

impl Progress {
    /// Starts at `done` of `total`; `unit` names what is counted.
    pub fn new(total: u64, done: u64, unit: &'static str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_position(done);
            let style = ProgressStyle::with_template("{bar:30.cyan} {percent:>3} %  {msg}")
                .expect("a template of ours");
            bar.set_style(style);
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            total,
            done,
            stretch: (done, now),
            last_line: now,
            unit,
        }
    }

    /// Counts `more`; `what` is what to say of it.
    pub fn advance(&mut self, more: u64, what: &str) {
        self.done += more;
        let (from, begun) = self.stretch;
        let rate = (self.done - from) as f64 / begun.elapsed().as_secs_f64().max(1e-9);
        let left = self.total.saturating_sub(self.done) as f64 / rate.max(1e-9);
        let left = HumanDuration(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX));
        let say = || format!("{what}, {rate:.0} {}/s, {left} left", self.unit);
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
            bar.set_message(say());
        } else if self.last_line.elapsed() >= Duration::from_secs(30) {
            eprintln!("{}", say());
            self.last_line = Instant::now();
        }
    }

    /// Measures the speed from here on: what came before was a pause, or other work.
    pub fn restart_clock(&mut self) {
        self.stretch = (self.done, Instant::now());
    }

    /// Says something once, without disturbing the bar.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
