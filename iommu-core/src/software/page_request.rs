//! Page requests of simulated devices.

use alloc::vec::Vec;

use device_model::Errno;
use device_model::sync::Arc;

use super::{Requester, SoftIommu};
use crate::hardware::{
    Capabilities, Endpoint, HardwareError, PageAnswer, PageRequest, PageRequestSink, PageRequests, WantedPage,
};

/// Where the requests of a device go, and what was answered.
#[derive(Debug, Default)]
pub(super) struct Requests {
    sink: Option<Arc<dyn PageRequestSink>>,
    answers: Vec<AnsweredRequest>,
}

/// The answer to a page request, as the device gets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnsweredRequest {
    /// The PASID that the request carried.
    pub pasid: Option<u32>,
    /// The device's number for it.
    pub index: u32,
    /// The answer.
    pub answer: PageAnswer,
}

impl SoftIommu {
    /// Lets a device, or one PASID of it, request pages; the answer comes [later](Self::take_answers). It is
    /// [`PageAnswer::Invalid`] at once if page requests are not enabled. A device that is not served gets none.
    pub fn request_pages(&self, from: impl Into<Requester>, index: u32, pages: Vec<WantedPage>) {
        let Requester { device, pasid } = from.into();
        let sink = self.contexts().of(device, |context| context.requests.sink.clone()).flatten();
        // Without locks: whoever listens takes its own.
        let refused = match sink {
            Some(sink) => sink.deliver(PageRequest { device, pasid, index, pages }).is_err(),
            None => true,
        };
        if refused {
            let answer = AnsweredRequest { pasid, index, answer: PageAnswer::Invalid };
            self.contexts().of(device, |context| context.requests.answers.push(answer));
        }
    }

    /// Takes the answers that a device got since they were last taken, oldest first.
    pub fn take_answers(&self, from: impl Into<Requester>) -> Vec<AnsweredRequest> {
        let device = from.into().device;
        self.contexts().of(device, |context| core::mem::take(&mut context.requests.answers)).unwrap_or_default()
    }
}

impl PageRequests for SoftIommu {
    fn enable(&self, dev: &Endpoint, sink: Arc<dyn PageRequestSink>) -> Result<(), HardwareError> {
        let replaced = self.contexts().change(dev, |context| {
            if !context.capabilities().contains(Capabilities::PAGE_REQUESTS) {
                return Err(HardwareError::new(Errno::EOPNOTSUPP, "the device makes no page requests"));
            }
            Ok(context.requests.sink.replace(sink))
        })??;
        // Its end may take locks.
        drop(replaced);
        Ok(())
    }

    fn disable(&self, dev: &Endpoint) {
        drop(self.contexts().of(dev.id, |context| context.requests.sink.take()));
    }

    fn answer(&self, dev: &Endpoint, pasid: Option<u32>, index: u32, answer: PageAnswer) {
        self.contexts().of(dev.id, |context| context.requests.answers.push(AnsweredRequest { pasid, index, answer }));
    }
}
