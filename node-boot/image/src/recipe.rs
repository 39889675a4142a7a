//! What is in the images.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use protocol::bytes::{Digest, hex};
use protocol::image::{Image, Kind, Program};

use crate::drivers::Kernel;
use crate::tree::Tree;
use crate::{archive, bill, debian, erofs, kubernetes, uki, verity};

/// Modules without which the system's image is not found: buses and disks.
const TO_BOOT: [&str; 17] = [
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
    // Every block that is read is hashed; a processor without these instructions goes on with slower ones.
    "sha256_ssse3",
    "dm_verity",
    "loop",
    "crc32c_generic",
    "erofs",
    "overlay",
    "efivarfs",
];
/// Modules for a stick's bits that the firmware fetched over the network: it shows them as memory that lasts (ACPI 6.5
/// section 5.2.25).
const TO_BOOT_FROM_MEMORY: [&str; 2] = ["nfit", "nd_pmem"];
/// Modules that a machine in a cluster has, whatever it is made of: the site's network and Pods', file systems, the power button.
const OF_A_NODE: [&str; 46] = [
    "af_packet",
    "8021q",
    "bonding",
    "bridge",
    "veth",
    "br_netfilter",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nf_tables",
    "nft_compat",
    "nft_chain_nat",
    "nft_ct",
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_objref",
    "nft_redir",
    "nft_reject",
    "nft_reject_inet",
    // Each of kube-proxy's tables is of one family, whose own way of refusing is a module: without it the kernel takes none of
    // its rules, and no Service answers.
    "nft_reject_ipv4",
    "nft_reject_ipv6",
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
    "dm_crypt",
    "xts",
    "ecb",
    "aes_generic",
    "aesni_intel",
    "vfat",
    "nls_cp437",
    "nls_ascii",
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
const DISTRIBUTION: [(&str, &str); 15] = [
    ("usr/bin/mount", "bin/mount"),
    ("usr/bin/umount", "bin/umount"),
    ("usr/sbin/mke2fs", "sbin/mke2fs"),
    ("usr/sbin/e2fsck", "sbin/e2fsck"),
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
/// The kernel says nothing on the screen, comes back by itself after a panic, and reads a disk's second table where a power
/// cut has damaged the first.
const ARGUMENTS: &str = "quiet loglevel=1 panic=10 gpt console=tty0 console=ttyS0,115200";
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// Files of a folder with images; the last says what the others are.
pub(crate) const UKI: &str = "node-boot.efi";
const LIST: &str = "images.json";
/// What headquarters adds: the first one, signed for the firmware of its machines.
pub const SIGNED: &str = "node-boot.signed.efi";
/// Folders that something is mounted on.
const MOUNT_POINTS: [&str; 10] =
    ["dev", "etc", "opt", "proc", "run", "sys", "tmp", "usr/lib/kubernetes", "var", "root"];

/// What the images are made from.
pub struct Inputs<'a> {
    /// Version of the operating system.
    pub version: &'a str,
    /// The agent, one static program.
    pub node_boot: &'a Path,
    /// The provisioner, one static program: some machines run it.
    pub provisioner: &'a Path,
    /// Where a program of Kubernetes or of its runtime is.
    pub program: &'a dyn Fn(&str) -> PathBuf,
    /// Pod images that come with Kubernetes, archives of one each, by name.
    pub pods: &'a [(&'a str, PathBuf)],
    /// Where downloaded packages are kept.
    pub cache: &'a Path,
}

/// Images that were built: the same for every machine of every owner.
#[derive(Clone, Debug)]
pub struct Built {
    /// What the firmware starts: the kernel, the first archive, and which system it is.
    pub uki: PathBuf,
    /// The operating system.
    pub os: (Image, PathBuf),
    /// Kubernetes.
    pub kubernetes: (Image, PathBuf),
}

impl Built {
    /// Those that [`build`] has put into a folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let list = fs::read(folder.join(LIST)).with_context(|| {
            format!("there are no images in {}: `provisioner hq image build` makes them", folder.display())
        })?;
        let images: Vec<Image> = protocol::json::parse(&list)
            .with_context(|| format!("reading {LIST} of {}", folder.display()))?;
        let of = |kind: Kind| {
            let image = images.iter().find(|image| image.kind == kind);
            let image = image.with_context(|| format!("{LIST} names no image {}", kind.word()))?;
            Ok::<_, anyhow::Error>((image.clone(), folder.join(kind.word())))
        };
        Ok(Self { uki: folder.join(UKI), os: of(Kind::Os)?, kubernetes: of(Kind::Kubernetes)? })
    }

    /// Checks each image against the root of its tree: one that was altered or cut off on its way is found here, and not by a
    /// machine at sea.
    pub fn check(&self) -> Result<()> {
        for (image, file) in [&self.os, &self.kubernetes] {
            let sealed = verity::Sealed { root: image.root, blocks: image.blocks };
            let is_whole =
                verity::is_whole(file, sealed).with_context(|| format!("reading {}", file.display()))?;
            ensure!(
                is_whole,
                "{} is not the {} {} that {LIST} names: it was changed or cut off. Bring the folder anew, or build it again",
                file.display(),
                image.kind.word(),
                image.version
            );
        }
        Ok(())
    }

    /// What the firmware starts, as it was built: the one that the list names, and for the system that the list names.
    pub fn program(&self) -> Result<Vec<u8>> {
        let file = self.uki.display();
        let bytes = fs::read(&self.uki).with_context(|| format!("reading {file}"))?;
        let os = &self.os.0;
        let is_it = os.program.is_some_and(|program| {
            program.size == bytes.len() as u64 && program.sha256 == Digest::of(&bytes)
        });
        ensure!(
            is_it,
            "{file} is not the one that {LIST} names for os {}: build the images anew",
            os.version
        );
        let line = uki::section(&bytes, ".cmdline").with_context(|| format!("reading {file}"))?;
        let line = String::from_utf8_lossy(&line.unwrap_or_default()).into_owned();
        ensure!(
            line.split_whitespace().any(|word| word == root_of(os)),
            "{file} starts another system than os {}: build the images anew",
            os.version
        );
        Ok(bytes)
    }

    /// What they are.
    pub fn images(&self) -> [&Image; 2] {
        [&self.os.0, &self.kubernetes.0]
    }
}

