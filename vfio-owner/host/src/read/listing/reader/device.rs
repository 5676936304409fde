//! What a listing says of one device: its kind, its name, its ids, its driver.

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::{Pending, Read, Reader};
use crate::read::listing::ListingErrorReason;
use crate::read::listing::attribute::{self, Attribute};
use crate::read::listing::line::Line;
use crate::read::listing::shape::without_marks;
use crate::read::listing::token;
use crate::read::listing::words::leading_class;

impl Reader<'_> {
    /// Adds what was said of the device before it was named.
    pub(super) fn apply(&mut self, device: PciAddress, pending: Pending, line: usize) -> Read {
        if let Some(class) = pending.class {
            self.facts.class_words(device, &class);
        }
        pending.names.iter().for_each(|name| self.facts.name(device, name));
        if pending.unclaimed { self.facts.driver(device, None, line) } else { Ok(()) }
    }

    /// The kind, name and ids that stand beside a device.
    pub(super) fn describe(&mut self, device: PciAddress, before: &str, after: &str, line: usize) -> Read {
        let rest = after.trim_start_matches([' ', '\t', '-', '–', '|', '"', '\'', ':', '(', ',']);
        let ids = token::ids(rest).or_else(|| token::ids(before));
        // `dpdk-devbind` has more behind the name.
        let rest = if after.trim_start().starts_with('\'') { rest.split('\'').next().unwrap_or(rest) } else { rest };
        let rest = without_marks(rest);
        let mut name = "";
        if let Some(code) = rest
            .get(..4)
            .and_then(token::hex4)
            .filter(|_| matches!(rest.get(4..6), Some(": ") | None) && rest.get(4..5) == Some(":"))
        {
            self.facts.class(device, code.into());
        } else if let Some((code, words)) = leading_class(rest) {
            self.facts.class(device, code);
            name = words;
        }
        let bracketed = rest.split('[').skip(1).find_map(|part| token::hex4(part.split_once(']')?.0));
        if let Some(code) = bracketed {
            self.facts.class(device, code.into());
        }
        if let Some(ids) = ids {
            self.facts.ids(device, ids, line)?;
        }
        let name = name.trim_start();
        let code = name.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let name = code.filter(|(code, _)| token::hex4(code).is_some()).map_or(name, |(_, rest)| rest);
        let name = name.trim_start_matches([':', ' ', '"', ')']);
        // `lspci -mm` has more behind the name.
        let name = name.split("\" -").next().unwrap_or(name).replace("\" \"", " ");
        let end = name.rfind(" [").filter(|at| token::ids(name.get(*at..).unwrap_or_default()).is_some());
        let end = end.or_else(|| name.find(" (rev ")).or_else(|| name.find("(driver")).unwrap_or(name.len());
        let name = name.get(..end).unwrap_or(&name).trim();
        if !name.is_empty() {
            self.facts.name(device, name);
        }
        Ok(())
    }

    /// Whether the line says something of the device at hand.
    pub(super) fn attribute(&mut self, line: &Line) -> Result<bool, ListingErrorReason> {
        let Some(attribute) = attribute::read(&line.text) else { return Ok(false) };
        let Some(current) = &self.current else {
            if let Some(pending) = &mut self.pending {
                match attribute {
                    Attribute::Class(words) => pending.class = Some(words),
                    Attribute::Name(name) => pending.names.push(name),
                    _ => {}
                }
            }
            return Ok(true);
        };
        let (device, number, facts) = (current.device, line.number, &mut self.facts);
        if attribute != Attribute::Modules {
            facts.detailed(device);
        }
        match attribute {
            Attribute::Driver(driver) => facts.driver(device, driver, number)?,
            Attribute::Modules => facts.device(device).modules = true,
            Attribute::Class(words) => facts.class_words(device, &words),
            Attribute::ClassCode(code) => facts.class(device, code),
            Attribute::Ids(ids) => facts.ids(device, ids, number)?,
            Attribute::Vendor(id) => facts.vendor(device, id, number),
            Attribute::DeviceId(id) => facts.device_id(device, id, number),
            Attribute::Name(name) => {
                let bracket = name.rfind(" [").and_then(|at| {
                    let id = token::hex4(name.get(at + 2..)?.strip_suffix(']')?)?;
                    Some((at, id))
                });
                if let Some((_, id)) = bracket {
                    if line.text.starts_with("Vendor") {
                        facts.vendor(device, id, number);
                    } else {
                        facts.device_id(device, id, number);
                    }
                }
                facts.name(device, bracket.and_then(|(at, _)| name.get(..at)).unwrap_or(&name));
            }
            Attribute::NumaNode(node) => facts.numa_node(device, node),
            Attribute::Detail => {}
        }
        Ok(true)
    }
}
