//! The designs and their variants, each with the label under which it answers.

use crate::pointer::Fetch;
use crate::proposed::{self, Again, Hook, Owners, Reaches, Release};
use crate::walk::{self, GiveBack, Look, Publish};

/// What an answer is labelled with.
#[derive(Clone, Copy)]
pub(crate) struct Label {
    /// The family, and after a comma the variant.
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
}

/// The design that ships.
pub(crate) const COUNTED: Label = Label {
    name: "counted (ships)",
    meaning: "each kernel use and each claim is counted under the group lock when it begins and when it ends",
};

/// As it ships, without a driver core.
pub(crate) const COUNTED_ALONE: Label =
    Label { name: "counted, without a bus", meaning: "the same; kernel uses begin and end by hand" };

/// Scenes that are about memory alone, whose possible outcomes are known.
pub(crate) const RELAXED: Label = Label { name: "memory, relaxed", meaning: "loads and stores without any order" };
/// See [`RELAXED`].
pub(crate) const RELEASE_ACQUIRE: Label =
    Label { name: "memory, release and acquire", meaning: "stores release, loads acquire" };
/// See [`RELAXED`].
pub(crate) const SEQ_CST: Label =
    Label { name: "memory, SeqCst", meaning: "all loads and stores have one order that all threads see" };

/// A variant of the walk at the claim.
#[derive(Clone, Copy)]
pub(crate) struct Walk(pub(crate) Label, pub(crate) walk::Variant);

const PLAIN_WALK: walk::Variant = walk::Variant::PLAIN;

pub(crate) const WALK: Walk = Walk(
    Label {
        name: "walk, plain read",
        meaning: "a claim reads the driver of each device under the group lock, without the device lock",
    },
    PLAIN_WALK,
);
pub(crate) const WALK_TWICE: Walk = Walk(
    Label { name: "walk, looks twice", meaning: "as that, and reads again to see whether the driver is the same" },
    walk::Variant { look: Look::Twice, ..PLAIN_WALK },
);
pub(crate) const WALK_INSIDE: Walk = Walk(
    Label {
        name: "walk, device lock inside",
        meaning: "a claim takes the device lock of each device while it holds the group lock",
    },
    walk::Variant { look: Look::LockInside, ..PLAIN_WALK },
);
pub(crate) const WALK_BEFORE: Walk = Walk(
    Label {
        name: "walk, device locks before",
        meaning: "a claim takes all device locks of the group before the group lock",
    },
    walk::Variant { look: Look::LockBefore, ..PLAIN_WALK },
);
pub(crate) const WALK_PUBLISHED: Walk = Walk(
    Label { name: "walk, claim published first", meaning: "a claim writes down the owner before it walks" },
    walk::Variant { publish: Publish::BeforeWalk, ..PLAIN_WALK },
);
pub(crate) const WALK_GIVES_BACK: Walk = Walk(
    Label {
        name: "walk, released by a walk",
        meaning: "a release keeps the group while another device is bound to a driver that manages its own DMA",
    },
    walk::Variant { give_back: GiveBack::AfterWalk, ..PLAIN_WALK },
);

/// A variant of the walk at the release.
#[derive(Clone, Copy)]
pub(crate) struct Proposed(pub(crate) Label, pub(crate) proposed::Variant);

const BEST_CHOICES: proposed::Variant = proposed::Variant::BEST;

pub(crate) const BEST: Proposed = Proposed(
    Label {
        name: "proposed",
        meaning: "one owner a group; a driver that goes walks under the group lock, after its pointer is cleared, from a \
                  callback that every bind that fails reaches; the end of a claim clears the owner",
    },
    BEST_CHOICES,
);
pub(crate) const NOTIFIER: Proposed = Proposed(
    Label {
        name: "proposed, notifier",
        meaning: "as that, but a bind that fails before its driver is probed does not reach the walk",
    },
    proposed::Variant { hook: Hook::AfterClear(Reaches::Probed), ..BEST_CHOICES },
);
pub(crate) const NOTIFIER_6_12: Proposed = Proposed(
    Label {
        name: "proposed, 6.12's notifier",
        meaning: "as that, and the walk after a failed probe runs before the pointer is cleared, as 6.12 notifies",
    },
    proposed::Variant { hook: Hook::AsNotified, ..BEST_CHOICES },
);
pub(crate) const BEFORE: Proposed = Proposed(
    Label { name: "proposed, walks before", meaning: "the walk runs before the driver's pointer is cleared" },
    proposed::Variant { hook: Hook::BeforeClear(Reaches::All), ..BEST_CHOICES },
);
pub(crate) const CLEANUP: Proposed = Proposed(
    Label {
        name: "proposed, in dma_cleanup",
        meaning: "as that, from a callback that a bind reaches only once it has the group",
    },
    proposed::Variant { hook: Hook::BeforeClear(Reaches::Probed), ..BEST_CHOICES },
);
pub(crate) const UNLOCKED: Proposed = Proposed(
    Label {
        name: "proposed, looks unlocked",
        meaning: "the walk reads the other drivers before it takes the group lock",
    },
    proposed::Variant { look: proposed::Look::Unlocked, ..BEST_CHOICES },
);
pub(crate) const TWICE: Proposed = Proposed(
    Label {
        name: "proposed, plain read",
        meaning: "the pointer is read once to see whether there is a driver, and again to follow it",
    },
    proposed::Variant { fetch: Fetch::Twice, ..BEST_CHOICES },
);
pub(crate) const CLAIMS_WALK: Proposed = Proposed(
    Label {
        name: "proposed, claims walk",
        meaning: "the end of a claim keeps the owner while another device has the owner's token",
    },
    proposed::Variant { release: Release::Walks, ..BEST_CHOICES },
);
pub(crate) const ONE_CLAIM: Proposed = Proposed(
    Label { name: "proposed, no nesting", meaning: "an owner that claims again is refused" },
    proposed::Variant { again: Again::Refused, ..BEST_CHOICES },
);
pub(crate) const CALLERS: Proposed = Proposed(
    Label {
        name: "proposed, owners by name",
        meaning: "a claim's owner is whoever claims, not the device's driver; the walk clears the DMA API's ownership only",
    },
    proposed::Variant { owners: Owners::Callers, ..BEST_CHOICES },
);
