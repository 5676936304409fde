//! Filter: which system calls reach the supervisor, as a BPF program.
//!
//! A call of which the filter looks at the number only is allowed without running the program: the kernel remembers it
//! (since 5.11).

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_DIV, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MISC, BPF_MUL,
    BPF_RET, BPF_TAX, BPF_W, BPF_X, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_USER_NOTIF, sock_filter,
};

use crate::calls::{FIRST_UNKNOWN, ROWS, Row};

/// Architecture of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "tests look at the program of the other one as well"))]
pub(crate) enum Architecture {
    X86_64,
    Aarch64,
}

impl Architecture {
    /// The one that this crate is compiled for.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const NATIVE: Self = Self::X86_64;
    /// The one that this crate is compiled for.
    #[cfg(target_arch = "aarch64")]
    pub(crate) const NATIVE: Self = Self::Aarch64;

    /// `AUDIT_ARCH_…`.
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }
}

/// What happens to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The supervisor answers.
    Trap,
    /// The call fails with this errno.
    Refuse(i32),
    /// The call fails with this errno, unless this argument has this flag.
    RefuseUnless { argument: u32, flag: u32, errno: i32 },
    /// The supervisor answers ioctls of VFIO and iommufd, which have a type of their own.
    VfioIoctl,
    /// The supervisor answers if this argument is at most `most`.
    Small { argument: u32, most: u32 },
    /// The supervisor answers if the count, the third argument, is at most `most`, or the position, the fourth, lies
    /// past the first region of a device.
    Positioned { most: u32 },
    /// The supervisor answers if the mapping is shared and of a file.
    SharedFile,
    /// The supervisor answers if the count, the third argument, is a multiple of this, or between half of it and twice: that of
    /// whoever is mistaken.
    Records { size: u32 },
    /// The supervisor answers if this argument has this value.
    Equal { argument: u32, value: u32 },
    /// The supervisor answers if [it keeps eventfds](Eventfds::Kept).
    NewEventfd,
}

/// How the supervisor gets at the eventfds of tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Eventfds {
    /// From the task, when it is asked for.
    Fetched,
    /// As a copy, from the time that the task makes one: descriptors of other processes cannot be fetched here.
    Kept,
}

/// The type of the ioctls of VFIO and iommufd.
pub(crate) const IOCTL_TYPE: u32 = 0x3b;
/// Region `n` of a device file begins at `n << REGION_SHIFT`.
pub(crate) const REGION_SHIFT: u32 = 40;

// Of `seccomp_data`. Both architectures are little-endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn low(argument: u32) -> u32 {
    16 + 8 * argument
}
const fn high(argument: u32) -> u32 {
    low(argument) + 4
}

const ALLOW: sock_filter = statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
const TRAP: sock_filter = statement(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
const fn refuse(errno: i32) -> sock_filter {
    statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | errno.cast_unsigned())
}

const fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

const fn statement(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

/// Skips `yes` instructions if the test holds, `no` otherwise.
#[expect(clippy::cast_possible_truncation, reason = "codes have 16 bits")]
const fn jump(code: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code: code as u16, jt: yes, jf: no, k }
}

const fn jump_if(test: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    jump(BPF_JMP | test | BPF_K, k, yes, no)
}

/// Builds the program for an architecture.
pub(crate) fn program(architecture: Architecture, eventfds: Eventfds) -> Vec<sock_filter> {
    let mut program = vec![
        load(ARCHITECTURE),
        jump_if(BPF_JEQ, architecture.audit(), 1, 0),
        // 32-bit calls.
        refuse(libc::ENOSYS),
        load(NUMBER),
        // Also those of x32.
        jump_if(BPF_JGE, FIRST_UNKNOWN, 0, 1),
        refuse(libc::ENOSYS),
    ];
    for row in ROWS.iter().filter(|row| row.verdict != Verdict::NewEventfd || eventfds == Eventfds::Kept) {
        if let Some(number) = row.number(architecture) {
            let block = block(row);
            // A block has some ten instructions.
            program.push(jump_if(BPF_JEQ, number, 0, u8::try_from(block.len()).unwrap_or(u8::MAX)));
            program.extend(block);
        }
    }
    program.push(ALLOW);
    program
}

fn block(row: &Row) -> Vec<sock_filter> {
    match row.verdict {
        Verdict::Trap | Verdict::NewEventfd => vec![TRAP],
        Verdict::Refuse(errno) => vec![refuse(errno)],
        Verdict::RefuseUnless { argument, flag, errno } => {
            vec![load(low(argument)), jump_if(BPF_JSET, flag, 1, 0), refuse(errno), ALLOW]
        }
        Verdict::VfioIoctl => vec![
            load(low(1)),
            statement(BPF_ALU | BPF_AND | BPF_K, 0xff00),
            jump_if(BPF_JEQ, IOCTL_TYPE << 8, 0, 1),
            TRAP,
            ALLOW,
        ],
        Verdict::Small { argument, most } => small(argument, most),
        Verdict::Positioned { most } => {
            let mut block = vec![load(high(3)), jump_if(BPF_JGE, 1 << (REGION_SHIFT - 32), 0, 1), TRAP];
            block.extend(small(2, most));
            block
        }
        Verdict::Records { size } => vec![
            load(high(2)),
            jump_if(BPF_JEQ, 0, 0, 9),
            load(low(2)),
            jump_if(BPF_JEQ, 0, 7, 0),
            jump_if(BPF_JGT, size / 2, 0, 1),
            jump_if(BPF_JGE, 2 * size, 0, 6),
            statement(BPF_ALU | BPF_DIV | BPF_K, size),
            statement(BPF_ALU | BPF_MUL | BPF_K, size),
            statement(BPF_MISC | BPF_TAX, 0),
            load(low(2)),
            jump(BPF_JMP | BPF_JEQ | BPF_X, 0, 1, 0),
            ALLOW,
            TRAP,
        ],
        Verdict::Equal { argument, value } => {
            vec![load(low(argument)), jump_if(BPF_JEQ, value, 0, 1), TRAP, ALLOW]
        }
        Verdict::SharedFile => vec![
            load(low(3)),
            jump_if(BPF_JSET, libc::MAP_SHARED.cast_unsigned(), 0, 3),
            load(low(4)),
            jump_if(BPF_JGE, 1 << 31, 1, 0),
            TRAP,
            ALLOW,
        ],
    }
}

fn small(argument: u32, most: u32) -> Vec<sock_filter> {
    vec![
        load(high(argument)),
        jump_if(BPF_JEQ, 0, 0, 3),
        load(low(argument)),
        jump_if(BPF_JGT, most, 1, 0),
        TRAP,
        ALLOW,
    ]
}

#[cfg(test)]
mod tests;
