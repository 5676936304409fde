//! What to do, played on the model first; and doing and undoing it.

mod binding;
mod execution;
mod journal;
mod persistence;
mod plan;
mod proof;
mod script;
mod sysfs_binding;

pub use binding::{Binding, BindingError, Bindings};
pub use execution::{Done, ExecutionError, UndoError, carry_out, undo};
pub use journal::{Journal, JournalError};
pub use persistence::{Persistence, PersistenceError, PersistentFile};
pub use plan::{Caution, Guarded, Need, Plan, PlanError, PlanFileError, Step};
pub use proof::{ModelBindings, Proof, ProofError};
pub use sysfs_binding::SysfsBindings;
