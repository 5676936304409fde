//! Commands as they were typed, and what the lines below them answer.

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::viability::{DriverDma, dma_of};

use super::attribute::driver_in_path;
use super::facts::GroupRef;
use super::shape::link;
use super::token;

/// What the output of a command is about, without naming it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Question {
    /// The groups of the machine.
    AllGroups,
    /// The members of a group.
    Members(GroupRef),
    /// What a file says of a device, in lines that do not name it.
    Details(PciAddress),
    /// The devices that a driver is bound to.
    Bound(String),
    /// Where a link of a device leads: the path.
    Target(PciAddress, Link),
    /// The same: the last part of the path.
    TargetName(PciAddress, Link),
}

/// A link in a device's folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Driver,
    Group,
}

/// Where a link leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Driver(Option<String>),
    Group(Option<u32>),
}

/// Commands that print the names in a folder.
const LISTERS: [&str; 5] = ["ls", "ll", "dir", "tree", "find"];
/// Commands that print where a link leads.
const FOLLOWERS: [&str; 3] = ["readlink", "realpath", "basename"];
/// A command that prints a file.
const PRINTER: &str = "cat";

/// A command as it was typed, or part of a script.
pub(super) fn is_command(text: &str) -> bool {
    const COMMANDS: [&str; 26] = [
        "lspci",
        "find ",
        "dmesg",
        "for ",
        "cat ",
        "cd ",
        "ls ",
        "ll ",
        "grep ",
        "echo ",
        "egrep ",
        "basename ",
        "readlink ",
        "realpath ",
        "driverctl",
        "journalctl",
        "virsh ",
        "pvesh ",
        "dpdk-devbind",
        "umockdev",
        "udevadm ",
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
        || question(text).is_some()
        || is_known(text) && has_options(text)
        || is_known(text) && token::addresses(text).is_empty() && !text.contains(':')
}

/// Whether the program is followed by an option or a path, as in no sentence.
fn has_options(text: &str) -> bool {
    text.split_whitespace().nth(1).is_some_and(|word| word.starts_with(['-', '/']))
}

/// Whether a command prints some of the machine's devices only.
pub(super) fn is_about_some(text: &str) -> bool {
    // A loop goes through all of them.
    if text.contains('$') && text.contains("; do") {
        return false;
    }
    if ["| head", "| tail"].iter().any(|filter| text.contains(filter)) {
        return true;
    }
    let (command, filter) = text.split_once("grep ").unwrap_or((text, ""));
    let mut words = command.split_whitespace();
    let selects = |word: &str| word.starts_with('-') && !word.starts_with("--") && word.contains(['s', 'd']);
    if words.any(|word| word.ends_with("lspci")) {
        return !filter.is_empty() || words.any(selects);
    }
    filter.contains(':') || command.contains(" -name ")
}

/// What a command asks; `None` if its output names what it is about, or it asks several things.
pub(super) fn question(text: &str) -> Option<Question> {
    let words = || text.split([' ', '\t', '$', '#', '(', ')', '`']).filter(|word| !word.is_empty());
    let program = words().find(|word| LISTERS.contains(word) || FOLLOWERS.contains(word) || *word == PRINTER)?;
    let paths = words().skip_while(|word| *word != program).skip(1);
    let mut paths = paths.map(|path| path.trim_matches(['"', '\'', ';'])).filter(|path| path.contains('/'));
    let (path, None) = (paths.next()?.trim_end_matches('/'), paths.next()) else { return None };
    if let Some((_, driver)) = path.split_once("/bus/pci/drivers/")
        && LISTERS.contains(&program)
        && !driver.contains(['/', '*'])
    {
        return Some(Question::Bound(driver.to_owned()));
    }
    if text.contains('|') && !FOLLOWERS.contains(&program) {
        return None;
    }
    let (folder, last) = path.rsplit_once('/')?;
    if path == "/sys/kernel/iommu_groups" && program != "tree" {
        return Some(Question::AllGroups);
    }
    let device = token::addresses(path).last().map(|found| found.value);
    let link = match last {
        "devices" if LISTERS.contains(&program) => return members(folder, device),
        "uevent" if program == PRINTER => return Some(Question::Details(device?)),
        "driver" => Link::Driver,
        "iommu_group" => Link::Group,
        _ => return None,
    };
    match program {
        "basename" => Some(Question::TargetName(device?, link)),
        "readlink" | "realpath" => Some(Question::Target(device?, link)),
        _ => None,
    }
}

/// The members of the group with this folder, which may be reached through a device.
fn members(folder: &str, device: Option<PciAddress>) -> Option<Question> {
    let group = match device {
        Some(device) => folder.ends_with("/iommu_group").then_some(GroupRef::Of(device))?,
        None => GroupRef::Known(Some(folder.rsplit('/').next()?.parse().ok()?)),
    };
    Some(Question::Members(group))
}

/// The devices in a line of the folder of a driver; none if it is no such line.
pub(super) fn bound(line: &str) -> Vec<PciAddress> {
    const FILES: [&str; 6] = ["bind", "module", "new_id", "remove_id", "uevent", "unbind"];
    let names = link(line).and_then(|arrow| line.get(..arrow)?.split_whitespace().last()).unwrap_or(line);
    let mut devices = Vec::new();
    for name in names.split_whitespace().filter(|name| !FILES.contains(name)) {
        let Ok(device) = name.parse() else { return Vec::new() };
        devices.push(device);
    }
    devices
}

/// Whether a command did not find the folder of the groups, or a group in it.
pub(super) fn says_no_groups(line: &str) -> bool {
    let folder = line.split_once("/sys/kernel/iommu_groups").filter(|_| line.ends_with("No such file or directory"));
    folder.is_some_and(|(_, rest)| !rest.contains(|c: char| c.is_ascii_digit()))
}

/// Where a link leads, as the line below the command has it.
pub(super) fn target(answer: &str, device: PciAddress, link: Link) -> Option<Target> {
    let name = if link == Link::Driver { "driver" } else { "iommu_group" };
    // `readlink -f` prints the path of a link that is not there.
    let missing = answer.starts_with("/sys/devices/") && answer.ends_with(&format!("/{device}/{name}"));
    if answer.contains(char::is_whitespace) {
        return None;
    }
    match link {
        _ if missing => Some(no_target(link)),
        Link::Driver => Some(Target::Driver(Some(driver_in_path(answer)?))),
        Link::Group => target_name(answer.rsplit_once("iommu_groups/")?.1, link),
    }
}

/// Where a link leads, as the line below the command has the last part of it.
pub(super) fn target_name(answer: &str, link: Link) -> Option<Target> {
    if answer.contains([' ', '\t', '/', ':']) {
        return None;
    }
    match link {
        // `basename` makes that of the path of a link that is not there.
        Link::Driver if answer == "driver" => Some(no_target(link)),
        // Any word could stand there.
        Link::Driver if dma_of(answer) == DriverDma::Unknown => None,
        Link::Driver => Some(Target::Driver(Some(answer.to_owned()))),
        Link::Group if answer == "iommu_group" => Some(no_target(link)),
        Link::Group => Some(Target::Group(Some(answer.parse().ok()?))),
    }
}

const fn no_target(link: Link) -> Target {
    match link {
        Link::Driver => Target::Driver(None),
        Link::Group => Target::Group(None),
    }
}
