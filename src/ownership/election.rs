//! What a candidate does about a Lease: pure, the rules of Kubernetes' client-go.
//!
//! A record is respected for as long as *it* says (`leaseDurationSeconds`), counted by our own clock from the moment we
//! first saw it. The times written in it are for people; a clock that is wrong by years elects as well as any other.
//! Every write is refused by the API server if the Lease has changed since we saw it, so acting on an old sighting
//! costs a conflict and nothing else.

use crate::api::conditions::to_jiff;
use crate::units::{Span, Timestamp};
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// What a candidate signs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its signature.
    pub identity: String,
    /// How long it asks the others to respect its signature. Leases count in whole seconds, so a part of one is rounded
    /// up: others must never come before we have let go.
    pub lease_duration: Span,
}

/// What to do next.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// There is no Lease; make this one.
    Create(LeaseSpec),
    /// It is free, or ours: write this.
    Update(LeaseSpec),
    /// It is another's, at least until then.
    Wait(Timestamp),
}

impl Candidate {
    /// What to do about a record that has not changed since `seen` (our clock); `None` when there is no Lease.
    pub fn step(&self, record: Option<(&LeaseSpec, Timestamp)>, now: Timestamp) -> Step {
        let Some((record, seen)) = record else { return Step::Create(self.signed(now, None, 0)) };
        let transitions = record.lease_transitions.unwrap_or(0);
        if self.holds(record) {
            return Step::Update(self.signed(now, record.acquire_time.clone(), transitions));
        }
        let expires = expires(record, seen);
        if holder(record).is_some() && now < expires {
            return Step::Wait(expires);
        }
        Step::Update(self.signed(now, None, transitions.saturating_add(1)))
    }

    /// Whether a record bears our signature.
    pub fn holds(&self, record: &LeaseSpec) -> bool {
        holder(record) == Some(&self.identity)
    }

    /// A record given up: free at once for everybody.
    pub fn released(record: &LeaseSpec, now: Timestamp) -> LeaseSpec {
        let now = MicroTime(to_jiff(now));
        LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(record.lease_transitions.unwrap_or(0)),
            ..LeaseSpec::default()
        }
    }

    fn signed(&self, now: Timestamp, acquired: Option<MicroTime>, transitions: i32) -> LeaseSpec {
        let now = MicroTime(to_jiff(now));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.lease_duration.seconds_up()).unwrap_or(i32::MAX)),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

/// Who signed a record; an empty signature is nobody's.
pub fn holder(record: &LeaseSpec) -> Option<&str> {
    record.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// When a record that has not changed since `seen` stops being respected.
pub fn expires(record: &LeaseSpec, seen: Timestamp) -> Timestamp {
    seen + Span::from_seconds(record.lease_duration_seconds.unwrap_or(0).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_seconds(second)
    }

    fn record(holder: Option<&str>, seconds: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            lease_transitions: Some(7),
            // Clocks of others may show anything.
            acquire_time: Some(MicroTime(to_jiff(at(5_000_000)))),
            renew_time: Some(MicroTime(to_jiff(at(-5_000_000)))),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_candidate_acquires_renews_and_waits_as_client_go_does() {
        let us = Candidate { identity: "a_10.0.0.1".into(), lease_duration: Span::from_seconds(15) };
        // What is done, and of a signature: how many transitions, and when it says it was acquired.
        let signed = |step: &Step| match step {
            Step::Create(spec) | Step::Update(spec) => {
                assert_eq!(spec.holder_identity.as_deref(), Some("a_10.0.0.1"));
                assert_eq!(spec.lease_duration_seconds, Some(15));
                assert_eq!(spec.renew_time, Some(MicroTime(to_jiff(at(NOW)))));
                let acquired = spec.acquire_time.clone().expect("always written");
                (spec.lease_transitions, acquired.0.as_second())
            }
            Step::Wait(_) => panic!("{step:?}"),
        };
        let created = us.step(None, at(NOW));
        assert!(matches!(created, Step::Create(_)));
        assert_eq!(signed(&created), (Some(0), NOW));

        for (name, record, seen, want) in [
            ("ours is renewed, however old", record(Some("a_10.0.0.1"), Some(15)), 1, (7, 5_000_000)),
            ("released", record(Some(""), Some(1)), NOW, (8, NOW)),
            ("never held", record(None, None), NOW, (8, NOW)),
            ("expired this very moment", record(Some("b_10.0.0.2"), Some(15)), NOW - 15, (8, NOW)),
            ("expired long ago", record(Some("b_10.0.0.2"), Some(15)), 1, (8, NOW)),
            ("of no duration", record(Some("b_10.0.0.2"), None), NOW, (8, NOW)),
        ] {
            let step = us.step(Some((&record, at(seen))), at(NOW));
            assert!(matches!(step, Step::Update(_)), "{name}: {step:?}");
            let (transitions, acquired) = want;
            assert_eq!(signed(&step), (Some(transitions), acquired), "{name}");
        }
        for (name, seconds, seen, until) in [
            ("held, seen just now", 15, NOW, NOW + 15),
            ("held, a moment before it expires", 15, NOW - 14, NOW + 1),
            ("its own duration counts, not ours", 3600, NOW - 60, NOW + 3540),
        ] {
            let step = us.step(Some((&record(Some("b_10.0.0.2"), Some(seconds)), at(seen))), at(NOW));
            assert_eq!(step, Step::Wait(at(until)), "{name}");
        }
    }

    #[test]
    fn a_released_record_is_free_and_keeps_count() {
        let spec = Candidate::released(&record(Some("a_10.0.0.1"), Some(15)), at(NOW));
        assert_eq!(holder(&spec), None);
        assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(1), Some(7)));
        assert_eq!((&spec.acquire_time, &spec.renew_time), (&Some(MicroTime(to_jiff(at(NOW)))), &spec.acquire_time));
    }

    #[test]
    fn parts_of_a_second_are_rounded_up() {
        let us = Candidate { identity: "a_10.0.0.1".into(), lease_duration: Span::from_millis(1_500) };
        let Step::Create(spec) = us.step(None, at(NOW)) else { panic!("there is no Lease") };
        assert_eq!(spec.lease_duration_seconds, Some(2));
    }
}
