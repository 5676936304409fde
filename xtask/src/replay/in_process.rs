//! A process on a machine of this program: the machine's files, opened, and the calls that they serve.

mod memory;
mod open_file;

use std::sync::Arc;
use std::time::Duration;

use scenario_player::language::MemoryKind;
use scenario_player::{Access, Errno, Fd, System};
use vfio_owner::device_ops::Trigger;
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Errno as ModelErrno;
use vfio_owner::iommu_core::{UserAddr, UserMemory};
use vfio_owner::iommufd_owner::uapi as iommufd_uapi;
use vfio_owner::testbed::Machine;
use vfio_owner::testbed::vfs::{self, LastLink, Later, Node, Opened, Opening, Vfs, Written};
use vfio_owner::uapi;

use memory::Memory;
use open_file::OpenFile;

/// Files that a process has before it plays: the three of every process, and one more, as in the recordings.
const BEFORE: usize = 4;

/// A machine, and a process on it.
#[derive(Debug)]
pub(super) struct InProcess {
    vfs: Vfs,
    memory: Memory,
    /// By number.
    files: Vec<Option<OpenFile>>,
    /// Writes that wait, or have ended and were not asked for.
    writes: Vec<WriteState>,
    resume: Resume,
}

/// When a write goes on that waited for a user: the scheduler's choice on Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    /// Before the call returns by which the user went.
    AtOnce,
    /// When it is waited for.
    WhenWaitedFor,
}

/// What a child keeps open.
#[derive(Debug)]
pub(super) struct Child {
    _files: Vec<Option<OpenFile>>,
}

/// A write, by its place among all.
#[derive(Debug)]
pub(super) struct Write(usize);

#[derive(Debug)]
enum WriteState {
    Waiting(Later),
    Ended(Result<usize, Errno>),
}

pub(super) fn errno(errno: ModelErrno) -> Errno {
    Errno::from_raw(errno.number())
}

impl InProcess {
    pub(super) fn new(machine: Machine, resume: Resume) -> Option<Self> {
        let memory = Memory::new(machine.memory())?;
        let files = vec![Some(OpenFile::Uapi(uapi::File::Other)); BEFORE];
        Some(Self { vfs: Vfs::new(Arc::new(machine)), memory, files, writes: Vec::new(), resume })
    }

    /// Gives a file the lowest number that is free.
    fn install(&mut self, file: OpenFile) -> Fd {
        let free = self.files.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.files.push(None);
            self.files.len() - 1
        });
        if let Some(entry) = self.files.get_mut(place) {
            *entry = Some(file);
        }
        Fd::try_from(place).unwrap_or(Fd::MAX)
    }

    fn file(&self, fd: Fd) -> Result<&OpenFile, Errno> {
        look_up(&self.files, fd).ok_or(Errno::EBADF)
    }

    fn caller(&self) -> Caller<'_> {
        Caller { memory: self.memory.as_user_memory(), files: &self.files }
    }

    /// A user may have gone.
    fn user_gone(&mut self) {
        if self.resume == Resume::AtOnce {
            self.move_writes();
        }
    }

    /// Whoever waits for a user that has gone goes on.
    fn move_writes(&mut self) {
        for write in &mut self.writes {
            let before = std::mem::replace(write, WriteState::Ended(Ok(0)));
            *write = match before {
                WriteState::Waiting(later) => WriteState::of(later.try_finish().map_err(|error| errno(error.errno()))),
                ended @ WriteState::Ended(_) => ended,
            };
        }
    }
}

impl WriteState {
    fn of(written: Result<Written, Errno>) -> Self {
        match written {
            Ok(Written::Bytes(bytes)) => Self::Ended(Ok(bytes)),
            Ok(Written::Later(later)) => Self::Waiting(later),
            Err(errno) => Self::Ended(Err(errno)),
        }
    }
}

fn look_up(files: &[Option<OpenFile>], fd: Fd) -> Option<&OpenFile> {
    files.get(usize::try_from(fd).ok()?)?.as_ref()
}

/// The process, as the calls see it.
struct Caller<'a> {
    memory: &'a Arc<dyn UserMemory>,
    files: &'a [Option<OpenFile>],
}

impl iommufd_uapi::Caller for Caller<'_> {
    fn memory(&self) -> &Arc<dyn UserMemory> {
        self.memory
    }

    /// Root has them all.
    fn has(&self, _capability: iommufd_uapi::Capability) -> bool {
        true
    }
}

impl uapi::Caller for Caller<'_> {
    fn file(&self, descriptor: i32) -> Option<uapi::File> {
        Some(look_up(self.files, descriptor)?.as_uapi())
    }

    fn trigger(&self, descriptor: i32) -> Result<Trigger, ModelErrno> {
        match look_up(self.files, descriptor) {
            Some(OpenFile::Event(event)) => Ok(Trigger::of(event.clone())),
            Some(_) => Err(ModelErrno::EINVAL),
            None => Err(ModelErrno::EBADF),
        }
    }
}

impl System for InProcess {
    type Child = Child;
    type Write = Write;

