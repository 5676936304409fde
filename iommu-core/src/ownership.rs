//! DMA ownership of a group, as a pure value.

use alloc::sync::Arc;
use core::fmt;
use core::num::NonZeroU32;

/// A user-space owner. Clones are the same owner; two owners created separately are never equal, whatever their names.
// A thin pointer, so that a group's ownership and its lock fit into one cache line. The allocation is the identity.
#[derive(Clone)]
pub struct Owner(Arc<Arc<str>>);

impl Owner {
    /// Creates a new owner, with a name for messages (`"VFIO group 3"`).
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(name.into()))
    }

    /// Returns the name for messages.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Owner {}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({})", self.0)
    }
}

/// DMA ownership of a group. An owner without claims cannot be represented.
///
/// | change | from | to |
/// |---|---|---|
/// | kernel use begins | `Idle`, `Kernel` | `Kernel`, one user more |
/// | kernel use ends | `Kernel` | one user less, `Idle` after the last |
/// | group claim | `Idle` | `User`, 1 claim |
/// | device claim | `Idle`, `User` of the same owner | `User`, one claim more |
/// | a claim ends | `User` | one claim less, `Idle` after the last |
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Ownership {
    /// No owner: kernel drivers may bind, and user space may claim.
    #[default]
    Idle,
    /// Used by kernel drivers through the DMA API.
    Kernel {
        /// Number of kernel users.
        users: NonZeroU32,
    },
    /// Owned by user space.
    User {
        /// The owner.
        owner: Owner,
        /// Number of claims that it holds.
        claims: NonZeroU32,
    },
}

/// A change of ownership was refused: the state speaks against it, or the count is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refused;

impl Ownership {
    /// Returns whether the group is used or owned.
    pub const fn is_held(&self) -> bool {
        !matches!(self, Self::Idle)
    }

    /// Returns the user-space owner.
    #[inline]
    pub const fn owner(&self) -> Option<&Owner> {
        match self {
            Self::User { owner, .. } => Some(owner),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn begin_kernel_use(&mut self) -> Result<(), Refused> {
        match self {
            Self::Idle => *self = Self::Kernel { users: NonZeroU32::MIN },
            Self::Kernel { users } => *users = users.checked_add(1).ok_or(Refused)?,
            Self::User { .. } => return Err(Refused),
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn end_kernel_use(&mut self) {
        if let Self::Kernel { users } = self {
            match NonZeroU32::new(users.get() - 1) {
                Some(left) => *users = left,
                None => *self = Self::Idle,
            }
        }
    }

    /// A first claim.
    #[inline]
    pub(crate) fn claim(&mut self, owner: Owner) {
        *self = Self::User { owner, claims: NonZeroU32::MIN };
    }

    /// A further claim of the owner.
    // It6.4.
    #[inline]
    pub(crate) fn claim_again(&mut self, by: &Owner) -> Result<(), Refused> {
        match self {
            Self::User { owner, claims } if owner == by => {
                *claims = claims.checked_add(1).ok_or(Refused)?;
                Ok(())
            }
            _ => Err(Refused),
        }
    }

    /// One claim less; the owner, if it was the last.
    #[inline]
    pub(crate) fn end_claim(&mut self) -> Option<Owner> {
        let Self::User { claims, .. } = self else { return None };
        if let Some(left) = NonZeroU32::new(claims.get() - 1) {
            *claims = left;
            return None;
        }
        match core::mem::take(self) {
            Self::User { owner, .. } => Some(owner),
            _ => None,
        }
    }
}

impl fmt::Display for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Kernel { users } => write!(f, "kernel, {users} {}", plural(users.get(), "user", "users")),
            Self::User { owner, claims } => write!(f, "{owner}, {claims} {}", plural(claims.get(), "claim", "claims")),
        }
    }
}

const fn plural(count: u32, one: &'static str, more: &'static str) -> &'static str {
    if count == 1 { one } else { more }
}
