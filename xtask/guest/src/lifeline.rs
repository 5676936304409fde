//! What a machine lives on, form by form: set up with busybox, planned against, and taken down.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use live_guest::{Report, Run};

use crate::Reporter;
use crate::job::guarded;
use crate::program::vfio_host;

/// A form of living on devices, on the machine `server`.
struct Form {
    name: &'static str,
    set_up: &'static str,
    take_down: &'static str,
    /// The programs besides busybox that it needs; without one of them the form is left out.
    needs: &'static [&'static str],
    /// The devices that must be refused while it is set up.
    refused: &'static [&'static str],
    /// Some that must not.
    free: &'static [&'static str],
}

impl Form {
    /// Whether it can be set up here.
    fn is_possible(&self) -> bool {
        self.needs.iter().all(|program| Path::new("/usr/sbin").join(program).exists())
    }
}

const D1: &str = "0000:00:04.0";
const D2: &str = "0000:00:05.0";
const D3: &str = "0000:00:06.0";
const MULTIPATH: &str = "0000:00:10.0";
const XHCI: &str = "0000:00:07.0";
const VIRTIO: &str = "0000:00:08.0";
const SATA: &str = "0000:00:1f.2";
const SHARE: &str = "0000:00:0e.0";
const N0: &str = "0000:00:09.0";
const N1: &str = "0000:00:0a.0";
const N2: &str = "0000:00:0b.0";
const N3: &str = "0000:00:0c.0";

