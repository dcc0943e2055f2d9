//! The release page: built by Trunk, finished here, served, weighed.
//!
//! Trunk leaves three things to its `post_build` hook, which is [`finish`]:
//!
//! - The engines, which Trunk takes for plain web workers, are optimised here rather than by
//!   Trunk, because Trunk would do it all over again at every build, and the WebGPU engine takes
//!   a minute. The result is kept, by a hash of what went in.
//! - Trunk puts a hash into the names of what it links from the page, but not of workers: their
//!   names are fixed, and a browser that still has last month's would mix them with today's page.
//!   So the page asks for them by `?v=` and the build id that stands in its
//!   `<meta name="build">`: a hash of everything the page is made of but the weights, which carry
//!   hashes of their own in their index.
//! - A visitor should not have to wait for the page's program, and then for the index, before the
//!   weights begin to travel. So the page itself says which there are, in `<script id="weights">`,
//!   for `web/app/early.js`.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    Failure,
    setup::WASM,
    toolbox::{Toolbox, read, run},
};

/// The engines that are optimised.
const ENGINES: [&str; 2] = ["engine-cpu", "engine-webgpu"];

/// How. The compiler has optimised already; what is left to gain is bytes on the wire, and there
/// the higher levels gain less than this one (the CPU engine compresses to 662 kB after `-O2` and
/// 669 kB after `-Oz`, to 626 kB after `-O1`) at six to nine times its minutes.
const LEVEL: &str = "-O1";

/// What the compiler is told to use for `wasm32-unknown-unknown`, plus SIMD: nothing that Safari
/// 16.4 lacks. `--all-features` would allow the optimiser to write what it lacks.
const WASM_FEATURES: [&str; 7] = [
    "--enable-bulk-memory",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
    "--enable-simd",
];

/// What takes longest to build.
const WEBGPU_MODULE: &str = "engine-webgpu.wasm";

const BUILD_META: [&str; 2] = ["<meta name=\"build\" content=\"", "\""];

const WEIGHTS_LIST: [&str; 2] = [
    "<script type=\"application/json\" id=\"weights\">",
    "</script>",
];

/// The finished page.
pub fn dist(toolbox: &Toolbox) -> PathBuf {
    toolbox.root.join("dist")
}

/// Where cargo puts modules for the browser, before wasm-bindgen has made them fit for it.
pub fn modules(toolbox: &Toolbox) -> PathBuf {
    toolbox.target.join(WASM).join("web")
}

/// Builds the release page into [`dist`].
///
/// # Errors
/// [`Failure::Failed`] where Trunk failed; it has said why.
pub fn build(toolbox: &Toolbox, public_url: &OsStr) -> Result<(), Failure> {
    if !modules(toolbox).join(WEBGPU_MODULE).exists() {
        println!(
            "building the page; the first time, Burn is compiled for the browser: about 20 minutes \
             on two cores"
        );
    }
    let mut trunk = trunk(toolbox);
    run(trunk.arg("build").arg("--public-url").arg(public_url))
}

/// Serves the page on this machine until interrupted, rebuilding it when a source changes.
///
/// # Errors
/// [`Failure::Unexpected`] where no port is free.
pub fn serve(toolbox: &Toolbox, first_port: u16) -> Result<(), Failure> {
    // At 0 it is the system that chooses.
    let free = |port| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        Some(listener.local_addr().ok()?.port())
    };
    let port = (first_port..=first_port.saturating_add(99))
        .find_map(free)
        .ok_or_else(|| {
            Failure::Unexpected(format!(
                "no free port among the hundred from {first_port} on; name another with --port"
            ))
        })?;
    // Trunk builds once more (quickly) and then says a good deal; the address comes last.
    thread::spawn(move || {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            thread::sleep(Duration::from_millis(200));
        }
        println!("\nThe page is at http://localhost:{port}/   (Ctrl-C ends)\n");
    });
    run(trunk(toolbox)
        .args(["serve", "--disable-address-lookup", "true"])
        .args(["--address", "127.0.0.1", "--port"])
        .arg(port.to_string()))
}

fn trunk(toolbox: &Toolbox) -> std::process::Command {
    let mut trunk = toolbox.command("trunk");
    trunk
        .arg("--skip-version-check")
        // Its reasons are a page long otherwise.
        .env("RUST_LIB_BACKTRACE", "0")
        .envs(toolbox.wasm_environment.iter().copied());
    trunk
}

