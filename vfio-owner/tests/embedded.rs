//! The trees that the crate embeds are those of `testdata`. `UPDATE=1 cargo test -p vfio-owner --test embedded` writes them
//! anew.
#![cfg(all(feature = "testbed", not(shuttle)))]

use std::path::Path;

use iommu_core::sysfs::{DirTree, MemoryTree, Snapshot};
use vfio_owner::{iommu_core, testbed};

#[test]
fn embedded_trees_are_those_of_testdata() {
    for (name, embedded) in
        [("pc", testbed::pc()), ("workstation", testbed::workstation()), ("sriov", testbed::sriov())]
    {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("../testdata/snapshots").join(name);
        if !folder.is_dir() {
            // In a package of its own, the crate has only what it embeds.
            continue;
        }
        let archive = MemoryTree::capture(&DirTree::new(&folder)).to_archive();
        let file = root.join("snapshots").join(name).with_extension("tree");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, &archive).unwrap();
            continue;
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), archive, "{} is stale", file.display());
        assert_eq!(embedded, Snapshot::load(&DirTree::new(&folder)).unwrap());
        assert!(!embedded.devices.is_empty() && embedded.warnings.is_empty());
    }
}
