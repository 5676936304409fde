//! Listings: any text that names PCI functions and groups, as posted in forums and bug reports.
//!
//! There is no list of forms. Each line is searched for what it names; where the group and the device are in lines of
//! their own, their places tell which belong together. What a listing does not show is unknown, and so is what stands
//! where it is not clear to which group it belongs.

mod attribute;
mod command;
mod facts;
mod json;
mod line;
mod reader;
mod shape;
mod table;
mod token;
mod value;
mod words;
mod xml;
mod yaml;

use std::str::FromStr;

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use self::facts::Facts;
use self::line::Line;
use self::reader::Reader;
use crate::Host;

pub use self::facts::Claim;

/// Why a text is not a listing of groups and devices.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ListingError {
    /// The line, counted from 1; the last if something is missing.
    pub line: usize,
    /// Why.
    pub reason: ListingErrorReason,
}

/// What is wrong with a listing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListingErrorReason {
    /// No line names a device.
    #[error("neither a capture nor a listing: no line names a PCI device")]
    NoDevice,
    /// A line contradicts an earlier one.
    #[error(
        "{device} is {second} here, and {first} in line {first_line}; of two machines, or of one at two times, give the \
         listings one by one"
    )]
    Contradiction {
        /// The device.
        device: PciAddress,
        /// What the earlier line says.
        first: Claim,
        /// The earlier line, counted from 1.
        first_line: usize,
        /// What this line says.
        second: Claim,
    },
}

impl FromStr for Host {
    type Err = ListingError;

    /// Reads a listing.
    fn from_str(text: &str) -> Result<Self, ListingError> {
        let wrong = |(line, reason)| ListingError { line, reason };
        let mut facts = Facts::default();
        let rest = value::take(text, &mut facts).map_err(wrong)?;
        let lines = (1..).zip(rest.lines()).flat_map(|(number, raw)| Line::new(number, raw).divided());
        let lines = joined(lines);
        let facts = Reader::new(&lines, facts).read().map_err(wrong)?;
        if facts.is_empty() {
            return Err(ListingError { line: text.lines().count(), reason: ListingErrorReason::NoDevice });
        }
        Ok(facts.into_host())
    }
}

/// The lines, of which those belong together that mail has broken between the word for a group and its number.
fn joined(lines: impl Iterator<Item = Line>) -> Vec<Line> {
    let mut joined: Vec<Line> = Vec::new();
    for line in lines {
        match joined.last_mut() {
            Some(above) if above.lacks_number() && line.text.parse::<u32>().is_ok() => {
                above.text = format!("{} {}", above.text, line.text);
            }
            _ => joined.push(line),
        }
    }
    joined
}
