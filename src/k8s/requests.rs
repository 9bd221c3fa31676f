//! What the API server is asked, and what it answers, as the reference counts it.

use crate::clock::Clock;
use crate::observe::metrics::knative::{KUBERNETES_SCOPE, SCOPE_LABELS, SECONDS};
use crate::observe::metrics::{Histogram, Page, Source};
use crate::units::{Compat, Span};
use http::{Request, Uri};
use kube::Client;
use kube::client::Body;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Series of each kind that are kept apart; what is beyond is counted as a whole, under [`OTHER`]. A path with its names
/// taken out leaves some thirty, so this is never reached unless something is amiss.
const MOST: usize = 256;
/// Where what is beyond [`MOST`] is counted.
const OTHER: &str = "other";

/// Counts requests. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Requests {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    compat: Compat,
    scheme: String,
    host: String,
    port: String,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    /// By method and template.
    took: BTreeMap<(String, String), Histogram>,
    /// By method and code; the code is empty where the reference leaves it out.
    answered: BTreeMap<(String, String), u64>,
}

impl Requests {
    /// Counts requests to `server`.
    pub fn new(server: Option<&Uri>, clock: Clock, compat: Compat) -> Self {
        let scheme = server.and_then(Uri::scheme_str).unwrap_or_default().to_owned();
        let usual = match scheme.as_str() {
            "https" => "443",
            "http" => "80",
            _ => "",
        };
        let port = server.and_then(Uri::port_u16).map_or_else(|| usual.to_owned(), |port| port.to_string());
        let host = server.and_then(Uri::host).unwrap_or_default().to_owned();
        Self { shared: Arc::new(Shared { clock, compat, scheme, host, port, counted: Mutex::default() }) }
    }

    /// A client whose requests are counted.
    pub fn client(&self, client: Client) -> Client {
        let (namespace, valid_until) = (client.default_namespace().to_owned(), *client.valid_until());
        let requests = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (requests, client) = (requests.clone(), client.clone());
            async move {
                let method = request.method().as_str().to_owned();
                let template = template(request.uri().path());
                let started = requests.shared.clock.now();
                let answer = client.send(request).await;
                let took = requests.shared.clock.now().since(started);
                requests.note(method, template, took, answer.as_ref().ok().map(|answer| answer.status().as_u16()));
                answer
            }
        });
        Client::new(service, namespace).with_valid_until(valid_until)
    }

    fn note(&self, method: String, template: String, took: Span, code: Option<u16>) {
        let mut counted = self.lock();
        let key = (method.clone(), template);
        let key = if counted.took.len() < MOST || counted.took.contains_key(&key) {
            key
        } else {
            (OTHER.to_owned(), OTHER.to_owned())
        };
        counted.took.entry(key).or_insert_with(|| Histogram::new(SECONDS)).observe(took.seconds_f64());
        let Some(code) = code else { return };
        // The reference tells the code where it is 200 only.
        let told = code == 200 || self.shared.compat.live_metric_gauges;
        let key = (method, if told { code.to_string() } else { String::new() });
        let key = if counted.answered.len() < MOST || counted.answered.contains_key(&key) {
            key
        } else {
            (OTHER.to_owned(), OTHER.to_owned())
        };
        *counted.answered.entry(key).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.shared.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Requests {
    fn show(&self, page: &mut Page<'_>) {
        let Shared { scheme, host, port, .. } = &*self.shared;
        let counted = self.lock();
        let [name, schema, version] = SCOPE_LABELS;
        page.histograms(
            "http_client_request_duration_seconds",
            "How long the API server took to begin its answers, by what it was asked.",
            [
                "http_request_method",
                name,
                schema,
                version,
                "server_address",
                "server_port",
                "url_scheme",
                "url_template",
            ],
            counted.took.iter().map(|((method, template), took)| {
                ([method.as_str(), KUBERNETES_SCOPE, "", "", host, port, scheme, template], took)
            }),
        );
        let address = if port.is_empty() { host.clone() } else { format!("{host}:{port}") };
        page.counters(
            "kn_k8s_client_http_response_status_code_total",
            "Answers of the API server, by their code.",
            ["http_request_method", "http_response_status_code", name, schema, version, "server_address"],
            counted
                .answered
                .iter()
                .map(|((method, code), count)| ([method.as_str(), code, KUBERNETES_SCOPE, "", "", &*address], *count)),
        );
    }
}

/// A path of the API with the names taken out: what is left is bounded by the kinds there are.
fn template(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let group = match parts.first() {
        Some(&"api") => 2,
        Some(&"apis") => 3,
        // The version and what else is not of an object.
        _ => return path.to_owned(),
    };
    let mut out = String::with_capacity(path.len());
    let namespaced = parts.get(group) == Some(&"namespaces") && parts.len() > group + 2;
    let kind = if namespaced { group + 2 } else { group };
    for (place, part) in parts.iter().enumerate() {
        out.push('/');
        out.push_str(match place {
            place if namespaced && place == group + 1 => "{namespace}",
            place if place == kind + 1 => "{name}",
            _ => part,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::{Format, Registry};

    #[test]
    fn names_are_taken_out_of_paths() {
        for (path, want) in [
            ("/version", "/version"),
            (
                "/api/v1/namespaces/knative-serving/configmaps/config-network",
                "/api/v1/namespaces/{namespace}/configmaps/{name}",
            ),
            ("/api/v1/namespaces/default", "/api/v1/namespaces/{name}"),
            ("/api/v1/pods", "/api/v1/pods"),
            ("/apis/apps/v1/deployments", "/apis/apps/v1/deployments"),
            (
                "/apis/apps/v1/namespaces/default/deployments/demo-deployment/scale",
                "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale",
            ),
            (
                "/apis/coordination.k8s.io/v1/namespaces/x/leases",
                "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
            ),
        ] {
            assert_eq!(template(path), want);
        }
    }

    #[test]
    fn codes_are_told_and_series_are_bounded() {
        for (compat, code) in [(Compat::IMPROVED, "409"), (Compat::STRICT, "")] {
            let server: Uri = "https://10.96.0.1".parse().expect("an address");
            let requests = Requests::new(Some(&server), Clock::system(), compat);
            requests.note("PUT".to_owned(), "/x".to_owned(), Span::from_millis(3), Some(409));
            for number in 0..2 * MOST {
                requests.note("GET".to_owned(), format!("/{number}"), Span::from_millis(3), Some(200));
            }
            let registry = Registry::new(compat);
            registry.register(requests.clone());
            let text = registry.exposition(Format::Prometheus);
            assert!(text.contains(&format!(
                "kn_k8s_client_http_response_status_code_total{{http_request_method=\"PUT\",http_response_status_code=\"{code}\",\
                 otel_scope_name=\"knative.dev/pkg/observability/metrics/k8s\",otel_scope_schema_url=\"\",\
                 otel_scope_version=\"\",server_address=\"10.96.0.1:443\"}} 1\n"
            )), "{text}");
            assert_eq!(requests.lock().took.len(), MOST + 1);
        }
    }
}
