//! What only asking the running kernel shows: device numbers of open files, whether a group or a disk can be opened, and
//! routes beyond those that `/proc` lists.
//!
//! To readers of a tree, the answers are files below [`ASKED`]; so copies of trees can have them, too.

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::sysfs::{Tree, TreeError};

use super::network::Namespace;
use super::process::Node;
use super::source::text;
use super::trial::{Exclusive, Trials};

/// Where the answers are in the tree of a host.
pub(super) const ASKED: &str = "asked/";

/// Whether the running kernel is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ask {
    /// This is not the running kernel.
    Never,
    /// Only what nobody else notices.
    Passively,
    /// Disks are opened for a moment with nobody else.
    Actively,
}

/// Result of opening a group file, which only one process can have open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Trial {
    /// The file could be opened.
    Free,
    /// The file, or a device of the group, is open.
    Busy,
}

/// Returns the number of the device whose file a process has open.
pub(super) fn node(tree: &dyn Tree, process: u32, file: &str) -> Option<Node> {
    let text = text(tree, &format!("{ASKED}node/{process}/{file}"))?;
    match text.trim().split_once(' ')? {
        ("c", number) => Some(Node::Character(number.to_owned())),
        ("b", number) => Some(Node::Block(number.to_owned())),
        _ => None,
    }
}

/// Returns what opening the file of a group comes to; `None` if it cannot be tried.
pub(super) fn group(tree: &dyn Tree, number: u32) -> Option<Trial> {
    match text(tree, &format!("{ASKED}group/{number}"))?.trim() {
        "free" => Some(Trial::Free),
        "busy" => Some(Trial::Busy),
        _ => None,
    }
}

/// Returns whether the kernel uses a disk for itself; `None` if it cannot be tried.
pub(super) fn is_claimed(tree: &dyn Tree, disk: &str) -> Option<bool> {
    Some(text(tree, &format!("{ASKED}disk/{disk}"))?.trim() == "busy")
}

/// Returns the interfaces and routes of each network namespace; `None` if only `/proc` has some.
pub(super) fn namespaces(tree: &dyn Tree) -> Option<Vec<Namespace>> {
    serde_json::from_str(&text(tree, &format!("{ASKED}network"))?).ok()
}

/// Asks the running kernel.
pub(super) fn ask(question: &str, ask: Ask, trials: Option<Trials>) -> Result<Vec<u8>, TreeError> {
    let answer = match question.split_once('/').unwrap_or((question, "")) {
        ("node", file) => device_number(file),
        ("group", number) => trials.and_then(|trials| trials.open(&format!("/dev/vfio/{number}"), Exclusive::Always)),
        ("disk", name) if ask == Ask::Actively => {
            // Neither does this wait for a medium, nor does anyone lose data by it.
            trials.and_then(|trials| trials.open(&format!("/dev/{}", name.replace('!', "/")), Exclusive::OnRequest))
        }
        ("network", "") => serde_json::to_string(&Namespace::of_running_kernel()).ok(),
        _ => None,
    };
    answer.map(String::into_bytes).ok_or(TreeError::Missing)
}

/// The device number of what `PROCESS/FILE` is open for. Servers of network file systems are not asked.
fn device_number(file: &str) -> Option<String> {
    let (process, file) = file.split_once('/')?;
    let path = format!("/proc/{process}/fd/{file}");
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).ok()?;
    let kind = match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::CharacterDevice => "c",
        FileType::BlockDevice => "b",
        _ => return None,
    };
    Some(format!("{kind} {}:{}", found.stx_rdev_major, found.stx_rdev_minor))
}
