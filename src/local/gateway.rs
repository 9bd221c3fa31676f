//! The way in: routes by host, header, path and percentage, as the KIngress objects of its class say.
//!
//! A request goes to a ready endpoint of the Service its split names: to pods, or to an activator, whatever the
//! revision's public Service leads to at that moment. An endpoint that refuses the connection has seen nothing of the
//! request, so another is tried, and the endpoints are looked up anew each time: a revision on its way to zero or back
//! changes them within milliseconds.

use crate::api::conditions::{ConditionSet, Conditions, settle_times};
use crate::api::ingress::{HttpPath, Ingress, IngressSplit, IngressStatus, LoadBalancerAddress, LoadBalancerStatus};
use crate::api::names::{DEFAULT_ROUTE_HEADER, INGRESS_CLASS_ANNOTATION, ORIGINAL_HOST_HEADER, PROXIED_HEADER};
use crate::clock::Clock;
use crate::controllers::writes;
use crate::dataplane::body::{self, Body};
use crate::dataplane::headers;
use crate::dataplane::proxy::{Exchange, Protocol, Proxy};
use crate::dataplane::server::{self, Stop};
use crate::k8s::cache::Cache;
use crate::k8s::follow::follow;
use crate::k8s::queue::{Lane, Queue, Turn, Workers};
use crate::k8s::slim::Guarded;
use crate::local::services::Services;
use crate::units::{RevisionKey, Span};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::runtime::watcher;
use kube::{Api, Client};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long endpoints that cannot be reached are tried before the client is told.
const REACH_WITHIN: Span = Span::from_seconds(2);
/// Pause before the endpoints are looked up again.
const LOOK_AGAIN: Span = Span::from_millis(10);
/// Hosts named to a client that asked for another.
const HOSTS_NAMED: usize = 20;

const CONDITIONS: ConditionSet = ConditionSet { dependents: &["LoadBalancerReady", "NetworkConfigured"] };

/// What a gateway is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The class of KIngress it follows.
    pub class: String,
    /// The DNS domain of routes, such as `example.com`. Hosts below it are also served below `localhost`, which
    /// browsers take for this machine.
    pub domain: String,
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
}

impl Gateway {
    /// A gateway without routes yet. Needs a tokio runtime.
    pub fn new(options: Options, clock: Clock, services: Services) -> Self {
        let proxy = Proxy::new(clock, crate::dataplane::proxy::Settings::default());
        Self { options, clock, services, proxy, ingresses: Cache::default(), table: Arc::default() }
    }

    /// Follows the KIngress objects of its class until `cancel`, and reports on them.
    pub async fn follow(&self, client: Client, cancel: CancellationToken) {
        let queue = Queue::new(self.clock);
        let api: Api<Guarded<Ingress>> = Api::all(client.clone());
        let changes = follow(api, watcher::Config::default(), cancel.clone(), |change| {
            if let Some((key, _)) = self.ingresses.take_in(change) {
                self.rebuild();
                queue.add(key, Lane::Fast);
            }
        });
        let reports = queue.run(Workers::each(4), cancel, |key| {
            let (this, client) = (self.clone(), client.clone());
            async move { this.report(&client, key).await }
        });
        tokio::join!(changes, reports);
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
        let Some(paths) = table.hosts.get(&host) else { return table.unknown(&host) };
        let Some(path) = choose_path(paths, request.uri().path(), request.headers()) else {
            return body::text(StatusCode::NOT_FOUND, format!("no route for {} of {host}\n", request.uri().path()));
        };
        let Some(split) = choose_split(&path.splits, rand::random_range(0.0..1.0)) else {
            return body::text(StatusCode::SERVICE_UNAVAILABLE, format!("the route of {host} leads nowhere yet\n"));
        };
        headers::announce(&mut request, "http");
        let mut exchange = Exchange::new(request);
        address(exchange.headers_mut(), path, split);
        self.deliver(exchange, split).await
    }

