//! Which tools the page and the tests need, and where each may come from.
//!
//! A tool that is there and fits is used, wherever it came from. Otherwise its ordinary source is
//! tried first, then crates.io or npm, and Debian's packages last; see [`obtain`].

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Failure,
    source::{
        DEBIAN_TOOLCHAIN, DEBIAN_TOOLCHAIN_PACKAGES, Need, Source, browser_note, debian_command,
        is_debian, is_debian_like, obtain,
    },
    toolbox::{Toolbox, read},
    version::{self, Version},
};

/// Rust's name for the browser.
pub const WASM: &str = "wasm32-unknown-unknown";

/// The Trunk this repository is built with; a later 0.21 will do.
const TRUNK: Version = Version(0, 21, 14);

/// The release of binaryen that Trunk would download.
const BINARYEN: &str = "version_123";
/// The same from npm, where it runs in Node.
const BINARYEN_NPM: &str = "132.0.0";
/// What crates.io has; Debian 12's 108 is years older than what today's compiler writes.
const WASM_OPT_OLDEST: Version = Version(116, 0, 0);

const GECKODRIVER_VERSION: &str = "0.37.1";

const AXE: &str = "4.14.1";

/// Where a person may say which ones to take, and how the tests are told.
const CHROMIUM: &str = "FASHION_DDPM_CHROMIUM";
const CHROMEDRIVER: &str = "FASHION_DDPM_CHROMEDRIVER";
const FIREFOX: &str = "FASHION_DDPM_FIREFOX";
const GECKODRIVER: &str = "FASHION_DDPM_GECKODRIVER";
const WEBKITDRIVER: &str = "FASHION_DDPM_WEBKITDRIVER";
const XVFB: &str = "FASHION_DDPM_XVFB";

/// Debian's WebKit, whose driver brings it along, and its screen in memory.
const WEBKIT_AND_SCREEN: &[&str] = &["webkit2gtk-driver", "xvfb"];

/// Debian's Vulkan, with a driver in software.
const VULKAN_DRIVERS: &[&str] = &["mesa-vulkan-drivers"];

/// The engine that ours are measured against.
const ONNXRUNTIME_WEB: &str = "1.30.0";

/// What the build of the page needs.
///
/// # Errors
/// [`Failure::Missing`] where a tool is missing and no source serves.
pub fn page(toolbox: &mut Toolbox) -> Result<(), Failure> {
    wasm_target(toolbox)?;
    wasm_bindgen(toolbox)?;
    trunk(toolbox)?;
    wasm_opt(toolbox)
}

