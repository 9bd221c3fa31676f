//! Where a gateway sends a request: hosts, paths, headers and percentages, as KIngresses say.
//!
//! The order is that of the load balancer's rules ([`translate`](super::translate)): the longer path first; of one path a
//! header the KIngress names before a user's header, that before a user's cookie, and the default last. A path is a prefix
//! of letters, not of segments: `/foo` takes `/foobar` too, as with every ingress of Knative's.

use crate::api::ingress::{HttpPath, Ingress, IngressSplit};
use crate::api::names::{
    DEFAULT_ROUTE_HEADER, NAMESPACE_HEADER, ORIGINAL_HOST_HEADER, PROXIED_HEADER, REVISION_HEADER,
};
use crate::routing::model::{
    COOKIES_ANNOTATION, CUSTOM_ANNOTATION, Condition, HEADERS_ANNOTATION, HeaderValues, KeyValue,
};
use crate::routing::translate::canary::{self, Kind};
use crate::routing::translate::{is_acme, is_default_path, version};
use crate::units::RevisionKey;
use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// The header that says which version of the rules is live, and the value by which it is asked for.
const HASH_HEADER: HeaderName = HeaderName::from_static("k-network-hash");
const HASH_ASKED: &[u8] = b"override";
/// How many names may lead to one another.
const MOST_REWRITES: usize = 3;

/// Routes by host.
#[derive(Default, Debug)]
pub struct Table {
    hosts: HashMap<String, Entry>,
    /// For hosts that have no entry.
    any: Option<Entry>,
}

#[derive(Debug)]
struct Entry {
    namespace: String,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    class: Class,
    path: Arc<HttpPath>,
    conditions: Vec<Condition>,
    /// Where it leads when that is not where the path leads.
    revision: Option<String>,
    of: Arc<Ingress>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Class {
    Header,
    UserHeader,
    UserCookie,
    Default,
}

/// Why a request has nowhere to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unrouted {
    /// Nobody serves its host.
    Host,
    /// Its host has no such path.
    Path,
    /// The route has no target yet.
    Nowhere,
}

/// Where a request goes.
#[derive(Debug)]
pub struct Routed<'a> {
    split: &'a IngressSplit,
    /// The canary that takes the place of the split's revision.
    revision: Option<&'a str>,
    /// The paths it came by: more than one when a host led to another.
    paths: Vec<&'a HttpPath>,
    of: &'a Ingress,
}

impl Table {
    /// The routes of these KIngresses. Of two namespaces that claim a host, the one that did so first has it. Hosts below
    /// `domain` are also served below `localhost`.
    pub fn of(ingresses: impl IntoIterator<Item = Arc<Ingress>>, domain: Option<&str>) -> Self {
        let mut ingresses: Vec<Arc<Ingress>> = ingresses.into_iter().collect();
        ingresses.sort_by_key(|ingress| {
            let meta = &ingress.metadata;
            let created = meta.creation_timestamp.as_ref().map(|time| time.0);
            (created.is_none(), created, meta.namespace.clone(), meta.name.clone())
        });
        let mut this = Self::default();
        for ingress in &ingresses {
            let mut is_first = true;
            for rule in &ingress.spec.rules {
                let paths: Vec<Arc<HttpPath>> =
                    rule.http.iter().flat_map(|http| http.paths.iter().cloned().map(Arc::new)).collect();
                let mut rules: Vec<Rule> = paths.iter().map(|path| Rule::plain(Arc::clone(path), ingress)).collect();
                // What users ask for by annotation is for the route itself, not for its tags.
                let default = paths.iter().find(|path| is_default_path(path));
                if let Some(default) = default {
                    rules.extend(by_annotation(ingress, &paths));
                    if std::mem::take(&mut is_first) {
                        this.custom(ingress, default);
                    }
                }
                for host in &rule.hosts {
                    if let Some(rest) = domain.and_then(|domain| host.strip_suffix(domain)?.strip_suffix('.')) {
                        this.add(&format!("{rest}.localhost"), ingress, &rules);
                    }
                    this.add(host, ingress, &rules);
                }
                if rule.hosts.is_empty() {
                    this.add("", ingress, &rules);
                }
            }
        }
        for entry in this.hosts.values_mut().chain(&mut this.any) {
            entry.rules.sort_by_key(|rule| {
                let conditions = if rule.class == Class::Header { rule.path.headers.len() } else { 0 };
                (Reverse(rule.path.path.trim_end_matches('/').len()), rule.class, Reverse(conditions))
            });
        }
        this
    }

