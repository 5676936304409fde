//! Plans: making, proving, applying and undoing them.

mod binding;
mod call;
mod execution;
mod identity;
mod journal;
mod outcome;
mod persistence;
mod plan;
mod proof;
mod script;
mod sysfs_binding;

pub use binding::{Binding, BindingError, Bindings};
pub use execution::undo;
pub use journal::{Journal, JournalError};
pub use outcome::{Done, ExecutionError, ExecutionFailure, UndoError, UndoFailure};
pub use persistence::{Persistence, PersistenceError, PersistentFile};
pub use plan::{Caution, CheckedPlan, Guarded, Need, Plan, PlanError, PlanFileError, Step};
pub use proof::{ModelBindings, Proof, ProofError};
pub use sysfs_binding::SysfsBindings;
