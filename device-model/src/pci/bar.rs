//! Base address registers.

/// A window into a function that one of its base address registers places: where it is, how long, and of which space.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bar {
    address: u64,
    size: u64,
    kind: BarKind,
}

/// Which space a window is in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory, below 4 GiB.
    Memory32 {
        /// Whether reads have no effect on it.
        prefetchable: bool,
    },
    /// Memory, anywhere; the next register holds the upper half of the address.
    Memory64 {
        /// Whether reads have no effect on it.
        prefetchable: bool,
    },
}

impl Bar {
    /// A window of `size` bytes (or ports) at `address`, or `None` unless the size is a power of two, and at most 2 GiB
    /// if the register has 32 bits.
    ///
    /// Any address will do, 0 if none was given yet: a register leaves out the bits below the size.
    pub const fn new(address: u64, size: u64, kind: BarKind) -> Option<Self> {
        let fits = matches!(kind, BarKind::Memory64 { .. }) || size <= 1 << 31;
        if size.is_power_of_two() && fits { Some(Self { address, size, kind }) } else { None }
    }

    /// Where it begins.
    pub const fn address(self) -> u64 {
        self.address
    }

    /// Its length, a power of two.
    pub const fn size(self) -> u64 {
        self.size
    }

    /// Its space.
    pub const fn kind(self) -> BarKind {
        self.kind
    }
}

/// The windows of a function: up to six, and its expansion ROM.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bars {
    slots: [Option<Bar>; Self::SLOTS],
    rom: Option<Bar>,
}

impl Bars {
    /// How many registers an endpoint has, the ROM's not counted.
    pub const SLOTS: usize = 6;

    /// No windows.
    pub const NONE: Self = Self { slots: [None; Self::SLOTS], rom: None };

    /// Puts a window into register `slot`, in place of the one that is there.
    ///
    /// # Errors
    /// There is no such register, or the window would share a register with its neighbour, one of them having 64 bits.
    /// Nothing is changed.
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

    /// Sets the window of the expansion ROM.
    ///
    /// # Errors
    /// It is none of 32-bit memory of at least 2 KiB. Nothing is changed.
    pub fn insert_rom(&mut self, rom: Bar) -> Result<(), BarError> {
        if !matches!(rom.kind, BarKind::Memory32 { .. }) || rom.size < 1 << 11 {
            return Err(BarError::NotARom);
        }
        self.rom = Some(rom);
        Ok(())
    }

    /// The window of register `slot`; `None` too for the register that holds the upper half of the one before.
    pub fn get(&self, slot: usize) -> Option<Bar> {
        self.slots.get(slot).copied().flatten()
    }

    /// The window of the expansion ROM.
    pub const fn rom(&self) -> Option<Bar> {
        self.rom
    }

    /// All windows but the ROM's, with their registers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Bar)> {
        self.slots.iter().enumerate().filter_map(|(slot, bar)| Some((slot, (*bar)?)))
    }
}

/// Why a window was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BarError {
    /// A function has six registers.
    #[error("there is no such base address register")]
    NoSuchSlot,
    /// A window of 64 bits takes two registers.
    #[error("a base address of 64 bits takes two registers, and one of them is taken")]
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