    fn add(&mut self, host: &str, ingress: &Ingress, rules: &[Rule]) {
        let namespace = ingress.metadata.namespace.clone().unwrap_or_default();
        let fresh = || Entry { namespace: namespace.clone(), rules: Vec::new() };
        let entry = match host {
            "" => self.any.get_or_insert_with(fresh),
            host => self.hosts.entry(normal(host)).or_insert_with(fresh),
        };
        if entry.namespace == namespace {
            entry.rules.extend_from_slice(rules);
        }
    }

    /// Further hosts and paths a user named, which lead where the default does.
    fn custom(&mut self, ingress: &Arc<Ingress>, default: &HttpPath) {
        let Some(written) = annotation(ingress, CUSTOM_ANNOTATION) else { return };
        for entry in written.split(',').map(str::trim) {
            let (host, path) = entry.split_at(entry.find('/').unwrap_or(entry.len()));
            let path = HttpPath { path: path.to_owned(), ..default.clone() };
            if !host.is_empty() {
                self.add(host, ingress, &[Rule::plain(Arc::new(path), ingress)]);
            }
        }
    }

    /// Where a request goes; `dice`, from 0 to below 1, chooses among splits.
    pub fn route(&self, host: &str, path: &str, headers: &HeaderMap, dice: f64) -> Result<Routed<'_>, Unrouted> {
        let mut paths = Vec::new();
        let mut host = normal(host);
        // Whoever asks for the version asks that of the name it used.
        let mut of = None;
        loop {
            let entry = self.hosts.get(&host).or(self.any.as_ref()).ok_or(Unrouted::Host)?;
            let rule = entry.rules.iter().find(|rule| rule.takes(path, headers)).ok_or(Unrouted::Path)?;
            paths.push(&*rule.path);
            let of = *of.get_or_insert(&*rule.of);
            let next = normal(&rule.path.rewrite_host);
            // Another route of ours is entered here, without a way out and in again.
            if !next.is_empty() && self.hosts.contains_key(&next) && paths.len() < MOST_REWRITES {
                host = next;
                continue;
            }
            let split = choose_split(&rule.path.splits, dice).ok_or(Unrouted::Nowhere)?;
            return Ok(Routed { split, revision: rule.revision.as_deref(), paths, of });
        }
    }

    /// The hosts that have a route, in order.
    pub fn hosts(&self) -> Vec<&str> {
        let mut hosts: Vec<&str> = self.hosts.keys().map(String::as_str).collect();
        hosts.sort_unstable();
        hosts
    }
}

