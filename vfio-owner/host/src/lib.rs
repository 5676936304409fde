#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod act;
mod candidate;
mod deadline;
mod draw;
mod driver_name;
mod fact;
mod host;
mod judge;
mod next_tool;
mod read;
mod selector;

pub use act::{
    Binding, BindingError, Bindings, Caution, CheckedPlan, Done, ExecutionError, ExecutionFailure, Guarded, Journal,
    JournalError, ModelBindings, Need, Persistence, PersistenceError, PersistentFile, Plan, PlanError, PlanFileError,
    Proof, ProofError, Step, SysfsBindings, UndoError, UndoFailure, undo,
};
pub use candidate::{Candidate, candidates};
pub use draw::draw;
pub use fact::Fact;
pub use host::{Host, NoSuchDevice, Type1};
pub use judge::{
    Advice, Answer, Change, DeviceEntry, Explanation, GroupEntry, Ids, Neighbour, Part, Possession, Reason, Remedy,
    SCHEMA, Tie, changes, class_name, device_name, overview,
};
pub use next_tool::NextTool;
pub use read::{
    Check, Claim, HeldFile, Holder, Holders, HostTree, IommuState, Lifeline, ListingError, ListingErrorReason,
    OpenHostError, Origin, OtherMember, Purpose, Source, State, Subject, Trial, Trials, Unseen, capture, is_printable,
    readiness,
};
pub use selector::{NoneSelected, ParseSelectorError, Selector};
pub use vfio_owner;
