//! Trees of files: directories, links, attributes and device files.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::Errno;

use super::attribute::Attribute;
use super::char_device::CharDevice;

/// So many links are followed on the way to one file, as in Linux.
const MAX_LINKS: usize = 40;

/// A file of the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// A directory.
    Directory(Directory),
    /// A symbolic link.
    Link {
        /// Where it leads: relative to its directory, or from the root if it begins with a slash.
        target: Box<str>,
    },
    /// A file of sysfs.
    Attribute(Attribute),
    /// A character device.
    CharDevice(CharDevice),
}

/// A directory of the machine. A clone has the same entries, which are not copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directory {
    entries: Arc<BTreeMap<Box<str>, Node>>,
    host: HostEntries,
}

/// What a directory shows of the host that the machine is simulated on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HostEntries {
    /// Nothing: all entries are the machine's.
    #[default]
    Hidden,
    /// What the host has, but for the names that the machine has.
    Beside,
    /// Of the host's entries only these.
    Only(&'static [&'static str]),
}

impl HostEntries {
    /// Returns whether the host's entry of this name is seen, unless the machine has one of the same name.
    pub fn shows(self, name: &str) -> bool {
        match self {
            Self::Hidden => false,
            Self::Beside => true,
            Self::Only(names) => names.contains(&name),
        }
    }
}

impl Directory {
    pub(super) fn new(host: HostEntries) -> Self {
        Self { entries: Arc::default(), host }
    }

    /// The entries while the tree is made, when nobody else has them.
    fn entries_mut(&mut self) -> &mut BTreeMap<Box<str>, Node> {
        Arc::make_mut(&mut self.entries)
    }

    /// Returns the entry of this name.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entries.get(name)
    }

    /// Returns the entries, by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.entries.iter().map(|(name, node)| (&**name, node))
    }

    /// Returns what else is seen in this directory.
    pub fn host(&self) -> HostEntries {
        self.host
    }
}

/// All files of a machine at one moment, from the root on.
#[derive(Clone, Debug)]
pub struct Tree {
    generation: u64,
    root: Node,
}

/// Whether the last step of a path is followed if it is a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastLink {
    /// It is followed, as by `open` and `stat`.
    Follow,
    /// It is what is looked for, as by `readlink` and `lstat`.
    Keep,
}

/// A file that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found<'a> {
    /// Its path, without links, `.` and `..`.
    pub path: String,
    /// The file.
    pub node: &'a Node,
}

/// Why a path leads to no file of the machine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalkError {
    /// A step of the path does not exist.
    #[error("{path} does not exist")]
    Missing {
        /// The path up to that step.
        path: String,
    },
    /// A step of the path that should be a directory is none.
    #[error("{path} is not a directory")]
    NotADirectory {
        /// The path up to that step.
        path: String,
    },
    /// The path leads through too many links.
    #[error("too many links on the way to {path}")]
    TooManyLinks {
        /// The path.
        path: String,
    },
    /// The path leads out of the machine's files, to where the host's are seen.
    #[error("{path} is a file of the host, if any")]
    Host {
        /// The path in the host. Links of the machine have been followed, those of the host have not.
        path: String,
    },
}

impl WalkError {
    /// Returns the error number of a call with the path.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Missing { .. } | Self::Host { .. } => Errno::ENOENT,
            Self::NotADirectory { .. } => Errno::ENOTDIR,
            Self::TooManyLinks { .. } => Errno::ELOOP,
        }
    }
}

impl Tree {
    pub(super) fn new(generation: u64, root: Directory) -> Self {
        Self { generation, root: Node::Directory(root) }
    }

    /// Returns the generation, which grows whenever files appear, disappear, or lead elsewhere. Trees of one
    /// [`Vfs`](super::Vfs) that have the same generation are equal.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the file at this absolute path, if it is written without links, `.` and `..`.
    pub fn get(&self, path: &str) -> Option<&Node> {
        let mut at = &self.root;
        for name in path.strip_prefix('/')?.split('/').filter(|name| !name.is_empty()) {
            let Node::Directory(directory) = at else { return None };
            at = directory.get(name)?;
        }
        Some(at)
    }

