//! Calls to an iommufd and its objects.

use std::fmt::Write as _;

use nix::errno::Errno;

use super::address_space::bitmap_bytes;
use super::names::Name;
use super::structure::{Called, Structure};
use super::{Answer, Or, Player};
use crate::language::{Call, CopyTo, Dirty, Handle, Rights, VfioIoas};
use crate::system::{Fd, System};

const DESTROY: u8 = 0x80;
const IOAS_ALLOC: u8 = 0x81;
const IOAS_ALLOW_IOVAS: u8 = 0x82;
const IOAS_COPY: u8 = 0x83;
const IOAS_IOVA_RANGES: u8 = 0x84;
const IOAS_MAP: u8 = 0x85;
const IOAS_UNMAP: u8 = 0x86;
const OPTION: u8 = 0x87;
const VFIO_IOAS: u8 = 0x88;
const HWPT_ALLOC: u8 = 0x89;
const GET_HW_INFO: u8 = 0x8a;
const SET_DIRTY_TRACKING: u8 = 0x8b;
const GET_DIRTY_BITMAP: u8 = 0x8c;
const HWPT_INVALIDATE: u8 = 0x8d;
const FAULT_QUEUE_ALLOC: u8 = 0x8e;

const MAP_FIXED: u32 = 1;
const MAP_WRITE: u32 = 2;
const MAP_READ: u32 = 4;
const OPTION_RLIMIT_MODE: u32 = 0;
const OPTION_HUGE_PAGES: u32 = 1;
const OPERATION_SET: u32 = 0;
const OPERATION_GET: u32 = 1;

/// Room for ranges unless said otherwise.
const RANGES: u32 = 64;

/// What stands in a buffer before the system writes there.
const UNWRITTEN: u8 = 0xa5;

fn flags_of(rights: Rights) -> u32 {
    (if rights.read { MAP_READ } else { 0 }) | if rights.write { MAP_WRITE } else { 0 }
}

impl<S: System> Player<S> {
    pub(super) fn ioas_alloc(&mut self, iommufd: &Handle) -> Or<Name<S::Child>> {
        let iommufd = self.names.file(iommufd)?;
        let mut alloc = Structure::default();
        alloc.word(12).word(0).word(0);
        let id = self.call(iommufd, IOAS_ALLOC, &alloc).done()?.word_at(2);
        Ok(Name::Object { iommufd, id })
    }

    pub(super) fn fault_queue_alloc(&mut self, iommufd: &Handle, flags: u32) -> Or<Name<S::Child>> {
        let iommufd = self.names.file(iommufd)?;
        let mut alloc = Structure::default();
        alloc.word(16).word(flags).word(0).word(0);
        let made = self.call(iommufd, FAULT_QUEUE_ALLOC, &alloc).done()?;
        let file = Fd::try_from(made.word_at(3)).map_err(|_| Errno::EBADF)?;
        Ok(Name::FaultQueue { iommufd, id: made.word_at(2), file })
    }

    pub(super) fn hwpt_alloc(
        &mut self,
        bound: &Handle,
        parent: &Handle,
        flags: u32,
        (kind, length): (u32, u32),
        fault: Option<&Handle>,
    ) -> Or<Name<S::Child>> {
        let (iommufd, dev) = self.names.object(&bound.dev()).ok_or(Errno::EBADF)?;
        let (_, parent) = self.names.object(parent).ok_or(Errno::EBADF)?;
        let fault = match fault {
            Some(fault) => self.names.object(fault).ok_or(Errno::EBADF)?.1,
            None => 0,
        };
        let data = self.pointee(&[0; 4096]);
        let mut alloc = Structure::default();
        alloc.word(48).word(flags).word(dev).word(parent).word(0).word(0).word(kind).word(length).quad(data);
        alloc.word(fault).word(0);
        let id = self.call(iommufd, HWPT_ALLOC, &alloc).done()?.word_at(4);
        Ok(Name::Object { iommufd, id })
    }

