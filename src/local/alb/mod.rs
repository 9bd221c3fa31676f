//! The double of a cloud's load balancer ("ALB") and of the controller that programs it from Ingress objects.
//!
//! It does what the documentation of the ALB Ingress controller says, as strictly as it can be read, and as badly as a
//! cloud may: every address follows late and in its own time, a group may be emptied before it is filled, one object that
//! is wrong stops every change of rules, and a group without servers answers 503. So it is both a gateway for a local
//! cluster and the judge of what Ebb writes.
//!
//! Reading order: [`annotations`] (what an Ingress says), [`balancer`] (rules, groups, addresses; no clock, no sockets), `tls`
//! (certificates), this file (objects in, requests through).
//!
//! # Edges
//!
//! - A certificate is for the hosts an Ingress names it for, whatever it says itself. A host without one gets no TLS.
//! - Real controllers pass over endpoints without a pod behind them; here every ready endpoint counts.
//! - A server that cannot be reached is a 502 at once. A request is never sent twice.

pub mod annotations;
pub mod balancer;
mod tls;

use crate::api::alb_config::AlbConfig;
use crate::clock::Clock;
use crate::dataplane::body::{self, Body};
use crate::dataplane::headers;
use crate::dataplane::proxy::{Exchange, Protocol, Proxy, Settings};
use crate::dataplane::server::{self, Stop};
use crate::dataplane::services::Services;
use crate::k8s::cache::Cache;
use crate::k8s::events::Events;
use crate::k8s::flow::Flow;
use crate::k8s::follow::follow;
use crate::k8s::slim::Guarded;
use crate::units::RevisionKey;
use balancer::{Balancer, Fault, GroupKey, Manners, Outcome, Refusal, compile, groups, key};
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use k8s_openapi::api::core::v1::{Endpoints, Secret};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Client, Resource as _};
use rustls::sign::CertifiedKey;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tls::Certificates;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// The controller whose IngressClasses are obeyed.
pub const CONTROLLER: &str = "ingress.k8s.alibabacloud/alb";
/// The name in the status of an Ingress.
pub const HOSTNAME: &str = "alb.local.invalid";

/// How a double is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// The AlbConfig it stands for.
    pub config: String,
    /// How many addresses it has.
    pub addresses: usize,
    /// How it follows.
    pub manners: Manners,
    /// Decides how late each change is.
    pub seed: u64,
}

/// What became of requests.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answered by a server, whatever it said.
    pub forwarded: AtomicU64,
    /// 503: the group had no server.
    pub empty: AtomicU64,
    /// 502: the server could not be reached or did not answer.
    pub lost: AtomicU64,
    /// 503: no rule took them.
    pub no_rule: AtomicU64,
}

/// The load balancer and its controller. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Alb {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    clock: Clock,
    services: Services,
    proxy: Proxy,
    balancer: Mutex<Balancer>,
    ingresses: Cache<Ingress>,
    classes: Cache<IngressClass>,
    configs: Cache<AlbConfig>,
    secrets: Cache<Secret>,
    endpoints: Cache<Endpoints>,
    certificates: Arc<Certificates>,
    refused: Mutex<Vec<Refusal>>,
    stopped: AtomicBool,
    changed: Notify,
    counters: Counters,
}

impl Alb {
    /// A load balancer without rules yet. Needs a tokio runtime.
    pub fn new(options: Options, clock: Clock, services: Services) -> Self {
        let balancer = Balancer::new(options.addresses, options.manners.clone(), options.seed);
        let proxy = Proxy::new(clock, Settings::default());
        Self {
            inner: Arc::new(Inner {
                options,
                clock,
                services,
                proxy,
                balancer: Mutex::new(balancer),
                ingresses: Cache::default(),
                classes: Cache::default(),
                configs: Cache::default(),
                secrets: Cache::default(),
                endpoints: Cache::default(),
                certificates: Arc::default(),
                refused: Mutex::default(),
                stopped: AtomicBool::new(false),
                changed: Notify::new(),
                counters: Counters::default(),
            }),
        }
    }

