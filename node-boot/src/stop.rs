//! Asked to end: the flag that a signal sets, and the pause that ends with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

static STOPPING: AtomicBool = AtomicBool::new(false);

/// Whether somebody asked the program to end.
pub fn stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

/// Waits; an error, which ends whatever waits, once somebody asks the program to end.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        ensure!(!stopping(), "asked to end");
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(200)));
    }
}

extern "C" fn stop(_: libc::c_int) {
    STOPPING.store(true, Ordering::Relaxed);
}

/// From here on the program ends in order where a signal asks it to: whatever waits is told.
pub fn end_in_order() {
    let handler = stop as *const () as libc::sighandler_t;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler only stores to an atomic, which a signal handler may do.
        #[allow(unsafe_code)]
        unsafe {
            libc::signal(signal, handler);
        }
    }
}
