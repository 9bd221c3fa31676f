//! A scenario: what is simulated, as it is written in a file.
//!
//! ```yaml
//! apiVersion: sim/v1
//! name: hello
//! duration: 30m
//! load:
//!   synthetic: { poisson: { rate: 20 } }
//!   service: { law: lognormal, mean: 200ms, p99: 1s }
//! policies:
//!   - { name: defaults, kpa: {} }
//! ```
//!
//! [`parse`] tells everything that is wrong with file, line and column; unknown keys with the nearest known one. A
//! scenario that parsed can be run. [`Scenario::check`] does the same for one that was made or changed by a program.

use super::law::{Law, Written};
use super::time::{Length, SECOND, Share};
use super::trace::{DurationUnit, Reading, Values};
use crate::api::annotations::{Annotations, validate};
use crate::config::document::{Besides, Content, Fault, Place, Problem, Problems, Source, read, yaml};
use crate::config::{Autoscaler, Data, Resolved};
use crate::units::Compat;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The version of scenario files.
pub const API_VERSION: &str = "sim/v1";

/// What is simulated.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Scenario {
    /// The version of the file: `sim/v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// What it is called. Streams of random numbers are derived from it.
    pub name: String,
    /// What it shows, for people.
    pub description: String,
    /// The first seed; repetition `i` has this plus `i`.
    pub seed: u64,
    /// How often each policy is run, each time with another seed.
    pub repetitions: u32,
    /// What is simulated but not measured.
    pub warm_up: Length,
    /// How long it runs; to the end of the trace where there is one.
    pub duration: Option<Length>,
    /// Screening is too far off here: it is never screened, only simulated.
    pub exact_only: bool,
    /// The requests.
    pub load: Load,
    /// What serves them.
    pub revision: Revision,
    /// What is around it.
    pub world: World,
    /// What decides how many pods there are.
    pub policies: Vec<Entry>,
    /// What is promised to callers.
    pub slo: Slo,
    /// What is written.
    pub output: Output,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            name: String::new(),
            description: String::new(),
            seed: 1,
            repetitions: 8,
            warm_up: Length(0),
            duration: None,
            exact_only: false,
            load: Load::default(),
            revision: Revision::default(),
            world: World::default(),
            policies: Vec::new(),
            slo: Slo::default(),
            output: Output::default(),
        }
    }
}

/// The requests: when they come, how long they take, what callers do.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Recorded traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceLoad>,
    /// Traffic made up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synthetic: Option<Synthetic>,
    /// How long a request takes in a pod that has nothing else to do; from the trace where it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Written>,
    /// How much slower a pod is with many requests at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contention: Option<Contention>,
    /// How long a caller waits before it gives up; for ever where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Length>,
    /// Whether the pod goes on with a request whose caller gave up.
    pub timeout_keeps_slot: bool,
    /// What callers do when a request fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
}

/// Recorded traffic, and what is made of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceLoad {
    /// The file, from the scenario's directory.
    pub file: String,
    /// Where the file is to be had, for whoever does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Of a file with many functions, the one; all of them added up where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// What the values of a Prometheus answer are, where their names do not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Values>,
    /// The unit of durations in an access log, where their field does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_unit: Option<DurationUnit>,
    /// Where in a bucket its requests come.
    pub inside_bucket: InsideBucket,
    /// With `front`, the part of the bucket they come in.
    pub front_fraction: f64,
    /// With `bursty`, the coefficient of variation of the time between two requests.
    pub cv: f64,
    /// Traffic is this many times as much.
    pub rate_factor: f64,
    /// Everything takes this many times as long to happen: 0.5 is twice as fast, with the same number of requests.
    pub time_factor: f64,
    /// A part of it; to its end where `to` is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<Slice>,
    /// How often it is played, one after another.
    pub repeat: u32,
    /// By how much the rate of each bucket is off, as the standard deviation of its logarithm.
    pub noise: f64,
}

impl Default for TraceLoad {
    fn default() -> Self {
        Self {
            file: String::new(),
            origin: None,
            function: None,
            values: None,
            duration_unit: None,
            inside_bucket: InsideBucket::Poisson,
            front_fraction: 0.2,
            cv: 2.0,
            rate_factor: 1.0,
            time_factor: 1.0,
            slice: None,
            repeat: 1,
            noise: 0.0,
        }
    }
}

/// Where in a bucket its requests come. Their number is always that of the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InsideBucket {
    /// Anywhere, each by itself.
    #[default]
    Poisson,
    /// At equal distances.
    Even,
    /// In the first part of the bucket.
    Front,
    /// In clusters.
    Bursty,
}

/// A part of a trace.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Slice {
    /// Where it begins.
    pub from: Length,
    /// Where it ends; the end of the trace where it is absent.
    pub to: Option<Length>,
}

/// Traffic made up. Exactly one of these.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Synthetic {
    /// Requests that know nothing of each other, at one rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poisson: Option<Rate>,
    /// The same, at a rate that jumps between states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmpp: Option<Mmpp>,
    /// One request after another at equal distances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant: Option<Rate>,
    /// A rate that changes at given times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<Vec<Step>>,
    /// A rate that goes evenly from one to another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    /// A rate that follows a daily wave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diurnal: Option<Diurnal>,
    /// A rate that rises to a plateau and decays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flash_crowd: Option<FlashCrowd>,
    /// So many requests at once, again and again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// All of these together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum: Option<Vec<Synthetic>>,
}

