#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod act;
mod fact;
mod host;
mod judge;
mod read;

pub use act::{
    Binding, BindingError, Bindings, Caution, Done, ExecutionError, Guarded, Journal, JournalError, ModelBindings,
    Need, Plan, PlanError, PlanFileError, Proof, ProofError, Step, SysfsBindings, UndoError, carry_out, undo,
};
pub use fact::Fact;
pub use host::{Host, NoSuchDevice};
pub use judge::{
    Advice, Answer, Change, DeviceEntry, Explanation, GroupEntry, Ids, Neighbour, Part, Possession, Reason, Remedy,
    SCHEMA, Tie, changes, class_name, device_name, overview,
};
pub use read::{
    Claim, HeldFile, Holder, Holders, HostTree, IommuState, Lifeline, ListingError, ListingErrorReason, OpenHostError,
    Origin, OtherMember, Purpose, Source, capture,
};
pub use vfio_owner;
