//! Programs as they are shipped, and the images of the operating system, from this checkout.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use harness::Assets;
use harness::assets::IMAGES;
use image::{Built, Inputs};

use super::{Hq, SITE};

/// What the static files are built for.
const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds a program as one static file for release.
pub fn static_program(name: &str) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Where rustup is asked not to install what the toolchain file names; without rustup the target comes with Rust.
    let _ = Command::new("rustup").args(["--quiet", "target", "add", TARGET]).status();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let profile = if name == "node-boot" { "agent" } else { "machine" };
    cargo.args(["build", "--quiet", "--profile", profile, "--target", TARGET, "-p", name, "--bin", name]);
    ensure!(
        super::without_own(&mut cargo).current_dir(&root).status()?.success(),
        "the static build of {name} failed"
    );
    Ok(root.join("target").join(TARGET).join(profile).join(name))
}

/// The version of the images of this checkout.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Pod images of a machine that only runs Pods: most tests copy an image over emulated cables, and do without the rest.
const OF_A_WORKER: [&str; 2] = ["hello", "pause"];

/// Builds the images into a folder, with the control plane's.
pub fn images(out: &Path) -> Result<Built> {
    build(out, VERSION, &IMAGES, &|_| None)
}

/// Builds those of a machine that only runs Pods, as another version, with other programs in place of some.
pub fn images_with(out: &Path, version: &str, other: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Built> {
    build(out, version, &OF_A_WORKER, other)
}

fn build(out: &Path, version: &str, pods: &[&str], other: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Built> {
    let own = |name: &str| other(name).map_or_else(|| static_program(name), Ok);
    let (node_boot, provisioner) = (own("node-boot")?, own("provisioner")?);
    let assets = Assets::find()?;
    let cache = harness::assets::cache().with_file_name("debian");
    let program = |name: &str| other(name).unwrap_or_else(|| assets.program(name));
    let pods: Vec<_> = pods.iter().map(|name| (*name, assets.image(name))).collect();
    let (node_boot, provisioner, cache) = (&*node_boot, &*provisioner, &*cache);
    image::build(&Inputs { version, node_boot, provisioner, program: &program, pods: &pods, cache }, out)
}

/// The images of this checkout for a machine that only runs Pods, built once in the life of this process.
pub fn own_images() -> Result<Built> {
    static BUILT: OnceLock<Result<Built, String>> = OnceLock::new();
    let build = || images_with(&folder("worker"), VERSION, &|_| None).map_err(|error| format!("{error:#}"));
    BUILT.get_or_init(build).clone().map_err(anyhow::Error::msg)
}

/// The same with the control plane's.
pub fn whole_images() -> Result<Built> {
    static BUILT: OnceLock<Result<Built, String>> = OnceLock::new();
    let build = || images(&folder("whole")).map_err(|error| format!("{error:#}"));
    BUILT.get_or_init(build).clone().map_err(anyhow::Error::msg)
}

/// Where they are.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image").join(name)
}

impl Hq {
    /// The stick of the site, with the images of this checkout.
    pub fn kit(&self) -> Result<PathBuf> {
        self.kit_with("stick", &[])
    }

    /// The same under another name, made with more arguments.
    pub fn kit_with(&self, name: &str, options: &[&str]) -> Result<PathBuf> {
        own_images()?;
        self.kit_of("worker", name, options)
    }

    /// One that can found a site.
    pub fn whole_kit(&self) -> Result<PathBuf> {
        whole_images()?;
        self.kit_of("whole", "stick", &[])
    }

    fn kit_of(&self, images: &str, name: &str, options: &[&str]) -> Result<PathBuf> {
        if !self.dir().join("secure-boot.yaml").exists() {
            self.run(&["secure-boot"])?;
        }
        let (images, stick) = (folder(images).display().to_string(), self.path(name));
        self.run(&["image", "add", &images])?;
        let words = ["site", "kit", SITE, "--images", &images, "-o", &stick.display().to_string()];
        self.run(&[&words[..], options].concat())?;
        Ok(stick)
    }
}

/// A file that the firmware reads of a stick.
pub fn on_stick(stick: &Path, path: &str) -> Result<Vec<u8>> {
    const PARTITION: (u64, usize) = (1 << 20, 256 << 20);
    let mut file = std::fs::File::open(stick)?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(PARTITION.0))?;
    let mut volume = vec![0; PARTITION.1];
    std::io::Read::read_exact(&mut file, &mut volume)?;
    let volume = std::io::Cursor::new(volume);
    let system = fatfs::FileSystem::new(volume, fatfs::FsOptions::new())?;
    let mut bytes = Vec::new();
    let root = system.root_dir();
    let mut file = root.open_file(path).with_context(|| format!("{path} on {}", stick.display()))?;
    std::io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(bytes)
}
