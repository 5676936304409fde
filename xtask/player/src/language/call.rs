//! What a handle is asked for.

use anyhow::{Context as _, Result, bail};

use super::number::{hex, number, small, word};
use super::step::{Handle, handle};

/// What a handle can be asked for. Which kind of thing the handle names is known only while playing.
#[derive(Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the words of the step")]
pub enum Call {
    /// The call itself, its structure field by field.
    Ioctl {
        number: u8,
        fields: Vec<Field>,
    },
    /// The call with a null pointer.
    IoctlNull {
        number: u8,
    },

    Status,
    SetContainer {
        container: Handle,
    },
    UnsetContainer,

    CheckExtension(u32),
    SetIommu(u32),
    IommuInfo,
    Map {
        iova: u64,
        bytes: u64,
        offset: u64,
        rights: Rights,
    },
    MapVaddr {
        iova: u64,
        bytes: u64,
        offset: u64,
    },
    Unmap {
        iova: u64,
        bytes: u64,
    },
    UnmapAll,
    UnmapVaddr {
        iova: u64,
        bytes: u64,
    },
    UnmapDirty {
        iova: u64,
        bytes: u64,
        page: u64,
        bitmap: Option<u64>,
    },
    Dirty(Dirty),

    MapAny {
        bytes: u64,
        offset: u64,
    },
    CopyFrom {
        source: Handle,
        from: u64,
        bytes: u64,
        to: CopyTo,
        rights: Rights,
    },
    /// With room for so many.
    Ranges(Option<u32>),
    Allow(Vec<Range>),
    HugePages(Option<u64>),
    RlimitMode(Option<u64>),
    VfioIoas(VfioIoas),
    Invalidate {
        kind: u32,
        length: u32,
        count: u32,
    },
    HwInfo {
        length: u32,
    },
    Destroy,

    Bind {
        iommufd: Handle,
    },
    Attach {
        to: Handle,
    },
    Detach,
    DeviceInfo {
        argsz: Option<u32>,
    },
    Region(u32),
    Irq(u32),
    SetIrqs {
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        events: Vec<Option<Handle>>,
    },
    ReadRegion {
        region: u32,
        offset: u64,
        bytes: u64,
    },
    WriteRegion {
        region: u32,
        offset: u64,
        data: Vec<u8>,
    },
    Mmap {
        region: u32,
        offset: u64,
        bytes: u64,
    },
    HotResetInfo {
        argsz: Option<u32>,
    },
    HotReset {
        groups: Vec<Handle>,
    },
    Feature {
        flags: u32,
        argsz: Option<u32>,
    },
    Reset,

    ReadEvent,
    ReadQueue {
        bytes: u64,
    },
    WriteQueue {
        bytes: u64,
    },
}

/// A field of a structure.
#[derive(Debug, PartialEq, Eq)]
pub enum Field {
    /// 32 bits.
    Word(u32),
    /// 64 bits.
    Quad(u64),
    /// The address of a place in the buffer.
    Address(u64),
    /// The id of an object.
    Id(Handle),
    /// The number of a file.
    File(Handle),
}

/// What a device may do with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say it themselves")]
pub struct Rights {
    pub read: bool,
    pub write: bool,
}

/// Where a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyTo {
    /// Here.
    Fixed(u64),
    /// Where the IOAS picks.
    Any,
}

/// Dirty tracking, of a container or of a page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the words of the step")]
pub enum Dirty {
    Start,
    Stop,
    On,
    Off,
    /// `last` is the size of a container's bitmap, or the flags for a page table.
    Get {
        iova: u64,
        bytes: u64,
        page: u64,
        last: Option<u64>,
    },
}

/// What is done with the IOAS that VFIO's calls mean.
#[derive(Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say it themselves")]
pub enum VfioIoas {
    Get,
    Set(Handle),
    Clear,
}

/// Addresses from the first to the last, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say it themselves")]
pub struct Range {
    pub first: u64,
    pub last: u64,
}

impl Rights {
    /// Both.
    pub const ALL: Self = Self { read: true, write: true };
}

/// The page of bitmaps unless another is named.
const PAGE: u64 = 4096;

impl Call {
    /// Reads the words behind the handle.
    pub(super) fn parse(words: &[&str]) -> Result<Option<Self>> {
        for of in [Self::of_any_file, Self::of_address_space, Self::of_device] {
            if let Some(call) = of(words)? {
                return Ok(Some(call));
            }
        }
        Ok(None)
    }

