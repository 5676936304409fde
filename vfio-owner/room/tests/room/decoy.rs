//! Nothing that a filtered task does reaches what it must not change: here a directory in sysfs's place.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use vfio_room::{Room, RoomError};

use crate::calls::{arg, call, ioctl};
use crate::rig::{machine, open};

const CONTENT: &str = "untouched";

/// A directory with an attribute, ways to it from outside, and a room whose tasks must not change it.
struct Decoy {
    room: Room,
    directory: TempDir,
    outside: TempDir,
}

impl Decoy {
    fn new() -> Self {
        let directory = TempDir::new_in("/tmp").unwrap();
        fs::write(directory.path().join("attribute"), CONTENT).unwrap();
        let outside = TempDir::new_in("/tmp").unwrap();
        symlink(directory.path().join("attribute"), outside.path().join("file")).unwrap();
        symlink(directory.path(), outside.path().join("directory")).unwrap();
        fs::write(outside.path().join("own"), "").unwrap();
        let room = Room::keeping_out(&machine(), directory.path()).unwrap();
        Self { room, directory, outside }
    }

    fn attribute(&self) -> String {
        format!("{}/attribute", self.directory.path().display())
    }

    /// Paths that lead to the attribute.
    fn ways(&self) -> Vec<String> {
        let (inside, outside) = (self.directory.path().display(), self.outside.path().display());
        let name = self.directory.path().file_name().unwrap().to_str().unwrap();
        vec![
            format!("{inside}/attribute"),
            format!("{outside}/file"),
            format!("{outside}/directory/attribute"),
            format!("{outside}/directory/../{name}/attribute"),
            format!("/proc/self/root{inside}/attribute"),
            format!("//{inside}/./attribute"),
        ]
    }

    fn check(&self) {
        assert_eq!(fs::read_to_string(self.attribute()).unwrap(), CONTENT);
        assert_eq!(fs::read_dir(self.directory.path()).unwrap().count(), 1);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(self.attribute()).unwrap().permissions());
        assert_eq!(mode & 0o222, 0o200);
    }
}

fn c(path: &str) -> CString {
    CString::new(path).unwrap()
}

#[test]
fn by_open() {
    let decoy = Decoy::new();
    for way in decoy.ways() {
        decoy
            .room
            .enter(|| {
                assert_eq!(fs::read_to_string(&way).unwrap(), CONTENT, "{way}");
                let path = c(&way);
                let at = path.as_ptr().addr();
                for flags in [
                    libc::O_WRONLY,
                    libc::O_RDWR,
                    libc::O_TRUNC,
                    libc::O_WRONLY | libc::O_CREAT,
                    libc::O_WRONLY | libc::O_APPEND,
                    libc::O_WRONLY | libc::O_TRUNC | libc::O_CREAT,
                ] {
                    let flags = arg(flags);
                    let cwd = arg(libc::AT_FDCWD);
                    assert_eq!(call(libc::SYS_openat, &[cwd, at, flags, 0o666]), Err(libc::EACCES), "{way}");
                    let how = [flags as u64, if flags & arg(libc::O_CREAT) == 0 { 0 } else { 0o666 }, 0];
                    let how = [cwd, at, how.as_ptr().addr(), 24];
                    assert_eq!(call(libc::SYS_openat2, &how), Err(libc::EACCES), "{way}");
                    #[cfg(target_arch = "x86_64")]
                    assert_eq!(call(libc::SYS_open, &[at, flags, 0o666]), Err(libc::EACCES), "{way}");
                }
                #[cfg(target_arch = "x86_64")]
                assert_eq!(call(libc::SYS_creat, &[at, 0o666]), Err(libc::EACCES), "{way}");
                let new = c(&format!("{}/new", Path::new(&way).parent().unwrap().display()));
                if !way.ends_with("/file") {
                    let flags = arg(libc::O_WRONLY | libc::O_CREAT);
                    let new = [arg(libc::AT_FDCWD), new.as_ptr().addr(), flags, 0o666];
                    assert_eq!(call(libc::SYS_openat, &new), Err(libc::EACCES), "{way}");
                }
            })
            .unwrap();
        decoy.check();
    }
}

