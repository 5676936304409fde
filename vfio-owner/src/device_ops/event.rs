//! Events that a device and its user signal to each other.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use iommu_core::device_model::Errno;

/// An event that both sides can signal: an eventfd, or what stands for it.
pub trait Event: Send + Sync {
    /// Signals the event to user space. Called on the thread that raises the interrupt, with no lock held.
    fn signal(&self);

    /// Calls `heard` whenever user space signals the event, which consumes the signal; at once if it is signalled
    /// already. Ends when the returned value is dropped. `None` if user space cannot signal it.
    fn listen(&self, heard: Arc<dyn Fn() + Send + Sync>) -> Option<Listening> {
        let _ = heard;
        None
    }
}

impl<F: Fn() + Send + Sync> Event for F {
    fn signal(&self) {
        self();
    }
}

/// An [`Event`] is listened to until this is dropped.
pub struct Listening(Box<dyn Any + Send + Sync>);

impl Listening {
    /// Wraps what ends the listening when it is dropped.
    pub fn new(until: impl Any + Send + Sync) -> Self {
        Self(Box::new(until))
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = &self.0;
        f.write_str("Listening")
    }
}

/// What an interrupt signals: an eventfd, or a closure in its place. Clones are the same trigger.
///
/// Called on the thread that raises the interrupt, with no lock held. It may call the device, but must not close it:
/// [`close`](super::DeviceOps::close) waits until every trigger has returned.
#[derive(Clone)]
pub struct Trigger(Arc<dyn Event>);

impl Trigger {
    /// Creates a trigger that calls `signal`.
    pub fn new(signal: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(signal))
    }

    /// Creates the trigger of an event.
    pub fn of(event: Arc<dyn Event>) -> Self {
        Self(event)
    }

    /// Signals the trigger.
    pub fn signal(&self) {
        self.0.signal();
    }

    /// Calls `heard` whenever user space signals the event, as [`Event::listen`] does.
    pub fn listen(&self, heard: impl Fn() + Send + Sync + 'static) -> Option<Listening> {
        self.0.listen(Arc::new(heard))
    }
}

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trigger")
    }
}

/// An entry of a list of eventfds.
#[derive(Clone, Debug)]
pub enum Eventfd {
    /// This event.
    Set(Trigger),
    /// No event: the descriptor -1, which removes one that is set.
    Remove,
    /// A descriptor that is no eventfd, with the error for whoever gets as far as to use it.
    Invalid(Errno),
}

impl From<Trigger> for Eventfd {
    fn from(trigger: Trigger) -> Self {
        Self::Set(trigger)
    }
}

impl Eventfd {
    /// Returns the trigger, or `None` for [`Remove`](Self::Remove).
    ///
    /// # Errors
    /// The descriptor is no eventfd.
    pub fn trigger(&self) -> Result<Option<Trigger>, Errno> {
        match self {
            Self::Set(trigger) => Ok(Some(trigger.clone())),
            Self::Remove => Ok(None),
            Self::Invalid(errno) => Err(*errno),
        }
    }
}
