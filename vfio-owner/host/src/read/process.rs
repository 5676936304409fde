//! Which device files processes have open.

use std::collections::BTreeMap;

use vfio_owner::iommu_core::sysfs::{Tree, TreeError};

use super::asked::node;
use super::source::{PROC, link_or_text, printable, text};

/// What the link to an open device of VFIO reads as, and a mapping of one.
const VFIO_DEVICE: &str = "[vfio-device]";

/// The processes of a machine, as far as they are shown.
pub(super) struct Processes {
    pub(super) numbers: Vec<u32>,
    pub(super) open: Vec<OpenFile>,
    /// How many do not show their files.
    pub(super) hidden: usize,
}

/// A file that is open in a process, and is one of a device or of VFIO.
pub(super) struct OpenFile {
    pub(super) process: u32,
    pub(super) name: String,
    /// Its path, or what it is if it has none.
    pub(super) target: String,
    pub(super) node: Option<Node>,
}

/// A device's number, which files of any name and place may have.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Node {
    Character(String),
    Block(String),
}

impl Processes {
    pub(super) fn of(tree: &dyn Tree) -> Self {
        let names = tree.list(PROC).unwrap_or_default();
        let numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
        // There always is one; a tree without any does not show them.
        let hidden = usize::from(numbers.is_empty());
        let mut processes = Self { numbers, open: Vec::new(), hidden };
        for process in processes.numbers.clone() {
            processes.files_of(tree, process);
        }
        processes
    }

    fn files_of(&mut self, tree: &dyn Tree, process: u32) {
        let folder = format!("{PROC}/{process}/fd");
        let files = match tree.list(&folder) {
            Ok(files) => files,
            // It has ended meanwhile.
            Err(TreeError::Missing) => return,
            Err(_) => {
                self.hidden += 1;
                return;
            }
        };
        let mut known = BTreeMap::new();
        for file in files {
            let Some(target) = link_or_text(tree, &format!("{folder}/{file}")) else { continue };
            let node = target.starts_with('/').then(|| node(tree, process, &file)).flatten();
            let is_of_device = node.is_some() || target.starts_with("/dev/") || target.ends_with(VFIO_DEVICE);
            if is_of_device && target != "/dev/null" {
                known.insert(target, node);
            }
        }
        if known.is_empty() {
            return;
        }
        let name = name_of(tree, process);
        let open = known.into_iter().map(|(target, node)| OpenFile { process, name: name.clone(), target, node });
        self.open.extend(open);
    }

    /// Those that have a device of VFIO in their memory, opened or not.
    pub(super) fn mapping(&self, tree: &dyn Tree) -> Vec<(u32, String)> {
        let maps = |process: &u32| {
            let maps = text(tree, &format!("{PROC}/{process}/maps"))?;
            maps.lines().any(|line| line.ends_with(VFIO_DEVICE)).then(|| (*process, name_of(tree, *process)))
        };
        self.numbers.iter().filter_map(maps).collect()
    }
}

impl OpenFile {
    /// Whether this is a device of VFIO that was opened through its group, which does not show which it is.
    pub(super) fn is_vfio_device(&self) -> bool {
        self.target.ends_with(VFIO_DEVICE)
    }
}

fn name_of(tree: &dyn Tree, process: u32) -> String {
    printable(text(tree, &format!("{PROC}/{process}/comm")).unwrap_or_default().trim())
}
