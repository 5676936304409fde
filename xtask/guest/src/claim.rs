//! A device taken as a VMM takes it, with the crate that VMMs use, and given back.

use std::path::Path;
use std::sync::Arc;

use live_guest::Claim;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError};

/// Takes the device through its group and gives it back.
pub(crate) fn claim(device: &str) -> Claim {
    match take(device) {
        Ok(()) => Claim::Granted,
        Err(error) => Claim::Refused { reason: error.to_string() },
    }
}

fn take(device: &str) -> Result<(), VfioError> {
    let container = Arc::new(VfioContainer::new(None)?);
    let folder = format!("/sys/bus/pci/devices/{device}");
    VfioDevice::new(Path::new(&folder), container, false).map(drop)
}
