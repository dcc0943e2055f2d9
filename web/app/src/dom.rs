//! The border with the browser: finding, changing, listening, asking.

use js_sys::{Array, Function, Uint8Array};
pub use protocol::adapter::get;
use serde::Serialize;
use wasm_bindgen::{JsCast, prelude::*};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    Blob, BlobPropertyBag, CustomEvent, CustomEventInit, Document, Element, Event,
    HtmlAnchorElement, IntersectionObserver, IntersectionObserverEntry, IntersectionObserverInit,
    KeyboardEvent, RequestCache, RequestInit, Url,
};

use crate::plain::Plain;

/// The browser's window.
///
/// # Panics
/// Outside of one: this is a page.
pub fn window() -> web_sys::Window {
    web_sys::window().expect("a page has a window")
}

/// The page.
///
/// # Panics
/// Outside of a browser.
pub fn document() -> Document {
    window().document().expect("a window has a document")
}

/// The element of this id.
///
/// # Panics
/// Where index.html and this program do not fit each other.
pub fn find<T: JsCast>(id: &str) -> T {
    document()
        .get_element_by_id(id)
        .and_then(|element| element.dyn_into().ok())
        .unwrap_or_else(|| panic!("index.html has no proper #{id}"))
}

/// All elements that a selector of ours finds.
pub fn all<T: JsCast>(selector: &str) -> Vec<T> {
    let Ok(list) = document().query_selector_all(selector) else {
        return Vec::new();
    };
    (0..list.length())
        .filter_map(|i| list.get(i)?.dyn_into().ok())
        .collect()
}

/// The content of a `<meta>`.
pub fn meta(name: &str) -> Option<String> {
    let selector = format!("meta[name={name}]");
    document()
        .query_selector(&selector)
        .ok()??
        .get_attribute("content")
}

/// Sets an element's text, if it is another one: a live region is read out at every change.
pub fn set_text(element: &Element, text: &str) {
    if element.text_content().as_deref() != Some(text) {
        element.set_text_content(Some(text));
    }
}

/// Sets an attribute, if it is another one.
pub fn set_attribute(element: &Element, name: &str, value: &str) {
    if element.get_attribute(name).as_deref() != Some(value) {
        // The names are ours, and valid.
        let _ = element.set_attribute(name, value);
    }
}

/// Calls back at every event of this kind, for as long as the page lives.
pub fn listen(target: &web_sys::EventTarget, kind: &str, callback: impl FnMut(Event) + 'static) {
    let closure = Closure::<dyn FnMut(Event)>::new(callback).into_js_value();
    let _ = target.add_event_listener_with_callback(kind, closure.unchecked_ref());
}

/// Calls back before the display is refreshed next.
pub fn before_refresh(callback: impl FnOnce(f64) + 'static) {
    let closure = Closure::once_into_js(callback);
    let _ = window().request_animation_frame(closure.unchecked_ref());
}

/// Calls back after so many milliseconds.
pub fn after(milliseconds: i32, callback: impl FnOnce() + 'static) {
    let closure = Closure::once_into_js(callback);
    let _ = window().set_timeout_with_callback_and_timeout_and_arguments_0(
        closure.unchecked_ref(),
        milliseconds,
    );
}

/// Reads JSON; `None` where it is none, or other than expected.
pub fn parse_json<T: Plain>(text: &str) -> Option<T> {
    T::read(&js_sys::JSON::parse(text).ok()?)
}

/// Calls back once, when the element comes within a screen of what is seen.
pub fn when_near(element: &Element, callback: impl FnOnce() + 'static) {
    let mut callback = Some(callback);
    let seen = move |entries: Array, observer: IntersectionObserver| {
        let near = entries.iter().any(|entry| {
            let entry: IntersectionObserverEntry = entry.unchecked_into();
            entry.is_intersecting()
        });
        if let Some(callback) = callback.take_if(|_| near) {
            observer.disconnect();
            callback();
        }
    };
    let closure = Closure::<dyn FnMut(Array, IntersectionObserver)>::new(seen).into_js_value();
    let options = IntersectionObserverInit::new();
    options.set_root_margin("100% 0px");
    if let Ok(observer) = IntersectionObserver::new_with_options(closure.unchecked_ref(), &options)
    {
        observer.observe(element);
    }
}

/// Fetches a file, telling the share that has come where the length is known.
///
/// # Errors
/// What went wrong, as the end of a sentence.
pub async fn fetch_bytes(
    address: &str,
    length: f64,
    mut progress: impl FnMut(f64),
) -> Result<Vec<u8>, String> {
    let failed = |error: JsValue| format!("the connection failed: {}", words(&error));
    let response = JsFuture::from(window().fetch_with_str(address)).await;
    let response: web_sys::Response = response.map_err(failed)?.unchecked_into();
    if !response.ok() {
        return Err(format!("the server answered {}", response.status()));
    }
    let Some(body) = response.body() else {
        return Err("the server answered with nothing".to_owned());
    };
    let reader: web_sys::ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    let mut file = Vec::new();
    loop {
        let chunk = JsFuture::from(reader.read()).await.map_err(failed)?;
        let Ok(chunk) = get(&chunk, "value").dyn_into::<Uint8Array>() else {
            return Ok(file);
        };
        file.extend(chunk.to_vec());
        progress((file.len() as f64 / length.max(1.0)).min(1.0));
    }
}