/// Trunk's `post_build` hook; see the module's text.
///
/// # Errors
/// [`Failure::Unexpected`] where Trunk has not called this, or `index.html` has no place for the
/// build id.
pub fn finish(toolbox: &Toolbox) -> Result<(), Failure> {
    let staging = env::var_os("TRUNK_STAGING_DIR").ok_or_else(|| {
        Failure::Unexpected("`finish` is called by Trunk; `cargo xtask build` is for people".into())
    })?;
    let staging = Path::new(&staging);
    for engine in ENGINES {
        let module = staging.join(format!("{engine}_bg.wasm"));
        if module.exists() {
            optimise(toolbox, engine, &module)?;
        }
    }

    let index = staging.join("weights/index.json");
    let listed = fs::read_to_string(&index).map_err(Failure::file(&index))?;
    let weights = weights_list(&listed).ok_or_else(|| {
        Failure::Unexpected(format!(
            "{} is no list of weights: export them again",
            index.display()
        ))
    })?;

    let page = staging.join("index.html");
    let html = fs::read_to_string(&page).map_err(Failure::file(&page))?;
    let html = with(&html, BUILD_META, &build_id(staging)?)?;
    let html = with(&html, WEIGHTS_LIST, &weights)?;
    fs::write(&page, html).map_err(Failure::file(page))
}

fn optimise(toolbox: &Toolbox, engine: &str, module: &Path) -> Result<(), Failure> {
    let wasm = fs::read(module).map_err(Failure::file(module))?;
    let mut hash = Sha256::new();
    hash.update(&wasm);
    hash.update(read(toolbox.command("wasm-opt").arg("--version"))?);
    hash.update(LEVEL);
    hash.update(WASM_FEATURES.concat());
    let kept = toolbox.target.join("wasm-opt-kept");
    let result = kept.join(format!("{engine}-{}.wasm", hexadecimal(&hash.finalize())));
    if !result.exists() {
        fs::create_dir_all(&kept).map_err(Failure::file(&kept))?;
        for entry in fs::read_dir(&kept).map_err(Failure::file(&kept))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(engine) {
                fs::remove_file(entry.path()).map_err(Failure::file(entry.path()))?;
            }
        }
        println!("wasm-opt {LEVEL} on {engine}, {} bytes", wasm.len());
        let partial = kept.join(format!("{engine}.partial"));
        run(toolbox
            .command("wasm-opt")
            .arg(LEVEL)
            .args(WASM_FEATURES)
            .arg(module)
            .arg("--output")
            .arg(&partial))?;
        fs::rename(&partial, &result).map_err(Failure::file(&result))?;
    }
    fs::copy(&result, module)
        .map(drop)
        .map_err(Failure::file(module))
}

/// A hash of everything in the folder but the page itself and the weights.
fn build_id(folder: &Path) -> Result<String, Failure> {
    let mut hash = Sha256::new();
    for file in files(folder)? {
        let name = file.strip_prefix(folder).unwrap_or(&file);
        if name == Path::new("index.html") || name.starts_with("weights") {
            continue;
        }
        // Length and name first, so that no two folders read as the same bytes.
        let bytes = fs::read(&file).map_err(Failure::file(&file))?;
        hash.update(format!("{} {}\n", bytes.len(), name.to_string_lossy()));
        hash.update(bytes);
    }
    Ok(hexadecimal(&hash.finalize()[..6]))
}

/// All files below a folder, in the order of their names.
///
/// # Errors
/// [`Failure::File`] where one cannot be listed.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Failure::file(folder))? {
        let path = entry.map_err(Failure::file(folder))?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Puts `text` between the first [`begin`, `end`] of a page, in place of what stands there.
