//! What the browser says about its GPU.
//!
//! Both sides ask: the page so that nobody downloads an engine they cannot use, the engine so that
//! it takes the right cut of the kernels and can say what it runs on.

use js_sys::{Function, Object, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

/// Renderers that compute on the CPU, as browsers name them.
const SOFTWARE: [&str; 5] = [
    "swiftshader",
    "llvmpipe",
    "softpipe",
    "lavapipe",
    "basic render",
];

/// A WebGPU adapter, described.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// As the browser names it.
    pub name: String,
    /// Whether a GPU is only pretended.
    pub software: bool,
}

/// Asks the browser for an adapter the way CubeCL is going to ask for it; `None` where there is
/// none, or no WebGPU at all.
pub async fn find() -> Option<Adapter> {
    let gpu = get(&get(&js_sys::global(), "navigator"), "gpu");
    let request = get(&gpu, "requestAdapter").dyn_into::<Function>().ok()?;
    let options = Object::new();
    Reflect::set(
        &options,
        &"powerPreference".into(),
        &"high-performance".into(),
    )
    .ok()?;
    let promise: Promise = request.call1(&gpu, &options).ok()?.dyn_into().ok()?;
    let adapter = JsFuture::from(promise).await.ok()?;
    if !adapter.is_object() {
        return None;
    }
    let info = get(&adapter, "info");
    let word = |key| get(&info, key).as_string().unwrap_or_default();
    let name = [
        word("description"),
        word("device"),
        format!("{} {}", word("vendor"), word("architecture")),
    ]
    .into_iter()
    .map(|name| name.trim().to_owned())
    .find(|name| !name.is_empty())
    .unwrap_or_else(|| "unnamed adapter".to_owned());
    let lower = format!("{name} {}", word("architecture")).to_ascii_lowercase();
    let software = get(&info, "isFallbackAdapter").is_truthy()
        || get(&adapter, "isFallbackAdapter").is_truthy()
        || SOFTWARE.iter().any(|renderer| lower.contains(renderer));
    Some(Adapter { name, software })
}

/// A property, or undefined where there is none to be had.
pub fn get(object: &JsValue, key: &str) -> JsValue {
    Reflect::get(object, &key.into()).unwrap_or(JsValue::UNDEFINED)
}
