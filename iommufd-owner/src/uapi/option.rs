//! Options, and the address space that VFIO's calls are about.

use iommu_core::user_memory::Account;

use super::frame::{self, Frame};
use super::ioas::reserved;
use super::structures::{IommuOption, VfioIoas};
use super::table::{Call, DONE, Outcome};
use super::{CallError, Capability};
use crate::compat::CompatError;
use crate::io_page_table::LargePages;
use crate::object_id::ObjectId;

/// `IOMMU_OPTION_RLIMIT_MODE`.
const RLIMIT_MODE: u32 = 0;
/// `IOMMU_OPTION_HUGE_PAGES`.
const HUGE_PAGES: u32 = 1;

/// `IOMMU_OPTION_OP_SET`.
const OP_SET: u16 = 0;
/// `IOMMU_OPTION_OP_GET`.
const OP_GET: u16 = 1;

/// `IOMMU_VFIO_IOAS_GET`.
const VFIO_IOAS_GET: u16 = 0;
/// `IOMMU_VFIO_IOAS_SET`.
const VFIO_IOAS_SET: u16 = 1;
/// `IOMMU_VFIO_IOAS_CLEAR`.
const VFIO_IOAS_CLEAR: u16 = 2;

impl Call for IommuOption {
    // Table Ft7, Ft20.8.
    fn run(mut self, frame: &Frame<'_>) -> Outcome {
        reserved(self.reserved == 0)?;
        match self.option_id {
            RLIMIT_MODE => self.rlimit_mode(frame)?,
            HUGE_PAGES => self.huge_pages(frame)?,
            _ => return Err(self.unknown()),
        }
        // The value alone is written.
        // F86.
        let at = frame::plus(frame.at, core::mem::offset_of!(Self, val64) as u64)?;
        frame::write(frame.caller, at, &self.val64)?;
        DONE
    }
}

impl IommuOption {
    fn rlimit_mode(&mut self, frame: &Frame<'_>) -> Result<(), CallError> {
        match self.op {
            _ if self.object_id != 0 => Err(self.unknown()),
            OP_GET => {
                self.val64 = u64::from(frame.context.account() == Account::Process);
                Ok(())
            }
            OP_SET => self.set_rlimit_mode(frame),
            _ => Err(self.unknown()),
        }
    }

    // Ft7.3 to Ft7.5.
    fn set_rlimit_mode(&self, frame: &Frame<'_>) -> Result<(), CallError> {
        let capability = Capability::SysResource;
        if !frame.caller.has(capability) {
            return Err(CallError::NotCapable { capability });
        }
        let account = match self.val64 {
            0 => Some(Account::User),
            1 => Some(Account::Process),
            _ => None,
        };
        // That there are objects is told before that the value is wrong.
        frame.context.set_account(account.unwrap_or(frame.context.account()))?;
        account.map(drop).ok_or(self.bad_value())
    }

    // Ft7.6 to Ft7.11.
    fn huge_pages(&mut self, frame: &Frame<'_>) -> Result<(), CallError> {
        let ioas = frame.context.ioas(ObjectId::new(self.object_id))?;
        match (self.op, self.val64) {
            (OP_GET, _) => self.val64 = u64::from(ioas.lock_table().large_pages == LargePages::Enabled),
            (OP_SET, 0) => ioas.set_large_pages(LargePages::Disabled)?,
            (OP_SET, 1) => ioas.set_large_pages(LargePages::Enabled)?,
            (OP_SET, _) => return Err(self.bad_value()),
            _ => return Err(self.unknown()),
        }
        Ok(())
    }

    fn unknown(&self) -> CallError {
        CallError::NoOption { option: self.option_id, operation: self.op }
    }

    fn bad_value(&self) -> CallError {
        CallError::BadValue { option: self.option_id, value: self.val64 }
    }
}

impl Call for VfioIoas {
    // Ft12.1 to Ft12.4, Ft20.9.
    fn run(mut self, frame: &Frame<'_>) -> Outcome {
        reserved(self.reserved == 0)?;
        match self.op {
            VFIO_IOAS_GET => {
                self.ioas_id = frame.context.compat_ioas().ok_or(CompatError::NoIoas)?.get();
                frame.reply(&self)?;
            }
            VFIO_IOAS_SET => frame.context.set_compat_ioas(ObjectId::new(self.ioas_id))?,
            VFIO_IOAS_CLEAR => frame.context.clear_compat_ioas(),
            operation => return Err(CallError::NoCompatOperation { operation }),
        }
        DONE
    }
}
