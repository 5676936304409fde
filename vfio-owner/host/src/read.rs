//! Reading a machine: the running kernel, a copy or capture of its trees, or a listing.

mod asked;
mod capture;
mod confined;
mod holder;
mod iommu_state;
mod lifeline;
mod listing;
mod network;
mod origin;
mod other_member;
mod process;
mod readiness;
mod source;
mod trial;

pub use asked::Trial;
pub use capture::capture;
pub(crate) use confined::Confined;
pub use holder::{HeldFile, Holder, Holders};
pub use iommu_state::IommuState;
pub use lifeline::{Lifeline, Purpose, Unseen};
pub use listing::{Claim, ListingError, ListingErrorReason};
pub use origin::Origin;
pub use other_member::OtherMember;
pub use readiness::{Check, State, Subject, readiness};
pub use source::{HostTree, OpenHostError, Source, is_printable};
pub(crate) use source::{Place, text};
pub use trial::Trials;
