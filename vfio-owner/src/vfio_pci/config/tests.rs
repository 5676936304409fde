use proptest::prelude::*;
use std::vec::Vec;

use iommu_core::device_model::pci::ConfigSpace;

use super::*;

fn bar(size: u64, kind: BarKind) -> Bar {
    Bar::new(0, size, kind).unwrap()
}

fn function(bytes: impl Into<Vec<u8>>, bars: Bars) -> PciFunction {
    PciFunction { bars, ..PciFunction::new("01:00.0".parse().unwrap(), ConfigSpace::new(bytes)) }
}

fn read_u32(config: &VirtualConfig, offset: usize) -> u32 {
    let mut value = [0; 4];
    config.read(offset, &mut value);
    u32::from_le_bytes(value)
}

fn kind() -> impl Strategy<Value = BarKind> {
    prop_oneof![
        Just(BarKind::Io),
        any::<bool>().prop_map(|prefetchable| BarKind::Memory32 { prefetchable }),
        any::<bool>().prop_map(|prefetchable| BarKind::Memory64 { prefetchable }),
    ]
}

/// Windows of sizes that a register can tell.
fn bars() -> impl Strategy<Value = Bars> {
    let bar = (kind(), 4_u32..64).prop_map(|(kind, order)| {
        let most = if matches!(kind, BarKind::Memory64 { .. }) { 63 } else { 31 };
        bar(1 << order.min(most), kind)
    });
    (prop::collection::vec((0..Bars::SLOTS, bar), 0..6), prop::option::of(11_u32..25)).prop_map(|(windows, rom)| {
        let mut bars = Bars::NONE;
        for (slot, bar) in windows {
            // What finds no room is left out.
            let _ = bars.insert(slot, bar);
        }
        if let Some(order) = rom {
            bars.insert_rom(self::bar(1 << order, BarKind::Memory32 { prefetchable: true })).unwrap();
        }
        bars
    })
}

/// Where the capabilities of [`endpoint`] are, in the order of their list: the fourth is hidden.
const LIST: [(u8, u8); 5] = [(0x05, MSI), (0x11, 0x70), (0x01, POWER), (0x0d, HIDDEN), (0x10, EXPRESS_CAP)];
const MSI: u8 = 0x50;
const POWER: u8 = 0x80;
const HIDDEN: u8 = 0x88;
const EXPRESS_CAP: u8 = 0x90;

/// Configuration spaces of endpoints with these capabilities.
fn endpoint() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 256).prop_map(|mut bytes| {
        (bytes[0x06], bytes[0x0e], bytes[0x34]) = (0x10, 0, MSI);
        for (at, (id, offset)) in LIST.into_iter().enumerate() {
            let next = LIST.get(at + 1).map_or(0, |next| next.1);
            bytes[usize::from(offset)..][..2].copy_from_slice(&[id, next]);
        }
        bytes
    })
}

/// Configuration spaces of anything.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = prop_oneof![0_usize..300, Just(4096)].prop_flat_map(|len| prop::collection::vec(any::<u8>(), len));
    prop_oneof![any_bytes, endpoint()]
}

fn writes() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    let offset = prop_oneof![0_usize..0x70, 0_usize..5000, Just(usize::MAX)];
    prop::collection::vec((offset, prop::collection::vec(any::<u8>(), 0..20)), 1..40)
}

/// What a user may write at an offset, by the specification of PCI; told apart from how the code builds its masks.
fn may_write(function: &PciFunction, offset: usize) -> u8 {
    let of = |mask: u64, place: usize| mask.to_le_bytes()[place];
    match offset {
        0x04 => 0b0000_0111,
        0x05 => 0b0000_0101,
        0x10..0x28 => {
            let (slot, place) = ((offset - 0x10) / 4, offset % 4);
            let address = |bar: Bar| !(bar.size() - 1) & !(if bar.kind() == BarKind::Io { 0b11 } else { 0b1111 });
            let upper = slot.checked_sub(1).and_then(|below| function.bars.get(below));
            match (function.bars.get(slot), upper) {
                (Some(bar), _) => of(address(bar), place),
                (None, Some(below)) if matches!(below.kind(), BarKind::Memory64 { .. }) => {
                    of(address(below), place + 4)
                }
                _ => 0,
            }
        }
        0x30..0x34 => function.bars.rom().map_or(0, |rom| of(!(rom.size() - 1) | 1, offset % 4)),
        0x0c | 0x3c => 0xff,
        _ => may_write_capability(function, offset),
    }
}