    fn of_any_file(words: &[&str]) -> Result<Option<Self>> {
        Ok(Some(match words {
            ["ioctl", number, fields @ ..] => {
                let fields = fields.iter().map(|word| Field::parse(word)).collect::<Result<_>>()?;
                Self::Ioctl { number: small(number)?, fields }
            }
            ["ioctl-null", number] => Self::IoctlNull { number: small(number)? },
            ["status"] => Self::Status,
            ["set-container", container] => Self::SetContainer { container: handle(container) },
            ["unset-container"] => Self::UnsetContainer,
            ["check-extension", kind] => Self::CheckExtension(extension(kind)?),
            ["set-iommu", kind] => Self::SetIommu(extension(kind)?),
            ["iommu-info"] => Self::IommuInfo,
            ["vfio-ioas", "get"] => Self::VfioIoas(VfioIoas::Get),
            ["vfio-ioas", "set", ioas] => Self::VfioIoas(VfioIoas::Set(handle(ioas))),
            ["vfio-ioas", "clear"] => Self::VfioIoas(VfioIoas::Clear),
            ["rlimit-mode"] => Self::RlimitMode(None),
            ["rlimit-mode", value] => Self::RlimitMode(Some(number(value)?)),
            ["invalidate", kind, length, count] => {
                Self::Invalidate { kind: word(kind)?, length: word(length)?, count: word(count)? }
            }
            ["hw-info", length] => Self::HwInfo { length: word(length)? },
            ["destroy"] => Self::Destroy,
            ["read"] => Self::ReadEvent,
            ["read", bytes] => Self::ReadQueue { bytes: number(bytes)? },
            ["write", bytes] => Self::WriteQueue { bytes: number(bytes)? },
            _ => return Ok(None),
        }))
    }

    fn of_address_space(words: &[&str]) -> Result<Option<Self>> {
        Ok(Some(match words {
            ["map", iova, bytes, rest @ ..] => {
                let (offset, rights) = match rest {
                    [] => (0, Rights::ALL),
                    [offset] => (number(offset)?, Rights::ALL),
                    [offset, rights] => (number(offset)?, Rights::parse(rights)?),
                    _ => return Ok(None),
                };
                Self::Map { iova: number(iova)?, bytes: number(bytes)?, offset, rights }
            }
            ["map-any", bytes] => Self::MapAny { bytes: number(bytes)?, offset: 0 },
            ["map-any", bytes, offset] => Self::MapAny { bytes: number(bytes)?, offset: number(offset)? },
            ["map-vaddr", iova, bytes] => Self::MapVaddr { iova: number(iova)?, bytes: number(bytes)?, offset: 0 },
            ["map-vaddr", iova, bytes, offset] => {
                Self::MapVaddr { iova: number(iova)?, bytes: number(bytes)?, offset: number(offset)? }
            }
            ["unmap", iova, bytes] => Self::Unmap { iova: number(iova)?, bytes: number(bytes)? },
            ["unmap-all"] => Self::UnmapAll,
            ["unmap-vaddr", iova, bytes] => Self::UnmapVaddr { iova: number(iova)?, bytes: number(bytes)? },
            ["unmap-dirty", iova, bytes, rest @ ..] => {
                let Some((page, bitmap)) = page_and_last(rest)? else { return Ok(None) };
                Self::UnmapDirty { iova: number(iova)?, bytes: number(bytes)?, page, bitmap }
            }
            ["dirty", "start"] => Self::Dirty(Dirty::Start),
            ["dirty", "stop"] => Self::Dirty(Dirty::Stop),
            ["dirty", "on"] => Self::Dirty(Dirty::On),
            ["dirty", "off"] => Self::Dirty(Dirty::Off),
            ["dirty", "get", iova, bytes, rest @ ..] => {
                let Some((page, last)) = page_and_last(rest)? else { return Ok(None) };
                Self::Dirty(Dirty::Get { iova: number(iova)?, bytes: number(bytes)?, page, last })
            }
            ["copy-from", source, from, bytes, to, rest @ ..] => {
                let rights = match rest {
                    [] => Rights::ALL,
                    [rights] => Rights::parse(rights)?,
                    _ => return Ok(None),
                };
                let to = if *to == "any" { CopyTo::Any } else { CopyTo::Fixed(number(to)?) };
                Self::CopyFrom { source: handle(source), from: number(from)?, bytes: number(bytes)?, to, rights }
            }
            ["ranges"] => Self::Ranges(None),
            ["ranges", room] => Self::Ranges(Some(word(room)?)),
            ["allow", ranges @ ..] => Self::Allow(ranges.iter().map(|word| Range::parse(word)).collect::<Result<_>>()?),
            ["huge-pages"] => Self::HugePages(None),
            ["huge-pages", value] => Self::HugePages(Some(number(value)?)),
            _ => return Ok(None),
        }))
    }

