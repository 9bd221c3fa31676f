//! A control plane: etcd, kube-apiserver and, where a test asks for it, kube-controller-manager, on an address of
//! their own, with RBAC.

use crate::patience::eventually;
use crate::process::Process;
use ebb::local::apiserver::knative_definitions;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::KubeConfigOptions;
use kube::{Client, Config, ResourceExt as _};
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// Where Knative's system lives.
pub(crate) const SYSTEM: &str = "knative-serving";
/// Who may do everything.
pub(crate) const ADMIN: &str = "admin";
/// The account Ebb runs as.
pub(crate) const EBB: &str = "ebb-autoscaler";
/// Accounts for runs with fewer rights, `spare-0` and on.
const SPARES: usize = 64;

const ETCD_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;
const API_PORT: u16 = 6443;

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Assets(PathBuf);

impl Assets {
    /// The directory of `KUBEBUILDER_ASSETS`, if that has what it takes.
    ///
    /// # Errors
    /// Says what is missing.
    pub(crate) fn find() -> Result<Self, String> {
        let Some(directory) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|directory| !directory.is_empty()) else {
            return Err("KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver".to_owned());
        };
        let assets = Self(PathBuf::from(directory));
        match ["etcd", "kube-apiserver"].into_iter().find(|program| !assets.has(program)) {
            None => Ok(assets),
            Some(program) => Err(format!("KUBEBUILDER_ASSETS={} has no {program}", assets.0.display())),
        }
    }

    /// The second number of a program's version, such as 20 of 1.20.2.
    pub(crate) fn minor(&self, program: &str) -> u32 {
        let output = Command::new(self.0.join(program)).arg("--version").output().expect("its version");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or_else(|| panic!("no version: {text}"))
    }

    pub(crate) fn has(&self, program: &str) -> bool {
        self.0.join(program).is_file()
    }
}

/// A running control plane; everything of it ends when this is dropped.
pub(crate) struct Plane {
    assets: Assets,
    address: Ipv4Addr,
    identity: Identity,
    etcd: Mutex<Process>,
    api: Mutex<Option<Process>>,
    controllers: Option<Process>,
    directory: tempfile::TempDir,
}

impl Plane {
    /// Starts one and waits until it serves Knative's kinds and the namespace of its system.
    pub(crate) async fn start(assets: &Assets, with_controllers: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let address = free_address();
        let identity = Identity::new(address);
        write_secrets(directory.path(), &identity);
        let etcd = start_etcd(assets, directory.path(), address);
        let mut plane = Self {
            assets: assets.clone(),
            address,
            identity,
            etcd: Mutex::new(etcd),
            api: Mutex::new(None),
            controllers: None,
            directory,
        };
        plane.start_api();
        plane.ready().await;
        plane.furnish().await;
        if with_controllers {
            let kubeconfig = plane.kubeconfig(ADMIN).display().to_string();
            plane.controllers = Some(start_controllers(assets, plane.directory.path(), &kubeconfig));
        }
        plane
    }

    /// A client that is told of refusals and tries nothing again by itself.
    pub(crate) async fn client(&self, user: &str) -> Client {
        let mut config = self.config(user).await;
        config.default_retry = false;
        Client::try_from(config).expect("a client")
    }

    /// What a client of `user` is made from.
    pub(crate) async fn config(&self, user: &str) -> Config {
        let kubeconfig = serde_json::from_value(self.access(&self.server(), user)).expect("a kubeconfig");
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a configuration")
    }