fn may_write_capability(function: &PciFunction, offset: usize) -> u8 {
    let bits = |at: u8, register: u16| function.config.read_u16(u16::from(at) + register).unwrap_or(0);
    let control = bits(MSI, 2);
    let (wide, maskable) = (control & 1 << 7 != 0, control & 1 << 8 != 0);
    let data = usize::from(MSI) + if wide { 12 } else { 8 };
    match offset {
        0x52 => 0x71,
        0x54 => 0xfc,
        0x55..0x58 => 0xff,
        0x58..0x5c if wide => 0xff,
        _ if (data..data + 2).contains(&offset) => 0xff,
        _ if maskable && (data + 4..data + 8).contains(&offset) => 0xff,
        0x84 => 0b11,
        0x85 => 0b1_1110,
        0x98 => 0xff,
        0x99 => 0x7d,
        0xb8 if bits(EXPRESS_CAP, 2) & 0xf >= 2 => 0xdf,
        0xb9 if bits(EXPRESS_CAP, 2) & 0xf >= 2 => 0xff,
        // What is in no capability that is shown.
        0x40.. => {
            let msi = 10 + if wide { 4 } else { 0 } + if maskable { 10 } else { 0 };
            let express = if bits(EXPRESS_CAP, 2) & 0xf < 2 { 0x14 } else { 0x3c };
            let spans = [(MSI, msi), (0x70, 12), (POWER, 8), (EXPRESS_CAP, express)];
            let taken =
                spans.iter().any(|(at, length)| (usize::from(*at)..usize::from(*at) + length).contains(&offset));
            if taken { 0 } else { 0xff }
        }
        _ => 0,
    }
}

proptest! {
    #[test]
    fn writes_never_change_what_a_user_may_not_write(bytes in endpoint(), bars in bars(), writes in writes()) {
        let function = function(bytes, bars);
        let mut config = VirtualConfig::new(&function);
        let before = config.bytes.clone();
        for (offset, value) in &writes {
            config.write(*offset, value, 0);
        }
        for (offset, (before, after)) in before.iter().zip(&config.bytes).enumerate() {
            let changed = before ^ after;
            prop_assert_eq!(changed & !may_write(&function, offset), 0, "{:#x}: {:#x}", offset, changed);
        }
        config.reset();
        prop_assert_eq!(config.bytes, before, "a reset undoes all writes");
    }

    #[test]
    fn what_a_user_may_write_is_read_back(bytes in endpoint(), bars in bars(), value: u8) {
        let function = function(bytes, bars);
        let mut config = VirtualConfig::new(&function);
        for offset in 0..config.bytes.len() {
            let (before, mask) = (config.bytes[offset], may_write(&function, offset));
            // MSI shows no more vectors than are set up.
            let value = if offset == usize::from(MSI) + 2 { value & !0x70 } else { value };
            config.write(offset, &[value], 32);
            prop_assert_eq!(config.bytes[offset], before & !mask | value & mask, "{:#x}", offset);
        }
    }

    #[test]
    fn all_ones_written_to_a_bar_give_its_size_and_kind_back(bytes in bytes(), bars in bars()) {
        let mut config = VirtualConfig::new(&function(bytes, bars.clone()));
        for slot in 0..Bars::SLOTS {
            config.write(0x10 + 4 * slot, &[0xff; 4], 0);
        }
        config.write(0x30, &[0xff; 4], 0);
        for (slot, bar) in bars.iter() {
            let low = read_u32(&config, 0x10 + 4 * slot);
            let high = read_u32(&config, 0x14 + 4 * slot);
            let (flags, expected) = match bar.kind() {
                BarKind::Io => (0b11, 0b01),
                BarKind::Memory32 { prefetchable } => (0b1111, u32::from(prefetchable) << 3),
                BarKind::Memory64 { prefetchable } => (0b1111, 0b100 | u32::from(prefetchable) << 3),
            };
            prop_assert_eq!(low & flags, expected);
            let high = if matches!(bar.kind(), BarKind::Memory64 { .. }) { high } else { u32::MAX };
            let address = u64::from(high) << 32 | u64::from(low & !flags);
            prop_assert_eq!((!address).wrapping_add(1), bar.size());
        }
        if let Some(rom) = bars.rom() {
            prop_assert_eq!(u64::from(!(read_u32(&config, 0x30) & !0x7ff)) + 1, rom.size());
        }
    }

    #[test]
    fn any_access_anywhere_is_harmless(bytes in bytes(), offset: usize, length in 0_usize..10_000) {
        let mut config = VirtualConfig::new(&function(bytes, Bars::NONE));
        let mut into = std::vec![0xaa; length];
        config.read(offset, &mut into);
        prop_assert!(offset < config.bytes.len() || into.iter().all(|&byte| byte == 0));
        config.write(offset, &into, 0);
    }
}

