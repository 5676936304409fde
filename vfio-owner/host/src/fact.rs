//! A fact of a machine that its source may not show.

use serde::{Deserialize, Serialize};

/// A fact about a machine, as far as its source shows it. A fact that is not shown is unknown, not absent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fact<T> {
    /// The value is known.
    Is(T),
    /// There is no value.
    Absent,
    /// The source does not show it.
    #[default]
    Unknown,
}

impl<T> Fact<T> {
    /// Returns the value, if there is one and it is known.
    pub fn known(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Unknown => None,
        }
    }

    /// Returns the fact about a reference to the value.
    pub const fn as_ref(&self) -> Fact<&T> {
        match self {
            Self::Is(value) => Fact::Is(value),
            Self::Absent => Fact::Absent,
            Self::Unknown => Fact::Unknown,
        }
    }

    /// Applies a function to the value.
    pub fn map<U>(self, function: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Self::Is(value) => Fact::Is(function(value)),
            Self::Absent => Fact::Absent,
            Self::Unknown => Fact::Unknown,
        }
    }
}
