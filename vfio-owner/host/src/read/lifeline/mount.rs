//! Mounts of every namespace that is shown, and the devices or servers below them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vfio_owner::iommu_core::sysfs::{Tree, resolve};

use super::super::process::Processes;
use super::super::source::{PROC, lines, link_or_text, printable, text};
use super::{Found, Layer, MOST_STACKED, Purpose};

/// Kinds of file systems whose disks sysfs does not show.
const OPAQUE: [&str; 1] = ["zfs"];

/// Kinds of file systems that are somewhere else on the network.
const REMOTE: [&str; 16] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "afs",
    "ncpfs",
    "coda",
    "lustre",
    "ocfs2_dlmfs",
    "pvfs2",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.rclone",
];

/// One line of a list of mounts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mount {
    number: String,
    at: String,
    kind: String,
    source: String,
    options: String,
}

impl Mount {
    /// `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS … - TYPE SOURCE OPTIONS`
    fn of_line(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ');
        let (number, at) = (front.nth(2)?, front.nth(1)?);
        let mut back = back.split(' ');
        let mut next = || back.next().unwrap_or_default().to_owned();
        let (kind, source, options) = (next(), next(), next());
        Some(Self { number: number.to_owned(), at: unescape(at), kind, source: unescape(&source), options })
    }

    /// The values of options that have one.
    fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options.split(',').filter_map(|option| option.split_once('='))
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let named = self.values().filter(|(name, _)| matches!(*name, "addr" | "ip" | "server" | "mon_addr"));
        let of_option = named.flat_map(|(_, value)| value.split(['/', ':', '@'])).filter_map(|word| word.parse().ok());
        let whole = self.values().filter(|(name, _)| *name == "addr").filter_map(|(_, value)| value.parse().ok());
        let host = self.source.split(['/', ',', '@', '\\']).filter_map(|word| {
            let bare = word.trim_end_matches(':').trim_matches(['[', ']']);
            bare.parse().ok().or_else(|| bare.rsplit_once(':')?.0.trim_matches(['[', ']']).parse().ok())
        });
        of_option.chain(whole).chain(host).collect()
    }
}

/// Returns the mounts of each namespace once, and whether those of every process are shown.
pub(super) fn of_all_namespaces(tree: &dyn Tree, own: &str, processes: &Processes) -> (Vec<Mount>, bool) {
    let mut mounts: Vec<Mount> = own.lines().filter_map(Mount::of_line).collect();
    let mut known: BTreeSet<Mount> = mounts.iter().cloned().collect();
    let mut namespaces: BTreeSet<String> = link_or_text(tree, &format!("{PROC}/self/ns/mnt")).into_iter().collect();
    let mut all = !processes.numbers.is_empty();
    for process in &processes.numbers {
        let namespace = link_or_text(tree, &format!("{PROC}/{process}/ns/mnt"));
        if namespace.is_some_and(|namespace| !namespaces.insert(namespace)) {
            continue;
        }
        let Some(list) = text(tree, &format!("{PROC}/{process}/mountinfo")) else {
            // A process that has ended has no folder; what has one and no list does not show it.
            all &= tree.list(&format!("{PROC}/{process}")).is_err();
            continue;
        };
        let new = list.lines().filter_map(Mount::of_line).filter(|mount| known.insert(mount.clone()));
        mounts.extend(new.collect::<Vec<_>>());
    }
    (mounts, all)
}

