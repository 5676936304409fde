//! The disks below block devices, through everything that they are stacked with.

use std::collections::BTreeSet;

use vfio_owner::iommu_core::sysfs::resolve;

use super::super::asked;
use super::super::process::{Node, Processes};
use super::super::source::{PROC, lines, link_or_text, text};
use super::{Found, Layer, MOST_STACKED, Purpose, function};

impl Found<'_> {
    pub(super) fn block_named(&mut self, name: &str, purpose: &Purpose, depth: u32) {
        // Slashes of a name are exclamation marks in sysfs; names of the device mapper are behind numbers.
        let path = resolve(self.tree, &format!("class/block/{}", name.replace('/', "!")));
        match (path, name.strip_prefix("mapper/")) {
            (Some(path), _) => self.block(&path, purpose, depth),
            (None, Some(mapped)) => {
                for entry in self.tree.list("class/block").unwrap_or_default() {
                    let Some(path) = resolve(self.tree, &format!("class/block/{entry}")) else { continue };
                    let named = text(self.tree, &format!("{path}/dm/name"));
                    if named.is_some_and(|named| named.trim() == mapped) {
                        self.block(&path, purpose, depth);
                    }
                }
            }
            (None, None) => {}
        }
    }

    /// The disks below a block device.
    pub(super) fn block(&mut self, path: &str, purpose: &Purpose, depth: u32) {
        let Some(depth) = depth.checked_sub(1) else { return };
        let layer = (purpose.clone(), Layer::Block(path.to_owned()));
        if self.seen.insert(layer, true).is_some() || self.on_the_way_to(path, purpose) || self.remote_disk(path) {
            return;
        }
        // A partition of a stacked device has no slaves of its own, and neither have the paths of a multipath NVMe.
        let whole = path.rsplit_once('/').map_or(path, |(whole, _)| whole);
        let mut below: Vec<String> = Vec::new();
        for folder in [format!("{path}/slaves"), format!("{whole}/slaves")] {
            let names = self.tree.list(&folder).unwrap_or_default();
            below.extend(names.iter().map(|name| format!("{folder}/{name}")));
        }
        if path.contains("/nvme-subsystem/") {
            for folder in [whole, whole.rsplit_once('/').map_or(whole, |(folder, _)| folder)] {
                let names = self.tree.list(folder).unwrap_or_default();
                let controller = |name: &&String| {
                    let number = numbered(name, "nvme");
                    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
                };
                let controllers = names.iter().filter(controller);
                below.extend(controllers.map(|name| format!("{folder}/{name}")));
            }
        }
        for link in below {
            if let Some(next) = resolve(self.tree, &link).filter(|next| next != path) {
                self.block(&next, purpose, depth);
            }
        }
        for backing in [path, whole] {
            self.backing(backing, purpose, depth);
        }
    }

    /// The file or disk that a loop device, or compressed memory, is kept in.
    fn backing(&mut self, path: &str, purpose: &Purpose, depth: u32) {
        for file in ["loop/backing_file", "backing_dev"] {
            let Some(backing) = text(self.tree, &format!("{path}/{file}")) else { continue };
            let backing = backing.trim_end_matches('\n').trim_end_matches(" (deleted)");
            match backing.strip_prefix("/dev/") {
                Some(device) => self.block_named(device, purpose, depth),
                None if backing.starts_with('/') => self.file(backing, purpose, depth),
                None => {}
            }
        }
    }

    /// Whether the disk is one of another machine; then the way to it counts.
    fn remote_disk(&mut self, path: &str) -> bool {
        let steps: Vec<&str> = path.split('/').collect();
        let name = steps.last().copied().unwrap_or_default().to_owned();
        if let Some(session) = steps.iter().find_map(|step| numbered(step, "session")) {
            self.iscsi(session, &name);
            return true;
        }
        if let Some(at) = steps.iter().position(|step| *step == "nvme-fabrics") {
            let controller = steps.get(..(at + 3).min(steps.len())).unwrap_or_default().join("/");
            self.nvme_over_fabrics(&controller, &name);
            return true;
        }
        let served = |step: &&&str| ["nbd", "rbd", "drbd"].iter().any(|kind| numbered(step, kind).is_some());
        let Some(disk) = steps.iter().find(served).copied() else { return false };
        let addresses = self.peers_of_nbd(path, disk);
        self.reached_over_network(&addresses, disk);
        true
    }

    fn iscsi(&mut self, session: &str, name: &str) {
        const FOLDER: &str = "class/iscsi_connection";
        let mut addresses = Vec::new();
        for connection in self.tree.list(FOLDER).unwrap_or_default() {
            if connection.strip_prefix("connection").and_then(|rest| rest.split(':').next()) != Some(session) {
                continue;
            }
            let Some(path) = resolve(self.tree, &format!("{FOLDER}/{connection}")) else { continue };
            for file in ["address", "persistent_address"] {
                let address = text(self.tree, &format!("{path}/{file}"));
                addresses.extend(address.and_then(|address| address.trim().parse::<std::net::IpAddr>().ok()));
            }
        }
        self.reached_over_network(&addresses, name);
    }

    /// `traddr=10.0.0.1,trsvcid=4420,…`, or for Fibre Channel `traddr=nn-0x…:pn-0x…,host_traddr=nn-0x…:pn-0x…`
    fn nvme_over_fabrics(&mut self, controller: &str, name: &str) {
        let address = text(self.tree, &format!("{controller}/address")).unwrap_or_default();
        let field = |wanted: &str| {
            let mut fields = address.trim().split(',').filter_map(|field| field.split_once('='));
            fields.find_map(|(name, value)| (name == wanted).then_some(value))
        };
        if let Some(port) =
            field("host_traddr").and_then(|own| own.split(':').find_map(|part| part.strip_prefix("pn-")))
        {
            let purpose = Purpose::NetworkStorage { at: name.to_owned() };
            for host in self.tree.list("class/fc_host").unwrap_or_default() {
                let Some(path) = resolve(self.tree, &format!("class/fc_host/{host}")) else { continue };
                if text(self.tree, &format!("{path}/port_name")).is_some_and(|name| name.trim() == port) {
                    self.on_the_way_to(&path, &purpose);
                }
            }
            return;
        }
        let addresses: Vec<_> = field("traddr").and_then(|address| address.parse().ok()).into_iter().collect();
        self.reached_over_network(&addresses, name);
    }

    /// The machines that the client of a network block device is connected to; none if there is no such process.
    fn peers_of_nbd(&self, path: &str, disk: &str) -> Vec<std::net::IpAddr> {
        let folder = path.find(&format!("/{disk}")).and_then(|at| path.get(..=at + disk.len()));
        let process = folder.and_then(|folder| text(self.tree, &format!("{folder}/pid"))).unwrap_or_default();
        let process = process.trim();
        let files = self.tree.list(&format!("{PROC}/{process}/fd")).unwrap_or_default();
        let targets = files.iter().filter_map(|file| link_or_text(self.tree, &format!("{PROC}/{process}/fd/{file}")));
        let sockets: BTreeSet<String> =
            targets.filter_map(|target| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
        let connections = lines(self.tree, &format!("{PROC}/{process}/net/tcp"));
        let peers = connections.iter().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let ours = fields.get(9).is_some_and(|inode| sockets.contains(*inode));
            let address = u32::from_str_radix(fields.get(2)?.split(':').next()?, 16).ok()?;
            ours.then(|| std::net::Ipv4Addr::from(u32::from_be(address)).into())
        });
        peers.collect()
    }

    pub(super) fn all_disks(&mut self, purpose: &Purpose) {
        for name in self.tree.list("class/block").unwrap_or_default() {
            if let Some(path) = resolve(self.tree, &format!("class/block/{name}")) {
                self.on_the_way_to(&path, purpose);
            }
        }
    }

    /// Disks that processes have open: databases, virtual machines, servers of volumes.
    pub(super) fn open_disks(&mut self, processes: &Processes) {
        for open in &processes.open {
            let purpose = Purpose::Open { process: open.process, name: open.name.clone() };
            match &open.node {
                Some(Node::Block(number)) => {
                    if let Some(path) = resolve(self.tree, &format!("dev/block/{number}")) {
                        self.block(&path, &purpose, MOST_STACKED);
                    }
                }
                Some(Node::Character(number)) => {
                    let path = resolve(self.tree, &format!("dev/char/{number}"));
                    // Ways to a disk around the block layer.
                    let kinds = ["/nvme-generic/", "/scsi_generic/", "/bsg/"];
                    if let Some(path) = path.filter(|path| kinds.iter().any(|kind| path.contains(kind))) {
                        self.on_the_way_to(&path, &purpose);
                    }
                }
                None => {
                    if let Some(device) = open.target.strip_prefix("/dev/") {
                        self.block_named(device, &purpose, MOST_STACKED);
                    }
                }
            }
        }
    }

    /// Disks that the kernel has for itself, by trying. Returns whether that can be tried.
    pub(super) fn claimed_disks(&mut self) -> bool {
        let mut all = true;
        for name in self.tree.list("class/block").unwrap_or_default() {
            let Some(path) = resolve(self.tree, &format!("class/block/{name}")) else { continue };
            // A way to a drive of several controllers is hidden, and cannot be opened; the drive can.
            let is_hidden = text(self.tree, &format!("{path}/hidden")).is_some_and(|hidden| hidden.trim() == "1");
            let device = function(&path);
            let is_known = self.lifelines.iter().any(|lifeline| Some(lifeline.device) == device);
            let is_disk = device.is_some() || path.contains("/nvme-subsystem/");
            if is_hidden || is_known || !is_disk || self.disks.contains(&path) {
                continue;
            }
            match self.is_claimed(&name, &path, MOST_STACKED) {
                Some(true) => self.block(&path, &Purpose::Claimed { disk: name }, MOST_STACKED),
                Some(false) => {}
                None => all = false,
            }
        }
        all
    }

    /// Whether a disk is in use. One that is only part of a volume is if that one is; one of a RAID that runs always is, for
    /// the RAID would lose it.
    fn is_claimed(&self, name: &str, path: &str, depth: u32) -> Option<bool> {
        let depth = depth.checked_sub(1)?;
        let entries = self.tree.list(path).unwrap_or_default();
        let partitions = entries.iter().map(|entry| format!("{path}/{entry}"));
        let folders: Vec<String> = [path.to_owned()].into_iter().chain(partitions).collect();
        let holders: Vec<String> = folders
            .iter()
            .flat_map(|folder| {
                let names = self.tree.list(&format!("{folder}/holders")).unwrap_or_default();
                names.into_iter().map(move |name| format!("{folder}/holders/{name}"))
            })
            .collect();
        if holders.is_empty() {
            return asked::is_claimed(self.tree, name);
        }
        let uppers: Vec<String> = holders.iter().filter_map(|link| resolve(self.tree, link)).collect();
        if uppers.iter().any(|upper| self.is_running_array(upper)) {
            return Some(true);
        }
        let mut answers = uppers.iter().map(|upper| {
            let name = upper.rsplit('/').next().unwrap_or_default().to_owned();
            self.is_claimed(&name, upper, depth)
        });
        answers.try_fold(false, |any, answer| Some(any || answer?))
    }

    fn is_running_array(&self, path: &str) -> bool {
        let state = text(self.tree, &format!("{path}/md/array_state"));
        state.is_some_and(|state| !matches!(state.trim(), "clear" | "inactive"))
    }
}

/// The number behind a word: `nbd0p1` is the first part of number 0.
fn numbered<'a>(step: &'a str, word: &str) -> Option<&'a str> {
    step.strip_prefix(word).filter(|rest| rest.starts_with(|char: char| char.is_ascii_digit()))
}
