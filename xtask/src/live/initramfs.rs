//! The first file system of a guest: the program under test, its driver, busybox, and modules.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use duct::cmd;

use super::built;
use super::packages::{Kernel, Tools};

/// The modules that the machines' devices ask for, and what they and VFIO need besides their dependencies.
const MODULES: &[&str] = &[
    "vfio",
    "vfio_iommu_type1",
    "vfio_pci",
    "pci_stub",
    "e1000",
    "e1000e",
    "nvme",
    "xhci_pci",
    "ehci_pci",
    "uhci_hcd",
    "usb_storage",
    "uas",
    "usbhid",
    "hid_generic",
    "sd_mod",
    "ahci",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_scsi",
    "virtio_balloon",
    "virtio_rng",
    "virtio_console",
    "virtio_gpu",
    "virtio_input",
    "snd_hda_intel",
    "i2c_i801",
    "lpc_ich",
    "bochs",
    "shpchp",
    "sdhci_pci",
    "pvpanic_pci",
    "8250_pci",
    "crc32c_generic",
    "crc32c_intel",
    "iTCO_wdt",
    "crc64_rocksoft",
    "crc64_rocksoft_generic",
    "crct10dif_common",
    "crct10dif_generic",
    "ext4",
    "loop",
    "zram",
    "lzo_rle",
    "overlay",
    "bridge",
    "8021q",
    "dm_mod",
    "dm_crypt",
    "raid1",
    "btrfs",
    "9p",
    "9pnet_virtio",
    "vrf",
    "macvlan",
    "bonding",
    "xts",
    "aesni_intel",
    "crypto_simd",
];

/// Builds the image for a kernel; where it is.
pub(crate) fn build(kernel: &Kernel, tools: &Tools, folder: &Path) -> Result<PathBuf> {
    let root = folder.join(format!("root-{}", kernel.version));
    begin(kernel, tools, &root, MODULES)?;
    copy_program(&built("live-guest"), &root, "init")?;
    copy_program(&built("vfio-host"), &root, "usr/bin/vfio-host")?;
    for program in &tools.further {
        let name = program.file_name().context("a program has a name")?.to_string_lossy();
        copy_program(program, &root, &format!("usr/sbin/{name}"))?;
    }
    pack(&root, folder.join(format!("initramfs-{}.cpio", kernel.version)))
}

/// Builds an image with these modules, in which busybox runs a script; where it is.
pub(crate) fn build_script(
    kernel: &Kernel,
    tools: &Tools,
    folder: &Path,
    modules: &[&str],
    script: &str,
) -> Result<PathBuf> {
    let root = folder.join(format!("script-root-{}", kernel.version));
    begin(kernel, tools, &root, modules)?;
    fs::write(root.join("init"), script)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    pack(&root, folder.join(format!("script-{}.cpio", kernel.version)))
}

/// Makes a folder anew, with modules and busybox.
fn begin(kernel: &Kernel, tools: &Tools, root: &Path, modules: &[&str]) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    for name in ["bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "usr/bin", "usr/sbin"] {
        fs::create_dir_all(root.join(name))?;
    }
    copy_modules(kernel, root, modules)?;
    cmd!(&tools.busybox, "depmod", "-b", fs::canonicalize(root)?, &kernel.version).run().context("busybox depmod")?;
    copy_program(&tools.busybox, root, "bin/busybox")?;
    for command in cmd!(&tools.busybox, "--list").read()?.lines() {
        symlink("busybox", root.join("bin").join(command)).or_else(|error| match error.kind() {
            ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
    }
    // Where the kernel looks for it.
    Ok(symlink("../bin/busybox", root.join("sbin/modprobe"))?)
}

fn pack(root: &Path, image: PathBuf) -> Result<PathBuf> {
    let mut archive = Archive { out: BufWriter::new(fs::File::create(&image)?), entries: 0 };
    archive.folder(root, "")?;
    archive.end()?;
    Ok(image)
}

/// Copies a program, and the libraries that it is linked with to where they are looked for.
fn copy_program(program: &Path, root: &Path, name: &str) -> Result<()> {
    let to = root.join(name);
    fs::copy(program, &to).with_context(|| program.display().to_string())?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    let linked = cmd!("ldd", program).stderr_to_stdout().unchecked().stdout_capture().run()?;
    let listed = String::from_utf8_lossy(&linked.stdout);
    let whole = linked.status.success() && !listed.contains("not found");
    ensure!(whole || listed.contains("not a dynamic executable"), "ldd {}: {listed}", program.display());
    let libraries = listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    for library in libraries {
        let to = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a library lies in a folder")?)?;
        fs::copy(library, to).with_context(|| library.to_owned())?;
    }
    Ok(())
}

/// Copies the modules and what they depend on, unpacked. One that this kernel does not have is built in, or has another name.
fn copy_modules(kernel: &Kernel, root: &Path, modules: &[&str]) -> Result<()> {
    let mut known = BTreeMap::new();
    find_modules(&kernel.modules, &mut known)?;
    let mut wanted: Vec<String> = modules.iter().map(ToString::to_string).collect();
    while let Some(name) = wanted.pop() {
        let Some(file) = known.remove(&name) else { continue };
        let bytes = match file.extension() {
            Some(kind) if kind == "xz" => cmd!("xz", "-dc", &file).stdout_capture().run()?.stdout,
            _ => fs::read(&file)?,
        };
        wanted.extend(dependencies(&bytes));
        let to = root.join("lib/modules").join(&kernel.version).join(format!("kernel/{name}.ko"));
        fs::create_dir_all(to.parent().context("a module lies in a folder")?)?;
        fs::write(to, bytes)?;
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        let to = root.join("lib/modules").join(&kernel.version).join(list);
        fs::copy(kernel.modules.join(list), to).with_context(|| list.to_owned())?;
    }
    Ok(())
}

/// Every module by its name, in which a dash is an underscore.
fn find_modules(folder: &Path, known: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find_modules(&entry.path(), known)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            known.insert(name.replace('-', "_"), entry.path());
        }
    }
    Ok(())
}

