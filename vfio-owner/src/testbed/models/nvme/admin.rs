//! Admin commands.

use alloc::vec;
use alloc::vec::Vec;

use iommu_core::device_model::pci::PciFunction;

use super::command::{Command, Status};
use super::controller::{QUEUES, VERSION};
use super::{BLOCK, LARGEST_TRANSFER, NAMESPACE};
use crate::testbed::Slot;

pub(super) const DELETE_SUBMISSION_QUEUE: u8 = 0x00;
pub(super) const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
pub(super) const GET_LOG_PAGE: u8 = 0x02;
pub(super) const DELETE_COMPLETION_QUEUE: u8 = 0x04;
pub(super) const CREATE_COMPLETION_QUEUE: u8 = 0x05;
pub(super) const IDENTIFY: u8 = 0x06;
pub(super) const ABORT: u8 = 0x08;
pub(super) const SET_FEATURES: u8 = 0x09;
pub(super) const GET_FEATURES: u8 = 0x0a;
pub(super) const ASYNC_EVENT_REQUEST: u8 = 0x0c;

/// Setting a feature also for after a reset, of which there is nothing.
pub(super) const SAVE: u32 = 1 << 31;
/// The feature that tells how many queues there are.
pub(super) const NUMBER_OF_QUEUES: u8 = 0x07;

const REVISION: &[u8; 8] = b"1       ";
pub(super) const EVERY_NAMESPACE: u32 = u32::MAX;

/// Returns what the controller tells of itself and its namespace, of so many blocks.
pub(super) fn identify(slot: &Slot, blocks: u64, command: &Command) -> Result<Vec<u8>, Status> {
    let (kind, namespace) = (command.word(0) & 0xff, command.namespace.get());
    let mut page = Page(vec![0; 0x1000]);
    match kind {
        0x00 if namespace == NAMESPACE => describe_namespace(&mut page, blocks),
        0x00 if namespace == EVERY_NAMESPACE => {}
        0x01 => describe_controller(&mut page, slot),
        0x02 if namespace < NAMESPACE => page.put(0, &NAMESPACE.to_le_bytes()),
        0x02 if namespace < EVERY_NAMESPACE - 1 => {}
        0x03 if namespace == NAMESPACE => {
            // A UUID.
            page.put(0, &[3, 16, 0, 0]);
            page.put(4, &uuid(slot.function()));
        }
        0x00 | 0x02 | 0x03 => return Err(Status::INVALID_NAMESPACE),
        _ => return Err(Status::INVALID_FIELD),
    }
    Ok(page.0)
}

fn describe_controller(page: &mut Page, slot: &Slot) {
    let config = &slot.function().config;
    let ids = [config.vendor(), config.device()].map(Option::unwrap_or_default);
    let [vendor, _] = ids.map(u16::to_le_bytes);
    page.put(0, &vendor);
    page.put_text(4, slot.name(), 20);
    page.put_text(24, "simulated NVMe disk", 40);
    page.put(64, REVISION);
    page.put(77, &[LARGEST_TRANSFER.ilog2().saturating_sub(12).to_le_bytes()[0]]);
    page.put(80, &VERSION.to_le_bytes());
    // Four aborts and event requests; firmware in one read-only slot; one entry in the error log; one power state.
    page.put(258, &[3, 3, 3]);
    // Warning and critical temperature, in kelvin.
    page.put(266, &343_u16.to_le_bytes());
    page.put(268, &353_u16.to_le_bytes());
    // Sizes of queue entries, and the number of namespaces.
    page.put(512, &[0x66, 0x44]);
    page.put(516, &NAMESPACE.to_le_bytes());
    // There is a write cache, which flushing empties.
    page.put(525, &[1]);
    page.put(768, b"nqn.2014-08.org.nvmexpress:uuid:");
    let digits = uuid(slot.function()).into_iter().enumerate().map(|(place, byte)| {
        let dash = if matches!(place, 4 | 6 | 8 | 10) { "-" } else { "" };
        alloc::format!("{dash}{byte:02x}")
    });
    let digits: alloc::string::String = digits.collect();
    page.put(800, digits.as_bytes());
}

fn describe_namespace(page: &mut Page, blocks: u64) {
    // Size, capacity, use.
    for at in [0, 8, 16] {
        page.put(at, &blocks.to_le_bytes());
    }
    // One format, without metadata.
    page.put(128 + 2, &[BLOCK.ilog2().to_le_bytes()[0]]);
}

/// A UUID of version 8: what it means is ours.
fn uuid(function: &PciFunction) -> [u8; 16] {
    let address = function.address;
    let mut uuid = *b"testbed\x80nvme\x00\x00\x00\x00";
    let [.., domain, low] = address.domain().to_be_bytes();
    let own = [domain, low, address.bus(), address.slot() << 3 | address.function()];
    uuid.iter_mut().rev().zip(own.into_iter().rev()).for_each(|(byte, own)| *byte = own);
    uuid
}

/// Returns a log page.
pub(super) fn log_page(command: &Command) -> Result<Vec<u8>, Status> {
    let ((page, low), (high, _)) = (command.halves(0), command.halves(1));
    let words = (usize::from(high) << 16 | usize::from(low)) + 1;
    let length = words * 4;
    if length > LARGEST_TRANSFER {
        return Err(Status::INVALID_FIELD);
    }
    let mut log = Page(vec![0; 512]);
    match page & 0xff {
        // Errors: none.
        0x01 => {}
        // Health: 300 kelvin; available spare, and the threshold.
        0x02 => log.put(1, &[44, 1, 100, 10]),
        // Firmware: the first slot is active.
        0x03 => {
            log.put(0, &[1]);
            log.put(8, REVISION);
        }
        _ => return Err(Status::INVALID_LOG_PAGE),
    }
    log.0.resize(length, 0);
    Ok(log.0)
}

/// Returns the answer to getting or setting the number of queues: as many of each kind as there are, counted from zero.
pub(super) const fn number_of_queues() -> u32 {
    let last = QUEUES as u32 - 1;
    last << 16 | last
}

/// What is handed out in a piece.
struct Page(Vec<u8>);

impl Page {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Puts ASCII text, padded with spaces.
    fn put_text(&mut self, at: usize, text: &str, length: usize) {
        let padded: Vec<u8> = text.bytes().chain(core::iter::repeat(b' ')).take(length).collect();
        self.put(at, &padded);
    }
}
