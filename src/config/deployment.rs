//! `config-deployment`: how long a deployment may take. The rest of the map is another component's, but the reference
//! refuses the map when any of it is malformed, so it is all checked.

use crate::config::{ConfigError, Data, Origin, Reader, Setting};
use crate::units::{Compat, Span};
use k8s_openapi::serde::Deserialize;
use std::collections::BTreeMap;

/// The name of the ConfigMap.
pub const NAME: &str = "config-deployment";

/// What the autoscaler takes from the map.
#[derive(Clone, PartialEq, Debug)]
pub struct Deployment {
    /// How long a deployment may take to become ready; whole seconds above 0.
    pub progress_deadline: Setting<Span>,
}

impl Default for Deployment {
    fn default() -> Self {
        Self { progress_deadline: Setting { value: Span::from_seconds(600), origin: Origin::Default } }
    }
}

impl Deployment {
    /// Reads the map. Unlike every other map of Knative it cannot be empty: `queue-sidecar-image` must be there.
    pub fn parse(data: &Data) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(NAME, data, Compat::STRICT);

        let mut deadline = Self::default().progress_deadline;
        let deadline_key = reader.either("progress-deadline", "progressDeadline");
        reader.span("progressDeadline", &mut deadline.value);
        reader.span("progress-deadline", &mut deadline.value);
        if data.contains_key(deadline_key) {
            deadline.origin = Origin::ConfigMap(deadline_key);
        }
        let accepted = "a duration of whole seconds above 0s, such as \"10m\"";
        reader.refuse_if(deadline.value <= Span::ZERO, &[deadline_key], "is not positive", accepted);
        reader.refuse_if(
            deadline.value.nanos() % Span::SECOND.nanos() != 0,
            &[deadline_key],
            "is not a whole number of seconds",
            accepted,
        );

        let mut digest_resolution = Span::from_seconds(10);
        let digest_key = reader.either("digest-resolution-timeout", "digestResolutionTimeout");
        reader.span("digestResolutionTimeout", &mut digest_resolution);
        reader.span("digest-resolution-timeout", &mut digest_resolution);
        reader.refuse_if(digest_resolution <= Span::ZERO, &[digest_key], "is not positive", "a duration above 0s");

        let mut image = String::new();
        reader.text("queueSidecarImage", &mut image);
        reader.text("queue-sidecar-image", &mut image);
        let image_key = reader.either("queue-sidecar-image", "queueSidecarImage");
        reader.require(!image.is_empty(), image_key, "the image of the queue-proxy");

        for key in QUANTITIES {
            let accepted = "a quantity, such as \"25m\" or \"400Mi\"";
            reader.read(key, &mut (), accepted, |text| {
                if is_quantity(text) { Ok(()) } else { Err("is not a quantity".to_owned()) }
            });
        }
        reader.boolean("pod-is-always-schedulable", &mut false);
        let accepted = "\"none\" or \"prefer-spread-revision-over-nodes\"";
        reader.read("default-affinity-type", &mut (), accepted, |text| match text {
            "none" | "prefer-spread-revision-over-nodes" => Ok(()),
            _ => Err("is not an affinity type".to_owned()),
        });
        reader.read(
            "runtime-class-name",
            &mut (),
            "a YAML mapping from names of runtime classes to {selector: LABELS}",
            runtime_classes,
        );
        reader.finish(Self { progress_deadline: deadline })
    }
}

const QUANTITIES: [&str; 12] = [
    "queueSidecarCPURequest",
    "queueSidecarMemoryRequest",
    "queueSidecarEphemeralStorageRequest",
    "queueSidecarCPULimit",
    "queueSidecarMemoryLimit",
    "queueSidecarEphemeralStorageLimit",
    "queue-sidecar-cpu-request",
    "queue-sidecar-memory-request",
    "queue-sidecar-ephemeral-storage-request",
    "queue-sidecar-cpu-limit",
    "queue-sidecar-memory-limit",
    "queue-sidecar-ephemeral-storage-limit",
];

