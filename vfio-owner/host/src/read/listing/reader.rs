//! Reads a listing line by line: which devices and groups each line names, and what else it says of the device at hand.

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::ListingErrorReason;
use super::attribute::{self, Attribute};
use super::facts::{Facts, Form, Place};
use super::line::Line;
use super::table::Table;
use super::token::{self, Token};
use super::words::leading_class;
use super::xml::Xml;
use crate::Fact;
use crate::read::IommuState;
use crate::read::other_member::MDEV;

type Read = Result<(), ListingErrorReason>;

/// The device that the next lines are about.
struct Current {
    device: PciAddress,
    indent: usize,
    /// What belongs to the device stands in lines of their own, not indented.
    form: Form,
    /// No blank line has come since.
    same_paragraph: bool,
}

/// The group that the next devices are in.
struct Scope {
    group: Option<u32>,
    indent: usize,
    kind: Heading,
    /// In which column the first device below stands.
    members_at: Option<usize>,
    /// Where the group's devices end is not certain any more.
    doubtful: bool,
    blank: bool,
}

/// How a group is named for the lines below.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heading {
    /// In a line of its own.
    Alone,
    /// In the line of its first device.
    WithDevice,
    /// As the folder of its devices, of which each line below is one.
    Folder,
}

impl Scope {
    const fn new(group: Option<u32>, indent: usize, kind: Heading) -> Self {
        Self { group, indent, kind, members_at: None, doubtful: false, blank: false }
    }
}

/// Where a group stands to its device, when it has a line of its own and nothing is indented.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    GroupFirst,
    DeviceFirst,
}

/// What lshw says of a device before it says which.
#[derive(Default)]
struct Pending {
    class: Option<String>,
    names: Vec<String>,
    unclaimed: bool,
}