/// What the tests need beyond the page's tools: browsers, their drivers, and a script that looks for what
/// shuts people out; each with the variable by which tests and benches find it.
///
/// # Errors
/// [`Failure::Missing`] where a tool is missing and no source serves.
pub fn browsers(toolbox: &mut Toolbox) -> Result<Vec<(&'static str, PathBuf)>, Failure> {
    obtain(
        toolbox,
        &Need {
            what: "Chromium and its driver, of one version, for the page's tests".into(),
            sources: vec![
                Source::Browsers {
                    names: vec!["chrome@stable".into(), "chromedriver@stable".into()],
                },
                Source::Debian {
                    packages: &["chromium", "chromium-driver"],
                },
            ],
            by_hand: if is_debian() {
                debian_command(&["chromium", "chromium-driver"])
            } else {
                format!(
                    "npx @puppeteer/browsers install chrome@stable && \
                     npx @puppeteer/browsers install chromedriver@stable    \
                     # and name the two programs in {CHROMIUM} and {CHROMEDRIVER}"
                )
            },
            check: &|toolbox| {
                chromium(toolbox)
                    .map(drop)
                    .ok_or("no pair of one version found".into())
            },
        },
    )?;
    obtain(
        toolbox,
        &Need {
            what: "Firefox for the page's tests".into(),
            sources: vec![
                Source::Browsers {
                    names: vec!["firefox@stable".into()],
                },
                Source::Debian {
                    packages: &["firefox-esr"],
                },
            ],
            by_hand: if is_debian() {
                debian_command(&["firefox-esr"])
            } else {
                format!(
                    "npx @puppeteer/browsers install firefox@stable    \
                     # and name the program in {FIREFOX}"
                )
            },
            check: &|toolbox| firefox(toolbox).map(drop).ok_or("not found".into()),
        },
    )?;
    if cfg!(target_os = "linux") {
        obtain(
            toolbox,
            &Need {
                what: "a Vulkan driver, for the tests: of the page in Firefox, and of the trainer on a GPU"
                    .into(),
                sources: vec![Source::DebianLike {
                    packages: VULKAN_DRIVERS,
                }],
                by_hand: if is_debian_like() {
                    debian_command(VULKAN_DRIVERS)
                } else {
                    "sudo dnf install mesa-vulkan-drivers    # vulkan-swrast on Arch".into()
                },
                check: &|_| match has_vulkan_driver() {
                    true => Ok(()),
                    false => Err("not found".into()),
                },
            },
        )?;
        obtain(
            toolbox,
            &Need {
                what:
                    "WebKit, which is what Safari is made of, and a screen in memory for its window"
                        .into(),
                sources: vec![Source::DebianLike {
                    packages: WEBKIT_AND_SCREEN,
                }],
                by_hand: if is_debian_like() {
                    debian_command(WEBKIT_AND_SCREEN)
                } else {
                    "sudo dnf install webkit2gtk4.1 xorg-x11-server-Xvfb    \
                     # webkit2gtk-4.1 xorg-server-xvfb on Arch"
                        .into()
                },
                check: &|toolbox| webkit(toolbox).map(drop).ok_or("not found".into()),
            },
        )?;
    }
    obtain(
        toolbox,
        &Need {
            what: "geckodriver for the page's tests".into(),
            sources: [
                geckodriver_release(env::consts::OS, env::consts::ARCH),
                Some(Source::Crate {
                    name: "geckodriver",
                    version: GECKODRIVER_VERSION.into(),
                    locked: true,
                    minutes: "3",
                }),
            ]
            .into_iter()
            .flatten()
            .collect(),
            by_hand: format!("cargo install geckodriver --version {GECKODRIVER_VERSION} --locked"),
            check: &|toolbox| geckodriver(toolbox).map(drop).ok_or("not found".into()),
        },
    )?;
    obtain(
        toolbox,
        &Need {
            what: format!("axe-core {AXE} for the page's tests"),
            sources: vec![Source::Npm {
                name: "axe-core",
                version: AXE,
            }],
            by_hand: format!(
                "npm install --prefix {} axe-core@{AXE}",
                toolbox.tools.join("axe-core").display()
            ),
            check: &|toolbox| has_package(&package(toolbox, "axe-core"), AXE),
        },
    )?;
    let lost = || Failure::Unexpected("a browser found a moment ago is gone".into());
    let (chromium, chromedriver) = chromium(toolbox).ok_or_else(lost)?;
    let mut found = vec![
        (CHROMIUM, chromium),
        (CHROMEDRIVER, chromedriver),
        (FIREFOX, firefox(toolbox).ok_or_else(lost)?),
        (GECKODRIVER, geckodriver(toolbox).ok_or_else(lost)?),
        (
            "FASHION_DDPM_AXE",
            package(toolbox, "axe-core").join("axe.min.js"),
        ),
    ];
    if cfg!(target_os = "linux") {
        let (webkitdriver, screen) = webkit(toolbox).ok_or_else(lost)?;
        found.extend([(WEBKITDRIVER, webkitdriver), (XVFB, screen)]);
    }
    Ok(found)
}

