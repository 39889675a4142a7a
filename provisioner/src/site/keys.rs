//! The provisioner's keys and who it is: made on site, certified by HQ in one round trip.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use protocol::anchors::{Kept, Trust};
use protocol::bytes::{B64u, Digest};
use protocol::cert::Cert;
use protocol::certify::{CaReply, CaRequest, Certified, Grant, open_with_key, open_with_secret};
use protocol::clock::{Time, YEAR};
use protocol::crypto::{Alg, Signer, SoftKey};
use protocol::csr::Csr;
use protocol::issue::{Role, issue, request};
use protocol::tpm::{Ek, Key, KeyBlob, Public, Spec, Tpm};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Name of the request that a person carries to HQ.
pub const REQUEST: &str = "ca-request.json";
/// Who the provisioner is, once HQ certified it.
const IDENTITY: &str = "identity.json";
/// The owner's file, brought by hand at the first step.
pub const OWNER: &str = "owner.json";

/// Writes a file that only its owner can read, at once or not at all.
pub fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let beside = path.with_extension("new");
    let mut options = fs::File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Begun {
    site: String,
    tpm: Option<String>,
}

/// Who the provisioner is, as HQ certified it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// Its site.
    pub site: String,
    /// Generation of the site CA.
    pub generation: u32,
    /// Which provisioner of the site.
    pub number: u32,
    /// What HQ gave it.
    pub grant: Grant,
    tpm: Option<String>,
}

impl Identity {
    /// Who the provisioner of a folder is; before HQ certified it, what to do.
    pub fn load(dir: &Path) -> Result<Self> {
        let why = uncertified(dir);
        ensure!(why.is_none(), "{}", why.unwrap_or_default());
        let reading = || format!("reading {}", dir.join(IDENTITY).display());
        serde_json::from_slice(&fs::read(dir.join(IDENTITY)).with_context(reading)?).with_context(reading)
    }
}

/// The provisioner's keys.
pub struct Keys {
    /// Who it is.
    pub identity: Identity,
    /// Its issuing CA.
    pub issuing: Cert,
    /// The site's CA.
    pub site_ca: Cert,
    issuing_key: Arc<dyn Signer>,
    leaf: Mutex<(Cert, Arc<dyn Signer>)>,
    dir: PathBuf,
}

/// What the provisioner believes of HQ, with the latest time that HQ signed.
#[derive(Serialize, Deserialize)]
pub struct KeptTrust {
    /// The documents.
    pub kept: Kept,
    /// The floor of its clock.
    pub floor: Time,
    /// The highest bundle that was accepted, 0 before the first: known even where the store is lost.
    #[serde(default)]
    pub bundle: u64,
}

/// Makes the issuing CA's key and the request for HQ. Repeating it shows the same request.
pub fn begin(dir: &Path, site: &str, tpm: Option<&str>) -> Result<CaRequest> {
    make_folder(dir)?;
    check_fresh(dir)?;
    let path = dir.join(REQUEST);
    if path.exists() {
        check_pending(dir, site, tpm)?;
        return serde_json::from_slice(&fs::read(&path)?).context("reading the request made before");
    }
    let subject = format!("{site} issuing CA");
    let request = if let Some(spec) = tpm {
        let mut chip = Tpm::open(&spec.parse::<Spec>()?)?;
        let ek = chip.eks()?.into_iter().next().context("the TPM has no endorsement key")?;
        let blob = chip.create_key()?;
        save(&dir.join("issuing-ca.tpm"), &protocol::json::to_vec(&blob))?;
        let (public, private) = (blob.public.as_bytes().to_vec(), blob.private.clone());
        let key = Key::load(Arc::new(Mutex::new(chip)), blob)?;
        let csr = request(&subject, None, &key)?;
        CaRequest {
            csr: B64u(csr),
            ek: Some(B64u(ek.public().as_bytes().to_vec())),
            key: Some(B64u(public)),
            private: Some(private),
            seal: None,
        }
    } else {
        let (key, pkcs8) = SoftKey::generate(Alg::Es256)?;
        save(&dir.join("issuing-ca.key"), &pkcs8)?;
        let scalar = Zeroizing::new(protocol::crypto::random::<32>()?);
        save(&dir.join("seal.key"), &scalar[..])?;
        let seal = protocol::bundle::public_of(&scalar[..]).context("a key to seal the reply to")?;
        let csr = B64u(request(&subject, None, &key)?);
        CaRequest { csr, ek: None, key: None, private: None, seal: Some(B64u(seal)) }
    };
    let begun = Begun { site: site.to_owned(), tpm: tpm.map(str::to_owned) };
    save(&dir.join("init.json"), &protocol::json::to_vec(&begun))?;
    save(&path, &protocol::json::to_vec(&request))?;
    Ok(request)
}

