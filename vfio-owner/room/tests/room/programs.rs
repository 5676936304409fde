//! Programs that people use, unmodified.

use std::fs;
use std::io::{IoSlice, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vfio_room::Room;

use crate::rig::{CARD, MARK, SIBLING, only_in_a_room, open, room};

/// Runs a script in a shell, which stops if it is not in a room. Returns what it prints.
fn sh(room: &Room, script: &str) -> String {
    let script = format!("test -e {MARK} || exit 99\n{script}");
    let output = room.command("sh").arg("-c").arg(&script).output().unwrap();
    text(&output)
}

fn text(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?} {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Whether a program is there; names it if not.
fn has(program: &str) -> bool {
    let found = Command::new("sh").arg("-c").arg(format!("command -v {program}")).output().unwrap().status.success();
    if !found {
        eprintln!("skipped: no {program}");
    }
    found
}

#[test]
fn core_utilities() {
    let (room, _) = room();
    let device = format!("/sys/bus/pci/devices/{CARD}");
    assert_eq!(sh(&room, &format!("readlink -f {device}/driver")), "/sys/bus/pci/drivers/vfio-pci");
    assert_eq!(sh(&room, &format!("realpath {device}")), format!("/sys/devices/pci0000:00/{CARD}"));
    assert_eq!(sh(&room, &format!("cat {device}/vendor {device}/driver_override")), "0x8086\n(null)");
    assert_eq!(sh(&room, "ls /sys/bus/pci/devices | wc -l"), "17");
    assert_eq!(
        sh(&room, &format!("find /sys/kernel/iommu_groups -name {SIBLING} -printf %l")),
        format!("../../../../devices/pci0000:00/{SIBLING}")
    );
    assert_eq!(sh(&room, "find /sys/bus/pci -follow -maxdepth 3 -name vendor 2> /dev/null | wc -l"), "17");
    assert_eq!(sh(&room, &format!("ls -lad {device}/. {device}/ {device} | cut -c1")), "l\nd\nd");
    assert_eq!(sh(&room, "ls -l /dev/vfio/vfio | cut -c1-10"), "crw-rw-rw-");
    assert_eq!(sh(&room, "stat -c %t:%T /dev/vfio/vfio"), "a:c4");
    assert_eq!(sh(&room, "ls -d /dev/null /dev/shm /sys/devices/system/cpu | wc -l"), "3");
    assert_eq!(sh(&room, &format!("cp {device}/resource /dev/stdout | wc -l")), "13");
    assert_eq!(sh(&room, &format!("test -w {device}/driver_override && ! test -w {device}/vendor && echo yes")), "yes");
    assert_eq!(sh(&room, "ls /sys/kernel | grep -c -e iommu_groups -e vfio_room"), "2");
}

#[test]
fn working_directories() {
    let (room, _) = room();
    let script =
        format!("cd /sys/bus/pci/devices && pwd -P && ls | wc -l && cd {CARD} && cat vendor && (cd driver && pwd -P)");
    assert_eq!(sh(&room, &script), "/sys/bus/pci/devices\n17\n0x8086\n/sys/bus/pci/drivers/vfio-pci");
    assert_eq!(
        sh(&room, &format!("cd /sys/bus/pci/devices/{CARD} && echo none > driver_override && cat driver_override")),
        "none"
    );
    assert_eq!(
        sh(&room, "cd /sys/bus/pci && cd ../../.. && pwd -P && ls -d tmp && cd tmp && pwd -P && cd / && pwd -P"),
        "/\ntmp\n/tmp\n/"
    );
    let output =
        room.command("cat").arg("vendor").current_dir(format!("/sys/bus/pci/devices/{CARD}")).output().unwrap();
    assert_eq!(text(&output), "0x8086");
}

#[test]
fn lspci() {
    let (room, _) = room();
    if has("lspci") {
        let listing = sh(&room, &format!("lspci -nnks {CARD}"));
        assert!(listing.contains("[8086:10d3]") && listing.ends_with("Kernel driver in use: vfio-pci"), "{listing}");
        assert_eq!(sh(&room, "lspci -n | wc -l"), "17");
    }
}

#[test]
fn scripts_that_bind() {
    let (room, machine) = room();
    let bound = |script: &str| {
        sh(&room, &format!("set -e\n{script}"));
        machine.driver(CARD).as_deref().map(str::to_owned)
    };
    let device = format!("/sys/bus/pci/devices/{CARD}");
    assert_eq!(bound(&format!("echo {CARD} > {device}/driver/unbind")), None);
    assert_eq!(bound("echo 8086 10d3 > /sys/bus/pci/drivers/vfio-pci/new_id").as_deref(), Some("vfio-pci"));
    assert_eq!(bound(&format!("printf %s {CARD} > {device}/driver/unbind")), None);
    assert_eq!(
        bound(&format!("echo pci-stub > {device}/driver_override; echo {CARD} | tee /sys/bus/pci/drivers_probe"))
            .as_deref(),
        Some("pci-stub")
    );
    let refused = room
        .command("sh")
        .arg("-c")
        .arg(format!("test -e {MARK} && echo {CARD} > /sys/bus/pci/drivers/vfio-pci/bind"))
        .output()
        .unwrap();
    assert!(!refused.status.success());
    assert_eq!(bound("echo 1 > /sys/bus/pci/devices/0000:00:04.1/remove"), Some("pci-stub".into()));
    assert!(machine.device(SIBLING).is_err());
    assert_eq!(bound("for f in /sys/bus/pci/rescan; do echo 1 > $f; done"), Some("pci-stub".into()));
    assert!(machine.device(SIBLING).is_ok());
}

#[test]
fn driverctl() {
    let (room, machine) = room();
    if has("driverctl") {
        assert!(sh(&room, "driverctl list-devices").contains(&format!("{CARD} vfio-pci")));
        sh(&room, &format!("driverctl --nosave unset-override {CARD}"));
        assert_eq!(machine.driver(CARD).as_deref(), Some("e1000e"));
        sh(&room, &format!("driverctl --nosave set-override {CARD} vfio-pci"));
        assert_eq!(machine.driver(CARD).as_deref(), Some("vfio-pci"));
    }
}

#[test]
fn bash() {
    let (room, _) = room();
    if has("bash") {
        let script = format!(
            "test -e {MARK} || exit 99; for g in /sys/kernel/iommu_groups/*; do for d in $g/devices/*; do echo ${{g##*/}} ${{d##*/}}; done; done | grep {SIBLING}"
        );
        assert_eq!(text(&room.command("bash").arg("-c").arg(script).output().unwrap()), format!("3 {SIBLING}"));
    }
}

#[test]
fn timeout() {
    let (room, _) = room();
    let output = room.command("timeout").args(["60", "cat", MARK]).output().unwrap();
    assert_eq!(text(&output), "1");
}

#[test]
fn python() {
    let (room, _) = room();
    if has("python3") {
        let script = format!(
            "import os, sys\n\
             if not os.path.exists({MARK:?}): sys.exit(99)\n\
             print(os.path.realpath('/sys/bus/pci/devices/{CARD}/iommu_group'), sorted(os.listdir('/dev/vfio')))\n\
             open('/sys/bus/pci/devices/{CARD}/driver_override', 'w').write('none')\n\
             print(open('/sys/bus/pci/devices/{CARD}/driver_override').read())"
        );
        let output = room.command("python3").arg("-c").arg(script).output().unwrap();
        assert_eq!(text(&output), "/sys/kernel/iommu_groups/2 ['2', 'devices', 'vfio']\nnone");
    }
}

/// Compiles a program without a dynamic loader.
fn static_program(directory: &Path) -> Option<PathBuf> {
    if !has("gcc") {
        return None;
    }
    let (source, program) = (directory.join("program.c"), directory.join("program"));
    let text = "#include <fcntl.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n\
                int main(void) { int f = open(\"/dev/vfio/vfio\", O_RDWR); \
                printf(\"%d %d\\n\", ioctl(f, 0x3b64), ioctl(f, 0x3b65, 1)); return 0; }\n";
    fs::write(&source, text).unwrap();
    let compiled = Command::new("gcc").args(["-static", "-o"]).arg(&program).arg(&source).output().unwrap();
    if !compiled.status.success() {
        eprintln!("skipped: gcc cannot link statically");
    }
    compiled.status.success().then_some(program)
}

#[test]
fn a_static_program() {
    let (room, _) = room();
    let directory = tempfile::tempdir().unwrap();
    if let Some(program) = static_program(directory.path()) {
        assert_eq!(text(&room.command(program).output().unwrap()), "0 1");
    }
}

/// The program of this crate, as a user without rights.
#[test]
fn as_nobody() {
    if !rustix::process::geteuid().is_root() || !has("setpriv") {
        eprintln!("skipped: not root");
        return;
    }
    // Where anybody can get at it.
    let directory = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in("/tmp")
        .unwrap();
    let program = directory.path().join("vfio-room");
    // By another process: a child that is just forked here could have the file open for writing still.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_vfio-room")).arg(&program).status().unwrap();
    assert!(copied.success());
    let script = format!(
        "test -e {MARK} || exit 99; id -u; echo {CARD} > /sys/bus/pci/devices/{CARD}/driver/unbind; \
         echo vfio-pci > /sys/bus/pci/devices/{CARD}/driver_override; echo {CARD} > /sys/bus/pci/drivers_probe; \
         cat < /dev/vfio/2 && ls /dev/vfio"
    );
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
    let output = command.args(["run", "--", "sh", "-c", &script]).env("TMPDIR", "/tmp").output().unwrap();
    assert_eq!(text(&output), "65534\n2\ndevices\nvfio");
}

#[test]
fn models_are_put_behind_devices() {
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    fs::write(&layout, "00:09.0 virtio-net - 0 bar0=io:64\n00:0a.0 virtio-net - 1 bar0=io:64\n").unwrap();
    let run = |models: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfio-room"));
        command.args(["run", "--machine"]).arg(&layout).args(models.iter().flat_map(|model| ["--model", model]));
        let output = command.args(["--", "echo", "there"]).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    assert_eq!(run(&["0000:00:09.0=virtio-net:a", "0000:00:0a.0=virtio-net:a"]), "there\n");
    assert!(run(&["0000:00:0b.0=virtio-net:a"]).contains("no device 0000:00:0b.0"));
    for model in ["0000:00:09.0", "0000:00:09.0=cheese", "0000:00:09.0=virtio-net", "0000:00:09.0=virtio-net:"] {
        let said = run(&[model]);
        assert!(said.contains("virtio-net:WIRE") || said.contains("BDF=MODEL"), "{model}: {said}");
    }
}

#[test]
fn a_configuration_space_is_written_where_the_file_is() {
    let (room, _machine) = room();
    room.enter(|| {
        only_in_a_room();
        let path = format!("/sys/bus/pci/devices/{CARD}/config");
        let mut config = open(&path).unwrap();
        // The size of a cache line and the latency, one after the other; the line of the interrupt.
        config.seek(SeekFrom::Start(0x0c)).unwrap();
        config.write_all(&[0x08]).unwrap();
        config.write_all(&[0x20]).unwrap();
        rustix::io::pwritev(&config, &[IoSlice::new(&[0x0b])], 0x3c).unwrap();
        let read = fs::read(&path).unwrap();
        assert_eq!((read[0x0c], read[0x0d], read[0x3c]), (0x08, 0x20, 0x0b));
        assert_eq!(config.stream_position().unwrap(), 0x0e);
    })
    .unwrap();
}

#[test]
fn models_are_put_behind_devices_by_name() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    fs::write(disk.path(), [0; 4096]).unwrap();
    let run = |model: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfio-room"));
        command.args(["run", "--machine", "workstation", "--model", model, "--bind", "0000:00:05.0", "--"]);
        let output = command.args(["readlink", "/sys/bus/pci/devices/0000:00:05.0/driver"]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(text(&output)) } else { Err(errors) }
    };
    let model = format!("0000:00:05.0=nvme:{}", disk.path().display());
    assert!(run(&model).unwrap().ends_with("/vfio-pci"));
    for (model, reason) in [
        ("nvme:disk.img", "not `BDF=MODEL`"),
        ("0000:00:05.0=floppy:disk.img", "`floppy:disk.img` is not a model"),
        ("0000:00:05.0=nvme:", "`nvme:` is not a model"),
        ("0000:00:05.0=nvme:/nowhere/disk.img", "cannot open /nowhere/disk.img"),
        (&model.replace("00:05.0", "00:0f.0"), "no device 0000:00:0f.0"),
    ] {
        let error = run(model).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}
