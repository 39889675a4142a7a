//! What a site and its slots mean, what is wrong with them, and where each key is explained.

use super::*;

#[test]
fn a_range_contains_its_own_and_nothing_else() {
    let range = Range::parse("10.7.0.0/24").unwrap();
    assert!(range.contains(&"10.7.0.3".parse().unwrap()));
    assert!(!range.contains(&"10.7.1.3".parse().unwrap()));
    assert!(!range.contains(&"::a07:3".parse().unwrap()));
    assert!(Range::parse("0.0.0.0/0").unwrap().contains(&"1.2.3.4".parse().unwrap()));
    assert_eq!(Range::parse("10.7.0.0/33"), None);
}

#[test]
fn a_sites_gateway_is_that_of_the_slots_in_whose_range_it_is() {
    let network: Network = serde_json::from_str(r#"{"gateway":"10.7.0.1","mtu":1280}"#).unwrap();
    let text = r#"{"slots":[{"name":"a","cidr":"10.7.0.0/24"},{"name":"b","cidr":"10.8.0.0/24"},{"name":"c"},
        {"name":"d","cidr":"10.7.0.0/24","gateway":"10.7.0.2"}]}"#;
    let slots: Slots = serde_json::from_str(text).unwrap();
    let gateways = slots.slots.iter().map(|slot| slot.gateway_at(&network).map(|ip| ip.to_string()));
    let gateways: Vec<_> = gateways.map(Option::unwrap_or_default).collect();
    assert_eq!(gateways, ["10.7.0.1", "", "", "10.7.0.2"]);
    assert_eq!(network.fault(), None);
    assert!(Network { mtu: Some(1279), ..network }.fault().unwrap().contains("1280"));
    for (first, wrong) in [
        (r#"{"vlan":5,"address":"10.7.0.9/24","gateway":"10.7.0.1"}"#, ""),
        (r#"{"vlan":4095}"#, "vlan"),
        (r#"{"address":"10.7.0.9"}"#, "address"),
    ] {
        let network: Network = serde_json::from_str(&format!(r#"{{"first-contact":{first}}}"#)).unwrap();
        let fault = network.fault().unwrap_or_default();
        assert_eq!((fault.is_empty(), fault.contains(wrong)), (wrong.is_empty(), true), "{fault}");
    }
}

/// Keys and those below them, `cluster.found`; a key of one word has none below.
fn keys(value: &serde_json::Value) -> Vec<String> {
    let below = |(key, value): (&String, &serde_json::Value)| match value.as_object() {
        Some(inner) => inner.keys().map(|inner| format!("{key}.{inner}")).collect(),
        None => vec![key.clone()],
    };
    value.as_object().into_iter().flatten().flat_map(below).collect()
}

#[test]
fn every_key_of_a_site_stands_in_the_docs_with_what_it_does() {
    let text = r#"{"name":"x","network":{"gateway":"10.7.0.1","mtu":1500,"first-contact":{},"proxy":"p"},
        "cluster":{"found":"a"},"system":{"os":"1","kubernetes":"2","activate":"now"}}"#;
    let site: Site = serde_json::from_str(text).unwrap();
    let docs = include_str!("../../../docs/configuration.md");
    let rows: String = docs.lines().filter(|line| line.starts_with("| site ")).collect();
    for key in keys(&serde_json::to_value(site).unwrap()).iter().filter(|key| *key != "name") {
        let (section, word) = key.split_once('.').unwrap();
        let whole = rows.contains(&format!("`{key}`"));
        let in_section =
            rows.contains(&format!("| site `{section}` |")) && rows.contains(&format!("`{word}`"));
        assert!(whole || in_section, "{key}");
    }
}

#[test]
fn every_fault_of_the_slots_is_named() {
    let text = r#"{"slots":[{"name":"Node"},{"name":"a","cidr":"x"},{"name":"a","taints":[{"key":"k","effect":"Never"}]}]}"#;
    let slots: Slots = serde_json::from_str(text).unwrap();
    assert_eq!(slots.faults().len(), 4, "{:?}", slots.faults());
    let text = r#"{"slots":[{"name":"a","cidr":"10.7.0.0/24","address":"10.8.0.3","gateway":"10.8.0.1","vlan":0},
        {"name":"b","cidr":"10.7.0.0/24","address":"10.7.0.3","gateway":"10.7.0.3","vlan":4095}]}"#;
    let wired: Slots = serde_json::from_str(text).unwrap();
    assert_eq!(wired.faults().len(), 5, "{:?}", wired.faults());
    assert_eq!(slots.pod_cidr("a", &ClusterPlan::default()).unwrap(), "10.244.2.0/24");
    let text = r#"{"slots":[{"name":"a","address":"10.7.0.3"},{"name":"b","address":"10.7.0.3","pod-cidr":"10.1"}]}"#;
    let faults = serde_json::from_str::<Slots>(text).unwrap().faults();
    let said: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert!(said[0].contains("slot b: its address is a's too") && said[1].contains("pod-cidr"), "{said:?}");
}

#[test]
fn ranges_that_nobody_could_deal_out_are_named() {
    assert_eq!(ClusterPlan::default().fault(), None);
    let of = |text: &str| serde_json::from_str::<ClusterPlan>(text).unwrap().fault().unwrap();
    assert!(of(r#"{"service-cidr":"10.96.0.0"}"#).starts_with("cluster.service-cidr"));
    for range in ["10.244.0.0", "10.244.0.0/24", "none/16"] {
        assert!(of(&format!(r#"{{"pod-cidr":"{range}"}}"#)).starts_with("cluster.pod-cidr"), "{range}");
    }
}
