//! Everything the page's address can hold, in one typed list: a link is a picture.

use std::{
    fmt::{self, Write},
    ops::RangeInclusive,
};

use fashion_ddpm::Garment;
use protocol::Picture;

use crate::{ink::SHAPES, noising::Pad};

/// Slugs of the garments, as in the page's choice and the trainer's commands; `any` is no label.
pub const GARMENTS: [&str; 11] = [
    "any",
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
];

/// Numbers of images that make a square.
pub const COUNTS: [u32; 4] = [1, 4, 9, 16];

const STEPS: RangeInclusive<u32> = 1..=1000;
const GUIDANCE: RangeInclusive<f64> = 0.0..=8.0;

/// Which engine is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// WebGPU where there is a good one, else the CPU.
    Auto,
    /// WebGPU, in software too.
    WebGpu,
    /// The CPU.
    Cpu,
}

/// A way through the reverse process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// Algorithm 2.
    Ddpm,
    /// DDIM.
    Ddim,
    /// DPM-Solver++(2M).
    Dpm,
}

impl Sampler {
    /// From the word in links.
    pub fn parse(slug: &str) -> Option<Self> {
        [Self::Ddpm, Self::Ddim, Self::Dpm]
            .into_iter()
            .find(|sampler| sampler.slug() == slug)
    }

    /// The library's.
    fn process(self) -> fashion_ddpm::Sampler {
        match self {
            Self::Ddpm => fashion_ddpm::Sampler::Ddpm,
            Self::Ddim => fashion_ddpm::Sampler::Ddim { eta: 0.0 },
            Self::Dpm => fashion_ddpm::Sampler::DpmSolverMultistep,
        }
    }

    /// The word in links.
    pub fn slug(self) -> &'static str {
        self.process().slug()
    }

    /// The word in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddpm => "DDPM",
            Self::Ddim => "DDIM",
            Self::Dpm => "DPM-Solver++",
        }
    }

    /// As many steps as one takes with it.
    pub fn usual_steps(self) -> u32 {
        self.process()
            .usual_steps()
            .map_or(1000, |steps| steps as u32)
    }
}

/// What a link holds.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// `engine`
    pub engine: EngineChoice,
    /// `seed`
    pub seed: u32,
    /// `garment`, one of [`GARMENTS`].
    pub garment: &'static str,
    /// `sampler`
    pub sampler: Sampler,
    /// `steps`, 1 to 1000.
    pub steps: u32,
    /// `guidance`, 0 to 8; 1 is off.
    pub guidance: f64,
    /// `count`, one of [`COUNTS`].
    pub count: u32,
    /// `epoch`; `None` is the default one of the index.
    pub epoch: Option<u32>,
    /// `autoplay`: start as soon as the engine is ready.
    pub autoplay: bool,
    /// `lecture`: the figure that is shown alone, 1 the first.
    pub lecture: Option<u8>,
    /// `ink`: the clusters of figure 2.
    pub ink: Ink,
    /// `x0`: what figure 3 noises.
    pub subject: Subject,
    /// `drawing`: what has been drawn to be noised.
    pub drawing: Pad,
    /// `noising`: its t, 0 to 1000.
    pub noising_t: u32,
    /// `branch` and `branch-t`: a branch of the run, in figure 6.
    pub branch: Option<Branch>,
}

/// The clusters of a drop of ink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ink {
    /// One of [`crate::ink::SHAPES`].
    Shape(&'static str),
    /// Drawn ones, in hundredths: `x,y_x,y` in links.
    Drawn(Vec<[i32; 2]>),
}

impl Ink {
    /// Reads the word of a shape, or `drawn` with or without places.
    fn parse(value: &str) -> Option<Self> {
        if let Some((word, _)) = SHAPES.into_iter().find(|(word, _)| *word == value) {
            return Some(Self::Shape(word));
        }
        let places = value.strip_prefix("drawn")?;
        let place = |place: &str| {
            let (x, y) = place.split_once(',')?;
            let within = -300..=300;
            let [x, y] = [x.parse().ok()?, y.parse().ok()?];
            (within.contains(&x) && within.contains(&y)).then_some([x, y])
        };
        let places = places.split('_').filter(|place| !place.is_empty());
        places.map(place).collect::<Option<_>>().map(Self::Drawn)
    }
}

