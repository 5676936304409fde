//! To which group a device belongs, and to which device a group, when each has a line of its own: their places tell.

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::{Above, Read, Reader};
use crate::read::listing::attribute;
use crate::read::listing::command::{Question, is_command};
use crate::read::listing::facts::{Form, GroupRef, Place};
use crate::read::listing::line::Line;
use crate::read::listing::shape::{is_elision, is_heading, is_prose, link, lists_names, names_device, subjects};
use crate::read::listing::token::{self, Token};

/// The device that the next lines are about.
pub(super) struct Current {
    pub(super) device: PciAddress,
    pub(super) indent: usize,
    /// What belongs to the device stands in lines of their own, not indented.
    pub(super) form: Form,
    /// No blank line has come since.
    pub(super) same_paragraph: bool,
}

/// The group that the next devices are in.
pub(super) struct Scope {
    pub(super) group: GroupRef,
    pub(super) indent: usize,
    pub(super) kind: Heading,
    /// In which column the first device below stands.
    pub(super) members_at: Option<usize>,
    /// Where the group's devices end is not certain any more.
    pub(super) doubtful: bool,
    pub(super) blank: bool,
    /// Whether the lines of a folder have bare names of devices, as the first has or has not.
    pub(super) bare: Option<bool>,
}

/// How a group is named for the lines below.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Heading {
    /// In a line of its own.
    Alone,
    /// In the line of its first device.
    WithDevice,
    /// The same, and the line has the device's ids before its address, as the lines of all devices have.
    WithMarkedDevice,
    /// As the folder of its devices, of which each line below is one.
    Folder,
}

impl Scope {
    pub(super) const fn new(group: GroupRef, indent: usize, kind: Heading) -> Self {
        Self { group, indent, kind, members_at: None, doubtful: false, blank: false, bare: None }
    }

    /// Whether the names of devices have followed, and nothing else.
    pub(super) const fn is_whole(&self) -> bool {
        matches!((self.kind, self.bare), (Heading::Folder, Some(true))) && !self.doubtful && !self.blank
    }
}

/// Where a group stands to its device, when it has a line of its own and nothing is indented.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    GroupFirst,
    DeviceFirst,
}

impl Reader<'_> {
    /// Puts devices into the group whose devices stand here.
    pub(super) fn enter(&mut self, line: &Line, addresses: &[Token<PciAddress>], indent: usize) -> Read {
        let Some(scope) = &mut self.scope else { return Ok(()) };
        let bare = link(&line.text).is_some() || lists_names(&line.text);
        if scope.kind == Heading::Folder && *scope.bare.get_or_insert(bare) != bare {
            // Behind the names in the folder come lines about devices of any group.
            let group = scope.group;
            if scope.is_whole() && self.asked == Some(Question::Members(group)) {
                self.facts.whole_folder(group);
            }
            self.scope = None;
            return Ok(());
        }
        let members_at = *scope.members_at.get_or_insert(indent);
        let nested = members_at > scope.indent;
        let place = match (nested, indent > scope.indent) {
            (true, true) if !scope.doubtful => Some(Place::Shown),
            (true, true) => Some(Place::Perhaps),
            (true, false) => None,
            (false, _) if scope.kind == Heading::WithMarkedDevice && line.text.starts_with('[') && !scope.doubtful => {
                Some(Place::Shown)
            }
            // Behind a device in the line of the group, what is not indented is another device.
            (false, _) if scope.kind == Heading::WithMarkedDevice && !line.text.starts_with('[') => None,
            (false, _) if scope.kind == Heading::WithDevice && !line.text.starts_with('[') => None,
            (false, _) if scope.kind == Heading::WithDevice || scope.doubtful => Some(Place::Perhaps),
            (false, _) if scope.blank && self.current.is_some() => Some(Place::Perhaps),
            (false, _) => Some(Place::Shown),
        };
        let group = scope.group;
        scope.blank = false;
        match place {
            None => self.scope = None,
            Some(place) => {
                for address in addresses {
                    self.facts.member(address.value, group, place, line.number)?;
                }
            }
        }
        Ok(())
    }

    /// A line with a group and without a device.
    pub(super) fn group_alone(&mut self, place: usize, line: &Line, group: Option<u32>) -> Read {
        if let Some(number) = group
            && self.other_member(&line.text, number)
        {
            return Ok(());
        }
        let heading = is_heading(&line.text);
        if heading && self.is_heading_here(place, line) || self.leads_to_devices(place, line) {
            self.current = None;
            self.above = Above::Nothing;
            let kind = if line.text.contains("/devices") || line.text.starts_with("/sys/") {
                Heading::Folder
            } else {
                Heading::Alone
            };
            self.scope = Some(Scope::new(GroupRef::Known(group), line.indent, kind));
            return Ok(());
        }
        let below = |current: &&Current| {
            heading || current.form == Form::Record || line.indent > current.indent || attribute::is_detail(&line.text)
        };
        if let Some(device) = self.current.as_ref().filter(below).map(|current| current.device) {
            self.facts.detailed(device);
            let place = if self.some_devices { Place::Pointed } else { Place::Own };
            return self.facts.group(device, group, place, line.number);
        }
        if is_prose(&line.text) {
            self.skip();
        } else {
            self.doubt(line);
        }
        // Whatever it says of a group, what comes next may be that one's.
        if let Some(scope) = &mut self.scope {
            scope.doubtful = true;
        }
        Ok(())
    }

    /// Whether the next line is a device's and stands below this one, which is about no device.
    fn leads_to_devices(&self, place: usize, line: &Line) -> bool {
        let above = self.current.as_ref().is_some_and(|current| line.indent > current.indent);
        !above && self.next(place).is_some_and(|next| names_device(&next.text) && next.indent > line.indent)
    }

    fn next(&self, place: usize) -> Option<&Line> {
        self.lines.iter().skip(place + 1).find(|next| !next.text.is_empty() && !next.is_border())
    }

    /// Whether a group in a line of its own is that of the devices below, not of the device above.
    fn is_heading_here(&self, place: usize, line: &Line) -> bool {
        let Some(current) = &self.current else { return true };
        if current.form == Form::Record && current.same_paragraph {
            return false;
        }
        let next = self.next(place).filter(|next| names_device(&next.text));
        if next.is_some_and(|next| next.indent > line.indent) {
            return true;
        }
        if line.indent > current.indent {
            return false;
        }
        !current.same_paragraph || line.indent < current.indent || self.flat_order == Order::GroupFirst
    }
}

/// Whether groups stand before or behind their devices where nothing is indented: as the first of them does.
pub(super) fn flat_order(lines: &[Line]) -> Order {
    let mut device_above = false;
    for line in lines {
        if line.text.is_empty() || is_elision(&line.text) || is_command(&line.text) {
            device_above = false;
            continue;
        }
        let addresses = subjects(&line.text);
        let groups = token::groups(&line.text, &addresses);
        match (addresses.is_empty(), groups.is_empty()) {
            (true, false) if is_heading(&line.text) => {
                return if device_above { Order::DeviceFirst } else { Order::GroupFirst };
            }
            (false, true) => device_above = names_device(&line.text),
            _ => {}
        }
    }
    Order::GroupFirst
}
