//! Drivers: those that are listed, in their order, and those that this machine's hardware asks for.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::io::Errno;

/// Loads what `modules.list` of a folder names, a path below that folder on each line: dependencies come first.
pub fn load_listed(folder: &Path) -> Result<()> {
    let list = folder.join("modules.list");
    let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    for line in text.lines() {
        // A driver that does not fit this machine shows in what then is missing.
        if let Err(error) = load(&folder.join(line)) {
            note(&format!("{error:#}"));
        }
    }
    Ok(())
}

fn load(file: &Path) -> Result<()> {
    let open = File::open(file).with_context(|| format!("reading the driver {}", file.display()))?;
    match rustix::system::finit_module(&open, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("loading {}", file.display())),
    }
}

/// A line in the kernel's ring, where whoever looks for the cause finds it.
fn note(line: &str) {
    let _ = fs::write("/dev/kmsg", format!("node-boot: {line}\n"));
}

/// Loads the driver of each device that this machine has, as far as the image has one.
pub fn load_for_hardware() {
    let Some(drivers) = Drivers::read() else { return };
    let mut seen = HashSet::new();
    // A driver shows devices that were not there before it, such as those behind a bus.
    loop {
        let new: Vec<_> =
            aliases(Path::new("/sys/bus")).into_iter().filter(|one| seen.insert(one.clone())).collect();
        if new.is_empty() {
            return;
        }
        for alias in new {
            for module in drivers.of(&alias) {
                drivers.load_with_what_it_needs(module);
            }
        }
    }
}

/// What each device of every bus says that it is. Below `/sys/devices` are many more folders.
fn aliases(buses: &Path) -> Vec<String> {
    let folders =
        |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let devices = folders(buses).flat_map(|bus| folders(&bus.join("devices")));
    let alias = |device: PathBuf| fs::read_to_string(device.join("modalias")).ok();
    devices.filter_map(alias).map(|text| text.trim().to_owned()).collect()
}

/// The image's drivers, as `depmod` describes them.
struct Drivers {
    folder: PathBuf,
    aliases: Vec<(String, String)>,
    needs: Vec<(String, Vec<String>)>,
}

impl Drivers {
    fn read() -> Option<Self> {
        let release = rustix::system::uname();
        let folder = Path::new("/usr/lib/modules").join(release.release().to_str().ok()?);
        let aliases = fs::read_to_string(folder.join("modules.alias")).ok()?;
        let needs = fs::read_to_string(folder.join("modules.dep")).ok()?;
        Some(Self { folder, aliases: read_aliases(&aliases), needs: read_needs(&needs) })
    }

    /// Modules for a device.
    fn of<'a>(&'a self, alias: &'a str) -> impl Iterator<Item = &'a str> {
        self.aliases
            .iter()
            .filter(move |(pattern, _)| fits(pattern, alias))
            .map(|(_, module)| module.as_str())
    }

    fn load_with_what_it_needs(&self, module: &str) {
        let is_it = |path: &str| {
            let name = path.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
            name.replace('-', "_") == module
        };
        let Some((path, needs)) = self.needs.iter().find(|(path, _)| is_it(path)) else { return };
        for file in needs.iter().rev().chain(Some(path)) {
            let _ = load(&self.folder.join(file));
        }
    }
}

/// Lines of `modules.alias`: `alias PATTERN MODULE`.
fn read_aliases(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let mut words = line.strip_prefix("alias ")?.rsplitn(2, ' ');
        let module = words.next()?.replace('-', "_");
        Some((words.next()?.to_owned(), module))
    };
    text.lines().filter_map(line).collect()
}

/// Lines of `modules.dep`: a module, and what it needs, the nearest first.
fn read_needs(text: &str) -> Vec<(String, Vec<String>)> {
    let line = |line: &str| {
        let (path, needs) = line.split_once(':')?;
        Some((path.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
    };
    text.lines().filter_map(line).collect()
}

/// `fnmatch(3)` as far as `depmod` uses it: `*`, `?`, and sets such as `[0-9A]`.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut back) = (0, 0, None);
    while t < text.len() {
        let (one, next) = match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => (true, p + 1),
            Some(b'[') => in_set(pattern, p, text[t]),
            Some(symbol) => (*symbol == text[t], p + 1),
            None => (false, p),
        };
        if one {
            (p, t) = (next, t + 1);
        } else if let Some((after, at)) = back {
            (p, t, back) = (after, at + 1, Some((after, at + 1)));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|symbol| *symbol == b'*')
}

/// Whether a symbol is in the set that begins at `at`, and where the pattern goes on.
fn in_set(pattern: &[u8], at: usize, symbol: u8) -> (bool, usize) {
    let Some(length) = pattern[at..].iter().position(|one| *one == b']') else {
        return (false, pattern.len());
    };
    let set = &pattern[at + 1..at + length];
    let (mut place, mut is_in) = (0, false);
    while place < set.len() {
        if set.get(place + 1) == Some(&b'-') && place + 2 < set.len() {
            is_in |= (set[place]..=set[place + 2]).contains(&symbol);
            place += 3;
        } else {
            is_in |= set[place] == symbol;
            place += 1;
        }
    }
    (is_in, at + length + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_depmod_fit_devices_of_sysfs() {
        let device = "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00";
        for (pattern, wanted) in [
            ("pci:v00001AF4d00001041sv*sd*bc*sc*i*", true),
            ("pci:v00001AF4d0000104[0-9A-F]sv*", true),
            ("pci:v00001AF4d0000104[2-9]sv*", false),
            ("pci:v0000????d00001041*", true),
            ("pci:v*d*sv*sd*bc02sc00i00*", true),
            ("pci:v*d*sv*sd*bc03*", false),
            ("pci:v00001AF4", false),
            ("*[", false),
        ] {
            assert_eq!(fits(pattern, device), wanted, "{pattern}");
        }
        assert!(fits("*", "") && fits("", "") && !fits("a", ""));
    }

    #[test]
    fn the_devices_of_every_bus_say_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        for (device, alias) in
            [("pci/devices/0", Some("pci:1\n")), ("usb/devices/1", Some("usb:2\n")), ("acpi/devices/2", None)]
        {
            let device = folder.path().join(device);
            fs::create_dir_all(&device).unwrap();
            if let Some(alias) = alias {
                fs::write(device.join("modalias"), alias).unwrap();
            }
        }
        let mut found = aliases(folder.path());
        found.sort();
        assert_eq!(found, ["pci:1", "usb:2"]);
    }

    #[test]
    fn what_a_driver_needs_is_read_as_depmod_wrote_it() {
        let aliases = read_aliases("# Aliases\nalias virtio:d00000001v* virtio-net\nalias net-pf-10 ipv6\n");
        assert_eq!(aliases[0], ("virtio:d00000001v*".to_owned(), "virtio_net".to_owned()));
        let needs = read_needs("kernel/a.ko: kernel/b.ko kernel/c.ko\nkernel/c.ko:\n");
        assert_eq!(needs[0].1, ["kernel/b.ko", "kernel/c.ko"]);
        assert!(needs[1].1.is_empty());
    }
}