/// The folder of onnxruntime-web's builds, which the bench needs.
///
/// # Errors
/// [`Failure::Missing`] where npm cannot get it.
pub fn onnxruntime_web(toolbox: &mut Toolbox) -> Result<PathBuf, Failure> {
    const NAME: &str = "onnxruntime-web";
    obtain(
        toolbox,
        &Need {
            what: format!("{NAME} {ONNXRUNTIME_WEB}, which our engines are measured against"),
            sources: vec![Source::Npm {
                name: NAME,
                version: ONNXRUNTIME_WEB,
            }],
            by_hand: format!(
                "npm install --prefix {} {NAME}@{ONNXRUNTIME_WEB}",
                toolbox.tools.join(NAME).display()
            ),
            check: &|toolbox| has_package(&package(toolbox, NAME), ONNXRUNTIME_WEB),
        },
    )?;
    Ok(package(toolbox, NAME).join("dist"))
}

/// Where set-up lets npm put a package.
fn package(toolbox: &Toolbox, name: &str) -> PathBuf {
    toolbox.tools.join(name).join("node_modules").join(name)
}

/// Whether a package is there, in this version: the tools may be another checkout's as well.
fn has_package(folder: &Path, version: &str) -> Result<(), String> {
    let json = fs::read(folder.join("package.json")).unwrap_or_default();
    let package: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
    match package["version"].as_str() {
        Some(found) if found == version => Ok(()),
        Some(found) => Err(format!("found {found}")),
        None => Err("not found".into()),
    }
}

fn wasm_target(toolbox: &mut Toolbox) -> Result<(), Failure> {
    let need = Need {
        what: "the standard library for WebAssembly".into(),
        sources: vec![Source::Rustup { target: WASM }, Source::DebianToolchain],
        by_hand: if is_debian() {
            let install = debian_command(DEBIAN_TOOLCHAIN_PACKAGES);
            format!("{install} && rustup toolchain link {DEBIAN_TOOLCHAIN} /usr")
        } else {
            format!("rustup target add {WASM}")
        },
        check: &|toolbox| {
            if has_wasm_target(toolbox) || has_debian_toolchain(toolbox) {
                Ok(())
            } else {
                Err("not installed".into())
            }
        },
    };
    obtain(toolbox, &need)?;
    if !has_wasm_target(toolbox) {
        // That toolchain has the sources of the standard library alone, and an official release
        // builds those only when it takes itself for a nightly one.
        toolbox.wasm_environment = vec![
            ("RUSTUP_TOOLCHAIN", DEBIAN_TOOLCHAIN),
            ("RUSTC_BOOTSTRAP", "1"),
            ("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort"),
        ];
    }
    Ok(())
}

fn has_wasm_target(toolbox: &Toolbox) -> bool {
    let mut rustc = toolbox.command("rustc");
    rustc.args(["--print", "target-libdir", "--target", WASM]);
    read(&mut rustc).is_ok_and(|folder| {
        fs::read_dir(folder.trim()).is_ok_and(|mut files| files.next().is_some())
    })
}

fn has_debian_toolchain(toolbox: &Toolbox) -> bool {
    toolbox.find("rustup").is_some()
        && read(toolbox.command("rustup").args(["toolchain", "list"])).is_ok_and(|list| {
            list.lines()
                .any(|line| line.split_whitespace().next() == Some(DEBIAN_TOOLCHAIN))
        })
}

fn wasm_bindgen(toolbox: &mut Toolbox) -> Result<(), Failure> {
    let lockfile = toolbox.root.join("Cargo.lock");
    let text = fs::read_to_string(&lockfile).map_err(Failure::file(&lockfile))?;
    let wanted = version::locked(&text, "wasm-bindgen").ok_or_else(|| {
        Failure::Unexpected("Cargo.lock was expected to name a version of wasm-bindgen".into())
    })?;
    let sources = [
        wasm_bindgen_release(&wanted, env::consts::OS, env::consts::ARCH),
        // Not with its own lock file, which pins dependencies that do not build everywhere.
        Some(Source::Crate {
            name: "wasm-bindgen-cli",
            version: wanted.clone(),
            locked: false,
            minutes: "3",
        }),
    ];
    let check = |toolbox: &Toolbox| {
        fits(toolbox, "wasm-bindgen", |v| {
            Version::find(&wanted) == Some(v)
        })
    };
    obtain(
        toolbox,
        &Need {
            what: format!("wasm-bindgen {wanted}, the version in Cargo.lock"),
            sources: sources.into_iter().flatten().collect(),
            by_hand: format!("cargo install wasm-bindgen-cli --version {wanted}"),
            check: &check,
        },
    )
}

