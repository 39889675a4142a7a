//! A site is founded: the first machine founds the cluster with what a stick brings, another one joins it, and their Pods
//! talk. Nobody types a command on either.

use std::fs;
use std::time::Duration;

use harness::assets::{CONTROL_PLANE, IMAGES};
use harness::{Assets, Hardware, Lan, wait};
use tests::stage::found::{NAMESPACE, PLAN, PODS, SLOTS};
use tests::stage::{Csv, Hq, Programs, SITE, Spare};

/// A control plane that starts beside all the rest takes its time.
const PATIENCE: Duration = Duration::from_mins(5);
/// Where the machine has the files of the stick.
const KIT: &str = "/var/log/kit";

/// What no API server takes before its namespace is there, and a controller has given that its service account.
const GREETER: &str = r"apiVersion: v1
kind: Pod
metadata: { name: greeter, namespace: shop }
spec:
  containers:
  - { name: hello, image: localhost/hello:1, imagePullPolicy: Never }
";

/// A machine whose programs find each other.
fn machine(lan: &Lan, programs: &Programs, hq: &Hq, name: &str, host: u8) -> Spare {
    let folder = programs.provisioner.parent().unwrap().display().to_string();
    let path = format!("{folder}:{}", Assets::wherever().path().display());
    let env = vec![("PATH".to_owned(), path)];
    let serial = format!("GEWS12400{host}X");
    let hardware = Hardware { address: Some(lan.address(host)), env, ..Hardware::nuc(&serial) };
    Spare::new(lan, programs, name, hardware, hq).unwrap()
}

/// At the depot: the machine's row, and its provisioner certified. Nothing of that stays on it.
fn register(hq: &Hq, first: &Spare, second: &Spare) {
    let mut rows = Csv::default();
    rows.add(&first.registration().unwrap(), &[("site", SITE), ("slot", "node-1")]);
    rows.add(&second.registration().unwrap(), &[("site", SITE), ("slot", "node-2")]);
    hq.import(&rows.text()).unwrap();
    let request = first.run(&["register", "--csr", SITE, "--provisioner", "/var/log/depot"]).unwrap();
    first.machine.run("rm", &["-r", "/var/log/depot"]).unwrap();
    let (file, reply) = (hq.path("request.json"), hq.path("reply.json").display().to_string());
    fs::write(&file, request).unwrap();
    hq.run(&["site", "certify", SITE, &file.display().to_string(), "-o", &reply]).unwrap();
}

/// What the site's stick has beside the system.
fn plug_stick(hq: &Hq, machine: &mut Spare) {
    let bundle = fs::read(hq.bundle().unwrap()).unwrap();
    machine.machine.write(&format!("{KIT}/nodeboot/site.nbb"), bundle).unwrap();
    for entry in fs::read_dir(hq.dir().join("sites").join(SITE).join("provisioners")).unwrap() {
        let entry = entry.unwrap();
        let place = format!("{KIT}/nodeboot/provisioners/{}", entry.file_name().display());
        machine.machine.write(&place, fs::read(entry.path()).unwrap()).unwrap();
    }
    machine.run_with(&["--kit", KIT]);
}

/// What headquarters plans, and both machines with the site's stick in them.
fn plan(lan: &Lan) -> (Spare, Spare) {
    let programs = Programs::build().unwrap();
    let hq = Hq::found(&programs, "Example Line").unwrap();
    hq.edit(&format!("sites/{SITE}/site.yaml"), PLAN).unwrap();
    hq.edit(&format!("sites/{SITE}/slots.yaml"), SLOTS).unwrap();
    fs::create_dir_all(hq.dir().join("seed")).unwrap();
    hq.edit("seed/shop.yaml", NAMESPACE).unwrap();
    hq.edit("seed/before-shop.yaml", GREETER).unwrap();
    let mut first = machine(lan, &programs, &hq, "machine-1", 11);
    let mut second = machine(lan, &programs, &hq, "machine-2", 12);
    register(&hq, &first, &second);
    plug_stick(&hq, &mut first);
    plug_stick(&hq, &mut second);
    (first, second)
}

/// Its Linux is somebody else's, and so is its network: that somebody says where the other machine's Pods are.
fn route(machine: &Spare, pods: &str, via: &str) {
    machine.machine.run("ip", &["route", "add", pods, "via", via]).unwrap();
    machine.machine.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).unwrap();
}

fn says(machine: &Spare, words: &str) {
    wait::until(words, PATIENCE, || if machine.log().contains(words) { Ok(()) } else { Err(machine.log()) })
        .unwrap();
}