    fn open(&mut self, path: &str, access: Access) -> Result<Fd, Errno> {
        let access = match access {
            Access::Read => vfs::Access::Read,
            Access::Write => vfs::Access::Write,
            Access::ReadWrite => vfs::Access::ReadWrite,
        };
        let file = match self.vfs.open(path, &Opening::new(access)).map_err(|error| errno(error.errno()))? {
            Opened::Directory(_) => OpenFile::Uapi(uapi::File::Other),
            Opened::Attribute(attribute) => OpenFile::Attribute(attribute),
            Opened::File(file) => OpenFile::Uapi(file),
        };
        Ok(self.install(file))
    }

    fn close(&mut self, fd: Fd) -> Result<(), Errno> {
        let place = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let file = self.files.get_mut(place).and_then(Option::take).ok_or(Errno::EBADF)?;
        drop(file);
        self.user_gone();
        Ok(())
    }

    fn dup(&mut self, fd: Fd) -> Result<Fd, Errno> {
        let file = self.file(fd)?.clone();
        Ok(self.install(file))
    }

    fn eventfd(&mut self) -> Result<Fd, Errno> {
        Ok(self.install(OpenFile::new_event()))
    }

    fn ioctl(&mut self, fd: Fd, request: u32, argument: u64) -> Result<u32, Errno> {
        let reply = self.file(fd)?.ioctl(request, argument, &self.caller()).map_err(errno)?;
        match reply {
            uapi::Reply::Value(value) => Ok(value),
            uapi::Reply::File(new) => {
                let fd = self.install(OpenFile::Reserved);
                let installed = new.install(fd, &self.caller());
                if let Some(entry) = usize::try_from(fd).ok().and_then(|place| self.files.get_mut(place)) {
                    *entry = None;
                }
                let (file, value) = installed.map_err(errno)?;
                self.install(OpenFile::Uapi(file));
                Ok(value)
            }
        }
    }

    fn read(&mut self, fd: Fd, into: &mut [u8]) -> Result<usize, Errno> {
        self.file(fd)?.read(into, &self.memory, &self.caller())
    }

    fn write(&mut self, fd: Fd, from: &[u8]) -> Result<usize, Errno> {
        match self.file(fd)?.write(from, &self.memory, &self.caller())? {
            Written::Bytes(bytes) => Ok(bytes),
            // Nobody else of this process could let it go on.
            Written::Later(_) => Err(Errno::EDEADLK),
        }
    }

    fn pread(&mut self, fd: Fd, into: &mut [u8], offset: u64) -> Result<usize, Errno> {
        self.file(fd)?.read_at(offset, into, &self.memory, &self.caller())
    }

    fn pwrite(&mut self, fd: Fd, from: &[u8], offset: u64) -> Result<usize, Errno> {
        self.file(fd)?.write_at(offset, from, &self.memory, &self.caller())
    }

    fn map_and_unmap(&mut self, fd: Fd, offset: u64, bytes: u64) -> Result<(), Errno> {
        // What the kernel looks at before the file is asked.
        if bytes == 0 || !offset.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        self.file(fd)?.as_uapi().mappable(offset, bytes, &self.caller()).map(drop).map_err(errno)
    }

    fn begin_write(&mut self, fd: Fd, from: &[u8]) -> Write {
        let written = self.file(fd).and_then(|file| file.write(from, &self.memory, &self.caller()));
        self.writes.push(WriteState::of(written));
        // A thread would keep it open until the end, which makes no difference for an attribute.
        let _ = self.close(fd);
        Write(self.writes.len() - 1)
    }

    fn ended(&mut self, write: &mut Write, _patience: Duration) -> Option<Result<usize, Errno>> {
        self.move_writes();
        match self.writes.get(write.0)? {
            WriteState::Ended(result) => Some(*result),
            WriteState::Waiting(_) => None,
        }
    }

    fn read_link(&mut self, path: &str) -> Result<String, Errno> {
        let tree = self.vfs.tree();
        match tree.find(path, LastLink::Keep).map_err(|error| errno(error.errno()))?.node {
            Node::Link { target } => Ok(target.to_string()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, Errno> {
        let tree = self.vfs.tree();
        match tree.find(path, LastLink::Follow).map_err(|error| errno(error.errno()))?.node {
            Node::Directory(directory) => Ok(directory.entries().map(|(name, _)| name.to_owned()).collect()),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn fork(&mut self) -> Result<Child, Errno> {
        Ok(Child { _files: self.files.clone() })
    }

    fn kill(&mut self, child: Child) -> Result<(), Errno> {
        drop(child);
        self.user_gone();
        Ok(())
    }

    fn buffer(&self) -> u64 {
        memory::BUFFER.get()
    }

    fn scratch(&self) -> u64 {
        memory::SCRATCH.get()
    }

    fn peek(&self, at: u64, into: &mut [u8]) {
        self.memory.copy_out(UserAddr::new(at), into);
    }

    fn poke(&mut self, at: u64, from: &[u8]) {
        self.memory.copy_in(UserAddr::new(at), from);
    }

    fn change_memory(&mut self, kind: MemoryKind, at: u64, bytes: u64) -> Result<(), Errno> {
        self.memory.change(kind, at, bytes)
    }

    fn set_ipc_lock(&mut self, held: bool) -> Result<(), Errno> {
        self.memory.set_ipc_lock(held);
        Ok(())
    }

    fn set_memlock(&mut self, bytes: Option<u64>) -> Result<(), Errno> {
        self.memory.set_limit(bytes);
        Ok(())
    }

    fn locked(&mut self) -> Result<(u64, u64), Errno> {
        Ok(self.memory.locked())
    }
}
