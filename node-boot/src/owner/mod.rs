//! What the owner's file says, and whose word counts where the machine believes something already.

mod belief; // what the machine believes after it
mod section; // how it is read: signed for the firmware, or plain

use std::path::Path;

use anyhow::{Context, Result, bail};
use protocol::clock::Time;
use protocol::image::Image;
use protocol::section::Depot;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::os::disk::Shut;
use crate::os::init::{self, System};
use crate::os::network::plan::FirstContact;
use crate::os::secure;

/// The owner's file: anchors, and addresses to ask first.
#[derive(Deserialize)]
pub struct Owner {
    anchors: Box<RawValue>,
    #[serde(rename = "image-time")]
    image_time: Time,
    /// Addresses of provisioners.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The images that it came with.
    #[serde(default)]
    pub images: Vec<Image>,
    /// What the first contact needs, where a network lets nobody in without it.
    #[serde(default)]
    pub network: FirstContact,
    /// What makes the stick a depot's.
    #[serde(default)]
    pub depot: Option<Depot>,
}

/// The images that the owner's section of a stick came with.
pub fn images_of(owner: &Path) -> Result<Vec<Image>> {
    Ok(Owner::read(owner, Some(System::Live))?.images)
}

impl Owner {
    /// Reads it. A machine whose whole system is ours asks of it what its firmware asks of a program.
    pub fn read(path: &Path, system: Option<System>) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| {
            format!(
                "reading {}: a machine without its owner's file cannot know whom to believe",
                path.display()
            )
        })?;
        let firmware = system.map(|_| secure::look()).unwrap_or_default();
        let text = section::accept(&text, &firmware)?;
        let owner = serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
        if system == Some(System::Live) {
            check_running(&owner, Shut::found().as_ref(), &init::running()?.partition())?;
        }
        Ok(owner)
    }
}

/// Whether a system that keeps nothing is what the section came with. What is installed may have become newer than the stick that
/// it came from: it keeps nothing either while its disk is `shut`, and all that it does then is to have that opened.
fn check_running(owner: &Owner, shut: Option<&Shut>, running: &str) -> Result<()> {
    match (section::check_images(owner, running), shut) {
        (Err(_), Some(shut)) if shut.locked => Ok(()),
        (Err(_), Some(shut)) => bail!(
            "{}; and its system is newer than what it was installed from: plug the site's stick in, and start from that by the \
             firmware's menu",
            shut.why
        ),
        (checked, _) => checked,
    }
}

#[cfg(test)]
mod tests {
    use protocol::bytes::Digest;
    use protocol::image::Kind;

    use super::*;

    #[test]
    fn a_machine_that_was_updated_and_whose_disk_is_shut_is_no_mixture_of_two_sticks() {
        let (root, program) = (Digest([7; 32]), None);
        let image = Image { kind: Kind::Os, version: "0.1.0".into(), root, blocks: 1, size: 8192, program };
        let text =
            serde_json::json!({ "anchors": {}, "image-time": "2026-11-28T00:00:00Z", "images": [image] });
        let owner: Owner = serde_json::from_str(&text.to_string()).unwrap();
        let shut = |locked| Shut { why: "PCR 7 is another".to_owned(), locked };
        let newer = "os-0808080808080808";
        for found in [None, Some(shut(true)), Some(shut(false))] {
            check_running(&owner, found.as_ref(), &image.partition()).unwrap();
        }
        check_running(&owner, Some(&shut(true)), newer).unwrap();
        let said = check_running(&owner, Some(&shut(false)), newer).unwrap_err().to_string();
        assert!(said.contains("PCR 7 is another; ") && said.contains("the site's stick"), "{said}");
        let said = check_running(&owner, None, newer).unwrap_err().to_string();
        assert!(said.contains("two sticks"), "{said}");
    }
}