    /// Writes a kubeconfig for `user`.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.kubeconfig_by_way_of(&self.server(), user)
    }

    /// Writes a kubeconfig for `user` that leads to `server`. Whoever reads the last one meanwhile reads it whole.
    pub(crate) fn kubeconfig_by_way_of(&self, server: &str, user: &str) -> PathBuf {
        let directory = self.directory.path();
        let path = directory.join(format!("{user}.kubeconfig"));
        let mut file = tempfile::NamedTempFile::new_in(directory).expect("a file");
        file.write_all(self.access(server, user).to_string().as_bytes()).expect("written");
        file.persist(&path).expect("renamed");
        path
    }

    fn server(&self) -> String {
        format!("https://{}:{API_PORT}", self.address)
    }

    /// The content of a kubeconfig for `user` that leads to `server`.
    fn access(&self, server: &str, user: &str) -> serde_json::Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": server,
                "certificate-authority-data": ByteString(self.identity.authority.clone().into()),
            }}],
            "users": [{"name": user, "user": {"token": token(user)}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        })
    }

    /// Who its server is.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What was asked of the API server so far, one JSON object a line.
    pub(crate) fn audit(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }

    /// Kills the API server.
    pub(crate) fn kill_api(&self) {
        self.api().take();
    }

    /// Starts the API server again.
    pub(crate) fn start_api(&self) {
        *self.api() = Some(start_api(&self.assets, self.directory.path(), self.address));
    }

    /// Stops etcd in its tracks, or lets it go on.
    pub(crate) fn freeze_etcd(&self, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        self.etcd.lock().unwrap_or_else(PoisonError::into_inner).signal(signal);
    }

    /// Waits until the API server says that it is ready.
    pub(crate) async fn ready(&self) {
        let client = self.client(ADMIN).await;
        eventually("the API server is ready", async || {
            let ended = self.ended();
            assert!(ended.is_none(), "{}", ended.unwrap_or_default());
            let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
            client.request_text(request).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    /// What ended that should not have, and its last words.
    pub(crate) fn ended(&self) -> Option<String> {
        let api = self.api().as_mut().and_then(Process::ended).map(|how| format!("kube-apiserver {how}"));
        let etcd = || self.etcd.lock().unwrap_or_else(PoisonError::into_inner).ended();
        api.or_else(|| etcd().map(|how| format!("etcd {how}")))
    }

    /// Makes the kinds and the namespace.
    async fn furnish(&self) {
        let client = self.client(ADMIN).await;
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        for definition in knative_definitions() {
            definitions.create(&PostParams::default(), &definition).await.expect("a definition");
        }
        for definition in knative_definitions() {
            let name = definition.name_any();
            eventually(&format!("{name} is served"), async || {
                let found = definitions.get(&name).await.map_err(|error| error.to_string())?;
                let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
                let served =
                    conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True");
                if served { Ok(()) } else { Err(format!("{conditions:?}")) }
            })
            .await;
        }
        let namespaces: Api<Namespace> = Api::all(client);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}});
        let apply = PatchParams::apply("cluster-test");
        namespaces.patch(SYSTEM, &apply, &Patch::Apply(namespace)).await.expect("a namespace");
    }

    fn api(&self) -> MutexGuard<'_, Option<Process>> {
        self.api.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the accounts that are allowed nothing yet.
pub(crate) fn spare(number: usize) -> String {
    assert!(number < SPARES, "there are {SPARES} spare accounts");
    format!("spare-{number}")
}

/// The name the API server knows an account of the system's namespace by.
pub(crate) fn account(name: &str) -> String {
    format!("system:serviceaccount:{SYSTEM}:{name}")
}

/// A loopback address nobody uses: the ports are the usual ones, so that a restarted server is found again.
fn free_address() -> Ipv4Addr {
    loop {
        // Far from where local clusters put their pods.
        let [b, c, d] = rand::random::<[u8; 3]>();
        let address = Ipv4Addr::new(127, 128 | b, c, d.clamp(1, 254));
        let free = |port| TcpListener::bind((address, port)).is_ok();
        if [ETCD_PORT, ETCD_PEER_PORT, API_PORT].into_iter().all(free) {
            return address;
        }
    }
}

fn token(user: &str) -> String {
    format!("token-of-{user}")
}

/// Who a server on `127.0.0.1` and on an address of its own is, and who says so.
pub(crate) struct Identity {
    authority: String,
    certificate: Certificate,
    key: KeyPair,
}

