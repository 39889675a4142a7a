//! The bill of materials of the images (`CycloneDX` 1.5): each file, what it comes from, by which version, digest and licence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use protocol::bytes::{Digest, hex};
use serde::Serialize;

use crate::debian::{self, Pin};
use crate::origin::{Part, crates, go_modules, licences};
use crate::tree::{Content, Node, Tree};

/// Its name, beside the images.
pub(crate) const FILE: &str = "sbom.json";

/// Packages of which the file for the firmware is made, beside the first archive.
const STARTS: [&str; 2] = ["/linux-image-", "/systemd-boot-efi@"];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bill {
    bom_format: &'static str,
    spec_version: &'static str,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Metadata {
    component: Component,
}

#[derive(Clone, Default, Serialize)]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref")]
    reference: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<Choice>,
    #[serde(skip_serializing_if = "String::is_empty")]
    purl: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    properties: Vec<Property>,
}

#[derive(Clone, Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Clone, Serialize)]
struct Choice {
    license: Named,
}

#[derive(Clone, Serialize)]
struct Named {
    name: String,
}

#[derive(Clone, Serialize)]
struct Property {
    name: &'static str,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    depends_on: BTreeSet<String>,
}

/// What files come from, gathered.
struct Materials<'a> {
    root: &'a Path,
    /// Files of packages, below the root, and which package has each.
    packages: BTreeMap<PathBuf, String>,
    components: BTreeMap<String, Component>,
    files: BTreeMap<String, (Component, BTreeSet<String>)>,
}

/// Writes the bill of these trees, each under its name, into the folder `out`. `root` is where the packages are unpacked that
/// are in `cache`. A program of which nobody knows what it is
/// made from is an error.
pub(crate) fn write(version: &str, trees: &[(&str, &Tree)], [root, cache, out]: [&Path; 3]) -> Result<()> {
    let root = &fs::canonicalize(root)?;
    let mut all =
        Materials { root, packages: BTreeMap::new(), components: BTreeMap::new(), files: BTreeMap::new() };
    for pin in debian::pins()? {
        all.package(&pin, cache)?;
    }
    for (name, tree) in trees {
        all.tree(name, tree)?;
    }
    let made_of = all.components.keys().filter(|name| STARTS.iter().any(|package| name.contains(package)));
    let made_of = made_of.cloned().collect();
    let program = fs::read(out.join(crate::recipe::UKI)).context("reading what the firmware starts")?;
    all.files.insert(crate::recipe::UKI.to_owned(), (file(crate::recipe::UKI, &program), made_of));
    let bill = protocol::json::to_vec(&all.bill(version));
    fs::write(out.join(FILE), bill).with_context(|| format!("writing {FILE}"))
}

impl Materials<'_> {
    fn package(&mut self, pin: &Pin, cache: &Path) -> Result<()> {
        let deb = debian::file(pin, cache);
        let list = Command::new("dpkg-deb").arg("-c").arg(&deb).output().context("running dpkg-deb")?;
        ensure!(list.status.success(), "dpkg-deb cannot list {}", deb.display());
        let purl = format!("pkg:deb/debian/{}@{}?arch=amd64&distro=bookworm", pin.name, pin.version);
        for line in String::from_utf8_lossy(&list.stdout).lines() {
            let path = line.split(" ./").nth(1).map(|path| path.split(" -> ").next().unwrap_or(path));
            self.packages.extend(path.map(|path| (self.root.join(path), purl.clone())));
        }
        let copyright = self.root.join(format!("usr/share/doc/{}/copyright", pin.name));
        // A package whose folder is another one's names its licences there.
        let names = licences(&fs::read_to_string(copyright).unwrap_or_default());
        let component = Component {
            kind: "library",
            name: pin.name.clone(),
            version: pin.version.clone(),
            hashes: vec![Hash { alg: "SHA-256", content: pin.sha256.clone() }],
            licenses: names.into_iter().map(|name| Choice { license: Named { name } }).collect(),
            ..Component::default()
        };
        self.add(purl, component);
        Ok(())
    }

    fn tree(&mut self, image: &str, tree: &Tree) -> Result<()> {
        for (path, node) in tree.iter() {
            let Node::File(is_program, Content::Of(from)) = node else { continue };
            let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
            let made_of = self.made_of(from, &bytes);
            let name = format!("{image}/{path}");
            ensure!(!is_program || !made_of.is_empty(), "nothing says what the program {name} is made from");
            self.files.insert(name.clone(), (file(&name, &bytes), made_of));
        }
        Ok(())
    }

    fn made_of(&mut self, from: &Path, bytes: &[u8]) -> BTreeSet<String> {
        let real = fs::canonicalize(from).unwrap_or_else(|_| from.to_owned());
        if let Some(package) = self.packages.get(&real).or_else(|| self.packages.get(from)) {
            return [package.clone()].into();
        }
        let program = from.file_name().unwrap_or_default().to_string_lossy();
        let ours = crates(&program).into_iter().map(|part| ("cargo", part));
        let go = go_modules(bytes).into_iter().map(|part| ("golang", part));
        ours.chain(go).map(|(registry, part)| self.part(registry, part)).collect()
    }

    fn part(&mut self, registry: &str, part: Part) -> String {
        let purl = format!("pkg:{registry}/{}@{}", part.name, part.version);
        let mut component =
            Component { kind: "library", name: part.name, version: part.version, ..Component::default() };
        if registry == "cargo" {
            component.hashes = vec![Hash { alg: "SHA-256", content: part.digest }];
        } else if !part.digest.is_empty() {
            // Go's digest is one over the files of a module, which no word of CycloneDX names.
            component.properties = vec![Property { name: "go.sum", value: part.digest }];
        }
        self.add(purl.clone(), component);
        purl
    }

    fn add(&mut self, purl: String, component: Component) {
        let component = Component { reference: purl.clone(), purl: purl.clone(), ..component };
        self.components.insert(purl, component);
    }

    fn bill(self, version: &str) -> Bill {
        let used: BTreeSet<_> = self.files.values().flat_map(|(_, made_of)| made_of).collect();
        let parts =
            self.components.iter().filter(|(name, _)| used.contains(name)).map(|(_, part)| part.clone());
        let files = self.files.values().map(|(file, _)| file.clone());
        let components = files.chain(parts).collect();
        let dependencies = self
            .files
            .iter()
            .map(|(name, (_, made_of))| Dependency { reference: name.clone(), depends_on: made_of.clone() });
        let system = Component {
            kind: "operating-system",
            reference: "node-boot".to_owned(),
            name: "node-boot".to_owned(),
            version: version.to_owned(),
            ..Component::default()
        };
        Bill {
            bom_format: "CycloneDX",
            spec_version: "1.5",
            version: 1,
            metadata: Metadata { component: system },
            components,
            dependencies: dependencies.collect(),
        }
    }
}

fn file(name: &str, bytes: &[u8]) -> Component {
    let content = hex(&Digest::of(bytes).0);
    let hashes = vec![Hash { alg: "SHA-256", content }];
    Component {
        kind: "file",
        reference: name.to_owned(),
        name: name.to_owned(),
        hashes,
        ..Component::default()
    }
}
