//! What we ask of a TPM: its endorsement keys, a key of ours, signatures by it, and activated credentials.

use zeroize::Zeroizing;

use super::command::{Answer, Command, ENDORSEMENT, LOCKOUT, NULL, OWNER, PASSWORD, Verb, no_sensitive};
use super::error::Error;
use super::key::KeyBlob;
use super::link::Link;
use super::public::{Ek, EkKind, Public, Template};
use super::transport::{Line, Spec, Transport};
use super::wire::{Reader, padded, sized};
use crate::bytes::{B64u, Digest};

/// Where the TCG's provisioning guidance keeps an endorsement key that the maker or an installer made.
const PERSISTENT_EK: u32 = 0x8101_0001;
/// `TPM_ALG_ECDSA`, `TPM_ALG_SHA256`: what our keys sign by.
const ECDSA_SHA256: [u8; 4] = [0x00, 0x18, 0x00, 0x0b];

/// A TPM 2.0. With a resource manager, what is loaded stays loaded from one operation to the next; without one, each
/// operation cleans up behind itself and lets other programs use the TPM.
pub struct Tpm {
    link: Link,
    key: Option<(KeyBlob, u32)>,
    ek: Option<(Ek, u32)>,
}

impl Tpm {
    /// Opens the TPM at `spec` and makes sure that it answers.
    pub fn open(spec: &Spec) -> Result<Self, Error> {
        let mut tpm = Self::over(spec.to_string(), Box::new(Line::new(spec)));
        let answer = tpm.operation(|tpm| tpm.link.handles(PERSISTENT_EK));
        answer.map_err(|error| match error {
            Error::Silent { tpm, source, .. } => Error::Absent { tpm, source },
            other => other,
        })?;
        Ok(tpm)
    }

    /// A TPM reached in a way of the caller's; `name` is how errors call it.
    pub fn over(name: String, transport: Box<dyn Transport>) -> Self {
        Self { link: Link::new(name, transport), key: None, ek: None }
    }

    /// All endorsement keys, most canonical first. RSA takes seconds on many TPMs: keep the answer.
    pub fn eks(&mut self) -> Result<Vec<Ek>, Error> {
        self.operation(|tpm| {
            let mut eks = Vec::new();
            // The canonical one last: it stays loaded, and is the one that is asked for next.
            for kind in [EkKind::Rsa2048, EkKind::P384, EkKind::P256] {
                match tpm.endorsement(kind) {
                    Ok((ek, _)) => eks.insert(0, ek),
                    Err(error) if error.unsupported() => {}
                    Err(error) => return Err(error),
                }
            }
            if eks.is_empty() { Err(Error::NoEk) } else { Ok(eks) }
        })
    }

