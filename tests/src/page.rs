//! The shipped page in a browser, and the numbers it is held to: those of the library, the weights
//! and the garments that ship with it.

use std::{convert::Infallible, io::Read, ops::ControlFlow, path::PathBuf, sync::Arc};

use fashion_ddpm::{
    Gallery, Projection, Sampler, gallery,
    garment::parse_garment,
    sampler::to_pixels,
    weights::{Index, IndexEntry, Weights},
};
use flate2::read::GzDecoder;
use serde_json::json;
use trainer::walk::{Walk, Walker};

use crate::{
    browser::{Browser, Element, Gpu},
    load, prepared,
    server::Server,
    values,
};

/// Levels of 255 by which two devices may differ.
pub const LEVELS: u8 = 2;

/// The released page, as it goes to a web server.
pub fn dist() -> PathBuf {
    prepared("FASHION_DDPM_DIST")
}

fn read(file: &str) -> Vec<u8> {
    let path = dist().join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The list of the weights that ship.
///
/// # Panics
/// Where it is none.
pub fn weights_index() -> Index {
    serde_json::from_slice(&read("weights/index.json")).expect("a list of weights")
}

/// The weights the page uses where none are asked for.
///
/// # Panics
/// Where the list does not have them.
pub fn default_entry() -> IndexEntry {
    let index = weights_index();
    index
        .default_entry()
        .expect("the default is listed")
        .clone()
}

/// Weights of the list.
pub fn weights_of(entry: &IndexEntry) -> Weights {
    load(&dist().join("weights").join(&entry.file))
}

/// [`default_entry`], read.
pub fn default_weights() -> Weights {
    weights_of(&default_entry())
}

/// What is said of the garments that ship.
///
/// # Panics
/// Where that is nothing.
pub fn data_index() -> gallery::Index {
    serde_json::from_slice(&read("data/index.json")).expect("the index of the garments")
}

/// A file of garments.
///
/// # Panics
/// Where it is none.
pub fn garments(file: &str) -> (Gallery, Option<Projection>) {
    let packed = read(&format!("data/{file}"));
    let mut bytes = Vec::new();
    let mut unpacker = GzDecoder::new(packed.as_slice());
    unpacker.read_to_end(&mut bytes).expect("gzip");
    gallery::decode(&bytes).expect("a gallery")
}

/// A picture, as a link has it.
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// Names the noise.
    pub seed: u32,
    /// A slug, or `any`.
    pub garment: &'static str,
    /// `ddpm`, `ddim` or `dpm`.
    pub sampler: &'static str,
    /// How many steps.
    pub steps: usize,
    /// 1 is off.
    pub guidance: f64,
    /// How many images of the seed.
    pub count: u32,
}

impl Picture {
    /// The link.
    pub fn query(self, engine: &str) -> String {
        let Self {
            seed,
            garment,
            sampler,
            steps,
            guidance,
            count,
        } = self;
        format!(
            "?engine={engine}&seed={seed}&garment={garment}&sampler={sampler}&steps={steps}\
             &guidance={guidance}&count={count}"
        )
    }

    /// The trainer's `sample`: the states x_t of image 0, then the pixels of all.
    ///
    /// # Panics
    /// Where there is no such picture, or hardly one: what is all one grey is like anything else.
    pub fn sample(self, weights: &Weights) -> (Vec<Vec<f32>>, Vec<u8>) {
        let schedule = &weights.diffusion.schedule;
        let sampler: Sampler = self.sampler.parse().expect("a sampler");
        let way = Walk {
            plan: sampler.plan(schedule, self.steps).expect("a plan"),
            garment: parse_garment(self.garment).expect("a garment"),
            guidance_scale: self.guidance,
            seed: self.seed,
        };
        let mut states = Vec::new();
        let device = kernels::cpu();
        let mut walker = Walker::new(&weights.unet, &weights.diffusion, &device);
        let x_0 = walker.walk(&way, 0..self.count, |_, x_t| {
            states.push(values(x_t().narrow(0, 0, 1)));
            ControlFlow::<Infallible>::Continue(())
        });
        let ControlFlow::Continue(x_0) = x_0;
        let pixels = to_pixels(&x_0);
        let (darkest, lightest) = (pixels.iter().min(), pixels.iter().max());
        assert!(
            darkest < Some(&60) && lightest > Some(&120),
            "{self:?} is hardly one: {darkest:?} to {lightest:?} of 255"
        );
        (states, pixels)
    }
}

