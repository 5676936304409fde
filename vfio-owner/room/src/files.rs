//! Open files that the room serves, from their opening to their last close.
//!
//! Each is a file in memory of which its user holds the only open file description, so that the kernel reports its last close:
//! duplicates, children, mappings and descriptors on their way between processes all count. The kernel queues the report
//! before the call returns that closed the file, so whoever looks after receiving a call knows all that its caller can know.

mod mapped;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{
    AtFlags, MemfdFlags, Mode, OFlags, SealFlags, Stat, fcntl_add_seals, fstat, ftruncate, memfd_create, stat, statat,
};
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::path::DecInt;
use vfio_owner::OpenDevice;
use vfio_owner::device_ops::{Follow, RegionIndex};

use crate::answer::Trapped;
use crate::files::mapped::Mapped;
pub(crate) use crate::files::mapped::Part;
use crate::filter::REGION_SHIFT;
use crate::leftovers::HeldFile;
use crate::task::{Task, descriptors};
use vfio_owner::testbed::vfs::{Node, OpenAttribute};
use vfio_owner::uapi::File;

/// So many regions has a device file at most: those of a PCI function.
const REGIONS: u64 = 9;

/// Identifies an open file: device and inode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    fn of(found: &Stat) -> Self {
        Self(found.st_dev, found.st_ino)
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) id: FileId,
    /// What `/proc/…/fd/N` says.
    pub(crate) name: PathBuf,
    pub(crate) kind: Kind,
    backing: Backing,
}

/// What the kernel has for an open file.
#[derive(Debug)]
enum Backing {
    /// Memory, which its user maps, and reads and writes as far as the filter lets it.
    Memory { memory: OwnedFd, watch: WatchDescriptor, mapped: Mapped },
    /// The other end of a socket, of a fault queue: a byte lies in the user's end while faults wait, so that it polls right.
    Socket { end: OwnedFd, signalled: bool },
}

/// The name of the memory behind a device file.
pub(crate) const DEVICE_MEMORY: &str = "vfio";

/// What an open file is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A device file; with the character device, if it was opened by its name.
    Device { file: File, node: Option<Node> },
    /// An attribute that may be written.
    Attribute(OpenAttribute),
    /// Which fault point of the next calls of a task fails.
    FailNth { task: u32, left: Cell<u32> },
}

/// The open files of a room.
#[derive(Debug)]
pub(crate) struct Files {
    inotify: Arc<Inotify>,
    open: HashMap<FileId, OpenFile>,
    watched: HashMap<WatchDescriptor, FileId>,
    /// The descriptors of the task that called last: it often calls again.
    last: RefCell<Option<(Task, OwnedFd)>>,
}