    /// What became of requests.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Objects that are wrong, because of which no rule changes.
    pub fn refused(&self) -> Vec<Refusal> {
        self.inner.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A fault: an address does not follow any more, or does again.
    pub fn set_stuck(&self, address: usize, stuck: bool) {
        self.balancer().set_stuck(address, stuck);
        self.inner.changed.notify_one();
    }

    /// A fault: the controller stops, or goes on.
    pub fn stop_controller(&self, stopped: bool) {
        self.inner.stopped.store(stopped, Ordering::Relaxed);
        self.inner.changed.notify_one();
    }

    /// Whether every address follows in full.
    pub fn is_settled(&self) -> bool {
        self.balancer().is_settled()
    }

    /// Follows the objects until `cancel`, and says on them what became of them.
    pub async fn follow(&self, client: Client, cancel: CancellationToken) {
        let inner = &self.inner;
        let ingresses: Api<Guarded<Ingress>> = Api::all(client.clone());
        let classes: Api<Guarded<IngressClass>> = Api::all(client.clone());
        let configs: Api<Guarded<AlbConfig>> = Api::all(client.clone());
        let secrets: Api<Guarded<Secret>> = Api::all(client.clone());
        let endpoints: Api<Guarded<Endpoints>> = Api::all(client.clone());
        let mut members = inner.services.changes();
        tokio::join!(
            follow(ingresses, watcher::Config::default(), cancel.clone(), |change| {
                inner.ingresses.take_in(change);
                inner.changed.notify_one();
            }),
            follow(classes, watcher::Config::default(), cancel.clone(), |change| {
                inner.classes.take_in(change);
                inner.changed.notify_one();
            }),
            follow(configs, watcher::Config::default(), cancel.clone(), |change| {
                inner.configs.take_in(change);
                inner.changed.notify_one();
            }),
            follow(secrets, watcher::Config::default(), cancel.clone(), |change| {
                inner.secrets.take_in(change);
                inner.changed.notify_one();
            }),
            follow(endpoints, watcher::Config::default(), cancel.clone(), |change| {
                inner.endpoints.take_in(change);
                inner.changed.notify_one();
            }),
            async {
                loop {
                    tokio::select! {
                        changed = members.changed() => if changed.is_err() { break },
                        () = cancel.cancelled() => break,
                    }
                    inner.changed.notify_one();
                }
            },
            self.control(&client, &cancel),
        );
    }

    /// Serves requests to one listener of one address until `stop`; one of the protocol HTTPS over TLS.
    pub async fn serve(&self, address: usize, port: (&str, u16), listener: TcpListener, stop: Stop) {
        let port = Arc::new((port.0.to_owned(), port.1));
        let this = self.clone();
        let secure = is_secure(&port).then(|| TlsAcceptor::from(tls::config(Arc::clone(&self.inner.certificates))));
        let handler = move |request| {
            let (this, port) = (this.clone(), Arc::clone(&port));
            async move { this.handle(address, &port, request).await }
        };
        match secure {
            Some(tls) => server::serve_tls(listener, server::MAX_CONNECTIONS, tls, handler, stop).await,
            None => server::serve(listener, server::MAX_CONNECTIONS, handler, stop).await,
        }
    }

    async fn handle(&self, address: usize, port: &(String, u16), mut request: Request<Body>) -> Response<Body> {
        if request.method() == Method::CONNECT {
            return body::text(StatusCode::METHOD_NOT_ALLOWED, "this is no forward proxy: CONNECT is not served\n");
        }
        let host = headers::host(&request);
        let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned();
        let outcome = {
            let balancer = self.balancer();
            let asked = (request.method(), host.as_str(), request.uri(), request.headers());
            balancer.route(address, port, asked, (rand::random_range(0.0..1.0), rand::random_range(0.0..1.0)))
        };
        let counters = &self.inner.counters;
        match outcome {
            Outcome::Forward { server, set, grpc, .. } => {
                headers::announce(&mut request, scheme(port));
                let mut exchange = Exchange::new(request);
                put(exchange.headers_mut(), set);
                let protocol = if grpc { Protocol::H2c } else { Protocol::Http1 };
                match self.inner.proxy.send(exchange, server, protocol, ()).await {
                    Ok(response) => {
                        counters.forwarded.fetch_add(1, Ordering::Relaxed);
                        response
                    }
                    Err(failure) => {
                        counters.lost.fetch_add(1, Ordering::Relaxed);
                        failure.error.response()
                    }
                }
            }
            Outcome::Fixed(fixed) => {
                let status = fixed.http_code.parse().unwrap_or(StatusCode::OK);
                let mut response = body::text(status, fixed.content);
                if let Ok(kind) = HeaderValue::try_from(fixed.content_type) {
                    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
                }
                response
            }
            Outcome::Redirect(to) => {
                let mut response = body::text(to.http_code.parse().unwrap_or(StatusCode::FOUND), "");
                if let Ok(place) = HeaderValue::try_from(place(&to, scheme(port), &host, request.uri())) {
                    response.headers_mut().insert(LOCATION, place);
                }
                response
            }
            Outcome::Empty(group) => {
                counters.empty.fetch_add(1, Ordering::Relaxed);
                let text = format!("the server group of {} of {} is empty\n", group.service, group.ingress);
                body::text(StatusCode::SERVICE_UNAVAILABLE, text)
            }
            Outcome::NoRule => {
                counters.no_rule.fetch_add(1, Ordering::Relaxed);
                body::text(StatusCode::SERVICE_UNAVAILABLE, format!("no rule for {host}\n"))
            }
        }
    }

    /// The controller: whenever something changed, or something is due.
    async fn control(&self, client: &Client, cancel: &CancellationToken) {
        let inner = &self.inner;
        let events = Events::new(Flow::new(client.clone(), inner.clock), inner.clock, "alb-ingress-controller");
        let synced = async { tokio::join!(inner.ingresses.synced(), inner.classes.synced(), inner.configs.synced()) };
        tokio::select! {
            _ = synced => {}
            () = cancel.cancelled() => return,
        }
        loop {
            if !inner.stopped.load(Ordering::Relaxed) {
                self.sync(client, &events).await;
            }
            let next = self.balancer().advance(inner.clock.now());
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(inner.clock.instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = inner.changed.notified() => {}
                () = due => {}
                () = cancel.cancelled() => return,
            }
        }
    }

    async fn sync(&self, client: &Client, events: &Events) {
        let inner = &self.inner;
        let Some(config) =
            inner.configs.select(|_, config| config.metadata.name.as_ref() == Some(&inner.options.config)).pop()
        else {
            return;
        };
        let listeners: Vec<(String, u16)> =
            config.spec.listeners.iter().map(|listener| (listener.protocol.clone(), listener.port)).collect();
        let mut ours = inner.ingresses.select(|_, ingress| self.is_ours(ingress));
        ours.sort_by_key(|ingress| key(ingress));
        let now = inner.clock.now();
        inner.certificates.set(self.certificates(&ours));
        match compile(&ours, &listeners, inner.options.manners.most_rules) {
            Ok(mut rules) => {
                for rule in &mut rules {
                    rule.misread(&inner.options.manners.faults);
                }
                let members = groups(&rules).into_iter().map(|group| self.members(group)).collect();
                self.balancer().want(now, rules, members);
                *inner.refused.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
                for ingress in &ours {
                    tell_address(client, ingress).await;
                }
            }
            Err(refused) => {
                // Rules stay as they are, of all objects. Servers come and go on their own.
                let mut balancer = self.balancer();
                let members = balancer.groups().into_iter().map(|group| self.members(group)).collect();
                balancer.want_members(now, members);
                drop(balancer);
                let mut known = inner.refused.lock().unwrap_or_else(PoisonError::into_inner);
                for refusal in refused.iter().filter(|refusal| !known.contains(refusal)) {
                    if let Some(ingress) = ours.iter().find(|ingress| key(ingress) == refusal.ingress) {
                        events.warn(ingress.object_ref(&()), "FailedBuildModel", &refusal.why);
                    }
                }
                *known = refused;
            }
        }
    }

    /// The certificates these Ingresses name, by host.
    fn certificates(&self, ingresses: &[Arc<Ingress>]) -> HashMap<String, Arc<CertifiedKey>> {
        let mut by_host = HashMap::new();
        for ingress in ingresses {
            for tls in ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten()) {
                let name = tls.secret_name.as_deref().unwrap_or_default();
                let secret = RevisionKey::new(key(ingress).namespace(), name);
                let read = self.inner.secrets.get(&secret).ok_or_else(|| "there is none".to_owned());
                match read.and_then(|secret| tls::certificate(&secret)) {
                    Ok(certificate) => {
                        let certificate = Arc::new(certificate);
                        let hosts = tls.hosts.iter().flatten();
                        by_host.extend(hosts.map(|host| (host.to_ascii_lowercase(), Arc::clone(&certificate))));
                    }
                    Err(why) => debug!(%secret, why, "a certificate cannot be used; its hosts are not served over TLS"),
                }
            }
        }
        by_host
    }

