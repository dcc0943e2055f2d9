//! Where the time of a step goes, launch by launch, beside what the adapter could do at best.
//!
//! The engine's recording is replayed as ever, but each of its launches in a compute pass of its own,
//! between two timestamps of the GPU's own clock; see `launches.js`. The order of the launches says
//! which part of the network each is.

use std::error::Error;

use fashion_ddpm::{noise::PIXELS, unet::UNetConfig};
use serde::Deserialize;
use serde_json::Value;

/// What the page found out.
#[derive(Deserialize)]
pub struct Found {
    launches: Vec<Launch>,
    thread: Vec<Thread>,
    floor: Floor,
}

/// A launch, between two times in nanoseconds.
#[derive(Deserialize)]
struct Launch {
    kernel: String,
    begin: f64,
    end: f64,
}

/// What a step costs the engine's thread, its launches being empty.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Thread {
    /// From the first call to WebGPU until the thread has nothing more to do.
    enqueue_ms: f64,
    /// By the clock.
    ms: f64,
    submits: f64,
}

/// What the adapter does at best, in a second; and the seconds of a launch of nothing.
#[derive(Deserialize)]
struct Floor {
    products: f64,
    bytes: f64,
    launch: f64,
}

/// A part of a step: what it has to do, and in how many nanoseconds it is done.
struct Part {
    kernel: &'static str,
    title: String,
    products: f64,
    bytes: f64,
    ns: f64,
}

/// Launches of one kind.
struct Row {
    title: String,
    launches: usize,
    us: f64,
    /// What products, and what bytes, take at least.
    least_us: [f64; 2],
}

impl Found {
    /// Reads what `launches` of `contenders.js` answers.
    ///
    /// # Errors
    /// Where that is something else.
    pub fn read(answer: Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(answer)
    }

    /// Prints the table for a step of this network and so many images.
    ///
    /// # Errors
    /// Where the launches are not those of this network.
    pub fn print(&self, config: &UNetConfig, images: u32) -> Result<(), Box<dyn Error>> {
        let steps = self.steps(config.launches());
        if steps.is_empty() {
            return Err(format!("no step of {} launches was seen", config.launches()).into());
        }
        let parts = self.parts(config, images, &steps)?;
        let between: Vec<f64> = steps
            .iter()
            .map(|step| step[step.len() - 1].end - step[0].begin)
            .collect();
        let Floor {
            products,
            bytes,
            launch,
        } = self.floor;
        println!(
            "this adapter at best: {:.1} billion products and {:.1} GB a second, {:.1} us for a \
             launch of nothing",
            products / 1e9,
            bytes / 1e9,
            launch * 1e6
        );
        println!(
            "\n{:60} {:>8} {:>10} {:>6} {:>9} {:>9}",
            "a step, medians of its launches", "launches", "us", "%", "products", "bytes"
        );
        let all: f64 = parts.iter().map(|part| part.ns / 1e3).sum();
        let print = |row: &Row| {
            println!(
                "{:60} {:>8} {:>10.1} {:>6.1} {:>9.1} {:>9.1}",
                row.title,
                row.launches,
                row.us,
                row.us / all * 100.0,
                row.least_us[0],
                row.least_us[1]
            );
        };
        self.rows(&parts, |part| part.kernel.to_owned())
            .iter()
            .for_each(print);
        self.rows(&parts, |_| "all".to_owned())
            .iter()
            .for_each(print);
        println!();
        self.rows(&parts, |part| part.title.clone())
            .iter()
            .for_each(print);
        println!(
            "\nfrom a step's first launch to the end of its last: {:.1} us (median of {} steps)\n\
             the last two columns: us that the products, and that the bytes, take this adapter at \
             best",
            median(between) / 1e3,
            steps.len()
        );
        let spread = |what: fn(&Thread) -> f64, unit: &str| {
            crate::spread(self.thread.iter().map(what).collect(), unit)
        };
        println!(
            "the thread, its launches being empty: {} to ask for a step more, {} by the clock, {}",
            spread(|thread| thread.enqueue_ms, "ms"),
            spread(|thread| thread.ms, "ms"),
            spread(|thread| thread.submits, "submissions"),
        );
        Ok(())
    }

    /// The launches of each whole step, the last one of which is the reverse step. What a run begins
    /// with stands before its first step, which is none of them.
    fn steps(&self, launches: usize) -> Vec<&[Launch]> {
        self.launches
            .split_inclusive(|launch| launch.kernel.starts_with("reverse_step"))
            .filter(|step| step.len() == launches)
            .collect()
    }

    fn parts(
        &self,
        config: &UNetConfig,
        images: u32,
        steps: &[&[Launch]],
    ) -> Result<Vec<Part>, String> {
        let images = f64::from(images);
        let network = config.parts().into_iter().map(|part| Part {
            kernel: part.kernel(),
            title: part.to_string(),
            products: part.multiplications() as f64 * images,
            bytes: 4.0 * (part.weights() as f64 + part.values() as f64 * images),
            ns: 0.0,
        });
        // Four images are read (the prediction, x, the estimate before, noise), and four written.
        let last = Part {
            kernel: "reverse_step",
            title: "reverse_step".to_owned(),
            products: 0.0,
            bytes: 4.0 * 8.0 * PIXELS as f64 * images,
            ns: 0.0,
        };
        let part = |(i, mut part): (usize, Part)| {
            let found = &steps[0][i].kernel;
            // CubeCL adds what tells a kernel's variants apart.
            let variant = found.strip_prefix(part.kernel);
            if !variant.is_some_and(|variant| variant.starts_with('_')) {
                return Err(format!(
                    "launch {i} of a step is {found}, not {}",
                    part.kernel
                ));
            }
            part.ns = median(
                steps
                    .iter()
                    .map(|step| step[i].end - step[i].begin)
                    .collect(),
            );
            Ok(part)
        };
        network.chain([last]).enumerate().map(part).collect()
    }

    /// Parts with the same title together, the most expensive first.
    fn rows(&self, parts: &[Part], title: impl Fn(&Part) -> String) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for part in parts {
            let title = title(part);
            let at = rows.iter().position(|row| row.title == title);
            let at = at.unwrap_or_else(|| {
                rows.push(Row {
                    title,
                    launches: 0,
                    us: 0.0,
                    least_us: [0.0; 2],
                });
                rows.len() - 1
            });
            rows[at].launches += 1;
            rows[at].us += part.ns / 1e3;
            rows[at].least_us[0] += part.products / self.floor.products * 1e6;
            rows[at].least_us[1] += part.bytes / self.floor.bytes * 1e6;
        }
        rows.sort_by(|a, b| b.us.total_cmp(&a.us));
        rows
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