/// One rate.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rate {
    /// Requests per second.
    pub rate: f64,
}

/// A rate that jumps between states.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mmpp {
    /// The states. From each it goes to any other alike; the first is where it begins.
    pub states: Vec<State>,
}

/// One state.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Requests per second.
    pub rate: f64,
    /// How long it lasts, on average.
    pub mean: Length,
}

/// A rate from a time on.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// From when on.
    pub at: Length,
    /// Requests per second.
    pub rate: f64,
}

/// A rate that goes evenly from one to another, and stays there.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ramp {
    /// Requests per second at the start.
    pub from: f64,
    /// Requests per second at the end.
    pub to: f64,
    /// How long it takes to get there.
    pub over: Length,
}

/// A daily wave: `mean · (1 + swing · cos(2π (t − peak) / period))`.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Diurnal {
    /// Requests per second, on average.
    pub mean: f64,
    /// How far it goes up and down, as a part of the mean: from 0 to 1.
    pub swing: f64,
    /// How long a day is.
    pub period: Length,
    /// When it is highest.
    pub peak: Length,
}

impl Default for Diurnal {
    fn default() -> Self {
        Self { mean: 0.0, swing: 0.5, period: Length::seconds(86_400), peak: Length::seconds(14 * 3600) }
    }
}

/// A rate that rises evenly from `base` to `peak`, stays, and decays towards `base` again.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FlashCrowd {
    /// Requests per second before and after.
    pub base: f64,
    /// Requests per second at the top.
    pub peak: f64,
    /// When it begins to rise.
    pub at: Length,
    /// How long it rises.
    pub rise: Length,
    /// How long it stays.
    pub plateau: Length,
    /// How long it takes to lose half of what is left.
    pub half_life: Length,
}

/// So many requests at once, again and again.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Batch {
    /// How many.
    pub size: u32,
    /// How often.
    pub every: Length,
    /// The first comes then.
    pub at: Length,
    /// Each batch is late by anything up to this.
    pub jitter: Length,
    /// Its requests come anywhere within this.
    pub spread: Length,
}

impl Default for Batch {
    fn default() -> Self {
        Self { size: 0, every: Length(0), at: Length(0), jitter: Length(0), spread: Length(0) }
    }
}

/// A pod with `n` requests when one starts serves that one `1 + factor · max(0, n − knee) / knee` times as slowly.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Contention {
    /// How much slower with twice the knee.
    pub factor: f64,
    /// Requests at once that do not disturb each other.
    pub knee: f64,
}

/// What callers do when a request fails.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Retries {
    /// How often it is tried again at most.
    pub max: u8,
    /// The pause before the first try; each further one is twice as long.
    pub backoff: Length,
    /// The longest pause.
    pub cap: Length,
}

impl Default for Retries {
    fn default() -> Self {
        Self { max: 0, backoff: Length::millis(100), cap: Length::seconds(10) }
    }
}

/// What serves the requests, with Knative's names.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Revision {
    /// Requests a pod takes at once; 0 is any number.
    #[serde(rename = "containerConcurrency")]
    pub container_concurrency: u32,
    /// How long a request may take, in seconds.
    #[serde(rename = "timeoutSeconds")]
    pub timeout_seconds: u32,
    /// Its autoscaling annotations.
    pub annotations: Annotations,
    /// The cluster's `config-autoscaler`.
    pub config: Data,
    /// Cores a pod asks for.
    pub cpu: f64,
    /// Memory a pod asks for, in GiB.
    pub memory: f64,
}

impl Default for Revision {
    fn default() -> Self {
        Self {
            container_concurrency: 0,
            timeout_seconds: 300,
            annotations: Annotations::new(),
            config: Data::new(),
            cpu: 1.0,
            memory: 0.5,
        }
    }
}

/// What is around the revision.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct World {
    /// How pods start.
    pub startup: StartUp,
    /// How pods stop.
    pub shutdown: Shutdown,
    /// Pods the nodes have room for; 0 is any number.
    pub node_capacity: u32,
    /// Pods that get a node each second at most; 0 is any number.
    pub pods_per_second: f64,
    /// How requests get to pods.
    pub ingress: Ingress,
    /// Activators there are.
    pub activators: u32,
    /// Requests that may wait at one activator; any number where it is absent, as in Knative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activator_queue: Option<u32>,
    /// How often an activator probes a new pod.
    pub activator_probe: Length,
    /// How long a change of scale takes to reach whoever makes pods.
    pub api_latency: Written,
    /// How often a scrape fails.
    pub scrape_failure: Share,
    /// How much later than measured the scaler hears of load.
    pub metric_delay: Length,
    /// When the scaler hears nothing at all.
    pub metric_gaps: Vec<Gap>,
    /// When in their periods the parts of Knative look, where that is known.
    #[serde(skip_serializing_if = "Phases::are_unknown")]
    pub phases: Phases,
    /// What breaks.
    pub failures: Failures,
}

