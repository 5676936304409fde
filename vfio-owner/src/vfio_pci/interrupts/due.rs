//! What a change of interrupts leaves to be done once no lock is held.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::device_ops::{Listening, Trigger};

/// Which event unmasks the line.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnmaskToken(Arc<()>);

impl UnmaskToken {
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What is to be done once no lock is held.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// To be signalled.
    pub(crate) signals: Vec<Trigger>,
    /// To be listened to.
    pub(crate) listen: Option<(Trigger, UnmaskToken)>,
    /// To be dropped.
    pub(crate) ended: Option<Listening>,
}

impl Due {
    pub(crate) fn signal(triggers: impl IntoIterator<Item = Trigger>) -> Self {
        Self { signals: triggers.into_iter().collect(), ..Self::default() }
    }

    pub(super) fn end(listening: Option<Listening>) -> Self {
        Self { ended: listening, ..Self::default() }
    }
}
