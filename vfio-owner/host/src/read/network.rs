//! Interfaces and routes, of each network namespace that is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::sysfs::{Tree, resolve};

use super::process::Processes;
use super::source::{PROC, lines, link_or_text};

/// The interfaces and routes of a network namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Namespace {
    pub(super) links: Vec<Link>,
    pub(super) routes: Vec<Route>,
}

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `bond`, `openvswitch` and so on.
    pub(super) kind: String,
    /// Its device in sysfs: a link, or a path.
    pub(super) device: String,
    /// The interfaces below it.
    pub(super) lower: Vec<String>,
    /// The one below it in the namespace that it was made in.
    pub(super) lower_elsewhere: Option<u32>,
}

/// A route, of any table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Route {
    pub(super) to: IpAddr,
    pub(super) length: u8,
    /// The interfaces that it leads through, several if it is a multipath route.
    pub(super) through: Vec<String>,
}

impl Route {
    fn contains(&self, address: IpAddr) -> bool {
        let shift = |bits: u32| bits.saturating_sub(self.length.into());
        match (self.to, address) {
            (IpAddr::V4(to), IpAddr::V4(address)) => {
                (u32::from(to) ^ u32::from(address)).checked_shr(shift(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(to), IpAddr::V6(address)) => {
                (u128::from(to) ^ u128::from(address)).checked_shr(shift(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Namespace {
    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The interfaces of default routes, and of those that together are one: two halves, or all global addresses.
    pub(super) fn default_interfaces(&self) -> BTreeSet<&str> {
        let leading = |to: IpAddr, length: u8| {
            let routes = self.routes.iter().filter(move |route| (route.to, route.length) == (to, length));
            routes.flat_map(|route| &route.through).map(String::as_str).collect::<BTreeSet<_>>()
        };
        let (v4, v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        let mut found = leading(v4.into(), 0);
        found.extend(leading(v6.into(), 0));
        found.extend(leading(Ipv6Addr::from(0x2000_u128 << 112).into(), 3));
        for (low, high) in
            [(v4.into(), Ipv4Addr::new(128, 0, 0, 0).into()), (v6.into(), Ipv6Addr::from(1 << 127).into())]
        {
            let (low, high): (IpAddr, IpAddr) = (low, high);
            let halves = [leading(low, 1), leading(high, 1)];
            if halves.iter().all(|half| !half.is_empty()) {
                found.extend(halves.into_iter().flatten());
            }
        }
        found
    }

    /// The interfaces over which an address is reached, by the longest routes of any table.
    pub(super) fn interfaces_to(&self, address: IpAddr) -> BTreeSet<&str> {
        let matching = || self.routes.iter().filter(|route| route.contains(address));
        let longest = matching().map(|route| route.length).max();
        let routes = matching().filter(|route| Some(route.length) == longest);
        routes.flat_map(|route| &route.through).map(String::as_str).collect()
    }

    /// What sysfs and `/proc` show: IPv4 only in its main table, and of each multipath route one way.
    pub(super) fn of_tree(tree: &dyn Tree, processes: &Processes) -> Vec<Self> {
        let mut folders = vec![format!("{PROC}/self/net"), format!("{PROC}/net")];
        let mut seen = BTreeSet::new();
        for process in &processes.numbers {
            let namespace = link_or_text(tree, &format!("{PROC}/{process}/ns/net"));
            if namespace.is_some_and(|namespace| seen.insert(namespace)) {
                folders.push(format!("{PROC}/{process}/net"));
            }
        }
        let links: Vec<Link> =
            tree.list("class/net").unwrap_or_default().iter().map(|name| Link::of_tree(tree, name)).collect();
        let mut namespaces: Vec<Self> = Vec::new();
        for folder in folders {
            let routes = routes_in(tree, &folder);
            if !routes.is_empty() && namespaces.iter().all(|known| known.routes != routes) {
                namespaces.push(Self { links: links.clone(), routes });
            }
        }
        namespaces
    }

    /// Asks the running kernel for those of this process, of others, and those that have names.
    pub(super) fn of_running_kernel() -> Vec<Self> {
        let mut found: Vec<Self> = thread::spawn(Self::here).join().ok().flatten().into_iter().collect();
        for path in namespace_files() {
            let there = thread::spawn(move || {
                let file = fs::File::open(path).ok()?;
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).ok()?;
                Self::here()
            });
            found.extend(there.join().ok().flatten());
        }
        found
    }

    /// The namespace of this thread.
    fn here() -> Option<Self> {
        let links: Vec<LinkMessage> = dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?
            .into_iter()
            .filter_map(|message| if let RouteNetlinkMessage::NewLink(link) = message { Some(link) } else { None })
            .collect();
        let links = Link::of_messages(&links);
        let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            for message in dump(RouteNetlinkMessage::GetRoute(question))? {
                let RouteNetlinkMessage::NewRoute(route) = message else { continue };
                routes.extend(Route::of_message(&route, &names));
            }
        }
        Some(Self { links, routes })
    }
}

/// The files of the network namespaces other than this process's own, each once.
fn namespace_files() -> Vec<String> {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let name = |path: &str| fs::read_link(path).ok().map(|target| target.display().to_string());
    seen.extend(name("/proc/self/ns/net"));
    let mut files = Vec::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for path in numbers.map(|process| format!("/proc/{process}/ns/net")) {
        if name(&path).is_some_and(|name| seen.insert(name)) {
            files.push(path);
        }
    }
    // Those of `ip netns` and of containers are mounted, and may have no process.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines().filter(|line| line.contains(" - nsfs ")) {
        let mut fields = line.split(' ').skip(3);
        if let (Some(root), Some(at)) = (fields.next(), fields.next())
            && root.starts_with("net:")
            && seen.insert(root.to_owned())
        {
            files.push(super::lifeline::unescape(at));
        }
    }
    files
}

/// What the kernel answers to a question for all of something.
fn dump(question: RouteNetlinkMessage) -> Option<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE).ok()?;
    socket.bind_auto().ok()?;
    socket.connect(&SocketAddr::new(0, 0)).ok()?;
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(question));
    message.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).ok()?;
    let mut answers = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full().ok()?;
        let mut rest: &[u8] = &bytes;
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).ok()?;
            let length = usize::try_from(answer.header.length).ok()?.next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                NetlinkPayload::Done(_) => return Some(answers),
                NetlinkPayload::Error(_) => return None,
                _ => {}
            }
        }
    }
}

