//! Windows, delay windows, decisions, activator counts.

use super::{Lines, Tally};
use ebb::engine::delay::DelayWindow;
use ebb::engine::{Collection, Decider, Load, MetricSpec, Spec, Window, subset};
use ebb::units::{Aggregation, Compat, ScalingMetric, Span, Timestamp};
use serde::Deserialize;

/// Relative or absolute difference allowed between weighted averages.
const WEIGHTED_TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct WindowLine {
    case: u64,
    #[serde(flatten)]
    op: WindowOp,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum WindowOp {
    New { kind: WindowKind, window_s: i64, granularity_s: i64 },
    Record { t_ns: i64, v: Real },
    Avg { t_ns: i64, want: Real },
    Empty { t_ns: i64, want: bool },
    Resize { window_s: i64, now_ns: i64 },
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum WindowKind {
    Timed,
    Weighted,
}

impl WindowKind {
    fn aggregation(self) -> Aggregation {
        match self {
            Self::Timed => Aggregation::Linear,
            Self::Weighted => Aggregation::WeightedExponential,
        }
    }
}

pub(super) fn windows(lines: &mut Lines, tally: &mut Tally) {
    let mut window = Window::new(Span::SECOND, Aggregation::Linear);
    let mut aggregation = Aggregation::Linear;
    while let Some(WindowLine { case, op }) = lines.next() {
        let line = lines.number;
        match op {
            WindowOp::New { kind, window_s, granularity_s } => {
                assert_eq!(granularity_s, 1, "line {line}: only buckets of one second");
                aggregation = kind.aggregation();
                window = Window::new(Span::from_seconds(window_s), aggregation);
            }
            WindowOp::Record { t_ns, v } => window.record(Timestamp::from_nanos(t_ns), v.0),
            WindowOp::Avg { t_ns, want } => {
                let ours = window.average(Timestamp::from_nanos(t_ns));
                tally.check(same_average(ours, want.0, aggregation), || {
                    format!("line {line} case {case} {aggregation:?} average at {t_ns}: want {}, ours {ours}", want.0)
                });
            }
            WindowOp::Empty { t_ns, want } => {
                let ours = window.is_empty(Timestamp::from_nanos(t_ns));
                tally.check(ours == want, || {
                    format!("line {line} case {case} empty at {t_ns}: want {want}, ours {ours}")
                });
            }
            WindowOp::Resize { window_s, now_ns } => {
                window.resize(Span::from_seconds(window_s), Timestamp::from_nanos(now_ns), Compat::STRICT);
            }
        }
    }
}

#[derive(Deserialize)]
struct MaxWindowLine {
    case: u64,
    #[serde(flatten)]
    op: MaxWindowOp,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum MaxWindowOp {
    New { duration_s: i64, granularity_s: i64 },
    Record { t_ns: i64, v: i32 },
    Current { want: i32 },
}

pub(super) fn max_window(lines: &mut Lines, tally: &mut Tally) {
    let mut window = DelayWindow::new(Span::SECOND);
    while let Some(MaxWindowLine { case, op }) = lines.next() {
        let line = lines.number;
        match op {
            MaxWindowOp::New { duration_s, granularity_s } => {
                assert_eq!(granularity_s, 2, "line {line}: only slots of two seconds");
                window = DelayWindow::new(Span::from_seconds(duration_s));
            }
            MaxWindowOp::Record { t_ns, v } => window.record(Timestamp::from_nanos(t_ns), v),
            MaxWindowOp::Current { want } => {
                let ours = window.current();
                tally.check(ours == want, || format!("line {line} case {case}: want maximum {want}, ours {ours}"));
            }
        }
    }
}

#[derive(Deserialize)]
struct DecisionLine {
    case: u64,
    #[serde(flatten)]
    op: DecisionOp,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum DecisionOp {
    New {
        spec: SpecFields,
        metric: MetricFields,
        initial_ready: i32,
        initial_ready_error: bool,
        t0_ns: i64,
        want: PanicFields,
    },
    UpdateSpec {
        spec: SpecFields,
    },
    UpdateMetric {
        metric: MetricFields,
        now_ns: i64,
    },
    DeleteMetric,
    CreateMetric {
        metric: MetricFields,
    },
    Tick(Box<Tick>),
}

#[derive(Deserialize)]
struct Tick {
    t_ns: i64,
    ready: i32,
    ready_error: Option<ReadyError>,
    stats: Vec<StatFields>,
    #[serde(default)]
    fragile: bool,
    #[serde(default)]
    overflow: bool,
    want: Want,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum ReadyError {
    NotFound,
    Other,
}

#[derive(Deserialize)]
struct StatFields {
    t_ns: i64,
    avg_conc: Real,
    avg_proxied: Real,
    req_count: Real,
    proxied_count: Real,
}

#[derive(Deserialize)]
struct Want {
    valid: bool,
    observed_stable: Option<Real>,
    observed_panic: Option<Real>,
    observe_error: Option<ObserveError>,
    desired: Option<i32>,
    ebc: Option<i32>,
    #[serde(flatten)]
    panic: PanicFields,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
enum ObserveError {
    NoData,
    NotCollecting,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Debug)]
struct PanicFields {
    panicking: bool,
    max_panic_pods: i32,
    panic_time_ns: Option<i64>,
}

impl PanicFields {
    /// Whether `decider` is in this state; the panic time counts only where the line gives it.
    fn holds_for(&self, decider: &Decider) -> bool {
        let panic = decider.panic();
        self.panicking == panic.since().is_some()
            && self.max_panic_pods == panic.most()
            && self.panic_time_ns.is_none_or(|nanos| panic.since() == Some(Timestamp::from_nanos(nanos)))
    }
}

#[derive(Deserialize)]
struct SpecFields {
    max_scale_up_rate: Real,
    max_scale_down_rate: Real,
    scaling_metric: String,
    target_value: Real,
    total_value: Real,
    target_burst_capacity: Real,
    activator_capacity: Real,
    panic_threshold: Real,
    stable_window_ns: i64,
    scale_down_delay_ns: i64,
    initial_scale: i32,
    reachable: bool,
    activation_scale: i32,
}

impl From<SpecFields> for Spec {
    fn from(fields: SpecFields) -> Self {
        Self {
            max_scale_up_rate: fields.max_scale_up_rate.0,
            max_scale_down_rate: fields.max_scale_down_rate.0,
            metric: if fields.scaling_metric == "rps" { ScalingMetric::Rps } else { ScalingMetric::Concurrency },
            target_value: fields.target_value.0,
            total_value: fields.total_value.0,
            target_burst_capacity: fields.target_burst_capacity.0,
            activator_capacity: fields.activator_capacity.0,
            panic_threshold: fields.panic_threshold.0,
            stable_window: Span::from_nanos(fields.stable_window_ns),
            scale_down_delay: Span::from_nanos(fields.scale_down_delay_ns),
            initial_scale: fields.initial_scale,
            activation_scale: fields.activation_scale,
            reachable: fields.reachable,
        }
    }
}

#[derive(Deserialize)]
struct MetricFields {
    stable_window_ns: i64,
    panic_window_ns: i64,
    scrape_target: String,
    aggregation_algorithm: String,
}

impl From<MetricFields> for MetricSpec {
    fn from(fields: MetricFields) -> Self {
        Self {
            stable_window: Span::from_nanos(fields.stable_window_ns),
            panic_window: Span::from_nanos(fields.panic_window_ns),
            scraped: !fields.scrape_target.is_empty(),
            aggregation: match fields.aggregation_algorithm.as_str() {
                "weighted-exponential" | "weightedExponential" => Aggregation::WeightedExponential,
                _ => Aggregation::Linear,
            },
        }
    }
}

/// One case while it runs.
struct Run {
    decider: Decider,
    collection: Option<Collection>,
    aggregation: Aggregation,
    tick: u64,
}

pub(super) fn decisions(lines: &mut Lines, tally: &mut Tally) {
    let mut running: Option<Run> = None;
    while let Some(DecisionLine { case, op }) = lines.next() {
        let line = lines.number;
        if let DecisionOp::New { spec, metric, initial_ready, initial_ready_error, t0_ns, want } = op {
            let ready = if initial_ready_error { 0 } else { initial_ready };
            let metric = MetricSpec::from(metric);
            let run = Run {
                decider: Decider::new(spec.into(), ready, Timestamp::from_nanos(t0_ns), Compat::STRICT),
                collection: Some(Collection::new(&metric)),
                aggregation: metric.aggregation,
                tick: 0,
            };
            tally.check(want.holds_for(&run.decider), || {
                format!("line {line} case {case} at creation: want {want:?}, ours {:?}", run.decider.panic())
            });
            running = Some(run);
            continue;
        }
        // After a difference that the data's README excuses, the rest of the case says nothing.
        let Some(run) = &mut running else { continue };
        match op {
            DecisionOp::New { .. } => unreachable!("handled above"),
            DecisionOp::UpdateSpec { spec } => run.decider.update(spec.into()),
            DecisionOp::UpdateMetric { metric, now_ns } => {
                if let Some(collection) = &mut run.collection {
                    collection.resize(&metric.into(), Timestamp::from_nanos(now_ns), Compat::STRICT);
                }
            }
            DecisionOp::DeleteMetric => run.collection = None,
            DecisionOp::CreateMetric { metric } => {
                let metric = MetricSpec::from(metric);
                run.aggregation = metric.aggregation;
                run.collection = Some(Collection::new(&metric));
            }
            DecisionOp::Tick(tick) => {
                run.tick += 1;
                if let Err(difference) = run.tick(&tick) {
                    if tick.fragile || tick.overflow {
                        tally.excuse();
                        running = None;
                    } else {
                        tally.check(false, || format!("line {line} case {case} tick {}: {difference}", run.tick));
                    }
                } else {
                    tally.check(true, String::new);
                }
            }
        }
    }
}

impl Run {
    /// Plays one tick; an error says what differs.
    fn tick(&mut self, tick: &Tick) -> Result<(), String> {
        let now = Timestamp::from_nanos(tick.t_ns);
        if let Some(collection) = &mut self.collection {
            for stat in &tick.stats {
                let load = Load {
                    concurrency: stat.avg_conc.0,
                    proxied_concurrency: stat.avg_proxied.0,
                    requests: stat.req_count.0,
                    proxied_requests: stat.proxied_count.0,
                };
                collection.record(Timestamp::from_nanos(stat.t_ns), &load);
            }
        }
        let metric = self.decider.spec().metric;
        let observed = match &self.collection {
            None => Err(ObserveError::NotCollecting),
            Some(collection) => collection.observe(metric, now).map_err(|_| ObserveError::NoData),
        };
        let ready = match tick.ready_error {
            None => Some(tick.ready),
            Some(ReadyError::NotFound) => Some(0),
            Some(ReadyError::Other) => None,
        };
        let decision = observed.ok().zip(ready).map(|(observed, ready)| self.decider.decide(now, ready, observed));

        let want = &tick.want;
        let mut differences = Vec::new();
        match (observed, want.observe_error) {
            (Err(ours), wanted) if Some(ours) != wanted => {
                differences.push(format!("observed: want {wanted:?}, ours {ours:?}"));
            }
            (Ok(ours), Some(wanted)) => differences.push(format!("observed: want {wanted:?}, ours {ours:?}")),
            (Ok(ours), None) => {
                for (name, ours, wanted) in [
                    ("stable average", ours.stable, want.observed_stable),
                    ("panic average", ours.panic, want.observed_panic),
                ] {
                    let wanted = wanted.expect("a tick without an observe error gives both averages").0;
                    if !same_average(ours, wanted, self.aggregation) {
                        differences.push(format!("{name}: want {wanted}, ours {ours}"));
                    }
                }
            }
            (Err(_), _) => {}
        }
        if want.valid != decision.is_some() {
            differences.push(format!("valid: want {}, ours {}", want.valid, decision.is_some()));
        }
        if let Some(decision) = &decision {
            if want.desired != Some(decision.desired) {
                differences.push(format!("desired: want {:?}, ours {}", want.desired, decision.desired));
            }
            if want.ebc != Some(decision.excess_burst) {
                differences.push(format!("excess burst: want {:?}, ours {}", want.ebc, decision.excess_burst));
            }
        }
        if !want.panic.holds_for(&self.decider) {
            differences.push(format!("panic: want {:?}, ours {:?}", want.panic, self.decider.panic()));
        }
        if differences.is_empty() {
            return Ok(());
        }
        let because = decision.map(|decision| format!("; our reasons: {decision}")).unwrap_or_default();
        Err(format!("at {now:?} with {:?} ready: {}{because}", ready, differences.join("; ")))
    }
}

#[derive(Deserialize)]
struct ActivatorsLine {
    case: u64,
    ready: i32,
    target_burst_capacity: Real,
    total_value: Real,
    activator_capacity: Real,
    want: i32,
}

pub(super) fn num_activators(lines: &mut Lines, tally: &mut Tally) {
    while let Some(line) = lines.next::<ActivatorsLine>() {
        let spec = Spec {
            target_burst_capacity: line.target_burst_capacity.0,
            total_value: line.total_value.0,
            activator_capacity: line.activator_capacity.0,
            // The rest has no say in this.
            ..Spec::default()
        };
        let ours = subset::number_of_activators(&spec, line.ready, Compat::STRICT);
        tally.check(ours == line.want, || {
            format!("case {}: {} ready, {spec:?}: want {}, ours {ours}", line.case, line.ready, line.want)
        });
    }
}

/// Linear averages agree exactly (a negative zero is a zero), weighted ones within the tolerance.
fn same_average(ours: f64, want: f64, aggregation: Aggregation) -> bool {
    match aggregation {
        Aggregation::Linear => ours == want || ours.is_nan() && want.is_nan(),
        Aggregation::WeightedExponential => {
            let difference = (ours - want).abs();
            ours == want || difference <= WEIGHTED_TOLERANCE || difference <= WEIGHTED_TOLERANCE * want.abs()
        }
    }
}

/// A real number as the data write it: a JSON number, or the name of a value JSON has not.
#[derive(Clone, Copy, Debug)]
struct Real(f64);

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(f64),
            Name(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(value) => Ok(Self(value)),
            Written::Name(name) => match name.as_str() {
                "NaN" => Ok(Self(f64::NAN)),
                "+Inf" => Ok(Self(f64::INFINITY)),
                "-Inf" => Ok(Self(f64::NEG_INFINITY)),
                _ => Err(serde::de::Error::custom(format!("{name:?} is not NaN, +Inf or -Inf"))),
            },
        }
    }
}