    /// Ends every key that was made in this TPM, and all that was sealed to it. Its endorsement keys stay.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.operation(|tpm| {
            tpm.forget();
            tpm.call(Verb::Clear, &[LOCKOUT], &[PASSWORD], &[]).map(drop)
        })
    }

    /// Makes a P-256 key that never leaves this TPM. Keep the blob: the TPM does not.
    pub fn create_key(&mut self) -> Result<KeyBlob, Error> {
        self.operation(|tpm| {
            // TPM2_Create needs a free place of its own beside the storage key.
            tpm.forget();
            let storage = tpm.storage()?;
            let created = tpm.created_under(storage);
            let blob = created.and_then(|blob| tpm.loaded_under(storage, &blob).map(|_| blob));
            tpm.link.flush(storage);
            blob
        })
    }

    /// Loads a key, so that a blob that this TPM cannot use is noticed ([`Error::foreign`]).
    pub fn load(&mut self, blob: &KeyBlob) -> Result<(), Error> {
        self.operation(|tpm| tpm.loaded(blob).map(drop))
    }

    /// ES256 signature `r || s` over a SHA-256 digest.
    pub fn sign(&mut self, blob: &KeyBlob, digest: &Digest) -> Result<[u8; 64], Error> {
        self.operation(|tpm| {
            let key = tpm.loaded(blob)?;
            // TPMT_TK_HASHCHECK for a digest that was not made by the TPM.
            let ticket = [&[0x80, 0x24][..], &NULL.to_be_bytes(), &[0, 0]].concat();
            let parameters: &[&[u8]] = &[&sized(&digest.0), &ECDSA_SHA256, &ticket];
            let answer = tpm.call(Verb::Sign, &[key], &[PASSWORD], parameters)?;
            answer.read(read_signature).ok_or(Error::Garbled(Verb::Sign.name()))
        })
    }

    /// Opens a credential that was made for `ek` and the key in `blob`: `credential` and `secret` are the bodies of
    /// `TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET`.
    pub fn activate(
        &mut self,
        ek: &Ek,
        blob: &KeyBlob,
        credential: &[u8],
        secret: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, Error> {
        self.operation(|tpm| {
            let key = tpm.loaded(blob)?;
            let (own, handle) = tpm.endorsement(ek.kind())?;
            if own != *ek {
                return Err(Error::OtherEk);
            }
            let session = tpm.ek_session(ek.kind())?;
            let parameters: &[&[u8]] = &[&sized(credential), &sized(secret)];
            let answer =
                tpm.call(Verb::ActivateCredential, &[key, handle], &[PASSWORD, session], parameters)?;
            tpm.link.used_up(session);
            let opened = answer.read(|reader| reader.sized()?.try_into().ok().map(Zeroizing::new));
            opened.ok_or(Error::Garbled(Verb::ActivateCredential.name()))
        })
    }

    /// Runs `work`, and leaves nothing behind where that would be in anyone's way, or after a failure.
    pub(super) fn operation<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let done = work(self);
        if done.is_err() || !self.link.keeps_objects() {
            (self.key, self.ek) = (None, None);
            self.link.rest();
        }
        done
    }

    pub(super) fn call(
        &mut self,
        verb: Verb,
        handles: &[u32],
        sessions: &[u32],
        parameters: &[&[u8]],
    ) -> Result<Answer, Error> {
        self.link.call(&Command { verb, handles, sessions, parameters })
    }

    pub(super) fn forget(&mut self) {
        self.forget_ek();
        if let Some((_, handle)) = self.key.take() {
            self.link.flush(handle);
        }
    }

    pub(super) fn flush(&mut self, handle: u32) {
        self.link.flush(handle);
    }

    pub(super) fn used_up(&mut self, session: u32) {
        self.link.used_up(session);
    }

    fn forget_ek(&mut self) {
        if let Some((_, handle)) = self.ek.take() {
            self.link.flush(handle);
        }
    }

    /// The storage key under which ours are kept: always made anew from its seed, since a persistent one may be gone
    /// or replaced after the next installation of some other system.
    pub(super) fn storage(&mut self) -> Result<u32, Error> {
        self.primary(OWNER, Template::Storage).map(|(_, handle)| handle)
    }

    fn primary(&mut self, hierarchy: u32, template: Template) -> Result<(Public, u32), Error> {
        // Neither outside information nor PCRs in the creation data, which nobody reads.
        let parameters: &[&[u8]] = &[&no_sensitive(), &sized(&template.to_create()), &[0; 6]];
        let answer = self.call(Verb::CreatePrimary, &[hierarchy], &[PASSWORD], parameters)?;
        let public = Reader(&answer.parameters).sized().and_then(|public| Public::parse(public).ok());
        let public = public.filter(|public| public.template() == template);
        Ok((public.ok_or(Error::Garbled(Verb::CreatePrimary.name()))?, answer.handle))
    }

    fn created_under(&mut self, storage: u32) -> Result<KeyBlob, Error> {
        let parameters: &[&[u8]] = &[&no_sensitive(), &sized(&Template::NodeKey.to_create()), &[0; 6]];
        let answer = self.call(Verb::Create, &[storage], &[PASSWORD], parameters)?;
        let mut reader = Reader(&answer.parameters);
        let private = reader.sized().map(|private| B64u(private.to_vec()));
        let public = reader.sized().and_then(|public| Public::node_key(public).ok());
        let blob = private.zip(public).map(|(private, public)| KeyBlob { private, public });
        blob.ok_or(Error::Garbled(Verb::Create.name()))
    }

    fn loaded_under(&mut self, storage: u32, blob: &KeyBlob) -> Result<u32, Error> {
        let parameters: &[&[u8]] = &[&sized(&blob.private.0), &sized(blob.public.as_bytes())];
        let handle = self.call(Verb::Load, &[storage], &[PASSWORD], parameters)?.handle;
        self.key = Some((blob.clone(), handle));
        Ok(handle)
    }

    fn loaded(&mut self, blob: &KeyBlob) -> Result<u32, Error> {
        match &self.key {
            Some((loaded, handle)) if loaded == blob => return Ok(*handle),
            Some(_) => self.forget(),
            None => {}
        }
        let storage = self.storage()?;
        let handle = self.loaded_under(storage, blob);
        self.link.flush(storage);
        handle
    }

    /// The endorsement key of `kind`: the one at hand, the persistent one, or made anew from its seed.
    fn endorsement(&mut self, kind: EkKind) -> Result<(Ek, u32), Error> {
        if let Some((ek, handle)) = self.ek.as_ref().filter(|(ek, _)| ek.kind() == kind) {
            return Ok((ek.clone(), *handle));
        }
        self.forget_ek();
        let found = if let Some(ek) = self.persistent()?.filter(|ek| ek.kind() == kind) {
            (ek, PERSISTENT_EK)
        } else {
            let (public, handle) = self.primary(ENDORSEMENT, Template::Endorsement(kind))?;
            (Ek::try_from(public).map_err(|_| Error::Garbled(Verb::CreatePrimary.name()))?, handle)
        };
        self.ek = Some(found.clone());
        Ok(found)
    }

    fn persistent(&mut self) -> Result<Option<Ek>, Error> {
        match self.call(Verb::ReadPublic, &[PERSISTENT_EK], &[], &[]) {
            // A key of any other kind there is none of ours.
            Ok(answer) => Ok(Reader(&answer.parameters).sized().and_then(|public| Ek::parse(public).ok())),
            Err(Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The authorisation to use an endorsement key: a policy session for the low-range templates, whose policy asks
    /// for the endorsement hierarchy's password; the empty password for the high range.
    fn ek_session(&mut self, kind: EkKind) -> Result<u32, Error> {
        if kind == EkKind::P384 {
            return Ok(PASSWORD);
        }
        let session = self.policy_session()?;
        // No nonce, parameter hash, reference or expiration.
        self.call(Verb::PolicySecret, &[ENDORSEMENT, session], &[PASSWORD], &[&[0; 10]])?;
        Ok(session)
    }
}

fn read_signature(reader: &mut Reader<'_>) -> Option<[u8; 64]> {
    if reader.take(4)? != ECDSA_SHA256 {
        return None;
    }
    let (r, s) = (padded(reader.sized()?, 32)?, padded(reader.sized()?, 32)?);
    [r, s].concat().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_halves_of_a_signature_are_padded() {
        let bytes = [&ECDSA_SHA256[..], &sized(&[1; 31]), &sized(&[2; 32])].concat();
        let signature = read_signature(&mut Reader(&bytes)).unwrap();
        assert_eq!((signature[0], signature[1], signature[32]), (0, 1, 2));
        let long = [&ECDSA_SHA256[..], &sized(&[1; 33]), &sized(&[2; 32])].concat();
        assert!(read_signature(&mut Reader(&long)).is_none());
    }
}