/// Opens the page on the CPU engine, waits until it can sample, and brings a figure near.
pub fn open(query: &str, figure: &str) -> (Browser, Arc<Server>) {
    open_from(Server::of(dist()), query, figure)
}

/// [`open`], from a server that may have been told to fail.
pub fn open_from(server: Arc<Server>, query: &str, figure: &str) -> (Browser, Arc<Server>) {
    let browser = Browser::chromium(Gpu::NoAdapter);
    browser.open(&server.url(query));
    browser.wait_for("ready");
    browser.wait_enabled("button", "Sample a garment");
    approach(&browser, figure);
    (browser, server)
}

/// Brings a figure near the screen, and waits until it has started.
#[track_caller]
pub fn approach(browser: &Browser, figure: &str) {
    let script = "const section = document.getElementById(arguments[0]);
        section.scrollIntoView({ behavior: 'instant' });
        return 'started' in section.dataset";
    browser.wait(&format!("{figure} has started"), || {
        (browser.script(script, json!([figure])) == true).then_some(())
    });
}

/// What an element says.
#[track_caller]
pub fn text(browser: &Browser, id: &str) -> String {
    let script = "return document.getElementById(arguments[0]).textContent";
    let text = browser.script(script, json!([id]));
    text.as_str().unwrap_or_default().to_owned()
}

/// Waits until an element says something like this.
#[track_caller]
pub fn wait_text(browser: &Browser, id: &str, part: &str) -> String {
    browser.wait(&format!("#{id} says `{part}`"), || {
        let text = text(browser, id);
        text.contains(part).then_some(text)
    })
}

/// Waits until a figure says of itself that it is in this phase: `data-phase` of its section.
#[track_caller]
pub fn wait_phase(browser: &Browser, figure: &str, phase: &str) {
    let script = "return document.getElementById(arguments[0]).dataset.phase ?? null";
    browser.wait(&format!("{figure} is {phase}"), || {
        (browser.script(script, json!([figure])) == phase).then_some(())
    });
}

/// The number in a text after some words.
///
/// # Panics
/// Where there is none.
#[track_caller]
pub fn number_after(text: &str, words: &str) -> f64 {
    let rest = text
        .split_once(words)
        .unwrap_or_else(|| panic!("`{words}` in `{text}`"))
        .1;
    let digits = rest.trim_start().trim_start_matches('(');
    let end = digits.find(|c: char| !(c.is_ascii_digit() || ".-e".contains(c)));
    let digits = &digits[..end.unwrap_or(digits.len())];
    digits
        .trim_end_matches('.')
        .parse()
        .unwrap_or_else(|_| panic!("a number in `{text}`"))
}

/// The grey levels of an image of this name.
#[track_caller]
pub fn shown(browser: &Browser, name: &str) -> Vec<u8> {
    browser.canvas(&browser.find("image", name)).1
}

/// Changes a slider and waits for nothing.
#[track_caller]
pub fn slide(browser: &Browser, name: &str, value: usize) -> Element {
    let slider = browser.wait_enabled("slider", name);
    browser.set(&slider, &value.to_string());
    slider
}

/// How many pixels of two pictures differ, and by how many levels of 255 at most.
///
/// # Panics
/// Where they are not of one size.
#[track_caller]
pub fn difference(found: &[u8], expected: &[u8]) -> (usize, u8) {
    assert_eq!(found.len(), expected.len(), "pixels of two pictures");
    let pairs = found.iter().zip(expected);
    let off = pairs.map(|(a, b)| a.abs_diff(*b)).filter(|off| *off > 0);
    off.fold((0, 0), |(differ, most), off| (differ + 1, most.max(off)))
}

/// Fails where two pictures differ by more than some levels anywhere.
///
/// # Panics
/// There.
#[track_caller]
pub fn assert_close(found: &[u8], expected: &[u8], levels: u8, what: &str) {
    let (differ, most) = difference(found, expected);
    assert!(
        most <= levels,
        "{what}: {differ} pixels differ, by {most} of 255 at most"
    );
}

/// Fails where the image of this name shows another state than `x`, 784 numbers in [-1, 1].
///
/// # Panics
/// There.
#[track_caller]
pub fn assert_shows(browser: &Browser, name: &str, x: &[f32]) {
    assert_close(&shown(browser, name), &to_pixels(x), LEVELS, name);
}

/// Fails where the page has complained.
///
/// # Panics
/// There.
#[track_caller]
pub fn assert_quiet(browser: &Browser) {
    let complaints = browser.complaints();
    assert!(
        complaints.is_empty(),
        "the page complained: {complaints:#?}"
    );
}
