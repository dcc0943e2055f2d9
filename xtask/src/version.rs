//! Versions: what programs say of themselves, and what `Cargo.lock` wants.

use std::fmt;

/// A version as far as tools differ by it: up to three numbers. `116`, `0.21.14` and
/// `156.0.8078.79` all are; what follows the third number is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// The first word of `text` that starts like a version, as in `wasm-opt version 132
    /// (version_132)`, `trunk 0.21.14` or `Mozilla Firefox 153.7.0esr`.
    pub fn find(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(Self::parse)
    }

    fn parse(word: &str) -> Option<Self> {
        let word = word.strip_prefix('v').unwrap_or(word);
        let mut numbers = [0; 3];
        for (number, part) in numbers.iter_mut().zip(word.split('.')) {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            *number = match part[..digits].parse() {
                Ok(number) => number,
                Err(_) if part.as_ptr() == word.as_ptr() => return None,
                Err(_) => 0,
            };
        }
        Some(Self(numbers[0], numbers[1], numbers[2]))
    }
}

/// The version of `package` in the text of a `Cargo.lock`; the first, where there are several.
pub fn locked(lockfile: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lockfile.lines().map(str::trim);
    lines.find(|line| *line == name)?;
    lines
        .next()?
        .strip_prefix("version = \"")?
        .strip_suffix('"')
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (text, version) in [
            ("wasm-opt version 108", Version(108, 0, 0)),
            ("wasm-opt version 132 (version_132)", Version(132, 0, 0)),
            ("trunk 0.21.14\n", Version(0, 21, 14)),
            (
                "wasm-bindgen 0.2.130 (abcdef012 2026-01-01)",
                Version(0, 2, 130),
            ),
            (
                "Chromium 156.0.8078.79 built on Debian",
                Version(156, 0, 8078),
            ),
            ("Mozilla Firefox 153.7.0esr", Version(153, 7, 0)),
            ("geckodriver 0.37.1 (7a3b 2026)", Version(0, 37, 1)),
            ("v20.20.2", Version(20, 20, 2)),
            ("curl 8.x", Version(8, 0, 0)),
        ] {
            assert_eq!(Version::find(text), Some(version), "{text}");
        }
        for text in ["", "no number here", "version unknown", "99999999999.0"] {
            assert_eq!(Version::find(text), None, "{text}");
        }
    }

    #[test]
    fn versions_compare_by_number_not_by_letter() {
        assert!(Version(0, 21, 14) > Version(0, 21, 9));
        assert!(Version(116, 0, 0) > Version(108, 9, 9));
        assert!(Version(0, 22, 0) > Version(0, 21, 14));
    }

    #[test]
    fn the_lock_file_names_one_version() {
        let lockfile = "[[package]]\nname = \"wasm-bindgen-futures\"\nversion = \"0.4.9\"\n\n\
            [[package]]\r\nname = \"wasm-bindgen\"\r\nversion = \"0.2.130\"\r\nsource = \"x\"\n";
        assert_eq!(locked(lockfile, "wasm-bindgen").as_deref(), Some("0.2.130"));
        assert_eq!(
            locked(lockfile, "wasm-bindgen-futures").as_deref(),
            Some("0.4.9")
        );
        assert_eq!(locked(lockfile, "bindgen"), None);
        assert_eq!(locked("name = \"wasm-bindgen\"", "wasm-bindgen"), None);
    }
}
