//! What the program says of itself, read by a parser that takes nothing but Prometheus' text format 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

use protocol::messages::Message;
use protocol::refusal::Refusal;
use tests::pledge::Pledge;

use crate::Served;

/// Names and values, in their order.
type Labels = Vec<(String, String)>;

/// The value of each metric with each set of labels.
type Samples = BTreeMap<(String, Labels), f64>;

/// A text of families that each have one HELP, one TYPE and then their samples, in this order.
#[derive(Debug, Default)]
struct Exposition {
    /// `counter` or `gauge` by name.
    types: BTreeMap<String, String>,
    samples: Samples,
}

impl Exposition {
    fn parse(text: &str) -> Result<Self, String> {
        let mut read = Self::default();
        let mut helped = BTreeSet::new();
        let mut family = "";
        let lines = text.strip_suffix('\n').ok_or("the last line has no end")?;
        for line in lines.split('\n') {
            let wrong = |what: &str| Err(format!("{what}: {line:?}"));
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let Some((name, _)) = rest.split_once(' ') else { return wrong("no help") };
                if !is_name(name) || !helped.insert(name) {
                    return wrong("no name, or a second help");
                }
                family = name;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let Some((name, kind)) = rest.split_once(' ') else { return wrong("no type") };
                let fits =
                    name == family && (kind == "gauge" || kind == "counter" && name.ends_with("_total"));
                if !fits || read.types.insert(name.to_owned(), kind.to_owned()).is_some() {
                    return wrong("a type that does not fit, or a second one");
                }
            } else {
                let (name, labels, value) = sample(line).ok_or(format!("no sample: {line:?}"))?;
                if name != family || !read.types.contains_key(name) {
                    return wrong("outside its family");
                }
                if read.samples.insert((name.to_owned(), labels), value).is_some() {
                    return wrong("twice");
                }
            }
        }
        Ok(read)
    }

    /// The value of the metric with this one label.
    fn value(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        self.samples.get(&(name.to_owned(), vec![(label.to_owned(), value.to_owned())])).copied()
    }
}

fn is_name(word: &str) -> bool {
    let good = |symbol: char| symbol.is_ascii_alphanumeric() || symbol == '_';
    word.chars().all(good) && word.starts_with(|first: char| !first.is_ascii_digit())
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let (name, mut rest) = line.split_once('{')?;
    let mut labels = Labels::new();
    loop {
        let (label, quoted) = rest.split_once("=\"")?;
        let (value, after) = unescaped(quoted)?;
        let known = labels.iter().any(|(other, _)| other == label);
        if !is_name(label) || label.starts_with("__") || known {
            return None;
        }
        labels.push((label.to_owned(), value));
        if let Some(number) = after.strip_prefix("} ") {
            let plain = number.bytes().all(|byte| byte.is_ascii_digit());
            return (is_name(name) && plain).then_some((name, labels, number.parse().ok()?));
        }
        rest = after.strip_prefix(',')?;
    }
}

/// The value of a label up to its closing quote, and what follows.
fn unescaped(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut symbols = quoted.chars();
    loop {
        match symbols.next()? {
            '"' => return Some((value, symbols.as_str())),
            '\\' => value.push(match symbols.next()? {
                '\\' => '\\',
                '"' => '"',
                'n' => '\n',
                _ => return None,
            }),
            symbol => value.push(symbol),
        }
    }
}

#[test]
fn the_parser_takes_nothing_else() {
    let head = "# HELP a_total A.\n# TYPE a_total counter\n";
    let read = Exposition::parse(&format!("{head}a_total{{b=\"x\\\"\\\\\\n\",c=\"\"}} 3\n")).unwrap();
    let labels = vec![("b".to_owned(), "x\"\\\n".to_owned()), ("c".to_owned(), String::new())];
    assert_eq!(read.samples, Samples::from([(("a_total".to_owned(), labels), 3.0)]));
    for bad in [
        "a_total{b=\"x\"} 3",
        "a_total{b=\"x\"} \n",
        "a_total{b=\"x\" } 3\n",
        "a_total{b=\"x\\y\"} 3\n",
        "a_total{b=\"x\"y\"} 3\n",
        "a_total{b=\"x\",b=\"y\"} 3\n",
        "a_total{1=\"x\"} 3\n",
        "a_total{b=\"x\"} 3\na_total{b=\"x\"} 3\n",
        "other{b=\"x\"} 3\n",
        "\n",
        "# TYPE a_total counter\n",
        "# HELP a_total A.\n",
    ] {
        assert!(Exposition::parse(&format!("{head}{bad}")).is_err(), "{bad:?}");
    }
}

#[test]
fn what_happens_is_counted_under_its_own_label() {
    let (known, unknown) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = Served::with(&[&known]);
    known.connect(served.address).unwrap().admission().unwrap();
    let refused = unknown.connect(served.address).unwrap().voucher().unwrap();
    assert_ne!(refused.status, 200);

    let (head, text) = served.watched("/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    let read = Exposition::parse(&text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
    let types: Vec<_> = read.types.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    let wanted = [
        "nodeboot_alarms_total counter",
        "nodeboot_bundle_seq gauge",
        "nodeboot_machines gauge",
        "nodeboot_refusals_total counter",
        "nodeboot_requests_total counter",
    ];
    assert_eq!(types, wanted);

    let path = Message::RequestVoucher.path().1;
    assert_eq!(read.value("nodeboot_requests_total", "path", path), Some(2.0), "{text}");
    assert_eq!(read.value("nodeboot_refusals_total", "reason", &refused.reason()), Some(1.0), "{text}");
    assert_eq!(read.value("nodeboot_refusals_total", "reason", Refusal::Tls.code()), None, "{text}");
    assert_eq!(read.value("nodeboot_bundle_seq", "site", "ship-7"), Some(1.0), "{text}");
    let lives = |life| read.value("nodeboot_machines", "life", life);
    assert_eq!((lives("member"), lives("quarantined")), (Some(0.0), Some(0.0)), "{text}");
    let all = read.samples.iter().filter(|((name, _), _)| name == "nodeboot_machines");
    assert!(all.map(|(_, count)| count).sum::<f64>() >= 1.0, "{text}");
}

#[test]
fn healthz_says_what_is_wrong_and_what_to_do() {
    let served = Served::with(&[]);
    let (head, said) = served.watched("/healthz");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(said, "not attached to a cluster: run `provisioner attach KUBECONFIG`\n");
    let beside = served.beside();
    let (_, said) = beside.watched("/healthz");
    assert!(said.lines().any(|line| line.contains("run `provisioner apply BUNDLE`")), "{said}");
    let (head, said) = served.watched("/metrics/else");
    assert!(head.starts_with("HTTP/1.1 404 ") && said.contains("/healthz"), "{head}\n{said}");
}
