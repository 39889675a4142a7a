//! The machine tier: virtual machines with a kernel of their own and node-boot as their PID 1.

#![allow(clippy::unwrap_used)] // The lint exempts test functions and not what they call.

mod cuts; // wherever the power is cut
mod found; // a site from one stick
mod http; // the stick's bits over the network
mod install; // from a stick onto a disk
mod network; // tags, and cables that are one
mod secure; // only what the owner signed
mod system; // what is in the images
mod trace; // what a machine says of its own start
mod update; // from one version to the next, and back

use std::path::Path;
use std::time::Duration;

use harness::{Board, Options, Vm, wait};
use protocol::bytes::b64;
use tests::stage::{SITE, Site, own_images};

/// An emulated machine takes its time.
const DEADLINE: Duration = Duration::from_mins(4);

/// A screen stands still that is the same on so many pictures.
const STILL: usize = 8;

/// Keeps a picture of the machine's screen at this stage: `docs/pictures` has such ones.
fn pictured(vm: &Vm, stage: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/pictures");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{stage}.png"));
    // What the serial line says is on the screen a moment later. One that counts parts never stands still.
    let mut before = vec![];
    let _ = wait::until("its screen to stand still", Duration::from_secs(5), || {
        let _ = std::fs::remove_file(&file);
        vm.picture(&file).map_err(|error| error.to_string())?;
        before.push(std::fs::read(&file).map_err(|error| error.to_string())?);
        let mut last = before.iter().rev().take(STILL);
        let is_still = before.len() >= STILL && last.all(|picture| *picture == before[before.len() - 1]);
        if is_still { Ok(()) } else { Err("it is being drawn".to_owned()) }
    });
    assert!(file.exists(), "there is no picture of {stage}");
}

/// A site with one slot, and a machine without power that has the site's stick in. One with a TPM is registered for the
/// slot by the list of its maker.
fn site_and_machine(name: &str, board: &Board) -> (Site, Vm) {
    own_images().unwrap();
    let mut site = Site::build(name, Options::default()).unwrap();
    let mut vm = Vm::new(&site.lan, &format!("{name}-1"), board.clone()).unwrap();
    let slots = "slots:\n- name: node-1\n  address: 10.77.0.11\n  cidr: 10.77.0.0/24\n";
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), slots).unwrap();
    if let Some(tpm) = vm.tpm() {
        let keys: Vec<_> = tpm.certificates().unwrap().iter().map(|der| b64(der)).collect();
        let row = format!("{},{},{SITE},node-1", board.serial, keys.join(" "));
        site.hq.import(&format!("serial,ek-cert,site,slot\n{row}\n")).unwrap();
    }
    site.provisioner.start().unwrap();
    site.deliver().unwrap();
    vm.plug_stick(&site.hq.kit().unwrap());
    (site, vm)
}
