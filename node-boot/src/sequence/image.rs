//! What an image says, beside what the machine believes already: the owner's file, and which of the two words counts.

use std::path::Path;

use anyhow::{Context, Result, bail};
use protocol::anchors::Trust;
use protocol::clock::{FARTHEST_RTC, Time};
use protocol::image::Image;
use protocol::section::Depot;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::section;
use crate::os::disk::Shut;
use crate::os::init::{self, System};
use crate::os::network::plan::FirstContact;
use crate::os::secure;
use crate::state::Belief;

/// The owner's file: anchors, and addresses to ask first.
#[derive(Deserialize)]
pub(super) struct Owner {
    anchors: Box<RawValue>,
    #[serde(rename = "image-time")]
    image_time: Time,
    /// Addresses of provisioners.
    #[serde(default)]
    pub(super) addresses: Vec<String>,
    /// The images that it came with.
    #[serde(default)]
    pub(super) images: Vec<Image>,
    /// What the first contact needs, where a network lets nobody in without it.
    #[serde(default)]
    pub(super) network: FirstContact,
    /// What makes the stick a depot's.
    #[serde(default)]
    pub(super) depot: Option<Depot>,
}

/// The images that the owner's section of a stick came with.
pub fn images_of(owner: &Path) -> Result<Vec<Image>> {
    Ok(Owner::read(owner, Some(System::Live))?.images)
}

/// Whose word counts.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// What the machine believes already.
    Stored,
    /// The image's, in place of an older one of the same owner.
    Image,
    /// The image's, in place of one that claims to be from a time that nobody has reached.
    Sober,
    /// The image's alone: what was stored is the word of somebody whom the image does not know.
    Anew,
}

/// An image's set replaces the stored one when it was built after that was made. A document can claim to be made at any
/// time, though, and with a stolen anchor B anybody can make one that claims the year 9999. What nobody can claim is an
/// image: a person brought it. So of an image that was built later than any that this machine has seen, two things
/// count besides: that it names another anchor B than the stored set, or not the one who signed that (a stolen anchor
/// is undone, or the machine has a new owner); and that it was built more than three years before the stored set says
/// it was made, which is more than a clock of ours is believed to be ahead. An older image never undoes anything so,
/// and the same one does it once.
fn weigh(image: &Trust, built: Time, stored: &Trust, newest: Time) -> Word {
    if built > newest && image.disowns(stored) {
        return Word::Anew;
    }
    if built > newest && stored.created_on() > built.plus(FARTHEST_RTC) {
        return Word::Sober;
    }
    if built > stored.created_on() && image.kept().anchors != stored.kept().anchors {
        return Word::Image;
    }
    Word::Stored
}

