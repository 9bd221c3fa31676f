//! `ebb check`: Knative Services and ConfigMaps judged before a cluster sees them, or as they run.

pub(super) mod cluster;
mod item;
mod report;

use crate::cli::exit::Exit;
use crate::cli::span;
use crate::config::check::{Cluster, Finding, judge_cluster, judge_map};
use crate::config::{self, Autoscaler, Data, Defaults, Deployment};
use crate::local::knative::admission::spec_problems;
use crate::local::manifest;
use crate::units::{Compat, Span};
use clap::ValueEnum;
use item::{Item, Role};
use report::{Placed, Report, Reviewed};
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

/// Check Knative Services and ConfigMaps: what is refused, what is a trap, what each revision gets.
///
/// With -f it reads files and needs no cluster. ConfigMaps among them are the cluster's settings;
/// what none of them says is Knative's default. With --cluster the ConfigMaps of a live cluster
/// count, and without -f what runs there is checked: every revision a route leads to. Who calls a
/// service is known by the cluster alone, so what has been kept awake for long is told only there.
///
/// Understood are Services, Configurations, Revisions and PodAutoscalers, alone or in lists; other
/// objects are skipped and named. The exit code is 0 when nothing is wrong, 1 when something is
/// (warnings count with --strict), and 2 when there is no answer: a file that cannot be read, a
/// cluster that cannot be reached.
///
/// Examples:
///   ebb check -f service.yaml
///   ebb check --cluster -A --strict
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Objects to check: a YAML or JSON file, a directory of them, or - for standard input. May be repeated.
    #[arg(short, long = "filename", value_name = "FILE", required_unless_present = "cluster")]
    filenames: Vec<PathBuf>,

    /// Take the settings of a live cluster, and without -f check what runs there.
    #[arg(long)]
    cluster: bool,

    /// The kubeconfig that says where the cluster is [default: as kubectl finds it].
    #[arg(long, value_name = "FILE", requires = "cluster")]
    kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME", requires = "cluster")]
    context: Option<String>,

    /// The namespace to check, and that of objects without one [default: the context's, or "default"].
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_namespaces")]
    namespace: Option<String>,

    /// Check all namespaces.
    #[arg(short = 'A', long, requires = "cluster", conflicts_with = "filenames")]
    all_namespaces: bool,

    /// Where Knative's ConfigMaps are.
    #[arg(long, env = "SYSTEM_NAMESPACE", value_name = "NAME", default_value = crate::api::names::SYSTEM_NAMESPACE)]
    system_namespace: String,

    /// How long pods take to become ready, where their probes do not tell; such as 20s.
    #[arg(long, value_name = "DURATION", value_parser = span)]
    startup: Option<Span>,

    /// How to answer.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,

    /// Leave out the settings of each revision; only what is wrong is told.
    #[arg(short, long)]
    quiet: bool,

    /// Warnings are problems too: the exit code is then 1.
    #[arg(long)]
    strict: bool,
}

/// How the answer looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object, whose `version` says how it is to be read.
    Json,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let live = if args.cluster {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Some(runtime.block_on(cluster::read(args))?)
    } else {
        None
    };
    let found =
        if args.filenames.is_empty() { manifest::Found::default() } else { manifest::documents(&args.filenames) };
    let namespace = args.namespace.clone().or_else(|| live.as_ref().map(|live| live.namespace.clone()));
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    let mut items: Vec<Item> =
        found.documents.into_iter().map(|document| Item::in_file(document, &namespace)).collect();

    let mut report = Report::default();
    report.findings.extend(found.malformed.into_iter().map(Placed::malformed));
    let (maps, left_out, seen) = match live {
        Some(live) => {
            items.extend(live.items);
            (live.maps, live.left_out, Some(live.context))
        }
        None => (Vec::new(), 0, None),
    };
    report.left_out = left_out;
    let cluster = settings(&items, &maps, &args.system_namespace, seen.as_deref(), args.startup, &mut report);
    for item in &items {
        check(item, &cluster, args.startup, &mut report);
    }
    report.sort();

    let mut out = std::io::stdout().lock();
    let text = match args.format {
        Format::Text => {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
            report.text(args.quiet, colour)
        }
        Format::Json => format!("{:#}\n", report.json()),
    };
    // A closed pipe wants no more; whoever closed it has seen enough.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    for problem in &found.unreadable {
        eprintln!("ebb: {problem}");
    }
    Ok(if !found.unreadable.is_empty() {
        Exit::CouldNotAnswer
    } else if report.errors() > 0 || (args.strict && report.warnings() > 0) {
        Exit::AnswerIsNo
    } else {
        Exit::Done
    })
}

