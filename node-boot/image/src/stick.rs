//! The stick of an owner: what the firmware starts, and the images, where an installed disk has them as well.

use std::path::Path;

use anyhow::Result;
use layout::{FIRMWARE_SIZE, MIB, OS_SIZE, OWNER, PROGRAM, STICK};

use crate::disk::{self, Content, Part};
use crate::recipe::Built;

/// Writes a stick from which a machine of this owner starts: `uki` as it is signed, and the owner's section; more files
/// are put beside, by path.
pub fn stick(built: &Built, uki: &[u8], owner: &[u8], more: &[(&str, &[u8])], out: &Path) -> Result<()> {
    let mut firmware = vec![(PROGRAM.to_owned(), uki.to_vec()), (OWNER.to_owned(), owner.to_vec())];
    firmware.extend(more.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())));
    let image = |(image, file): &(protocol::image::Image, std::path::PathBuf), size| Part {
        name: image.partition(),
        content: Content::Image(file.clone()),
        size,
    };
    // Behind the last one there is nothing that would have to stand where it does on a machine's disk.
    let last = built.kubernetes.0.size.div_ceil(MIB);
    let parts = [
        Part { name: STICK.to_owned(), content: Content::Firmware(firmware), size: FIRMWARE_SIZE },
        image(&built.os, OS_SIZE),
        image(&built.kubernetes, last),
    ];
    disk::write(&parts, out)
}
