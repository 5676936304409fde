//! Base address registers.

/// A region of a function that a base address register decodes: address, size and space.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bar {
    address: u64,
    size: u64,
    kind: BarKind,
}

/// Address space of a BAR.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Whether reads have no side effects.
        prefetchable: bool,
    },
    /// Memory at any address; the next register holds the upper half of the address.
    Memory64 {
        /// Whether reads have no side effects.
        prefetchable: bool,
    },
}

impl Bar {
    /// Creates a BAR of `size` bytes (or ports) at `address`, or returns `None` unless the size is a power of two, and
    /// at most 2 GiB for a 32-bit register.
    ///
    /// Any address is accepted, 0 if none is assigned yet: the bits below the size are ignored.
    pub const fn new(address: u64, size: u64, kind: BarKind) -> Option<Self> {
        let fits = matches!(kind, BarKind::Memory64 { .. }) || size <= 1 << 31;
        if size.is_power_of_two() && fits { Some(Self { address, size, kind }) } else { None }
    }

    /// Returns the address.
    pub const fn address(self) -> u64 {
        self.address
    }

    /// Returns the size, a power of two.
    pub const fn size(self) -> u64 {
        self.size
    }

    /// Returns the address space.
    pub const fn kind(self) -> BarKind {
        self.kind
    }
}

/// The BARs of a function: up to six, and its expansion ROM.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bars {
    slots: [Option<Bar>; Self::SLOTS],
    rom: Option<Bar>,
}

impl Bars {
    /// Number of registers of an endpoint, without the ROM's.
    pub const SLOTS: usize = 6;

    /// No BARs.
    pub const NONE: Self = Self { slots: [None; Self::SLOTS], rom: None };

    /// Sets the BAR of register `slot`, and replaces the present one.
    ///
    /// # Errors
    /// Fails if there is no such register, or a 64-bit BAR would overlap its neighbour. Nothing is changed.
    pub fn insert(&mut self, slot: usize, bar: Bar) -> Result<(), BarError> {
        let wide = |bar: Bar| matches!(bar.kind, BarKind::Memory64 { .. });
        let below = slot.checked_sub(1).and_then(|below| self.get(below));
        let above = slot.checked_add(1).filter(|&above| above < Self::SLOTS);
        let above_is_taken = above.is_none_or(|above| self.get(above).is_some());
        let place = self.slots.get_mut(slot).ok_or(BarError::NoSuchSlot)?;
        if below.is_some_and(wide) || (wide(bar) && above_is_taken) {
            return Err(BarError::NoRoom);
        }
        *place = Some(bar);
        Ok(())
    }

    /// Sets the expansion ROM.
    ///
    /// # Errors
    /// Fails unless `rom` is 32-bit memory of at least 2 KiB. Nothing is changed.
    pub fn insert_rom(&mut self, rom: Bar) -> Result<(), BarError> {
        if !matches!(rom.kind, BarKind::Memory32 { .. }) || rom.size < 1 << 11 {
            return Err(BarError::NotARom);
        }
        self.rom = Some(rom);
        Ok(())
    }

    /// Returns the BAR of register `slot`; `None` also for the register that holds the upper half of the one before.
    pub fn get(&self, slot: usize) -> Option<Bar> {
        self.slots.get(slot).copied().flatten()
    }

    /// Returns the expansion ROM.
    pub const fn rom(&self) -> Option<Bar> {
        self.rom
    }

    /// Returns all BARs except the ROM, with their registers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Bar)> {
        self.slots.iter().enumerate().filter_map(|(slot, bar)| Some((slot, (*bar)?)))
    }
}

/// Why a BAR was not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BarError {
    /// A function has six registers.
    #[error("there is no such base address register")]
    NoSuchSlot,
    /// A 64-bit BAR takes two registers.
    #[error("a 64-bit base address takes two registers, and one of them is in use")]
    NoRoom,
    /// A ROM is 32-bit memory of at least 2 KiB.
    #[error("an expansion ROM is 32-bit memory of at least 2 KiB")]
    NotARom,
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    fn bar(size: u64, kind: BarKind) -> Bar {
        Bar::new(0, size, kind).unwrap()
    }

    #[test]
    fn sizes_are_powers_of_two_that_the_register_can_hold() {
        let narrow = BarKind::Memory32 { prefetchable: false };
        for (size, kind) in [(0, narrow), (3, narrow), (1 << 32, narrow), (1 << 32, BarKind::Io), (u64::MAX, narrow)] {
            assert_eq!(Bar::new(0, size, kind), None, "{size:#x} {kind:?}");
        }
        assert!(Bar::new(u64::MAX, 1 << 63, BarKind::Memory64 { prefetchable: true }).is_some());
    }

    #[test]
    fn a_wide_window_takes_two_registers() {
        let (wide, narrow) = (bar(16, BarKind::Memory64 { prefetchable: true }), bar(4, BarKind::Io));
        let mut bars = Bars::NONE;
        assert_eq!(bars.insert(5, wide), Err(BarError::NoRoom));
        assert_eq!(bars.insert(usize::MAX, wide), Err(BarError::NoSuchSlot));
        assert_eq!(bars.insert(6, narrow), Err(BarError::NoSuchSlot));
        bars.insert(2, wide).unwrap();
        bars.insert(0, narrow).unwrap();
        assert_eq!(bars.insert(3, narrow), Err(BarError::NoRoom));
        assert_eq!(bars.insert(1, wide), Err(BarError::NoRoom));
        bars.insert(5, narrow).unwrap();
        assert_eq!(bars.iter().collect::<alloc::vec::Vec<_>>(), [(0, narrow), (2, wide), (5, narrow)]);
    }

    #[test]
    fn a_rom_is_memory_of_2_kib_at_least() {
        let rom = |size| bar(size, BarKind::Memory32 { prefetchable: true });
        let mut bars = Bars::NONE;
        assert_eq!(bars.insert_rom(rom(1 << 10)), Err(BarError::NotARom));
        assert_eq!(bars.insert_rom(bar(1 << 20, BarKind::Io)), Err(BarError::NotARom));
        bars.insert_rom(rom(1 << 11)).unwrap();
        assert_eq!(bars.rom(), Some(rom(1 << 11)));
    }
}
