//! Tables: columns between bars, or apart by tabs or several spaces, with a heading.

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::viability::{DriverDma, dma_of};

use super::ListingErrorReason;
use super::attribute;
use super::facts::{Facts, Place};
use super::token::{self, hex4};
use super::words::leading_class;

/// The columns of a table, by what they are about.
#[derive(Debug, Default)]
pub(super) struct Table {
    columns: Vec<Column>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Column {
    Group,
    Class,
    Vendor,
    DeviceId,
    Name,
    Driver,
    Other,
}

/// The cells of a line without bars, if it has so many: tabs divide them, else several spaces, else commas.
pub(super) fn columns(text: &str, least: usize) -> Option<Vec<&str>> {
    ["\t", "  ", ";", ","].into_iter().find_map(|sign| {
        let cells = text.split(sign).map(|cell| cell.trim().trim_matches('"'));
        // Between columns of words there are as many spaces as there is room.
        let cells: Vec<&str> = cells.filter(|cell| sign != "  " || !cell.is_empty()).collect();
        (cells.len() >= least).then_some(cells)
    })
}

/// Whether cells are the heading of a table of devices and their groups.
pub(super) fn is_heading(cells: &[&str]) -> bool {
    const DEVICE: [&str; 10] =
        ["id", "address", "bdf", "slot", "pci", "device", "pci address", "pci id", "bus id", "pci device"];
    let plain = cells.iter().all(|cell| !cell.contains(|c: char| c.is_ascii_digit()));
    let names_device = cells.iter().any(|cell| DEVICE.contains(&&*cell.to_ascii_lowercase()));
    plain && names_device && cells.iter().any(|cell| column(cell) == Column::Group)
}

impl Table {
    /// Whether cells are a row of the table: each stands in its column.
    pub(super) fn fits(&self, cells: &[&str]) -> bool {
        let group = self.columns.iter().position(|column| *column == Column::Group);
        let in_place = group.and_then(|at| cells.get(at)).is_some_and(|cell| cell.parse::<i64>().is_ok());
        // Words at the end of a row may have what divides the others.
        in_place && cells.len() + 1 >= self.columns.len()
    }

    /// The cells of a row; `None` if the line is no row.
    pub(super) fn cells(text: &str) -> Option<Vec<&str>> {
        let bars = ['│', '┃', '║', '|'];
        let cells: Vec<&str> = text.split(bars).map(str::trim).collect();
        if cells.len() < 3 || cells.iter().all(|cell| cell.is_empty()) {
            return None;
        }
        let inner = cells.strip_prefix(&[""]).unwrap_or(&cells);
        Some(inner.to_vec())
    }

    /// Reads a row; whether it was understood.
    pub(super) fn row(&mut self, cells: &[&str], line: usize, facts: &mut Facts) -> Result<bool, ListingErrorReason> {
        if cells.iter().all(|cell| cell.chars().all(|c| !c.is_alphanumeric())) {
            return Ok(true);
        }
        let address = cells.iter().find_map(|cell| token::addresses(cell).first().map(|found| found.value));
        let Some(device) = address else {
            self.columns = cells.iter().map(|cell| column(cell)).collect();
            return Ok(self.columns.iter().any(|column| *column != Column::Other));
        };
        facts.device(device).listed = true;
        let mut ids = (None, None);
        if self.columns.is_empty() {
            return without_heading(facts, device, cells, line).map(|()| true);
        }
        for (cell, column) in cells.iter().zip(&self.columns) {
            match column {
                Column::Group => {
                    if let Ok(number) = cell.parse() {
                        facts.group_number(device, number, line)?;
                    }
                }
                Column::Class => facts.class_value(device, cell),
                Column::Vendor => ids.0 = hex4(cell),
                // Some call the name so.
                Column::DeviceId => match hex4(cell) {
                    Some(id) => ids.1 = Some(id),
                    None => described(facts, device, cell, line)?,
                },
                Column::Name => described(facts, device, cell, line)?,
                Column::Other if leading_class(cell).is_some() || token::ids(cell).is_some() => {
                    described(facts, device, cell, line)?;
                }
                Column::Other => {}
                Column::Driver => {
                    if let Some(driver) = attribute::driver(cell) {
                        facts.driver(device, driver, line)?;
                    }
                }
            }
        }
        if let (Some(vendor), Some(id)) = ids {
            facts.ids(device, (vendor, id), line)?;
        }
        Ok(true)
    }
}

/// A row of a table whose heading is not shown: what a cell is about, it has to say itself.
fn without_heading(
    facts: &mut Facts,
    device: PciAddress,
    cells: &[&str],
    line: usize,
) -> Result<(), ListingErrorReason> {
    for cell in cells {
        if let [group] = &token::groups(cell, &[])[..] {
            facts.group(device, group.value.known(), Place::Shown, line)?;
        } else if dma_of(cell) != DriverDma::Unknown {
            facts.driver(device, Some((*cell).to_owned()), line)?;
        } else if leading_class(cell).is_some() || token::ids(cell).is_some() {
            described(facts, device, cell, line)?;
        }
    }
    Ok(())
}

/// What a cell of words says of a device: its kind and name, or its name alone, and ids.
fn described(facts: &mut Facts, device: PciAddress, cell: &str, line: usize) -> Result<(), ListingErrorReason> {
    if let Some(ids) = token::ids(cell) {
        facts.ids(device, ids, line)?;
    }
    let behind = token::addresses(cell).last().and_then(|found| cell.get(found.place.end..));
    let words = behind.unwrap_or(cell).trim_matches(['`', ' ']);
    match leading_class(words) {
        Some((class, name)) => {
            facts.class(device, class);
            let code = name.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let name = code.filter(|(code, _)| hex4(code).is_some()).map_or(name, |(_, rest)| rest);
            facts.name(device, name.trim_start_matches([':', ' ']));
        }
        None if words.contains(' ') && token::addresses(words).is_empty() => facts.name(device, words),
        None => {}
    }
    Ok(())
}

fn column(heading: &str) -> Column {
    let lower = heading.trim_matches(['*', '`', '"']).to_ascii_lowercase();
    let has_group = token::words(&lower).any(|word| token::is_group_word(word.value));
    match &*lower {
        _ if has_group => Column::Group,
        "class" | "type" | "kind" => Column::Class,
        "vendor" | "vendor id" => Column::Vendor,
        "device" | "device id" => Column::DeviceId,
        "device_name" | "device name" | "name" | "description" => Column::Name,
        "driver" | "kernel driver" | "driver in use" | "kernel driver in use" => Column::Driver,
        _ => Column::Other,
    }
}
