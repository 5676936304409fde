//! Whatever is written to whatever file, the files are those of the machine.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use vfio_owner::testbed::vfs::{
    Access, Change, LastLink, Later, Node, Opened, Opening, Rights, Tree, WalkError, Written,
};
use vfio_owner::testbed::{Machine, pc, sriov, workstation};
use vfio_owner::uapi::File;

use crate::rig::Files;

/// What is written besides the names of devices.
const TEXTS: [&str; 14] = [
    "0",
    "1",
    "1\n",
    "\n",
    "vfio-pci",
    "e1000e\n",
    "DMA",
    "identity",
    "auto\n",
    "8086 10d3",
    "8086 100e 1af4",
    "\0",
    "-1",
    "add",
];

#[derive(Clone, Debug)]
enum Step {
    /// Writes to one of the files that somebody may write.
    Write {
        file: usize,
        text: usize,
    },
    /// Writes a device's name to a file of the bus or of a driver.
    Bind {
        file: usize,
        device: usize,
    },
    Read {
        file: usize,
        offset: u64,
    },
    Open {
        file: usize,
    },
    Close {
        file: usize,
    },
    Finish,
}

fn steps() -> impl Strategy<Value = Step> {
    let any = 0usize..10_000;
    prop_oneof![
        3 => (any.clone(), any.clone()).prop_map(|(file, text)| Step::Write { file, text }),
        5 => (any.clone(), any.clone()).prop_map(|(file, device)| Step::Bind { file, device }),
        1 => (any.clone(), 0u64..5000).prop_map(|(file, offset)| Step::Read { file, offset }),
        2 => any.clone().prop_map(|file| Step::Open { file }),
        2 => any.prop_map(|file| Step::Close { file }),
        1 => Just(Step::Finish),
    ]
}

struct Play {
    files: Files,
    open: Vec<File>,
    waiting: Vec<Later>,
}

impl Play {
    fn pick(&self, index: usize, wanted: impl Fn(&str, &Node) -> bool) -> Option<String> {
        let tree = self.files.vfs.tree();
        let mut paths: Vec<String> =
            tree.files().into_iter().filter(|(path, node)| wanted(path, node)).map(|(path, _)| path).collect();
        let index = index.checked_rem(paths.len())?;
        Some(paths.swap_remove(index))
    }

    fn play(&mut self, step: &Step) {
        match *step {
            Step::Write { file, text } => {
                let Some(path) = self.pick(file, |_, node| matches!(node, Node::Attribute(a) if a.mode() & 0o200 != 0))
                else {
                    return;
                };
                self.write(&path, TEXTS[text % TEXTS.len()]);
            }
            Step::Bind { file, device } => {
                let names = ["bind", "unbind", "drivers_probe", "driver_override", "remove", "sriov_numvfs"];
                let Some(path) =
                    self.pick(file, |path, _| names.iter().any(|name| path.ends_with(&format!("/{name}"))))
                else {
                    return;
                };
                let text = match path.rsplit('/').next() {
                    Some("driver_override") => ["vfio-pci", "e1000e", "pci-stub", ""][device % 4].to_owned(),
                    Some("remove") => "1".to_owned(),
                    Some("sriov_numvfs") => (device % 3).to_string(),
                    _ => {
                        let devices = self.files.list("/sys/bus/pci/devices");
                        let Some(index) = device.checked_rem(devices.len()) else { return };
                        devices[index].clone()
                    }
                };
                self.write(&path, &text);
            }
            Step::Read { file, offset } => {
                let Some(path) = self.pick(file, |_, node| matches!(node, Node::Attribute(_))) else { return };
                if let Ok(file) = self.files.attribute(&path, Access::Read) {
                    let _ = file.read(offset, &mut [0; 50]);
                    let _ = file.read(offset / 2, &mut [0; 7]);
                }
            }
            Step::Open { file } => {
                let Some(path) = self.pick(file, |_, node| matches!(node, Node::CharDevice(_))) else { return };
                match self.files.vfs.open(&path, &Opening::new(Access::ReadWrite)) {
                    Ok(Opened::File(file)) => self.open.push(file),
                    Ok(other) => panic!("{path} is {other:?}"),
                    Err(error) => assert!(error.errno().name().is_some(), "{error}"),
                }
            }
            Step::Close { file } => {
                if let Some(index) = file.checked_rem(self.open.len()) {
                    self.open.swap_remove(index);
                }
            }
            Step::Finish => self.finish(),
        }
    }

    fn write(&mut self, path: &str, text: &str) {
        let file = self.files.attribute(path, Access::Write).unwrap();
        match file.write(0, text.as_bytes()) {
            Ok(Written::Bytes(bytes)) => assert_eq!(bytes, text.len()),
            Ok(Written::Later(later)) => self.waiting.push(later),
            Err(error) => assert!(error.errno().name().is_some(), "{error}"),
        }
    }

    fn finish(&mut self) {
        for later in std::mem::take(&mut self.waiting) {
            if let Ok(Written::Later(later)) = later.try_finish() {
                self.waiting.push(later);
            }
        }
    }

