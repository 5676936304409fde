//! The data of commands: physical region pages (PRPs).

use alloc::vec;
use alloc::vec::Vec;

use iommu_core::Iova;
use iommu_core::software::SimulatedDevice;
use zerocopy::little_endian::U64;

use super::command::{Command, Status};

/// The size of pages in memory, the only one that the controller knows.
pub(super) const PAGE: u64 = 0x1000;
/// An entry of a PRP list.
const ENTRY: u64 = 8;

/// Reads the data of a command from memory.
pub(super) fn read(dma: &SimulatedDevice, command: &Command, length: usize) -> Result<Vec<u8>, Status> {
    let mut data = vec![0; length];
    let mut left = data.as_mut_slice();
    for (at, length) in pieces(dma, command, length)? {
        let Some((piece, behind)) = left.split_at_mut_checked(length) else { break };
        dma.read(at, piece).map_err(|_| Status::DATA_TRANSFER)?;
        left = behind;
    }
    Ok(data)
}

/// Writes the data of a command to memory.
pub(super) fn write(dma: &SimulatedDevice, command: &Command, data: &[u8]) -> Result<(), Status> {
    let mut left = data;
    for (at, length) in pieces(dma, command, data.len())? {
        let Some((piece, behind)) = left.split_at_checked(length) else { break };
        dma.write(at, piece).map_err(|_| Status::DATA_TRANSFER)?;
        left = behind;
    }
    Ok(())
}

/// Where the data are. Pages one behind the other make one piece.
fn pieces(dma: &SimulatedDevice, command: &Command, length: usize) -> Result<Vec<(Iova, usize)>, Status> {
    let [first, second] = command.prp.map(U64::get);
    if !first.is_multiple_of(4) {
        return Err(Status::INVALID_PRP_OFFSET);
    }
    let mut pieces = Pieces { all: Vec::new(), left: length as u64 };
    pieces.add(first);
    if pieces.left > PAGE {
        pieces.add_list(dma, second)?;
    } else if pieces.left > 0 {
        pieces.add_page(second)?;
    }
    Ok(pieces.all)
}

struct Pieces {
    all: Vec<(Iova, usize)>,
    /// So many bytes are still to be placed.
    left: u64,
}

impl Pieces {
    /// Adds what there is from `at` to the end of its page.
    fn add(&mut self, at: u64) {
        let length = (PAGE - at % PAGE).min(self.left);
        self.left -= length;
        // At most a page.
        let length = usize::try_from(length).unwrap_or_default();
        match self.all.last_mut() {
            Some((start, before)) if start.get().checked_add(*before as u64) == Some(at) => *before += length,
            _ => self.all.push((Iova::new(at), length)),
        }
    }

    fn add_page(&mut self, at: u64) -> Result<(), Status> {
        if !at.is_multiple_of(PAGE) {
            return Err(Status::INVALID_PRP_OFFSET);
        }
        self.add(at);
        Ok(())
    }

    /// Adds the pages of a list. Where it does not fit into its page, the last entry tells where it goes on.
    fn add_list(&mut self, dma: &SimulatedDevice, at: u64) -> Result<(), Status> {
        if !at.is_multiple_of(ENTRY) {
            return Err(Status::INVALID_PRP_OFFSET);
        }
        let mut next = Some(at);
        while let Some(list) = next.take() {
            let here = (PAGE - list % PAGE) / ENTRY;
            let needed = self.left.div_ceil(PAGE);
            let mut bytes = vec![0; usize::try_from(needed.min(here) * ENTRY).unwrap_or_default()];
            dma.read(Iova::new(list), &mut bytes).map_err(|_| Status::DATA_TRANSFER)?;
            let mut entries: Vec<u64> = bytes.as_chunks().0.iter().copied().map(u64::from_le_bytes).collect();
            if needed > here {
                // All but the first list are whole pages, so this ends.
                next = entries.pop();
                if next.is_some_and(|next| !next.is_multiple_of(PAGE)) {
                    return Err(Status::INVALID_PRP_OFFSET);
                }
            }
            entries.into_iter().try_for_each(|entry| self.add_page(entry))?;
        }
        Ok(())
    }
}
