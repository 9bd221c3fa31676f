//! `ebb sim tune`: the cheapest configuration that keeps the promise, or why none is recommended.

use super::{Format, files, output, progress, report};
use crate::cli::exit::Exit;
use crate::sim::batch::Watch;
use crate::sim::compare::{self, Comparison, Unit};
use crate::sim::report::Report;
use crate::sim::report::plot::{clock, escape};
use crate::sim::scenario::Kpa;
use crate::sim::tune::{self, CURRENT, Options, REQUEST_TAKES, TUNED, Tuning};
use crate::sim::{Case, Outcome, outcome, report as pages};
use anyhow::Context as _;
use serde_json::json;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Look for the cheapest annotations that keep the scenario's promise on its traffic.
///
/// What is in force is the scenario's first kpa policy. The last part of the traffic is held back:
/// the proposal is looked for on the rest and checked there. The exit code is 0 with a
/// recommendation, and 1 with the reason why there is none. The result is the same on any machine
/// and any number of threads.
///
/// Examples:
///   ebb sim tune simulations/diurnal.yaml
///   ebb sim tune simulations/diurnal.yaml --pin min-scale --budget 20s --output runs/diurnal
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The scenario.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// What may be spent: a duration on one thread, or a number of simulated requests, of which each stands for 250 ns.
    /// Work is counted, not timed, so that the answer is the same on any machine. Where it is too small for the last
    /// checks, they are made even so.
    #[arg(long, value_name = "DURATION|REQUESTS", default_value = "60s", value_parser = budget)]
    budget: u64,

    /// An annotation that stays as it is, with or without its prefix; may be given again.
    #[arg(long, value_name = "ANNOTATION")]
    pin: Vec<String>,

    /// The most changes of direction per hour, or as many as the configuration in force has.
    #[arg(long, value_name = "NUMBER", default_value_t = 12.0)]
    max_flaps: f64,

    /// The part of the traffic that is held back, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 30, value_parser = clap::value_parser!(u8).range(20..=50))]
    held_back: u8,

    /// Threads to spread the runs over [default: as many as there are cores]. The result is the same.
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,

    /// Write report.html and tuning.json to this directory.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// How to answer.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

/// The smallest budget, in simulated requests: a second's.
const LEAST_BUDGET: u64 = 4_000_000;

/// A budget in simulated requests.
fn budget(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{text:?} is not a budget; use a duration from 1s to 24h, such as \"60s\", or a number of simulated requests \
             from 4000000, such as \"240000000\""
        )
    };
    if text.bytes().all(|digit| digit.is_ascii_digit()) {
        return text.parse().ok().filter(|requests| *requests >= LEAST_BUDGET).ok_or_else(wrong);
    }
    let span = crate::api::duration::parse(text).map_err(|_| wrong())?;
    let seconds = span.seconds_f64();
    if !(1.0..=86_400.0).contains(&seconds) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of 1 s to a day")]
    let requests = (seconds / REQUEST_TAKES).round() as u64;
    Ok(requests)
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let case = files::load(&args.file)?;
    if let Some(directory) = &args.output {
        output::prepare(directory)?;
    }
    let current: Kpa = case.scenario.policies.iter().find_map(|policy| policy.kpa.clone()).unwrap_or_default();
    let threads = args.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let options = Options {
        budget: args.budget,
        pins: args.pin.clone(),
        max_flaps: args.max_flaps,
        held_back: f64::from(args.held_back) / 100.0,
        threads,
    };
    let watch = Watch::default();
    // The last checks may take a little more or less than the budget.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let budget = args.budget as f64 * REQUEST_TAKES;
    let part = || watch.took() / budget;
    let tuning = progress::shown("tuning", &part, || tune::tune(&case, &current, &options, &watch))?;
    let written = match &args.output {
        Some(directory) => output::write(directory, &pages_of(&case, args, &tuning)?)?,
        None => Vec::new(),
    };
    match args.format {
        Format::Text => {
            super::println(&text(&case, &tuning))?;
            for path in written {
                super::println(&format!("written: {}", path.display()))?;
            }
        }
        Format::Json => super::println(&json_of(&case, &tuning)?)?,
    }
    Ok(if tuning.change.is_some() { Exit::Done } else { Exit::AnswerIsNo })
}

