//! Plays scenarios: steps that were recorded on a real kernel, with its answers.
//!
//! A [`Scenario`](language::Scenario) is read from a file. A [`Player`] plays its steps on a [`System`]: whatever
//! answers system calls. [`Kernel`] is what this program runs on, be it a room, a guest, or a machine; another system
//! may be a machine in the same process. The player answers no call by itself.

pub mod check;
mod kernel;
pub mod language;
mod player;
mod system;

pub use kernel::{Kernel, is_a_playground};
pub use nix::errno::Errno;
pub use player::{Answer, By, Played, Player};
pub use system::{Access, BUFFER_BYTES, Fd, NOTHING_BYTES, SCRATCH_BYTES, System};