    /// Finds the file at an absolute path, and follows the links on the way.
    ///
    /// # Errors
    /// The path leads to none of the machine's files.
    pub fn find(&self, path: &str, last: LastLink) -> Result<Found<'_>, WalkError> {
        let mut steps: Vec<String> = path.split('/').rev().map(ToOwned::to_owned).collect();
        let mut way: Vec<(String, &Node)> = Vec::new();
        let mut links = 0;
        while let Some(step) = steps.pop() {
            let here = way.last().map_or(&self.root, |(_, node)| node);
            let Node::Directory(directory) = here else {
                return Err(WalkError::NotADirectory { path: path_of(&way) });
            };
            match &*step {
                "" | "." => continue,
                ".." => {
                    way.pop();
                    continue;
                }
                _ => {}
            }
            let Some(node) = directory.get(&step) else {
                let shown = directory.host.shows(&step);
                let missing = format!("{}/{step}", path_of(&way).trim_end_matches('/'));
                if !shown {
                    return Err(WalkError::Missing { path: missing });
                }
                let rest = steps.iter().rev().filter(|step| !step.is_empty());
                return Err(WalkError::Host { path: rest.fold(missing, |path, step| format!("{path}/{step}")) });
            };
            let is_last = steps.is_empty();
            match node {
                Node::Link { target } if !(is_last && last == LastLink::Keep) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(WalkError::TooManyLinks { path: path.to_owned() });
                    }
                    if target.starts_with('/') {
                        way.clear();
                    }
                    steps.extend(target.split('/').rev().map(ToOwned::to_owned));
                }
                _ => way.push((step, node)),
            }
        }
        let node = way.last().map_or(&self.root, |(_, node)| node);
        Ok(Found { path: path_of(&way), node })
    }

    /// Returns every file with its path, directories before what is in them.
    pub fn files(&self) -> Vec<(String, &Node)> {
        let mut files = Vec::new();
        collect(&mut files, String::new(), &self.root);
        files
    }

    /// Returns what has changed since an `earlier` tree, in an order in which it can be applied: what disappears before
    /// what appears, directories before what is in them. Costs nothing if the generation is the same.
    pub fn changes_since<'a>(&'a self, earlier: &'a Self) -> Vec<Change<'a>> {
        let mut changes = Vec::new();
        if self.generation != earlier.generation {
            compare(&mut changes, "", &earlier.root, &self.root);
            changes.sort_by_key(|change| matches!(change, Change::Appeared { .. }));
        }
        changes
    }
}

/// One difference between two trees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change<'a> {
    /// The file, and what was in it, is gone. A file that changed its kind or target disappears, and appears anew.
    Disappeared {
        /// Its path.
        path: String,
    },
    /// There is a new file. Those in a new directory are listed one by one.
    Appeared {
        /// Its path.
        path: String,
        /// The file.
        node: &'a Node,
    },
}

fn path_of(way: &[(String, &Node)]) -> String {
    if way.is_empty() {
        return "/".to_owned();
    }
    way.iter().fold(String::new(), |path, (step, _)| format!("{path}/{step}"))
}

fn collect<'a>(files: &mut Vec<(String, &'a Node)>, path: String, node: &'a Node) {
    if let Node::Directory(directory) = node {
        let below = path.clone();
        files.push((if path.is_empty() { "/".to_owned() } else { path }, node));
        for (name, node) in directory.entries() {
            collect(files, format!("{below}/{name}"), node);
        }
    } else {
        files.push((path, node));
    }
}

fn compare<'a>(changes: &mut Vec<Change<'a>>, path: &str, before: &'a Node, after: &'a Node) {
    let (Node::Directory(old), Node::Directory(new)) = (before, after) else {
        if before != after {
            changes.push(Change::Disappeared { path: path.to_owned() });
            changes.push(Change::Appeared { path: path.to_owned(), node: after });
        }
        return;
    };
    for (name, node) in old.entries() {
        let path = format!("{path}/{name}");
        match new.get(name) {
            Some(now) => compare(changes, &path, node, now),
            None => changes.push(Change::Disappeared { path }),
        }
    }
    for (name, node) in new.entries().filter(|(name, _)| old.get(name).is_none()) {
        let mut files = Vec::new();
        collect(&mut files, format!("{path}/{name}"), node);
        changes.extend(files.into_iter().map(|(path, node)| Change::Appeared { path, node }));
    }
}

/// A tree being made. Paths are absolute; what is put below a file that is no directory is dropped.
#[derive(Debug)]
pub(super) struct Planting(Directory);

impl Planting {
    pub(super) fn new() -> Self {
        Self(Directory::new(HostEntries::Beside))
    }

