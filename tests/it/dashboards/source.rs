//! The dashboards as their makers think of them: what each panel asks, and what it is for.
//!
//! In queries `%R` stands for the labels of the revisions chosen, `%N` for the same without the configuration, which some
//! series of the activator lack, `%Q` for those of their queue-proxies, and `%I` for the range of a rate.

use super::grafana::{AtZero, Dashboard, Panel, Row, Scope, Show};

const REVISIONS: &str =
    "k8s_namespace_name=~\"$namespace\",kn_configuration_name=~\"$configuration\",kn_revision_name=~\"$revision\"";
const NAMES: &str = "k8s_namespace_name=~\"$namespace\",kn_revision_name=~\"$revision\"";

/// A query with its short forms written out.
pub(super) fn written_out(query: &str) -> String {
    query
        .replace("%Q", "container=\"queue-proxy\",%R")
        .replace("%R", REVISIONS)
        .replace("%N", NAMES)
        .replace("%I", "[$__rate_interval]")
}

/// A panel; wide ones take half of the screen, narrow ones a sixth.
const fn panel(
    show: Show,
    title: &'static str,
    about: &'static str,
    unit: &'static str,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    let width = if matches!(show, Show::Number) { 4 } else { 12 };
    Panel { show, title, about, unit, queries, width, at_zero: AtZero::Data, colors: &[] }
}

const fn lines(
    title: &'static str,
    about: &'static str,
    unit: &'static str,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    panel(Show::Lines, title, about, unit, queries)
}

const fn number(
    title: &'static str,
    about: &'static str,
    unit: &'static str,
    queries: &'static [(&'static str, &'static str)],
) -> Panel {
    panel(Show::Number, title, about, unit, queries)
}

/// A number whose colour says whether somebody should look.
const fn colored(panel: Panel, colors: &'static [(f64, &'static str)]) -> Panel {
    Panel { colors, ..panel }
}

/// Good is none; from one on it is of this severity.
const RED_FROM_ONE: &[(f64, &str)] = &[(0.0, "green"), (1.0, "red")];
const ORANGE_FROM_ONE: &[(f64, &str)] = &[(0.0, "green"), (1.0, "orange")];

/// Without requests there is no answer to it.
const fn of_requests(panel: Panel) -> Panel {
    Panel { at_zero: AtZero::Nothing, ..panel }
}

/// From the kubelet of a cluster, which `ebb local` is none of.
const fn of_kubelet(panel: Panel) -> Panel {
    Panel { at_zero: AtZero::OnlyInCluster, ..panel }
}

const fn wide(panel: Panel) -> Panel {
    Panel { width: 24, ..panel }
}

pub(super) const ALL: &[Dashboard] =
    &[OVERVIEW, RESPONSE_TIME, REVISION, COLD_STARTS, ALB_GATE, CONTROL_PLANE, RESOURCES];

