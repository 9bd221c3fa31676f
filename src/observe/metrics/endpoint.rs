//! Where `GET /metrics` listens: `config-observability`, and the environment that beats it.
//!
//! The keys, the variables, their order and the range of ports are those of Knative's `knative.dev/pkg`
//! (`observability/metrics/prometheus`).

use crate::config::observability::{Metrics, MetricsProtocol};
use std::fmt;
use std::io;
use tokio::net::TcpListener;

/// The port, unless it is set.
pub const DEFAULT_PORT: u16 = 9090;
/// The lowest port that may be set.
const LOWEST_PORT: u16 = 1024;

/// The environment variable that sets the port.
pub const PORT_VARIABLE: &str = "METRICS_PROMETHEUS_PORT";
/// The environment variable that sets the host.
pub const HOST_VARIABLE: &str = "METRICS_PROMETHEUS_HOST";
/// The environment variables that ask for TLS on this port.
const TLS_VARIABLES: [&str; 8] = [
    "METRICS_PROMETHEUS_TLS_CERT",
    "METRICS_PROMETHEUS_TLS_KEY",
    "METRICS_PROMETHEUS_TLS_CLIENT_AUTH",
    "METRICS_PROMETHEUS_TLS_CLIENT_CA_FILE",
    "METRICS_PROMETHEUS_TLS_MIN_VERSION",
    "METRICS_PROMETHEUS_TLS_MAX_VERSION",
    "METRICS_PROMETHEUS_TLS_CIPHER_SUITES",
    "METRICS_PROMETHEUS_TLS_CURVE_PREFERENCES",
];

/// An address to listen on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// A name or an address without brackets; empty for every address there is.
    pub host: String,
    /// From 1024 up.
    pub port: u16,
}

/// Why metrics cannot be served as asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EndpointError {
    /// `metrics-endpoint` is not an address.
    #[error(
        "config-observability: metrics-endpoint {0:?} is not where to listen; write HOST:PORT or [HOST]:PORT, such as \
         0.0.0.0:9090, or remove it to listen on port {DEFAULT_PORT} of every address"
    )]
    Address(String),
    /// A port is not one, or too low.
    #[error(
        "{origin}: {port:?} is not a port for metrics; use one from {LOWEST_PORT} to 65535, or remove it to get \
         {DEFAULT_PORT}"
    )]
    Port {
        /// The variable or the key.
        origin: &'static str,
        /// What it holds.
        port: String,
    },
    /// TLS is asked for.
    #[error(
        "{0} is set, but Ebb serves metrics without TLS only; remove the METRICS_PROMETHEUS_TLS_ variables, or put a proxy \
         with TLS in front of the port"
    )]
    Tls(&'static str),
}

impl Endpoint {
    /// Where to listen; `None` when metrics are not to be scraped. `variable` reads the environment; a variable that is
    /// empty counts as not set.
    ///
    /// # Errors
    /// When what is set cannot be used. What is set for another protocol is not looked at.
    pub fn of(metrics: &Metrics, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, EndpointError> {
        if metrics.protocol != MetricsProtocol::Prometheus {
            return Ok(None);
        }
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        if let Some(name) = TLS_VARIABLES.into_iter().find(|name| variable(name).is_some()) {
            return Err(EndpointError::Tls(name));
        }
        let (mut host, mut port, mut origin) = (String::new(), DEFAULT_PORT.to_string(), "metrics-endpoint");
        if !metrics.endpoint.is_empty() {
            let address = || EndpointError::Address(metrics.endpoint.clone());
            (host, port) = split(&metrics.endpoint).ok_or_else(address)?;
        }
        if let Some(set) = variable(HOST_VARIABLE) {
            host = set;
        }
        if let Some(set) = variable(PORT_VARIABLE) {
            (port, origin) = (set, PORT_VARIABLE);
        }
        match port.parse::<u16>() {
            Ok(number) if LOWEST_PORT <= number => Ok(Some(Self { host, port: number })),
            _ => Err(EndpointError::Port { origin, port }),
        }
    }

    /// Listens there.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub async fn bind(&self) -> io::Result<TcpListener> {
        if !self.host.is_empty() {
            return TcpListener::bind((self.host.as_str(), self.port)).await;
        }
        // Both families on one socket; where there is no IPv6, the other alone.
        match TcpListener::bind(("::", self.port)).await {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(("0.0.0.0", self.port)).await,
            bound => bound,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Host and port, the host without its brackets.
fn split(address: &str) -> Option<(String, String)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains([':', ']']) => return None,
        None => host,
    };
    Some((bare.to_owned(), port.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use MetricsProtocol::{Grpc, Prometheus};

    fn endpoint(
        protocol: MetricsProtocol,
        endpoint: &str,
        variables: &[(&str, &str)],
    ) -> Result<Option<String>, EndpointError> {
        let metrics = Metrics { protocol, endpoint: endpoint.to_owned(), ..Metrics::default() };
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Endpoint::of(&metrics, variable).map(|endpoint| endpoint.map(|endpoint| endpoint.to_string()))
    }

    #[test]
    fn the_environment_beats_the_map_which_beats_the_default() {
        for (protocol, set, variables, want) in [
            (MetricsProtocol::None, "", &[][..], None),
            (Grpc, "collector:80", &[(PORT_VARIABLE, "1")], None),
            (Prometheus, "", &[], Some(":9090")),
            (Prometheus, "", &[(PORT_VARIABLE, ""), (HOST_VARIABLE, "")], Some(":9090")),
            (Prometheus, "10.0.0.1:9091", &[], Some("10.0.0.1:9091")),
            (Prometheus, ":9091", &[], Some(":9091")),
            (Prometheus, "[::1]:9091", &[(PORT_VARIABLE, "65535")], Some("[::1]:65535")),
            (Prometheus, "10.0.0.1:80", &[(PORT_VARIABLE, "1024"), (HOST_VARIABLE, "::")], Some("[::]:1024")),
            (Prometheus, "", &[("METRICS_PROMETHEUS_TLS_CERT", "")], Some(":9090")),
        ] {
            assert_eq!(endpoint(protocol, set, variables), Ok(want.map(str::to_owned)), "{set} {variables:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_way_out() {
        let port = |origin, port: &str| EndpointError::Port { origin, port: port.to_owned() };
        for (set, variables, want) in [
            ("nowhere", &[][..], EndpointError::Address("nowhere".to_owned())),
            ("::1:9090", &[], EndpointError::Address("::1:9090".to_owned())),
            (":80", &[], port("metrics-endpoint", "80")),
            (":", &[], port("metrics-endpoint", "")),
            ("", &[(PORT_VARIABLE, "1023")], port(PORT_VARIABLE, "1023")),
            ("", &[(PORT_VARIABLE, "65536")], port(PORT_VARIABLE, "65536")),
            ("", &[(PORT_VARIABLE, "http")], port(PORT_VARIABLE, "http")),
            ("", &[("METRICS_PROMETHEUS_TLS_KEY", "/key")], EndpointError::Tls("METRICS_PROMETHEUS_TLS_KEY")),
        ] {
            assert_eq!(endpoint(Prometheus, set, variables), Err(want), "{set} {variables:?}");
        }
        let text = endpoint(Prometheus, ":80", &[]).expect_err("too low").to_string();
        for part in ["metrics-endpoint", "\"80\"", "1024", "9090"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
