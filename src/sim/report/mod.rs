//! A report on runs: one HTML file that needs nothing else.
//!
//! The page has inline SVG and CSS and no script; it follows the reader's light or dark colours, a phone's width, and
//! paper. Everything in it is a function of what was run, so the same runs give the same bytes.
//!
//! Reading order: this file (the page, from top to bottom), [`plot`] (one plot), `pixels` (long series on few
//! pixels).

pub mod pixels;
pub mod plot;

use super::compare::{Comparison, Difference, Promise, Summary, Unit, by_policy, measure, promised};
use super::outcome::{Outcome, Period, Prediction, Series, share};
use super::scenario::Scenario;
use super::time::{Length, from_seconds, seconds};
use crate::units::count_f64;
use pixels::{Pixel, pixels};
use plot::{Axis, Plot, clock, escape};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

/// Pixels a plot is drawn with, from left to right.
const WIDTH: usize = 1000;
/// Seconds in an hour.
const HOUR: f64 = 3600.0;
/// Colours there are for policies.
const COLOURS: usize = 8;

/// The measures of the table at the top.
const TABLE: &[&str] = &[
    "pod_hours",
    "violation_share",
    "latency_p50",
    "latency_p99",
    "cold_starts",
    "error_share",
    "idle_share",
    "max_pods",
    "flaps_per_hour",
];
/// Those of them that are told with their interval; of the others it is noise to the eye.
const INTERVALS: &[&str] = &["pod_hours", "violation_share", "latency_p99", "cold_starts"];
/// The measures that are compared in pairs.
const PAIRS: &[&str] = &["pod_hours", "violation_share", "latency_p99", "cold_starts", "flaps_per_hour"];

/// A part of the cost: its class, its name, and what it is of a run.
type Part = (&'static str, &'static str, fn(&Outcome) -> f64);
/// The parts of the cost, in the order of a pod's life.
const PARTS: &[Part] = &[
    ("starting", "starting", |run| run.cost.starting),
    ("busy", "with requests", |run| run.cost.busy),
    ("idle", "idle", |run| run.cost.idle),
    ("draining", "stopping", |run| run.cost.draining),
];

/// What the simulator does not know of.
pub const NOT_MODELLED: &[&str] = &[
    "services that compete for the processor of a node",
    "the network's latency and losses",
    "HTTP/2 streams and websockets",
    "memory that runs short",
    "nodes that are added; there is a fixed capacity",
    "queues of image registries",
    "several revisions that share one route; run each by itself",
    "connections that are used again",
    "pauses of garbage collectors, but for what the service-time law holds",
];

/// What a report is on.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What was simulated.
    pub scenario: &'a Scenario,
    /// The scenario as it was written.
    pub source: &'a str,
    /// The traffic, in words.
    pub traffic: &'a str,
    /// Every run.
    pub outcomes: &'a [Outcome],
    /// What came of them.
    pub comparison: &'a Comparison,
    /// What must stand at the top, if anything: why the numbers are to be doubted.
    pub warning: Option<&'a str>,
    /// What the tuner tried: each with its name, its mean pod-hours and its share of violations.
    pub tried: &'a [Tried],
    /// What stands between the verdict and the tables, as HTML that [`plot::escape`] has been over.
    pub advice: &'a str,
    /// The version of the program.
    pub version: &'a str,
}

/// A candidate in the plot of cost against violations.
#[derive(Clone, PartialEq, Debug)]
pub struct Tried {
    /// What it is.
    pub name: String,
    /// What it costs.
    pub pod_hours: f64,
    /// What it lets go wrong.
    pub violation_share: f64,
}

