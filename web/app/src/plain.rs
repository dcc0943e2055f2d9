//! Plain JavaScript data, from JSON files and from the engine's worker, as Rust's.
//!
//! Property by property, and not derived by serde: what that makes of a dozen small structs is a
//! twentieth of this program, which everybody waits for.

use js_sys::Array;
use wasm_bindgen::JsValue;

use crate::dom::get;

/// What a JavaScript value may be read as.
pub trait Plain: Sized {
    /// `None` where the value is something else.
    fn read(value: &JsValue) -> Option<Self>;
}

/// A property of an object.
pub fn field<T: Plain>(object: &JsValue, key: &str) -> Option<T> {
    T::read(&get(object, key))
}

/// Reads a struct from an object whose properties are called as its fields are, or as it is said.
macro_rules! plain_struct {
    ($name:ty { $($field:ident $(as $key:literal)?),* }) => {
        impl $crate::plain::Plain for $name {
            fn read(object: &wasm_bindgen::JsValue) -> Option<Self> {
                Some(Self {
                    $($field: $crate::plain::field(
                        object,
                        $crate::plain::key!($field $($key)?),
                    )?),*
                })
            }
        }
    };
}
pub(crate) use plain_struct;

/// What a field's property is called.
macro_rules! key {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}
pub(crate) use key;

impl Plain for f64 {
    fn read(value: &JsValue) -> Option<Self> {
        value.as_f64()
    }
}

impl Plain for bool {
    fn read(value: &JsValue) -> Option<Self> {
        value.as_bool()
    }
}

impl Plain for String {
    fn read(value: &JsValue) -> Option<Self> {
        value.as_string()
    }
}

/// A number that is whole, and that JavaScript's numbers hold exactly.
impl Plain for u64 {
    fn read(value: &JsValue) -> Option<Self> {
        let whole = |n: &f64| (0.0..=9_007_199_254_740_991.0).contains(n) && n.fract() == 0.0;
        value.as_f64().filter(whole).map(|n| n as Self)
    }
}

impl Plain for u32 {
    fn read(value: &JsValue) -> Option<Self> {
        u64::read(value)?.try_into().ok()
    }
}

impl Plain for usize {
    fn read(value: &JsValue) -> Option<Self> {
        u64::read(value)?.try_into().ok()
    }
}

/// Where there is nothing, `None` is what is read.
impl<T: Plain> Plain for Option<T> {
    fn read(value: &JsValue) -> Option<Self> {
        match value.is_undefined() || value.is_null() {
            true => Some(None),
            false => T::read(value).map(Some),
        }
    }
}

impl<T: Plain> Plain for Vec<T> {
    fn read(value: &JsValue) -> Option<Self> {
        let all = Array::is_array(value).then(|| Array::from(value))?;
        all.iter().map(|one| T::read(&one)).collect()
    }
}

impl<T: Plain, const N: usize> Plain for [T; N] {
    fn read(value: &JsValue) -> Option<Self> {
        Vec::read(value)?.try_into().ok()
    }
}
