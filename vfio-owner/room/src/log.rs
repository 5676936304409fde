//! Refused calls, and why.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::device_model::sync::Mutex;

/// A call that the machine refused.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Refusal {
    /// The number of the task that called.
    pub task: u32,
    /// The system call, such as `openat` or `write`; of an `ioctl`, with its number.
    pub call: String,
    /// The file.
    pub file: PathBuf,
    /// The error that it got; `None` for a group's status that says "not viable".
    pub errno: Option<Errno>,
    /// Who or what is in the way, as the typed error says it, and what that says of its sources; empty if the call is simply
    /// wrong.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} of {}", self.task, self.call, self.file.display())?;
        match self.errno {
            Some(errno) => write!(f, ": {errno}")?,
            None => f.write_str(": not viable")?,
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason) }
    }
}

/// The refusals of a room, in their order. Clones are the same log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    /// Hears of typed errors.
    observer: Option<Observer>,
    /// Said of the call that is being served.
    reason: String,
    refusals: Vec<Refusal>,
}

type Observer = Arc<dyn Fn(&(dyn Error + 'static)) + Send + Sync>;

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("refusals", &self.refusals).finish_non_exhaustive()
    }
}

impl Log {
    pub(crate) fn observe(&self, observer: Observer) {
        self.0.lock().observer = Some(observer);
    }

    /// Notes why the call that is being served will fail.
    pub(crate) fn reason(&self, error: &(dyn Error + 'static)) {
        let observer = {
            let mut entries = self.0.lock();
            entries.reason = chain(error);
            entries.observer.clone()
        };
        if let Some(observer) = observer {
            observer(error);
        }
    }

    /// A call begins.
    pub(crate) fn begin(&self) {
        self.0.lock().reason.clear();
    }

    /// The call failed.
    pub(crate) fn refuse(&self, task: u32, call: String, file: PathBuf, errno: Errno) {
        let mut entries = self.0.lock();
        let reason = std::mem::take(&mut entries.reason);
        entries.refusals.push(Refusal { task, call, file, errno: Some(errno), reason });
    }

    /// The call was answered with "not viable".
    pub(crate) fn not_viable(&self, task: u32, call: String, file: PathBuf, reason: String) {
        self.0.lock().refusals.push(Refusal { task, call, file, errno: None, reason });
    }

    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        self.0.lock().refusals.clone()
    }
}

/// What an error says, and its sources, each once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = source.source();
    }
    text
}
