//! The PCI Express capability.

/// The PCI Express capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PcieCapability {
    /// Device/port type.
    pub port_type: PortType,
}

/// Device/port type of a function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PortType {
    /// PCI Express endpoint.
    Endpoint,
    /// Legacy PCI Express endpoint.
    LegacyEndpoint,
    /// Root port of the root complex.
    RootPort,
    /// Upstream port of a switch.
    UpstreamPort,
    /// Downstream port of a switch.
    DownstreamPort,
    /// PCI Express to PCI bridge.
    PcieToPci,
    /// PCI to PCI Express bridge.
    PciToPcie,
    /// Root complex integrated endpoint.
    IntegratedEndpoint,
    /// Root complex event collector.
    EventCollector,
    /// Reserved value, 0 to 15.
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
