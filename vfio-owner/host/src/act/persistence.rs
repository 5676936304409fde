//! Persistent binding: files that bind devices to vfio-pci at boot, before other drivers.
//!
//! A udev rule sets `driver_override` by address and ids, so that another card in the same slot is not affected. It is
//! also added to the initramfs, since the drivers of disks and displays are loaded there.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::vfio_pci;

use crate::driver_name::is_driver_name;
use crate::{Host, NoSuchDevice};

/// The first line of every file of ours but scripts, where it is the second.
const MARK: &str = "# Written by vfio-host; `vfio-host persist --undo` takes it away.";

/// The files that bind devices to vfio-pci at boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Persistence {
    /// The files, with their paths on the machine.
    pub files: Vec<PersistentFile>,
    /// Command to run afterwards, which rebuilds the initramfs.
    pub then: Option<&'static str>,
}

/// A file to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PersistentFile {
    /// Path, without the root.
    pub path: PathBuf,
    /// Contents.
    pub contents: String,
    /// Whether the file is a script.
    pub executable: bool,
}

/// Why files could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PersistenceError {
    /// There is no such device.
    #[error(transparent)]
    NoSuchDevice(#[from] NoSuchDevice),
    /// The device's ids are not shown, so a rule could not distinguish it from another device in its slot.
    #[error("{device}: its ids are not shown")]
    IdsNotShown {
        /// The device.
        device: PciAddress,
    },
    /// A file of this name exists that this program did not write.
    #[error("{}: it is not one of vfio-host's", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be written or removed. Files that were written have been removed.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What makes the initramfs: that of Debian is initramfs-tools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Initramfs {
    Debian,
    Dracut,
    Mkinitcpio,
}

impl Initramfs {
    /// The one that a machine has.
    fn of(root: &Path) -> Option<Self> {
        [
            ("etc/initramfs-tools", Self::Debian),
            ("etc/dracut.conf.d", Self::Dracut),
            ("etc/mkinitcpio.conf", Self::Mkinitcpio),
        ]
        .into_iter()
        .find_map(|(path, kind)| root.join(path).exists().then_some(kind))
    }

    const fn command(self) -> &'static str {
        match self {
            Self::Debian => "update-initramfs -u -k all",
            Self::Dracut => "dracut --force --regenerate-all",
            Self::Mkinitcpio => "mkinitcpio -P",
        }
    }

    /// What puts the rule and the driver into it.
    fn file(self, name: &str, rule: &str) -> PersistentFile {
        let driver = vfio_pci::NAME;
        match self {
            Self::Debian => PersistentFile {
                path: format!("etc/initramfs-tools/hooks/{name}").into(),
                contents: format!(
                    "#!/bin/sh\n{MARK}\n[ \"$1\" = prereqs ] && exit 0\n. /usr/share/initramfs-tools/hook-functions\n\
                     manual_add_modules {driver}\nmkdir -p \"$DESTDIR/lib/udev/rules.d\"\n\
                     cp /{rule} \"$DESTDIR/lib/udev/rules.d/\"\n"
                ),
                executable: true,
            },
            Self::Dracut => PersistentFile {
                path: format!("etc/dracut.conf.d/{name}.conf").into(),
                contents: format!("{MARK}\nforce_drivers+=\" {driver} \"\ninstall_items+=\" /{rule} \"\n"),
                executable: false,
            },
            Self::Mkinitcpio => PersistentFile {
                path: format!("etc/mkinitcpio.conf.d/{name}.conf").into(),
                contents: format!("{MARK}\nMODULES+=({driver})\nFILES+=(/{rule})\n"),
                executable: false,
            },
        }
    }
}

impl Persistence {
    /// Returns the files for these devices, on the machine whose root is `root`.
    ///
    /// # Errors
    /// Fails if there is no such device, or its ids are not shown.
    pub fn of(host: &Host, devices: &[PciAddress], root: impl AsRef<Path>) -> Result<Self, PersistenceError> {
        let initramfs = Initramfs::of(root.as_ref());
        let mut files = Vec::new();
        for device in devices {
            files.extend(files_of(host, *device, initramfs)?);
        }
        Ok(Self { files, then: initramfs.map(Initramfs::command) })
    }

    /// Writes the files below `root`: all, or none.
    ///
    /// # Errors
    /// Fails if one cannot be written, or would replace a file of someone else.
    pub fn write(&self, root: impl AsRef<Path>) -> Result<(), PersistenceError> {
        let root = root.as_ref();
        for file in &self.files {
            let path = root.join(&file.path);
            if path.exists() && !is_ours(&path) {
                return Err(PersistenceError::NotOurs { path });
            }
        }
        for (written, file) in self.files.iter().enumerate() {
            let path = root.join(&file.path);
            if let Err(error) = put(&path, file) {
                for file in self.files.iter().take(written + 1) {
                    // Nothing more can be done about one that stays; the error is told.
                    let _ = fs::remove_file(root.join(&file.path));
                }
                return Err(PersistenceError::Io { path, error });
            }
        }
        Ok(())
    }

    /// Removes the files below `root`, and returns those that were removed. A file of someone else is kept.
    ///
    /// # Errors
    /// Fails if one cannot be removed.
    pub fn remove(&self, root: impl AsRef<Path>) -> Result<Vec<PathBuf>, PersistenceError> {
        let mut removed = Vec::new();
        for file in &self.files {
            let path = root.as_ref().join(&file.path);
            if is_ours(&path) {
                fs::remove_file(&path).map_err(|error| PersistenceError::Io { path, error })?;
                removed.push(file.path.clone());
            }
        }
        Ok(removed)
    }
}

fn put(path: &Path, file: &PersistentFile) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, &file.contents)?;
    let mode = if file.executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn is_ours(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.lines().take(2).any(|line| line == MARK))
}

fn files_of(
    host: &Host,
    device: PciAddress,
    initramfs: Option<Initramfs>,
) -> Result<Vec<PersistentFile>, PersistenceError> {
    let found = host.device(device)?;
    let config = &found.function.config;
    let ids = config.vendor().zip(config.device()).filter(|ids| *ids != (0, 0));
    let (vendor, id) = ids.ok_or(PersistenceError::IdsNotShown { device })?;
    // Some tools take only plain names.
    let name = format!("vfio-host-{}", device.to_string().replace([':', '.'], "-"));
    let driver = vfio_pci::NAME;
    let rule = format!("etc/udev/rules.d/10-{name}.rules");
    let contents = format!(
        "{MARK}\nACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"{device}\", ATTR{{vendor}}==\"0x{vendor:04x}\", \
         ATTR{{device}}==\"0x{id:04x}\", ATTR{{driver_override}}=\"{driver}\"\n"
    );
    let plain = |path: String, contents| PersistentFile { path: path.into(), contents, executable: false };
    let mut files = vec![plain(rule.clone(), contents)];
    let mut modules = format!("{MARK}\n");
    if let Some(before) = found.driver.as_deref().filter(|before| *before != driver && is_module_name(before)) {
        // When the module of the other driver comes, vfio-pci is there already.
        let _ = writeln!(modules, "softdep {before} pre: {driver}");
    }
    files.push(plain(format!("etc/modprobe.d/{name}.conf"), modules));
    files.push(plain(format!("etc/modules-load.d/{name}.conf"), format!("{MARK}\n{driver}\n")));
    files.extend(initramfs.map(|initramfs| initramfs.file(&name, &rule)));
    Ok(files)
}

fn is_module_name(name: &str) -> bool {
    is_driver_name(name) && !name.contains([' ', ':', '+', '.'])
}
