//! Which processes have files of VFIO open.

use std::fmt;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::sysfs::{Tree, TreeError};

use super::source::{PROC, text};

/// Who has files of VFIO open, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "known", content = "holders", rename_all = "kebab-case")]
pub enum Holders {
    /// These, and nobody else.
    All(Vec<Holder>),
    /// These, and perhaps others.
    Some(Vec<Holder>),
}

impl Default for Holders {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

/// A process, and a file of VFIO that it has open.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// The number of the process.
    pub process: u32,
    /// What it calls itself.
    pub name: String,
    /// The file.
    pub file: HeldFile,
}

/// A file of VFIO.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldFile {
    /// That of a group.
    Group(u32),
    /// That of a device, by its name.
    Device(String),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.process, self.name)
    }
}

impl Holders {
    /// Those that are known.
    pub fn known(&self) -> &[Holder] {
        match self {
            Self::All(holders) | Self::Some(holders) => holders,
        }
    }

    /// Who has this file open.
    pub fn of(&self, file: &HeldFile) -> Option<&Holder> {
        self.known().iter().find(|holder| holder.file == *file)
    }
}

/// The holders that the tree shows.
pub(super) fn holders(tree: &dyn Tree) -> Holders {
    let names = tree.list(PROC).unwrap_or_default();
    let processes: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let mut holders = Vec::new();
    // There always is one; a tree without any does not show them.
    let mut hidden = u32::from(processes.is_empty());
    for process in processes {
        let folder = format!("{PROC}/{process}/fd");
        let files = match tree.list(&folder) {
            Ok(files) => files,
            // It has ended meanwhile.
            Err(TreeError::Missing) => continue,
            Err(_) => {
                hidden += 1;
                continue;
            }
        };
        let targets = files.iter().filter_map(|file| tree.link(&format!("{folder}/{file}")).ok());
        let held: Vec<HeldFile> = targets.filter_map(|target| held_file(&target)).collect();
        if held.is_empty() {
            continue;
        }
        let name = text(tree, &format!("{PROC}/{process}/comm")).unwrap_or_default().trim().to_string();
        holders.extend(held.into_iter().map(|file| Holder { process, name: name.clone(), file }));
    }
    holders.sort_unstable();
    holders.dedup();
    if hidden > 0 { Holders::Some(holders) } else { Holders::All(holders) }
}

fn held_file(target: &str) -> Option<HeldFile> {
    let file = target.strip_prefix("/dev/vfio/")?;
    match file.strip_prefix("devices/") {
        Some(device) => Some(HeldFile::Device(device.to_string())),
        None => file.strip_prefix("noiommu-").unwrap_or(file).parse().ok().map(HeldFile::Group),
    }
}
