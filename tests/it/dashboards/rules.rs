//! Rules for Prometheus: alerts, and old names for new series and the other way round.

use super::{compare, tools};
use ebb::observe::metrics::knative::{OLDER, PRESENT};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

/// Labels of a revision, present and up to 1.18.
const REVISION: [(&str, &str); 4] = [
    ("k8s_namespace_name", "namespace_name"),
    ("kn_configuration_name", "configuration_name"),
    ("kn_revision_name", "revision_name"),
    ("kn_service_name", "service_name"),
];
/// The same with what tells requests apart.
const REQUEST: [(&str, &str); 6] = [
    REVISION[0],
    REVISION[1],
    REVISION[2],
    REVISION[3],
    ("http_response_status_code", "response_code"),
    ("pod", "pod_name"),
];

/// One series under both names.
struct Pair {
    present: &'static str,
    /// Which of the series of that name; a component shows it.
    container: Option<&'static str>,
    older: &'static str,
    labels: &'static [(&'static str, &'static str)],
}

/// Series of requests that had another name; times cannot be had back, since their buckets are not the same.
const REQUESTS: [Pair; 5] = [
    Pair {
        present: "http_server_request_duration_seconds_count",
        container: Some("queue-proxy"),
        older: "revision_request_count",
        labels: &REQUEST,
    },
    Pair {
        present: "kn_serving_invocation_duration_seconds_count",
        container: Some("queue-proxy"),
        older: "revision_app_request_count",
        labels: &REQUEST,
    },
    Pair {
        present: "kn_serving_queue_depth",
        container: Some("queue-proxy"),
        older: "revision_queue_depth",
        labels: &[REVISION[0], REVISION[1], REVISION[2], REVISION[3], ("pod", "pod_name")],
    },
    Pair {
        present: "http_server_request_duration_seconds_count",
        container: Some("activator"),
        older: "activator_request_count",
        labels: &REQUEST,
    },
    Pair {
        present: "kn_revision_request_concurrency",
        container: Some("activator"),
        older: "activator_request_concurrency",
        labels: &REVISION,
    },
];

fn pairs() -> Vec<Pair> {
    let of_autoscaler = PRESENT.iter().zip(OLDER).map(|(present, older)| Pair {
        present: present.name,
        container: None,
        older: older.name,
        labels: &REVISION,
    });
    of_autoscaler.chain(REQUESTS).collect()
}

/// A recording rule.
struct Rule {
    record: &'static str,
    expr: String,
    /// The label that tells what is recorded from what another component shows under the same name.
    container: Option<&'static str>,
}

impl Pair {
    /// The rule that gives the series its older name. Only what was scraped counts, so that no rule feeds on another; and
    /// where the older series is scraped too, that one stands.
    fn older_rule(&self) -> Rule {
        let of = self.container.map_or_else(String::new, |container| format!(",container=\"{container}\""));
        let mut query = format!("{}{{instance!=\"\"{of}}}", self.present);
        for (present, older) in self.labels {
            query = format!("label_replace({query}, \"{older}\", \"$1\", \"{present}\", \"(.*)\")");
        }
        if self.labels.iter().any(|(_, older)| *older == "service_name") {
            query = format!("label_replace({query}, \"service_name\", \"unknown\", \"service_name\", \"\")");
        }
        if self.labels.iter().any(|(_, older)| *older == "response_code") {
            query =
                format!("label_replace({query}, \"response_code_class\", \"${{1}}xx\", \"response_code\", \"(.).*\")");
        }
        let mut labels: Vec<&str> = self.labels.iter().map(|(_, older)| *older).collect();
        if labels.contains(&"response_code") {
            labels.push("response_code_class");
        }
        let query = format!(
            "sum by ({}) ({query}) unless on (namespace_name, revision_name) {}{{instance!=\"\"}}",
            labels.join(", "),
            self.older
        );
        Rule { record: self.older, expr: query, container: None }
    }

