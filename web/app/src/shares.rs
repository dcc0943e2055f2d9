//! A run whose images several engines share: who computes which, and their frames put together.

use protocol::{Event, Request, Start};

use crate::store::PIXELS;

/// What an engine says, with the numbers that come along.
pub type Said = (Event, Vec<Vec<f32>>);

/// What each of so many engines is asked for, so that together they compute the run: neighbouring
/// images each, and as nearly as many as can be. No share is empty: there are no more of them than
/// images. What is no run is asked of one engine.
pub fn shares(
    request: &Request,
    x_t: Option<&[f32]>,
    engines: usize,
) -> Vec<(Request, Option<Vec<f32>>)> {
    let Request::Run {
        run,
        picture,
        first,
        paused,
        start,
    } = request
    else {
        return vec![(request.clone(), x_t.map(<[f32]>::to_vec))];
    };
    let count = picture.count as usize;
    let engines = engines.clamp(1, count.max(1));
    let share = |engine: usize| {
        let images = engine * count / engines..(engine + 1) * count / engines;
        let mut picture = picture.clone();
        picture.count = images.len() as u32;
        let start = start.as_ref().map(|Start { t, branches }| Start {
            t: *t,
            branches: branches.get(images.clone()).unwrap_or_default().to_vec(),
        });
        let request = Request::Run {
            run: *run,
            picture,
            first: first + images.start as u32,
            paused: *paused,
            start,
        };
        let values = images.start * PIXELS..images.end * PIXELS;
        let x_t = x_t.map(|x_t| x_t.get(values).unwrap_or_default().to_vec());
        (request, x_t)
    };
    (0..engines).map(share).collect()
}

/// A shared run's frames on their way from the engines to the page.
#[derive(Debug)]
pub struct Shared {
    run: u32,
    /// Index of the first frame that not all engines have computed.
    next: u32,
    shares: Vec<Share>,
}

/// What one engine has said, and the page has not been told.
#[derive(Debug, Default)]
struct Share {
    /// Values of a frame.
    size: usize,
    /// x_t of frame after frame, and the predicted noise.
    frames: [Vec<f32>; 2],
    /// At the end of its run: the garments, and the milliseconds spent computing.
    done: Option<(Vec<f32>, f64)>,
}

impl Shared {
    /// A run that so many engines are about to compute.
    pub fn new(run: u32, engines: usize) -> Self {
        Self {
            run,
            next: 0,
            shares: (0..engines).map(|_| Share::default()).collect(),
        }
    }

    /// Its number.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// How many engines share it.
    pub fn engines(&self) -> usize {
        self.shares.len()
    }

    /// What the page is to be told, as if one engine had computed all images, when this one says this.
    pub fn hear(&mut self, engine: usize, event: Event, mut values: Vec<Vec<f32>>) -> Option<Said> {
        let share = self.shares.get_mut(engine)?;
        match event {
            Event::Frames { run, count, .. } if run == self.run => {
                for (frames, more) in share.frames.iter_mut().zip(&values) {
                    frames.extend_from_slice(more);
                    share.size = more.len() / count.max(1) as usize;
                }
                self.frames()
            }
            Event::Done { run, elapsed_ms } if run == self.run => {
                share.done = Some((values.pop()?, elapsed_ms));
                self.done()
            }
            Event::Error { .. } => Some((event, values)),
            // Once is enough.
            event => (engine == 0).then_some((event, values)),
        }
    }

    /// The frames that all engines have computed by now.
    fn frames(&mut self) -> Option<Said> {
        let ready = |share: &Share| share.frames[0].len().checked_div(share.size).unwrap_or(0);
        let count = self.shares.iter().map(ready).min().filter(|n| *n > 0)?;
        let mut whole = [vec![], vec![]];
        for (kind, whole) in whole.iter_mut().enumerate() {
            for frame in 0..count {
                for Share { size, frames, .. } in &self.shares {
                    let values = frames[kind].chunks_exact(*size).nth(frame);
                    whole.extend_from_slice(values.unwrap_or_default());
                }
            }
            for Share { size, frames, .. } in &mut self.shares {
                frames[kind].drain(..count * *size);
            }
        }
        let (run, first, count) = (self.run, self.next, count as u32);
        self.next += count;
        Some((Event::Frames { run, first, count }, whole.into()))
    }

