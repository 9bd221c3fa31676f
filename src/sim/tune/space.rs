//! What may be set, and to what: a ladder of values for each annotation.
//!
//! A candidate is a rung on each ladder. Rungs are round numbers, and the values in force and by default are always
//! among them. So a neighbour is one rung away, and how extreme a candidate is can be counted.

use crate::api::annotations::{
    ACTIVATION_SCALE, Annotations, Key, MAX_SCALE, MIN_SCALE, PANIC_THRESHOLD, PANIC_WINDOW, POD_RETENTION,
    SCALE_DOWN_DELAY, TARGET, TARGET_BURST_CAPACITY, TARGET_UTILIZATION, WINDOW,
};
use crate::config::Resolved;
use crate::sim::scenario::{Entry, Kpa, Scenario};
use crate::units::count_f64;
use std::collections::BTreeMap;

/// A rung on each ladder, in their order.
pub type Candidate = Vec<usize>;

/// One annotation that may be set.
#[derive(Clone, Debug)]
pub struct Ladder {
    /// The annotation.
    pub key: &'static str,
    /// What it may be set to, in ascending order, as it is written.
    pub rungs: Vec<String>,
    /// The value in force.
    pub current: usize,
    /// The value where the annotation is absent.
    pub default: usize,
    /// Whether it stays as it is.
    pub pinned: bool,
}

/// Everything that may be set.
#[derive(Clone, Debug)]
pub struct Space {
    scenario: Scenario,
    base: Kpa,
    /// The ladders.
    pub ladders: Vec<Ladder>,
}

struct Knob {
    key: &'static Key,
    rungs: Vec<f64>,
    of: fn(&Resolved) -> f64,
    write: fn(f64) -> String,
}

fn plain(value: f64) -> String {
    format!("{value}")
}

fn in_seconds(value: f64) -> String {
    format!("{value}s")
}

/// No limit is the highest rung.
fn limit(value: f64) -> String {
    if value.is_finite() { plain(value) } else { "0".to_owned() }
}

/// What may be set, for pods that take `total` each and a peak of `peak` pods.
fn knobs(resolved: &Resolved, concurrency: u32, peak: u32) -> Vec<Knob> {
    let peak = f64::from(peak.max(2));
    let scales = |low: &[f64]| low.iter().copied().filter(|value| *value <= peak).collect::<Vec<f64>>();
    let target = if resolved.metric.value == "rps" {
        [0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0]
            .map(|times: f64| (times * resolved.total.value).max(1.0).round())
            .to_vec()
    } else if concurrency > 0 {
        let limit = f64::from(concurrency);
        [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0].map(|part: f64| (part * limit).round().max(1.0)).to_vec()
    } else {
        vec![1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 70.0, 100.0, 150.0, 200.0, 300.0, 500.0, 1000.0]
    };
    let seconds = |values: &[f64]| values.to_vec();
    vec![
        Knob { key: &TARGET, rungs: target, of: |set| set.total.value, write: plain },
        Knob {
            key: &TARGET_UTILIZATION,
            rungs: vec![30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0],
            of: |set| (set.utilization.value * 1e6).round() / 1e4,
            write: plain,
        },
        Knob {
            key: &WINDOW,
            rungs: seconds(&[
                6.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 360.0, 600.0, 900.0, 1800.0, 3600.0,
            ]),
            of: |set| set.stable_window.value.seconds_f64(),
            write: in_seconds,
        },
        Knob {
            key: &PANIC_WINDOW,
            rungs: vec![5.0, 10.0, 15.0, 20.0, 30.0, 50.0],
            of: |set| set.panic_window_percentage.value,
            write: plain,
        },
        Knob {
            key: &PANIC_THRESHOLD,
            rungs: vec![110.0, 125.0, 150.0, 200.0, 300.0, 400.0, 600.0, 1000.0],
            of: |set| set.panic_threshold_percentage.value,
            write: plain,
        },
        Knob {
            key: &TARGET_BURST_CAPACITY,
            rungs: vec![-1.0, 0.0, 10.0, 50.0, 100.0, 200.0, 500.0, 1000.0],
            of: |set| set.target_burst_capacity.value,
            write: plain,
        },
        Knob {
            key: &MIN_SCALE,
            rungs: scales(&[0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 50.0, 80.0, 130.0, 200.0]),
            of: |set| set.min_scale.value.into(),
            write: plain,
        },
        Knob {
            key: &MAX_SCALE,
            rungs: [0.5, 0.75, 1.0, 1.5]
                .map(|times: f64| (times * peak).ceil())
                .into_iter()
                .chain([f64::INFINITY])
                .collect(),
            of: |set| if set.max_scale.value == 0 { f64::INFINITY } else { set.max_scale.value.into() },
            write: limit,
        },
        Knob {
            key: &ACTIVATION_SCALE,
            rungs: scales(&[2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 50.0]),
            of: |set| set.activation_scale.value.into(),
            write: plain,
        },
        Knob {
            key: &SCALE_DOWN_DELAY,
            rungs: seconds(&[0.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0]),
            of: |set| set.scale_down_delay.value.seconds_f64(),
            write: in_seconds,
        },
        Knob {
            key: &POD_RETENTION,
            rungs: seconds(&[0.0, 30.0, 60.0, 120.0, 300.0, 360.0, 600.0, 900.0, 1800.0]),
            of: |set| set.pod_retention.value.seconds_f64(),
            write: in_seconds,
        },
    ]
}

