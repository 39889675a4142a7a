//! A real control plane of one: etcd, API server, controller manager and scheduler, with a PKI made by kubeadm.

use crate::assets::{Assets, KUBERNETES};
use crate::error::{Result, io, run};
use crate::folder::Folder;
use crate::lan::{Lan, Port};
use crate::process::Process;
use crate::room::{Plan, Room};
use crate::wait::until;
use std::ffi::OsStr;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The two bindings by which kubeadm's bootstrap-token phase lets nodes approve their own certificates.
const SELF_APPROVAL: [[&str; 3]; 2] = [
    ["kubeadm:node-autoapprove-bootstrap", "nodeclient", "system:bootstrappers:kubeadm:default-node-token"],
    ["kubeadm:node-autoapprove-certificate-rotation", "selfnodeclient", "system:nodes"],
];

/// In what a cluster differs from the plain one.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether nodes may approve their own certificates, as after `kubeadm init` with bootstrap tokens.
    pub self_approval: bool,
    /// Whether the controller manager signs approved certificate requests.
    pub signer: bool,
    /// How long a Node may be silent before it is not Ready; at least 2 s, Kubernetes' own default is 50 s.
    pub node_grace: Duration,
    /// More arguments for the API server, such as `--default-unreachable-toleration-seconds=2`.
    pub api_arguments: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        let node_grace = Duration::from_secs(50);
        Self { self_approval: false, signer: true, node_grace, api_arguments: Vec::new() }
    }
}

/// A running control plane at one address of a LAN.
#[derive(Debug)]
pub struct ControlPlane {
    address: Ipv4Addr,
    assets: Assets,
    options: Options,
    api: Option<Process>,
    others: Vec<Process>,
    port: Port,
    room: Room,
    folder: Folder,
}

impl ControlPlane {
    /// Starts a cluster and waits until its API is ready.
    pub fn start(lan: &Lan, address: Ipv4Addr, assets: &Assets, options: Options) -> Result<Self> {
        let folder = Folder::new("control")?;
        let room = Room::open(Plan { name: "control-plane", path: assets.path(), ..Plan::default() })?;
        let port = lan.attach(&room, "control-plane", Some(address))?;
        let assets = assets.clone();
        let mut plane = Self { address, assets, options, api: None, others: Vec::new(), port, room, folder };
        plane.make_pki()?;
        plane.start_etcd()?;
        plane.start_api()?;
        plane.start_controllers()?;
        plane.bind_roles()?;
        Ok(plane)
    }

    /// `https://<address>:6443`.
    pub fn url(&self) -> String {
        format!("https://{}:6443", self.address)
    }

