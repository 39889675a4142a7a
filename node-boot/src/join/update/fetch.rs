//! An image from the provisioner, into the bank that is not in use: in the background, again after a cut link.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use protocol::anchors::Trust;
use protocol::bytes::Digest;
use protocol::clock::{self, Time};
use protocol::crypto::Signer;
use protocol::image::Image;
use protocol::messages::PIECE;
use protocol::refusal::Refusal;

use crate::console::why_wait;
use crate::os::bank::Source;
use crate::site::http::{Answer, Conversation, Meaning};
use crate::site::tls;
use crate::stop::pause;

/// After a cut link, at first and at most.
const AGAIN: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_mins(1);
/// So often an image is tried to be fetched; then the provisioner is asked anew, which may want another one by now.
const ROUNDS: u32 = 8;
/// So often a piece is asked for where the provisioner says that we ask too fast: on a good cable we do.
const SLOWER: u32 = 3;
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
    /// Whether what is fetched over it is wanted no more.
    pub dropped: Arc<AtomicBool>,
    talk: Option<Conversation>,
}

impl Reach {
    /// Not connected yet.
    pub fn new(address: SocketAddr, own: (Arc<dyn Signer>, Vec<u8>), trust: (Trust, Time)) -> Self {
        Self { address, own, trust, dropped: Arc::default(), talk: None }
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
        for _ in 0..SLOWER {
            ensure!(!self.dropped.load(Ordering::Relaxed), "it is wanted no more");
            let answer = self.connected()?.piece(object, from, length.min(PIECE));
            match piece(answer.inspect_err(|_| self.talk = None)?)? {
                Piece::Here(bytes) => return Ok(bytes),
                Piece::Slower(time) => pause(time)?,
            }
        }
        bail!("the provisioner has no time for it")
    }
}

/// What comes of asking for a piece.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Here(Vec<u8>),
    /// We asked too fast: not before so long.
    Slower(Duration),
}

/// Whatever else the provisioner has to wait for is an error here: who counts and tells the rounds waits.
fn piece(answer: Answer) -> Result<Piece> {
    if answer.status == 206 {
        return Ok(Piece::Here(answer.body));
    }
    match answer.meaning() {
        Meaning::Wait(said, after) if said.reason == Refusal::SlowDown.code() => {
            Ok(Piece::Slower(Duration::from_secs(after)))
        }
        Meaning::Wait(said, _) => bail!("{}", why_wait(&said.reason).trim_end_matches('.')),
        Meaning::No(said) => bail!("{} ({})", said.text, said.reason),
        Meaning::Good(_) => bail!("the provisioner sends no pieces"),
    }
}

/// Goes on with the image until all of it is in the bank; tells how many bytes are.
type Stage<'a> = dyn FnMut(&mut dyn FnMut(u64)) -> Result<()> + 'a;

/// What a fetch uses of the machine.
pub(super) struct Means<'a> {
    /// Puts the image into the bank.
    pub stage: &'a mut Stage<'a>,
    /// Whether another image was ordered in its place.
    pub is_dropped: &'a dyn Fn() -> bool,
    /// Waits; an error once this program is to end.
    pub pause: &'a mut dyn FnMut(Duration) -> Result<()>,
    /// Says a sentence.
    pub say: &'a dyn Fn(&str),
}

