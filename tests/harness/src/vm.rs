//! A machine with a kernel of its own: QEMU, its cable in the LAN's switch, its TPM a software one.

use crate::error::{Result, io, run};
use crate::folder::Folder;
use crate::lan::{Lan, Port};
use crate::process::Process;
use crate::recording::{self, Recording, Watcher};
use crate::room::{Plan, Room};
use crate::tpm::Tpm;
use crate::wait::until;
use ring::digest::{SHA256, digest};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
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
    /// How its disk is connected, and its size in GiB.
    pub disk: (Bus, u64),
    /// Its network card, as QEMU calls it: `virtio-net-pci`, `e1000e`.
    pub card: &'static str,
    /// Whether its firmware knows Secure Boot; it has nobody's keys at first.
    pub secure: bool,
    /// Nothing goes over its cables but what has this tag. It has two of them then.
    pub tag: Option<u16>,
}

impl Board {
    /// With a TPM and this disk.
    pub fn new(serial: &str, bus: Bus) -> Self {
        let (serial, disk, card) = (serial.into(), (bus, 10), "virtio-net-pci");
        Self { serial, tpm: true, memory: 3072, disk, card, secure: false, tag: None }
    }
}

/// How a disk is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// NVMe.
    Nvme,
    /// AHCI.
    Ata,
}

/// The firmware, and what it remembers at first.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const SECURE_FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
const MEMORY: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// The same with somebody's keys for Secure Boot, and the variable by which that is on: one byte.
const OTHER_MEMORY: &str = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd";
const IS_ON: &str = "SecureBootEnable\0";

/// What a machine may do with its stick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// A switch that speaks with a tag, in a language that has sockets of every kind.
const TRUNK: &str = include_str!("trunk.py");

