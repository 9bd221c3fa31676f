//! `config-observability`: where metrics and traces go, and whether the process can be profiled.

use crate::config::{ConfigError, Data, Reader, template};
use crate::units::{Compat, Span};

/// The name of the ConfigMap, unless `CONFIG_OBSERVABILITY_NAME` says otherwise.
pub const NAME: &str = "config-observability";

/// How metrics leave the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MetricsProtocol {
    /// They do not.
    #[default]
    None,
    /// They are scraped.
    Prometheus,
    /// They are sent by OTLP over gRPC.
    Grpc,
    /// They are sent by OTLP over HTTP.
    HttpProtobuf,
}

/// Where metrics go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metrics {
    /// How they leave the process.
    pub protocol: MetricsProtocol,
    /// Where they are sent, or for Prometheus where to listen (`host:port`); empty for the default place.
    pub endpoint: String,
    /// How often they are sent; zero for the protocol's default.
    pub export_interval: Span,
}

/// How traces leave the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TracingProtocol {
    /// They do not.
    #[default]
    None,
    /// They are printed.
    Stdout,
    /// They are sent by OTLP over gRPC.
    Grpc,
    /// They are sent by OTLP over HTTP.
    HttpProtobuf,
}

/// Where traces go.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tracing {
    /// How they leave the process.
    pub protocol: TracingProtocol,
    /// Where they are sent.
    pub endpoint: String,
    /// Which part of them is taken, 0 to 1.
    pub sampling_rate: f64,
}

/// What the process shows of itself.
#[derive(Clone, PartialEq, Debug)]
pub struct Observability {
    /// Where metrics go; taken at the start.
    pub metrics: Metrics,
    /// Where traces go; taken at the start.
    pub tracing: Tracing,
    /// Whether the profiling port answers; may change at any time.
    pub profiling: bool,
    /// The shortest time between two readings of the process's own state; zero for the default.
    pub runtime_export_interval: Span,
}

impl Default for Observability {
    fn default() -> Self {
        Self {
            metrics: Metrics::default(),
            tracing: Tracing::default(),
            profiling: false,
            runtime_export_interval: Span::from_seconds(15),
        }
    }
}

impl Observability {
    /// Reads the map; what belongs to the data path is checked too. With `compat.finite_settings` the sampling rate
    /// cannot be NaN.
    pub fn parse(data: &Data, compat: Compat) -> Result<Self, ConfigError> {
        let mut this = Self::default();
        let mut reader = Reader::new(NAME, data, compat);
        let r = &mut reader;
        tracing(r, &mut this.tracing);
        metrics(r, &mut this.metrics, ["metrics-protocol", "metrics-endpoint", "metrics-export-interval"]);
        let accepted = "\"enabled\" or \"disabled\"";
        r.read("runtime-profiling", &mut this.profiling, accepted, |text| match text.trim() {
            "enabled" => Ok(true),
            "disabled" => Ok(false),
            _ => Err("is neither enabled nor disabled".to_owned()),
        });
        interval(r, "runtime-export-interval", &mut this.runtime_export_interval);

        let of_requests = ["request-metrics-protocol", "request-metrics-endpoint", "request-metrics-export-interval"];
        metrics(r, &mut Metrics::default(), of_requests);
        let mut request_log = false;
        for key in ["logging.enable-var-log-collection", "logging.enable-probe-request-log"] {
            r.boolean(key, &mut false);
        }
        r.boolean("logging.enable-request-log", &mut request_log);
        let key = "logging.request-log-template";
        let mut log_template = "a template of Knative's own".to_owned();
        r.text(key, &mut log_template);
        let accepted = "a Go template, or \"false\" for logging.enable-request-log";
        r.refuse_if(request_log && log_template.is_empty(), &[key], "is no template", accepted);
        if let Err(problem) = template::check(&log_template) {
            r.problem(&[key], problem, accepted.to_owned());
        }
        reader.finish(this)
    }
}

/// Reads protocol, endpoint and interval from the three `keys`.
fn metrics(reader: &mut Reader<'_>, target: &mut Metrics, keys: [&'static str; 3]) {
    let [protocol, endpoint, export_interval] = keys;
    let accepted = "\"none\", \"prometheus\", \"grpc\" or \"http/protobuf\"";
    reader.read(protocol, &mut target.protocol, accepted, |text| match text.trim() {
        "none" => Ok(MetricsProtocol::None),
        "prometheus" => Ok(MetricsProtocol::Prometheus),
        "grpc" => Ok(MetricsProtocol::Grpc),
        "http/protobuf" => Ok(MetricsProtocol::HttpProtobuf),
        _ => Err("is not a protocol for metrics".to_owned()),
    });
    reader.text(endpoint, &mut target.endpoint);
    interval(reader, export_interval, &mut target.export_interval);
    let needed = matches!(target.protocol, MetricsProtocol::Grpc | MetricsProtocol::HttpProtobuf);
    let forbidden = target.protocol == MetricsProtocol::None;
    check_endpoint(reader, &target.endpoint, needed, forbidden, [endpoint, protocol]);
}

