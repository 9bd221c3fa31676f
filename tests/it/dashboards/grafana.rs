//! A dashboard as Grafana 11 and 12 read it.

use super::source::written_out;
use serde_json::{Value, json};

/// Grafana's version of the form, that of 12.0; older ones of 11 read it, and later ones bring it up to date.
const SCHEMA: u32 = 41;

/// A dashboard.
pub(super) struct Dashboard {
    /// The name of its file, and after `ebb-` the one by which links find it.
    pub(super) file: &'static str,
    pub(super) title: &'static str,
    pub(super) about: &'static str,
    pub(super) scope: Scope,
    pub(super) rows: &'static [Row],
}

/// What can be chosen at its top.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Any number of namespaces, configurations and revisions, all at first.
    Many,
    /// One of each.
    One,
    /// Nothing.
    None,
}

pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) panels: &'static [Panel],
}

#[derive(Clone, Copy)]
pub(super) struct Panel {
    pub(super) show: Show,
    pub(super) title: &'static str,
    pub(super) about: &'static str,
    /// As Grafana calls it: `s`, `bytes`, `reqps`, `ops`, `percentunit`, `none` and so on.
    pub(super) unit: &'static str,
    /// What each line is called, and what is asked.
    pub(super) queries: &'static [(&'static str, &'static str)],
    /// Of 24.
    pub(super) width: u32,
    pub(super) at_zero: AtZero,
    /// The colour of a number from a value on, the lowest first; its first value is not read. Without any it has none.
    pub(super) colors: &'static [(f64, &'static str)],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Show {
    Lines,
    Number,
    Table,
    Heatmap,
}

/// What a panel has to say while no revision has pods and no request comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AtZero {
    /// The same as ever.
    Data,
    /// There may be nothing to say: it is about answers.
    Nothing,
    /// It has nothing to say outside a cluster, at any time.
    OnlyInCluster,
}

impl Dashboard {
    pub(super) fn uid(&self) -> String {
        format!("ebb-{}", self.file)
    }

    /// The panels and, by their letters, the whole queries.
    pub(super) fn queries(&self) -> impl Iterator<Item = (&Panel, String)> {
        let panels = self.rows.iter().flat_map(|row| row.panels);
        panels.flat_map(|panel| panel.queries.iter().map(move |(_, query)| (panel, written_out(query))))
    }

    pub(super) fn json(&self) -> Value {
        let mut variables = vec![json!({
            "current": {}, "hide": 0, "includeAll": false, "label": "Data source", "multi": false, "name": "datasource",
            "options": [], "query": "prometheus", "refresh": 1, "regex": "", "type": "datasource",
        })];
        if self.scope != Scope::None {
            let of = |labels: &str, label: &str| format!("label_values(kn_revision_pods_desired{labels}, {label})");
            let namespace = "k8s_namespace_name=~\"$namespace\"";
            let both = format!("{{{namespace},kn_configuration_name=~\"$configuration\"}}");
            variables.push(self.variable("namespace", "Namespace", &of("", "k8s_namespace_name")));
            let configurations = of(&format!("{{{namespace}}}"), "kn_configuration_name");
            variables.push(self.variable("configuration", "Configuration", &configurations));
            variables.push(self.variable("revision", "Revision", &of(&both, "kn_revision_name")));
        }
        variables.push(json!({
            "current": {"text": LIVE, "value": LIVE}, "hide": 0, "label": "Live page", "name": "live",
            "options": [{"selected": true, "text": LIVE, "value": LIVE}], "query": LIVE, "type": "textbox",
            "description": "Where the admin port of the autoscaler is reached: kubectl -n knative-serving port-forward deployment/autoscaler 8008",
        }));
        let page = if self.scope == Scope::One { "${live}/#/${namespace}/${revision}" } else { "${live}/" };
        json!({
            "annotations": {"list": []},
            "description": self.about,
            "editable": true,
            "fiscalYearStartMonth": 0,
            "graphTooltip": 1,
            "id": null,
            "links": [
                {
                    "asDropdown": true, "icon": "external link", "includeVars": true, "keepTime": true, "tags": ["ebb"],
                    "targetBlank": false, "title": "Ebb", "tooltip": "", "type": "dashboards", "url": "",
                },
                {
                    "asDropdown": false, "icon": "external link", "includeVars": false, "keepTime": false, "tags": [],
                    "targetBlank": true, "title": "Live page", "type": "link", "url": page,
                    "tooltip": "What is decided and why, from the autoscaler itself; its address is at the top",
                },
            ],
            "panels": self.panels(),
            "refresh": "30s",
            "schemaVersion": SCHEMA,
            "tags": ["ebb", "knative"],
            "templating": {"list": variables},
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "title": self.title,
            "uid": self.uid(),
            "version": 1,
            "weekStart": "",
        })
    }

    /// What can be chosen of the labels a query has.
    fn variable(&self, name: &str, label: &str, query: &str) -> Value {
        let many = self.scope == Scope::Many;
        let mut variable = json!({
            "current": {}, "datasource": source(), "definition": query, "hide": 0, "includeAll": many, "label": label,
            "multi": many, "name": name, "options": [], "query": {"query": query, "refId": "StandardVariableQuery"},
            "refresh": 2, "regex": "", "sort": 1, "type": "query",
        });
        if many {
            variable["allValue"] = ".*".into();
            variable["current"] = json!({"text": ["All"], "value": ["$__all"]});
        }
        variable
    }

