//! The operating system of machines: its images, and the stick of a site.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image::{Built, Inputs};
use protocol::bytes::{Digest, hex};
use protocol::image::{Image, Program};
use protocol::section::Depot;

use crate::hq::Hq;
use crate::plain;
use crate::site::system_clock;

pub(super) fn build(
    version: &str,
    [node_boot, provisioner]: [&Path; 2],
    programs: &Path,
    cache: &Path,
    output: &Path,
) -> Result<()> {
    let pods = pods(&programs.join("images"))?;
    let pods: Vec<_> = pods.iter().map(|(name, file)| (name.as_str(), file.clone())).collect();
    let program = |name: &str| programs.join(name);
    let inputs = Inputs { version, node_boot, provisioner, program: &program, pods: &pods, cache };
    let built = image::build(&inputs, output)?;
    println!("The images are in {}, with {} for the firmware:", output.display(), shown(&built.uki)?);
    for (image, file) in [&built.os, &built.kubernetes] {
        println!("  {} {}: {}, {}", image.kind.word(), image.version, shown(file)?, hex(&image.root.0));
    }
    Ok(())
}

/// Lets sites run what is in a folder, and puts there what the firmware of the owner's machines starts.
pub(super) fn add(hq: &Hq, folder: &Path) -> Result<()> {
    let built = Built::open(folder)?;
    built.check()?;
    let program = hq.sign_program(&built.program()?)?;
    let images = signed(&built, &program);
    // Nothing is signed for machines that is not let in then.
    images.iter().try_for_each(|image| hq.check_image(image).map(drop))?;
    let file = folder.join(image::SIGNED);
    std::fs::write(&file, &program).with_context(|| format!("writing {}", file.display()))?;
    for image in images {
        hq.add_image(&image)?;
        println!("{} {}: `system` in a site's site.yaml may name it.", image.kind.word(), image.version);
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

/// Writes the stick of a site, with its next bundle. `depot_of` makes it a depot's, which also flashes disks or does not.
pub(super) fn stick(hq: &Hq, site: &str, images: &Path, output: &Path, depot_of: Option<bool>) -> Result<()> {
    hq.check_site(site)?;
    let (built, now) = (Built::open(images)?, system_clock());
    built.check()?;
    let program = hq.sign_program(&built.program()?)?;
    // What is signed here starts every machine of the owner: it is what was let in once, whatever lies in the folder now.
    for image in signed(&built, &program) {
        let is_in = hq.check_image(&image)?;
        let (kind, folder) = (image.kind.word(), images.display());
        ensure!(
            is_in,
            "images.yaml has no {kind} {}: `provisioner hq image add {folder}` first",
            image.version
        );
    }
    let keys = depot_of.map(|_| hq.firmware_keys()).transpose()?;
    let depot = depot_of.zip(keys).map(|(flash, keys)| Depot { site: site.to_owned(), flash, keys });
    let first = hq.site(site)?.network.first_contact;
    let section = hq.section(&signed(&built, &program), depot.as_ref(), first.as_ref(), now)?;
    let bundle = hq.build_bundle(site, now)?;
    for warning in &bundle.warnings {
        eprintln!("warning: {}", plain::shown(warning));
    }
    let mut files = vec![(layout::BUNDLE.to_owned(), bundle.file)];
    let provisioners = hq.certified(site)?;
    for (ek, certified) in &provisioners {
        files.push((layout::provisioner(ek), protocol::json::to_vec(certified)));
    }
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    image::stick(&built, &program, section.as_bytes(), &files, output)?;
    let (file, of) =
        (output.display(), if depot.is_some() { "the depot's stick for" } else { "the stick of" });
    println!("{file} is {of} {site}, with bundle {}, signed for the firmware of your machines.", bundle.seq);
    match provisioners.len() {
        0 => {
            println!(
                "No machine is made a provisioner by it: the site has one already, or gets one by hand."
            );
        }
        many => {
            println!("It makes {} of the site's own.", plain::count(many, "provisioner"));
            println!(
                "Whoever has it, and one of those machines for ten minutes, has the site's keys: keep it as you keep them, \
                 and serve it over no network."
            );
        }
    }
    println!("Copy it onto a stick as a whole, as with `dd if={file} of=/dev/sdX bs=4M`.");
    Ok(())
}

/// The images as they are on a stick, where what the firmware starts is signed.
fn signed(built: &Built, program: &[u8]) -> [Image; 2] {
    let signed = Program { sha256: Digest::of(program), size: program.len() as u64 };
    built.images().map(|image| Image { program: image.program.map(|_| signed), ..image.clone() })
}
