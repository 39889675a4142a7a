//! Images that sites may run: each under its version, once and for all.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use protocol::image::{Image, Images, Kind, compare};
use protocol::json;
use serde::Deserialize;

use super::{Hq, read, write};
use crate::model::{SystemPlan, foreign_build};

/// Every image, and the oldest version of each kind that a machine may go to.
const FILE: &str = "images.yaml";

/// The file, as strictly as what people edit has to be read: a floor that is mistyped would be none.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    images: Vec<Image>,
    floor: BTreeMap<Kind, String>,
}

impl Hq {
    /// Every image that sites may run.
    pub fn images(&self) -> Result<Images> {
        let path = self.dir.join(FILE);
        let File { images, floor } = if path.exists() { read(&path)? } else { File::default() };
        Ok(Images { images, floor })
    }

    /// Whether sites may run an image already. Another one under its version is an error.
    pub fn check_image(&self, image: &Image) -> Result<bool> {
        let images = self.images()?;
        let (kind, version) = (image.kind.word(), &image.version);
        let foreign = foreign_build(version).filter(|_| image.kind == Kind::Kubernetes);
        ensure!(foreign.is_none(), "nothing was let in: {kind} {}", foreign.unwrap_or_default());
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
        let all = self.images()?;
        let wanted = |kind: Kind| plan.version(kind).map(|version| (kind, version));
        let named: Result<Vec<_>> = Kind::ALL
            .into_iter()
            .filter_map(wanted)
            .map(|(kind, version)| {
                let of_kind = || all.images.iter().filter(|image| image.kind == kind);
                let found = of_kind().find(|image| image.version == version);
                let there: Vec<_> = of_kind().map(|image| image.version.as_str()).collect();
                found.cloned().with_context(|| not_let_in(site, kind, version, &there))
            })
            .collect();
        Ok(json::to_vec(&Images { images: named?, floor: all.floor.clone() }))
    }

    /// Versions of a plan that only machines which run them already keep: a line each.
    pub(super) fn below_floor(&self, site: &str, plan: &SystemPlan) -> Result<Vec<String>> {
        let floor = self.images()?.floor;
        let older = |kind: &Kind| {
            let (version, floor) = (plan.version(*kind)?, floor.get(kind)?);
            (compare(version, floor) == Ordering::Less).then(|| {
                format!(
                    "sites/{site}/site.yaml wants {} {version}, which no machine goes to: {floor} is the `floor` in {FILE}",
                    kind.word()
                )
            })
        };
        Ok(Kind::ALL.iter().filter_map(older).collect())
    }
}

/// What is said of a version that sites may not run: which ones they may.
fn not_let_in(site: &str, kind: Kind, version: &str, there: &[&str]) -> String {
    let others = if there.is_empty() { String::new() } else { format!(" (it has {})", there.join(", ")) };
    format!(
        "sites/{site}/site.yaml wants {} {version}, which is not in {FILE}{others}: `provisioner hq image add FOLDER`, or \
         name another version",
        kind.word()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_not_let_in_is_named_with_those_that_are() {
        let said = not_let_in("ship-7", Kind::Kubernetes, "1.36.3", &["v1.36.2", "v1.36.3"]);
        assert!(said.contains("kubernetes 1.36.3") && said.contains("it has v1.36.2, v1.36.3"), "{said}");
        assert!(!not_let_in("ship-7", Kind::Os, "0.2.0", &[]).contains('('));
    }
}
