//! Private keys of headquarters: PKCS#8, encrypted (RFC 8018, scrypt and AES-256), or behind a program of the owner's.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use pkcs8::pkcs5::pbes2;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};
use protocol::crypto::{Alg, SignError, Signer, SoftKey};
use protocol::firmware::{self, FirmwareSigner, RsaKey};
use zeroize::Zeroizing;

const LABEL: &str = "ENCRYPTED PRIVATE KEY";

/// A folder of encrypted keys and the passphrase that opens them.
pub struct Keys {
    dir: PathBuf,
    passphrase: Zeroizing<String>,
}

impl Keys {
    /// The folder; the passphrase comes from a file, or from `NODEBOOT_PASSPHRASE`.
    pub fn new(dir: PathBuf, passphrase_file: Option<&Path>) -> Result<Self> {
        let passphrase = match passphrase_file {
            Some(path) => fs::read_to_string(path)
                .with_context(|| format!("reading the passphrase in {}", path.display()))?,
            None => std::env::var("NODEBOOT_PASSPHRASE").unwrap_or_default(),
        };
        Ok(Self { dir, passphrase: Zeroizing::new(passphrase.trim_end_matches(['\n', '\r']).to_owned()) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pem"))
    }

    /// Makes and keeps a key; refuses to overwrite one.
    pub fn make(&self, name: &str, alg: Alg) -> Result<SoftKey> {
        let (key, pkcs8) = SoftKey::generate(alg)?;
        self.keep(name, &pkcs8)?;
        Ok(key)
    }

    /// Makes and keeps a key of the kind that machines' firmware believes. OpenSSL makes it, and hands it over by a pipe.
    pub fn make_for_firmware(&self, name: &str) -> Result<RsaKey> {
        let mut openssl = Command::new("openssl");
        openssl.args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
        let made = openssl.stdin(Stdio::null()).output();
        let made = made.context("running openssl (Debian's openssl), which makes keys for firmware")?;
        let said = String::from_utf8_lossy(&made.stderr);
        ensure!(made.status.success(), "openssl cannot make the key {name}: {}", said.trim());
        let pkcs8 = Zeroizing::new(protocol::est::read_base64(&Zeroizing::new(made.stdout))?);
        let key = RsaKey::from_pkcs8(&pkcs8)?;
        self.keep(name, &pkcs8)?;
        Ok(key)
    }

    /// Makes the folder; where the keys could not be encrypted, there is none to make.
    fn make_folder(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        ensure!(
            !self.passphrase.is_empty(),
            "no passphrase: give --passphrase-file or set NODEBOOT_PASSPHRASE; keys are never kept in the clear"
        );
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.with_context(|| format!("creating the folder of keys {}", self.dir.display()))
    }

    /// The folder, its whole path; made where there is none.
    pub fn folder(&self) -> Result<PathBuf> {
        self.make_folder()?;
        fs::canonicalize(&self.dir).with_context(|| format!("opening {}", self.dir.display()))
    }

    /// Where the folder is inside of `dir`, which is meant for Git, has Git leave it out: the file that says so.
    pub fn keep_from_git(&self, dir: &Path) -> Result<Option<PathBuf>> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let (keys, dir) = (self.folder()?, fs::canonicalize(dir)?);
        let Ok(inside) = keys.strip_prefix(&dir) else { return Ok(None) };
        ensure!(inside != Path::new(""), "{} goes under Git: give the keys another folder", dir.display());
        let (path, line) = (dir.join(".gitignore"), format!("/{}/", inside.display()));
        let before = fs::read_to_string(&path).unwrap_or_default();
        if !before.lines().any(|there| there.trim() == line) {
            let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
            super::write_text(&path, &format!("{before}{gap}{line}\n"))?;
        }
        Ok(Some(path))
    }

    /// Keeps a secret: PKCS#8 DER.
    fn keep(&self, name: &str, der: &[u8]) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        self.make_folder()?;
        self.check_passphrase()?;
        let salt = protocol::crypto::random::<16>()?;
        let iv = protocol::crypto::random::<16>()?;
        let broken = |error: &dyn std::fmt::Display| anyhow::anyhow!("encrypting the key {name}: {error}");
        // N = 2^14, r = 8, p = 1 needs 16 MiB: the most that OpenSSL opens without being told to take more.
        let cost = pkcs8::pkcs5::scrypt::Params::new(14, 8, 1).map_err(|error| broken(&error))?;
        let how =
            pbes2::Parameters::generate_scrypt_aes256cbc(cost, &salt, iv).map_err(|error| broken(&error))?;
        let info = PrivateKeyInfoRef::try_from(der).map_err(|error| broken(&error))?;
        let sealed =
            info.encrypt_with_params(how, self.passphrase.as_bytes()).map_err(|error| broken(&error))?;
        let pem = sealed.to_pem(LABEL, pkcs8::LineEnding::LF).map_err(|error| broken(&error))?;
        let path = self.path(name);
        let mut options = fs::File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        file.with_context(|| format!("making {} (it is never overwritten)", path.display()))?
            .write_all(pem.as_bytes())?;
        Ok(())
    }

