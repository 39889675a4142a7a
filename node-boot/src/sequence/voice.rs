//! An approval by telephone: a voucher is looked for first, then a person at this machine is asked.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use protocol::anchors::Trust;
use protocol::bytes::Digest;
use protocol::refusal::Refused;

use super::Awake;
use super::enroll::Waited;
use super::reach::{LOOK, Proof, REFUSED_FOR};
use crate::console::say;
use crate::site::enroll::Unproven;
use crate::site::voice::person::{DEADLINE, Person, Question, Way, show_on_stick};
use crate::site::voice::{Seen, Verdict, judge};

/// The code that this machine shows; kept, since a person may confirm it after a power cut.
const CODE: &str = "code.json";

/// An approval by voice, as far as it is.
pub(super) struct Voice {
    stick: Option<PathBuf>,
    question: Question,
    /// The CA of the site that the person is asked about, and since when a voucher is looked for.
    begun: Option<(Digest, Instant)>,
    /// The refusal that was told last.
    told: String,
}

impl Voice {
    /// Nothing has begun.
    pub(super) fn new(stick: Option<&Path>) -> Self {
        let question = Question::new(Way::of(stick));
        Self { stick: stick.map(Path::to_owned), question, begun: None, told: String::new() }
    }

    /// An answer counts for the site that it was asked about: another one begins anew.
    fn begin(&mut self, pin: Digest) -> Instant {
        match self.begun {
            Some((known, since)) if known == pin => since,
            _ => {
                *self = Self::new(self.stick.as_deref());
                self.begun.insert((pin, Instant::now())).1
            }
        }
    }
}

impl Awake {
    /// Keeps the code that is shown, and shows it on the stick too where there is one.
    pub(super) fn keep_code(&self, code: &str) -> Result<()> {
        if let Some(stick) = &self.voice.stick {
            show_on_stick(stick, code);
        }
        self.at.state.save(CODE, &code)
    }

    /// The code that was shown last.
    pub(super) fn code(&self) -> Result<Option<String>> {
        self.at.state.load(CODE)
    }

    /// The code has served.
    pub(super) fn forget_code(&self) -> Result<()> {
        self.at.state.remove(CODE)
    }

    /// One look at an approval by voice; it takes about as long as the provisioner said to wait.
    pub(super) fn by_voice(&mut self, mut site: Unproven, pause: Duration) -> Result<Waited> {
        let trust = self.trust()?;
        let (name, pin) = match site.site(&self.setup(&trust)) {
            Ok(found) => found,
            Err(refused) => {
                self.we_refuse(site.address()?, &refused);
                return Ok(Waited::Leave);
            }
        };
        let searched = self.voice.begin(pin.key_hash).elapsed();
        let verdict = judge(&self.seen(&trust, searched, false), self.at.patience);
        let round = if matches!(verdict, Verdict::Search) {
            say("Approved by telephone. First this machine looks for its voucher on the network.");
            Some(pause.min(self.at.patience.saturating_sub(searched)))
        } else {
            self.is_due().then_some(LOOK)
        };
        let offered = self.seen(&trust, searched, true);
        if let Some(round) = round
            && let Some(proved) = self.look_elsewhere(site.address()?, round, Proof::Any)?
        {
            if let Verdict::Refuse(refused) = judge(&offered, self.at.patience) {
                self.tell_refused(&mut site, &refused);
            }
            return Ok(Waited::Done(proved));
        }
        match verdict {
            Verdict::Search => {}
            Verdict::Ask => {
                let code = self.code()?;
                self.voice.question.ask(&name, code.as_deref(), DEADLINE);
                self.voice.question.wait(pause);
            }
            Verdict::GoOn(admission) => {
                let (proved, belief) = site.by_voice(&self.setup(&trust), admission)?;
                self.belief = belief;
                say(&format!("Confirmed: this machine joins site {name}."));
                return Ok(Waited::Done(proved));
            }
            Verdict::Refuse(refused) => return self.no_voice(site, &refused, pause),
        }
        Ok(Waited::Again(site))
    }

    fn seen(&self, trust: &Trust, searched: Duration, offered: bool) -> Seen {
        let (allowed, stored) = (trust.allow_phone(), self.belief.voucher.is_some());
        Seen { allowed, stored, offered, searched, person: self.voice.question.said() }
    }

    /// A voucher may still come, so the same provisioner is asked on; unless this machine belongs to another site.
    fn no_voice(&mut self, mut site: Unproven, refused: &Refused, pause: Duration) -> Result<Waited> {
        self.tell_refused(&mut site, refused);
        if refused.case == 'b' {
            self.avoid(site.address()?, REFUSED_FOR);
            return Ok(Waited::Leave);
        }
        if self.voice.question.said() == Person::Silent {
            // Somebody may come later: everything begins anew, the search for a voucher too.
            self.voice.begun = None;
        }
        crate::stop::pause(pause)?;
        Ok(Waited::Again(site))
    }

    /// Says why not, to the person and to the provisioner (M3), each time that the reason changes.
    fn tell_refused(&mut self, site: &mut Unproven, refused: &Refused) {
        let text = format!("{} ({}) {}", refused.refusal.sentence(), refused.id(), refused.detail);
        if self.voice.told != text {
            say(&text);
            // A connection that has ended shows at the next request.
            let _ = site.tell(Some(refused));
            self.voice.told = text;
        }
    }
}