impl Space {
    /// What may be set in place of `current`, whose pods were `peak` at most. What `pins` names stays, by the
    /// annotation's name with or without its prefix.
    ///
    /// # Errors
    /// When a pin is no annotation that may be set; then with those that are.
    pub fn new(scenario: &Scenario, current: &Kpa, peak: u32, pins: &[String]) -> Result<Self, String> {
        let resolved = scenario.resolved(current);
        let knobs = knobs(&resolved, scenario.concurrency(current), peak);
        let mut annotations = scenario.revision.annotations.clone();
        annotations.extend(current.annotations.clone());
        for knob in &knobs {
            annotations.remove(knob.key.canonical);
            knob.key.alias.map(|alias| annotations.remove(alias));
        }
        let base = Kpa { annotations, ..current.clone() };
        let mut scenario = scenario.clone();
        // What a policy says is beside what the revision says; so the revision is to say nothing.
        scenario.revision.annotations.clear();
        let default = scenario.resolved(&base);
        let mut ladders: Vec<Ladder> = knobs
            .iter()
            .map(|knob| {
                let (now, without) = ((knob.of)(&resolved), (knob.of)(&default));
                let mut rungs = knob.rungs.clone();
                rungs.extend([now, without]);
                rungs.sort_by(f64::total_cmp);
                rungs.dedup();
                let place = |value: f64| rungs.iter().position(|rung| *rung == value).unwrap_or(0);
                Ladder {
                    key: knob.key.canonical,
                    current: place(now),
                    default: place(without),
                    rungs: rungs.iter().map(|rung| (knob.write)(*rung)).collect(),
                    pinned: false,
                }
            })
            .collect();
        for pin in pins {
            let named = |ladder: &&mut Ladder| ladder.key == pin || ladder.key.rsplit('/').next() == Some(pin.as_str());
            let Some(ladder) = ladders.iter_mut().find(named) else {
                let known: Vec<&str> = ladders.iter().filter_map(|ladder| ladder.key.rsplit('/').next()).collect();
                return Err(format!("{pin:?} is nothing that is tuned; there are {}", known.join(", ")));
            };
            ladder.pinned = true;
        }
        Ok(Self { scenario, base, ladders })
    }

    /// The configuration in force.
    pub fn current(&self) -> Candidate {
        self.ladders.iter().map(|ladder| ladder.current).collect()
    }

    /// The platform's defaults, but for what is pinned.
    pub fn defaults(&self) -> Candidate {
        self.ladders.iter().map(|ladder| if ladder.pinned { ladder.current } else { ladder.default }).collect()
    }

    /// A candidate from as many numbers from 0 to below 1. The lower half of each is the value in force, so that few
    /// settings change at once.
    pub fn sample(&self, numbers: impl Fn(usize) -> f64) -> Candidate {
        let rung = |(place, ladder): (usize, &Ladder)| {
            let number = numbers(place);
            if ladder.pinned || number < 0.5 {
                return ladder.current;
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place on a ladder")]
            let rung = ((number - 0.5) * 2.0 * count_f64(ladder.rungs.len())) as usize;
            rung.min(ladder.rungs.len() - 1)
        };
        self.ladders.iter().enumerate().map(rung).collect()
    }

    /// Candidates that differ in one setting: a rung up, a rung down, or back to what is in force.
    pub fn neighbours(&self, candidate: &Candidate) -> Vec<Candidate> {
        let mut found = Vec::new();
        for (place, ladder) in self.ladders.iter().enumerate().filter(|(_, ladder)| !ladder.pinned) {
            let rung = candidate[place];
            let up = Some(rung + 1).filter(|up| *up < ladder.rungs.len());
            for other in [rung.checked_sub(1), up, Some(ladder.current)].into_iter().flatten() {
                let mut neighbour = candidate.clone();
                neighbour[place] = other;
                if other != rung && !found.contains(&neighbour) {
                    found.push(neighbour);
                }
            }
        }
        found
    }

    /// How many settings differ from what is in force.
    pub fn changed(&self, candidate: &Candidate) -> usize {
        candidate.iter().zip(&self.ladders).filter(|(rung, ladder)| **rung != ladder.current).count()
    }

    /// How many rungs it is away from the defaults, all settings together.
    pub fn extreme(&self, candidate: &Candidate) -> usize {
        candidate.iter().zip(&self.ladders).map(|(rung, ladder)| rung.abs_diff(ladder.default)).sum()
    }

    /// All annotations of a candidate. What is at its default is left out.
    pub fn annotations(&self, candidate: &Candidate) -> Annotations {
        let mut annotations = self.base.annotations.clone();
        for (rung, ladder) in candidate.iter().zip(&self.ladders) {
            if *rung != ladder.default {
                annotations.insert(ladder.key.to_owned(), ladder.rungs[*rung].clone());
            }
        }
        annotations
    }

    /// What must be set, and what must be removed, to get from what is in force to a candidate.
    pub fn change(&self, candidate: &Candidate) -> BTreeMap<&'static str, Option<String>> {
        let differing = candidate.iter().zip(&self.ladders).filter(|(rung, ladder)| **rung != ladder.current);
        differing
            .map(|(rung, ladder)| (ladder.key, (*rung != ladder.default).then(|| ladder.rungs[*rung].clone())))
            .collect()
    }

