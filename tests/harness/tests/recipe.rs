//! Proves, without the product, that a real kubelet and containerd reach Ready in a machine of the harness.

use harness::{Assets, ControlPlane, Hardware, Lan, Machine, Options, Process, missing_for_cluster, wait};
use std::time::{Duration, Instant};

const CONTAINERD: &str = r"version = 4

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'localhost/pause:1'

[plugins.'io.containerd.cri.v1.runtime']
  # A machine without CAP_SYS_RESOURCE may not make a process less likely to be killed than itself.
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/opt/cni/bin']
  conf_dir = '/etc/cni/net.d'
";

const CNI: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "hairpinMode": true,
      "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.244.1.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] }
    }
  ]
}
"#;

const KUBELET: &str = r"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: { enabled: false }
  webhook: { enabled: true }
  x509: { clientCAFile: /etc/kubernetes/pki/ca.crt }
authorization: { mode: Webhook }
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false
makeIPTablesUtilChains: false
nodeStatusUpdateFrequency: 1s
resolvConf: /etc/resolv.conf
volumePluginDir: /var/lib/kubelet/volume-plugins
";

const POD: &str = r"apiVersion: v1
kind: Pod
metadata: { name: hello }
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - { name: hello, image: localhost/hello:1, imagePullPolicy: Never }
";

#[test]
fn a_real_kubelet_is_ready_and_its_pod_answers() {
    if let Some(why) = missing_for_cluster() {
        eprintln!("skipped: {why}");
        return;
    }
    let assets = Assets::find().unwrap();
    let start = Instant::now();
    let lap = |what: &str| eprintln!("{:6.2} s {what}", start.elapsed().as_secs_f64());
    let lan = Lan::new("recipe").unwrap();
    let plane = ControlPlane::start(&lan, lan.address(2), &assets, Options::default()).unwrap();
    lap("API ready");
    let mut machine = Machine::new(&lan, "spare", Hardware { address: Some(lan.address(11)), ..Hardware::nuc("S1") }).unwrap();
    lap("machine on");
    let kubeconfig = plane.kubeconfig_for("system:node:spare", &["system:nodes"]).unwrap();
    machine.write("/etc/kubernetes/kubelet.conf", kubeconfig).unwrap();
    machine.write("/etc/kubernetes/pki/ca.crt", std::fs::read(plane.file("pki/ca.crt")).unwrap()).unwrap();
    machine.write("/etc/kubernetes/kubelet.yaml", KUBELET).unwrap();
    machine.write("/etc/containerd/config.toml", CONTAINERD).unwrap();
    machine.write("/etc/cni/net.d/10-pods.conflist", CNI).unwrap();
    let _running = start_node(&machine, &assets);
    lap("kubelet started");
    let ready = |_: &str| plane.kubectl_until("Node Ready", Duration::from_secs(60), &["get", "node", "spare"], |said| {
        said.contains(" Ready ")
    });
    ready("").unwrap();
    lap("Node Ready");
    plane.kubectl_until("the default account", Duration::from_secs(30), &["get", "sa", "default"], |_| true).unwrap();
    plane.apply(POD).unwrap();
    let ip = ["get", "pod", "hello", "-o", "jsonpath={.status.phase} {.status.podIP}"];
    let said = plane.kubectl_until("a running Pod", Duration::from_secs(60), &ip, |said| said.starts_with("Running 10.")).unwrap();
    lap(&said);
    drop(_running);
    machine.power_off();
    lap("off");
}

fn start_node(machine: &Machine, assets: &Assets) -> [Process; 2] {
    let containerd = machine.spawn("containerd", machine.command("containerd").unwrap()).unwrap();
    for image in ["pause", "hello"] {
        let file = assets.image(image).display().to_string();
        let import = ["-n", "k8s.io", "images", "import", "--local", &file];
        wait::until("containerd", Duration::from_secs(20), || machine.run("ctr", &import).map_err(|e| e.to_string())).unwrap();
    }
    let mut kubelet = machine.command("kubelet").unwrap();
    kubelet.args(["--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.conf"]);
    kubelet.args(["--hostname-override=spare", "--node-ip=10.77.0.11", "--cert-dir=/var/lib/kubelet/pki"]);
    [containerd, machine.spawn("kubelet", kubelet).unwrap()]
}