fn trunk(toolbox: &mut Toolbox) -> Result<(), Failure> {
    let sources = [
        trunk_release(env::consts::OS, env::consts::ARCH),
        Some(Source::Crate {
            name: "trunk",
            version: TRUNK.to_string(),
            locked: true,
            minutes: "6",
        }),
    ];
    obtain(
        toolbox,
        &Need {
            what: format!("Trunk {TRUNK}, which builds the page"),
            sources: sources.into_iter().flatten().collect(),
            by_hand: format!("cargo install trunk --version {TRUNK} --locked"),
            check: &|toolbox| fits(toolbox, "trunk", is_fit_trunk),
        },
    )
}

fn is_fit_trunk(found: Version) -> bool {
    found >= TRUNK && (found.0, found.1) == (TRUNK.0, TRUNK.1)
}

fn wasm_opt(toolbox: &mut Toolbox) -> Result<(), Failure> {
    let sources = [
        binaryen_release(env::consts::OS, env::consts::ARCH),
        Some(Source::Npm {
            name: "binaryen",
            version: BINARYEN_NPM,
        }),
        Some(Source::Crate {
            name: "wasm-opt",
            version: "0.116.1".into(),
            locked: true,
            minutes: "10",
        }),
    ];
    obtain(
        toolbox,
        &Need {
            what: format!(
                "wasm-opt {} or later, which makes the page small",
                WASM_OPT_OLDEST.0
            ),
            sources: sources.into_iter().flatten().collect(),
            by_hand: "npm install --global binaryen".into(),
            check: &|toolbox| fits(toolbox, "wasm-opt", |found| found >= WASM_OPT_OLDEST),
        },
    )
}

/// Whether the program that would be run is there and of a fit version.
fn fits(toolbox: &Toolbox, program: &str, fit: impl Fn(Version) -> bool) -> Result<(), String> {
    if toolbox.find(program).is_none() {
        return Err("not found".into());
    }
    match toolbox.version(program) {
        None => Err("found, but does not run".into()),
        Some(found) if fit(found) => Ok(()),
        Some(found) => Err(format!("found {found}")),
    }
}

fn wasm_bindgen_release(version: &str, os: &str, arch: &str) -> Option<Source> {
    let platform = match (os, arch) {
        ("linux", "x86_64") => "x86_64-unknown-linux-musl",
        ("linux", "aarch64") => "aarch64-unknown-linux-gnu",
        ("macos", "x86_64") => "x86_64-apple-darwin",
        ("macos", "aarch64") => "aarch64-apple-darwin",
        ("windows", "x86_64") => "x86_64-pc-windows-msvc",
        _ => return None,
    };
    Some(Source::Release {
        url: format!(
            "https://github.com/wasm-bindgen/wasm-bindgen/releases/download/{version}/wasm-bindgen-{version}-{platform}.tar.gz"
        ),
        folder: format!("wasm-bindgen-{version}"),
        programs: "",
        nested: true,
    })
}

fn trunk_release(os: &str, arch: &str) -> Option<Source> {
    let file = match (os, arch) {
        ("linux", "x86_64") => "trunk-x86_64-unknown-linux-gnu.tar.gz",
        ("linux", "aarch64") => "trunk-aarch64-unknown-linux-gnu.tar.gz",
        ("macos", "x86_64") => "trunk-x86_64-apple-darwin.tar.gz",
        ("macos", "aarch64") => "trunk-aarch64-apple-darwin.tar.gz",
        ("windows", "x86_64") => "trunk-x86_64-pc-windows-msvc.zip",
        _ => return None,
    };
    Some(Source::Release {
        url: format!("https://github.com/trunk-rs/trunk/releases/download/v{TRUNK}/{file}"),
        folder: format!("trunk-{TRUNK}"),
        programs: "",
        nested: false,
    })
}