    /// A call that concerns an object, made to its iommufd.
    pub(super) fn call_object(&mut self, handle: &Handle, iommufd: Fd, id: u32, call: &Call) -> Or<Answer> {
        let mut of = Structure::default();
        match call {
            Call::Destroy => {
                of.word(8).word(id);
                self.call(iommufd, DESTROY, &of).done()?;
                self.names.take(handle);
                Ok(Answer::Ok)
            }
            Call::Map { iova, bytes, offset, rights } => {
                of.word(40).word(MAP_FIXED | flags_of(*rights)).word(id).word(0);
                of.quad(self.address(*offset)).quad(*bytes).quad(*iova);
                self.succeed(iommufd, IOAS_MAP, &of)
            }
            Call::MapAny { bytes, offset } => {
                of.word(40).word(MAP_READ | MAP_WRITE).word(id).word(0);
                of.quad(self.address(*offset)).quad(*bytes).quad(0);
                Ok(Answer::Value(format!("{:#x}", self.call(iommufd, IOAS_MAP, &of).done()?.quad_at(8))))
            }
            Call::Unmap { .. } | Call::UnmapAll => {
                let (iova, bytes) =
                    if let Call::Unmap { iova, bytes } = call { (*iova, *bytes) } else { (0, u64::MAX) };
                of.word(24).word(id).quad(iova).quad(bytes);
                Ok(Answer::Value(format!("{:#x}", self.call(iommufd, IOAS_UNMAP, &of).done()?.quad_at(4))))
            }
            Call::CopyFrom { source, from, bytes, to, rights } => {
                let (_, source) = self.names.object(source).ok_or(Errno::EBADF)?;
                let (fixed, place) = match to {
                    CopyTo::Fixed(place) => (MAP_FIXED, *place),
                    CopyTo::Any => (0, 0),
                };
                of.word(40).word(fixed | flags_of(*rights)).word(id).word(source).quad(*bytes).quad(place).quad(*from);
                let copied = self.call(iommufd, IOAS_COPY, &of).done()?;
                Ok(match to {
                    CopyTo::Fixed(_) => Answer::Ok,
                    CopyTo::Any => Answer::Value(format!("{:#x}", copied.quad_at(6))),
                })
            }
            Call::Ranges(room) => self.ranges(iommufd, id, *room),
            Call::Allow(ranges) => {
                let list: Vec<u8> =
                    ranges.iter().flat_map(|range| [range.first, range.last]).flat_map(u64::to_ne_bytes).collect();
                let list = self.pointee(&list);
                let count = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
                of.word(24).word(id).word(count).word(0).quad(list);
                self.succeed(iommufd, IOAS_ALLOW_IOVAS, &of)
            }
            Call::HugePages(value) => self.option(iommufd, OPTION_HUGE_PAGES, id, *value),
            Call::Dirty(dirty) => self.dirty_tracking(iommufd, id, *dirty),
            Call::Invalidate { kind, length, count } => {
                let entries = self.pointee(&[0; 4096]);
                of.word(32).word(id).quad(entries).word(*kind).word(*length).word(*count).word(0);
                Ok(Answer::Value(self.call(iommufd, HWPT_INVALIDATE, &of).done()?.word_at(6).to_string()))
            }
            Call::HwInfo { length } => self.hw_info(iommufd, id, *length),
            _ => Err(Errno::ENOTTY.into()),
        }
    }

    fn ranges(&mut self, iommufd: Fd, id: u32, room: Option<u32>) -> Or<Answer> {
        let asked = room.unwrap_or(RANGES);
        let list = self.pointee(&vec![0; 16 * asked.min(RANGES) as usize]);
        let mut of = Structure::default();
        of.word(32).word(id).word(asked).word(0).quad(list).quad(0);
        let Called { result, after } = self.call(iommufd, IOAS_IOVA_RANGES, &of);
        let total = after.word_at(2);
        let list = Structure::from(self.pointed_to(16 * RANGES as usize));
        let shown = (0..asked.min(total).min(RANGES) as usize)
            .map(|range| format!("{:#x}-{:#x}", list.quad_at(4 * range), list.quad_at(4 * range + 2)));
        let shown: Vec<_> = shown.collect();
        match (result, room) {
            (Ok(_), None) => Ok(Answer::Value(shown.join(" "))),
            (Ok(_) | Err(Errno::EMSGSIZE), Some(_)) => {
                let mut said = if result.is_err() { "EMSGSIZE ".to_owned() } else { String::new() };
                let _ = write!(said, "total {total} align {:#x}", after.quad_at(6));
                for range in shown {
                    let _ = write!(said, " {range}");
                }
                Ok(Answer::Value(said))
            }
            (Err(errno), _) => Err(errno.into()),
        }
    }

