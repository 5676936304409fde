//! What every design of DMA ownership has in common: drivers come and go, user space claims and releases.

/// The drivers of a scene.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Does DMA through the DMA API.
    Kernel,
    /// As that, but its probe fails.
    Failing,
    /// Manages its own DMA, and can be held open by a user (vfio-pci).
    Managed,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Kernel, Self::Failing, Self::Managed];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "nic",
            Self::Failing => "broken",
            Self::Managed => "vfio-pci",
        }
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
    /// The device is in no group any more (`ENODEV`).
    Gone,
}

/// A design under scrutiny. Clones are the same group.
///
/// It writes into the timeline what a driver does; what user space does is written by [`crate::user`].
pub(crate) trait Design: Clone + Send + Sync + 'static {
    /// A claim in somebody's hands.
    type Claim: Send;
    /// A device that is held open.
    type Open: Send;

    /// Binds a driver; whether it was bound.
    fn bind(&self, driver: Kind, device: &'static str) -> bool;

    /// Unbinds the driver that is bound, however long its user keeps the device open.
    fn unbind(&self, driver: Kind, device: &'static str);

    /// Unregisters the driver from its bus and frees its module.
    fn unload(&self, driver: Kind);

    /// Opens a device that is bound to [`Kind::Managed`], so that its driver has to wait.
    fn open(&self, device: &'static str) -> Option<Self::Open>;

    /// Claims the group as a whole, as VFIO does.
    fn claim_group(&self, owner: &'static str) -> Result<Self::Claim, Refusal>;

    /// Claims the group for one device, as iommufd does.
    fn claim_device(&self, owner: &'static str, device: &'static str) -> Result<Self::Claim, Refusal>;
}