impl Routed<'_> {
    /// The Service it goes to.
    pub fn service(&self) -> RevisionKey {
        RevisionKey::new(&self.split.service_namespace, self.revision.unwrap_or(&self.split.service_name))
    }

    /// The Service and port, as the split has it.
    pub fn split(&self) -> &IngressSplit {
        self.split
    }

    /// The revision it goes to, where the split says that it is one.
    pub fn revision(&self) -> Option<RevisionKey> {
        let named = |header: &str| {
            let found = self.split.append_headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(header))?;
            Some(found.1.as_str()).filter(|value| !value.is_empty())
        };
        Some(RevisionKey::new(named(NAMESPACE_HEADER)?, self.revision.or(named(REVISION_HEADER))?))
    }

    /// Puts on what the route says and takes off what only a route may say, or an activator: a client that claimed to come
    /// from one would hide its load from the autoscaler. Who asks for the version of the rules is told.
    pub fn address(&self, headers: &mut HeaderMap) {
        for name in [REVISION_HEADER, NAMESPACE_HEADER, DEFAULT_ROUTE_HEADER, PROXIED_HEADER, ORIGINAL_HOST_HEADER] {
            headers.remove(name);
        }
        let of_paths = self.paths.iter().flat_map(|path| &path.append_headers);
        for (name, value) in of_paths.chain(&self.split.append_headers) {
            let value = match self.revision {
                Some(revision) if name.eq_ignore_ascii_case(REVISION_HEADER) => revision,
                _ => value,
            };
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        if headers.get(HASH_HEADER).is_some_and(|asked| asked.as_bytes() == HASH_ASKED)
            && let Ok(hash) = HeaderValue::try_from(version(self.of))
        {
            headers.insert(HASH_HEADER, hash);
        }
        let rewrite = self.paths.iter().rev().map(|path| &path.rewrite_host).find(|host| !host.is_empty());
        if let Some(host) = rewrite.and_then(|host| HeaderValue::try_from(host).ok())
            && let Some(original) = headers.insert(HOST, host)
        {
            headers.insert(ORIGINAL_HOST_HEADER, original);
        }
    }
}

impl Rule {
    fn plain(path: Arc<HttpPath>, of: &Arc<Ingress>) -> Self {
        let class = if path.headers.is_empty() { Class::Default } else { Class::Header };
        Self { class, path, conditions: Vec::new(), revision: None, of: Arc::clone(of) }
    }

    fn takes(&self, asked: &str, headers: &HeaderMap) -> bool {
        asked.starts_with(if self.path.path == "/" { "" } else { &self.path.path })
            && self.path.headers.iter().all(|(name, want)| {
                headers.get_all(name.as_str()).iter().any(|value| value.as_bytes() == want.exact.as_bytes())
            })
            && self.conditions.iter().all(|condition| is_met(condition, headers))
    }
}

/// The rules of the headers' and the cookies' annotation. One that cannot be read has none; whoever programs the load
/// balancer says so.
fn by_annotation(ingress: &Arc<Ingress>, paths: &[Arc<HttpPath>]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (key, kind, class) in
        [(HEADERS_ANNOTATION, Kind::Headers, Class::UserHeader), (COOKIES_ANNOTATION, Kind::Cookies, Class::UserCookie)]
    {
        let entries = annotation(ingress, key).and_then(|written| canary::parse(written, kind).ok());
        for entry in entries.unwrap_or_default() {
            for path in paths.iter().filter(|path| path.headers.is_empty() && !is_acme(&path.path)) {
                let revision = Some(entry.revision.clone());
                let conditions = entry.conditions.clone();
                rules.push(Rule { class, path: Arc::clone(path), conditions, revision, of: Arc::clone(ingress) });
            }
        }
    }
    rules
}

fn annotation<'a>(ingress: &'a Ingress, key: &str) -> Option<&'a str> {
    ingress.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn is_met(condition: &Condition, headers: &HeaderMap) -> bool {
    match condition {
        Condition::Header { config: HeaderValues { key, values } } => headers
            .get_all(key.as_str())
            .iter()
            .any(|value| values.iter().any(|pattern| is_like(pattern.as_bytes(), value.as_bytes()))),
        Condition::Cookie { config } => {
            let sent = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
            let mut pairs = sent.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
            pairs.any(|(name, value)| {
                let is_it = |KeyValue { key, value: want }: &KeyValue| name == key && value.eq_ignore_ascii_case(want);
                config.values.iter().any(is_it)
            })
        }
        // No user's annotation has one.
        Condition::Host { .. } => false,
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any letters and `?` for one. As long as both together, at most.
fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star is, and up to where it stands for letters.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(letter) if *letter == b'?' || *letter == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, until)) = star else { return false };
                star = Some((at, until + 1));
                (p, t) = (at + 1, until + 1);
            }
        }
    }
    pattern[p..].iter().all(|letter| *letter == b'*')
}

