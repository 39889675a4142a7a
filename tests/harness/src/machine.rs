//! A machine with a disk, a board, perhaps a TPM, and one cable: everything but a kernel of its own.

use crate::assets::{Assets, hex};
use crate::cgroup::Cgroup;
use crate::error::{Error, Result, io, run};
use crate::folder::{Folder, unique};
use crate::lan::{Lan, Port};
use crate::process::Process;
use crate::room::{Plan, Room};
use crate::tpm::Tpm;
use crate::wait::until;
use ring::digest::{SHA256, digest};
use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Shell lines of every power-on. Mount points that the computer lacks are made on overlays, never on the
/// computer; what is mounted on them is the machine's disk, so nothing of the computer's own Kubernetes shows.
const SETUP: &str = r#"
overlay() {
    mkdir -p "$DISK/overlay$1/upper" "$DISK/overlay$1/work"
    mount -t overlay -o "lowerdir=$1,upperdir=$DISK/overlay$1/upper,workdir=$DISK/overlay$1/work" overlay "$1"
}
overlay /etc
overlay /opt
overlay /var/lib
for folder in /etc/kubernetes /etc/containerd /etc/cni /etc/node-boot /etc/provisioner /opt/cni /var/lib/cni \
    /var/lib/kubelet /var/lib/containerd /var/lib/etcd /var/lib/node-boot /var/lib/provisioner /var/log; do
    mkdir -p "$DISK/root$folder" "$folder"
    mount --bind "$DISK/root$folder" "$folder"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /opt/cni/bin
if [ -n "$CNI" ]; then mount --bind -o ro "$CNI" /opt/cni/bin; fi
rm -f /etc/resolv.conf /etc/machine-id /etc/hostname
echo "$MACHINE_ID" > /etc/machine-id
echo "$NAME" > /etc/hostname
echo "127.0.0.1 localhost" > /etc/hosts
: > /etc/resolv.conf
if [ -d /sys/class/dmi/id ]; then mount --bind "$DISK/dmi" /sys/class/dmi/id; fi
for tpm in /dev/tpm*; do if [ -e "$tpm" ]; then mount --bind /dev/null "$tpm"; fi; done
mount --make-rshared /
"#;

/// What is on the board, and which cable goes in.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// DMI `sys_vendor`.
    pub vendor: String,
    /// DMI `product_name`.
    pub product: String,
    /// DMI `product_serial`.
    pub serial: String,
    /// Whether there is a TPM 2.0.
    pub tpm: bool,
    /// An IPv4 address that it has from power-on; with `None` it starts with IPv6 link-local alone.
    pub address: Option<Ipv4Addr>,
    /// Environment variables of every program on it, such as a lying clock.
    pub env: Vec<(String, String)>,
}

impl Hardware {
    /// A NUC with a TPM and this serial, without an IPv4 address.
    pub fn nuc(serial: &str) -> Self {
        Self {
            vendor: "Intel(R) Client Systems".into(),
            product: "NUC12WSHi5".into(),
            serial: serial.into(),
            tpm: true,
            address: None,
            env: Vec::new(),
        }
    }
}

/// A machine; it is switched on when made, and what is on its disk outlives any power cut.
#[derive(Debug)]
pub struct Machine {
    name: String,
    hardware: Hardware,
    lan: Lan,
    tpm: Option<Tpm>,
    power: Option<Power>,
    disk: Folder,
}

#[derive(Debug)]
struct Power {
    port: Port,
    room: Room,
}

