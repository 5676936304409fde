//! Memory of real processes, which devices of the machine reach.
//!
//! An address space is held by its file in `/proc`, opened when memory is mapped first: it stays that address space if the
//! process executes another program. To a device, a gigabyte of it is a window of physical memory.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vfio_owner::iommu_core::device_model::sync::{LockClass, Mutex};
use vfio_owner::iommu_core::software::{Contents, LockedPages, Memory, Window};
use vfio_owner::iommu_core::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun};
use vfio_owner::iommu_core::{Access, UserAddr, UserMemory};

use crate::files::DEVICE_MEMORY;
use crate::limits::Limits;
use crate::task::Task;

const PAGE: u64 = 4096;
/// Size of a window.
const WINDOW: u64 = 1 << 30;
/// Within all locks of the machine but that of its memory, which a window takes when it begins and ends.
const PROCESSES: LockClass = LockClass::new("processes of a room", 930);
const WINDOWS: LockClass = LockClass::new("windows of a process", 940);
/// `CAP_IPC_LOCK`.
const IPC_LOCK: u32 = 14;

/// The processes of a room whose memory was asked for.
#[derive(Debug)]
pub(crate) struct Processes {
    memory: Memory,
    limits: Arc<Limits>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    processes: HashMap<u32, Arc<Process>>,
    /// What the processes of a user have locked, together.
    users: HashMap<u32, LockedPages>,
}

impl Processes {
    pub(crate) fn new(memory: Memory) -> Self {
        Self { memory, limits: Arc::default(), known: Mutex::of(PROCESSES, Known::default()) }
    }

    /// Returns the limits of the processes.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns what a process has locked and pinned for devices, in pages, if it has asked for some.
    pub(crate) fn locked(&self, process: u32) -> Option<(u64, u64)> {
        let known = self.known.lock();
        let process = known.processes.get(&process).filter(|process| process.space.is_alive())?;
        Some((process.own.pages(), process.pinned.pages()))
    }

    /// Returns the memory of a task's process.
    pub(crate) fn memory(&self, task: Task) -> Arc<dyn UserMemory> {
        let Ok(status) = task.status() else { return Arc::new(Gone) };
        let number = status.number("Tgid:", 0).unwrap_or_default();
        let mut known = self.known.lock();
        if let Some(process) = known.processes.get(&number).filter(|process| process.space.is_alive()) {
            return process.clone();
        }
        // Those that have gone, or have executed another program. Who mapped their memory still holds it.
        known.processes.retain(|_, process| process.space.is_alive());
        let user = status.number("Uid:", 0).unwrap_or_default();
        let user = known.users.entry(user).or_insert_with(LockedPages::unlimited).clone();
        let Some(process) = Process::open(task, number, self, user) else { return Arc::new(Gone) };
        known.processes.insert(number, process.clone());
        process
    }
}

/// A process, as long as it runs one program.
#[derive(Debug)]
struct Process {
    task: Task,
    space: Arc<Space>,
    memory: Memory,
    limits: Arc<Limits>,
    own: LockedPages,
    user: LockedPages,
    pinned: LockedPages,
    /// By the number of their gigabyte, with how many pages are pinned.
    windows: Mutex<BTreeMap<u64, (Window, u64)>>,
    /// What is pinned of memory that others can have as well: it outlives the process. Leaf lock.
    kept: Mutex<Vec<Kept>>,
}

/// A pinned part of a mapped file.
#[derive(Debug)]
struct Kept {
    start: u64,
    bytes: u64,
    file: File,
    /// Where it begins in the file.
    offset: u64,
}

/// An address space.
#[derive(Debug)]
struct Space {
    file: File,
    /// Something that was mapped when it was opened.
    probe: u64,
}

impl Process {
    fn open(task: Task, number: u32, among: &Processes, user: LockedPages) -> Option<Arc<Self>> {
        let task = if number == 0 { task } else { Task::new(number) };
        let file = OpenOptions::new().read(true).write(true).open(task.proc("mem")).ok()?;
        let probe = mappings(task).first()?.start;
        let (own, pinned) = (LockedPages::unlimited(), LockedPages::unlimited());
        let space = Arc::new(Space { file, probe });
        let (memory, limits) = (among.memory.clone(), among.limits.clone());
        Some(Arc::new(Self {
            task,
            space,
            memory,
            limits,
            own,
            user,
            pinned,
            windows: Mutex::of(WINDOWS, BTreeMap::new()),
            kept: Mutex::default(),
        }))
    }

