//! What stands in `dashboards/`: made from one source, held to the series that are really shown, and asked of a real
//! Prometheus where there is one.
//!
//! `EBB_WRITE_EXPECTED=1 cargo test --test it dashboards` writes the files that are made.

mod grafana;
mod live;
mod queries;
mod rules;
mod source;
pub(crate) mod tools;

use grafana::{AtZero, Scope, Show};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Compares a file of `dashboards/` with what it should be, or writes it when asked to.
fn compare(file: &str, text: &str) {
    let path = crate::root().join("dashboards").join(file);
    if std::env::var_os("EBB_WRITE_EXPECTED").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(&path, text).expect("written");
        return;
    }
    let is = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        is == text,
        "dashboards/{file} is not what it is made from. If that is meant, run EBB_WRITE_EXPECTED=1 cargo test --test it \
         dashboards, and look at the change."
    );
}

#[test]
fn every_file_of_grafana_is_made_from_the_source() {
    for dashboard in source::ALL {
        compare(&format!("grafana/{}.json", dashboard.file), &format!("{:#}\n", dashboard.json()));
    }
    let files = std::fs::read_dir(crate::root().join("dashboards/grafana")).expect("a directory");
    let names: BTreeSet<_> = files.map(|file| file.expect("a file").file_name().into_string().expect("text")).collect();
    let wanted: BTreeSet<_> = source::ALL.iter().map(|dashboard| format!("{}.json", dashboard.file)).collect();
    assert_eq!(names, wanted);
}

/// What Grafana takes without a word and shows wrong.
#[test]
fn the_files_have_what_grafana_needs() {
    let mut uids = BTreeSet::new();
    for dashboard in source::ALL {
        let json = dashboard.json();
        let name = dashboard.file;
        assert!(uids.insert(dashboard.uid()), "{name}: two have one uid");
        assert!(dashboard.uid().len() <= 40, "{name}: Grafana's limit");
        assert_eq!(json["id"], Value::Null, "{name}: the id is Grafana's to give");

        // A source of data is only ever the one that was chosen.
        let text = json.to_string();
        assert_eq!(text.matches("\"uid\":\"").count(), text.matches("\"uid\":\"${datasource}\"").count() + 1, "{name}");
        let variables = json["templating"]["list"].as_array().expect("a list");
        let known: BTreeSet<&str> = variables.iter().map(|variable| variable["name"].as_str().expect("text")).collect();
        for used in variables_in(&text) {
            let is_grafanas = used.starts_with("__") || used.starts_with("{__");
            assert!(is_grafanas || known.contains(used.as_str()), "{name} uses ${used}, and has {known:?}");
        }

        let mut ids = BTreeSet::new();
        let mut taken: BTreeMap<(u64, u64), String> = BTreeMap::new();
        for panel in json["panels"].as_array().expect("a list") {
            let title = panel["title"].as_str().expect("a title");
            assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{name}, {title}: two have one id");
            let at = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
            assert!(at("x") + at("w") <= 24, "{name}, {title}: beyond the screen");
            for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
                let before = taken.insert((x, y), title.to_owned());
                assert_eq!(before, None, "{name}: over {title}");
            }
            if panel["type"] == "row" {
                continue;
            }
            assert!(panel["description"].as_str().is_some_and(|about| about.ends_with('.')), "{name}, {title}");
            let letters: Vec<_> =
                panel["targets"].as_array().expect("a list").iter().map(|it| it["refId"].as_str()).collect();
            assert_eq!(letters.iter().collect::<BTreeSet<_>>().len(), letters.len(), "{name}, {title}");
            assert!(!letters.is_empty(), "{name}, {title}");
        }
        for (panel, query) in dashboard.queries() {
            assert!(!query.contains('%'), "{name}, {}: a short form that is not known: {query}", panel.title);
            // Where one revision is chosen, lines of many would be added up or mixed.
            let many = panel.queries.iter().any(|(legend, _)| legend.contains("revision_name"));
            assert!(!(many && dashboard.scope == Scope::One), "{name}, {}", panel.title);
            let named = panel.show == Show::Number || panel.queries.iter().all(|(legend, _)| !legend.is_empty());
            assert!(named, "{name}, {}: a line without a name", panel.title);
        }
    }
}

