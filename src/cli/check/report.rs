//! The answer: for people, and for programs.

use super::item::Item;
use crate::api::setting::Severity;
use crate::config::Origin;
use crate::config::check::{Entry, Finding, Quantity, ServedBy};
use crate::local::manifest::{Problem, Source};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// How the JSON is to be read. It changes when a program written for it could be misled.
const JSON_VERSION: u32 = 1;

/// Everything there is to say.
#[derive(Default)]
pub(super) struct Report {
    /// Where the cluster's settings came from, in words.
    pub(super) settings_from: String,
    /// Whether there were ConfigMaps of Knative's among what was checked.
    pub(super) has_maps: bool,
    /// One for each Service, Configuration, Revision or PodAutoscaler.
    pub(super) revisions: Vec<Reviewed>,
    /// What is about none of those: ConfigMaps, files that are no YAML.
    pub(super) findings: Vec<Placed>,
    /// Objects of kinds that are not known here.
    pub(super) skipped: Vec<Item>,
    /// Revisions of the cluster no route leads to.
    pub(super) left_out: usize,
}

/// What was found about one revision.
pub(super) struct Reviewed {
    pub(super) item: Item,
    pub(super) served_by: ServedBy,
    pub(super) settings: Vec<Entry>,
    pub(super) findings: Vec<Placed>,
}

/// A finding and where it is.
pub(super) struct Placed {
    /// Where in which file, if it is in one.
    pub(super) source: Option<Source>,
    /// `KIND NAMESPACE/NAME`, or nothing for a whole file.
    pub(super) object: String,
    pub(super) finding: Finding,
}

impl Placed {
    /// A file that is not YAML.
    pub(super) fn malformed(problem: Problem) -> Self {
        let finding = Finding {
            severity: Severity::Error,
            rule: "not-yaml",
            map: None,
            path: problem.path,
            key: String::new(),
            value: String::new(),
            why: problem.message,
            mend: String::new(),
        };
        Self { source: Some(problem.source), object: String::new(), finding }
    }

    fn order(&self) -> (Option<(&str, crate::local::manifest::Place)>, &str) {
        (self.source.as_ref().map(|source| (source.file.as_str(), source.place)), &self.object)
    }

    fn text(&self, out: &mut String, paint: &Paint) {
        let Finding { severity, rule, key, value, why, mend, .. } = &self.finding;
        let place = self.source.as_ref().map_or_else(|| self.object.clone(), ToString::to_string);
        let word = match severity {
            Severity::Error => paint.red("error"),
            Severity::Warning => paint.yellow("warning"),
        };
        let subject = match (key.as_str(), value.as_str()) {
            ("", _) => String::new(),
            (key, "") => format!("{key}: "),
            // A value may be a whole file; what it begins with tells which it is.
            (key, value) => format!("{key} {:?}: ", shortened(value)),
        };
        let _ = writeln!(out, "{}: {word}: {subject}{why} [{rule}]", paint.bold(&place));
        if !mend.is_empty() {
            let _ = writeln!(out, "    {mend}");
        }
    }

    fn json(&self) -> Value {
        let finding = &self.finding;
        json!({
            "severity": match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            "rule": finding.rule,
            "object": self.object,
            "source": source_json(self.source.as_ref()),
            "path": finding.path,
            "key": finding.key,
            "value": finding.value,
            "why": finding.why,
            "mend": finding.mend,
        })
    }
}