/// The part of an answer that is not outcomes.
fn json_of(case: &Case, tuning: &Tuning) -> anyhow::Result<String> {
    let seed = case.scenario.seed;
    let compared = |outcomes: &[Outcome]| compare::compare(&case.scenario.name, outcomes, &case.scenario.slo, seed);
    let answer = json!({
        "version": outcome::VERSION,
        "ebb": report::VERSION,
        "scenario": &*case.scenario,
        "change": tuning.change,
        "refusal": tuning.refusal,
        "held_back_from": tuning.held_back_from,
        "training": compared(&tuning.training),
        "held_back": compared(&tuning.held_back),
        "sensitivity": tuning.sensitivity,
        "screened": tuning.screened,
        "tried": tuning.tried,
        "cut_short": tuning.cut_short,
        "spent_requests": tuning.spent,
        "digest": pages::digest(&[tuning.training.as_slice(), tuning.held_back.as_slice()].concat()),
    });
    Ok(serde_json::to_string(&answer)? + "\n")
}

/// The answer in words, then the annotations.
fn answer(tuning: &Tuning) -> String {
    match (&tuning.change, &tuning.refusal) {
        (Some(change), _) => {
            let set: Vec<String> = change
                .iter()
                .map(|(key, value)| match value {
                    Some(value) => format!("{key}: {value:?}"),
                    None => format!("# remove {key}"),
                })
                .collect();
            set.join("\n")
        }
        (None, Some(refusal)) => refusal.to_string(),
        (None, None) => String::new(),
    }
}

/// What is gained and lost against the configuration in force, in a sentence.
fn expected(held_back: &Comparison) -> Option<String> {
    let cost = held_back.difference(TUNED, "pod_hours")?;
    let share = |policy: &str| {
        held_back.policies.iter().find(|known| known.policy == policy).map(|it| it.get("violation_share"))
    };
    // It is recommended only where what is in force breaks the promise.
    let dearer = if cost.difference.is_above(0.0) {
        " What you have breaks the promise, and nothing cheaper was found that keeps it."
    } else {
        ""
    };
    Some(format!(
        "On the traffic that was held back it costs {} what you have, and {} of requests are slow or failed, where it \
         was {}.{dearer}",
        cost.ratio.as_ref().map_or_else(|| "as much as".to_owned(), compare::cheaper),
        Unit::Share.told(share(TUNED)?.value),
        Unit::Share.told(share(CURRENT)?.value)
    ))
}

fn text(case: &Case, tuning: &Tuning) -> String {
    let slo = &case.scenario.slo;
    let seed = case.scenario.seed;
    let mut text = String::new();
    let compared = |outcomes: &[Outcome]| compare::compare(&case.scenario.name, outcomes, slo, seed);
    let (training, held_back) = (compared(&tuning.training), compared(&tuning.held_back));
    if tuning.change.is_some() {
        let gain = expected(&held_back).unwrap_or_default();
        writeln!(
            text,
            "{}: set these annotations on the revision's template. {gain}\n\n{}\n",
            case.scenario.name,
            answer(tuning)
        )
        .expect("writing to a string");
    } else {
        writeln!(text, "{}: {}\n", case.scenario.name, answer(tuning)).expect("writing to a string");
    }
    if !training.policies.is_empty() {
        let from = clock(tuning.held_back_from);
        writeln!(text, "Looked for up to {from}:\n{}\n", super::compare::policies(&training))
            .expect("writing to a string");
        writeln!(text, "Held back, from {from}:\n{}\n", super::compare::policies(&held_back))
            .expect("writing to a string");
    }
    if !tuning.sensitivity.is_empty() {
        text.push_str("One step away:\n");
        for step in &tuning.sensitivity {
            writeln!(
                text,
                "  {} {} instead of {}: {:.2} times the cost, {} slow or failed",
                step.key.rsplit('/').next().unwrap_or(&step.key),
                step.instead,
                step.chosen,
                step.cost,
                Unit::Share.told(step.violation_share)
            )
            .expect("writing to a string");
        }
        text.push('\n');
    }
    if !tuning.tried.is_empty() {
        writeln!(
            text,
            "{} configurations were {} at first. All in all it took as much as {} simulated requests.{}",
            tuning.tried.len(),
            if tuning.screened { "screened, which is approximate," } else { "tried" },
            tuning.spent,
            if tuning.cut_short { " The search ended with the --budget; a larger one may find more." } else { "" }
        )
        .expect("writing to a string");
    }
    text
}

