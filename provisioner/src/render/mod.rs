//! From template, profile, site and slot to the configuration of one machine.

pub mod check; // what is rendered is read strictly before it leaves
pub mod profile; // what a hardware model is, and which one a machine is
pub mod template; // strict templates whose values cannot break out

use std::net::IpAddr;

use protocol::bytes::B64u;
use protocol::inventory::Facts;
use protocol::messages::{BALANCER_PORT, File};
use serde::Serialize;

use crate::model::{Site, Slots};
use profile::{KubeletShare, Profile};
use template::{Syntax, Templates};

/// What a configuration is made from.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The site.
    pub site: &'a Site,
    /// Its slots.
    pub slots: &'a Slots,
    /// The slot of this machine.
    pub slot: &'a str,
    /// The name of its Node.
    pub node: &'a str,
    /// Its profile.
    pub profile: &'a Profile,
    /// What it said of itself.
    pub facts: &'a Facts,
    /// Its address: the slot's, or the one it speaks from; none where it has only a link-local one.
    pub address: Option<IpAddr>,
    /// The CA of the cluster, PEM; none for the machine that makes it.
    pub cluster_ca: Option<&'a str>,
}

/// Why a configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The site has no such slot.
    #[error("the site has no slot {0}; HQ adds it to slots.yaml")]
    NoSlot(String),
    /// A template is wrong.
    #[error(transparent)]
    Template(#[from] template::TemplateError),
    /// What came out is wrong.
    #[error(transparent)]
    Check(#[from] check::CheckError),
}

#[derive(Serialize)]
struct Context<'a> {
    site: SiteView<'a>,
    slot: SlotView<'a>,
    profile: &'a KubeletShare,
    disk: DiskView<'a>,
    facts: FactsView<'a>,
    node: &'a str,
    address: Option<IpAddr>,
    /// The address that the slot gives, with the length of its range's prefix: `10.7.0.13/24`.
    own_address: Option<String>,
    gateway: Option<IpAddr>,
    mtu: Option<u16>,
    /// Where the Pods of the other slots are, as far as their machines have fixed addresses.
    routes: Vec<Route>,
    pod_cidr: String,
    balancer_port: u16,
}

#[derive(Serialize)]
struct SiteView<'a> {
    name: &'a str,
    network: &'a crate::model::Network,
    cluster: ClusterView<'a>,
}

#[derive(Serialize)]
struct ClusterView<'a> {
    dns: IpAddr,
    domain: &'a str,
    service_cidr: &'a str,
    pod_cidr: &'a str,
}

#[derive(Serialize)]
struct SlotView<'a> {
    name: &'a str,
    role: &'static str,
    taints: &'a [crate::model::Taint],
    vlan: Option<u16>,
    bond: Option<crate::model::Bond>,
}

#[derive(Serialize)]
struct Route {
    to: String,
    via: IpAddr,
}

#[derive(Serialize)]
struct DiskView<'a> {
    transports: &'a [String],
    min_gib: u64,
}

#[derive(Serialize)]
struct FactsView<'a> {
    cgroups: u8,
    adjusts_oom: bool,
    kubelet: &'a str,
}

/// Where each template's output goes, with what permissions, and in what syntax it is written.
const FILES: [(&str, &str, &str, Syntax); 7] = [
    ("kubelet.yaml", "/var/lib/kubelet/config.yaml", "0644", Syntax::Yaml),
    ("kubelet.conf", "/etc/kubernetes/kubelet.conf", "0600", Syntax::Yaml),
    ("containerd.toml", "/etc/containerd/config.toml", "0644", Syntax::Toml),
    ("cni.conflist", "/etc/cni/net.d/10-node-boot.conflist", "0644", Syntax::Json),
    ("disk.json", "/etc/node-boot/disk.json", "0644", Syntax::Json),
    ("network.json", "/etc/node-boot/network.json", "0644", Syntax::Json),
    ("services.json", "/etc/node-boot/services.json", "0644", Syntax::Json),
];

/// The same for what the machine that founds the cluster gets beside.
const FOUNDING: (&str, &str, &str, Syntax) =
    ("kubeadm.yaml", "/etc/kubernetes/kubeadm.yaml", "0600", Syntax::Yaml);
/// What it changes in the API server's static Pod, where the distribution says so.
const PATCH: (&str, &str, &str, Syntax) =
    ("kube-apiserver.yaml", "/etc/kubernetes/patches/kube-apiserver+strategic.yaml", "0644", Syntax::Yaml);
/// What runs in every cluster that was founded here.
const ADD_ONS: &str = "add-ons.yaml";

/// The add-ons of a cluster that is founded: manifests.
pub fn add_ons(templates: &Templates, site: &Site) -> Result<String, RenderError> {
    #[derive(Serialize)]
    struct Context<'a> {
        site: SiteView<'a>,
        balancer_port: u16,
    }
    let context = Context { site: view(site), balancer_port: BALANCER_PORT };
    Ok(templates.render(&site.cluster.distribution, ADD_ONS, Syntax::Yaml, &context)?)
}

