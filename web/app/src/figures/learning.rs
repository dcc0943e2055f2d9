//! Figure 5, Learning: one seed through the weights of several epochs, beside the loss curve.

use crate::page::Page;

/// Starts the figure.
///
/// # Errors
/// None.
pub async fn mount(_page: Page) -> Result<(), String> {
    Ok(())
}
