//! An interface that asks for an address by DHCP.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::dhcp::Lease;
use super::dhcp::client::Client;
use super::dhcp::wire::Wire;
use super::ports::Port;
use crate::console::say;

/// How long after a question answers are looked for often.
const SOON: Duration = Duration::from_secs(3);

/// An interface that asks.
pub struct Card {
    name: String,
    client: Client,
    wire: Option<Wire>,
    asked: Option<Instant>,
    had: bool,
    is_new: bool,
}

impl Card {
    /// One that asks at once.
    pub fn new(link: &Port, now: Instant) -> Self {
        let client = Client::new(link.mac, now);
        Self { name: link.name.clone(), client, wire: None, asked: None, had: false, is_new: true }
    }

    /// Its cable was out.
    pub fn replugged(&mut self, now: Instant) {
        self.client.replugged(now);
    }

    /// What it was given, and for how much longer.
    pub fn lease(&self, now: Instant) -> Option<(&Lease, Option<Duration>)> {
        self.client.lease(now)
    }

    /// Whether nobody has given it anything yet.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether nobody has answered for so long.
    pub fn asks_in_vain(&self, time: Duration, now: Instant) -> bool {
        self.client.in_vain(now).is_some_and(|vain| vain > time)
    }

    /// Whether an answer may come in a moment.
    pub fn awaits(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < SOON)
    }

    /// Hears and asks; what is wrong.
    pub fn tick(&mut self, index: u32, now: Instant) -> Option<String> {
        let done = self.talk(index, now).err().map(|error| format!("No DHCP on {}: {error:#}", self.name));
        let lease = self.client.lease(now).map(|(lease, _)| lease);
        if let Some(lease) = lease.filter(|_| !self.had) {
            say(&format!("Got the address {} from {} ({}).", lease.own, lease.by, self.name));
        } else if lease.is_none() && self.had {
            say(&format!("The address of {} is over: no DHCP server gives more time.", self.name));
        }
        self.had = lease.is_some();
        self.is_new &= !self.had;
        done
    }

    fn talk(&mut self, index: u32, now: Instant) -> Result<()> {
        if !self.client.listens(now) {
            self.wire = None;
            return Ok(());
        }
        let wire = match &self.wire {
            Some(wire) => wire,
            None => self.wire.insert(Wire::open(index, &self.name)?),
        };
        for answer in wire.hear() {
            self.client.hear(answer, now);
        }
        if let Some((question, to)) = self.client.tick(now) {
            self.asked = Some(now);
            wire.send(&question, to).context("asking")?;
        }
        Ok(())
    }
}
