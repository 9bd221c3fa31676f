//! The page on runs: the same bytes each time, nothing from outside, nothing that breaks out.

use ebb::sim::batch::{self, Job, Watch};
use ebb::sim::report::Report;
use ebb::sim::scenario;
use ebb::sim::{Case, Detail, compare};
use std::num::NonZeroUsize;

const SCENARIO: &str = "apiVersion: sim/v1\nname: <b>pages\ndescription: '\"quoted\" & \
                        <script>alert(1)</script>'\nduration: 3h\nwarm_up: 2m\nrepetitions: 2\nload:\n  synthetic: { \
                        batch: { size: 60, every: 10m } }\n  service: { law: lognormal, mean: 300ms, p99: 2s \
                        }\nrevision: { containerConcurrency: 5 }\npolicies:\n  - { name: a&b, kpa: {} }\n  - \
                        { name: kept, kpa: { annotations: { autoscaling.knative.dev/min-scale: \"3\" } } }\n  - { \
                        name: floor, oracle: {} }\n";

fn page(threads: usize) -> String {
    let scenario = scenario::parse("pages.yaml", SCENARIO).unwrap_or_else(|problems| panic!("{problems}"));
    let case = Case::new(scenario, None).expect("a case");
    let jobs: Vec<Job> = case
        .scenario
        .policies
        .iter()
        .flat_map(|policy| (0..2).map(move |repetition| (policy, repetition)))
        .map(|(policy, repetition)| Job {
            case: case.clone(),
            policy: policy.clone(),
            seed: case.seed(repetition),
            detail: if repetition == 0 { Detail::Series } else { Detail::Measures },
        })
        .collect();
    let threads = NonZeroUsize::new(threads).expect("at least one");
    let outcomes = batch::run(&jobs, threads, &Watch::default()).expect("it was not stopped");
    let comparison = compare::compare(&case.scenario.name, &outcomes, &case.scenario.slo, 1);
    let report = Report {
        scenario: &case.scenario,
        source: SCENARIO,
        traffic: "batches",
        outcomes: &outcomes,
        comparison: &comparison,
        warning: Some("doubt <this>"),
        tried: &[],
        advice: "",
        version: "test",
    };
    report.html()
}

#[test]
fn the_page_is_the_same_on_any_number_of_threads() {
    assert_eq!(page(1), page(2));
}

#[test]
fn the_page_needs_nothing_from_outside_and_lets_nothing_out() {
    let page = page(2);
    for outside in ["<script", "http:", "https:", "src=", "<link", "@import", "url(", "<b>pages", "doubt <this>"] {
        assert!(!page.contains(outside), "{outside} in the page");
    }
    for inside in [
        "&lt;b&gt;pages",
        "a&amp;b",
        "doubt &lt;this&gt;",
        "The worst hour",
        "a floor",
        "Not modelled",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(inside), "{inside} not in the page");
    }
    // Every number in a path is one: nothing became infinite or no number.
    assert!(!page.contains("NaN") && !page.contains("inf "), "a plot has no number for a place");
    for tag in ["div", "table", "tr", "tbody", "svg", "ul", "p", "main"] {
        let count = |text: &str| page.matches(text).count();
        let opened = count(&format!("<{tag}>")) + count(&format!("<{tag} "));
        assert_eq!(opened, count(&format!("</{tag}>")), "{tag} is not closed as often as opened");
    }
}