impl Owner {
    /// Reads it. A machine whose whole system is ours asks of it what its firmware asks of a program.
    pub(super) fn read(path: &Path, system: Option<System>) -> Result<Self> {
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

    /// In words, where this machine has seen a newer one.
    pub(super) fn is_old(&self, stored: Option<&Belief>) -> Option<String> {
        let newest = stored.map(|stored| stored.image).filter(|newest| *newest > self.image_time)?;
        Some(format!(
            "The owner's section is of {}, and this machine has seen one of {newest}: the older one changes nothing of whom \
             it believes.",
            self.image_time
        ))
    }

    /// What to believe with this image in force, after what was believed before.
    pub(super) fn belief(&self, stored: Option<&Belief>) -> Result<Belief> {
        let image = Trust::from_image(self.anchors.get()).map_err(anyhow::Error::new)?;
        let (built, floor) = (self.image_time, image.created_on().max(self.image_time));
        let anew =
            Belief { kept: image.kept().clone(), image: built, floor, voucher: None, index: None, bundle: 0 };
        let Some(before) = stored else { return Ok(anew) };
        let trust = Trust::from_kept(&before.kept).map_err(anyhow::Error::new)?;
        let mut belief = before.clone();
        belief.image = before.image.max(built);
        belief.floor = before.floor.max(floor);
        match weigh(&image, built, &trust, before.image) {
            Word::Stored => {}
            // Assignments and times that a stolen anchor stands behind are forgotten with it.
            Word::Anew => return Ok(anew),
            Word::Image => belief.kept = with_withdrawals(image, before, belief.floor),
            Word::Sober => {
                belief.floor = floor;
                belief.kept = with_withdrawals(image, before, floor);
            }
        }
        Ok(belief)
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

/// What headquarters took back stays taken back, as far as the image's own anchors stand behind it.
fn with_withdrawals(image: Trust, before: &Belief, floor: Time) -> protocol::anchors::Kept {
    let documents = before.kept.revoked.values();
    let trust = documents.fold(image, |trust, text| trust.accept_revoked(text, floor, None).unwrap_or(trust));
    trust.kept().clone()
}

#[cfg(test)]
mod tests {
    use protocol::anchors::{AnchorsDoc, RevokedDoc};
    use protocol::bytes::{B64, B64u, Digest};
    use protocol::clock::YEAR;
    use protocol::crypto::{Alg, SoftKey};
    use protocol::image::Kind;
    use protocol::issue::{Role, self_signed};
    use protocol::json;
    use protocol::jws::{sign, typ};

    use super::*;
    use crate::state::Held;

    const T: Time = Time(1_800_000_000);

    struct Anchor {
        der: Vec<u8>,
        key: SoftKey,
    }

    fn anchor(name: &str) -> Anchor {
        let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
        let der = self_signed(&Role::Anchor { name }, &key, T).unwrap();
        Anchor { der, key }
    }

    /// A set of these voucher anchors, signed by one of anybody's.
    fn set(seq: u64, created_on: Time, [a, b]: [&Anchor; 2], by: &Anchor) -> String {
        let pair = [B64(a.der.clone()), B64(b.der.clone())];
        let (voucher, site) = (pair.clone(), pair);
        let doc = AnchorsDoc { seq, created_on, voucher, site, distrust: vec![], allow_phone: false };
        sign(&json::to_vec(&doc), typ::ANCHORS, &by.der, &by.key).unwrap()
    }

    fn owner(anchors: &str, built: Time) -> Owner {
        let anchors = RawValue::from_string(anchors.to_owned()).unwrap();
        Owner {
            anchors,
            image_time: built,
            addresses: vec![],
            images: vec![],
            network: FirstContact::default(),
            depot: None,
        }
    }

    /// After this document came by M11, with a voucher of its time.
    fn after(before: &Belief, document: &str) -> Belief {
        let trust = Trust::from_kept(&before.kept).unwrap().accept_anchors(document).unwrap();
        let (pin, pin_key) = (B64u(vec![]), Digest([0; 32]));
        let held = Held { epoch: 7, site: "x".into(), machine: None, pin, pin_key };
        let floor = before.floor.max(trust.created_on());
        Belief { kept: trust.kept().clone(), floor, voucher: Some(held), ..before.clone() }
    }

    #[test]
    fn a_machine_that_was_updated_and_whose_disk_is_shut_is_no_mixture_of_two_sticks() {
        let (root, program) = (Digest([7; 32]), None);
        let image = Image { kind: Kind::Os, version: "0.1.0".into(), root, blocks: 1, size: 8192, program };
        let owner = Owner { images: vec![image.clone()], ..owner("{}", T) };
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

    #[test]
    fn a_stolen_anchor_b_is_undone_by_an_image_with_another_one_whatever_the_thief_claimed() {
        let [a, b, evil, a2, b2] = ["a", "b", "evil", "a2", "b2"].map(anchor);
        let first = owner(&set(4, T, [&a, &b], &a), T).belief(None).unwrap();
        let far = T.plus(500 * YEAR);
        // Even one that names the new anchors themselves.
        for pair in [[&evil, &b], [&evil, &evil], [&evil, &b2], [&a2, &b2]] {
            let stolen = after(&first, &set(u64::MAX, far, pair, &b));
            let image = owner(&set(1, T.plus(YEAR), [&a2, &b2], &a2), T.plus(YEAR));
            let undone = image.belief(Some(&stolen)).unwrap();
            assert_eq!((undone.floor, undone.voucher.is_none()), (T.plus(YEAR), true));
            let trust = Trust::from_kept(&undone.kept).unwrap();
            assert_eq!((trust.anchors_seq(), trust.created_on()), (1, T.plus(YEAR)));
            // The image that was there before cannot bring it back.
            let older = owner(&set(4, T, [&a, &b], &a), T);
            assert!(older.is_old(Some(&undone)).unwrap().contains("the older one changes nothing"));
            assert_eq!(image.is_old(Some(&undone)), None);
            assert_eq!(older.belief(Some(&undone)).unwrap().kept, undone.kept);
        }
    }

    #[test]
    fn an_image_of_another_owner_wins_where_it_is_the_newest_that_the_machine_has_seen() {
        let [a, b, other_a, other_b] = ["a", "b", "other a", "other b"].map(anchor);
        let stored = owner(&set(9, T.plus(YEAR), [&a, &b], &a), T.plus(YEAR)).belief(None).unwrap();
        let other = set(1, T, [&other_a, &other_b], &other_a);
        assert_eq!(owner(&other, T.plus(YEAR)).belief(Some(&stored)).unwrap().kept, stored.kept);
        let newer = owner(&other, T.plus(YEAR + 1)).belief(Some(&stored)).unwrap();
        assert_eq!(newer.kept.anchors, other);
    }

    #[test]
    fn a_newer_image_of_the_same_owner_wins_by_its_time_alone_and_keeps_what_was_taken_back() {
        let [a, b] = ["a", "b"].map(anchor);
        let first = owner(&set(9, T, [&a, &b], &a), T).belief(None).unwrap();
        let mut stored = after(&first, &set(10, T.plus(50), [&a, &b], &a));
        let revoked = RevokedDoc { seq: 1, sites: vec![], signers: vec![] };
        let revoked = sign(&json::to_vec(&revoked), typ::REVOKED, &a.der, &a.key).unwrap();
        let trust = Trust::from_kept(&stored.kept).unwrap().accept_revoked(&revoked, T, None).unwrap();
        stored.kept = trust.kept().clone();
        let image = set(2, T.plus(100), [&a, &b], &a);
        assert_eq!(owner(&image, T.plus(50)).belief(Some(&stored)).unwrap().kept, stored.kept);
        let newer = owner(&image, T.plus(100)).belief(Some(&stored)).unwrap();
        assert_eq!((newer.kept.anchors.as_str(), newer.voucher.is_some()), (image.as_str(), true));
        assert_eq!(newer.kept.revoked, stored.kept.revoked);
        let again = owner(&image, T.plus(100)).belief(Some(&newer)).unwrap();
        assert_eq!(json::to_vec(&again), json::to_vec(&newer), "the same image once more changes nothing");
    }

    #[test]
    fn a_set_of_the_far_future_does_not_outlive_a_newer_image_of_the_same_anchors() {
        let [a, b] = ["a", "b"].map(anchor);
        let first = owner(&set(1, T, [&a, &b], &a), T).belief(None).unwrap();
        let stored = after(&first, &set(u64::MAX, T.plus(500 * YEAR), [&a, &b], &a));
        let image = set(2, T.plus(YEAR), [&a, &b], &a);
        assert_eq!(owner(&image, T).belief(Some(&stored)).unwrap().kept, stored.kept, "no newer image");
        let sober = owner(&image, T.plus(YEAR)).belief(Some(&stored)).unwrap();
        assert_eq!((sober.kept.anchors.as_str(), sober.floor), (image.as_str(), T.plus(YEAR)));
        // One that may well be of today stays.
        let stored = after(&first, &set(3, T.plus(2 * YEAR), [&a, &b], &a));
        assert_eq!(owner(&image, T.plus(YEAR)).belief(Some(&stored)).unwrap().kept, stored.kept);
    }
}
