//! Eventfds of tasks: signalled by the machine, or by the task, for which the supervisor listens.

use std::fmt;
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::{ReadWriteFlags, preadv2};
use vfio_owner::device_ops::{Event, Listening};
use vfio_owner::iommu_core::device_model::sync::Mutex;

/// Eventfds that are listened to. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Ears(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Leaf lock.
    ears: Mutex<Vec<Ear>>,
    next: AtomicU64,
    /// Wakes the supervisor, which waits for what was there when it began to wait.
    wake: Arc<OwnedFd>,
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
        Self(Arc::new(Shared { ears: Mutex::default(), next: AtomicU64::new(0), wake }))
    }

    /// Returns what is to be waited for.
    pub(crate) fn all(&self) -> Vec<Ear> {
        self.0.ears.lock().clone()
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

/// An eventfd of a task.
struct Eventfd {
    eventfd: Arc<OwnedFd>,
    ears: Ears,
}

impl Event for Eventfd {
    fn signal(&self) {
        // Only a full counter refuses, and that is signalled enough.
        let _ = rustix::io::write(&*self.eventfd, &1_u64.to_ne_bytes());
    }

    fn listen(&self, heard: Arc<dyn Fn() + Send + Sync>) -> Option<Listening> {
        let number = self.ears.0.next.fetch_add(1, Ordering::Relaxed);
        self.ears.0.ears.lock().push(Ear { number, eventfd: self.eventfd.clone(), heard });
        let _ = rustix::io::write(&*self.ears.0.wake, &1_u64.to_ne_bytes());
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
        self.ears.0.ears.lock().retain(|ear| ear.number != self.number);
    }
}
