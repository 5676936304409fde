//! Paths of sysfs that name a device.

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::place::{Current, Heading, Scope};
use super::{Read, Reader};
use crate::read::listing::attribute;
use crate::read::listing::facts::{Form, GroupRef, Place};
use crate::read::listing::line::Line;
use crate::read::listing::token::{self, Token};

impl Reader<'_> {
    /// A path of sysfs, or a link in a listing of one.
    pub(super) fn path(&mut self, line: &Line, addresses: &[Token<PciAddress>]) -> Read {
        let Some(device) = addresses.last().map(|address| address.value) else { return Ok(()) };
        if let Some((front, member)) = line.text.split_once("/iommu_group/devices")
            && let Some(with) = token::addresses(front).last()
        {
            return self.beside(line, with.value, member);
        }
        token::bridges(&line.text).for_each(|bridge| self.facts.bridge(bridge));
        let record = self.facts.device(device);
        record.listed = true;
        if line.text.starts_with("P:") || line.text.contains("looking at device") {
            record.form = Form::Record;
            self.current = Some(Current { device, indent: line.indent, form: Form::Record, same_paragraph: true });
        } else {
            self.current = None;
        }
        let (left, right) = line.text.split_once("->").unwrap_or((&line.text, ""));
        if let Some((front, _)) = left.split_once("/virtfn")
            && let Some(parent) = token::addresses(front).last()
            && right.trim_end().ends_with(&device.to_string())
        {
            self.facts.parent(device, parent.value);
        }
        if left.trim_end().ends_with("/physfn")
            && let Some(parent) = token::addresses(right).last()
        {
            self.facts.parent(device, parent.value);
        }
        match attribute::driver_in_path(&line.text) {
            Some(driver) => self.facts.driver(device, Some(driver), line.number),
            None => Ok(()),
        }
    }

    /// A path to the members of the group that a device is in, or to one of them.
    fn beside(&mut self, line: &Line, with: PciAddress, member: &str) -> Read {
        let group = GroupRef::Of(with);
        self.facts.device(with).listed = true;
        self.current = None;
        let name = member.trim_matches(['/', ':', '\'', '"']);
        if name.is_empty() {
            self.scope = Some(Scope::new(group, line.indent, Heading::Folder));
            return Ok(());
        }
        let Some(found) = token::addresses(name).first().map(|found| found.value) else {
            self.facts.named_member(group, name);
            return Ok(());
        };
        self.facts.device(found).listed = true;
        self.facts.member(found, group, Place::Shown, line.number)
    }
}
