//! What the network is computed on.

use burn::tensor::Device;
use protocol::{EngineKind, ErrorCode};

use crate::engine::Failure;

/// An open device.
pub(crate) struct Opened {
    pub(crate) device: Device,
    /// As the browser names it; empty on the CPU.
    pub(crate) adapter: String,
    /// Whether a GPU is only pretended.
    pub(crate) software: bool,
    /// Batches of steps that may be on their way while the next one is queued. The CPU has computed
    /// a step by the time it has been asked to; a GPU would idle.
    pub(crate) batches_ahead: usize,
    /// What a batch should take, in milliseconds. Batches on their way cannot be called back, so
    /// this bounds how long a pause waits.
    pub(crate) batch_ms: f64,
}

/// Opens the device of this build.
pub(crate) async fn open(kind: EngineKind) -> Result<Opened, Failure> {
    match kind {
        #[cfg(feature = "cpu")]
        EngineKind::Cpu => Ok(Opened {
            device: kernels::cpu(),
            adapter: String::new(),
            software: false,
            batches_ahead: 0,
            batch_ms: 40.0,
        }),
        #[cfg(feature = "webgpu")]
        EngineKind::WebGpu => open_webgpu().await,
        #[allow(unreachable_patterns)]
        other => Err(Failure {
            code: ErrorCode::Engine,
            message: format!("This engine was not built for {}.", other.slug()),
            fatal: true,
        }),
    }
}

#[cfg(feature = "webgpu")]
async fn open_webgpu() -> Result<Opened, Failure> {
    let adapter = protocol::adapter::find()
        .await
        .ok_or_else(|| unusable("This browser offers no GPU to web pages."))?;
    kernels::on_software(adapter.software);
    let device = Device::wgpu_options()
        // A submission to the GPU costs as much as many launches; a step has some dozens of them.
        .tasks_max(1024)
        .init_async()
        .await
        .map_err(|error| unusable(&format!("The GPU could not be opened ({error}).")))?;
    Ok(Opened {
        device,
        adapter: adapter.name,
        software: adapter.software,
        batches_ahead: 1,
        batch_ms: 60.0,
    })
}

/// The page has another engine for this case.
#[cfg(feature = "webgpu")]
fn unusable(reason: &str) -> Failure {
    Failure {
        code: ErrorCode::Adapter,
        message: format!("{reason} Use the CPU engine."),
        fatal: true,
    }
}