    /// A key that is made under another passphrase than the others would be found out only when it is needed.
    fn check_passphrase(&self) -> Result<()> {
        let entries = fs::read_dir(&self.dir).with_context(|| format!("reading {}", self.dir.display()))?;
        let mut others: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "pem"))
            .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
            .collect();
        others.sort();
        let Some(other) = others.first() else { return Ok(()) };
        self.open(other).context("a new key gets the passphrase of the others").map(drop)
    }

    fn open(&self, name: &str) -> Result<Zeroizing<Vec<u8>>> {
        let path = self.path(name);
        let which =
            || format!("reading the key {}: is --keys the right folder, or is it offline?", path.display());
        let pem = fs::read_to_string(&path).with_context(which)?;
        let wrong = || format!("the key {} cannot be opened: is this the right passphrase?", path.display());
        let (_, sealed) = SecretDocument::from_pem(&pem).ok().with_context(wrong)?;
        let sealed = EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes()).ok().with_context(wrong)?;
        let opened = sealed.decrypt(self.passphrase.as_bytes()).ok().with_context(wrong)?;
        Ok(Zeroizing::new(opened.as_bytes().to_vec()))
    }

    /// The key called `name`; `hook` is the owner's `exec:` program instead, where there is one.
    pub fn signer(&self, name: &str, hook: Option<&Hook>) -> Result<Box<dyn Signer>> {
        if let Some(hook) = hook {
            return Ok(Box::new(Exec::new(name, hook)?));
        }
        Ok(Box::new(SoftKey::from_pkcs8(&self.open(name)?)?))
    }

    /// The same for a key that machines' firmware believes.
    pub fn firmware_signer(&self, name: &str, hook: Option<&Hook>) -> Result<Box<dyn FirmwareSigner>> {
        if let Some(hook) = hook {
            return Ok(Box::new(FirmwareExec::new(name, hook)?));
        }
        Ok(Box::new(RsaKey::from_pkcs8(&self.open(name)?)?))
    }

    /// Makes and keeps a private scalar on P-256, for agreement and not for signatures.
    pub fn make_scalar(&self, name: &str) -> Result<Zeroizing<[u8; 32]>> {
        self.make(name, Alg::Es256)?;
        self.scalar(name)
    }

    /// The private scalar called `name`.
    pub fn scalar(&self, name: &str) -> Result<Zeroizing<[u8; 32]>> {
        use p256::pkcs8::DecodePrivateKey as _;
        let key = p256::SecretKey::from_pkcs8_der(&self.open(name)?);
        let key = key.map_err(|error| anyhow::anyhow!("the key {name} is not on P-256: {error}"))?;
        Ok(Zeroizing::new(key.to_bytes().into()))
    }
}

