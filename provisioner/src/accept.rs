//! Accepting connections for as long as the program runs, whatever becomes of single ones.

use std::future::Future;
use std::io::Result;
use std::time::Duration;

/// After a connection that could not be accepted: out of file descriptors, the next one may fit.
const PAUSE: Duration = Duration::from_millis(20);

/// The next connection that `accept` gives. An error ends no server and keeps none busy.
pub(crate) async fn next<T, F: Future<Output = Result<T>>>(accept: impl Fn() -> F) -> T {
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(error) => tracing::debug!(%error, "a connection could not be accepted"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Error;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn who_comes_when_no_file_descriptor_is_left_waits_and_ends_nothing() {
        let (tries, start) = (Cell::new(0), Instant::now());
        let accepted = next(async || {
            tries.set(tries.get() + 1);
            let none_left = rustix::io::Errno::MFILE.raw_os_error();
            if tries.get() < 4 { Err(Error::from_raw_os_error(none_left)) } else { Ok("a stream") }
        });
        assert_eq!(accepted.await, "a stream");
        assert!(start.elapsed() >= 3 * PAUSE, "and it does not spin");
    }
}
