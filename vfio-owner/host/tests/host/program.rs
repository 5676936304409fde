//! The program as people run it.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use vfio_host::Plan;

use crate::disk::{Links, contents, lay};
use crate::layout::{GRAPHICS_CARD, tree};

/// What a run printed, and its exit code.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn run(arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_vfio-host")).args(arguments).stdin(Stdio::null()).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Run { code: output.status.code().unwrap(), out, err }
}

#[test]
fn a_plan_is_made_applied_and_undone_on_a_copy() {
    let folder = lay(&tree(GRAPHICS_CARD), Links::Symbolic);
    let dir = folder.path().to_str().unwrap();
    let before = contents(folder.path());
    let plan = run(&["plan", "01:00.0", "--json", "--sysfs", dir]);
    assert_eq!((plan.code, &*plan.err), (0, ""));
    let scratch = tempfile::TempDir::new().unwrap();
    let file = scratch.path().join("plan.json");
    fs::write(&file, &plan.out).unwrap();

    let explain = || run(&["explain", "01:00.0", "--sysfs", dir]).code;
    assert_eq!(explain(), 1);
    let applied = run(&["apply", file.to_str().unwrap(), "--sysfs", dir]);
    assert_eq!((applied.code, applied.out.lines().count()), (0, 5), "{}{}", applied.out, applied.err);
    // Nothing in a copy says whether user space has the group.
    assert_eq!(explain(), 2);
    let plan = run(&["plan", "01:00.0", "--sysfs", dir]);
    assert!(plan.code == 2 && plan.out.contains("nothing to do, unless it is in use already"), "{}", plan.out);
    let again = run(&["apply", file.to_str().unwrap(), "--sysfs", dir]);
    assert_eq!(again.code, 1);
    assert!(again.err.contains("make a new"), "{}", again.err);

    let undone = run(&["undo", "--json", "--sysfs", dir]);
    let restored = r#"{"done":"restored","device":"0000:01:00.1","driver":"snd_hda_intel","driver_override":null}"#;
    assert_eq!((undone.code, undone.out.lines().last()), (0, Some(restored)), "{}", undone.err);
    assert_eq!(contents(folder.path()), before);
    let nothing = run(&["undo", "--sysfs", dir]);
    assert!(nothing.code == 1 && nothing.err.contains("nothing to undo"), "{}", nothing.err);
}

#[test]
fn what_the_machine_lives_on_is_refused_and_named() {
    let folder = lay(&tree(GRAPHICS_CARD), Links::Text);
    let dir = folder.path().to_str().unwrap();
    let refused = run(&["plan", "00:17.0", "--sysfs", dir]);
    assert_eq!((refused.code, &*refused.out), (1, ""));
    assert!(refused.err.contains("0000:00:17.0: / is mounted from it"), "{}", refused.err);
    assert!(refused.err.contains("--allow 0000:00:17.0"), "{}", refused.err);
    let allowed = run(&["plan", "00:17.0", "--allow", "00:17.0", "--json", "--sysfs", dir]);
    assert_eq!(allowed.code, 0);
    // The plan says what was allowed, so applying it does not ask again.
    assert_eq!(Plan::from_json(&allowed.out).unwrap().allowed.len(), 1);
}

#[test]
fn a_script_stops_at_the_step_that_does_nothing() {
    let folder = lay(&tree(GRAPHICS_CARD), Links::Symbolic);
    let dir = folder.path().to_str().unwrap();
    let script = run(&["plan", "01:00.0", "--script", "--sysfs", dir]).out;
    let sys = folder.path().join("sys");
    fs::create_dir_all(sys.join("bus/pci/drivers/vfio-pci")).unwrap();
    let file = folder.path().join("script");
    fs::write(&file, script).unwrap();
    // No kernel answers to what is written into a copy.
    let output = Command::new("sh").arg(&file).env("SYSFS", &sys).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && told.contains("0000:01:00.1 is on 'snd_hda_intel', not on 'no driver'"),
        "{told}"
    );
}

#[test]
fn exit_codes_tell_possible_from_not_and_from_unknown() {
    let folder = lay(&tree("00:01.0 root-port+acs>01 pcieport 1\n01:00.0 nvme nvme 2\nproc"), Links::Text);
    let dir = folder.path().to_str().unwrap();
    for (arguments, code) in [
        (&["list"][..], 0),
        (&["explain", "01:00.0"], 1),
        (&["plan", "01:00.0"], 0),
        (&["explain", "02:00.0"], 2),
        (&["plan", "02:00.0"], 2),
        (&["plan", "00:01.0"], 1),
        (&["explain", "nonsense"], 2),
        (&["apply", "/nonexistent"], 2),
        (&["frobnicate"], 2),
    ] {
        let result = run(&[arguments, &["--sysfs", dir]].concat());
        assert_eq!(result.code, code, "{arguments:?}: {}", result.err);
        assert!(code != 2 || !result.err.is_empty() && result.out.is_empty(), "{arguments:?}");
    }
    assert_eq!(run(&["diff", dir, dir]).code, 0);
    let other = lay(&tree("00:01.0 root-port+acs>01 pcieport 1"), Links::Text);
    let diff = run(&["diff", dir, other.path().to_str().unwrap()]);
    assert_eq!((diff.code, &*diff.out), (1, "0000:01:00.0 has gone\n"));
}

