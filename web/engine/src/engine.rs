//! Answers what the page asks, one request after the other.

use std::{future::Future, rc::Rc};

use burn::tensor::{Device, Tensor, TensorData};
use fashion_ddpm::{
    Denoiser, Garment, PredictNoise, RecordedProcess,
    garment::parse_garment,
    noise::{IMAGE_SIZE, PIXELS},
    weights::{self, Weights},
};
use protocol::{EngineKind, ErrorCode, Event, Model, Part, Picture, Request};
use web_sys::Response;

use crate::{
    device::{self, Opened},
    wasm::{self, Message, Page},
};

/// The largest difference allowed, at any pixel, between the stored answer and this device's.
///
/// Both are computed in f32 from the same weights, so that only the order of summation differs: 3e-6
/// on SwiftShader, Chromium's software GPU. A launch left out moves the answer by 0.04 and more. A
/// GPU that rounds its exponentials more coarsely is welcome.
const TOLERANCE: f32 = 1e-3;

/// Steps of a rehearsed process: those of the weights that ship.
#[cfg(feature = "webgpu")]
const TIMESTEPS: usize = 1000;

/// Images of one run; more would not fit a screen, nor their frames a tab's memory.
const MOST_IMAGES: u32 = 64;

/// What went wrong, for the page.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    pub(crate) fatal: bool,
}

impl Failure {
    /// Something that this picture, or these weights, make impossible; the engine lives on.
    fn of(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            fatal: false,
        }
    }

    pub(crate) fn picture(error: impl std::fmt::Display) -> Self {
        Self::of(
            ErrorCode::Picture,
            format!("This picture cannot be computed: {error}."),
        )
    }

    /// The GPU refused, or is no more.
    pub(crate) fn device(error: impl std::fmt::Display) -> Self {
        Self {
            code: ErrorCode::DeviceLost,
            message: format!(
                "The GPU went away ({error}). Use the CPU engine, or reload the page."
            ),
            fatal: true,
        }
    }
}

impl From<Failure> for Event {
    fn from(
        Failure {
            code,
            message,
            fatal,
        }: Failure,
    ) -> Self {
        Self::Error {
            code,
            message,
            fatal,
        }
    }
}

/// The worker's state.
pub(crate) struct Engine {
    kind: EngineKind,
    pub(crate) page: Page,
    opened: Option<Opened>,
    weights: Option<Weights>,
    /// The last one used: its embedding of every timestep takes as long as some steps.
    denoiser: Option<(Option<Garment>, f64, Rc<Denoiser>)>,
    /// A recording for each number of images, with guidance and without, of these weights.
    recorded: Vec<RecordedProcess>,
}

impl Engine {
    /// Nothing is opened or loaded before the page asks for it.
    pub(crate) fn new(kind: EngineKind, page: Page) -> Self {
        Self {
            kind,
            page,
            opened: None,
            weights: None,
            denoiser: None,
            recorded: Vec::new(),
        }
    }

    /// Answers requests for as long as the worker lives.
    pub(crate) async fn serve(mut self) {
        loop {
            let message = self.page.next().await;
            if let Err(failure) = self.answer(message).await {
                self.page.tell(&failure.into(), &[]);
            }
        }
    }

    async fn answer(&mut self, Message { request, values }: Message) -> Result<(), Failure> {
        match request {
            Request::Load { url, bytes } => {
                let loaded = self.load(&url, bytes).await;
                if let Err(Failure {
                    code: ErrorCode::WeightsMissing | ErrorCode::WeightsInvalid,
                    ..
                }) = &loaded
                {
                    wasm::forget(&url).await;
                }
                loaded
            }
            Request::Run {
                run,
                picture,
                first,
                paused,
                start,
            } => {
                let start = start.map(|start| (start, values));
                self.run(run, &picture, first, paused, start).await
            }
            Request::Explain {
                run,
                index,
                t,
                picture,
            } => self.explain(run, index, t, &picture, values).await,
            Request::Stop { run } => {
                self.page.tell(&Event::Stopped { run }, &[]);
                Ok(())
            }
            // Of a run that is over.
            Request::Pause { .. } | Request::Resume { .. } | Request::Step { .. } => Ok(()),
        }
    }

