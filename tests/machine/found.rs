//! A site is born of one stick: two machines with empty disks, one of which founds the cluster, and Pods that talk. No
//! cluster and no provisioner are there before, headquarters is away, and nobody touches a key.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::{Board, Bus, Hardware, Lan, Machine, Vm, wait};
use tests::stage::{Csv, Hq, Programs, SITE, own_images, run};

/// Emulated machines that start a control plane take their time.
const DEADLINE: Duration = Duration::from_mins(20);
const API: &str = "https://10.77.0.11:6443";
const PLAN: &str = "name: ship-7\ncluster:\n  found: node-1\n";
const SLOTS: &str = r"slots:
- name: node-1
  role: control-plane
  address: 10.77.0.11
  cidr: 10.77.0.0/24
- name: node-2
  address: 10.77.0.12
  cidr: 10.77.0.0/24
";
/// What runs on this site; and that whoever asks may see how it is, which no real site's seed says.
const SEED: &str = r"apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: hello, namespace: shop }
spec:
  selector: { matchLabels: { app: hello } }
  template:
    metadata: { labels: { app: hello } }
    spec:
      containers:
      - { name: hello, image: localhost/hello:1, imagePullPolicy: Never }
---
apiVersion: v1
kind: Service
metadata: { name: hello, namespace: shop }
spec:
  selector: { app: hello }
  ports: [{ port: 80, targetPort: 8080 }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: onlooker }
rules:
- { apiGroups: [''], resources: [nodes, pods], verbs: [list] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: onlooker }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: onlooker }
subjects:
- { apiGroup: rbac.authorization.k8s.io, kind: User, name: 'system:anonymous' }
";

/// At the depot: the machine's row, and the request of its provisioner. Nothing of that stays on it.
fn on_bench(vm: &mut Vm, programs: &Programs, owner: &Path) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let node_boot = |tpm: &Path, words: &[&str]| {
        let mut command = Command::new(&programs.node_boot);
        command.arg("register").args(words).args(["--state", &at("state"), "--dmi", &at("dmi")]);
        command.arg("--owner").arg(owner).args(["--tpm", &format!("unix:{}", tpm.display())]);
        run(command.env("PATH", programs.provisioner.parent().unwrap())).unwrap()
    };
    let done = vm.on_bench(|tpm| {
        let request = node_boot(tpm, &["--csr", SITE, "--provisioner", &at("provisioner")]);
        (node_boot(tpm, &["--csv"]), request)
    });
    done.unwrap().unwrap()
}

fn register(hq: &Hq, programs: &Programs, first: (&str, &mut Vm), second: (&str, &mut Vm)) {
    let mut rows = Csv::default();
    for ((serial, vm), slot) in [(first, "node-1"), (second, "node-2")] {
        let (row, request) = on_bench(vm, programs, &hq.owner_file());
        rows.add(&row, &[("serial", serial), ("site", SITE), ("slot", slot)]);
        hq.import(&rows.text()).unwrap();
        rows = Csv::default();
        if slot == "node-1" {
            let (file, reply) = (hq.path("request.json"), hq.path("reply.json").display().to_string());
            fs::write(&file, request).unwrap();
            hq.run(&["site", "certify", SITE, &file.display().to_string(), "-o", &reply]).unwrap();
        }
    }
}

/// What `curl` is answered on this machine, once it is what was waited for.
fn answered(from: &Machine, what: &str, url: &str, accept: impl Fn(&str) -> bool) -> String {
    let ask = || {
        let said = from.run("curl", &["-sk", "--max-time", "10", url]).map_err(|error| error.to_string())?;
        if accept(&said) { Ok(said) } else { Err(said) }
    };
    wait::until(what, DEADLINE, ask).unwrap()
}

/// Name and address of each Pod of the shop that runs.
fn pods(list: &str) -> Vec<(String, String)> {
    let list: serde_json::Value = serde_json::from_str(list).unwrap_or_default();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let running = items.into_iter().filter(|pod| pod["status"]["phase"] == "Running");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    running.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]))).collect()
}

#[test]
fn a_site_is_born_of_one_stick_and_two_machines_with_empty_disks() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    own_images().unwrap();
    let (lan, programs) = (Lan::new("born").unwrap(), Programs::build().unwrap());
    let hq = Hq::found(&programs, "Example Line").unwrap();
    hq.edit(&format!("sites/{SITE}/site.yaml"), PLAN).unwrap();
    hq.edit(&format!("sites/{SITE}/slots.yaml"), SLOTS).unwrap();
    fs::create_dir(hq.dir().join("seed")).unwrap();
    hq.edit("seed/shop.yaml", SEED).unwrap();
    let mut first = Vm::new(&lan, "born-1", Board::new("VM0011", Bus::Nvme)).unwrap();
    let mut second = Vm::new(&lan, "born-2", Board::new("VM0012", Bus::Virtio)).unwrap();
    register(&hq, &programs, ("VM0011", &mut first), ("VM0012", &mut second));
    let stick = hq.kit().unwrap();
    for vm in [&mut first, &mut second] {
        vm.plug_stick(&stick);
        vm.power_on().unwrap();
    }
    first.says("This machine founds the cluster of its site.", DEADLINE).unwrap();
    first.says("The cluster is founded.", DEADLINE).unwrap();
    first.says("This machine is part of the cluster. It needs nothing.", DEADLINE).unwrap();
    second.says("This machine is part of the cluster. It needs nothing.", DEADLINE).unwrap();

    let onlooker = Hardware { address: Some(lan.address(99)), tpm: false, ..Hardware::nuc("ONLOOKER") };
    let onlooker = Machine::new(&lan, "onlooker", onlooker).unwrap();
    for (pods, machine) in [("10.244.1.0/24", "10.77.0.11"), ("10.244.2.0/24", "10.77.0.12")] {
        onlooker.run("ip", &["route", "add", pods, "via", machine]).unwrap();
    }
    let list = format!("{API}/api/v1/namespaces/shop/pods");
    let list = answered(&onlooker, "two Pods", &list, |said| pods(said).len() == 2);
    let pods = pods(&list);
    for ((name, address), (other, at)) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        let heard = format!("{name} heard: hello from {other}");
        let ask = format!("http://{address}:8080/ask/{at}:8080");
        answered(&onlooker, "one Pod to hear another", &ask, |said| said.trim() == heard);
        let ask = format!("http://{address}:8080/ask/hello.shop");
        answered(&onlooker, "a Service by its name", &ask, |said| said.contains(" heard: hello from hello-"));
    }
}