impl Report<'_> {
    /// The page.
    pub fn html(&self) -> String {
        let mut page = String::with_capacity(256 << 10);
        let title = escape(&self.scenario.name);
        let _ = write!(
            page,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<meta name=\"generator\" content=\"ebb \
             {}\">\n<title>{title}: ebb sim</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n",
            escape(self.version),
            include_str!("report.css")
        );
        let _ = writeln!(page, "<p class=\"soft\">{}</p>", escape(self.traffic));
        if !self.scenario.description.is_empty() {
            let _ = writeln!(page, "<p>{}</p>", escape(&self.scenario.description));
        }
        if let Some(warning) = self.warning {
            let _ = writeln!(page, "<p class=\"verdict broken\">{}</p>", escape(warning));
        }
        if self.comparison.policies.iter().any(|policy| policy.approximate) {
            page.push_str(
                "<p class=\"verdict close\">Some of these numbers are approximate: they were screened, not \
             simulated.</p>\n",
            );
        }
        let best = self.comparison.policies.iter().filter(|policy| !policy.is_oracle()).map(|policy| policy.promise);
        let class = best.min_by_key(|promise| *promise as u8).unwrap_or_default();
        let _ = writeln!(page, "<p class=\"verdict {}\">{}</p>", class_of(class), escape(&self.comparison.verdict));
        page.push_str(self.advice);
        self.policies(&mut page);
        self.paired(&mut page);
        self.cost_against_violations(&mut page);
        self.cost_split(&mut page);
        self.foreseen(&mut page);
        self.tails(&mut page);
        for runs in by_policy(self.outcomes) {
            if let Some((run, series)) = runs.iter().find_map(|run| Some((run, run.series.as_ref()?))) {
                self.over_time(&mut page, run, series);
            }
        }
        self.provenance(&mut page);
        page.push_str("</main>\n</body>\n</html>\n");
        page
    }

    fn colour(&self, policy: &str) -> usize {
        self.comparison.policies.iter().position(|known| known.policy == policy).unwrap_or(0) % COLOURS
    }

    fn policies(&self, page: &mut String) {
        let runs = self.comparison.policies.first().map_or(0, |policy| policy.runs);
        let sure = if runs > 1 {
            format!("Means over {runs} seeds; below them the 95 % interval.")
        } else {
            "One seed: there is no interval, and a difference may be chance.".to_owned()
        };
        let _ = write!(
            page,
            "<h2>Policies</h2>\n<p class=\"soft\">{} The promise: {}.</p>\n\
             <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Policies\">\
             <table><thead><tr><th>policy</th><th>\
             promise</th>",
            escape(&sure),
            escape(&promised(&self.scenario.slo))
        );
        for measure in TABLE.iter().filter_map(|key| measure(key)) {
            let _ = write!(page, "<th>{}</th>", measure.title);
        }
        page.push_str("</tr></thead><tbody>\n");
        for policy in &self.comparison.policies {
            let _ = write!(
                page,
                "<tr><th scope=\"row\"><span class=\"key\" style=\"--colour:var(--c{})\"></span>{}</th><td \
                 class=\"{}\">{}</td>",
                self.colour(&policy.policy),
                escape(&policy.policy),
                if policy.is_oracle() { "soft" } else { class_of(policy.promise) },
                word_of(policy)
            );
            for measure in TABLE.iter().filter_map(|key| measure(key)) {
                let estimate = policy.get(measure.key);
                let _ = write!(page, "<td>{}", escape(&measure.unit.told(estimate.value)));
                let sure = estimate.interval.filter(|[low, high]| low < high && INTERVALS.contains(&measure.key));
                if let Some([low, high]) = sure {
                    let floor = |value: f64| escape(&measure.unit.told(value.max(0.0)));
                    let _ = write!(page, "<small>{} – {}</small>", floor(low), floor(high));
                }
                page.push_str("</td>");
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</tbody></table></div>\n");
        if self.comparison.policies.iter().any(Summary::is_oracle) {
            page.push_str(
                "<p class=\"soft\">The oracle knows the future. It is the least any policy that lets nobody wait can \
                 cost: a floor, not a choice.</p>\n",
            );
        }
    }

    fn paired(&self, page: &mut String) {
        let baseline = &self.comparison.baseline;
        if self.comparison.policies.len() < 2 {
            return;
        }
        let differs = |difference: &Difference| {
            let value = difference.difference.value;
            PAIRS.contains(&difference.measure.as_str())
                && difference.difference.interval.unwrap_or([value, value]) != [0.0, 0.0]
        };
        if !self.comparison.differences.iter().any(differs) {
            let baseline = escape(baseline);
            let _ = writeln!(
                page,
                "<h2>Against {baseline}</h2>\n<p>No policy did anything else than {baseline}: cost, latency and cold starts \
                 are the same under every seed.</p>"
            );
            return;
        }
        let _ = write!(
            page,
            "<h2>Against {}</h2>\n<p class=\"soft\">Each policy meets the same requests as {0}, seed by seed, so \
             differences are taken in pairs. The interval is 95 %; where it crosses the line, the difference may be \
             chance.</p>\n\
             <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Differences in pairs\">\
             <table><thead><tr><th>policy</th><th>difference</th><th class=\"ratio\">times as much</th><th>less · \
             more</th></tr></thead>\n",
            escape(baseline)
        );
        for measure in PAIRS.iter().filter_map(|key| measure(key)) {
            let of_measure: Vec<_> =
                self.comparison.differences.iter().filter(|difference| difference.measure == measure.key).collect();
            let widest = of_measure
                .iter()
                .flat_map(|difference| {
                    let value = difference.difference.value;
                    difference.difference.interval.unwrap_or([value, value])
                })
                .fold(0.0_f64, |widest, bound| widest.max(bound.abs()));
            if widest == 0.0 {
                // Nobody has any of it.
                continue;
            }
            let _ = writeln!(page, "<tbody><tr class=\"group\"><th colspan=\"4\">{}</th></tr>", measure.title);
            for difference in of_measure {
                let estimate = &difference.difference;
                let signed =
                    |value: f64| format!("{}{}", if value > 0.0 { "+" } else { "" }, escape(&measure.unit.told(value)));
                let _ = write!(
                    page,
                    "<tr><th scope=\"row\">{}</th><td>{}",
                    escape(&difference.policy),
                    signed(estimate.value)
                );
                if let Some([low, high]) = estimate.interval.filter(|[low, high]| low < high) {
                    let _ = write!(page, "<small>{} – {}</small>", signed(low), signed(high));
                }
                page.push_str("</td><td class=\"ratio\">");
                if let Some(ratio) = &difference.ratio {
                    let _ = write!(page, "{:.2}", ratio.value);
                    if let Some([low, high]) = ratio.interval.filter(|[low, high]| low < high) {
                        let _ = write!(page, "<small>{low:.2} – {high:.2}</small>");
                    }
                } else {
                    page.push('–');
                }
                let place = |value: f64| if widest > 0.0 { 500.0 + value / widest * 480.0 } else { 500.0 };
                let [low, high] = estimate.interval.unwrap_or([estimate.value, estimate.value]);
                let _ = writeln!(
                    page,
                    "</td><td><svg class=\"forest\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" \
                     aria-hidden=\"true\"><path class=\"zero\" d=\"M500 0V10\"/><path class=\"range\" d=\"M{:.0} \
                     5H{:.0}\"/><path class=\"dot\" d=\"M{:.0} 5h0\"/></svg></td></tr>",
                    place(low),
                    place(high),
                    place(estimate.value)
                );
            }
            page.push_str("</tbody>");
        }
        page.push_str("</table></div>\n");
    }

    fn cost_against_violations(&self, page: &mut String) {
        if self.comparison.policies.len() + self.tried.len() < 2 {
            return;
        }
        let points: Vec<(&Summary, f64, f64)> = self
            .comparison
            .policies
            .iter()
            .map(|policy| (policy, policy.get("pod_hours").value, policy.get("violation_share").value * 100.0))
            .collect();
        let costs = points.iter().map(|(_, cost, _)| *cost).chain(self.tried.iter().map(|tried| tried.pod_hours));
        let shares = points.iter().map(|(_, _, share)| *share);
        let shares = shares.chain(self.tried.iter().map(|tried| tried.violation_share * 100.0));
        let allowed = 100.0 - self.scenario.slo.percentile;
        let most = shares.fold(allowed, f64::max);
        // Far beyond what is allowed one is as bad as the other.
        let top = most.min((allowed * 10.0).max(5.0)).min(100.0);
        let beyond = most > top;
        let x = Axis::linear(costs.fold(0.0, f64::max) * 1.05, |value| Unit::PodHours.told(value));
        let mut plot = Plot::new(x, Axis::linear(top, |value| format!("{} %", Unit::Number.told(value))));
        plot.level(allowed, "limit");
        let mut front: Vec<(f64, f64)> = self
            .tried
            .iter()
            .map(|tried| (tried.pod_hours, tried.violation_share * 100.0))
            .chain(points.iter().filter(|(policy, ..)| !policy.is_oracle()).map(|(_, cost, share)| (*cost, *share)))
            .collect();
        front.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1)));
        let mut least = f64::INFINITY;
        front.retain(|(_, share)| {
            let better = *share < least;
            least = least.min(*share);
            better
        });
        if !self.tried.is_empty() {
            plot.line(front.into_iter(), "front");
        }
        for tried in self.tried {
            let share = tried.violation_share * 100.0;
            plot.dot(tried.pod_hours, share, "tried", &dot_title(&tried.name, tried.pod_hours, share));
        }
        let mut legend = String::new();
        for (policy, cost, share) in points {
            let colour = self.colour(&policy.policy);
            plot.dot(cost, share, &format!("dot c{colour}"), &dot_title(&policy.policy, cost, share));
            legend += &entry("", &format!("var(--c{colour})"), &policy.policy);
        }
        if !self.tried.is_empty() {
            legend += &entry("", "var(--idle)", "tried by the tuner, on part of the traffic");
            legend += &entry("line", "var(--soft)", "best for its cost");
        }
        legend += &entry("line dashed", "var(--text)", "the promise");
        let _ = writeln!(
            page,
            "<h2>Cost against what goes wrong</h2>\n<p class=\"soft\">Across: pod-hours. Up: requests that were slow \
             or failed, in percent. Left and low is better.{}</p>\n<ul class=\"legend\">{legend}</ul>{}",
            if beyond { " What lies at the upper edge is worse than it shows." } else { "" },
            plot.html(260, "Requests slow or failed over pod-hours, a dot for each policy")
        );
    }

    fn cost_split(&self, page: &mut String) {
        let groups = by_policy(self.outcomes);
        let most = self.comparison.policies.iter().map(|policy| policy.get("pod_hours").value).fold(0.0, f64::max);
        page.push_str("<h2>What the pods did</h2>\n<ul class=\"legend\">");
        for (class, name, _) in PARTS {
            *page += &entry("", &format!("var(--{class})"), name);
        }
        page.push_str("</ul>\n<div class=\"bars\">");
        for runs in groups {
            let name = escape(&runs[0].policy);
            let mut hours = 0.0;
            let mut bar = String::new();
            for (class, title, of) in PARTS {
                let value = super::stats::average(&runs.iter().map(|run| of(run) / 3600.0).collect::<Vec<_>>());
                hours += value;
                let width = if most > 0.0 { value / most * 100.0 } else { 0.0 };
                let told = Unit::PodHours.told(value);
                let _ = write!(
                    bar,
                    "<i style=\"--colour:var(--{class});width:{width:.2}%\" title=\"{title}: {told} pod-hours\"></i>"
                );
            }
            let _ = write!(
                page,
                "<div><span>{name}</span><span class=\"bar\">{bar}</span><span>{} pod-hours</span></div>",
                Unit::PodHours.told(hours)
            );
        }
        page.push_str("</div>\n");
    }

    /// What came of forecasts, where a policy makes any.
    fn foreseen(&self, page: &mut String) {
        let groups: Vec<_> = by_policy(self.outcomes)
            .into_iter()
            .filter(|runs| runs.iter().any(|run| run.prediction.is_some()))
            .collect();
        if groups.is_empty() {
            return;
        }
        page.push_str(
            "<h2>What was foreseen</h2>\n<p class=\"soft\">How often a floor was raised, and whether the load came within \
             the horizon, within a second one, or not at all; means over seeds. While a guard is closed nothing is \
             raised.</p>\n\
             <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"What was foreseen\">\
             <table><thead><tr><th>policy</th><th>applied</th><th>raised</th><th>in \
             time</th><th>early</th><th>in vain</th><th>extra pod-hours asked for</th><th>of those without \
             it</th><th>coverage</th><th>guards open</th><th>mostly closed by</th></tr></thead><tbody>\n",
        );
        for runs in groups {
            let all: Vec<&Prediction> = runs.iter().filter_map(|run| run.prediction.as_ref()).collect();
            let mean = |of: fn(&Prediction) -> f64| {
                super::stats::average(&all.iter().map(|prediction| of(prediction)).collect::<Vec<_>>())
            };
            #[expect(clippy::cast_precision_loss, reason = "for people; 2^-53 is nothing")]
            let counts: [f64; 4] = [
                mean(|prediction| prediction.raised as f64),
                mean(|prediction| prediction.hits as f64),
                mean(|prediction| prediction.early as f64),
                mean(|prediction| prediction.misses as f64),
            ];
            let mut closed: BTreeMap<&str, u64> = BTreeMap::new();
            for (guard, count) in all.iter().flat_map(|prediction| &prediction.closed) {
                *closed.entry(guard).or_default() += count;
            }
            let most = closed.into_iter().max_by_key(|(_, count)| *count).map_or("–", |(guard, _)| guard);
            let _ = write!(
                page,
                "<tr><th scope=\"row\">{}</th><td>{}</td>",
                escape(&runs[0].policy),
                if all.iter().any(|prediction| prediction.applied) { "yes" } else { "no, only told" }
            );
            for count in counts {
                let _ = write!(page, "<td>{}</td>", plain(count));
            }
            let _ = writeln!(
                page,
                "<td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{most}</td></tr>",
                Unit::PodHours.told(mean(|prediction| prediction.extra_pod_seconds / HOUR)),
                Unit::Share.told(mean(|prediction| prediction.extra_share)),
                Unit::Share.told(mean(|prediction| prediction.coverage)),
                Unit::Share.told(mean(|prediction| prediction.open_share))
            );
        }
        page.push_str("</tbody></table></div>\n");
    }

    /// How many requests took longer than so long.
    fn tails(&self, page: &mut String) {
        let lines: Vec<(String, Vec<(f64, f64)>)> = by_policy(self.outcomes)
            .into_iter()
            .map(|runs| {
                let mut classes: Vec<(f64, u64)> = runs.iter().flat_map(|run| run.latencies.iter().copied()).collect();
                classes.sort_by(|one, other| one.0.total_cmp(&other.0));
                let all: u64 = classes.iter().map(|class| class.1).sum();
                let mut left = all;
                let mut line: Vec<(f64, f64)> = Vec::new();
                for (edge, count) in classes {
                    if line.is_empty() {
                        line.push((edge, 1.0));
                    }
                    left -= count;
                    if left > 0 {
                        line.push((edge, share(left, all)));
                    }
                }
                (runs[0].policy.clone(), line)
            })
            .filter(|(_, line)| !line.is_empty())
            .collect();
        if lines.is_empty() {
            return;
        }
        let all = || lines.iter().flat_map(|(_, line)| line.iter());
        let shortest = all().map(|point| point.0).fold(f64::INFINITY, f64::min).max(1e-4);
        let longest = all().map(|point| point.0).fold(0.0, f64::max).max(shortest * 10.0);
        let rarest = all().map(|point| point.1).fold(1.0, f64::min).max(1e-5);
        let y = Axis::logarithmic(rarest, 1.0, |value| format!("{} %", Unit::Number.told(value * 100.0)));
        let mut plot = Plot::new(Axis::logarithmic(shortest, longest, latency), y);
        plot.upright(seconds(self.scenario.slo.latency.0), "limit");
        plot.level(1.0 - self.scenario.slo.percentile / 100.0, "limit");
        let mut legend = String::new();
        for (policy, line) in &lines {
            let colour = self.colour(policy);
            plot.line(line.iter().copied(), &format!("c{colour}"));
            legend += &entry("line", &format!("var(--c{colour})"), policy);
        }
        legend += &entry("line dashed", "var(--text)", "the promise");
        let _ = writeln!(
            page,
            "<h2>How many requests took longer</h2>\n<p class=\"soft\">Across: latency. Up: the share of requests \
             that took longer. A line that passes below the crossing of the dotted lines keeps the promise.</p>\n<ul \
             class=\"legend\">{legend}</ul>{}",
            plot.html(260, "Share of requests over latency, a line for each policy")
        );
    }

    fn over_time(&self, page: &mut String, run: &Outcome, series: &Series) {
        let length = series.step * count_f64(series.len());
        let name = escape(&run.policy);
        let _ = writeln!(
            page,
            "<h2>{name} over time</h2>\n<p class=\"soft\">Seed {}, from the start of the run.</p>",
            run.seed
        );
        let arrivals = pixels(series.arrivals.iter().map(|count| f64::from(*count) / series.step), WIDTH);
        let mut plot = Plot::new(Axis::time(0.0, length), Axis::linear(highest(&arrivals), plain));
        plot.area(&arrivals, "arrivals");
        let _ = writeln!(page, "<h3>Requests per second</h3>{}", plot.html(90, "Requests per second over time"));

        let whole = 0..series.len();
        let _ = writeln!(page, "<h3>Pods</h3><ul class=\"legend\">{}</ul>{}", pods_legend(), pods(series, whole));
        if let Some(hour) = worst_hour(run).filter(|_| length > 2.0 * HOUR) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "places of lines")]
            let place = |at: f64| ((at / series.step) as usize).min(series.len());
            let _ = writeln!(
                page,
                "<h3>The worst hour, from {}: {} of {} requests slow or failed</h3>{}",
                clock(hour.start),
                hour.violations,
                hour.completed + hour.failed,
                pods(series, place(hour.start)..place(hour.start + HOUR))
            );
        }

        let of = |value: fn(&Period) -> f64| {
            let minutes = run.minutes.iter();
            pixels(minutes.map(|minute| if minute.completed > 0 { value(minute) } else { f64::NAN }), WIDTH)
        };
        let lines =
            [("p50", of(|minute| minute.p50)), ("p95", of(|minute| minute.p95)), ("p99", of(|minute| minute.p99))];
        let all = || lines.iter().flat_map(|(_, line)| line.iter().map(|pixel| pixel.high));
        let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
        if high > 0.0 {
            let limit = seconds(self.scenario.slo.latency.0);
            let y = Axis::logarithmic(low.min(limit), high.max(limit), latency);
            let minutes = WIDTH.min(run.minutes.len());
            let mut plot = Plot::new(Axis::time(0.0, length), y);
            plot.level(limit, "limit");
            for (class, line) in &lines {
                plot.broken(line, minutes, class);
            }
            let legend = [
                entry("line", "var(--p50)", "median"),
                entry("line", "var(--p95)", "p95"),
                entry("line", "var(--p99)", "p99"),
                entry("line dashed", "var(--text)", "the promise"),
            ]
            .concat();
            let _ = writeln!(
                page,
                "<h3>Latency, minute by minute</h3><ul class=\"legend\">{legend}</ul>{}",
                plot.html(160, "Percentiles of latency over time")
            );
        }
    }

    fn provenance(&self, page: &mut String) {
        let seeds: Vec<u64> = by_policy(self.outcomes).first().into_iter().flatten().map(|run| run.seed).collect();
        let seeds = match (seeds.first(), seeds.last()) {
            (Some(first), Some(last)) if first != last => format!("{first} to {last}"),
            (Some(first), _) => first.to_string(),
            _ => "none".to_owned(),
        };
        let measured = self.outcomes.first().map_or(0.0, |run| run.measured);
        let _ = write!(
            page,
            "<h2>How this was made</h2>\n<dl><dt>program</dt><dd>ebb \
             {}</dd><dt>seeds</dt><dd>{seeds}</dd><dt>measured</dt><dd>{} of each run, after a warm-up of \
             {}</dd><dt>digest of the outcomes</dt><dd><code>{}</code></dd></dl>\n<p class=\"soft\">The \
             same scenario, seeds and version give the same bytes.</p>\n<h3>Not modelled</h3><ul class=\"plain\">",
            escape(self.version),
            told_length(measured),
            self.scenario.warm_up,
            digest(self.outcomes)
        );
        for line in NOT_MODELLED {
            let _ = write!(page, "<li>{line}</li>");
        }
        let _ = write!(page, "</ul>\n<h3>The scenario</h3>\n<pre>{}</pre>\n", escape(self.source.trim_end()));
    }
}

