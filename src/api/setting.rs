//! One setting that cannot be used: where it stands, what it says, what is accepted, and the way out.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Severity {
    /// Refused at admission, without effect at run time.
    Error,
    /// Accepted, but surely not what its author meant.
    Warning,
}

/// A fault in an annotation or in a key of a ConfigMap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SettingError {
    /// The keys at fault, as they were written: one, or those that contradict each other.
    pub keys: Vec<String>,
    /// The value of the first key, as it was written.
    pub value: String,
    /// What is wrong with the value; completes the sentence "`value` …", such as "is not a window".
    pub problem: String,
    /// What may stand there instead, such as "a duration from 6s to 1h0m0s".
    pub accepted: String,
    /// What else to do, such as "remove the annotation to get the cluster's default".
    pub way_out: String,
    /// How bad it is.
    pub severity: Severity,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.join(" and ");
        write!(f, "{keys}: {:?} {}; use {}, or {}", self.value, self.problem, self.accepted, self.way_out)
    }
}

impl std::error::Error for SettingError {}
