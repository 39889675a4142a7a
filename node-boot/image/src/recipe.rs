//! What is in the images.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::bytes::hex;

use crate::disk::{self, Content, Part};
use crate::drivers::Kernel;
use crate::tree::Tree;
use crate::{archive, debian, erofs, uki, verity};

/// Modules without which the system's image is not found: buses and disks.
const TO_BOOT: [&str; 16] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "nvme",
    "ahci",
    "sd_mod",
    "xhci_pci",
    "ehci_pci",
    "uas",
    "usb_storage",
    "dm_verity",
    "loop",
    "crc32c_generic",
    "erofs",
    "overlay",
    "efivarfs",
];
/// Modules that a machine in a cluster has, whatever it is made of: Pods' networks, file systems, the power button.
const OF_A_NODE: [&str; 24] = [
    "bridge",
    "veth",
    "br_netfilter",
    "nf_conntrack",
    "nf_nat",
    "nf_tables",
    "nft_compat",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_fib_inet",
    "xt_conntrack",
    "xt_comment",
    "xt_mark",
    "xt_nat",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_multiport",
    "ip_tables",
    "ip6_tables",
    "ext4",
    "vfat",
    "evdev",
    "button",
];
/// Modules for what a machine may be made of: one is loaded where its device is.
const FOR_DEVICES: [&str; 8] =
    ["virtio_net", "e1000", "e1000e", "igb", "igc", "r8169", "iTCO_wdt", "i6300esb"];
/// Programs of the container runtime and the Pods' network, with their place.
const RUNTIME: [(&str, &str); 7] = [
    ("containerd", "usr/bin/containerd"),
    ("containerd-shim-runc-v2", "usr/bin/containerd-shim-runc-v2"),
    ("ctr", "usr/bin/ctr"),
    ("runc", "usr/bin/runc"),
    ("bridge", "opt/cni/bin/bridge"),
    ("loopback", "opt/cni/bin/loopback"),
    ("host-local", "opt/cni/bin/host-local"),
];
/// Files of the distribution's packages, and where they are there. Libraries are found by their own names.
const DISTRIBUTION: [(&str, &str); 14] = [
    ("usr/bin/mount", "bin/mount"),
    ("usr/bin/umount", "bin/umount"),
    ("usr/sbin/mke2fs", "sbin/mke2fs"),
    ("usr/lib/x86_64-linux-gnu/libext2fs.so.2", "lib/x86_64-linux-gnu/libext2fs.so.2"),
    ("usr/lib/x86_64-linux-gnu/libe2p.so.2", "lib/x86_64-linux-gnu/libe2p.so.2"),
    ("usr/lib/x86_64-linux-gnu/libcom_err.so.2", "lib/x86_64-linux-gnu/libcom_err.so.2"),
    ("usr/lib/x86_64-linux-gnu/libuuid.so.1", "usr/lib/x86_64-linux-gnu/libuuid.so.1"),
    ("usr/lib/x86_64-linux-gnu/libmount.so.1", "usr/lib/x86_64-linux-gnu/libmount.so.1"),
    ("usr/lib/x86_64-linux-gnu/libblkid.so.1", "usr/lib/x86_64-linux-gnu/libblkid.so.1"),
    ("usr/lib/x86_64-linux-gnu/libselinux.so.1", "lib/x86_64-linux-gnu/libselinux.so.1"),
    ("usr/lib/x86_64-linux-gnu/libpcre2-8.so.0", "usr/lib/x86_64-linux-gnu/libpcre2-8.so.0"),
    ("usr/lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libc.so.6"),
    ("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
    ("usr/lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
];
/// The kernel says nothing on the screen, and comes back by itself after a panic.
const ARGUMENTS: &str = "quiet loglevel=1 panic=10 console=tty0 console=ttyS0,115200";
/// What the firmware looks for (UEFI 2.10 section 3.5.1.1), and what is put beside it for the stub to hand on: the owner's
/// file.
const PROGRAM: &str = "EFI/BOOT/BOOTX64.EFI";
const OWNER: &str = ".extra.d/owner.cred";
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
const OS_RELEASE: &str = "ID=node-boot\nNAME=node-boot\nPRETTY_NAME=node-boot\n";
/// MiB of a stick's partitions: they are the first two of an installed disk as well, so that a stick's bits on a disk are
/// most of an installation.
const FIRMWARE_SIZE: u64 = 256;
const SYSTEM_SIZE: u64 = 512;
/// Files of a folder with images; the last holds the partition's name.
const UKI: &str = "node-boot.efi";
const SYSTEM: &str = "system";
const PARTITION: &str = "partition";
/// Folders that something is mounted on.
const MOUNT_POINTS: [&str; 9] = ["dev", "etc", "opt", "proc", "run", "sys", "tmp", "var", "root"];

/// What the images are made from.
pub struct Inputs<'a> {
    /// The agent, one static program.
    pub node_boot: &'a Path,
    /// Where a program of Kubernetes or of its runtime is.
    pub program: &'a dyn Fn(&str) -> PathBuf,
    /// Pod images that the system brings, archives of one each, by name.
    pub pods: &'a [(&'a str, PathBuf)],
    /// Where downloaded packages are kept.
    pub cache: &'a Path,
}

