//! The messages between the page (`web/app`, main thread) and its engine (`web/engine`, worker).
//!
//! A posted message is a JavaScript array: first one of the types below, through serde, then the
//! transferred `ArrayBuffer`s its documentation names, in that order. Pixels and noise never pass
//! through serde: a run of 1000 frames would be copied three times.
//!
//! The page asks, the engine tells. Every run has a number chosen by the page; whatever arrives
//! with another run's number is late and is dropped.

use serde::{Deserialize, Serialize};

#[cfg(target_arch = "wasm32")]
pub mod adapter;

/// Which build of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// CubeCL on WebGPU.
    WebGpu,
    /// Flex, Burn's CPU backend, with simd128.
    Cpu,
}

impl EngineKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::WebGpu, Self::Cpu];

    /// The word for it in links, messages and names of files.
    pub fn slug(self) -> &'static str {
        match self {
            Self::WebGpu => "webgpu",
            Self::Cpu => "cpu",
        }
    }
}

/// What decides a picture; the weights are chosen by [`Request::Load`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    /// Names the noise.
    pub seed: u32,
    /// A garment's slug, or `any`.
    pub garment: String,
    /// `ddpm`, `ddim` or `dpm`.
    pub sampler: String,
    /// How many steps.
    pub steps: u32,
    /// Guidance scale; 1 is off.
    pub guidance: f64,
    /// How many images of the seed.
    pub count: u32,
}

/// A place in the reverse process to begin at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// The 0-based timestep of x_t; the first step is the sampler's first one at or below it.
    pub t: u32,
    /// For each image of the run, the branch whose noise it gets; each is image 0 of the seed.
    /// Branch 0 is the noise of the run itself.
    pub branches: Vec<u32>,
}

/// What the page asks of the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Request {
    /// Fetch, check and load these weights, then self-check. Answered by
    /// [`Event::Ready`]. May come again, for another epoch.
    Load {
        /// Absolute URL of a weights file.
        url: String,
        /// Its length as the index has it, for the progress bar.
        bytes: u64,
    },
    /// Start this run; a run in progress is stopped first. Answered by [`Event::Started`], then by
    /// [`Event::Frames`] until [`Event::Done`] or [`Event::Stopped`].
    Run {
        /// The page's number for it.
        run: u32,
        /// What to compute.
        picture: Picture,
        /// Index in the seed of the first image; others than 0 where engines share a picture.
        #[serde(default)]
        first: u32,
        /// Whether to begin paused.
        paused: bool,
        /// Where to begin, if not at pure noise; with one buffer: x_t, f32, `[count, 784]`.
        #[serde(default)]
        start: Option<Start>,
    },
    /// Compute no further step until [`Request::Resume`] or [`Request::Step`].
    Pause {
        /// Of which run.
        run: u32,
    },
    /// Go on.
    Resume {
        /// Of which run.
        run: u32,
    },
    /// Compute one step of a paused run.
    Step {
        /// Of which run.
        run: u32,
    },
    /// Forget the run. Answered by [`Event::Stopped`], unless another run is under way.
    Stop {
        /// Which run.
        run: u32,
    },
    /// What the network sees in a stored frame. With one buffer: x_t, f32, `[count, 784]`.
    /// Answered by [`Event::Explained`].
    Explain {
        /// Of which run.
        run: u32,
        /// Which frame of it.
        index: u32,
        /// The 0-based timestep of the frame.
        t: u32,
        /// The run's picture: label, guidance and count matter.
        picture: Picture,
    },
}

/// What the engine tells the page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Event {
    /// A download goes on.
    Progress {
        /// Of what.
        part: Part,
        /// Bytes so far.
        received: f64,
        /// Bytes in all, where known.
        total: Option<f64>,
    },
    /// Downloads are over; this is being done now, a sentence for the status line.
    Busy {
        /// For example `Compiling the network for this GPU`.
        message: String,
    },
    /// Weights are loaded and checked: runs may start.
    Ready {
        /// Which build this is.
        engine: EngineKind,
        /// What it computes on, as the browser names it; empty on the CPU.
        adapter: String,
        /// Whether the adapter is a software one.
        software: bool,
        /// The weights.
        model: Model,
    },
    /// A run has begun.
    Started {
        /// Which run.
        run: u32,
        /// For each frame to come, its numbers.
        steps: Vec<StepInfo>,
    },
    /// Frames in order, beginning with `first`; with two buffers, x_t and the predicted noise, both
    /// f32, `[count, images, 784]`. x_t is the state before the step.
    Frames {
        /// Of which run.
        run: u32,
        /// Index of the first one; the noisiest frame of a run is 0.
        first: u32,
        /// How many.
        count: u32,
    },
    /// A run is over; with one buffer: x_0, f32, `[count, 784]`, in [-1, 1].
    Done {
        /// Which run.
        run: u32,
        /// Time spent computing, without pauses.
        elapsed_ms: f64,
    },
    /// A run was stopped before its end.
    Stopped {
        /// Which run.
        run: u32,
    },
    /// Answer to [`Request::Explain`]; with one buffer: the predicted noise, f32, `[count, 784]`.
    Explained {
        /// Of which run.
        run: u32,
        /// Which frame of it.
        index: u32,
    },
    /// Something failed.
    Error {
        /// What kind of failure.
        code: ErrorCode,
        /// A sentence that says what to do.
        message: String,
        /// Whether this engine can do nothing more.
        fatal: bool,
    },
}