impl Files {
    pub(crate) fn new() -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = inotify.map_err(|error| Errno::from_raw_os_error(error as i32))?;
        Ok(Self { inotify: Arc::new(inotify), open: HashMap::new(), watched: HashMap::new(), last: RefCell::default() })
    }

    /// Opens a device file. Returns what its user gets.
    pub(crate) fn open_device(
        &mut self,
        name: PathBuf,
        file: File,
        node: Option<Node>,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let memory = memfd_create(DEVICE_MEMORY, MemfdFlags::CLOEXEC)?;
        if matches!(file, File::Device(_) | File::DeviceFile(_)) {
            ftruncate(&memory, REGIONS << REGION_SHIFT)?;
        }
        self.open(name, Kind::Device { file, node }, memory, OFlags::RDWR | flags)
    }

    /// Opens a task's `fail-nth`.
    pub(crate) fn open_fail_nth(&mut self, name: PathBuf, task: u32, flags: OFlags) -> Result<OwnedFd, Errno> {
        let memory = memfd_create("fail-nth", MemfdFlags::CLOEXEC)?;
        rustix::io::pwrite(&memory, b"0\n", 0)?;
        self.open(name, Kind::FailNth { task, left: Cell::new(0) }, memory, flags)
    }

    /// Returns which fault point of a task's next call fails; 0 for none.
    pub(crate) fn fail_nth(&self, task: Task) -> u32 {
        self.fail_nths(task).map(|(_, left)| left.get()).find(|left| *left > 0).unwrap_or(0)
    }

    /// Sets which fault point of a task's next calls fails.
    pub(crate) fn set_fail_nth(&self, task: Task, nth: u32) {
        for (open, left) in self.fail_nths(task) {
            left.set(nth);
            open.refresh(format!("{nth}\n").as_bytes());
        }
    }

    fn fail_nths(&self, task: Task) -> impl Iterator<Item = (&OpenFile, &Cell<u32>)> {
        self.open.values().filter_map(move |open| match &open.kind {
            Kind::FailNth { task: whose, left } if *whose == task.number() => Some((open, left)),
            _ => None,
        })
    }

    /// Makes an open device file stand for `file`.
    pub(crate) fn becomes(&mut self, user: &OwnedFd, file: File) -> Result<(), Errno> {
        if let Some(open) = self.open.get_mut(&FileId::of(&fstat(user)?)) {
            open.kind = Kind::Device { file, node: None };
        }
        Ok(())
    }

    /// Opens an attribute for writing. What the supervisor does not see of the writes fails, if it is not to be read as well.
    pub(crate) fn open_attribute(
        &mut self,
        name: PathBuf,
        attribute: OpenAttribute,
        content: Option<&[u8]>,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let memory = memfd_create("sysfs", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        match content {
            Some(content) => drop(rustix::io::pwrite(&memory, content, 0)?),
            None => fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK)?,
        }
        self.open(name, Kind::Attribute(attribute), memory, flags)
    }

    fn open(&mut self, name: PathBuf, kind: Kind, memory: OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        // A second open file description, for its user alone.
        let path = PathBuf::from(format!("/proc/thread-self/fd/{}", memory.as_raw_fd()));
        let watch = self.inotify.add_watch(&path, AddWatchFlags::IN_CLOSE);
        let watch = watch.map_err(|error| Errno::from_raw_os_error(error as i32))?;
        let user = rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty());
        let (user, id) = match user.and_then(|user| Ok((user, FileId::of(&fstat(&memory)?)))) {
            Ok(done) => done,
            Err(error) => {
                let _ = self.inotify.rm_watch(watch);
                return Err(error);
            }
        };
        self.watched.insert(watch, id);
        let backing = Backing::Memory { memory, watch, mapped: Mapped::default() };
        self.open.insert(id, OpenFile { id, name, kind, backing });
        Ok(user)
    }

    /// Makes the file of a fault queue, which is set once its user knows the number. Returns what its user gets.
    pub(crate) fn new_socket() -> Result<(OwnedFd, OwnedFd), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
    }

    /// Adds a fault queue, whose user has the other end of `end`.
    pub(crate) fn add_fault_queue(&mut self, file: File, user: &OwnedFd, end: OwnedFd) -> Result<(), Errno> {
        let id = FileId::of(&fstat(user)?);
        let kind = Kind::Device { file, node: None };
        let name = PathBuf::from("anon_inode:[iommufd-pgfault]");
        self.open.insert(id, OpenFile { id, name, kind, backing: Backing::Socket { end, signalled: false } });
        Ok(())
    }

    /// Whether somebody has a fault queue. Nobody says when a fault comes.
    pub(crate) fn has_fault_queues(&self) -> bool {
        self.open.values().any(|open| matches!(open.backing, Backing::Socket { .. }))
    }

    /// Makes fault queues readable in which faults wait, and closes those that nobody has any more.
    fn tend_fault_queues(&mut self) {
        self.open.retain(|_, open| {
            let Backing::Socket { end, signalled } = &mut open.backing else { return true };
            let mut polled = [PollFd::new(end, PollFlags::empty())];
            let hung_up = poll(&mut polled, Some(&Timespec::default())).is_ok_and(|count| count > 0);
            if let Kind::Device { file, .. } = &open.kind
                && !hung_up
                && !*signalled
                && file.poll().readable
            {
                *signalled = rustix::io::write(&*end, &[0]).is_ok();
            }
            !hung_up
        });
    }

    /// Has a region of a file mapped.
    pub(crate) fn map(&mut self, id: FileId, region: RegionIndex) -> Result<(), Errno> {
        self.open.get_mut(&id).map_or(Ok(()), |open| open.map(region))
    }

    /// Makes a fault queue, which a task has as `fd`, unreadable once nothing waits in it.
    pub(crate) fn settle(&mut self, id: FileId, task: Task, fd: i32) {
        let Some(open) = self.open.get_mut(&id) else { return };
        if let (Kind::Device { file, .. }, Backing::Socket { signalled, .. }) = (&open.kind, &mut open.backing)
            && *signalled
            && !file.poll().readable
            && let Ok(user) = task.get(fd)
        {
            let _ = rustix::io::read(&user, &mut [0; 1]);
            *signalled = false;
        }
    }

    /// Returns what is readable when a file has been closed.
    pub(crate) fn closed(&self) -> Arc<Inotify> {
        self.inotify.clone()
    }

    /// Closes the files whose last descriptor or mapping has gone.
    pub(crate) fn drain(&mut self) {
        // Cheaper than to read in vain.
        while ioctl_fionread(&self.inotify).is_ok_and(|bytes| bytes > 0)
            && let Ok(events) = self.inotify.read_events()
        {
            for event in events {
                if event.mask.intersects(AddWatchFlags::IN_CLOSE)
                    && let Some(id) = self.watched.remove(&event.wd)
                    && let Some(open) = self.open.remove(&id)
                {
                    open.close(&self.inotify);
                }
            }
        }
        self.tend_fault_queues();
    }

    /// Identifies the open file behind a descriptor of a caller, whether it is ours or not.
    pub(crate) fn identify(&self, trapped: &Trapped<'_>, fd: i32) -> Result<FileId, Errno> {
        let task = trapped.task;
        let mut last = self.last.borrow_mut();
        let look = |directory: &OwnedFd| statat(directory, DecInt::new(fd), AtFlags::empty());
        // As long as a task lives, its number is not another's: this one is the caller.
        if let Some(found) = last.as_ref().filter(|(known, _)| *known == task).and_then(|(_, fds)| look(fds).ok()) {
            return Ok(FileId::of(&found));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fds = rustix::fs::open(task.proc("fd"), flags, Mode::empty()).map_err(|_| Errno::BADF)?;
        // The caller may have gone, and its number be another's.
        trapped.check()?;
        let found = look(&fds).map_err(|_| Errno::BADF)?;
        *last = Some((task, fds));
        Ok(FileId::of(&found))
    }

    /// Returns the file of a caller's descriptor, if it is ours.
    pub(crate) fn of(&self, trapped: &Trapped<'_>, fd: i32) -> Result<Option<&OpenFile>, Errno> {
        if self.open.is_empty() {
            return Ok(None);
        }
        Ok(self.open.get(&self.identify(trapped, fd)?))
    }

    /// Returns the file of VFIO or iommufd that a caller's descriptor stands for, or that it is another; `None` if it is not open.
    pub(crate) fn file(&self, trapped: &Trapped<'_>, fd: i32) -> Option<File> {
        let id = self.identify(trapped, fd).ok()?;
        Some(match self.open.get(&id).map(|open| &open.kind) {
            Some(Kind::Device { file, .. }) => file.clone(),
            Some(Kind::Attribute(_) | Kind::FailNth { .. }) | None => File::Other,
        })
    }

    /// Returns the file at a path of `/proc/…/fd`, if it is ours.
    pub(crate) fn at(&self, path: &Path) -> Option<&OpenFile> {
        if self.open.is_empty() {
            return None;
        }
        self.open.get(&FileId::of(&stat(path).ok()?))
    }

    /// Returns the open files, and which processes have them.
    pub(crate) fn held(&self) -> Vec<HeldFile> {
        let mut holders: HashMap<FileId, Vec<u32>> = HashMap::new();
        if !self.open.is_empty() {
            for (process, path) in descriptors("fd") {
                if let Ok(found) = stat(&path) {
                    holders.entry(FileId::of(&found)).or_default().push(process);
                }
            }
        }
        let held = self.open.iter().map(|(id, open)| {
            let mut holders = holders.remove(id).unwrap_or_default();
            holders.dedup();
            HeldFile { name: open.name.clone(), holders }
        });
        let mut held: Vec<_> = held.collect();
        held.sort();
        held
    }
}

