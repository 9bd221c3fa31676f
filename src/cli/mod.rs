//! The command line. Results go to standard output, everything else to standard error.
//!
//! One file per subcommand; [`exit`] says what the process answers with, [`screen`] draws on a terminal.

pub mod activator;
pub mod alb;
pub mod check;
pub mod exit;
pub mod explain;
pub mod local;
pub mod queue_proxy;
pub mod recording;
pub mod run;
pub mod screen;
pub mod sim;

use crate::api::duration;
use crate::clock::Clock;
use crate::local::pods::guard;
use crate::observe::telemetry::{self, LogFormat};
use crate::units::{Compat, Span};
use clap::{Parser, Subcommand, ValueEnum};
use exit::Exit;
use std::pin::pin;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The request-driven autoscaler for Knative.
#[derive(Parser, Debug)]
#[command(name = "ebb", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,

    /// What to log: a level, or levels by module such as "warn,ebb::stats=debug".
    #[arg(long, global = true, env = "EBB_LOG", value_name = "FILTER", help_heading = "Logging")]
    log: Option<String>,

    /// How log lines look: text, except that `ebb run` writes JSON unless config-logging says otherwise.
    #[arg(long, global = true, env = "EBB_LOG_FORMAT", value_enum, help_heading = "Logging")]
    log_format: Option<LogFormat>,
}

#[derive(Subcommand, Debug)]
enum Command {
    Local(local::Args),
    Run(run::Args),
    Check(check::Args),
    Alb(alb::Args),

    Explain(explain::Args),
    Sim(sim::Args),
    QueueProxy(queue_proxy::Args),
    Activator(activator::Args),
    /// Kill the processes of pods when the `ebb local` that started them is gone. It starts this itself.
    #[command(name = guard::COMMAND, hide = true)]
    GuardPods,
}

/// Which of the reference's sharp edges to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum CompatMode {
    /// Rounded off where the reference is plainly wrong.
    #[default]
    Improved,
    /// Exactly the reference.
    Strict,
}

impl From<CompatMode> for Compat {
    fn from(mode: CompatMode) -> Self {
        match mode {
            CompatMode::Improved => Self::IMPROVED,
            CompatMode::Strict => Self::STRICT,
        }
    }
}

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are results; an error of usage is "could not answer".
            let exit = if error.use_stderr() { Exit::CouldNotAnswer } else { Exit::Done };
            let _ = error.print();
            return exit.into();
        }
    };
    // A connection is kept to each pod that is scraped; the usual soft limit of 1,024 is soon too low. Where it cannot be
    // raised, connections are made anew.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let format = args.log_format.unwrap_or_default();
    let outcome = match args.command {
        Command::Local(command) => local::run(command, args.log.as_deref(), format),
        Command::Run(command) => run::run(command, args.log.as_deref(), args.log_format),
        Command::Check(command) => {
            start_log("check", Some(args.log.as_deref().unwrap_or("warn")), format).and_then(|()| check::run(&command))
        }
        Command::Alb(command) => alb::run(&command),
        Command::Explain(command) => explain::run(&command),
        Command::Sim(command) => sim::run(&command),
        Command::QueueProxy(command) => {
            start_log("queueproxy", args.log.as_deref(), format).and_then(|()| queue_proxy::run(&command))
        }
        Command::Activator(command) => {
            start_log("activator", args.log.as_deref(), format).and_then(|()| activator::run(command))
        }
        Command::GuardPods => {
            guard::run(std::io::stdin().lock());
            Ok(Exit::Done)
        }
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("ebb: {error:#}");
            Exit::CouldNotAnswer.into()
        }
    }
}

fn start_log(logger: &'static str, filter: Option<&str>, format: LogFormat) -> anyhow::Result<()> {
    telemetry::start(logger, filter.unwrap_or("info"), format, std::io::stderr)?;
    Ok(())
}

/// The clock of the process, which from now on takes over leaps of the wall clock.
fn clock() -> Clock {
    let clock = Clock::of_process();
    tokio::spawn(clock.follow());
    clock
}

/// `config`, if it says where the API server is. A URL without a scheme or a host would be found out with the first
/// request, which panics in the client.
fn with_server(config: kube::Config) -> anyhow::Result<kube::Config> {
    let url = &config.cluster_url;
    let whole = matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty());
    anyhow::ensure!(
        whole,
        "{:?} is not the URL of an API server; write it with its scheme, such as https://10.0.0.1:6443",
        url.to_string()
    );
    Ok(config)
}

/// A length of time as Go writes it: `1s`, `1m30s`, `250ms`.
fn span(text: &str) -> Result<Span, String> {
    let span =
        duration::parse(text).map_err(|_| format!("{text:?} is not a duration; write it as 500ms, 1s or 1m30s"))?;
    if span < Span::ZERO { Err(format!("{text:?} is negative")) } else { Ok(span) }
}

/// SIGINT and SIGTERM, none of them missed while this exists.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Does `work` until it ends. The first signal cancels its token, so that it ends in order; a second one ends it at once.
async fn until_stopped<E: Into<anyhow::Error>>(
    work: impl AsyncFnOnce(CancellationToken) -> Result<(), E>,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::new()?;
    let cancel = CancellationToken::new();
    let mut working = pin!(work(cancel.clone()));
    tokio::select! {
        done = working.as_mut() => return done.map(|()| Exit::Done).map_err(Into::into),
        () = signals.next() => cancel.cancel(),
    }
    tokio::select! {
        done = working => done.map(|()| Exit::Done).map_err(Into::into),
        () = signals.next() => Ok(Exit::Interrupted),
    }
}
