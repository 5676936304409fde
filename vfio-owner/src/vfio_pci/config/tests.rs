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

/// Configuration spaces of endpoints with MSI at 0x50 and MSI-X at 0x60, and of anything.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = prop_oneof![0_usize..300, Just(4096)].prop_flat_map(|len| prop::collection::vec(any::<u8>(), len));
    let endpoint = prop::collection::vec(any::<u8>(), 256).prop_map(|mut bytes| {
        (bytes[0x06], bytes[0x0e], bytes[0x34]) = (0x10, 0, 0x50);
        bytes[0x50..0x52].copy_from_slice(&[0x05, 0x60]);
        bytes[0x60..0x62].copy_from_slice(&[0x11, 0]);
        bytes
    });
    prop_oneof![any_bytes, endpoint]
}

fn writes() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    let offset = prop_oneof![0_usize..0x70, 0_usize..5000, Just(usize::MAX)];
    prop::collection::vec((offset, prop::collection::vec(any::<u8>(), 0..20)), 1..40)
}

/// What a user may write at an offset, by the specification of PCI; told apart from how the code builds its masks.
fn may_write(function: &PciFunction, offset: usize) -> u8 {
    let of = |mask: u64, place: usize| mask.to_le_bytes()[place];
    match offset {
        0x04 => 0b0100_0111,
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
        0x3c => 0xff,
        _ => {
            let capabilities: Vec<_> = function.config.capabilities().collect();
            let is = |id: u16, place: u16| {
                let first = capabilities.iter().find(|found| found.id == id);
                // The whole word must be there.
                first.is_some_and(|found| {
                    usize::from(found.offset + place) == offset && function.config.read_u16(found.offset + 2).is_some()
                })
            };
            u8::from(is(0x05, 2)) | u8::from(is(0x11, 3)) << 7
        }
    }
}

proptest! {
    #[test]
    fn writes_never_change_what_a_user_may_not_write(bytes in bytes(), bars in bars(), writes in writes()) {
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
    fn what_a_user_may_write_is_read_back(bytes in bytes(), bars in bars(), value: u8) {
        let function = function(bytes, bars);
        let mut config = VirtualConfig::new(&function);
        for offset in 0..config.bytes.len() {
            let (before, mask) = (config.bytes[offset], may_write(&function, offset));
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
fn after_power_on_windows_are_decoded_and_nothing_else_is_on() {
    let mut bytes = [0_u8; 256];
    bytes[0x04..0x06].copy_from_slice(&[0xff, 0xff]);
    let mut bars = Bars::NONE;
    bars.insert(0, bar(16, BarKind::Io)).unwrap();
    let config = VirtualConfig::new(&function(bytes, bars.clone()));
    assert!(!config.memory_on() && !config.bus_master());
    assert_eq!(config.intx_line(), IntxLine::On);
    assert_eq!(config.command() & COMMAND_WRITABLE, COMMAND_IO);
    bars.insert(1, bar(16, BarKind::Memory32 { prefetchable: false })).unwrap();
    assert!(VirtualConfig::new(&function(bytes, bars)).memory_on());
}

#[test]
fn a_function_whose_tree_tells_64_bytes_has_256() {
    assert_eq!(VirtualConfig::new(&function([0; 64], Bars::NONE)).size(), 256);
    assert_eq!(VirtualConfig::new(&function([0; 257], Bars::NONE)).size(), 4096);
}