const OVERVIEW: Dashboard = Dashboard {
    file: "overview",
    title: "Ebb / Overview",
    about: "Requests, answers and pods of all revisions.",
    scope: Scope::Many,
    rows: &[
        Row {
            title: "Now",
            panels: &[
                number(
                    "Requests",
                    "Requests that pods have answered, each second.",
                    "reqps",
                    &[("", "sum(rate(http_server_request_duration_seconds_count{%Q}%I)) or vector(0)")],
                ),
                of_requests(colored(
                    number(
                        "Success",
                        "The part of the requests that was not answered with a status of 500 and above.",
                        "percentunit",
                        &[(
                            "",
                            "1 - (sum(rate(http_server_request_duration_seconds_count{%Q,http_response_status_code=~\"5..\"}%I)) or vector(0)) / (sum(rate(http_server_request_duration_seconds_count{%Q}%I)) > 0)",
                        )],
                    ),
                    &[(0.0, "red"), (0.99, "orange"), (0.999, "green")],
                )),
                number("Ready pods", "Pods that are ready.", "none", &[("", "sum(kn_revision_pods_count{%R})")]),
                number(
                    "At zero",
                    "Revisions without a ready pod.",
                    "none",
                    &[("", "count(kn_revision_pods_count{%R} == 0) or vector(0)")],
                ),
                number(
                    "In panic",
                    "Revisions whose last seconds need twice the pods they have, or more.",
                    "none",
                    &[("", "sum(kn_revision_panic_mode{%R})")],
                ),
                colored(
                    number(
                        "Waiting",
                        "Requests that wait in an activator for a pod.",
                        "none",
                        &[("", "sum(kn_revision_request_queued{%N})")],
                    ),
                    ORANGE_FROM_ONE,
                ),
            ],
        },
        Row {
            title: "Requests",
            panels: &[
                lines(
                    "Requests by revision",
                    "Requests that pods have answered, each second.",
                    "reqps",
                    &[(
                        "{{k8s_namespace_name}}/{{kn_revision_name}}",
                        "sum by (k8s_namespace_name, kn_revision_name) (rate(http_server_request_duration_seconds_count{%Q}%I)) or sum by (k8s_namespace_name, kn_revision_name) (0 * kn_revision_pods_desired{%R})",
                    )],
                ),
                lines(
                    "Answers by class",
                    "Answers of pods, each second, by the first digit of their status.",
                    "reqps",
                    &[
                        (
                            "1xx and 2xx",
                            "sum(rate(http_server_request_duration_seconds_count{%Q,http_response_status_code=~\"[12]..\"}%I)) or vector(0)",
                        ),
                        (
                            "3xx",
                            "sum(rate(http_server_request_duration_seconds_count{%Q,http_response_status_code=~\"3..\"}%I)) or vector(0)",
                        ),
                        (
                            "4xx",
                            "sum(rate(http_server_request_duration_seconds_count{%Q,http_response_status_code=~\"4..\"}%I)) or vector(0)",
                        ),
                        (
                            "5xx",
                            "sum(rate(http_server_request_duration_seconds_count{%Q,http_response_status_code=~\"5..\"}%I)) or vector(0)",
                        ),
                    ],
                ),
                of_requests(lines(
                    "Success by revision",
                    "The part of the requests that was not answered with a status of 500 and above.",
                    "percentunit",
                    &[(
                        "{{k8s_namespace_name}}/{{kn_revision_name}}",
                        "1 - (sum by (k8s_namespace_name, kn_revision_name) (rate(http_server_request_duration_seconds_count{%Q,http_response_status_code=~\"5..\"}%I)) or 0 * sum by (k8s_namespace_name, kn_revision_name) (rate(http_server_request_duration_seconds_count{%Q}%I))) / (sum by (k8s_namespace_name, kn_revision_name) (rate(http_server_request_duration_seconds_count{%Q}%I)) > 0)",
                    )],
                )),
                lines(
                    "Through activators",
                    "Answers that came by way of an activator, each second, by status. Those of 503 and 504 it gave itself, when no pod could be had.",
                    "reqps",
                    &[(
                        "{{http_response_status_code}}",
                        "sum by (http_response_status_code) (rate(http_server_request_duration_seconds_count{container=\"activator\",%R}%I))",
                    )],
                ),
            ],
        },
        Row {
            title: "Pods",
            panels: &[
                lines(
                    "Pods of all revisions",
                    "What is asked for, what is ready, and what is on its way in or out.",
                    "none",
                    &[
                        ("asked for", "sum(kn_revision_pods_requested{%R})"),
                        ("ready", "sum(kn_revision_pods_count{%R})"),
                        ("not ready", "sum(kn_revision_pods_not_ready_count{%R})"),
                        ("ending", "sum(kn_revision_pods_terminating_count{%R})"),
                    ],
                ),
                lines(
                    "Ready pods by revision",
                    "Pods that are ready.",
                    "none",
                    &[(
                        "{{k8s_namespace_name}}/{{kn_revision_name}}",
                        "sum by (k8s_namespace_name, kn_revision_name) (kn_revision_pods_count{%R})",
                    )],
                ),
                wide(panel(
                    Show::Table,
                    "Revisions",
                    "Each revision now. A click on its name opens it; the link at the top leads to the live page, which says why.",
                    "none",
                    &[
                        (
                            "Wanted",
                            "sum by (k8s_namespace_name, kn_configuration_name, kn_revision_name) (kn_revision_pods_desired{%R})",
                        ),
                        (
                            "Asked for",
                            "sum by (k8s_namespace_name, kn_configuration_name, kn_revision_name) (kn_revision_pods_requested{%R})",
                        ),
                        (
                            "Ready",
                            "sum by (k8s_namespace_name, kn_configuration_name, kn_revision_name) (kn_revision_pods_count{%R})",
                        ),
                        (
                            "Panic",
                            "sum by (k8s_namespace_name, kn_configuration_name, kn_revision_name) (kn_revision_panic_mode{%R})",
                        ),
                        (
                            "Spare for bursts",
                            "sum by (k8s_namespace_name, kn_configuration_name, kn_revision_name) (kn_revision_capacity_excess{%R})",
                        ),
                    ],
                )),
            ],
        },
    ],
};

