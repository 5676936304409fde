//! What a step does: every form of the language, each word read into its type.

use std::fmt;

use anyhow::{Context as _, Result, bail};

/// Every form of a step; words in capitals stand for something. An error shows the one that was meant.
const FORMS: [&str; 36] = [
    "bind DEV DRIVER",
    "unbind DEV",
    "probe DEV",
    "driver DEV",
    "group DEV",
    "type DEV",
    "set-type DEV TYPE",
    "remove DEV",
    "rescan",
    "wait",
    "close H",
    "H = container",
    "H = group DEV",
    "H = iommufd",
    "H = cdev DEV",
    "H = G get-device DEV",
    "H = I ioas-alloc",
    "H = V hwpt-alloc A",
    "G status",
    "G set-container C",
    "G unset-container",
    "C check-extension TYPE",
    "C set-iommu TYPE",
    "C map IOVA LEN [OFFSET]",
    "A map-any LEN [OFFSET]",
    "C unmap IOVA LEN",
    "C unmap-all",
    "A copy-from B SRC LEN DST",
    "A ranges",
    "A allow [FIRST-LAST...]",
    "V bind I",
    "V attach A",
    "V detach",
    "A destroy",
    "D info",
    "D reset",
];

/// What a step does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// To the machine, through sysfs.
    Machine(MachineStep),
    /// Opens something, which the handle then names.
    Open(Handle, Open),
    /// Calls what a handle names.
    Call(Handle, Call),
    /// Closes what a handle names.
    Close(Handle),
}

/// The name that a file gives to something open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Handle(String);

/// What is done to the machine through sysfs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MachineStep {
    Bind { device: String, driver: String },
    Unbind { device: String },
    Probe { device: String },
    Driver { device: String },
    Group { device: String },
    Type { device: String },
    SetType { device: String, kind: String },
    Remove { device: String },
    Rescan,
    Wait,
}

/// What a handle can be opened on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Open {
    Container,
    Group { device: String },
    Iommufd,
    DeviceFile { device: String },
    DeviceOfGroup { group: Handle, device: String },
    Ioas { iommufd: Handle },
    PageTable { bound: Handle, parent: Handle },
}

/// What a handle can be asked for. Which kind of thing the handle names is known only while playing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Status,
    SetContainer { container: Handle },
    UnsetContainer,
    CheckExtension(IommuType),
    SetIommu(IommuType),
    Map { iova: u64, bytes: u64, offset: Option<u64> },
    MapAny { bytes: u64, offset: Option<u64> },
    Unmap { iova: u64, bytes: u64 },
    UnmapAll,
    CopyFrom { source: Handle, from: u64, bytes: u64, to: u64 },
    Ranges,
    Allow(Vec<Range>),
    Bind { iommufd: Handle },
    Attach { to: Handle },
    Detach,
    Destroy,
    DeviceInfo,
    Reset,
}

/// The type of a container's IOMMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IommuType {
    Type1,
    Type1v2,
    Spapr,
    Nesting,
}

/// Addresses from the first to the last, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Action {
    /// Reads the words of a step, without `&`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let read = match words {
            [name, "=", rest @ ..] => Open::parse(rest).map(|open| Self::Open(handle(name), open)),
            ["close", name] => Some(Self::Close(handle(name))),
            _ => match MachineStep::parse(words) {
                Some(step) => Some(Self::Machine(step)),
                None => Call::parse(words)?,
            },
        };
        match (read, meant(words)) {
            (Some(action), _) => Ok(action),
            (None, Some(form)) => bail!("not a step: `{}`; this one is `{form}`", words.join(" ")),
            (None, None) => bail!("not a step: `{}`", words.join(" ")),
        }
    }
}

impl MachineStep {
    fn parse(words: &[&str]) -> Option<Self> {
        let text = |word: &&str| (*word).to_owned();
        Some(match words {
            ["bind", device, driver] => Self::Bind { device: text(device), driver: text(driver) },
            ["unbind", device] => Self::Unbind { device: text(device) },
            ["probe", device] => Self::Probe { device: text(device) },
            ["driver", device] => Self::Driver { device: text(device) },
            ["group", device] => Self::Group { device: text(device) },
            ["type", device] => Self::Type { device: text(device) },
            ["set-type", device, kind] => Self::SetType { device: text(device), kind: text(kind) },
            ["remove", device] => Self::Remove { device: text(device) },
            ["rescan"] => Self::Rescan,
            ["wait"] => Self::Wait,
            _ => return None,
        })
    }
}

