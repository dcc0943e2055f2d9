//! Launches recorded once and issued again as a whole.

use burn::{
    backend::{Backend, Dispatch, DispatchGraph},
    tensor::Device,
};

use crate::IN_EARNEST;

/// A recorded sequence of launches.
pub(crate) struct Graph {
    graph: DispatchGraph,
    device: Device,
}

impl Graph {
    /// Runs `work` [`IN_EARNEST`] times in earnest, so that all it needs is compiled and allocated, and
    /// then so many `times` only on paper.
    ///
    /// On paper nothing can be allocated. Of the two runs in earnest the first one takes what memory
    /// happens to be free, in pieces that are free no more for the second one: this one finds what
    /// the work itself leaves behind, as does each one on paper.
    pub(crate) fn capture(
        device: &Device,
        times: usize,
        mut work: impl FnMut(),
    ) -> Result<Self, String> {
        let dispatch = device.as_dispatch();
        Dispatch::graph_prepare(dispatch).map_err(|error| error.to_string())?;
        (0..IN_EARNEST).for_each(|_| work());
        Dispatch::graph_start_capture(dispatch).map_err(|error| error.to_string())?;
        (0..times).for_each(|_| work());
        let graph = Dispatch::graph_stop_capture(dispatch).map_err(|error| error.to_string())?;
        let device = device.clone();
        Ok(Self { graph, device })
    }

    /// Issues the launches.
    ///
    /// # Safety
    /// Every tensor that the work read, and every one that it wrote and that is still to be read,
    /// must be alive, and nobody else may be using them.
    pub(crate) unsafe fn replay(&self) -> Result<(), String> {
        // SAFETY: the caller's promise is the same.
        unsafe { Dispatch::graph_replay(self.device.as_dispatch(), &self.graph) }
            .map_err(|error| error.to_string())
    }
}
