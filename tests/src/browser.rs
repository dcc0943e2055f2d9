//! A real browser, driven through the W3C's WebDriver protocol.
//!
//! The dozen commands needed are plain HTTP with JSON, and two of them (the computed role and the
//! computed label of an element, what a screen reader hears) are rare in client libraries.

use std::{
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::prepared;

/// What is asked of a browser's WebGPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gpu {
    /// SwiftShader, a complete WebGPU adapter in software that Chromium brings along.
    Software,
    /// The machine's own adapter.
    Hardware,
    /// `navigator.gpu` is there, and no adapter: what Chromium says on a machine without a GPU.
    NoAdapter,
    /// There is no `navigator.gpu`, as in browsers without WebGPU.
    Missing,
}

/// A browser that has been told to save data, for [`Browser::at_first`].
pub const SAVES_DATA: &str =
    "Object.defineProperty(navigator, 'connection', { value: { saveData: true } });";

/// A page whose workers are looked after, for [`Browser::at_first`]: `before` one is made it may change
/// the worker's `url` or throw, and `after` that it has the `worker`. Both know its `number`, counted
/// from 0, and may `hold(worker, type, wait)` back its messages of a type: `wait` gets what lets one go.
pub fn workers(before: &str, after: &str) -> String {
    format!(
        "{{
            const Real = Worker;
            const hold = (worker, type, wait) => worker.addEventListener('message', (event) => {{
                if (event.data[0].type != type || event.late) return;
                event.stopImmediatePropagation();
                const {{ data }} = event;
                const late = Object.assign(new MessageEvent('message', {{ data }}), {{ late: true }});
                wait(() => worker.dispatchEvent(late));
            }});
            let made = 0;
            window.Worker = function (url, options) {{
                const number = made++;
                {before}
                const worker = new Real(url, options);
                {after}
                return worker;
            }};
            Worker.prototype = Real.prototype;
        }}"
    )
}

/// A browser that is of different make than the others.
pub struct Make {
    /// What it is called.
    pub name: &'static str,
    /// Starts it.
    pub start: fn() -> Browser,
}

/// One of each make, without WebGPU where there is a choice.
pub const MAKES: &[Make] = &[
    Make {
        name: "Chromium",
        start: || Browser::chromium(Gpu::NoAdapter),
    },
    Make {
        name: "Firefox",
        start: Browser::firefox,
    },
    #[cfg(target_os = "linux")]
    Make {
        name: "WebKit",
        start: Browser::webkit,
    },
];

/// One browser at a time: two that compute would starve each other on a small machine.
static TURN: Mutex<()> = Mutex::new(());

/// Waits until no browser is open, and keeps others from being opened: for a program that opens its own.
pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The longest anything here may take: this bounds a hang, and measures nothing.
const PATIENCE: Duration = Duration::from_secs(600);

/// The key under which WebDriver hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser window; closed when dropped.
pub struct Browser {
    agent: ureq::Agent,
    session: String,
    /// The driver, and what it needs.
    programs: Vec<Child>,
    chromium: bool,
    _turn: MutexGuard<'static, ()>,
}

/// An element of the page.
#[derive(Debug, Clone)]
pub struct Element(Value);

impl Element {
    fn id(&self) -> &str {
        self.0[ELEMENT].as_str().unwrap_or_default()
    }
}

