//! Whether devices can be assigned, and why they share a group.

mod advice;
mod change;
mod explanation;
mod naming;
mod neighbour;
mod obstacle;
mod overview;
mod reason;
mod tie;

pub use advice::Advice;
pub use change::{Change, changes};
pub use explanation::{Explanation, Ids};
pub use naming::{class_name, device_name};
pub use neighbour::{Neighbour, Part};
pub(crate) use obstacle::held;
pub use overview::{DeviceEntry, GroupEntry, Possession, overview};
pub use reason::{Answer, Reason};
pub use tie::{Remedy, Tie};

/// Version of the JSON of [`Explanation`], [`GroupEntry`] and [`Change`]. Raised when a field or a code is removed or
/// changes its meaning, not when one is added.
pub const SCHEMA: u32 = 1;
