//! `ebb sim`: what would this configuration have done on this traffic?

mod compare;
mod files;
mod output;
mod progress;
mod replay;
mod report;
mod table;
mod tune;

use crate::cli::exit::Exit;
use crate::sim::batch::{Job, Watch};
use crate::sim::{Case, Detail};
use clap::{Subcommand, ValueEnum};
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// What would this configuration have done on this traffic?
///
/// A scenario file names the traffic, the revision, the world around it, and the policies to try.
/// Each request is simulated, and the scaler is the one that `ebb run` runs, under a virtual clock.
/// The same seed gives the same bytes, on one thread and on many.
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Check(CheckArgs),
    Run(RunArgs),
    Compare(compare::Args),
    Tune(tune::Args),
    Replay(replay::Args),
}

/// Check scenario files without running them.
///
/// Everything that is wrong is told with file, line and column. The exit code is 0 when nothing is,
/// 1 when something is, and 2 when a file cannot be read.
///
/// Examples:
///   ebb sim check simulations/hello.yaml
///   ebb sim check simulations/*.yaml
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
struct CheckArgs {
    /// The scenarios.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Run a scenario: each of its policies under each seed.
///
/// Examples:
///   ebb sim run simulations/hello.yaml
///   ebb sim run simulations/hello.yaml --seed 42 --repetitions 1 --format json
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
struct RunArgs {
    /// The scenario.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    runs: Runs,

    #[command(flatten)]
    answer: Answer,
}

/// How to answer, and where to.
#[derive(clap::Args, Debug)]
struct Answer {
    /// Write the files that the scenario's output.formats names to this directory; `compare` to one of each
    /// scenario's name within it.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// How to answer.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

/// Which runs to make, and how.
#[derive(clap::Args, Debug)]
struct Runs {
    /// The first seed [default: the scenario's].
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// How often each policy is run, each time with another seed [default: the scenario's].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: Option<u32>,

    /// Threads to spread the runs over [default: as many as there are cores]. The result is the same.
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
}

/// How to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// Every outcome as JSON; `version` says how it is to be read.
    Json,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Check(args) => check(args),
        Command::Run(args) => run_scenario(args),
        Command::Compare(args) => compare::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Replay(args) => replay::run(args),
    }
}

fn check(args: &CheckArgs) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    for path in &args.files {
        match files::load(path) {
            Ok(case) => println(&format!("{}: {}", path.display(), table::what(&case)))?,
            Err(files::LoadError::Wrong(problems)) => {
                eprintln!("{problems}");
                exit = Exit::AnswerIsNo;
            }
            Err(files::LoadError::Unreadable(error)) => return Err(error),
        }
    }
    Ok(exit)
}

fn run_scenario(args: &RunArgs) -> anyhow::Result<Exit> {
    let case = files::load(&args.file)?;
    if let Some(directory) = &args.answer.output {
        output::prepare(directory)?;
    }
    let jobs = args.runs.jobs(&case);
    let outcomes = progress::run(&jobs, args.runs.threads(), &Watch::default())?;
    let scenario = &case.scenario;
    let comparison = crate::sim::compare::compare(&scenario.name, &outcomes, &scenario.slo, scenario.seed);
    let mut written = Vec::new();
    if let Some(directory) = &args.answer.output {
        let mut files = output::data(&case, &outcomes, &scenario.output.formats)?;
        files.extend(report::page(&case, &args.file, &outcomes, &comparison, &scenario.output.formats)?);
        written = output::write(directory, &files)?;
    }
    match args.answer.format {
        Format::Text => {
            println(&table::outcomes(&outcomes, &comparison))?;
            for path in written {
                println(&format!("written: {}", path.display()))?;
            }
        }
        Format::Json => println(&output::json(&case, &outcomes)?)?,
    }
    Ok(Exit::Done)
}

impl Runs {
    fn jobs(&self, case: &Case) -> Vec<Job> {
        let scenario = &case.scenario;
        let first = self.seed.unwrap_or(scenario.seed);
        let repetitions = self.repetitions.unwrap_or(scenario.repetitions);
        let job = |policy: &crate::sim::Entry, repetition: u32| Job {
            case: case.clone(),
            policy: policy.clone(),
            seed: first.wrapping_add(u64::from(repetition)),
            // The series of one run is shown; the others only count.
            detail: if repetition == 0 { Detail::Series } else { Detail::Measures },
        };
        let policies = scenario.policies.iter();
        policies.flat_map(|policy| (0..repetitions).map(move |repetition| job(policy, repetition))).collect()
    }

    fn threads(&self) -> NonZeroUsize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }
}

fn println(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(())
}
