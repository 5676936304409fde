//! PCI addresses.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

/// Slot (0 to 31) and function (0 to 7) in one byte, as in a requester ID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Devfn(u8);

impl Devfn {
    /// The highest value: slot 31, function 7.
    pub const MAX: Self = Self(u8::MAX);

    /// Creates the pair, or returns `None` unless `slot` is below 32 and `function` below 8.
    pub const fn new(slot: u8, function: u8) -> Option<Self> {
        if slot < 32 && function < 8 { Some(Self(slot << 3 | function)) } else { None }
    }

    /// Decodes a byte: slot in the upper five bits, function in the lower three. Every byte is valid.
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// Returns the pair as one byte.
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// Returns the slot, 0 to 31.
    pub const fn slot(self) -> u8 {
        self.0 >> 3
    }

    /// Returns the function, 0 to 7.
    pub const fn function(self) -> u8 {
        self.0 & 7
    }
}

impl fmt::Display for Devfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{}", self.slot(), self.function())
    }
}

impl fmt::Debug for Devfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Devfn({self})")
    }
}

/// The address of a PCI function, `0000:00:04.0`: domain, bus, slot, function; ordered in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    devfn: Devfn,
}

impl PciAddress {
    /// Creates an address. Domains beyond 16 bits are assigned by software, as for disks behind VMD.
    pub const fn new(domain: u32, bus: u8, devfn: Devfn) -> Self {
        Self { domain, bus, devfn }
    }

    /// Returns the domain, also called segment.
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// Returns the bus within the domain.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// Returns slot and function.
    pub const fn devfn(self) -> Devfn {
        self.devfn
    }

    /// Returns the slot, 0 to 31.
    pub const fn slot(self) -> u8 {
        self.devfn.slot()
    }

    /// Returns the function, 0 to 7.
    pub const fn function(self) -> u8 {
        self.devfn.function()
    }

    /// Returns the address of another function on the same bus.
    #[must_use]
    pub const fn on_same_bus(self, devfn: Devfn) -> Self {
        Self { devfn, ..self }
    }
}

impl fmt::Display for PciAddress {
    /// Writes the form that sysfs uses: `0000:00:04.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{}", self.domain, self.bus, self.devfn)
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PciAddress({self})")
    }
}

/// The text is not a PCI address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not a PCI address: {fault}")]
pub struct ParseAddressError {
    /// The text.
    pub text: String,
    /// The part that is wrong.
    pub fault: AddressFault,
}

/// What is wrong with the text of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressFault {
    /// The text is neither `domain:bus:slot.function` nor `bus:slot.function`.
    #[error("expected domain:bus:slot.function")]
    Form,
    /// The domain is not a hexadecimal number of four to eight digits.
    #[error("the domain is not a hexadecimal number of 4 to 8 digits")]
    Domain,
    /// The bus is not a hexadecimal number of two digits.
    #[error("the bus is not a hexadecimal number of 2 digits")]
    Bus,
    /// The slot is not a hexadecimal number of two digits up to `1f`.
    #[error("the slot is not a hexadecimal number of 2 digits up to 1f")]
    Slot,
    /// The function is not a digit up to 7.
    #[error("the function is not a digit up to 7")]
    Function,
}

impl FromStr for PciAddress {
    type Err = ParseAddressError;

    /// Parses `0000:00:04.0`, or `00:04.0` for domain 0; digits in either case.
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        parse(text).map_err(|fault| ParseAddressError { text: text.into(), fault })
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for PciAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for PciAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = PciAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a PCI address such as 0000:00:04.0")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PciAddress, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

fn parse(text: &str) -> Result<PciAddress, AddressFault> {
    let (buses, devfn) = text.rsplit_once(':').ok_or(AddressFault::Form)?;
    let (slot, function) = devfn.split_once('.').ok_or(AddressFault::Form)?;
    let (domain, bus) = buses.split_once(':').unwrap_or(("0000", buses));

    let domain = hex(domain, 4, 8).ok_or(AddressFault::Domain)?;
    let bus = hex(bus, 2, 2).and_then(|bus| u8::try_from(bus).ok()).ok_or(AddressFault::Bus)?;
    let slot = hex(slot, 2, 2).and_then(|slot| u8::try_from(slot).ok()).ok_or(AddressFault::Slot)?;
    let function = hex(function, 1, 1).and_then(|function| u8::try_from(function).ok());
    let function = function.filter(|&function| function < 8).ok_or(AddressFault::Function)?;
    let devfn = Devfn::new(slot, function).ok_or(AddressFault::Slot)?;
    Ok(PciAddress::new(domain, bus, devfn))
}

/// A number of `least` to `most` hexadecimal digits, nothing else (`from_str_radix` alone would take a sign).
fn hex(text: &str, least: usize, most: usize) -> Option<u32> {
    let digits = (least..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { u32::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
