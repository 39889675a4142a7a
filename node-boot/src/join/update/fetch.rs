//! An image from the provisioner, into the bank that is not in use: in the background, again after a cut link.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::anchors::Trust;
use protocol::bytes::Digest;
use protocol::clock::{self, Time};
use protocol::crypto::Signer;
use protocol::image::Image;

use crate::console::say;
use crate::os::bank::{self, Keeper, Source};
use crate::site::http::{Conversation, Meaning};
use crate::site::tls;

/// After a cut link, at first and at most.
const AGAIN: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_mins(1);
/// So often an image is tried to be fetched; then the provisioner is asked anew, which may want another one by now.
const ROUNDS: u32 = 8;
/// How much is asked for at once.
const PIECE: u64 = 2 * 1024 * 1024;
/// Between two words on how far it is.
const TOLD: u64 = 64 * 1024 * 1024;

/// How a provisioner is reached for images: whatever it sends is checked against what headquarters signed.
pub struct Reach {
    /// Where it is.
    pub address: SocketAddr,
    /// The node key, and the certificate to show.
    pub own: (Arc<dyn Signer>, Vec<u8>),
    /// Whom to believe, and the time that is known.
    pub trust: (Trust, Time),
    talk: Option<Conversation>,
}

impl Reach {
    /// Not connected yet.
    pub fn new(address: SocketAddr, own: (Arc<dyn Signer>, Vec<u8>), trust: (Trust, Time)) -> Self {
        Self { address, own, trust, talk: None }
    }

    fn connected(&mut self) -> Result<&mut Conversation> {
        if self.talk.is_none() {
            let own = tls::Own { key: &self.own.0, certificate: &self.own.1 };
            let link = tls::connect(self.address, &own, &self.trust.0, self.trust.1, clock::system())?;
            self.talk = Some(Conversation::over(link.map_err(|refused| anyhow::anyhow!("{refused}"))?));
        }
        self.talk.as_mut().context("no connection")
    }
}

impl Source for Reach {
    fn read(&mut self, object: &Digest, from: u64, length: u64) -> Result<Vec<u8>> {
        loop {
            let answer = self.connected()?.piece(object, from, length.min(PIECE));
            let answer = answer.inspect_err(|_| self.talk = None)?;
            if answer.status == 206 {
                return Ok(answer.body);
            }
            match answer.meaning() {
                Meaning::Wait(_, after) => std::thread::sleep(Duration::from_secs(after)),
                Meaning::No(said) => bail!("{} ({})", said.text, said.reason),
                Meaning::Good(_) => bail!("the provisioner sends no pieces"),
            }
        }
    }
}
/// Fetches an image into the bank that is not in use, as long as it is worth to go on with the same order.
pub(super) fn fetch(image: &Image, keeper: &Keeper, mut reach: Reach) {
    let name = format!("{} {}", image.kind.word(), image.version);
    say(&format!("Fetching {name}, beside what runs."));
    let kept = keeper.banks().of(image.kind).kept.clone();
    let mut pause = AGAIN;
    let mut told = 0;
    for _ in 0..ROUNDS {
        let mut tell = |bytes: u64| {
            if bytes >= told + TOLD {
                told = bytes;
                say(&format!("{name}: {} of {} MB are here.", bytes / 1_000_000, image.size / 1_000_000));
            }
        };
        let done = bank::stage(image, &kept, &mut reach, &mut tell);
        let done =
            done.and_then(|()| keeper.change(|banks| banks.of_mut(image.kind).has_staged(image.clone())));
        match done {
            Ok(()) => return say(&format!("{name} is here. It is tried when the site says so.")),
            Err(error) => say(&format!("{name} is not here yet: {error:#}. Trying again.")),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST);
    }
}
