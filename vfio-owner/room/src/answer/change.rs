//! Calls that change a file by its path or descriptor: nothing of the room's, nor of the host's that is out of bounds.

use rustix::fs::FileType;
use rustix::io::Errno;

use super::{Answer, Trapped};
use crate::calls::Call;
use crate::supervisor::Supervisor;
use crate::walk::{Last, Place};

/// Where a call names a file.
#[derive(Clone, Copy)]
enum Name {
    /// The argument is a path from the working directory.
    Path(usize, Last),
    /// The arguments are a directory and a path. Where a path may be missing, the directory is the file.
    At(usize, usize, Last),
    /// The argument is a descriptor.
    Descriptor(usize),
}

/// The files that a call changes.
fn names(trapped: &Trapped<'_>) -> Vec<Name> {
    use Last::{Follow, Keep};
    let keeps = |index: usize| {
        let flag = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
        if trapped.bits(index) & flag == 0 { Follow } else { Keep }
    };
    match trapped.call {
        Call::Truncate
        | Call::Chmod
        | Call::Chown
        | Call::Utime
        | Call::Utimes
        | Call::Setxattr
        | Call::Removexattr => {
            vec![Name::Path(0, Follow)]
        }
        Call::Lchown
        | Call::Lsetxattr
        | Call::Lremovexattr
        | Call::Mkdir
        | Call::Rmdir
        | Call::Unlink
        | Call::Mknod => vec![Name::Path(0, Keep)],
        Call::Symlink => vec![Name::Path(1, Keep)],
        Call::Rename | Call::Link => vec![Name::Path(0, Keep), Name::Path(1, Keep)],
        Call::Mkdirat | Call::Unlinkat | Call::Mknodat => vec![Name::At(0, 1, Keep)],
        Call::Symlinkat => vec![Name::At(1, 2, Keep)],
        Call::Renameat | Call::Renameat2 | Call::Linkat => vec![Name::At(0, 1, Keep), Name::At(2, 3, Keep)],
        Call::Fchmodat | Call::Futimesat => vec![Name::At(0, 1, Follow)],
        Call::Fchmodat2 | Call::Utimensat => vec![Name::At(0, 1, keeps(3))],
        Call::Fchownat => vec![Name::At(0, 1, keeps(4))],
        Call::Setxattrat | Call::Removexattrat => vec![Name::At(0, 1, keeps(2))],
        Call::Ftruncate | Call::Fchmod | Call::Fchown | Call::Fsetxattr | Call::Fremovexattr => {
            vec![Name::Descriptor(0)]
        }
        // Whatever else is trapped has an answer of its own.
        _ => Vec::new(),
    }
}

/// Whether it makes a device file, which would be another way to the host's devices.
fn makes_device(trapped: &Trapped<'_>) -> bool {
    let mode = match trapped.call {
        Call::Mknod => trapped.bits(1),
        Call::Mknodat => trapped.bits(2),
        _ => return false,
    };
    matches!(FileType::from_raw_mode(mode), FileType::CharacterDevice | FileType::BlockDevice)
}

impl Supervisor {
    pub(super) fn change(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        if makes_device(trapped) {
            return Err(Errno::PERM);
        }
        let names = names(trapped);
        if names.is_empty() {
            return Err(Errno::NOSYS);
        }
        for name in names {
            match name {
                Name::Path(path, last) => self.may_change(trapped, libc::AT_FDCWD, path, last)?,
                Name::At(dir, path, last) => self.may_change(trapped, trapped.fd(dir), path, last)?,
                Name::Descriptor(fd) => self.may_change_file(trapped, trapped.fd(fd))?,
            }
        }
        Ok(Answer::Continue)
    }

    fn may_change(&self, trapped: &Trapped<'_>, dir: i32, path: usize, last: Last) -> Result<(), Errno> {
        let text = if trapped.arg(path) == 0 { "".into() } else { trapped.string(path)? };
        if text.is_empty() {
            return self.may_change_file(trapped, dir);
        }
        match self.walk(trapped.task, dir, &text, last)? {
            Place::Machine(..) | Place::Mark | Place::Missing => Err(Errno::PERM),
            Place::Host(place) if !place.native || self.bounds.exclude(&place.path) => Err(Errno::PERM),
            Place::Host(place) if self.bounds.exclude_file(&place.path) => Err(Errno::PERM),
            Place::Host(_) => Ok(()),
        }
    }

    fn may_change_file(&self, trapped: &Trapped<'_>, fd: i32) -> Result<(), Errno> {
        let file = trapped.task.directory(fd);
        let ours = self.files.at(&file).is_some() || self.in_tree(trapped.task, fd).is_some();
        if ours || self.bounds.exclude_file(&file) {
            return Err(Errno::PERM);
        }
        Ok(())
    }
}
