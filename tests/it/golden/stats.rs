//! Wire format, sample sizes, pod counting, scraping.

use super::{Lines, Tally};
use bytes::Bytes;
use ebb::api::pods::{PodCounts, PodFacts, ReadyPod, sort_by_age, split_by_age};
use ebb::engine::Load;
use ebb::stats::fetch::{Fetch, FetchError};
use ebb::stats::sample;
use ebb::stats::scrape::{MeshMode, Scraper, Settings};
use ebb::stats::wire::{Stat, WireStatMessage, decode_frame, decode_scrape, encode_batch};
use ebb::units::{Compat, Span, Timestamp};
use futures::FutureExt as _;
use prost::Message as _;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A real that JSON may not be able to write.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(from = "RawReal")]
struct Real(f64);

#[derive(Deserialize)]
#[serde(untagged)]
enum RawReal {
    Number(f64),
    Text(String),
}

impl From<RawReal> for Real {
    fn from(raw: RawReal) -> Self {
        Self(match raw {
            RawReal::Number(number) => number,
            // The reference's NaN, bit for bit: what is encoded is compared by its bytes.
            RawReal::Text(text) if text == "NaN" => f64::from_bits(0x7ff8_0000_0000_0001),
            RawReal::Text(text) => text.parse().expect("an infinity"),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireStat {
    pod_name: String,
    pod_name_hex: Option<String>,
    average_concurrent_requests: Real,
    average_proxied_concurrent_requests: Real,
    request_count: Real,
    proxied_request_count: Real,
    process_uptime: Real,
    timestamp: i64,
}

impl WireStat {
    fn stat(&self) -> Stat {
        Stat {
            pod_name: text(&self.pod_name, self.pod_name_hex.as_deref()),
            average_concurrent_requests: self.average_concurrent_requests.0,
            average_proxied_concurrent_requests: self.average_proxied_concurrent_requests.0,
            request_count: self.request_count.0,
            proxied_request_count: self.proxied_request_count.0,
            process_uptime: self.process_uptime.0,
            timestamp: self.timestamp,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireMessage {
    namespace: String,
    namespace_hex: Option<String>,
    name: String,
    name_hex: Option<String>,
    stat: Option<WireStat>,
}

impl WireMessage {
    fn message(&self) -> WireStatMessage {
        WireStatMessage {
            namespace: text(&self.namespace, self.namespace_hex.as_deref()),
            name: text(&self.name, self.name_hex.as_deref()),
            stat: self.stat.as_ref().map(WireStat::stat),
        }
    }
}

fn text(text: &str, bytes: Option<&str>) -> Bytes {
    bytes.map_or_else(|| Bytes::copy_from_slice(text.as_bytes()), |bytes| unhex(bytes).into())
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).expect("a hex digit")).expect("below 16");
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string");
        hex
    })
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WireValue {
    // First, because an empty list would also do for a stat.
    Messages(Vec<WireMessage>),
    Stat(WireStat),
}

#[derive(Debug, Deserialize)]
struct WireCase {
    case: u64,
    op: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    value: Option<WireValue>,
    #[serde(default)]
    want: Option<WireValue>,
    #[serde(default)]
    want_hex: String,
    #[serde(default)]
    reencoded_hex: String,
    #[serde(default)]
    hex: String,
}

/// What both sides are brought to, to be compared: the messages' debug text tells NaN from NaN-less, and −0 from 0.
fn shown(value: &WireValue) -> String {
    match value {
        WireValue::Stat(stat) => format!("{:?}", stat.stat()),
        WireValue::Messages(messages) => format!("{:?}", messages.iter().map(WireMessage::message).collect::<Vec<_>>()),
    }
}

/// Where decoders may lawfully differ, by the data's own README: ours refuses a group that another group's end closes,
/// a field number above the legal maximum, and a varint of ten bytes with more than 64 bits. Nobody writes any of them.
fn lawful(kind: &str) -> bool {
    ["group_end_mismatch", "tag_above_max_field", "varint_ten_bytes_big_last"].iter().any(|rare| kind.starts_with(rare))
}

pub(super) fn wire(lines: &mut Lines, tally: &mut Tally) {
    while let Some(case) = lines.next::<WireCase>() {
        if case.op == "encode" {
            let got = match case.value.as_ref().expect("a value") {
                WireValue::Stat(stat) => stat.stat().encode_to_vec().into(),
                WireValue::Messages(messages) => encode_batch(messages.iter().map(WireMessage::message).collect()),
            };
            tally.check(hex(&got) == case.want_hex, || {
                format!("wire {}: {} not {}", case.case, hex(&got), case.want_hex)
            });
            continue;
        }
        let bytes = Bytes::from(unhex(&case.hex));
        let got = match (case.op.as_str(), case.r#type.as_str()) {
            ("scrape_body", _) => decode_scrape(&bytes).map(|stat| (format!("{stat:?}"), None)),
            (_, "Stat") => Stat::decode(bytes)
                .map_err(Into::into)
                .map(|stat| (format!("{stat:?}"), Some(hex(&stat.encode_to_vec())))),
            _ => decode_frame(bytes).map(|batch| (format!("{batch:?}"), Some(hex(&encode_batch(batch))))),
        };
        let agrees = match (&got, &case.want) {
            (Ok((got, again)), Some(want)) => {
                *got == shown(want) && again.as_ref().is_none_or(|again| *again == case.reencoded_hex)
            }
            (got, want) => got.is_err() && want.is_none(),
        };
        if !agrees && lawful(&case.kind) {
            tally.excuse();
            continue;
        }
        tally.check(agrees, || {
            format!("wire {} ({}): {got:?}\n  not {:?}", case.case, case.kind, case.want.as_ref().map(shown))
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Four {
    avg_conc: f64,
    avg_proxied: f64,
    req_count: f64,
    proxied_count: f64,
}

impl Four {
    fn load(self) -> Load {
        Load {
            concurrency: self.avg_conc,
            proxied_concurrency: self.avg_proxied,
            requests: self.req_count,
            proxied_requests: self.proxied_count,
        }
    }

    fn stat(self, pod: &str, uptime: f64) -> Stat {
        Stat {
            pod_name: Bytes::copy_from_slice(pod.as_bytes()),
            average_concurrent_requests: self.avg_conc,
            average_proxied_concurrent_requests: self.avg_proxied,
            request_count: self.req_count,
            proxied_request_count: self.proxied_count,
            process_uptime: uptime,
            timestamp: 0,
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum SampleCase {
    SampleSize { population: i64, want: usize },
    Average { case: u64, population: usize, sample: usize, stats: Vec<Four>, want: Four },
}

pub(super) fn sample_size(lines: &mut Lines, tally: &mut Tally) {
    while let Some(case) = lines.next::<SampleCase>() {
        match case {
            SampleCase::SampleSize { population, want } => {
                let got = sample::size(usize::try_from(population).unwrap_or(0));
                tally.check(got == want, || format!("sample size of {population}: {got} not {want}"));
            }
            SampleCase::Average { case, population, sample, stats, want } => {
                let loads: Vec<Load> = stats.iter().map(|stat| stat.load()).collect();
                let got = sample::of_population(&loads, population);
                let agrees = got == want.load() && loads.len() == sample;
                tally.check(agrees, || format!("average {case}: {got:?} not {want:?}"));
            }
        }
    }
}

#[derive(Deserialize)]
struct PodCase {
    case: u64,
    now_ns: i64,
    cutoff_ns: i64,
    pods: Vec<PodLine>,
    want: PodWant,
}

#[derive(Deserialize)]
struct PodLine {
    namespace: String,
    name: String,
    revision: String,
    phase: String,
    ready: String,
    terminating: bool,
    ip: String,
    start_ns: i64,
}

#[derive(Debug, PartialEq, Deserialize)]
struct PodWant {
    ready: usize,
    not_ready: usize,
    pending: usize,
    terminating: usize,
    older_sorted: Vec<String>,
    younger_sorted: Vec<String>,
    by_age: Vec<String>,
}

pub(super) fn pods(lines: &mut Lines, tally: &mut Tally) {
    while let Some(case) = lines.next::<PodCase>() {
        let facts: Vec<PodFacts> = case.pods.iter().map(PodLine::facts).collect();
        let ours: Vec<&PodFacts> = facts.iter().filter(|pod| pod.belongs_to("ns", "rev")).collect();
        let counts = PodCounts::of(ours.iter().copied());
        let mut ready = ReadyPod::of(ours.iter().copied());
        let addresses = |pods: &[&ReadyPod]| -> Vec<String> {
            pods.iter().map(|pod| pod.ip.expect("an address").to_string()).collect()
        };
        let (older, younger) =
            split_by_age(&ready, Timestamp::from_nanos(case.now_ns), Span::from_nanos(case.cutoff_ns));
        let (mut older, mut younger) = (addresses(&older), addresses(&younger));
        older.sort();
        younger.sort();
        sort_by_age(&mut ready);
        let got = PodWant {
            ready: counts.ready,
            not_ready: counts.not_ready,
            pending: counts.pending,
            terminating: counts.terminating,
            older_sorted: older,
            younger_sorted: younger,
            by_age: addresses(&ready.iter().collect::<Vec<_>>()),
        };
        tally.check(got == case.want, || format!("pods {}: {got:?} not {:?}", case.case, case.want));
    }
}

impl PodLine {
    /// As they come from a Pod object.
    fn facts(&self) -> PodFacts {
        let time = |nanos: i64| jiff::Timestamp::from_nanosecond(nanos.into()).expect("a time").to_string();
        let pod = serde_json::from_value(serde_json::json!({
            "metadata": {
                "namespace": self.namespace,
                "name": self.name,
                "labels": { "serving.knative.dev/revision": self.revision },
                "deletionTimestamp": self.terminating.then(|| time(self.start_ns)),
            },
            "status": {
                "phase": self.phase,
                "podIP": self.ip,
                "startTime": time(self.start_ns),
                "conditions": if self.ready == "absent" { vec![] } else {
                    vec![serde_json::json!({ "type": "Ready", "status": self.ready })]
                },
            },
        }));
        PodFacts::of(&pod.expect("a Pod"))
    }
}

#[derive(Deserialize)]
struct ScrapeCase {
    case: u64,
    pods: Vec<ScrapedPod>,
    old_stat: Four,
    young_stat: Four,
    service_answer: String,
    service_stat: Four,
    mesh_mode: String,
    passthrough_lb: bool,
    window_ns: i64,
    want: Vec<ScrapeWant>,
}

#[derive(Clone, Deserialize)]
struct ScrapedPod {
    age_ns: i64,
    result: String,
}

#[derive(Debug, PartialEq, Deserialize)]
struct ScrapeWant {
    direct_used: bool,
    service_used: bool,
    stat: Option<Four>,
    #[serde(default)]
    empty: bool,
    #[serde(default)]
    error: bool,
}

/// Answers as the case says, and remembers what was asked.
struct Scripted<'a> {
    case: &'a ScrapeCase,
    direct_used: AtomicBool,
    service_used: AtomicBool,
    met: AtomicU32,
}

impl Fetch for &Scripted<'_> {
    async fn pod(&self, ip: IpAddr, host: Option<&str>) -> Result<Stat, FetchError> {
        self.direct_used.store(true, Ordering::Relaxed);
        assert_eq!(host, self.case.passthrough_lb.then_some("rev-private.ns"));
        let IpAddr::V4(ip) = ip else { unreachable!("the case has these addresses") };
        let pod = &self.case.pods[ip.to_bits() as usize];
        let stat = if pod.age_ns >= self.case.window_ns { self.case.old_stat } else { self.case.young_stat };
        match pod.result.as_str() {
            "ok" => Ok(stat.stat(&ip.to_string(), 0.0)),
            "mesh_503" => Err(FetchError::Status { url: String::new(), code: 503 }),
            "error" => Err(FetchError::Io("connection refused".to_owned())),
            other => unreachable!("{other}"),
        }
    }

    async fn service(&self, host: &str) -> Result<Stat, FetchError> {
        self.service_used.store(true, Ordering::Relaxed);
        assert_eq!(host, "rev-private.ns");
        let window = Span::from_nanos(self.case.window_ns).seconds_f64();
        let name = format!("pod-{}", self.met.fetch_add(1, Ordering::Relaxed));
        match self.case.service_answer.as_str() {
            "all_old" => Ok(self.case.service_stat.stat(&name, window + 1.0)),
            "all_young" => Ok(self.case.service_stat.stat(&name, window - 1.0)),
            "error" => Err(FetchError::Io("connection refused".to_owned())),
            other => unreachable!("{other}"),
        }
    }
}

pub(super) fn scrape(lines: &mut Lines, tally: &mut Tally) {
    let now = Timestamp::from_seconds(1_700_000_000);
    while let Some(case) = lines.next::<ScrapeCase>() {
        let pods: Vec<ReadyPod> = (0u32..)
            .zip(&case.pods)
            .map(|(number, pod)| ReadyPod {
                name: format!("p{number}").into(),
                ip: Some(Ipv4Addr::from_bits(number).into()),
                started: Some(now - Span::from_nanos(pod.age_ns)),
            })
            .collect();
        let fetch = Scripted {
            case: &case,
            direct_used: AtomicBool::default(),
            service_used: AtomicBool::default(),
            met: AtomicU32::default(),
        };
        let mode = match case.mesh_mode.as_str() {
            "enabled" => MeshMode::Enabled,
            "disabled" => MeshMode::Disabled,
            _ => MeshMode::Auto,
        };
        let settings = Settings { mode, passthrough: case.passthrough_lb, compat: Compat::STRICT };
        let scraper = Scraper::new(&fetch, "rev-private", "ns", settings);
        for (number, want) in case.want.iter().enumerate() {
            let scraping = scraper.scrape(&pods, now, Span::from_nanos(case.window_ns));
            let answer = scraping.now_or_never().expect("nothing to wait for");
            let got = ScrapeWant {
                direct_used: fetch.direct_used.swap(false, Ordering::Relaxed),
                service_used: fetch.service_used.swap(false, Ordering::Relaxed),
                stat: answer.as_ref().ok().copied().flatten().map(|load| Four {
                    avg_conc: load.concurrency,
                    avg_proxied: load.proxied_concurrency,
                    req_count: load.requests,
                    proxied_count: load.proxied_requests,
                }),
                empty: answer == Ok(None),
                error: answer.is_err(),
            };
            tally.check(got == *want, || format!("scrape {}, time {number}: {got:?} not {want:?}", case.case));
        }
    }
}
