//! The command line. Results go to standard output, everything else to standard error.
//!
//! One file per subcommand; [`exit`] says what the process answers with, [`screen`] draws on a terminal.

pub mod activator;
pub mod exit;
pub mod local;
pub mod queue_proxy;
pub mod screen;

use crate::api::duration;
use crate::observe::telemetry::{self, LogFormat};
use crate::units::{Compat, Span};
use clap::{Parser, Subcommand, ValueEnum};
use exit::Exit;
use std::process::ExitCode;

/// The request-driven autoscaler for Knative.
#[derive(Parser, Debug)]
#[command(name = "ebb", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,

    /// What to log: a level, or levels by module such as "warn,ebb::stats=debug".
    #[arg(long, global = true, env = "EBB_LOG", value_name = "FILTER", help_heading = "Logging")]
    log: Option<String>,

    /// How log lines look.
    #[arg(long, global = true, env = "EBB_LOG_FORMAT", value_enum, default_value_t, help_heading = "Logging")]
    log_format: LogFormat,
}

#[derive(Subcommand, Debug)]
enum Command {
    Local(local::Args),
    QueueProxy(queue_proxy::Args),
    Activator(activator::Args),
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
    let outcome = match args.command {
        Command::Local(command) => local::run(command, args.log.as_deref(), args.log_format),
        Command::QueueProxy(command) => {
            start_log(args.log.as_deref(), args.log_format).and_then(|()| queue_proxy::run(&command))
        }
        Command::Activator(command) => {
            start_log(args.log.as_deref(), args.log_format).and_then(|()| activator::run(command))
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

fn start_log(filter: Option<&str>, format: LogFormat) -> anyhow::Result<()> {
    telemetry::start(filter.unwrap_or("info"), format, std::io::stderr)
}

/// A length of time as Go writes it: `1s`, `1m30s`, `250ms`.
fn span(text: &str) -> Result<Span, String> {
    let span =
        duration::parse(text).map_err(|_| format!("{text:?} is not a duration; write it as 500ms, 1s or 1m30s"))?;
    if span < Span::ZERO { Err(format!("{text:?} is negative")) } else { Ok(span) }
}

/// Waits for SIGINT or SIGTERM.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
