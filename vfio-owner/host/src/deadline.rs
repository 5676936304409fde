//! Answers that may never come.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Returns what `answer` does, if it does so in time. Nothing waits for its thread, which ends with it or with the process.
pub(crate) fn within<T: Send + 'static>(deadline: Duration, answer: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(answer()));
    receiver.recv_timeout(deadline).ok()
}
