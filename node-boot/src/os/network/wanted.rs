//! What addresses, routes and resolver are to be, out of the plan and what DHCP servers gave; and what is done about the
//! difference.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;

use super::dhcp::Lease;
use super::netlink::{self, Address, Route};
use super::plan::Plan;
use super::range::Range;

/// Weight of ways that a DHCP server told: those of the plan go first, and among cards the first one.
const TOLD: u32 = 1024;
/// Weight of the plan's own ways: less than of those; not none, which IPv6 takes for another one.
const PLANNED: u32 = 100;
/// The kernel counts whole seconds: so far apart are two times that are one.
const SAME: Duration = Duration::from_secs(2);

/// An address that a server gave to an interface, and for how long; none for ever.
pub type Given<'a> = (u32, &'a Lease, Option<Duration>);

/// What the network is to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Addresses of interfaces.
    pub addresses: Vec<Address>,
    /// Ways.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Interfaces on which an earlier run of this program may have got an address that nobody has been asked about yet.
    pub unasked: Vec<u32>,
    /// The same of IPv6.
    pub unasked6: Vec<u32>,
}

impl Wanted {
    /// Out of the plan, for the interface that has its cable, and what was given. Where the plan is `kept`, since it has led to
    /// the site, nothing that was given on another cable leads elsewhere what is the plan's.
    pub fn of(plan: &Plan, place: Option<u32>, given: &[Given<'_>], kept: bool) -> Self {
        let dns = plan.dns.iter().map(ToString::to_string).collect();
        let mut wanted = Self { dns, search: plan.search.clone(), ..Self::default() };
        let leases = || given.iter().map(|(_, lease, _)| lease);
        let named = leases().flat_map(|lease| lease.dns.iter().map(ToString::to_string)).collect();
        wanted.hear(named, leases().flat_map(|lease| lease.search.iter().cloned()).collect());
        if let Some((link, own)) = place.zip(plan.address) {
            wanted.addresses.push(Address {
                link,
                own,
                lasts: None,
                prefers: None,
                metric: 0,
                is_ours: true,
            });
        }
        for &(link, lease, lasts) in given {
            let metric = TOLD + link;
            let is_other = kept && place != Some(link);
            if kept && leads_away(plan, place, link, lease.own) {
                continue;
            }
            wanted.give(link, lease.own, [lasts; 2]);
            for &(to, via) in &lease.routes {
                let all = plan.gateway.map(everywhere);
                if is_other && plan.ranges().chain(all).any(|range| is_within(to, range)) {
                    continue;
                }
                wanted.routes.push(Route { to, via, link: Some(link), metric });
            }
        }
        if let Some(via) = plan.gateway {
            wanted.routes.push(Route { to: everywhere(via), via: Some(via), link: place, metric: PLANNED });
        }
        for way in &plan.routes {
            let link = wanted.cable_of(way.via);
            wanted.routes.push(Route { to: way.to, via: Some(way.via), link, metric: PLANNED });
        }
        wanted
    }

    /// An address that a server gave to an interface: how long it is preferred, and good.
    pub fn give(&mut self, link: u32, own: Range, [prefers, lasts]: [Option<Duration>; 2]) {
        self.addresses.push(Address { link, own, lasts, prefers, metric: TOLD + link, is_ours: true });
    }

    /// Others' name servers and search domains count where nobody named any before: headquarters, then DHCP servers, then
    /// routers.
    pub fn hear(&mut self, dns: Vec<String>, search: Vec<String>) {
        if self.dns.is_empty() {
            self.dns = dns;
        }
        if self.search.is_empty() {
            self.search = search;
        }
    }

    /// The resolver's file (`resolv.conf(5)`).
    pub fn resolver(&self) -> String {
        let mut lines: Vec<_> = self.dns.iter().map(|server| format!("nameserver {server}")).collect();
        if !self.search.is_empty() {
            lines.push(format!("search {}", self.search.join(" ")));
        }
        lines.join("\n") + "\n"
    }

    /// The interface on whose cable somebody is, by our addresses; none where only the kernel may know.
    fn cable_of(&self, neighbour: IpAddr) -> Option<u32> {
        self.addresses.iter().find(|address| address.own.contains(neighbour)).map(|address| address.link)
    }

    /// Makes it so; what cannot be. A way that leads nowhere, since its machine is on no cable of ours, keeps none of the
    /// others from being there.
    pub fn make_so(&self) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        let there = netlink::addresses()?;
        let stays = |link: u32, metric: u32, unasked: &[u32]| metric >= TOLD && unasked.contains(&link);
        let is_over = |old: &&Address| {
            let unasked = if old.own.ip.is_ipv4() { &self.unasked } else { &self.unasked6 };
            let is_wanted = self.addresses.iter().any(|new| is_one(old, new));
            old.is_ours && !stays(old.link, old.metric, unasked) && !is_wanted
        };
        for old in there.iter().filter(is_over) {
            netlink::remove_address(old)?;
        }
        for new in &self.addresses {
            if !there.iter().any(|old| is_one(old, new) && lasts_as_long(old, new))
                && let Err(error) = netlink::add_address(new)
            {
                wrong.push(format!("The address {} cannot be had: {error:#}", new.own));
            }
        }
        // The kernel has taken those away that went over an address that is gone.
        let there = netlink::routes()?;
        let is_route =
            |old: &Route, new: &Route| Route { link: new.link.and(old.link), ..old.clone() } == *new;
        let is_over = |old: &&Route| {
            let stays = old.link.is_some_and(|link| stays(link, old.metric, &self.unasked));
            !stays && !self.routes.iter().any(|new| is_route(old, new))
        };
        for old in there.iter().filter(is_over) {
            netlink::remove_route(old)?;
        }
        for new in &self.routes {
            if !there.iter().any(|old| is_route(old, new))
                && let Err(error) = netlink::add_route(new)
            {
                wrong.push(format!("There is no way to {}: {error:#}", new.to));
            }
        }
        Ok(wrong)
    }
}