impl fmt::Display for Ink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(word) => f.write_str(word),
            Self::Drawn(places) => {
                f.write_str("drawn")?;
                places.iter().try_for_each(|[x, y]| write!(f, "_{x},{y}"))
            }
        }
    }
}

/// What figure 3 noises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// What somebody draws.
    Drawn,
    /// A garment of the test set: `bag-2` in links.
    Real {
        /// Its class.
        garment: Garment,
        /// 1 or 2: the first or second of its class.
        which: usize,
    },
}

impl Subject {
    /// The word for it in links.
    pub fn slug(self) -> String {
        match self {
            Self::Drawn => "drawn".to_owned(),
            Self::Real { garment, which } => format!("{}-{which}", garment.slug()),
        }
    }

    /// The subject of this word.
    pub fn parse(word: &str) -> Option<Self> {
        if word == "drawn" {
            return Some(Self::Drawn);
        }
        let (slug, which) = word.rsplit_once('-')?;
        let garment = Garment::ALL
            .into_iter()
            .find(|garment| garment.slug() == slug)?;
        let which = which.parse().ok().filter(|which| (1..=2).contains(which))?;
        Some(Self::Real { garment, which })
    }
}

/// A branch of the run: other noise from some t on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// Which one; 0 would be the run itself.
    pub number: u32,
    /// As the page counts: T is noise, 1 the last step.
    pub t: u32,
}

impl Branch {
    /// Most branches of a run.
    const MOST: u32 = 9999;
}

impl State {
    /// What the page has of itself, with this seed.
    pub fn with_seed(seed: u32) -> Self {
        Self {
            engine: EngineChoice::Auto,
            seed,
            garment: GARMENTS[0],
            sampler: Sampler::Ddpm,
            steps: Sampler::Ddpm.usual_steps(),
            guidance: 1.0,
            count: 1,
            epoch: None,
            autoplay: false,
            ink: Ink::Shape("three"),
            subject: Subject::Real {
                garment: Garment::AnkleBoot,
                which: 1,
            },
            drawing: Pad::default(),
            noising_t: 300,
            branch: None,
            lecture: None,
        }
    }

    /// Reads a link's parameters, for a page with so many figures. Where one makes no sense it is left
    /// out, and a sentence says so.
    pub fn parse(
        parameters: impl IntoIterator<Item = (String, String)>,
        any_seed: u32,
        figures: u8,
    ) -> (Self, Vec<String>) {
        let mut state = Self::with_seed(any_seed);
        let mut steps = None;
        let (mut branch, mut branch_t) = (None, None);
        let mut sentences = Vec::new();
        for (key, value) in parameters {
            let expected = match key.as_str() {
                "engine" => take(&mut state.engine, engine(&value), "auto, webgpu or cpu"),
                "seed" => take(
                    &mut state.seed,
                    value.parse().ok(),
                    "a whole number from 0 to 4294967295",
                ),
                "garment" => take(
                    &mut state.garment,
                    garment(&value),
                    "a garment or any, for example ankle-boot",
                ),
                "sampler" => take(
                    &mut state.sampler,
                    Sampler::parse(&value),
                    "ddpm, ddim or dpm",
                ),
                "steps" => take(
                    &mut steps,
                    within(&value, STEPS).map(Some),
                    "a whole number from 1 to 1000",
                ),
                "guidance" => take(
                    &mut state.guidance,
                    decimal(&value).filter(|guidance| GUIDANCE.contains(guidance)),
                    "a number from 0 to 8",
                ),
                "count" => take(
                    &mut state.count,
                    value.parse().ok().filter(|count| COUNTS.contains(count)),
                    "1, 4, 9 or 16",
                ),
                "epoch" => take(
                    &mut state.epoch,
                    value.parse().ok().map(Some),
                    "the number of an epoch",
                ),
                "ink" => take(
                    &mut state.ink,
                    Ink::parse(&value),
                    "drop, three, ring, smile, or drawn with places",
                ),
                "x0" => take(
                    &mut state.subject,
                    Subject::parse(&value),
                    "drawn, or a garment and its number, for example bag-2",
                ),
                "drawing" => take(
                    &mut state.drawing,
                    Pad::parse(&value),
                    "a drawing of this page",
                ),
                "noising" => take(
                    &mut state.noising_t,
                    within(&value, 0..=1000),
                    "a whole number from 0 to 1000",
                ),
                "branch" => take(
                    &mut branch,
                    within(&value, 1..=Branch::MOST).map(Some),
                    "a whole number from 1 to 9999",
                ),
                "branch-t" => take(
                    &mut branch_t,
                    within(&value, 1..=1000).map(Some),
                    "a whole number from 1 to 1000",
                ),
                "lecture" => take(
                    &mut state.lecture,
                    within(&value, 1..=figures).map(Some),
                    "the number of a figure",
                ),
                "autoplay" => take(&mut state.autoplay, flag(&value), "0 or 1"),
                // Somebody else's.
                _ => None,
            };
            if let Some(expected) = expected {
                let shown: String = value.chars().take(40).collect();
                sentences.push(format!(
                    "The link says {key}={shown}, which should be {expected}; it was left out."
                ));
            }
        }
        state.steps = steps.unwrap_or(state.sampler.usual_steps());
        // One without the other names nothing.
        state.branch = branch.zip(branch_t).map(|(number, t)| Branch { number, t });
        (state, sentences)
    }

