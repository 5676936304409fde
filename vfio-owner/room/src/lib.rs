#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod answer;
mod attributes;
mod caller;
mod calls;
mod command;
mod error;
mod eventfd;
mod files;
mod filter;
mod inherited;
mod leftovers;
mod limits;
mod log;
mod memory;
mod notify;
mod room;
mod scratch;
mod service;
mod supervisor;
mod task;
mod territory;
mod tree;
mod view;
mod walk;

pub use command::Command;
pub use error::RoomError;
pub use leftovers::{HeldFile, Leftovers};
pub use log::Refusal;
pub use room::Room;
pub use vfio_owner;
