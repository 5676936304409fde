//! What is in the way of giving devices away, and why they share a group.

mod change;
mod explanation;
mod naming;
mod overview;
mod reason;
mod tie;

pub use change::{Change, changes};
pub use explanation::{Explanation, Neighbour};
pub(crate) use explanation::{held, refusal};
pub use naming::{class_name, device_name};
pub use overview::{DeviceEntry, GroupEntry, Possession, overview};
pub use reason::{Answer, Reason};
pub use tie::{Remedy, Tie};
