//! Calls of device files.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use vfio_owner::GroupFile;
use vfio_owner::device_ops::{Follow, RegionIndex};
use vfio_owner::iommu_core::UserAddr;
use vfio_owner::iommu_core::device_model::Errno as MachineErrno;
use vfio_owner::iommufd_owner::uapi::NewFaultQueue;
use vfio_owner::uapi::{File, NewFile, NewServedFile, Reply};

use super::{Answer, Trapped};
use crate::calls::Call;
use crate::files::{Files, Kind, OpenFile, Part};
use crate::supervisor::Supervisor;
use crate::task::errno;

/// So many bytes of a region that is mapped are read and written as registers at most, and more as memory.
const REGISTERS: u64 = 64;

/// `VFIO_GROUP_GET_STATUS`.
const GET_STATUS: u32 = 0x3b67;

impl Supervisor {
    pub(super) fn ioctl(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let Some(open) = self.files.of(trapped, trapped.fd(0))? else {
            // The host's VFIO has the same numbers. All others do not know them.
            self.files.identify(trapped, trapped.fd(0))?;
            return Err(Errno::NOTTY);
        };
        let Kind::Device { file, .. } = &open.kind else { return Err(Errno::NOTTY) };
        self.log.begin();
        let number = trapped.bits(1);
        let reply = file.ioctl(number, trapped.arg(2), &self.caller(trapped));
        match reply.map_err(|errno| self.refused(trapped.task, format!("ioctl {number:#x}"), &open.name, errno))? {
            Reply::Value(value) => {
                if let (File::Group(group), GET_STATUS) = (file, number) {
                    self.note_status(trapped, group, open);
                }
                Ok(Answer::Value(value.into()))
            }
            // The number of the descriptor is what the call returns.
            Reply::File(NewFile::Device(device)) => {
                let name = PathBuf::from("anon_inode:[vfio-device]");
                let file = self.files.open_device(name, File::Device(device), None, OFlags::empty())?;
                Ok(Answer::File(file, OFlags::CLOEXEC.bits()))
            }
            Reply::File(NewFile::FaultQueue(queue)) => self.open_fault_queue(trapped, queue),
            Reply::File(NewFile::Served(new)) => self.open_served(trapped, new),
        }
    }

    /// A client that learns that a group is not viable gives up without a call that could be refused.
    fn note_status(&self, trapped: &Trapped<'_>, group: &GroupFile, open: &OpenFile) {
        let blockers = group.iommu_group().map(|group| group.blockers()).unwrap_or_default();
        let blockers: Vec<String> = blockers.iter().map(ToString::to_string).collect();
        if !blockers.is_empty() {
            let reason = format!("group {} is used by kernel drivers: {}", group.id(), blockers.join(", "));
            let call = format!("ioctl {GET_STATUS:#x}");
            self.log.not_viable(trapped.task.number(), call, open.name.clone(), reason);
        }
    }

    fn open_fault_queue(&mut self, trapped: &Trapped<'_>, queue: NewFaultQueue) -> Result<Answer, Errno> {
        let (user, end) = Files::new_socket()?;
        let given = trapped.listener.give_file(trapped.id, user.as_fd(), OFlags::CLOEXEC.bits());
        let fd = given.map_err(|error| errno(&error))?;
        // If the number cannot be told, the descriptor stays, of a socket without another end.
        let installed = queue.install(fd, &self.caller(trapped));
        let queue = installed.map_err(|errno| Errno::from_raw_os_error(errno.number()))?;
        self.files.add_fault_queue(File::FaultQueue(Arc::new(queue)), &user, end)?;
        self.wake();
        Ok(Answer::Value(0))
    }

    fn open_served(&mut self, trapped: &Trapped<'_>, new: Box<dyn NewServedFile>) -> Result<Answer, Errno> {
        let name = PathBuf::from("anon_inode:[iommufd_test]");
        let user = self.files.open_device(name, File::Other, None, OFlags::empty())?;
        let given = trapped.listener.give_file(trapped.id, user.as_fd(), OFlags::CLOEXEC.bits());
        let fd = given.map_err(|error| errno(&error))?;
        // If the number cannot be told, the descriptor stays, of a file without calls.
        let installed = new.install(fd, &self.caller(trapped));
        let file = installed.map_err(|errno| Errno::from_raw_os_error(errno.number()))?;
        self.files.becomes(&user, File::Served(file))?;
        Ok(Answer::Value(0))
    }