impl Default for World {
    fn default() -> Self {
        Self {
            startup: StartUp::default(),
            shutdown: Shutdown::default(),
            node_capacity: 0,
            pods_per_second: 0.0,
            ingress: Ingress::default(),
            activators: 2,
            activator_queue: None,
            activator_probe: Length::millis(200),
            api_latency: Written::lognormal(Length::millis(50), Length::millis(300)),
            scrape_failure: Share(0.0),
            metric_delay: Length(0),
            metric_gaps: Vec::new(),
            phases: Phases::default(),
            failures: Failures::default(),
        }
    }
}

/// How pods start. The parts follow each other; then the pod waits for its next readiness probe.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct StartUp {
    /// Until it has a node.
    pub schedule: Written,
    /// How often the node has the image.
    pub image_cached: Share,
    /// Pulling the image where it has not.
    pub image_pull: Written,
    /// Starting the container.
    pub start: Written,
    /// Starting the program in it.
    pub application: Written,
    /// How often readiness is probed.
    pub readiness_period: Length,
}

/// With a warm image half the pods are ready within 1.6 s, and 99 of 100 within 6 s.
impl Default for StartUp {
    fn default() -> Self {
        Self {
            schedule: Written::lognormal(Length::millis(150), Length::seconds(1)),
            image_cached: Share(1.0),
            image_pull: Written::lognormal(Length::seconds(5), Length::seconds(30)),
            start: Written::lognormal(Length::millis(700), Length::seconds(3)),
            application: Written::lognormal(Length::millis(100), Length::millis(2500)),
            readiness_period: Length::seconds(1),
        }
    }
}

/// How pods stop.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Shutdown {
    /// How long no request may have come before it goes.
    pub quiet: Length,
    /// How long it may take altogether; the revision's `timeoutSeconds` where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<Length>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { quiet: Length::seconds(30), grace: None }
    }
}

/// When something periodic happens first, after the start of the load; every period from then on, and before. Where it is
/// absent the seed says: parts of a cluster are not in step, and none is to be lucky in all runs.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Phases {
    /// The scaler decides, every two seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tick: Option<Length>,
    /// Pods are scraped, each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrape: Option<Length>,
    /// Activators report, each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Length>,
}

impl Phases {
    fn are_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// How requests get to pods where no activator is in the path.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Ingress {
    /// Which pod.
    pub balancing: Balancing,
    /// Workers that balance each for itself.
    pub workers: u32,
    /// How long it takes to follow a change of mode or of pods.
    pub endpoint_propagation: Written,
}

impl Default for Ingress {
    fn default() -> Self {
        Self {
            balancing: Balancing::Random,
            workers: 2,
            endpoint_propagation: Written::lognormal(Length::millis(300), Length::seconds(2)),
        }
    }
}

/// Which pod a request goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balancing {
    /// Any, as a Kubernetes Service does it.
    #[default]
    Random,
    /// One after another, each worker for itself.
    RoundRobin,
    /// The less loaded of two.
    P2c,
    /// The least loaded.
    LeastRequest,
}

/// A time in which the scaler hears nothing.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Gap {
    /// From when.
    pub from: Length,
    /// To when.
    pub to: Length,
}

/// What breaks.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Failures {
    /// How often a pod crashes when it starts; it is started again after a pause that doubles each time.
    pub crash_on_start: Share,
    /// The first pause.
    pub crash_backoff: Length,
    /// How often a start is slow.
    pub slow_start: Share,
    /// How many times as long a slow start takes.
    pub slow_factor: f64,
    /// How many ready pods are lost with their requests, per pod and hour.
    pub lost_per_hour: f64,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            crash_on_start: Share(0.0),
            crash_backoff: Length::seconds(10),
            slow_start: Share(0.0),
            slow_factor: 5.0,
            lost_per_hour: 0.0,
        }
    }
}

/// A policy by name. Exactly one kind.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// What it is called in results.
    pub name: String,
    /// Knative's own, run by this program's engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kpa: Option<Kpa>,
    /// Kubernetes' horizontal pod autoscaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hpa: Option<Hpa>,
    /// KEDA's HTTP add-on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keda_http: Option<KedaHttp>,
    /// Always the same number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<Fixed>,
    /// A number by the time of day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// The least any policy that lets nobody wait can cost; it knows the future.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oracle: Option<Oracle>,
}

/// Knative's autoscaler.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Kpa {
    /// Annotations beside those of the revision; the same key counts here.
    pub annotations: Annotations,
    /// Keys of `config-autoscaler` beside those of the revision.
    pub config: Data,
    /// In place of the revision's.
    #[serde(rename = "containerConcurrency", skip_serializing_if = "Option::is_none")]
    pub container_concurrency: Option<u32>,
    /// Which of the reference's sharp edges are kept.
    pub compat: Mode,
    /// A floor from what the load did before; none where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predictive: Option<Predictive>,
}

/// A floor under the number of pods, from what the load did before.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Predictive {
    /// Whether it is applied.
    pub mode: Prediction,
    /// The part of times in which the load should stay below what is foreseen, from 0.5 to below 1.
    pub quantile: f64,
    /// Whether it may raise a revision from zero.
    pub prewarm: bool,
    /// What it may cost, as a part of the pod-seconds of a day without it.
    pub budget: Share,
}

