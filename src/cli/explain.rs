//! `ebb explain`: why a revision has the pods it has.

use crate::cli::exit::Exit;
use crate::cli::span;
use crate::observe::explain::{ExplainError, of_journal};
use crate::units::{RevisionKey, Span, Timestamp};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::ValueEnum;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Why a revision has the pods it has: what is seen, which rule decided, what would change it.
///
/// It asks a running autoscaler on its admin port (in a cluster: `kubectl -n knative-serving
/// port-forward deployment/autoscaler 8008`), or reads the journal that `ebb run --journal DIR`
/// recorded, which also knows the past.
///
/// Examples:
///   ebb explain default/hello-00001
///   ebb explain default/hello-00001 --last 1h --format json
///   ebb explain default/hello-00001 --journal /var/ebb --at 2026-11-21T10:32:00Z
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The revision, as NAMESPACE/NAME.
    #[arg(value_name = "NS/REVISION")]
    revision: RevisionKey,

    /// The admin port of the autoscaler to ask.
    #[arg(long, env = "EBB_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:8008")]
    admin: String,

    /// Read this journal, a directory or one of its files, instead of asking.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,

    /// The moment to explain, such as 2026-11-21T10:32:00Z; needs a journal.
    #[arg(long, value_name = "TIME", value_parser = moment, requires = "journal")]
    at: Option<Timestamp>,

    /// How far back changes of scale are told of.
    #[arg(long, value_name = "DURATION", value_parser = span, default_value = "15m")]
    last: Span,

    /// How to answer.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// How long an autoscaler may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const MOST_ANSWER: usize = 4 << 20;

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let answer = if let Some(path) = &args.journal {
        let account = match of_journal(path, &args.revision, args.at, args.last) {
            Err(error @ ExplainError::Unknown { .. }) => bail!("{error} in {}", path.display()),
            account => account?,
        };
        match args.format {
            Format::Text => account.text(),
            Format::Json => format!("{:#}\n", account.json()),
        }
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(ask(args))?
    };
    std::io::stdout().lock().write_all(answer.as_bytes())?;
    Ok(Exit::Done)
}

async fn ask(args: &Args) -> anyhow::Result<String> {
    let address = args.admin.strip_prefix("http://").unwrap_or(&args.admin).trim_end_matches('/');
    let format = match args.format {
        Format::Text => "text",
        Format::Json => "json",
    };
    let path = format!("/explain/{}?format={format}&last={}", args.revision, args.last);
    let (status, ours, body) = timeout(PATIENCE, get(address, &path))
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {PATIENCE:?}")))
        .with_context(|| {
            format!(
                "no autoscaler can be asked at {address}; name its admin port with --admin (in a cluster: kubectl -n \
                 knative-serving port-forward deployment/autoscaler 8008), or a journal with --journal DIR"
            )
        })?;
    match status {
        StatusCode::OK if format == "json" => {
            let value: serde_json::Value = serde_json::from_str(&body).context("the answer is not JSON")?;
            Ok(format!("{value:#}\n"))
        }
        StatusCode::OK if ours => Ok(body),
        // It refuses in plain text, with a reason.
        _ if !ours || body.trim().is_empty() => bail!(
            "what answers at {address} is no admin port of an ebb that explains: it said {status}; name another one with --admin"
        ),
        _ => bail!("{}", body.trim()),
    }
}

/// The status, whether the answer is plain text, and the answer.
async fn get(address: &str, path: &str) -> anyhow::Result<(StatusCode, bool, String)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, address).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let plain = kind.starts_with("text/plain");
    let body = Limited::new(answer.into_body(), MOST_ANSWER).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?;
    Ok((status, plain, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

/// A moment as RFC 3339 writes it.
fn moment(text: &str) -> Result<Timestamp, String> {
    let parsed: jiff::Timestamp = text.parse().map_err(|_| {
        format!(
            "{text:?} is not a time; write it as 2026-11-21T10:32:00Z, or with an offset as 2026-11-21T12:32:00+02:00"
        )
    })?;
    i64::try_from(parsed.as_nanosecond()).map(Timestamp::from_nanos).map_err(|_| format!("{text:?} is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_with_their_offset() {
        let at = Timestamp::from_seconds(1_795_257_120);
        assert_eq!(moment("2026-11-21T10:32:00Z"), Ok(at));
        assert_eq!(moment("2026-11-21T12:32:00+02:00"), Ok(at));
        for text in ["", "10:32", "now", "2026-11-21"] {
            assert!(moment(text).expect_err("no time").contains("is not a time"), "{text}");
        }
    }
}
