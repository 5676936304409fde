//! What the handles of a scenario name.

use nix::errno::Errno;

use super::{Answer, Or};
use crate::language::Handle;
use crate::system::Fd;

/// What a handle names. Files are numbers, as in any program: a name that outlives the file stands for whatever has its
/// number by now.
#[derive(Debug)]
pub(super) enum Name<C> {
    File(Fd),
    /// An object of an iommufd.
    Object {
        iommufd: Fd,
        id: u32,
    },
    /// An object of an iommufd that has a file of its own.
    FaultQueue {
        iommufd: Fd,
        id: u32,
        file: Fd,
    },
    Child(C),
}

/// The names that have been given, in this order.
#[derive(Debug)]
pub(super) struct Names<C>(Vec<(Handle, Name<C>)>);

impl<C> Default for Names<C> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<C> Names<C> {
    /// Gives a name; one that is given again keeps its place in the order.
    pub(super) fn give(&mut self, handle: &Handle, name: Name<C>) {
        match self.0.iter_mut().find(|(known, _)| known == handle) {
            Some((_, known)) => *known = name,
            None => self.0.push((handle.clone(), name)),
        }
    }

    /// Takes a name away, and that of the id which its device has.
    pub(super) fn take(&mut self, handle: &Handle) {
        let dev = handle.dev();
        self.0.retain(|(known, _)| known != handle && *known != dev);
    }

    pub(super) fn take_child(&mut self, handle: &Handle) -> Option<C> {
        let place = self.0.iter().position(|(known, name)| known == handle && matches!(name, Name::Child(_)))?;
        match self.0.remove(place) {
            (_, Name::Child(child)) => Some(child),
            _ => None,
        }
    }

    fn get(&self, handle: &Handle) -> Option<&Name<C>> {
        self.0.iter().find(|(known, _)| known == handle).map(|(_, name)| name)
    }

    pub(super) fn file(&self, handle: &Handle) -> Or<Fd> {
        match self.get(handle) {
            Some(Name::File(fd) | Name::FaultQueue { file: fd, .. }) => Ok(*fd),
            Some(Name::Object { .. } | Name::Child(_)) | None => Err(Answer::Errno(Errno::EBADF)),
        }
    }

    /// The iommufd of an object, and its id.
    pub(super) fn object(&self, handle: &Handle) -> Option<(Fd, u32)> {
        match self.get(handle)? {
            Name::Object { iommufd, id } | Name::FaultQueue { iommufd, id, .. } => Some((*iommufd, *id)),
            Name::File(_) | Name::Child(_) => None,
        }
    }

    /// The file that calls go to: for an object that of its iommufd.
    pub(super) fn number(&self, handle: &Handle) -> Or<Fd> {
        match self.get(handle) {
            Some(Name::Object { iommufd, .. }) => Ok(*iommufd),
            _ => self.file(handle),
        }
    }

    /// The first name of an object with this id.
    pub(super) fn of_id(&self, wanted: u32) -> Option<&Handle> {
        let is = |name: &Name<C>| match name {
            Name::Object { id, .. } | Name::FaultQueue { id, .. } => *id == wanted,
            Name::File(_) | Name::Child(_) => false,
        };
        self.0.iter().find(|(_, name)| is(name)).map(|(handle, _)| handle)
    }
}
