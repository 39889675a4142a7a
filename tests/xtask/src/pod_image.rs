//! Images of Pods, as docker-archive files: no registry is in reach of a site.

use anyhow::{Context as _, Result, ensure};
use harness::assets::hex;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where an image has its program.
const PROGRAMS: &str = "usr/local/bin";
/// What nft needs beside itself: libraries, and what starts a program that has some.
const LIBRARIES: [&str; 11] = [
    "libbsd.so.0",
    "libc.so.6",
    "libedit.so.2",
    "libgmp.so.10",
    "libjansson.so.4",
    "libmd.so.0",
    "libmnl.so.0",
    "libnftables.so.1",
    "libnftnl.so.11",
    "libtinfo.so.6",
    "libxtables.so.12",
];
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARY_FOLDER: &str = "lib/x86_64-linux-gnu";

/// Puts nft and its libraries below `root`, from the distribution's pinned packages, which are kept in `cache`.
pub fn add_nft(root: &Path, cache: &Path) -> Result<()> {
    let unpacked = cache.join("nft");
    image::unpack(include_str!("../../kubernetes/images/nft.yaml"), cache, &unpacked)?;
    let add = |from: &Path, to: &str| {
        let to = root.join(to);
        fs::create_dir_all(to.parent().unwrap_or(root))?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))
    };
    add(&unpacked.join("usr/sbin/nft"), &format!("{PROGRAMS}/nft"))?;
    for name in LIBRARIES {
        let places =
            [LIBRARY_FOLDER, "usr/lib/x86_64-linux-gnu"].map(|folder| unpacked.join(folder).join(name));
        let from = places.iter().find(|place| place.exists());
        add(from.with_context(|| format!("no package has {name}"))?, &format!("{LIBRARY_FOLDER}/{name}"))?;
    }
    add(&unpacked.join(LIBRARY_FOLDER).join("ld-linux-x86-64.so.2"), LOADER)?;
    Ok(fs::remove_dir_all(&unpacked)?)
}

/// Packs the static `program` as image `localhost/<name>:<tag>` into the file `output`, with what `more` adds.
pub fn pack(
    [name, tag]: [&str; 2],
    program: &Path,
    more: impl FnOnce(&Path) -> Result<()>,
    output: &Path,
) -> Result<()> {
    let folder = output.with_extension("folder");
    let root = folder.join("root");
    fs::create_dir_all(root.join(PROGRAMS))?;
    fs::copy(program, root.join(PROGRAMS).join(name))?;
    more(&root)?;
    tar(&root, &folder.join("layer.tar"))?;
    let layer = fs::read(folder.join("layer.tar"))?;
    fs::remove_dir_all(&root)?;
    fs::write(folder.join("config.json"), config(name, &layer).to_string())?;
    let tag = format!("localhost/{name}:{tag}");
    let manifest = json!([{ "Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"] }]);
    fs::write(folder.join("manifest.json"), manifest.to_string())?;
    let partial = output.with_extension("partial");
    tar(&folder, &partial)?;
    fs::remove_dir_all(&folder)?;
    fs::rename(&partial, output).with_context(|| format!("cannot move {} into place", partial.display()))
}

fn config(name: &str, layer: &[u8]) -> Value {
    let diff = hex(digest(&SHA256, layer).as_ref());
    json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": [format!("/usr/local/bin/{name}")], "Env": ["PATH=/usr/local/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff}")] },
    })
}

/// The same files give the same bytes, whoever packs them and whenever.
fn tar(folder: &Path, output: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "--mode=u=rwX,go=rX",
    ]);
    let names: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    let said = command.arg("-cf").arg(output).arg("-C").arg(folder).args(names).output()?;
    ensure!(
        said.status.success(),
        "tar of {} failed: {}",
        folder.display(),
        String::from_utf8_lossy(&said.stderr)
    );
    Ok(())
}
