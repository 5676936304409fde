//! Features of a PCI function: low power, and the token of a physical function.
// V94, V95, V103.

use core::mem;

use iommu_core::device_model::Errno;
use iommu_core::device_model::pci::PciFunction;

use super::admission::EXT_SRIOV;
use super::interrupts::Due;
use super::{Session, VfioPciDevice};
use crate::device_ops::{Feature, FeatureAccess, FeatureError, FeatureId, FeatureSupport, Trigger};

/// The token of a physical function.
pub(super) type Token = [u8; 16];

/// Whether the user has let the device enter a low-power state.
#[derive(Debug, Default)]
pub(super) enum Power {
    #[default]
    On,
    /// Until the user ends it.
    Low,
    /// Until the device is used next, which signals this.
    LowUntilUse(Trigger),
}

/// Whether the function can have virtual functions.
fn is_physical(function: &PciFunction) -> bool {
    function.physical_function.is_none() && function.config.extended_capabilities().any(|found| found.id == EXT_SRIOV)
}

impl VfioPciDevice {
    pub(super) fn supports(&self, id: FeatureId) -> Option<FeatureSupport> {
        let bytes = match id {
            FeatureId::VF_TOKEN if is_physical(&self.function) => 16,
            FeatureId::LOW_POWER_ENTRY | FeatureId::LOW_POWER_EXIT => 0,
            FeatureId::LOW_POWER_ENTRY_WITH_WAKEUP => 8,
            _ => return None,
        };
        Some(FeatureSupport { access: FeatureAccess::Set, bytes })
    }

    pub(super) fn change_feature(&self, feature: Feature) -> Result<(), FeatureError> {
        let unsupported = FeatureError::Unsupported { id: feature.id() };
        match feature {
            Feature::VfToken(token) if is_physical(&self.function) => {
                self.state.lock().token = Some(token);
                Ok(())
            }
            Feature::LowPowerEntry => self.enter_low_power(Power::Low),
            Feature::LowPowerEntryWithWakeup(eventfd) => match eventfd.trigger() {
                Ok(Some(trigger)) => self.enter_low_power(Power::LowUntilUse(trigger)),
                Ok(None) => Err(FeatureError::BadEventfd { errno: Errno::EINVAL }),
                Err(errno) => Err(FeatureError::BadEventfd { errno }),
            },
            Feature::LowPowerExit => {
                let ended = self.state.lock().session.as_mut().map(|session| mem::take(&mut session.power));
                drop(ended);
                Ok(())
            }
            _ => Err(unsupported),
        }
    }

    fn enter_low_power(&self, how: Power) -> Result<(), FeatureError> {
        match &mut self.state.lock().session {
            Some(Session { power: power @ Power::On, .. }) => {
                *power = how;
                Ok(())
            }
            _ => Err(FeatureError::LowPower),
        }
    }

    /// The device is used: it is resumed for as long as that takes, or for good.
    pub(super) fn wake(&self) {
        self.change(|state| {
            let Some(session) = &mut state.session else { return ((), Due::default()) };
            match &session.power {
                Power::LowUntilUse(wakeup) => {
                    let due = Due::signal([wakeup.clone()]);
                    session.power = Power::On;
                    ((), due)
                }
                Power::On | Power::Low => ((), Due::default()),
            }
        });
    }

    /// Whether a user who asks for `name` means the device, which is called `device`, and may have it.
    pub(super) fn is_asked_for(&self, device: &str, name: &str) -> Result<bool, Errno> {
        let Some(options) = name.strip_prefix(device) else { return Ok(false) };
        if options.is_empty() {
            return Ok(true);
        }
        if !options.starts_with(' ') {
            return Ok(false);
        }
        let Some(token) = parse_options(options)? else { return Ok(true) };
        if !is_physical(&self.function) {
            return Err(Errno::EINVAL);
        }
        // No virtual function is in use, so the token is given and not shown.
        self.state.lock().token = Some(token);
        Ok(true)
    }
}

/// The token among the options behind a name, each after a blank.
fn parse_options(options: &str) -> Result<Option<Token>, Errno> {
    let mut token = None;
    for option in options.split(' ').filter(|option| !option.is_empty()) {
        let uuid = option.strip_prefix("vf_token=").filter(|_| token.is_none()).ok_or(Errno::EINVAL)?;
        token = Some(parse_uuid(uuid).ok_or(Errno::EINVAL)?);
    }
    Ok(token)
}

/// Reads `8-4-4-4-12` hexadecimal digits.
fn parse_uuid(text: &str) -> Option<Token> {
    let mut token = Token::default();
    let groups = [8, 4, 4, 4, 12];
    let parts = text.split('-');
    let fits =
        parts.clone().map(str::len).eq(groups) && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    if !fits {
        return None;
    }
    let mut digits = parts.flat_map(str::chars).filter_map(|digit| digit.to_digit(16));
    for byte in &mut token {
        let (high, low) = (digits.next()?, digits.next()?);
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(token)
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_uuid_behind_the_name() {
        let uuid = "00112233-4455-6677-8899-aabbccddeeff";
        let token = [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
        let given = std::format!(" vf_token={uuid}");
        assert_eq!(parse_options(""), Ok(None));
        assert_eq!(parse_options(" "), Ok(None));
        assert_eq!(parse_options(&given), Ok(Some(token)));
        assert_eq!(parse_options(&std::format!("{given}{given}")), Err(Errno::EINVAL), "twice");
        for wrong in [" vf_token=", " vf_token=0011", " token=1", " vf_token=00112233-4455-6677-8899-aabbccddeefg"] {
            assert_eq!(parse_options(wrong), Err(Errno::EINVAL), "{wrong}");
        }
    }
}
