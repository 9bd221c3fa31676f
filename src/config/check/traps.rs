//! What is accepted although it can hardly be meant: one function for each kind of trap.
//!
//! Where a number of pods or a length of time is told it follows from the same rules the autoscaler decides by: the
//! burst rule of [`engine`](crate::engine), the steps to zero of [`engine::zero`](crate::engine::zero), the bounds of the
//! PodAutoscaler's reconciler.

use super::settings::{count, load_unit, saturating_f64};
use super::{Awake, Blamed, Case, Finding, blame};
use crate::api::annotations::{
    ACTIVATION_SCALE, INITIAL_SCALE, KEYS, MAX_SCALE, METRIC, MIN_SCALE, PANIC_WINDOW, POD_RETENTION, PREFIX,
    PROGRESS_DEADLINE, SCALE_DOWN_DELAY, TARGET, TARGET_BURST_CAPACITY, TARGET_MIN, TARGET_UTILIZATION, WINDOW,
    WINDOW_MAX,
};
use crate::api::annotations::{AGGREGATION, Annotations, PANIC_THRESHOLD};
use crate::api::names::{QUEUE_H2C_PORT, QUEUE_HTTP1_PORT};
use crate::api::setting::Severity;
use crate::config::Origin;
use crate::units::{ScalingMetric, Span, round_to_millionth};
use k8s_openapi::api::core::v1::{Container, Probe};

/// What Knative's admission takes for its own on the metadata of Services and Configurations; without a slash, as there.
const AUTOSCALING_GROUP: &str = "autoscaling.knative.dev";
/// Annotations of a Service that are read from a template only, beside the autoscaler's.
const TEMPLATE_ONLY: [&str; 2] = [PROGRESS_DEADLINE.canonical, "queue.sidecar.serving.knative.dev/"];
/// Annotations of a template that are read from a Service or Route only.
const SERVICE_ONLY: [&str; 2] = ["serving.knative.dev/rollout-duration", "serving.knative.dev/rolloutDuration"];
/// The ports of a pod behind which requests are counted.
const COUNTED_PORTS: [u16; 3] = [QUEUE_HTTP1_PORT, QUEUE_H2C_PORT, 8112];
/// Seconds between two decisions; a shorter delay covers just one.
const TICK: Span = Span::from_seconds(2);
/// Requests the queue-proxy lets wait, as a multiple of the concurrency limit.
const QUEUE_DEPTH: i64 = 10;
/// A burst capacity that keeps the activator in the path of more idle pods than these is hardly meant.
const MANY_PODS: f64 = 20.0;
/// A request that must be faster than this to reach a target is asked for much.
const FAST_REQUEST_MS: f64 = 20.0;
/// A concurrency from which on requests per second were probably meant.
const LARGE_CONCURRENCY: f64 = 500.0;
/// A pod that has been there for so long without a pause has either steady traffic or a steady visitor.
const LONG_AWAKE: Span = Span::from_seconds(24 * 3600);

