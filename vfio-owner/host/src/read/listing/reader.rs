//! Reads a listing line by line: which devices and groups each line names, and what else it says of the device at hand.

mod answer;
mod device;
mod log;
mod member;
mod other_line;
mod path;
mod place;

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use self::place::{Current, Heading, Order, Scope, flat_order};
use super::ListingErrorReason;
use super::attribute;
use super::command::{Question, is_command};
use super::facts::{Facts, Form, GroupRef, Place};
use super::line::Line;
use super::shape::{GroupColumn, Shape, is_denied, is_elision, is_told_of, shape, subjects};
use super::table::{self, Table};
use super::token::{self, Token};
use super::xml::Xml;
use crate::Fact;

type Read = Result<(), ListingErrorReason>;

/// What lshw says of a device before it says which.
#[derive(Default)]
struct Pending {
    class: Option<String>,
    names: Vec<String>,
    unclaimed: bool,
}

/// What stands above, where each line has a group and a device.
#[derive(Clone, Copy, Default)]
enum Above {
    #[default]
    Nothing,
    Group(u32),
    /// Lines that were left out.
    Elision,
}

pub(super) struct Reader<'a> {
    lines: &'a [Line],
    facts: Facts,
    current: Option<Current>,
    above: Above,
    scope: Option<Scope>,
    flat_order: Order,
    table: Option<Table>,
    xml: Xml,
    pending: Option<Pending>,
    /// What the last command asked.
    asked: Option<Question>,
    /// The last command printed some devices of the machine only.
    some_devices: bool,
    /// A line has named the folder of all groups, as `tree` and `ls -R` do before they list them.
    in_groups_folder: bool,
    /// Where the heading of a table without lines has the group.
    group_column: Option<GroupColumn>,
}

impl<'a> Reader<'a> {
    /// Creates a reader that adds to `facts`.
    pub(super) fn new(lines: &'a [Line], facts: Facts) -> Self {
        Self {
            lines,
            facts,
            current: None,
            above: Above::Nothing,
            scope: None,
            flat_order: flat_order(lines),
            table: None,
            xml: Xml::default(),
            pending: None,
            asked: None,
            some_devices: false,
            in_groups_folder: false,
            group_column: None,
        }
    }

    /// Reads all lines.
    pub(super) fn read(mut self) -> Result<Facts, (usize, ListingErrorReason)> {
        for (place, line) in self.lines.iter().enumerate() {
            self.line(place, line).map_err(|reason| (line.number, reason))?;
        }
        self.facts.join()?;
        Ok(self.facts)
    }

    fn line(&mut self, place: usize, line: &Line) -> Read {
        if line.text.is_empty() {
            self.blank();
            return Ok(());
        }
        if is_elision(&line.text) {
            self.elided();
            return Ok(());
        }
        if is_command(&line.text) {
            self.command(line);
            return Ok(());
        }
        if let Some(cells) = Table::cells(&line.text) {
            return self.row(&cells, line);
        }
        if let Some(table) = &self.table
            && let Some(cells) = table::columns(&line.text, 2)
            && table.fits(&cells)
        {
            return self.row(&cells, line);
        }
        if let Some(cells) = table::columns(&line.text, 3)
            && table::is_heading(&cells)
        {
            return self.row(&cells, line);
        }
        if line.is_border() {
            return Ok(());
        }
        self.table = None;
        if self.xml.line(&line.text, line.number, &mut self.facts)? {
            return Ok(());
        }
        let addresses = subjects(&line.text);
        let groups = token::groups(&line.text, &addresses);
        if self.answer(line)? {
            return Ok(());
        }
        self.log(&line.text, &addresses);
        match (&addresses[..], one_group(&groups)) {
            ([], Named::No) => self.neither(line),
            ([], Named::One(group)) => self.group_alone(place, line, group),
            (_, Named::No) => self.device_alone(line, &addresses),
            (_, Named::One(group)) => self.both(line, &addresses, group),
            (_, Named::Several) => {
                self.doubt(line);
                if let Some(scope) = &mut self.scope {
                    scope.doubtful = true;
                }
                Ok(())
            }
        }
    }

    fn blank(&mut self) {
        self.table = None;
        if let Some(current) = &mut self.current {
            current.same_paragraph = false;
        }
        if let Some(scope) = &mut self.scope {
            scope.blank = true;
        }
    }

    /// Lines were left out here: devices of the group at hand, or of any.
    fn elided(&mut self) {
        self.facts.elided = true;
        self.current = None;
        if let Above::Group(group) = self.above {
            self.facts.perhaps_more_in(GroupRef::Known(Some(group)));
        }
        self.above = Above::Elision;
        if let Some(scope) = &mut self.scope {
            scope.doubtful = true;
            self.facts.perhaps_more_in(scope.group);
        }
    }

    fn skip(&mut self) {
        self.facts.skipped += 1;
    }

    /// The line may be about a device or a group, and is not understood.
    fn doubt(&mut self, line: &Line) {
        self.skip();
        self.facts.doubtful.push(line.number);
    }

    fn row(&mut self, cells: &[&str], line: &Line) -> Read {
        let table = self.table.get_or_insert_default();
        if !table.row(cells, line.number, &mut self.facts)? {
            self.facts.skipped += 1;
        }
        Ok(())
    }

