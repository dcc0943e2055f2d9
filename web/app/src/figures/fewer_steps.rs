//! Figure 7, Fewer steps: one start noise through three samplers.

use crate::page::Page;

/// Starts the figure.
///
/// # Errors
/// None.
pub async fn mount(_page: Page) -> Result<(), String> {
    Ok(())
}
