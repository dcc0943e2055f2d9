//! Guards of what the linker makes of the engines, before wasm-bindgen renames the exports.
//!
//! A trap costs a factor of 95 (see `web/engine`): where nothing calls a module's static constructors,
//! the linker wraps every export in a shim, `NAME.command_export`, that runs them all again at every
//! call from JavaScript; CubeCL has thousands of them.
//!
//! And a third of a download: one call of Burn's own matrix product or convolution, somewhere, links all
//! of what can tune and run them on a GPU, for which we have kernels.

use fashion_ddpm_tests::prepared;
use wasmparser::{KnownCustom, Name, Parser, Payload};

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

/// The names of all functions of a module, as the compiler has them.
fn functions(module: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CustomSection(section) = payload.unwrap()
            && let KnownCustom::Name(sections) = section.as_known()
        {
            for section in sections {
                if let Name::Function(functions) = section.unwrap() {
                    for function in functions {
                        names.push(function.unwrap().name.to_owned());
                    }
                }
            }
        }
    }
    names
}

fn module(engine: &str) -> Vec<u8> {
    let path = prepared("FASHION_DDPM_WASM_DIR").join(engine);
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask test` builds it", path.display()))
}

fn assert_no_shims(engine: &str) {
    let names = exports(&module(engine));
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

/// What computes Burn's matrix products on GPUs is in modules of the first name, its convolution in the
/// second, its CPU backend in the third. On the CPU it is the crate `gemm`, and what attention and the
/// embedding were made of is in modules of the other two names.
#[test]
fn the_engines_hold_none_of_burns_matrix_products() {
    for (module_name, own, foreign) in [
        (
            "engine-webgpu.wasm",
            "kernels4cube",
            ["multi_level", "cubek_convolution", "burn_flex"],
        ),
        (
            "engine-cpu.wasm",
            "kernels3cpu",
            ["gemm", "matmul", "softmax"],
        ),
    ] {
        let names = functions(&module(module_name));
        let with = |part: &str| names.iter().filter(|name| name.contains(part)).count();
        assert!(with(own) > 0, "ours are seen");
        for part in foreign {
            assert_eq!(with(part), 0, "functions of {part} in {module_name}");
        }
    }
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
