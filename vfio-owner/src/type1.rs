//! The container's IOMMU that Linux has on x86 and ARM, in its two versions.
//!
//! Mappings belong to the container: each is in the page tables of every domain, and the memory behind it is pinned once.
//! Groups share a domain where the hardware lets them.
//!
//! | | version 1 | version 2 |
//! |---|---|---|
//! | unmap of a part of a mapping | the whole mapping goes, if the range has its first address; else nothing | refused |
//! | written pages | not told | told |
//!
//! Real groups cannot tell type1 which pages were written, so every mapped page counts as written. Devices without
//! an IOMMU of their own (mdev), which could, are not modelled; neither are their pins and callbacks.
// Vt14.14, V51, V50, V52.

mod attach;
mod container;
mod mapping;
mod reach;

use alloc::boxed::Box;

use iommu_core::PhysicalMemory;

use crate::backend::{Backend, ContainerIommu, Extension};
use crate::error::SetIommuError;
use container::{Type1Container, Version};

/// The backend: what a [`Vfio`](crate::Vfio) is given so that containers can be set to type1.
#[derive(Debug, Clone)]
pub struct Type1 {
    memory: PhysicalMemory,
    config: Type1Config,
}

/// What the administrator of a machine may set.
#[derive(Debug, Clone, Copy)]
pub struct Type1Config {
    /// How many mappings a container may have.
    // V44.
    pub dma_entry_limit: u32,
    /// Whether a device that could raise others' interrupts is let in.
    // Vt14.12.
    pub unsafe_interrupts: UnsafeInterrupts,
}

impl Default for Type1Config {
    /// As Linux: 65535 mappings, no unsafe interrupts.
    fn default() -> Self {
        Self { dma_entry_limit: 65_535, unsafe_interrupts: UnsafeInterrupts::Refuse }
    }
}

/// What becomes of a group whose interrupts are not isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnsafeInterrupts {
    /// It is refused.
    #[default]
    Refuse,
    /// It is let in.
    Allow,
}

impl Type1 {
    /// Returns the backend with Linux's settings, whose mappings `memory` permits.
    pub fn new(memory: &PhysicalMemory) -> Self {
        Self::with_config(memory, Type1Config::default())
    }

    /// Returns the backend with these settings.
    pub fn with_config(memory: &PhysicalMemory, config: Type1Config) -> Self {
        Self { memory: memory.clone(), config }
    }
}

impl Backend for Type1 {
    fn check_extension(&self, extension: Extension) -> u32 {
        let known = [Extension::TYPE1, Extension::TYPE1_V2, Extension::NESTING, Extension::UNMAP_ALL];
        u32::from(known.contains(&extension))
    }

    fn open(&self, kind: Extension) -> Result<Box<dyn ContainerIommu>, SetIommuError> {
        let version = match kind {
            Extension::TYPE1 => Version::One,
            Extension::TYPE1_V2 => Version::Two,
            Extension::NESTING => Version::Nesting,
            _ => return Err(SetIommuError::NotAKind { kind }),
        };
        Ok(Box::new(Type1Container::new(self.memory.clone(), version, self.config)))
    }
}
