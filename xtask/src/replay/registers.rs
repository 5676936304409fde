//! The hardware behind the recorded machines' functions, as far as it was read: registers, ROMs, text on a display.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use vfio_owner::device_ops::RegionIndex;
use vfio_owner::iommu_core::sysfs::Snapshot;
use vfio_owner::testbed::Machine;
use vfio_owner::vfio_pci::{FunctionModel, PlainMemory};

/// What the functions of a machine read as, by name.
#[derive(Debug, Default, Clone)]
pub(crate) struct Registers(BTreeMap<String, Vec<Register>>);

/// What is read at a place, rather than zero.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Register {
    region: u32,
    read: How,
    offset: u64,
    bytes: Vec<u8>,
}

/// How a register is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// As memory.
    Bytes,
    /// Any access to it gives its first bytes.
    Low,
    /// By an access to all of it.
    Whole,
    /// By an access that begins where it does.
    Exact,
}

impl Registers {
    /// Reads the file of a topology, if there is one.
    pub(crate) fn of(topology: &Path) -> Result<Self> {
        let path = topology.join("registers");
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut functions: BTreeMap<String, Vec<Register>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [function, region, read, offset, bytes] = words[..] else { bail!("not a register: `{line}`") };
            let register = Register::parse(region, read, offset, bytes).with_context(|| format!("`{line}`"))?;
            functions.entry(function.to_owned()).or_default().push(register);
        }
        Ok(Self(functions))
    }

    /// Boots the machine of a snapshot, with these registers behind its functions.
    pub(crate) fn boot(&self, snapshot: &Snapshot) -> Result<Machine> {
        let mut machine = Machine::builder(snapshot.clone());
        for (function, registers) in &self.0 {
            let registers = registers.clone();
            machine = machine.model(function, |_| Recorded { registers, written: PlainMemory::new() });
        }
        Ok(machine.build()?)
    }
}

impl Register {
    fn parse(region: &str, read: &str, offset: &str, bytes: &str) -> Result<Self> {
        let read = match read {
            "bytes" => How::Bytes,
            "low" => How::Low,
            "whole" => How::Whole,
            "exact" => How::Exact,
            _ => bail!("`{read}` is no way to read"),
        };
        let offset = u64::from_str_radix(offset.trim_start_matches("0x"), 16)?;
        let pairs = (0..bytes.len()).step_by(2).map(|at| bytes.get(at..at + 2).context("half a byte"));
        let bytes = pairs.map(|pair| Ok(u8::from_str_radix(pair?, 16)?)).collect::<Result<_>>()?;
        Ok(Self { region: region.parse()?, read, offset, bytes })
    }

    /// The byte that an access of `width` bytes at `at` has at `index`, if it is of this register.
    fn byte(&self, at: u64, width: usize, index: usize) -> Option<u8> {
        let within = at.checked_sub(self.offset)?;
        let place = match self.read {
            How::Bytes => usize::try_from(within).ok()? + index,
            How::Low if within < self.bytes.len() as u64 => index,
            How::Whole if within == 0 && width == self.bytes.len() => index,
            How::Exact if within == 0 => index,
            How::Low | How::Whole | How::Exact => return None,
        };
        self.bytes.get(place).copied()
    }
}

/// Registers that stay as they are; what is written elsewhere is memory.
struct Recorded {
    registers: Vec<Register>,
    written: PlainMemory,
}

impl FunctionModel for Recorded {
    fn read(&self, region: RegionIndex, offset: u64, into: &mut [u8]) {
        self.written.read(region, offset, into);
        let mut done = 0;
        // As the kernel does: the widest access that is aligned and fits.
        while done < into.len() {
            let at = offset + done as u64;
            let fits = |width: &usize| at.is_multiple_of(*width as u64) && done + width <= into.len();
            let width = [4, 2, 1].into_iter().find(fits).unwrap_or(1);
            for index in 0..width {
                let mut here = self.registers.iter().filter(|register| register.region == region.number());
                let byte = here.find_map(|register| register.byte(at, width, index));
                if let (Some(byte), Some(into)) = (byte, into.get_mut(done + index)) {
                    *into = byte;
                }
            }
            done += width;
        }
    }

    fn write(&self, region: RegionIndex, offset: u64, from: &[u8]) {
        self.written.write(region, offset, from);
    }

    fn reset(&self) {
        self.written.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_register_is_read_in_its_way() {
        let text = "d 0 bytes 0x0 0102030405\nd 0 low 0x10 88010000\nd 0 whole 0x20 ffffffff\nd 0 exact 0x32 1d00\n";
        let registers = Registers::parse(text).unwrap().0.remove("d").unwrap();
        let model = Recorded { registers, written: PlainMemory::new() };
        let read = |offset, length| {
            let mut into = vec![0xee; length];
            model.read(RegionIndex::BAR0, offset, &mut into);
            into
        };
        assert_eq!(read(1, 5), [2, 3, 4, 5, 0]);
        assert_eq!(
            (read(0x10, 4), read(0x10, 3), read(0x12, 2)),
            (vec![0x88, 1, 0, 0], vec![0x88, 1, 0x88], vec![0x88, 1])
        );
        assert_eq!((read(0x20, 4), read(0x20, 3)), (vec![0xff; 4], vec![0; 3]));
        assert_eq!((read(0x32, 2), read(0x33, 1), read(0x30, 4)), (vec![0x1d, 0], vec![0], vec![0; 4]));
        model.write(RegionIndex::BAR0, 0x40, &[7]);
        assert_eq!(read(0x40, 2), [7, 0]);
        for wrong in ["d 0 bytes 0x0", "d 0 odd 0x0 00", "d 0 low 0x0 0", "d 0 low zero 00"] {
            assert!(Registers::parse(wrong).is_err(), "{wrong}");
        }
    }
}