impl Identity {
    fn new(address: Ipv4Addr) -> Self {
        let authority_key = KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "authority of a test");
        let pem = authority.self_signed(&authority_key).expect("a certificate").pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().expect("a key");
        let names = vec![address.to_string(), Ipv4Addr::LOCALHOST.to_string()];
        let certificate = CertificateParams::new(names).and_then(|params| params.signed_by(&key, &issuer));
        Self { authority: pem, certificate: certificate.expect("a certificate"), key }
    }

    /// The authority's certificate as PEM.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// What a server of this identity needs.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().and_then(|config| {
                config.with_no_client_auth().with_single_cert(vec![self.certificate.der().clone()], key)
            });
        Arc::new(config.expect("a key that fits its certificate"))
    }
}

/// Certificates, keys, tokens and the audit policy.
fn write_secrets(directory: &Path, identity: &Identity) {
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).expect("a file");
    write("authority.crt", &identity.authority);
    write("server.crt", &identity.certificate.pem());
    write("server.key", &identity.key.serialize_pem());
    let key = KeyPair::generate().expect("a key");
    write("accounts.key", &key.serialize_pem());
    write("accounts.pub", &key.public_key_pem());

    let mut tokens = format!("{},{ADMIN},1,system:masters\n", token(ADMIN));
    let spares = (0..SPARES).map(spare);
    let accounts = format!("system:serviceaccounts:{SYSTEM}");
    for (number, name) in std::iter::once(EBB.to_owned()).chain(spares).enumerate() {
        let groups = format!("system:serviceaccounts,{accounts}");
        let _ = writeln!(tokens, "{},{},{},\"{groups}\"", token(&name), account(&name), number + 2);
    }
    write("tokens.csv", &tokens);
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {
                "level": "Request",
                "userGroups": [accounts],
                "verbs": ["patch"],
                "resources": [{"group": "apps", "resources": ["deployments/scale"]}],
            },
            {"level": "Metadata", "userGroups": [accounts]},
            {"level": "None"},
        ],
    });
    write("audit.yaml", &policy.to_string());
}

fn start_etcd(assets: &Assets, directory: &Path, address: Ipv4Addr) -> Process {
    let (client, peer) = (format!("http://{address}:{ETCD_PORT}"), format!("http://{address}:{ETCD_PEER_PORT}"));
    let arguments = [
        "--name=test".to_owned(),
        format!("--data-dir={}", directory.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=test={peer}"),
    ];
    Process::start(&assets.0.join("etcd"), &arguments, &[], directory.join("etcd.log"))
}

fn start_api(assets: &Assets, directory: &Path, address: Ipv4Addr) -> Process {
    let file = |name: &str| directory.join(name).display().to_string();
    let arguments = [
        format!("--etcd-servers=http://{address}:{ETCD_PORT}"),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        format!("--secure-port={API_PORT}"),
        format!("--cert-dir={}", directory.display()),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file("accounts.pub")),
        format!("--service-account-signing-key-file={}", file("accounts.key")),
        "--authorization-mode=RBAC".to_owned(),
        format!("--token-auth-file={}", file("tokens.csv")),
        // Who sets blockOwnerDeletion must have a right to the owner's finalizers, as on OpenShift.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".to_owned(),
        // Pods need no account here, and nobody would make one.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        // The Endpoints of the API server itself may not be a loopback address.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--audit-policy-file={}", file("audit.yaml")),
        format!("--audit-log-path={}", file("audit.log")),
        "--profiling=false".to_owned(),
    ];
    Process::start(&assets.0.join("kube-apiserver"), &arguments, &[], directory.join("kube-apiserver.log"))
}

fn start_controllers(assets: &Assets, directory: &Path, kubeconfig: &str) -> Process {
    let arguments = [
        format!("--kubeconfig={kubeconfig}"),
        "--leader-elect=false".to_owned(),
        // Nobody asks it anything.
        "--secure-port=0".to_owned(),
        // What the tests need of a cluster; the rest only costs.
        "--controllers=deployment,replicaset,garbagecollector,namespace,endpoint,endpointslice,podgc".to_owned(),
    ];
    let mut arguments = arguments.to_vec();
    if assets.minor("kube-controller-manager") < 24 {
        // Until then there was a second port, open to everybody.
        arguments.push("--port=0".to_owned());
    }
    let log = directory.join("kube-controller-manager.log");
    Process::start(&assets.0.join("kube-controller-manager"), &arguments, &[], log)
}
