//! Programs as they are shipped, and the images of the operating system, from this checkout.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use harness::Assets;
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
    cargo.args(["build", "--quiet", "--profile", "machine", "--target", TARGET, "-p", name, "--bin", name]);
    ensure!(
        super::without_own(&mut cargo).current_dir(&root).status()?.success(),
        "the static build of {name} failed"
    );
    Ok(root.join("target").join(TARGET).join("machine").join(name))
}

/// The version of the images of this checkout.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds the images into a folder.
pub fn images(out: &Path) -> Result<Built> {
    let node_boot = static_program("node-boot")?;
    let assets = Assets::find()?;
    let cache = harness::assets::cache().with_file_name("debian");
    let program = |name: &str| assets.program(name);
    let pods = ["hello", "pause"].map(|name| (name, assets.image(name)));
    let (version, node_boot, cache) = (VERSION, &*node_boot, &*cache);
    image::build(&Inputs { version, node_boot, program: &program, pods: &pods, cache }, out)
}

/// The images of this checkout, built once in the life of this process.
pub fn own_images() -> Result<Built> {
    static BUILT: OnceLock<Result<Built, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| images(&own_folder()).map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

/// Where they are.
fn own_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image")
}

impl Hq {
    /// The stick of the site, with the images of this checkout.
    pub fn kit(&self) -> Result<PathBuf> {
        own_images()?;
        let (images, stick) = (own_folder().display().to_string(), self.path("stick"));
        self.run(&["site", "kit", SITE, "--images", &images, "-o", &stick.display().to_string()])?;
        Ok(stick)
    }
}