impl Default for Predictive {
    fn default() -> Self {
        Self { mode: Prediction::Off, quantile: 0.9, prewarm: false, budget: Share(0.1) }
    }
}

/// Whether what is foreseen is applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// Nothing is foreseen.
    #[default]
    Off,
    /// It is foreseen and told, and changes nothing.
    Shadow,
    /// It is applied.
    On,
}

/// In YAML `on` and `off` are truth values.
impl<'de> Deserialize<'de> for Prediction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = Prediction;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("off, shadow or on")
            }

            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Prediction, E> {
                Ok(if on { Prediction::On } else { Prediction::Off })
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Prediction, E> {
                match word {
                    "off" => Ok(Prediction::Off),
                    "shadow" => Ok(Prediction::Shadow),
                    "on" => Ok(Prediction::On),
                    _ => Err(E::custom(format_args!("{word:?} is none of off, shadow and on"))),
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}

/// Which of the reference's sharp edges are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Ebb as it is.
    #[default]
    Improved,
    /// Exactly Knative.
    Strict,
}

impl From<Mode> for Compat {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Improved => Self::IMPROVED,
            Mode::Strict => Self::STRICT,
        }
    }
}

/// Kubernetes' horizontal pod autoscaler, autoscaling/v2, with its default behaviour.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Hpa {
    /// What is looked at.
    pub metric: HpaMetric,
    /// What a pod should have of it: percent of its CPU request, or requests at once.
    pub target: f64,
    /// Fewest pods.
    pub min: u32,
    /// Most pods.
    pub max: u32,
    /// Cores a request in service uses. The pod's CPU request shared among the requests it takes at once, where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_per_request: Option<f64>,
    /// How often it looks.
    pub period: Length,
    /// How far from the target it does nothing.
    pub tolerance: Share,
    /// The highest number of this time back counts when it goes down.
    pub stabilization: Length,
}

impl Default for Hpa {
    fn default() -> Self {
        Self {
            metric: HpaMetric::Cpu,
            target: 80.0,
            min: 1,
            max: 100,
            cpu_per_request: None,
            period: Length::seconds(15),
            tolerance: Share(0.1),
            stabilization: Length::seconds(300),
        }
    }
}

/// What the horizontal pod autoscaler looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HpaMetric {
    /// CPU used, of CPU asked for.
    #[default]
    Cpu,
    /// Requests at once.
    Concurrency,
}

/// KEDA's HTTP add-on: an interceptor that counts, and a horizontal pod autoscaler behind it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct KedaHttp {
    /// What is looked at.
    pub metric: KedaMetric,
    /// What a pod should have of it.
    pub target: f64,
    /// Fewest pods.
    pub min: u32,
    /// Most pods.
    pub max: u32,
    /// How often it looks.
    pub poll: Length,
    /// Over how long a rate is averaged.
    pub window: Length,
    /// How long there must have been no request before it goes to zero.
    pub cooldown: Length,
    /// The highest number of this time back counts when it goes down.
    pub stabilization: Length,
}

impl Default for KedaHttp {
    fn default() -> Self {
        Self {
            metric: KedaMetric::Concurrency,
            target: 100.0,
            min: 0,
            max: 100,
            poll: Length::seconds(15),
            window: Length::seconds(60),
            cooldown: Length::seconds(300),
            stabilization: Length::seconds(300),
        }
    }
}

/// What KEDA's HTTP add-on looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KedaMetric {
    /// Requests at once.
    #[default]
    Concurrency,
    /// Requests per second.
    Rate,
}

/// Always the same number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Fixed {
    /// How many pods.
    pub pods: u32,
    /// Whether requests go through the activators.
    pub activator: bool,
}

/// A number by the time of day.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedule {
    /// From when on how many, each day anew. Before the first, the last counts.
    pub steps: Vec<ScheduleStep>,
}

/// A number from a time on.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleStep {
    /// From when on, since the start of the day.
    pub at: Length,
    /// How many pods.
    pub pods: u32,
}

/// The least any policy that lets nobody wait can cost.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Oracle {
    /// Requests a pod takes at once; the revision's `containerConcurrency` where absent, and its target where that is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_pod: Option<f64>,
}

/// What is promised to callers.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Slo {
    /// A request that takes longer breaks it.
    pub latency: Length,
    /// So many of 100 requests keep it.
    pub percentile: f64,
    /// So many may fail.
    pub errors: Share,
    /// Reversals of direction within this time are flaps.
    pub flap_window: Length,
}

impl Default for Slo {
    fn default() -> Self {
        Self { latency: Length::seconds(1), percentile: 99.0, errors: Share(0.001), flap_window: Length::seconds(300) }
    }
}

/// What is written.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Output {
    /// Time between two lines of a series; 2 s, or more where the run is longer than two days, where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series_step: Option<Length>,
    /// Which files.
    pub formats: Vec<Format>,
}

impl Default for Output {
    fn default() -> Self {
        Self { series_step: None, formats: vec![Format::Html] }
    }
}

