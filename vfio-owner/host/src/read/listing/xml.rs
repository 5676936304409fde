//! libvirt's description of devices (`virsh nodedev-dumpxml`).

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::ListingErrorReason;
use super::facts::{Facts, Form, Place};
use super::token::{self, hex4};

/// Where in a description the reader is.
#[derive(Debug, Default)]
pub(super) struct Xml {
    device: Option<PciAddress>,
    inside: Inside,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Inside {
    #[default]
    Nothing,
    Driver,
    PhysicalFunction,
    VirtualFunctions,
    Group(u32),
}

impl Xml {
    /// Reads a line; whether it is one of such a description.
    pub(super) fn line(&mut self, text: &str, line: usize, facts: &mut Facts) -> Result<bool, ListingErrorReason> {
        if !text.starts_with('<') || !text.contains('>') {
            return Ok(false);
        }
        for part in text.split('<').skip(1) {
            let (tag, content) = part.split_once('>').unwrap_or((part, ""));
            self.tag(tag, content.trim(), line, facts)?;
        }
        Ok(true)
    }

    fn tag(&mut self, tag: &str, content: &str, line: usize, facts: &mut Facts) -> Result<(), ListingErrorReason> {
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).unwrap_or_default();
        if tag.starts_with('/') {
            return self.end(name, line, facts);
        }
        match (name, self.device) {
            ("device", _) => *self = Self::default(),
            ("name", None) => {
                self.device = token::addresses(content).first().map(|found| found.value);
                if let Some(device) = self.device {
                    let record = facts.device(device);
                    (record.listed, record.form) = (true, Form::Record);
                    record.detailed_in = None;
                }
            }
            ("name", Some(device)) if self.inside == Inside::Driver => {
                facts.driver(device, Some(content.to_owned()), line)?;
            }
            ("driver", Some(_)) => self.inside = Inside::Driver,
            ("capability", Some(_)) if tag.contains("phys_function") => self.inside = Inside::PhysicalFunction,
            ("capability", Some(_)) if tag.contains("virt_functions") => self.inside = Inside::VirtualFunctions,
            ("iommuGroup", device) => {
                if let Some(number) = value(tag, "number").and_then(|number| number.parse().ok()) {
                    self.inside = Inside::Group(number);
                    device.map_or(Ok(()), |device| facts.group(device, Some(number), Place::Shown, line))?;
                }
            }
            ("address", device) => {
                if let Some(other) = address(tag) {
                    self.other(device, other, line, facts)?;
                }
            }
            ("vendor", Some(device)) => {
                if let Some(id) = value(tag, "id").and_then(hex4) {
                    facts.vendor(device, id, line);
                }
                facts.name(device, content);
            }
            ("product", Some(device)) => {
                if let Some(id) = value(tag, "id").and_then(hex4) {
                    facts.device_id(device, id, line);
                }
                facts.name(device, content);
            }
            ("class", Some(device)) => {
                let code = content.strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
                if let Some(code) = code {
                    facts.class(device, code >> 8);
                }
            }
            ("numa", Some(device)) => {
                let node = value(tag, "node").and_then(|node| node.parse().ok());
                if let Some(node) = node {
                    facts.numa_node(device, node);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, name: &str, line: usize, facts: &mut Facts) -> Result<(), ListingErrorReason> {
        match (name, self.device) {
            ("driver" | "iommuGroup" | "capability", _) => self.inside = Inside::Nothing,
            ("device", Some(device)) => {
                // A description is whole: without a driver in it, there is none.
                if !facts.shows_driver(device) {
                    facts.driver(device, None, line)?;
                }
                *self = Self::default();
            }
            _ => {}
        }
        Ok(())
    }

    /// Another device in the description of one.
    fn other(
        &self,
        device: Option<PciAddress>,
        other: PciAddress,
        line: usize,
        facts: &mut Facts,
    ) -> Result<(), ListingErrorReason> {
        match (self.inside, device) {
            (Inside::PhysicalFunction, Some(device)) => facts.parent(device, other),
            (Inside::VirtualFunctions, Some(device)) => facts.parent(other, device),
            (Inside::Group(number), _) => facts.group(other, Some(number), Place::Shown, line)?,
            _ => {}
        }
        Ok(())
    }
}

/// The value of an attribute of a tag.
fn value<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}="))?;
    rest.strip_prefix(['\'', '"'])?.split(['\'', '"']).next()
}

/// The address in the attributes of a tag.
fn address(tag: &str) -> Option<PciAddress> {
    let number = |name: &str| u32::from_str_radix(value(tag, name)?.trim_start_matches("0x"), 16).ok();
    let [domain, bus, slot, function] = [number("domain")?, number("bus")?, number("slot")?, number("function")?];
    format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}").parse().ok()
}