/// Throws a file out that has been kept for visits without a network and is broken; see `start.js`.
pub fn forget(address: &str) {
    if let Ok(forget) = get(&window(), "forgetKept").dyn_into::<Function>() {
        let _ = forget.call1(&JsValue::UNDEFINED, &address.into());
    }
}

/// The way that an arrow key points, right and down the page; nowhere for Space and Enter. `None` for
/// all others, and for the browser's own shortcuts.
pub fn way(event: &KeyboardEvent) -> Option<[f32; 2]> {
    if event.ctrl_key() || event.alt_key() || event.meta_key() {
        return None;
    }
    match event.key().as_str() {
        "ArrowLeft" => Some([-1.0, 0.0]),
        "ArrowRight" => Some([1.0, 0.0]),
        "ArrowUp" => Some([0.0, -1.0]),
        "ArrowDown" => Some([0.0, 1.0]),
        " " | "Enter" => Some([0.0, 0.0]),
        _ => None,
    }
}

/// Gives the visitor a file, with their downloads. `false` where the browser does not let it.
pub fn save(name: &str, kind: &str, content: &[u8]) -> bool {
    let options = BlobPropertyBag::new();
    options.set_type(kind);
    let parts = Array::of1(&bytes(content));
    let Ok(blob) = Blob::new_with_u8_array_sequence_and_options(&parts, &options) else {
        return false;
    };
    let Ok(address) = Url::create_object_url_with_blob(&blob) else {
        return false;
    };
    let link = document().create_element("a").ok();
    let Some(link) = link.and_then(|link| link.dyn_into::<HtmlAnchorElement>().ok()) else {
        return false;
    };
    link.set_href(&address);
    link.set_download(name);
    link.click();
    // The download has begun by then.
    after(60_000, move || {
        let _ = Url::revoke_object_url(&address);
    });
    true
}

/// Milliseconds since the page was opened.
pub fn now() -> f64 {
    window()
        .performance()
        .map_or(0.0, |performance| performance.now())
}

/// Any seed, each as likely.
pub fn any_seed() -> u32 {
    (js_sys::Math::random() * 4_294_967_296.0) as u32
}

/// Whether a media query matches.
pub fn media(query: &str) -> bool {
    window()
        .match_media(query)
        .ok()
        .flatten()
        .is_some_and(|list| list.matches())
}

/// Whether the visitor has asked their browser to save data.
pub fn saves_data() -> bool {
    get(&get(&window().navigator(), "connection"), "saveData").is_truthy()
}

/// What an exception says.
pub fn words(error: &JsValue) -> String {
    get(error, "message")
        .as_string()
        .or_else(|| error.as_string())
        .unwrap_or_else(|| "for no known reason".to_owned())
}

/// A plain JavaScript object.
pub fn plain(value: &impl Serialize) -> JsValue {
    // Plain data, whose serialisation does not fail.
    value
        .serialize(&serde_wasm_bindgen::Serializer::json_compatible())
        .unwrap_or_default()
}

/// Tells whoever embeds the page.
pub fn dispatch(kind: &str, detail: &JsValue) {
    let init = CustomEventInit::new();
    init.set_detail(detail);
    if let Ok(event) = CustomEvent::new_with_event_init_dict(kind, &init) {
        let _ = document().dispatch_event(&event);
    }
}

/// Bytes for JavaScript.
pub fn bytes(bytes: &[u8]) -> JsValue {
    Uint8Array::from(bytes).into()
}

/// An address relative to the page, in full.
pub fn absolute(address: &str) -> String {
    let base = document().base_uri().ok().flatten().unwrap_or_default();
    web_sys::Url::new_with_base(address, &base)
        .map_or_else(|_| address.to_owned(), |url| url.href())
}

/// Fetches a JSON file that may have changed since the last visit.
///
/// # Errors
/// What went wrong, as the end of a sentence.
pub async fn fetch_json<T: Plain>(address: &str) -> Result<T, String> {
    let json = fetch_any_json(address).await?;
    T::read(&json).ok_or_else(|| "it is no such list".to_owned())
}

/// [`fetch_json`], once for all that it may hold.
async fn fetch_any_json(address: &str) -> Result<JsValue, String> {
    let options = RequestInit::new();
    options.set_cache(RequestCache::NoCache);
    let response = JsFuture::from(window().fetch_with_str_and_init(address, &options))
        .await
        .map_err(|error| format!("the connection failed: {}", words(&error)))?;
    let response: web_sys::Response = response.unchecked_into();
    if !response.ok() {
        return Err(format!("the server answered {}", response.status()));
    }
    async { JsFuture::from(response.json()?).await }
        .await
        .map_err(|error| format!("it is no JSON: {}", words(&error)))
}