    /// The query of a link, from its question mark on. All that makes the picture is in it, so that
    /// it stays the same picture when the page's own choices change.
    pub fn query(&self) -> String {
        let mut query = format!(
            "?seed={}&garment={}&sampler={}&steps={}&guidance={}&count={}",
            self.seed,
            self.garment,
            self.sampler.slug(),
            self.steps,
            self.guidance,
            self.count
        );
        if let Some(epoch) = self.epoch {
            let _ = write!(query, "&epoch={epoch}");
        }
        query += match self.engine {
            EngineChoice::Auto => "",
            EngineChoice::WebGpu => "&engine=webgpu",
            EngineChoice::Cpu => "&engine=cpu",
        };
        if self.autoplay {
            query += "&autoplay=1";
        }
        // What the figures below have of themselves need not be said.
        let usual = Self::with_seed(self.seed);
        if self.ink != usual.ink {
            let _ = write!(query, "&ink={}", self.ink);
        }
        if self.subject != usual.subject {
            let _ = write!(query, "&x0={}", self.subject.slug());
        }
        if !self.drawing.is_empty() {
            let _ = write!(query, "&drawing={}", self.drawing.code());
        }
        if self.noising_t != usual.noising_t {
            let _ = write!(query, "&noising={}", self.noising_t);
        }
        if let Some(Branch { number, t }) = self.branch {
            let _ = write!(query, "&branch={number}&branch-t={t}");
        }
        if let Some(figure) = self.lecture {
            let _ = write!(query, "&lecture={figure}");
        }
        query
    }

    /// What the engine is asked for.
    pub fn picture(&self) -> Picture {
        Picture {
            seed: self.seed,
            garment: self.garment.to_owned(),
            sampler: self.sampler.slug().to_owned(),
            steps: self.steps,
            guidance: self.guidance,
            count: self.count,
        }
    }
}

/// Sets `place` to a valid value; gives back what was expected where it is none.
fn take<T>(place: &mut T, value: Option<T>, expected: &'static str) -> Option<&'static str> {
    match value {
        Some(value) => {
            *place = value;
            None
        }
        None => Some(expected),
    }
}

/// The garment of this slug.
pub fn garment(slug: &str) -> Option<&'static str> {
    GARMENTS.into_iter().find(|known| *known == slug)
}

