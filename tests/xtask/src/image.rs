//! Container images of one static program, as docker-archive files: there is no registry in a test.

use anyhow::{Context as _, Result, ensure};
use harness::assets::hex;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Packs the static `program` as image `localhost/<name>:1` into the file `output`.
pub fn pack(name: &str, program: &Path, output: &Path) -> Result<()> {
    let folder = output.with_extension("folder");
    let root = folder.join("root");
    fs::create_dir_all(root.join("usr/local/bin"))?;
    fs::copy(program, root.join("usr/local/bin").join(name))?;
    tar(&root, &folder.join("layer.tar"))?;
    let layer = fs::read(folder.join("layer.tar"))?;
    fs::remove_dir_all(&root)?;
    fs::write(folder.join("config.json"), config(name, &layer).to_string())?;
    let tag = format!("localhost/{name}:1");
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