    fn members(&self, group: GroupKey) -> (GroupKey, Vec<SocketAddr>) {
        let service = RevisionKey::new(group.ingress.namespace(), &group.service);
        let mut servers = self.inner.services.backends(&service, group.port).unwrap_or_default().addresses;
        let faults = &self.inner.options.manners.faults;
        if faults.contains(&Fault::OwnPods) {
            let endpoints = self.inner.endpoints.get(&service);
            let subsets = endpoints.iter().flat_map(|endpoints| endpoints.subsets.iter().flatten());
            let foreign: HashSet<IpAddr> = subsets
                .flat_map(|subset| subset.addresses.iter().flatten())
                .filter(|address| {
                    let pod = address.target_ref.as_ref().and_then(|pod| pod.namespace.as_deref());
                    pod.is_some_and(|namespace| namespace != service.namespace())
                })
                .filter_map(|address| address.ip.parse().ok())
                .collect();
            servers.retain(|server| !foreign.contains(&server.ip()));
        }
        if let (true, Some(first)) = (faults.contains(&Fault::OnePort), servers.first().map(SocketAddr::port)) {
            servers.retain(|server| server.port() == first);
        }
        (group, servers)
    }

    fn is_ours(&self, ingress: &Ingress) -> bool {
        let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
        let classes = self.inner.classes.select(|_, one| one.metadata.name.as_deref() == class);
        classes.iter().filter_map(|one| one.spec.as_ref()).any(|spec| {
            spec.controller.as_deref() == Some(CONTROLLER)
                && spec.parameters.as_ref().is_some_and(|parameters| parameters.name == self.inner.options.config)
        })
    }