impl Open {
    fn parse(words: &[&str]) -> Option<Self> {
        Some(match words {
            ["container"] => Self::Container,
            ["iommufd"] => Self::Iommufd,
            ["group", device] => Self::Group { device: (*device).to_owned() },
            ["cdev", device] => Self::DeviceFile { device: (*device).to_owned() },
            [group, "get-device", device] => Self::DeviceOfGroup { group: handle(group), device: (*device).to_owned() },
            [iommufd, "ioas-alloc"] => Self::Ioas { iommufd: handle(iommufd) },
            [bound, "hwpt-alloc", parent] => Self::PageTable { bound: handle(bound), parent: handle(parent) },
            _ => return None,
        })
    }
}

impl Call {
    fn parse(words: &[&str]) -> Result<Option<Action>> {
        let [name, words @ ..] = words else { return Ok(None) };
        let call = match words {
            ["status"] => Self::Status,
            ["set-container", container] => Self::SetContainer { container: handle(container) },
            ["unset-container"] => Self::UnsetContainer,
            ["check-extension", kind] => Self::CheckExtension(IommuType::parse(kind)?),
            ["set-iommu", kind] => Self::SetIommu(IommuType::parse(kind)?),
            ["map", iova, bytes] => Self::Map { iova: number(iova)?, bytes: number(bytes)?, offset: None },
            ["map", iova, bytes, offset] => {
                Self::Map { iova: number(iova)?, bytes: number(bytes)?, offset: Some(number(offset)?) }
            }
            ["map-any", bytes] => Self::MapAny { bytes: number(bytes)?, offset: None },
            ["map-any", bytes, offset] => Self::MapAny { bytes: number(bytes)?, offset: Some(number(offset)?) },
            ["unmap", iova, bytes] => Self::Unmap { iova: number(iova)?, bytes: number(bytes)? },
            ["unmap-all"] => Self::UnmapAll,
            ["copy-from", source, from, bytes, to] => {
                Self::CopyFrom { source: handle(source), from: number(from)?, bytes: number(bytes)?, to: number(to)? }
            }
            ["ranges"] => Self::Ranges,
            ["allow", ranges @ ..] => Self::Allow(ranges.iter().map(|word| Range::parse(word)).collect::<Result<_>>()?),
            ["bind", iommufd] => Self::Bind { iommufd: handle(iommufd) },
            ["attach", to] => Self::Attach { to: handle(to) },
            ["detach"] => Self::Detach,
            ["destroy"] => Self::Destroy,
            ["info"] => Self::DeviceInfo,
            ["reset"] => Self::Reset,
            _ => return Ok(None),
        };
        Ok(Some(Action::Call(handle(name), call)))
    }
}

impl IommuType {
    fn parse(word: &str) -> Result<Self> {
        Ok(match word {
            "type1" => Self::Type1,
            "type1v2" => Self::Type1v2,
            "spapr" => Self::Spapr,
            "nesting" => Self::Nesting,
            _ => bail!("not a type of IOMMU: `{word}` (type1, type1v2, spapr, nesting)"),
        })
    }
}

impl Range {
    fn parse(word: &str) -> Result<Self> {
        let (first, last) = word.split_once('-').with_context(|| format!("not FIRST-LAST: `{word}`"))?;
        Ok(Self { first: number(first)?, last: number(last)? })
    }
}

fn handle(word: &str) -> Handle {
    Handle(word.to_owned())
}

/// Decimal or `0x…`, with `K`, `M` or `G` behind.
pub(crate) fn number(word: &str) -> Result<u64> {
    let units = [('K', 10), ('M', 20), ('G', 30)];
    let (digits, shift) =
        units.iter().find_map(|(unit, shift)| Some((word.strip_suffix(*unit)?, *shift))).unwrap_or((word, 0));
    let (digits, radix) = digits.strip_prefix("0x").map_or((digits, 10), |hex| (hex, 16));
    // `from_str_radix` takes a sign, the language does not.
    let plain = digits.chars().all(|digit| digit.is_digit(radix)) && !digits.is_empty();
    let value = if plain { u128::from_str_radix(digits, radix).ok() } else { None };
    let value = value.with_context(|| format!("not a number: `{word}`"))?;
    let scaled = value.checked_mul(1 << shift).and_then(|bytes| u64::try_from(bytes).ok());
    scaled.with_context(|| format!("more than 64 bits: `{word}`"))
}

/// The form whose fixed words stand where they do in `words`.
fn meant(words: &[&str]) -> Option<&'static str> {
    let fixed = |word: &str| word.starts_with(|c: char| c.is_ascii_lowercase() || c == '=');
    FORMS.into_iter().find(|form| {
        let mut places = form.split(' ').enumerate().filter(|(_, word)| fixed(word));
        places.all(|(place, word)| words.get(place).is_some_and(|found| *found == word))
    })
}