/// Fetches an image into the bank that is not in use, as long as it is worth to go on with the same order.
pub(super) fn fetch(image: &Image, means: &mut Means<'_>) {
    let (name, say) = (format!("{} {}", image.kind.word(), image.version), means.say);
    say(&format!("Fetching {name}, beside what runs."));
    let (mut pause, mut told) = (AGAIN, 0);
    let mut tell = |bytes: u64| {
        if bytes >= told + TOLD {
            told = bytes;
            say(&format!("{name}: {} of {} MB are here.", bytes / 1_000_000, image.size / 1_000_000));
        }
    };
    for left in (0..ROUNDS).rev() {
        let Err(error) = (means.stage)(&mut tell) else {
            return say(&format!("{name} is here. It is tried when the site says so."));
        };
        if (means.is_dropped)() {
            return say(&format!("{name} is not fetched any more: another one is wanted."));
        }
        let missing = format!("{name} is not here yet: {error:#}.");
        if left == 0 {
            return say(&format!("{missing} It is not fetched now; the provisioner is asked anew."));
        }
        say(&format!("{missing} Trying again."));
        if (means.pause)(pause).is_err() {
            return;
        }
        pause = (pause * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use protocol::image::Kind;

    use super::*;
    use crate::os::bank::built;

    /// What a fetch says and how long it waits, where the rounds end so; `dropped` holds from that round on.
    fn fetched(mut round: impl FnMut(u32) -> Result<()>, dropped: u32) -> (Vec<String>, Vec<u64>) {
        let image = Image { version: "0.2.0".into(), kind: Kind::Os, ..built(1).0 };
        let (said, mut waited, rounds) = (RefCell::new(vec![]), vec![], RefCell::new(0));
        fetch(
            &image,
            &mut Means {
                stage: &mut |told| {
                    *rounds.borrow_mut() += 1;
                    told(TOLD - 1);
                    round(*rounds.borrow())
                },
                is_dropped: &|| *rounds.borrow() >= dropped,
                pause: &mut |time| {
                    waited.push(time.as_secs());
                    Ok(())
                },
                say: &|sentence| said.borrow_mut().push(sentence.to_owned()),
            },
        );
        (said.into_inner(), waited)
    }

    #[test]
    fn an_image_that_does_not_come_is_tried_for_some_rounds_and_the_last_one_says_that_it_is_not_fetched_now()
    {
        let (said, waited) = fetched(|_| bail!("the cable is out"), u32::MAX);
        assert_eq!(said[0], "Fetching os 0.2.0, beside what runs.");
        assert_eq!(said[1..8], vec!["os 0.2.0 is not here yet: the cable is out. Trying again."; 7]);
        assert_eq!(
            said[8..],
            [
                "os 0.2.0 is not here yet: the cable is out. It is not fetched now; the provisioner is asked anew."
            ]
        );
        assert_eq!(waited, [2, 4, 8, 16, 32, 60, 60], "nobody waits after the last round");
    }

    #[test]
    fn an_image_that_comes_after_a_cut_is_there_and_one_that_is_wanted_no_more_is_left_at_once() {
        let cut = |round: u32| if round < 3 { bail!("the cable is out") } else { Ok(()) };
        let (said, waited) = fetched(cut, u32::MAX);
        assert_eq!(said.last().unwrap(), "os 0.2.0 is here. It is tried when the site says so.");
        assert_eq!(waited, [2, 4]);
        let (said, waited) = fetched(cut, 2);
        assert_eq!(said.last().unwrap(), "os 0.2.0 is not fetched any more: another one is wanted.");
        assert_eq!(waited, [2]);
    }

    #[test]
    fn a_site_that_cannot_read_an_image_is_not_asked_for_ever_and_one_that_is_asked_too_fast_is_asked_again()
    {
        let answer = |status, reason: &str| {
            let body = format!(r#"{{"reason":"{reason}","text":"x"}}"#).into_bytes();
            piece(Answer { status, retry_after: 10, body })
        };
        assert_eq!(answer(429, "slow-down").unwrap(), Piece::Slower(Duration::from_secs(10)));
        let said = answer(500, "internal").unwrap_err().to_string();
        assert_eq!(said, "The provisioner could not do this now; it is asked again");
        for (status, reason) in
            [(202, "cluster-away"), (503, "cluster-unsafe"), (404, "not-found"), (200, "")]
        {
            answer(status, reason).unwrap_err();
        }
        assert_eq!(answer(206, "").unwrap(), Piece::Here(br#"{"reason":"","text":"x"}"#.to_vec()));
    }
}
