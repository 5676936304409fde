#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod answer;
mod attributes;
mod caller;
mod calls;
mod error;
mod files;
mod filter;
mod notify;
mod room;
mod supervisor;
mod task;
mod territory;
mod tree;
mod walk;
#[cfg(test)]
mod tests;
mod world;

pub use error::RoomError;
pub use room::Room;
pub use vfio_owner;
