//! Before a provisioner serves: its keys, HQ's certificate, the cluster it admits machines to.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use protocol::id::is_slot_name;

use crate::cluster::attach::{Attach, Plan};
use crate::cluster::credential::{Credential, FILE};
use crate::site::keys;

/// Makes the keys and the request for HQ, and says what to do with it.
pub fn begin(dir: &Path, site: &str, tpm: Option<&str>, owner: &Path, again: bool) -> Result<()> {
    ensure!(
        is_slot_name(site),
        "{site:?} is no site of HQ's: a site's name is at most 50 small letters, digits and hyphens, as in ship-7"
    );
    let whose = "it is HQ's public/owner.json, brought by hand";
    let bytes = std::fs::read(owner)
        .with_context(|| format!("reading the owner's file {}, {whose}", owner.display()))?;
    keys::owner_trust(&bytes).with_context(|| format!("{} is no owner's file: {whose}", owner.display()))?;
    if again {
        keys::drop_request(dir)?;
    }
    let request = keys::begin(dir, site, tpm)?;
    keys::save(&dir.join(keys::OWNER), &bytes)?;
    println!("This provisioner has its keys. They stay here.\n");
    println!("1. Carry {} to HQ.", dir.join(keys::REQUEST).display());
    if request.ek.is_none() {
        println!("   There is no TPM here: read this code to HQ by telephone: {}", request.code());
        println!(
            "2. HQ runs: provisioner hq site certify {site} {} --code CODE -o reply.json",
            keys::REQUEST
        );
    } else {
        println!("2. HQ runs: provisioner hq site certify {site} {} -o reply.json", keys::REQUEST);
    }
    println!("3. Bring reply.json back and run: provisioner init --dir {} --reply reply.json", dir.display());
    Ok(())
}

/// Finishes with HQ's answer.
pub fn finish(dir: &Path, reply: &Path) -> Result<()> {
    let bytes = std::fs::read(reply).with_context(|| format!("reading HQ's reply {}", reply.display()))?;
    keys::finish(dir, &bytes)?;
    println!("This provisioner is certified. Next:");
    println!("1. provisioner attach --dir {} KUBECONFIG", dir.display());
    println!("2. provisioner serve --dir {}", dir.display());
    println!("3. provisioner apply --dir {} BUNDLE", dir.display());
    Ok(())
}

/// Becomes the provisioner that HQ certified in advance, for the first time or again.
pub fn take(dir: &Path, certified: &Path, tpm: &str, owner: &Path, returns: bool) -> Result<()> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
    keys::take(dir, &read(certified)?, tpm, &read(owner)?, returns)?;
    println!("This machine is a provisioner of {}.", keys::Identity::load(dir)?.site);
    Ok(())
}

/// Shows what will be changed in the cluster, asks, changes it, and keeps a certificate of its own.
pub async fn attach(dir: &Path, kubeconfig: &Path, yes: bool) -> Result<()> {
    let identity = keys::Identity::load(dir)?;
    ensure!(kubeconfig.exists(), "there is no file {}", kubeconfig.display());
    let attach = Attach::with(kubeconfig).await?;
    let plan = attach.plan(&identity.site, identity.number).await?;
    print!("{}", shown(&plan)?);
    let old = Credential::load(dir)?;
    if let Some(old) = &old {
        println!("This provisioner is attached to {} now; that credential is replaced.", old.server);
    }
    if plan.held && old.is_none_or(|old| old.user != plan.user || old.server != plan.server) {
        println!("{}", taken_over(&plan.user));
    }
    if !plan.remedies.is_empty() {
        bail!("nothing was applied; the cluster must be changed first:\n{}", numbered(&plan.remedies));
    }
    ensure!(yes || agreed()?, "nothing was applied");
    let credential = attach.apply(&plan).await?;
    keys::save(&dir.join(FILE), &protocol::json::to_vec(&credential))?;
    println!("Attached as {}. The administrator's kubeconfig was not kept.", credential.user);
    println!("A provisioner that runs uses it from now on.");
    Ok(())
}

fn taken_over(user: &str) -> String {
    format!(
        "A provisioner called {user} is attached to this cluster already, and this one takes over its name and rights. \
         If that one still runs, its certificate stays good beside this one's: give one of the two a folder and a \
         certificate of its own from HQ."
    )
}

fn agreed() -> Result<bool> {
    ensure!(std::io::stdin().is_terminal(), "nothing was applied: there is nobody to ask; repeat with --yes");
    print!("Apply this? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn numbered(lines: &[String]) -> String {
    let lines = lines.iter().enumerate().map(|(place, line)| format!("{}. {line}", place + 1));
    lines.collect::<Vec<_>>().join("\n")
}

fn shown(plan: &Plan) -> Result<String> {
    let foreign = match plan.foreign.as_slice() {
        [] => "It has no Nodes yet.".to_owned(),
        nodes => format!("Nodes that are there already stay as they are: {}", nodes.join(", ")),
    };
    let mut text = format!(
        "Cluster {} ({})\n{foreign}\nThese rights will be given to the provisioner, nothing more:\n",
        plan.server, plan.version
    );
    for object in &plan.objects {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(object)?);
    }
    text.push_str("---\n");
    text.push_str(IN_PLAIN_WORDS);
    Ok(text)
}

/// What the rights above come to.
const IN_PLAIN_WORDS: &str = "In plain words: it may approve, deny and delete certificate requests; read, change and \
                              delete Nodes; keep admission policies by which a Node that was replaced stays out; write \
                              events; and read leases, endpoints and roles. It cannot read Secrets or start Pods.\n";