/// What a download brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// The engine's own code.
    Engine,
    /// A weights file.
    Weights,
}

impl Part {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Engine, Self::Weights];

    /// The word for it in messages.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Weights => "weights",
        }
    }
}

/// The numbers of one step: with them x-hat-0 follows from x_t and the predicted noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepInfo {
    /// 0-based timestep.
    pub t: u32,
    /// sqrt(alpha_bar_t).
    pub sqrt_alpha_cumprod: f64,
    /// sqrt(1 - alpha_bar_t).
    pub sqrt_one_minus_alpha_cumprod: f64,
}

/// What the page says about the weights in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Passes over the data set.
    pub epoch: u32,
    /// T.
    pub timesteps: u32,
    /// `linear` or `cosine`.
    pub schedule: String,
    /// Numbers in the network.
    pub parameters: f64,
    /// Training images seen.
    pub images_seen: f64,
    /// Checksum of the weights.
    pub sha256: String,
}

/// Kinds of failure, as in the page's `ddpm:error` events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The engine's code could not be fetched or started.
    Engine,
    /// The weights could not be fetched.
    WeightsMissing,
    /// The weights were fetched and are not to be used.
    WeightsInvalid,
    /// The device is missing, or lacks something.
    Adapter,
    /// The device computes wrong numbers.
    SelfCheck,
    /// The device went away.
    DeviceLost,
    /// A picture that cannot be computed as asked.
    Picture,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Engine,
        Self::WeightsMissing,
        Self::WeightsInvalid,
        Self::Adapter,
        Self::SelfCheck,
        Self::DeviceLost,
        Self::Picture,
    ];

    /// The word for it in messages and events.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::WeightsMissing => "weights-missing",
            Self::WeightsInvalid => "weights-invalid",
            Self::Adapter => "adapter",
            Self::SelfCheck => "self-check",
            Self::DeviceLost => "device-lost",
            Self::Picture => "picture",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shapes that JavaScript sees: a change here is a change of the page's interface.
    #[test]
    fn messages_are_plain_camel_case_objects() {
        let picture = Picture {
            seed: 7,
            garment: "any".to_owned(),
            sampler: "ddpm".to_owned(),
            steps: 1000,
            guidance: 1.0,
            count: 1,
        };
        let run = Request::Run {
            run: 3,
            picture,
            first: 0,
            paused: false,
            start: None,
        };
        assert_eq!(
            serde_json::to_value(&run).unwrap(),
            serde_json::json!({
                "type": "run", "run": 3, "first": 0, "paused": false, "start": null,
                "picture": {
                    "seed": 7, "garment": "any", "sampler": "ddpm", "steps": 1000,
                    "guidance": 1.0, "count": 1,
                },
            })
        );
        let done = Event::Done {
            run: 3,
            elapsed_ms: 1.5,
        };
        assert_eq!(
            serde_json::to_value(&done).unwrap(),
            serde_json::json!({ "type": "done", "run": 3, "elapsedMs": 1.5 })
        );
        let error = serde_json::to_value(ErrorCode::WeightsInvalid).unwrap();
        assert_eq!(error, "weights-invalid");
    }

    /// One side writes these words by serde, the other reads them by `slug`.
    #[test]
    fn words_are_written_as_they_are_read() {
        let word = |value: serde_json::Value| value.as_str().unwrap().to_owned();
        for kind in EngineKind::ALL {
            assert_eq!(word(serde_json::to_value(kind).unwrap()), kind.slug());
        }
        for part in Part::ALL {
            assert_eq!(word(serde_json::to_value(part).unwrap()), part.slug());
        }
        for code in ErrorCode::ALL {
            assert_eq!(word(serde_json::to_value(code).unwrap()), code.slug());
        }
    }
}
