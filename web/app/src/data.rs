//! Real garments, fetched when the first figure that shows them comes near, and kept.

use std::{cell::RefCell, rc::Rc};

use fashion_ddpm::{
    Projection,
    gallery::{
        self, BranchPoint, Branches, Gallery, GalleryFile, Index, NeighboursNote, ProjectionNote,
    },
};
use js_sys::{Array, Function, Promise, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::HtmlProgressElement;

use crate::{
    dom::{self, fetch_bytes, find, get, words},
    plain::plain_struct,
};

plain_struct!(Index {
    test,
    map,
    projection,
    neighbours,
    branches,
    training_sha256,
    test_sha256
});
plain_struct!(GalleryFile {
    file,
    bytes,
    sha256,
    images
});
plain_struct!(ProjectionNote {
    method,
    images,
    explained_variance
});
plain_struct!(NeighboursNote {
    votes,
    test_images,
    accuracy,
    median_distance
});
plain_struct!(Branches {
    weights_sha256,
    epoch,
    sampler,
    steps,
    runs,
    seed,
    by_chance,
    points
});
plain_struct!(BranchPoint { t, kept });

/// The map: training images, and where pictures lie in the plane.
#[derive(Debug)]
pub struct Map {
    /// The images.
    pub gallery: Gallery,
    /// The way into the plane.
    pub projection: Projection,
    /// Where each image lies.
    pub points: Vec<[f32; 2]>,
    /// What is to be said of it.
    pub index: Index,
}

thread_local! {
    static TEST: RefCell<Option<Rc<Gallery>>> = const { RefCell::new(None) };
    static MAP: RefCell<Option<Rc<Map>>> = const { RefCell::new(None) };
}

/// The test images; `bar` is the id of a `<progress>` that shows how far it is.
///
/// # Errors
/// A sentence for the figure's note.
pub async fn test_images(bar: &str) -> Result<Rc<Gallery>, String> {
    if let Some(test) = TEST.with_borrow(Clone::clone) {
        return Ok(test);
    }
    let index = index().await?;
    let (gallery, _) = fetch(&index.test, bar).await?;
    let gallery = Rc::new(gallery);
    TEST.set(Some(gallery.clone()));
    Ok(gallery)
}

/// The map; `bar` is the id of a `<progress>` that shows how far it is.
///
/// # Errors
/// A sentence for the figure's note.
pub async fn map(bar: &str) -> Result<Rc<Map>, String> {
    if let Some(map) = MAP.with_borrow(Clone::clone) {
        return Ok(map);
    }
    let index = index().await?;
    let (gallery, projection) = fetch(&index.map, bar).await?;
    let projection = projection.ok_or_else(|| failed("it has no projection"))?;
    let place = |image| projection.project(&gallery.image(image));
    let points = (0..gallery.len()).map(place).collect();
    let map = Rc::new(Map {
        gallery,
        projection,
        points,
        index,
    });
    MAP.set(Some(map.clone()));
    Ok(map)
}

async fn index() -> Result<Index, String> {
    let index = dom::fetch_json("data/index.json").await;
    index.map_err(|reason| failed(&reason))
}

fn failed(reason: &str) -> String {
    format!(
        "The real garments of this figure could not be loaded ({reason}). Check the connection \
         and reload the page; the other figures work without them."
    )
}

async fn fetch(file: &GalleryFile, bar: &str) -> Result<(Gallery, Option<Projection>), String> {
    let bar: HtmlProgressElement = find(bar);
    let address = dom::absolute(&format!("data/{}?v={}", file.file, file.sha256));
    bar.set_hidden(false);
    let outcome = async {
        let bytes = fetch_bytes(&address, file.bytes as f64, |share| bar.set_value(share)).await?;
        let bytes = unpack(&bytes)
            .await
            .map_err(|error| format!("it could not be unpacked: {}", words(&error)))?;
        gallery::decode(&bytes).map_err(|error| error.to_string())
    }
    .await;
    bar.set_hidden(true);
    if outcome.is_err() {
        dom::forget(&address);
    }
    outcome.map_err(|reason| failed(&reason))
}

/// Unpacks gzip by the browser's own means, which check its checksum.
async fn unpack(bytes: &[u8]) -> Result<Vec<u8>, JsValue> {
    let call = |object: &JsValue, name: &str, argument: &JsValue| -> Result<JsValue, JsValue> {
        let function: Function = get(object, name).dyn_into()?;
        function.call1(object, argument)
    };
    let constructor: Function = get(&dom::window(), "DecompressionStream")
        .dyn_into()
        .map_err(|_| {
            JsValue::from("this browser has no DecompressionStream; take a current one")
        })?;
    let unpacker = Reflect::construct(&constructor, &Array::of1(&"gzip".into()))?;
    let packed = web_sys::Blob::new_with_u8_array_sequence(&Array::of1(&Uint8Array::from(bytes)))?;
    let stream = call(&packed.stream(), "pipeThrough", &unpacker)?;
    let response: Function = get(&dom::window(), "Response").dyn_into()?;
    let response = Reflect::construct(&response, &Array::of1(&stream))?;
    let whole: Promise = call(&response, "arrayBuffer", &JsValue::UNDEFINED)?.dyn_into()?;
    Ok(Uint8Array::new(&JsFuture::from(whole).await?).to_vec())
}
