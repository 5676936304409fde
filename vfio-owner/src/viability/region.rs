//! Reserved regions in whatever serde writes and reads, as a line of sysfs's `reserved_regions`; for `serde(with = …)`.

use alloc::string::String;

use iommu_core::address::Iova;
use iommu_core::reserved::{RegionKind, ReservedRegion};
use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serializer};

/// Writes the region as `0x00000000fee00000 0x00000000feefffff msi`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(region: &ReservedRegion, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(region)
}

/// Reads what [`serialize`] wrote.
///
/// # Errors
/// The text is no such line.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ReservedRegion, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::custom("not a reserved region: expected first address, last address and kind"))
}

fn parse(text: &str) -> Option<ReservedRegion> {
    let mut words = text.split(' ');
    let mut address = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok().map(Iova::new);
    let (first, last) = (address()?, address()?);
    let name = words.next()?;
    let kinds = [RegionKind::Direct, RegionKind::DirectRelaxable, RegionKind::Reserved, RegionKind::Msi];
    let kind = kinds.into_iter().find(|kind| kind.name() == name)?;
    (first <= last && words.next().is_none()).then_some(ReservedRegion { first, kind, last })
}