impl Browser {
    /// Headless Chromium.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn chromium(gpu: Gpu) -> Self {
        Self::chromium_with(gpu, &[])
    }

    /// [`Self::chromium`], with more arguments of its command line.
    pub fn chromium_with(gpu: Gpu, more: &[&str]) -> Self {
        let mut arguments = vec![
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--window-size=1280,1000",
        ];
        arguments.extend(more);
        if gpu == Gpu::Hardware {
            arguments.extend([
                "--enable-unsafe-webgpu",
                "--enable-features=Vulkan",
                "--ignore-gpu-blocklist",
            ]);
        }
        if gpu == Gpu::Software {
            arguments.extend([
                "--enable-unsafe-webgpu",
                "--use-webgpu-adapter=swiftshader",
                "--enable-features=Vulkan",
            ]);
        }
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {
                "binary": prepared("FASHION_DDPM_CHROMIUM"),
                "args": arguments,
            },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let driver = || start_driver(&prepared("FASHION_DDPM_CHROMEDRIVER"), &["--port=0"]);
        let browser = Self::start(driver, &capabilities, true);
        browser.at_first(LISTEN);
        if gpu == Gpu::Missing {
            browser.at_first("delete Navigator.prototype.gpu");
        }
        browser
    }

    /// From now on this script runs in every page before anything of its own. Chromium.
    #[track_caller]
    pub fn at_first(&self, source: &str) {
        let script = json!({ "source": source });
        self.devtools("Page.addScriptToEvaluateOnNewDocument", &script);
    }

    /// A command of Chromium's developer tools.
    #[track_caller]
    fn devtools(&self, command: &str, params: &Value) {
        let command = json!({ "cmd": command, "params": params });
        self.post("goog/cdp/execute", &command);
    }

    /// Headless Firefox. Its WebGPU is of another make than Chromium's, and takes what adapter the
    /// machine has: where there is no GPU, Mesa's in software, which the set-up sees to.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn firefox() -> Self {
        let capabilities = json!({
            "browserName": "firefox",
            "moz:firefoxOptions": {
                "binary": prepared("FASHION_DDPM_FIREFOX"),
                "args": ["-headless"],
                // On Linux it is still behind a switch, and for some drivers behind two.
                "prefs": { "dom.webgpu.enabled": true, "gfx.webgpu.ignore-blocklist": true },
            },
        });
        let driver = || start_driver(&prepared("FASHION_DDPM_GECKODRIVER"), &["--port", "0"]);
        Self::start(driver, &capabilities, false)
    }

    /// WebKit, which is what Safari is made of, in the window that its Linux port brings along. It has
    /// no WebGPU.
    ///
    /// # Panics
    /// Where it does not start, and anywhere but on Linux.
    pub fn webkit() -> Self {
        // It knows no headless way: its window is on a screen that is nowhere but in memory.
        let (screen, display) = start_screen(&prepared("FASHION_DDPM_XVFB"));
        let driver = || start_webkit(&prepared("FASHION_DDPM_WEBKITDRIVER"), &display);
        let mut browser = Self::start(driver, &json!({}), false);
        browser.programs.push(screen);
        browser
    }

    fn start(
        driver: impl Fn() -> Option<(Child, u16)>,
        capabilities: &Value,
        chromium: bool,
    ) -> Self {
        let turn = turn();
        // Chromium's driver picks a port for one protocol of the internet, and gives up where the
        // other one has it in use: that is nobody's fault, and the next port will do.
        let (driver, port) = (0..5)
            .find_map(|_| driver())
            .expect("a driver listens to a port");
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A driver is on this machine, wherever else one may have to go through a proxy.
            .proxy(None)
            .timeout_global(Some(PATIENCE));
        let mut browser = Self {
            agent: config.build().into(),
            session: format!("http://127.0.0.1:{port}/session"),
            programs: vec![driver],
            chromium,
            _turn: turn,
        };
        let answer = browser.request(
            "POST",
            browser.session.clone(),
            &json!({ "capabilities": { "alwaysMatch": capabilities } }),
        );
        let answer = answer.unwrap_or_else(|error| panic!("the browser did not start: {error}"));
        let id = answer["sessionId"].as_str().expect("a session");
        browser.session = format!("{}/{id}", browser.session);
        browser.post(
            "timeouts",
            &json!({ "script": PATIENCE.as_millis() as u64 }),
        );
        browser
    }

    fn request(&self, method: &str, url: String, body: &Value) -> Result<Value, String> {
        let mut response = match method {
            "GET" => self.agent.get(url).call(),
            "DELETE" => self.agent.delete(url).call(),
            _ => (self.agent.post(url))
                .header("Content-Type", "application/json")
                .send(body.to_string()),
        }
        .map_err(|error| error.to_string())?;
        let mut text = String::new();
        let reader = response.body_mut().as_reader();
        { reader }
            .read_to_string(&mut text)
            .map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let value = answer["value"].clone();
        match value.get("error") {
            Some(error) if !response.status().is_success() => {
                Err(format!("{error}: {}", value["message"]))
            }
            _ => Ok(value),
        }
    }

    #[track_caller]
    fn post(&self, command: &str, body: &Value) -> Value {
        let answer = self.request("POST", format!("{}/{command}", self.session), body);
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    #[track_caller]
    fn get(&self, command: &str) -> Value {
        let answer = self.request("GET", format!("{}/{command}", self.session), &Value::Null);
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Opens an address; every `ddpm:` event of the page is collected, see [`Self::events`].
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
        if !self.chromium {
            self.script(LISTEN, json!([]));
        }
    }

    /// From now on the system prefers dark or light colours. Chromium.
    #[track_caller]
    pub fn prefer_colours(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let media = json!({ "features": features });
        self.devtools("Emulation.setEmulatedMedia", &media);
    }

    /// From now on the window is this wide and high, however small. Chromium.
    #[track_caller]
    pub fn resize(&self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// The address now.
    #[track_caller]
    pub fn url(&self) -> String {
        self.get("url").as_str().unwrap_or_default().to_owned()
    }

    /// Runs a function body in the page.
    #[track_caller]
    pub fn script(&self, body: &str, arguments: Value) -> Value {
        self.post(
            "execute/sync",
            &json!({ "script": body, "args": arguments }),
        )
    }

    /// Runs the body of an async function in the page, and waits for what it returns.
    #[track_caller]
    pub fn script_async(&self, body: &str, arguments: Value) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1];
             (async (...args) => {{ {body} }})(...arguments)
                 .then((value) => done({{ value }}), (error) => done({{ error: String(error) }}));"
        );
        let mut answer = self.post(
            "execute/async",
            &json!({ "script": script, "args": arguments }),
        );
        assert!(
            answer.get("error").is_none(),
            "in the page: {}",
            answer["error"]
        );
        answer["value"].take()
    }

    /// The details of all `ddpm:KIND` events so far.
    #[track_caller]
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.script("return window.ddpmEvents[arguments[0]]", json!([kind]));
        serde_json::from_value(events).expect("a list")
    }

    /// How many `ddpm:KIND` events there have been.
    #[track_caller]
    pub fn count(&self, kind: &str) -> u64 {
        let count = self.script(
            "return window.ddpmEvents[arguments[0]].length",
            json!([kind]),
        );
        count.as_u64().unwrap_or_default()
    }

    /// Waits until a question is answered with something.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut question: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(answer) = question() {
                return answer;
            }
            if begun.elapsed() > PATIENCE {
                let status = self.script("return document.body.innerText", json!([]));
                panic!("waited in vain until {what}; the page says:\n{status}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the first `ddpm:KIND` event; fails at once where an error comes instead.
    #[track_caller]
    pub fn wait_for(&self, kind: &str) -> Value {
        self.wait(&format!("ddpm:{kind}"), || {
            if kind != "error" && self.count("error") > 0 {
                panic!("instead of ddpm:{kind} came {:?}", self.events("error"));
            }
            (self.count(kind) > 0).then(|| self.events(kind).remove(0))
        })
    }

    /// The one element with this role and this accessible name, as assistive technology sees them.
    #[track_caller]
    pub fn find(&self, role: &str, name: &str) -> Element {
        self.look(role, name)
            .unwrap_or_else(|found| panic!("no {role} `{name}`; there are {found:?}"))
    }

    /// [`Self::find`], or the names that there are of this role.
    fn look(&self, role: &str, name: &str) -> Result<Element, Vec<String>> {
        let native = match role {
            "button" => "button, input[type=button], input[type=submit], [role=button]",
            "combobox" => "select, [role=combobox]",
            "spinbutton" => "input[type=number], [role=spinbutton]",
            "slider" => "input[type=range], [role=slider]",
            "progressbar" => "progress, [role=progressbar]",
            "image" => "img, [role=img], [role=image]",
            other => &format!("[role={other}], output"),
        };
        let all = self.script(
            "return [...document.querySelectorAll(arguments[0])]",
            json!([native]),
        );
        let all: Vec<Value> = serde_json::from_value(all).expect("a list of elements");
        let mut names = Vec::new();
        let mut found = Vec::new();
        for element in all.into_iter().map(Element) {
            // An element may leave the page while it is being looked at.
            let ask = |what: &str| {
                let url = format!("{}/element/{}/{what}", self.session, element.id());
                let answer = self.request("GET", url, &Value::Null).unwrap_or_default();
                answer.as_str().unwrap_or_default().to_owned()
            };
            let computed = ask("computedrole").replace("img", "image");
            let label = ask("computedlabel");
            if computed == role && label == name {
                found.push(element);
            } else {
                names.push(format!("{computed} `{label}`"));
            }
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(names),
            n => panic!("{n} elements are called {role} `{name}`"),
        }
    }

    /// Waits until there is such an element, and it is enabled.
    #[track_caller]
    pub fn wait_enabled(&self, role: &str, name: &str) -> Element {
        self.wait(&format!("{role} `{name}` is there and enabled"), || {
            self.look(role, name)
                .ok()
                .filter(|element| self.is_enabled(element))
        })
    }

    /// Whether there is such an element, enabled or not.
    pub fn has(&self, role: &str, name: &str) -> bool {
        self.look(role, name).is_ok()
    }

    /// Whether an element can be used.
    #[track_caller]
    pub fn is_enabled(&self, element: &Element) -> bool {
        let command = format!("element/{}/enabled", element.id());
        let url = format!("{}/{command}", self.session);
        self.request("GET", url, &Value::Null).unwrap_or_default() == true
    }

    /// Clicks as a person would: the element must be visible and on top.
    #[track_caller]
    pub fn click(&self, element: &Element) {
        self.post(&format!("element/{}/click", element.id()), &json!({}));
    }

    /// A property of the element's object, for example `value`.
    #[track_caller]
    pub fn property(&self, element: &Element, name: &str) -> Value {
        self.get(&format!("element/{}/property/{name}", element.id()))
    }

    /// An attribute as a number.
    #[track_caller]
    pub fn number(&self, element: &Element, attribute: &str) -> Option<f64> {
        let value = self.get(&format!("element/{}/attribute/{attribute}", element.id()));
        value.as_str()?.parse().ok()
    }

    /// Types keys into an element.
    #[track_caller]
    pub fn type_keys(&self, element: &Element, keys: &str) {
        self.post(
            &format!("element/{}/value", element.id()),
            &json!({ "text": keys }),
        );
    }

    /// Sets a control's value the way its own interaction does: value, `input`, `change`.
    #[track_caller]
    pub fn set(&self, element: &Element, value: &str) {
        let script = "const [element, value] = arguments;
            element.value = value;
            element.dispatchEvent(new Event('input', { bubbles: true }));
            element.dispatchEvent(new Event('change', { bubbles: true }));";
        self.script(script, json!([element.0, value]));
    }

    /// The pixels of a canvas, one byte each from its red channel, with its width.
    #[track_caller]
    pub fn canvas(&self, element: &Element) -> (usize, Vec<u8>) {
        let script = "const canvas = arguments[0];
            const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d');
            copy.drawImage(canvas, 0, 0);
            const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
            return [canvas.width, Array.from(data).filter((_, i) => i % 4 == 0)];";
        serde_json::from_value(self.script(script, json!([element.0]))).expect("width and pixels")
    }

    /// The status line.
    #[track_caller]
    pub fn status(&self) -> String {
        let script = "return [...document.querySelectorAll('[role=status], output')]
            .map((element) => element.textContent.trim()).join(' ')";
        self.script(script, json!([]))
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Errors in the console since last asked, and warnings that are the page's own words rather than
    /// the browser's (which warns wherever it has no adapter to offer). Chromium.
    #[track_caller]
    pub fn complaints(&self) -> Vec<String> {
        let log = self.post("se/log", &json!({ "type": "browser" }));
        let log: Vec<Value> = serde_json::from_value(log).expect("a list");
        log.iter()
            .filter(|entry| {
                let warned = entry["level"] == "WARNING" && entry["source"] == "console-api";
                entry["level"] == "SEVERE" || warned
            })
            .map(|entry| format!("{}: {}", entry["level"], entry["message"]))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.request("DELETE", self.session.clone(), &Value::Null)
            .ok();
        for program in &mut self.programs {
            program.kill().ok();
            program.wait().ok();
        }
    }
}

/// Starts a driver and reads the port that it has chosen, if it finds one; goes on listening so that
/// the driver never blocks.
fn start_driver(driver: &Path, arguments: &[&str]) -> Option<(Child, u16)> {
    let mut child = Command::new(driver)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", driver.display()));
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let (_, rest) = line
            .split_once("on port ")
            .or_else(|| line.split_once("Listening on "))?;
        let digits = rest.trim_end_matches('.').rsplit(':').next()?;
        // Chromium's first says which port it was asked for: 0, any.
        digits.trim().parse().ok().filter(|port| *port != 0)
    });
    let Some(port) = port else {
        child.wait().ok();
        return None;
    };
    thread::spawn(move || lines.for_each(drop));
    Some((child, port))
}

