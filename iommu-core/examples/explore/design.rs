//! What every design of DMA ownership has in common: drivers come and go, user space claims and releases.

use device_model::sync::UserGuard;

use crate::machine::{Binding, Machine};

/// The drivers of a scene.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Does DMA through the DMA API.
    Kernel,
    /// As that, but its probe fails.
    Failing,
    /// As that, but the bus cannot prepare its device for DMA: the bind fails before it asks for the group.
    Unready,
    /// Manages its own DMA, and can be held open by a user.
    Managed,
    /// Another one of those.
    OtherManaged,
    /// Another one, whose probe fails.
    FailingManaged,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Kernel, Self::Failing, Self::Unready, Self::Managed, Self::OtherManaged, Self::FailingManaged];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "nic",
            Self::Failing => "broken-nic",
            Self::Unready => "early-nic",
            Self::Managed => "vfio-pci",
            Self::OtherManaged => "mlx5-vfio",
            Self::FailingManaged => "broken-vfio",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it manages its own DMA (`driver_managed_dma`).
    pub(crate) const fn manages_dma(self) -> bool {
        matches!(self, Self::Managed | Self::OtherManaged | Self::FailingManaged)
    }

    /// Whether its probe fails.
    pub(crate) const fn fails(self) -> bool {
        matches!(self, Self::Failing | Self::FailingManaged)
    }
}

/// The devices of a scene: both in one group.
pub(crate) const A: &str = "A";
/// See [`A`].
pub(crate) const B: &str = "B";

/// Why there is no claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Somebody has the group (`EPERM`).
    Taken,
    /// The device is in no group any more, or has no driver that could claim (`ENODEV`).
    Gone,
}

/// A design under scrutiny. Clones are the same group.
///
/// It writes into the timeline what a driver does; what user space does is written by [`crate::user`].
pub(crate) trait Design: Clone + Send + Sync + 'static {
    /// A claim in somebody's hands.
    type Claim: Send;
    /// What it does while a driver binds.
    type Binding: Binding;

    /// The bus on which it is played.
    fn machine(&self) -> &Machine<Self::Binding>;

    /// Claims the group as a whole, as VFIO does.
    fn claim_group(&self, owner: &'static str) -> Result<Self::Claim, Refusal>;

    /// Claims the group for one device, as iommufd does.
    fn claim_device(&self, owner: &'static str, device: &'static str) -> Result<Self::Claim, Refusal>;

    /// Whether the group has exactly one user, as whoever attaches a domain of its own to `device` must know.
    fn has_one_user(&self, device: &'static str) -> bool;

    /// The module of this driver is freed.
    fn freed(&self, driver: Kind);

    /// Binds a driver; whether it was bound.
    fn bind(&self, driver: Kind, device: &'static str) -> bool {
        self.machine().bind(driver, device)
    }

    /// Unbinds the driver that is bound, however long its user keeps the device open.
    fn unbind(&self, driver: Kind, device: &'static str) {
        self.machine().unbind(driver, device);
    }

    /// Unregisters the driver from its bus and frees its module.
    fn unload(&self, driver: Kind) {
        self.machine().unload(driver);
        self.freed(driver);
    }

    /// Opens a device that is bound to [`Kind::Managed`], so that its driver has to wait.
    fn open(&self, device: &'static str) -> Option<UserGuard> {
        self.machine().open(device)
    }
}
