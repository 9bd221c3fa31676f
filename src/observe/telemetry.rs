//! Logs: one line per event, for people or as JSON.
//!
//! JSON lines have the keys of Knative's own components (`severity`, `timestamp`, `logger`, `caller`, `message`, then the
//! event's fields, a revision as `knative.dev/key`), so that whatever reads their logs reads these. Level and shape can
//! change while the process runs.

use crate::api::conditions::to_jiff;
use crate::clock::Clock;
use crate::config::logging::{Encoding, Level};
use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::{Map, Value};
use std::fmt;
use std::io::IsTerminal as _;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields, MakeWriter};
use tracing_subscriber::layer::{Layered, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// A line of text.
    #[default]
    Text,
    /// A JSON object a line, with the keys of Knative's own components.
    Json,
}

impl From<Encoding> for LogFormat {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json,
            Encoding::Console => Self::Text,
        }
    }
}

/// Starts logging for the process, to `writer`. `filter` is a level, or levels by module: `info`, `warn,ebb::stats=debug`.
/// `logger` names the component in JSON lines.
///
/// # Errors
/// When the filter cannot be read, or logging was started before.
pub fn start<W>(logger: &'static str, filter: &str, format: LogFormat, writer: W) -> anyhow::Result<Log>
where
    W: for<'a> MakeWriter<'a> + Clone + Send + Sync + 'static,
{
    let (subscriber, log) = subscriber(logger, filter, format, writer)?;
    subscriber.try_init().map_err(|error| anyhow::anyhow!("logging could not be started: {error}"))?;
    Ok(log)
}

/// Logging that runs, to be adjusted.
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    lines: reload::Handle<Lines, Filtered>,
    make: Box<dyn Fn(LogFormat) -> Lines + Send + Sync>,
}

impl Log {
    /// Logs what is at least this severe from now on.
    pub fn set_level(&self, level: Level) {
        // An error only says that the process has no logging any more.
        let _ = self.filter.reload(EnvFilter::new(whole(directives(level))));
    }

