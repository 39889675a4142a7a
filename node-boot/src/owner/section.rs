//! The owner's file as it is read: signed for the firmware, or plain, and which of them counts on this machine.

use anyhow::{Result, bail};
use protocol::image::{Image, Kind};
use protocol::inventory::SecureBoot;
use protocol::section::{self, SectionError};

use super::Owner;
use crate::os::secure::Firmware;

/// What is done about a section that is refused.
const ANEW: &str = "Write the stick anew, with what `provisioner hq site kit` makes";

/// The JSON that the owner's file says, as far as it counts here. A firmware that starts only what its owner signed is a
/// measure for what stands beside that too: the same owner has to have signed it.
pub(super) fn accept(text: &[u8], firmware: &Firmware) -> Result<Vec<u8>> {
    let is_on = firmware.state == SecureBoot::On;
    let is_plain = || serde_json::from_slice::<Owner>(text).is_ok();
    match section::read(text) {
        Ok(signed) if is_on && !firmware.believed.contains(&signed.signer.der) => bail!(
            "the owner's section is signed by {:?}, whom this machine's firmware does not believe: it is another owner's. \
             Start from a stick of the owner whom this machine belongs to",
            signed.signer.common_name
        ),
        Ok(signed) => Ok(signed.payload),
        Err(SectionError::Document(_)) if is_plain() && is_on => {
            bail!("nobody has signed the owner's section, and Secure Boot is on. {ANEW}")
        }
        Err(SectionError::Document(_)) if is_plain() => Ok(text.to_vec()),
        Err(error) => bail!("the owner's section is refused: {error}. {ANEW}"),
    }
}

/// A section is for certain images: a stick is made as a whole. `running` is the partition of the system that runs.
pub(super) fn check_images(owner: &Owner, running: &str) -> Result<()> {
    let mut named = owner.images.iter().filter(|image| image.kind == Kind::Os).map(Image::partition);
    // One without any is from before images were named in it.
    if let Some(named) = named.next().filter(|named| named != running) {
        bail!(
            "the owner's section belongs to {named}, and this is {running}: somebody has put two sticks together. {ANEW}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::clock::Time;
    use protocol::firmware::RsaKey;
    use protocol::issue::for_firmware;

    use super::*;

    const PLAIN: &str = r#"{"anchors":{},"image-time":"2026-11-22T12:00:00Z","addresses":["10.7.0.1"]}"#;

    /// A section of an owner, and the owner's certificate.
    fn signed(name: &str) -> (String, Vec<u8>) {
        let mut openssl = std::process::Command::new("openssl");
        let made = openssl.args(["genpkey", "-quiet", "-algorithm", "RSA"]).output().unwrap();
        let key = RsaKey::from_pkcs8(&protocol::est::read_base64(&made.stdout).unwrap()).unwrap();
        let der = for_firmware(name, &key, Time(1_795_348_800)).unwrap();
        (section::sign(PLAIN.as_bytes(), &der, &key).unwrap(), der)
    }

    fn refused(text: &str, firmware: &Firmware) -> String {
        accept(text.as_bytes(), firmware).unwrap_err().to_string()
    }

    #[test]
    fn with_secure_boot_on_only_a_section_by_somebody_whom_the_firmware_believes_counts() {
        let ((ours, der), (theirs, _)) = (signed("Example Line db"), signed("Other Line db"));
        let on = Firmware { state: SecureBoot::On, believed: vec![b"another".to_vec(), der] };
        assert_eq!(accept(ours.as_bytes(), &on).unwrap(), PLAIN.as_bytes());
        let said = refused(&theirs, &on);
        assert!(said.contains("\"Other Line db\"") && said.contains("another owner's"), "{said}");
        let said = refused(PLAIN, &on);
        assert!(said.contains("nobody has signed the owner's section"), "{said}");
        assert!(accept(b"", &on).is_err());
    }

    #[test]
    fn with_secure_boot_off_a_section_counts_whoever_signed_it_but_none_that_was_changed_or_cut_off() {
        for state in [SecureBoot::Off, SecureBoot::Setup, SecureBoot::Unknown] {
            let off = Firmware { state, believed: vec![] };
            let (text, _) = signed("Other Line db");
            assert_eq!(accept(text.as_bytes(), &off).unwrap(), PLAIN.as_bytes());
            assert_eq!(accept(PLAIN.as_bytes(), &off).unwrap(), PLAIN.as_bytes());
            let other = PLAIN.replace("10.7.0.1", "10.7.0.2");
            let b64u = |text: &str| protocol::bytes::b64u(text.as_bytes());
            let said = refused(&text.replace(&b64u(PLAIN), &b64u(&other)), &off);
            assert!(said.contains("it was changed after headquarters had signed it"), "{said}");
            for cut in [0, 1, text.len() / 2, text.len() - 1] {
                let said = refused(&text[..cut], &off);
                assert!(said.contains("it is cut off") && said.contains("Write the stick anew"), "{said}");
            }
        }
    }

    #[test]
    fn a_section_beside_other_images_than_its_own_is_refused() {
        let mut owner: Owner = serde_json::from_str(PLAIN).unwrap();
        check_images(&owner, "os-0707070707070707").unwrap();
        for (kind, byte) in [(Kind::Kubernetes, 8), (Kind::Os, 7)] {
            let (version, root) = ("1".to_owned(), protocol::bytes::Digest([byte; 32]));
            owner.images.push(Image { kind, version, root, blocks: 1, size: 8192, program: None });
        }
        check_images(&owner, "os-0707070707070707").unwrap();
        let said = check_images(&owner, "os-0808080808080808").unwrap_err().to_string();
        assert!(said.contains("belongs to os-0707070707070707, and this is os-0808080808080808"), "{said}");
    }
}