    fn option(&mut self, iommufd: Fd, option: u32, object: u32, value: Option<u64>) -> Or<Answer> {
        let operation = if value.is_some() { OPERATION_SET } else { OPERATION_GET };
        let mut of = Structure::default();
        of.word(24).word(option).word(operation).word(object).quad(value.unwrap_or(0));
        let now = self.call(iommufd, OPTION, &of).done()?.quad_at(4);
        Ok(if value.is_some() { Answer::Ok } else { Answer::Value(now.to_string()) })
    }

    fn dirty_tracking(&mut self, iommufd: Fd, id: u32, dirty: Dirty) -> Or<Answer> {
        let mut of = Structure::default();
        match dirty {
            Dirty::On | Dirty::Off => {
                of.word(16).word(u32::from(dirty == Dirty::On)).word(id).word(0);
                self.succeed(iommufd, SET_DIRTY_TRACKING, &of)
            }
            Dirty::Get { iova, bytes, page, last } => {
                let size = bitmap_bytes(bytes, page);
                let data = self.clean_bitmap(size);
                let flags = u32::try_from(last.unwrap_or(0)).unwrap_or(u32::MAX);
                of.word(48).word(id).word(flags).word(0).quad(iova).quad(bytes).quad(page).quad(data);
                self.call(iommufd, GET_DIRTY_BITMAP, &of).done()?;
                Ok(Answer::Value(self.dirty_runs(size)))
            }
            Dirty::Start | Dirty::Stop => Err(Errno::ENOTTY.into()),
        }
    }

    fn hw_info(&mut self, iommufd: Fd, id: u32, length: u32) -> Or<Answer> {
        let data = self.pointee(&vec![UNWRITTEN; 4096]);
        let mut of = Structure::default();
        of.word(40).word(0).word(id).word(length).quad(data).word(0).word(0).quad(0);
        let info = self.call(iommufd, GET_HW_INFO, &of).done()?;
        let written = self.pointed_to(4096).iter().rposition(|byte| *byte != UNWRITTEN).map_or(0, |last| last + 1);
        let (real, kind, capabilities) = (info.word_at(3), info.word_at(6), info.quad_at(8));
        Ok(Answer::Value(format!("len {real} type {kind} caps {capabilities:#x} written {written}")))
    }

    /// A call that concerns the iommufd as a whole.
    pub(super) fn call_iommufd(&mut self, fd: Fd, call: &Call) -> Or<Answer> {
        match call {
            Call::RlimitMode(value) => self.option(fd, OPTION_RLIMIT_MODE, 0, *value),
            Call::VfioIoas(what) => {
                let (ioas, operation) = match what {
                    VfioIoas::Get => (0, 0),
                    VfioIoas::Set(ioas) => (self.names.object(ioas).ok_or(Errno::EBADF)?.1, 1),
                    VfioIoas::Clear => (0, 2),
                };
                let mut of = Structure::default();
                of.word(12).word(ioas).word(operation);
                let now = self.call(fd, VFIO_IOAS, &of).done()?.word_at(1);
                let name = || self.names.of_id(now).map_or_else(|| "other".to_owned(), ToString::to_string);
                Ok(if *what == VfioIoas::Get { Answer::Value(name()) } else { Answer::Ok })
            }
            _ => Err(Errno::ENOTTY.into()),
        }
    }
}