/// A kind of file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A report for people.
    Html,
    /// Everything, for programs.
    Json,
    /// The series, for spreadsheets.
    Csv,
}

/// Reads a scenario. `file` is what it is called when something is wrong.
///
/// # Errors
/// With everything that is wrong, each with its place and a way out.
pub fn parse(file: &str, text: &str) -> Result<Scenario, Problems> {
    parsed(file, text, false)
}

/// The same for somebody who has the traffic: what is missing of the load is not missed.
///
/// # Errors
/// As above.
pub fn parse_for_traffic(file: &str, text: &str) -> Result<Scenario, Problems> {
    parsed(file, text, true)
}

fn parsed(file: &str, text: &str, has_traffic: bool) -> Result<Scenario, Problems> {
    let problem = |place: Place, path: String, message: String| Problem {
        source: Source { file: file.to_owned(), place },
        path,
        message,
    };
    let one = |place, message: &str| Problems(vec![problem(place, String::new(), message.to_owned())]);
    let documents =
        yaml::documents(text).map_err(|(place, message)| Problems(vec![problem(place, String::new(), message)]))?;
    let node = match documents.as_slice() {
        [] => return Err(one(Place::default(), "there is no scenario in it; begin with \"apiVersion: sim/v1\"")),
        [node] => node,
        [_, second, ..] => return Err(one(second.place, "a file holds one scenario; put the second into its own")),
    };
    match node.get("apiVersion").map(|version| &version.content) {
        Some(Content::Text(version)) if version == API_VERSION => {}
        Some(_) => {
            let place = node.place_of("apiVersion");
            return Err(Problems(vec![problem(
                place,
                "apiVersion".to_owned(),
                format!("not a version of scenarios that is known here; write \"apiVersion: {API_VERSION}\""),
            )]));
        }
        None => return Err(one(node.place, "apiVersion is missing; begin with \"apiVersion: sim/v1\"")),
    }
    let (scenario, faults) = read::<Scenario>(node, "", Besides::Only(&[]));
    let mut problems: Vec<Problem> =
        faults.into_iter().map(|Fault { place, path, message }| problem(place, path, message)).collect();
    if let Some(scenario) = &scenario {
        let mut faults = scenario.check();
        if has_traffic && scenario.load.trace.is_none() && scenario.load.synthetic.is_none() {
            faults.retain(|(path, _)| path != "load" && (path != "load.service" || scenario.load.service.is_some()));
        }
        problems.extend(faults.into_iter().map(|(path, message)| problem(node.place_of(&path), path, message)));
    }
    problems.sort_by_key(|problem| problem.source.place);
    match scenario {
        Some(scenario) if problems.is_empty() => Ok(scenario),
        _ => Err(Problems(problems)),
    }
}

/// Where a field stands in the text of a scenario, or the nearest field around it.
pub fn place(text: &str, path: &str) -> Place {
    let documents = yaml::documents(text).unwrap_or_default();
    documents.first().map_or_else(Place::default, |node| node.place_of(path))
}

impl Scenario {
    /// Everything that is wrong, each as the path of the field and what is wrong with it.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut faults = Faults::default();
        if self.api_version != API_VERSION {
            faults.add("apiVersion", format!("{:?} is not {API_VERSION:?}", self.api_version));
        }
        if self.name.is_empty() {
            faults.add("name", "missing; results and streams of random numbers are named for it");
        }
        if self.repetitions == 0 || self.repetitions > 1000 {
            faults.add("repetitions", format!("{} is not from 1 to 1000", self.repetitions));
        }
        if let Some(duration) = self.duration
            && duration <= self.warm_up
        {
            faults.add("duration", format!("{duration} is not longer than the warm_up of {}", self.warm_up));
        }
        self.load.check(self.duration, &mut faults);
        self.revision.check(&mut faults);
        self.world.check(&mut faults);
        if self.policies.is_empty() {
            faults.add("policies", "there is none; add \"- { name: defaults, kpa: {} }\"");
        }
        for (number, policy) in self.policies.iter().enumerate() {
            let path = format!("policies[{number}]");
            policy.check(&self.revision, &path, &mut faults);
            if self.policies[..number].iter().any(|other| other.name == policy.name) {
                faults.add(format!("{path}.name"), format!("{:?} is the name of another policy too", policy.name));
            }
        }
        if !(0.0 < self.slo.percentile && self.slo.percentile < 100.0) {
            faults.add("slo.percentile", format!("{} is not between 0 and 100", self.slo.percentile));
        }
        if self.slo.latency.0 == 0 {
            faults.add("slo.latency", "is above 0s");
        }
        if self.output.series_step.is_some_and(|step| step.0 < 100_000) {
            faults.add("output.series_step", "is at least 100ms");
        }
        faults.found
    }

    /// The settings `kpa` decides by.
    pub fn resolved(&self, kpa: &Kpa) -> Resolved {
        self.revision.with(kpa).map_or_else(
            |_| {
                let overrides = crate::api::annotations::Overrides::read(&Annotations::new(), kpa.compat.into()).0;
                let concurrency = i64::from(self.revision.container_concurrency);
                crate::config::resolve(
                    &Autoscaler::default(),
                    &crate::config::Deployment::default(),
                    &overrides,
                    concurrency,
                    "Reachable",
                )
            },
            |(resolved, _)| resolved,
        )
    }

    /// Requests a pod of `kpa` takes at once; 0 is any number.
    pub fn concurrency(&self, kpa: &Kpa) -> u32 {
        kpa.container_concurrency.unwrap_or(self.revision.container_concurrency)
    }
}

