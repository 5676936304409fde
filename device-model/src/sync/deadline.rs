//! Deadlines of waits.

use core::time::Duration;
use std::time::Instant;

/// A moment in the future, perhaps further away than the clock can tell.
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self(Instant::now().checked_add(timeout))
    }

    /// Zero from then on.
    pub(crate) fn left(&self) -> Duration {
        self.0.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }
}