/// `$name` and `${name}` and `${name:format}` in a text, without the signs.
fn variables_in(text: &str) -> Vec<String> {
    let after = text.split('$').skip(1);
    let name = |rest: &str| {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    after.map(name).filter(|name| !name.is_empty()).collect()
}

/// A query of a series nobody shows, or by a label it has not, finds nothing, and nobody is told.
#[test]
fn every_query_is_about_series_that_are_shown() {
    let shown = queries::Shown::read();
    let mut used = BTreeSet::new();
    for dashboard in source::ALL {
        for (panel, query) in dashboard.queries() {
            let problems = shown.problems(&query.replace("$__rate_interval", "1m"), &mut used);
            assert_eq!(problems, [""; 0], "{}, {}: {query}", dashboard.file, panel.title);
            let of_kubelet = query.contains("container_cpu_") || query.contains("container_memory_");
            assert_eq!(of_kubelet, panel.at_zero == AtZero::OnlyInCluster, "{}, {}", dashboard.file, panel.title);
        }
    }
    // The check sees what it is to see.
    for (query, problem) in [
        ("sum(ebb_revisionss)", "no series is called ebb_revisionss"),
        ("sum(ebb_scrapes_total{result=\"ok\"})", "ebb_scrapes_total has no label result"),
        ("sum by (reason) (rate(ebb_scrapes_total[1m]))", "none of ebb_scrapes_total has a label reason"),
        ("sum(", "does not parse"),
    ] {
        let problems = shown.problems(query, &mut BTreeSet::new());
        assert!(problems.len() == 1 && problems[0].contains(problem), "{query}: {problems:?}");
    }
    // What every revision has is on some dashboard.
    let forgotten: Vec<_> =
        shown.names().filter(|name| name.starts_with("kn_revision_") && !used.contains(*name)).collect();
    assert_eq!(forgotten, ["kn_revision_request_concurrency"], "it says what the windows say");
    for (name, query) in rules::all() {
        assert_eq!(shown.problems(&query, &mut used), [""; 0], "{name}: {query}");
    }
}

#[test]
fn the_sidecar_finds_every_dashboard() {
    let directory = crate::root().join("dashboards");
    for (part, kinds) in [
        ("", vec!["ConfigMap"; source::ALL.len()]),
        ("prometheus", vec!["PodMonitor", "PodMonitor", "PodMonitor", "PrometheusRule"]),
    ] {
        let Some(documents) = kustomized(&directory.join(part)) else { return };
        let mut found: Vec<_> = documents.iter().map(|document| document["kind"].as_str().expect("a kind")).collect();
        found.sort_unstable();
        assert_eq!(found, kinds);
        for map in documents.iter().filter(|document| document["kind"] == "ConfigMap") {
            assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
            let data = map["data"].as_object().expect("data");
            assert_eq!(data.len(), 1);
            for text in data.values() {
                let dashboard: Value = serde_json::from_str(text.as_str().expect("text")).expect("JSON");
                assert_eq!(dashboard["schemaVersion"], 41);
            }
        }
    }
}

/// Every object `kubectl kustomize` makes of a directory.
fn kustomized(directory: &Path) -> Option<Vec<Value>> {
    let output = Command::new("kubectl").arg("kustomize").arg(directory).output();
    let Ok(output) = output else {
        tools::skipped("no kubectl on this machine");
        return None;
    };
    assert!(output.status.success(), "{}: {}", directory.display(), String::from_utf8_lossy(&output.stderr));
    Some(serde_saphyr::from_multiple(&String::from_utf8(output.stdout).expect("text")).expect("YAML"))
}
