//! A gateway inside the cluster: routes by host, header, path and percentage, as the KIngress objects of its class say.
//!
//! A request goes to a ready endpoint of the Service its split names: to pods, or to an activator, whatever the
//! revision's public Service leads to at that moment. An endpoint that refuses the connection has seen nothing of the
//! request, so another is tried, and the endpoints are looked up anew each time: a revision on its way to zero or back
//! changes them within milliseconds. In an activator, requests for revisions it knows are its own and go no further way.

use crate::api::ingress::Ingress;
use crate::api::names::INGRESS_CLASS_ANNOTATION;
use crate::clock::Clock;
use crate::dataplane::body::{self, Body};
use crate::dataplane::headers;
use crate::dataplane::proxy::{Exchange, Protocol, Proxy};
use crate::dataplane::server::{self, Stop};
use crate::dataplane::services::Services;
use crate::k8s::cache::Cache;
use crate::k8s::follow::{Change, follow};
use crate::k8s::slim::Guarded;
use crate::routing::table::{Routed, Table, Unrouted, normal};
use crate::units::{RevisionKey, Span};
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, Version};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::runtime::watcher;
use kube::{Api, Client};
use std::fmt;
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long endpoints that cannot be reached are tried before the client is told.
const REACH_WITHIN: Span = Span::from_seconds(2);
/// Pause before the endpoints are looked up again.
const LOOK_AGAIN: Span = Span::from_millis(10);
/// Hosts named to a client that asked for another.
const HOSTS_NAMED: usize = 20;

/// What a gateway is started with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The class of KIngress it follows.
    pub class: String,
    /// A DNS domain of routes, such as `example.com`, whose hosts are also served below `localhost`, which browsers take
    /// for this machine.
    pub domain: Option<String>,
    /// Whether clients come here first. Then it is said of them anew what proxies say of a client, and what they say of
    /// themselves counts for nothing.
    pub first: bool,
}

/// Who takes requests for revisions in this process.
pub trait Inward: Send + Sync {
    /// Whether it takes requests for a revision.
    fn knows(&self, revision: &RevisionKey) -> bool;
    /// The answer to a request whose headers name a revision. Its version is that of the protocol the pods speak.
    fn answer(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>>;
}

/// The gateway. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Gateway {
    options: Options,
    clock: Clock,
    services: Services,
    proxy: Proxy,
    ingresses: Cache<Ingress>,
    table: Arc<RwLock<Arc<Table>>>,
    inward: Option<Arc<dyn Inward>>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway without routes yet. Needs a tokio runtime.
    pub fn new(options: Options, clock: Clock, services: Services) -> Self {
        let proxy = Proxy::new(clock, crate::dataplane::proxy::Settings::default());
        Self { options, clock, services, proxy, ingresses: Cache::default(), table: Arc::default(), inward: None }
    }

    /// The same, where requests for revisions stay in the process.
    #[must_use]
    pub fn with(self, inward: Arc<dyn Inward>) -> Self {
        Self { inward: Some(inward), ..self }
    }

    /// Follows the KIngress objects of its class until `cancel`; `changed` is told of each that came, changed or went,
    /// once its routes are in force.
    pub async fn follow(&self, client: Client, cancel: CancellationToken, changed: impl Fn(RevisionKey) + Send) {
        let api: Api<Guarded<Ingress>> = Api::all(client);
        let (mut is_synced, mut waiting) = (false, Vec::new());
        follow(api, watcher::Config::default(), cancel, |change| {
            let before = match &change {
                Change::Put(key, _) | Change::Gone(key) => self.ingresses.get(key),
                Change::Synced => None,
            };
            is_synced |= matches!(change, Change::Synced);
            let taken = self.ingresses.take_in(change);
            // Most changes are of a status; and what comes one by one at the start is put together once.
            let same = match (&taken, &before) {
                (Some((key, now)), Some(before)) => {
                    self.ingresses.get(key).is_some()
                        && now.spec == before.spec
                        && now.metadata.annotations == before.metadata.annotations
                }
                _ => false,
            };
            if is_synced && !same {
                self.rebuild();
                waiting.drain(..).for_each(&changed);
            }
            if let Some((key, _)) = taken {
                if is_synced { changed(key) } else { waiting.push(key) }
            }
        })
        .await;
    }

    /// A KIngress of its class, as last seen.
    pub fn ingress(&self, key: &RevisionKey) -> Option<Arc<Ingress>> {
        self.ingresses.get(key).filter(|ingress| self.is_ours(ingress))
    }

    /// Serves `listener` until `stop`.
    pub async fn serve(&self, listener: TcpListener, stop: Stop) {
        let this = self.clone();
        let handler = move |request| {
            let this = this.clone();
            async move { this.handle(request).await }
        };
        server::serve(listener, server::MAX_CONNECTIONS, handler, stop).await;
    }