    /// The rule that gives the older series its present name.
    fn present_rule(&self) -> Rule {
        let mut query = format!("{}{{instance!=\"\"}}", self.older);
        for (present, older) in self.labels {
            query = format!("label_replace({query}, \"{present}\", \"$1\", \"{older}\", \"(.*)\")");
        }
        let labels: Vec<&str> = self.labels.iter().map(|(present, _)| *present).collect();
        let of = self.container.map_or_else(String::new, |container| format!(",container=\"{container}\""));
        let query = format!(
            "sum by ({}) ({query}) unless on (k8s_namespace_name, kn_revision_name) {}{{instance!=\"\"{of}}}",
            labels.join(", "),
            self.present
        );
        Rule { record: self.present, expr: query, container: self.container }
    }
}

/// Every older name with its labels.
pub(super) fn older_series() -> impl Iterator<Item = (String, Vec<String>)> {
    pairs().into_iter().map(|pair| {
        let labels = pair.labels.iter().map(|(_, older)| (*older).to_owned()).collect();
        (pair.older.to_owned(), labels)
    })
}

/// Every older name.
pub(super) fn older_names() -> impl Iterator<Item = String> {
    older_series().map(|(name, _)| name)
}

/// The file of recording rules.
fn names() -> String {
    let mut text = String::from(
        "# Made by a test, which CONTRIBUTING.md names; edit tests/it/dashboards/rules.rs and not this file.\n\
         #\n\
         # Series that Knative renamed in 1.19, under their other name too: for dashboards and alerts made for the older\n\
         # names, without --older-metrics, and for those here on a Prometheus that scrapes an older Knative. Where both are\n\
         # scraped there is nothing to do, and these rules do nothing.\n\
         groups:\n",
    );
    let mut group = |name: &str, about: &str, rules: Vec<Rule>| {
        write!(text, "  # {about}\n  - name: {name}\n    rules:\n").expect("writing to a string");
        for Rule { record, expr, container } in rules {
            write!(text, "      - record: {record}\n        expr: >-\n          {expr}\n")
                .expect("writing to a string");
            if let Some(container) = container {
                write!(text, "        labels:\n          container: {container}\n").expect("writing to a string");
            }
        }
    };
    group(
        "ebb-older-names",
        "What is shown today, as it was called up to 1.18.",
        pairs().iter().map(Pair::older_rule).collect(),
    );
    group(
        "ebb-present-names",
        "What was shown up to 1.18, as it is called today.",
        pairs().iter().map(Pair::present_rule).collect(),
    );
    text
}