fn with(html: &str, [begin, end]: [&str; 2], text: &str) -> Result<String, Failure> {
    let missing =
        || Failure::Unexpected(format!("index.html was expected to contain {begin}{end}"));
    let (before, rest) = html.split_once(begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(end).ok_or_else(missing)?;
    Ok([before, begin, text, end, after].concat())
}

/// Of an index of weights what a visit needs to begin with, the default first. The addresses are
/// those by which the page asks for the files.
fn weights_list(index: &str) -> Option<String> {
    let index: Value = serde_json::from_str(index).ok()?;
    let mut models: Vec<&Value> = index["models"].as_array()?.iter().collect();
    models.sort_by_key(|model| model["file"] != index["default"]);
    let entries = models.into_iter().map(|model| {
        let (file, sha256) = (model["file"].as_str()?, model["sha256"].as_str()?);
        let url = format!("weights/{file}?v={sha256}");
        Some(json!({ "epoch": model["epoch"], "bytes": model["bytes"], "url": url }))
    });
    let entries: Vec<Value> = entries.collect::<Option<_>>()?;
    // In a page nothing that follows may look like the end of a tag.
    Some(json!(entries).to_string().replace('<', "\\u003c"))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Prints what a visitor downloads: engines and weights in bytes, as they are, as most servers
/// send them (gzip) and as some do (brotli).
///
/// # Errors
/// [`Failure::File`] where a file of the page cannot be read.
pub fn print_sizes(toolbox: &Toolbox) -> Result<(), Failure> {
    let dist = dist(toolbox);
    let weighed: Vec<_> = files(&dist)?
        .into_iter()
        .filter(|file| {
            let extension = file.extension().and_then(OsStr::to_str);
            matches!(
                extension,
                Some("wasm" | "bpk" | "bin" | "js" | "html" | "css")
            )
        })
        .map(|file| thread::spawn(move || fs::read(&file).map(|b| (sizes(&b), file))))
        .collect();
    println!(
        "\n{:>12} {:>12} {:>12}  (bytes)",
        "raw", "gzip -9", "brotli -11"
    );
    for thread in weighed {
        let Ok(result) = thread.join() else {
            return Err(Failure::Unexpected("compressing a file failed".into()));
        };
        let ([raw, gzip, brotli], file) = result.map_err(Failure::file(&dist))?;
        let name = file.strip_prefix(&dist).unwrap_or(&file).display();
        println!("{raw:>12} {gzip:>12} {brotli:>12}  {name}");
    }
    println!("\nThe page is in {}", dist.display());
    Ok(())
}

fn sizes(bytes: &[u8]) -> [usize; 3] {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let gzip = gzip.write_all(bytes).and_then(|()| gzip.finish());
    let mut brotli = Vec::new();
    let parameters = brotli::enc::BrotliEncoderParams::default();
    // Writing to memory does not fail; were it to, zero would be plain to see.
    let brotli = brotli::BrotliCompress(&mut &*bytes, &mut brotli, &parameters).map(|_| brotli);
    [
        bytes.len(),
        gzip.map_or(0, |compressed| compressed.len()),
        brotli.map_or(0, |compressed| compressed.len()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hook_knows_replaces_what_stands_there() {
        let html = "<head><meta name=\"build\" content=\"dev\"><meta name=\"x\" content=\"y\">";
        assert_eq!(
            with(html, BUILD_META, "c0ffee").unwrap(),
            "<head><meta name=\"build\" content=\"c0ffee\"><meta name=\"x\" content=\"y\">"
        );
        assert!(with("<head></head>", BUILD_META, "c0ffee").is_err());
        assert!(with(html, WEIGHTS_LIST, "[]").is_err());
    }

    #[test]
    fn the_default_weights_come_first() {
        let index = r#"{ "default": "b.bpk", "models": [
            { "file": "a<.bpk", "bytes": 1, "sha256": "aa", "epoch": 1, "evaluation": {} },
            { "file": "b.bpk", "bytes": 2, "sha256": "bb", "epoch": 2, "evaluation": {} },
            { "file": "c.bpk", "bytes": 3, "sha256": "cc", "epoch": 3, "evaluation": {} } ] }"#;
        let list = weights_list(index).unwrap();
        assert!(!list.contains('<'), "{list}");
        let list: Value = serde_json::from_str(&list).unwrap();
        assert_eq!(
            list,
            json!([
                { "epoch": 2, "bytes": 2, "url": "weights/b.bpk?v=bb" },
                { "epoch": 1, "bytes": 1, "url": "weights/a<.bpk?v=aa" },
                { "epoch": 3, "bytes": 3, "url": "weights/c.bpk?v=cc" },
            ])
        );
        assert_eq!(weights_list("{}"), None);
    }

    #[test]
    fn the_build_id_follows_the_engines_and_not_the_weights() {
        let folder = env::temp_dir().join(format!("xtask-build-id-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("engine-cpu_bg.wasm", "one");
        write("worker.js", "two");
        write("weights/index.json", "three");
        write("index.html", "four");
        let id = build_id(&folder).unwrap();
        assert_eq!(id.len(), 12);
        write("weights/index.json", "other");
        write("index.html", "other");
        assert_eq!(build_id(&folder).unwrap(), id);
        write("engine-cpu_bg.wasm", "onetwo");
        write("worker.js", "");
        assert_ne!(build_id(&folder).unwrap(), id);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn sizes_are_those_of_the_formats() {
        // The shortest streams there are: gzip's header and trailer round an empty block, and
        // brotli's one byte.
        let [raw, gzip, brotli] = sizes(b"");
        assert_eq!((raw, gzip, brotli), (0, 20, 1));
        let [raw, gzip, brotli] = sizes(&[7; 100_000]);
        assert!(raw == 100_000 && gzip < 300 && brotli < 100);
    }
}