    /// Passes one request on.
    pub async fn handle(&self, mut request: Request<Body>) -> Response<Body> {
        if request.method() == Method::CONNECT {
            return body::text(StatusCode::METHOD_NOT_ALLOWED, "this is no forward proxy: CONNECT is not served\n");
        }
        let table = Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner));
        let host = headers::host(&request);
        let host = host.as_ref().and_then(|host| host.to_str().ok()).map(normal).unwrap_or_default();
        let path = request.uri().path().to_owned();
        let routed = match table.route(&host, &path, request.headers(), rand::random_range(0.0..1.0)) {
            Ok(routed) => routed,
            Err(Unrouted::Host) if self.options.first => return unknown(&table, &host),
            // In a cluster others' routes are not the client's business.
            Err(Unrouted::Host) => return body::text(StatusCode::NOT_FOUND, format!("no route for host {host:?}\n")),
            Err(Unrouted::Path) => {
                return body::text(StatusCode::NOT_FOUND, format!("no route for {path} of {host}\n"));
            }
            Err(Unrouted::Nowhere) => {
                return body::text(StatusCode::SERVICE_UNAVAILABLE, format!("the route of {host} leads nowhere yet\n"));
            }
        };
        if self.options.first {
            headers::announce(&mut request, "http");
        }
        if let Some(host) = headers::host(&request) {
            headers::set_host(request.headers_mut(), host);
        }
        headers::drop_named(request.headers_mut());
        routed.address(request.headers_mut());
        if let (Some(inward), Some(revision)) = (&self.inward, routed.revision())
            && inward.knows(&revision)
        {
            speak(&mut request, is_h2c(&routed.split().service_port));
            return inward.answer(request).await;
        }
        self.deliver(Exchange::new(request), &routed).await
    }

    async fn deliver(&self, mut exchange: Exchange, routed: &Routed<'_>) -> Response<Body> {
        let service = routed.service();
        let port = match &routed.split().service_port {
            IntOrString::Int(port) => *port,
            IntOrString::String(_) => 80,
        };
        let give_up = self.clock.now() + REACH_WITHIN;
        loop {
            let backends = self.services.backends(&service, port).unwrap_or_default();
            let protocol = if backends.h2c { Protocol::H2c } else { Protocol::Http1 };
            let mut unreachable = None;
            let start = rand::random_range(0..backends.addresses.len().max(1));
            for address in backends.addresses.iter().cycle().skip(start).take(backends.addresses.len()) {
                match self.proxy.send(exchange, *address, protocol, ()).await {
                    Ok(response) => return response,
                    Err(failure) => match failure.exchange {
                        Some(whole) => {
                            exchange = *whole;
                            unreachable = Some(failure.error);
                        }
                        None => return failure.error.response(),
                    },
                }
            }
            if self.clock.now() >= give_up {
                return match unreachable {
                    Some(error) => error.response(),
                    None => body::text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        format!("Service {service} has no ready endpoint for port {port}\n"),
                    ),
                };
            }
            tokio::time::sleep(LOOK_AGAIN.to_std()).await;
        }
    }

    fn rebuild(&self) {
        let ours = self.ingresses.select(|_, ingress| self.is_ours(ingress));
        let table = Table::of(ours, self.options.domain.as_deref());
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    fn is_ours(&self, ingress: &Ingress) -> bool {
        let class = ingress.metadata.annotations.as_ref().and_then(|all| all.get(INGRESS_CLASS_ANNOTATION));
        class.is_some_and(|class| *class == self.options.class)
    }
}

/// Whether a port of a revision's Service is that for HTTP/2.
fn is_h2c(port: &IntOrString) -> bool {
    match port {
        IntOrString::Int(port) => *port == 81,
        IntOrString::String(name) => matches!(name.as_str(), "h2c" | "http2"),
    }
}

/// Gives a request the version of the protocol it goes on in. HTTP/2 has no upgrade.
fn speak(request: &mut Request<Body>, h2c: bool) {
    headers::join_cookies(request.headers_mut());
    if headers::wanted_upgrade(request.headers()).is_none() {
        *request.version_mut() = if h2c { Version::HTTP_2 } else { Version::HTTP_11 };
    }
}

fn unknown(table: &Table, host: &str) -> Response<Body> {
    let mut text = format!("no route for host {host:?}\n");
    let known = table.hosts();
    text.push_str(if known.is_empty() { "no service has a route yet\n" } else { "hosts that have one:\n" });
    for host in known.iter().take(HOSTS_NAMED) {
        writeln!(text, "  {host}").expect("writing to a string");
    }
    if known.len() > HOSTS_NAMED {
        writeln!(text, "  and {} more", known.len() - HOSTS_NAMED).expect("writing to a string");
    }
    body::text(StatusCode::NOT_FOUND, text)
}