impl Link {
    fn of_tree(tree: &dyn Tree, name: &str) -> Self {
        let device = format!("class/net/{name}");
        let path = resolve(tree, &device).unwrap_or_default();
        let entries = tree.list(&path).unwrap_or_default();
        let lower = entries.iter().filter_map(|entry| entry.strip_prefix("lower_")).map(ToOwned::to_owned).collect();
        Self { name: name.to_owned(), device, lower, ..Self::default() }
    }

    fn of_messages(messages: &[LinkMessage]) -> Vec<Self> {
        let mut links: Vec<Self> = messages.iter().map(Self::of_message).collect();
        let names: BTreeMap<u32, String> = links.iter().map(|link| (link.index, link.name.clone())).collect();
        for message in messages {
            let own = message.header.index;
            let elsewhere = message.attributes.iter().any(|one| matches!(one, LinkAttribute::LinkNetNsId(_)));
            for attribute in &message.attributes {
                match attribute {
                    LinkAttribute::Link(lower) if *lower != own && elsewhere => {
                        at(&mut links, own, |link| link.lower_elsewhere = Some(*lower));
                    }
                    LinkAttribute::Link(lower) if *lower != own => {
                        at(&mut links, own, |link| link.lower.extend(names.get(lower).cloned()));
                    }
                    LinkAttribute::Controller(upper) => {
                        at(&mut links, *upper, |link| link.lower.extend(names.get(&own).cloned()));
                    }
                    _ => {}
                }
            }
        }
        links
    }

    fn of_message(message: &LinkMessage) -> Self {
        let mut link = Self { index: message.header.index, ..Self::default() };
        let (mut bus, mut device) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::ParentDevBusName(name) => bus = Some(name),
                LinkAttribute::ParentDevName(name) => device = Some(name),
                LinkAttribute::LinkInfo(about) => {
                    let kind =
                        about.iter().find_map(|one| if let LinkInfo::Kind(kind) = one { Some(kind) } else { None });
                    link.kind = kind.map_or_else(String::new, ToString::to_string);
                }
                _ => {}
            }
        }
        link.device = match (bus, device) {
            (Some(bus), Some(device)) => format!("bus/{bus}/devices/{device}"),
            // Interfaces of other namespaces are not there.
            _ => format!("class/net/{}", link.name),
        };
        link
    }
}

fn at(links: &mut [Link], index: u32, change: impl FnOnce(&mut Link)) {
    if let Some(link) = links.iter_mut().find(|link| link.index == index) {
        change(link);
    }
}

impl Route {
    /// `None` if it leads nowhere.
    fn of_message(message: &RouteMessage, names: &BTreeMap<u32, &str>) -> Option<Self> {
        if message.header.kind != RouteType::Unicast {
            return None;
        }
        let mut to = match message.header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut through = Vec::new();
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => to = (*address).into(),
                RouteAttribute::Destination(RouteAddress::Inet6(address)) => to = (*address).into(),
                RouteAttribute::Oif(index) => through.push(*index),
                RouteAttribute::MultiPath(hops) => through.extend(hops.iter().map(|hop| hop.interface_index)),
                _ => {}
            }
        }
        let through = through.iter().filter_map(|index| names.get(index)).filter(|name| **name != "lo");
        let through: Vec<String> = through.map(|name| (*name).to_owned()).collect();
        (!through.is_empty()).then_some(Self { to, length: message.header.destination_prefix_length, through })
    }
}

/// The routes of both versions of IP that lead through an interface other than the loop.
fn routes_in(tree: &dyn Tree, folder: &str) -> Vec<Route> {
    let v4 = lines(tree, &format!("{folder}/route"));
    let v4 = v4.iter().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |field: &str| Some(u32::from_be(u32::from_str_radix(field, 16).ok()?));
        let (to, mask) = (number(fields.get(1)?)?, number(fields.get(7)?)?);
        let length = u8::try_from(mask.count_ones()).ok()?;
        Some(Route { to: Ipv4Addr::from(to).into(), length, through: vec![(*fields.first()?).to_owned()] })
    });
    let v6 = lines(tree, &format!("{folder}/ipv6_route"));
    let v6 = v6.iter().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let to = u128::from_str_radix(fields.first()?, 16).ok()?;
        let length = u8::from_str_radix(fields.get(1)?, 16).ok()?;
        Some(Route { to: Ipv6Addr::from(to).into(), length, through: vec![(*fields.get(9)?).to_owned()] })
    });
    v4.chain(v6).filter(|route| route.through.iter().all(|name| name != "lo")).collect()
}