    fn balancer(&self) -> MutexGuard<'_, Balancer> {
        self.inner.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Alb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alb").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

fn is_secure(port: &(String, u16)) -> bool {
    port.0 == "HTTPS"
}

fn scheme(port: &(String, u16)) -> &'static str {
    if is_secure(port) { "https" } else { "http" }
}

/// Says on an Ingress where it is served, once.
async fn tell_address(client: &Client, ingress: &Ingress) {
    let told =
        ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref()?.first().cloned());
    if told.is_some_and(|told| told.hostname.as_deref() == Some(HOSTNAME)) {
        return;
    }
    let name = key(ingress);
    let api: Api<Ingress> = Api::namespaced(client.clone(), name.namespace());
    let status = json!({"status": {"loadBalancer": {"ingress": [{"hostname": HOSTNAME}]}}});
    if let Err(error) = api.patch_status(name.name(), &PatchParams::default(), &Patch::Merge(&status)).await {
        warn!(ingress = %name, %error, "the address was not written; tried again with the next change");
    }
}

fn put(headers: &mut HeaderMap, set: Vec<(HeaderName, Option<HeaderValue>, bool)>) {
    for (name, value, cover) in set {
        match value {
            Some(value) if cover || !headers.contains_key(&name) => {
                headers.insert(name, value);
            }
            Some(_) => {}
            None => {
                headers.remove(name);
            }
        }
    }
}

/// What is not said, or said with a placeholder, stays as it was asked for.
fn place(to: &annotations::Redirect, scheme: &str, host: &str, uri: &Uri) -> String {
    let or = |text: &str, placeholder: &str, asked: &str| {
        if text.is_empty() || text == placeholder { asked.to_owned() } else { text.to_owned() }
    };
    let protocol = or(&to.protocol, "${protocol}", scheme).to_ascii_lowercase();
    let host = or(&to.host, "${host}", host);
    let default = if protocol == "https" { "443" } else { "80" };
    let port = Some(or(&to.port, "${port}", default)).filter(|port| port != default).map(|port| format!(":{port}"));
    let path = or(&to.path, "${path}", uri.path());
    let query = or(&to.query, "${query}", uri.query().unwrap_or(""));
    let query = if query.is_empty() { query } else { format!("?{query}") };
    format!("{protocol}://{host}{}{path}{query}", port.unwrap_or_default())
}

/// What an API that does not know load balancers needs for one of this name: the kind, the object.
pub fn objects(name: &str) -> (serde_json::Value, serde_json::Value) {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "albconfigs.alibabacloud.com"},
        "spec": {
            "group": "alibabacloud.com", "scope": "Cluster",
            "names": {"kind": "AlbConfig", "listKind": "AlbConfigList", "plural": "albconfigs", "singular": "albconfig"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open}}}}],
        },
    });
    let config = json!({
        "apiVersion": "alibabacloud.com/v1", "kind": "AlbConfig", "metadata": {"name": name},
        "spec": {
            "config": {"name": name, "addressType": "Internet", "addressAllocatedMode": "Dynamic", "edition": "Standard",
                "zoneMappings": [{"vSwitchId": "vsw-a"}, {"vSwitchId": "vsw-b"}], "billingConfig": {"payType": "PostPay"}},
            "listeners": [
                {"port": 80, "protocol": "HTTP", "requestTimeout": 180, "idleTimeout": 60},
                {"port": 443, "protocol": "HTTPS", "requestTimeout": 180, "idleTimeout": 60},
            ],
        },
    });
    (definition, config)
}
