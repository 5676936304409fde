//! Whether devices can be assigned, and why they share a group.

mod advice;
mod change;
mod explanation;
mod naming;
mod overview;
mod reason;
mod tie;

pub use advice::Advice;
pub use change::{Change, changes};
pub(crate) use explanation::held;
pub use explanation::{Explanation, Ids, Neighbour, Part};
pub use naming::{class_name, device_name};
pub use overview::{DeviceEntry, GroupEntry, Possession, overview};
pub use reason::{Answer, Reason};
pub use tie::{Remedy, Tie};

/// Version of the JSON of [`Explanation`], [`GroupEntry`] and [`Change`]. Raised when a field or a code is removed or
/// changes its meaning, not when one is added.
pub const SCHEMA: u32 = 1;
