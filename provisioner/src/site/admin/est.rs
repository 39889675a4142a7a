//! Machines that are not ours and may ask for a certificate once, by EST (RFC 7030 section 3.2.3) and a password.

use anyhow::{Result, ensure};
use protocol::bytes::{Digest, base32};
use protocol::clock::{DAY, Time};
use serde::{Deserialize, Serialize};

use crate::site::store::{Look, META, Store, StoreError};

/// How long a password is good for, seconds.
const LIFE: i64 = 7 * DAY;

/// What is kept of a password: 128 random bits need no slow hash.
#[derive(Serialize, Deserialize)]
struct Kept {
    password: Digest,
    until: Time,
}

fn key(name: &str) -> String {
    format!("est/{name}")
}

/// Lets the machine called `name` ask once: its password, which is not kept. A second call replaces the first.
pub async fn add(store: &Store, now: Time, name: &str) -> Result<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let good = (1..=64).contains(&name.len()) && name.bytes().all(fits);
    ensure!(good, "a name has 1 to 64 letters, digits, hyphens and dots");
    let password = base32(&protocol::crypto::random::<16>()?);
    let kept = Kept { password: Digest::of(password.as_bytes()), until: now.plus(LIFE) };
    let key = key(name);
    store.write(move |tx| tx.put(META, &key, &kept)).await?;
    Ok(password)
}

/// Whether `password` is the one given to `name`; it is good once, and gone before the answer.
pub async fn redeem(store: &Store, now: Time, name: &str, password: &str) -> Result<bool, StoreError> {
    let (key, said) = (key(name), Digest::of(password.as_bytes()));
    let change = store.write(move |tx| {
        let Some(kept) = tx.get::<Kept>(META, &key)? else { return Ok(false) };
        let right = kept.password == said && now <= kept.until;
        if right {
            tx.remove(META, &key)?;
        }
        Ok(right)
    });
    change.await
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_800_000_000);

    #[tokio::test]
    async fn a_password_is_good_once_for_its_machine_and_for_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb")).unwrap();
        let password = add(&store, NOW, "printer").await.unwrap();
        assert!(!redeem(&store, NOW, "printer", "guess").await.unwrap());
        assert!(!redeem(&store, NOW, "scanner", &password).await.unwrap());
        assert!(!redeem(&store, NOW.plus(LIFE + 1), "printer", &password).await.unwrap());
        assert!(redeem(&store, NOW, "printer", &password).await.unwrap());
        assert!(!redeem(&store, NOW, "printer", &password).await.unwrap(), "it was used");
    }

    #[tokio::test]
    async fn a_name_that_could_not_stand_in_a_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb")).unwrap();
        for name in ["", "a b", "a/b", "ä", &"a".repeat(65)] {
            assert!(add(&store, NOW, name).await.is_err(), "{name:?}");
        }
    }
}