#[derive(Default)]
struct Faults {
    found: Vec<(String, String)>,
}

impl Faults {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.found.push((path.into(), message.into()));
    }

    /// The law at `path`.
    fn law(&mut self, path: &str, written: &Written) -> Option<Law> {
        match written.read() {
            Ok(law) => Some(law),
            Err((field, message)) => {
                let dot = if field.is_empty() { "" } else { "." };
                self.add(format!("{path}{dot}{field}"), message);
                None
            }
        }
    }

    fn rate(&mut self, path: &str, rate: f64) {
        if !(0.0 <= rate && rate <= 1e6) {
            self.add(path, format!("{rate} requests per second is not from 0 to 1000000"));
        }
    }

    fn positive(&mut self, path: &str, value: f64) {
        if !(value > 0.0 && value.is_finite()) {
            self.add(path, format!("{value} is not above 0"));
        }
    }
}

impl Load {
    /// How its trace is to be understood.
    pub fn reading(&self) -> Reading<'_> {
        let trace = self.trace.as_ref();
        Reading {
            function: trace.and_then(|trace| trace.function.as_deref()),
            values: trace.and_then(|trace| trace.values),
            duration_unit: trace.and_then(|trace| trace.duration_unit),
            without_durations: self.service.is_some(),
        }
    }

    fn check(&self, duration: Option<Length>, faults: &mut Faults) {
        match (&self.trace, &self.synthetic) {
            (None, None) => faults.add("load", "there are no requests; give it a trace or a synthetic load"),
            (Some(_), Some(_)) => faults.add("load.synthetic", "stands beside a trace; one is to stay"),
            (Some(trace), None) => trace.check(faults),
            (None, Some(synthetic)) => {
                synthetic.check("load.synthetic", faults);
                if duration.is_none() {
                    faults.add("duration", "missing; a synthetic load has no end of its own");
                }
            }
        }
        match &self.service {
            Some(service) => {
                faults.law("load.service", service);
            }
            None if self.trace.is_none() => {
                faults.add(
                    "load.service",
                    "missing; say how long a request takes, such as { law: exponential, mean: 200ms }",
                );
            }
            None => {}
        }
        if let Some(contention) = &self.contention {
            if !(contention.factor >= 0.0 && contention.factor.is_finite()) {
                faults.add("load.contention.factor", format!("{} is not 0 or more", contention.factor));
            }
            faults.positive("load.contention.knee", contention.knee);
        }
        if self.timeout.is_some_and(|timeout| timeout.0 == 0) {
            faults.add("load.timeout", "is above 0s; leave it out for callers that wait for ever");
        }
        if let Some(retries) = &self.retries
            && retries.cap < retries.backoff
        {
            faults.add("load.retries.cap", format!("{} is below the backoff of {}", retries.cap, retries.backoff));
        }
    }
}

impl TraceLoad {
    fn check(&self, faults: &mut Faults) {
        if self.file.is_empty() {
            faults.add("load.trace.file", "missing; name a CSV file, plain or compressed with gzip");
        }
        if !(0.0 < self.front_fraction && self.front_fraction <= 1.0) {
            faults.add("load.trace.front_fraction", format!("{} is not above 0 and up to 1", self.front_fraction));
        }
        if !(0.0 < self.cv && self.cv <= 100.0) {
            faults.add("load.trace.cv", format!("{} is not above 0 and up to 100", self.cv));
        }
        if !(0.0 < self.rate_factor && self.rate_factor <= 1e6) {
            faults.add("load.trace.rate_factor", format!("{} is not above 0 and up to 1000000", self.rate_factor));
        }
        if !(1e-3 <= self.time_factor && self.time_factor <= 1e3) {
            faults.add("load.trace.time_factor", format!("{} is not from 0.001 to 1000", self.time_factor));
        }
        if !(0.0 <= self.noise && self.noise <= 5.0) {
            faults.add("load.trace.noise", format!("{} is not from 0 to 5", self.noise));
        }
        if self.repeat == 0 || self.repeat > 10_000 {
            faults.add("load.trace.repeat", format!("{} is not from 1 to 10000", self.repeat));
        }
        if let Some(slice) = self.slice
            && slice.to.is_some_and(|to| to <= slice.from)
        {
            faults.add("load.trace.slice.to", format!("is not after from, {}", slice.from));
        }
    }
}

