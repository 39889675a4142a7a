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
    image::check_place(output)?;
    let (built, now) = (Built::open(images)?, system_clock());
    built.check()?;
    let program = hq.sign_program(&built.program()?)?;
    check_let_in(hq, &signed(&built, &program), images)?;
    let keys = depot_of.map(|_| hq.firmware_keys()).transpose()?;
    let depot = depot_of.zip(keys).map(|(flash, keys)| Depot { site: site.to_owned(), flash, keys });
    let plan = hq.site(site)?;
    let first = plan.network.first_contact.as_ref();
    let section = hq.section(&signed(&built, &program), depot.as_ref(), first, now)?;
    let bundle = hq.build_bundle(site, now)?;
    let provisioners = hq.certified(site)?;
    for warning in bundle.warnings.iter().chain(&provisioners.left_out) {
        eprintln!("warning: {}", plain::shown(warning));
    }
    let mut files = vec![(layout::BUNDLE.to_owned(), bundle.file.clone())];
    for (ek, certified) in &provisioners.brought {
        files.push((layout::provisioner(ek), protocol::json::to_vec(certified)));
    }
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    let write = |output: &Path| image::stick(&built, &program, section.as_bytes(), &files, output);
    hq.send(&bundle, output, write)?;
    let many = provisioners.brought.len();
    let facts =
        Facts { site, bundle: bundle.seq, depot_of, many, certified: hq.site_ca(site)?.provisioners.len() };
    print!("{}", facts.said(output));
    Ok(())
}

/// What is signed here starts every machine of the owner: it is what was let in once, whatever lies in the folder now.
fn check_let_in(hq: &Hq, images: &[Image], folder: &Path) -> Result<()> {
    for image in images {
        let is_in = hq.check_image(image)?;
        let (kind, folder) = (image.kind.word(), folder.display());
        ensure!(
            is_in,
            "images.yaml has no {kind} {}: `provisioner hq image add {folder}` first",
            image.version
        );
    }
    Ok(())
}

/// What a stick that was written is, and what it is worth.
struct Facts<'a> {
    site: &'a str,
    /// Number of its bundle.
    bundle: u64,
    /// Whether it is a depot's, and flashes disks.
    depot_of: Option<bool>,
    /// So many machines it makes provisioners.
    many: usize,
    /// So many provisioners of the site are certified, by whatever road.
    certified: usize,
}

impl Facts<'_> {
    /// What it is, who is to keep it how, and what to do with it.
    fn said(&self, output: &Path) -> String {
        let (file, site, bundle) = (output.display(), self.site, self.bundle);
        let whose = if self.depot_of.is_some() { "the depot's stick for" } else { "the stick of" };
        let is = format!(
            "{file} is {whose} {site}, with bundle {bundle}, signed for the firmware of your machines."
        );
        let does = self.depot_of.map(|flash| {
            let disk = if flash { ", the stick's system onto its disk where that is empty" } else { "" };
            format!(
                "A machine that starts from it gets your keys into its firmware{disk}, and its row into \
                 nodeboot/machines.csv on the stick; then it switches itself off."
            )
        });
        let copy = format!("Copy it onto a stick as a whole, as with `dd if={file} of=/dev/sdX bs=4M`.");
        let lines = [Some(is), does, Some(self.worth()), Some(copy)];
        lines.into_iter().flatten().map(|line| line + "\n").collect()
    }

    fn worth(&self) -> String {
        let (site, certified) = (self.site, plain::count(self.certified, "provisioner"));
        match (self.many, self.certified) {
            (0, 0) => format!(
                "No machine becomes a provisioner by it, and {site} has none yet: machines wait until one is certified \
                 (`provisioner hq site certify {site} REQUEST`) and serves."
            ),
            (0, _) => format!("No machine becomes a provisioner by it: {site} has {certified} beside it."),
            (many, _) => format!(
                "It makes {} a provisioner of {site}. Whoever has it, and such a machine for ten minutes, has the site's \
                 keys: keep it as you keep the machine and apart from it, take it away once the machine has installed \
                 itself, and serve it over no network.",
                plain::count(many, "machine")
            ),
        }
    }
}

/// The images as they are on a stick, where what the firmware starts is signed.
fn signed(built: &Built, program: &[u8]) -> [Image; 2] {
    let signed = Program { sha256: Digest::of(program), size: program.len() as u64 };
    built.images().map(|image| Image { program: image.program.map(|_| signed), ..image.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_stick_is_what_it_does_and_what_it_is_worth() {
        let said = |depot_of, many, certified| {
            Facts { site: "ship-7", bundle: 3, depot_of, many, certified }.said(Path::new("stick"))
        };
        let founding = said(None, 1, 1);
        for words in
            ["stick of ship-7, with bundle 3", "makes 1 machine a provisioner", "serve it over no network"]
        {
            assert!(founding.contains(words), "{words:?} is not in {founding}");
        }
        assert!(said(None, 0, 1).contains("ship-7 has 1 provisioner beside it"));
        assert!(said(None, 0, 0).contains("`provisioner hq site certify ship-7 REQUEST`"));
        let (depot, flashing) = (said(Some(false), 0, 1), said(Some(true), 0, 1));
        assert!(depot.contains("depot's stick") && depot.contains("nodeboot/machines.csv"), "{depot}");
        assert!(!depot.contains("onto its disk") && flashing.contains("onto its disk"), "{flashing}");
        assert!(!founding.contains("machines.csv"), "{founding}");
    }
}
