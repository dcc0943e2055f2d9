//! Figures as the rows of a table in Markdown, for `docs/model.md`.

use std::path::{Path, PathBuf};

use crate::{
    evaluate::{Estimate, Figures, Report},
    files::{self, FileError},
    network::NetworkFigures,
};

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A file of something else.
    #[error("{}: expected {expected}, found something else ({reason})", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
        /// What the reader says.
        reason: String,
    },
    /// The system would not read it.
    #[error(transparent)]
    File(#[from] FileError),
}

/// One row for each evaluation, then those of the real images that stood beside the first.
///
/// # Errors
/// [`TableError`] names the file.
pub fn evaluations(paths: &[PathBuf]) -> Result<String, TableError> {
    let reports = read_reports(paths)?;
    let mut table = row(&[
        "",
        "N",
        "FD train",
        "FD test",
        "precision",
        "recall",
        "density",
        "coverage",
        "agreement",
        "broken",
        "copies",
    ]);
    table += &row(&["---"; 11]);
    for report in &reports {
        for figures in &report.samples {
            let name = format!("{}: {}", subject(report), figures.name);
            table += &figures_row(&name, figures);
        }
    }
    for figures in reports.iter().take(1).flat_map(|report| &report.beside) {
        table += &figures_row(&figures.name, figures);
    }
    Ok(table)
}

/// One row for each network that `trainer network` measured, with the figures of the evaluations
/// whose weights have that shape.
///
/// # Errors
/// [`TableError`] names the file.
pub fn networks(measured: &Path, paths: &[PathBuf]) -> Result<String, TableError> {
    let measured: Vec<NetworkFigures> = read(measured, "what `trainer network` writes")?;
    let reports = read_reports(paths)?;
    let found_of_each = [
        "images seen",
        "sampler",
        "FD train",
        "precision",
        "recall",
        "broken",
    ];
    let columns = [&NetworkFigures::COLUMNS[..], &found_of_each].concat();
    let mut table = row(&columns) + &row(&vec!["---"; columns.len()]);
    for network in &measured {
        let mut start = network.cells().to_vec();
        let same = |report: &&Report| report.subject["network"] == network.name.as_str();
        let mut found = reports.iter().filter(same).peekable();
        if found.peek().is_none() {
            start.resize(columns.len(), "-".to_owned());
            table += &row(&start);
            continue;
        }
        for report in found {
            let figures = &report.samples[0];
            let more = [
                report.text("images_seen").unwrap_or_default(),
                walk(report),
                distance(&figures.frechet_train),
                share(&figures.precision),
                share(&figures.recall),
                share(&figures.broken),
            ];
            table += &row(&[&start[..], &more].concat());
        }
    }
    Ok(table)
}

fn read<T: serde::de::DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<T, TableError> {
    let bytes = files::read(path)?;
    serde_json::from_slice(&bytes).map_err(|error| TableError::Foreign {
        path: path.to_owned(),
        expected,
        reason: error.to_string(),
    })
}

fn read_reports(paths: &[PathBuf]) -> Result<Vec<Report>, TableError> {
    let expected = "the evaluation.json of `trainer evaluate`";
    paths
        .iter()
        .map(|path| match read::<Report>(path, expected) {
            Ok(report) if report.samples.is_empty() => Err(TableError::Foreign {
                path: path.clone(),
                expected,
                reason: "no images were judged".to_owned(),
            }),
            other => other,
        })
        .collect()
}

/// `epoch 12, ddim 50 eta 1.0`; of images from elsewhere, where they were.
fn subject(report: &Report) -> String {
    if let Some(images) = report.text("images") {
        return images;
    }
    let epoch = report.text("epoch").map(|epoch| format!("epoch {epoch}"));
    let parts: Vec<String> = epoch.into_iter().chain([walk(report)]).collect();
    parts.join(", ")
}

/// `ddim 50 eta 1.0`, and the guidance where there is some.
fn walk(report: &Report) -> String {
    let part = |before: &str, key: &str| report.text(key).map(|text| format!("{before}{text}"));
    let guidance = part("guidance ", "guidance_scale").filter(|text| text != "guidance 1.0");
    let parts = [
        part("", "sampler"),
        part("", "steps"),
        part("eta ", "eta"),
        guidance,
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn figures_row(name: &str, figures: &Figures) -> String {
    row(&[
        name.to_owned(),
        figures.count.to_string(),
        distance(&figures.frechet_train),
        distance(&figures.frechet_test),
        share(&figures.precision),
        share(&figures.recall),
        share(&figures.density),
        share(&figures.coverage),
        figures.agreement.as_ref().map_or("-".to_owned(), share),
        share(&figures.broken),
        share(&figures.memorisation.suspicious),
    ])
}

fn row(cells: &[impl AsRef<str>]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// Three digits that count, and two of the interval's ends.
fn distance(estimate: &Estimate) -> String {
    let digits = |value: f64, digits: i32| {
        let before = value.abs().max(1e-9).log10().floor() as i32;
        let after = (digits - 1 - before).clamp(0, digits) as usize;
        format!("{value:.after$}")
    };
    let [low, high] = estimate.interval;
    format!(
        "{} ({}-{})",
        digits(estimate.value, 3),
        digits(low, 2),
        digits(high, 2)
    )
}

/// `.855 (.84-.87)`.
fn share(estimate: &Estimate) -> String {
    let digits = |value: f64, digits: usize| {
        let text = format!("{value:.digits$}");
        text.strip_prefix('0').map(str::to_owned).unwrap_or(text)
    };
    let [low, high] = estimate.interval;
    format!(
        "{} ({}-{})",
        digits(estimate.value, 3),
        digits(low, 2),
        digits(high, 2)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_with_the_digits_that_count() {
        let estimate = |value, low, high| Estimate {
            value,
            interval: [low, high],
        };
        assert_eq!(distance(&estimate(5.952, 4.77, 7.13)), "5.95 (4.8-7.1)");
        assert_eq!(distance(&estimate(0.976, 0.45, 1.81)), "0.976 (0.45-1.8)");
        assert_eq!(distance(&estimate(76.04, 74.2, 78.0)), "76.0 (74-78)");
        assert_eq!(
            distance(&estimate(1204.0, 990.0, 1300.0)),
            "1204 (990-1300)"
        );
        assert_eq!(share(&estimate(0.8552, 0.838, 0.869)), ".855 (.84-.87)");
        assert_eq!(share(&estimate(1.0, 0.991, 1.0)), "1.000 (.99-1.00)");
    }

    #[test]
    fn what_is_no_evaluation_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        assert!(
            evaluations(std::slice::from_ref(&path))
                .unwrap_err()
                .to_string()
                .contains("cannot read")
        );
        std::fs::write(&path, "{}").unwrap();
        let error = evaluations(std::slice::from_ref(&path))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("x.json") && error.contains("evaluate"),
            "{error}"
        );
        let error = networks(&path, &[]).unwrap_err().to_string();
        assert!(error.contains("trainer network"), "{error}");
    }
}