/// Becomes the provisioner that HQ certified in advance: everything but its TPM comes with the file. After a power cut it
/// is done again from the beginning. One that `returns` has lost a store, and knows it.
pub fn take(dir: &Path, certified: &[u8], tpm: &str, owner: &[u8], returns: bool) -> Result<()> {
    let damaged = "this certified provisioner is cut off or damaged: have HQ write the stick once more";
    let Certified { request, reply } = protocol::json::parse(certified).context(damaged)?;
    let (key, private) = request.key.as_ref().zip(request.private.clone()).context(
        "it was certified by a key that stays in its folder: only `provisioner init --reply` finishes it there",
    )?;
    let blob = KeyBlob { private, public: Public::node_key(&key.0).ok().context(damaged)? };
    let csr = Csr::parse(&request.csr.0).context(damaged)?;
    let site = csr.common_names.iter().find_map(|name| name.strip_suffix(" issuing CA")).context(damaged)?;
    make_folder(dir)?;
    check_fresh(dir)?;
    let begun = Begun { site: site.to_owned(), tpm: Some(tpm.to_owned()) };
    save(&dir.join("issuing-ca.tpm"), &protocol::json::to_vec(&blob))?;
    save(&dir.join("init.json"), &protocol::json::to_vec(&begun))?;
    save(&dir.join(REQUEST), &protocol::json::to_vec(&request))?;
    save(&dir.join(OWNER), owner)?;
    // Some bundle was in force: which one is lost with the store.
    finish_after(dir, &protocol::json::to_vec(&reply), u64::from(returns))
}

