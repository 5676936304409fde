use super::*;
use crate::calls::Call;

const BOTH: [Architecture; 2] = [Architecture::X86_64, Architecture::Aarch64];

/// `seccomp_data` as bytes.
fn call(audit: u32, number: u32, arguments: [u64; 6]) -> Vec<u8> {
    let mut data = Vec::from(number.to_le_bytes());
    data.extend(audit.to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    data
}

/// Runs a program as the kernel does.
fn run(program: &[sock_filter], data: &[u8]) -> u32 {
    const LOAD: u32 = BPF_LD | BPF_W | BPF_ABS;
    const MASK: u32 = BPF_ALU | BPF_AND | BPF_K;
    const RETURN: u32 = BPF_RET | BPF_K;
    const DIVIDE: u32 = BPF_ALU | BPF_DIV | BPF_K;
    const MULTIPLY: u32 = BPF_ALU | BPF_MUL | BPF_K;
    const SAVE: u32 = BPF_MISC | BPF_TAX;
    let mut accumulator = 0_u32;
    let mut index = 0_u32;
    let mut at = 0;
    loop {
        let instruction = program[at];
        let code = u32::from(instruction.code);
        let k = instruction.k;
        at += 1;
        let holds = match code {
            LOAD => {
                accumulator = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap());
                continue;
            }
            MASK => {
                accumulator &= k;
                continue;
            }
            DIVIDE => {
                accumulator /= k;
                continue;
            }
            MULTIPLY => {
                accumulator *= k;
                continue;
            }
            SAVE => {
                index = accumulator;
                continue;
            }
            RETURN => return k,
            _ if code == BPF_JMP | BPF_JEQ | BPF_X => accumulator == index,
            _ if code == BPF_JMP | BPF_JEQ | BPF_K => accumulator == k,
            _ if code == BPF_JMP | BPF_JGE | BPF_K => accumulator >= k,
            _ if code == BPF_JMP | BPF_JGT | BPF_K => accumulator > k,
            _ if code == BPF_JMP | BPF_JSET | BPF_K => accumulator & k != 0,
            _ => panic!("code {code:#x}"),
        };
        at += usize::from(if holds { instruction.jt } else { instruction.jf });
    }
}

fn number(architecture: Architecture, call: Call) -> u32 {
    ROWS.iter().find(|row| row.call == call).unwrap().number(architecture).unwrap()
}

/// What the filter says to a native call.
fn verdict(architecture: Architecture, number: u32, arguments: [u64; 6]) -> u32 {
    run(&program(architecture, Eventfds::Kept), &call(architecture.audit(), number, arguments))
}

/// The call reaches the supervisor exactly with the first arguments.
fn check(call: Call, trapped: &[[u64; 6]], allowed: &[[u64; 6]]) {
    for architecture in BOTH {
        let number = number(architecture, call);
        for arguments in trapped {
            assert_eq!(verdict(architecture, number, *arguments), SECCOMP_RET_USER_NOTIF, "{call:?} {arguments:x?}");
        }
        for arguments in allowed {
            assert_eq!(verdict(architecture, number, *arguments), SECCOMP_RET_ALLOW, "{call:?} {arguments:x?}");
        }
    }
}

#[test]
fn every_call_gets_the_verdict_of_its_row() {
    for architecture in BOTH {
        let rules = program(architecture, Eventfds::Kept);
        for number in 0..FIRST_UNKNOWN {
            let row = ROWS.iter().find(|row| row.number(architecture) == Some(number));
            // A limit of memory, a small write, a read of one record, a shared mapping of a file, an ioctl of VFIO.
            let count = if row.is_some_and(|row| row.call == Call::Writev) { 1 } else { 40 };
            let mut arguments = [0, 0x3b64, count, 1 << 40 | 1, 0, 0];
            if let Some(Row { verdict: Verdict::Equal { argument, value }, .. }) = row {
                arguments[*argument as usize] = u64::from(*value);
            }
            let answer = run(&rules, &call(architecture.audit(), number, arguments));
            let expected = match row.map(|row| row.verdict) {
                None => SECCOMP_RET_ALLOW,
                Some(Verdict::Refuse(errno) | Verdict::RefuseUnless { errno, .. }) => {
                    SECCOMP_RET_ERRNO | errno.cast_unsigned()
                }
                Some(_) => SECCOMP_RET_USER_NOTIF,
            };
            assert_eq!(answer, expected, "{architecture:?} {number}");
        }
    }
}