/// The SHA-256 of outcomes as JSON, in hexadecimal.
pub fn digest(outcomes: &[Outcome]) -> String {
    let bytes = serde_json::to_vec(outcomes).unwrap_or_default();
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn plain(value: f64) -> String {
    Unit::Number.told(value)
}

fn highest(shown: &[Pixel]) -> f64 {
    shown.iter().map(|pixel| pixel.high).fold(0.0, f64::max)
}

/// The hour in which most requests broke the promise, if any did.
fn worst_hour(run: &Outcome) -> Option<&Period> {
    let first = run.hours.first()?;
    let worst =
        run.hours.iter().fold(first, |worst, hour| if hour.violations > worst.violations { hour } else { worst });
    (worst.violations > 0).then_some(worst)
}

fn pods_legend() -> String {
    [
        entry("", "var(--ready)", "ready"),
        entry("line", "var(--desired)", "wanted"),
        entry("line dashed", "var(--need)", "needed, if nobody waited"),
        entry("", "var(--panic)", "panic"),
        entry("line", "var(--cold)", "cold starts"),
        entry("", "var(--path)", "activator in the path (below)"),
    ]
    .concat()
}

/// Pods over some lines of a series, and the strip below that says when the activator was in the path.
fn pods(series: &Series, lines: Range<usize>) -> String {
    let (from, length) = (series.step * count_f64(lines.start), series.step * count_f64(lines.len()));
    let shown = |values: &[u32]| pixels(values[lines.clone()].iter().map(|value| f64::from(*value)), WIDTH);
    let (ready, desired, need) = (shown(&series.ready), shown(&series.desired), shown(&series.need));
    let top = highest(&ready).max(highest(&desired)).max(highest(&need)).max(1.0);
    let mut plot = Plot::new(Axis::time(from, length), Axis::linear(top, plain));
    plot.bands(&stretches(&series.panicking[lines.clone()]), "panic");
    plot.area(&ready, "ready");
    plot.steps(&need, "need");
    plot.steps(&desired, "desired");
    let cold = shown(&series.cold_starts);
    plot.ticks(&cold.iter().filter(|pixel| pixel.high > 0.0).map(|pixel| pixel.at).collect::<Vec<_>>(), "cold");
    let mut strip = String::new();
    for (from, to) in stretches(&series.in_path[lines]) {
        let _ = write!(strip, "M{:.1} 0V10H{:.1}V0z", from * 1000.0, to * 1000.0);
    }
    format!(
        "{}<div class=\"strip\"><span></span><svg viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"When the activator was in the path\"><path class=\"path\" d=\"{strip}\"/></svg></div>",
        plot.html(200, "Pods ready, wanted and needed over time")
    )
}

fn dot_title(name: &str, cost: f64, share: f64) -> String {
    format!("{name}: {} pod-hours, {} % slow or failed", Unit::PodHours.told(cost), Unit::Number.told(share))
}

fn latency(value: f64) -> String {
    Unit::Seconds.told(value)
}

/// A length of time in words, without parts that are 0: `1h`, `30m`, `1h30m`.
pub fn told_length(seconds: f64) -> String {
    let text = Length(from_seconds(seconds)).to_string();
    let text = text.strip_suffix("m0s").map_or(text.clone(), |text| format!("{text}m"));
    text.strip_suffix("h0m").map_or(text.clone(), |text| format!("{text}h"))
}

fn class_of(promise: Promise) -> &'static str {
    match promise {
        Promise::Kept => "kept",
        Promise::Close => "close",
        Promise::Broken => "broken",
    }
}

fn word_of(policy: &Summary) -> &'static str {
    match policy.promise {
        _ if policy.is_oracle() => "a floor",
        Promise::Kept => "✓ kept",
        Promise::Close => "≈ not surely",
        Promise::Broken => "✗ broken",
    }
}

/// A line of a legend.
fn entry(class: &str, colour: &str, name: &str) -> String {
    format!("<li><span class=\"key {class}\" style=\"--colour:{colour}\"></span>{}</li>", escape(name))
}

/// The stretches in which a flag is set, as parts of the width, a pixel wide at least.
fn stretches(flags: &[u8]) -> Vec<(f64, f64)> {
    let shown = pixels(flags.iter().map(|flag| f64::from(*flag)), WIDTH);
    let width = 1.0 / count_f64(shown.len().max(1));
    let mut stretches: Vec<(f64, f64)> = Vec::new();
    for pixel in shown.iter().filter(|pixel| pixel.high > 0.0) {
        let (from, to) = (pixel.at, pixel.at + width);
        match stretches.last_mut() {
            Some(last) if from - last.1 < width / 2.0 => last.1 = to,
            _ => stretches.push((from, to)),
        }
    }
    stretches
}
