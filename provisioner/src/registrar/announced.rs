//! The registrar on the LAN: announced to who browses, and shown at once to a machine that asks.

use std::net::{IpAddr, SocketAddr};

use announce::{Announcer, is_of_pods};
use protocol::messages::{PROXY_SERVICE, REGISTRAR_SERVICE};
use protocol::responder::Service;

use crate::site::Site;

/// Announces until what is returned is dropped. Without it machines still come to addresses that they know.
pub fn start(site: &Site, listen: SocketAddr) -> Option<Announcer> {
    let service = Service {
        types: vec![REGISTRAR_SERVICE, PROXY_SERVICE],
        instance: format!("{}-{}", site.name(), site.keys.identity.number),
        port: listen.port(),
        texts: vec!["txtvers=1".to_owned(), format!("own={}", own(site))],
    };
    let announcer = Announcer::start(service, move |interface, ip| may_show(interface, ip, listen.ip()));
    announcer.inspect_err(|error| tracing::warn!(%error, "the registrar is not announced on the LAN")).ok()
}

/// The first bytes of the site anchor's key: machines of other owners need not ask twice.
fn own(site: &Site) -> String {
    let anchors = site.trust().0.site_anchors();
    anchors.first().map(|anchor| anchor.key_hash.short_hex()).unwrap_or_default()
}

/// Only where we listen, and not to the Pods of this computer.
fn may_show(interface: &str, ip: IpAddr, listen: IpAddr) -> bool {
    let listens = match listen {
        IpAddr::V4(any) if any.is_unspecified() => ip.is_ipv4(),
        IpAddr::V6(any) if any.is_unspecified() => true,
        one => ip == one,
    };
    listens && !is_of_pods(interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_it_listens_it_is_shown() {
        let shown = |interface: &str, ip: &str, listen: &str| {
            may_show(interface, ip.parse().unwrap(), listen.parse().unwrap())
        };
        assert!(shown("eth0", "10.7.0.2", "::") && shown("eth0", "fe80::1", "::"));
        assert!(shown("eth0", "10.7.0.2", "0.0.0.0") && !shown("eth0", "fe80::1", "0.0.0.0"));
        assert!(shown("lo", "127.0.0.1", "127.0.0.1") && !shown("eth0", "10.7.0.2", "127.0.0.1"));
        assert!(!shown("veth1a2b", "fe80::1", "::") && !shown("cni0", "10.85.0.1", "::"));
    }
}