    /// Writes lines of this shape from now on. Spans that are open already lose their fields.
    pub fn set_format(&self, format: LogFormat) {
        // As above.
        let _ = self.lines.reload((self.make)(format));
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

/// The filter for a level. What libraries say below `info` is of use to their authors.
fn directives(level: Level) -> &'static str {
    match level {
        Level::Debug => "info,ebb=debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

/// Whoever sends a request says what became of it. The client's own line on each that failed would be an error for what is
/// tried again, and says less.
const SILENT: &str = "kube_client::client::builder";

/// A filter, and the silence of what is told elsewhere, unless it is asked for.
fn whole(filter: &str) -> String {
    if filter.contains("kube_client") { filter.to_owned() } else { format!("{filter},{SILENT}=off") }
}

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;

fn subscriber<W>(
    logger: &'static str,
    filter: &str,
    format: LogFormat,
    writer: W,
) -> anyhow::Result<(impl Subscriber + Send + Sync + 'static, Log)>
where
    W: for<'a> MakeWriter<'a> + Clone + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(whole(filter)).with_context(|| {
        format!(
            "log filter {filter:?}; use a level such as \"info\", or levels by module such as \"warn,ebb::stats=debug\""
        )
    })?;
    let make = Box::new(move |format| lines(logger, format, writer.clone()));
    let (filter, set_filter) = reload::Layer::new(filter);
    let (lines, set_lines) = reload::Layer::new(make(format));
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    Ok((subscriber, Log { filter: set_filter, lines: set_lines, make }))
}

fn lines<W>(logger: &'static str, format: LogFormat, writer: W) -> Lines
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => {
            let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            layer.with_ansi(color).with_target(false).boxed()
        }
        LogFormat::Json => layer.fmt_fields(JsonFields::new()).event_format(JsonLine { logger }).boxed(),
    }
}

/// A line as zap writes it, with the keys Knative configures.
struct JsonLine {
    logger: &'static str,
}

impl<S> FormatEvent<S, JsonFields> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            if let Some(formatted) = span.extensions().get::<FormattedFields<JsonFields>>()
                && let Ok(of_span) = serde_json::from_str::<Map<String, Value>>(&formatted.fields)
            {
                of_span.into_iter().for_each(|(name, value)| fields.put(&name, value));
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        let now = to_jiff(Clock::system().now());
        write!(
            writer,
            r#"{{"severity":"{}","timestamp":"{}","logger":"{}""#,
            severity(*metadata.level()),
            now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
            self.logger
        )?;
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            let caller = Value::from(format!("{}:{line}", short(file)));
            write!(writer, r#","caller":{caller}"#)?;
        }
        write!(writer, r#","message":{}"#, Value::from(fields.message))?;
        for (name, value) in fields.others {
            write!(writer, ",{}:{value}", Value::from(name))?;
        }
        writeln!(writer, "}}")
    }
}

/// The names log collectors know.
fn severity(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "ERROR",
        tracing::Level::WARN => "WARNING",
        tracing::Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

/// The last two parts of a path: where a dependency was built is nobody's business.
fn short(file: &str) -> &str {
    file.rmatch_indices('/').nth(1).map_or(file, |(at, _)| &file[at + 1..])
}

/// The fields of an event and of the spans around it; the innermost of a name counts.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, Value)>,
}

impl Fields {
    fn put(&mut self, name: &str, value: Value) {
        // What the bridge from the `log` crate adds is in the line already.
        if name.starts_with("log.") {
            return;
        }
        let name = if name == "revision" { "knative.dev/key" } else { name };
        match self.others.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.others.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" { self.message = text } else { self.put(field.name(), text.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing::{debug, info, info_span, warn};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic above").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Buffer {
        fn take(&self) -> String {
            let bytes = std::mem::take(&mut *self.0.lock().expect("no panic above"));
            String::from_utf8(bytes).expect("text")
        }
    }

    #[test]
    fn a_json_line_has_the_keys_of_knatives_own_components() {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let (subscriber, _log) =
            subscriber("autoscaler", "info", LogFormat::Json, move || sink.clone()).expect("a filter");
        tracing::subscriber::with_default(subscriber, || {
            info_span!("task", name = "stats", peer = "10.0.0.1")
                .in_scope(|| warn!(revision = %"default/hello-00001", name = 3, "it said \"no\""));
        });
        let text = buffer.take();
        let line: Map<String, Value> = serde_json::from_str(&text).expect("one JSON object");
        assert!(text.starts_with(r#"{"severity":"WARNING","timestamp":"2"#), "{text}");
        assert!(text.ends_with("}\n"), "{text}");
        assert_eq!(line["logger"], "autoscaler");
        assert_eq!(line["message"], "it said \"no\"");
        assert_eq!(line["knative.dev/key"], "default/hello-00001");
        assert_eq!((&line["name"], &line["peer"]), (&Value::from(3), &Value::from("10.0.0.1")));
        assert!(line["caller"].as_str().is_some_and(|caller| caller.starts_with("observe/telemetry.rs:")), "{text}");
        let timestamp = line["timestamp"].as_str().expect("text");
        assert!(timestamp.len() == 24 && timestamp.parse::<jiff::Timestamp>().is_ok(), "{timestamp}");
    }

    #[test]
    fn level_and_shape_change_while_it_runs() {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let (subscriber, log) =
            subscriber("autoscaler", "info", LogFormat::Json, move || sink.clone()).expect("a filter");
        tracing::subscriber::with_default(subscriber, || {
            debug!("quiet");
            assert_eq!(buffer.take(), "");
            log.set_level(Level::Debug);
            debug!("loud");
            assert!(buffer.take().contains("\"loud\""));
            log.set_level(Level::Error);
            warn!("quiet");
            assert_eq!(buffer.take(), "");
            log.set_level(Level::Info);
            log.set_format(LogFormat::Text);
            info!(answer = 42, "plain");
            let text = buffer.take();
            assert!(text.ends_with("INFO plain answer=42\n"), "{text}");
        });
    }
}
