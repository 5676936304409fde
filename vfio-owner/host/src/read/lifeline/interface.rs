//! The network cards below routes, and below storage that is somewhere else.

use std::net::IpAddr;

use vfio_owner::iommu_core::sysfs::resolve;

use super::super::network::Namespace;
use super::{Found, Layer, MOST_STACKED, Purpose};

impl Found<'_> {
    pub(super) fn routes(&mut self) {
        for namespace in self.namespaces.clone() {
            for interface in namespace.default_interfaces() {
                self.way(&namespace, interface, &Purpose::DefaultRoute);
            }
        }
    }

    /// What is reached over the network: by the ways to its addresses, or, if none is known, by any.
    pub(super) fn reached_over_network(&mut self, addresses: &[IpAddr], at: &str) {
        let over = Purpose::NetworkStorage { at: at.to_owned() };
        let perhaps = Purpose::PerhapsNetworkStorage { at: at.to_owned() };
        let remote: Vec<IpAddr> = addresses.iter().copied().filter(|address| !address.is_loopback()).collect();
        for namespace in self.namespaces.clone() {
            for address in &remote {
                for interface in namespace.interfaces_to(*address) {
                    self.way(&namespace, interface, &over);
                }
            }
            if addresses.is_empty() {
                for interface in namespace.routes.iter().flat_map(|route| &route.through) {
                    self.interface(&namespace, interface, &perhaps, MOST_STACKED);
                }
            }
        }
    }

    /// The cards that what leaves through an interface goes over. That of a tunnel, or of a switch in software, goes on
    /// through another one, by routes or rules of its own.
    fn way(&mut self, namespace: &Namespace, interface: &str, purpose: &Purpose) {
        if self.interface(namespace, interface, purpose, MOST_STACKED) {
            return;
        }
        for other in namespace.routes.iter().flat_map(|route| &route.through) {
            self.interface(namespace, other, purpose, MOST_STACKED);
        }
        let switches = namespace.links.iter().filter(|link| link.kind == "openvswitch" || link.name == "ovs-system");
        for switch in switches {
            self.interface(namespace, &switch.name, purpose, MOST_STACKED);
        }
    }

    /// Whether a device is below the interface.
    fn interface(&mut self, namespace: &Namespace, name: &str, purpose: &Purpose, depth: u32) -> bool {
        let (Some(depth), Some(link)) = (depth.checked_sub(1), namespace.link(name)) else { return false };
        let layer = (purpose.clone(), Layer::Interface(name.to_owned(), link.device.clone()));
        if let Some(seen) = self.seen.get(&layer) {
            return *seen;
        }
        let path = resolve(self.tree, &link.device);
        let mut seen = path.is_some_and(|path| self.on_the_way_to(&path, purpose));
        self.seen.insert(layer.clone(), seen);
        if seen {
            return true;
        }
        for lower in &link.lower {
            seen |= self.interface(namespace, lower, purpose, depth);
        }
        // It was made in another namespace, most often the first.
        if let (Some(index), Some(first)) = (link.lower_elsewhere, self.namespaces.first().cloned())
            && let Some(lower) = first.links.iter().find(|link| link.index == index)
        {
            seen |= self.interface(&first, &lower.name, purpose, depth);
        }
        self.seen.insert(layer, seen);
        seen
    }
}
