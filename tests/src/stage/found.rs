//! A site that is not there yet: headquarters' plan, two virtual machines with empty disks, and the stick.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::{Board, Bus, Hardware, Lan, Machine, Vm, wait};

use super::{Csv, Hq, Programs, SITE, run};

/// Emulated machines that start a control plane take their time.
pub const PATIENCE: Duration = Duration::from_mins(20);
const API: &str = "https://10.77.0.11:6443";
/// The site, whose first slot founds its cluster.
pub const PLAN: &str = "name: ship-7\ncluster:\n  found: node-1\n";
/// Its slots.
pub const SLOTS: &str = r"slots:
- name: node-1
  role: control-plane
  address: 10.77.0.11
  cidr: 10.77.0.0/24
- name: node-2
  address: 10.77.0.12
  cidr: 10.77.0.0/24
";
/// Where its Pods are.
pub const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n";
/// One on each machine, and how they are asked for.
pub const PODS: &str = r"apiVersion: apps/v1
kind: DaemonSet
metadata: { name: hello, namespace: shop }
spec:
  selector: { matchLabels: { app: hello } }
  template:
    metadata: { labels: { app: hello } }
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - { name: hello, image: localhost/hello:1, imagePullPolicy: Never }
---
apiVersion: v1
kind: Service
metadata: { name: hello, namespace: shop }
spec:
  selector: { app: hello }
  ports: [{ port: 80, targetPort: 8080 }]
";
/// Whoever asks may see how the site is, which no real site's seed says.
const ONLOOKER: &str = r"apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: onlooker }
rules:
- { apiGroups: [''], resources: [nodes, pods], verbs: [list] }
- { apiGroups: [''], resources: [pods/log], verbs: [get] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: onlooker }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: onlooker }
subjects:
- { apiGroup: rbac.authorization.k8s.io, kind: User, name: 'system:anonymous' }
";

/// Headquarters, and two machines that it has at its depot.
pub struct Founding {
    /// The machine that is to found the site.
    pub first: Vm,
    /// The one that is to join it.
    pub second: Vm,
    /// Somebody else on the same network, who knows where Pods are.
    pub onlooker: Machine,
    /// Headquarters.
    pub hq: Hq,
}

impl Founding {
    /// The plan is written, both machines are registered, the provisioner of the first is certified.
    pub fn plan(name: &str) -> Result<Self> {
        let (lan, programs) = (Lan::new(name)?, Programs::build()?);
        let hq = Hq::found(&programs, "Example Line")?;
        hq.edit(&format!("sites/{SITE}/site.yaml"), PLAN)?;
        hq.edit(&format!("sites/{SITE}/slots.yaml"), SLOTS)?;
        fs::create_dir(hq.dir().join("seed"))?;
        hq.edit("seed/shop.yaml", &[NAMESPACE, PODS, ONLOOKER].join("---\n"))?;
        // With less, the programs of a control plane are read from the emulated disk again and again.
        let founder = Board { memory: 6144, ..Board::new("VM0011", Bus::Nvme) };
        let mut first = Vm::new(&lan, &format!("{name}-1"), founder)?;
        let mut second = Vm::new(&lan, &format!("{name}-2"), Board::new("VM0012", Bus::Virtio))?;
        let request = register(&hq, &programs, &mut first, ["VM0011", "node-1"])?;
        register(&hq, &programs, &mut second, ["VM0012", "node-2"])?;
        let (file, reply) = (hq.path("request.json"), hq.path("reply.json").display().to_string());
        fs::write(&file, request)?;
        hq.run(&["site", "certify", SITE, &file.display().to_string(), "-o", &reply])?;
        let onlooker = Hardware { address: Some(lan.address(99)), tpm: false, ..Hardware::nuc("ONLOOKER") };
        let onlooker = Machine::new(&lan, "onlooker", onlooker)?;
        for (pods, machine) in [("10.244.1.0/24", "10.77.0.11"), ("10.244.2.0/24", "10.77.0.12")] {
            onlooker.run("ip", &["route", "add", pods, "via", machine])?;
        }
        Ok(Self { first, second, onlooker, hq })
    }

    /// What is answered to the onlooker at this address, once it is what was waited for.
    pub fn answered(&self, what: &str, url: &str, accept: impl Fn(&str) -> bool) -> Result<String> {
        let ask = || {
            let words = ["-sk", "--max-time", "10", url];
            let said = self.onlooker.run("curl", &words).map_err(|error| error.to_string())?;
            if accept(&said) { Ok(said) } else { Err(said) }
        };
        Ok(wait::until(what, PATIENCE, ask)?)
    }

    /// Name and address of a Pod of the shop on each machine, once both run.
    pub fn pods(&self) -> Result<Vec<(String, String)>> {
        let list = format!("{API}/api/v1/namespaces/shop/pods");
        Ok(running(&self.answered("two Pods", &list, |said| running(said).len() == 2)?))
    }
}

/// Name and address of each Pod of a list that runs.
fn running(list: &str) -> Vec<(String, String)> {
    let list: serde_json::Value = serde_json::from_str(list).unwrap_or_default();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let running = items.into_iter().filter(|pod| pod["status"]["phase"] == "Running");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    running.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]))).collect()
}

/// Registers a machine for its slot; the request of a provisioner in its TPM.
fn register(hq: &Hq, programs: &Programs, vm: &mut Vm, [serial, slot]: [&str; 2]) -> Result<String> {
    let (row, request) = on_bench(vm, programs, &hq.owner_file())?;
    let mut rows = Csv::default();
    rows.add(&row, &[("serial", serial), ("site", SITE), ("slot", slot)]);
    hq.import(&rows.text())?;
    Ok(request)
}

/// At the depot: the machine's row, and the request of its provisioner. Nothing of that stays on it.
fn on_bench(vm: &mut Vm, programs: &Programs, owner: &Path) -> Result<(String, String)> {
    let folder = tempfile::tempdir()?;
    let path = programs.provisioner.parent().context("the folder of programs")?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let node_boot = |tpm: &Path, words: &[&str]| {
        let mut command = Command::new(&programs.node_boot);
        command.arg("register").args(words).args(["--state", &at("state"), "--dmi", &at("dmi")]);
        command.arg("--owner").arg(owner).args(["--tpm", &format!("unix:{}", tpm.display())]);
        run(command.env("PATH", path))
    };
    let done = vm.on_bench(|tpm| {
        let request = node_boot(tpm, &["--csr", SITE, "--provisioner", &at("provisioner")])?;
        Ok((node_boot(tpm, &["--csv"])?, request))
    });
    done?.context("the machine has no TPM")?
}
