//! Lecture mode: one figure at a time on the whole screen, large, worked by keys.

use crate::page::Page;

/// Connects lecture mode.
pub fn start(_page: &Page) {}