    /// Adds a file, and the directories on the way to it, which show nothing of the host.
    pub(super) fn add(&mut self, path: &str, node: Node) {
        if let Some((above, name)) = path.rsplit_once('/') {
            self.within(above, |directory| drop(directory.entries_mut().insert(name.into(), node)));
        }
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.add(path, Node::Link { target: target.into() });
    }

    /// Adds a link as sysfs writes it: up as far as needed, and down again.
    pub(super) fn relative_link(&mut self, path: &str, to: &str) {
        let (above, _) = path.rsplit_once('/').unwrap_or_default();
        let shared = above.split('/').zip(to.split('/')).take_while(|(one, other)| one == other).count();
        let up = above.split('/').skip(shared).map(|_| "..");
        let target: Vec<&str> = up.chain(to.split('/').skip(shared)).collect();
        self.link(path, &target.join("/"));
    }

    /// Adds a directory that shows nothing of the host.
    pub(super) fn directory(&mut self, path: &str) {
        self.within(path, |_| ());
    }

    /// Adds a directory that shows these entries of the host.
    pub(super) fn shared(&mut self, path: &str, host: HostEntries) {
        self.within(path, |directory| directory.host = host);
    }

    fn within(&mut self, path: &str, change: impl FnOnce(&mut Directory)) {
        let mut at = &mut self.0;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let entry = at.entries_mut().entry(name.into());
            let node = entry.or_insert_with(|| Node::Directory(Directory::new(HostEntries::Hidden)));
            let Node::Directory(below) = node else { return };
            at = below;
        }
        change(at);
    }

    pub(super) fn grown(self) -> Directory {
        self.0
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn tree(links: &[(&str, &str)]) -> Tree {
        let mut planting = Planting::new();
        planting.directory("/a/b");
        for (path, target) in links {
            planting.link(path, target);
        }
        Tree::new(0, planting.grown())
    }

    #[test]
    fn so_many_links_are_followed_and_no_more() {
        let chain: Vec<(String, String)> =
            (0..=MAX_LINKS).map(|at| (format!("/{at}"), format!("{}", at + 1))).collect();
        let mut links: Vec<(&str, &str)> = chain.iter().map(|(path, target)| (&**path, &**target)).collect();
        let last = format!("/{MAX_LINKS}");
        links.pop();
        links.push((&last, "a/b"));
        let tree = tree(&links);
        assert_eq!(tree.find("/1", LastLink::Follow).unwrap().path, "/a/b");
        assert_eq!(tree.find("/0", LastLink::Follow), Err(WalkError::TooManyLinks { path: "/0".into() }));
        assert_eq!(tree.find("/0", LastLink::Keep).unwrap().path, "/0");
    }

    #[test]
    fn a_loop_is_no_way() {
        let tree = tree(&[("/a/up", "../a/up"), ("/a/self", "self/b"), ("/x", "/a/../x")]);
        for path in ["/a/up", "/a/self", "/x", "/x/b"] {
            assert_eq!(tree.find(path, LastLink::Follow).unwrap_err().errno(), Errno::ELOOP, "{path}");
        }
    }

    #[test]
    fn links_lead_up_and_down_or_from_the_root() {
        let mut planting = Planting::new();
        planting.directory("/sys/bus/pci");
        planting.directory("/sys/devices/x");
        planting.relative_link("/sys/devices/x/subsystem", "/sys/bus/pci");
        planting.relative_link("/sys/devices/y", "/sys/devices/x");
        planting.link("/abs", "/sys/devices/y/subsystem");
        planting.add("/sys/devices/y/below", Node::Link { target: "nothing".into() });
        let tree = Tree::new(0, planting.grown());
        let target = |path: &str| match tree.get(path) {
            Some(Node::Link { target }) => target.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(target("/sys/devices/x/subsystem"), "../../bus/pci");
        assert_eq!(target("/sys/devices/y"), "x");
        assert_eq!(tree.find("/abs", LastLink::Follow).unwrap().path, "/sys/bus/pci");
        assert_eq!(tree.find("/abs/../pci/.", LastLink::Keep).unwrap().path, "/sys/bus/pci");
        assert_eq!(tree.find("/../..", LastLink::Keep).unwrap().path, "/");
        assert_eq!(tree.get("/sys/devices/y/below"), None, "a link has nothing below it");
    }
}