/// Images that were built: the same for every machine of every owner.
#[derive(Clone, Debug)]
pub struct Built {
    /// What the firmware starts: the kernel, the first archive, and which system it is.
    pub uki: PathBuf,
    /// The system, with its hash tree.
    pub system: PathBuf,
    /// Name of the partition that holds the system.
    pub partition: String,
}

impl Built {
    /// Those that [`build`] has put into a folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let partition = fs::read_to_string(folder.join(PARTITION)).with_context(|| {
            format!("there are no images in {}: `provisioner hq image build` makes them", folder.display())
        })?;
        Ok(Self {
            uki: folder.join(UKI),
            system: folder.join(SYSTEM),
            partition: partition.trim().to_owned(),
        })
    }
}

/// Builds the images into the folder `out`.
pub fn build(inputs: &Inputs<'_>, out: &Path) -> Result<Built> {
    fs::create_dir_all(out)?;
    let unpacked = tempfile::tempdir()?;
    let root = unpacked.path();
    debian::unpack(&debian::pins()?, inputs.cache, root)?;
    let kernel = Kernel::below(root)?;
    let image = out.join(SYSTEM);
    erofs::write(&system(inputs, &kernel, root)?, &image)?;
    let sealed = verity::seal(&image)?;
    let hash = hex(&sealed.root.0);
    let arguments = format!("{ARGUMENTS} nodeboot.root={}:{hash}", sealed.blocks);
    let read = |path: &str| fs::read(root.join(path)).with_context(|| format!("there is no {path}"));
    let sections: [(&str, &[u8]); 4] = [
        (".osrel", OS_RELEASE.as_bytes()),
        (".cmdline", arguments.as_bytes()),
        (".linux", &read(&format!("boot/vmlinuz-{}", kernel.release))?),
        (".initrd", &archive::archive(&first(inputs, &kernel)?)?),
    ];
    fs::write(out.join(UKI), uki::join(&read(STUB)?, &sections)?)?;
    fs::write(out.join(PARTITION), format!("os-{}\n", &hash[..16]))?;
    Built::open(out)
}

/// Writes a stick from which a machine of this owner starts; more files of its are put beside, by path.
pub fn stick(built: &Built, owner: &Path, more: &[(&str, &[u8])], out: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut firmware =
        vec![(PROGRAM.to_owned(), read(&built.uki)?), (format!("{PROGRAM}{OWNER}"), read(owner)?)];
    firmware.extend(more.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())));
    let parts = [
        Part { name: "stick".to_owned(), content: Content::Firmware(firmware), size: FIRMWARE_SIZE },
        Part {
            name: built.partition.clone(),
            content: Content::Image(built.system.clone()),
            size: SYSTEM_SIZE,
        },
    ];
    disk::write(&parts, out)
}

/// What the kernel starts from: the agent, and what it needs to find the system.
fn first(inputs: &Inputs<'_>, kernel: &Kernel) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.program("init", inputs.node_boot)?;
    kernel.put_listed(&mut tree, "modules", &kernel.choose(&TO_BOOT)?);
    Ok(tree)
}

fn system(inputs: &Inputs<'_>, kernel: &Kernel, root: &Path) -> Result<Tree> {
    let mut tree = Tree::default();
    for folder in MOUNT_POINTS {
        tree.folder(folder);
    }
    for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        tree.link(link, to);
    }
    tree.folder("usr/sbin");
    tree.program("usr/bin/node-boot", inputs.node_boot)?;
    for (name, place) in RUNTIME {
        tree.program(place, &(inputs.program)(name))?;
    }
    tree.program("usr/bin/kubelet", &(inputs.program)("kubelet"))?;
    for (name, file) in inputs.pods {
        tree.copy(&format!("usr/lib/kubernetes/images/{name}.tar"), file);
    }
    for (place, from) in DISTRIBUTION {
        tree.program(
            place,
            &fs::canonicalize(root.join(from)).with_context(|| format!("there is no {from}"))?,
        )?;
    }
    tree.file("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\n");
    tree.file("etc/group", "root:x:0:\n");
    tree.file("etc/os-release", OS_RELEASE);
    let of_a_node = kernel.choose(&OF_A_NODE)?;
    kernel.put_listed(&mut tree, "usr/lib/node-boot/modules", &of_a_node);
    kernel.put_findable(&mut tree, &kernel.choose(&FOR_DEVICES)?)?;
    Ok(tree)
}