/// Whether `text` is a Kubernetes quantity: a signed decimal number, then a suffix or an exponent.
pub(super) fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|character: char| !character.is_ascii_digit() && character != '.');
    let (number, suffix) = unsigned.split_at(end.unwrap_or(unsigned.len()));
    let number_ok = number.matches('.').count() <= 1 && number.bytes().any(|byte| byte.is_ascii_digit());
    let suffix_ok = match suffix {
        "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei" => true,
        _ => suffix.strip_prefix(['e', 'E']).is_some_and(|exponent| exponent.parse::<i32>().is_ok()),
    };
    number_ok && suffix_ok
}

#[derive(Deserialize, Default)]
#[serde(crate = "k8s_openapi::serde", default)]
struct RuntimeClass {
    selector: Option<BTreeMap<String, String>>,
}

/// Checks runtime class names and the labels that select them.
fn runtime_classes(text: &str) -> Result<(), String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(());
    }
    let classes: Option<BTreeMap<String, Option<RuntimeClass>>> =
        serde_saphyr::from_str(text).map_err(|_| "is not a mapping of runtime classes".to_owned())?;
    for (name, class) in classes.unwrap_or_default() {
        if !is_dns_subdomain(&name) {
            return Err(format!("has {name:?}, which is not a name of a runtime class"));
        }
        for (label, value) in class.and_then(|class| class.selector).unwrap_or_default() {
            if !is_label_key(&label) || !is_label_value(&value) {
                return Err(format!("selects {name:?} by {label}={value}, which is not a label"));
            }
        }
    }
    Ok(())
}

fn is_dns_subdomain(text: &str) -> bool {
    let is_part = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_value(name)
}

fn is_label_value(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Deployment, ConfigError> {
        let mut data = Data::from([("queue-sidecar-image".to_owned(), "queue".to_owned())]);
        data.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        Deployment::parse(&data)
    }

    #[test]
    fn the_deadline_is_whole_seconds_and_its_newer_key_wins() {
        let deadline = |pairs: &[(&str, &str)]| parse(pairs).map(|parsed| parsed.progress_deadline);
        let of = |seconds, origin| Ok(Setting { value: Span::from_seconds(seconds), origin });
        assert_eq!(deadline(&[]), of(600, Origin::Default));
        assert_eq!(deadline(&[("progressDeadline", "30s")]), of(30, Origin::ConfigMap("progressDeadline")));
        assert_eq!(
            deadline(&[("progressDeadline", "30s"), ("progress-deadline", "1m")]),
            of(60, Origin::ConfigMap("progress-deadline"))
        );
        for bad in ["0s", "-1s", "1500ms", "90", ""] {
            let error = parse(&[("progress-deadline", bad)]).expect_err(bad);
            assert_eq!(error.problems[0].keys, ["progress-deadline"], "{bad}");
        }
    }

    #[test]
    fn the_whole_map_must_be_well_formed() {
        let good = [
            ("queue-sidecar-cpu-request", "25m"),
            ("queue-sidecar-memory-limit", "1.5Gi"),
            ("queueSidecarCPULimit", "1e3"),
            ("default-affinity-type", "none"),
            ("runtime-class-name", ""),
            ("runtime-class-name", "kata:\n  selector:\n    example.com/use-kata: \"yes\"\ngvisor: {}\n"),
            ("registries-skipping-tag-resolving", "anything, at all"),
            ("pod-is-always-schedulable", "T"),
            ("unknown", "ignored"),
        ];
        for (key, value) in good {
            assert!(parse(&[(key, value)]).is_ok(), "{key}: {value}");
        }
        let bad = [
            ("queue-sidecar-image", "  "),
            ("queue-sidecar-cpu-request", "25 m"),
            ("queue-sidecar-cpu-request", ""),
            ("queueSidecarCPULimit", "1.2.3"),
            ("queue-sidecar-memory-limit", "1GiB"),
            ("default-affinity-type", "spread"),
            ("digest-resolution-timeout", "0"),
            ("pod-is-always-schedulable", "yes"),
            ("runtime-class-name", "[a, b]"),
            ("runtime-class-name", "Kata_1: {}"),
            ("runtime-class-name", "kata: {selector: {\"-x\": y}}"),
        ];
        for (key, value) in bad {
            let error = parse(&[(key, value)]).expect_err(value);
            assert_eq!(error.problems[0].keys, [key], "{value}");
        }
        assert!(Deployment::parse(&Data::new()).is_err(), "the image is required");
    }
}