/// Every address of this one's kind.
fn everywhere(ip: IpAddr) -> Range {
    let ip = if ip.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    Range { ip, prefix: 0 }
}

/// Whether an address on another cable leads something there that is the plan's.
pub fn leads_away(plan: &Plan, place: Option<u32>, link: u32, own: Range) -> bool {
    place != Some(link) && plan.ranges().any(|range| is_within(own, range))
}

/// Whether a range is a part of another one: of two ways the kernel takes the narrower one, whatever they weigh.
fn is_within(part: Range, range: Range) -> bool {
    part.prefix > range.prefix && range.contains(part.ip)
}

fn is_one(old: &Address, new: &Address) -> bool {
    old.link == new.link && old.own == new.own
}

fn lasts_as_long(old: &Address, new: &Address) -> bool {
    let is_same = |times: (Option<Duration>, Option<Duration>)| match times {
        (Some(old), Some(new)) => old.abs_diff(new) <= SAME,
        (old, new) => old == new,
    };
    is_same((old.lasts, new.lasts)) && is_same((old.prefers, new.prefers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::network::plan::Way;

    fn lease(own: &str, via: &str) -> Lease {
        Lease {
            own: own.parse().unwrap(),
            by: [10, 7, 0, 1].into(),
            routes: vec![("0.0.0.0/0".parse().unwrap(), Some(via.parse().unwrap()))],
            dns: vec!["10.7.0.53".parse().unwrap()],
            search: vec!["lan.test".to_owned()],
            mtu: None,
            lasts: Some(Duration::from_hours(1)),
            renew: Duration::from_mins(30),
            rebind: Duration::from_mins(50),
        }
    }

    #[test]
    fn a_machine_without_a_plan_has_what_was_given() {
        let lease = lease("10.7.0.13/24", "10.7.0.1");
        let wanted = Wanted::of(&Plan::default(), Some(2), &[(2, &lease, lease.lasts)], true);
        let [address] = wanted.addresses.as_slice() else { panic!("{wanted:?}") };
        assert_eq!((address.link, address.own, address.lasts), (2, lease.own, lease.lasts));
        assert_eq!((wanted.routes[0].link, wanted.routes[0].metric), (Some(2), TOLD + 2));
        assert_eq!(wanted.resolver(), "nameserver 10.7.0.53\nsearch lan.test\n");
        let mut nothing = Wanted::of(&Plan::default(), None, &[], false);
        assert_eq!(nothing.resolver(), "\n");
        nothing.hear(vec!["fd00::1".to_owned()], vec![]);
        assert_eq!(nothing.resolver(), "nameserver fd00::1\n");
    }

    #[test]
    fn what_headquarters_says_goes_first() {
        let dns = vec!["10.7.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let search = vec!["a.test".to_owned(), "b.test".to_owned()];
        let way = |to: &str, via: &str| Way { to: to.parse().unwrap(), via: via.parse().unwrap() };
        let routes = vec![way("10.244.2.0/24", "10.7.0.12"), way("10.244.3.0/24", "10.99.0.1")];
        let address = Some("10.7.0.11/24".parse().unwrap());
        let gateway = Some("10.7.0.1".parse().unwrap());
        let plan = Plan { address, gateway, routes, dns, search, ..Plan::default() };
        let lease = lease("10.8.0.13/24", "10.8.0.1");
        let wanted = Wanted::of(&plan, Some(2), &[(3, &lease, lease.lasts)], true);
        assert_eq!(wanted.resolver(), "nameserver 10.7.0.1\nnameserver fd00::1\nsearch a.test b.test\n");
        let links: Vec<_> = wanted.routes.iter().map(|route| (route.link, route.metric)).collect();
        assert_eq!(links, [(Some(3), TOLD + 3), (Some(2), PLANNED), (Some(2), PLANNED), (None, PLANNED)]);
        assert_eq!(wanted.addresses[0].lasts, None);
    }

    #[test]
    fn a_server_on_another_cable_leads_nothing_away_from_a_plan_that_was_kept() {
        let range = |text: &str| text.parse::<Range>().unwrap();
        let routes = vec![Way { to: range("10.244.2.0/24"), via: "10.7.0.12".parse().unwrap() }];
        let address = Some(range("10.7.0.11/24"));
        let with_gateway =
            Plan { address, routes, gateway: Some("10.7.0.1".parse().unwrap()), ..Plan::default() };
        let without = Plan { gateway: None, ..with_gateway.clone() };
        let ways = ["0.0.0.0/0", "0.0.0.0/1", "10.7.0.0/25", "10.244.2.7/32", "10.0.0.0/8", "10.9.0.0/16"];
        let given = |plan: &Plan, own: &str, kept: bool, link: u32| {
            let mut lease = lease(own, "10.8.0.1");
            lease.routes = ways.iter().map(|to| (range(to), Some("10.8.0.1".parse().unwrap()))).collect();
            let wanted = Wanted::of(plan, Some(2), &[(link, &lease, None)], kept);
            let told = wanted.routes.iter().filter(|route| route.metric >= TOLD);
            (wanted.addresses.len(), told.map(|route| route.to.to_string()).collect::<Vec<_>>())
        };
        let own = "10.8.0.13/24";
        assert_eq!(
            given(&with_gateway, own, true, 3),
            (2, vec!["0.0.0.0/0".to_owned()]),
            "a way out where HQ's fails"
        );
        let (addresses, told) = given(&without, own, true, 3);
        assert_eq!(
            (addresses, told),
            (2, ["0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/8", "10.9.0.0/16"].map(str::to_owned).to_vec())
        );
        assert_eq!(
            given(&with_gateway, "10.7.0.13/25", true, 3),
            (1, vec![]),
            "half of the site's own network"
        );
        for (kept, link) in [(false, 3), (true, 2)] {
            assert_eq!(
                given(&with_gateway, own, kept, link).1.len(),
                ways.len(),
                "the first contact, and the plan's own cable"
            );
        }
    }
}