impl OpenFile {
    /// Replaces the content that an attribute is read as.
    pub(crate) fn refresh(&self, content: &[u8]) {
        // Sealed if nobody reads it.
        if let Backing::Memory { memory, .. } = &self.backing
            && rustix::io::pwrite(memory, content, 0).is_ok()
        {
            let _ = ftruncate(memory, content.len() as u64);
        }
    }

    /// Has the memory behind the file take the part of a region's model, from the first mapping on.
    fn map(&mut self, region: RegionIndex) -> Result<(), Errno> {
        match (&self.kind, &mut self.backing) {
            (Kind::Device { file, .. }, Backing::Memory { memory, mapped, .. }) => match mapped::device(file) {
                Some(device) => mapped.begin(&device, region, memory),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Returns whether the model follows a region that is mapped; `None` if it is not mapped.
    pub(crate) fn follow(&self, region: RegionIndex) -> Option<Follow> {
        if let Backing::Memory { mapped, .. } = &self.backing { mapped.follow(region) } else { None }
    }

    /// Tells the model, which does not follow the memory, what has been written to a part of it.
    pub(crate) fn tell_model(&self, part: Part) {
        self.with_memory(|device, memory| mapped::tell(device, part, memory));
    }

    /// Shows in the memory what the model has in a part of a region.
    pub(crate) fn show_model(&self, part: Part) {
        self.with_memory(|device, memory| mapped::show(device, part, memory));
    }

    fn with_memory(&self, act: impl FnOnce(&OpenDevice, &OwnedFd)) {
        if let (Kind::Device { file, .. }, Backing::Memory { memory, .. }) = (&self.kind, &self.backing)
            && let Some(device) = mapped::device(file)
        {
            act(&device, memory);
        }
    }

    fn close(mut self, inotify: &Inotify) {
        if let Backing::Memory { memory, watch, mapped } = &mut self.backing {
            let _ = inotify.rm_watch(*watch);
            if let Kind::Device { file, .. } = &self.kind
                && let Some(device) = mapped::device(file)
            {
                mapped.end(&device, memory);
            }
        }
    }
}
