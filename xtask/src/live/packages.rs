//! What the machines need, from the distribution's packages.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use duct::cmd;

use crate::distribution::{self, install, program};

/// The kernels: packages that stand for the newest of their kind, the one that runs in CI first.
const KERNELS: [&str; 2] = ["linux-image-6.12-amd64", "linux-image-amd64"];

/// Programs that set up what machines live on, and their packages. What cannot be had is left out, and so are the
/// forms that need it.
const FURTHER: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("lvm", "lvm2"),
    ("cryptsetup", "cryptsetup-bin"),
    ("mdadm", "mdadm"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mke2fs", "e2fsprogs"),
];

/// What cannot be had here.
#[derive(Debug)]
pub(crate) struct Missing {
    what: &'static str,
    package: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} here, and package {} cannot be installed", self.what, self.package)
    }
}

/// The programs that make machines.
pub(crate) struct Tools {
    folder: PathBuf,
    pub(crate) qemu: PathBuf,
    /// One without libraries, for the guests.
    pub(crate) busybox: PathBuf,
    /// Further programs for the guests.
    pub(crate) further: Vec<PathBuf>,
}

/// A kernel and its modules.
pub(crate) struct Kernel {
    /// Its release.
    pub(crate) version: String,
    pub(crate) image: PathBuf,
    /// The folder of its modules.
    pub(crate) modules: PathBuf,
}

impl Tools {
    /// Finds the programs, and installs their packages where that is allowed.
    pub(crate) fn find(folder: &Path) -> Result<Result<Self, Missing>> {
        fs::create_dir_all(folder)?;
        let mut found = Vec::new();
        for (what, package) in [
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("busybox", "busybox-static"),
            ("apt-get", "apt"),
            ("xz", "xz-utils"),
        ] {
            match program(what).or_else(|| install(&[package]).then(|| program(what))?) {
                Some(path) => found.push(path),
                None => return Ok(Err(Missing { what, package })),
            }
        }
        let Ok([qemu, busybox, ..]) = <[PathBuf; 4]>::try_from(found) else { unreachable!("four were looked for") };
        let mut further = Vec::new();
        for (name, package) in FURTHER {
            further.extend(program(name).or_else(|| install(&[package]).then(|| program(name))?));
        }
        Ok(Ok(Self { folder: folder.to_owned(), qemu, busybox, further }))
    }

    /// The kernels that can be had; without `all` the first of them.
    pub(crate) fn kernels(&self, all: bool) -> Result<Vec<Kernel>> {
        let mut kernels = Vec::new();
        for package in KERNELS {
            match self.kernel(package) {
                Ok(kernel) => kernels.push(kernel),
                Err(error) => eprintln!("note: without {package}: {error:#}"),
            }
            if !all && !kernels.is_empty() {
                break;
            }
        }
        ensure!(!kernels.is_empty(), "no kernel can be had");
        Ok(kernels)
    }

    /// The kernel that a package depends on, unpacked.
    fn kernel(&self, package: &str) -> Result<Kernel> {
        let depends = cmd!("apt-cache", "depends", "--important", package).stderr_null().read().context("apt-cache")?;
        let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        let version = name.context("no such package")?.to_owned();
        let unpacked = fs::canonicalize(&self.folder)?.join(&version);
        let kernel = Kernel {
            image: unpacked.join(format!("boot/vmlinuz-{version}")),
            modules: unpacked.join(format!("lib/modules/{version}")),
            version,
        };
        if !kernel.image.is_file() {
            distribution::unpack(&[&format!("linux-image-{}", kernel.version)], &unpacked)?;
        }
        Ok(kernel)
    }
}
