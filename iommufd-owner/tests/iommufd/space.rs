//! An address space as it should be: a plain list of mappings.

use iommu_core::Access;
use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapping {
    pub(crate) first: u64,
    pub(crate) bytes: u64,
    /// Where it begins in the memory of the process.
    pub(crate) from: u64,
    pub(crate) access: Access,
    /// What its window was mapped for.
    pub(crate) most: Access,
}

impl Mapping {
    pub(crate) fn end(&self) -> u64 {
        self.first + self.bytes
    }

    pub(crate) fn overlaps(&self, first: u64, bytes: u64) -> bool {
        self.first < first + bytes && first < self.end()
    }
}

/// An address space as it should be.
#[derive(Default)]
pub(crate) struct Space {
    /// Ascending.
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) allowed: Vec<(u64, u64)>,
    /// Where the process sees its memory.
    pub(crate) ram: u64,
}

impl Space {
    pub(crate) fn is_vacant(&self, first: u64, bytes: u64) -> bool {
        !self.mappings.iter().any(|mapping| mapping.overlaps(first, bytes))
    }

    /// F16: the lowest address that is as aligned as length and memory are, and begins in its page where the memory does.
    pub(crate) fn place(&self, bytes: u64, from: u64) -> Option<u64> {
        let (inside, addr) = (from % PAGE_SIZE, self.ram + from);
        let step = if inside > 0 { PAGE_SIZE } else { bytes.next_power_of_two().min(1 << addr.trailing_zeros()) };
        let fits = |first: &u64| {
            let allowed = |(low, high): &(u64, u64)| low <= first && first + bytes - 1 <= *high;
            let allowed = self.allowed.is_empty() || self.allowed.iter().any(allowed);
            *first >= PAGE_SIZE && allowed && self.is_vacant(*first, bytes)
        };
        // The lowest place is the first behind a mapping, in an allowed range, or of all.
        let ends = self.mappings.iter().map(Mapping::end).chain(self.allowed.iter().map(|(low, _)| *low));
        let first = |end: u64| (end.max(PAGE_SIZE) - inside).next_multiple_of(step) + inside;
        ends.chain([PAGE_SIZE]).map(first).filter(fits).min()
    }

    pub(crate) fn map(&mut self, place: Option<u64>, parts: &[Mapping]) -> Result<u64, Errno> {
        let bytes = parts.iter().map(|part| part.bytes).sum();
        let first = match place {
            Some(first) => first,
            None => self.place(bytes, parts[0].from).ok_or(Errno::ENOSPC)?,
        };
        if !self.is_vacant(first, bytes) {
            return Err(Errno::EEXIST);
        }
        let mut next = first;
        for part in parts {
            self.mappings.push(Mapping { first: next, ..*part });
            next += part.bytes;
        }
        self.mappings.sort_by_key(|mapping| mapping.first);
        Ok(first)
    }

    /// The parts of mappings that a range consists of, up to a hole.
    pub(crate) fn parts(&self, first: u64, bytes: u64) -> Vec<Mapping> {
        let (mut next, mut parts) = (first, Vec::new());
        while let Some(mapping) = self.mappings.iter().find(|mapping| mapping.overlaps(next, 1)) {
            let (skipped, end) = (next - mapping.first, mapping.end().min(first + bytes));
            parts.push(Mapping { first: next, bytes: end - next, from: mapping.from + skipped, ..*mapping });
            next = end;
            if end == first + bytes {
                break;
            }
        }
        parts
    }

    pub(crate) fn copy(&mut self, from: u64, bytes: u64, place: Option<u64>, access: Access) -> Result<u64, Errno> {
        let mut parts = self.parts(from, bytes);
        if parts.iter().map(|part| part.bytes).sum::<u64>() < bytes {
            return Err(Errno::ENOENT);
        }
        let denied = parts.iter().any(|part| access.permits(Access::Write) && !part.most.permits(Access::Write));
        for part in &mut parts {
            part.access = access;
        }
        let before = self.mappings.clone();
        let first = self.map(place, &parts)?;
        if denied {
            self.mappings = before;
            return Err(Errno::EPERM);
        }
        Ok(first)
    }

    /// Ft6, F21: in ascending order, up to one that sticks out.
    pub(crate) fn unmap(&mut self, first: u64, bytes: u64) -> Result<u64, Errno> {
        let mut unmapped = 0;
        while let Some(place) = self.mappings.iter().position(|mapping| mapping.overlaps(first, bytes)) {
            let mapping = self.mappings[place];
            if mapping.first < first || mapping.end() > first + bytes {
                return Err(Errno::ENOENT);
            }
            unmapped += self.mappings.remove(place).bytes;
        }
        if unmapped > 0 { Ok(unmapped) } else { Err(Errno::ENOENT) }
    }

    /// F61: makes two mappings of one that lies across; whether one did.
    pub(crate) fn cut(&mut self, at: u64) -> bool {
        let across = |mapping: &Mapping| mapping.first < at && at < mapping.end();
        let Some(place) = self.mappings.iter().position(across) else { return false };
        let whole = self.mappings[place];
        let left = at - whole.first;
        self.mappings[place].bytes = left;
        let right = Mapping { first: at, bytes: whole.bytes - left, from: whole.from + left, ..whole };
        self.mappings.insert(place + 1, right);
        true
    }
}
