//! Machines that people run: what is in the way, plans, and carrying them out.
#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod captures;
mod changes;
mod corpus;
mod disk;
mod execution;
mod garbage;
mod golden;
mod layout;
mod lifelines;
mod listings;
mod members;
mod minimal;
mod program;
mod reading;