    /// Makes an eventfd for the caller, and keeps a copy.
    pub(super) fn make_eventfd(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let flags = if trapped.call == Call::Eventfd { 0 } else { trapped.bits(1) };
        let flags = EventfdFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let eventfd = self.eventfds.make(trapped.bits(0), flags)?;
        Ok(Answer::File(eventfd, flags.intersection(EventfdFlags::CLOEXEC).bits()))
    }

    /// Maps a file, shared.
    pub(super) fn map(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        // A bad descriptor is for the kernel to tell.
        if let Ok(Some(open)) = self.files.of(trapped, trapped.fd(4)) {
            let Kind::Device { file, .. } = &open.kind else { return Err(Errno::NODEV) };
            self.log.begin();
            let mapped = file.mappable(trapped.arg(5), trapped.arg(1), &self.caller(trapped));
            let mapped = mapped.map_err(|errno| self.refused(trapped.task, trapped.call.name(), &open.name, errno))?;
            self.files.map(open.id, mapped.region)?;
        }
        Ok(Answer::Continue)
    }

    /// Reads from a fault queue.
    pub(super) fn read(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let fd = trapped.fd(0);
        match self.files.of(trapped, fd) {
            Ok(Some(open)) if matches!(open.kind, Kind::Device { file: File::FaultQueue(_), .. }) => {
                let id = open.id;
                let answer = self.transfer(trapped, open);
                self.files.settle(id, trapped.task, fd);
                answer
            }
            _ => Ok(Answer::Continue),
        }
    }

    /// Reads from a region.
    pub(super) fn read_at(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        match self.files.of(trapped, trapped.fd(0))? {
            Some(open) if matches!(open.kind, Kind::Device { .. }) => self.transfer(trapped, open),
            _ => Ok(Answer::Continue),
        }
    }

    /// Writes to a region.
    pub(super) fn write_at(&self, trapped: &Trapped<'_>, open: &OpenFile) -> Result<Answer, Errno> {
        match (trapped.call, &open.kind) {
            (Call::Pwrite64 | Call::Pwritev | Call::Pwritev2, _)
            | (Call::Write, Kind::Device { file: File::FaultQueue(_), .. }) => self.transfer(trapped, open),
            // Without a position, nobody writes to a device.
            _ => Err(Errno::INVAL),
        }
    }

    /// Reads or writes, piece by piece if there are several, as far as it goes.
    fn transfer(&self, trapped: &Trapped<'_>, open: &OpenFile) -> Result<Answer, Errno> {
        let Kind::Device { file, .. } = &open.kind else { return Ok(Answer::Continue) };
        let (region, place) = RegionIndex::at(trapped.arg(3));
        let follow = open.follow(region);
        // The kernel does it: it is the memory that is mapped.
        if follow == Some(Follow::WhenPolled) {
            return Ok(Answer::Continue);
        }
        let pieces = trapped.pieces()?;
        let part =
            Part { region, at: place, bytes: pieces.iter().fold(0, |sum, [_, bytes]| sum.saturating_add(*bytes)) };
        if follow.is_some() && part.bytes > REGISTERS {
            return Ok(Answer::Continue);
        }
        trapped.check()?;
        if follow.is_some() {
            open.tell_model(part);
        }
        self.log.begin();
        let done = self.move_pieces(trapped, file, &pieces);
        let done = done.map_err(|errno| self.refused(trapped.task, trapped.call.name(), &open.name, errno))?;
        if follow.is_some() && !is_read(trapped.call) {
            open.show_model(part);
        }
        Ok(Answer::Value(i64::try_from(done).unwrap_or(i64::MAX)))
    }

    /// Returns how many bytes were moved before one could not be; fails if that was the first.
    fn move_pieces(&self, trapped: &Trapped<'_>, file: &File, pieces: &[[u64; 2]]) -> Result<u64, MachineErrno> {
        let (caller, mut done) = (self.caller(trapped), 0);
        for &[at, bytes] in pieces {
            let (at, offset) = (UserAddr::new(at), trapped.arg(3).wrapping_add(done));
            let moved = if is_read(trapped.call) {
                file.read(offset, at, bytes, &caller)
            } else {
                file.write(offset, at, bytes, &caller)
            };
            match moved {
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
                Ok(moved) => done += moved,
            }
            if moved != Ok(bytes) {
                break;
            }
        }
        Ok(done)
    }
}

fn is_read(call: Call) -> bool {
    matches!(call, Call::Pread64 | Call::Preadv | Call::Preadv2 | Call::Read)
}
