//! A web server for one folder that can be told to fail.
//!
//! It knows no more than a dull static host does (GitHub Pages): GET, MIME types, 404. The folder
//! stands under a sub-path, so that an address that is not relative finds nothing.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};

/// Where the folder stands.
pub const SUB_PATH: &str = "/some/sub-path/";

/// What is to go wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 404.
    Missing,
    /// The server holds only its first half.
    Truncated,
    /// The connection breaks off in the middle.
    CutOff,
    /// Some bits in the middle are others.
    Altered,
    /// The answer comes late.
    Delayed(Duration),
    /// The answer waits for [`Server::release`].
    Held,
}

/// A visitor's line: what all answers share, and how long each takes to begin.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Bits a second.
    pub rate: f64,
    /// From a request to the first byte of its answer.
    pub latency: Duration,
}

impl Line {
    /// How long so many bytes are on their way.
    pub fn transfer(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 * 8.0 / self.rate)
    }
}

#[derive(Default)]
struct State {
    faults: HashMap<String, Fault>,
    /// Of these only the first answer goes wrong.
    once: HashMap<String, Fault>,
    more: HashMap<String, Vec<u8>>,
    asked: Vec<String>,
    unplugged: bool,
    line: Option<Line>,
    /// When the line has carried all that was put on it.
    free: Option<Instant>,
    /// Bytes that the line has carried.
    carried: usize,
    /// Files as gzip, where that was worth while.
    packed: HashMap<String, Arc<Vec<u8>>>,
}

/// A server that runs as long as this process.
pub struct Server {
    folder: PathBuf,
    address: SocketAddr,
    state: Mutex<State>,
}