    fn of_device(words: &[&str]) -> Result<Option<Self>> {
        Ok(Some(match words {
            ["bind", iommufd] => Self::Bind { iommufd: handle(iommufd) },
            ["attach", to] => Self::Attach { to: handle(to) },
            ["detach"] => Self::Detach,
            ["info"] => Self::DeviceInfo { argsz: None },
            ["info", argsz] => Self::DeviceInfo { argsz: Some(word(argsz)?) },
            ["region", index] => Self::Region(word(index)?),
            ["irq", index] => Self::Irq(word(index)?),
            ["irqs", index, flags, start, count, events @ ..] => {
                let event = |word: &&str| (*word != "-").then(|| handle(word));
                Self::SetIrqs {
                    index: word(index)?,
                    flags: word(flags)?,
                    start: word(start)?,
                    count: word(count)?,
                    events: events.iter().map(event).collect(),
                }
            }
            ["read", region, offset, bytes] => {
                Self::ReadRegion { region: word(region)?, offset: number(offset)?, bytes: number(bytes)? }
            }
            ["write", region, offset, data] => {
                Self::WriteRegion { region: word(region)?, offset: number(offset)?, data: hex(data)? }
            }
            ["mmap", region, offset, bytes] => {
                Self::Mmap { region: word(region)?, offset: number(offset)?, bytes: number(bytes)? }
            }
            ["hot-reset-info"] => Self::HotResetInfo { argsz: None },
            ["hot-reset-info", argsz] => Self::HotResetInfo { argsz: Some(word(argsz)?) },
            ["hot-reset", groups @ ..] => Self::HotReset { groups: groups.iter().map(|word| handle(word)).collect() },
            ["feature", flags] => Self::Feature { flags: word(flags)?, argsz: None },
            ["feature", flags, argsz] => Self::Feature { flags: word(flags)?, argsz: Some(word(argsz)?) },
            ["reset"] => Self::Reset,
            _ => return Ok(None),
        }))
    }
}

impl Field {
    fn parse(text: &str) -> Result<Self> {
        if let Some(offset) = text.strip_prefix('@') {
            return Ok(Self::Address(number(offset)?));
        }
        if let Some(name) = text.strip_prefix('&') {
            return Ok(Self::Id(handle(name)));
        }
        if let Some(name) = text.strip_prefix("fd:") {
            return Ok(Self::File(handle(name)));
        }
        match text.strip_prefix('q') {
            Some(quad) => Ok(Self::Quad(number(quad)?)),
            None if text == "-1" => Ok(Self::Word(u32::MAX)),
            None => Ok(Self::Word(word(text)?)),
        }
    }
}

impl Rights {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "r" => Self { read: true, write: false },
            "w" => Self { read: false, write: true },
            "rw" => Self::ALL,
            "none" => Self { read: false, write: false },
            _ => bail!("not rights: `{text}` (r, w, rw, none)"),
        })
    }
}

impl Range {
    fn parse(text: &str) -> Result<Self> {
        let (first, last) = text.split_once('-').with_context(|| format!("not FIRST-LAST: `{text}`"))?;
        Ok(Self { first: number(first)?, last: number(last)? })
    }
}

/// The number of a type of IOMMU, or of another extension.
fn extension(text: &str) -> Result<u32> {
    Ok(match text {
        "type1" => 1,
        "spapr" => 2,
        "type1v2" => 3,
        "cc-iommu" => 4,
        "nesting" => 6,
        "noiommu" => 8,
        "unmap-all" => 9,
        "update-vaddr" => 10,
        _ if text.starts_with(|c: char| c.is_ascii_digit()) => word(text)?,
        _ => bail!(
            "not an extension: `{text}` (type1, type1v2, spapr, nesting, cc-iommu, noiommu, unmap-all, update-vaddr, or \
             a number)"
        ),
    })
}

/// `[PAGE [LAST]]`; `None` for more.
fn page_and_last(words: &[&str]) -> Result<Option<(u64, Option<u64>)>> {
    Ok(Some(match words {
        [] => (PAGE, None),
        [page] => (number(page)?, None),
        [page, last] => (number(page)?, Some(number(last)?)),
        _ => return Ok(None),
    }))
}