/// A virtual machine; it is off when made, and without power when dropped.
#[derive(Debug)]
pub struct Vm {
    name: String,
    board: Board,
    room: Room,
    _port: Port,
    _trunk: Option<Process>,
    tpm: Option<Tpm>,
    stick: Option<(PathBuf, Access)>,
    process: Option<Process>,
    /// Where what is written to its disk is kept.
    recorded: Option<PathBuf>,
    is_counted: bool,
    watcher: Option<Watcher>,
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
        let disk = folder.path().join("disk");
        let made = fs::File::create(&disk).and_then(|file| file.set_len(board.disk.1 << 30));
        made.map_err(io("create", disk.display()))?;
        let trunk = board.tag.map(|tag| {
            let mut switch = room.command("python3");
            switch.args(["-c", TRUNK, &tag.to_string(), "2"]);
            Process::start("trunk", switch, &folder.path().join("trunk"))
        });
        let trunk = trunk.transpose()?;
        Ok(Self {
            name: name.into(),
            board,
            room,
            _port: port,
            _trunk: trunk,
            tpm,
            stick: None,
            process: None,
            recorded: None,
            is_counted: false,
            watcher: None,
            folder,
        })
    }

    /// Its TPM.
    pub fn tpm(&self) -> Option<&Tpm> {
        self.tpm.as_ref()
    }

    /// At a depot, while it is off: does something with its TPM, whose socket takes commands as they are.
    pub fn on_bench<T>(&mut self, work: impl FnOnce(&Path) -> T) -> Result<Option<T>> {
        let Some(tpm) = &mut self.tpm else { return Ok(None) };
        tpm.power_on(&self.room)?;
        let done = work(&tpm.socket());
        tpm.power_off();
        Ok(Some(done))
    }

    /// Plugs a stick in; it is only read.
    pub fn plug_stick(&mut self, image: &Path) {
        self.stick = Some((image.to_owned(), Access::Read));
    }

    /// Plugs a stick in that it may write to.
    pub fn lend_stick(&mut self, image: &Path) {
        self.stick = Some((image.to_owned(), Access::Write));
    }

    /// Writes a stick's bits on its disk, as a depot does; the disk stays as large as it is.
    pub fn flash(&self, stick: &Path) -> Result<()> {
        let failed = |error| io("write", self.disk().display())(error);
        let mut from = fs::File::open(stick).map_err(failed)?;
        let mut to = fs::File::options().write(true).open(self.disk()).map_err(failed)?;
        std::io::copy(&mut from, &mut to).map(drop).map_err(failed)
    }

    /// Pulls the stick out; a machine that runs does not notice before it starts anew.
    pub fn pull_stick(&mut self) {
        self.stick = None;
    }

    /// Its disk, as a file.
    pub fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// While it is off: records in this folder what is written to its disk, which is a blank one, from when it is switched on.
    pub fn record(&mut self, folder: &Path) {
        self.recorded = Some(folder.to_owned());
    }

    /// Takes its power away; what was recorded. From here on nothing is.
    pub fn recorded(&mut self) -> Result<Option<Recording>> {
        self.power_off();
        self.recorded.take().map(|folder| Recording::open(&folder)).transpose()
    }

    /// While it is off: gives it a copy of another disk, and of what its firmware remembers.
    pub fn becomes(&self, disk: &Path, memory: &Path) -> Result<()> {
        run(Command::new("cp").arg("--sparse=always").args([disk, &self.disk()]))?;
        fs::copy(memory, self.memory()).map(drop).map_err(io("copy", memory.display()))
    }

    /// What its firmware remembers.
    fn memory(&self) -> PathBuf {
        self.folder.path().join("firmware")
    }

    /// Switches it on.
    pub fn power_on(&mut self) -> Result<()> {
        self.power_off();
        let memory = self.memory();
        if !memory.exists() {
            fs::copy(MEMORY, &memory).map_err(io("copy", MEMORY))?;
        }
        if let Some(tpm) = &mut self.tpm {
            tpm.power_on_for_emulator(&self.room)?;
        }
        let log = self.recorded.as_deref().map(recording::begin).transpose()?;
        let words = self.arguments(&memory, log.as_deref());
        let mut qemu = self.room.command("qemu-system-x86_64");
        qemu.args(words);
        self.process = Some(Process::start("qemu", qemu, &self.log())?);
        self.watcher = self.recorded.as_deref().map(|folder| Watcher::start(&memory, folder));
        Ok(())
    }

    /// From its next start on its clock counts instructions, a nanosecond each.
    pub fn count_instructions(&mut self) {
        self.is_counted = true;
    }

    /// Another state of its firmware, while it is off: what it measures into PCR 7 is another one, and its boot entries are gone.
    pub fn change_firmware(&self) -> Result<()> {
        let memory = self.memory();
        let mut bytes = fs::read(OTHER_MEMORY).map_err(io("read", OTHER_MEMORY))?;
        // Keys are measured also where nothing is checked by them.
        let name: Vec<u8> = IS_ON.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for at in 0..bytes.len() - name.len() {
            if bytes[at..].starts_with(&name) {
                bytes[at + name.len()] = 0;
            }
        }
        fs::write(&memory, bytes).map_err(io("write", memory.display()))
    }

    /// How the emulator gets at the disk's file.
    fn disk_arguments(&self, log: Option<&Path>) -> Vec<String> {
        let disk = self.disk();
        let Some(log) = log else {
            return vec![format!("-drive if=none,id=disk,format=raw,cache=unsafe,file={}", disk.display())];
        };
        // The machine's flushes are what counts, and not that this computer keeps anything.
        let file = |name: &str, file: &Path| {
            format!("-blockdev driver=file,node-name={name},cache.no-flush=on,filename={}", file.display())
        };
        // How much the log holds is known after each entry.
        let options = "file=content,log=log,log-super-update-interval=1";
        let recorder = format!("-blockdev driver=blklogwrites,node-name=disk,{options}");
        vec![file("content", &disk), file("log", log), recorder]
    }

    fn arguments(&self, memory: &Path, log: Option<&Path>) -> Vec<String> {
        let id = digest(&SHA256, self.name.as_bytes());
        let [a, b, c] = [0, 1, 2].map(|place| id.as_ref()[place]);
        let mut parts = vec![
            // Software emulation: what says that it can do better may still fail to start a kernel. One processor: between
            // two emulated ones a kernel that patches itself has been seen to lock up. Without the promise that copying
            // bytes is as quick as copying words, which an emulator does not keep: a kernel copies 3 to 6 times as fast. With
            // room for all that a control plane is translated to: what does not fit is translated anew.
            "-machine q35,smm=on -accel tcg,tb-size=2048 -cpu max,-erms,-fsrm -smp 1 -display none -vga std -nodefaults"
                .to_owned(),
            format!(
                "-serial stdio -device qemu-xhci -qmp unix:{},server=on,wait=off",
                self.monitor().display()
            ),
            format!("-m {}", self.board.memory),
            format!("-smbios type=1,manufacturer=QEMU,product=virtual,serial={}", self.board.serial),
            // Firmware that asks for what nobody here has (PXE) waits for minutes before it asks for what somebody may have (HTTP).
            "-fw_cfg name=opt/org.tianocore/IPv4PXESupport,string=n".to_owned(),
            "-fw_cfg name=opt/org.tianocore/IPv6PXESupport,string=n".to_owned(),
            format!("-drive if=pflash,format=raw,readonly=on,file={}", self.firmware()),
            format!("-drive if=pflash,format=raw,file={}", memory.display()),
        ];
        if self.is_counted {
            // While it has something to do a second is 10^9 of its instructions, however slow the emulator is.
            parts.push("-icount shift=0".to_owned());
        }
        if self.board.secure {
            // Only the firmware itself changes what it remembers.
            parts.push("-global driver=cfi.pflash01,property=secure,value=on".to_owned());
        }
        let cables = if self.board.tag.is_some() { 0..2u8 } else { 0..1 };
        for place in cables {
            let (card, c) = (self.board.card, c ^ place);
            parts.push(match self.board.tag {
                None => "-netdev tap,id=cable0,ifname=tap0,script=no,downscript=no".to_owned(),
                // As the switch has it.
                Some(_) => format!(
                    "-netdev socket,id=cable{place},udp=127.0.0.1:700{place},localaddr=127.0.0.1:710{place}"
                ),
            });
            parts.push(format!(
                "-device {card},romfile=,netdev=cable{place},mac=02:00:00:{a:02x}:{b:02x}:{c:02x}"
            ));
        }
        parts.extend(self.disk_arguments(log));
        let disk = match self.board.disk.0 {
            Bus::Virtio => "-device virtio-blk-pci,drive=disk",
            Bus::Nvme => "-device nvme,drive=disk,serial=disk",
            Bus::Ata => "-device ide-hd,drive=disk",
        };
        parts.push(disk.to_owned());
        if let Some((stick, access)) = &self.stick {
            let (stick, only) = (stick.display(), if *access == Access::Read { "on" } else { "off" });
            parts.push(format!("-drive if=none,id=stick,format=raw,readonly={only},file={stick}"));
            parts.push("-device usb-storage,drive=stick,removable=on".to_owned());
        }
        if let Some(tpm) = &self.tpm {
            parts.push(format!("-chardev socket,id=tpm,path={}", tpm.control().display()));
            parts.push("-tpmdev emulator,id=tpm0,chardev=tpm -device tpm-tis,tpmdev=tpm0".to_owned());
        }
        parts.iter().flat_map(|words| words.split(' ').map(str::to_owned)).collect()
    }

    fn firmware(&self) -> &'static str {
        if self.board.secure { SECURE_FIRMWARE } else { FIRMWARE }
    }

    /// Where the emulator is spoken to.
    fn monitor(&self) -> PathBuf {
        self.folder.path().join("monitor")
    }

    /// Pulls one of its cables out, or puts it back.
    pub fn plug(&self, cable: u8, is_in: bool) -> Result<()> {
        self.tell(&format!(
            "{{\"execute\":\"set_link\",\"arguments\":{{\"name\":\"cable{cable}\",\"up\":{is_in}}}}}"
        ))
    }

    /// Presses the power button.
    pub fn press_power(&self) -> Result<()> {
        self.tell("{\"execute\":\"system_powerdown\"}")
    }

    /// Waits until it has switched itself off.
    pub fn is_off(&mut self, deadline: Duration) -> Result<()> {
        let process = &mut self.process;
        until(&format!("{} to be off", self.name), deadline, || {
            if process.as_mut().is_some_and(Process::running) { Err("it runs".to_owned()) } else { Ok(()) }
        })
    }

    fn tell(&self, order: &str) -> Result<()> {
        let failed = |error| io("speak to the emulator of", &self.name)(error);
        let mut monitor = UnixStream::connect(self.monitor()).map_err(failed)?;
        monitor
            .write_all(format!("{{\"execute\":\"qmp_capabilities\"}}\n{order}\n").as_bytes())
            .map_err(failed)?;
        // Its greeting, and an answer to each: an order whose asker is gone is not carried out.
        let mut answers = BufReader::new(monitor).lines();
        for _ in 0..3 {
            answers.next().transpose().map_err(failed)?;
        }
        Ok(())
    }

    /// Takes a picture (PNG) of the machine's screen.
    pub fn picture(&self, png: &Path) -> Result<()> {
        let file = png.display();
        self.tell(&format!(
            "{{\"execute\":\"screendump\",\"arguments\":{{\"filename\":\"{file}\",\"format\":\"png\"}}}}"
        ))?;
        until("a picture of the screen", Duration::from_secs(10), || {
            let size = fs::metadata(png).map_or(0, |found| found.len());
            if size > 0 { Ok(()) } else { Err("there is none yet".to_owned()) }
        })
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
        let runs = self.process.as_mut().is_some_and(Process::running);
        if self.watcher.take().is_some() && runs {
            // An emulator that is killed may leave half an entry in its log. For the machine it is the same.
            let ended =
                self.tell("{\"execute\":\"quit\"}").and_then(|()| self.is_off(Duration::from_secs(10)));
            if let Err(error) = ended {
                eprintln!("the emulator does not end by itself: {error}");
            }
        }
        self.process = None;
        if let Some(tpm) = &mut self.tpm {
            tpm.power_off();
        }
    }
}
