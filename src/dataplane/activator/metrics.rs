//! What an activator shows beside its requests: those under way, and whether it reaches the autoscaler.

use crate::dataplane::activator::backends::Backends;
use crate::dataplane::activator::load::Load;
use crate::observe::metrics::knative::SCOPE_LABELS;
use crate::observe::metrics::{MOST_REVISIONS, Page, Source};

const SCOPE: &str = "knative.dev/serving/pkg/activator";

/// The requests under way.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) backends: Backends,
    pub(super) load: Load,
}

impl Source for UnderWay {
    fn show(&self, page: &mut Page<'_>) {
        let [scope, schema, version] = SCOPE_LABELS;
        let mut revisions = self.backends.under_way();
        revisions.sort_unstable();
        revisions.truncate(MOST_REVISIONS);
        let labels = ["k8s_namespace_name", "kn_revision_name", scope, schema, version];
        page.gauges(
            "kn_revision_request_queued",
            "Requests that wait for a pod.",
            labels,
            revisions.iter().map(|(key, queued, _)| ([key.namespace(), key.name(), SCOPE, "", ""], *queued as u64)),
        );
        page.gauges(
            "kn_revision_request_active",
            "Requests at a pod.",
            labels,
            revisions.iter().map(|(key, _, active)| ([key.namespace(), key.name(), SCOPE, "", ""], *active as u64)),
        );
        let concurrency = self.load.concurrency();
        let told: Vec<_> = revisions
            .iter()
            .map(|(key, ..)| (self.backends.labels(key), concurrency.get(key).copied().unwrap_or(0.0)))
            .collect();
        page.gauges(
            "kn_revision_request_concurrency",
            "Requests in flight on average over the last second, as the autoscaler was told.",
            [
                "k8s_namespace_name",
                "kn_configuration_name",
                "kn_revision_name",
                "kn_service_name",
                scope,
                schema,
                version,
            ],
            told.iter().map(|(labels, concurrency)| {
                let (key, configuration, service) = (&labels.key, &*labels.configuration, &*labels.service);
                ([key.namespace(), configuration, key.name(), service, SCOPE, "", ""], *concurrency)
            }),
        );
        let of_peer = ["peer", scope, schema, version];
        page.gauges(
            "kn_activator_stats_conn_reachable",
            "Whether the autoscaler is connected, 1 or 0.",
            of_peer,
            [(["autoscaler", SCOPE, "", ""], u64::from(self.load.is_connected()))],
        );
        page.counters(
            "kn_activator_stats_conn_errors_total",
            "Times the autoscaler could not be connected or the connection was lost.",
            of_peer,
            [(["autoscaler", SCOPE, "", ""], self.load.failures())],
        );
    }
}
