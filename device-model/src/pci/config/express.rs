//! What PCI Express adds.

/// What the PCI Express capability says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PcieCapability {
    /// What the function is in a PCI Express hierarchy.
    pub port_type: PortType,
}

/// What a function is in a PCI Express hierarchy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PortType {
    /// A device at the end of a link.
    Endpoint,
    /// The same, with leave to behave as conventional devices do.
    LegacyEndpoint,
    /// From the root complex down to a link.
    RootPort,
    /// Of a switch, towards the root.
    UpstreamPort,
    /// Of a switch, away from the root.
    DownstreamPort,
    /// A bridge from PCI Express down to a conventional bus.
    PcieToPci,
    /// A bridge from a conventional bus down to PCI Express.
    PciToPcie,
    /// A device inside the root complex.
    IntegratedEndpoint,
    /// Collects the events of integrated endpoints.
    EventCollector,
    /// A code without a meaning yet, 0 to 15.
    Other(u8),
}

impl PortType {
    pub(super) const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Endpoint,
            1 => Self::LegacyEndpoint,
            4 => Self::RootPort,
            5 => Self::UpstreamPort,
            6 => Self::DownstreamPort,
            7 => Self::PcieToPci,
            8 => Self::PciToPcie,
            9 => Self::IntegratedEndpoint,
            10 => Self::EventCollector,
            other => Self::Other(other),
        }
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Endpoint => 0,
            Self::LegacyEndpoint => 1,
            Self::RootPort => 4,
            Self::UpstreamPort => 5,
            Self::DownstreamPort => 6,
            Self::PcieToPci => 7,
            Self::PciToPcie => 8,
            Self::IntegratedEndpoint => 9,
            Self::EventCollector => 10,
            Self::Other(code) => code & 0xf,
        }
    }
}