fn engine(value: &str) -> Option<EngineChoice> {
    match value {
        "auto" => Some(EngineChoice::Auto),
        "webgpu" => Some(EngineChoice::WebGpu),
        "cpu" => Some(EngineChoice::Cpu),
        _ => None,
    }
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "1" | "true" | "" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// A number with or without decimals, as short as people write them. The standard library's reading
/// of floats brings ten kilobytes of tables into a program that everybody waits for.
pub fn decimal(value: &str) -> Option<f64> {
    let (whole, decimals) = value.split_once('.').unwrap_or((value, ""));
    let digits = |text: &str| text.len() <= 9 && text.bytes().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(decimals) {
        return None;
    }
    // Both are exact, so that the quotient is the double nearest to what is written.
    let all: u64 = format!("{whole}{decimals}").parse().ok()?;
    Some(all as f64 / 10f64.powi(decimals.len() as i32))
}

fn within<T: std::str::FromStr + PartialOrd>(value: &str, range: RangeInclusive<T>) -> Option<T> {
    value.parse().ok().filter(|value| range.contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> (State, Vec<String>) {
        let pairs = query.trim_start_matches('?').split('&');
        let pairs = pairs.filter_map(|pair| pair.split_once('='));
        State::parse(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())), 77, 8)
    }

    #[test]
    fn a_link_restores_everything() {
        let state = State {
            engine: EngineChoice::WebGpu,
            seed: u32::MAX,
            garment: "ankle-boot",
            sampler: Sampler::Dpm,
            steps: 12,
            guidance: 1.25,
            count: 16,
            epoch: Some(50),
            autoplay: true,
            ink: Ink::Drawn(vec![[-300, 5], [0, 0]]),
            subject: Subject::Real {
                garment: Garment::AnkleBoot,
                which: 2,
            },
            drawing: Pad::parse("HA4").unwrap(),
            noising_t: 1000,
            branch: Some(Branch { number: 3, t: 412 }),
            lecture: Some(8),
        };
        assert_eq!(parse(&state.query()), (state, vec![]));
        for (ink, subject) in [
            (Ink::Drawn(vec![]), Subject::Drawn),
            (Ink::Shape("ring"), Subject::parse("bag-1").unwrap()),
        ] {
            let state = State {
                ink,
                subject,
                ..State::with_seed(3)
            };
            assert_eq!(parse(&state.query()), (state, vec![]));
        }
        let state = State::with_seed(3);
        assert_eq!(parse(&state.query()), (state, vec![]));
    }

    #[test]
    fn decimals_are_read_as_the_standard_library_does() {
        for text in [
            "0",
            "1",
            "7.3",
            "1.25",
            "0.1",
            "8.0",
            "3.",
            "123456789.123456789",
        ] {
            assert_eq!(decimal(text), text.parse().ok(), "{text}");
        }
        for text in [
            "",
            ".5",
            "-1",
            "+1",
            "1e3",
            "nan",
            "inf",
            "1.2.3",
            " 1",
            "0x1",
            "1234567890",
        ] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_asked_gives_algorithm_2_and_the_given_seed() {
        let (state, sentences) = parse("");
        assert_eq!((state.seed, state.steps, state.guidance), (77, 1000, 1.0));
        assert!(sentences.is_empty());
    }

    #[test]
    fn a_fast_sampler_brings_its_own_number_of_steps_unless_one_is_given() {
        assert_eq!(parse("?sampler=ddim").0.steps, 50);
        assert_eq!(parse("?steps=7&sampler=ddim").0.steps, 7);
        assert_eq!(parse("?steps=0&sampler=dpm").0.steps, 20);
    }

    #[test]
    fn what_makes_no_sense_is_left_out_with_a_sentence() {
        for bad in [
            "engine=gpu",
            "seed=-1",
            "seed=4294967296",
            "seed=1.5",
            "garment=hat",
            "garment=Any",
            "sampler=euler",
            "steps=0",
            "steps=1001",
            "guidance=nan",
            "guidance=inf",
            "guidance=8.1",
            "count=2",
            "count=0",
            "epoch=last",
            "autoplay=maybe",
            "ink=blot",
            "ink=drawn_1",
            "ink=drawn_301,0",
            "x0=hat-1",
            "x0=bag-3",
            "noising=1001",
            "drawing=*",
            "branch=0",
            "branch-t=0",
            "lecture=0",
            "lecture=9",
        ] {
            let (state, sentences) = parse(bad);
            assert_eq!(state, State::with_seed(77), "{bad}");
            assert_eq!(sentences.len(), 1, "{bad}");
            assert!(sentences[0].contains(bad), "{}", sentences[0]);
        }
        let (state, sentences) = parse("utm_source=mail&seed=5");
        assert_eq!((state.seed, sentences.len()), (5, 0));
    }
}
