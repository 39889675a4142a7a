//! Which images headquarters lets this machine run: what its signed index names, and nothing else.

use anyhow::{Result, ensure};
use protocol::bytes::Digest;
use protocol::image::Images;
use protocol::json;
use protocol::jws::{Unverified, typ};
use serde::Deserialize;

use crate::state::{Belief, State};

/// Where the section is kept.
const FILE: &str = "images.json";
/// Its name in the index.
const SECTION: &str = "images";

/// The bytes of the section that is held.
pub fn held(state: &State) -> Result<Option<Vec<u8>>> {
    state.bytes(FILE)
}

/// Keeps a section that a provisioner sent, where it is the one that the index names.
pub fn keep(state: &State, belief: &Belief, text: &str) -> Result<()> {
    ensure!(
        named(belief) == Some(Digest::of(text.as_bytes())),
        "the list of images that the provisioner sent is not the one that headquarters signed"
    );
    state.save_bytes(FILE, text.as_bytes())
}

/// What headquarters allows; nothing where the section that is held is not the one of the index that is held.
pub fn allowed(state: &State, belief: &Belief) -> Result<Images> {
    let text = held(state)?.filter(|text| named(belief) == Some(Digest::of(text)));
    Ok(text.map(|text| json::parse(&text)).transpose()?.unwrap_or_default())
}

/// The digest of the section, by the index. Its signature was checked before it was believed.
fn named(belief: &Belief) -> Option<Digest> {
    #[derive(Deserialize)]
    struct Index {
        sections: Vec<Section>,
    }
    #[derive(Deserialize)]
    struct Section {
        name: String,
        sha256: Digest,
    }
    let document = Unverified::read(belief.index.as_ref()?.as_bytes(), typ::BUNDLE).ok()?;
    let index: Index = json::parse(document.verified()?).ok()?;
    index.sections.into_iter().find(|section| section.name == SECTION).map(|section| section.sha256)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use protocol::anchors::Kept;
    use protocol::clock::Time;
    use protocol::crypto::{Alg, SoftKey};
    use protocol::issue::{Role, self_signed};
    use protocol::jws::sign;

    use super::*;

    #[test]
    fn only_the_list_that_the_signed_index_names_is_kept_and_counts() {
        let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
        let signer = self_signed(&Role::Signer { name: "s" }, &key, Time(1_800_000_000)).unwrap();
        let text = r#"{"images":[],"floor":{"os":"0.2.0"}}"#;
        let index =
            serde_json::json!({ "sections": [{ "name": "images", "sha256": Digest::of(text.as_bytes()) }] });
        let index = sign(&json::to_vec(&index), typ::BUNDLE, &signer, &key).unwrap();
        let kept = Kept { anchors: String::new(), rank: 1, revoked: BTreeMap::new() };
        let with = |index: Option<String>| Belief {
            kept: kept.clone(),
            image: Time(0),
            floor: Time(0),
            voucher: None,
            bundle: 1,
            index,
        };
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let belief = with(Some(index));
        for altered in ["{}", &text.replace("0.2.0", "0.1.0")] {
            assert!(keep(&state, &belief, altered).is_err());
        }
        assert!(keep(&state, &with(None), text).is_err());
        assert_eq!(allowed(&state, &belief).unwrap(), Images::default());
        keep(&state, &belief, text).unwrap();
        assert_eq!(allowed(&state, &belief).unwrap().floor.len(), 1);
        assert_eq!(allowed(&state, &with(None)).unwrap(), Images::default());
    }
}
