//! What the owner's file says, and whose word counts where the machine believes something already.

mod belief; // what the machine believes after it
mod section; // how it is read: signed for the firmware, or plain

use std::path::Path;

use anyhow::{Context, Result};
use protocol::clock::Time;
use protocol::image::Image;
use protocol::section::Depot;
use serde::Deserialize;
use serde_json::value::RawValue;

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
        // What is installed may have become newer than the stick that it came from.
        if system == Some(System::Live) {
            section::check_images(&owner, &init::running()?.partition())?;
        }
        Ok(owner)
    }
}