impl Server {
    /// Serves `folder` on a free port of this machine.
    ///
    /// # Panics
    /// Where there is none.
    pub fn of(folder: PathBuf) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = Arc::new(Self {
            folder,
            address: listener.local_addr().expect("bound just now"),
            state: Mutex::default(),
        });
        let running = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = running.clone();
                // A browser that hangs up early is no failure of the test.
                thread::spawn(move || server.answer(stream).ok());
            }
        });
        server
    }

    /// The address of a file of the folder.
    pub fn url(&self, file: &str) -> String {
        // A secure context, as far as browsers are concerned.
        format!("http://localhost:{}{SUB_PATH}{file}", self.address.port())
    }

    /// From now on this goes wrong with a file.
    pub fn fault(&self, file: &str, fault: Fault) {
        self.state().faults.insert(file.to_owned(), fault);
    }

    /// Nothing goes wrong with a file any more.
    pub fn release(&self, file: &str) {
        self.state().faults.remove(file);
    }

    /// This goes wrong with a file the next time it is asked for, and not again.
    ///
    /// # Panics
    /// If it is [`Fault::Held`]: nothing would wait for [`Self::release`].
    pub fn fault_once(&self, file: &str, fault: Fault) {
        assert_ne!(fault, Fault::Held, "held once is let go at once");
        self.state().once.insert(file.to_owned(), fault);
    }

    /// From now on there is no network.
    pub fn unplug(&self) {
        self.state().unplugged = true;
    }

    /// One more file than the folder has.
    pub fn add(&self, file: &str, content: Vec<u8>) {
        self.state().more.insert(file.to_owned(), content);
    }

    /// From now on answers come over this line, packed with gzip where a static host packs.
    ///
    /// # Panics
    /// Where the folder cannot be read.
    pub fn narrow(&self, line: Line) {
        let packed = (std::fs::read_dir(&self.folder).expect("a folder").flatten())
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let text = matches!(
                    name.rsplit('.').next(),
                    Some("html" | "js" | "css" | "wasm")
                );
                let content = std::fs::read(entry.path()).ok().filter(|_| text)?;
                let mut packed = GzEncoder::new(Vec::new(), Compression::best());
                packed.write_all(&content).ok()?;
                Some((name, Arc::new(packed.finish().ok()?)))
            })
            .collect();
        let mut state = self.state();
        (state.line, state.packed, state.carried) = (Some(line), packed, 0);
    }

    /// Bytes of answers that the line has carried.
    pub fn carried(&self) -> usize {
        self.state().carried
    }

    /// Waits until the line has carried so many bytes more.
    fn carry(&self, bytes: usize) {
        let now = Instant::now();
        let mut state = self.state();
        let Some(line) = state.line else { return };
        let free = state.free.unwrap_or(now).max(now) + line.transfer(bytes);
        state.free = Some(free);
        state.carried += bytes;
        drop(state);
        thread::sleep(free.saturating_duration_since(now));
    }

    /// All paths that were asked for, in order, without queries.
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut request = String::new();
        reader.read_line(&mut request)?;
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let Some(target) = request.split(' ').nth(1) else {
            return Ok(());
        };
        let path = target.split('?').next().unwrap_or_default().to_owned();
        self.state().asked.push(path.clone());
        if self.state().unplugged {
            return Ok(());
        }
        let file = match path.strip_prefix(SUB_PATH) {
            Some("") => "index.html",
            Some(file) => file,
            None => {
                return self.respond(&mut stream, "404 Not Found", "text/plain", b"not here", 8);
            }
        };
        let (fault, line, packed) = {
            let mut state = self.state();
            let once = state.once.remove(file);
            let fault = once.or_else(|| state.faults.get(file).copied());
            (fault, state.line, state.packed.get(file).cloned())
        };
        if let Some(line) = line {
            thread::sleep(line.latency);
        }
        if let (None, Some(packed)) = (fault, packed) {
            let kind = format!("{}\r\nContent-Encoding: gzip", mime(file));
            return self.respond(&mut stream, "200 OK", &kind, &packed, usize::MAX);
        }
        let mut sent = usize::MAX;
        let content = match (self.read(file), fault) {
            (None, _) | (_, Some(Fault::Missing)) => {
                return self.respond(&mut stream, "404 Not Found", "text/plain", b"missing", 7);
            }
            (Some(mut content), Some(Fault::Truncated)) => {
                content.truncate(content.len() / 2);
                content
            }
            (Some(content), Some(Fault::CutOff)) => {
                sent = content.len() / 2;
                content
            }
            (Some(mut content), Some(Fault::Altered)) => {
                // More than the padding between two tensors is long.
                let middle = content.len() / 2;
                content
                    .iter_mut()
                    .skip(middle)
                    .take(300)
                    .for_each(|byte| *byte ^= 0x40);
                content
            }
            (Some(content), Some(Fault::Delayed(time))) => {
                thread::sleep(time);
                content
            }
            (Some(content), Some(Fault::Held)) => {
                while self.state().faults.contains_key(file) {
                    thread::sleep(Duration::from_millis(10));
                }
                content
            }
            (Some(content), None) => content,
        };
        self.respond(&mut stream, "200 OK", mime(file), &content, sent)
    }

    /// Answers with the first `sent` bytes of `content`.
    fn respond(
        &self,
        stream: &mut TcpStream,
        status: &str,
        mime: &str,
        content: &[u8],
        sent: usize,
    ) -> std::io::Result<()> {
        /// Bytes that are put on the line at a time, so that answers share it.
        const PIECE: usize = 8192;

        let length = content.len();
        // What a static host says; but a test may find out what is asked for a second time.
        let cache = match self.state().line {
            Some(_) => "max-age=600",
            None => "no-store",
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: {mime}\r\nContent-Length: {length}\r\n\
             Cache-Control: {cache}\r\nConnection: close\r\n\r\n"
        )?;
        for piece in content[..sent.min(length)].chunks(PIECE) {
            self.carry(piece.len());
            stream.write_all(piece)?;
        }
        stream.flush()
    }

    fn read(&self, file: &str) -> Option<Vec<u8>> {
        if let Some(content) = self.state().more.get(file) {
            return Some(content.clone());
        }
        let inside = Path::new(file)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
        inside
            .then(|| std::fs::read(self.folder.join(file)).ok())
            .flatten()
    }
}

fn mime(file: &str) -> &'static str {
    match file.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript",
        "css" => "text/css",
        "wasm" => "application/wasm",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}
