//! From the state in which QEMU starts a kernel (PVH: 32 bits, no paging) to [`main`](crate::main), and the way out.

use core::arch::{asm, global_asm};
use core::fmt;
use core::panic::PanicInfo;

const STACK: usize = 256 << 10;

global_asm!(
    // What tells QEMU where the kernel starts: a note of Xen's, number 18.
    ".pushsection .note.pvh, \"a\", @note",
    ".long 4, 4, 18",
    ".asciz \"Xen\"",
    ".long start",
    ".popsection",
    ".code32",
    ".global start",
    "start:",
    "    cli",
    "    cld",
    "    mov esp, offset stack_top",
    // Page tables that leave addresses as they are: one GiB, in pages of 2 MiB.
    "    mov dword ptr [table_4], offset table_3 + 3",
    "    mov dword ptr [table_3], offset table_2 + 3",
    "    mov edi, offset table_2",
    "    mov eax, 0x83",
    "2:  mov [edi], eax",
    "    add eax, 0x200000",
    "    add edi, 8",
    "    cmp edi, offset table_2 + 4096",
    "    jne 2b",
    "    mov eax, offset table_4",
    "    mov cr3, eax",
    // Long mode: physical address extension, its enable bit, paging, and a segment of 64-bit code.
    "    mov eax, cr4",
    "    or eax, 0x20",
    "    mov cr4, eax",
    "    mov ecx, 0xc0000080",
    "    rdmsr",
    "    or eax, 0x100",
    "    wrmsr",
    "    mov eax, cr0",
    "    or eax, 0x80000000",
    "    mov cr0, eax",
    "    lgdt [descriptors_at]",
    "    push 8",
    "    mov eax, offset long_mode",
    "    push eax",
    "    retf",
    ".code64",
    "long_mode:",
    "    xor eax, eax",
    "    mov ds, eax",
    "    mov es, eax",
    "    mov ss, eax",
    "    call {main}",
    "    ud2",
    ".pushsection .rodata",
    ".align 8",
    "descriptors: .quad 0, 0x00209a0000000000",
    "descriptors_at: .short 15",
    "    .long descriptors",
    ".popsection",
    ".pushsection .bss",
    ".align 4096",
    "table_4: .skip 4096",
    "table_3: .skip 4096",
    "table_2: .skip 4096",
    "    .skip {stack}",
    "stack_top:",
    ".popsection",
    main = sym crate::main,
    stack = const STACK,
);

/// The serial line, as QEMU has it: takes a byte at any time.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: writing the data register of the first serial port touches no memory.
            unsafe { asm!("out dx, al", in("dx") 0x3f8_u16, in("al") byte, options(nomem, nostack)) };
        }
        Ok(())
    }
}

/// Writes a line to the serial line.
#[macro_export]
macro_rules! line {
    ($($text:tt)*) => {{
        // Writing to a serial line does not fail.
        let _ = core::fmt::Write::write_fmt(&mut $crate::boot::Serial, format_args!("{}\n", format_args!($($text)*)));
    }};
}

/// How the run ended, as QEMU's debug-exit device passes it on: its status is `code * 2 + 1`.
#[derive(Clone, Copy)]
pub enum Exit {
    Success = 16,
    Failure = 17,
}

/// Ends the machine.
pub fn exit(how: Exit) -> ! {
    // SAFETY: the port is that of the debug-exit device; without one, the CPU halts for good with interrupts off.
    unsafe { asm!("out dx, eax", in("dx") 0xf4_u16, in("eax") how as u32, options(nomem, nostack)) };
    loop {
        // SAFETY: as above.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

#[panic_handler]
fn panic(panic: &PanicInfo<'_>) -> ! {
    line!("{panic}");
    exit(Exit::Failure)
}
