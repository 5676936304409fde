use std::collections::BTreeSet;

use super::*;

/// Compares rows with the C library's numbers for the architecture of the test.
macro_rules! compare {
    ($($call:ident $number:ident),+ $(,)?) => {
        [$((Call::$call, libc::$number)),+]
    };
}

#[test]
fn numbers_are_those_of_the_c_library() {
    let common = compare![
        Ioctl SYS_ioctl, Write SYS_write, Read SYS_read, Pread64 SYS_pread64, Pwrite64 SYS_pwrite64, Writev SYS_writev,
        Mmap SYS_mmap, Openat SYS_openat, Openat2 SYS_openat2, Fstat SYS_fstat, Newfstatat SYS_newfstatat,
        Statx SYS_statx, Faccessat SYS_faccessat, Faccessat2 SYS_faccessat2, Readlinkat SYS_readlinkat,
        Chdir SYS_chdir, Fchdir SYS_fchdir, Getcwd SYS_getcwd, Statfs SYS_statfs, Fstatfs SYS_fstatfs,
        Getxattr SYS_getxattr, Lgetxattr SYS_lgetxattr, Listxattr SYS_listxattr, Llistxattr SYS_llistxattr,
        Pwritev SYS_pwritev, Pwritev2 SYS_pwritev2, Sendfile SYS_sendfile, Splice SYS_splice,
        CopyFileRange SYS_copy_file_range, Truncate SYS_truncate, Ftruncate SYS_ftruncate,
        Renameat SYS_renameat, Renameat2 SYS_renameat2, Mkdirat SYS_mkdirat, Linkat SYS_linkat,
        Unlinkat SYS_unlinkat, Symlinkat SYS_symlinkat, Mknodat SYS_mknodat, Fchmod SYS_fchmod,
        Fchmodat SYS_fchmodat, Fchown SYS_fchown, Fchownat SYS_fchownat, Utimensat SYS_utimensat,
        Setxattr SYS_setxattr, Lsetxattr SYS_lsetxattr, Fsetxattr SYS_fsetxattr,
        Removexattr SYS_removexattr, Lremovexattr SYS_lremovexattr, Fremovexattr SYS_fremovexattr,
        IoUringSetup SYS_io_uring_setup, IoUringEnter SYS_io_uring_enter, IoUringRegister SYS_io_uring_register,
        OpenByHandleAt SYS_open_by_handle_at, Mount SYS_mount, Umount2 SYS_umount2, PivotRoot SYS_pivot_root,
        Chroot SYS_chroot, OpenTree SYS_open_tree, MoveMount SYS_move_mount, Fsopen SYS_fsopen,
        Fsconfig SYS_fsconfig, Fsmount SYS_fsmount, Fspick SYS_fspick, MountSetattr SYS_mount_setattr,
        InitModule SYS_init_module, FinitModule SYS_finit_module, DeleteModule SYS_delete_module,
        Prlimit64 SYS_prlimit64, Getrlimit SYS_getrlimit, Setrlimit SYS_setrlimit, Acct SYS_acct, Swapon SYS_swapon,
        Eventfd2 SYS_eventfd2, Userfaultfd SYS_userfaultfd,
    ];
    #[cfg(target_arch = "x86_64")]
    let own = compare![
        Open SYS_open, Creat SYS_creat, Stat SYS_stat, Lstat SYS_lstat, Access SYS_access, Readlink SYS_readlink,
        Rename SYS_rename, Mkdir SYS_mkdir, Rmdir SYS_rmdir, Link SYS_link, Unlink SYS_unlink,
        Symlink SYS_symlink, Mknod SYS_mknod, Chmod SYS_chmod, Chown SYS_chown, Lchown SYS_lchown,
        Utime SYS_utime, Utimes SYS_utimes, Futimesat SYS_futimesat, Iopl SYS_iopl, Ioperm SYS_ioperm,
        Fchmodat2 SYS_fchmodat2,
    ];
    #[cfg(target_arch = "aarch64")]
    let own: [(Call, libc::c_long); 0] = [];
    for (call, number) in common.into_iter().chain(own) {
        let number = u32::try_from(number).unwrap();
        assert_eq!(Call::of(Architecture::NATIVE, number), Some(call), "{number}");
    }
}

#[test]
fn each_number_and_each_call_is_there_once() {
    for architecture in [Architecture::X86_64, Architecture::Aarch64] {
        let numbers: Vec<u32> = ROWS.iter().filter_map(|row| row.number(architecture)).collect();
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
        assert!(numbers.iter().all(|number| *number < FIRST_UNKNOWN));
    }
}