impl Synthetic {
    fn check(&self, path: &str, faults: &mut Faults) {
        let given = [
            self.poisson.is_some(),
            self.mmpp.is_some(),
            self.constant.is_some(),
            self.step.is_some(),
            self.ramp.is_some(),
            self.diurnal.is_some(),
            self.flash_crowd.is_some(),
            self.batch.is_some(),
            self.sum.is_some(),
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            let known = "poisson, mmpp, constant, step, ramp, diurnal, flash_crowd, batch and sum";
            faults.add(path, format!("is exactly one of {known}"));
        }
        for (name, rate) in [("poisson", self.poisson), ("constant", self.constant)] {
            if let Some(Rate { rate }) = rate {
                faults.rate(&format!("{path}.{name}.rate"), rate);
            }
        }
        if let Some(mmpp) = &self.mmpp {
            if mmpp.states.is_empty() {
                faults.add(format!("{path}.mmpp.states"), "there is none; give at least one { rate, mean }");
            }
            for (number, state) in mmpp.states.iter().enumerate() {
                faults.rate(&format!("{path}.mmpp.states[{number}].rate"), state.rate);
                if state.mean.0 == 0 {
                    faults.add(format!("{path}.mmpp.states[{number}].mean"), "is above 0s");
                }
            }
        }
        if let Some(steps) = &self.step {
            for (number, step) in steps.iter().enumerate() {
                faults.rate(&format!("{path}.step[{number}].rate"), step.rate);
                if number > 0 && step.at <= steps[number - 1].at {
                    faults.add(format!("{path}.step[{number}].at"), "is not after the step before it");
                }
            }
        }
        if let Some(ramp) = &self.ramp {
            faults.rate(&format!("{path}.ramp.from"), ramp.from);
            faults.rate(&format!("{path}.ramp.to"), ramp.to);
            if ramp.over.0 == 0 {
                faults.add(format!("{path}.ramp.over"), "is above 0s");
            }
        }
        if let Some(diurnal) = &self.diurnal {
            faults.rate(&format!("{path}.diurnal.mean"), diurnal.mean);
            if !(0.0 <= diurnal.swing && diurnal.swing <= 1.0) {
                faults.add(format!("{path}.diurnal.swing"), format!("{} is not from 0 to 1", diurnal.swing));
            }
            if diurnal.period.0 < SECOND {
                faults.add(format!("{path}.diurnal.period"), "is at least 1s");
            }
        }
        if let Some(crowd) = &self.flash_crowd {
            faults.rate(&format!("{path}.flash_crowd.base"), crowd.base);
            faults.rate(&format!("{path}.flash_crowd.peak"), crowd.peak);
            if crowd.peak < crowd.base {
                faults.add(format!("{path}.flash_crowd.peak"), format!("is below the base of {}", crowd.base));
            }
            if crowd.half_life.0 == 0 {
                faults.add(format!("{path}.flash_crowd.half_life"), "is above 0s");
            }
        }
        if let Some(batch) = &self.batch {
            if batch.every.0 == 0 {
                faults.add(format!("{path}.batch.every"), "is above 0s");
            }
            if batch.jitter.0 + batch.spread.0 > batch.every.0 {
                faults.add(
                    format!("{path}.batch.spread"),
                    "with the jitter it is longer than the time between two batches",
                );
            }
        }
        for (number, part) in self.sum.iter().flatten().enumerate() {
            part.check(&format!("{path}.sum[{number}]"), faults);
        }
    }
}

impl Revision {
    fn check(&self, faults: &mut Faults) {
        if self.container_concurrency > 100_000 {
            faults.add(
                "revision.containerConcurrency",
                format!("{} is not from 0 to 100000", self.container_concurrency),
            );
        }
        if self.timeout_seconds == 0 {
            faults.add("revision.timeoutSeconds", "is above 0");
        }
        faults.positive("revision.cpu", self.cpu);
        faults.positive("revision.memory", self.memory);
        if let Err(errors) = self.with(&Kpa::default()) {
            for (path, message) in errors {
                faults.add(format!("revision.{path}"), message);
            }
        }
    }

