//! `ebb sim replay`: a journal once more, as it was or as it might have been.

use super::{Runs, files, println, progress, table};
use crate::cli::exit::Exit;
use crate::engine::{Decision, Input, Print};
use crate::observe::journal::Replay;
use crate::observe::journal::replay::{Agreement, Event, Step};
use crate::sim::batch::{Job, Watch};
use crate::sim::replay::{RECORDED, Recording};
use crate::sim::time::{Length, Share, from_seconds};
use crate::sim::{Detail, world};
use crate::units::RevisionKey;
use anyhow::{Context as _, bail};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Replay a journal: audit its decisions, or ask what another configuration would have done.
///
/// `ebb run --journal DIR` and `ebb local --journal DIR` record all that the autoscaler hears.
/// Without --what-if each input is fed to this program's engine, and each decision must be the
/// recorded one, byte for byte; the exit code is then 0, and 1 when one differs, which is shown
/// with its input.
///
/// With --what-if the traffic is rebuilt from what was recorded and played in the world of a
/// scenario, whose policies are then compared; it needs no load of its own. First the recorded
/// configuration must bring back the recorded pods: where it is further off than --max-error, there
/// is no answer, unless forced.
///
/// Examples:
///   ebb sim replay /var/ebb
///   ebb sim replay /var/ebb --revision default/hello-00001 --what-if simulations/hello.yaml
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The directory of the journal, or one of its files.
    #[arg(value_name = "JOURNAL")]
    journal: PathBuf,

    /// Only this revision; with --what-if it must be named where there are several.
    #[arg(long, value_name = "NS/REVISION")]
    revision: Option<RevisionKey>,

    /// Play the recorded traffic in the world of this scenario, with its policies.
    #[arg(long, value_name = "SCENARIO")]
    what_if: Option<PathBuf>,

    /// How far the simulated pods may be from the recorded ones on average, relative to their number.
    #[arg(long, value_name = "SHARE", value_parser = share, default_value = "15%", requires = "what_if")]
    max_error: Share,

    /// Answer even so; the answer then says that it was forced.
    #[arg(long, requires = "what_if")]
    force: bool,

    #[command(flatten)]
    runs: Runs,

    /// How to answer.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: super::Format,
}

fn share(text: &str) -> Result<Share, String> {
    let number =
        text.strip_suffix('%').map_or_else(|| text.parse(), |number| number.parse().map(|part: f64| part / 100.0));
    match number {
        Ok(part) if (0.0..=10.0).contains(&part) => Ok(Share(part)),
        _ => Err(format!("{text:?} is not a share; write 15% or 0.15")),
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.what_if {
        None => audit(args),
        Some(scenario) => what_if(args, scenario),
    }
}

/// The first decision that is not the recorded one.
struct First {
    key: RevisionKey,
    input: Input,
    recorded: Option<Print>,
    ours: Option<Decision>,
}

fn audit(args: &Args) -> anyhow::Result<Exit> {
    let mut replay = Replay::open(&args.journal, args.revision.clone())?;
    let (mut first, mut gaps, mut revisions) = (None, 0, BTreeMap::new());
    let mut differing = 0;
    replay.run(None, |event: Event<'_>| match (&event.step, event.key) {
        // A journal begins with one; that is no gap in it.
        (Step::Gap, _) => gaps += u64::from(!revisions.is_empty()),
        (Step::Applied { input, applied, recorded }, Some(key)) => {
            *revisions.entry(key.clone()).or_insert(0_u64) += 1;
            let ours = if applied.evaluated { event.revision.and_then(|revision| revision.latest()) } else { None };
            if ours.map(Decision::print) != *recorded {
                differing += 1;
                first.get_or_insert_with(|| First {
                    key: key.clone(),
                    input: (*input).clone(),
                    recorded: *recorded,
                    ours: ours.cloned(),
                });
            }
        }
        _ => {}
    })?;
    let cut_off = cut_off(&replay);
    let Agreement { inputs, decisions, .. } = replay.agreement();
    if inputs == 0 {
        match &args.revision {
            Some(key) => bail!("{} has nothing of {key}", args.journal.display()),
            None => bail!("{} has no input of any revision", args.journal.display()),
        }
    }
    let same = differing == 0;
    let text = match args.format {
        super::Format::Json => {
            let difference = first.as_ref().map(|first| {
                json!({
                    "revision": first.key.as_str(),
                    "at": stamp(first.input.now),
                    "input": format!("{:?}", first.input.event),
                    "recorded": first.recorded.map(|print| print.desired),
                    "ours": first.ours.as_ref().map(ToString::to_string),
                })
            });
            let answer = json!({
                "version": "ebb.sim.replay/v1", "revisions": revisions.len(), "inputs": inputs, "decisions": decisions,
                "differing": differing, "gaps": gaps, "cut_off": cut_off, "first": difference,
            });
            format!("{answer:#}")
        }
        super::Format::Text => {
            let plural = |count: u64, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
            let mut text = format!(
                "{}: {} of {}, {}: {}",
                args.journal.display(),
                plural(inputs, "input"),
                plural(revisions.len() as u64, "revision"),
                plural(decisions, "decision"),
                if same {
                    "each as it was recorded, byte for byte".to_owned()
                } else {
                    format!("{differing} not as recorded")
                },
            );
            if gaps > 0 {
                let places = plural(gaps, "place");
                write!(text, "; in {places} inputs are missing, and what follows began afresh")?;
            }
            if let Some(first) = &first {
                let recorded =
                    first.recorded.map_or("no decision".to_owned(), |print| format!("{} pods", print.desired));
                let ours = first.ours.as_ref().map_or("no decision".to_owned(), ToString::to_string);
                write!(
                    text,
                    "\nThe first that differs: {} at {}\n  input     {:?}\n  recorded  {recorded}\n  here      {ours}",
                    first.key,
                    stamp(first.input.now),
                    first.input.event,
                )?;
            }
            text
        }
    };
    println(&text)?;
    Ok(if same { Exit::Done } else { Exit::AnswerIsNo })
}

