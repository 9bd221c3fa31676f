//! Queries held to the series that are shown, as `docs/metrics.md` lists them, which a test holds to the program.

use super::rules;
use promql_parser::parser::{Expr, VectorSelector, parse};
use std::collections::{BTreeMap, BTreeSet};

/// What Prometheus adds to every series, and the scrape configurations in `dashboards/prometheus` with it.
const OF_TARGET: [&str; 5] = ["job", "instance", "namespace", "pod", "container"];
/// What they add to those of queue-proxies, whose own series say nothing of the revision.
const OF_QUEUE_PROXY: [&str; 4] =
    ["k8s_namespace_name", "kn_configuration_name", "kn_revision_name", "kn_service_name"];
/// What the kubelet shows of containers.
const OF_KUBELET: [&str; 2] = ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes"];

/// Series and their labels, by name.
pub(super) struct Shown(BTreeMap<String, BTreeSet<String>>);

impl Shown {
    pub(super) fn read() -> Self {
        let text = std::fs::read_to_string(crate::root().join("docs/metrics.md")).expect("docs/metrics.md");
        let mut all = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let (name, kind, labels) = (cells[1].trim_matches('`'), cells[2], cells[3]);
            let mut labels: BTreeSet<String> =
                labels.split(',').map(|label| label.trim().trim_matches('`').to_owned()).collect();
            labels.remove("");
            labels.extend(OF_TARGET.map(str::to_owned));
            if name.starts_with("http_server_") || name.starts_with("kn_serving_") {
                labels.extend(OF_QUEUE_PROXY.map(str::to_owned));
            }
            if kind == "histogram" {
                all.insert(format!("{name}_sum"), labels.clone());
                all.insert(format!("{name}_count"), labels.clone());
                labels.insert("le".to_owned());
                all.insert(format!("{name}_bucket"), labels);
            } else {
                all.insert(name.to_owned(), labels);
            }
        }
        assert!(all.len() > 100, "the table has another form now");
        for (name, labels) in rules::older_series() {
            let known: &mut BTreeSet<String> = all.entry(name).or_default();
            known.extend(labels);
            known.extend(OF_TARGET.map(str::to_owned));
        }
        all.extend(OF_KUBELET.map(|name| (name.to_owned(), OF_TARGET.map(str::to_owned).into())));
        Self(all)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What is wrong with a query; the series it is about go to `used`.
    pub(super) fn problems(&self, query: &str, used: &mut BTreeSet<String>) -> Vec<String> {
        let expression = match parse(query) {
            Ok(expression) => expression,
            Err(error) => return vec![format!("does not parse: {error}")],
        };
        let mut problems = Vec::new();
        self.look(&expression, &mut problems, used);
        problems
    }

    /// Looks at one part of a query; the series that part is about.
    fn look(&self, part: &Expr, problems: &mut Vec<String>, used: &mut BTreeSet<String>) -> BTreeSet<String> {
        let mut of = BTreeSet::new();
        match part {
            Expr::VectorSelector(selector) => of.extend(self.select(selector, problems)),
            Expr::MatrixSelector(selector) => of.extend(self.select(&selector.vs, problems)),
            Expr::Aggregate(aggregate) => {
                of = self.look(&aggregate.expr, problems, used);
                if let Some(modifier) = &aggregate.modifier {
                    self.by(&modifier.labels().labels, &of, problems);
                }
            }
            Expr::Binary(binary) => {
                let sides = [&binary.lhs, &binary.rhs].map(|side| self.look(side, problems, used));
                if let Some(matching) = binary.modifier.as_ref().and_then(|modifier| modifier.matching.as_ref()) {
                    for side in &sides {
                        self.by(&matching.labels().labels, side, problems);
                    }
                }
                of.extend(sides.into_iter().flatten());
            }
            Expr::Call(call) => {
                for argument in &call.args.args {
                    of.extend(self.look(argument, problems, used));
                }
                // From there on it has a label it is not known for.
                if call.func.name == "label_replace" || call.func.name == "label_join" {
                    used.extend(of.iter().cloned());
                    of.clear();
                }
            }
            Expr::Paren(inner) => of = self.look(&inner.expr, problems, used),
            Expr::Unary(inner) => of = self.look(&inner.expr, problems, used),
            Expr::Subquery(inner) => of = self.look(&inner.expr, problems, used),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => {}
            Expr::Extension(_) => problems.push("an extension of PromQL".to_owned()),
        }
        used.extend(of.iter().cloned());
        of
    }

    fn select(&self, selector: &VectorSelector, problems: &mut Vec<String>) -> Option<String> {
        let Some(name) = &selector.name else {
            problems.push("a selector without a name".to_owned());
            return None;
        };
        let Some(labels) = self.0.get(name) else {
            problems.push(format!("no series is called {name}"));
            return None;
        };
        for matcher in &selector.matchers.matchers {
            if !labels.contains(&matcher.name) {
                problems.push(format!("{name} has no label {}", matcher.name));
            }
        }
        Some(name.clone())
    }

    /// Labels things are put together by: one of the series has to have them.
    fn by(&self, labels: &[String], of: &BTreeSet<String>, problems: &mut Vec<String>) {
        if of.is_empty() {
            return;
        }
        for label in labels {
            if !of.iter().any(|name| self.0[name].contains(label)) {
                let names: Vec<_> = of.iter().cloned().collect();
                problems.push(format!("none of {} has a label {label}", names.join(", ")));
            }
        }
    }
}
