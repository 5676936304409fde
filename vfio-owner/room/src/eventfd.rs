//! Eventfds of tasks: signalled by the machine, or by the task, for which the supervisor listens.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::{fmt, fs};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use vfio_owner::device_ops::{Event, Listening};
use vfio_owner::iommu_core::device_model::sync::Mutex;

use crate::task::{Task, descriptors};

/// Eventfds that are listened to. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Ears(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Leaf lock.
    ears: Mutex<Listened>,
    /// Wakes the supervisor, which waits for what was there when it began to wait.
    wake: Arc<OwnedFd>,
}

#[derive(Debug, Default)]
struct Listened {
    ears: Vec<Ear>,
    next: u64,
}

/// An eventfd, and who hears it.
#[derive(Clone)]
pub(crate) struct Ear {
    number: u64,
    pub(crate) eventfd: Arc<OwnedFd>,
    heard: Arc<dyn Fn() + Send + Sync>,
}

impl Ears {
    pub(crate) fn new(wake: Arc<OwnedFd>) -> Self {
        Self(Arc::new(Shared { ears: Mutex::default(), wake }))
    }

    /// Returns what is to be waited for.
    pub(crate) fn all(&self) -> Vec<Ear> {
        self.0.ears.lock().ears.clone()
    }

    /// Returns the eventfd as what interrupts signal.
    pub(crate) fn event(&self, eventfd: OwnedFd) -> impl Event + use<> {
        Eventfd { eventfd: Arc::new(eventfd), ears: self.clone() }
    }
}

impl Ear {
    /// Takes the signal, unless somebody else has, and says so.
    pub(crate) fn hear(&self) {
        let mut count = [0; 8];
        // Without waiting, whatever the eventfd was made with; from where it is, as it has no positions.
        if preadv2(&*self.eventfd, &mut [IoSliceMut::new(&mut count)], u64::MAX, ReadWriteFlags::NOWAIT) == Ok(8) {
            (self.heard)();
        }
    }
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ear").field("eventfd", &self.eventfd).finish_non_exhaustive()
    }
}

/// Copies of the eventfds that tasks have made, where descriptors of other processes cannot be fetched.
#[derive(Debug, Default)]
pub(crate) struct KeptEventfds(BTreeMap<u32, OwnedFd>);

/// So many are kept before those are looked for that nobody else has any more: nobody says when one is closed.
const MANY: usize = 256;

impl KeptEventfds {
    /// Makes an eventfd for a task.
    pub(crate) fn make(&mut self, value: u32, flags: EventfdFlags) -> Result<OwnedFd, Errno> {
        if self.0.len() >= MANY {
            self.forget();
        }
        let made = eventfd(value, flags)?;
        let id = id(Path::new(&format!("/proc/thread-self/fdinfo/{}", made.as_raw_fd()))).ok_or(Errno::NOSYS)?;
        self.0.insert(id, made.try_clone().map_err(|_| Errno::MFILE)?);
        Ok(made)
    }

    /// Returns the eventfd that a task has as `fd`.
    pub(crate) fn get(&self, task: Task, fd: i32) -> Option<OwnedFd> {
        let id = id(&task.proc(&format!("fdinfo/{fd}")))?;
        self.0.get(&id)?.try_clone().ok()
    }

    /// Forgets those of which the only descriptors are our own.
    fn forget(&mut self) {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for fdinfo in descriptors("fdinfo") {
            if let Some(id) = id(&fdinfo.1) {
                *counts.entry(id).or_default() += 1;
            }
        }
        self.0.retain(|id, _| counts.get(id).is_none_or(|count| *count > 1));
    }
}

/// Returns the number of an eventfd, by which it can be told from others.
fn id(fdinfo: &Path) -> Option<u32> {
    let text = fs::read_to_string(fdinfo).ok()?;
    text.lines().find_map(|line| line.strip_prefix("eventfd-id:"))?.trim().parse().ok()
}

/// Signals an eventfd. Only a full counter refuses, and that is signalled enough.
pub(crate) fn signal(eventfd: &OwnedFd) {
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}

/// An eventfd of a task.
struct Eventfd {
    eventfd: Arc<OwnedFd>,
    ears: Ears,
}

impl Event for Eventfd {
    fn signal(&self) {
        signal(&self.eventfd);
    }

    fn listen(&self, heard: Arc<dyn Fn() + Send + Sync>) -> Option<Listening> {
        let mut listened = self.ears.0.ears.lock();
        let number = listened.next;
        listened.next += 1;
        listened.ears.push(Ear { number, eventfd: self.eventfd.clone(), heard });
        drop(listened);
        signal(&self.ears.0.wake);
        Some(Listening::new(Until { number, ears: self.ears.clone() }))
    }
}

/// Ends the listening when it is dropped.
struct Until {
    number: u64,
    ears: Ears,
}

impl Drop for Until {
    fn drop(&mut self) {
        self.ears.0.ears.lock().ears.retain(|ear| ear.number != self.number);
    }
}
