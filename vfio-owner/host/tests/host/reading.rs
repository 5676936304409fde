//! What programs read: JSON that says what the text says, and can be read back.

use serde_json::{Value, json};
use vfio_host::{Answer, Change, Explanation, GroupEntry, Host, SCHEMA, Source, changes, overview};

use crate::layout::{address, tree};
use crate::program::run;

/// Every host of the tests: the layouts, the machines that come along, and the listings.
fn hosts() -> Vec<Host> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut hosts: Vec<Host> = crate::corpus::CASES.iter().map(|case| crate::layout::host(case.table)).collect();
    for folder in ["snapshots", "tests/host/listings"].map(|name| folder.join(name)) {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        hosts.extend(files.filter(|file| file.extension().unwrap() != "expect").map(|file| Host::open(file).unwrap()));
    }
    hosts
}

#[test]
fn every_answer_can_be_read_back() {
    let none = Host::default();
    for host in hosts() {
        let groups = overview(&host);
        let text = serde_json::to_string(&groups).unwrap();
        assert_eq!(serde_json::from_str::<Vec<GroupEntry>>(&text).unwrap(), groups, "{text}");
        let devices: Vec<_> = host.pci.devices.iter().map(|device| device.function.address).collect();
        let explanations = Explanation::of_each(&host, &devices).unwrap();
        let text = serde_json::to_string(&explanations).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Explanation>>(&text).unwrap(), explanations, "{text}");
        let changed = changes(&none, &host);
        let text = serde_json::to_string(&changed).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Change>>(&text).unwrap(), changed, "{text}");
    }
}

#[test]
fn reasons_are_codes_with_what_they_are_about_beside_the_words() {
    let mut tree = tree("proc\n01:00.0 nvme nvme 7 direct\n");
    tree.insert("devices/pci0000:00/0000:01:00.0/numa_node", "1\n");
    let host = Host::load(&tree, Source::Live).unwrap();
    let explanation = serde_json::to_value(Explanation::of(&host, address("01:00.0")).unwrap()).unwrap();
    assert_eq!(
        explanation["by_group"],
        json!({
            "possible": "no",
            "reasons": [
                {
                    "code": "neighbour",
                    "device": "0000:01:00.0",
                    "standing": "kernel-use",
                    "driver": "nvme",
                    "verdict": "not-viable",
                    "text": "0000:01:00.0: its driver nvme does DMA for the kernel; unbind it",
                },
                {
                    "code": "direct-region",
                    "region": "0x000000007a000000 0x000000007fffffff direct",
                    "verdict": "not-viable",
                    "text": "firmware needs a device of the group to reach 0x7a000000 to 0x7fffffff at all times; no step clears that",
                },
            ],
        })
    );
    assert_eq!(explanation["group_file"], "/dev/vfio/7");
    assert_eq!(explanation["numa_node"], 1);
    assert_eq!(explanation["ids"], json!({"vendor": 0x144d, "device": 0xa808}));
    assert_eq!(explanation["driver"], json!({"is": "nvme"}));
}

#[test]
fn an_answer_of_a_later_version_can_be_read() {
    let later = json!({
        "possible": "no",
        "certainty": 0.5,
        "reasons": [{"code": "bridge", "text": "", "verdict": "not-viable", "since": 3}],
    });
    let answer: Answer = serde_json::from_value(later).unwrap();
    assert_eq!(*answer.reasons, [vfio_host::Reason::Bridge]);
}

#[test]
fn every_document_names_its_schema() {
    let folder = crate::disk::lay(&tree("proc\n01:00.0 nvme nvme 7\n"), crate::disk::Links::Symbolic);
    let dir = folder.path().to_str().unwrap();
    for (command, name) in [(&["list"][..], "groups"), (&["explain"], "devices")] {
        let run = run(&[command, &["--json", "--sysfs", dir]].concat());
        let document: Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!(document["schema"], SCHEMA, "{command:?}");
        assert!(document[name].is_array(), "{command:?}");
    }
}