/// The cluster's settings: from the ConfigMaps among `items`, then from those of the live cluster. Each is judged on the
/// way.
fn settings(
    items: &[Item],
    live: &[Item],
    system_namespace: &str,
    context: Option<&str>,
    startup: Option<Span>,
    report: &mut Report,
) -> Cluster {
    let mut maps: BTreeMap<String, (&Item, Data)> = BTreeMap::new();
    for item in items.iter().filter(|item| item.role() == Role::ConfigMap) {
        if item.namespace().is_some_and(|namespace| namespace != system_namespace) {
            continue;
        }
        maps.insert(item.name(), (item, item.data()));
    }
    let written: Vec<String> = maps.keys().cloned().collect();
    for item in live {
        maps.entry(item.name()).or_insert_with(|| (item, item.data()));
    }
    report.settings_from = match (written.is_empty(), context) {
        (true, None) => "Knative's defaults".to_owned(),
        (false, None) => format!("{} as given, otherwise Knative's defaults", written.join(", ")),
        (true, Some(context)) => format!("the cluster of context {context}"),
        (false, Some(context)) => {
            format!("{} as given, otherwise the cluster of context {context}", written.join(", "))
        }
    };

    report.has_maps = !maps.is_empty();
    let mut cluster = Cluster::default();
    for (name, (item, data)) in &maps {
        let parsed = match name.as_str() {
            config::autoscaler::NAME => {
                Autoscaler::parse(data, Compat::IMPROVED).map(|parsed| cluster.autoscaler = parsed)
            }
            config::deployment::NAME => Deployment::parse(data).map(|parsed| cluster.deployment = parsed),
            config::defaults::NAME => Defaults::parse(data).map(|parsed| cluster.defaults = parsed),
            config::network::NAME => config::Network::parse(data).map(drop),
            config::leader_election::NAME => config::LeaderElection::parse(data, Compat::STRICT).map(drop),
            config::logging::NAME => config::Logging::parse(data).map(drop),
            config::observability::NAME => config::Observability::parse(data, Compat::IMPROVED).map(drop),
            _ => Ok(()),
        };
        let found = judge_map(name, data, parsed.as_ref().err());
        report.findings.extend(found.into_iter().map(|finding| item.place(finding)));
    }
    for finding in judge_cluster(&cluster, startup) {
        if let Some((item, data)) = finding.map.and_then(|map| maps.get(map)) {
            // As it was written, not as it was understood.
            let value = data.get(&finding.key).cloned().unwrap_or_else(|| finding.value.clone());
            report.findings.push(item.place(Finding { value, ..finding }));
        }
    }
    cluster
}

/// Judges one object.
fn check(item: &Item, cluster: &Cluster, startup: Option<Span>, report: &mut Report) {
    let mut findings: Vec<Placed> = item.shape_problems();
    let role = item.role();
    match role {
        Role::Other => {
            report.skipped.push(item.clone());
            return;
        }
        Role::ConfigMap => {
            report.findings.extend(findings);
            return;
        }
        Role::Service | Role::Configuration | Role::Revision | Role::PodAutoscaler => {}
    }
    if !item.is_live() {
        let problems = spec_problems(item.kind(), item.json(), &cluster.defaults);
        findings.extend(problems.into_iter().map(|cause| item.refused(cause)));
    }
    let judgement = item.judge(cluster, startup);
    findings.extend(judgement.findings.into_iter().map(|finding| item.place(finding)));
    if item.is_live() && role == Role::Service {
        // Its revision is judged by itself; of the Service there is only what stands on it.
        findings.retain(|placed| placed.finding.path.starts_with("metadata."));
        report.findings.extend(findings);
        return;
    }
    report.revisions.push(Reviewed {
        item: item.clone(),
        served_by: judgement.served_by,
        settings: judgement.settings,
        findings,
    });
}