const RESPONSE_TIME: Dashboard = Dashboard {
    file: "response-time",
    title: "Ebb / Response time",
    about: "How long requests take, and where.",
    scope: Scope::Many,
    rows: &[
        Row {
            title: "At the pods",
            panels: &[
                of_requests(lines(
                    "Response time",
                    "From the arrival at a pod to the last byte of the response, the wait for the container's limit included.",
                    "s",
                    &[
                        (
                            "50 %",
                            "histogram_quantile(0.5, sum by (le) (rate(http_server_request_duration_seconds_bucket{%Q}%I)))",
                        ),
                        (
                            "95 %",
                            "histogram_quantile(0.95, sum by (le) (rate(http_server_request_duration_seconds_bucket{%Q}%I)))",
                        ),
                        (
                            "99 %",
                            "histogram_quantile(0.99, sum by (le) (rate(http_server_request_duration_seconds_bucket{%Q}%I)))",
                        ),
                    ],
                )),
                of_requests(panel(
                    Show::Heatmap,
                    "Spread",
                    "How many requests took how long.",
                    "s",
                    &[("{{le}}", "sum by (le) (rate(http_server_request_duration_seconds_bucket{%Q}%I))")],
                )),
                of_requests(lines(
                    "The user's process",
                    "The same without the wait: from where the request went to the user's process.",
                    "s",
                    &[
                        (
                            "50 %",
                            "histogram_quantile(0.5, sum by (le) (rate(kn_serving_invocation_duration_seconds_bucket{%Q}%I)))",
                        ),
                        (
                            "95 %",
                            "histogram_quantile(0.95, sum by (le) (rate(kn_serving_invocation_duration_seconds_bucket{%Q}%I)))",
                        ),
                        (
                            "99 %",
                            "histogram_quantile(0.99, sum by (le) (rate(kn_serving_invocation_duration_seconds_bucket{%Q}%I)))",
                        ),
                    ],
                )),
                of_requests(lines(
                    "Wait in pods",
                    "How long requests waited on average for the container's limit, before the user's process took them.",
                    "s",
                    &[(
                        "{{k8s_namespace_name}}/{{kn_revision_name}}",
                        "clamp_min(sum by (k8s_namespace_name, kn_revision_name) (rate(http_server_request_duration_seconds_sum{%Q}%I)) - sum by (k8s_namespace_name, kn_revision_name) (rate(kn_serving_invocation_duration_seconds_sum{%Q}%I)), 0) / (sum by (k8s_namespace_name, kn_revision_name) (rate(http_server_request_duration_seconds_count{%Q}%I)) > 0)",
                    )],
                )),
                of_requests(lines(
                    "95 % by revision",
                    "The time within which 95 % of the requests at pods were answered.",
                    "s",
                    &[(
                        "{{k8s_namespace_name}}/{{kn_revision_name}}",
                        "histogram_quantile(0.95, sum by (k8s_namespace_name, kn_revision_name, le) (rate(http_server_request_duration_seconds_bucket{%Q}%I)))",
                    )],
                )),
                of_requests(lines(
                    "Longer than a second",
                    "The part of the requests at pods that took longer than a second.",
                    "percentunit",
                    &[(
                        "{{k8s_namespace_name}}/{{kn_revision_name}}",
                        "1 - sum by (k8s_namespace_name, kn_revision_name) (rate(http_server_request_duration_seconds_bucket{%Q,le=~\"1|1.0\"}%I)) / (sum by (k8s_namespace_name, kn_revision_name) (rate(http_server_request_duration_seconds_count{%Q}%I)) > 0)",
                    )],
                )),
            ],
        },
        Row {
            title: "Through activators",
            panels: &[
                lines(
                    "Response time",
                    "Of requests that came by way of an activator, the wait for a pod included. Cold starts are here.",
                    "s",
                    &[
                        (
                            "50 %",
                            "histogram_quantile(0.5, sum by (le) (rate(http_server_request_duration_seconds_bucket{container=\"activator\",%R}%I)))",
                        ),
                        (
                            "95 %",
                            "histogram_quantile(0.95, sum by (le) (rate(http_server_request_duration_seconds_bucket{container=\"activator\",%R}%I)))",
                        ),
                        (
                            "99 %",
                            "histogram_quantile(0.99, sum by (le) (rate(http_server_request_duration_seconds_bucket{container=\"activator\",%R}%I)))",
                        ),
                    ],
                ),
                lines(
                    "Requests in activators",
                    "Those that wait for a pod, and those at one.",
                    "none",
                    &[
                        ("waiting", "sum(kn_revision_request_queued{%N})"),
                        ("at a pod", "sum(kn_revision_request_active{%N})"),
                    ],
                ),
            ],
        },
    ],
};

