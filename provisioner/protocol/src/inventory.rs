//! What a machine says of its hardware: facts, never proofs.

use serde::{Deserialize, Serialize};

use crate::record::Match;

/// Everything a machine found about itself. Unknown is empty or zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Facts {
    /// SMBIOS strings.
    pub dmi: Dmi,
    /// Version of the TPM, `2.0`; empty where there is none.
    pub tpm: String,
    /// Disks, the boot medium and removable ones included.
    pub disks: Vec<Disk>,
    /// Wired network cards.
    pub nics: Vec<Nic>,
    /// Model of the processor.
    pub cpu: String,
    /// Logical processors.
    pub cores: u32,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// Memory, bytes.
    pub memory: u64,
    /// Release of the running kernel.
    pub kernel: String,
    /// Control groups: 1 or 2; 0 where unknown.
    pub cgroups: u8,
    /// Version of the kubelet on its disk, `v1.36.3`.
    pub kubelet: String,
    /// Whether a program may make another less likely to be killed when memory runs out (`CAP_SYS_RESOURCE`).
    pub adjusts_oom: bool,
    /// How its own state is kept: `encrypted`, `not encrypted`, `in memory`, or why it is not in use. Empty where the system
    /// is not ours.
    pub state: String,
    /// Whether its firmware starts only what somebody signed.
    pub secure_boot: SecureBoot,
}

/// What the firmware says of Secure Boot (UEFI 2.10 section 3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecureBoot {
    /// Only what is signed by a key that it believes is started.
    On,
    /// Anything is started.
    Off,
    /// Anything is started, and whoever comes first says whom it is to believe.
    Setup,
    /// Nothing, or something that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// SMBIOS strings as the kernel shows them under `/sys/class/dmi/id`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Dmi {
    /// `sys_vendor`.
    pub vendor: String,
    /// `product_name`.
    pub product: String,
    /// `product_version`.
    pub version: String,
    /// `product_serial`.
    pub serial: String,
    /// `product_uuid`.
    pub uuid: String,
    /// `board_vendor`.
    pub board_vendor: String,
    /// `board_name`.
    pub board: String,
    /// `board_serial`.
    pub board_serial: String,
    /// `bios_version`.
    pub bios: String,
}

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Disk {
    /// Name in `/sys/block`.
    pub name: String,
    /// Size, bytes.
    pub size: u64,
    /// `nvme`, `ata`, `usb`, `virtio`, `mmc`.
    pub transport: String,
    /// Model.
    pub model: String,
    /// Whether it can be pulled out.
    pub removable: bool,
    /// Whether it spins.
    pub rotational: bool,
}

/// A network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Nic {
    /// Name of the interface.
    pub name: String,
    /// Hardware address in small letters.
    pub mac: String,
    /// Driver.
    pub driver: String,
    /// Mbit/s; 0 where unknown.
    pub speed: u32,
    /// Whether a cable is in it.
    pub carrier: bool,
}

impl Facts {
    /// The labels that a registration may hint at.
    pub fn labels(&self) -> Match {
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        Match {
            product_serial: some(&self.dmi.serial),
            board_serial: some(&self.dmi.board_serial),
            system_uuid: some(&self.dmi.uuid),
            mac: self.nics.iter().map(|nic| nic.mac.clone()).collect(),
        }
    }
}
