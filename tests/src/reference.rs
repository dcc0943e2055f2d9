//! The numbers that `reference/reference.py` wrote, in the safetensors format: the length of a JSON
//! header, the header, and raw little-endian numbers.

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Map, Value};

/// The arrays of one file.
#[derive(Debug)]
pub struct References {
    path: String,
    header: Map<String, Value>,
    numbers: Vec<u8>,
}

impl References {
    /// Reads `tests/data/NAME`.
    ///
    /// # Panics
    /// Where that is no complete file of references.
    pub fn open(name: &str) -> Self {
        let path = crate::data(name).display().to_string();
        let bytes = std::fs::read(&path).unwrap_or_else(|error| {
            panic!("{path}: {error}; tests/reference/reference.py writes it")
        });
        let (length, rest) = bytes.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
        let (header, numbers) = rest.split_at(length);
        Self {
            header: serde_json::from_slice(header).expect("a JSON header"),
            numbers: numbers.to_vec(),
            path,
        }
    }

    fn entry(&self, name: &str, dtype: &str) -> (Vec<usize>, &[u8]) {
        let entry = &self.header.get(name);
        let entry = entry.unwrap_or_else(|| panic!("{} has no `{name}`", self.path));
        assert_eq!(entry["dtype"], dtype, "`{name}` of {}", self.path);
        let list = |key: &str| -> Vec<usize> {
            serde_json::from_value(entry[key].clone()).expect("a list of sizes")
        };
        let offsets = list("data_offsets");
        (list("shape"), &self.numbers[offsets[0]..offsets[1]])
    }

    /// An array of floats: its shape and its numbers.
    pub fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, bytes) = self.entry(name, "F32");
        let (numbers, _) = bytes.as_chunks::<4>();
        (
            shape,
            numbers.iter().copied().map(f32::from_le_bytes).collect(),
        )
    }

    /// An array of doubles.
    pub fn f64(&self, name: &str) -> Vec<f64> {
        let (numbers, _) = self.entry(name, "F64").1.as_chunks::<8>();
        numbers.iter().copied().map(f64::from_le_bytes).collect()
    }

    /// An array of integers that are not negative.
    pub fn indices(&self, name: &str) -> Vec<usize> {
        let (numbers, _) = self.entry(name, "I64").1.as_chunks::<8>();
        let integers = numbers.iter().copied().map(i64::from_le_bytes);
        integers
            .map(|i| i.try_into().expect("not negative"))
            .collect()
    }

    /// Images, shape `[batch, 1, 28, 28]`.
    pub fn images(&self, name: &str, device: &Device) -> Tensor<4> {
        let (shape, numbers) = self.f32(name);
        Tensor::from_data(TensorData::new(numbers, shape), device)
    }
}
