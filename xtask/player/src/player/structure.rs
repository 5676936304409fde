//! Structures of calls, field by field.

use nix::errno::Errno;

use crate::system::Fd;

/// How much of the scratch area a structure has, zeros behind it.
const BYTES: usize = 64 << 10;

/// Where in the scratch area stands what structures point to.
pub(super) const POINTEES: u64 = 128 << 10;

/// How much of a structure is looked at for changes.
const SEEN: usize = 4096;

/// The structure of a call, as the caller fills it or as the call left it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Structure(Vec<u8>);

/// What came of a call.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) result: Result<u32, Errno>,
    /// The structure afterwards, also if it failed.
    pub(super) after: Structure,
}

impl Called {
    /// The structure of a call that succeeded.
    pub(super) fn done(self) -> Result<Structure, Errno> {
        self.result.map(|_| self.after)
    }
}

impl From<Vec<u8>> for Structure {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Structure {
    pub(super) fn word(&mut self, word: u32) -> &mut Self {
        self.bytes(&word.to_ne_bytes())
    }

    pub(super) fn quad(&mut self, quad: u64) -> &mut Self {
        self.bytes(&quad.to_ne_bytes())
    }

    pub(super) fn file(&mut self, fd: Fd) -> &mut Self {
        self.bytes(&fd.to_ne_bytes())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// With zeros behind.
    pub(super) fn padded(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize(BYTES, 0);
        bytes
    }

    fn at<const N: usize>(&self, place: usize) -> [u8; N] {
        let bytes = place.checked_mul(4).and_then(|at| self.0.get(at..)?.first_chunk());
        bytes.copied().unwrap_or([0; N])
    }

    /// The 32 bits at a place that is counted in 32 bits.
    pub(super) fn word_at(&self, place: usize) -> u32 {
        u32::from_ne_bytes(self.at(place))
    }

    /// The 64 bits at a place that is counted in 32 bits.
    pub(super) fn quad_at(&self, place: usize) -> u64 {
        u64::from_ne_bytes(self.at(place))
    }

    /// The words that are others in `after`.
    pub(super) fn changed<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = (usize, u32)> + 'a {
        let words = (0..SEEN / 4).map(|place| (place, after.word_at(place)));
        words.filter(|(place, word)| self.word_at(*place) != *word)
    }
}
