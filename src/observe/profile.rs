//! What the CPU is spent on: `/debug/pprof/profile` on the admin port, while `runtime-profiling` of
//! `config-observability` is `enabled`, at the path and in the format of Go's `net/http/pprof`, so that what people have
//! for the stock autoscaler (`go tool pprof`, continuous profilers that scrape) reads it.
//!
//! Stacks are taken in a signal handler, 99 times a second of CPU time of all threads together. It takes no memory and
//! waits for no lock there; a stack it cannot take at once is counted as missed, in a comment of the profile. Nothing is
//! installed before the first profile is asked for. Putting the names to the stacks is done as a [heavy](super::heavy)
//! answer, away from what decides.

use crate::observe::admin::{Admin, refused};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use rpprof::protos::Message as _;
use rpprof::{ProfilerGuard, ProfilerGuardBuilder, Report};
use serde::Deserialize;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Stacks taken in a second of CPU time; not 100, so as not to keep step with what runs each ten milliseconds.
const FREQUENCY: i32 = 99;
/// How long a profile is taken unless it is said, in seconds; Go's.
const USUAL_SECONDS: u64 = 30;
/// The longest profile, in seconds: it bounds what is kept of it.
const MOST_SECONDS: u64 = 60;

/// The index of the profiles there are.
const INDEX: &str = "\
profiles of this process, for whoever reads pprof's format:

  /debug/pprof/profile?seconds=30          what the CPU is spent on; 1 to 60 seconds
  /debug/pprof/profile?seconds=30&debug=1  the same as text: a stack a line, outermost first, and how often it was seen

such as: go tool pprof http://127.0.0.1:8008/debug/pprof/profile?seconds=30
";

/// What is answered while profiles are off, as the reference does; why is said too.
const OFF: &str = "profiling is off; set runtime-profiling: enabled in the ConfigMap config-observability, which takes \
                   effect at once";

/// Lets one profile be taken at a time: there is one profiler in a process.
pub(in crate::observe) type Turn = Arc<Semaphore>;

/// A turn for one profile.
pub(in crate::observe) fn turn() -> Turn {
    Arc::new(Semaphore::new(1))
}

/// What `/debug/pprof/profile` is asked for.
#[derive(Deserialize)]
pub(in crate::observe) struct Question {
    /// How long to take stacks.
    seconds: Option<u64>,
    /// Whether as text.
    debug: Option<u8>,
}

/// The index.
pub(in crate::observe) async fn index(State(admin): State<Admin>) -> Response {
    if admin.inspect.profiling() { INDEX.into_response() } else { refused(StatusCode::NOT_FOUND, OFF) }
}

/// One profile.
pub(in crate::observe) async fn profile(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    question: Result<Query<Question>, QueryRejection>,
) -> Response {
    if !admin.inspect.profiling() {
        return refused(StatusCode::NOT_FOUND, OFF);
    }
    if name != "profile" {
        let why = format!("there is no profile {name:?} here, only \"profile\"; /debug/pprof/ says how to ask for it");
        return refused(StatusCode::NOT_FOUND, &why);
    }
    let Question { seconds, debug } = match question {
        Ok(Query(question)) => question,
        Err(error) => {
            let why =
                format!("{}; seconds is a whole number from 1 to {MOST_SECONDS}, debug 0 or 1", error.body_text());
            return refused(StatusCode::BAD_REQUEST, &why);
        }
    };
    let seconds = seconds.unwrap_or(USUAL_SECONDS);
    if !(1..=MOST_SECONDS).contains(&seconds) {
        let why =
            format!("seconds is {seconds}, and may be 1 to {MOST_SECONDS}; without it a profile takes {USUAL_SECONDS}");
        return refused(StatusCode::BAD_REQUEST, &why);
    }
    let text = match debug {
        None | Some(0) => false,
        Some(1) => true,
        Some(other) => return refused(StatusCode::BAD_REQUEST, &format!("debug is {other}, and may be 0 or 1")),
    };
    let Ok(turn) = Arc::clone(&admin.profiles).try_acquire_owned() else {
        let again = [(header::RETRY_AFTER, HeaderValue::from(MOST_SECONDS))];
        let why = "a profile is being taken for somebody else; there can be one at a time\n";
        return (StatusCode::SERVICE_UNAVAILABLE, again, why).into_response();
    };
    // The first one reads the program's own unwind tables. Whoever asked may go meanwhile; the turn ends with the profiler.
    let start = move || Ok((ProfilerGuardBuilder::default().frequency(FREQUENCY).build()?, turn));
    let started: Result<rpprof::Result<_>, _> = tokio::task::spawn_blocking(start).await;
    let (turn, guard) = match started {
        Ok(Ok((guard, turn))) => (turn, guard),
        Ok(Err(error)) => return refused(StatusCode::SERVICE_UNAVAILABLE, &cannot(&error.to_string())),
        Err(error) => return refused(StatusCode::INTERNAL_SERVER_ERROR, &cannot(&error.to_string())),
    };
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let made = move || {
        let answer = made(&guard, text);
        drop(guard);
        drop(turn);
        answer.unwrap_or_else(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, &cannot(&error)))
    };
    admin.heavy.make(made).await
}

fn cannot(error: &str) -> String {
    format!(
        "no profile: {error}; stacks that are seen seldom are kept in a file, so the directory TMPDIR names, or /tmp, has to be \
         one this process may write to"
    )
}

/// The profile so far, as asked for.
fn made(guard: &ProfilerGuard<'_>, text: bool) -> Result<Response, String> {
    let report = guard.report().build().map_err(|error| error.to_string())?;
    if text {
        return Ok(folded(&report).map_err(|error| error.to_string())?.into_response());
    }
    let profile = report.pprof().map_err(|error| error.to_string())?;
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&profile.encode_to_vec()).map_err(|error| error.to_string())?;
    let packed = packed.finish().map_err(|error| error.to_string())?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"profile\""),
    ];
    Ok((headers, packed).into_response())
}

fn folded(report: &Report) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    report.write_folded(&mut text)?;
    Ok(text)
}