    /// A file of the cluster's `/etc/kubernetes`: `super-admin.conf`, `pki/ca.crt`, `pki/sa.key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `kubectl` as cluster administrator and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.kubectl_command().args(arguments))
    }

    /// Applies a manifest in YAML or JSON.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let file = self.file("apply.yaml");
        fs::write(&file, manifest).map_err(io("write", file.display()))?;
        run(self.kubectl_command().args(["apply", "-f"]).arg(file))
    }

    /// Waits until `kubectl` with these arguments prints what `accept` accepts, and returns that.
    pub fn kubectl_until(
        &self,
        what: &str,
        deadline: Duration,
        arguments: &[&str],
        accept: impl Fn(&str) -> bool,
    ) -> Result<String> {
        until(what, deadline, || match self.kubectl(arguments) {
            Ok(said) if accept(&said) => Ok(said),
            Ok(said) => Err(said),
            Err(error) => Err(error.to_string()),
        })
    }

    /// A new kubeconfig whose certificate says this user and these groups, signed with the cluster's CA key.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<String> {
        let mut kubeadm = self.room.command(self.assets.program("kubeadm"));
        kubeadm
            .args(["kubeconfig", "user", "--client-name", user, "--config"])
            .arg(self.file("kubeadm.yaml"));
        for group in groups {
            kubeadm.args(["--org", group]);
        }
        run(&mut kubeadm)
    }

    /// A command that runs beside the API server.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.room.command(program)
    }

    /// What a person types before a command to run it beside the API server.
    pub fn by_hand(&self) -> String {
        self.room.by_hand()
    }

    /// Runs `work` on a thread of this process whose sockets are beside the API server.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.room.inside(work)
    }

    /// The cable of the control plane.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// `kill -9` of the API server.
    pub fn kill_api(&mut self) {
        if let Some(mut api) = self.api.take() {
            api.kill();
        }
    }

    /// Stops (`true`) or continues (`false`) the API server: connections stay open and nothing answers.
    pub fn freeze_api(&self, frozen: bool) {
        if let Some(api) = &self.api {
            api.freeze(frozen);
        }
    }

    /// Starts the API server, if it is down, and waits until it is ready.
    pub fn start_api(&mut self) -> Result<()> {
        if self.api.is_none() {
            let arguments = self.api_arguments();
            self.api = Some(self.start_program("kube-apiserver", &arguments)?);
        }
        let ready = ["get", "--raw", "/readyz"];
        until("the API server to be ready", Duration::from_mins(1), || {
            if let Some(api) = &mut self.api
                && !api.running()
            {
                return Err(api.last_words());
            }
            run(self.kubectl_command().args(ready)).map(drop).map_err(|error| error.to_string())
        })
    }

    /// Everything that the programs of the control plane have printed, for a failure message.
    pub fn last_words(&self) -> String {
        let all: Vec<_> = self.api.iter().chain(&self.others).map(Process::last_words).collect();
        all.join("\n\n")
    }

    fn kubectl_command(&self) -> Command {
        let mut kubectl = self.room.command(self.assets.program("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.file("super-admin.conf"));
        kubectl.arg("--cache-dir").arg(self.file("kubectl-cache"));
        kubectl
    }

    fn make_pki(&self) -> Result<()> {
        let pki = self.file("pki");
        let config = format!(
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nlocalAPIEndpoint: {{advertiseAddress: {0}}}\n\
             nodeRegistration: {{name: control-plane}}\n---\napiVersion: kubeadm.k8s.io/v1beta4\n\
             kind: ClusterConfiguration\nkubernetesVersion: {KUBERNETES}\ncertificatesDir: {1}\n\
             controlPlaneEndpoint: {0}:6443\napiServer: {{certSANs: [127.0.0.1, localhost]}}\n",
            self.address,
            pki.display()
        );
        let file = self.file("kubeadm.yaml");
        fs::write(&file, config).map_err(io("write", file.display()))?;
        let phase = |name: &str| {
            let mut kubeadm = self.room.command(self.assets.program("kubeadm"));
            kubeadm.args(["init", "phase", name, "all", "--config"]).arg(&file);
            kubeadm
        };
        run(&mut phase("certs"))?;
        run(phase("kubeconfig").arg("--kubeconfig-dir").arg(self.folder.path())).map(drop)
    }

    fn start_etcd(&mut self) -> Result<()> {
        let pki = |name: &str| self.file("pki/etcd").join(name).display().to_string();
        let address = self.address;
        let arguments = [
            "--name=control-plane".into(),
            format!("--data-dir={}", self.file("etcd").display()),
            format!("--listen-client-urls=https://127.0.0.1:2379,https://{address}:2379"),
            format!("--advertise-client-urls=https://{address}:2379"),
            format!("--listen-peer-urls=https://{address}:2380"),
            format!("--initial-advertise-peer-urls=https://{address}:2380"),
            format!("--initial-cluster=control-plane=https://{address}:2380"),
            format!("--cert-file={}", pki("server.crt")),
            format!("--key-file={}", pki("server.key")),
            format!("--trusted-ca-file={}", pki("ca.crt")),
            format!("--peer-cert-file={}", pki("peer.crt")),
            format!("--peer-key-file={}", pki("peer.key")),
            format!("--peer-trusted-ca-file={}", pki("ca.crt")),
            "--client-cert-auth=true".into(),
            "--peer-client-cert-auth=true".into(),
            // No test cuts the power of this very computer.
            "--unsafe-no-fsync=true".into(),
        ];
        let etcd = self.start_program("etcd", &arguments)?;
        self.others.push(etcd);
        Ok(())
    }

    fn api_arguments(&self) -> Vec<String> {
        let pki = |name: &str| self.file("pki").join(name).display().to_string();
        let mut arguments = vec![
            format!("--advertise-address={}", self.address),
            "--allow-privileged=true".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--etcd-cafile={}", pki("etcd/ca.crt")),
            format!("--etcd-certfile={}", pki("apiserver-etcd-client.crt")),
            format!("--etcd-keyfile={}", pki("apiserver-etcd-client.key")),
            "--etcd-servers=https://127.0.0.1:2379".into(),
            format!("--kubelet-client-certificate={}", pki("apiserver-kubelet-client.crt")),
            format!("--kubelet-client-key={}", pki("apiserver-kubelet-client.key")),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", pki("sa.pub")),
            format!("--service-account-signing-key-file={}", pki("sa.key")),
            "--service-cluster-ip-range=10.96.0.0/12".into(),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
        ];
        arguments.extend(self.options.api_arguments.iter().cloned());
        arguments
    }

    fn start_controllers(&mut self) -> Result<()> {
        let pki = |name: &str| self.file("pki").join(name).display().to_string();
        let config = self.file("controller-manager.conf").display().to_string();
        let signer = if self.options.signer { "" } else { ",-certificatesigningrequest-signing-controller" };
        let manager = [
            format!("--kubeconfig={config}"),
            format!("--authentication-kubeconfig={config}"),
            format!("--authorization-kubeconfig={config}"),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
            "--use-service-account-credentials=true".into(),
            format!("--root-ca-file={}", pki("ca.crt")),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
            format!("--service-account-private-key-file={}", pki("sa.key")),
            format!("--node-monitor-grace-period={}s", self.options.node_grace.as_secs()),
            "--node-monitor-period=1s".into(),
            // Its usual 20 questions a second make its own start take four seconds longer.
            "--kube-api-qps=500".into(),
            "--kube-api-burst=500".into(),
            format!("--controllers=*{signer}"),
        ];
        let config = self.file("scheduler.conf").display().to_string();
        let scheduler = [
            format!("--kubeconfig={config}"),
            format!("--authentication-kubeconfig={config}"),
            format!("--authorization-kubeconfig={config}"),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
        ];
        let manager = self.start_program("kube-controller-manager", &manager)?;
        let scheduler = self.start_program("kube-scheduler", &scheduler)?;
        self.others.extend([manager, scheduler]);
        Ok(())
    }

    /// The rights that `kubeadm init` gives beside the certificates.
    fn bind_roles(&self) -> Result<()> {
        let bind = |name: &str, role: &str, group: &str| {
            let (role, group) = (format!("--clusterrole={role}"), format!("--group={group}"));
            self.kubectl(&["create", "clusterrolebinding", name, &role, &group]).map(drop)
        };
        bind("kubeadm:cluster-admins", "cluster-admin", "kubeadm:cluster-admins")?;
        for [name, role, group] in SELF_APPROVAL.iter().filter(|_| self.options.self_approval) {
            bind(name, &format!("system:certificates.k8s.io:certificatesigningrequests:{role}"), group)?;
        }
        Ok(())
    }

    fn start_program(&self, name: &str, arguments: &[String]) -> Result<Process> {
        let mut command = self.room.command(self.assets.program(name));
        command.args(arguments);
        Process::start(name, command, &self.file(&format!("{name}.log")))
    }
}
