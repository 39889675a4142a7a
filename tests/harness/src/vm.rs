//! A machine with a kernel of its own: QEMU, its cable in the LAN's switch, its TPM a software one.

use crate::error::{Result, io};
use crate::folder::Folder;
use crate::lan::{Lan, Port};
use crate::process::Process;
use crate::room::{Plan, Room};
use crate::tpm::Tpm;
use crate::wait::until;
use ring::digest::{SHA256, digest};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Joins the cable, on the room's side, to the one that the emulator has.
const JOIN: &str = "ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0; \
                    ip tuntap add tap0 mode tap; ip link set tap0 master br0 up; ip link set br0 up";

/// What is on the board.
#[derive(Clone, Debug)]
pub struct Board {
    /// SMBIOS serial.
    pub serial: String,
    /// Whether there is a TPM 2.0.
    pub tpm: bool,
    /// Memory, MiB.
    pub memory: u32,
}

/// What it starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// The kernel.
    pub kernel: PathBuf,
    /// What the kernel starts from: archives, one after the other.
    pub archives: Vec<PathBuf>,
    /// Arguments of the kernel.
    pub arguments: String,
    /// A disk that is only read.
    pub system: PathBuf,
}

/// A virtual machine; it is off when made, and without power when dropped.
#[derive(Debug)]
pub struct Vm {
    name: String,
    board: Board,
    room: Room,
    _port: Port,
    tpm: Option<Tpm>,
    process: Option<Process>,
    folder: Folder,
}

impl Vm {
    /// Builds a machine and plugs its cable into `lan`.
    pub fn new(lan: &Lan, name: &str, board: Board) -> Result<Self> {
        let folder = Folder::new(name)?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let room = Room::open(Plan { name, setup: JOIN, path, ..Plan::default() })?;
        let port = lan.attach(&room, &format!("{name}-cable"), None)?;
        room.ip(&["link", "set", "eth0", "master", "br0"])?;
        let manufacture = || Tpm::manufacture(folder.path().join("tpm"), lan.tpm_authority());
        let tpm = board.tpm.then(manufacture).transpose()?;
        Ok(Self { name: name.into(), board, room, _port: port, tpm, process: None, folder })
    }

    /// Its TPM.
    pub fn tpm(&self) -> Option<&Tpm> {
        self.tpm.as_ref()
    }

    /// Switches it on.
    pub fn power_on(&mut self, start: &Start) -> Result<()> {
        self.power_off();
        let joined = self.folder.path().join("archive");
        let mut archive = Vec::new();
        for part in &start.archives {
            archive.extend(fs::read(part).map_err(io("read", part.display()))?);
        }
        fs::write(&joined, archive).map_err(io("write", joined.display()))?;
        if let Some(tpm) = &mut self.tpm {
            tpm.power_on_for_emulator(&self.room)?;
        }
        let words = self.arguments(start, &joined);
        let mut qemu = self.room.command("qemu-system-x86_64");
        qemu.args(words);
        self.process = Some(Process::start("qemu", qemu, &self.log())?);
        Ok(())
    }

    fn arguments(&self, start: &Start, archive: &Path) -> Vec<String> {
        let (system, id) = (start.system.display(), digest(&SHA256, self.name.as_bytes()));
        let [a, b, c] = [0, 1, 2].map(|place| id.as_ref()[place]);
        let mut words: Vec<String> = [
            // Software emulation: what says that it can do better may still fail to start a kernel.
            "-accel tcg,thread=multi -cpu max -smp 2 -nographic -no-reboot -vga none",
            &format!("-m {}", self.board.memory),
            &format!("-smbios type=1,manufacturer=QEMU,product=virtual,serial={}", self.board.serial),
            &format!("-kernel {} -initrd {}", start.kernel.display(), archive.display()),
            &format!("-drive file={system},format=raw,if=none,id=system,readonly=on -device virtio-blk-pci,drive=system"),
            "-netdev tap,id=cable,ifname=tap0,script=no,downscript=no",
            &format!("-device virtio-net-pci,netdev=cable,mac=02:00:00:{a:02x}:{b:02x}:{c:02x}"),
        ]
        .iter()
        .flat_map(|words| words.split(' ').map(str::to_owned))
        .collect();
        if let Some(tpm) = &self.tpm {
            let control = tpm.control();
            words.extend(["-chardev".to_owned(), format!("socket,id=tpm,path={}", control.display())]);
            words.extend(
                "-tpmdev emulator,id=tpm0,chardev=tpm -device tpm-tis,tpmdev=tpm0"
                    .split(' ')
                    .map(str::to_owned),
            );
        }
        words.extend(["-append".to_owned(), start.arguments.clone()]);
        words
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("console")
    }

    /// What stood on its serial console since it was made.
    pub fn console(&self) -> String {
        fs::read(self.log()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until its console shows this.
    pub fn says(&self, words: &str, deadline: Duration) -> Result<()> {
        until(&format!("{} to say {words:?}", self.name), deadline, || {
            let console = self.console();
            if console.contains(words) { Ok(()) } else { Err(crate::error::tail(&console, 2000)) }
        })
    }

    /// Takes its power away.
    pub fn power_off(&mut self) {
        self.process = None;
        if let Some(tpm) = &mut self.tpm {
            tpm.power_off();
        }
    }
}
