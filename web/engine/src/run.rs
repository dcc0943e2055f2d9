//! A run: steps, and the frames they leave.
//!
//! Steps are queued, not awaited. On a GPU several batches of them are on their way at a time, and a
//! batch's frames come back as one tensor while later steps are being queued; waiting for each step
//! would leave the GPU idle most of the time. The batches are kept so short that whoever presses
//! Pause sees it happen.

use std::{
    collections::VecDeque,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use burn::tensor::TensorData;
use fashion_ddpm::{
    RecordedProcess, Sampler,
    garment::parse_garment,
    noise::gaussian_batch,
    sampler::{STRIDE, remaining},
};
use protocol::{Event, Picture, Request, Start, StepInfo};

use crate::{
    device::Opened,
    engine::{Engine, Failure, images, reading, state, values},
    wasm::{Message, now},
};

/// The longest time, in milliseconds, in which the browser cannot deliver a message.
const SLICE_MS: f64 = 40.0;

/// Frames of a batch, at most.
const LONGEST_BATCH: usize = 64;

/// What a message means for a run.
enum Order {
    Pause,
    Resume,
    Step,
    Stop,
    None,
}

impl Engine {
    /// Computes a picture and tells the page all about it.
    pub(crate) async fn run(
        &mut self,
        run: u32,
        picture: &Picture,
        first: u32,
        mut paused: bool,
        start: Option<(Start, Vec<f32>)>,
    ) -> Result<(), Failure> {
        let count = images(picture)?;
        let garment = parse_garment(&picture.garment).map_err(Failure::picture)?;
        let sampler: Sampler = picture.sampler.parse().map_err(Failure::picture)?;
        let denoiser = self.denoiser(garment, picture.guidance)?;
        let (opened, weights) = self.ready()?;
        let (timesteps, device) = (weights.metadata.timesteps, &opened.device);
        let mut plan = sampler
            .plan(&weights.diffusion.schedule, picture.steps as usize)
            .map_err(Failure::picture)?;
        let (streams, x_t) = match start {
            None => {
                let beyond = || Failure::picture("there is no image of such a number");
                let images = first..first.checked_add(count).ok_or_else(beyond)?;
                (
                    images.clone().map(|image| (image, 0)).collect(),
                    gaussian_batch(picture.seed, images, 0, timesteps, device),
                )
            }
            Some((Start { t, branches }, x_t)) => {
                if branches.len() != count as usize {
                    let found = branches.len();
                    let reason = format!("{count} images need as many branches, not {found}");
                    return Err(Failure::picture(reason));
                }
                plan = remaining(&plan, t as usize);
                if plan.is_empty() {
                    let reason = format!("from t = {t} on there is no step to take");
                    return Err(Failure::picture(reason));
                }
                let streams = branches.into_iter().map(|branch| (0, branch)).collect();
                (streams, state(count, t, x_t, timesteps, device)?)
            }
        };
        let steps = plan
            .iter()
            .map(|step| StepInfo {
                t: step.t as u32,
                sqrt_alpha_cumprod: step.sqrt_alpha_cumprod,
                sqrt_one_minus_alpha_cumprod: step.sqrt_one_minus_alpha_cumprod,
            })
            .collect();
        self.page.tell(&Event::Started { run, steps }, &[]);

        let mut clock = Clock::default();
        clock.start();
        let mut walk = self.recorded(count, denoiser.is_guided())?;
        walk.start(&denoiser, plan, picture.seed, streams, x_t);
        let outcome = self.walk(&mut walk, run, &mut paused, &mut clock).await;
        let outcome = match outcome {
            Ok(true) => self.read(reading(walk.x())).await.map(Some),
            Ok(false) => Ok(None),
            Err(failure) => Err(failure),
        };
        self.keep(walk);
        let Some(x_0) = outcome? else {
            return Ok(());
        };
        clock.stop();
        self.page.tell(
            &Event::Done {
                run,
                elapsed_ms: clock.elapsed_ms,
            },
            &[values(&x_0)],
        );
        Ok(())
    }

    /// Takes all steps, or fewer where the page wants something else: then the answer is `false`.
    async fn walk(
        &mut self,
        walk: &mut RecordedProcess,
        run: u32,
        paused: &mut bool,
        clock: &mut Clock,
    ) -> Result<bool, Failure> {
        let (opened, _) = self.ready()?;
        let mut batches = Batches::new(run, opened);
        // Steps asked for one by one while paused.
        let mut asked = 0u32;
        let mut breath = now();
        while walk.steps_left() > 0 {
            // What the page wants comes before the next step.
            loop {
                let idle = *paused && asked == 0;
                let message = if idle {
                    batches.deliver_all(walk, self).await?;
                    clock.stop();
                    self.page.next().await
                } else {
                    match self.page.try_next() {
                        Some(message) => message,
                        None => break,
                    }
                };
                match self.obey(run, message).await {
                    Order::Pause => *paused = true,
                    Order::Resume => (*paused, asked) = (false, 0),
                    Order::Step => asked += u32::from(*paused),
                    Order::Stop => {
                        self.page.tell(&Event::Stopped { run }, &[]);
                        batches.discard(self).await?;
                        return Ok(false);
                    }
                    Order::None => {}
                }
            }

            clock.start();
            asked = asked.saturating_sub(1);
            let most = if *paused { 1 } else { batches.room() };
            batches.add(walk.steps(most).map_err(Failure::device)?);
            // What the device keeps of them is not in one piece across a multiple of that.
            let kept = (batches.next as usize).is_multiple_of(walk.frames_kept());
            if batches.is_full() || kept {
                batches.deliver(walk, self).await?;
            }
            if now() - breath >= SLICE_MS {
                self.page.give_way().await;
                breath = now();
            }
        }
        batches.deliver_all(walk, self).await?;
        Ok(true)
    }

    async fn obey(&mut self, running: u32, Message { request, values }: Message) -> Order {
        match request {
            Request::Pause { run } if run == running => Order::Pause,
            Request::Resume { run } if run == running => Order::Resume,
            Request::Step { run } if run == running => Order::Step,
            Request::Stop { run } if run == running => Order::Stop,
            Request::Load { .. } | Request::Run { .. } => {
                self.page.put_back(Message { request, values });
                Order::Stop
            }
            Request::Explain {
                run,
                index,
                t,
                picture,
            } => {
                self.explain_meanwhile((run, index, t), &picture, values)
                    .await;
                Order::None
            }
            // Of an earlier run.
            _ => Order::None,
        }
    }
}

/// Measures computing, without pauses.
#[derive(Default)]
struct Clock {
    since: Option<f64>,
    elapsed_ms: f64,
}

impl Clock {
    fn start(&mut self) {
        self.since.get_or_insert_with(now);
    }

    fn stop(&mut self) {
        self.elapsed_ms += self.since.take().map_or(0.0, |since| now() - since);
    }
}

/// Frames on their way to the page.
struct Batches {
    run: u32,
    /// Index of the next frame to be added.
    next: u32,
    /// Frames of the batch being filled.
    count: u32,
    /// When that batch was begun.
    begun: f64,
    /// How many frames make a batch now.
    full: usize,
    /// Whether a single frame takes longer than a batch should: then none is computed ahead.
    slow: bool,
    /// Batches being computed and read, oldest first.
    under_way: VecDeque<Batch>,
    /// When the last one arrived.
    arrived: f64,
    ahead: usize,
    target_ms: f64,
}

impl Batches {
    fn new(run: u32, opened: &Opened) -> Self {
        Self {
            run,
            next: 0,
            count: 0,
            begun: 0.0,
            full: 1,
            slow: false,
            under_way: VecDeque::new(),
            arrived: 0.0,
            ahead: opened.batches_ahead,
            target_ms: opened.batch_ms,
        }
    }

    /// How many frames the batch being filled still takes.
    fn room(&self) -> usize {
        self.full.saturating_sub(self.count as usize)
    }

    fn add(&mut self, frames: usize) {
        if self.count == 0 {
            self.begun = now();
        }
        self.count += frames as u32;
        self.next += frames as u32;
    }

    fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Sends the batch on its way, and waits until not too many are.
    async fn deliver(&mut self, walk: &RecordedProcess, engine: &Engine) -> Result<(), Failure> {
        self.read_frames(walk);
        let ahead = if self.slow { 0 } else { self.ahead };
        while self.under_way.len() > ahead {
            self.deliver_oldest(engine).await?;
        }
        Ok(())
    }

    /// Sends the batch on its way, full or not, and waits for all.
    async fn deliver_all(
        &mut self,
        walk: &RecordedProcess,
        engine: &Engine,
    ) -> Result<(), Failure> {
        self.read_frames(walk);
        while !self.under_way.is_empty() {
            self.deliver_oldest(engine).await?;
        }
        Ok(())
    }

    /// Waits for all that is under way, and tells nobody. CubeCL uses the memory of a read that was
    /// given up for the next one while the browser still writes to it.
    async fn discard(&mut self, engine: &Engine) -> Result<(), Failure> {
        for batch in mem::take(&mut self.under_way) {
            engine.read(batch.data).await?;
        }
        Ok(())
    }

    /// Asks the device for the frames, all in one tensor.
    fn read_frames(&mut self, walk: &RecordedProcess) {
        let count = mem::take(&mut self.count);
        if count == 0 {
            return;
        }
        let first = self.next - count;
        self.under_way.push_back(Batch {
            first,
            count,
            begun: self.begun,
            data: Early::ask(Box::pin(reading(
                walk.frames(first as usize, count as usize),
            ))),
        });
    }

    async fn deliver_oldest(&mut self, engine: &Engine) -> Result<(), Failure> {
        let Some(batch) = self.under_way.pop_front() else {
            return Ok(());
        };
        let Batch {
            first,
            count,
            begun,
            data,
        } = batch;
        let data = engine.read(data).await?;
        let (x_t, pred_noise) = apart(values(&data), count as usize);
        let event = Event::Frames {
            run: self.run,
            first,
            count,
        };
        engine.page.tell(&event, &[&x_t, &pred_noise]);

        let frame_ms = (now() - begun.max(self.arrived)) / f64::from(count);
        self.arrived = now();
        self.slow = frame_ms > self.target_ms;
        let fits = (self.target_ms / frame_ms.max(0.01)) as usize;
        self.full = fits.clamp(1, LONGEST_BATCH.min(2 * self.full));
        if self.full > STRIDE {
            self.full -= self.full % STRIDE;
        }
        Ok(())
    }
}

/// Two lists that take turns, frame by frame.
fn apart(values: &[f32], frames: usize) -> (Vec<f32>, Vec<f32>) {
    let half = values.len() / (2 * frames);
    let mut lists = (Vec::new(), Vec::new());
    for frame in values.chunks_exact(2 * half) {
        let (x_t, pred_noise) = frame.split_at(half);
        lists.0.extend_from_slice(x_t);
        lists.1.extend_from_slice(pred_noise);
    }
    lists
}

/// Some frames being computed and read.
struct Batch {
    first: u32,
    count: u32,
    begun: f64,
    data: Early,
}

type Reading = Pin<Box<dyn Future<Output = Result<TensorData, String>>>>;

/// A future that has been polled once already.
///
/// Reading a tensor begins with the first poll. Polled only when its turn has come, the copy would
/// queue up behind the steps that were queued in the meantime.
enum Early {
    Done(Option<Result<TensorData, String>>),
    Going(Reading),
}

impl Early {
    fn ask(mut reading: Reading) -> Self {
        match reading
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(result) => Self::Done(Some(result)),
            Poll::Pending => Self::Going(reading),
        }
    }
}

impl Future for Early {
    type Output = Result<TensorData, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Done(result) => result.take().map_or(Poll::Pending, Poll::Ready),
            Self::Going(reading) => reading.as_mut().poll(context),
        }
    }
}