/// Files whose last record ends early, which is said of each.
fn cut_off(replay: &Replay) -> Vec<String> {
    let files: Vec<String> = replay.reader().cut_off().iter().map(|file| file.display().to_string()).collect();
    for file in &files {
        eprintln!(
            "{file}: note: it ends in the middle of a record, as when the recorder was killed or a copy was cut short; what \
             came after that is not in this answer"
        );
    }
    files
}

fn stamp(at: crate::units::Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at.nanos())).map_or_else(|_| format!("{at:?}"), |at| at.to_string())
}

fn what_if(args: &Args, scenario: &std::path::Path) -> anyhow::Result<Exit> {
    let mut replay = Replay::open(&args.journal, args.revision.clone())?;
    let mut recordings: BTreeMap<RevisionKey, Recording> = BTreeMap::new();
    replay.run(None, |event: Event<'_>| {
        if let (Step::Applied { input, .. }, Some(key)) = (&event.step, event.key) {
            recordings.entry(key.clone()).or_default().take(input);
        }
    })?;
    let cut_off = cut_off(&replay);
    let names: Vec<String> = recordings.keys().map(ToString::to_string).collect();
    let (key, recording) = match (recordings.len(), recordings.pop_first()) {
        (1, Some(one)) => one,
        (0, _) | (_, None) => bail!("{} has nothing to replay", args.journal.display()),
        _ => bail!(
            "there are several revisions in {}; name one with --revision: {}",
            args.journal.display(),
            names.join(", ")
        ),
    };
    let world = files::load_for_traffic(scenario)?;
    let assumed = if world.load.service.is_none() { recording.mean_service() } else { None };
    let case = recording
        .case(world)
        .with_context(|| format!("{key} of {} cannot be played in {}", args.journal.display(), scenario.display()))?;
    let recorded = &case.scenario.policies[0];
    let seed = args.runs.seed.unwrap_or(case.scenario.seed);
    let outcome = world::run(&case, recorded, seed, Detail::Series);
    let difference = recording.difference(&case, &outcome);
    let trusted = difference.is_within(args.max_error);
    let told = format!(
        "{RECORDED} against what was recorded of {key} in {}: ready pods are off by {:.0} (median), {:.0} (95th percentile), \
         {:.1}% of their number on average, over {} ticks",
        Length(recording.length()),
        difference.median,
        difference.p95,
        difference.relative * 100.0,
        difference.ticks,
    );
    if !trusted && !args.force {
        bail!(
            "{told}; that is more than --max-error {}, so the answer would be worth nothing. Say in the scenario how long \
             requests take and how pods start, or force an answer with --force",
            args.max_error
        );
    }
    let changes = recording.changes();
    let jobs: Vec<Job> = args.runs.jobs(&case);
    let watch = Watch::default();
    let outcomes = progress::run(&jobs, args.runs.threads(), &watch)?;
    if args.format == super::Format::Json {
        let answer = json!({
            "version": crate::sim::outcome::VERSION,
            "replay": {
                "revision": key.as_str(), "forced": !trusted, "median": difference.median, "p95": difference.p95,
                "relative": difference.relative, "ticks": difference.ticks, "changes": changes, "cut_off": cut_off,
                "assumed_mean_service": assumed,
            },
            "outcomes": outcomes,
        });
        println(&format!("{answer:#}"))?;
        return Ok(Exit::Done);
    }
    if trusted {
        println(&told)?;
    } else {
        println(&format!("FORCED: {told}; more than --max-error {}", args.max_error))?;
    }
    if let Some(mean) = assumed {
        println(&format!(
            "How long each request took was not recorded: exponential service with a mean of {}, which is what was in \
             flight over what came, is an assumption, and latencies are no better than it. load.service in {} says what is \
             known.",
            Length(from_seconds(mean)),
            scenario.display()
        ))?;
    }
    if changes > 0 {
        println(&format!(
            "The configuration changed {changes} times while it was recorded; only the last one is played."
        ))?;
    }
    let scenario = &case.scenario;
    let comparison = crate::sim::compare::compare(&scenario.name, &outcomes, &scenario.slo, scenario.seed);
    println(&table::outcomes(&outcomes, &comparison))?;
    Ok(Exit::Done)
}
