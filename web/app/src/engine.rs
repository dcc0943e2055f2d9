//! Chooses an engine, starts it in a worker and talks to it.

use js_sys::{Array, Float32Array, Function, Object, Reflect};
use protocol::{EngineKind, ErrorCode, Event, Model, Part, Request, StepInfo, adapter};
use wasm_bindgen::{JsCast, prelude::*};
use wasm_bindgen_futures::spawn_local;
use web_sys::{ErrorEvent, MessageEvent, Worker, WorkerOptions, WorkerType};

use crate::{
    dom::{absolute, get, plain, window, words},
    plain::{Plain, field, plain_struct},
    state::EngineChoice,
};

/// What the CPU engine is taken for instead of WebGPU, as a sentence.
type Reason = String;

/// Chooses the engine: WebGPU on a hardware adapter that has what CubeCL needs, else the CPU,
/// without a download of the GPU's build.
pub async fn choose(choice: EngineChoice) -> (EngineKind, Option<Reason>) {
    let lacking = match choice {
        EngineChoice::Cpu => return (EngineKind::Cpu, None),
        EngineChoice::WebGpu => lacking(true).await,
        EngineChoice::Auto => lacking(false).await,
    };
    match lacking {
        None => (EngineKind::WebGpu, None),
        reason => (EngineKind::Cpu, reason),
    }
}

/// Why WebGPU is not to be used here.
async fn lacking(software_will_do: bool) -> Option<Reason> {
    let gpu = get(&window().navigator(), "gpu");
    if !gpu.is_object() {
        let reason = match window().is_secure_context() {
            true => "This browser offers no WebGPU.",
            false => "WebGPU needs a page from https or localhost.",
        };
        return Some(reason.to_owned());
    }
    let Some(adapter) = adapter::find().await else {
        return Some("WebGPU finds no graphics card here.".to_owned());
    };
    (adapter.software && !software_will_do)
        .then(|| "WebGPU has only a software adapter here, which is slower.".to_owned())
}

/// An engine in its worker.
pub struct Engine {
    worker: Worker,
    // Called by the worker for as long as it lives.
    _on_message: Closure<dyn FnMut(MessageEvent)>,
    _on_error: Closure<dyn FnMut(web_sys::Event)>,
}

impl Engine {
    /// Starts the engine of this kind and build; `told` gets whatever it says, with the numbers that
    /// came along.
    ///
    /// # Errors
    /// A sentence for the status line.
    pub fn start(
        kind: EngineKind,
        build: &str,
        told: impl Fn(Event, Vec<Vec<f32>>) + Clone + 'static,
    ) -> Result<Self, String> {
        let early = Early::take(kind);
        let worker = match &early {
            Some(early) => early.worker.clone(),
            None => {
                let options = WorkerOptions::new();
                options.set_type(WorkerType::Module);
                let address = absolute(&format!("worker.js?v={build}"));
                Worker::new_with_options(&address, &options)
                    .map_err(|error| unable(&words(&error)))?
            }
        };

        let on_message = Closure::<dyn FnMut(MessageEvent)>::new({
            let told = told.clone();
            move |event: MessageEvent| {
                let parts: Array = event.data().unchecked_into();
                match read(&parts.get(0)) {
                    Some(event) => {
                        let buffers = parts.iter().skip(1);
                        told(
                            event,
                            buffers.map(|b| Float32Array::new(&b).to_vec()).collect(),
                        );
                    }
                    None => told(fatal(&unable("it said something unknown")), vec![]),
                }
            }
        });
        let on_error = Closure::<dyn FnMut(web_sys::Event)>::new(move |event: web_sys::Event| {
            // It is told here; the browser need not tell the page once more.
            event.prevent_default();
            // A worker that could not be loaded says nothing more than that.
            let reason = event
                .dyn_ref::<ErrorEvent>()
                .map(ErrorEvent::message)
                .filter(|message| !message.is_empty())
                .unwrap_or_else(|| "worker.js could not be loaded".to_owned());
            told(fatal(&unable(&reason)), vec![]);
        });
        worker.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        worker.set_onerror(Some(on_error.as_ref().unchecked_ref()));
        worker.set_onmessageerror(Some(on_error.as_ref().unchecked_ref()));

        if !early.as_ref().is_some_and(|early| early.engine_asked) {
            let start = Object::new();
            let _ = Reflect::set(&start, &"engine".into(), &kind.slug().into());
            worker
                .post_message(&start)
                .map_err(|error| unable(&words(&error)))?;
        }
        if let Some(early) = early {
            let worker = worker.clone();
            // Once this engine is the desk's.
            spawn_local(async move {
                for event in early.heard.iter() {
                    let _ = worker.dispatch_event(event.unchecked_ref());
                }
            });
        }
        Ok(Self {
            worker,
            _on_message: on_message,
            _on_error: on_error,
        })
    }

