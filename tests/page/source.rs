//! Thousands of revisions behind a real admin port, without a cluster: what the page shows is put there by hand.

use ebb::api::pods::PodCounts;
use ebb::clock::Clock;
use ebb::engine::{Decision, Observed, Reason};
use ebb::observe::admin::{self, Inspect};
use ebb::observe::explain::Account;
use ebb::observe::feed::ScaleChange;
use ebb::observe::ledger::{Activation, Mark};
use ebb::observe::metrics::Registry;
use ebb::observe::plan::Plan;
use ebb::observe::ui::History;
use ebb::observe::ui::history::{EVERY, Sight};
use ebb::routing::gate;
use ebb::units::{Compat, RevisionKey, ScalingMetric, Span, Timestamp};
use serde_json::Value;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// An admin port. What it stands for ends with it.
pub(crate) struct Served {
    pub(crate) url: String,
    pub(crate) revisions: Arc<Revisions>,
    /// Cancelled, it answers no more.
    pub(crate) cancel: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Served {
    /// So many revisions, the first few of them in trouble of every kind, with a quarter of an hour behind them.
    pub(crate) async fn start(count: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let clock = Clock::system();
        let revisions = Arc::new(Revisions {
            count,
            clock,
            history: History::default(),
            registry: Registry::new(Compat::IMPROVED),
        });
        let looks: i64 = 450;
        let begin = clock.now() - Span::from_nanos(EVERY.nanos() * looks);
        for look in 0..=looks {
            revisions.look(begin + Span::from_nanos(EVERY.nanos() * look));
        }
        let cancel = CancellationToken::new();
        let inspect: Arc<dyn Inspect> = Arc::clone(&revisions) as Arc<dyn Inspect>;
        tokio::spawn(admin::serve(listener, inspect, cancel.clone()));
        Self { url: format!("http://{address}"), revisions, cancel }
    }
}

/// Revisions that are what their number says.
pub(crate) struct Revisions {
    count: usize,
    clock: Clock,
    history: History,
    registry: Registry,
}

impl Revisions {
    /// `team-03/shop-00042-00001` and so on.
    pub(crate) fn key(number: usize) -> RevisionKey {
        RevisionKey::new(&format!("team-{:02}", number % 17), &format!("shop-{number:05}-00001"))
    }

    /// A look at all of them.
    pub(crate) fn look(&self, at: Timestamp) {
        self.history.begin(at);
        self.history.note((0..self.count).map(|number| {
            let (decision, plan, pods) = Self::at(number, at);
            (Self::key(number), Sight::of(Some(&decision), Some(&plan), pods))
        }));
        self.history.end(0);
    }

    fn at(number: usize, at: Timestamp) -> (Decision, Plan, PodCounts) {
        // One in three has load, which goes up and down; the others are at zero.
        let phase = f64::from(u32::try_from(at.second().rem_euclid(600)).expect("less than 600")) / 600.0;
        let wave = (phase * std::f64::consts::TAU).sin();
        let size = f64::from(u32::try_from(number % 7).expect("a digit"));
        let load = if number.is_multiple_of(3) { (wave * 9.0 + 12.0 + size).max(0.0) } else { 0.0 };
        let wanted = if load > 0.0 { 1 + i32::from(load > 7.0) + i32::from(load > 14.0) } else { 0 };
        let mut pods = PodCounts { ready: usize::try_from(wanted).expect("small"), ..PodCounts::default() };
        let mut plan = Plan { at, want: Some(wanted), max: 20, proxied: number.is_multiple_of(2), ..Plan::default() };
        let mut decision = Decision {
            at,
            desired: wanted,
            excess_burst: -200,
            excess_burst_exact: -200.0,
            ready: wanted,
            observed: Observed { stable: load, panic: load * 1.1 },
            metric: ScalingMetric::Concurrency,
            target: 7.0,
            panicking_since: None,
            because: std::iter::once(Reason::StableTarget {
                metric: ScalingMetric::Concurrency,
                load,
                target: 7.0,
                wanted: f64::from(wanted),
            })
            .collect(),
        };
        match number {
            0 => "autoscaling.knative.dev/target: \"ten\" is not a number".clone_into(&mut plan.trouble),
            3 => {
                (pods.ready, pods.not_ready, pods.pending) = (0, 1, 1);
                "the image of its pods cannot be pulled".clone_into(&mut plan.stuck);
            }
            6 => (plan.max, decision.desired) = (wanted, wanted + 4),
            9 => decision.panicking_since = Some(at),
            12 => (pods.ready, pods.not_ready, pods.pending) = (0, 3, 2),
            15 => {
                // Once round every ten minutes.
                let turn =
                    usize::try_from(at.second().rem_euclid(600)).expect("less than 600") * gate::State::ALL.len() / 600;
                plan.gate = Some(gate::State::ALL[turn]);
            }
            _ => {}
        }
        (decision, plan, pods)
    }

    fn number(&self, key: &RevisionKey) -> Option<usize> {
        let number = key.name().split('-').nth(1)?.parse().ok().filter(|number| *number < self.count)?;
        (Self::key(number) == *key).then_some(number)
    }
}

impl Inspect for Revisions {
    fn not_ready(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn revisions(&self) -> Value {
        Value::Null
    }

    fn explain(&self, key: &RevisionKey, since: Span) -> Option<Account> {
        let number = self.number(key)?;
        let now = self.clock.now();
        let (decision, plan, pods) = Self::at(number, now);
        let change = |ago, from, to| ScaleChange {
            at: now - Span::from_seconds(ago),
            key: key.clone(),
            from,
            to,
            because: "10.5 requests in flight / target 7.0 = 2 pods".to_owned(),
        };
        Some(Account {
            key: key.clone(),
            at: now,
            source: "a test".to_owned(),
            spec: None,
            decision: Some(decision),
            plan: Some(plan),
            pods: Some(pods),
            scrape_error: None,
            changes: vec![change(200, 0, 1), change(100, 1, 2)],
            activations: vec![Activation::of(
                Mark::ALL.into_iter().zip(
                    [0, 2, 2, 7, 9, 1_020, 1_090, 1_092, 1_101]
                        .map(|millis| now - Span::from_seconds(200) + Span::from_millis(millis)),
                ),
            )],
            elsewhere: None,
            since,
            notes: Vec::new(),
        })
    }

    fn keys(&self) -> Vec<RevisionKey> {
        (0..self.count).map(Self::key).collect()
    }

    fn history(&self) -> &History {
        &self.history
    }

    fn metrics(&self) -> &Registry {
        &self.registry
    }
}
