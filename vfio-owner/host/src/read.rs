//! What a machine is: read from the running kernel, from a tree or a capture of one, or from a listing.

mod capture;
mod holder;
mod iommu_state;
mod lifeline;
mod listing;
mod origin;
mod other_member;
mod readiness;
mod source;

pub use capture::capture;
pub use holder::{HeldFile, Holder, Holders};
pub use iommu_state::IommuState;
pub use lifeline::{Lifeline, Purpose};
pub use listing::{Claim, ListingError, ListingErrorReason};
pub use origin::Origin;
pub use other_member::OtherMember;
pub use readiness::{Check, State, Subject, readiness};
pub(crate) use source::text;
pub use source::{HostTree, OpenHostError, Source};
