//! What the devices of a group are attached to, for those who look at it.

use core::fmt;

use crate::hardware::DefaultDomainType;

/// What the devices of a group are attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attached {
    /// Nothing; the group is empty.
    Nothing,
    /// The kernel's default domain.
    Default(DefaultDomainType),
    /// The blocking domain.
    Blocking,
    /// A domain that its owner, or a kernel driver, attached.
    Own,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Default(kind) => write!(f, "default domain ({})", kind.domain_kind()),
            Self::Blocking => f.write_str("blocking domain"),
            Self::Own => f.write_str("a domain of its own"),
        }
    }
}

/// Where a member of a group is, compared with where the group is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// It is attached where the group is.
    Attached,
    /// Hardware refused to attach it, and its DMA is stopped.
    Stopped,
    /// Hardware refused to attach it and to stop it: it may still reach domains that the group keeps in quarantine.
    Unknown,
}