/// `kubectl` on the machine that has the cluster's CA, as somebody who may do everything.
struct Kubectl<'a>(&'a Spare);

impl Kubectl<'_> {
    const CONFIG: &'static str = "/var/log/test.conf";

    fn run(&self, words: &[&str]) -> Result<String, String> {
        let words = [&["--kubeconfig", Self::CONFIG], words].concat();
        self.0.machine.run("kubectl", &words).map_err(|error| error.to_string())
    }

    fn until(&self, what: &str, words: &[&str], accept: impl Fn(&str) -> bool) -> String {
        let look = || self.run(words).and_then(|said| if accept(&said) { Ok(said) } else { Err(said) });
        wait::until(what, PATIENCE, look).unwrap()
    }
}

#[test]
fn the_first_machine_founds_the_site_the_second_joins_it_and_their_pods_talk() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let lan = Lan::new("found").unwrap();
    let (mut first, mut second) = plan(&lan);
    let assets = Assets::find().unwrap();
    route(&second, "10.244.1.0/24", "10.77.0.11");
    second.start().unwrap();

    // Its power is cut when the control plane starts for the first time.
    first.start().unwrap();
    says(&first, "Starting the control plane on this machine.");
    first.kill();
    first.machine.power_off();
    first.machine.power_on().unwrap();
    route(&first, "10.244.2.0/24", "10.77.0.12");
    first.start().unwrap();
    first.import(&assets, &IMAGES).unwrap();
    says(&first, "The cluster is founded.");
    let made = first.log().matches("Making the certificates of the new cluster.").count();
    assert_eq!(made, 1, "what was done is not done again: {}", first.log());
    let user = "kubeadm kubeconfig user --client-name test --org system:masters --config /etc/kubernetes/kubeadm.yaml";
    first.machine.run("sh", &["-c", &format!("{user} > {}", Kubectl::CONFIG)]).unwrap();
    let kubectl = Kubectl(&first);
    let workers: Vec<_> = IMAGES.into_iter().filter(|image| !CONTROL_PLANE.contains(image)).collect();
    second.import(&assets, &workers).unwrap();
    let ready = [
        "get",
        "nodes",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=='Ready')].status}{'\\n'}{end}",
    ];
    let nodes = kubectl.until("two Ready Nodes", &ready, |said| said.matches(" True").count() == 2);
    assert!(nodes.starts_with("node-1-") && nodes.contains("\nnode-2-"), "{nodes}");
    for left in ["admin.conf", "super-admin.conf"] {
        assert!(
            !first.machine.on_disk("/etc/kubernetes").join(left).exists(),
            "no administrator is left: {left}"
        );
    }

    // The seed made its namespace and its Pod, in whatever order they came; what runs in it is reached from the other
    // machine, by address, Service and name.
    kubectl.run(&["-n", "shop", "get", "pod", "greeter"]).unwrap();
    first.machine.write("/var/log/pods.yaml", PODS).unwrap();
    kubectl.until("the Pods to be accepted", &["apply", "-f", "/var/log/pods.yaml"], |_| true);
    let pods = [
        "-n",
        "shop",
        "get",
        "pods",
        "-l",
        "app=hello",
        "-o",
        "jsonpath={range .items[*]}{.status.phase} {.status.podIP} {.metadata.name}{'\\n'}{end}",
    ];
    let pods = kubectl.until("two Pods", &pods, |said| said.matches("Running 10.").count() == 2);
    let pid = first.machine.run("pgrep", &["-xo", "hello"]).unwrap();
    let ask = |from: &str| {
        let words = format!("nsenter --net=/proc/{}/ns/net curl -s --max-time 5 http://{from}/", pid.trim());
        let answer = || first.machine.run("sh", &["-c", &words]).map_err(|error| error.to_string());
        wait::until(&format!("an answer of {from}"), PATIENCE, answer).unwrap()
    };
    for pod in pods.lines() {
        let words: Vec<_> = pod.split(' ').collect();
        assert_eq!(ask(&format!("{}:8080", words[1])).trim(), format!("hello from {}", words[2]));
        // The API server may ask every kubelet what a Pod has said.
        kubectl.until("what a Pod has said", &["-n", "shop", "logs", words[2]], |_| true);
    }
    first.machine.run("sh", &["-c", "echo nameserver 10.96.0.10 > /etc/resolv.conf"]).unwrap();
    assert!(ask("hello.shop.svc.cluster.local").starts_with("hello from hello-"));
}