impl Found<'_> {
    pub(super) fn mounts(&mut self) {
        for mount in self.mounts.clone() {
            let purpose = Purpose::Mounted { at: printable(&mount.at) };
            self.mount(&mount, &purpose, MOST_STACKED);
        }
    }

    fn mount(&mut self, mount: &Mount, purpose: &Purpose, depth: u32) {
        if OPAQUE.contains(&&*mount.kind) {
            return self.all_disks(&Purpose::PerhapsMounted { kind: printable(&mount.kind) });
        }
        if REMOTE.contains(&&*mount.kind) || mount.options.split(',').any(|option| option == "trans=tcp") {
            return self.reached_over_network(&mount.addresses(), &printable(&mount.at));
        }
        match &*mount.kind {
            "9p" => return self.shared(&["9pnet_virtio"], &mount.source, purpose),
            "virtiofs" => return self.shared(&["virtio_fs", "virtiofs"], &mount.source, purpose),
            "overlay" | "fuse.fuse-overlayfs" => self.layers(mount, purpose, depth),
            _ => {}
        }
        match resolve(self.tree, &format!("dev/block/{}", mount.number)) {
            Some(path) => {
                self.disks.insert(path.clone());
                self.block(&path, purpose, depth);
            }
            None => {
                for device in mount.source.split(':').filter_map(|device| device.strip_prefix("/dev/")) {
                    self.block_named(device, purpose, depth);
                }
            }
        }
        // Journals and logs on other disks.
        for (_, value) in mount.values() {
            if let Some(device) = value.strip_prefix("/dev/") {
                self.block_named(device, purpose, depth);
            }
        }
    }

    /// The folders that an overlay is made of.
    fn layers(&mut self, mount: &Mount, purpose: &Purpose, depth: u32) {
        let names = ["lowerdir", "upperdir", "workdir", "lowerdir+", "datadir+"];
        for (_, folders) in mount.values().filter(|(name, _)| names.contains(name)) {
            for folder in folders.split(':').filter(|folder| folder.starts_with('/')) {
                self.file(&unescape(folder), purpose, depth);
            }
        }
    }

    /// The disks that a file is on.
    pub(super) fn file(&mut self, path: &str, purpose: &Purpose, depth: u32) {
        let Some(depth) = depth.checked_sub(1) else { return };
        if self.seen.insert((purpose.clone(), Layer::File(path.to_owned())), true).is_some() {
            return;
        }
        let above = |mount: &&Mount| {
            let rest = path.strip_prefix(mount.at.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let nearest = self.mounts.iter().filter(above).max_by_key(|mount| mount.at.len()).cloned();
        if let Some(mount) = nearest {
            self.mount(&mount, purpose, depth);
        }
    }

    /// A folder of the machine that this one runs on, which a virtual device hands in; its tag says which.
    fn shared(&mut self, drivers: &[&str], tag: &str, purpose: &Purpose) {
        let mut tagged = Vec::new();
        let mut all = Vec::new();
        for folder in drivers.iter().map(|driver| format!("bus/virtio/drivers/{driver}")) {
            for name in self.tree.list(&folder).unwrap_or_default() {
                let Some(path) = resolve(self.tree, &format!("{folder}/{name}")).filter(|_| name.starts_with("virtio"))
                else {
                    continue;
                };
                let own = text(self.tree, &format!("{path}/mount_tag"));
                if own.is_some_and(|own| own.trim_end_matches(['\0', '\n']) == tag) {
                    tagged.push(path.clone());
                }
                all.push(path);
            }
        }
        // Not every kernel shows the tag.
        for path in if tagged.is_empty() { all } else { tagged } {
            self.on_the_way_to(&path, purpose);
        }
    }

    /// File systems that are there though no mount shows them: one mounted lazily goes on until its last file is closed.
    pub(super) fn file_systems(&mut self) {
        for kind in ["ext4", "xfs", "f2fs", "nilfs2", "bcachefs", "jfs", "gfs2"] {
            let purpose = Purpose::Mounted { at: format!("a file system of {kind}") };
            for name in self.tree.list(&format!("fs/{kind}")).unwrap_or_default() {
                self.unless_mounted(&name, &purpose);
            }
        }
        self.btrfs();
        // A journal on a disk of its own has that disk's name; others have a number behind it.
        let journal = Purpose::Mounted { at: "the journal of a file system".to_owned() };
        for name in self.tree.list(&format!("{PROC}/fs/jbd2")).unwrap_or_default() {
            self.unless_mounted(&name, &journal);
        }
    }

    fn unless_mounted(&mut self, disk: &str, purpose: &Purpose) {
        let path = resolve(self.tree, &format!("class/block/{disk}"));
        if path.is_some_and(|path| !self.disks.contains(&path)) {
            self.block_named(disk, purpose, MOST_STACKED);
        }
    }

    /// A mount shows one device of a file system that may have many.
    fn btrfs(&mut self) {
        const FOLDER: &str = "fs/btrfs";
        let purpose = Purpose::Mounted { at: "a file system of btrfs".to_owned() };
        for file_system in self.tree.list(FOLDER).unwrap_or_default() {
            let devices = format!("{FOLDER}/{file_system}/devices");
            for name in self.tree.list(&devices).unwrap_or_default() {
                if let Some(path) = resolve(self.tree, &format!("{devices}/{name}")) {
                    self.block(&path, &purpose, MOST_STACKED);
                }
            }
        }
    }

    pub(super) fn swaps(&mut self) {
        for line in lines(self.tree, &format!("{PROC}/swaps")).iter().skip(1) {
            let path = unescape(line.split_whitespace().next().unwrap_or_default());
            match path.strip_prefix("/dev/") {
                Some(device) => self.block_named(device, &Purpose::Swap, MOST_STACKED),
                None => self.file(path.trim_end_matches(" (deleted)"), &Purpose::Swap, MOST_STACKED),
            }
        }
    }
}

/// Spaces and their like are octal in the lists of mounts.
pub(crate) fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (escape, plain)| path.replace(escape, plain))
}