    /// Rows and panels from left to right and from top to bottom.
    fn panels(&self) -> Vec<Value> {
        let (mut all, mut top) = (Vec::new(), 0);
        for row in self.rows {
            let id = all.len() + 1;
            all.push(json!({
                "collapsed": false, "gridPos": {"h": 1, "w": 24, "x": 0, "y": top}, "id": id, "panels": [],
                "title": row.title, "type": "row",
            }));
            top += 1;
            let (mut left, mut height) = (0, 0);
            for panel in row.panels {
                if left + panel.width > 24 {
                    (left, top, height) = (0, top + height, 0);
                }
                let tall = if panel.show == Show::Number { 4 } else { 8 };
                let at = json!({"h": tall, "w": panel.width, "x": left, "y": top});
                let mut made = panel.json();
                (made["gridPos"], made["id"]) = (at, (all.len() + 1).into());
                all.push(made);
                (left, height) = (left + panel.width, height.max(tall));
            }
            top += height;
        }
        all
    }
}

/// The admin port as `kubectl port-forward` and `ebb local` have it.
const LIVE: &str = "http://127.0.0.1:8008";

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

impl Panel {
    fn json(&self) -> Value {
        let nothing = match self.at_zero {
            AtZero::Data => "no data",
            AtZero::Nothing => "no requests",
            AtZero::OnlyInCluster => "no data from a kubelet",
        };
        let mut defaults = json!({"min": 0, "noValue": nothing, "unit": self.unit});
        if self.unit == "percentunit" {
            defaults["max"] = 1.into();
        }
        let mut overrides = json!([]);
        let mut panel = json!({
            "datasource": source(),
            "description": self.about,
            "targets": self.targets(),
            "title": self.title,
        });
        match self.show {
            Show::Lines => {
                panel["type"] = "timeseries".into();
                config_of_lines(&mut defaults);
                // Spare capacity is as often below zero as above.
                if self.queries.iter().any(|(_, query)| query.contains("sum(kn_revision_capacity_excess")) {
                    defaults["min"] = Value::Null;
                }
                panel["options"] = json!({
                    "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": true},
                    "tooltip": {"mode": "multi", "sort": "desc"},
                });
            }
            Show::Number => {
                panel["type"] = "stat".into();
                let colored = if self.colors.is_empty() { "none" } else { "value" };
                if !self.colors.is_empty() {
                    let step = |(at, (from, color)): (usize, &(f64, &str))| json!({"color": color, "value": if at == 0 { Value::Null } else { json!(from) }});
                    let steps: Vec<_> = self.colors.iter().enumerate().map(step).collect();
                    defaults["color"] = json!({"mode": "thresholds"});
                    defaults["thresholds"] = json!({"mode": "absolute", "steps": steps});
                }
                panel["options"] = json!({
                    "colorMode": colored, "graphMode": "area", "justifyMode": "auto", "orientation": "auto",
                    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false}, "textMode": "value",
                });
            }
            Show::Heatmap => {
                panel["type"] = "heatmap".into();
                panel["options"] = json!({
                    "calculate": false, "cellGap": 1, "color": {"mode": "scheme", "scheme": "Blues", "steps": 32},
                    "legend": {"show": true}, "rowsFrame": {"layout": "le"}, "tooltip": {"mode": "single", "yHistogram": false},
                    "yAxis": {"axisPlacement": "left", "unit": self.unit},
                });
            }
            Show::Table => {
                panel["type"] = "table".into();
                defaults["min"] = Value::Null;
                overrides = json!([{
                    "matcher": {"id": "byName", "options": "Revision"},
                    "properties": [{"id": "links", "value": [{
                        "title": "Open this revision",
                        "url": "/d/ebb-revision?${datasource:queryparam}&var-namespace=${__data.fields.Namespace}&var-configuration=${__data.fields.Configuration}&var-revision=${__data.fields.Revision}&${live:queryparam}",
                    }]}],
                }]);
                panel["options"] = json!({
                    "cellHeight": "sm", "showHeader": true, "sortBy": [{"desc": true, "displayName": self.queries[0].0}],
                });
                panel["transformations"] = self.one_row_each();
            }
        }
        panel["fieldConfig"] = json!({"defaults": defaults, "overrides": overrides});
        panel
    }

    fn targets(&self) -> Vec<Value> {
        let target = |(at, (legend, query)): (usize, &(&str, &str))| {
            let mut target = json!({
                "datasource": source(), "editorMode": "code", "expr": written_out(query), "legendFormat": legend,
                "range": true, "refId": letter(at),
            });
            match self.show {
                Show::Table => {
                    (target["format"], target["instant"], target["range"]) =
                        ("table".into(), true.into(), false.into());
                }
                Show::Heatmap => target["format"] = "heatmap".into(),
                Show::Lines | Show::Number => {}
            }
            target
        };
        self.queries.iter().enumerate().map(target).collect()
    }

    /// The answers to all queries of a table side by side, under names people know.
    fn one_row_each(&self) -> Value {
        let mut names = json!({
            "k8s_namespace_name": "Namespace", "kn_configuration_name": "Configuration", "kn_revision_name": "Revision",
        });
        for (at, (title, _)) in self.queries.iter().enumerate() {
            names[format!("Value #{}", letter(at))] = (*title).into();
        }
        let organize =
            json!({"excludeByName": {"Time": true}, "includeByName": {}, "indexByName": {}, "renameByName": names});
        json!([{"id": "merge", "options": {}}, {"id": "organize", "options": organize}])
    }
}

fn config_of_lines(defaults: &mut Value) {
    defaults["custom"] = json!({
        "drawStyle": "line", "fillOpacity": 10, "lineInterpolation": "linear", "lineWidth": 1, "showPoints": "never",
        "spanNulls": false,
    });
}

fn letter(at: usize) -> String {
    char::from(b'A' + u8::try_from(at).expect("few queries")).to_string()
}