/// A key behind a program: bytes in, signature out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Hook {
    /// Program and arguments. It reads the bytes to sign and writes the signature: `r || s`, or DER as OpenSSL does; for a
    /// key that firmware believes, the 256 bytes of PKCS#1 with SHA-256.
    pub exec: Vec<String>,
    /// The public key, PEM `SubjectPublicKeyInfo`.
    pub public: String,
}

impl Hook {
    /// The public key, of which a program has to be named.
    fn spki(&self, name: &str) -> Result<Vec<u8>> {
        ensure!(!self.exec.is_empty(), "the hook of {name} names no program");
        Ok(protocol::est::read_base64(self.public.as_bytes())?)
    }

    /// What the program answers to `message`.
    fn ask(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.exec[0]);
        let mut child = command.args(&self.exec[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        child.stdin.take().context("its input")?.write_all(message)?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "it ended with {}", output.status);
        Ok(output.stdout)
    }

    fn failed(&self, name: &str, error: &anyhow::Error) -> SignError {
        SignError { key: format!("{name} ({})", self.exec[0]), why: format!("{error:#}") }
    }
}

const NOT_ITS: &str = "its signature is not by the public key";

struct Exec {
    name: String,
    hook: Hook,
    alg: Alg,
    spki: Vec<u8>,
}

impl Exec {
    fn new(name: &str, hook: &Hook) -> Result<Self> {
        let spki = hook.spki(name)?;
        let (alg, _) = Alg::of_spki(&spki)
            .with_context(|| format!("the public key of {name} is not on P-256 or P-384"))?;
        Ok(Self { name: name.to_owned(), hook: hook.clone(), alg, spki })
    }

    fn run(&self, message: &[u8]) -> Result<Vec<u8>> {
        let answer = self.hook.ask(message)?;
        let size = if self.alg == Alg::Es256 { 32 } else { 48 };
        let fixed = if answer.len() == 2 * size { answer } else { from_der(&answer, size)? };
        ensure!(protocol::crypto::verify(&self.spki, message, &fixed), NOT_ITS);
        Ok(fixed)
    }
}

struct FirmwareExec {
    name: String,
    hook: Hook,
    spki: Vec<u8>,
}

impl FirmwareExec {
    fn new(name: &str, hook: &Hook) -> Result<Self> {
        let spki = hook.spki(name)?;
        ensure!(
            firmware::public(&spki).is_some(),
            "the public key of {name} is not RSA of 2048 bits with the exponent 65537"
        );
        Ok(Self { name: name.to_owned(), hook: hook.clone(), spki })
    }
}

impl FirmwareSigner for FirmwareExec {
    fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signed = self.hook.ask(message).and_then(|signature| {
            ensure!(firmware::verify(&self.spki, message, &signature), NOT_ITS);
            Ok(signature)
        });
        signed.map_err(|error| self.hook.failed(&self.name, &error))
    }
}

/// `r || s` of a DER signature (RFC 3279 section 2.2.3).
fn from_der(der: &[u8], size: usize) -> Result<Vec<u8>> {
    let integer = |bytes: &[u8]| -> Option<(Vec<u8>, usize)> {
        let [2, length, rest @ ..] = bytes else { return None };
        let value = rest.get(..usize::from(*length))?;
        let value = &value[value.iter().position(|byte| *byte != 0).unwrap_or(value.len())..];
        let mut fixed = vec![0; size.checked_sub(value.len())?];
        fixed.extend_from_slice(value);
        Some((fixed, usize::from(*length) + 2))
    };
    let read = || {
        let [0x30, _, body @ ..] = der else { return None };
        let (r, used) = integer(body)?;
        let (s, _) = integer(body.get(used..)?)?;
        Some([r, s].concat())
    };
    read().context("what it wrote is no ECDSA signature")
}