fn read(file: &str) -> String {
    let path = crate::root().join("dashboards/prometheus").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rules_of(text: &str) -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(text).expect("YAML");
    let groups = file["groups"].as_array().expect("groups").clone();
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

/// Every rule that Prometheus evaluates: what it is called, and what it asks.
pub(super) fn all() -> Vec<(String, String)> {
    let both = [rules_of(&names()), rules_of(&read("alerts.yaml"))].concat();
    let rules = both.iter().map(|rule| {
        let name = rule["alert"].as_str().or_else(|| rule["record"].as_str()).expect("a name");
        (name.to_owned(), rule["expr"].as_str().expect("a query").to_owned())
    });
    rules.collect()
}

#[test]
fn the_rules_for_names_are_made_from_the_two_families() {
    compare("prometheus/names.yaml", &names());
}

#[test]
fn the_object_for_the_operator_has_the_same_rules() {
    let mut text = String::from(
        "# Made by a test from names.yaml and alerts.yaml; see CONTRIBUTING.md.\n\
         apiVersion: monitoring.coreos.com/v1\n\
         kind: PrometheusRule\n\
         metadata:\n  name: ebb\n  labels:\n    app.kubernetes.io/name: ebb\n\
         spec:\n  groups:\n",
    );
    for file in [names(), read("alerts.yaml")] {
        let (_, groups) = file.split_once("\ngroups:\n").expect("groups at the top");
        for line in groups.lines() {
            let indented = if line.is_empty() { String::new() } else { format!("  {line}") };
            writeln!(text, "{indented}").expect("writing to a string");
        }
    }
    let object: Value = serde_saphyr::from_str(&text).expect("YAML");
    let rules: usize = object["spec"]["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .map(|group| group["rules"].as_array().expect("rules").len())
        .sum();
    assert_eq!(rules, all().len());
    compare("prometheus/prometheus-rule.yaml", &text);
}

#[test]
fn every_alert_says_what_is_wrong_and_what_to_do() {
    let guide = std::fs::read_to_string(crate::root().join("docs/alerts.md")).expect("docs/alerts.md");
    let explained: BTreeSet<&str> = guide.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut alerts = BTreeSet::new();
    let rules = rules_of(&read("alerts.yaml"));
    for rule in &rules {
        let name = rule["alert"].as_str().expect("only alerts are here");
        assert!(alerts.insert(name), "{name} is there twice");
        for part in ["summary", "description", "action"] {
            let text = rule["annotations"][part].as_str().unwrap_or_default();
            assert!(text.ends_with('.'), "{name}: its {part} is no sentence: {text:?}");
        }
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: severity {severity:?}");
        assert!(rule["for"].is_string(), "{name}: nothing is an alert at once");
    }
    assert_eq!(alerts, explained, "docs/alerts.md has a heading for each");
}

/// Wherever queue-proxies are found, their series get the labels dashboards ask by.
#[test]
fn queue_proxies_are_labelled_alike_by_every_way_of_scraping() {
    type Labels = Vec<(String, String)>;
    let pairs = |rules: &Value, [from, to]: [&str; 2]| -> Labels {
        let rules = rules.as_array().expect("rules").iter().filter(|rule| rule[to].is_string());
        rules
            .map(|rule| (rule[from][0].as_str().expect("text").to_owned(), rule[to].as_str().expect("text").to_owned()))
            .collect()
    };
    let scraped = |file: &str| {
        let config: Value = serde_saphyr::from_str(&read(file)).expect("YAML");
        let jobs = config["scrape_configs"].as_array().expect("jobs");
        let job = jobs.iter().find(|job| job["job_name"].as_str().is_some_and(|name| name.ends_with("queue-proxy")));
        let job = job.expect("a job").clone();
        assert_eq!(job["honor_labels"], true, "{file}");
        pairs(&job["relabel_configs"], ["source_labels", "target_label"])
    };
    let local = scraped("local.yaml");
    assert_eq!(scraped("cluster.yaml"), local);
    let monitors: Vec<Value> = serde_saphyr::from_multiple(&read("monitors.yaml")).expect("YAML");
    let monitor = monitors.iter().find(|it| it["metadata"]["name"] == "knative-queue-proxy").expect("a PodMonitor");
    let of_operator = ["namespace", "pod", "container"];
    let ours: Labels = local.into_iter().filter(|(_, to)| !of_operator.contains(&to.as_str())).collect();
    assert_eq!(pairs(&monitor["spec"]["podMetricsEndpoints"][0]["relabelings"], ["sourceLabels", "targetLabel"]), ours);
}

#[test]
fn promtool_checks_and_tries_the_rules() {
    let Some(promtool) = tools::find("promtool") else { return };
    let directory = crate::root().join("dashboards/prometheus");
    for arguments in [&["check", "rules", "names.yaml", "alerts.yaml"][..], &["test", "rules", "tests.yaml"]] {
        let output = Command::new(&promtool).args(arguments).current_dir(&directory).output().expect("promtool runs");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
    }
    // Every alert is tried, in both directions.
    let tried: Value = serde_saphyr::from_str(&read("tests.yaml")).expect("YAML");
    let tests = tried["tests"].as_array().expect("tests");
    let cases: Vec<&Value> =
        tests.iter().flat_map(|test| test["alert_rule_test"].as_array().into_iter().flatten()).collect();
    for rule in rules_of(&read("alerts.yaml")) {
        let of: Vec<_> = cases.iter().filter(|case| case["alertname"] == rule["alert"]).collect();
        let fires = |case: &&&Value| case["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
        assert!(of.iter().any(fires) && !of.iter().all(fires), "{} is not tried both ways", rule["alert"]);
    }
}
