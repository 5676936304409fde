//! `qemu-img` and `qemu-io`: QEMU's own NVMe driver in user space, which knows nothing of guests.

use std::fs::{self, File};

use anyhow::{Result, ensure};
use vfio_owner::testbed::models::nvme::{FileDisk, MemoryDisk};
use vfio_room::Room;

use super::{DRIVE, SHARING, is_free, names_the_card, room_with};
use crate::clients::{Checks, Client, Need, folder, limited, text};

pub(in super::super) const CLIENT: Client = Client {
    name: "qemu-img",
    shows: "QEMU's user-space NVMe driver reads, writes and discards a drive; a group that is not viable",
    needs: &[Need::Program("qemu-img", "qemu-utils"), Need::Program("qemu-io", "qemu-utils")],
    wants: &[],
    run,
};

const MIB: usize = 1 << 20;

fn run(checks: &mut Checks) -> Result<()> {
    let folder = folder("qemu-img")?;
    let [image, copy, disk] = ["image", "copy", "disk"].map(|name| folder.join(name));
    let [image_name, copy_name] = [&image, &copy].map(|file| file.display().to_string());
    // Every sector is filled with a number of its own, so far as a byte goes.
    let contents: Vec<u8> = (0..=u8::MAX).cycle().take(4 * MIB / 512).flat_map(|number| [number; 512]).collect();
    fs::write(&image, &contents)?;
    File::create(&disk)?.set_len(contents.len() as u64)?;

    let (machine, room) = room_with(&[DRIVE], FileDisk::open(&disk)?)?;
    let drive = format!("nvme://{DRIVE}/1");
    checks.check("an image onto the drive", || {
        qemu_img(&room, &["convert", "-n", "-f", "raw", "-O", "raw", &image_name, &drive])?;
        ensure!(fs::read(&disk)? == contents, "the disk is not as the image");
        Ok(())
    });
    checks.check("the drive into an image", || {
        qemu_img(&room, &["convert", "-f", "raw", "-O", "raw", &drive, &copy_name])?;
        ensure!(fs::read(&copy)? == contents, "the copy is not as the disk");
        Ok(())
    });
    checks.check("eight requests at a time", || {
        qemu_img(&room, &["bench", "-f", "raw", "-c", "1000", "-d", "8", "-s", "4096", "-t", "none", &drive])
    });
    checks.check("write, read, flush and discard", || {
        let words = ["write -P 171 0 1M", "read -P 171 512k 512k", "flush", "discard 0 64k"];
        let mut qemu_io = limited(&room, "qemu-io");
        let told = text(qemu_io.args(["-f", "raw"]).args(words.iter().flat_map(|word| ["-c", word])).arg(&drive))?;
        ensure!(told.matches("ops/sec").count() == 3 && !told.contains("failed"), "{told}");
        let written = fs::read(&disk)?;
        ensure!(
            written.iter().skip(64 << 10).take(MIB - (64 << 10)).all(|byte| *byte == 171),
            "what was written is not on the disk"
        );
        Ok(())
    });
    checks.check("the drive is free afterwards", || is_free(&room, &machine, DRIVE));
    checks.check("group that is not viable", not_viable);
    Ok(())
}

fn qemu_img(room: &Room, arguments: &[&str]) -> Result<()> {
    text(limited(room, "qemu-img").args(arguments)).map(drop)
}

fn not_viable() -> Result<()> {
    let [drive, _] = SHARING;
    let (machine, room) = room_with(&[drive], MemoryDisk::new(vec![0; MIB]))?;
    let output = limited(&room, "qemu-img").args(["info", &format!("nvme://{drive}/1")]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && errors.contains("not viable"), "{}: {errors}", output.status);
    names_the_card(&room, &machine)
}