/// What every script may use.
const FUNCTIONS: &str = r"
disk() { for b in /sys/class/block/*; do p=$(readlink -f $b); case $p in */$1/*) [ -e $b/partition ] || basename $b;; esac; done | head -1; }
net() { ls /sys/bus/pci/devices/$1/net; }
make() { mke2fs -F /dev/$1 > /dev/null 2>&1; }
export PATH=/bin:/sbin:/usr/bin:/usr/sbin DM_DISABLE_UDEV=1 LVM_SYSTEM_DIR=/tmp
IP=/usr/sbin/ip
mkdir -p /m/a /m/b /m/c /run/netns
for m in ext4 loop overlay zram 8021q bridge dm_mod dm_crypt md_mod raid1 btrfs 9p 9pnet_virtio vrf macvlan bonding; do modprobe -q $m; done
D1=$(disk 0000:00:04.0) D2=$(disk 0000:00:05.0) D3=$(disk 0000:00:06.0)
N0=$(net 0000:00:09.0) N1=$(net 0000:00:0a.0) N2=$(net 0000:00:0b.0) N3=$(net 0000:00:0c.0)
";

const FORMS: &[Form] = &[
    Form {
        name: "nothing",
        set_up: "",
        take_down: ":",
        needs: &[],
        refused: &[],
        free: &[D1, D2, D3, MULTIPATH, XHCI, VIRTIO, N0, N3],
    },
    Form {
        name: "a mounted disk",
        set_up: "make $D1 && mount /dev/$D1 /m/a",
        take_down: "umount /m/a",
        needs: &[],
        refused: &[D1],
        free: &[D2],
    },
    Form {
        name: "a mounted partition",
        set_up: "printf 'o\\nn\\np\\n1\\n\\n\\nw\\n' | fdisk /dev/$D3 > /dev/null 2>&1; make ${D3}p1 && mount /dev/${D3}p1 /m/a",
        take_down: "umount /m/a",
        needs: &[],
        refused: &[D3],
        free: &[D1],
    },
    Form {
        name: "a disk on USB",
        set_up: "U=$(disk 0000:00:07.0); make $U && mount /dev/$U /m/a",
        take_down: "umount /m/a",
        needs: &[],
        refused: &[XHCI],
        free: &[D1],
    },
    Form {
        name: "a disk on SATA, and its neighbours in the group",
        set_up: "S=$(disk 0000:00:1f.2); make $S && mount /dev/$S /m/a",
        take_down: "umount /m/a",
        needs: &[],
        refused: &[SATA, "0000:00:1f.3"],
        free: &[D1],
    },
    Form {
        name: "a virtio disk",
        set_up: "make vda && mount /dev/vda /m/a",
        take_down: "umount /m/a",
        needs: &[],
        refused: &[VIRTIO],
        free: &[D1],
    },
    Form {
        name: "an NVMe disk of a subsystem",
        set_up: "for n in /sys/class/block/nvme*n1; do readlink -f $n | grep -q nvme-subsystem && M=${n##*/}; done; \
                 make $M && mount /dev/$M /m/a",
        take_down: "umount /m/a",
        needs: &[],
        refused: &[MULTIPATH],
        free: &[D1],
    },
    Form {
        name: "swap",
        set_up: "mkswap /dev/$D2 > /dev/null && swapon /dev/$D2",
        take_down: "swapoff /dev/$D2",
        needs: &[],
        refused: &[D2],
        free: &[D1],
    },
    Form {
        name: "a swap file whose file system is lazily unmounted",
        set_up: "make $D1 && mount /dev/$D1 /m/a && dd if=/dev/zero of=/m/a/s bs=1M count=4 2> /dev/null && \
                 mkswap /m/a/s > /dev/null && swapon /m/a/s && umount -l /m/a",
        take_down: "mount /dev/$D1 /m/a; swapoff /m/a/s",
        needs: &[],
        refused: &[D1],
        free: &[D2],
    },
    Form {
        name: "a loop over a file whose file system is lazily unmounted",
        set_up: "make $D1 && mount /dev/$D1 /m/a && dd if=/dev/zero of=/m/a/i bs=1M count=4 2> /dev/null && \
                 losetup /dev/loop0 /m/a/i && mkswap /dev/loop0 > /dev/null && swapon /dev/loop0 && umount -l /m/a",
        take_down: "swapoff /dev/loop0; losetup -d /dev/loop0",
        needs: &[],
        refused: &[D1],
        free: &[D2],
    },
    Form {
        name: "a loop over a whole disk",
        set_up: "make $D2 && losetup /dev/loop1 /dev/$D2 && mount /dev/loop1 /m/a",
        take_down: "umount /m/a; losetup -d /dev/loop1",
        needs: &[],
        refused: &[D2],
        free: &[D1],
    },
    Form {
        name: "zram with a backing disk",
        set_up: "echo 1 > /sys/block/zram0/reset; echo /dev/$D2 > /sys/block/zram0/backing_dev && \
                 echo 16M > /sys/block/zram0/disksize && mkswap /dev/zram0 > /dev/null && swapon /dev/zram0",
        take_down: "swapoff /dev/zram0; echo 1 > /sys/block/zram0/reset",
        needs: &[],
        refused: &[D2],
        free: &[D1],
    },
    Form {
        name: "a bind mount alone",
        set_up: "make $D1 && mount /dev/$D1 /m/a && mkdir /m/a/x && mount -o bind /m/a/x /m/b && umount -l /m/a",
        take_down: "umount /m/b",
        needs: &[],
        refused: &[D1],
        free: &[D2],
    },
    Form {
        name: "an overlay whose layers are lazily unmounted",
        set_up: "make $D1 && mount /dev/$D1 /m/a && mkdir /m/a/u /m/a/w /m/a/l && \
                 mount -t overlay -o lowerdir=/m/a/l,upperdir=/m/a/u,workdir=/m/a/w o /m/b && umount -l /m/a",
        take_down: "umount /m/b",
        needs: &[],
        refused: &[D1],
        free: &[D2],
    },
    Form {
        name: "a mount in another mount namespace",
        set_up: "make $D1; unshare -m sh -c \"mount --make-rprivate /; mount /dev/$D1 /m/c; echo ok > /run/there; exec sleep 600\" & \
                 echo $! > /run/child; while [ ! -e /run/there ]; do sleep 1; done; rm /run/there",
        take_down: "kill $(cat /run/child)",
        needs: &[],
        refused: &[D1],
        free: &[D2],
    },
    Form {
        name: "a disk that a process has open",
        set_up: "sleep 600 < /dev/$D2 & echo $! > /run/child",
        take_down: "kill $(cat /run/child)",
        needs: &[],
        refused: &[D2],
        free: &[D1],
    },
    Form { name: "the boot display", set_up: "", take_down: ":", needs: &[], refused: &["0000:00:01.0"], free: &[] },
    Form {
        name: "an address without a default route",
        set_up: "ip addr add 10.0.2.15/24 dev $N0; ip link set $N0 up",
        take_down: ":",
        needs: &[],
        refused: &[],
        free: &[N0],
    },
    Form {
        name: "the default route",
        set_up: "ip route add default via 10.0.2.2 dev $N0",
        take_down: "ip route del default",
        needs: &[],
        refused: &[N0],
        free: &[N1],
    },
    Form {
        name: "two halves of everything",
        set_up: "ip route add 0.0.0.0/1 via 10.0.2.2 dev $N0; ip route add 128.0.0.0/1 via 10.0.2.2 dev $N0",
        take_down: "ip route del 0.0.0.0/1; ip route del 128.0.0.0/1",
        needs: &[],
        refused: &[N0],
        free: &[N1],
    },
    Form {
        name: "a default route of another table",
        set_up: "ip route add default via 10.0.2.2 dev $N0 table 100; ip rule add pref 100 table 100",
        take_down: "ip rule del pref 100; ip route flush table 100",
        needs: &[],
        refused: &[N0],
        free: &[N1],
    },
    Form {
        name: "a default route over a VLAN",
        set_up: "vconfig add $N1 5 > /dev/null; ip link set $N1 up; ip addr add 10.1.0.1/24 dev $N1.5; \
                 ip link set $N1.5 up; ip route add default via 10.1.0.2 dev $N1.5",
        take_down: "vconfig rem $N1.5",
        needs: &[],
        refused: &[N1],
        free: &[N2],
    },
    Form {
        name: "a default route over a bridge",
        set_up: "brctl addbr br0; brctl addif br0 $N2; ip link set $N2 up; ip link set br0 up; \
                 ip addr add 10.2.0.1/24 dev br0; ip route add default via 10.2.0.2 dev br0",
        take_down: "ip link set br0 down; brctl delbr br0",
        needs: &[],
        refused: &[N2],
        free: &[N3],
    },
    Form {
        name: "a volume of LVM",
        set_up: "lvm pvcreate -ffy /dev/$D1 > /dev/null && lvm vgcreate -y vg /dev/$D1 > /dev/null && \
                 lvm lvcreate -y -an -Zn -l 8 -n lv vg > /dev/null && lvm lvchange -ay vg/lv > /dev/null && \
                 make mapper/vg-lv && mount /dev/mapper/vg-lv /m/a",
        take_down: "umount /m/a; lvm vgchange -an vg > /dev/null; lvm vgremove -ffy vg > /dev/null; lvm pvremove -ffy /dev/$D1 > /dev/null",
        needs: &["lvm"],
        refused: &[D1],
        free: &[D2],
    },
    Form {
        name: "an encrypted disk",
        set_up: "echo secret | cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 256 --hash sha256 /dev/$D2 crypt && \
                 make mapper/crypt && mount /dev/mapper/crypt /m/a",
        take_down: "umount /m/a; cryptsetup close crypt",
        needs: &["cryptsetup"],
        refused: &[D2],
        free: &[D1],
    },
    Form {
        name: "a RAID of two disks, mounted",
        set_up: "mdadm --create /dev/md7 --run --level=1 --raid-devices=2 --metadata=1.2 --assume-clean /dev/$D1 /dev/$D2 && \
                 make md7 && mount /dev/md7 /m/a",
        take_down: "umount /m/a; mdadm --stop /dev/md7; mdadm --zero-superblock /dev/$D1 /dev/$D2",
        needs: &["mdadm"],
        refused: &[D1, D2],
        free: &[D3],
    },
    Form {
        name: "a RAID that nothing is mounted from",
        set_up: "mdadm --create /dev/md7 --run --level=1 --raid-devices=2 --metadata=1.2 --assume-clean /dev/$D1 /dev/$D2",
        take_down: "mdadm --stop /dev/md7; mdadm --zero-superblock /dev/$D1 /dev/$D2",
        needs: &["mdadm"],
        refused: &[D1, D2],
        free: &[D3],
    },
    Form {
        name: "a swap area in an encrypted RAID",
        set_up: "mdadm --create /dev/md7 --run --level=1 --raid-devices=2 --metadata=1.2 --assume-clean /dev/$D1 /dev/$D2 && \
                 echo secret | cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 256 --hash sha256 /dev/md7 crypt && \
                 mkswap /dev/mapper/crypt > /dev/null && swapon /dev/mapper/crypt",
        take_down: "swapoff /dev/mapper/crypt; cryptsetup close crypt; mdadm --stop /dev/md7; mdadm --zero-superblock /dev/$D1 /dev/$D2",
        needs: &["cryptsetup", "mdadm"],
        refused: &[D1, D2],
        free: &[D3],
    },
    Form {
        name: "btrfs over two disks",
        set_up: "mkfs.btrfs -q -f -M -m single -d single /dev/$D1 /dev/$D2 && mount -t btrfs -o device=/dev/$D2 /dev/$D1 /m/a",
        take_down: "umount /m/a; dd if=/dev/zero of=/dev/$D1 bs=1M count=1 2> /dev/null; dd if=/dev/zero of=/dev/$D2 bs=1M count=1 2> /dev/null",
        needs: &["mkfs.btrfs"],
        refused: &[D1, D2],
        free: &[D3],
    },
    Form {
        name: "ext4 with its journal on another disk",
        set_up: "/usr/sbin/mke2fs -q -F -b 4096 -O journal_dev /dev/$D2 && \
                 /usr/sbin/mke2fs -q -F -b 4096 -t ext4 -J device=/dev/$D2 /dev/$D1 && mount -t ext4 /dev/$D1 /m/a",
        take_down: "umount /m/a",
        needs: &["mke2fs"],
        refused: &[D1, D2],
        free: &[D3],
    },
    Form {
        name: "a folder of the host, by 9p",
        set_up: "mount -t 9p -o trans=virtio,version=9p2000.L,ro share /m/a",
        take_down: "umount /m/a",
        needs: &[],
        refused: &[SHARE],
        free: &[D1],
    },
    Form {
        name: "a default route of IPv6",
        set_up: "$IP link set $N1 up && $IP -6 route add default via fe80::99 dev $N1",
        take_down: "$IP -6 route del default dev $N1",
        needs: &["ip"],
        refused: &[N1],
        free: &[N2],
    },
    Form {
        name: "a default route in a VRF",
        set_up: "$IP link add red type vrf table 10 && $IP link set red up && $IP link set $N1 master red && $IP link set $N1 up && \
                 $IP addr add 10.5.0.1/24 dev $N1 && $IP route add default via 10.5.0.2 dev $N1 table 10",
        take_down: "$IP route flush table 10; $IP addr flush dev $N1; $IP link set $N1 nomaster; $IP link del red",
        needs: &["ip"],
        refused: &[N1],
        free: &[N2],
    },
    Form {
        name: "a default route over a macvlan",
        set_up: "$IP link add link $N2 name mv type macvlan && $IP link set $N2 up && $IP link set mv up && \
                 $IP addr add 10.6.0.1/24 dev mv && $IP route add default via 10.6.0.2 dev mv",
        take_down: "$IP link del mv",
        needs: &["ip"],
        refused: &[N2],
        free: &[N1],
    },
    Form {
        name: "a default route over a bond of two",
        set_up: "$IP link add team type bond && $IP link set $N1 down && $IP link set $N1 master team && $IP link set $N2 down && \
                 $IP link set $N2 master team && $IP link set team up && $IP addr add 10.7.0.1/24 dev team && \
                 $IP route add default via 10.7.0.2 dev team",
        take_down: "$IP link set team down; $IP link set $N1 nomaster; $IP link set $N2 nomaster; $IP link del team",
        needs: &["ip"],
        refused: &[N1, N2],
        free: &[D1],
    },
    Form {
        name: "a default route of two ways",
        set_up: "$IP link set $N1 up; $IP link set $N2 up; $IP addr add 10.8.0.1/24 dev $N1; $IP addr add 10.9.0.1/24 dev $N2; \
                 $IP route add default nexthop via 10.8.0.2 dev $N1 nexthop via 10.9.0.2 dev $N2",
        take_down: "$IP route del default; $IP addr flush dev $N1; $IP addr flush dev $N2",
        needs: &["ip"],
        refused: &[N1, N2],
        free: &[D1],
    },
    Form {
        name: "a default route of a namespace without a process",
        set_up: "$IP netns add far && $IP link set $N2 netns far && $IP -n far link set $N2 up && \
                 $IP -n far addr add 10.10.0.1/24 dev $N2 && $IP -n far route add default via 10.10.0.2",
        take_down: "$IP -n far link set $N2 netns 1; $IP netns del far",
        needs: &["ip"],
        refused: &[N2],
        free: &[N1],
    },
    Form {
        name: "a default route of another network namespace",
        set_up: "unshare -n sleep 600 & echo $! > /run/child; sleep 1; C=$(cat /run/child); ip link set $N3 netns $C; \
                 nsenter -t $C -n sh -c \"ip link set $N3 up; ip addr add 10.3.0.1/24 dev $N3; ip route add default via 10.3.0.2\"",
        take_down: "kill $(cat /run/child)",
        needs: &[],
        refused: &[N3],
        free: &[N1],
    },
];