fn view(site: &Site) -> SiteView<'_> {
    let plan = &site.cluster;
    SiteView {
        name: &site.name,
        network: &site.network,
        cluster: ClusterView {
            dns: plan.dns,
            domain: &plan.domain,
            service_cidr: &plan.service_cidr,
            pod_cidr: &plan.pod_cidr,
        },
    }
}

/// Every file of the machine, checked.
pub fn render(templates: &Templates, order: &Order<'_>) -> Result<Vec<File>, RenderError> {
    let missing = || RenderError::NoSlot(order.slot.to_owned());
    let slot = order.slots.get(order.slot).ok_or_else(missing)?;
    let plan = &order.site.cluster;
    let context = Context {
        site: view(order.site),
        slot: SlotView {
            name: &slot.name,
            role: slot.role.word(),
            taints: &slot.taints,
            vlan: slot.vlan,
            bond: slot.bond,
        },
        profile: &order.profile.kubelet,
        disk: DiskView { transports: &order.profile.disk.transports, min_gib: order.profile.disk.min_gib },
        facts: FactsView {
            cgroups: order.facts.cgroups,
            adjusts_oom: order.facts.adjusts_oom,
            kubelet: &order.facts.kubelet,
        },
        node: order.node,
        address: slot.address.or(order.address),
        own_address: slot.own_address(),
        gateway: slot.gateway_at(&order.site.network),
        mtu: order.site.network.mtu,
        routes: routes(order, &slot.name),
        pod_cidr: order.slots.pod_cidr(&slot.name, plan).ok_or_else(missing)?,
        balancer_port: BALANCER_PORT,
    };
    let ca = order.cluster_ca.map(|ca| file("/etc/kubernetes/pki/ca.crt", "0644", ca.as_bytes()));
    let has_patch = templates.has_one(&plan.distribution, PATCH.0);
    let founding = std::iter::once(FOUNDING).chain(has_patch.then_some(PATCH));
    let founding = founding.filter(|_| order.cluster_ca.is_none());
    let mut files: Vec<_> = ca.into_iter().collect();
    for (name, path, mode, syntax) in FILES.into_iter().chain(founding) {
        let text = templates.render(&plan.distribution, name, syntax, &context)?;
        check::check(path, &text)?;
        files.push(file(path, mode, text.as_bytes()));
    }
    Ok(files)
}

fn routes(order: &Order<'_>, own: &str) -> Vec<Route> {
    let others = order.slots.slots.iter().filter(|slot| slot.name != own);
    let route = |slot: &crate::model::Slot| {
        Some(Route { to: order.slots.pod_cidr(&slot.name, &order.site.cluster)?, via: slot.address? })
    };
    others.filter_map(route).collect()
}

