//! Access Control Services (ACS).

use core::fmt;
use core::ops::BitOr;

/// A set of access control services, which force requests between functions to go through the IOMMU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AcsBits(u16);

impl AcsBits {
    /// Source validation: rejects requests whose bus number is not below the port.
    pub const SOURCE_VALIDATION: Self = Self(1 << 0);
    /// Translation blocking: rejects requests marked as translated.
    pub const TRANSLATION_BLOCKING: Self = Self(1 << 1);
    /// P2P request redirect: peer-to-peer requests go up to the root.
    pub const REQUEST_REDIRECT: Self = Self(1 << 2);
    /// P2P completion redirect: peer-to-peer completions go up to the root.
    pub const COMPLETION_REDIRECT: Self = Self(1 << 3);
    /// Upstream forwarding: requests that were redirected back down are passed up again.
    pub const UPSTREAM_FORWARDING: Self = Self(1 << 4);
    /// P2P egress control: controls the target of peer-to-peer requests.
    pub const EGRESS_CONTROL: Self = Self(1 << 5);
    /// Direct translated P2P: translated requests may go directly to a peer.
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

    /// Creates the set from bits of a register; bits without a name are kept.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Returns the bits of a register.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Returns whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the union of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the intersection of both sets.
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

/// The ACS capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acs {
    /// Services that the function implements.
    pub capability: AcsBits,
    /// Services that are enabled.
    pub control: AcsBits,
}

impl Acs {
    /// Returns whether every service of `wanted` that the function implements is enabled. A service that it does not
    /// implement counts as enabled, since there is no such path to close.
    // I46.
    pub const fn has_enabled(self, wanted: AcsBits) -> bool {
        self.control.contains(wanted.intersection(self.capability))
    }
}
