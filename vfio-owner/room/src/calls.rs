//! System calls that a room answers, and those that it refuses.

use crate::filter::{Architecture, Verdict};

/// Declares [`Call`] and [`ROWS`] from one table.
macro_rules! calls {
    ($($(#[$doc:meta])* $call:ident $x86_64:tt $aarch64:tt $verdict:expr;)+) => {
        /// A system call that the filter does not simply allow.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub(crate) enum Call {
            $($(#[$doc])* $call,)+
        }

        /// Every such call, those that programs make most often first.
        pub(crate) const ROWS: &[Row] = &[
            $(Row { call: Call::$call, x86_64: number!($x86_64), aarch64: number!($aarch64), verdict: $verdict },)+
        ];
    };
}

macro_rules! number {
    (-) => {
        None
    };
    ($number:literal) => {
        Some($number)
    };
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) call: Call,
    x86_64: Option<u32>,
    aarch64: Option<u32>,
    pub(crate) verdict: Verdict,
}

impl Row {
    /// Returns the number of the call, if the architecture has it.
    pub(crate) const fn number(&self, architecture: Architecture) -> Option<u32> {
        match architecture {
            Architecture::X86_64 => self.x86_64,
            Architecture::Aarch64 => self.aarch64,
        }
    }
}

/// The first number that the table does not know: what newer kernels add is refused.
pub(crate) const FIRST_UNKNOWN: u32 = 467;

/// Writes of up to so many bytes may be meant for an attribute of sysfs.
const ATTRIBUTE: u32 = 64;
/// Reads of up to so many bytes may be meant for a register.
const REGISTER: u32 = 8;

/// `RLIMIT_MEMLOCK`.
const LOCKED_MEMORY: u32 = 8;

/// `UFFD_USER_MODE_ONLY`: whoever reads the memory in the kernel gets EFAULT at once.
const USER_MODE_ONLY: u32 = 1;

const ENOSYS: Verdict = Verdict::Refuse(libc::ENOSYS);
const EPERM: Verdict = Verdict::Refuse(libc::EPERM);

calls! {
    // Name           x86-64 aarch64
    Ioctl                 16      29 Verdict::VfioIoctl;
    // Page faults, as a fault queue is read.
    Read                   0      63 Verdict::Records { size: 40 };
    Write                  1      64 Verdict::Small { argument: 2, most: ATTRIBUTE };
    Pread64               17      67 Verdict::Positioned { most: REGISTER };
    Pwrite64              18      68 Verdict::Positioned { most: ATTRIBUTE };
    Preadv               295      69 Verdict::Positioned { most: 0 };
    Preadv2              327     286 Verdict::Positioned { most: 0 };
    // C libraries flush a stream as its buffer and one piece more.
    Writev                20      66 Verdict::Small { argument: 2, most: 2 };
    Mmap                   9     222 Verdict::SharedFile;

    Open                   2       - Verdict::Trap;
    Openat               257      56 Verdict::Trap;
    Openat2              437     437 Verdict::Trap;
    Creat                 85       - Verdict::Trap;
    Stat                   4       - Verdict::Trap;
    Lstat                  6       - Verdict::Trap;
    Fstat                  5      80 Verdict::Trap;
    Newfstatat           262      79 Verdict::Trap;
    Statx                332     291 Verdict::Trap;
    Access                21       - Verdict::Trap;
    Faccessat            269      48 Verdict::Trap;
    Faccessat2           439     439 Verdict::Trap;
    Readlink              89       - Verdict::Trap;
    Readlinkat           267      78 Verdict::Trap;
    Chdir                 80      49 Verdict::Trap;
    Fchdir                81      50 Verdict::Trap;
    Getcwd                79      17 Verdict::Trap;
    Statfs               137      43 Verdict::Trap;
    Fstatfs              138      44 Verdict::Trap;
    Getxattr             191       8 Verdict::Trap;
    Lgetxattr            192       9 Verdict::Trap;
    Listxattr            194      11 Verdict::Trap;
    Llistxattr           195      12 Verdict::Trap;

    Pwritev              296      70 Verdict::Trap;
    Pwritev2             328     287 Verdict::Trap;
    Sendfile              40      71 Verdict::Trap;
    Splice               275      76 Verdict::Trap;
    CopyFileRange        326     285 Verdict::Trap;

    Prlimit64            302     261 Verdict::Equal { argument: 1, value: LOCKED_MEMORY };
    Getrlimit             97     163 Verdict::Equal { argument: 0, value: LOCKED_MEMORY };
    Setrlimit            160     164 Verdict::Equal { argument: 0, value: LOCKED_MEMORY };

    Eventfd              284       - Verdict::NewEventfd;
    Eventfd2             290      19 Verdict::NewEventfd;

    Truncate              76      45 Verdict::Trap;
    Ftruncate             77      46 Verdict::Trap;
    Rename                82       - Verdict::Trap;
    Renameat             264      38 Verdict::Trap;
    Renameat2            316     276 Verdict::Trap;
    Mkdir                 83       - Verdict::Trap;
    Mkdirat              258      34 Verdict::Trap;
    Rmdir                 84       - Verdict::Trap;
    Link                  86       - Verdict::Trap;
    Linkat               265      37 Verdict::Trap;
    Unlink                87       - Verdict::Trap;
    Unlinkat             263      35 Verdict::Trap;
    Symlink               88       - Verdict::Trap;
    Symlinkat            266      36 Verdict::Trap;
    Mknod                133       - Verdict::Trap;
    Mknodat              259      33 Verdict::Trap;
    Chmod                 90       - Verdict::Trap;
    Fchmod                91      52 Verdict::Trap;
    Fchmodat             268      53 Verdict::Trap;
    Fchmodat2            452     452 Verdict::Trap;
    Chown                 92       - Verdict::Trap;
    Fchown                93      55 Verdict::Trap;
    Lchown                94       - Verdict::Trap;
    Fchownat             260      54 Verdict::Trap;
    Utime                132       - Verdict::Trap;
    Utimes               235       - Verdict::Trap;
    Futimesat            261       - Verdict::Trap;
    Utimensat            280      88 Verdict::Trap;
    Setxattr             188       5 Verdict::Trap;
    Lsetxattr            189       6 Verdict::Trap;
    Fsetxattr            190       7 Verdict::Trap;
    Setxattrat           463     463 Verdict::Trap;
    Removexattr          197      14 Verdict::Trap;
    Lremovexattr         198      15 Verdict::Trap;
    Fremovexattr         199      16 Verdict::Trap;
    Removexattrat        466     466 Verdict::Trap;

    // Programs do without rings, which pass by the filter.
    IoUringSetup         425     425 ENOSYS;
    IoUringEnter         426     426 ENOSYS;
    IoUringRegister      427     427 ENOSYS;
    OpenByHandleAt       304     265 EPERM;
    // What would bring the host's files to another place.
    Mount                165      40 EPERM;
    Umount2              166      39 EPERM;
    PivotRoot            155      41 EPERM;
    Chroot               161      51 EPERM;
    OpenTree             428     428 EPERM;
    MoveMount            429     429 EPERM;
    Fsopen               430     430 EPERM;
    Fsconfig             431     431 EPERM;
    Fsmount              432     432 EPERM;
    Fspick               433     433 EPERM;
    MountSetattr         442     442 EPERM;
    // What would reach the host's hardware or kernel.
    Iopl                 172       - EPERM;
    Ioperm               173       - EPERM;
    InitModule           175     105 EPERM;
    FinitModule          313     273 EPERM;
    DeleteModule         176     106 EPERM;
    Acct                 163      89 EPERM;
    Swapon               167     224 EPERM;
    // What would have the supervisor wait for a task, when it reads the memory of another.
    Userfaultfd          323     282 Verdict::RefuseUnless { argument: 0, flag: USER_MODE_ONLY, errno: libc::EPERM };
}

impl Call {
    /// Returns the call of this number.
    pub(crate) fn of(architecture: Architecture, number: u32) -> Option<Self> {
        ROWS.iter().find(|row| row.number(architecture) == Some(number)).map(|row| row.call)
    }

    /// Returns its name, as refusals have it.
    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

#[cfg(test)]
mod tests;
