//! ConfigMaps to values, and [`resolve()`]: cluster settings plus a revision's annotations to what the engine is asked.
//!
//! One module per ConfigMap, each with a `parse` that accepts and refuses what the reference does. Where the reference
//! stops at the first fault, these report all of them. Nothing here reads a cluster; [`Live`] keeps the last good value
//! for whoever does. [`check`] judges the settings of a revision: what is refused, and what is accepted but a trap.
//! [`document`] is YAML as people write it, for the files Ebb itself is given.

pub mod autoscaler;
pub mod check;
pub mod cluster_domain;
pub mod defaults;
pub mod deployment;
pub mod document;
pub mod hpa;
pub mod leader_election;
pub mod logging;
pub mod network;
pub mod observability;
pub mod resolve;
mod template;

pub use autoscaler::Autoscaler;
pub use defaults::Defaults;
pub use deployment::Deployment;
pub use leader_election::LeaderElection;
pub use logging::Logging;
pub use network::Network;
pub use observability::Observability;
pub use resolve::{Origin, Resolved, Setting, resolve};

use crate::api::setting::{SettingError, Severity};
use crate::api::{duration, goparse};
use crate::units::{Compat, Span};
use std::collections::BTreeMap;
use std::fmt;

/// The `data` of a ConfigMap.
pub type Data = BTreeMap<String, String>;

/// A ConfigMap that cannot be used, with every reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Its name, such as `config-autoscaler`.
    pub map: &'static str,
    /// What is wrong with it: what cannot be read first, then what is out of range; never empty.
    pub problems: Vec<SettingError>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigMap {}: ", self.map)?;
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A setting that follows its ConfigMap: the last good value, whatever came since.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Live<T> {
    value: T,
}

impl<T: PartialEq> Live<T> {
    /// Starts from `value`.
    pub fn new(value: T) -> Self {
        Self { value }
    }

    /// The last good value.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// Takes what a ConfigMap was parsed to and says whether that changed anything. When it could not be parsed, the
    /// previous value stays and the error comes back to be reported.
    pub fn update(&mut self, parsed: Result<T, ConfigError>) -> Result<bool, ConfigError> {
        let value = parsed?;
        let changed = value != self.value;
        self.value = value;
        Ok(changed)
    }
}

/// Reads one ConfigMap key by key and collects everything that is wrong.
///
/// Read first, check after: a check whose keys could not be read is left out, since it would judge a default.
struct Reader<'a> {
    map: &'static str,
    data: &'a Data,
    compat: Compat,
    problems: Vec<SettingError>,
}

impl<'a> Reader<'a> {
    fn new(map: &'static str, data: &'a Data, compat: Compat) -> Self {
        Self { map, data, compat, problems: Vec::new() }
    }

    /// The key that counts of a newer and an older spelling.
    fn either(&self, newer: &'static str, older: &'static str) -> &'static str {
        if !self.data.contains_key(newer) && self.data.contains_key(older) { older } else { newer }
    }

    /// Sets `target` from `key`, if it is there, or reports why not.
    fn read<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        accepted: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) {
        let Some(text) = self.data.get(key) else { return };
        match parse(text) {
            Ok(value) => *target = value,
            Err(problem) => self.problem(&[key], problem, accepted.to_owned()),
        }
    }

    /// Text, white space around it trimmed.
    fn text(&mut self, key: &'static str, target: &mut String) {
        self.read(key, target, "any text", |text| Ok(text.trim().to_owned()));
    }

    fn boolean(&mut self, key: &'static str, target: &mut bool) {
        self.read(key, target, "\"true\" or \"false\"", |text| {
            goparse::boolean(text).ok_or_else(|| "is not a boolean".to_owned())
        });
    }

    fn float(&mut self, key: &'static str, target: &mut f64) {
        let finite = self.compat.finite_settings;
        self.read(key, target, "a number, such as \"100\" or \"0.7\"", |text| match goparse::float(text) {
            Ok(value) if finite && !value.is_finite() => Err("is not a finite number".to_owned()),
            other => other.map_err(|error| format!("is {error}")),
        });
    }

    fn int32(&mut self, key: &'static str, target: &mut i32) {
        self.read(key, target, "a whole number, such as \"3\"", |text| {
            goparse::int32(text).map_err(|error| format!("is {error}"))
        });
    }

    fn int64(&mut self, key: &'static str, target: &mut i64) {
        self.read(key, target, "a whole number, such as \"3\"", |text| {
            goparse::int64(text).map_err(|error| format!("is {error}"))
        });
    }

    fn span(&mut self, key: &'static str, target: &mut Span) {
        self.read(key, target, "a duration, such as \"90s\" or \"1h30m\"", |text| {
            duration::parse(text).map_err(|error| format!("is {error}"))
        });
    }

    /// Reports `problem` about the values of `keys` if `refused`, unless one of them could not be read.
    fn refuse_if(&mut self, refused: bool, keys: &[&str], problem: &str, accepted: &str) {
        let unread = self.problems.iter().any(|known| known.keys.iter().any(|key| keys.contains(&key.as_str())));
        if refused && !unread {
            self.problem(keys, problem.to_owned(), accepted.to_owned());
        }
    }

    /// Refuses that a key is not there, or empty, for which there is no default.
    fn require(&mut self, there: bool, key: &str, accepted: &str) {
        self.refuse_if(!there, &[key], "is missing", accepted);
        if let Some(problem) = self.problems.last_mut().filter(|problem| !there && problem.keys == [key]) {
            "take it from the map that Knative Serving was installed with".clone_into(&mut problem.way_out);
        }
    }

    fn problem(&mut self, keys: &[&str], problem: String, accepted: String) {
        self.problems.push(SettingError {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            value: keys.first().and_then(|key| self.data.get(*key)).cloned().unwrap_or_default(),
            problem,
            accepted,
            way_out: "remove the key to get its default".to_owned(),
            severity: Severity::Error,
        });
    }

    /// `value`, unless there were problems.
    fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() { Ok(value) } else { Err(ConfigError { map: self.map, problems: self.problems }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_setting_keeps_its_last_good_value() {
        let parse = |text: &str| {
            let mut value = 60.0;
            let data = Data::from([("stable-window".to_owned(), text.to_owned())]);
            let mut reader = Reader::new("config-autoscaler", &data, Compat::STRICT);
            reader.float("stable-window", &mut value);
            reader.finish(value)
        };
        let mut live = Live::new(60.0);
        assert_eq!(live.update(parse("7")), Ok(true));
        assert_eq!(live.update(parse("7.0")), Ok(false));
        let error = live.update(parse("seven")).expect_err("not a number");
        assert_eq!(
            error.to_string(),
            "ConfigMap config-autoscaler: stable-window: \"seven\" is not a number; use a number, such as \"100\" or \
             \"0.7\", or remove the key to get its default"
        );
        assert_eq!(*live.get(), 7.0);
    }
}
