//! A secret that only one TPM can read, and only while it holds one certain key: `MakeCredential` in software.

use aes::cipher::KeyIvInit;
use p256::elliptic_curve::Generate;
use ring::{digest, hmac};
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::sha2::Sha256;
use rsa::{BoxedUint, Oaep};
use zeroize::Zeroizing;

use super::public::{Ek, EkKind};
use super::wire::sized;
use crate::crypto::SecureRandom;

/// What a TPM needs to give the secret out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Body of `TPM2B_ID_OBJECT`: the secret, encrypted and authenticated together with the Name of the key.
    pub blob: Vec<u8>,
    /// Body of `TPM2B_ENCRYPTED_SECRET`: the seed of both keys, for the endorsement key alone.
    pub secret: Vec<u8>,
}

/// No credential can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// R28: the public area has the right form, and no key in it.
    #[error("making a credential: the endorsement key is no point of its curve, or no RSA modulus")]
    Ek,
    /// Try again.
    #[error("making a credential: the system gives no random bytes; try again")]
    Random,
}

/// Makes a credential (TPM 2.0 Part 1, section 24) that gives `secret` to the TPM with `ek` while it holds the key of
/// that `name` ([`super::Public::name`]).
pub fn make_credential(
    ek: &Ek,
    name: &[u8],
    secret: &[u8; 32],
    random: &dyn SecureRandom,
) -> Result<Credential, CredentialError> {
    let (seed, sealed_seed) = new_seed(ek, &mut Random(random))?;
    let suite = Suite::of(ek.kind());
    let key = suite.kdf_a(&seed, b"STORAGE\0", name, suite.aes_bits);
    let mut encrypted = sized(secret);
    suite.encrypt(&key, &mut encrypted);
    let mac_key = suite.kdf_a(&seed, b"INTEGRITY\0", &[], suite.hash_bits());
    let mac = hmac::sign(&hmac::Key::new(suite.hmac, &mac_key), &[&encrypted, name].concat());
    Ok(Credential { blob: [sized(mac.as_ref()), encrypted].concat(), secret: sealed_seed })
}

/// The algorithms of an endorsement key's template: its name algorithm, and the size of its AES key.
struct Suite {
    hash: &'static digest::Algorithm,
    hmac: hmac::Algorithm,
    aes_bits: u32,
}

impl Suite {
    fn of(kind: EkKind) -> Self {
        match kind {
            EkKind::P384 => Self { hash: &digest::SHA384, hmac: hmac::HMAC_SHA384, aes_bits: 256 },
            EkKind::P256 | EkKind::Rsa2048 => {
                Self { hash: &digest::SHA256, hmac: hmac::HMAC_SHA256, aes_bits: 128 }
            }
        }
    }

    fn hash_bits(&self) -> u32 {
        u32::try_from(self.hash.output_len() * 8).unwrap_or_default()
    }

    /// `KDFa` (TPM 2.0 Part 1, section 11.4.10.2), for at most one block of the hash.
    fn kdf_a(&self, seed: &[u8], label: &[u8], context: &[u8], bits: u32) -> Zeroizing<Vec<u8>> {
        let input = [&1u32.to_be_bytes()[..], label, context, &bits.to_be_bytes()].concat();
        let block = hmac::sign(&hmac::Key::new(self.hmac, seed), &input);
        Zeroizing::new(block.as_ref().iter().copied().take(bits as usize / 8).collect())
    }

    /// `KDFe` (section 11.4.10.3), one block: from the x-coordinates of the shared, ephemeral and endorsement points.
    fn kdf_e(&self, shared: &[u8], ephemeral: &[u8], ek: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut context = digest::Context::new(self.hash);
        for part in [&1u32.to_be_bytes()[..], shared, b"IDENTITY\0", ephemeral, ek] {
            context.update(part);
        }
        Zeroizing::new(context.finish().as_ref().to_vec())
    }

    /// AES-CFB with an IV of zeros: the key is used once.
    fn encrypt(&self, key: &[u8], buffer: &mut [u8]) {
        if self.aes_bits == 256 {
            let cipher = cfb_mode::Encryptor::<aes::Aes256>::new_from_slices(key, &[0; 16]);
            cipher.expect("KDFa gave 32 bytes").encrypt(buffer);
        } else {
            let cipher = cfb_mode::Encryptor::<aes::Aes128>::new_from_slices(key, &[0; 16]);
            cipher.expect("KDFa gave 16 bytes").encrypt(buffer);
        }
    }
}

type Seed = (Zeroizing<Vec<u8>>, Vec<u8>);

macro_rules! ecdh_seed {
    ($curve:ident, $ek:expr, $random:expr) => {{
        let ek =
            $curve::PublicKey::from_sec1_bytes(&$ek.public().point()).map_err(|_| CredentialError::Ek)?;
        let ephemeral = $curve::SecretKey::try_generate_from_rng($random)?;
        let shared = $curve::ecdh::diffie_hellman(ephemeral.to_nonzero_scalar(), ek.as_affine());
        let point = ephemeral.public_key().to_sec1_bytes();
        let (x, y) = point[1..].split_at((point.len() - 1) / 2);
        let ek_x = &$ek.public().unique()[..x.len()];
        let seed = Suite::of($ek.kind()).kdf_e(shared.raw_secret_bytes(), x, ek_x);
        Ok((seed, [sized(x), sized(y)].concat()))
    }};
}

/// A fresh seed, and the same encrypted for the endorsement key.
fn new_seed(ek: &Ek, random: &mut Random<'_>) -> Result<Seed, CredentialError> {
    match ek.kind() {
        EkKind::P256 => ecdh_seed!(p256, ek, random),
        EkKind::P384 => ecdh_seed!(p384, ek, random),
        EkKind::Rsa2048 => {
            let modulus =
                BoxedUint::from_be_slice(ek.public().unique(), 2048).map_err(|_| CredentialError::Ek)?;
            let key =
                rsa::PublicKey::new(modulus, BoxedUint::from(65_537u32)).map_err(|_| CredentialError::Ek)?;
            let mut seed = Zeroizing::new(vec![0; 32]);
            random.try_fill_bytes(&mut seed)?;
            let padding = Oaep::<Sha256>::new_with_label(&b"IDENTITY\0"[..]);
            let sealed = key.encrypt(random, padding, &seed).map_err(|_| CredentialError::Random)?;
            Ok((seed, sealed))
        }
    }
}

/// Lets the key types draw from the random source that the rest of the protocol uses.
struct Random<'a>(&'a dyn SecureRandom);

impl TryRng for Random<'_> {
    type Error = CredentialError;

    fn try_next_u32(&mut self) -> Result<u32, CredentialError> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, CredentialError> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), CredentialError> {
        self.0.fill(bytes).map_err(|_| CredentialError::Random)
    }
}

impl TryCryptoRng for Random<'_> {}