impl Case<'_> {
    /// Traps of a revision that the autoscaler of requests serves.
    pub(super) fn traps(&mut self) {
        self.target();
        self.headroom();
        self.metric();
        self.burst();
        self.scales();
        self.window_and_startup();
        self.on_the_way_to_zero();
        self.panic();
        self.kept_awake();
        if self.cluster_itself {
            self.percentage();
            self.grace();
        }
    }

    /// Annotations and labels that stand where nobody reads them.
    pub(super) fn misplaced(&mut self) {
        if let Some((annotations, labels)) = self.subject.around {
            for (key, value) in annotations {
                let path = format!("metadata.annotations[{key}]");
                if key.starts_with(AUTOSCALING_GROUP) {
                    let why = "Knative refuses autoscaling annotations here, because they would have no effect";
                    self.place(Severity::Error, "misplaced-annotation", path, key, value, why, &move_to_template(key));
                } else if TEMPLATE_ONLY.iter().any(|known| key.starts_with(known)) {
                    let why = "Knative accepts it here and never reads it; it belongs to the revision";
                    self.place(
                        Severity::Warning,
                        "misplaced-annotation",
                        path,
                        key,
                        value,
                        why,
                        &move_to_template(key),
                    );
                }
            }
            self.labels(labels, "metadata.labels");
        }
        let own_labels = format!("{}metadata.labels", self.subject.prefix);
        self.labels(self.subject.labels, &own_labels);
        for (key, value) in self.subject.annotations {
            let path = self.annotation_path(key);
            if SERVICE_ONLY.contains(&key.as_str()) {
                let why = "it is read from the Service or Route only, and has no effect on a revision";
                let mend = "move it to the metadata.annotations of the Service";
                self.place(Severity::Warning, "misplaced-annotation", path, key, value, why, mend);
            } else if let Some(meant) = stray(key) {
                let why = "nobody reads a key of this name, so it has no effect";
                let mend = format!("write {meant}, or remove it");
                self.place(Severity::Warning, "unknown-annotation", path, key, value, why, &mend);
            }
        }
    }

    fn labels(&mut self, labels: &Annotations, at: &str) {
        for (key, value) in labels.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
            let path = format!("{at}[{key}]");
            let why = "it is a label, and the autoscaler reads annotations only";
            self.place(Severity::Warning, "misplaced-annotation", path, key, value, why, &move_to_template(key));
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a finding, once each")]
    fn place(
        &mut self,
        severity: Severity,
        rule: &'static str,
        path: String,
        key: &str,
        value: &str,
        why: &str,
        mend: &str,
    ) {
        self.findings.push(Finding {
            severity,
            rule,
            map: None,
            path,
            key: key.to_owned(),
            value: value.to_owned(),
            why: why.to_owned(),
            mend: mend.to_owned(),
        });
    }

    /// A target no pod can carry, and one that is raised or lowered to what there can be.
    fn target(&mut self) {
        let resolved = &self.resolved;
        let unit = load_unit(resolved.scaling_metric());
        let in_force = number(resolved.target_value());
        let (total, fraction) = (resolved.total.value, resolved.utilization.value);
        let (percent, product) = (number(fraction * 100.0), total * fraction);
        let limit = self.container_concurrency.value;
        let involved = [blame(&resolved.utilization), blame(&resolved.total), self.limit()];
        if let Some(target) = &self.overrides.target
            && resolved.metric.value == "concurrency"
            && limit > 0
            && saturating_f64(limit) < target.value
        {
            let wanted = number(target.value * fraction);
            let blamed = [Blamed { origin: Origin::Annotation(target.key), value: String::new() }];
            let why = format!(
                "a pod takes at most {limit} requests at once (containerConcurrency), so {limit} counts and pods are \
                 added from {in_force} in flight each, not from {wanted}"
            );
            let mend = format!("set it to {limit} or less, or raise containerConcurrency");
            self.warn("target-above-limit", &blamed, why, mend);
        }
        if product < TARGET_MIN {
            let why = format!(
                "{percent} % of {} {unit} is {}, below the least there is, so {TARGET_MIN} is used",
                number(total),
                number(product)
            );
            let mend = format!("choose values whose product is at least {TARGET_MIN}");
            self.warn("target-raised", &involved, why, mend);
        } else if product < 1.0 {
            let pods = count((1.0 / product).ceil());
            let one =
                if unit == "requests in flight" { "a single request in flight" } else { "one request per second" };
            let why = format!(
                "a pod is to carry {in_force} {unit} ({percent} % of {}), so {one} already asks for {pods}",
                number(total)
            );
            let mend = if total >= 1.0 {
                format!("set {} to \"{}\" or more", TARGET_UTILIZATION.canonical, number((100.0 / total).ceil()))
            } else {
                format!("set {} to \"{}\" or more", TARGET.canonical, number((1.0 / fraction).ceil()))
            };
            self.warn("target-below-one", &involved, why, mend);
        }
    }

    fn headroom(&mut self) {
        let resolved = &self.resolved;
        let limit = self.container_concurrency.value;
        // A cluster whose percentage is 100 is told so by itself.
        let full =
            !self.cluster_itself && resolved.utilization.value >= 1.0 && resolved.total.value == saturating_f64(limit);
        if full && limit > 1 && resolved.scaling_metric() == ScalingMetric::Concurrency {
            let why = format!(
                "pods are filled to their limit of {limit} before another is asked for, so requests wait for as long \
                 as it takes to start"
            );
            let mend = "leave room for that time: 70 to 90 is usual".to_owned();
            self.warn("no-headroom", &[blame(&resolved.utilization), self.limit()], why, mend);
        }
    }

    /// Requests in flight taken for requests per second, and the other way round.
    fn metric(&mut self) {
        let resolved = &self.resolved;
        let (in_force, limit) = (resolved.target_value(), self.container_concurrency.value);
        if resolved.scaling_metric() == ScalingMetric::Rps {
            let milliseconds = saturating_f64(limit) / in_force * 1000.0;
            if limit > 0 && milliseconds < FAST_REQUEST_MS {
                let why = format!(
                    "a pod takes {limit} at once, so it reaches {} requests per second only while each takes less than \
                     {} ms; slower ones wait, and no pod is added for them",
                    number(in_force),
                    number(milliseconds)
                );
                let mend = format!("lower {}, raise containerConcurrency, or scale on concurrency", TARGET.canonical);
                let metric = Blamed { origin: resolved.metric.origin, value: String::new() };
                self.warn("rps-beyond-limit", &[blame(&resolved.total), metric, self.limit()], why, mend);
            }
        } else if limit == 0
            && self.overrides.metric.is_none()
            && self.overrides.target.as_ref().is_some_and(|target| target.value >= LARGE_CONCURRENCY)
        {
            let why = format!(
                "it counts requests in flight, not per second: a pod is added only when each has {} at once, which at \
                 100 ms a request is {} per second",
                number(in_force),
                number(in_force * 10.0)
            );
            let mend = format!("if requests per second were meant, add {}: rps", METRIC.canonical);
            self.warn("target-looks-like-rps", &[blame(&resolved.total)], why, mend);
        }
    }

    /// A burst capacity that keeps the activator in the path for ever, or out of it where a limit is hard.
    fn burst(&mut self) {
        let resolved = &self.resolved;
        let (burst, total) = (resolved.target_burst_capacity.value, resolved.total.value);
        let limit = self.container_concurrency.value;
        let involved =
            [blame(&resolved.target_burst_capacity), blame(&resolved.max_scale), blame(&resolved.total), self.limit()];
        let key = TARGET_BURST_CAPACITY.canonical;
        if burst == -1.0 {
            let why =
                "the activator stays in the path at every scale, so each request passes through one more process, \
                       whose number bounds the load"
                    .to_owned();
            let mend = "set it to the load to keep room for, or remove it to get the cluster's".to_owned();
            self.warn("activator-always-in-path", &involved[..1], why, mend);
        } else if burst == 0.0 && limit > 0 {
            let why = format!(
                "the activator leaves the path as soon as one pod is ready, and then a burst is spread without knowing \
                 who is free: a pod takes {limit} at once, lets {} wait and answers 503 beyond",
                limit.saturating_mul(QUEUE_DEPTH)
            );
            let mend =
                format!("set it to the burst to be taken without a loss, such as \"{}\"", limit.saturating_mul(2));
            self.warn("activator-never-in-path", &involved, why, mend);
        } else if burst > 0.0
            && let (Some(idle), busy) = self.leaves_path_at()
        {
            let (most, room) = (f64::from(resolved.max_scale.value), total - resolved.target_value());
            let busy = busy.map_or_else(
                || "at target load never".to_owned(),
                |busy| format!("at target load with {}", count(busy)),
            );
            if most > 0.0 && idle > most {
                let why = format!(
                    "keeping room for {} takes {} of {} without any load, {busy}, and max-scale is {most}: the \
                     activator never leaves the path",
                    number(burst),
                    count(idle),
                    number(total)
                );
                let mend = format!(
                    "set {key} to at most \"{}\" to have it leave under load with all pods, or \"-1\" if it is meant \
                     to stay",
                    number((most * room).floor().max(0.0))
                );
                self.warn("activator-always-in-path", &involved, why, mend);
            } else if most == 0.0 && idle > MANY_PODS {
                let why = format!(
                    "keeping room for {} keeps the activator in the path until there are {} of {} without any load, \
                     {busy}",
                    number(burst),
                    count(idle),
                    number(total)
                );
                let mend = if room > 0.0 {
                    format!(
                        "set {key} to \"{}\" to have it leave with ten pods at target load, or \"-1\" if it is meant \
                         to stay",
                        number((10.0 * room).floor())
                    )
                } else {
                    format!(
                        "set {} below 100 so that pods have room, or {key} to \"-1\" if it is meant to stay",
                        TARGET_UTILIZATION.canonical
                    )
                };
                self.warn("activator-long-in-path", &involved, why, mend);
            }
        }
    }

    /// Numbers of pods that contradict each other. Two annotations are held against each other by admission; here it is
    /// an annotation and the cluster's.
    fn scales(&mut self) {
        let resolved = &self.resolved;
        let (min, max) = (resolved.min_scale.value, resolved.max_scale.value);
        let (initial, activation) = (resolved.initial_scale.value, resolved.activation_scale.value);
        let both = self.overrides.min_scale.is_some() && self.overrides.max_scale.is_some();
        let bounds = [blame(&resolved.max_scale), blame(&resolved.min_scale)];
        if max > 0 && max < min && !both {
            let why = format!(
                "max-scale {max} ({}) is below min-scale {min} ({}), and the larger wins: there are always {min} pods",
                resolved.max_scale.origin, resolved.min_scale.origin
            );
            let mend =
                format!("set {} to {min} or more, or {} to {max} or less", MAX_SCALE.canonical, MIN_SCALE.canonical);
            self.warn("max-below-min", &bounds, why, mend);
        }
        let resolved = &self.resolved;
        if max > 0 && initial > max && min <= max {
            let why = format!(
                "a new revision starts with {initial} pods although max-scale is {max}, and is cut to {max} once they \
                 have all been ready"
            );
            let mend = format!("set {} to {max} or less", INITIAL_SCALE.canonical);
            self.warn("initial-above-max", &[blame(&resolved.initial_scale), blame(&resolved.max_scale)], why, mend);
        }
        let resolved = &self.resolved;
        if initial == 0 {
            let why = "the revision is ready, and gets its traffic, before any pod of it has started; an image that \
                       cannot start is found out by the first request"
                .to_owned();
            let mend = format!("set {} to 1, and let it go to zero when it is idle", INITIAL_SCALE.canonical);
            self.warn("initial-scale-zero", &[blame(&resolved.initial_scale)], why, mend);
        }
        let resolved = &self.resolved;
        if max > 0 && activation > max && self.overrides.max_scale.is_none() {
            let why = format!("max-scale is {max} in the cluster, so an activation gets {max} pods, not {activation}");
            let mend = format!("set {} to {activation} or more", MAX_SCALE.canonical);
            self.warn("activation-above-max", &[blame(&resolved.activation_scale)], why, mend);
        }
        let resolved = &self.resolved;
        if activation > 1 && min >= activation {
            let why = format!("min-scale is {min}, so there are never fewer than the {activation} it asks for");
            let mend = format!("remove it, or set {} above {min}", ACTIVATION_SCALE.canonical);
            self.warn("activation-without-effect", &[blame(&resolved.activation_scale)], why, mend);
        }
        if !self.resolved.enable_scale_to_zero.value
            && self.overrides.min_scale.as_ref().is_some_and(|min| min.value == 0)
        {
            let why = "the cluster's enable-scale-to-zero is false, so one pod stays all the same".to_owned();
            let mend =
                "ask for enable-scale-to-zero: \"true\" in config-autoscaler, or set it to 1 to say what is".to_owned();
            self.warn("zero-disabled", &[blame(&self.resolved.min_scale)], why, mend);
        }
    }

    /// Pods that take longer to start than the window remembers, or than Knative waits.
    fn window_and_startup(&mut self) {
        let window = self.resolved.stable_window.value;
        let deadline = self.resolved.progress_deadline.value;
        let Some((startup, said)) = self.startup() else { return };
        let mut involved = vec![blame(&self.resolved.stable_window)];
        involved.push(Blamed { origin: Origin::Field("containers"), value: String::new() });
        if startup >= window {
            let why = format!(
                "a pod takes {startup} to become ready ({said}), and the window forgets after {window}: a burst has left \
                 it before the pods it asked for are there, so they come late and go again"
            );
            let longer = (startup + startup).min(WINDOW_MAX);
            let mend = format!("set {} to {longer} or more, or make pods start faster", WINDOW.canonical);
            self.warn("window-below-startup", &involved, why, mend);
        }
        let allowed = self.serving_container().and_then(|container| container.startup_probe.as_ref()).map(longest);
        let (takes, said) = match allowed {
            Some(allowed) if allowed > startup => (allowed, "its startupProbe lets it take that".to_owned()),
            _ => (startup, said),
        };
        if takes >= deadline {
            involved[0] = blame(&self.resolved.progress_deadline);
            let why = format!(
                "Knative gives the revision up when no pod is ready after {deadline}, and a pod may take {takes} ({said})"
            );
            let mend = format!("set {} to more than {takes}", PROGRESS_DEADLINE.canonical);
            self.warn("deadline-below-startup", &involved, why, mend);
        }
    }

    /// How long a pod takes at least to become ready, and who says so.
    fn startup(&self) -> Option<(Span, String)> {
        if let Some(startup) = self.subject.startup {
            return Some((startup, "--startup".to_owned()));
        }
        let container = self.serving_container()?;
        let readiness = container.readiness_probe.as_ref().map(|probe| {
            let (delay, period) = (seconds(probe.initial_delay_seconds, 0), seconds(probe.period_seconds, 0));
            let said = if period > Span::ZERO {
                format!("it is first asked after {delay} by its readinessProbe, and then every {period}")
            } else {
                format!("it is first asked after {delay} by its readinessProbe")
            };
            // A pod that is not ready at the first look is not looked at before the second.
            (delay + period, said)
        });
        let startup = container.startup_probe.as_ref().map(|probe| {
            let delay = seconds(probe.initial_delay_seconds, 0);
            (delay, format!("it is first asked after {delay} by its startupProbe"))
        });
        [readiness, startup].into_iter().flatten().max_by_key(|(span, _)| *span).filter(|(span, _)| *span > Span::ZERO)
    }

    /// The container requests go to: the one with a port, or the only one.
    fn serving_container(&self) -> Option<&Container> {
        let has_port = |container: &&Container| container.ports.as_ref().is_some_and(|ports| !ports.is_empty());
        self.subject.containers.iter().find(has_port).or(self.subject.containers.first())
    }

    /// Delays and periods without effect, or that add up to more than one of them says.
    fn on_the_way_to_zero(&mut self) {
        let resolved = &self.resolved;
        let (window, delay) = (resolved.stable_window.value, resolved.scale_down_delay.value);
        let retention = resolved.pod_retention.value;
        let stays = (!resolved.enable_scale_to_zero.value)
            .then_some("enable-scale-to-zero is false".to_owned())
            .or_else(|| (resolved.min_scale.value > 0).then(|| format!("min-scale is {}", resolved.min_scale.value)));
        let blamed = [blame(&resolved.pod_retention), blame(&resolved.min_scale)];
        if retention > Span::ZERO
            && let Some(stays) = &stays
        {
            let why = format!("it is about the last pod, which never goes, because {stays}");
            self.warn("retention-without-effect", &blamed, why, format!("remove {}", POD_RETENTION.canonical));
        }
        let resolved = &self.resolved;
        if delay > Span::ZERO && delay <= TICK {
            let why = format!(
                "a decision is made every {TICK}, so the highest of the last {delay} is the latest one: it has no effect"
            );
            let mend = format!("set {} to more than {TICK}, or remove it", SCALE_DOWN_DELAY.canonical);
            self.warn("delay-without-effect", &[blame(&resolved.scale_down_delay)], why, mend);
        } else if delay > Span::ZERO && retention > Span::ZERO && stays.is_none() {
            let why = format!(
                "window, scale-down delay and pod retention come one after the other, so the last pod stays {} after \
                 the last request ({window} + {delay} + {retention})",
                window + delay + retention
            );
            let mend = format!("to keep only the last pod, {} alone will do", POD_RETENTION.canonical);
            self.warn("delays-add-up", &[blame(&resolved.scale_down_delay), blame(&resolved.pod_retention)], why, mend);
        }
    }

    /// Panic that never begins or never ends.
    fn panic(&mut self) {
        let resolved = &self.resolved;
        let (window, panic) = (resolved.stable_window.value, resolved.panic_window());
        let (percentage, threshold) =
            (resolved.panic_window_percentage.value, resolved.panic_threshold_percentage.value);
        let times = number(threshold / 100.0);
        let of_threshold = [blame(&resolved.panic_threshold_percentage)];
        if threshold <= 100.0 {
            let why = format!(
                "panic starts when {times} times the ready pods are needed, which is so whenever there are just enough: \
                 a steady load is a panic without end, in which no pod goes"
            );
            let mend = "set it to 110 or more; 200 is the default".to_owned();
            self.warn("panic-always", &of_threshold, why, mend);
        } else if threshold >= 1000.0 {
            let why = format!(
                "panic starts only when {times} times the ready pods are needed at once, so a smaller burst waits for \
                 the {window} window to fill"
            );
            self.warn("panic-never", &of_threshold, why, "set it to about 200, the default".to_owned());
        }
        let resolved = &self.resolved;
        let of_window = [blame(&resolved.panic_window_percentage), blame(&resolved.stable_window)];
        let exact = window.seconds_f64() * percentage / 100.0;
        if panic >= window {
            let why = format!(
                "the panic window is as long as the stable one ({window}), so it sees a burst no sooner: panic only \
                 keeps pods from going"
            );
            self.warn("panic-never", &of_window, why, format!("set {} to about 10", PANIC_WINDOW.canonical));
        } else if exact < 0.5 {
            let why = format!(
                "{} % of {window} is {} s, and a panic window has at least 1 s, so it is 1 s",
                number(percentage),
                number(exact)
            );
            let mend =
                format!("set {} to {} or more", PANIC_WINDOW.canonical, number((100.0 / window.seconds_f64()).ceil()));
            self.warn("panic-window-raised", &of_window, why, mend);
        }
    }

    /// What keeps coming and so keeps a pod. Only what is written on the template is known here; who calls a service is
    /// known by the cluster alone.
    fn kept_awake(&mut self) {
        let resolved = &self.resolved;
        if resolved.min_scale.value > 0 || !resolved.enable_scale_to_zero.value {
            return;
        }
        let window = resolved.stable_window.value;
        let annotation = |key: &str| self.subject.annotations.get(key).map(|value| value.trim());
        let scraped = annotation("prometheus.io/scrape") == Some("true");
        let port = annotation("prometheus.io/port");
        let counted = port.is_none_or(|port| COUNTED_PORTS.iter().any(|counted| port == counted.to_string()));
        let probed = annotation("prometheus.io/probe") == Some("true");
        if scraped && counted {
            let (key, what) = match port {
                Some(port) => ("prometheus.io/port", format!("port {port} is the queue-proxy's")),
                None => (
                    "prometheus.io/scrape",
                    format!(
                        "without prometheus.io/port every port of the pod is scraped, {QUEUE_HTTP1_PORT} of the queue-proxy too"
                    ),
                ),
            };
            let why = format!(
                "{what}, where a scrape counts as a request: one within each {window} keeps the last pod for ever"
            );
            let mend = "set prometheus.io/port to a port of your own container, where nothing is counted".to_owned();
            self.warn_annotation("kept-awake", key, why, mend);
        }
        if probed {
            let why = format!(
                "Knative copies it to the Kubernetes Services of the revision, and a prober that goes by it asks there \
                 by name: one probe within each {window} keeps a pod, and one at zero starts it"
            );
            self.warn_annotation("kept-awake", "prometheus.io/probe", why, "remove it".to_owned());
        }
        self.long_awake();
    }

    /// A revision that has been awake for a whole day with no more than a pod. Who keeps it so is not known here, only
    /// that somebody does.
    fn long_awake(&mut self) {
        let Some(Awake { since, pods }) = self.subject.awake else { return };
        if since < LONG_AWAKE || pods > 1 {
            return;
        }
        let hours = since.seconds_up() / 3600;
        self.findings.push(Finding {
            severity: Severity::Warning,
            rule: "kept-awake",
            map: None,
            path: "status.conditions".to_owned(),
            key: "Active".to_owned(),
            value: format!("for {hours} h"),
            why: format!(
                "one pod has not been idle for {} in all that time; steady little traffic looks the same, but a \
                 scraper, an uptime monitor or a health check of a gateway does too",
                self.resolved.stable_window.value
            ),
            mend: "look in the access log of the pod who asks; kubelet's own probes do not count".to_owned(),
        });
    }

    /// `container-concurrency-target-percentage` of 1 to 2, which reads like percent and is a fraction, or the other way
    /// round.
    fn percentage(&mut self) {
        let key = "container-concurrency-target-percentage";
        let fraction = self.cluster.autoscaler.container_concurrency_target_fraction;
        let origin = Origin::ConfigMap(key);
        if !self.cluster.autoscaler.is_written(key) || !(fraction == 1.0 || fraction < 0.05) {
            return;
        }
        let blamed = [Blamed { origin, value: number(fraction) }];
        if fraction == 1.0 {
            let why = "values up to 1 are fractions, so both 1 and 100 are 100 %: pods are filled completely before \
                       another is asked for"
                .to_owned();
            self.warn("percentage-or-fraction", &blamed, why, "write \"70\" or \"0.7\" for 70 %".to_owned());
        } else {
            let why = format!(
                "values above 1 are percent and up to 1 fractions, so this is {} %, and a pod of 100 is to carry {} \
                 requests in flight",
                number(fraction * 100.0),
                number(fraction * 100.0)
            );
            self.warn("percentage-or-fraction", &blamed, why, "write \"70\" or \"0.7\" for 70 %".to_owned());
        }
    }

    fn grace(&mut self) {
        let grace = self.resolved.scale_to_zero_grace_period.value;
        let blamed = [blame(&self.resolved.scale_to_zero_grace_period)];
        if grace < Span::from_seconds(6) {
            let why = format!(
                "the last pod may go {grace} after the activator took over, and a gateway that has not heard of it by \
                 then sends requests to a pod that is gone"
            );
            self.warn("grace-too-short", &blamed, why, "set it to 6s or more; 30s is the default".to_owned());
        } else if grace > Span::from_seconds(30) {
            let why = format!(
                "it is the longest the last pod waits for the activator, not the shortest: when the activator was in \
                 the path for {grace} already, the pod goes at once"
            );
            let mend =
                "to keep the last pod, set scale-to-zero-pod-retention-period; 30s is the default here".to_owned();
            self.warn("grace-keeps-nothing", &blamed, why, mend);
        }
    }

    /// Traps of a revision that a HorizontalPodAutoscaler serves.
    pub(super) fn traps_of_hpa(&mut self) {
        const WITHOUT_EFFECT: [&crate::api::annotations::Key; 8] = [
            &TARGET_UTILIZATION,
            &TARGET_BURST_CAPACITY,
            &PANIC_WINDOW,
            &PANIC_THRESHOLD,
            &SCALE_DOWN_DELAY,
            &POD_RETENTION,
            &ACTIVATION_SCALE,
            &AGGREGATION,
        ];
        for key in WITHOUT_EFFECT {
            if let Some((found, _)) = key.get(self.subject.annotations) {
                let why = "a HorizontalPodAutoscaler serves this revision, and it has nothing of the kind".to_owned();
                self.warn_annotation("no-effect-with-hpa", found, why, "remove it, or the class".to_owned());
            }
        }
        if let Some(min) = self.overrides.min_scale.as_ref().filter(|min| min.value == 0) {
            let why = "a HorizontalPodAutoscaler never goes to zero: one pod stays".to_owned();
            let mend = "set it to 1 to say what is, or remove the class to scale on requests".to_owned();
            self.warn_annotation("hpa-never-zero", min.key, why, mend);
        }
        let asks_cpu = |container: &Container| {
            let resources = container.resources.as_ref();
            // Without a request the limit stands for it.
            let asked = resources.and_then(|all| all.requests.as_ref()).is_some_and(|all| all.contains_key("cpu"));
            asked || resources.and_then(|all| all.limits.as_ref()).is_some_and(|all| all.contains_key("cpu"))
        };
        let on_cpu = self.resolved.metric.value == "cpu" || self.overrides.target.is_none();
        if on_cpu && !self.cluster.defaults.requests_cpu && self.subject.containers.iter().any(|one| !asks_cpu(one)) {
            let why = "the share of CPU is counted against what each container requests, and one requests none, so \
                       nothing is scaled"
                .to_owned();
            let mend = "set resources.requests.cpu on every container".to_owned();
            let blamed = [Blamed { origin: Origin::Field("containers"), value: String::new() }];
            self.warn("hpa-without-request", &blamed, why, mend);
        }
    }

    /// A class that only one vendor's Knative has.
    pub(super) fn mpa_class(&mut self) {
        let why = "a class of Alibaba Cloud's Knative for its MSE gateway; Knative's own admission refuses it, and Ebb serves it \
                   only with --serve-mpa"
            .to_owned();
        let mend =
            "remove it, or set it to kpa.autoscaling.knative.dev, to be scaled on requests everywhere".to_owned();
        self.warn("mpa-class", &[blame(&self.resolved.class)], why, mend);
    }

    /// A class no autoscaler of Knative serves.
    pub(super) fn unknown_class(&mut self) {
        let class = &self.resolved.class;
        let why = format!(
            "no autoscaler of Knative serves it; unless one of your own does, the revision never becomes ready and keeps \
             the {} it starts with",
            count(f64::from(self.resolved.initial_scale.value))
        );
        let mend = "remove it to get the cluster's class".to_owned();
        self.warn("unknown-class", &[blame(class)], why, mend);
    }

    fn limit(&self) -> Blamed {
        blame(&self.container_concurrency)
    }
}