const REVISION: Dashboard = Dashboard {
    file: "revision",
    title: "Ebb / Revision",
    about: "One revision as the autoscaler sees it.",
    scope: Scope::One,
    rows: &[
        Row {
            title: "Load",
            panels: &[
                lines(
                    "Load and capacity",
                    "What the revision has to do: the averages over its two windows, in requests in flight or, when it scales on rps, requests each second. More than the ready pods have at target brings more pods.",
                    "none",
                    &[
                        (
                            "stable window",
                            "sum(kn_revision_concurrency_stable{%R}) or sum(kn_revision_rps_stable_per_second{%R})",
                        ),
                        (
                            "panic window",
                            "sum(kn_revision_concurrency_panic{%R}) or sum(kn_revision_rps_panic_per_second{%R})",
                        ),
                        (
                            "ready pods at target",
                            "sum(kn_revision_concurrency_target{%R} * on (k8s_namespace_name, kn_revision_name) kn_revision_pods_count) or sum(kn_revision_rps_target_per_second{%R} * on (k8s_namespace_name, kn_revision_name) kn_revision_pods_count)",
                        ),
                    ],
                ),
                lines(
                    "Load of a pod",
                    "The averages over both windows for each ready pod (for the whole revision while there is none), and what one pod should have.",
                    "none",
                    &[
                        (
                            "stable window",
                            "(sum(kn_revision_concurrency_stable{%R}) or sum(kn_revision_rps_stable_per_second{%R})) / clamp_min(sum(kn_revision_pods_count{%R}), 1)",
                        ),
                        (
                            "panic window",
                            "(sum(kn_revision_concurrency_panic{%R}) or sum(kn_revision_rps_panic_per_second{%R})) / clamp_min(sum(kn_revision_pods_count{%R}), 1)",
                        ),
                        (
                            "target",
                            "max(kn_revision_concurrency_target{%R}) or max(kn_revision_rps_target_per_second{%R})",
                        ),
                    ],
                ),
            ],
        },
        Row {
            title: "Pods",
            panels: &[
                lines(
                    "Wanted and had",
                    "What the decider wants, what was asked of the Deployment within min-scale and max-scale, and what is ready.",
                    "none",
                    &[
                        ("wanted", "sum(kn_revision_pods_desired{%R})"),
                        ("asked for", "sum(kn_revision_pods_requested{%R})"),
                        ("ready", "sum(kn_revision_pods_count{%R})"),
                    ],
                ),
                lines(
                    "On the way",
                    "Pods that are alive and not ready, of these the ones that have not started, and pods that are ending.",
                    "none",
                    &[
                        ("not ready", "sum(kn_revision_pods_not_ready_count{%R})"),
                        ("not started", "sum(kn_revision_pods_pending_count{%R})"),
                        ("ending", "sum(kn_revision_pods_terminating_count{%R})"),
                    ],
                ),
            ],
        },
        Row {
            title: "Rules",
            panels: &[
                lines(
                    "Panic",
                    "1 while the last seconds need twice the pods there are, or more, and for a stable window after; no pod goes meanwhile.",
                    "none",
                    &[("panic", "max(kn_revision_panic_mode{%R})")],
                ),
                lines(
                    "Spare for bursts",
                    "Load the ready pods could take beyond what they have and the target burst capacity. Below 0 the activator is in the path.",
                    "none",
                    &[("spare", "sum(kn_revision_capacity_excess{%R})")],
                ),
                lines(
                    "Activator in the path",
                    "1 while requests go through activators: at zero, and while there is not enough spare for bursts.",
                    "none",
                    &[(
                        "in the path",
                        "clamp_max(max((kn_revision_capacity_excess{%R} < bool 0) + (kn_revision_pods_count{%R} == bool 0)), 1)",
                    )],
                ),
                lines(
                    "Requests that wait",
                    "In activators for a pod, and in pods, together with those their processes are at; pods without a limit do not tell.",
                    "none",
                    &[
                        ("in activators", "sum(kn_revision_request_queued{%N})"),
                        ("in pods", "sum(kn_serving_queue_depth{%Q}) or vector(0)"),
                    ],
                ),
            ],
        },
        Row {
            title: "Traffic",
            panels: &[
                lines(
                    "Requests by status",
                    "Answers of pods, each second.",
                    "reqps",
                    &[(
                        "{{http_response_status_code}}",
                        "sum by (http_response_status_code) (rate(http_server_request_duration_seconds_count{%Q}%I)) or sum(0 * kn_revision_pods_desired{%R})",
                    )],
                ),
                of_requests(lines(
                    "Response time",
                    "From the arrival at a pod to the last byte of the response.",
                    "s",
                    &[
                        (
                            "50 %",
                            "histogram_quantile(0.5, sum by (le) (rate(http_server_request_duration_seconds_bucket{%Q}%I)))",
                        ),
                        (
                            "95 %",
                            "histogram_quantile(0.95, sum by (le) (rate(http_server_request_duration_seconds_bucket{%Q}%I)))",
                        ),
                    ],
                )),
                lines(
                    "Scrape time",
                    "How long asking the pods of the configuration takes; of each second.",
                    "s",
                    &[(
                        "99 %",
                        "histogram_quantile(0.99, sum by (le) (rate(kn_autoscaler_scrape_duration_seconds_bucket{k8s_namespace_name=~\"$namespace\",kn_configuration_name=~\"$configuration\"}%I)))",
                    )],
                ),
            ],
        },
    ],
};

