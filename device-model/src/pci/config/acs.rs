//! Access control services.

use core::fmt;
use core::ops::BitOr;

/// A set of access control services: what keeps requests from passing between functions without going through the IOMMU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AcsBits(u16);

impl AcsBits {
    /// Source validation: a request whose bus number is not one of those below is refused.
    pub const SOURCE_VALIDATION: Self = Self(1 << 0);
    /// Translation blocking: a request that claims to be translated is refused.
    pub const TRANSLATION_BLOCKING: Self = Self(1 << 1);
    /// Peer-to-peer requests go up to the root.
    pub const REQUEST_REDIRECT: Self = Self(1 << 2);
    /// Peer-to-peer completions go up to the root.
    pub const COMPLETION_REDIRECT: Self = Self(1 << 3);
    /// Requests that came back down to where they were from are passed up again.
    pub const UPSTREAM_FORWARDING: Self = Self(1 << 4);
    /// Control over where peer-to-peer requests go, by range.
    pub const EGRESS_CONTROL: Self = Self(1 << 5);
    /// Translated requests may go straight to a peer.
    pub const DIRECT_TRANSLATED: Self = Self(1 << 6);

    const NAMED: [(Self, &'static str); 7] = [
        (Self::SOURCE_VALIDATION, "SV"),
        (Self::TRANSLATION_BLOCKING, "TB"),
        (Self::REQUEST_REDIRECT, "RR"),
        (Self::COMPLETION_REDIRECT, "CR"),
        (Self::UPSTREAM_FORWARDING, "UF"),
        (Self::EGRESS_CONTROL, "EC"),
        (Self::DIRECT_TRANSLATED, "DT"),
    ];

    /// The set of these bits of a register; bits without a name are kept.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// As bits of a register.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for AcsBits {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl fmt::Debug for AcsBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcsBits({:#06x}", self.0)?;
        for (_, name) in Self::NAMED.iter().filter(|(bit, _)| self.contains(*bit)) {
            write!(f, " {name}")?;
        }
        f.write_str(")")
    }
}

/// What the ACS capability says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acs {
    /// What the function implements.
    pub capability: AcsBits,
    /// What is switched on.
    pub control: AcsBits,
}

impl Acs {
    /// Whether every service of `wanted` that the function implements is on; one that it does not implement counts as on,
    /// for it has no such path to close.
    // I46.
    pub const fn has_enabled(self, wanted: AcsBits) -> bool {
        self.control.contains(wanted.intersection(self.capability))
    }
}
