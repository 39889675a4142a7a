//! Which kubelet serving certificates are granted: only for a machine's own name and the addresses it was admitted
//! with.

use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use protocol::csr::Csr;
use protocol::refusal::{Refusal, Refused};

use super::csr::{KUBELET_SERVING, decide, request_der};
use super::{Cluster, ClusterError};

/// What is known of the Node that asks.
pub struct Admitted<'a> {
    /// The name of its Node.
    pub node: &'a str,
    /// Addresses it was admitted with.
    pub addresses: &'a [IpAddr],
    /// Whether its slot allows an address (the slot's CIDR, where it has one).
    pub slot_allows: &'a dyn Fn(&IpAddr) -> bool,
    /// Whether an address is somebody else's: API server, provisioner, gateway, DNS, service range, another Node.
    pub taken: &'a dyn Fn(&IpAddr) -> bool,
}

fn refused(case: char, detail: impl Into<String>) -> Refused {
    Refused::new(Refusal::ServingRefused, case, detail)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Whether the request of `username` may be approved. R38: (a) who asks, (b) for what use, (c) for which address.
pub fn judge(username: &str, usages: &[String], csr: &Csr, admitted: &Admitted<'_>) -> Result<(), Refused> {
    let own = format!("system:node:{}", admitted.node);
    if username != own || csr.common_names != [own.clone()] || csr.organisations != ["system:nodes"] {
        return Err(refused('a', format!("{username} asks for {:?}", csr.common_names)));
    }
    let allowed = ["digital signature", "key encipherment", "server auth"];
    let enough =
        ["digital signature", "server auth"].iter().all(|usage| usages.iter().any(|has| has == usage));
    if !enough || usages.iter().any(|usage| !allowed.contains(&usage.as_str())) {
        return Err(refused('b', format!("usages {usages:?}")));
    }
    if csr.other_names > 0 || csr.dns.iter().any(|name| name != admitted.node) {
        return Err(refused('b', format!("names {:?} and {} of other kinds", csr.dns, csr.other_names)));
    }
    if csr.addresses.is_empty() {
        return Err(refused('c', "no address"));
    }
    for bytes in &csr.addresses {
        let asked = address(bytes).ok_or_else(|| refused('c', "an address of another size"))?;
        if !admitted.addresses.contains(&asked) {
            return Err(refused('c', format!("{asked} is not an address it was admitted with")));
        }
        if !(admitted.slot_allows)(&asked) {
            return Err(refused('c', format!("{asked} is outside the range of its slot")));
        }
        if (admitted.taken)(&asked) {
            return Err(refused('c', format!("{asked} is somebody else's")));
        }
    }
    Ok(())
}

/// The Node that asks for a serving certificate; none for other requests.
pub fn asking_node(object: &CertificateSigningRequest) -> Option<&str> {
    let user = object.spec.username.as_deref().filter(|_| object.spec.signer_name == KUBELET_SERVING)?;
    user.strip_prefix("system:node:")
}

impl Cluster {
    /// Approves or denies one pending serving request; says which.
    pub async fn decide_serving(
        &self,
        object: CertificateSigningRequest,
        admitted: &Admitted<'_>,
    ) -> Result<Result<(), Refused>, ClusterError> {
        let username = object.spec.username.clone().unwrap_or_default();
        let usages = object.spec.usages.clone().unwrap_or_default();
        let parsed = request_der(&object).and_then(|der| Csr::parse(&der).ok());
        let verdict = match parsed {
            Some(csr) => judge(&username, &usages, &csr, admitted),
            None => Err(refused('a', "the request cannot be read")),
        };
        let api = self.requests();
        match &verdict {
            Ok(()) => {
                decide(&api, object, true, "Admitted", "name and addresses are those it was admitted with")
                    .await?
            }
            Err(refused) => decide(&api, object, false, refused.refusal.code(), &refused.to_string()).await?,
        };
        Ok(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::bytes::Digest;

    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 7, 0, 3));

    fn csr() -> Csr {
        Csr {
            der: vec![],
            spki: vec![],
            key_hash: Digest([0; 32]),
            common_names: vec!["system:node:node-3-abc".into()],
            organisations: vec!["system:nodes".into()],
            dns: vec!["node-3-abc".into()],
            addresses: vec![vec![10, 7, 0, 3]],
            other_names: 0,
        }
    }

    fn verdict(user: &str, usages: &[&str], csr: &Csr, taken: bool, inside: bool) -> String {
        let usages: Vec<_> = usages.iter().map(|usage| (*usage).to_owned()).collect();
        let slot_allows = |_: &IpAddr| inside;
        let is_taken = |_: &IpAddr| taken;
        let admitted =
            Admitted { node: "node-3-abc", addresses: &[OWN], slot_allows: &slot_allows, taken: &is_taken };
        judge(user, &usages, csr, &admitted).map_or_else(|refused| refused.id(), |()| "granted".to_owned())
    }

    const USER: &str = "system:node:node-3-abc";
    const USAGES: &[&str] = &["digital signature", "server auth"];

    #[test]
    fn a_machine_gets_a_certificate_for_its_own_name_and_address() {
        assert_eq!(verdict(USER, USAGES, &csr(), false, true), "granted");
    }

    #[test]
    fn r38a_a_node_cannot_ask_for_another() {
        assert_eq!(verdict("system:node:node-4-xyz", USAGES, &csr(), false, true), "R38a");
        let other = Csr { common_names: vec!["system:node:node-4-xyz".into()], ..csr() };
        assert_eq!(verdict(USER, USAGES, &other, false, true), "R38a");
        let masters = Csr { organisations: vec!["system:masters".into()], ..csr() };
        assert_eq!(verdict(USER, USAGES, &masters, false, true), "R38a");
    }

    #[test]
    fn r38b_other_usages_and_kinds_of_name_are_refused() {
        assert_eq!(
            verdict(USER, &["digital signature", "server auth", "client auth"], &csr(), false, true),
            "R38b"
        );
        assert_eq!(verdict(USER, &["server auth"], &csr(), false, true), "R38b");
        assert_eq!(verdict(USER, USAGES, &Csr { other_names: 1, ..csr() }, false, true), "R38b");
        assert_eq!(
            verdict(USER, USAGES, &Csr { dns: vec!["kubernetes".into()], ..csr() }, false, true),
            "R38b"
        );
    }

    #[test]
    fn r38c_an_address_must_be_its_own_and_nobody_elses() {
        assert_eq!(
            verdict(USER, USAGES, &Csr { addresses: vec![vec![10, 7, 0, 1]], ..csr() }, false, true),
            "R38c"
        );
        assert_eq!(verdict(USER, USAGES, &Csr { addresses: vec![], ..csr() }, false, true), "R38c");
        assert_eq!(verdict(USER, USAGES, &csr(), true, true), "R38c");
        assert_eq!(verdict(USER, USAGES, &csr(), false, false), "R38c");
    }
}
