//! What is shipped in `deploy/` says what the program does.

use ebb::config::{Autoscaler, Data, autoscaler};
use ebb::units::Compat;

/// What is read of a ConfigMap's manifest.
#[derive(serde::Deserialize)]
struct Manifest {
    metadata: Metadata,
    data: Data,
}

#[derive(serde::Deserialize)]
struct Metadata {
    name: String,
    annotations: std::collections::BTreeMap<String, String>,
}

#[test]
fn the_example_config_autoscaler_has_every_key_with_its_default() {
    let path = crate::root().join("deploy/base/config-autoscaler.yaml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let manifest: Manifest = serde_saphyr::from_str(&text).expect("a ConfigMap");
    assert_eq!(manifest.metadata.name, autoscaler::NAME);
    assert_eq!(manifest.data.keys().collect::<Vec<_>>(), ["_example"], "nothing is set, everything is shown");

    let example: Data = serde_saphyr::from_str(&manifest.data["_example"]).expect("keys with text");
    let mut keys = autoscaler::KEYS;
    keys.sort_unstable();
    assert_eq!(example.keys().collect::<Vec<_>>(), keys, "exactly the keys that are read");
    assert_eq!(Autoscaler::parse(&example, Compat::IMPROVED), Ok(Autoscaler::default()));

    let checksum = &manifest.metadata.annotations["knative.dev/example-checksum"];
    assert_eq!(*checksum, example_checksum(&manifest.data["_example"]), "knative.dev/example-checksum is out of date");
}

/// The checksum by which Knative's admission notices that somebody edited the example instead of the data: CRC-32 of
/// the text without the white space around it, each run of line ends written as a backslash and an n.
fn example_checksum(example: &str) -> String {
    let lines: Vec<_> = example.trim().lines().filter(|line| !line.is_empty()).collect();
    format!("{:08x}", crc32fast::hash(lines.join("\\n").as_bytes()))
}

#[test]
fn the_readme_explains_every_compatibility_switch_and_no_other() {
    let readme = std::fs::read_to_string(crate::root().join("README.md")).expect("README.md");
    let debug = format!("{:?}", Compat::STRICT);
    let switches: Vec<&str> = debug
        .trim_start_matches("Compat {")
        .trim_end_matches('}')
        .split(',')
        .filter_map(|field| field.split_once(':').map(|(name, _)| name.trim()))
        .collect();
    let explained: Vec<&str> = readme
        .lines()
        .skip_while(|line| !line.starts_with("| switch |"))
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name))
        .collect();
    assert_eq!(explained, switches);
}