    /// What `kpa` decides by, or what is wrong: paths begin with `annotations` or `config`.
    fn with(&self, kpa: &Kpa) -> Result<(Resolved, Annotations), Vec<(String, String)>> {
        let compat = Compat::from(kpa.compat);
        let merged = |ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>| {
            let mut all = ours.clone();
            all.extend(theirs.iter().map(|(key, value)| (key.clone(), value.clone())));
            all
        };
        let annotations = merged(&self.annotations, &kpa.annotations);
        let config = merged(&self.config, &kpa.config);
        let mut faults = Vec::new();
        let autoscaler = match Autoscaler::parse(&config, compat) {
            Ok(autoscaler) => autoscaler,
            Err(error) => {
                faults.extend(error.problems.iter().map(|problem| {
                    let key = problem.keys.first().map_or("", String::as_str);
                    (format!("config[{key}]"), problem.to_string())
                }));
                Autoscaler::default()
            }
        };
        for key in annotations.keys().filter(|key| !key.starts_with("autoscaling.knative.dev/")) {
            faults.push((format!("annotations[{key}]"), format!("{key} is no autoscaling.knative.dev annotation")));
        }
        for error in validate(&annotations, &autoscaler.validation(compat)) {
            let key = error.keys.first().map_or("", String::as_str);
            faults.push((format!("annotations[{key}]"), error.to_string()));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let (overrides, _) = crate::api::annotations::Overrides::read(&annotations, compat);
        let concurrency = i64::from(kpa.container_concurrency.unwrap_or(self.container_concurrency));
        let deployment = crate::config::Deployment::default();
        Ok((crate::config::resolve(&autoscaler, &deployment, &overrides, concurrency, "Reachable"), annotations))
    }
}

impl World {
    fn check(&self, faults: &mut Faults) {
        for (name, law) in [
            ("startup.schedule", &self.startup.schedule),
            ("startup.image_pull", &self.startup.image_pull),
            ("startup.start", &self.startup.start),
            ("startup.application", &self.startup.application),
            ("ingress.endpoint_propagation", &self.ingress.endpoint_propagation),
            ("api_latency", &self.api_latency),
        ] {
            faults.law(&format!("world.{name}"), law);
        }
        if self.activators == 0 || self.activators > 1000 {
            faults.add("world.activators", format!("{} is not from 1 to 1000", self.activators));
        }
        if self.ingress.workers == 0 || self.ingress.workers > 1000 {
            faults.add("world.ingress.workers", format!("{} is not from 1 to 1000", self.ingress.workers));
        }
        if self.activator_probe.0 == 0 {
            faults.add("world.activator_probe", "is above 0s");
        }
        if !(self.pods_per_second >= 0.0 && self.pods_per_second.is_finite()) {
            faults.add("world.pods_per_second", format!("{} is not 0 or more", self.pods_per_second));
        }
        for (number, gap) in self.metric_gaps.iter().enumerate() {
            if gap.to <= gap.from {
                faults.add(format!("world.metric_gaps[{number}].to"), format!("is not after from, {}", gap.from));
            }
        }
        if !(self.failures.lost_per_hour >= 0.0 && self.failures.lost_per_hour <= 1e6) {
            faults.add("world.failures.lost_per_hour", format!("{} is not 0 or more", self.failures.lost_per_hour));
        }
        if !(self.failures.slow_factor >= 1.0 && self.failures.slow_factor <= 1e4) {
            faults.add("world.failures.slow_factor", format!("{} is not from 1 to 10000", self.failures.slow_factor));
        }
    }
}

impl Entry {
    fn check(&self, revision: &Revision, path: &str, faults: &mut Faults) {
        if self.name.is_empty() {
            faults.add(format!("{path}.name"), "missing; results are named for it");
        }
        let given = [
            self.kpa.is_some(),
            self.hpa.is_some(),
            self.keda_http.is_some(),
            self.fixed.is_some(),
            self.schedule.is_some(),
            self.oracle.is_some(),
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            faults.add(
                path,
                "is exactly one of kpa, hpa, keda_http, fixed, schedule and oracle; kpa: {} has every default",
            );
        }
        if let Some(kpa) = &self.kpa
            && let Err(errors) = revision.with(kpa)
            && revision.with(&Kpa { compat: kpa.compat, ..Kpa::default() }).is_ok()
        {
            for (field, message) in errors {
                faults.add(format!("{path}.kpa.{field}"), message);
            }
        }
        if let Some(Predictive { quantile, .. }) = self.kpa.as_ref().and_then(|kpa| kpa.predictive)
            && !(0.5 <= quantile && quantile < 1.0)
        {
            faults.add(format!("{path}.kpa.predictive.quantile"), format!("{quantile} is not from 0.5 to below 1"));
        }
        if let Some(hpa) = &self.hpa {
            faults.positive(&format!("{path}.hpa.target"), hpa.target);
            bounds(&format!("{path}.hpa"), hpa.min.max(1), hpa.min, hpa.max, faults);
            if hpa.min == 0 {
                faults.add(format!("{path}.hpa.min"), "is at least 1: it cannot come back from zero by itself");
            }
            if hpa.period.0 < SECOND {
                faults.add(format!("{path}.hpa.period"), "is at least 1s");
            }
        }
        if let Some(keda) = &self.keda_http {
            faults.positive(&format!("{path}.keda_http.target"), keda.target);
            bounds(&format!("{path}.keda_http"), keda.min.max(1), keda.min, keda.max, faults);
            if keda.poll.0 < SECOND {
                faults.add(format!("{path}.keda_http.poll"), "is at least 1s");
            }
            if keda.window.0 < SECOND {
                faults.add(format!("{path}.keda_http.window"), "is at least 1s");
            }
        }
        if let Some(schedule) = &self.schedule {
            if schedule.steps.is_empty() {
                faults.add(format!("{path}.schedule.steps"), "there is none; give at least one { at, pods }");
            }
            for (number, step) in schedule.steps.iter().enumerate() {
                if number > 0 && step.at <= schedule.steps[number - 1].at {
                    faults.add(format!("{path}.schedule.steps[{number}].at"), "is not after the step before it");
                }
                if step.at.0 >= 86_400 * SECOND {
                    faults.add(format!("{path}.schedule.steps[{number}].at"), "is within a day, below 24h");
                }
            }
        }
        if let Some(oracle) = &self.oracle
            && let Some(per_pod) = oracle.per_pod
        {
            faults.positive(&format!("{path}.oracle.per_pod"), per_pod);
        }
    }
}

fn bounds(path: &str, least: u32, min: u32, max: u32, faults: &mut Faults) {
    if max < least {
        faults.add(format!("{path}.max"), format!("{max} is below min, {min}"));
    }
}