const COLD_STARTS: Dashboard = Dashboard {
    file: "cold-starts",
    title: "Ebb / Cold starts",
    about: "What a request finds that comes to a revision without a pod: how long it waits, and for what.",
    scope: Scope::Many,
    rows: &[
        Row {
            title: "Activations, of all revisions",
            panels: &[
                lines(
                    "Activations",
                    "Activations in the last five minutes, by whether they came to their end; those not followed were too many.",
                    "none",
                    &[("{{outcome}}", "sum by (outcome) (increase(ebb_cold_starts_total[5m]))")],
                ),
                lines(
                    "Time of activations",
                    "From the first that was seen of an activation to the last: to the first byte of the response where the activator tells, else until a pod was ready.",
                    "s",
                    &[
                        (
                            "50 %",
                            "histogram_quantile(0.5, sum by (le) (rate(ebb_cold_start_duration_seconds_bucket%I)))",
                        ),
                        (
                            "95 %",
                            "histogram_quantile(0.95, sum by (le) (rate(ebb_cold_start_duration_seconds_bucket%I)))",
                        ),
                        (
                            "99 %",
                            "histogram_quantile(0.99, sum by (le) (rate(ebb_cold_start_duration_seconds_bucket%I)))",
                        ),
                    ],
                ),
                lines(
                    "Where the time goes",
                    "The mean time of each phase, named for what it ends with; together they are the mean time of an activation.",
                    "s",
                    &[(
                        "{{phase}}",
                        "sum by (phase) (rate(ebb_cold_start_phase_duration_seconds_sum%I)) / on () group_left () sum(rate(ebb_cold_start_duration_seconds_count%I))",
                    )],
                ),
                lines(
                    "95 % by phase",
                    "Within what time 95 % of the activations were through each phase.",
                    "s",
                    &[(
                        "{{phase}}",
                        "histogram_quantile(0.95, sum by (phase, le) (rate(ebb_cold_start_phase_duration_seconds_bucket%I)))",
                    )],
                ),
            ],
        },
        Row {
            title: "Revisions",
            panels: &[
                lines(
                    "At zero",
                    "Revisions without a ready pod, and those of them that are asked for pods.",
                    "none",
                    &[
                        ("at zero", "count(kn_revision_pods_count{%R} == 0) or vector(0)"),
                        (
                            "waking",
                            "count(kn_revision_pods_count{%R} == 0 and kn_revision_pods_requested{%R} > 0) or vector(0)",
                        ),
                    ],
                ),
                lines(
                    "Requests that wait",
                    "Requests that wait in activators for a pod.",
                    "none",
                    &[(
                        "{{k8s_namespace_name}}/{{kn_revision_name}}",
                        "sum by (k8s_namespace_name, kn_revision_name) (kn_revision_request_queued{%N})",
                    )],
                ),
                lines(
                    "Through activators",
                    "Within what time requests were answered that came by way of an activator, cold starts among them.",
                    "s",
                    &[
                        (
                            "95 %",
                            "histogram_quantile(0.95, sum by (le) (rate(http_server_request_duration_seconds_bucket{container=\"activator\",%R}%I)))",
                        ),
                        (
                            "99 %",
                            "histogram_quantile(0.99, sum by (le) (rate(http_server_request_duration_seconds_bucket{container=\"activator\",%R}%I)))",
                        ),
                    ],
                ),
            ],
        },
    ],
};

