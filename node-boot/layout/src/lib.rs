//! Where things are on a stick and on the machine's disk: what writes the one and what reads the other agree on it here.

/// Stands where old firmware looks for a program, on every disk of ours: written first, so that a table that was cut off
/// is known as ours.
pub const MARK: &[u8; 16] = b"node-boot's disk";
/// Partitions begin where flash likes it, and behind the last one there is room for the second table: bytes.
pub const MIB: u64 = 1024 * 1024;

/// What the firmware's partition of a stick is called.
pub const STICK: &str = "stick";
/// What it is called on the machine's disk.
pub const FIRMWARE: &str = "nodeboot-esp";
/// Keys, what was joined, containerd, kubelet.
pub const STATE: &str = "nodeboot-state";
/// What the state is called until everything is in its place.
pub const UNFINISHED: &str = "nodeboot-unfinished";
/// What the state is called while the disk is wiped.
pub const WIPING: &str = "nodeboot-wiping";
/// Pods' own volumes.
pub const VOLUMES: &str = "nodeboot-volumes";
/// Banks that hold nothing.
pub const EMPTY_OS: &str = "os-empty";
/// The same for Kubernetes.
pub const EMPTY_KUBERNETES: &str = "kubernetes-empty";

/// Sizes, MiB.
pub const FIRMWARE_SIZE: u64 = 256;
/// Of a bank of the operating system.
pub const OS_SIZE: u64 = 512;
/// Of a bank of Kubernetes.
pub const KUBERNETES_SIZE: u64 = 1024;

/// Numbers of the partitions of a disk. Those of a stick are the first three, so that a stick's bits on a disk are most of
/// an installation.
pub mod part {
    /// For the firmware.
    pub const FIRMWARE: u32 = 1;
    /// Banks A.
    pub const OS: u32 = 2;
    /// See above.
    pub const KUBERNETES: u32 = 3;
    /// Banks B.
    pub const OS_B: u32 = 4;
    /// See above.
    pub const KUBERNETES_B: u32 = 5;
    /// Keys, what was joined, containerd, kubelet.
    pub const STATE: u32 = 6;
    /// Pods' own volumes.
    pub const VOLUMES: u32 = 7;
}

/// What the firmware looks for on a disk by itself (UEFI 2.10 section 3.5.1.1).
pub const PROGRAM: &str = "EFI/BOOT/BOOTX64.EFI";
/// The owner's file, where the firmware's loader takes it along whatever it starts (systemd-stub(7), credentials).
pub const OWNER: &str = "loader/credentials/owner.cred";
/// Where that loader puts it in the first archive.
pub const OWNER_IN_ARCHIVE: &str = "/.extra/global_credentials/owner.cred";
/// The site's next bundle, on a stick.
pub const BUNDLE: &str = "nodeboot/site.nbb";

/// Where a stick has what makes machines provisioners of their site.
pub const PROVISIONERS: &str = "nodeboot/provisioners";

/// The same for one machine, by the hash of its endorsement key.
pub fn provisioner(ek: impl std::fmt::Display) -> String {
    format!("{PROVISIONERS}/{ek}.json")
}

/// What the firmware starts the system of a bank by: a file named after its partition.
pub fn program_of(partition: &str) -> String {
    format!("EFI/nodeboot/{partition}.efi")
}
