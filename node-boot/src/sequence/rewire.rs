//! The network that headquarters wants: tried with the provisioner and the API servers as witnesses, kept or taken back.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Awake;
use crate::console::say;
use crate::site::enroll::Proved;
use crate::stop::pause;

/// How long an API server that answered before is waited for, and one of them at a time.
const API: Duration = Duration::from_secs(10);
const ONE: Duration = Duration::from_secs(2);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);

impl Awake {
    /// The network becomes what the site says, if the provisioner can be reached so, and the cluster no less than before;
    /// else it stays what it was. `api` is where API servers are.
    pub(super) fn rewire(&mut self, proved: &mut Proved, api: &[String]) -> Result<()> {
        let Some(network) = self.network.clone() else { return Ok(()) };
        let changes = match network.would_try() {
            Ok(changes) => changes,
            Err(error) => {
                say(&format!("The network stays as it is: {error:#}."));
                return network.reached(proved.talk().address()?);
            }
        };
        // A link-local address leads to the provisioner whatever is wrong with all others.
        let answered = changes && answers(api);
        if network.offer()? {
            // Reached anew: what was open before says nothing.
            *proved = self.enroll()?;
            network.grant(API * 2);
            if answered && !answers_by(api, Instant::now() + API)? {
                network.take_back("no API server answers any more")?;
                *proved = self.enroll()?;
            }
        }
        network.reached(proved.talk().address()?)
    }
}

/// Whether an API server answers in time.
fn answers_by(api: &[String], until: Instant) -> Result<bool> {
    while !answers(api) {
        if Instant::now() >= until {
            return Ok(false);
        }
        pause(PAUSE)?;
    }
    Ok(true)
}

fn answers(api: &[String]) -> bool {
    let addresses = api.iter().filter_map(|server| server.parse().ok());
    addresses.into_iter().any(|server| TcpStream::connect_timeout(&server, ONE).is_ok())
}