/// Builds the images into the folder `out`.
pub fn build(inputs: &Inputs<'_>, out: &Path) -> Result<Built> {
    fs::create_dir_all(out)?;
    let unpacked = tempfile::tempdir()?;
    let root = unpacked.path();
    debian::unpack(&debian::pins()?, inputs.cache, root)?;
    let kernel = Kernel::below(root)?;
    let [first, system, pods] =
        [first(inputs, &kernel)?, system(inputs, &kernel, root)?, kubernetes::tree(inputs)?];
    let mut os = sealed(Kind::Os, inputs.version, &system, out)?;
    let uki = uki(inputs, &kernel, root, (&os, &first))?;
    fs::write(out.join(UKI), &uki)?;
    os.program = Some(Program { sha256: Digest::of(&uki), size: uki.len() as u64 });
    let version = kubernetes::version(inputs)?;
    let kubernetes = sealed(Kind::Kubernetes, &version, &pods, out)?;
    let trees = [("first archive", &first), ("os", &system), ("kubernetes", &pods)];
    bill::write(inputs.version, &trees, [root, inputs.cache, out])?;
    // Last: a folder without it holds no images.
    fs::write(out.join(LIST), protocol::json::to_vec(&[os, kubernetes]))?;
    Built::open(out)
}

/// A tree as an image in the folder `out`.
fn sealed(kind: Kind, version: &str, tree: &Tree, out: &Path) -> Result<Image> {
    let file = out.join(kind.word());
    erofs::write(tree, &file)?;
    let sealed = verity::seal(&file)?;
    let size = fs::metadata(&file)?.len();
    Ok(Image {
        kind,
        version: version.to_owned(),
        root: sealed.root,
        blocks: sealed.blocks,
        size,
        program: None,
    })
}

/// The argument by which the kernel's first program finds the system.
fn root_of(os: &Image) -> String {
    format!("nodeboot.root={}:{}", os.blocks, hex(&os.root.0))
}

/// What the firmware starts.
fn uki(inputs: &Inputs<'_>, kernel: &Kernel, root: &Path, (os, first): (&Image, &Tree)) -> Result<Vec<u8>> {
    let arguments = format!("{ARGUMENTS} {}", root_of(os));
    let read = |path: &str| fs::read(root.join(path)).with_context(|| format!("there is no {path}"));
    let release = release(inputs.version);
    let sections: [(&str, &[u8]); 4] = [
        (".osrel", release.as_bytes()),
        (".cmdline", arguments.as_bytes()),
        (".linux", &read(&format!("boot/vmlinuz-{}", kernel.release))?),
        (".initrd", &archive::archive(first)?),
    ];
    uki::join(&read(STUB)?, &sections)
}

/// os-release(5).
fn release(version: &str) -> String {
    format!("ID=node-boot\nNAME=node-boot\nPRETTY_NAME=\"node-boot {version}\"\nVERSION_ID={version}\n")
}

/// What the kernel starts from: the agent, and what it needs to find the system.
fn first(inputs: &Inputs<'_>, kernel: &Kernel) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.program("init", inputs.node_boot)?;
    kernel.put_listed(&mut tree, "modules", &kernel.choose(&TO_BOOT)?);
    kernel.put_listed(&mut tree, "modules/memory", &kernel.choose(&TO_BOOT_FROM_MEMORY)?);
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
    tree.program("usr/bin/provisioner", inputs.provisioner)?;
    for (name, place) in RUNTIME {
        tree.program(place, &(inputs.program)(name))?;
    }
    for (place, from) in DISTRIBUTION {
        tree.program(
            place,
            &fs::canonicalize(root.join(from)).with_context(|| format!("there is no {from}"))?,
        )?;
    }
    tree.file("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\n");
    tree.file("etc/group", "root:x:0:\n");
    tree.file("etc/os-release", release(inputs.version));
    let of_a_node = kernel.choose(&OF_A_NODE)?;
    kernel.put_listed(&mut tree, "usr/lib/node-boot/modules", &of_a_node);
    kernel.put_findable(&mut tree, &kernel.choose(&FOR_DEVICES)?)?;
    Ok(tree)
}
