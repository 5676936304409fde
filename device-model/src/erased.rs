//! A device of a known bus as one of any bus.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use crate::any_device::AnyDevice;
use crate::any_device::internal::Internal;
use crate::binding;
use crate::bus::Bus;
use crate::device::{Device, Left};
use crate::device_id::DeviceId;
use crate::sync::Users;
use crate::unbind::{self, Removed};

impl<B: Bus> AnyDevice for Device<B> {
    fn id(&self) -> DeviceId {
        self.id()
    }

    fn name(&self) -> &Arc<str> {
        self.name()
    }

    fn bus_name(&self) -> &str {
        self.bus().bus.name()
    }

    fn parent(&self) -> Option<Arc<dyn AnyDevice>> {
        self.parent()
    }

    fn children(&self) -> Vec<Arc<dyn AnyDevice>> {
        self.children()
    }

    fn driver_hint(&self) -> Option<Arc<str>> {
        self.driver_hint()
    }
}

impl<B: Bus> Internal for Device<B> {
    fn adopt(&self, id: DeviceId, child: Weak<dyn AnyDevice>) -> bool {
        self.adopt_child(id, child)
    }

    fn disown(&self, child: DeviceId) {
        self.disown_child(child);
    }

    fn take_parent(&self) -> Option<Arc<dyn AnyDevice>> {
        self.take_parent()
    }

    fn depth(&self) -> u16 {
        self.depth()
    }

    fn leaves_repeats_to_holder(self: Arc<Self>) -> bool {
        self.lock_or_leave(Left::Repeats, || ()).is_none()
    }

    fn repeat(self: Arc<Self>) {
        binding::repeat(&self);
    }

    fn close(self: Arc<Self>) {
        unbind::close(&self);
    }

    fn step_removal(self: Arc<Self>) -> Result<Removed, Arc<Users>> {
        unbind::remove(&self)
    }

    fn step_release(self: Arc<Self>, registration: usize) -> Result<(), Arc<Users>> {
        unbind::step_release(&self, registration)
    }

    fn ask_again(self: Arc<Self>) {
        unbind::ask_again(&self);
    }
}