fn pages_of(case: &Case, args: &Args, tuning: &Tuning) -> anyhow::Result<Vec<output::Written>> {
    let source =
        std::fs::read_to_string(&args.file).with_context(|| format!("{} cannot be read", args.file.display()))?;
    let scenario = &case.scenario;
    let compared = |outcomes: &[Outcome]| compare::compare(&scenario.name, outcomes, &scenario.slo, scenario.seed);
    let (training, mut held_back) = (compared(&tuning.training), compared(&tuning.held_back));
    let mut advice = String::new();
    if tuning.change.is_some() {
        held_back.verdict =
            format!("There is a cheaper or safer configuration. {}", expected(&held_back).unwrap_or_default());
        let _ = writeln!(
            advice,
            "<h2>Set these annotations</h2>\n<p class=\"soft\">On the template of the revision. Only what differs \
             from what you have.</p>\n<pre>{}</pre>",
            escape(&answer(tuning))
        );
    } else {
        held_back.verdict = answer(tuning);
    }
    if !training.policies.is_empty() {
        let _ = write!(
            advice,
            "<h2>Where it was looked for, and what was held back</h2>\n<p class=\"soft\">It was looked for up to {}. \
             All other figures of this page are of the part that was held back.</p>\n\
             <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Looked for and held back\">\
             <table><thead><tr><th>policy</th><th>pod-hours, looked for</th><th>held \
             back</th><th>slow or failed, looked for</th><th>held back</th><th>p99, looked for</th><th>held \
             back</th></tr></thead><tbody>",
            clock(tuning.held_back_from)
        );
        for policy in &training.policies {
            let Some(held) = held_back.policies.iter().find(|held| held.policy == policy.policy) else { continue };
            let _ = write!(advice, "<tr><th scope=\"row\">{}</th>", escape(&policy.policy));
            for (key, unit) in
                [("pod_hours", Unit::PodHours), ("violation_share", Unit::Share), ("latency_p99", Unit::Seconds)]
            {
                for of in [policy, held] {
                    let _ = write!(advice, "<td>{}</td>", escape(&unit.told(of.get(key).value)));
                }
            }
            advice.push_str("</tr>");
        }
        advice.push_str("</tbody></table></div>\n");
    }
    if !tuning.sensitivity.is_empty() {
        advice.push_str(
            "<h2>One step away</h2>\n<p class=\"soft\">What changes when one setting is moved, where it was looked \
             for.</p>\n\
             <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"One step away\">\
             <table><thead><tr><th>setting</th><th>chosen</th><th>instead</th><th>times the \
             cost</th><th>slow or failed</th></tr></thead><tbody>",
        );
        for step in &tuning.sensitivity {
            let _ = write!(
                advice,
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{:.2}</td><td>{}</td></tr>",
                escape(step.key.rsplit('/').next().unwrap_or(&step.key)),
                escape(&step.chosen),
                escape(&step.instead),
                step.cost,
                escape(&Unit::Share.told(step.violation_share))
            );
        }
        advice.push_str("</tbody></table></div>\n");
    }
    let hours = tuning.tried.first().map_or(0.0, |first| first.pod_hours);
    let of_current = held_back.policies.first().map_or(0.0, |current| current.get("pod_hours").value);
    // What was tried first was tried on another part of the load: its cost is told in what is in force there.
    let scale = if hours > 0.0 { of_current / hours } else { 1.0 };
    let tried: Vec<pages::Tried> = tuning
        .tried
        .iter()
        .map(|tried| pages::Tried {
            name: tune::written(&tried.change) + if tuning.screened { " (screened, approximate)" } else { "" },
            pod_hours: tried.pod_hours * scale,
            violation_share: tried.violation_share,
        })
        .collect();
    let page = Report {
        scenario,
        source: &source,
        traffic: &report::traffic(case),
        outcomes: &tuning.held_back,
        comparison: &held_back,
        warning: None,
        tried: &tried,
        advice: &advice,
        version: report::VERSION,
    };
    Ok(vec![
        output::Written::new("report.html", page.html()),
        output::Written::new("tuning.json", json_of(case, tuning)?),
    ])
}