/// A host as it is looked up: lower case, without port and final dot.
pub fn normal(host: &str) -> String {
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    host.trim_end_matches('.').to_ascii_lowercase()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn split(name: &str, percent: i32) -> IngressSplit {
        let value = json!({"serviceName": name, "serviceNamespace": "default", "servicePort": 80, "percent": percent});
        serde_json::from_value(value).expect("a split")
    }

    /// A split of a revision, as a Route writes it.
    fn to(revision: &str) -> Value {
        json!({"serviceName": revision, "serviceNamespace": "default", "servicePort": 80, "percent": 100,
            "appendHeaders": {"Knative-Serving-Revision": revision, "Knative-Serving-Namespace": "default"}})
    }

    #[expect(clippy::needless_pass_by_value, reason = "literals")]
    fn path(prefix: &str, headers: Value, to: Value) -> Value {
        json!({"path": prefix, "headers": headers, "splits": [to]})
    }

    fn ingress(name: &str, annotations: &Value, hosts: &[&str], paths: &[Value]) -> Arc<Ingress> {
        let value = json!({
            "apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
            "metadata": {"name": name, "namespace": "default", "annotations": annotations},
            "spec": {"rules": [{"hosts": hosts, "http": {"paths": paths}}]},
        });
        Arc::new(serde_json::from_value(value).expect("a KIngress"))
    }

    fn sent(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn leads(table: &Table, host: &str, path: &str, headers: &HeaderMap) -> Result<String, Unrouted> {
        table.route(host, path, headers, 0.5).map(|routed| routed.service().name().to_owned())
    }

    #[test]
    fn the_longer_path_goes_first_and_of_one_path_headers_before_cookies_before_the_rest() {
        let annotations = json!({
            HEADERS_ANNOTATION: "[{revision: beta, headers: {x-user: 'in*?'}}]",
            COOKIES_ANNOTATION: "[{revision: gamma, cookies: {stay: yes, where: here}}]",
        });
        let paths = [
            path("/", json!({}), to("main")),
            path("", json!({"Knative-Serving-Tag": {"exact": "blue"}}), to("blue")),
            path("/api", json!({}), to("api")),
            path("/.well-known/acme-challenge/token", json!({}), to("solver")),
        ];
        let table = Table::of([ingress("web", &annotations, &["web.example.com"], &paths)], None);
        let (tag, user, cookie) =
            (("knative-serving-tag", "blue"), ("x-user", "insider"), ("cookie", "a=b; stay=YES; where=here"));
        for (asked, headers, want) in [
            ("/", &[][..], "main"),
            ("/api", &[], "api"),
            ("/api/v1", &[], "api"),
            ("/apis", &[], "api"),
            ("/other", &[], "main"),
            ("/other", &[tag], "blue"),
            ("/other", &[user, cookie], "beta"),
            ("/other", &[tag, user, cookie], "blue"),
            ("/other", &[cookie], "gamma"),
            ("/other", &[("cookie", "stay=yes")], "main"),
            ("/other", &[("x-user", "in")], "main"),
            ("/other", &[("x-user", "an insider")], "main"),
            ("/api", &[tag], "api"),
            ("/api", &[user], "beta"),
            ("/.well-known/acme-challenge/token", &[tag, user, cookie], "solver"),
        ] {
            assert_eq!(
                leads(&table, "web.example.com", asked, &sent(headers)),
                Ok(want.to_owned()),
                "{asked} {headers:?}"
            );
        }
    }

    #[test]
    fn hosts_are_compared_without_port_case_and_final_dot() {
        let table = Table::of(
            [ingress("web", &json!({}), &["hello.default.example.com"], &[path("/", json!({}), to("web"))])],
            Some("example.com"),
        );
        for host in ["hello.default.example.com", "HELLO.default.example.com:8080", "hello.default.example.com."] {
            assert_eq!(leads(&table, host, "/", &sent(&[])), Ok("web".to_owned()), "{host}");
        }
        assert_eq!(leads(&table, "hello.default.localhost:8080", "/", &sent(&[])), Ok("web".to_owned()));
        assert_eq!(leads(&table, "other.default.example.com", "/", &sent(&[])), Err(Unrouted::Host));
        assert_eq!(table.hosts(), ["hello.default.example.com", "hello.default.localhost"]);
    }

    #[test]
    fn what_has_no_route_says_what_it_lacks() {
        let mut waits = path("/waits", json!({}), to("x"));
        waits["splits"] = json!([]);
        let table = Table::of(
            [ingress("web", &json!({}), &["web.example.com"], &[path("/a", json!({}), to("a")), waits])],
            None,
        );
        for (host, asked, want) in [
            ("other.example.com", "/a", Err(Unrouted::Host)),
            ("web.example.com", "/b", Err(Unrouted::Path)),
            ("web.example.com", "/waits", Err(Unrouted::Nowhere)),
            ("web.example.com", "/a", Ok("a".to_owned())),
        ] {
            assert_eq!(leads(&table, host, asked, &sent(&[])), want, "{host}{asked}");
        }
    }

    #[test]
    fn the_first_namespace_keeps_a_host_and_shares_it_within() {
        let at = |ingress: Arc<Ingress>, namespace: &str, created: &str| {
            let mut ingress = Arc::unwrap_or_clone(ingress);
            ingress.metadata.namespace = Some(namespace.to_owned());
            let time = serde_json::from_value(json!(created)).expect("a time");
            ingress.metadata.creation_timestamp = Some(time);
            Arc::new(ingress)
        };
        let one = |name: &str, prefix: &str| {
            ingress(name, &json!({}), &["shop.example.com"], &[path(prefix, json!({}), to(name))])
        };
        let all = [
            at(one("late", "/late"), "another", "2026-03-01T00:00:00Z"),
            at(one("first", "/"), "default", "2026-01-01T00:00:00Z"),
            at(one("coffee", "/coffee"), "default", "2026-02-01T00:00:00Z"),
        ];
        let table = Table::of(all, None);
        for (asked, want) in [("/", "first"), ("/coffee/big", "coffee"), ("/late", "first")] {
            assert_eq!(leads(&table, "shop.example.com", asked, &sent(&[])), Ok(want.to_owned()), "{asked}");
        }
    }

    #[test]
    fn another_name_is_entered_here_and_a_circle_ends() {
        let mapping = |name: &str, host: &str, to_host: &str| {
            let mut path = path(
                "/",
                json!({}),
                json!({"serviceName": "placeholder", "serviceNamespace": "default",
                "servicePort": 80, "percent": 100}),
            );
            path["rewriteHost"] = to_host.into();
            ingress(name, &json!({}), &[host], &[path])
        };
        let all = [
            ingress("web", &json!({}), &["web.default.svc.cluster.local"], &[path("/", json!({}), to("web-00001"))]),
            mapping("shop", "shop.example.org", "web.default.svc.cluster.local"),
            mapping("elsewhere", "elsewhere.example.org", "not.ours.example.org"),
            mapping("a", "a.example.org", "b.example.org"),
            mapping("b", "b.example.org", "a.example.org"),
        ];
        let table = Table::of(all, None);
        let mut headers = sent(&[("host", "shop.example.org")]);
        let routed = table.route("shop.example.org", "/", &headers, 0.0).expect("a route");
        assert_eq!(routed.revision(), Some(RevisionKey::new("default", "web-00001")));
        routed.address(&mut headers);
        assert_eq!(headers["host"], "web.default.svc.cluster.local");
        assert_eq!(headers["k-original-host"], "shop.example.org");
        assert_eq!(headers["knative-serving-revision"], "web-00001");
        for (host, want) in [("elsewhere.example.org", "placeholder"), ("a.example.org", "placeholder")] {
            assert_eq!(leads(&table, host, "/", &sent(&[])), Ok(want.to_owned()), "{host}");
        }
    }

    #[test]
    fn a_client_cannot_say_what_only_a_route_or_an_activator_says() {
        let table = Table::of(
            [ingress("web", &json!({}), &["web.example.com"], &[path("/", json!({}), to("web-00001"))])],
            None,
        );
        let mut headers = sent(&[
            ("knative-serving-revision", "another"),
            ("knative-serving-namespace", "elsewhere"),
            ("knative-serving-default-route", "true"),
            // With this a pod would take its load to be told of by an activator already.
            ("k-proxy-request", "activator"),
            ("k-original-host", "another.example.com"),
            ("k-network-hash", "my own"),
            ("x-own", "1"),
        ]);
        table.route("web.example.com", "/", &headers, 0.0).expect("a route").address(&mut headers);
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [
                ("k-network-hash", "my own"),
                ("knative-serving-namespace", "default"),
                ("knative-serving-revision", "web-00001"),
                ("x-own", "1")
            ]
        );
    }

    #[test]
    fn each_split_sets_its_own_headers_after_those_of_the_path() {
        let with = |service: &str, value: &str| {
            json!({"serviceName": service, "serviceNamespace": "default", "servicePort": 80, "percent": 50,
                "appendHeaders": {"Foo": value}})
        };
        let path =
            json!({"appendHeaders": {"Foo": "path", "Bar": "path"}, "splits": [with("a", "one"), with("b", "two")]});
        let table = Table::of([ingress("web", &json!({}), &["web.example.com"], &[path])], None);
        for (dice, service, foo) in [(0.0, "a", "one"), (0.49, "a", "one"), (0.5, "b", "two"), (0.99, "b", "two")] {
            let mut headers = sent(&[("foo", "mine")]);
            let routed = table.route("web.example.com", "/", &headers, dice).expect("a route");
            assert_eq!((routed.service().name(), routed.revision()), (service, None));
            routed.address(&mut headers);
            assert_eq!((headers["foo"].as_bytes(), headers["bar"].as_bytes()), (foo.as_bytes(), &b"path"[..]));
        }
    }

    #[test]
    fn who_asks_for_the_version_is_told_that_of_the_kingress() {
        let ingress = ingress("web", &json!({}), &["web.example.com"], &[path("/", json!({}), to("web-00001"))]);
        let want = version(&ingress);
        let table = Table::of([ingress], None);
        let mut headers = sent(&[("k-network-hash", "override")]);
        table.route("web.example.com", "/", &headers, 0.0).expect("a route").address(&mut headers);
        assert_eq!(headers["k-network-hash"], *want);
        assert_eq!(want.len(), 64);
    }

    #[test]
    fn hosts_and_paths_of_an_annotation_lead_where_the_default_does() {
        let annotations = json!({CUSTOM_ANNOTATION: "cafe.example.org/coffee, tea.example.org"});
        let table =
            Table::of([ingress("web", &annotations, &["web.example.com"], &[path("/", json!({}), to("web"))])], None);
        for (host, asked, want) in [
            ("cafe.example.org", "/coffee/1", Ok("web".to_owned())),
            ("cafe.example.org", "/", Err(Unrouted::Path)),
            ("tea.example.org", "/", Ok("web".to_owned())),
        ] {
            assert_eq!(leads(&table, host, asked, &sent(&[])), want, "{host}{asked}");
        }
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

    /// The slow and plain way to say it.
    fn is_like_plainly(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| is_like_plainly(rest, &text[taken..])),
            ([b'?', pattern @ ..], [_, text @ ..]) => is_like_plainly(pattern, text),
            ([want, pattern @ ..], [letter, text @ ..]) => want == letter && is_like_plainly(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn wildcards_match_as_the_slow_way_says(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(is_like(pattern, text), is_like_plainly(pattern, text));
        }

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