    /// The end, once all have come to theirs.
    fn done(&mut self) -> Option<Said> {
        let mut all = Vec::new();
        // They compute at the same time: the slowest one's is the run's.
        let mut elapsed_ms = 0f64;
        for share in &self.shares {
            let (x_0, ms) = share.done.as_ref()?;
            all.extend_from_slice(x_0);
            elapsed_ms = elapsed_ms.max(*ms);
        }
        let run = self.run;
        Some((Event::Done { run, elapsed_ms }, vec![all]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::Picture;

    /// An engine that computes nothing: each pixel of a frame tells its image, frame and kind.
    struct Told {
        images: Vec<u32>,
        frames: u32,
        told: u32,
    }

    fn values(images: &[u32], frame: u32, kind: f32) -> Vec<f32> {
        let pixels = |image: &u32| [*image as f32, frame as f32, kind];
        images.iter().flat_map(pixels).collect()
    }

    impl Told {
        /// Its next batch of frames, of at most so many, or its end.
        fn tell(&mut self, run: u32, most: u32) -> (Event, Vec<Vec<f32>>) {
            let first = self.told;
            let count = most.min(self.frames - first);
            self.told += count;
            if count == 0 {
                let elapsed_ms = f64::from(self.images[0]);
                let x_0 = values(&self.images, self.frames, 2.0);
                return (Event::Done { run, elapsed_ms }, vec![x_0]);
            }
            let batch = |kind| {
                (first..first + count)
                    .flat_map(|frame| values(&self.images, frame, kind))
                    .collect()
            };
            let event = Event::Frames { run, first, count };
            (event, vec![batch(0.0), batch(1.0)])
        }
    }

    fn request(count: u32, branches: Option<Vec<u32>>) -> Request {
        Request::Run {
            run: 3,
            picture: Picture {
                seed: 7,
                garment: "any".to_owned(),
                sampler: "ddpm".to_owned(),
                steps: 10,
                guidance: 1.0,
                count,
            },
            first: 0,
            paused: true,
            start: branches.map(|branches| Start { t: 5, branches }),
        }
    }

    proptest! {
        /// Whoever computes which images, and in whatever order the engines come to speak, the page
        /// hears what one engine would say of all images: each frame once, in order.
        #[test]
        fn a_shared_run_is_as_one_engine_would_tell_it(
            count in 1u32..20,
            engines in 1usize..6,
            frames in 1u32..30,
            order in prop::collection::vec((0usize..6, 1u32..8), 0..400),
        ) {
            let parts = shares(&request(count, None), None, engines);
            let mut told: Vec<Told> = parts
                .iter()
                .map(|(request, _)| match request {
                    Request::Run { picture, first, paused: true, .. } => Told {
                        images: (*first..first + picture.count).collect(),
                        frames,
                        told: 0,
                    },
                    other => panic!("{other:?}"),
                })
                .collect();
            prop_assert_eq!(told.len(), engines.min(count as usize));
            let lengths = told.iter().map(|told| told.images.len());
            prop_assert!(lengths.clone().max() <= lengths.min().map(|least| least + 1));

            let mut shared = Shared::new(3, told.len());
            let mut heard = Vec::new();
            let mut speaking: Vec<usize> = (0..told.len()).collect();
            let rest = std::iter::repeat((0, 5));
            for (who, most) in order.into_iter().chain(rest) {
                if speaking.is_empty() {
                    break;
                }
                let at = who % speaking.len();
                let engine = speaking[at];
                let (event, values) = told[engine].tell(3, most);
                if matches!(event, Event::Done { .. }) {
                    speaking.remove(at);
                }
                heard.extend(shared.hear(engine, event, values));
            }

            let all: Vec<u32> = (0..count).collect();
            let (end, end_values) = heard.pop().unwrap();
            let slowest = f64::from(*told.last().map(|told| &told.images[0]).unwrap());
            prop_assert_eq!(end, Event::Done { run: 3, elapsed_ms: slowest });
            prop_assert_eq!(end_values, vec![values(&all, frames, 2.0)]);
            let mut next = 0;
            for (event, values_told) in heard {
                let Event::Frames { run: 3, first, count } = event else {
                    panic!("{event:?}");
                };
                prop_assert_eq!(first, next);
                next += count;
                for (kind, told) in [0.0, 1.0].into_iter().zip(values_told) {
                    let expected: Vec<f32> = (first..next)
                        .flat_map(|frame| values(&all, frame, kind))
                        .collect();
                    prop_assert_eq!(told, expected);
                }
            }
            prop_assert_eq!(next, frames);
        }
    }

    #[test]
    fn a_run_from_the_middle_is_shared_with_its_state() {
        let x_t: Vec<f32> = (0..5 * PIXELS).map(|i| i as f32).collect();
        let branches = vec![4, 8, 15, 16, 23];
        let parts = shares(&request(5, Some(branches.clone())), Some(&x_t), 2);
        assert_eq!(parts.len(), 2);
        let mut found = (vec![], vec![]);
        for (request, x_t) in parts {
            let Request::Run {
                start: Some(start),
                picture,
                ..
            } = request
            else {
                panic!("{request:?}");
            };
            assert_eq!(start.t, 5);
            assert_eq!(start.branches.len(), picture.count as usize);
            found.0.extend(start.branches);
            found.1.extend(x_t.unwrap());
        }
        assert_eq!(found, (branches, x_t));
    }

    #[test]
    fn of_the_others_the_page_hears_frames_and_failures() {
        let mut shared = Shared::new(3, 2);
        let started = Event::Started {
            run: 3,
            steps: vec![],
        };
        assert!(shared.hear(1, started.clone(), vec![]).is_none());
        assert!(shared.hear(0, started, vec![]).is_some());
        let late = Event::Frames {
            run: 2,
            first: 0,
            count: 1,
        };
        assert!(shared.hear(1, late, vec![vec![0.0], vec![0.0]]).is_none());
        let error = Event::Error {
            code: protocol::ErrorCode::Engine,
            message: "It stopped working.".to_owned(),
            fatal: true,
        };
        assert!(shared.hear(1, error, vec![]).is_some());
        assert!(shared.hear(9, Event::Stopped { run: 3 }, vec![]).is_none());
    }
}
