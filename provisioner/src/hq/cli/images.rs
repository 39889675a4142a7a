//! The operating system of machines: its images, and the stick of a site.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::{Built, Inputs};
use protocol::bytes::hex;

use super::args::ImageCommand;
use crate::hq::Hq;
use crate::site::{plain, system_clock};

pub(super) fn build(command: &ImageCommand) -> Result<()> {
    let ImageCommand::Build { version, node_boot, programs, cache, output } = command;
    let pods = pods(&programs.join("images"))?;
    let pods: Vec<_> = pods.iter().map(|(name, file)| (name.as_str(), file.clone())).collect();
    let program = |name: &str| programs.join(name);
    let built = image::build(&Inputs { version, node_boot, program: &program, pods: &pods, cache }, output)?;
    println!("The images are in {}, with {} for the firmware:", output.display(), shown(&built.uki)?);
    for (image, file) in [&built.os, &built.kubernetes] {
        println!("  {} {}: {}, {}", image.kind.word(), image.version, shown(file)?, hex(&image.root.0));
    }
    Ok(())
}

/// Pod images of a folder, in their order.
fn pods(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut pods = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
        pods.extend(
            name.filter(|_| path.extension().is_some_and(|end| end == "tar")).map(|name| (name, path)),
        );
    }
    pods.sort();
    Ok(pods)
}

fn shown(file: &Path) -> Result<String> {
    let size = std::fs::metadata(file)?.len() / 1_000_000;
    Ok(format!("{} ({size} MB)", file.file_name().unwrap_or_default().to_string_lossy()))
}

/// Writes the stick of a site, with its next bundle.
pub(super) fn stick(hq: &Hq, site: &str, images: &Path, output: &Path) -> Result<()> {
    hq.check_site(site)?;
    let built = Built::open(images)?;
    let bundle = hq.build_bundle(site, system_clock())?;
    for warning in &bundle.warnings {
        eprintln!("warning: {}", plain::shown(warning));
    }
    let mut files = vec![(layout::BUNDLE.to_owned(), bundle.file)];
    let provisioners = hq.certified(site)?;
    for (ek, certified) in &provisioners {
        files.push((layout::provisioner(ek), protocol::json::to_vec(certified)));
    }
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    image::stick(&built, &owner_file(hq, &built)?, &files, output)?;
    let file = output.display();
    println!("{file} is the stick of {site}, with bundle {}.", bundle.seq);
    match provisioners.len() {
        0 => {
            println!(
                "No machine is made a provisioner by it: the site has one already, or gets one by hand."
            );
        }
        many => println!("It makes {} of the site's own.", plain::count(many, "provisioner")),
    }
    println!("Copy it onto a stick as a whole, as with `dd if={file} of=/dev/sdX bs=4M`.");
    Ok(())
}

/// The owner's file, which says as well what is on the stick.
fn owner_file(hq: &Hq, built: &Built) -> Result<Vec<u8>> {
    let path = hq.dir.join("public/owner.json");
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut owner: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    owner.insert("images".to_owned(), serde_json::to_value(built.images())?);
    Ok(protocol::json::to_vec(&owner))
}