/// Sets up each form, plans against it, and takes it down.
pub(crate) fn lifelines(reporter: &mut Reporter) -> Result<()> {
    for form in FORMS.iter().filter(|form| form.is_possible()) {
        let told = shell(form.set_up)?;
        for (devices, refused) in [(form.refused, true), (form.free, false)] {
            for device in devices {
                let plan = vfio_host(&["plan", device, "--json"])?;
                let guarded = guarded(&plan.out);
                reporter.tell(&Report::Lifeline {
                    form: form.name.to_owned(),
                    device: (*device).to_owned(),
                    refused,
                    set_up: told.clone(),
                    guarded,
                    plan,
                })?;
            }
        }
        // What was set up by halves must not be in the way of the next.
        shell(&format!("{}; umount /m/b /m/a 2> /dev/null", form.take_down))?;
    }
    Ok(())
}

/// Runs a script; what it complained of.
fn shell(script: &str) -> Result<Run> {
    let script = format!("{FUNCTIONS}{script}\n");
    let file = "/tmp/script";
    std::fs::write(file, script)?;
    // What it leaves running must not hold a pipe of ours.
    let errors = std::fs::File::create("/tmp/errors")?;
    let status = Command::new("/bin/sh").arg(file).stderr(errors).status().context("/bin/sh")?;
    Ok(Run { code: status.code(), out: String::new(), err: std::fs::read_to_string("/tmp/errors")? })
}
