#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod act;
mod host;
mod judge;
mod read;

pub use act::{
    Binding, BindingError, Bindings, Caution, CheckedPlan, Done, ExecutionError, ExecutionFailure, Extent, Guarded,
    Journal, JournalError, ModelBindings, Plan, PlanError, PlanFileError, Proof, ProofError, Step, SysfsBindings,
    UndoError, UndoFailure, undo,
};
pub use host::{Host, NoSuchDevice, Type1};
pub use judge::{
    Answer, Change, DeviceEntry, Explanation, GroupEntry, Neighbour, Possession, Reason, Remedy, Tie, changes,
    class_name, device_name, overview,
};
pub use read::{
    HeldFile, Holder, Holders, HostTree, Lifeline, ListingError, ListingErrorReason, OpenHostError, Purpose, Source,
    Trial, Unseen, capture, is_printable,
};
pub use vfio_owner;
