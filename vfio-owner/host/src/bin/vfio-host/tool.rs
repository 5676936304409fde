//! `vfio-host tool`

use anyhow::Result;
use vfio_host::{Host, NextTool, Selector};

use crate::output::{Outcome, print};
use crate::selection::select;

#[derive(clap::Args)]
pub(crate) struct Tool {
    /// Which tool
    tool: Name,
    /// The devices: address, slot, ids, group:N, interface, disk or class
    #[arg(required = true)]
    devices: Vec<Selector>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Options of qemu-system
    Qemu,
    /// Elements of a libvirt domain
    Libvirt,
    /// Lines of a guest's configuration
    Proxmox,
    /// A list of permitted host devices
    Kubevirt,
    /// Commands that bind, and keep it over reboots
    Driverctl,
}

impl Tool {
    pub(crate) fn run(&self, host: &Host) -> Result<Outcome> {
        let tool = match self.tool {
            Name::Qemu => NextTool::Qemu,
            Name::Libvirt => NextTool::Libvirt,
            Name::Proxmox => NextTool::Proxmox,
            Name::Kubevirt => NextTool::KubeVirt,
            Name::Driverctl => NextTool::Driverctl,
        };
        print(&tool.write(host, &select(host, &self.devices)?)?)?;
        Ok(Outcome::Possible)
    }
}