    /// A line with a group and a device, or several of one.
    fn both(&mut self, line: &Line, addresses: &[Token<PciAddress>], group: Option<u32>) -> Read {
        // What QEMU complains of stands behind the options that it was given.
        let told = addresses.iter().position(|address| is_told_of(&line.text, address));
        let addresses = told.and_then(|at| addresses.get(at..=at)).unwrap_or(addresses);
        let Some(first) = addresses.first() else { return Ok(()) };
        if matches!(self.above, Above::Elision) {
            self.facts.perhaps_more_in(GroupRef::Known(group));
        }
        self.above = group.map_or(Above::Nothing, Above::Group);
        let shape = match shape(&line.text, first) {
            Shape::Device if is_denied(line.text.get(first.place.end..).unwrap_or_default()) => Shape::Mention,
            shape => shape,
        };
        let left = line.text.contains("Removing from") || line.text.contains("Removing device");
        for address in addresses {
            if left {
                self.facts.left_group(address.value);
                continue;
            }
            let member = group.filter(|number| line.text.contains(&format!("{number}/devices/")));
            self.facts.enumerated.extend(member);
            let place = match shape {
                Shape::Device => Place::Shown,
                Shape::Path if member.is_some() && !self.some_devices => Place::Shown,
                Shape::Path | Shape::Log => Place::Pointed,
                Shape::Mention => Place::Perhaps,
            };
            self.facts.group(address.value, group, place, line.number)?;
        }
        match shape {
            Shape::Device => {
                let marked = line.text.get(..first.place.start).is_some_and(|front| token::ids(front).is_some());
                let kind = if marked { Heading::WithMarkedDevice } else { Heading::WithDevice };
                self.scope = Some(Scope::new(GroupRef::Known(group), line.indent, kind));
                self.begin(line, addresses)
            }
            Shape::Path => self.path(line, addresses),
            Shape::Log | Shape::Mention => self.said_beside(line, addresses),
        }
    }

    /// A line with devices and without a group.
    fn device_alone(&mut self, line: &Line, addresses: &[Token<PciAddress>]) -> Read {
        let Some(first) = addresses.first() else { return Ok(()) };
        if attribute::is_udev(&line.text) && !line.text.starts_with("P:") {
            return self.attribute(line).map(|_| ());
        }
        match shape(&line.text, first) {
            Shape::Device => {
                if let Some(group) = self.group_column.and_then(|column| column.group(&line.text, first)) {
                    return self.both(line, addresses, Some(group));
                }
                self.enter(line, addresses, line.indent)?;
                self.folder(line);
                self.begin(line, addresses)
            }
            Shape::Path => {
                self.enter(line, addresses, line.indent)?;
                self.path(line, addresses)
            }
            Shape::Log | Shape::Mention => {
                if !self.attribute_of_another_kind(line) {
                    for address in addresses {
                        self.facts.mentioned(address.value);
                    }
                }
                self.said_beside(line, addresses)
            }
        }
    }

    /// The next lines are about this device, whose line says what it is.
    fn begin(&mut self, line: &Line, addresses: &[Token<PciAddress>]) -> Read {
        let Some(last) = addresses.last() else { return Ok(()) };
        let device = last.value;
        let form = if attribute::is_record_key(&line.text) { Form::Record } else { Form::Lspci };
        for address in addresses {
            let record = self.facts.device(address.value);
            (record.listed, record.form) = (true, form);
        }
        self.current = Some(Current { device, indent: line.indent, form, same_paragraph: true });
        if let Some(pending) = self.pending.take() {
            self.apply(device, pending, line.number)?;
        }
        for (address, end) in addresses.iter().zip(ends(line, addresses)) {
            let before = line.text.get(..address.place.start).unwrap_or_default();
            let after = line.text.get(address.place.end..end).unwrap_or_default();
            let before = if addresses.len() == 1 { before } else { "" };
            self.describe(address.value, before, after.trim_end_matches([',', ';', ' ', '+', '&']), line.number)?;
        }
        self.said_beside(line, addresses)
    }

    /// What a line about devices says of their drivers, each behind its device.
    fn said_beside(&mut self, line: &Line, addresses: &[Token<PciAddress>]) -> Read {
        let mut start = 0;
        for (address, end) in addresses.iter().zip(ends(line, addresses)) {
            let part = line.text.get(start..end).unwrap_or_default();
            if let Some(driver) = attribute::driver_beside(part, address.place.end.saturating_sub(start)) {
                self.facts.driver(address.value, driver, line.number)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Whether a line with an address is a detail of the device above, which names another.
    fn attribute_of_another_kind(&self, line: &Line) -> bool {
        self.current.as_ref().is_some_and(|current| line.indent > current.indent) && attribute::is_detail(&line.text)
    }
}

/// Where what is said of each device of a line ends: at the next one.
fn ends<'a>(line: &'a Line, addresses: &'a [Token<PciAddress>]) -> impl Iterator<Item = usize> + 'a {
    addresses.iter().skip(1).map(|next| next.place.start).chain([line.text.len()])
}

/// How many groups a line names.
enum Named {
    No,
    One(Option<u32>),
    Several,
}

fn one_group(groups: &[Token<Fact<u32>>]) -> Named {
    let Some(first) = groups.first() else { return Named::No };
    if groups.iter().any(|other| other.value != first.value) {
        return Named::Several;
    }
    Named::One(first.value.known())
}