pub(super) struct Reader<'a> {
    lines: &'a [Line],
    facts: Facts,
    current: Option<Current>,
    scope: Option<Scope>,
    flat_order: Order,
    table: Option<Table>,
    xml: Xml,
    pending: Option<Pending>,
    /// A line has named the folder of all groups, as `tree` and `ls -R` do before they list them.
    in_groups_folder: bool,
    /// The heading of a table without lines began with the group.
    group_column: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(lines: &'a [Line]) -> Self {
        Self {
            lines,
            facts: Facts::default(),
            current: None,
            scope: None,
            flat_order: flat_order(lines),
            table: None,
            xml: Xml::default(),
            pending: None,
            in_groups_folder: false,
            group_column: false,
        }
    }

    /// Reads all lines.
    pub(super) fn read(mut self) -> Result<Facts, (usize, ListingErrorReason)> {
        for (place, line) in self.lines.iter().enumerate() {
            self.line(place, line).map_err(|reason| (line.number, reason))?;
        }
        Ok(self.facts)
    }

    fn line(&mut self, place: usize, line: &Line) -> Read {
        if line.text.is_empty() {
            self.blank();
            return Ok(());
        }
        if let Some(cells) = Table::cells(&line.text) {
            return self.row(&cells, line);
        }
        if line.is_border() {
            return Ok(());
        }
        self.table = None;
        if self.xml.line(&line.text, line.number, &mut self.facts)? {
            return Ok(());
        }
        if is_command(&line.text) {
            (self.current, self.scope) = (None, None);
            return Ok(());
        }
        let addresses = subjects(&line.text);
        let groups = token::groups(&line.text, &addresses);
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

    fn skip(&mut self) {
        self.facts.skipped += 1;
    }

    /// The line may be about a device or a group, and is not understood.
    fn doubt(&mut self, line: &Line) {
        self.skip();
        self.facts.doubtful.push(line.number);
    }

    /// What a kernel's log says besides groups.
    fn log(&mut self, text: &str, addresses: &[Token<PciAddress>]) {
        const REFUSALS: [&str; 4] = [
            "platform rmrr requirement",
            "ineligible for iommu",
            "1:1 iommu mapping",
            "rejecting configuring the device",
        ];
        if let Some(state) = IommuState::of_log(text) {
            self.facts.iommu = state;
        }
        let lower = text.to_ascii_lowercase();
        if REFUSALS.iter().any(|words| lower.contains(words)) {
            for address in addresses {
                self.facts.refused(address.value);
            }
        }
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
        let Some(first) = addresses.first() else { return Ok(()) };
        let shape = shape(&line.text, first);
        let left = line.text.contains("Removing from") || line.text.contains("Removing device");
        for address in addresses {
            if left {
                self.facts.left_group(address.value);
                continue;
            }
            let place = if shape == Shape::Mention { Place::Perhaps } else { Place::Shown };
            self.facts.group(address.value, group, place, line.number)?;
            if let Some(number) = group.filter(|number| line.text.contains(&format!("{number}/devices/"))) {
                self.facts.enumerated.insert(number);
            }
        }
        match shape {
            Shape::Device => {
                self.scope = Some(Scope::new(group, line.indent, Heading::WithDevice));
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
                if self.group_column
                    && let Some(group) = leading_number(&line.text)
                {
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
                        self.facts.device(address.value);
                    }
                }
                self.said_beside(line, addresses)
            }
        }
    }

    /// Puts devices into the group whose devices stand here.
    fn enter(&mut self, line: &Line, addresses: &[Token<PciAddress>], indent: usize) -> Read {
        let Some(scope) = &mut self.scope else { return Ok(()) };
        let members_at = *scope.members_at.get_or_insert(indent);
        let nested = members_at > scope.indent;
        let place = match (nested, indent > scope.indent) {
            (true, true) if !scope.doubtful => Some(Place::Shown),
            (true, true) => Some(Place::Perhaps),
            (true, false) => None,
            // Behind a device in the line of the group, what is not indented is another device.
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
                    self.facts.group(address.value, group, place, line.number)?;
                }
            }
        }
        Ok(())
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
        let (before, after) = line.text.split_at_checked(last.place.start).unwrap_or((&line.text, ""));
        let after = after.get(last.place.len()..).unwrap_or_default();
        self.describe(device, before, after, line.number)?;
        self.said_beside(line, addresses)
    }

    fn apply(&mut self, device: PciAddress, pending: Pending, line: usize) -> Read {
        if let Some(class) = pending.class {
            self.facts.class_words(device, &class);
        }
        pending.names.iter().for_each(|name| self.facts.name(device, name));
        if pending.unclaimed { self.facts.driver(device, None, line) } else { Ok(()) }
    }

    /// The kind, name and ids that stand beside a device.
    fn describe(&mut self, device: PciAddress, before: &str, after: &str, line: usize) -> Read {
        let rest = after.trim_start_matches([' ', '\t', '-', '–', '|', '"', '\'', ':', '(', ',']);
        let mut name = "";
        if let Some(code) = rest.get(..4).and_then(token::hex4).filter(|_| rest.get(4..5) == Some(":")) {
            self.facts.class(device, code.into());
        } else if let Some((code, words)) = leading_class(rest) {
            self.facts.class(device, code);
            name = words;
        }
        let bracketed = rest.split('[').skip(1).find_map(|part| token::hex4(part.split_once(']')?.0));
        if let Some(code) = bracketed {
            self.facts.class(device, code.into());
        }
        if let Some(ids) = token::ids(rest).or_else(|| token::ids(before)) {
            self.facts.ids(device, ids, line)?;
        }
        let name = name.trim_start();
        let code = name.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let name = code.filter(|(code, _)| token::hex4(code).is_some()).map_or(name, |(_, rest)| rest);
        let name = name.trim_start_matches([':', ' ']);
        let end = name.rfind(" [").filter(|at| token::ids(name.get(*at..).unwrap_or_default()).is_some());
        let end = end.or_else(|| name.find(" (rev ")).unwrap_or(name.len());
        let name = name.get(..end).unwrap_or(name).trim();
        if !name.is_empty() {
            self.facts.name(device, name);
        }
        Ok(())
    }

    /// What a line about devices says of their driver.
    fn said_beside(&mut self, line: &Line, addresses: &[Token<PciAddress>]) -> Read {
        let Some(driver) = attribute::driver_beside(&line.text) else { return Ok(()) };
        addresses.iter().try_for_each(|address| self.facts.driver(address.value, driver.clone(), line.number))
    }

    /// A path of sysfs, or a link in a listing of one.
    fn path(&mut self, line: &Line, addresses: &[Token<PciAddress>]) -> Read {
        let Some(device) = addresses.last().map(|address| address.value) else { return Ok(()) };
        let record = self.facts.device(device);
        record.listed = true;
        if line.text.starts_with("P:") || line.text.contains("looking at device") {
            record.form = Form::Record;
            self.current = Some(Current { device, indent: line.indent, form: Form::Record, same_paragraph: true });
        } else {
            self.current = None;
        }
        let (left, right) = line.text.split_once("->").unwrap_or((&line.text, ""));
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

    /// A line with a group and without a device.
    fn group_alone(&mut self, place: usize, line: &Line, group: Option<u32>) -> Read {
        if let Some(number) = group
            && self.other_member(&line.text, number)
        {
            return Ok(());
        }
        let heading = is_heading(&line.text);
        if heading && self.is_heading_here(place, line) || self.leads_to_devices(place, line) {
            self.current = None;
            let kind = if line.text.contains("/devices") { Heading::Folder } else { Heading::Alone };
            self.scope = Some(Scope::new(group, line.indent, kind));
            return Ok(());
        }
        let below = |current: &&Current| {
            heading || current.form == Form::Record || line.indent > current.indent || attribute::is_detail(&line.text)
        };
        if let Some(device) = self.current.as_ref().filter(below).map(|current| current.device) {
            self.facts.device(device).details = true;
            return self.facts.group(device, group, Place::Shown, line.number);
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

    /// A member of a group that is no PCI function: a path of sysfs, or a line of a kernel's log.
    fn other_member(&mut self, text: &str, group: u32) -> bool {
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
    fn folder(&mut self, line: &Line) -> bool {
        let Some(scope) = self.scope.as_ref().filter(|scope| scope.kind == Heading::Folder && !scope.blank) else {
            return false;
        };
        let (Some(group), None) = (scope.group, link(&line.text)) else { return false };
        if attribute::is_noise(&line.text) {
            return true;
        }
        for name in line.text.split_whitespace().filter(|name| token::addresses(name).is_empty()) {
            self.facts.other_member(group, name, bus_of(name), Fact::Unknown);
        }
        true
    }

    /// A line that names neither a device nor a group.
    fn neither(&mut self, line: &Line) -> Read {
        if self.folder(line) {
            return Ok(());
        }
        if self.attribute(line)? {
            return Ok(());
        }
        if let Some(rest) = line.text.strip_prefix("*-") {
            self.current = None;
            self.pending = Some(Pending { unclaimed: rest.contains("UNCLAIMED"), ..Pending::default() });
            return Ok(());
        }
        if line.text.starts_with("P:") {
            // A device of another bus.
            self.current = None;
            return Ok(());
        }
        if line.text.contains("iommu_groups") {
            self.in_groups_folder = true;
            return Ok(());
        }
        if let Some(group) = self.scope.as_ref().and_then(|scope| scope.group)
            && let Some(arrow) = link(&line.text)
            && line.text.contains("/devices/")
        {
            let name = line.text.get(..arrow).unwrap_or_default().trim_end().rsplit(' ').next().unwrap_or_default();
            self.facts.other_member(group, name, bus_of(name), Fact::Unknown);
            return Ok(());
        }
        if self.in_groups_folder
            && let Ok(number) = line.text.parse::<u32>()
        {
            self.current = None;
            self.scope = Some(Scope::new(Some(number), line.indent, Heading::Alone));
            return Ok(());
        }
        if is_column_heading(&line.text) {
            self.group_column = true;
            return Ok(());
        }
        self.unread(line);
        Ok(())
    }

    /// A line that is not understood. One that looks as if it began another group makes it doubtful what comes next.
    fn unread(&mut self, line: &Line) {
        let inside = self.current.as_ref().is_some_and(|current| line.indent > current.indent);
        if inside || attribute::is_noise(&line.text) {
            return;
        }
        self.skip();
        if let Some(scope) = &self.scope
            && line.indent > scope.indent
            && scope.members_at.is_none_or(|column| line.indent <= column)
        {
            // It stands where the group's devices stand, and may be one.
            scope.group.into_iter().for_each(|group| self.facts.perhaps_more_in(group));
        }
        if looks_like_heading(&line.text) {
            if let Some(scope) = &mut self.scope {
                scope.doubtful = true;
            }
            if has_number(&line.text) {
                self.facts.doubtful.push(line.number);
            }
        }
    }

    /// Whether a line with an address is a detail of the device above, which names another.
    fn attribute_of_another_kind(&self, line: &Line) -> bool {
        self.current.as_ref().is_some_and(|current| line.indent > current.indent) && attribute::is_detail(&line.text)
    }

    /// Whether the line says something of the device at hand.
    fn attribute(&mut self, line: &Line) -> Result<bool, ListingErrorReason> {
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
        facts.device(device).details |= attribute != Attribute::Modules;
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

/// What a line with an address is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The device is what it is about.
    Device,
    /// A path of sysfs.
    Path,
    /// A line of a log.
    Log,
    /// Whatever else has an address in it.
    Mention,
}

/// The devices that a line is about: of a link, what is linked, unless only the target has a name.
fn subjects(text: &str) -> Vec<Token<PciAddress>> {
    let all = token::addresses(text);
    let arrow = link(text).unwrap_or(text.len());
    let left: Vec<_> = all.iter().filter(|address| address.place.start < arrow).cloned().collect();
    if left.is_empty() { all } else { left }
}

/// Where the arrow of a link of a file system is.
fn link(text: &str) -> Option<usize> {
    let at = text.find("->")?;
    text.get(at + 2..)?.trim_start().starts_with(['.', '/']).then_some(at)
}

fn shape(text: &str, first: &Token<PciAddress>) -> Shape {
    const WORDS: [&str; 27] = [
        "device", "devices", "dev", "slot", "pci", "bus", "info", "address", "addr", "id", "bdf", "function", "r",
        "reset", "domain", "vga", "gpu", "name", "dbdf", "d", "n", "busid", "sysfs", "no", "number", "nr", "port",
    ];
    let before = text.get(..first.place.start).unwrap_or_default();
    let after = text.get(first.place.end..).unwrap_or_default();
    let last = before.rsplit([' ', '\t', '"', '\'', '=']).next().unwrap_or_default();
    // `lspci -PP` puts the bridges above in front.
    let bridges = last.contains('/') && last.starts_with(|c: char| c.is_ascii_hexdigit());
    if last.contains('/') && !bridges || link(text).is_some() {
        return Shape::Path;
    }
    let before = if bridges { before.strip_suffix(last).unwrap_or(before) } else { before };
    if text.contains("Adding device ") || text.contains(": Adding to iommu group") || after.starts_with(": group ") {
        return Shape::Log;
    }
    let bare = without_brackets(before);
    let known = |word: &str| {
        let lower = word.to_lowercase();
        WORDS.contains(&&*lower) || token::is_group_word(word) || token::is_iommu(word)
    };
    if token::words(&bare).all(|word| known(word.value)) || before.starts_with("P:") {
        return Shape::Device;
    }
    // `vfio-pci 0000:04:00.1: …`
    if after.starts_with(": ") { Shape::Log } else { Shape::Mention }
}

fn without_brackets(text: &str) -> String {
    let mut out = String::new();
    let mut depth = 0_u32;
    for c in text.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out
}

/// Whether a line is a device's.
fn names_device(text: &str) -> bool {
    subjects(text).first().is_some_and(|first| matches!(shape(text, first), Shape::Device | Shape::Path))
}

/// Whether a line with a group has nothing else to say.
fn is_heading(text: &str) -> bool {
    // Whatever the group is called stands behind a colon or in brackets.
    let front = text.split(['(', '[']).next().unwrap_or_default();
    let front = front.split_once(": ").map_or(front, |(front, _)| front);
    let path = front.contains('/') && (front.ends_with(':') || front.ends_with("devices") || front.ends_with('/'));
    let word = |word: &str| {
        let lower = word.to_lowercase();
        token::is_group_word(word)
            || token::is_iommu(word)
            || matches!(
                &*lower,
                "number" | "no" | "nr" | "id" | "num" | "devices" | "in" | "of" | "the" | "vfio" | "pci"
            )
    };
    path || !front.trim().is_empty() && token::words(front).all(|token| word(token.value))
}

/// Whether a line that names a group is a sentence.
fn is_prose(text: &str) -> bool {
    token::words(text).count() > 4
}

/// Whether a line that was not understood may begin another group.
fn looks_like_heading(text: &str) -> bool {
    let numbered = text.trim_matches(['[', ']', '(', ')', ':', '#', ' ']).parse::<u32>().is_ok();
    let short = token::words(text).count() <= 4;
    numbered || short && token::words(text).any(|word| token::is_group_word(word.value) || token::is_iommu(word.value))
}

fn has_number(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_digit())
}

/// The heading of a table in columns, whose first is the group's.
fn is_column_heading(text: &str) -> bool {
    let mut words = token::words(text).map(|word| word.value);
    let first = words.next().unwrap_or_default();
    let second = words.next().unwrap_or_default();
    let is_group = token::is_group_word(first) || token::is_iommu(first) && token::is_group_word(second);
    let rest = text.to_ascii_lowercase();
    is_group && !has_number(text) && ["addr", "bdf", "slot", "device", "pci"].iter().any(|word| rest.contains(word))
}

fn leading_number(text: &str) -> Option<u32> {
    text.split_whitespace().next()?.parse().ok()
}

/// A command as it was typed, or part of a script.
fn is_command(text: &str) -> bool {
    const COMMANDS: [&str; 17] = [
        "lspci",
        "find ",
        "dmesg",
        "for ",
        "cat ",
        "ls ",
        "grep ",
        "journalctl",
        "virsh ",
        "pvesh ",
        "dpdk-devbind",
        "umockdev",
        "lshw",
        "tree ",
        "bash ",
        "sudo ",
        "sh ",
    ];
    if text.contains("Kernel driver") {
        return false;
    }
    let typed = ["$ ", "# ", "~# ", "~$ "].iter().find_map(|sign| text.split_once(sign)).map(|(_, rest)| rest);
    let is_known = |rest: &str| COMMANDS.iter().any(|command| rest.trim_start().starts_with(command));
    typed.is_some_and(is_known)
        || text.contains("$(") && !text.contains("Kernel")
        || text.contains("${")
        || is_known(text) && token::addresses(text).is_empty() && !text.contains(':')
}

/// The bus of a device that is no PCI function, as far as its name tells: mediated devices are called by an UUID.
fn bus_of(name: &str) -> Fact<String> {
    let lengths: Vec<usize> = name.split('-').map(str::len).collect();
    let hex = name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if hex && lengths == [8, 4, 4, 4, 12] { Fact::Is(MDEV.to_owned()) } else { Fact::Unknown }
}

/// Whether groups stand before or behind their devices where nothing is indented: as the first of them does.
fn flat_order(lines: &[Line]) -> Order {
    let mut device_above = false;
    for line in lines {
        if line.text.is_empty() {
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
