//! Kubernetes' image, mounted where programs find it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use protocol::image::Image;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::os::disk;
use crate::os::init::Root;
use crate::os::mapper;

/// Where its programs and Pod images are: `bin` and `images` below it.
pub const KUBERNETES: &str = "/usr/lib/kubernetes";
/// Which image is mounted there: the name of its partition.
const MOUNTED: &str = "/run/kubernetes-image";
/// A stick takes seconds until the kernel knows it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Mounts this image; nothing else comes out of it than what was built.
pub fn mount_kubernetes(image: &Image) -> Result<()> {
    let name = image.partition();
    let device = wait_for(&name)?;
    let checked = Root::of(image).open(&name, &device)?;
    mount(&checked, KUBERNETES, "erofs", MountFlags::RDONLY, None).with_context(|| {
        format!("mounting Kubernetes {} from {} on {KUBERNETES}", image.version, device.display())
    })?;
    fs::write(MOUNTED, name).context("noting which image of Kubernetes is in use")
}

/// Takes the mounted image away. Programs that still run from it keep what they have open.
pub fn unmount_kubernetes() -> Result<()> {
    if let Some(name) = mounted() {
        unmount(KUBERNETES, UnmountFlags::DETACH).with_context(|| format!("unmounting {KUBERNETES}"))?;
        fs::remove_file(MOUNTED).context("noting that no image of Kubernetes is in use")?;
        mapper::remove_later(&name)?;
    }
    Ok(())
}

/// The name of the partition whose image is mounted.
pub fn mounted() -> Option<String> {
    fs::read_to_string(MOUNTED).ok()
}

fn wait_for(name: &str) -> Result<PathBuf> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(device) = disk::any_partition(name).filter(|device| Path::new(device).exists()) {
            return Ok(device);
        }
        anyhow::ensure!(Instant::now() < until, "no disk has the image of Kubernetes ({name})");
        std::thread::sleep(Duration::from_millis(50));
    }
}
