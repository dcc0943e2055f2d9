//! The page's main thread: figures, controls, canvases. It knows the engine's protocol and no
//! network: all computing happens in a worker.
//!
//! - `state`: what a link holds
//! - `player`: computing and showing as two clocks
//! - `store`: all frames of a run
//! - `draw`: numbers into colours
//! - `engine`: chooses an engine and talks to its worker
//! - `page`: the controls, and what they do
//! - `dom`: the border with the browser
//!
//! The first four touch no browser and are tested natively.

#![cfg_attr(not(target_arch = "wasm32"), allow(dead_code))]

mod draw;
mod player;
mod state;
mod store;

#[cfg(target_arch = "wasm32")]
mod dom;
#[cfg(target_arch = "wasm32")]
mod engine;
#[cfg(target_arch = "wasm32")]
mod page;

fn main() {
    #[cfg(target_arch = "wasm32")]
    {
        console_error_panic_hook::set_once();
        page::start();
    }
}
