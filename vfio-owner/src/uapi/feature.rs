//! `VFIO_DEVICE_FEATURE`.

use alloc::vec;

use iommu_core::device_model::Errno;

use super::argument::{Argument, check_size};
use super::caller::Reply;
use super::wire;
use crate::OpenDevice;
use crate::device_ops::{BusMaster, Feature, FeatureError, FeatureId, FeatureSupport};

const NUMBER: u32 = 0xffff;
const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;
const PROBE: u32 = 1 << 18;

// Table Vt29.
pub(super) fn feature(device: &OpenDevice, argument: Argument<'_>) -> Result<Reply, Errno> {
    let head: wire::Head = argument.read()?;
    check_size(head.argsz, size_of::<wire::Head>())?;
    let get_and_set = head.flags & (GET | SET) == GET | SET;
    if head.flags & !(NUMBER | GET | SET | PROBE) != 0 || get_and_set && head.flags & PROBE == 0 {
        return Err(Errno::EINVAL);
    }
    let id = FeatureId::new(u16::try_from(head.flags & NUMBER).unwrap_or(u16::MAX));
    let refused = |error: FeatureError| argument.refuse(error.errno(), &error);
    let support = device.feature(id).ok_or_else(|| refused(FeatureError::Unsupported { id }))?;
    let FeatureSupport { access, bytes } = support;
    if head.flags & GET != 0 && !access.gets() || head.flags & SET != 0 && !access.sets() {
        return Err(Errno::EINVAL);
    }
    if head.flags & PROBE != 0 {
        return Ok(Reply::Value(0));
    }
    if head.flags & (GET | SET) == 0 || head.argsz.saturating_sub(8) < bytes {
        return Err(Errno::EINVAL);
    }
    let data = argument.behind(size_of::<wire::Head>())?;
    if head.flags & GET != 0 {
        let mut value = device.get_feature(id).map_err(refused)?;
        // No more than there is room for.
        value.truncate(usize::try_from(head.argsz.saturating_sub(8)).unwrap_or(usize::MAX));
        data.put(0, &value)?;
    } else {
        device.set_feature(read(id, bytes, data)?).map_err(refused)?;
    }
    Ok(Reply::Value(0))
}

/// Copies what a feature is set to.
fn read(id: FeatureId, bytes: u32, data: Argument<'_>) -> Result<Feature, Errno> {
    Ok(match id {
        FeatureId::VF_TOKEN => Feature::VfToken(data.read()?),
        FeatureId::LOW_POWER_ENTRY => Feature::LowPowerEntry,
        FeatureId::LOW_POWER_ENTRY_WITH_WAKEUP => {
            let entry: wire::LowPowerEntryWithWakeup = data.read()?;
            // V95.
            if entry.wakeup_eventfd < 0 {
                return Err(Errno::EINVAL);
            }
            Feature::LowPowerEntryWithWakeup(data.eventfd(entry.wakeup_eventfd))
        }
        FeatureId::LOW_POWER_EXIT => Feature::LowPowerExit,
        FeatureId::BUS_MASTER => match data.read::<u32>()? {
            0 => Feature::BusMaster(BusMaster::Clear),
            1 => Feature::BusMaster(BusMaster::Set),
            _ => return Err(Errno::EINVAL),
        },
        _ => {
            let mut raw = vec![0; usize::try_from(bytes).map_err(|_| Errno::EINVAL)?];
            data.fill(0, &mut raw)?;
            Feature::Other { id, data: raw }
        }
    })
}