#[test]
fn a_snapshot_of_a_copy_answers_as_the_copy() {
    let folder = lay(&tree(GRAPHICS_CARD), Links::Symbolic);
    let dir = folder.path().to_str().unwrap();
    let file = folder.path().join("snapshot");
    let file = file.to_str().unwrap();
    assert_eq!(run(&["snapshot", "-o", file, "--sysfs", dir]).code, 0);
    let [from_copy, from_file] =
        [["list", "--sysfs", dir], ["list", "--from", file]].map(|arguments| run(&arguments).out);
    assert_eq!(from_copy, from_file);
    assert_eq!(run(&["diff", dir, file]).code, 0);
    let refused = run(&["apply", "x", "--from", file]);
    assert!(refused.code == 2 && refused.err.contains("a snapshot cannot be changed"), "{}", refused.err);
}

#[test]
fn what_people_post_can_be_pasted() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_vfio-host"));
    let mut child = program
        .args(["explain", "01:00.1", "--from", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let posted =
        "IOMMU Group 7 01:00.1 Audio device [0403]: NVIDIA [10de:10f0]\n  Kernel driver in use: snd_hda_intel\n";
    child.stdin.take().unwrap().write_all(posted.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("0000:01:00.1: its driver snd_hda_intel does DMA for the kernel"), "{told}");
}

#[test]
fn no_colour_goes_into_a_pipe_and_completions_come_for_every_shell() {
    let folder = lay(&tree(GRAPHICS_CARD), Links::Text);
    let dir = folder.path().to_str().unwrap();
    assert!(!run(&["explain", "--sysfs", dir]).out.contains('\x1b'));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run(&["completions", shell]).out.contains("explain"), "{shell}");
    }
}

#[test]
fn the_whole_card_and_the_whole_group_go_with_one_word_and_no_driver_takes_them_back() {
    let table = "
        proc
        00:01.0 root-port>01 pcieport 1
        01:00.0 vga nouveau 1
        01:00.1 audio snd_hda_intel 1
        01:00.2 usb - 1
        00:02.0 nvme nvme 1
        00:03.0 nvme nvme 2";
    let folder = lay(&tree(table), Links::Symbolic);
    let dir = folder.path().to_str().unwrap();
    let steps = |whole: &str| {
        let run = run(&["plan", whole, "--json", "--sysfs", dir]);
        assert_eq!(run.code, 0, "{}", run.err);
        let plan = Plan::from_json(&run.out).unwrap();
        let kept = |step: &&vfio_host::Step| matches!(step, vfio_host::Step::Override { .. });
        let overridden = plan.steps.iter().filter(kept).filter_map(vfio_host::Step::device).collect::<Vec<_>>();
        (plan.devices.len(), overridden.len(), plan.touched().len())
    };
    assert_eq!(steps("01:00.0"), (1, 1, 3));
    assert_eq!(steps("01:00"), (3, 3, 4));
    assert_eq!(steps("group:1"), (4, 4, 4));
}

#[test]
fn a_script_leaves_alone_what_is_elsewhere_by_now_or_another_device() {
    let folder = lay(&tree(GRAPHICS_CARD), Links::Symbolic);
    let dir = folder.path().to_str().unwrap();
    let sys = folder.path().join("sys");
    let file = folder.path().join("script");
    fs::write(&file, run(&["plan", "01:00.0", "--script", "--sysfs", dir]).out).unwrap();
    let undo = || {
        let output = Command::new("sh").arg(&file).arg("undo").env("SYSFS", &sys).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let before = contents(folder.path());
    assert_eq!(undo(), (true, String::new()));
    let device = sys.join("devices/pci0000:00/0000:00:01.0/0000:01:00.0");
    fs::remove_file(device.join("driver")).unwrap();
    std::os::unix::fs::symlink("../../../../bus/pci/drivers/pci-stub", device.join("driver")).unwrap();
    fs::create_dir_all(sys.join("bus/pci/drivers/pci-stub")).unwrap();
    let (_, told) = undo();
    assert!(told.contains("0000:01:00.0 is on pci-stub by now, and was left alone"), "{told}");
    fs::write(device.join("vendor"), "0x1234\n").unwrap();
    fs::write(device.join("device"), "0x5678\n").unwrap();
    let (done, told) = undo();
    assert!(!done && told.contains("another device is at 0000:01:00.0"), "{told}");
    assert_ne!(contents(folder.path()), before);
}
