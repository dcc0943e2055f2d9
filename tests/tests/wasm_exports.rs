//! Guards against a trap that costs a factor of 95 (see `web/engine`).
//!
//! Where nothing calls a module's static constructors, the linker wraps every export in a shim,
//! `NAME.command_export`, that runs them all again at every call from JavaScript; CubeCL has
//! thousands of them. The shims are visible only before wasm-bindgen renames the exports.

use fashion_ddpm_tests::prepared;
use wasmparser::{Parser, Payload};

/// The names of all exports of a module.
fn exports(module: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ExportSection(section) = payload.unwrap() {
            names.extend(
                section
                    .into_iter()
                    .map(|export| export.unwrap().name.to_owned()),
            );
        }
    }
    names
}

fn assert_no_shims(engine: &str) {
    let path = prepared("FASHION_DDPM_WASM_DIR").join(engine);
    let module = std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; `cargo xtask test` builds it", path.display())
    });
    let names = exports(&module);
    assert!(
        names.iter().any(|name| name == "memory"),
        "{engine} exports {names:?}"
    );
    let shims: Vec<_> = names
        .iter()
        .filter(|name| name.ends_with(".command_export"))
        .collect();
    assert!(
        shims.is_empty(),
        "{engine} runs its constructors at every call: {shims:?}"
    );
}

#[test]
fn the_webgpu_engine_runs_its_constructors_once() {
    assert_no_shims("engine-webgpu.wasm");
}

#[test]
fn the_cpu_engine_runs_its_constructors_once() {
    assert_no_shims("engine-cpu.wasm");
}

/// The guard would see one: the smallest module with such an export.
#[test]
fn a_shim_is_seen() {
    let name = b"__wbindgen_start.command_export";
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    // A memory of no pages, exported under that name.
    module.extend([5, 3, 1, 0, 0]);
    module.extend([7, name.len() as u8 + 4, 1, name.len() as u8]);
    module.extend(name);
    module.extend([2, 0]);
    assert_eq!(exports(&module), ["__wbindgen_start.command_export"]);
}