    async fn load(&mut self, url: &str, bytes: u64) -> Result<(), Failure> {
        let device = self.device().await?;
        let answer = self.rehearse_until(wasm::request(url), &device).await;
        let file = read(&self.page, url, bytes, answer).await?;
        self.page.tell(&busy("Checking the weights"), &[]);
        let mut weights = weights::decode(&file, &device).map_err(|error| {
            let message = format!("The weights at {url} cannot be used: {error}.");
            Failure::of(ErrorCode::WeightsInvalid, message)
        })?;
        drop(file);
        // Once and for all, not in every launch of every copy of the network.
        weights.unet = weights.unet.resident();

        self.tell_of_compiling().await;
        let expected = weights.expected_probe.clone();
        let metadata = &weights.metadata;
        let model = Model {
            epoch: metadata.epoch,
            timesteps: metadata.timesteps as u32,
            schedule: metadata.schedule.slug().to_owned(),
            parameters: metadata.parameters as f64,
            images_seen: metadata.images_seen as f64,
            sha256: weights.sha256.clone(),
        };
        self.weights = Some(weights);
        self.denoiser = None;
        self.recorded.clear();
        let answer = self.probe()?;
        let answer = self.read(reading(answer)).await?;
        self.check(&answer, &expected)?;
        let (opened, _) = self.ready()?;
        let ready = Event::Ready {
            engine: self.kind,
            adapter: opened.adapter.clone(),
            software: opened.software,
            model,
        };
        self.page.tell(&ready, &[]);
        Ok(())
    }

    /// The answer to a request for weights. Until it is there, a GPU rehearses with zeros: what it has to
    /// compile depends on the network's shape alone. It is asked to, and not waited for: it goes on
    /// compiling while the weights are read.
    #[cfg(feature = "webgpu")]
    async fn rehearse_until<T>(
        &self,
        mut answer: impl Future<Output = T> + Unpin,
        device: &Device,
    ) -> T {
        if self.kind == EngineKind::Cpu || self.weights.is_some() {
            return answer.await;
        }
        // Weights that have travelled beside the engine are there at the browser's next turn.
        self.page.give_way().await;
        if let Some(answer) = wasm::by_now(&mut answer).await {
            return answer;
        }
        self.tell_of_compiling().await;
        let unet = fashion_ddpm::UNetConfig::default().zeroed(device);
        RecordedProcess::rehearse(&unet, TIMESTEPS);
        answer.await
    }

    #[cfg(not(feature = "webgpu"))]
    async fn rehearse_until<T>(&self, answer: impl Future<Output = T>, _: &Device) -> T {
        answer.await
    }

    async fn tell_of_compiling(&self) {
        let doing = match self.kind {
            EngineKind::WebGpu => "Compiling the network for this GPU",
            EngineKind::Cpu => "Trying the network",
        };
        self.page.tell(&busy(doing), &[]);
        self.page.give_way().await;
    }

    /// The device, opened the first time.
    async fn device(&mut self) -> Result<Device, Failure> {
        if let Some(opened) = &self.opened {
            return Ok(opened.device.clone());
        }
        let opened = device::open(self.kind).await?;
        Ok(self.opened.insert(opened).device.clone())
    }