    /// Asks for something; `values` go along.
    pub fn ask(&self, request: &Request, values: Option<&[f32]>) {
        let message = Array::of1(&plain(request));
        let transfer = Array::new();
        if let Some(values) = values {
            let buffer = Float32Array::from(values).buffer();
            message.push(&buffer);
            transfer.push(&buffer);
        }
        let _ = self.worker.post_message_with_transfer(&message, &transfer);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.worker.set_onmessage(None);
        self.worker.set_onerror(None);
        self.worker.set_onmessageerror(None);
        self.worker.terminate();
    }
}

/// What `early.js` has begun before this program was there.
struct Early {
    worker: Worker,
    /// Whether the worker has been told which engine to start: this one.
    engine_asked: bool,
    /// The worker's events so far.
    heard: Array,
}

impl Early {
    /// Once, for the first engine; `None` where nothing was begun, or another engine.
    fn take(kind: EngineKind) -> Option<Self> {
        let early = get(&window(), "early");
        let worker: Worker = get(&early, "worker").dyn_into().ok()?;
        let _ = Reflect::delete_property(&window(), &"early".into());
        let engine = get(&early, "engine").as_string();
        if engine
            .as_deref()
            .is_some_and(|engine| engine != kind.slug())
        {
            worker.terminate();
            if let Ok(stop) = get(&early, "stop").dyn_into::<Function>() {
                let _ = stop.call0(&JsValue::UNDEFINED);
            }
            return None;
        }
        Some(Self {
            worker,
            engine_asked: engine.is_some(),
            heard: get(&early, "heard").dyn_into().ok()?,
        })
    }
}

/// An event of the engine, in the shape that `protocol` gives it; `None` where it is another one.
fn read(event: &JsValue) -> Option<Event> {
    Some(match field::<String>(event, "type")?.as_str() {
        "progress" => Event::Progress {
            part: field(event, "part")?,
            received: field(event, "received")?,
            total: field(event, "total")?,
        },
        "busy" => Event::Busy {
            message: field(event, "message")?,
        },
        "ready" => Event::Ready {
            engine: field(event, "engine")?,
            adapter: field(event, "adapter")?,
            software: field(event, "software")?,
            model: field(event, "model")?,
        },
        "started" => Event::Started {
            run: field(event, "run")?,
            steps: field(event, "steps")?,
        },
        "frames" => Event::Frames {
            run: field(event, "run")?,
            first: field(event, "first")?,
            count: field(event, "count")?,
        },
        "done" => Event::Done {
            run: field(event, "run")?,
            elapsed_ms: field(event, "elapsedMs")?,
        },
        "stopped" => Event::Stopped {
            run: field(event, "run")?,
        },
        "explained" => Event::Explained {
            run: field(event, "run")?,
            index: field(event, "index")?,
        },
        "error" => Event::Error {
            code: field(event, "code")?,
            message: field(event, "message")?,
            fatal: field(event, "fatal")?,
        },
        _ => return None,
    })
}

plain_struct!(Model {
    epoch,
    timesteps,
    schedule,
    parameters,
    images_seen as "imagesSeen",
    sha256
});
plain_struct!(StepInfo {
    t,
    sqrt_alpha_cumprod as "sqrtAlphaCumprod",
    sqrt_one_minus_alpha_cumprod as "sqrtOneMinusAlphaCumprod"
});

/// Words of `protocol`.
macro_rules! plain_words {
    ($($name:ty),*) => {
        $(impl Plain for $name {
            fn read(word: &JsValue) -> Option<Self> {
                Self::ALL.into_iter().find(|one| word == one.slug())
            }
        })*
    };
}
plain_words!(EngineKind, Part, ErrorCode);

fn fatal(message: &str) -> Event {
    Event::Error {
        code: ErrorCode::Engine,
        message: message.to_owned(),
        fatal: true,
    }
}

fn unable(reason: &str) -> String {
    format!(
        "The engine does not run ({}). Reload the page; if that does not help, try a current \
         Chrome, Edge, Firefox or Safari.",
        reason.trim_end_matches('.')
    )
}