/// What a module says it depends on: `depends=a,b` among the texts in it.
fn dependencies(module: &[u8]) -> Vec<String> {
    let texts = module.split(|byte| *byte == 0);
    let depends = texts.filter_map(|text| std::str::from_utf8(text).ok()?.strip_prefix("depends="));
    depends.flat_map(|names| names.split(',')).map(|name| name.replace('-', "_")).collect()
}

/// An archive as the kernel unpacks it: `newc` of cpio.
struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// Puts a folder and all that is in it into the archive, as `name`.
    fn folder(&mut self, folder: &Path, name: &str) -> Result<()> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(folder)? {
            paths.push(entry?.path());
        }
        paths.sort_unstable();
        for path in paths {
            let name = format!("{name}{}", path.file_name().unwrap_or_default().display());
            let kind = fs::symlink_metadata(&path)?;
            if kind.is_symlink() {
                let target = fs::read_link(&path)?;
                self.entry(&name, kind.permissions().mode(), target.as_os_str().as_bytes())?;
            } else if kind.is_dir() {
                self.entry(&name, 0o040_755, &[])?;
                self.folder(&path, &(name + "/"))?;
            } else {
                self.entry(&name, kind.permissions().mode(), &fs::read(&path)?)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.entries += 1;
        let (size, length) = (u32::try_from(contents.len())?, u32::try_from(name.len() + 1)?);
        // Number, mode, user, group, links, time, size, four of devices, length of the name, sum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        let fields = fields.map(|field| format!("{field:08x}")).concat();
        let header = format!("070701{fields}{name}\0");
        self.padded(header.as_bytes())?;
        self.padded(contents)
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        Ok(self.out.write_all(&vec![0; padding])?)
    }

    fn end(mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_depends_on() {
        assert_eq!(dependencies(b"ELF\0license=GPL\0depends=nvme-core,t10_pi\0name=nvme\0"), ["nvme_core", "t10_pi"]);
        assert_eq!(dependencies(b"depends=\0"), [""]);
    }

    /// The format is of fields of eight digits, with every part on a multiple of four.
    #[test]
    fn an_archive_is_one_of_the_kernels_format() -> Result<()> {
        let mut bytes = Vec::new();
        let mut archive = Archive { out: &mut bytes, entries: 0 };
        archive.entry("init", 0o100_755, b"abcde")?;
        archive.end()?;
        let text = String::from_utf8(bytes)?;
        assert_eq!(text.get(..6), Some("070701"));
        assert_eq!(text.get(14..22), Some("000081ed"), "the mode");
        assert_eq!(text.get(54..62), Some("00000005"), "the size");
        assert_eq!(text.get(94..102), Some("00000005"), "the length of the name");
        assert_eq!(text.get(110..115), Some("init\0"));
        assert_eq!(text.match_indices("070701").map(|(at, _)| at % 4).collect::<Vec<_>>(), [0, 0]);
        assert!(text.len() % 4 == 0 && text.contains("TRAILER!!!"));
        Ok(())
    }
}
