//! The engine on CubeCL, Burn's GPU backend, through WebGPU.

fn main() {
    #[cfg(target_arch = "wasm32")]
    engine::start(protocol::EngineKind::WebGpu);
}
