//! The simulator: against closed forms, against itself, and through its command.

mod closed_form;
mod input;
mod laws;
mod library;
mod predictive;
mod recordings;
mod report;
mod robust;
mod screen;
mod tune;

use ebb::sim::law::Written;
use ebb::sim::scenario::{Entry, Fixed, Load, Rate, Synthetic};
use ebb::sim::time::Length;
use ebb::sim::{Case, Scenario};

/// A world in which everything that is not asked for takes no time: requests at `rate` a second that take as long as
/// `service` says, to `pods` pods that take `limit` each.
fn plain(rate: f64, service: Written, limit: u32, duration: Length) -> Scenario {
    let nothing = || Written::constant(Length(0));
    let mut scenario = Scenario {
        name: "plain".to_owned(),
        duration: Some(duration),
        load: Load {
            synthetic: Some(Synthetic { poisson: Some(Rate { rate }), ..Synthetic::default() }),
            service: Some(service),
            ..Load::default()
        },
        ..Scenario::default()
    };
    scenario.revision.container_concurrency = limit;
    scenario.revision.timeout_seconds = 100_000;
    let world = &mut scenario.world;
    world.activators = 1;
    world.startup.schedule = nothing();
    world.startup.start = nothing();
    world.startup.application = nothing();
    world.startup.readiness_period = Length(0);
    world.ingress.endpoint_propagation = nothing();
    world.api_latency = nothing();
    world.activator_probe = Length(1);
    scenario
}

/// A policy of always so many pods.
fn fixed(pods: u32, activator: bool) -> Entry {
    Entry { name: "fixed".to_owned(), fixed: Some(Fixed { pods, activator }), ..Entry::default() }
}

/// The scenario with this policy, ready to be run.
fn case(mut scenario: Scenario, policy: &Entry) -> Case {
    scenario.policies = vec![policy.clone()];
    assert_eq!(scenario.check(), Vec::new());
    Case::new(scenario, None).expect("a case")
}