const ALB_GATE: Dashboard = Dashboard {
    file: "alb-gate",
    title: "Ebb / ALB gate",
    about: "Revisions behind Alibaba Cloud's load balancer on their way to zero and back.",
    scope: Scope::None,
    rows: &[Row {
        title: "Gate",
        panels: &[
            lines(
                "Revisions by state",
                "Where the revisions behind a load balancer are on the way to zero and back; docs/alb.md says what each state is.",
                "none",
                &[("{{state}}", "sum by (state) (ebb_alb_gates)")],
            ),
            lines(
                "Held",
                "Revisions no pod is wanted of, whose last pod stays until the load balancer follows; by what is missing.",
                "none",
                &[("{{reason}}", "sum by (reason) (ebb_alb_gate_held)")],
            ),
            lines(
                "Probes",
                "Probes through load balancers, each second, by who answered.",
                "ops",
                &[("{{answer}}", "sum by (answer) (rate(ebb_alb_probes_total%I))")],
            ),
            lines(
                "Trouble",
                "In the last five minutes: probes that found too many under way, and load balancers that did not follow in time.",
                "none",
                &[
                    ("probes postponed", "sum(increase(ebb_alb_probes_postponed_total[5m]))"),
                    ("not followed in time", "sum(increase(ebb_alb_gate_failures_total[5m]))"),
                ],
            ),
            lines(
                "KIngresses by class",
                "Who programs the routes of the cluster: those of the class alb Ebb publishes, all others are left alone.",
                "none",
                &[("{{class}}", "max by (class) (ebb_kingresses)")],
            ),
        ],
    }],
};