impl Machine {
    /// Builds a machine, plugs it into `lan` and switches it on. `name` is its host name.
    pub fn new(lan: &Lan, name: &str, hardware: Hardware) -> Result<Self> {
        let disk = Folder::new(name)?;
        write_dmi(&disk.path().join("dmi"), &hardware)?;
        let logs = disk.path().join("logs");
        fs::create_dir_all(&logs).map_err(io("create", logs.display()))?;
        let manufacture = || Tpm::manufacture(disk.path().join("tpm"), lan.tpm_authority());
        let tpm = hardware.tpm.then(manufacture).transpose()?;
        let mut machine = Self { name: name.into(), hardware, lan: lan.clone(), tpm, power: None, disk };
        machine.power_on()?;
        Ok(machine)
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Switches it on: its disk is as it was, `/run` is empty. Does nothing when it is on.
    pub fn power_on(&mut self) -> Result<()> {
        if self.power.is_some() {
            return Ok(());
        }
        let assets = Assets::wherever();
        let bridge = assets.program("bridge");
        let cni = bridge.parent().filter(|_| bridge.exists()).map(Path::as_os_str).unwrap_or_default();
        let id = hex(&digest(&SHA256, self.disk.path().as_os_str().as_encoded_bytes()).as_ref()[..16]);
        let env = vec![("DISK", self.disk.path().as_os_str()), ("CNI", cni), ("MACHINE_ID", OsStr::new(&id))];
        let cgroup = Some(Cgroup::new(&unique(&self.name))?);
        let plan = Plan { name: &self.name, setup: SETUP, env, cgroup, path: assets.path() };
        let room = Room::open(plan)?;
        let port = self.lan.attach(&room, &self.name, self.hardware.address)?;
        if let Some(tpm) = &mut self.tpm {
            tpm.power_on(&room)?;
        }
        self.power = Some(Power { port, room });
        Ok(())
    }

    /// Pulls the power: every program on it ends at once, mid-write.
    pub fn power_off(&mut self) {
        self.power = None;
        if let Some(tpm) = &mut self.tpm {
            tpm.power_off();
        }
    }

    /// A command that runs on this machine; Kubernetes' programs come first on its `PATH`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = self.power()?.room.command(program);
        // Machines share the clock of the computer that runs them: nothing on one sets it.
        command.env("NODEBOOT_CLOCK", "host");
        command.envs(self.hardware.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// What a person types before a command to run it on this machine.
    pub fn by_hand(&self) -> Result<String> {
        Ok(self.power()?.room.by_hand())
    }

    /// Runs a program on this machine to its end and returns what it printed.
    pub fn run(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<String> {
        run(self.command(program)?.args(arguments))
    }

    /// Starts a command made by [`Machine::command`] in the background, with its own log file.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(name, command, &self.disk.path().join("logs").join(format!("{name}.log")))
    }

    /// Runs `work` on a thread of this process whose sockets are this machine's.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.power()?.room.inside(work)
    }

    /// Pulls its network cable.
    pub fn unplug(&self) -> Result<()> {
        self.power()?.port.unplug()
    }

    /// Puts its network cable back.
    pub fn plug(&self) -> Result<()> {
        self.power()?.port.plug()
    }

    /// The hardware address of its `eth0`, in small letters with colons.
    pub fn mac(&self) -> Result<&str> {
        Ok(self.power()?.port.mac())
    }

    /// The IPv6 link-local address of its `eth0`; from another machine its scope is `%eth0` as well.
    pub fn link_local(&self) -> Result<Ipv6Addr> {
        let room = &self.power()?.room;
        until("a link-local address", Duration::from_secs(5), || {
            let said = room.ip(&["-6", "-o", "address", "show", "dev", "eth0", "scope", "link"]);
            let said = said.map_err(|error| error.to_string())?;
            let address = said.split_whitespace().find_map(|word| word.strip_suffix("/64")?.parse().ok());
            address.ok_or(said)
        })
    }

    /// Its TPM, where it has one.
    pub fn tpm(&self) -> Option<&Tpm> {
        self.tpm.as_ref()
    }

    /// The folder that stands for `/sys/class/dmi/id`.
    pub fn dmi(&self) -> PathBuf {
        self.disk.path().join("dmi")
    }

    /// Where a path on the machine's disk is on this computer. Good for what is under `/etc/kubernetes`,
    /// `/etc/containerd`, `/etc/cni`, `/etc/node-boot`, `/etc/provisioner`, `/var/log` and, under `/var/lib`,
    /// `kubelet`, `containerd`, `etcd`, `cni`, `node-boot` and `provisioner`; for other paths use [`Machine::run`].
    pub fn on_disk(&self, path: &str) -> PathBuf {
        self.disk.path().join("root").join(path.trim_start_matches('/'))
    }

    /// Writes a file on the machine's disk, readable by its owner alone, making the folders above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = self.on_disk(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(io("create", folder.display()))?;
        }
        let mut options = fs::File::options();
        let open = options.write(true).create(true).truncate(true).mode(0o600).open(&file);
        let mut open = open.map_err(io("create", file.display()))?;
        std::io::Write::write_all(&mut open, content.as_ref()).map_err(io("write", file.display()))
    }

    fn power(&self) -> Result<&Power> {
        self.power.as_ref().ok_or_else(|| Error::Off(self.name.clone()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
    }
}

fn write_dmi(folder: &Path, hardware: &Hardware) -> Result<()> {
    fs::create_dir_all(folder).map_err(io("create", folder.display()))?;
    let serial = hardware.serial.as_str();
    let facts = [
        ("sys_vendor", hardware.vendor.as_str()),
        ("product_name", &hardware.product),
        ("product_serial", serial),
        ("board_serial", serial),
        ("chassis_serial", "To be filled by O.E.M."),
        ("product_uuid", "03000200-0400-0500-0006-000700080009"),
        ("bios_version", "WSADL357.0085"),
    ];
    for (name, value) in facts {
        let file = folder.join(name);
        fs::write(&file, format!("{value}\n")).map_err(io("write", file.display()))?;
    }
    Ok(())
}
