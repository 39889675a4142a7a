//! Interfaces that ask for an address or for name servers by DHCPv6 where their routers say so.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::super::ports::Port;
use super::super::range::Range;
use super::super::routers::{Calls, Routers, named};
use super::super::wanted::Wanted;
use super::Own;
use super::client::Client;
use super::wire::Wire;
use crate::console::say;

/// The UUID that the machine's maker gave it.
const UUID: &str = "/sys/class/dmi/id/product_uuid";
/// How long after a question answers are looked for often.
const SOON: Duration = Duration::from_secs(3);

/// All interfaces that may ask, by their numbers.
#[derive(Default)]
pub struct Cards(BTreeMap<u32, Card>);

/// An interface that may ask.
struct Card {
    name: String,
    client: Client,
    wire: Option<Wire>,
    asked: Option<Instant>,
    had: Option<Ipv6Addr>,
    is_new: bool,
}

impl Cards {
    /// Hears and asks on these interfaces, of which the cables of some were out; what is wrong. Where routers are not listened
    /// to, no server is.
    pub fn tick(&mut self, links: &[&Port], back: &[u32], routers: &Routers, now: Instant) -> Vec<String> {
        let heard = || links.iter().filter(|link| routers.call(link.index).is_some());
        self.0.retain(|index, _| heard().any(|link| link.index == *index));
        for link in heard() {
            self.0.entry(link.index).or_insert_with(|| Card::new(link, now));
        }
        let one = |(index, card): (&u32, &mut Card)| {
            if back.contains(index) {
                card.client.replugged(now);
            }
            card.tick(*index, routers.call(*index)?, now)
        };
        self.0.iter_mut().filter_map(one).collect()
    }

    /// Whether an answer may come in a moment.
    pub fn awaits(&self, now: Instant) -> bool {
        let asked = |card: &Card| card.asked.is_some_and(|asked| now.saturating_duration_since(asked) < SOON);
        self.0.values().any(asked)
    }

    /// Whether one has an address.
    pub fn has_any(&self, now: Instant) -> bool {
        self.0.values().any(|card| card.client.lease(now).is_some())
    }

    /// Adds what was given to what is to be, but for addresses of which this is so. Who is a neighbour, and who leads
    /// elsewhere, the routers say.
    pub fn give(&self, wanted: &mut Wanted, but: impl Fn(u32, Range) -> bool, now: Instant) {
        for (index, card) in &self.0 {
            if let Some((gift, times)) = card.client.lease(now) {
                let own = Range { ip: gift.lease.own.into(), prefix: 128 };
                if !but(*index, own) {
                    wanted.give(*index, own, times);
                }
            } else if card.is_new {
                wanted.unasked6.push(*index);
            }
        }
    }

    /// Name servers as the resolver's file has them; `name` is an interface's.
    pub fn servers(&self, name: impl Fn(u32) -> Option<String>) -> Vec<String> {
        let all =
            self.0.iter().flat_map(|(link, card)| card.client.names().dns.iter().map(|ip| (*link, *ip)));
        all.filter_map(|(link, ip)| named(ip, link, &name)).collect()
    }

    /// Search domains.
    pub fn domains(&self) -> Vec<String> {
        self.0.values().flat_map(|card| card.client.names().search.iter().cloned()).collect()
    }
}

impl Card {
    fn new(link: &Port, now: Instant) -> Self {
        let uuid = fs::read_to_string(UUID).unwrap_or_default();
        let client = Client::new(Own::new(&uuid, link.mac), now);
        Self { name: link.name.clone(), client, wire: None, asked: None, had: None, is_new: true }
    }

    fn tick(&mut self, index: u32, calls: Calls, now: Instant) -> Option<String> {
        let name = &self.name;
        let done = talk(&mut self.client, &mut self.wire, (index, name), calls, now);
        let wrong = match done {
            Ok(asks) => {
                self.asked = Some(now).filter(|_| asks).or(self.asked);
                None
            }
            Err(error) => Some(format!("No DHCPv6 on {name}: {error:#}")),
        };
        let gift = self.client.lease(now).map(|(gift, _)| gift);
        let has = gift.map(|gift| gift.lease.own);
        if let Some(gift) = gift.filter(|_| has != self.had) {
            say(&format!("Got the address {} by DHCPv6 from {} ({name}).", gift.lease.own, gift.from));
        } else if has.is_none() && self.had.is_some() {
            say(&format!("The address of {name} is over: no DHCPv6 server gives more time."));
        }
        self.had = has;
        self.is_new &= has.is_none();
        wrong
    }
}

/// Hears and asks; whether anything was asked.
fn talk(
    client: &mut Client,
    wire: &mut Option<Wire>,
    (index, name): (u32, &str),
    calls: Calls,
    now: Instant,
) -> Result<bool> {
    if let Some(wire) = wire {
        for (answer, from) in wire.hear() {
            client.hear(answer, from, now);
        }
    }
    let questions = client.tick(calls, now);
    if !client.listens() {
        *wire = None;
        return Ok(false);
    }
    let wire = match wire {
        Some(wire) => wire,
        None => wire.insert(Wire::open(index, name)?),
    };
    for question in &questions {
        wire.send(question).context("asking")?;
    }
    Ok(!questions.is_empty())
}