impl Signer for Exec {
    fn alg(&self) -> Alg {
        self.alg
    }

    fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.run(message).map_err(|error| self.hook.failed(&self.name, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_kept_in_the_clear_and_openssl_opens_it_with_the_passphrase() {
        let dir = tempfile::tempdir().unwrap();
        let passphrase = dir.path().join("pass");
        fs::write(&passphrase, "correct horse\n").unwrap();
        let keys = Keys::new(dir.path().join("keys"), Some(&passphrase)).unwrap();
        let key = keys.make("signer", Alg::Es256).unwrap();
        assert_eq!(keys.signer("signer", None).unwrap().spki(), key.spki());
        let path = dir.path().join("keys/signer.pem");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert!(fs::read_to_string(&path).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
        let mut openssl = Command::new("openssl");
        openssl
            .args(["pkey", "-noout", "-passin"])
            .arg(format!("file:{}", passphrase.display()))
            .arg("-in")
            .arg(&path);
        assert!(openssl.status().unwrap().success());
        assert!(keys.make("signer", Alg::Es256).is_err(), "never overwritten");
        keys.make("anchor-a", Alg::Es256).unwrap();
        let other = Keys { passphrase: Zeroizing::new("wrong".into()), ..keys };
        assert!(other.signer("signer", None).err().unwrap().to_string().contains("right passphrase"));
        let said = other.make("site-anchor-a", Alg::Es256).err().unwrap().to_string();
        assert_eq!(said, "a new key gets the passphrase of the others");
        assert!(!dir.path().join("keys/site-anchor-a.pem").exists(), "and nothing is made under another one");
    }

    #[test]
    fn git_leaves_keys_out_that_are_inside_its_folder_and_what_it_was_told_before_stays() {
        let dir = tempfile::tempdir().unwrap();
        let passphrase = Zeroizing::new("secret".to_owned());
        let keys = |place: &str| Keys { dir: dir.path().join(place), passphrase: passphrase.clone() };
        let (hq, file) = (dir.path().join("hq"), dir.path().join("hq/.gitignore"));
        assert_eq!(keys("beside").keep_from_git(&hq).unwrap(), None);
        assert!(!file.exists());
        fs::write(&file, "*.swp").unwrap();
        for _ in 0..2 {
            keys("hq/node-boot-keys").keep_from_git(&hq).unwrap().unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "*.swp\n/node-boot-keys/\n");
        }
        let said = keys("hq").keep_from_git(&hq).unwrap_err().to_string();
        assert!(said.contains("give the keys another folder"), "{said}");
    }

    #[test]
    fn a_program_of_the_owners_signs_instead() {
        let dir = tempfile::tempdir().unwrap();
        let run = |words: &[&str]| {
            Command::new("openssl").args(words).current_dir(dir.path()).output().unwrap().stdout
        };
        run(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key"]);
        let public = String::from_utf8(run(&["ec", "-in", "key", "-pubout"])).unwrap();
        let key = dir.path().join("key").display().to_string();
        let exec = ["openssl", "dgst", "-sha256", "-sign", &key].map(str::to_owned).to_vec();
        let signer = Exec::new("signer", &Hook { exec, public: public.clone() }).unwrap();
        assert!(protocol::crypto::verify(signer.spki(), b"m", &signer.sign(b"m").unwrap()));
        let (other, _) = SoftKey::generate(Alg::Es256).unwrap();
        let other = protocol::bytes::pem("PUBLIC KEY", other.spki());
        let stranger = Hook { exec: signer.hook.exec.clone(), public: other };
        let error = Exec::new("signer", &stranger).unwrap().sign(b"m").unwrap_err().to_string();
        assert!(error.contains("its signature is not by the public key"), "{error}");
        let exec = ["true".to_owned()].to_vec();
        assert!(Exec::new("signer", &Hook { exec, public }).unwrap().sign(b"m").is_err());
    }
}