fn tracing(reader: &mut Reader<'_>, target: &mut Tracing) {
    let (protocol, endpoint, rate) = ("tracing-protocol", "tracing-endpoint", "tracing-sampling-rate");
    let accepted = "\"none\", \"grpc\", \"http/protobuf\" or \"stdout\"";
    reader.read(protocol, &mut target.protocol, accepted, |text| match text.trim() {
        "none" => Ok(TracingProtocol::None),
        "stdout" => Ok(TracingProtocol::Stdout),
        "grpc" => Ok(TracingProtocol::Grpc),
        "http/protobuf" => Ok(TracingProtocol::HttpProtobuf),
        _ => Err("is not a protocol for traces".to_owned()),
    });
    reader.text(endpoint, &mut target.endpoint);
    reader.float(rate, &mut target.sampling_rate);
    let outside = target.sampling_rate < 0.0 || target.sampling_rate > 1.0;
    reader.refuse_if(outside, &[rate], "is not between 0 and 1", "a number from 0 to 1");
    let needed = matches!(target.protocol, TracingProtocol::Grpc | TracingProtocol::HttpProtobuf);
    check_endpoint(reader, &target.endpoint, needed, !needed, [endpoint, protocol]);
}

fn check_endpoint(reader: &mut Reader<'_>, endpoint: &str, needed: bool, forbidden: bool, keys: [&'static str; 2]) {
    reader.refuse_if(needed && endpoint.is_empty(), &keys, "is no endpoint", "the address of a collector");
    let accepted = "an endpoint only with a protocol that sends to one";
    reader.refuse_if(forbidden && !endpoint.is_empty(), &keys, "has no protocol to go with", accepted);
}

fn interval(reader: &mut Reader<'_>, key: &'static str, target: &mut Span) {
    reader.span(key, target);
    reader.refuse_if(*target < Span::ZERO, &[key], "is negative", "a duration from 0s");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)], compat: Compat) -> Result<Observability, ConfigError> {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Observability::parse(&data, compat)
    }

    #[test]
    fn protocols_and_endpoints_go_together() {
        assert_eq!(parse(&[], Compat::IMPROVED), Ok(Observability::default()));
        let good = parse(
            &[
                ("metrics-protocol", "prometheus"),
                ("metrics-endpoint", "0.0.0.0:9091"),
                ("tracing-protocol", "grpc"),
                ("tracing-endpoint", "collector:4317"),
                ("tracing-sampling-rate", "0.5"),
                ("runtime-profiling", "enabled"),
                ("runtime-export-interval", "0"),
                ("logging.enable-request-log", "true"),
                ("logging.request-log-template", "{{.Request.Method}} {{js .Request.RequestURI}}"),
            ],
            Compat::IMPROVED,
        )
        .expect("a good map");
        assert_eq!(good.metrics.protocol, MetricsProtocol::Prometheus);
        assert_eq!(good.tracing.endpoint, "collector:4317");
        assert!(good.profiling);
        for (pairs, key) in [
            (&[("metrics-protocol", "grpc")][..], "metrics-endpoint"),
            (&[("metrics-endpoint", "x:1")], "metrics-endpoint"),
            (&[("metrics-protocol", "statsd")], "metrics-protocol"),
            (&[("metrics-export-interval", "-1s")], "metrics-export-interval"),
            (&[("request-metrics-protocol", "http/protobuf")], "request-metrics-endpoint"),
            (&[("tracing-protocol", "stdout"), ("tracing-endpoint", "x")], "tracing-endpoint"),
            (&[("tracing-sampling-rate", "1.1")], "tracing-sampling-rate"),
            (&[("runtime-profiling", "true")], "runtime-profiling"),
            (&[("runtime-export-interval", "-1ns")], "runtime-export-interval"),
            (&[("logging.enable-request-log", "on")], "logging.enable-request-log"),
            (
                &[("logging.enable-request-log", "true"), ("logging.request-log-template", " ")],
                "logging.request-log-template",
            ),
            (&[("logging.request-log-template", "{{.Request")], "logging.request-log-template"),
        ] {
            let error = parse(pairs, Compat::IMPROVED).expect_err(key);
            assert_eq!((error.problems.len(), error.problems[0].keys[0].as_str()), (1, key), "{error}");
        }
    }

    #[test]
    fn a_sampling_rate_is_finite_unless_strict() {
        let nan = &[("tracing-sampling-rate", "NaN")];
        assert!(parse(nan, Compat::IMPROVED).is_err());
        assert!(parse(nan, Compat::STRICT).is_ok());
    }
}
