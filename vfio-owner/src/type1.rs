//! type1: the container's IOMMU on x86 and Arm, versions 1 and 2.
//!
//! Mappings belong to the container: each is present in every domain, and its memory is pinned once. Groups share a
//! domain if the IOMMU permits it.
//!
//! | | version 1 | version 2 |
//! |---|---|---|
//! | unmap of a part of a mapping | unmaps all of it if the range contains its first address, else nothing | refused |
//! | dirty tracking | no | yes |
//!
//! The hardware of a group does not report dirty pages to type1, so every mapped page counts as dirty. Devices without
//! an IOMMU of their own (mdev) are not modelled, nor are their pins and callbacks.
// Vt14.14, V51, V50, V52.

mod attach;
mod container;
mod mapping;
mod processes;
mod reach;

use alloc::boxed::Box;

use iommu_core::PhysicalMemory;

use crate::backend::{Backend, ContainerIommu, Extension};
use crate::container::SetIommuError;
use container::{Type1Container, Version};

/// The type1 backend, passed to [`Vfio`](crate::Vfio).
#[derive(Debug, Clone)]
pub struct Type1 {
    memory: PhysicalMemory,
    config: Type1Config,
}

/// Settings of type1 that are module parameters in Linux.
#[derive(Debug, Clone, Copy)]
pub struct Type1Config {
    /// Maximum number of mappings of a container (`dma_entry_limit`).
    // V44.
    pub dma_entry_limit: u32,
    /// Whether groups without interrupt isolation are accepted (`allow_unsafe_interrupts`).
    // Vt14.12.
    pub unsafe_interrupts: UnsafeInterrupts,
}

impl Default for Type1Config {
    /// Returns the settings of Linux: 65535 mappings, no unsafe interrupts.
    fn default() -> Self {
        Self { dma_entry_limit: 65_535, unsafe_interrupts: UnsafeInterrupts::Refuse }
    }
}

/// What to do with a group whose interrupts are not isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnsafeInterrupts {
    /// Refuses the group.
    #[default]
    Refuse,
    /// Accepts the group.
    Allow,
}

impl Type1 {
    /// Creates the backend with Linux's settings. `memory` is the right to map physical memory.
    pub fn new(memory: &PhysicalMemory) -> Self {
        Self::with_config(memory, Type1Config::default())
    }

    /// Creates the backend with these settings.
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
