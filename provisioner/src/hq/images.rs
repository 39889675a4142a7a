//! Images that sites may run: each under its version, once and for all.

use anyhow::{Context, Result, ensure};
use protocol::image::{Image, Images, Kind};
use protocol::json;

use super::{Hq, read, write};
use crate::model::SystemPlan;

/// Every image, and the oldest version of each kind that a machine may go to.
const FILE: &str = "images.yaml";

impl Hq {
    /// Every image that sites may run.
    pub fn images(&self) -> Result<Images> {
        let path = self.dir.join(FILE);
        if path.exists() { read(&path) } else { Ok(Images::default()) }
    }

    /// Whether sites may run an image already. Another one under its version is an error.
    pub fn check_image(&self, image: &Image) -> Result<bool> {
        let images = self.images()?;
        let (kind, version) = (image.kind.word(), &image.version);
        let same = |known: &&Image| known.kind == image.kind && known.version == *version;
        let known = images.images.iter().find(same);
        if let Some(known) = known {
            ensure!(
                known == image,
                "{FILE} has another {kind} {version}: build this one with a version of its own, as in `image build \
                 --version {version}-1`"
            );
        }
        Ok(known.is_some())
    }

    /// Lets sites run an image. A version that is there stays what it is.
    pub fn add_image(&self, image: &Image) -> Result<()> {
        if self.check_image(image)? {
            return Ok(());
        }
        let mut images = self.images()?;
        images.images.push(image.clone());
        write(&self.dir.join(FILE), &images)
    }

    /// The `images` section of a site's bundle: the images that its plan names, and the floor.
    pub(super) fn images_of(&self, site: &str, plan: &SystemPlan) -> Result<Vec<u8>> {
        let Images { images, floor } = self.images()?;
        let wanted = |kind: Kind| plan.version(kind).map(|version| (kind, version));
        let named: Result<Vec<_>> = Kind::ALL
            .into_iter()
            .filter_map(wanted)
            .map(|(kind, version)| {
                let found = images.iter().find(|image| image.kind == kind && image.version == version);
                found.cloned().with_context(|| {
                    format!(
                        "sites/{site}/site.yaml wants {} {version}, which is not in {FILE}: `provisioner hq image add \
                         FOLDER`",
                        kind.word()
                    )
                })
            })
            .collect();
        Ok(json::to_vec(&Images { images: named?, floor }))
    }
}
