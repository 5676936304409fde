//! Trees laid out on disk, and read back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use vfio_owner::iommu_core::sysfs::{MemoryTree, Tree as _};

/// How a copy has its links.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Links {
    Symbolic,
    Text,
}

/// The tree in a folder of its own, as a copy of a machine: `sys` and `proc`.
pub(crate) fn lay(tree: &MemoryTree, links: Links) -> TempDir {
    let folder = TempDir::new().unwrap();
    let place = |path: &str| match path.strip_prefix("proc/") {
        Some(_) => folder.path().join(path),
        None => folder.path().join("sys").join(path),
    };
    for directory in tree.directories() {
        fs::create_dir_all(place(directory)).unwrap();
    }
    for (path, contents) in tree.files() {
        let at = place(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match (tree.link(path), links) {
            (Ok(target), Links::Symbolic) => symlink(target, at).unwrap(),
            _ => fs::write(at, contents).unwrap(),
        }
    }
    folder
}

/// Every file and link below a folder.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            if path.is_symlink() {
                found.insert(name, fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
            } else if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}
