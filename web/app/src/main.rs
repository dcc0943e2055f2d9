//! The page's main thread: figures, controls, canvases. It knows the engine's protocol and no
//! network: all computing happens in a worker.
//!
//! - `state`: what a link holds
//! - `player`: computing and showing as two clocks
//! - `store`: all frames of a run
//! - `draw`: numbers into colours
//! - `animation`: a run as a GIF
//! - `chart`: lines and points as SVG
//! - `ink`: a drop of ink, there and back
//! - `noising`: any image at any t, and the pad to draw one
//! - `map`: a sample's way over the map of real images
//! - `quiz`: real or sampled, and what chance would give
//! - `measure`: what the benchmark makes of its measurements
//! - `shares`: a run whose images several engines share
//! - `engine`: chooses an engine and talks to its worker; `team`: several of them as one
//! - `desk`: shares the one engine among the figures
//! - `page`: what all figures have in common: the state, the desk, the status line
//! - `figures`: one file a figure
//! - `benchmark`: how fast it is on the visitor's machine
//! - `lecture`: one figure at a time, on a projector
//! - `data`: real garments, fetched when they are needed
//! - `plot`, `canvas`, `pen`, `dom`, `plain`: the border with the browser
//!
//! The first twelve of these touch no browser and are tested natively.

#![cfg_attr(not(target_arch = "wasm32"), allow(dead_code))]

mod animation;
mod chart;
mod draw;
mod ink;
mod map;
mod measure;
mod noising;
mod player;
mod quiz;
mod shares;
mod state;
mod store;

#[cfg(target_arch = "wasm32")]
mod benchmark;
#[cfg(target_arch = "wasm32")]
mod canvas;
#[cfg(target_arch = "wasm32")]
mod data;
#[cfg(target_arch = "wasm32")]
mod desk;
#[cfg(target_arch = "wasm32")]
mod dom;
#[cfg(target_arch = "wasm32")]
mod engine;
#[cfg(target_arch = "wasm32")]
mod figures;
#[cfg(target_arch = "wasm32")]
mod lecture;
#[cfg(target_arch = "wasm32")]
mod page;
#[cfg(target_arch = "wasm32")]
mod pen;
#[cfg(target_arch = "wasm32")]
mod plain;
#[cfg(target_arch = "wasm32")]
mod plot;
#[cfg(target_arch = "wasm32")]
mod team;

fn main() {
    #[cfg(target_arch = "wasm32")]
    {
        console_error_panic_hook::set_once();
        page::start();
    }
}
