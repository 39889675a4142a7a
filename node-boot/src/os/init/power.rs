//! The end of a run: the power button, Ctrl-Alt-Del, or the agent asks; Pods' programs end, disks are in order, then the
//! machine is off or starts anew. And the watchdog, which starts it anew when this program hangs.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use rustix::system::{RebootCommand, reboot};

use crate::console::{ends, say};

/// How long the agent, and then everything else, may take to end.
const AGENT: Duration = Duration::from_secs(30);
const OTHERS: Duration = Duration::from_secs(3);
/// Between two signs of life to the watchdog, which waits for a minute by itself.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Key of the power button (`linux/input-event-codes.h`), and how long an event is.
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const EVENT: usize = 24;

/// What the machine is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Start anew.
    Restart = 1,
    /// Be off.
    Off = 2,
}

static ASKED: AtomicU8 = AtomicU8::new(0);

/// What was asked for so far.
pub fn asked() -> Option<Ask> {
    match ASKED.load(Ordering::Relaxed) {
        1 => Some(Ask::Restart),
        2 => Some(Ask::Off),
        _ => None,
    }
}

extern "C" fn by_signal(signal: libc::c_int) {
    let ask = if signal == libc::SIGINT { Ask::Restart } else { Ask::Off };
    ASKED.store(ask as u8, Ordering::Relaxed);
}

/// From now on it can be asked: SIGINT (Ctrl-Alt-Del) for a new start, SIGTERM and the power button for the end.
pub fn listen() {
    let _ = reboot(RebootCommand::CadOff);
    let handler = by_signal as *const () as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which a signal handler may do.
        #[allow(unsafe_code)]
        unsafe {
            libc::signal(signal, handler);
        }
    }
    for entry in fs::read_dir("/dev/input").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("event")
            && let Ok(file) = File::open(entry.path())
        {
            // A machine without threads has no button.
            let _ = std::thread::Builder::new().name("button".into()).spawn(move || watch(file));
        }
    }
}

/// Reads what keys say, for as long as the device is there.
fn watch(mut device: File) {
    let mut event = [0; EVENT];
    while device.read_exact(&mut event).is_ok() {
        if is_power(&event) {
            ASKED.store(Ask::Off as u8, Ordering::Relaxed);
        }
    }
}

/// Whether an event (`struct input_event`) is the power button going down.
fn is_power(event: &[u8; EVENT]) -> bool {
    let short = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    (short(16), short(18), event[20]) == (EV_KEY, KEY_POWER, 1)
}

/// Asks PID 1, from the agent, for a new start; it ends this program too.
pub fn ask_for_restart() -> rustix::io::Result<()> {
    kill_process(Pid::INIT, Signal::INT)
}

/// The same for being switched off.
pub fn ask_for_end() -> rustix::io::Result<()> {
    kill_process(Pid::INIT, Signal::TERM)
}

/// The hardware's watchdog, where there is one.
pub struct Watchdog {
    device: Option<File>,
    next: Instant,
}

impl Watchdog {
    /// Starts it: from now on the machine starts anew when nothing is heard of this program.
    pub fn start() -> Self {
        Self { device: File::options().write(true).open("/dev/watchdog").ok(), next: Instant::now() }
    }

    /// This program lives.
    pub fn alive(&mut self) {
        if let Some(device) = self.device.as_mut().filter(|_| Instant::now() >= self.next) {
            let _ = device.write_all(&[0]);
            self.next = Instant::now() + SIGN_OF_LIFE;
        }
    }
}

/// Ends everything in order, the agent first where it runs, and then the run.
pub fn end(how: Ask, agent: Option<Pid>, watchdog: &mut Watchdog) -> ! {
    match how {
        Ask::Restart => say("Starting anew."),
        Ask::Off => ends("Switching off."),
    }
    if let Some(agent) = agent {
        let _ = kill_process(agent, Signal::TERM);
        until_gone(AGENT, watchdog, |pid| pid == Some(agent));
    }
    for signal in [Signal::TERM, Signal::KILL] {
        all(signal);
        until_gone(OTHERS, watchdog, |pid| pid.is_none());
    }
    rustix::fs::sync();
    // What is still in use is written all the same; its journal does the rest.
    let _ = unmount("/var", UnmountFlags::DETACH);
    rustix::fs::sync();
    let _ = reboot(if how == Ask::Off { RebootCommand::PowerOff } else { RebootCommand::Restart });
    std::process::exit(0)
}

/// Sends a signal to every process but this one.
fn all(signal: Signal) {
    // SAFETY: it only sends signals; -1 is everybody but PID 1 (kill(2)).
    #[allow(unsafe_code)]
    unsafe {
        libc::kill(-1, signal.as_raw());
    }
}

/// Buries who dies until `is_last` says so of one, or of nobody being left.
fn until_gone(patience: Duration, watchdog: &mut Watchdog, is_last: impl Fn(Option<Pid>) -> bool) {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        watchdog.alive();
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, _))) if is_last(Some(pid)) => return,
            Ok(Some(_)) => {}
            Err(_) if is_last(None) => return,
            Ok(None) | Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_button_and_no_other_key_is_heard() {
        let event = |kind: u16, code: u16, value: u8| {
            let mut event = [0; EVENT];
            event[16..18].copy_from_slice(&kind.to_ne_bytes());
            event[18..20].copy_from_slice(&code.to_ne_bytes());
            event[20] = value;
            is_power(&event)
        };
        assert!(event(EV_KEY, KEY_POWER, 1));
        assert!(!event(EV_KEY, KEY_POWER, 0), "it comes up again");
        assert!(!event(EV_KEY, 30, 1) && !event(0, KEY_POWER, 1));
    }
}