#[test]
fn unknown_foreign_and_x32_calls_are_refused() {
    let refused = SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    for architecture in BOTH {
        for number in [FIRST_UNKNOWN, 0x4000_0001, u32::MAX] {
            assert_eq!(verdict(architecture, number, [0; 6]), refused);
        }
        // i386, Arm, RISC-V, and nothing.
        for audit in [0x4000_0003, 0x4000_0028, 0xc000_00f3, 0] {
            assert_eq!(run(&program(architecture, Eventfds::Kept), &call(audit, 1, [0; 6])), refused);
        }
    }
}

#[test]
fn ioctls_are_trapped_by_type() {
    let ioctl = |number| [3, number, 0, 0, 0, 0];
    check(
        Call::Ioctl,
        // The kernel looks at 32 bits.
        &[ioctl(0x3b64), ioctl(0x3b00), ioctl(0x3bff), ioctl(0xc008_3b64), ioctl(0xffff_ffff_0000_3b64)],
        &[ioctl(0x5401), ioctl(0x3a64), ioctl(0x3c64), ioctl(0x0000_3b64 << 8), ioctl(0x3b64 << 32)],
    );
}

#[test]
fn small_writes_are_trapped() {
    let write = |count| [1, 0x1000, count, 0, 0, 0];
    check(Call::Write, &[write(0), write(1), write(8), write(64)], &[write(65), write(4096), write(1 << 32)]);
    check(Call::Writev, &[write(0), write(2)], &[write(3), write(1 << 32 | 1)]);
}

#[test]
fn positions_past_the_first_region_and_registers_are_trapped() {
    let at = |position, count| [3, 0x1000, count, position, 0, 0];
    check(
        Call::Pread64,
        &[at(1 << 40, 4096), at(7 << 40, 4), at(u64::MAX, 4096), at(0, 1), at(16, 8), at((1 << 40) - 1, 8)],
        &[at(0, 9), at((1 << 40) - 1, 4096), at(0, 1 << 32)],
    );
    check(Call::Pwrite64, &[at(1 << 40, 4096), at(0, 64)], &[at(0, 65), at((1 << 40) - 1, 4096)]);
}

#[test]
fn shared_mappings_of_files_are_trapped() {
    let map = |flags, file| [0, 4096, 3, flags, file, 0];
    check(
        Call::Mmap,
        &[map(1, 0), map(1, 5), map(3, 5), map(0x11, 0x7fff_ffff)],
        &[map(2, 5), map(0x22, u64::MAX), map(0x21, 0xffff_ffff), map(0x21, u64::MAX)],
    );
}

#[test]
fn reads_of_whole_records_are_trapped() {
    let read = |count| [3, 0x1000, count, 0, 0, 0];
    check(
        Call::Read,
        &[read(40), read(80), read(4000), read(0xffff_fff0), read(21), read(39), read(41), read(79)],
        &[read(0), read(1), read(16), read(20), read(81), read(4096), read(832), read(1 << 32), read(0x1_0000_0028)],
    );
}

#[test]
fn the_program_fits_the_kernels_limits() {
    for architecture in BOTH {
        let program = program(architecture, Eventfds::Kept);
        assert!(program.len() < 4096);
        for (at, instruction) in program.iter().enumerate() {
            if u32::from(instruction.code) & 7 == BPF_JMP {
                let furthest = usize::from(instruction.jt.max(instruction.jf));
                assert!(at + 1 + furthest < program.len());
            }
        }
    }
}

#[test]
fn eventfds_are_left_alone_where_they_can_be_fetched() {
    for architecture in BOTH {
        let native = call(architecture.audit(), number(architecture, Call::Eventfd2), [0; 6]);
        assert_eq!(run(&program(architecture, Eventfds::Fetched), &native), SECCOMP_RET_ALLOW);
        assert_eq!(run(&program(architecture, Eventfds::Kept), &native), SECCOMP_RET_USER_NOTIF);
    }
}