    async fn deliver(&self, mut exchange: Exchange, split: &IngressSplit) -> Response<Body> {
        let service = RevisionKey::new(&split.service_namespace, &split.service_name);
        let port = match &split.service_port {
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
        let mut keys = self.ingresses.keys();
        keys.sort();
        let objects = keys.iter().filter_map(|key| self.ingresses.get(key));
        let table = Table::of(objects.filter(|ingress| self.is_ours(ingress)), &self.options.domain);
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    fn is_ours(&self, ingress: &Ingress) -> bool {
        let class = ingress.metadata.annotations.as_ref().and_then(|all| all.get(INGRESS_CLASS_ANNOTATION));
        class.is_some_and(|class| *class == self.options.class)
    }

    /// Says on the KIngress that it is in force: the table is rebuilt before anybody gets here.
    async fn report(&self, client: &Client, key: RevisionKey) -> Turn {
        let Some(ingress) = self.ingresses.get(&key).filter(|ingress| self.is_ours(ingress)) else { return Turn::Done };
        let now = self.clock.now();
        let stored = ingress.status.clone().unwrap_or_default();
        let address = LoadBalancerStatus {
            ingress: vec![LoadBalancerAddress {
                domain_internal: "gateway.knative-serving.svc.cluster.local".to_owned(),
                ..LoadBalancerAddress::default()
            }],
        };
        let mut status = IngressStatus {
            observed_generation: ingress.metadata.generation.unwrap_or_default(),
            public_load_balancer: Some(address.clone()),
            private_load_balancer: Some(address),
            conditions: stored.conditions.clone(),
        };
        let mut conditions = Conditions::of(&CONDITIONS, &mut status.conditions, now);
        for type_ in CONDITIONS.dependents {
            conditions.mark_true(type_);
        }
        settle_times(&mut status.conditions, &stored.conditions, now);
        if status == stored {
            return Turn::Done;
        }
        let ingress = Ingress { status: Some(status), ..(*ingress).clone() };
        match writes::status(client, &key, ingress).await {
            Ok(_) => Turn::Done,
            Err(error) => {
                warn!(ingress = %key, %error, "status of the KIngress not written; tried again");
                Turn::Retry
            }
        }
    }
}

/// Routes by host.
#[derive(Default, Debug)]
struct Table {
    hosts: HashMap<String, Vec<HttpPath>>,
}

impl Table {
    /// Of two objects that claim a host the first by name has it.
    fn of(ingresses: impl Iterator<Item = Arc<Ingress>>, domain: &str) -> Self {
        let mut hosts: HashMap<String, Vec<HttpPath>> = HashMap::new();
        for ingress in ingresses {
            for rule in &ingress.spec.rules {
                let mut paths = rule.http.clone().unwrap_or_default().paths;
                paths.sort_by_key(|path| std::cmp::Reverse((path.headers.len(), path.path.len())));
                for host in &rule.hosts {
                    let alias = host.strip_suffix(domain).filter(|rest| rest.ends_with('.'));
                    if let Some(rest) = alias {
                        hosts.entry(normal(&format!("{rest}localhost"))).or_insert_with(|| paths.clone());
                    }
                    hosts.entry(normal(host)).or_insert_with(|| paths.clone());
                }
            }
        }
        Self { hosts }
    }

    fn unknown(&self, host: &str) -> Response<Body> {
        let mut text = format!("no route for host {host:?}\n");
        let mut known: Vec<&String> = self.hosts.keys().collect();
        known.sort();
        if known.is_empty() {
            text.push_str("no service has a route yet\n");
        } else {
            text.push_str("hosts that have one:\n");
        }
        for host in known.iter().take(HOSTS_NAMED) {
            writeln!(text, "  {host}").expect("writing to a string");
        }
        if known.len() > HOSTS_NAMED {
            writeln!(text, "  and {} more", known.len() - HOSTS_NAMED).expect("writing to a string");
        }
        body::text(StatusCode::NOT_FOUND, text)
    }
}

/// A host as it is looked up: lower case, without port and final dot.
fn normal(host: &str) -> String {
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// The first path, most specific first, that takes the request.
fn choose_path<'a>(paths: &'a [HttpPath], asked: &str, headers: &HeaderMap) -> Option<&'a HttpPath> {
    paths.iter().find(|path| {
        let prefix = path.path.trim_end_matches('/');
        let takes = asked.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        takes
            && path.headers.iter().all(|(name, want)| {
                headers.get_all(name.as_str()).iter().any(|value| value.as_bytes() == want.exact.as_bytes())
            })
    })
}

/// The split that `dice`, from 0 to below 1, falls on; a single one takes all whatever its percentage.
fn choose_split(splits: &[IngressSplit], dice: f64) -> Option<&IngressSplit> {
    if let [only] = splits {
        return Some(only);
    }
    let total: f64 = splits.iter().map(|split| f64::from(split.percent.max(0))).sum();
    let mut left = dice * total;
    splits.iter().filter(|split| split.percent > 0).find(|split| {
        left -= f64::from(split.percent);
        left < 0.0
    })
}

/// Puts on what the route says and takes off what only a route may say, or an activator: a client that claimed to come
/// from one would hide its load from the autoscaler.
fn address(headers: &mut HeaderMap, path: &HttpPath, split: &IngressSplit) {
    headers::drop_revision(headers);
    for name in [DEFAULT_ROUTE_HEADER, PROXIED_HEADER, ORIGINAL_HOST_HEADER] {
        headers.remove(name);
    }
    for (name, value) in path.append_headers.iter().chain(&split.append_headers) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    if !path.rewrite_host.is_empty()
        && let Ok(host) = HeaderValue::try_from(&path.rewrite_host)
    {
        if let Some(original) = headers.get(http::header::HOST).cloned() {
            headers.insert(ORIGINAL_HOST_HEADER, original);
        }
        headers::set_host(headers, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ingress::HeaderMatch;
    use proptest::prelude::*;

    fn split(name: &str, percent: i32) -> IngressSplit {
        IngressSplit {
            service_name: name.to_owned(),
            service_namespace: "default".to_owned(),
            service_port: IntOrString::Int(80),
            percent,
            ..IngressSplit::default()
        }
    }

    fn path(prefix: &str, headers: &[(&str, &str)]) -> HttpPath {
        let headers =
            headers.iter().map(|(name, exact)| ((*name).to_owned(), HeaderMatch { exact: (*exact).to_owned() }));
        HttpPath { path: prefix.to_owned(), headers: headers.collect(), ..HttpPath::default() }
    }

    #[test]
    fn headers_go_before_paths_and_long_prefixes_before_short_ones() {
        let mut paths = vec![path("", &[]), path("/api", &[]), path("", &[("knative-serving-tag", "blue")])];
        paths.sort_by_key(|path| std::cmp::Reverse((path.headers.len(), path.path.len())));
        let tagged =
            HeaderMap::from_iter([(HeaderName::from_static("knative-serving-tag"), HeaderValue::from_static("blue"))]);
        let plain = HeaderMap::new();
        for (asked, headers, want) in [
            ("/", &plain, ("", 0)),
            ("/api", &plain, ("/api", 0)),
            ("/api/v1", &plain, ("/api", 0)),
            ("/apis", &plain, ("", 0)),
            ("/api", &tagged, ("", 1)),
        ] {
            let got = choose_path(&paths, asked, headers).expect("the catch-all takes every request");
            assert_eq!((got.path.as_str(), got.headers.len()), want, "{asked}");
        }
    }

    #[test]
    fn hosts_are_compared_without_port_case_and_final_dot() {
        for host in ["hello.default.example.com", "HELLO.default.example.com:8080", "hello.default.example.com."] {
            assert_eq!(normal(host), "hello.default.example.com");
        }
    }

    #[test]
    fn a_client_cannot_say_what_only_a_route_or_an_activator_says() {
        let mut headers: HeaderMap = [
            ("knative-serving-revision", "another"),
            ("knative-serving-namespace", "elsewhere"),
            ("knative-serving-default-route", "true"),
            // With this a pod would take its load to be told of by an activator already.
            ("k-proxy-request", "activator"),
            ("k-original-host", "another.example.com"),
            ("x-own", "1"),
        ]
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .into_iter()
        .collect();
        let split = IngressSplit {
            append_headers: [("Knative-Serving-Revision".to_owned(), "hello-00001".to_owned())].into(),
            ..split("hello-00001", 100)
        };
        address(&mut headers, &path("", &[]), &split);
        let mut left: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        left.sort_unstable();
        assert_eq!(left, [("knative-serving-revision", &b"hello-00001"[..]), ("x-own", b"1")]);
    }

    #[test]
    fn percentages_nobody_would_write_are_added_up_all_the_same() {
        let splits = [split("a", i32::MAX), split("b", i32::MAX)];
        let chosen = |dice| choose_split(&splits, dice).map(|split| split.service_name.as_str());
        assert_eq!(
            [chosen(0.0), chosen(0.49), chosen(0.51), chosen(0.999)],
            [Some("a"), Some("a"), Some("b"), Some("b")]
        );
    }

    proptest! {
        #[test]
        fn a_split_gets_its_share_of_the_dice(percents in proptest::collection::vec(0..=100_i32, 1..6)) {
            prop_assume!(percents.iter().sum::<i32>() > 0);
            let splits: Vec<_> = percents.iter().enumerate().map(|(n, percent)| split(&n.to_string(), *percent)).collect();
            let throws = 10_000;
            let mut hits = vec![0; splits.len()];
            for n in 0..throws {
                let dice = (f64::from(n) + 0.5) / f64::from(throws);
                let chosen = choose_split(&splits, dice).expect("some split has a share");
                hits[chosen.service_name.parse::<usize>().expect("a number")] += 1;
            }
            let total: i32 = percents.iter().sum();
            if percents.len() > 1 {
                for (hit, percent) in hits.iter().zip(&percents) {
                    let share = f64::from(throws) * f64::from(*percent) / f64::from(total);
                    prop_assert!((f64::from(*hit) - share).abs() <= 1.5, "{hit} of {share}");
                }
            }
        }
    }
}
