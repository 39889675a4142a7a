//! A machine's installation and update as they were recorded: made once, or read where they were kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use harness::{Board, Bus, Recording, Vm};
use image::Built;
use layout::PROGRAM;
use protocol::bytes::Digest;
use protocol::image::{Image, Program};
use tests::stage::{JOINED, Site, images_with, on_stick, own_images};

use crate::update::order;
use crate::{DEADLINE, site_and_machine};

/// Bytes of the disk.
pub const SIZE: u64 = 10 << 30;
/// Beside the log: what the images are, the old ones first.
const IMAGES: &str = "images.json";

/// What was recorded, and what there was to be on the disk.
pub struct Story {
    /// The disk's log.
    pub recording: Recording,
    /// What banks may be called, and hold then.
    pub images: BTreeMap<String, Image>,
    /// Names of what is installed: operating system and Kubernetes.
    pub first: [String; 2],
    /// Names of the old and of the new operating system, and what the firmware starts them by.
    pub systems: [String; 2],
    /// The same.
    pub programs: [Program; 2],
}

impl Story {
    /// Reads a story that was kept.
    pub fn open(folder: &Path) -> Self {
        let list = fs::read(folder.join(IMAGES)).unwrap_or_else(|error| {
            panic!(
                "there is no recording in {}: {error}; run this test without NODEBOOT_CUT",
                folder.display()
            )
        });
        let list: Vec<Image> = protocol::json::parse(&list).unwrap();
        let names: Vec<_> = list.iter().map(Image::partition).collect();
        let program = |image: &Image| image.program.unwrap();
        Self {
            recording: Recording::open(folder).unwrap(),
            first: [names[0].clone(), names[1].clone()],
            systems: [names[0].clone(), names[2].clone()],
            programs: [program(&list[0]), program(&list[2])],
            images: names.into_iter().zip(list).collect(),
        }
    }

    /// Has a machine install itself from a stick, and then go to the next version, and keeps in `folder` what came onto its disk.
    /// The machine is off in the end; what it was as long as it had the old one.
    pub fn record(folder: &Path) -> (Site, Vm, Member) {
        let images = tempfile::tempdir().unwrap();
        let new = images.path().join("new");
        let built = images_with(&new, "0.2.0", &|_| None).unwrap();
        let board = Board::new("VM0006", Bus::Virtio);
        assert_eq!(SIZE, board.disk.1 << 30);
        let (site, mut vm) = site_and_machine("cuts", &board);
        vm.record(folder);
        vm.power_on().unwrap();
        vm.says(JOINED, DEADLINE).unwrap();
        let member = Member::of(&site);
        order(&site, &new, "os: 0.2.0");
        vm.says("All is well with os 0.2.0: it is kept.", 2 * DEADLINE).unwrap();
        assert_eq!(Member::of(&site), Member { system: "node-boot 0.2.0".into(), ..member.clone() });
        // So that what it did last is on its disk.
        vm.press_power().unwrap();
        vm.is_off(DEADLINE).unwrap();
        drop(vm.recorded().unwrap());
        let signed = |program: Vec<u8>, image: &Image| {
            let program = Program { sha256: Digest::of(&program), size: program.len() as u64 };
            Image { program: Some(program), ..image.clone() }
        };
        let Built { os: (old, _), kubernetes: (kubernetes, _), .. } = own_images().unwrap();
        let old = signed(on_stick(&site.hq.path("stick"), PROGRAM).unwrap(), &old);
        let new = signed(fs::read(new.join(image::SIGNED)).unwrap(), &built.os.0);
        fs::write(folder.join(IMAGES), protocol::json::to_vec(&[old, kubernetes, new])).unwrap();
        (site, vm, member)
    }
}

/// What the cluster knows of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of its Node.
    pub node: String,
    /// Which Node that is among all that were ever called so.
    pub uid: String,
    /// Its system.
    pub system: String,
}

impl Member {
    /// Of the machine in the slot, once it is Ready.
    pub fn of(site: &Site) -> Self {
        let node = site.ready_node("node-1").unwrap();
        let path = "jsonpath={.metadata.uid} {.status.nodeInfo.osImage}";
        let said = site.plane.kubectl(&["get", "node", &node, "-o", path]).unwrap();
        let (uid, system) = said.trim().split_once(' ').unwrap();
        Self { node, uid: uid.to_owned(), system: system.to_owned() }
    }
}

/// Where a recording is kept until the next one.
pub fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target").join("cuts")
}
