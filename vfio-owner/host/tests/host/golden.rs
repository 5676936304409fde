//! What the program prints for the machines that come along, whole. `UPDATE=1 cargo test -p vfio-host --test host golden`
//! writes it anew.

use std::fs;
use std::path::{Path, PathBuf};

use vfio_host::Host;

use crate::program::{Run, run};

fn file_of(machine: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots").join(machine).with_extension("tree")
}

/// Runs the program on a machine that comes along, for the command as it would be typed.
fn typed(machine: &str, command: &str) -> String {
    let file = file_of(machine);
    let mut arguments: Vec<&str> = command.split_whitespace().collect();
    arguments.extend(["--from", file.to_str().unwrap()]);
    let Run { code, out, err } = run(&arguments);
    format!("$ vfio-host {command} --from {machine}.tree\n{out}{err}=> {code}\n")
}

fn check(name: &str, printed: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, printed).unwrap();
    }
    assert_eq!(printed, fs::read_to_string(&file).unwrap(), "{}", file.display());
}

#[test]
fn everything_about_both_machines() {
    for machine in ["pc", "workstation"] {
        let file = file_of(machine);
        let devices = Host::open(file).unwrap().pci.devices;
        check(&format!("{machine}.svg"), &run(&["draw", "--from", file_of(machine).to_str().unwrap()]).out);
        check(&format!("{machine}-list.txt"), &typed(machine, "list"));
        check(&format!("{machine}-explain.txt"), &typed(machine, "explain"));
        let plans = devices.iter().map(|device| typed(machine, &format!("plan {}", device.function.address)));
        check(&format!("{machine}-plans.txt"), &plans.collect::<Vec<_>>().join("\n"));
    }
    check("workstation-script.sh", &typed("workstation", "plan 02:00.0 --script"));
    check("workstation-list.json", &typed("workstation", "list --json"));
    check("workstation-explain.json", &typed("workstation", "explain 01:00.0 --json"));
}
