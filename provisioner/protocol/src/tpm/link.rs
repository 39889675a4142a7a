//! One conversation with a TPM: starts it, repeats what it asks to repeat, and remembers which objects are ours.

use std::thread::sleep;
use std::time::Duration;

use zeroize::Zeroizing;

use super::command::{Answer, Command, Verb, read_answer};
use super::error::Error;
use super::transport::Transport;
use super::wire::Reader;

/// How often a command is repeated; with the doubling waits below, for about eight seconds.
const TRIES: u32 = 20;
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// Handles a TPM lists at once; there are never more loaded.
const HANDLES_AT_ONCE: u32 = 254;

/// Handles of loaded keys, and of loaded sessions.
const LOADED: [u32; 2] = [0x8000_0000, 0x0200_0000];
const PERSISTENT: u32 = 0x81;

pub(super) struct Link {
    tpm: String,
    transport: Box<dyn Transport>,
    /// Keys and sessions that we loaded and have not flushed.
    ours: Vec<u32>,
}

impl Link {
    pub fn new(tpm: String, transport: Box<dyn Transport>) -> Self {
        Self { tpm, transport, ours: Vec::new() }
    }

    pub fn keeps_objects(&self) -> bool {
        self.transport.keeps_objects()
    }

    /// Gives a command until the TPM obeys or refuses it. An object that it makes is ours until flushed.
    pub fn call(&mut self, command: &Command<'_>) -> Result<Answer, Error> {
        let verb = command.verb;
        let mut wait = Duration::ZERO;
        for _ in 0..TRIES {
            let code = match self.once(command)? {
                Ok(answer) => {
                    self.ours.extend((answer.handle != 0).then_some(answer.handle));
                    return Ok(answer);
                }
                Err(code) => code,
            };
            match code {
                // TPM_RC_INITIALIZE: nobody has started it since power-on.
                0x100 => self.start()?,
                // TPM_RC_RETRY, _YIELDED, _TESTING: at once at first, as _RETRY asks for.
                0x922 | 0x908 | 0x90a => {
                    sleep(wait);
                    wait = (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
                }
                // TPM_RC_OBJECT_MEMORY, _SESSION_MEMORY: left behind by a program that was killed.
                0x902 | 0x903 if !self.keeps_objects() && self.sweep()? => {}
                code => return Err(Error::Refused { command: verb.name(), code }),
            }
        }
        Err(Error::Refused { command: verb.name(), code: 0x922 })
    }

    fn once(&mut self, command: &Command<'_>) -> Result<Result<Answer, u32>, Error> {
        let verb = command.verb;
        let silent = |source| Error::Silent { tpm: self.tpm.clone(), command: verb.name(), source };
        let bytes = self.transport.transact(&command.to_bytes()).map(Zeroizing::new).map_err(silent)?;
        read_answer(verb, &bytes).ok_or(Error::Garbled(verb.name()))
    }

    fn start(&mut self) -> Result<(), Error> {
        // TPM_SU_CLEAR.
        let startup = Command { verb: Verb::Startup, handles: &[], sessions: &[], parameters: &[&[0, 0]] };
        self.once(&startup)?.map_err(|code| Error::Refused { command: Verb::Startup.name(), code })?;
        Ok(())
    }

    /// Flushes keys and sessions that are not ours; whether there were any. Only where no resource manager is: then
    /// our connection is the only one, and nobody else can be using them.
    fn sweep(&mut self) -> Result<bool, Error> {
        let mut swept = false;
        for first in LOADED {
            for handle in self.handles(first)? {
                if !self.ours.contains(&handle) {
                    self.flush(handle);
                    swept = true;
                }
            }
        }
        Ok(swept)
    }

    /// The handles in use, of the kind of `first` and not below it.
    pub fn handles(&mut self, first: u32) -> Result<Vec<u32>, Error> {
        // TPM_CAP_HANDLES.
        let parameters = [1, first, HANDLES_AT_ONCE].map(u32::to_be_bytes);
        let parameters = parameters.each_ref().map(<[u8; 4]>::as_slice);
        let verb = Verb::GetCapability;
        let command = Command { verb, handles: &[], sessions: &[], parameters: &parameters };
        let answer = self.call(&command)?;
        answer.read(read_handles).ok_or(Error::Garbled(verb.name()))
    }

    /// Makes room: persistent objects stay. A TPM that does not flush is told again when its room is needed.
    pub fn flush(&mut self, handle: u32) {
        self.ours.retain(|ours| *ours != handle);
        if handle >> 24 != PERSISTENT {
            let parameters: &[&[u8]] = &[&handle.to_be_bytes()];
            let _ = self.once(&Command { verb: Verb::FlushContext, handles: &[], sessions: &[], parameters });
        }
    }

    /// Notes that the TPM flushed a session by itself, as it does after its last use.
    pub fn used_up(&mut self, session: u32) {
        self.ours.retain(|ours| *ours != session);
    }

    /// Flushes whatever is ours and lets others use the TPM.
    pub fn rest(&mut self) {
        for handle in std::mem::take(&mut self.ours) {
            self.flush(handle);
        }
        self.transport.rest();
    }
}

fn read_handles(reader: &mut Reader<'_>) -> Option<Vec<u32>> {
    let (_more, _capability, count) = (reader.u8()?, reader.u32()?, reader.u32()?);
    // A count beyond the answer ends at its end.
    (0..count).map(|_| reader.u32()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::io;
    use std::sync::{Arc, Mutex};

    struct Script {
        answers: VecDeque<u32>,
        heard: Arc<Mutex<Vec<u32>>>,
    }

    impl Transport for Script {
        fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
            self.heard.lock().unwrap().push(u32::from_be_bytes(command[6..10].try_into().unwrap()));
            let code = self.answers.pop_front().ok_or(io::ErrorKind::UnexpectedEof)?;
            let body: &[u8] = if code == 0 { &[0, 0] } else { &[] };
            let len = u32::try_from(10 + body.len()).unwrap();
            Ok([&[0x80, 1], &len.to_be_bytes()[..], &code.to_be_bytes(), body].concat())
        }
    }

    fn ask(answers: &[u32]) -> (Result<Answer, Error>, Vec<u32>) {
        let heard = Arc::default();
        let script = Script { answers: answers.iter().copied().collect(), heard: Arc::clone(&heard) };
        let mut link = Link::new("script".into(), Box::new(script));
        let answer =
            link.call(&Command { verb: Verb::ReadPublic, handles: &[1], sessions: &[], parameters: &[] });
        let heard = heard.lock().unwrap().clone();
        (answer, heard)
    }

    #[test]
    fn busy_answers_are_asked_again() {
        let (answer, heard) = ask(&[0x922, 0x908, 0x90a, 0]);
        assert!(answer.is_ok());
        assert_eq!(heard, [0x173; 4]);
    }

    #[test]
    fn a_tpm_that_nobody_started_is_started() {
        let (answer, heard) = ask(&[0x100, 0, 0]);
        assert!(answer.is_ok());
        assert_eq!(heard, [0x173, 0x144, 0x173]);
    }

    #[test]
    fn a_refusal_is_not_repeated() {
        let (answer, heard) = ask(&[0x18b]);
        assert!(matches!(answer, Err(Error::Refused { command: "TPM2_ReadPublic", code: 0x18b })));
        assert_eq!(heard.len(), 1);
    }

    #[test]
    fn silence_names_the_command() {
        assert!(matches!(ask(&[]).0, Err(Error::Silent { command: "TPM2_ReadPublic", .. })));
    }
}