fn move_to_template(key: &str) -> String {
    let known = KEYS.iter().any(|known| known.canonical == key || known.alias == Some(key));
    let meant = if known || !key.starts_with(PREFIX) { "" } else { ", and look up its name" };
    format!("move it to spec.template.metadata.annotations{meant}")
}

/// What a key that belongs to nobody was probably meant to be: one of the autoscaler's names under another prefix, or
/// nearly the progress deadline.
fn stray(key: &str) -> Option<&'static str> {
    if key.starts_with(PREFIX) || KEYS.iter().any(|known| known.canonical == key) {
        return None;
    }
    let (prefix, name) = key.rsplit_once('/')?;
    if strsim::normalized_damerau_levenshtein(&key.to_lowercase(), PROGRESS_DEADLINE.canonical) > 0.85 {
        return Some(PROGRESS_DEADLINE.canonical);
    }
    let near = prefix.contains("autoscaling") || prefix.ends_with("knative.dev");
    let named = |known: &&&crate::api::annotations::Key| {
        let has_name = |full: &str| full.rsplit_once('/').is_some_and(|(_, known)| known == name);
        known.canonical != PROGRESS_DEADLINE.canonical
            && (has_name(known.canonical) || known.alias.is_some_and(has_name))
    };
    KEYS.iter().find(named).filter(|_| near).map(|known| known.canonical)
}

/// The longest a probe lets a container take.
fn longest(probe: &Probe) -> Span {
    let (delay, period) = (probe.initial_delay_seconds.unwrap_or(0), probe.period_seconds.unwrap_or(10));
    let failures = probe.failure_threshold.unwrap_or(3);
    Span::from_seconds(i64::from(delay) + i64::from(period) * i64::from(failures))
}

fn seconds(given: Option<i32>, otherwise: i64) -> Span {
    Span::from_seconds(given.map_or(otherwise, i64::from))
}

/// A number as people write it.
fn number(value: f64) -> String {
    let rounded = round_to_millionth(value);
    if rounded == 0.0 { value.to_string() } else { rounded.to_string() }
}
