//! Between Burn's CPU tensors and slices of f32.

use burn::{
    backend::{TensorMetadata, flex::FlexTensor},
    tensor::TensorData,
};

/// A tensor whose values lie in memory in the order of its indices.
pub(crate) struct Values(FlexTensor);

impl Values {
    /// Copies only what is a view of something else.
    pub(crate) fn of(tensor: FlexTensor) -> Self {
        if tensor.is_contiguous() {
            Self(tensor)
        } else {
            Self(tensor.to_contiguous())
        }
    }

    pub(crate) fn into_tensor(self) -> FlexTensor {
        self.0
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        self.0
            .as_slice()
            .expect("the operations are called for contiguous f32 tensors only")
    }
}

/// The four lengths of an image batch or a convolution's weight.
pub(crate) fn dims(tensor: &FlexTensor) -> [usize; 4] {
    tensor.shape().dims()
}

/// A tensor that owns `values`, without a copy.
pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}