    /// The self-check: the stored answer against this device's.
    fn check(&self, answer: &TensorData, expected: &[f32]) -> Result<(), Failure> {
        let answer = values(answer);
        let answer = &answer[answer.len().saturating_sub(PIXELS)..];
        let difference = answer.iter().zip(expected).map(|(a, b)| (a - b).abs());
        // The largest one, and NaN where there is any.
        let worst = difference.fold(
            0f32,
            |worst, d| if d > worst || d.is_nan() { d } else { worst },
        );
        if answer.len() == expected.len() && worst <= TOLERANCE {
            return Ok(());
        }
        let advice = match self.kind {
            EngineKind::WebGpu => "Use the CPU engine, or update the graphics driver.",
            EngineKind::Cpu => "Reload the page, so that engine and weights fit each other.",
        };
        Err(Failure {
            code: ErrorCode::SelfCheck,
            message: format!(
                "The network's answer to a stored question is wrong by {worst:.2e}, where \
                 {TOLERANCE:.0e} is allowed: this device computes wrong. {advice}"
            ),
            fatal: true,
        })
    }

    /// Asks the network what the weights hold the answer to, which is the last of what it gives back: by a
    /// recorded step, and all that goes before it in a run. Whatever runs for the first time on a GPU is
    /// compiled first, better now than while somebody watches.
    fn probe(&mut self) -> Result<Tensor<4>, Failure> {
        let mut process = self.recorded(1, false)?;
        let (_, weights) = self.ready()?;
        let schedule = &weights.diffusion.schedule;
        let asked = weights::probe_recorded(&mut process, &weights.unet, schedule);
        let answer = asked.map_err(Failure::device)?;
        self.keep(process);
        Ok(answer)
    }

    /// A recorded step for this many images, made the first time. Give it back with [`Self::keep`].
    pub(crate) fn recorded(
        &mut self,
        images: u32,
        guided: bool,
    ) -> Result<RecordedProcess, Failure> {
        let kind = (images as usize, guided);
        if let Some(at) = self.recorded.iter().position(|known| known.kind() == kind) {
            return Ok(self.recorded.swap_remove(at));
        }
        let (_, weights) = self.ready()?;
        let (images, timesteps) = (images as usize, weights.metadata.timesteps);
        RecordedProcess::record(&weights.unet, timesteps, images, guided).map_err(Failure::device)
    }

    /// Takes a recording back, for the next run of its kind.
    pub(crate) fn keep(&mut self, process: RecordedProcess) {
        self.recorded.push(process);
    }

    async fn explain(
        &mut self,
        run: u32,
        index: u32,
        t: u32,
        picture: &Picture,
        x_t: Vec<f32>,
    ) -> Result<(), Failure> {
        let count = images(picture)?;
        let garment = parse_garment(&picture.garment).map_err(Failure::picture)?;
        let denoiser = self.denoiser(garment, picture.guidance)?;
        let (opened, weights) = self.ready()?;
        let x_t = state(count, t, x_t, weights.metadata.timesteps, &opened.device)?;
        let pred_noise = self
            .read(reading(denoiser.predict(x_t, t as usize)))
            .await?;
        self.page
            .tell(&Event::Explained { run, index }, &[values(&pred_noise)]);
        Ok(())
    }

    /// [`Self::explain`] in the middle of something else, which a failure does not end.
    pub(crate) async fn explain_meanwhile(
        &mut self,
        (run, index, t): (u32, u32, u32),
        picture: &Picture,
        x_t: Vec<f32>,
    ) {
        if let Err(failure) = self.explain(run, index, t, picture, x_t).await {
            self.page.tell(&failure.into(), &[]);
        }
    }

    /// The device and the weights, once there are any.
    pub(crate) fn ready(&self) -> Result<(&Opened, &Weights), Failure> {
        self.opened
            .as_ref()
            .zip(self.weights.as_ref())
            .ok_or_else(|| Failure::picture("no weights are loaded yet; choose an epoch"))
    }