#[test]
fn by_calls_with_paths() {
    let decoy = Decoy::new();
    let own = format!("{}/own", decoy.outside.path().display());
    for way in decoy.ways().into_iter().filter(|way| !way.ends_with("/file")) {
        let refused = |number, args: &[usize]| {
            assert_eq!(decoy.room.enter(|| call(number, args)).unwrap(), Err(libc::EPERM), "{number} {way}");
            decoy.check();
        };
        let (path, own) = (c(&way), c(&own));
        let new = c(&format!("{}/new", Path::new(&way).parent().unwrap().display()));
        let [path, own, new] = [&path, &own, &new].map(|path| path.as_ptr().addr());
        let cwd = arg(libc::AT_FDCWD);
        refused(libc::SYS_truncate, &[path, 0]);
        refused(libc::SYS_unlinkat, &[cwd, path, 0]);
        refused(libc::SYS_renameat, &[cwd, path, cwd, own]);
        refused(libc::SYS_renameat, &[cwd, own, cwd, path]);
        refused(libc::SYS_renameat2, &[cwd, own, cwd, path, 0]);
        refused(libc::SYS_linkat, &[cwd, own, cwd, new, 0]);
        refused(libc::SYS_symlinkat, &[own, cwd, new]);
        refused(libc::SYS_mkdirat, &[cwd, new, 0o777]);
        refused(libc::SYS_mknodat, &[cwd, new, libc::S_IFIFO as usize | 0o666, 0]);
        refused(libc::SYS_fchmodat, &[cwd, path, 0o777]);
        refused(libc::SYS_fchownat, &[cwd, path, 1, 1, 0]);
        refused(libc::SYS_utimensat, &[cwd, path, 0, 0]);
        let (name, value) = (c("user.a"), c("b"));
        let [name, value] = [&name, &value].map(|text| text.as_ptr().addr());
        refused(libc::SYS_setxattr, &[path, name, value, 1, 0]);
        refused(libc::SYS_lsetxattr, &[path, name, value, 1, 0]);
        refused(libc::SYS_removexattr, &[path, name]);
        #[cfg(target_arch = "x86_64")]
        {
            refused(libc::SYS_unlink, &[path]);
            refused(libc::SYS_rename, &[own, path]);
            refused(libc::SYS_link, &[own, new]);
            refused(libc::SYS_symlink, &[own, new]);
            refused(libc::SYS_mkdir, &[new, 0o777]);
            refused(libc::SYS_rmdir, &[path]);
            refused(libc::SYS_mknod, &[new, libc::S_IFIFO as usize | 0o666, 0]);
            refused(libc::SYS_chmod, &[path, 0o777]);
            refused(libc::SYS_chown, &[path, 1, 1]);
            refused(libc::SYS_lchown, &[path, 1, 1]);
            refused(libc::SYS_utime, &[path, 0]);
            refused(libc::SYS_utimes, &[path, 0]);
            refused(libc::SYS_futimesat, &[cwd, path, 0]);
        }
    }
}

/// A descriptor that was open before, and one that is open for reading.
#[test]
fn by_descriptors() {
    let decoy = Decoy::new();
    let writable = OpenOptions::new().read(true).write(true).open(decoy.attribute()).unwrap();
    let readable = File::open(decoy.attribute()).unwrap();
    let fd = arg(writable.as_raw_fd());
    let refused = |number, args: &[usize], errno| {
        assert_eq!(decoy.room.enter(|| call(number, args)).unwrap(), Err(errno), "{number}");
        decoy.check();
    };
    let bytes = b"0000:00:1f.7";
    let at = bytes.as_ptr().addr();
    let vector = [at, bytes.len()];
    let vector = vector.as_ptr().addr();
    refused(libc::SYS_write, &[fd, at, bytes.len()], libc::EPERM);
    refused(libc::SYS_pwrite64, &[fd, at, bytes.len(), 0], libc::EPERM);
    refused(libc::SYS_writev, &[fd, vector, 1], libc::EPERM);
    refused(libc::SYS_pwritev, &[fd, vector, 1, 0, 0], libc::EPERM);
    refused(libc::SYS_pwritev2, &[fd, vector, 1, 0, 0, 0], libc::EPERM);
    let source = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut &source, bytes).unwrap();
    let from = arg(source.as_raw_fd());
    let zero = 0_u64;
    let start = (&raw const zero).addr();
    refused(libc::SYS_sendfile, &[fd, from, start, 12], libc::EPERM);
    refused(libc::SYS_copy_file_range, &[from, start, fd, 0, 12, 0], libc::EPERM);
    let (pipe, into) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&into, bytes).unwrap();
    refused(libc::SYS_splice, &[arg(pipe.as_raw_fd()), 0, fd, 0, 12, 0], libc::EPERM);
    refused(libc::SYS_ftruncate, &[fd, 0], libc::EPERM);
    let fd = arg(readable.as_raw_fd());
    refused(libc::SYS_fchmod, &[fd, 0o777], libc::EPERM);
    refused(libc::SYS_fchown, &[fd, 1, 1], libc::EPERM);
    let name = c("user.a");
    refused(libc::SYS_fsetxattr, &[fd, name.as_ptr().addr(), at, 1, 0], libc::EPERM);
    let (link, empty) = (c(&format!("/proc/self/fd/{fd}")), c(""));
    let cwd = arg(libc::AT_FDCWD);
    refused(libc::SYS_openat, &[cwd, link.as_ptr().addr(), arg(libc::O_WRONLY)], libc::EACCES);
    refused(libc::SYS_fchownat, &[fd, empty.as_ptr().addr(), 1, 1, arg(libc::AT_EMPTY_PATH)], libc::EPERM);
    // From a directory that is open.
    let directory = File::open(decoy.directory.path()).unwrap();
    let name = c("attribute");
    let from = [arg(directory.as_raw_fd()), name.as_ptr().addr(), arg(libc::O_WRONLY)];
    refused(libc::SYS_openat, &from, libc::EACCES);
    // As the root of the way.
    for name in [c"/attribute", c"../attribute"] {
        let how = [libc::O_WRONLY as u64, 0, libc::RESOLVE_IN_ROOT];
        let from = [arg(directory.as_raw_fd()), name.as_ptr().addr(), how.as_ptr().addr(), 24];
        refused(libc::SYS_openat2, &from, libc::EACCES);
    }
}

