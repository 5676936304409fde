//! Guests of a few bytes: boot sectors, written out.

/// What a guest prints on its serial line.
pub(super) const BOOTED: &str = "booted from the drive";
/// How QEMU ends when the guest does: twice what is written to the port, and one.
pub(super) const LEFT: i32 = 0x10 << 1 | 1;

/// How much a disk holds.
const DISK: usize = 1 << 20;
/// Where firmware loads a boot sector.
const ORIGIN: u16 = 0x7c00;

/// Prints the text behind the code.
const PRINT: [u8; 6 + 14] = [
    0xfa, //             cli
    0x31, 0xc0, //       xor  ax, ax
    0x8e, 0xd8, //       mov  ds, ax
    0xfc, //             cld
    0xbe, 0x00, 0x00, // mov  si, text
    0xba, 0xf8, 0x03, // mov  dx, 0x3f8       the serial line
    0xac, //             lodsb
    0x84, 0xc0, //       test al, al
    0x74, 0x03, //       jz   +3
    0xee, //             out  dx, al
    0xeb, 0xf8, //       jmp  lodsb
];
/// Where in it the place of the text is.
const TEXT: usize = 7;

/// Ends the guest.
pub(super) const EXITS: &[u8] = &[
    0xb0, 0x10, // mov al, 0x10
    0xe6, 0xf4, // out 0xf4, al
    0xf4, //       hlt
    0xeb, 0xfd, // jmp hlt
];

/// Lets every device go that is to be unplugged: by the registers that the machine has for that in place of a real slot's,
/// for bus 0.
pub(super) const EJECTS: &[u8] = &[
    0x66, 0x31, 0xc0, //       xor  eax, eax
    0xba, 0x10, 0xae, //       mov  dx, 0xae10  selects the bus
    0x66, 0xef, //             out  dx, eax
    0xba, 0x04, 0xae, //       mov  dx, 0xae04  a bit for each slot
    0x66, 0xed, //             in   eax, dx
    0x66, 0x85, 0xc0, //       test eax, eax
    0x74, 0xf6, //             jz   mov dx, 0xae04
    0xba, 0x08, 0xae, //       mov  dx, 0xae08
    0x66, 0xef, //             out  dx, eax
    0xeb, 0xef, //             jmp  mov dx, 0xae04
];

/// A disk whose boot sector prints the line, and ends so.
pub(super) fn disk(end: &[u8]) -> Vec<u8> {
    let mut disk = [&PRINT, end, BOOTED.as_bytes(), b"\r\n"].concat();
    let code = u16::try_from(PRINT.len() + end.len()).unwrap_or_default();
    let place = (ORIGIN + code).to_le_bytes();
    disk.iter_mut().skip(TEXT).zip(place).for_each(|(byte, place)| *byte = place);
    disk.resize(510, 0);
    disk.extend([0x55, 0xaa]);
    disk.resize(DISK, 0);
    disk
}