    /// The network with this garment and this guidance.
    pub(crate) fn denoiser(
        &mut self,
        garment: Option<Garment>,
        guidance: f64,
    ) -> Result<Rc<Denoiser>, Failure> {
        if !guidance.is_finite() {
            return Err(Failure::picture("the guidance scale is no number"));
        }
        if let Some((last_garment, last_guidance, denoiser)) = &self.denoiser
            && (*last_garment, *last_guidance) == (garment, guidance)
        {
            return Ok(denoiser.clone());
        }
        let (_, weights) = self.ready()?;
        let denoiser = weights.denoiser(garment, guidance);
        let denoiser = Rc::new(denoiser);
        self.denoiser = Some((garment, guidance, denoiser.clone()));
        Ok(denoiser)
    }

    /// Waits for a tensor's values.
    pub(crate) async fn read(
        &self,
        reading: impl Future<Output = Result<TensorData, String>>,
    ) -> Result<TensorData, Failure> {
        reading.await.map_err(|error| match self.kind {
            EngineKind::WebGpu => Failure::device(error),
            EngineKind::Cpu => Failure {
                code: ErrorCode::Engine,
                message: format!("The engine stopped working ({error}). Reload the page."),
                fatal: true,
            },
        })
    }
}

/// How many images a picture has.
pub(crate) fn images(picture: &Picture) -> Result<u32, Failure> {
    if (1..=MOST_IMAGES).contains(&picture.count) {
        return Ok(picture.count);
    }
    Err(Failure::picture(format!(
        "1 to {MOST_IMAGES} images at a time, not {}",
        picture.count
    )))
}

/// A state that the page knows, `[count, 1, 28, 28]`, at a timestep that there is.
pub(crate) fn state(
    count: u32,
    t: u32,
    x_t: Vec<f32>,
    timesteps: usize,
    device: &Device,
) -> Result<Tensor<4>, Failure> {
    if x_t.len() != count as usize * PIXELS {
        let found = x_t.len();
        let reason = format!("{count} images have {PIXELS} pixels each, not {found}");
        return Err(Failure::picture(reason));
    }
    if t as usize >= timesteps {
        let last = timesteps - 1;
        return Err(Failure::picture(format!(
            "t goes from 0 to {last}, not {t}"
        )));
    }
    let shape = [count as usize, 1, IMAGE_SIZE, IMAGE_SIZE];
    Ok(Tensor::from_data(TensorData::new(x_t, shape), device))
}

/// Asks for a tensor's values; an error is the device's complaint.
pub(crate) async fn reading(tensor: Tensor<4>) -> Result<TensorData, String> {
    tensor.into_data_async().await.map_err(|error| {
        // Errors come nested, over many lines; the innermost one says what happened.
        let error = error.to_string();
        let causes = error.split("Backtrace:").next().unwrap_or_default();
        let innermost = causes.lines().rfind(|line| !line.trim().is_empty());
        innermost.unwrap_or(causes).trim().to_owned()
    })
}

/// The numbers of a tensor that was computed in f32.
pub(crate) fn values(data: &TensorData) -> &[f32] {
    data.as_slice().expect("the network computes in f32")
}

fn busy(message: &str) -> Event {
    Event::Busy {
        message: message.to_owned(),
    }
}

/// Reads a weights file; the page's bar moves at most twenty times a second.
async fn read(
    page: &Page,
    url: &str,
    bytes: u64,
    answer: Result<Response, String>,
) -> Result<Vec<u8>, Failure> {
    let progress = |received: usize| {
        let event = Event::Progress {
            part: Part::Weights,
            received: received as f64,
            total: (bytes > 0).then_some(bytes as f64),
        };
        page.tell(&event, &[]);
    };
    let mut last = f64::NEG_INFINITY;
    let file = async {
        let read = wasm::read(answer?, |received| {
            if wasm::now() - last >= 50.0 {
                last = wasm::now();
                progress(received);
            }
        });
        read.await
    };
    let file = file.await.map_err(|reason| {
        let message = format!(
            "The weights at {url} could not be fetched: {reason}. Check the connection, or choose \
             another epoch."
        );
        Failure::of(ErrorCode::WeightsMissing, message)
    })?;
    progress(file.len());
    Ok(file)
}
