//! What a machine is: read from the running kernel, from a tree or a capture of one, or from a listing.

mod asked;
mod capture;
mod confined;
mod holder;
mod lifeline;
mod listing;
mod network;
mod process;
mod source;

pub use asked::Trial;
pub use capture::capture;
pub(crate) use confined::Confined;
pub use holder::{HeldFile, Holder, Holders};
pub use lifeline::{Lifeline, Purpose, Unseen};
pub use listing::{ListingError, ListingErrorReason};
pub use source::{HostTree, OpenHostError, Source, is_printable};
pub(crate) use source::{Place, text};
