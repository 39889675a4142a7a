//! Proves, without the product, that a real kubelet and containerd reach Ready in a machine of the harness.

#![allow(clippy::unwrap_used)] // The lint exempts test functions and not what they call.

use harness::{Assets, ControlPlane, Hardware, Lan, Machine, Options, Process, missing_for_cluster, wait};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
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

const NODE_DEADLINE: Duration = Duration::from_mins(1);

#[test]
fn a_real_kubelet_is_ready_again_after_a_power_cut() {
    if let Some(why) = missing_for_cluster() {
        return harness::skip(&why);
    }
    let assets = Assets::find().unwrap();
    let start = Instant::now();
    let lap = |what: &str| eprintln!("{:6.2} s {what}", start.elapsed().as_secs_f64());
    let lan = Lan::new("recipe").unwrap();
    let options = Options { node_grace: Duration::from_secs(4), ..Options::default() };
    let plane = ControlPlane::start(&lan, lan.address(2), &assets, options).unwrap();
    lap("API ready");
    let hardware = Hardware { address: Some(lan.address(11)), tpm: false, ..Hardware::nuc("GEWS1240001X") };
    let mut machine = Machine::new(&lan, "spare", hardware).unwrap();
    configure(&machine, &plane);
    let running = start_node(&machine, &assets);
    lap("kubelet started");
    let node = ["get", "node", "spare", "--no-headers"];
    plane.kubectl_until("Node Ready", NODE_DEADLINE, &node, |said| said.contains(" Ready ")).unwrap();
    lap("Node Ready");
    plane.kubectl_until("the default account", NODE_DEADLINE, &["get", "sa", "default"], |_| true).unwrap();
    plane.apply(POD).unwrap();
    let pod = ["get", "pod", "hello", "-o", "jsonpath={.status.phase} {.status.podIP}"];
    let said =
        plane.kubectl_until("a Pod", NODE_DEADLINE, &pod, |said| said.starts_with("Running 10.")).unwrap();
    let (_, address) = said.split_once(' ').unwrap();
    lap("Pod running");
    let greeting = machine.inside(|| get(address)).unwrap();
    assert!(greeting.ends_with("hello from hello\n"), "{greeting}");

    machine.power_off();
    drop(running);
    lap("power cut");
    plane.kubectl_until("Node not Ready", NODE_DEADLINE, &node, |said| said.contains(" NotReady ")).unwrap();
    lap("Node not Ready");
    machine.power_on().unwrap();
    let _running = start_node(&machine, &assets);
    plane.kubectl_until("Node Ready", NODE_DEADLINE, &node, |said| said.contains(" Ready ")).unwrap();
    lap("Node Ready again");
}

fn configure(machine: &Machine, plane: &ControlPlane) {
    let kubeconfig = plane.kubeconfig_for("system:node:spare", &["system:nodes"]).unwrap();
    machine.write("/etc/kubernetes/kubelet.conf", kubeconfig).unwrap();
    machine.write("/etc/kubernetes/pki/ca.crt", fs::read(plane.file("pki/ca.crt")).unwrap()).unwrap();
    machine.write("/etc/kubernetes/kubelet.yaml", KUBELET).unwrap();
    machine.write("/etc/containerd/config.toml", CONTAINERD).unwrap();
    machine.write("/etc/cni/net.d/10-pods.conflist", CNI).unwrap();
}

fn get(address: &str) -> String {
    let mut stream = TcpStream::connect((address, 8080)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn start_node(machine: &Machine, assets: &Assets) -> [Process; 2] {
    let containerd = machine.spawn("containerd", machine.command("containerd").unwrap()).unwrap();
    for image in ["pause", "hello"] {
        let file = assets.image(image).display().to_string();
        let import = ["-n", "k8s.io", "images", "import", "--local", &file];
        let import = || machine.run("ctr", &import).map_err(|error| error.to_string());
        wait::until("containerd", Duration::from_secs(20), import).unwrap();
    }
    let mut kubelet = machine.command("kubelet").unwrap();
    kubelet.args(["--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.conf"]);
    kubelet.args(["--hostname-override=spare", "--node-ip=10.77.0.11", "--cert-dir=/var/lib/kubelet/pki"]);
    [containerd, machine.spawn("kubelet", kubelet).unwrap()]
}
