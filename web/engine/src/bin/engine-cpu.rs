//! The engine on Flex, Burn's CPU backend.

fn main() {
    #[cfg(target_arch = "wasm32")]
    engine::start(protocol::EngineKind::Cpu);
}
