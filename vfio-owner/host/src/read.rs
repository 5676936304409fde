//! What a machine is: read from the running kernel, from a tree or a capture of one, or from a listing.

mod capture;
mod holder;
mod lifeline;
mod listing;
mod readiness;
mod source;

pub use capture::capture;
pub use holder::{HeldFile, Holder, Holders};
pub use lifeline::{Lifeline, Purpose};
pub use listing::{ListingError, ListingErrorReason};
pub use readiness::{Check, State, Subject, readiness};
pub(crate) use source::text;
pub use source::{HostTree, OpenHostError, Source};
