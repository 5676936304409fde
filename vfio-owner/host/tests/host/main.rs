//! Machines that people run: what is in the way, plans, and carrying them out.
#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod altered;
mod asked_for;
mod attacks;
mod captures;
mod changes;
mod corpus;
mod disk;
mod execution;
mod for_programs;
mod garbage;
mod golden;
mod guarded;
mod holders;
mod layout;
mod lifelines;
mod listings;
mod members;
mod minimal;
mod pictures;
mod program;
mod proofs;
mod reading;
