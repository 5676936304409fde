//! Members of groups that are no PCI functions.

use super::Reader;
use super::place::Heading;
use crate::Fact;
use crate::read::listing::line::Line;
use crate::read::listing::shape::{link, lists_names};
use crate::read::listing::{attribute, token};
use crate::read::other_member::bus_of;

impl Reader<'_> {
    /// A member of a group that is no PCI function: a path of sysfs, or a line of a kernel's log.
    pub(super) fn other_member(&mut self, text: &str, group: u32) -> bool {
        if let Some((_, rest)) = text.split_once(&format!("{group}/")) {
            let left = rest.split(" -> ").next().unwrap_or_default();
            if let Some(name) = left.strip_prefix("devices/").map(|name| name.trim_matches(['/', ' ']))
                && !name.is_empty()
                && !name.contains([' ', '*', '$'])
            {
                self.facts.enumerated.insert(group);
                self.facts.other_member(group, name, bus_of(name), Fact::Unknown);
                return true;
            }
            if let Some(region) = rest.strip_prefix("reserved_regions").and_then(attribute::region) {
                self.facts.region(group, region);
                return true;
            }
        }
        let log = [" Adding to iommu group", " Adding device ", " to group "];
        if !log.iter().any(|words| text.contains(words)) {
            return false;
        }
        let old = text.split_once("Adding device ").and_then(|(_, rest)| rest.split_once(" to group "));
        let (bus, name) = if let Some((name, _)) = old {
            (bus_of(name), name)
        } else {
            let Some((front, _)) = text.split_once(": Adding to iommu group") else { return false };
            let mut words = front.rsplit([' ', ']']);
            let name = words.next().unwrap_or_default();
            // In front of an unbound device, the log has the name of its bus.
            let bus = words.next().filter(|bus| matches!(*bus, "platform" | "amba" | "fsl-mc" | "cdx"));
            (bus.map_or_else(|| bus_of(name), |bus| Fact::Is(bus.to_owned())), name)
        };
        self.facts.other_member(group, name, bus, Fact::Unknown);
        true
    }

    /// The names in the folder of a group that are those of no PCI functions.
    pub(super) fn folder(&mut self, line: &Line) -> bool {
        let Some(scope) = self
            .scope
            .as_mut()
            .filter(|scope| scope.kind == Heading::Folder && !scope.blank && scope.bare != Some(false))
        else {
            return false;
        };
        if link(&line.text).is_some() {
            return false;
        }
        if attribute::is_noise(&line.text) {
            return true;
        }
        if !lists_names(&line.text) {
            scope.doubtful = true;
            return false;
        }
        let group = scope.group;
        for name in line.text.split_whitespace().filter(|name| token::addresses(name).is_empty()) {
            self.facts.named_member(group, name);
        }
        true
    }
}