fn make_folder(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// What to do in a folder whose provisioner HQ has not certified, or where there is none.
pub fn uncertified(dir: &Path) -> Option<String> {
    // Whoever may not look is told so by who reads it.
    if !matches!(dir.join(IDENTITY).try_exists(), Ok(false)) {
        return None;
    }
    let rest = if dir.join(REQUEST).exists() { "--reply REPLY.json" } else { "--site SITE --owner FILE" };
    Some(format!(
        "there is no provisioner in {0} that HQ has certified: run `provisioner init --dir {0} {rest}`, or name another \
         folder by --dir",
        dir.display()
    ))
}

/// A provisioner is certified once; another site or another CA is another folder.
fn check_fresh(dir: &Path) -> Result<()> {
    let Ok(bytes) = fs::read(dir.join(IDENTITY)) else { return Ok(()) };
    let identity: Identity = serde_json::from_slice(&bytes).context("reading identity.json")?;
    bail!("{} is already certified for {}: nothing is left to do here", dir.display(), identity.site)
}

/// The request that waits for its answer is for one site only, by a key where this one would be.
fn check_pending(dir: &Path, site: &str, tpm: Option<&str>) -> Result<()> {
    let begun: Begun =
        serde_json::from_slice(&fs::read(dir.join("init.json"))?).context("reading init.json")?;
    ensure!(
        begun.site == site,
        "{0} has a request for {1} that waits for HQ's answer, and this is for {site}: finish it (`provisioner init \
         --dir {0} --reply FILE`), take another folder, or drop that request (`provisioner init --again …`)",
        dir.display(),
        begun.site
    );
    let place = |in_tpm| if in_tpm { "in a TPM" } else { "in a file" };
    ensure!(
        begun.tpm.is_some() == tpm.is_some(),
        "{} has a request by a key {}, and this one's would be {}: drop that request (`provisioner init --again …`), \
         or give --tpm as it was",
        dir.display(),
        place(begun.tpm.is_some()),
        place(tpm.is_some())
    );
    Ok(())
}

/// Drops a request that waits for HQ's answer, with its keys.
pub fn drop_request(dir: &Path) -> Result<()> {
    check_fresh(dir)?;
    for name in [REQUEST, "init.json", "issuing-ca.key", "issuing-ca.tpm", "seal.key", OWNER] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", dir.join(name).display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes HQ's reply. Anybody who saw the request could have sealed something to it: who it is from is known only by the
/// owner's file of the first step.
pub fn finish(dir: &Path, reply: &[u8]) -> Result<()> {
    finish_after(dir, reply, 0)
}

fn finish_after(dir: &Path, reply: &[u8], bundle: u64) -> Result<()> {
    check_fresh(dir)?;
    let first = || "run `provisioner init --site SITE --owner FILE` first".to_owned();
    let begun: Begun = serde_json::from_slice(&fs::read(dir.join("init.json")).with_context(first)?)?;
    let owner = owner_trust(&fs::read(dir.join(OWNER)).with_context(first)?)?;
    let request: CaRequest = serde_json::from_slice(&fs::read(dir.join(REQUEST))?)?;
    let damaged = |why| {
        anyhow::anyhow!(
            "this is no reply of HQ's, or one that is cut off: bring the file once more that `hq site certify` wrote ({why})"
        )
    };
    let reply: CaReply = protocol::json::parse(reply).map_err(damaged)?;
    let grant = open(dir, &begun, &request, &reply)?.context("the reply was made for another request")?;
    let trust = Trust::from_image(&grant.anchors)?;
    let same =
        owner.site_anchors() == trust.site_anchors() && owner.voucher_anchors() == trust.voucher_anchors();
    ensure!(same, "the reply comes from another owner than the one in the owner's file");
    let trust = trust.accept_revoked(&grant.revoked, Time(0), None).unwrap_or(trust);
    let (generation, number) = check_chain(dir, &begun, &grant, &trust)?;
    let floor = trust.created_on();
    let kept = KeptTrust { kept: trust.kept().clone(), floor, bundle };
    save(&dir.join("trust.json"), &protocol::json::to_vec(&kept))?;
    let identity = Identity { site: begun.site, generation, number, grant, tpm: begun.tpm };
    save(&dir.join(IDENTITY), &protocol::json::to_vec(&identity))?;
    let _ = fs::remove_file(dir.join("seal.key"));
    Ok(())
}

fn open(dir: &Path, begun: &Begun, request: &CaRequest, reply: &CaReply) -> Result<Option<Grant>> {
    match reply {
        CaReply::Sealed { enc, ct } => {
            let scalar =
                Zeroizing::new(fs::read(dir.join("seal.key")).context("the key of this request is gone")?);
            Ok(open_with_key(&enc.0, &ct.0, &scalar, request))
        }
        CaReply::Tpm { blob, secret, ct } => {
            let spec = begun.tpm.as_deref().context("the reply is for a provisioner with a TPM")?;
            let ek = Ek::parse(&request.ek.as_ref().context("the request names no endorsement key")?.0)?;
            let key: KeyBlob = serde_json::from_slice(&fs::read(dir.join("issuing-ca.tpm"))?)?;
            let k = Tpm::open(&spec.parse::<Spec>()?)?.activate(&ek, &key, &blob.0, &secret.0)?;
            Ok(open_with_secret(&ct.0, &k, request))
        }
    }
}

/// What an owner's file says of its owner. On a machine whose whole system is ours it is the owner's section, of which
/// node-boot has seen who signed it.
pub fn owner_trust(file: &[u8]) -> Result<Trust> {
    #[derive(Deserialize)]
    struct Owner {
        anchors: serde_json::Value,
    }
    let section = protocol::section::read(file).map(|signed| signed.payload);
    let file = section.as_deref().unwrap_or(file);
    let owner: Owner = serde_json::from_slice(file).context("reading the owner's file")?;
    Ok(Trust::from_image(&owner.anchors.to_string())?)
}

fn check_chain(dir: &Path, begun: &Begun, grant: &Grant, trust: &Trust) -> Result<(u32, u32)> {
    let [issuing, site_ca] = grant.chain.as_slice() else {
        bail!("the reply holds no chain of two certificates")
    };
    let (issuing, site_ca) = (Cert::parse(&issuing.0)?, Cert::parse(&site_ca.0)?);
    let own = issuing_key(dir, begun.tpm.as_deref())?;
    ensure!(issuing.spki == own.spki(), "the certificate is for another key");
    let (theirs, ours) = (site_ca.site().unwrap_or_default(), begun.site.as_str());
    ensure!(theirs == ours, "HQ certified this request for site {theirs:?}, and it was made for {ours:?}");
    let at = protocol::clock::effective(Time(0), None, [issuing.not_before, site_ca.not_before]);
    let anchored = trust.site_anchors().iter().any(|anchor| protocol::cert::issued_by(&site_ca, anchor, at));
    ensure!(
        anchored && protocol::cert::issued_by(&issuing, &site_ca, at),
        "the chain does not end in the owner's anchor"
    );
    let number = |letter: char| {
        let word = issuing.common_name.split(' ').find_map(|word| word.strip_prefix(letter));
        word.and_then(|digits| digits.parse().ok())
            .context("the certificate's name has no generation and number")
    };
    Ok((number('g')?, number('i')?))
}

fn issuing_key(dir: &Path, tpm: Option<&str>) -> Result<Arc<dyn Signer>> {
    match tpm {
        Some(spec) => {
            let blob: KeyBlob = serde_json::from_slice(&fs::read(dir.join("issuing-ca.tpm"))?)?;
            let chip = Tpm::open(&spec.parse::<Spec>()?)?;
            Ok(Arc::new(Key::load(Arc::new(Mutex::new(chip)), blob)?))
        }
        None => Ok(Arc::new(SoftKey::from_pkcs8(&Zeroizing::new(fs::read(dir.join("issuing-ca.key"))?))?)),
    }
}

impl Keys {
    /// Reads the keys of a certified provisioner; makes its leaf where there is none or half its life is over.
    pub fn load(dir: &Path, now: Time) -> Result<Self> {
        let identity = Identity::load(dir)?;
        let issuing_key = issuing_key(dir, identity.tpm.as_deref())?;
        let mut certs = identity.grant.chain.iter().map(|der| Cert::parse(&der.0));
        let issuing = certs.next().context("the issuing CA")??;
        let site_ca = certs.next().context("the site CA")??;
        let leaf =
            load_leaf(dir).filter(|(cert, _)| cert.key_hash != Digest([0; 32]) && !half_over(cert, now));
        let leaf = match leaf {
            Some(leaf) => leaf,
            None => make_leaf(dir, &identity, &issuing, &*issuing_key, now)?,
        };
        Ok(Self { identity, issuing, site_ca, issuing_key, leaf: Mutex::new(leaf), dir: dir.to_owned() })
    }

    /// The leaf, and its key.
    pub fn leaf(&self) -> (Cert, Arc<dyn Signer>) {
        let leaf = self.leaf.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (leaf.0.clone(), Arc::clone(&leaf.1))
    }

    /// Makes a new leaf when half the life of the present one is over; whether it did.
    pub fn renew_leaf(&self, now: Time) -> Result<bool> {
        if !half_over(&self.leaf().0, now) {
            return Ok(false);
        }
        let made = make_leaf(&self.dir, &self.identity, &self.issuing, &*self.issuing_key, now)?;
        *self.leaf.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = made;
        Ok(true)
    }

    /// A certificate under the issuing CA: DER.
    pub fn issue(&self, role: &Role<'_>, spki: &[u8], now: Time) -> Result<Vec<u8>> {
        Ok(issue(role, spki, &self.issuing, &*self.issuing_key, now)?)
    }

    /// Leaf, issuing CA, site CA: DER, as TLS shows them.
    pub fn chain(&self) -> Vec<Vec<u8>> {
        vec![self.leaf().0.der, self.issuing.der.clone(), self.site_ca.der.clone()]
    }
}

fn half_over(cert: &Cert, now: Time) -> bool {
    now.plus(YEAR / 2) > cert.not_after
}

fn load_leaf(dir: &Path) -> Option<(Cert, Arc<dyn Signer>)> {
    let cert = Cert::parse(&fs::read(dir.join("leaf.der")).ok()?).ok()?;
    let key = SoftKey::from_pkcs8(&Zeroizing::new(fs::read(dir.join("leaf.key")).ok()?)).ok()?;
    (key.spki() == cert.spki).then_some((cert, Arc::new(key) as Arc<dyn Signer>))
}

fn make_leaf(
    dir: &Path,
    identity: &Identity,
    issuing: &Cert,
    by: &dyn Signer,
    now: Time,
) -> Result<(Cert, Arc<dyn Signer>)> {
    let (key, pkcs8) = SoftKey::generate(Alg::Es256)?;
    let role = Role::Leaf { site: &identity.site, number: identity.number };
    let der = issue(&role, key.spki(), issuing, by, now)?;
    save(&dir.join("leaf.key"), &pkcs8)?;
    save(&dir.join("leaf.der"), &der)?;
    Ok((Cert::parse(&der)?, Arc::new(key)))
}