fn binaryen_release(os: &str, arch: &str) -> Option<Source> {
    let platform = match (os, arch) {
        ("linux", "x86_64") => "x86_64-linux",
        ("linux", "aarch64") => "aarch64-linux",
        ("macos", "x86_64") => "x86_64-macos",
        ("macos", "aarch64") => "arm64-macos",
        ("windows", "x86_64") => "x86_64-windows",
        _ => return None,
    };
    Some(Source::Release {
        url: format!(
            "https://github.com/WebAssembly/binaryen/releases/download/{BINARYEN}/binaryen-{BINARYEN}-{platform}.tar.gz"
        ),
        folder: format!("binaryen-{BINARYEN}"),
        programs: "bin",
        nested: true,
    })
}

fn geckodriver_release(os: &str, arch: &str) -> Option<Source> {
    let file = match (os, arch) {
        ("linux", "x86_64") => "linux64.tar.gz",
        ("linux", "aarch64") => "linux-aarch64.tar.gz",
        ("macos", "x86_64") => "macos.tar.gz",
        ("macos", "aarch64") => "macos-aarch64.tar.gz",
        ("windows", "x86_64") => "win64.zip",
        _ => return None,
    };
    Some(Source::Release {
        url: format!(
            "https://github.com/mozilla/geckodriver/releases/download/v{GECKODRIVER_VERSION}/geckodriver-v{GECKODRIVER_VERSION}-{file}"
        ),
        folder: format!("geckodriver-{GECKODRIVER_VERSION}"),
        programs: "",
        nested: false,
    })
}

/// A browser and its driver of the same major version.
fn chromium(toolbox: &Toolbox) -> Option<(PathBuf, PathBuf)> {
    let mut browsers = candidates(
        toolbox,
        CHROMIUM,
        "chrome",
        &[
            "chromium",
            "google-chrome",
            "google-chrome-stable",
            "chromium-browser",
        ],
    );
    if cfg!(target_os = "macos") {
        for name in ["Google Chrome", "Chromium"] {
            browsers.push(format!("/Applications/{name}.app/Contents/MacOS/{name}").into());
        }
    }
    let mut drivers = candidates(toolbox, CHROMEDRIVER, "chromedriver", &["chromedriver"]);
    // GitHub's machines name the folder.
    if let Some(folder) = env::var_os("CHROMEWEBDRIVER") {
        drivers
            .push(PathBuf::from(folder).join(format!("chromedriver{}", env::consts::EXE_SUFFIX)));
    }
    // On Windows Chrome answers no question about its version but opens a window. There the two
    // from one place are a pair, and no others.
    if cfg!(windows) {
        let noted = |name| fs::read_to_string(browser_note(toolbox, name)).map(PathBuf::from);
        let pair = (noted("chrome").ok()?, noted("chromedriver").ok()?);
        return (pair.0.is_file() && pair.1.is_file()).then_some(pair);
    }
    let known = |programs: Vec<PathBuf>| -> Vec<(PathBuf, Version)> {
        let version = |p: PathBuf| p.is_file().then(|| toolbox.version(&p).map(|v| (p, v)))?;
        programs.into_iter().filter_map(version).collect()
    };
    pair(known(browsers), known(drivers))
}

/// The first browser that has a driver of its own major version, and that driver.
fn pair<T: Clone>(browsers: Vec<(T, Version)>, drivers: Vec<(T, Version)>) -> Option<(T, T)> {
    browsers.into_iter().find_map(|(browser, version)| {
        let driver = drivers.iter().find(|(_, driver)| driver.0 == version.0)?;
        Some((browser, driver.0.clone()))
    })
}

fn firefox(toolbox: &Toolbox) -> Option<PathBuf> {
    let mut found = candidates(toolbox, FIREFOX, "firefox", &["firefox", "firefox-esr"]);
    found.push("/Applications/Firefox.app/Contents/MacOS/firefox".into());
    if let Some(folder) = env::var_os("ProgramFiles") {
        found.push(
            PathBuf::from(folder)
                .join("Mozilla Firefox")
                .join("firefox.exe"),
        );
    }
    // On Windows it answers no question about its version either.
    found
        .into_iter()
        .find(|file| file.is_file() && (cfg!(windows) || toolbox.version(file).is_some()))
}