    fn account(&self, account: Account) -> &LockedPages {
        match account {
            Account::Process => &self.own,
            Account::User => &self.user,
            Account::Pinned => &self.pinned,
        }
    }

    /// Pins what is mapped of these kinds.
    fn pin_of(
        &self,
        is_wanted: impl Fn(MappingKind) -> bool,
        at: UserAddr,
        bytes: u64,
        access: Access,
    ) -> Result<PinnedRun, BadAddress> {
        let bad = BadAddress { at };
        let (number, offset) = (at.get() / WINDOW, at.get() % WINDOW);
        // Of one window, and what is mapped of it.
        let mut mappings = mappings(self.task);
        mappings.retain(|mapping| is_wanted(mapping.kind));
        let bytes = mapped(&mappings, at.get(), bytes.min(WINDOW - offset), access);
        if bytes < PAGE || !self.space.is_alive() {
            return Err(bad);
        }
        let mut windows = self.windows.lock();
        let (window, pins) = match windows.entry(number) {
            Entry::Occupied(window) => window.into_mut(),
            Entry::Vacant(place) => {
                let part = Part { space: self.space.clone(), start: number * WINDOW };
                place.insert((self.memory.window(WINDOW, Arc::new(part)).ok_or(bad)?, 0))
            }
        };
        *pins += bytes / PAGE;
        let phys = window.at().checked_add(offset).ok_or(bad)?;
        drop(windows);
        self.keep(&mappings, at.get(), bytes);
        Ok(PinnedRun { phys, bytes })
    }

    /// Keeps what is pinned, if it is of a file that can be opened: only root can open what shared memory lies in. Registers of
    /// our devices are not kept: that they are closed again would look as if their last user had gone.
    fn keep(&self, mappings: &[Mapping], at: u64, bytes: u64) {
        let kept = mappings.iter().filter_map(|mapping| {
            let (start, end) = (mapping.start.max(at), mapping.end.min(at + bytes));
            let bytes = end.checked_sub(start).filter(|bytes| *bytes > 0 && mapping.kind == MappingKind::Shared)?;
            let name = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
            let file = OpenOptions::new().read(true).write(mapping.writes).open(self.task.proc(&name)).ok()?;
            Some(Kept { start, bytes, file, offset: mapping.offset + (start - mapping.start) })
        });
        self.kept.lock().extend(kept);
    }

    /// Forgets one of what was kept of a range that is pinned once less.
    fn forget(&self, at: u64, bytes: u64) {
        let mut kept = self.kept.lock();
        let ended = kept.iter().position(|kept| kept.start >= at && kept.start + kept.bytes <= at + bytes);
        let gone = ended.map(|index| kept.swap_remove(index));
        drop(kept);
        drop(gone);
    }

    /// Reads or writes memory that was kept of a process that has gone, in its file.
    // F109.
    fn in_kept(
        &self,
        at: UserAddr,
        bytes: usize,
        act: impl FnOnce(&File, u64) -> io::Result<()>,
    ) -> Result<(), BadAddress> {
        let kept = self.kept.lock();
        let found = kept.iter().find_map(|kept| {
            let inside = at.get().checked_sub(kept.start)?;
            (inside.checked_add(bytes as u64)? <= kept.bytes).then_some((&kept.file, kept.offset + inside))
        });
        let (file, offset) = found.ok_or(BadAddress { at })?;
        act(file, offset).map_err(|_| BadAddress { at })
    }
}

impl Space {
    /// Whether the process still runs in it. `/proc` gives nothing of one that has been left.
    fn is_alive(&self) -> bool {
        !matches!(self.file.read_at(&mut [0], self.probe), Ok(0))
    }
}

impl UserMemory for Process {
    fn pin(&self, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        self.pin_of(|kind| kind != MappingKind::Registers, at, bytes, access)
    }

    fn pin_registers(&self, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        self.pin_of(|kind| kind == MappingKind::Registers, at, bytes, access)
    }

