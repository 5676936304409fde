//! Calls to a container, or to an iommufd in its place.

use std::fmt::Write as _;

use nix::errno::Errno;

use super::structure::Structure;
use super::{Answer, Or, Player};
use crate::language::{Call, Dirty, Rights};
use crate::system::{Fd, SCRATCH_BYTES, System};

const GET_INFO: u8 = 112;
const MAP_DMA: u8 = 113;
const UNMAP_DMA: u8 = 114;
const DIRTY_PAGES: u8 = 117;

const MAP_READ: u32 = 1;
const MAP_WRITE: u32 = 2;
const MAP_VADDR: u32 = 4;
const UNMAP_GET_DIRTY_BITMAP: u32 = 1;
const UNMAP_ALL: u32 = 2;
const UNMAP_VADDR: u32 = 4;
const DIRTY_START: u32 = 1;
const DIRTY_STOP: u32 = 2;
const DIRTY_GET: u32 = 4;

const INFO_BYTES: u32 = 4096;

impl<S: System> Player<S> {
    pub(super) fn call_address_space(&mut self, fd: Fd, call: &Call) -> Or<Answer> {
        match call {
            Call::Map { iova, bytes, offset, rights: Rights { read, write } } => {
                let flags = if *read { MAP_READ } else { 0 } | if *write { MAP_WRITE } else { 0 };
                self.map_dma(fd, flags, *iova, *bytes, *offset)
            }
            Call::MapVaddr { iova, bytes, offset } => self.map_dma(fd, MAP_VADDR, *iova, *bytes, *offset),
            Call::Unmap { iova, bytes } => self.unmap_dma(fd, 0, *iova, *bytes),
            Call::UnmapAll => self.unmap_dma(fd, UNMAP_ALL, 0, 0),
            Call::UnmapVaddr { iova, bytes } => self.unmap_dma(fd, UNMAP_VADDR, *iova, *bytes),
            Call::UnmapDirty { iova, bytes, page, bitmap } => {
                let size = bitmap.unwrap_or_else(|| bitmap_bytes(*bytes, *page));
                let data = self.clean_bitmap(size);
                let mut unmap = Structure::default();
                unmap.word(48).word(UNMAP_GET_DIRTY_BITMAP).quad(*iova).quad(*bytes);
                unmap.quad(*page).quad(size).quad(data);
                let unmapped = self.call(fd, UNMAP_DMA, &unmap).done()?.quad_at(4);
                Ok(Answer::Value(format!("{unmapped:#x} {}", self.dirty_runs(size))))
            }
            Call::Dirty(Dirty::Start) => self.dirty_pages(fd, DIRTY_START),
            Call::Dirty(Dirty::Stop) => self.dirty_pages(fd, DIRTY_STOP),
            Call::Dirty(Dirty::Get { iova, bytes, page, last }) => {
                let size = last.unwrap_or_else(|| bitmap_bytes(*bytes, *page));
                let data = self.clean_bitmap(size);
                let mut get = Structure::default();
                get.word(48).word(DIRTY_GET).quad(*iova).quad(*bytes).quad(*page).quad(size).quad(data);
                self.call(fd, DIRTY_PAGES, &get).done()?;
                Ok(Answer::Value(self.dirty_runs(size)))
            }
            Call::IommuInfo => self.iommu_info(fd),
            _ => Err(Errno::ENOTTY.into()),
        }
    }

    fn map_dma(&mut self, fd: Fd, flags: u32, iova: u64, bytes: u64, offset: u64) -> Or<Answer> {
        let mut map = Structure::default();
        map.word(32).word(flags).quad(self.address(offset)).quad(iova).quad(bytes);
        self.succeed(fd, MAP_DMA, &map)
    }

    fn unmap_dma(&mut self, fd: Fd, flags: u32, iova: u64, bytes: u64) -> Or<Answer> {
        let mut unmap = Structure::default();
        unmap.word(24).word(flags).quad(iova).quad(bytes);
        let unmapped = self.call(fd, UNMAP_DMA, &unmap).done()?.quad_at(4);
        Ok(Answer::Value(format!("{unmapped:#x}")))
    }

    fn dirty_pages(&mut self, fd: Fd, flags: u32) -> Or<Answer> {
        let mut dirty = Structure::default();
        dirty.word(8).word(flags);
        self.succeed(fd, DIRTY_PAGES, &dirty)
    }

    /// A bitmap without bits, as much of it as there is room for.
    pub(super) fn clean_bitmap(&mut self, bytes: u64) -> u64 {
        self.pointee(&vec![0; room_for(bytes)])
    }

    /// The bits of the bitmap, as runs.
    pub(super) fn dirty_runs(&self, bytes: u64) -> String {
        let bitmap = self.pointed_to(room_for(bytes));
        let set = |bit: usize| bitmap.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1);
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for bit in (0..bitmap.len() * 8).filter(|bit| set(*bit)) {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == bit => *count += 1,
                _ => runs.push((bit, 1)),
            }
        }
        if runs.is_empty() {
            return "clean".to_owned();
        }
        runs.iter().map(|(first, count)| format!("{first}+{count}")).collect::<Vec<_>>().join(",")
    }

    fn iommu_info(&mut self, fd: Fd) -> Or<Answer> {
        let mut info = Structure::default();
        info.word(INFO_BYTES).word(0).quad(0).word(0).word(0);
        let info = self.call(fd, GET_INFO, &info).done()?;
        let mut said = format!("flags {:#x} pages {:#x}", info.word_at(1), info.quad_at(2));
        let mut at = info.word_at(4) as usize / 4;
        // A chain that is not one ends here.
        for _ in 0..INFO_BYTES {
            if at == 0 {
                break;
            }
            match info.word_at(at) & 0xffff {
                1 => {
                    said += " ranges";
                    for range in 0..info.word_at(at + 2) as usize {
                        let place = at + 4 + 4 * range;
                        let _ = write!(said, " {:#x}-{:#x}", info.quad_at(place), info.quad_at(place + 2));
                    }
                }
                2 => {
                    let _ = write!(said, " dirty pages {:#x} max {:#x}", info.quad_at(at + 4), info.quad_at(at + 6));
                }
                3 => {
                    let _ = write!(said, " avail {}", info.word_at(at + 2));
                }
                other => {
                    let _ = write!(said, " capability {other}");
                }
            }
            at = info.word_at(at + 1) as usize / 4;
        }
        Ok(Answer::Value(said))
    }
}

/// Bytes of a bitmap with a bit for each page, in whole 64 bits.
pub(super) fn bitmap_bytes(bytes: u64, page: u64) -> u64 {
    bytes.checked_div(page).unwrap_or(0).div_ceil(64).saturating_mul(8)
}

/// As much of a bitmap as the scratch area has room for.
fn room_for(bytes: u64) -> usize {
    usize::try_from(bytes.min(SCRATCH_BYTES / 2)).unwrap_or(0)
}
