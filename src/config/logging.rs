//! `config-logging`: how much is logged, and in which shape.

use crate::config::{ConfigError, Data, Reader};
use crate::units::Compat;
use serde::Deserialize;
use std::fmt;

/// The name of the ConfigMap, unless `CONFIG_LOGGING_NAME` says otherwise.
pub const NAME: &str = "config-logging";

/// The key of the level of this component alone.
const LEVEL_KEY: &str = "loglevel.autoscaler";
/// The key of the shape of the log, and of the level of components without a key of their own.
const LOGGER_KEY: &str = "zap-logger-config";
const LEVELS: &str = "\"debug\", \"info\", \"warn\" or \"error\"";

/// The least severe events that are logged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// Everything.
    Debug,
    /// Changes of state.
    #[default]
    Info,
    /// What went wrong without stopping anything.
    Warn,
    /// What wants a human, or worse.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}

/// How one event is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Encoding {
    /// One JSON object a line.
    #[default]
    Json,
    /// For human eyes.
    Console,
}

/// How this process logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Logging {
    /// The least severe events that are logged; may change at any time.
    pub level: Level,
    /// How an event is written; taken at the start.
    pub encoding: Encoding,
}

impl Logging {
    /// Reads the map. A component's level is refused when it is none, whichever component it is.
    ///
    /// A `zap-logger-config` that is not JSON is reported as well; the reference then logs in the default shape.
    pub fn parse(data: &Data) -> Result<Self, ConfigError> {
        let mut this = Self::default();
        let mut reader = Reader::new(NAME, data, Compat::STRICT);
        let accepted = "a JSON object such as {\"level\": \"info\", \"encoding\": \"json\"}";
        reader.read(LOGGER_KEY, &mut this, accepted, |text| {
            let logger: Logger = if text.is_empty() {
                Logger::default()
            } else {
                serde_json::from_str(text).map_err(|error| format!("cannot be read: {error}"))?
            };
            let level = logger.level.map_or(Some(Level::Info), |level| level_named(&level));
            let encoding = match logger.encoding.as_deref() {
                None | Some("json") => Encoding::Json,
                Some("console") => Encoding::Console,
                Some(other) => return Err(format!("has {other:?} for an encoding")),
            };
            Ok(Self { level: level.ok_or("has a level that is none")?, encoding })
        });
        for (key, text) in data {
            // An empty level is no level, and so is a key without a component.
            if text.is_empty() || key.strip_prefix("loglevel.").is_none_or(str::is_empty) {
                continue;
            }
            match level_named(text) {
                None => reader.problem(&[key], "is not a level".to_owned(), LEVELS.to_owned()),
                Some(level) if key == LEVEL_KEY => this.level = level,
                Some(_) => {}
            }
        }
        reader.finish(this)
    }
}

/// The members of zap's configuration that mean something here; what else there may be is left alone.
#[derive(Deserialize, Default)]
struct Logger {
    level: Option<String>,
    encoding: Option<String>,
}

/// A level by its name, in either case. The three above error end the process in Go and are errors here.
fn level_named(name: &str) -> Option<Level> {
    match name.to_lowercase().as_str() {
        "debug" => Some(Level::Debug),
        "info" | "" => Some(Level::Info),
        "warn" | "warning" => Some(Level::Warn),
        "error" | "dpanic" | "panic" | "fatal" => Some(Level::Error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Logging, ConfigError> {
        Logging::parse(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn the_level_of_the_component_beats_the_common_one() {
        let level = |pairs: &[(&str, &str)]| parse(pairs).map(|logging| logging.level);
        let common = ("zap-logger-config", "{\"level\": \"error\", \"outputPaths\": [\"stdout\"]}");
        assert_eq!(level(&[]), Ok(Level::Info));
        assert_eq!(level(&[common]), Ok(Level::Error));
        assert_eq!(level(&[common, ("loglevel.autoscaler", "DEBUG")]), Ok(Level::Debug));
        assert_eq!(level(&[common, ("loglevel.autoscaler", "")]), Ok(Level::Error));
        assert_eq!(level(&[("loglevel.activator", "debug")]), Ok(Level::Info));
        let console = parse(&[("zap-logger-config", "{\"encoding\": \"console\"}")]);
        assert_eq!(console, Ok(Logging { level: Level::Info, encoding: Encoding::Console }));
    }

    #[test]
    fn what_is_no_level_is_refused_whoever_it_is_for() {
        for (key, value) in [
            ("loglevel.autoscaler", "loud"),
            ("loglevel.activator", "loud"),
            ("zap-logger-config", "level: info"),
            ("zap-logger-config", "{\"level\": \"loud\"}"),
            ("zap-logger-config", "{\"encoding\": \"xml\"}"),
        ] {
            assert_eq!(parse(&[(key, value)]).expect_err(value).problems[0].keys, [key]);
        }
    }
}