const CONTROL_PLANE: Dashboard = Dashboard {
    file: "control-plane",
    title: "Ebb / Control plane",
    about: "The autoscaler at work: what it owns, how fast it decides and writes, and what it drops.",
    scope: Scope::None,
    rows: &[
        Row {
            title: "Ownership",
            panels: &[
                number(
                    "Revisions",
                    "Revisions with windows or a decider, of all replicas.",
                    "none",
                    &[("", "sum(ebb_revisions)")],
                ),
                colored(
                    number(
                        "Buckets without owner",
                        "Revisions in such a bucket are scaled by nobody.",
                        "none",
                        &[("", "max(ebb_buckets) - sum(ebb_buckets_owned)")],
                    ),
                    RED_FROM_ONE,
                ),
                number(
                    "Standbys",
                    "Replicas that mirror a bucket of another, for each bucket.",
                    "none",
                    &[("", "sum(ebb_mirror_standbys)")],
                ),
                number(
                    "Mirrored revisions",
                    "Revisions a standby could go on with at once.",
                    "none",
                    &[("", "sum(ebb_mirrored_revisions)")],
                ),
                number(
                    "Activators and peers",
                    "Websockets open for stats.",
                    "none",
                    &[("", "sum(ebb_stat_connections)")],
                ),
                colored(
                    number(
                        "Revisions left out",
                        "Revisions without series of their own, because there are too many.",
                        "none",
                        &[("", "max(ebb_metrics_revisions_left_out)")],
                    ),
                    ORANGE_FROM_ONE,
                ),
                lines("Buckets", "Buckets by their owner.", "none", &[("{{pod}}", "sum by (pod) (ebb_buckets_owned)")]),
                lines(
                    "Changes of owner",
                    "Buckets that became a replica's or ceased to be, in the last five minutes.",
                    "none",
                    &[("{{change}}", "sum by (change) (increase(ebb_bucket_transitions_total[5m]))")],
                ),
            ],
        },
        Row {
            title: "Decisions",
            panels: &[
                lines(
                    "Looks",
                    "Looks at the load of a revision, each second, by what came of them.",
                    "ops",
                    &[("{{outcome}}", "sum by (outcome) (rate(ebb_evaluations_total%I))")],
                ),
                lines(
                    "Decisions by rule",
                    "Decisions, each second, by the rule that gave them their number.",
                    "ops",
                    &[("{{reason}}", "sum by (reason) (rate(ebb_decisions_total%I))")],
                ),
                lines(
                    "Wait for a look",
                    "How long 99 % of the objects waited at most for a look, by how soon they should get it.",
                    "s",
                    &[(
                        "{{queue}}, {{lane}}",
                        "histogram_quantile(0.99, sum by (queue, lane, le) (rate(ebb_queue_wait_seconds_bucket%I)))",
                    )],
                ),
                lines(
                    "Objects that wait",
                    "Objects that wait for a look.",
                    "none",
                    &[("{{queue}}, {{lane}}", "sum by (queue, lane) (ebb_queue_depth)")],
                ),
                lines(
                    "Looks at objects",
                    "Looks at an object, each second, by how they ended.",
                    "ops",
                    &[("{{queue}}, {{outcome}}", "sum by (queue, outcome) (rate(ebb_reconciles_total%I))")],
                ),
            ],
        },
        Row {
            title: "API server",
            panels: &[
                lines(
                    "Writes",
                    "Attempts to write, each second, by urgency and by what came of them.",
                    "ops",
                    &[("{{urgency}}, {{outcome}}", "sum by (urgency, outcome) (rate(ebb_api_writes_total%I))")],
                ),
                lines(
                    "Time of writes",
                    "Within what time 99 % of the writes were answered.",
                    "s",
                    &[(
                        "{{urgency}}",
                        "histogram_quantile(0.99, sum by (urgency, le) (rate(ebb_api_write_duration_seconds_bucket%I)))",
                    )],
                ),
                lines(
                    "Wait of writes",
                    "How long 99 % of the writes waited at most for their turn.",
                    "s",
                    &[(
                        "{{urgency}}",
                        "histogram_quantile(0.99, sum by (urgency, le) (rate(ebb_api_write_wait_seconds_bucket%I)))",
                    )],
                ),
                lines(
                    "Writes under way",
                    "Writes that wait, those on their way, and how many may be; that follows how the API server copes.",
                    "none",
                    &[
                        ("waiting", "sum(ebb_api_writes_waiting)"),
                        ("on their way", "sum(ebb_api_writes_in_flight)"),
                        ("at most", "sum(ebb_api_write_places)"),
                    ],
                ),
                lines(
                    "Answers",
                    "Answers of the API server, each second, by their code.",
                    "ops",
                    &[(
                        "{{http_request_method}} {{http_response_status_code}}",
                        "sum by (http_request_method, http_response_status_code) (rate(kn_k8s_client_http_response_status_code_total%I))",
                    )],
                ),
                lines(
                    "Trouble",
                    "In the last five minutes.",
                    "none",
                    &[
                        ("refused for too much to do", "sum(increase(ebb_api_throttled_total[5m]))"),
                        ("not answered", "sum(increase(ebb_api_unanswered_total[5m]))"),
                        ("watches interrupted", "sum(increase(ebb_watch_interruptions_total[5m]))"),
                        ("objects not understood", "sum(increase(ebb_unreadable_objects_total[5m]))"),
                        ("requests for a Lease failed", "sum(increase(ebb_lease_failures_total[5m]))"),
                    ],
                ),
            ],
        },
        Row {
            title: "Stats",
            panels: &[
                lines(
                    "Scrapes",
                    "Scrapes of a revision, each second, by what came of them.",
                    "ops",
                    &[("{{outcome}}", "sum by (outcome) (rate(ebb_scrapes_total%I))")],
                ),
                lines(
                    "Time of scrapes",
                    "How long the scrape of one revision takes, all its pods together.",
                    "s",
                    &[
                        ("50 %", "histogram_quantile(0.5, sum by (le) (rate(ebb_scrape_duration_seconds_bucket%I)))"),
                        ("99 %", "histogram_quantile(0.99, sum by (le) (rate(ebb_scrape_duration_seconds_bucket%I)))"),
                    ],
                ),
                lines(
                    "Stats of activators and peers",
                    "Stats that came over websockets or went to the replica that owns their revision, each second.",
                    "ops",
                    &[
                        ("received", "sum(rate(ebb_stats_received_total%I))"),
                        ("forwarded", "sum(rate(ebb_stats_forwarded_total%I))"),
                    ],
                ),
                lines(
                    "Stats dropped",
                    "Stats that were not recorded, each second, by cause; and those that came late or early and were recorded at the edge of their window.",
                    "ops",
                    &[
                        ("{{cause}}", "sum by (cause) (rate(ebb_stats_dropped_total%I))"),
                        ("for another replica: {{cause}}", "sum by (cause) (rate(ebb_stats_forward_dropped_total%I))"),
                        ("refused", "sum(rate(ebb_stats_refused_total%I))"),
                        ("moved in time", "sum(rate(ebb_stats_moved_in_time_total%I))"),
                    ],
                ),
            ],
        },
        Row {
            title: "Journal",
            panels: &[
                lines(
                    "Journal",
                    "Bytes written to the journal, each second; nothing without --journal.",
                    "Bps",
                    &[("written", "sum(rate(ebb_journal_bytes_total%I)) or vector(0)")],
                ),
                lines(
                    "Journal trouble",
                    "Batches of inputs that were not recorded and times it could not be written, in the last five minutes.",
                    "none",
                    &[
                        ("batches dropped", "sum(increase(ebb_journal_batches_dropped_total[5m])) or vector(0)"),
                        ("failures", "sum(increase(ebb_journal_failures_total[5m])) or vector(0)"),
                    ],
                ),
            ],
        },
    ],
};