    /// The policy of a candidate; none if Knative's admission would refuse it.
    pub fn entry(&self, name: &str, candidate: &Candidate) -> Option<Entry> {
        let kpa = Kpa { annotations: self.annotations(candidate), ..self.base.clone() };
        let entry = Entry { name: name.to_owned(), kpa: Some(kpa), ..Entry::default() };
        let scenario = Scenario { policies: vec![entry.clone()], ..self.scenario.clone() };
        scenario.check().is_empty().then_some(entry)
    }

    /// Whether Knative's admission would take it.
    pub fn is_valid(&self, candidate: &Candidate) -> bool {
        self.entry("candidate", candidate).is_some()
    }

    /// The scenario in which candidates say everything themselves.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scenario;

    fn space(pins: &[&str]) -> Result<Space, String> {
        let text = "apiVersion: sim/v1\nname: x\nduration: 1h\nload: { synthetic: { poisson: { rate: 1 } }, service: \
         { law: constant, value: 100ms } }\n\
                    revision: { containerConcurrency: 10, annotations: { autoscaling.knative.dev/window: 37s, \
                    autoscaling.knative.dev/maxScale: \"7\" } }\npolicies: [{ name: now, kpa: {} }]\n";
        let scenario = scenario::parse("x.yaml", text).expect("a scenario");
        let pins: Vec<String> = pins.iter().map(|pin| (*pin).to_owned()).collect();
        Space::new(&scenario, &Kpa::default(), 12, &pins)
    }

    #[test]
    fn what_is_in_force_and_the_defaults_are_on_the_ladders() {
        let space = space(&[]).expect("no pins");
        let current = space.current();
        let annotations = space.annotations(&current);
        let set: Vec<(&str, &str)> = annotations.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(set, [("autoscaling.knative.dev/max-scale", "7"), ("autoscaling.knative.dev/window", "37s")]);
        assert!(space.change(&current).is_empty());
        let change = space.change(&space.defaults());
        assert_eq!(change.get("autoscaling.knative.dev/window"), Some(&None), "a default is reached by removing");
        assert!(space.annotations(&space.defaults()).is_empty());
        let resolved =
            space.scenario().resolved(space.entry("x", &current).and_then(|it| it.kpa).as_ref().expect("valid"));
        assert_eq!((resolved.stable_window.value.seconds_f64(), resolved.max_scale.value), (37.0, 7));
    }

    #[test]
    fn neighbours_differ_in_one_setting_and_pins_stay() {
        let space = space(&["window", "autoscaling.knative.dev/target"]).expect("known pins");
        let current = space.current();
        for neighbour in space.neighbours(&current) {
            let change = space.change(&neighbour);
            assert_eq!(change.len(), 1, "{change:?}");
            assert!(!change.contains_key("autoscaling.knative.dev/window"));
        }
        assert_eq!(space.sample(|_| 0.3), current);
        assert_eq!(
            space.changed(&space.sample(|_| 0.999)),
            space.ladders.iter().filter(|it| !it.pinned && it.current + 1 < it.rungs.len()).count()
        );
        assert!(self::space(&["windows"]).expect_err("no such").contains("there are target,"));
    }

    #[test]
    fn what_admission_refuses_is_no_candidate() {
        let space = space(&[]).expect("no pins");
        let place = |key: &str| space.ladders.iter().position(|ladder| ladder.key.ends_with(key)).expect("a ladder");
        let mut candidate = space.current();
        candidate[place("/min-scale")] = space.ladders[place("/min-scale")].rungs.len() - 1;
        assert_eq!(space.entry("x", &candidate), None, "min-scale is over max-scale");
    }
}