fn file(path: &str, mode: &str, data: &[u8]) -> File {
    File { path: path.to_owned(), mode: mode.to_owned(), data: B64u(data.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClusterPlan;

    fn site() -> Site {
        Site {
            name: "ship-7".into(),
            network: crate::model::Network::default(),
            cluster: ClusterPlan::default(),
            system: crate::model::SystemPlan::default(),
        }
    }

    fn rendered(
        slots: &str,
        node: &str,
        templates: &Templates,
    ) -> Result<Vec<(String, String)>, RenderError> {
        let slots: Slots = serde_json::from_str(slots).unwrap();
        let (site, facts) = (site(), Facts::default());
        let profiles = profile::Profiles::built_in();
        let (profile, _) = profiles.of(&facts).unwrap();
        let address = Some("10.7.0.3".parse().unwrap());
        let order = Order {
            site: &site,
            slots: &slots,
            slot: "node-3",
            node,
            profile,
            facts: &facts,
            address,
            cluster_ca: Some("CA"),
        };
        let text = |file: File| (file.path, String::from_utf8(file.data.0).unwrap());
        render(templates, &order).map(|files| files.into_iter().map(text).collect())
    }

    const SLOTS: &str =
        r#"{"slots":[{"name":"node-3","taints":[{"key":"no","value":"on","effect":"NoSchedule"}]}]}"#;

    #[test]
    fn every_file_is_rendered_and_values_cannot_break_out() {
        let hostile = "n\", \"--anonymous-auth=true\", \"";
        let files = rendered(SLOTS, hostile, &Templates::built_in()).unwrap();
        let services = files.iter().find(|(path, _)| path.ends_with("services.json")).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&services.1).unwrap();
        let argv = parsed[1]["argv"].as_array().unwrap();
        assert_eq!(argv.last().unwrap().as_str().unwrap(), format!("--hostname-override={hostile}"));
        let lines = |words: &str| services.1.lines().filter(|line| line.starts_with(words)).count();
        assert_eq!(lines("      \"--"), 5, "one argument a line: {}", services.1);
        let kubelet = files.iter().find(|(path, _)| path.ends_with("config.yaml")).unwrap();
        assert!(
            kubelet.1.contains(r#""value":"on""#),
            "words that YAML 1.1 takes for booleans stay quoted: {}",
            kubelet.1
        );
    }

    #[test]
    fn the_machine_that_founds_is_told_what_of_and_brings_no_ca_that_is_not_made_yet() {
        let slots: Slots = serde_json::from_str(
            r#"{"slots":[{"name":"node-1","role":"control-plane","address":"10.7.0.1","cidr":"10.7.0.0/24"}]}"#,
        )
        .unwrap();
        let (site, facts) = (site(), Facts { kubelet: "v1.36.3".into(), ..Facts::default() });
        let profiles = profile::Profiles::built_in();
        let (profile, _) = profiles.of(&facts).unwrap();
        let order = Order {
            site: &site,
            slots: &slots,
            slot: "node-1",
            node: "node-1-a",
            profile,
            facts: &facts,
            address: None,
            cluster_ca: None,
        };
        let files = render(&Templates::built_in(), &order).unwrap();
        let text = |end: &str| {
            let file = files.iter().find(|file| file.path.ends_with(end));
            file.map(|file| String::from_utf8(file.data.0.clone()).unwrap())
        };
        assert_eq!(text("ca.crt"), None);
        let kubeadm = text("kubeadm.yaml").unwrap();
        assert!(kubeadm.contains(r#"kubernetesVersion: "v1.36.3""#), "{kubeadm}");
        assert!(
            kubeadm.contains(r#"advertiseAddress: "10.7.0.1""#) && !kubeadm.contains("oken:"),
            "{kubeadm}"
        );
        assert!(text("config.yaml").unwrap().contains("staticPodPath: /etc/kubernetes/manifests"));
        let own = Order { cluster_ca: Some("CA"), ..order };
        let paths: Vec<_> =
            render(&Templates::built_in(), &own).unwrap().into_iter().map(|file| file.path).collect();
        assert!(!paths.iter().any(|path| path.ends_with("kubeadm.yaml")), "{paths:?}");
    }

    #[test]
    fn the_add_ons_are_objects_whatever_name_servers_a_site_has() {
        let mut site = site();
        for dns in [vec![], vec!["10.7.0.53".parse().unwrap(), "fd00::53".parse().unwrap()]] {
            site.network.dns = dns;
            let text = add_ons(&Templates::built_in(), &site).unwrap();
            let objects = crate::cluster::found::objects("add-ons.yaml", &text).unwrap();
            let config =
                objects.iter().find_map(|object| object.pointer("/data/Corefile")?.as_str()).unwrap();
            let forward = config.lines().find(|line| line.contains("forward"));
            let wanted = r#"    forward . "10.7.0.53" "fd00::53""#;
            assert_eq!(forward, (!site.network.dns.is_empty()).then_some(wanted), "{config}");
        }
    }

    #[test]
    fn a_slots_network_reaches_the_machine() {
        let slots = r#"{"slots":[{"name":"node-3","address":"10.7.0.13","cidr":"10.7.0.0/24","gateway":"10.7.0.1",
            "vlan":5,"bond":"active-backup"},{"name":"node-4","address":"10.7.0.14"}]}"#;
        let network = |slots: &str| {
            let files = rendered(slots, "n", &Templates::built_in()).unwrap();
            let (_, text) =
                files.into_iter().find(|(path, _)| path == "/etc/node-boot/network.json").unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        let want = serde_json::json!({ "address": "10.7.0.13/24", "gateway": "10.7.0.1", "vlan": 5,
            "bond": "active-backup", "mtu": null, "dns": [], "search": [],
            "routes": [{ "to": "10.244.2.0/24", "via": "10.7.0.14" }] });
        assert_eq!(network(slots), want);
        assert_eq!(network(SLOTS)["vlan"], serde_json::Value::Null);
    }

    #[test]
    fn an_unknown_variable_is_named_with_template_and_line() {
        let mut templates = Templates::built_in();
        templates.set("kubeadm/kubelet.yaml", "a: 1\nb: {{ site.mtu }}\n");
        let error = rendered(SLOTS, "n", &templates).unwrap_err().to_string();
        assert!(error.contains("kubeadm/kubelet.yaml") && error.contains('2'), "{error}");
    }

    #[test]
    fn a_template_that_takes_too_long_is_given_up() {
        let mut templates = Templates::built_in();
        let long = "{% for a in range(999) %}{% for b in range(999) %}x{% endfor %}{% endfor %}";
        templates.set("kubeadm/kubelet.yaml", long);
        let error = rendered(SLOTS, "n", &templates).unwrap_err().to_string();
        assert!(error.contains("kubeadm/kubelet.yaml") && error.contains("fuel"), "{error}");
    }

    #[test]
    fn a_template_whose_output_is_no_kubelet_configuration_never_leaves() {
        let mut templates = Templates::built_in();
        templates.set(
            "kubeadm/kubelet.yaml",
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nrotateCertificate: no\n",
        );
        let error = rendered(SLOTS, "n", &templates).unwrap_err().to_string();
        assert!(error.contains("rotateCertificate"), "{error}");
    }

    #[test]
    fn a_slot_that_the_site_does_not_have_is_named() {
        let error = rendered(r#"{"slots":[]}"#, "n", &Templates::built_in()).unwrap_err().to_string();
        assert!(error.contains("node-3"), "{error}");
    }
}
