//! Waiting for the real world, always with a deadline and a reason.

use crate::{Error, Result};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Asks `probe` again and again until it has an answer, or says why it never had one.
///
/// `what` reads after "waiting for"; the probe's `Err` is the reason of the moment.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match probe() {
            Ok(answer) => return Ok(answer),
            Err(reason) => reason,
        };
        if start.elapsed() >= deadline {
            return Err(Error::Deadline { what: what.to_owned(), deadline, last });
        }
        sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_fails_names_the_last_reason() {
        let mut asked = 0;
        let error = until::<()>("the moon", Duration::ZERO, || {
            asked += 1;
            Err(format!("asked {asked} times"))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "the moon: not within 0ns; last seen: asked 1 times");
    }

    #[test]
    fn a_wait_ends_with_the_first_answer() {
        let mut asked = 0;
        let answer = until("three", Duration::from_secs(5), || {
            asked += 1;
            if asked == 3 { Ok(asked) } else { Err(String::new()) }
        });
        assert_eq!(answer.unwrap(), 3);
    }
}
