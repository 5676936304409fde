//! Calls to open devices, event files and fault queues.

use std::fmt::Write as _;

use nix::errno::Errno;

use super::names::Name;
use super::structure::{Called, Structure};
use super::{Answer, Or, Player};
use crate::language::{Call, Handle};
use crate::system::{Fd, System};

const GET_INFO: u8 = 107;
const GET_REGION_INFO: u8 = 108;
const GET_IRQ_INFO: u8 = 109;
const SET_IRQS: u8 = 110;
const RESET: u8 = 111;
const GET_PCI_HOT_RESET_INFO: u8 = 112;
const PCI_HOT_RESET: u8 = 113;
const FEATURE: u8 = 117;
const BIND_IOMMUFD: u8 = 118;
const ATTACH_IOMMUFD_PT: u8 = 119;
const DETACH_IOMMUFD_PT: u8 = 120;

/// Where a region begins in the file of its device.
const REGION_SHIFT: u32 = 40;

const HOT_RESET_DEV_ID: u32 = 1;

/// The size of structures that have no fixed one, unless said otherwise.
const ROOM: u32 = 4096;

/// The most that is read or written at once.
const MOST: u64 = 1 << 20;

impl<S: System> Player<S> {
    pub(super) fn call_device(&mut self, handle: &Handle, fd: Fd, call: &Call) -> Or<Answer> {
        let mut of = Structure::default();
        match call {
            Call::Bind { iommufd } => {
                let iommufd = self.names.file(iommufd)?;
                of.word(16).word(0).file(iommufd).word(0);
                let id = self.call(fd, BIND_IOMMUFD, &of).done()?.word_at(3);
                self.names.give(&handle.dev(), Name::Object { iommufd, id });
                Ok(Answer::Ok)
            }
            Call::Attach { to } => {
                let (_, id) = self.names.object(to).ok_or(Errno::EBADF)?;
                of.word(12).word(0).word(id);
                self.succeed(fd, ATTACH_IOMMUFD_PT, &of)
            }
            Call::Detach => {
                of.word(8).word(0);
                self.succeed(fd, DETACH_IOMMUFD_PT, &of)
            }
            Call::DeviceInfo { argsz } => self.device_info(fd, *argsz),
            Call::Region(index) => {
                of.word(32).word(0).word(*index).word(0).quad(0).quad(0);
                let info = self.call(fd, GET_REGION_INFO, &of).done()?;
                let (flags, size, offset, argsz) = (info.word_at(1), info.quad_at(4), info.quad_at(6), info.word_at(0));
                Ok(Answer::Value(format!("flags {flags:#x} size {size:#x} offset {offset:#x} argsz {argsz}")))
            }
            Call::Irq(index) => {
                of.word(16).word(0).word(*index).word(0);
                let info = self.call(fd, GET_IRQ_INFO, &of).done()?;
                Ok(Answer::Value(format!("flags {:#x} count {}", info.word_at(1), info.word_at(3))))
            }
            Call::SetIrqs { index, flags, start, count, events } => {
                let argsz = 20 + 4 * u32::try_from(events.len()).unwrap_or(0);
                of.word(argsz).word(*flags).word(*index).word(*start).word(*count);
                for event in events {
                    of.file(match event {
                        Some(event) => self.names.file(event)?,
                        None => -1,
                    });
                }
                self.succeed(fd, SET_IRQS, &of)
            }
            Call::ReadRegion { region, offset, bytes } => {
                let mut into = buffer(*bytes);
                self.calls += 1;
                let read = self.system.pread(fd, &mut into, place(*region, *offset))?;
                let seen = into.get(..read).unwrap_or_default();
                Ok(Answer::Value(seen.iter().fold(String::new(), |mut said, byte| {
                    let _ = write!(said, "{byte:02x}");
                    said
                })))
            }
            Call::WriteRegion { region, offset, data } => {
                self.calls += 1;
                Ok(Answer::Value(self.system.pwrite(fd, data, place(*region, *offset))?.to_string()))
            }
            Call::Mmap { region, offset, bytes } => {
                self.calls += 1;
                Ok(self.system.map_and_unmap(fd, place(*region, *offset), *bytes).into())
            }
            Call::HotResetInfo { argsz } => self.hot_reset_info(fd, *argsz),
            Call::HotReset { groups } => {
                let count = u32::try_from(groups.len()).unwrap_or(0);
                of.word(12 + 4 * count).word(0).word(count);
                for group in groups {
                    of.file(self.names.file(group)?);
                }
                self.succeed(fd, PCI_HOT_RESET, &of)
            }
            Call::Feature { flags, argsz } => {
                of.word(argsz.unwrap_or(ROOM)).word(*flags);
                self.succeed(fd, FEATURE, &of)
            }
            Call::Reset => Ok(self.ioctl(fd, RESET, 0).map(drop).into()),
            Call::ReadEvent => {
                let mut count = [0; 8];
                self.calls += 1;
                self.system.read(fd, &mut count)?;
                Ok(Answer::Value(u64::from_ne_bytes(count).to_string()))
            }
            Call::ReadQueue { bytes } => {
                let mut into = buffer(*bytes);
                self.calls += 1;
                Ok(Answer::Value(self.system.read(fd, &mut into)?.to_string()))
            }
            Call::WriteQueue { bytes } => {
                self.calls += 1;
                Ok(Answer::Value(self.system.write(fd, &buffer(*bytes))?.to_string()))
            }
            _ => Err(Errno::ENOTTY.into()),
        }
    }