const RESOURCES: Dashboard = Dashboard {
    file: "resources",
    title: "Ebb / Resource usage",
    about: "What the autoscaler takes, and the pods of revisions.",
    scope: Scope::Many,
    rows: &[
        Row {
            title: "Autoscaler",
            panels: &[
                lines(
                    "CPU",
                    "CPU time each second, so 1 is one core.",
                    "none",
                    &[("{{pod}}", "sum by (pod) (rate(process_cpu_seconds_total{container=\"autoscaler\"}%I))")],
                ),
                lines(
                    "Memory",
                    "Memory in use, and of that what no other process shares.",
                    "bytes",
                    &[
                        ("{{pod}}", "sum by (pod) (process_resident_memory_bytes{container=\"autoscaler\"})"),
                        ("{{pod}}, its own", "sum by (pod) (go_memory_used_bytes{container=\"autoscaler\"})"),
                    ],
                ),
                lines(
                    "CPU of a decision",
                    "CPU time of the whole autoscaler for each look at the load of a revision.",
                    "s",
                    &[(
                        "{{pod}}",
                        "sum by (pod) (rate(process_cpu_seconds_total{container=\"autoscaler\"}%I)) / (sum by (pod) (rate(ebb_evaluations_total%I)) > 0)",
                    )],
                ),
                lines(
                    "Files and tasks",
                    "File descriptors open, and tasks that are alive.",
                    "none",
                    &[
                        ("{{pod}}, files", "sum by (pod) (process_open_fds{container=\"autoscaler\"})"),
                        ("{{pod}}, tasks", "sum by (pod) (go_goroutine_count{container=\"autoscaler\"})"),
                    ],
                ),
                lines(
                    "Network",
                    "Bytes over IP, each second.",
                    "Bps",
                    &[
                        (
                            "{{pod}}, received",
                            "sum by (pod) (rate(process_network_receive_bytes_total{container=\"autoscaler\"}%I))",
                        ),
                        (
                            "{{pod}}, sent",
                            "sum by (pod) (rate(process_network_transmit_bytes_total{container=\"autoscaler\"}%I))",
                        ),
                    ],
                ),
            ],
        },
        Row {
            title: "Pods of revisions",
            panels: &[
                of_kubelet(lines(
                    "CPU",
                    "CPU time of the pods each second, so 1 is one core; from the kubelet.",
                    "none",
                    &[(
                        "{{namespace}}, {{container}}",
                        "sum by (namespace, container) (rate(container_cpu_usage_seconds_total{namespace=~\"$namespace\",pod=~\"($revision)-deployment-.*\",container!=\"\"}%I))",
                    )],
                )),
                of_kubelet(lines(
                    "Memory",
                    "Memory the pods cannot do without; from the kubelet.",
                    "bytes",
                    &[(
                        "{{namespace}}, {{container}}",
                        "sum by (namespace, container) (container_memory_working_set_bytes{namespace=~\"$namespace\",pod=~\"($revision)-deployment-.*\",container!=\"\"})",
                    )],
                )),
                lines(
                    "Requests in flight for each ready pod",
                    "How well pods are used: the average over the stable window, for each ready pod.",
                    "none",
                    &[(
                        "{{k8s_namespace_name}}/{{kn_revision_name}}",
                        "sum by (k8s_namespace_name, kn_revision_name) (kn_revision_concurrency_stable{%R}) / on (k8s_namespace_name, kn_revision_name) clamp_min(sum by (k8s_namespace_name, kn_revision_name) (kn_revision_pods_count{%R}), 1)",
                    )],
                ),
            ],
        },
    ],
};