    /// The files are those of the machine.
    fn check(&self) {
        let tree = self.files.vfs.tree();
        let machine: &Machine = self.files.vfs.machine();
        for (path, node) in tree.files() {
            if let Node::Link { .. } = node {
                let found = tree.find(&path, LastLink::Follow);
                assert!(found.is_ok(), "{path} leads nowhere: {found:?}");
            }
            if let Node::Attribute(attribute) = node
                && attribute.mode() & 0o444 != 0
                && attribute.mode() & 0o077 != 0
            {
                self.files.bytes(&path).unwrap_or_else(|errno| panic!("{path}: {errno}"));
            }
        }
        let devices = self.files.list("/sys/bus/pci/devices");
        let mut there: Vec<String> = machine.pci().devices().iter().map(|dev| dev.name().to_string()).collect();
        there.sort();
        assert_eq!(devices, there);
        for name in &devices {
            let path = format!("/sys/bus/pci/devices/{name}");
            let last = |link: &str| {
                self.files.link(&format!("{path}/{link}")).map(|to| to.rsplit('/').next().unwrap().to_owned())
            };
            let driver = machine.driver(name).map(|driver| driver.to_string());
            assert_eq!(last("driver"), driver);
            assert_eq!(last("iommu_group"), machine.group(name).ok().map(|group| group.id().to_string()));
            if let Some(driver) = driver {
                assert!(self.files.link(&format!("/sys/bus/pci/drivers/{driver}/{name}")).is_some());
            }
            let cdev = self.files.list(&path).contains(&"vfio-dev".to_owned());
            assert_eq!(cdev, machine.open_device(name).is_ok(), "{name}");
            let functions = self.files.list(&path).iter().filter(|file| file.starts_with("virtfn")).count();
            assert_eq!(functions, machine.virtual_functions(name).len(), "{name}");
        }
    }
}

/// Makes `files` what they are in `later`, by the changes.
fn apply(files: &mut BTreeMap<String, Node>, changes: Vec<Change<'_>>) {
    for change in changes {
        match change {
            Change::Disappeared { path } => {
                let below = format!("{path}/");
                assert!(files.remove(&path).is_some(), "{path} was there");
                files.retain(|file, _| !file.starts_with(&below));
            }
            Change::Appeared { path, node } => {
                let (above, _) = path.rsplit_once('/').unwrap();
                assert!(above.is_empty() || files.contains_key(above), "the directory comes first");
                assert!(files.insert(path.clone(), node.clone()).is_none(), "{path} was not there");
            }
        }
    }
}

fn listing(tree: &Tree) -> BTreeMap<String, Node> {
    // Of a directory only that it is there.
    let leaf =
        |node: &Node| if let Node::Directory(_) = node { Node::Link { target: "".into() } } else { node.clone() };
    tree.files().into_iter().map(|(path, node)| (path, leaf(node))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_files_are_those_of_the_machine(which in 0..3, steps in vec(steps(), 1..60)) {
        let files = Files::of(&match which {
            0 => pc(),
            1 => workstation(),
            _ => sriov(),
        });
        let mut play = Play { files, open: Vec::new(), waiting: Vec::new() };
        let mut earlier = play.files.vfs.tree();
        let mut copy = listing(&earlier);
        for step in &steps {
            play.play(step);
            play.check();
            let now = play.files.vfs.tree();
            prop_assert!(now.generation() >= earlier.generation());
            let mut changes = now.changes_since(&earlier);
            let appears = |change: &Change<'_>| matches!(change, Change::Appeared { .. });
            prop_assert!(changes.is_sorted_by_key(appears), "what disappears comes first");
            prop_assert_eq!(changes.is_empty(), now.generation() == earlier.generation());
            for change in &mut changes {
                if let Change::Appeared { node, .. } = change && let Node::Directory(_) = node {
                    *node = Box::leak(Box::new(Node::Link { target: "".into() }));
                }
            }
            apply(&mut copy, changes);
            prop_assert_eq!(&copy, &listing(&now));
            earlier = now;
        }
        play.open.clear();
        while !play.waiting.is_empty() {
            play.finish();
        }
        play.check();
    }

    #[test]
    fn no_path_is_too_odd(path in "(/?(\\.\\.?|sys|dev|bus|pci|devices|0000:00:03\\.0|driver|iommu_group|module|class|net|vfio|x)){0,9}/?", root: bool) {
        let files = Files::of(&pc());
        let tree = files.vfs.tree();
        match tree.find(&path, LastLink::Follow) {
            Ok(found) => prop_assert_eq!(tree.get(&found.path), Some(found.node)),
            Err(WalkError::Host { path }) => prop_assert!(tree.get(&path).is_none()),
            Err(_) => {}
        }
        let rights = if root { Rights::Root } else { Rights::Other };
        let _ = files.vfs.open(&path, &Opening { rights, ..Opening::new(Access::Read) });
    }
}