    fn device_info(&mut self, fd: Fd, argsz: Option<u32>) -> Or<Answer> {
        let mut of = Structure::default();
        of.word(argsz.unwrap_or(24));
        let info = self.call(fd, GET_INFO, &of).done()?;
        let said = format!("flags {:#x} regions {} irqs {}", info.word_at(1), info.word_at(2), info.word_at(3));
        Ok(Answer::Value(match argsz {
            None => said,
            Some(_) => format!("argsz {} {said} caps {:#x}", info.word_at(0), info.word_at(4)),
        }))
    }

    fn hot_reset_info(&mut self, fd: Fd, argsz: Option<u32>) -> Or<Answer> {
        let mut of = Structure::default();
        of.word(argsz.unwrap_or(ROOM));
        let Called { result, after } = self.call(fd, GET_PCI_HOT_RESET_INFO, &of);
        let (flags, count) = (after.word_at(1), after.word_at(2));
        match result {
            Ok(_) => {}
            Err(Errno::ENOSPC) => return Ok(Answer::Value(format!("ENOSPC {count}"))),
            Err(errno) => return Err(errno.into()),
        }
        let mut said = format!("flags {flags:#x}");
        for entry in 0..(count as usize).min(ROOM as usize / 8) {
            let (id, address) = (after.word_at(3 + 2 * entry), after.word_at(4 + 2 * entry));
            let (segment, bus, function) = (address & 0xffff, address >> 16 & 0xff, address >> 24);
            let owner = match id {
                _ if flags & HOT_RESET_DEV_ID == 0 => "group".to_owned(),
                0 => "owned".to_owned(),
                u32::MAX => "not-owned".to_owned(),
                id => self.names.of_id(id).map_or_else(|| "other".to_owned(), ToString::to_string),
            };
            let _ = write!(said, " {segment:04x}:{bus:02x}:{:02x}.{}={owner}", function >> 3, function & 7);
        }
        Ok(Answer::Value(said))
    }
}

/// A place of a region, in the file of its device.
fn place(region: u32, offset: u64) -> u64 {
    (u64::from(region) << REGION_SHIFT).wrapping_add(offset)
}

fn buffer(bytes: u64) -> Vec<u8> {
    vec![0; usize::try_from(bytes.min(MOST)).unwrap_or(0)]
}