fn geckodriver(toolbox: &Toolbox) -> Option<PathBuf> {
    let mut found = candidates(toolbox, GECKODRIVER, "geckodriver", &["geckodriver"]);
    if let Some(folder) = env::var_os("GECKOWEBDRIVER") {
        found.push(PathBuf::from(folder).join(format!("geckodriver{}", env::consts::EXE_SUFFIX)));
    }
    found
        .into_iter()
        .find(|file| file.is_file() && toolbox.version(file).is_some())
}

/// WebKit's driver, which knows where its browser is, and the screen.
fn webkit(toolbox: &Toolbox) -> Option<(PathBuf, PathBuf)> {
    let first = |variable: &str, name: &str| {
        let found = candidates(toolbox, variable, name, &[name]);
        found.into_iter().find(|file| file.is_file())
    };
    Some((
        first(WEBKITDRIVER, "WebKitWebDriver")?,
        first(XVFB, "Xvfb")?,
    ))
}

/// Whether there is any, of a GPU or in software, where Vulkan's loader looks first.
fn has_vulkan_driver() -> bool {
    let folders = ["/usr/share", "/usr/local/share", "/etc"];
    let mut files = folders
        .into_iter()
        .filter_map(|folder| fs::read_dir(Path::new(folder).join("vulkan/icd.d")).ok())
        .flatten();
    env::var_os("VK_DRIVER_FILES").is_some() || files.next().is_some()
}

/// Where a browser or driver may be: as the user says, where set-up put it, on the `PATH`.
fn candidates(toolbox: &Toolbox, variable: &str, noted: &str, names: &[&str]) -> Vec<PathBuf> {
    let said = env::var_os(variable).filter(|path: &OsString| !path.is_empty());
    let noted = fs::read_to_string(browser_note(toolbox, noted)).ok();
    said.map(PathBuf::from)
        .into_iter()
        .chain(noted.map(PathBuf::from))
        .chain(names.iter().filter_map(|name| toolbox.find(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_trunk_will_do_if_it_is_of_the_same_series() {
        assert!(is_fit_trunk(Version(0, 21, 14)));
        assert!(is_fit_trunk(Version(0, 21, 15)));
        assert!(!is_fit_trunk(Version(0, 21, 9)));
        assert!(!is_fit_trunk(Version(0, 22, 0)));
        assert!(!is_fit_trunk(Version(1, 21, 14)));
    }

    #[test]
    fn a_browser_takes_only_a_driver_of_its_own_version() {
        let browsers = vec![
            ("chromium", Version(156, 0, 1)),
            ("chrome", Version(157, 0, 0)),
        ];
        let driver = |major| vec![("old", Version(90, 0, 0)), ("driver", Version(major, 0, 9))];
        assert_eq!(
            pair(browsers.clone(), driver(156)),
            Some(("chromium", "driver"))
        );
        assert_eq!(
            pair(browsers.clone(), driver(157)),
            Some(("chrome", "driver"))
        );
        assert_eq!(pair(browsers, driver(155)), None);
    }

    #[test]
    fn every_common_platform_has_prebuilt_releases() {
        for (os, arch) in [
            ("linux", "x86_64"),
            ("linux", "aarch64"),
            ("macos", "x86_64"),
            ("macos", "aarch64"),
            ("windows", "x86_64"),
        ] {
            for source in [
                wasm_bindgen_release("0.2.130", os, arch),
                trunk_release(os, arch),
                binaryen_release(os, arch),
                geckodriver_release(os, arch),
            ] {
                assert!(
                    matches!(source, Some(Source::Release { .. })),
                    "{os} {arch}"
                );
            }
        }
        assert_eq!(trunk_release("freebsd", "x86_64"), None);
        assert_eq!(binaryen_release("linux", "riscv64"), None);
    }
}
