//! Kubernetes' image, mounted where programs find it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use protocol::image::Image;
use rustix::mount::{MountFlags, mount};

use crate::os::disk;
use crate::os::init::Root;

/// Where its programs and Pod images are: `bin` and `images` below it.
pub const KUBERNETES: &str = "/usr/lib/kubernetes";
/// A stick takes seconds until the kernel knows it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Mounts this image; nothing else comes out of it than what was built.
pub fn mount_kubernetes(image: &Image) -> Result<()> {
    let name = image.partition();
    let device = wait_for(&name)?;
    let checked = Root::of(image).open(&name, &device)?;
    mount(&checked, KUBERNETES, "erofs", MountFlags::RDONLY, None).with_context(|| {
        format!("mounting Kubernetes {} from {} on {KUBERNETES}", image.version, device.display())
    })
}

fn wait_for(name: &str) -> Result<std::path::PathBuf> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(device) = disk::any_partition(name).filter(|device| Path::new(device).exists()) {
            return Ok(device);
        }
        anyhow::ensure!(Instant::now() < until, "no disk has the image of Kubernetes ({name})");
        std::thread::sleep(Duration::from_millis(50));
    }
}
