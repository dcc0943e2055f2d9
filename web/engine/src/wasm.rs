//! The whole border with JavaScript: start-up, messages, downloads and clocks.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::{Future, poll_fn},
    panic,
    rc::Rc,
    task::Poll,
};

use js_sys::{Array, Float32Array, Function, Promise, Uint8Array};
use protocol::{EngineKind, ErrorCode, Event, Request, adapter::get};
use serde::Serialize;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{
    DedicatedWorkerGlobalScope, MessageChannel, MessageEvent, MessagePort,
    ReadableStreamDefaultReader, Response,
};

use crate::engine::Engine;

unsafe extern "C" {
    /// Runs the module's static constructors; made by the linker.
    fn __wasm_call_ctors();
}

#[wasm_bindgen]
extern "C" {
    /// Sees to it that a broken file is kept no longer, so that it is fetched again: in `worker.js`.
    pub(crate) async fn forget(url: &str);
}

/// Starts the engine; called once, by `main`, before the page's first message.
pub fn start(kind: EngineKind) {
    // SAFETY: the constructors run once, here, before anything that depends on them.
    //
    // That they are called by name is what matters. CubeCL registers thousands of them, and where
    // nothing calls them the linker wraps every export of the module so that each call from
    // JavaScript runs them all again: a step then takes a hundred times as long.
    unsafe { __wasm_call_ctors() };

    panic::set_hook(Box::new(|info| {
        console_error_panic_hook::hook(info);
        // The last words: WebAssembly traps after this, and the worker is of no more use.
        let reason = info.payload_as_str().unwrap_or("for no known reason");
        send(
            &Event::Error {
                code: ErrorCode::Engine,
                message: format!("The engine stopped working ({reason}). Reload the page."),
                fatal: true,
            },
            &[],
        );
    }));

    let inbox = Rc::new(Inbox::default());
    let receive = Closure::<dyn FnMut(MessageEvent)>::new({
        let inbox = inbox.clone();
        move |event: MessageEvent| inbox.receive(&event.data())
    });
    scope().set_onmessage(Some(receive.as_ref().unchecked_ref()));
    // It is needed for as long as the worker lives.
    receive.forget();

    spawn_local(async move { Engine::new(kind, Page::new(inbox)).serve().await });
}

fn scope() -> DedicatedWorkerGlobalScope {
    js_sys::global().unchecked_into()
}

/// Posts an event, with the buffers that the protocol names for it.
fn send(event: &Event, buffers: &[&[f32]]) {
    let message = Array::new();
    // Plain data, whose serialisation cannot fail; and there is nobody to tell if it did.
    message.push(
        &event
            .serialize(&serde_wasm_bindgen::Serializer::json_compatible())
            .unwrap_or_default(),
    );
    let transfer = Array::new();
    for values in buffers {
        let buffer = Float32Array::new_from_slice(values).buffer();
        message.push(&buffer);
        transfer.push(&buffer);
    }
    let _ = scope().post_message_with_transfer(&message, &transfer);
}

/// A request, with the numbers that came with it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) request: Request,
    pub(crate) values: Vec<f32>,
}

/// Messages that have arrived and wait to be handled.
#[derive(Default)]
struct Inbox {
    messages: RefCell<VecDeque<Message>>,
    waiting: RefCell<Option<std::task::Waker>>,
}