/// Starts WebKit's driver on a screen. It announces no port, so one is looked for beforehand.
fn start_webkit(driver: &Path, display: &str) -> Option<(Child, u16)> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    let port = free.local_addr().ok()?.port();
    drop(free);
    let mut child = Command::new(driver)
        .arg(format!("--port={port}"))
        .env("DISPLAY", display)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", driver.display()));
    loop {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Some((child, port));
        }
        if child.try_wait().ok()?.is_some() {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a screen in memory, and reads its name.
fn start_screen(xvfb: &Path) -> (Child, String) {
    let mut child = Command::new(xvfb)
        .args(["-displayfd", "1", "-screen", "0", "1280x1000x24"])
        .args(["-nolisten", "tcp"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", xvfb.display()));
    let mut number = String::new();
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    lines.read_line(&mut number).expect("a screen has a number");
    (child, format!(":{}", number.trim()))
}

/// Collects the page's events from its first moment.
const LISTEN: &str = "window.ddpmEvents = { ready: [], frame: [], done: [], error: [] };
for (const kind of Object.keys(window.ddpmEvents)) {
    document.addEventListener('ddpm:' + kind, ({ detail }) => {
        const plain = { ...detail };
        if (plain.pixels) {
            // Firefox lends scripts a global of their own, where `instanceof` says no.
            plain.isBytes = String(plain.pixels[Symbol.toStringTag]) == 'Uint8Array';
            plain.pixels = Array.from(plain.pixels);
        }
        window.ddpmEvents[kind].push(plain);
    });
}
// A page whose script has died says nothing more: whoever waits for it should know.
const died = (message) => window.ddpmEvents.error.push({ code: 'uncaught', message });
window.addEventListener('error', (event) => died(event.message));
window.addEventListener('unhandledrejection', (event) => died(String(event.reason)));";