/// A device file of another name would be the same device.
#[test]
fn by_device_files_of_other_names() {
    let decoy = Decoy::new();
    let path = c(&format!("{}/vfio", decoy.outside.path().display()));
    let mode = libc::S_IFCHR as usize | 0o666;
    let number = usize::try_from(rustix::fs::makedev(10, 196)).unwrap();
    let args = [arg(libc::AT_FDCWD), path.as_ptr().addr(), mode, number];
    assert_eq!(decoy.room.enter(|| call(libc::SYS_mknodat, &args)).unwrap(), Err(libc::EPERM));
    // Who is not root cannot make one outside either.
    if call(libc::SYS_mknodat, &args).is_ok() {
        let opened = [arg(libc::AT_FDCWD), path.as_ptr().addr(), arg(libc::O_RDWR)];
        assert_eq!(decoy.room.enter(|| call(libc::SYS_openat, &opened)).unwrap(), Err(libc::EACCES));
    }
}

/// A small write that is not meant for an attribute goes where it should.
#[test]
fn own_files_are_written() {
    let decoy = Decoy::new();
    let own = decoy.outside.path().join("own");
    decoy
        .room
        .enter(|| {
            fs::write(&own, "small").unwrap();
            fs::write(&own, [b'x'; 100]).unwrap();
            fs::copy(&own, decoy.outside.path().join("copy")).unwrap();
            fs::rename(&own, decoy.outside.path().join("new")).unwrap();
            fs::create_dir(decoy.outside.path().join("made")).unwrap();
            fs::remove_dir(decoy.outside.path().join("made")).unwrap();
            assert_eq!(fs::read(decoy.outside.path().join("copy")).unwrap(), [b'x'; 100]);
        })
        .unwrap();
    decoy.check();
}

/// A directory is guarded, however the room's user names it.
#[test]
fn by_another_name_of_the_directory() {
    let decoy = Decoy::new();
    let room = Room::keeping_out(&machine(), decoy.outside.path().join("directory")).unwrap();
    let written = room.enter(|| fs::write(decoy.attribute(), "")).unwrap();
    assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EACCES));
    decoy.check();
    let missing = Room::keeping_out(&machine(), decoy.outside.path().join("missing"));
    assert!(matches!(missing, Err(RoomError::Setup(_))));
}

/// The ioctls of VFIO do not reach a file that is not the room's, whatever it is.
#[test]
fn by_ioctl() {
    let decoy = Decoy::new();
    let file = File::open("/dev/null").unwrap();
    decoy
        .room
        .enter(|| {
            assert_eq!(ioctl(&file, 0x3b64, 0), Err(libc::ENOTTY));
            assert_eq!(ioctl(&file, 0x3b68, 0), Err(libc::ENOTTY));
            // What is not there in the machine is not there.
            assert_eq!(open("/dev/vfio/999").unwrap_err().raw_os_error(), Some(libc::ENOENT));
            assert!(fs::write("/dev/vfio/999", "").is_err());
            assert!(open("/dev/mem").is_err());
            assert_eq!(fs::read_dir("/proc/bus/pci").unwrap().count(), 0);
        })
        .unwrap();
}