impl Report {
    pub(super) fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    pub(super) fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.all().filter(|placed| placed.finding.severity == severity).count()
    }

    fn all(&self) -> impl Iterator<Item = &Placed> {
        self.revisions.iter().flat_map(|reviewed| &reviewed.findings).chain(&self.findings)
    }

    /// Puts findings in the order of the files.
    pub(super) fn sort(&mut self) {
        self.findings.sort_by(|one, other| one.order().cmp(&other.order()));
        for reviewed in &mut self.revisions {
            reviewed.findings.sort_by(|one, other| one.order().cmp(&other.order()));
        }
    }

    /// For people. With `quiet` the settings are left out.
    pub(super) fn text(&self, quiet: bool, colour: bool) -> String {
        let paint = Paint { colour };
        let mut out = String::new();
        for placed in &self.findings {
            placed.text(&mut out, &paint);
        }
        for reviewed in &self.revisions {
            if !quiet {
                if !out.is_empty() {
                    out.push('\n');
                }
                reviewed.settings_text(&mut out, &paint);
            }
            for placed in &reviewed.findings {
                placed.text(&mut out, &paint);
            }
        }
        for item in &self.skipped {
            let place = item.source("").map_or_else(|| item.full_name(), |source| source.to_string());
            let _ = writeln!(out, "{place}: skipped: {} {}: not a kind that is checked", item.kind(), item.full_name());
        }
        if self.left_out > 0 {
            let _ = writeln!(out, "left out: {}, to which no route leads", counted(self.left_out, "revision"));
        }
        if !out.is_empty() {
            out.push('\n');
        }
        let (errors, warnings) = (self.errors(), self.warnings());
        let verdict = format!("{}, {}", counted(errors, "error"), counted(warnings, "warning"));
        let verdict = match (errors, warnings) {
            (0, 0) if self.revisions.is_empty() && !self.has_maps => "nothing to check".to_owned(),
            (0, 0) => paint.green("nothing wrong"),
            (0, _) => paint.yellow(&verdict),
            _ => paint.red(&verdict),
        };
        let _ = writeln!(
            out,
            "{verdict} in {}; settings: {}",
            counted(self.revisions.len(), "revision"),
            self.settings_from
        );
        out
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let revisions = self.revisions.iter().map(|reviewed| {
            json!({
                "apiVersion": reviewed.item.api_version(),
                "kind": reviewed.item.kind(),
                "namespace": reviewed.item.in_namespace(),
                "name": reviewed.item.name(),
                "source": source_json(reviewed.item.source("").as_ref()),
                "servedBy": match reviewed.served_by {
                    ServedBy::Kpa => "kpa",
                    ServedBy::Mpa => "mpa",
                    ServedBy::Hpa => "hpa",
                    ServedBy::Unknown => "unknown",
                },
                "settings": reviewed.settings.iter().map(entry_json).collect::<Vec<_>>(),
                "findings": reviewed.findings.iter().map(Placed::json).collect::<Vec<_>>(),
            })
        });
        let skipped = self.skipped.iter().map(|item| {
            json!({
                "apiVersion": item.api_version(),
                "kind": item.kind(),
                "namespace": item.in_namespace(),
                "name": item.name(),
                "source": source_json(item.source("").as_ref()),
            })
        });
        json!({
            "version": JSON_VERSION,
            "settingsFrom": self.settings_from,
            "revisions": revisions.collect::<Vec<_>>(),
            "findings": self.findings.iter().map(Placed::json).collect::<Vec<_>>(),
            "skipped": skipped.collect::<Vec<_>>(),
            "leftOut": self.left_out,
            "errors": self.errors(),
            "warnings": self.warnings(),
        })
    }
}

impl Reviewed {
    fn settings_text(&self, out: &mut String, paint: &Paint) {
        let item = &self.item;
        let served = match self.served_by {
            ServedBy::Kpa => "scaled on requests, to zero and back",
            ServedBy::Mpa => "scaled on requests, to zero and back, by whoever serves its class",
            ServedBy::Hpa => "scaled by a HorizontalPodAutoscaler, not by this autoscaler",
            ServedBy::Unknown => "scaled by nobody Knative has",
        };
        let place = item.source("").map(|source| format!("{source}: ")).unwrap_or_default();
        let title = format!("{place}{} {}", item.kind(), item.full_name());
        let _ = writeln!(out, "{} ({served})\n", paint.bold(&title));
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        for entry in &self.settings {
            let value = match entry.note.as_str() {
                note if !note.is_empty() && entry.origin.is_some() => format!("{} ({note})", entry.value),
                _ => entry.value.to_string(),
            };
            table.add_row([format!("  {}", entry.name), value, origin_text(entry)]);
        }
        for line in table.lines() {
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out.push('\n');
    }
}

fn origin_text(entry: &Entry) -> String {
    match entry.origin {
        None => format!("= {}", entry.note),
        Some(Origin::ConfigMap(key)) => format!("{} {key}", entry.map().unwrap_or_default()),
        Some(origin) => origin.to_string(),
    }
}

fn entry_json(entry: &Entry) -> Value {
    let value = match &entry.value {
        Quantity::Text(text) => json!(text),
        Quantity::Switch(on) => json!(on),
        Quantity::Span(span) => json!(span.seconds_f64()),
        Quantity::Number(number, _) => json!(number),
    };
    let origin = match entry.origin {
        None => json!({"kind": "derived"}),
        Some(Origin::Default) => json!({"kind": "default"}),
        Some(Origin::ConfigMap(key)) => json!({"kind": "configMap", "map": entry.map(), "key": key}),
        Some(Origin::Annotation(key)) => json!({"kind": "annotation", "key": key}),
        Some(Origin::Field(field)) => json!({"kind": "field", "key": field}),
    };
    json!({"name": entry.name, "value": value, "unit": entry.value.unit(), "origin": origin, "note": entry.note})
}

fn source_json(source: Option<&Source>) -> Value {
    source.map_or(
        Value::Null,
        |source| json!({"file": source.file, "line": source.place.line, "column": source.place.column}),
    )
}

/// The first line of a value, and not too much of it.
fn shortened(value: &str) -> String {
    const LONGEST: usize = 60;
    let line = value.lines().next().unwrap_or_default();
    let short: String = line.chars().take(LONGEST).collect();
    if short.len() == value.len() { short } else { format!("{short}…") }
}

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Colours, where somebody sees them.
struct Paint {
    colour: bool,
}

impl Paint {
    fn red(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn yellow(&self, text: &str) -> String {
        self.paint("1;33", text)
    }

    fn green(&self, text: &str) -> String {
        self.paint("1;32", text)
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
