//! What real kernels showed of the machines that the crate embeds, against what is rendered.

use std::fs;
use std::path::{Path, PathBuf};

use vfio_owner::testbed;

use crate::rig::Files;

/// What the machine does not know: an interrupt is routed, and a mask set, by a driver that does something.
fn is_set_by_driver(file: &Path, recorded: &[u8]) -> bool {
    let has_driver = || file.with_file_name("driver").exists();
    let is_bridge = || fs::read_to_string(file.with_file_name("class")).unwrap().starts_with("0x0604");
    match file.file_name().unwrap().to_str().unwrap() {
        "irq" => has_driver() || is_bridge(),
        "dma_mask_bits" => has_driver() && recorded == b"64\n",
        _ => false,
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() { walk(&entry.path(), files) } else { files.push(entry.path()) }
    }
}

#[test]
fn every_recorded_file_is_there_and_says_the_same() {
    for (name, snapshot) in
        [("pc", testbed::pc()), ("workstation", testbed::workstation()), ("sriov", testbed::sriov())]
    {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/snapshots").join(name);
        if !folder.is_dir() {
            // In a package of its own, the crate has only what it embeds.
            continue;
        }
        let files = Files::of(&snapshot);
        let mut recorded = Vec::new();
        walk(&folder.join("sys"), &mut recorded);
        let mut differences = Vec::new();
        for file in &recorded {
            let path = format!("/{}", file.strip_prefix(&folder).unwrap().display());
            let contents = fs::read(file).unwrap();
            let shown = match files.link(&path) {
                Some(target) => target.into_bytes(),
                None => files.bytes(&path).unwrap_or_else(|errno| errno.to_string().into_bytes()),
            };
            if (shown != contents) != is_set_by_driver(file, &contents) {
                let [shown, contents] = [shown, contents].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                differences.push(format!("{path}:\n{shown}\nrecorded:\n{contents}"));
            }
        }
        assert!(recorded.len() > 150, "{}", recorded.len());
        assert!(differences.is_empty(), "{} of {}\n{}", differences.len(), recorded.len(), differences.join("\n"));
    }
}