    fn unpin(&self, run: PinnedRun) {
        let mut windows = self.windows.lock();
        let (mut at, mut left) = (run.phys.get(), run.bytes);
        // Adjacent parts of several windows.
        while left > 0 {
            let here = left.min(WINDOW - at % WINDOW);
            let start = at - at % WINDOW;
            let found = windows.iter_mut().find(|(_, (window, _))| window.at().get() == start);
            if let Some((number, (_, pins))) = found {
                *pins = pins.saturating_sub(here / PAGE);
                let (number, unused) = (*number, *pins == 0);
                self.forget(number * WINDOW + at % WINDOW, here);
                if unused {
                    windows.remove(&number);
                }
            }
            at += here;
            left -= here;
        }
    }

    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress> {
        if !self.space.is_alive() {
            return self.in_kept(at, into.len(), |file, offset| file.read_exact_at(into, offset));
        }
        self.task.read(at.get(), into).map_err(|_| BadAddress { at })
    }

    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        if !self.space.is_alive() {
            return self.in_kept(at, from.len(), |file, offset| file.write_all_at(from, offset));
        }
        self.task.write(at.get(), from).map_err(|_| BadAddress { at })
    }

    fn limit(&self) -> Limit {
        let is_lifted = self.task.status().is_ok_and(|status| status.has(IPC_LOCK));
        if is_lifted { Limit::Lifted } else { Limit::Enforced }
    }

    fn charge(&self, account: Account, limit: Limit, pages: u64) -> Result<(), OverLimit> {
        let locked = self.account(account);
        if account != Account::Pinned {
            let soft = self.limits.of(self.task.number()).soft;
            locked.set_limit((soft != u64::MAX).then_some(soft));
        }
        locked.charge(limit, pages)
    }

    fn uncharge(&self, account: Account, pages: u64) {
        self.account(account).uncharge(pages);
    }
}

/// A gigabyte of an address space, as devices see it. Like the pages that hardware writes, it may be written whatever the
/// process may do by now.
#[derive(Debug)]
struct Part {
    space: Arc<Space>,
    start: u64,
}

impl Contents for Part {
    fn read(&self, offset: u64, into: &mut [u8]) {
        if self.space.file.read_exact_at(into, self.start + offset).is_err() {
            into.fill(0);
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        // What was unmapped since is nowhere.
        let _ = self.space.file.write_all_at(from, self.start + offset);
    }
}

/// A process that has gone before it was asked for.
#[derive(Debug)]
struct Gone;

impl UserMemory for Gone {
    fn pin(&self, at: UserAddr, _: u64, _: Access) -> Result<PinnedRun, BadAddress> {
        Err(BadAddress { at })
    }

    fn unpin(&self, _: PinnedRun) {}

    fn read(&self, at: UserAddr, _: &mut [u8]) -> Result<(), BadAddress> {
        Err(BadAddress { at })
    }

    fn write(&self, at: UserAddr, _: &[u8]) -> Result<(), BadAddress> {
        Err(BadAddress { at })
    }

    fn charge(&self, _: Account, _: Limit, wanted: u64) -> Result<(), OverLimit> {
        Err(OverLimit { locked: 0, limit: 0, wanted })
    }

    fn uncharge(&self, _: Account, _: u64) {}
}

/// A line of `/proc/…/maps`.
#[derive(Debug)]
struct Mapping {
    start: u64,
    end: u64,
    reads: bool,
    writes: bool,
    kind: MappingKind,
    /// Where it begins in what is mapped.
    offset: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MappingKind {
    Private,
    Shared,
    /// Shared, of a device file of ours, or of a file that is called the same.
    Registers,
}

impl Mapping {
    fn of(line: &str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).ok());
        let (permissions, rest) = rest.split_once(' ')?;
        let offset = u64::from_str_radix(rest.split_once(' ')?.0, 16).ok()?;
        let has = |permission| permissions.contains(permission);
        let kind = if rest.ends_with(&format!("/memfd:{DEVICE_MEMORY} (deleted)")) {
            MappingKind::Registers
        } else if has('s') {
            MappingKind::Shared
        } else {
            MappingKind::Private
        };
        Some(Self { start: start?, end: end?, reads: has('r'), writes: has('w'), kind, offset })
    }

    fn permits(&self, access: Access) -> bool {
        // What can be written can be read.
        self.writes || access == Access::Read && self.reads
    }
}

fn mappings(task: Task) -> Vec<Mapping> {
    let text = fs::read_to_string(task.proc("maps")).unwrap_or_default();
    text.lines().filter_map(Mapping::of).collect()
}

/// How much of the range is mapped for this access, in bytes.
fn mapped(mappings: &[Mapping], at: u64, bytes: u64, access: Access) -> u64 {
    let end = at.saturating_add(bytes);
    let mut reached = at;
    for mapping in mappings {
        if mapping.start <= reached && reached < mapping.end && mapping.permits(access) {
            reached = mapping.end.min(end);
        }
    }
    reached - at
}
