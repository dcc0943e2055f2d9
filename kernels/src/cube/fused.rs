//! To and from Burn's fusion, which holds operations back until somebody asks for what they make.
//!
//! Our kernels are launched at once: their arguments have to be there, and their results are.

use burn::tensor::DType;
use burn_cubecl::{
    CubeBackend,
    fusion::{CubeFusionHandle, FusionCubeRuntime},
    tensor::CubeTensor,
};
use burn_fusion::{
    ExecutionError, FusionTensor,
    client::GlobalFusionClient,
    custom::{CustomOpIr, HandleContainer, Operation, OperationIr, StreamId, TensorId, TensorIr},
};

/// Launches what the tensor still waits for.
pub(super) fn launched(tensor: FusionTensor<FusionCubeRuntime>) -> CubeTensor {
    let client = tensor.client.clone();
    match tensor.dtype {
        DType::F32 => client.resolve_tensor_float::<CubeBackend>(tensor),
        _ => client.resolve_tensor_int::<CubeBackend>(tensor),
    }
}

/// Makes a tensor of floats known to fusion: an operation without arguments, which computes nothing.
pub(super) fn known(tensor: CubeTensor) -> FusionTensor<FusionCubeRuntime> {
    let client = GlobalFusionClient::load(&tensor.device);
    let id = client.create_empty_handle();
    let result = TensorIr::uninit(id, tensor.meta.shape().clone(), tensor.dtype);
    let operation = OperationIr::Custom(CustomOpIr::new("known", &[], &[result]));
    let mut results = client.register(StreamId::current(), operation, Known { id, tensor });
    results
        .pop()
        .expect("an operation has the results it names")
}

#[derive(Debug)]
struct Known {
    id: TensorId,
    tensor: CubeTensor,
}

impl Operation<FusionCubeRuntime> for Known {
    fn execute(
        &self,
        handles: &mut HandleContainer<CubeFusionHandle>,
    ) -> Result<(), ExecutionError> {
        handles.register_float_tensor::<CubeBackend>(&self.id, self.tensor.clone());
        Ok(())
    }
}
