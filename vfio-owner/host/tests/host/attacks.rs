//! Machines, copies and listings made to do harm: links out of a copy, names that are commands to a terminal.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use vfio_host::{Bindings, Host, HostTree, Plan, SysfsBindings};

use crate::disk::{Links, contents, lay};
use crate::layout::{address, tree};
use crate::program::run;

const MACHINE: &str = "
    proc
    00:01.0 root-port+acs>01 pcieport 1
    01:00.0 nvme nvme 2
    00:17.0 sata ahci 4 on=/";

/// Moves a file or folder out of the copy, and puts a link to it in its place.
fn replace_by_link(copy: &Path, outside: &Path, path: &str) {
    let (from, to) = (copy.join(path), outside.join("target"));
    if from.symlink_metadata().is_ok() {
        fs::rename(&from, &to).unwrap();
    } else {
        fs::create_dir_all(from.parent().unwrap()).unwrap();
        fs::create_dir_all(&to).unwrap();
    }
    symlink(&to, &from).unwrap();
}

#[test]
fn nothing_outside_a_copy_is_read_or_changed() {
    let device = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0";
    for path in [
        "sys",
        "sys/bus",
        "sys/bus/pci",
        "sys/bus/pci/devices",
        "sys/bus/pci/drivers",
        "sys/bus/pci/drivers/nvme",
        "sys/bus/pci/drivers/vfio-pci",
        "sys/devices",
        device,
        &format!("{device}/driver_override"),
        "proc",
        "sys/vfio-host.journal",
    ] {
        let (copy, outside) = (lay(&tree(MACHINE), Links::Symbolic), TempDir::new().unwrap());
        replace_by_link(copy.path(), outside.path(), path);
        let before = contents(outside.path());
        let dir = copy.path().to_str().unwrap();
        let plan = outside.path().join("plan.json");
        let made = run(&["plan", "01:00.0", "--json", "--sysfs", dir]);
        fs::write(&plan, &made.out).unwrap();
        let applied = run(&["apply", plan.to_str().unwrap(), "--sysfs", dir]);
        // Without what `/proc` shows a copy is a copy all the same.
        assert!(applied.code != 0 || path == "proc", "{path}: {}", applied.out);
        run(&["undo", "--sysfs", dir]);
        // Each change by itself, whatever a plan would say.
        let bindings = SysfsBindings::new(&HostTree::copy(copy.path()));
        let _ = bindings.unbind(address("01:00.0"), "nvme");
        let _ = bindings.set_override(address("01:00.0"), Some("vfio-pci"));
        let _ = bindings.load("vfio-pci");
        let _ = bindings.bind(address("01:00.0"), "vfio-pci");
        fs::remove_file(&plan).unwrap();
        assert_eq!(contents(outside.path()), before, "{path}");
    }
}

#[test]
fn what_a_copy_hides_behind_links_is_not_shown() {
    let (copy, outside) = (lay(&tree(MACHINE), Links::Symbolic), TempDir::new().unwrap());
    replace_by_link(copy.path(), outside.path(), "proc");
    assert_eq!(Host::open(copy.path()).unwrap().lifelines, None);
    fs::create_dir(outside.path().join("sub")).unwrap();
    replace_by_link(copy.path(), &outside.path().join("sub"), "sys/bus");
    Host::open(copy.path()).unwrap_err();
}

#[test]
fn a_pipe_in_a_copy_keeps_nobody_waiting() {
    let copy = lay(&tree(MACHINE), Links::Symbolic);
    for path in ["proc/swaps", "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/driver_override"] {
        let at = copy.path().join(path);
        fs::remove_file(&at).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&at).status().unwrap().success());
    }
    let tree = HostTree::copy(copy.path());
    let host = Host::of_tree(&tree).unwrap();
    assert!(Plan::make(&host, &[address("01:00.0")], &[]).is_ok());
    let error = SysfsBindings::new(&tree).set_override(address("01:00.0"), Some("vfio-pci")).unwrap_err();
    assert!(error.to_string().contains("driver_override"), "{error}");
}

/// Clears the screen, sets the title, types on some terminals; the same in one character; turns text around.
const COMMANDS: [&str; 4] = ["\u{1b}[2J\u{1b}]0;mine\u{7}\u{1b}[6n", "\u{9b}2J", "\u{202e}gpj", "\r\u{8}\u{7f}"];

#[test]
fn no_name_of_a_machine_is_a_command_to_a_terminal() {
    for command in COMMANDS {
        let mut tree = tree(MACHINE);
        let name = format!("evil{}", command.replace('/', ""));
        let mounts = format!("1 1 8:1 / /mnt/{name} rw - ext4 /dev/disk1 rw\n");
        tree.insert("proc/self/mountinfo", mounts);
        tree.insert("proc/7/comm", format!("{name}\n"));
        let copy = lay(&tree, Links::Symbolic);
        let device = copy.path().join("sys/devices/pci0000:00/0000:00:17.0");
        fs::write(device.join("driver_override"), format!("{name}\n")).unwrap();
        fs::create_dir_all(copy.path().join("proc/7/fd")).unwrap();
        symlink("/dev/disk1", copy.path().join("proc/7/fd/3")).unwrap();
        fs::remove_file(copy.path().join("sys/bus/pci/devices/0000:01:00.0")).unwrap();
        symlink(format!("../../../{name}"), copy.path().join(format!("sys/bus/pci/devices/{name}"))).unwrap();
        let drivers = copy.path().join("sys/bus/pci/drivers");
        fs::create_dir_all(drivers.join(&name)).unwrap();
        fs::remove_file(device.join("driver")).unwrap();
        symlink(format!("../../../bus/pci/drivers/{name}"), device.join("driver")).unwrap();
        let dir = copy.path().to_str().unwrap();
        let listing = copy.path().join("listing");
        fs::write(&listing, format!("IOMMU Group 1 01:00.0 {name} [0108]: {name}\n  Kernel driver in use: {name}\n"))
            .unwrap();
        let broken = copy.path().join(&name);
        for arguments in [
            &["list", "--sysfs", dir][..],
            &["explain", "--sysfs", dir],
            &["plan", "00:17.0", "--sysfs", dir],
            &["plan", "00:17.0", "--allow", "00:17.0", "--sysfs", dir],
            &["list", "--from", listing.to_str().unwrap()],
            &["explain", "--from", listing.to_str().unwrap()],
            &["explain", "--from", broken.to_str().unwrap()],
            &["apply", broken.to_str().unwrap(), "--sysfs", dir],
        ] {
            for json in [&[][..], &["--json"]] {
                let run = run(&[arguments, json].concat());
                let told = format!("{}{}", run.out, run.err);
                let raw = told.chars().find(|char| *char != '\n' && !vfio_host::is_printable(*char));
                assert_eq!(raw, None, "{arguments:?} {json:?}: {told:?}");
            }
        }
    }
}