impl Inbox {
    fn receive(&self, data: &JsValue) {
        let parts: &Array = data.unchecked_ref();
        match serde_wasm_bindgen::from_value(parts.get(0)) {
            Ok(request) => {
                let buffer = parts.get(1);
                let values = if buffer.is_undefined() {
                    Vec::new()
                } else {
                    Float32Array::new(&buffer).to_vec()
                };
                self.messages
                    .borrow_mut()
                    .push_back(Message { request, values });
            }
            Err(error) => send(
                &Event::Error {
                    code: ErrorCode::Engine,
                    message: format!(
                        "The page asked for something this engine does not know ({error}). Reload \
                         the page, so that both come from the same version."
                    ),
                    fatal: false,
                },
                &[],
            ),
        }
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// The page, as the engine sees it.
pub(crate) struct Page {
    inbox: Rc<Inbox>,
    breath: Breath,
}

impl Page {
    fn new(inbox: Rc<Inbox>) -> Self {
        Self {
            inbox,
            breath: Breath::new(),
        }
    }

    /// Tells the page something, with the buffers that the protocol names for it.
    pub(crate) fn tell(&self, event: &Event, buffers: &[&[f32]]) {
        send(event, buffers);
    }

    /// The next message, as soon as there is one.
    pub(crate) async fn next(&self) -> Message {
        poll_fn(|context| match self.try_next() {
            Some(message) => Poll::Ready(message),
            None => {
                *self.inbox.waiting.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// The next message, if it has arrived.
    pub(crate) fn try_next(&self) -> Option<Message> {
        self.inbox.messages.borrow_mut().pop_front()
    }

    /// Makes `message` the next one again, for somebody else to handle.
    pub(crate) fn put_back(&self, message: Message) {
        self.inbox.messages.borrow_mut().push_front(message);
    }

    /// Lets the browser deliver what has come in the meantime.
    pub(crate) async fn give_way(&self) {
        self.breath.take().await;
    }
}

/// A way to come back as the browser's next task but one. `setTimeout` would cost 4 ms each time.
struct Breath {
    port: MessagePort,
    resolve: Rc<RefCell<Option<Function>>>,
}

impl Breath {
    fn new() -> Self {
        let channel = MessageChannel::new().expect("every browser with workers has channels");
        let resolve = Rc::new(RefCell::new(None::<Function>));
        let wake = Closure::<dyn FnMut()>::new({
            let resolve = resolve.clone();
            move || {
                if let Some(resolve) = resolve.take() {
                    let _ = resolve.call0(&JsValue::UNDEFINED);
                }
            }
        });
        channel
            .port1()
            .set_onmessage(Some(wake.as_ref().unchecked_ref()));
        wake.forget();
        Self {
            port: channel.port2(),
            resolve,
        }
    }

    async fn take(&self) {
        let promise = Promise::new(&mut |resolve, _| {
            self.resolve.replace(Some(resolve));
            let _ = self.port.post_message(&JsValue::UNDEFINED);
        });
        let _ = JsFuture::from(promise).await;
    }
}

/// Milliseconds from some point in the past.
pub(crate) fn now() -> f64 {
    scope()
        .performance()
        .map_or(0.0, |performance| performance.now())
}

/// Asks for a file; the answer comes whether somebody waits for it or not. The error is half a
/// sentence.
pub(crate) fn request(url: &str) -> impl Future<Output = Result<Response, String>> + Unpin + use<> {
    let answer = JsFuture::from(scope().fetch_with_str(url));
    Box::pin(async {
        let response = answer.await;
        let response =
            response.map_err(|error| format!("the connection failed: {}", words(&error)))?;
        Ok(response.unchecked_into())
    })
}

/// What a future has come to by now; it can be waited for afterwards where that is nothing.
#[cfg(feature = "webgpu")]
pub(crate) async fn by_now<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    poll_fn(|context| {
        Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        })
    })
    .await
}

/// Reads a file, telling how many bytes have come. The error is half a sentence.
pub(crate) async fn read(
    response: Response,
    mut progress: impl FnMut(usize),
) -> Result<Vec<u8>, String> {
    if !response.ok() {
        return Err(format!(
            "the server answered {} {}",
            response.status(),
            response.status_text()
        ));
    }
    // Servers made for development answer any address with the page itself.
    let kind = response
        .headers()
        .get("content-type")
        .ok()
        .flatten()
        .unwrap_or_default();
    if kind.starts_with("text/html") {
        return Err("the server answered with a page of HTML".to_owned());
    }
    let Some(body) = response.body() else {
        return Err("the server answered with nothing".to_owned());
    };
    let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    let mut file = Vec::new();
    loop {
        let chunk = JsFuture::from(reader.read())
            .await
            .map_err(|error| format!("the connection broke off: {}", words(&error)))?;
        let Ok(chunk) = get(&chunk, "value").dyn_into::<Uint8Array>() else {
            return Ok(file);
        };
        let start = file.len();
        file.resize(start + chunk.length() as usize, 0);
        chunk.copy_to(&mut file[start..]);
        progress(file.len());
    }
}

/// What an exception says.
fn words(error: &JsValue) -> String {
    get(error, "message")
        .as_string()
        .unwrap_or_else(|| format!("{error:?}"))
}
