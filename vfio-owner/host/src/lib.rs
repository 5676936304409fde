#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod act;
mod draw;
mod host;
mod judge;
mod read;

pub use act::{
    Binding, BindingError, Bindings, Caution, Done, ExecutionError, Guarded, Journal, JournalError, ModelBindings,
    Plan, PlanError, PlanFileError, Proof, ProofError, Step, SysfsBindings, UndoError, carry_out, undo,
};
pub use draw::draw;
pub use host::{Host, NoSuchDevice};
pub use judge::{
    Answer, Change, DeviceEntry, Explanation, GroupEntry, Neighbour, Possession, Reason, Remedy, Tie, changes,
    class_name, device_name, overview,
};
pub use read::{
    HeldFile, Holder, Holders, HostTree, Lifeline, ListingError, ListingErrorReason, OpenHostError, Purpose, Source,
    capture,
};
pub use vfio_owner;