#[test]
fn vt31_2_at_open_windows_are_decoded_and_bus_mastering_is_off() {
    let mut bytes = [0_u8; 256];
    bytes[0x04..0x06].copy_from_slice(&[0xff, 0xff]);
    let mut bars = Bars::NONE;
    bars.insert(0, bar(16, BarKind::Io)).unwrap();
    let config = VirtualConfig::new(&function(bytes, bars.clone()));
    assert!(!config.bus_master());
    assert_eq!(config.intx_line(), IntxLine::On);
    let kept = COMMAND_IO | COMMAND_MEMORY | COMMAND_SYSTEM_ERROR;
    assert_eq!(config.command() & COMMAND_WRITABLE, kept, "the rest is as it was found");
    let mut off = bytes;
    off[0x04..0x06].fill(0);
    let config = VirtualConfig::new(&function(off, bars.clone()));
    assert_eq!(config.command(), COMMAND_IO, "decoding is on for what there is");
    bars.insert(1, bar(16, BarKind::Memory32 { prefetchable: false })).unwrap();
    assert!(VirtualConfig::new(&function(off, bars)).memory_on());
}

#[test]
fn a_function_whose_tree_tells_64_bytes_has_256() {
    assert_eq!(VirtualConfig::new(&function([0; 64], Bars::NONE)).size(), 256);
    assert_eq!(VirtualConfig::new(&function([0; 257], Bars::NONE)).size(), 4096);
}

#[test]
fn v98_hidden_capabilities_are_skipped_and_pme_is_not_there() {
    let mut bytes = std::vec![0xff_u8; 256];
    (bytes[0x06], bytes[0x0e], bytes[0x34]) = (0x10, 0, HIDDEN);
    for (at, [id, next]) in
        [(HIDDEN, [0x0d, POWER]), (POWER, [0x01, 0xa0]), (0xa0, [0x0c, EXPRESS_CAP]), (EXPRESS_CAP, [0x10, 0])]
    {
        bytes[usize::from(at)..][..2].copy_from_slice(&[id, next]);
    }
    let mut config = VirtualConfig::new(&function(bytes, Bars::NONE));
    let byte = |at: usize| config.bytes[at];
    assert_eq!((byte(0x34), byte(0x81), byte(0x91)), (POWER, EXPRESS_CAP, 0));
    assert_eq!((byte(0x83), byte(0x85)), (0x07, 0x7e), "no PME is supported, set or pending");
    assert!(!config.memory_on(), "in D3");
    config.write(0x84, &[0], 0);
    config.write(0x04, &[2], 0);
    assert!(config.memory_on());
    assert_eq!(config.write(0x98, &[0, 0x80], 0), Effect::FunctionReset);
    assert_eq!((config.write(0x98, &[0xff, 0x7f], 0), config.bytes[0x99] & 0x80), (Effect::None, 0));
}

#[test]
fn vt31_10_msi_shows_no_more_than_is_set_up() {
    let mut bytes = [0_u8; 256];
    (bytes[0x06], bytes[0x34]) = (0x10, MSI);
    bytes[0x50..0x54].copy_from_slice(&[0x05, 0, 0x0b, 0]);
    let mut config = VirtualConfig::new(&function(bytes, Bars::NONE));
    for (vectors, shown) in [(0, 0x0a), (1, 0x0b), (2, 0x1b), (5, 0x2b), (32, 0x5b)] {
        config.write(0x52, &[0x7f], vectors);
        assert_eq!(config.bytes[0x52], shown, "{vectors}");
    }
}
