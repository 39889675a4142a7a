//! The ways to a TPM: the kernel's device, or a socket of a software TPM.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::command::LONGEST;

/// How long a software TPM may take to answer; another client of it may be at work. The kernel has deadlines of its
/// own for each command to a real one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Carries commands to a TPM and answers back.
pub trait Transport: Send {
    /// Sends one whole command and returns its whole answer.
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;

    /// Whether a resource manager keeps our objects apart from those of others, so that they can stay loaded.
    fn keeps_objects(&self) -> bool {
        false
    }

    /// Lets others use the TPM until the next command.
    fn rest(&mut self) {}
}

/// Where a TPM is: `/dev/tpmrm0`, `unix:/path` or `tcp:host:port` (the data channel of swtpm).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// A character device of the kernel.
    Device(PathBuf),
    /// A UNIX socket.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
}

/// Text that says no place of a TPM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place of a TPM: write /dev/tpmrm0, unix:/path or tcp:host:port")]
pub struct BadSpec(String);

impl FromStr for Spec {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<Self, BadSpec> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) if address.contains(':') => Ok(Self::Tcp(address.into())),
            None if text.starts_with('/') => Ok(Self::Device(text.into())),
            _ => Err(BadSpec(text.into())),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "{}", path.display()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl Spec {
    fn connect(&self) -> io::Result<Wire> {
        match self {
            Self::Device(path) => OpenOptions::new().read(true).write(true).open(path).map(Wire::Device),
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Wire::Unix(stream))
            }
            Self::Tcp(address) => {
                let place = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
                let stream = TcpStream::connect_timeout(&place, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Wire::Tcp(stream))
            }
        }
    }
}

enum Wire {
    Device(File),
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Wire {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Device(file) => {
                // The driver takes a command by one write and gives its answer by one read.
                file.write_all(command)?;
                let mut answer = vec![0; LONGEST];
                let len = file.read(&mut answer)?;
                answer.truncate(len);
                Ok(answer)
            }
            Self::Unix(stream) => exchange(stream, command),
            Self::Tcp(stream) => exchange(stream, command),
        }
    }
}

fn exchange(stream: &mut (impl Read + Write), command: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(command)?;
    let mut answer = vec![0; 10];
    stream.read_exact(&mut answer)?;
    let len = u32::from_be_bytes([answer[2], answer[3], answer[4], answer[5]]);
    let len = usize::try_from(len).ok().filter(|len| (10..=LONGEST).contains(len));
    answer.resize(len.ok_or(io::ErrorKind::InvalidData)?, 0);
    stream.read_exact(&mut answer[10..])?;
    Ok(answer)
}

/// Connects when there is something to say. Without a resource manager, the connection is also what keeps other
/// programs' commands from getting between ours.
pub(super) struct Line {
    spec: Spec,
    wire: Option<Wire>,
}

impl Line {
    pub fn new(spec: &Spec) -> Self {
        Self { spec: spec.clone(), wire: None }
    }
}

impl Transport for Line {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => self.spec.connect()?,
        };
        // After a failure the wire is dropped: what would come next on it belongs to this command.
        let answer = wire.transact(command)?;
        self.wire = Some(wire);
        Ok(answer)
    }

    fn keeps_objects(&self) -> bool {
        // The kernel names its devices with a resource manager tpmrm0, tpmrm1 and so on.
        let managed = |path: &PathBuf| path.file_name()?.to_str().map(|name| name.starts_with("tpmrm"));
        matches!(&self.spec, Spec::Device(path) if managed(path) == Some(true))
    }

    fn rest(&mut self) {
        self.wire = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_their_spelling() {
        for text in ["/dev/tpmrm0", "unix:/run/tpm.sock", "tcp:127.0.0.1:2321", "tcp:[::1]:2321"] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), text);
        }
        for bad in ["", "none", "unix:", "tcp:2321", "dev/tpm0", "/dev/tpm:0"] {
            assert!(bad.parse::<Spec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_devices_with_a_resource_manager_keep_objects() {
        let keeps = |text: &str| Line::new(&text.parse().unwrap()).keeps_objects();
        assert!(keeps("/dev/tpmrm0"));
        assert!(!keeps("/dev/tpm0") && !keeps("unix:/dev/tpmrm0"));
    }
}
