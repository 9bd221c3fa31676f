//! What the controller made of a decision, for whoever explains it.

use crate::api::pods::PodCounts;
use crate::routing::gate;
use crate::units::Timestamp;

/// What became of a revision's last decision.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// When it was made.
    pub at: Timestamp,
    /// Pods wanted within the bounds; `None` when that is not known yet.
    pub want: Option<i32>,
    /// Pods the scale target was asked for before, where this plan asked for another number.
    pub from: Option<i32>,
    /// The bound that changed the number, in words; empty when none did.
    pub bound: String,
    /// What held the last pod or let it go, in words; empty when there was nothing to hold.
    pub zero: String,
    /// The fewest pods the settings allow.
    pub min: i32,
    /// The most; 0 is any number.
    pub max: i32,
    /// Whether the activator is to be in the path.
    pub proxied: bool,
    /// Where it is on its way to zero and back through a load balancer; `None` where no rule of one leads to it.
    pub gate: Option<gate::State>,
    /// Pods by state.
    pub pods: PodCounts,
    /// What keeps it from having the pods it wants, or from losing the last one, in words; empty when nothing is known to.
    pub stuck: String,
    /// What somebody should mend, such as an annotation that cannot be used; empty when nothing.
    pub trouble: String,
    /// What the autoscaler this one runs beside wants otherwise, in words; empty where there is none, or the two agree.
    pub differs: String,
}

impl Plan {
    /// Whether it says something else than the one before, whenever either was made.
    pub fn differs_from(&self, before: &Self) -> bool {
        // A change of scale is news even if the next one is the same.
        self.from.is_some() || Self { at: before.at, from: before.from, ..self.clone() } != *before
    }

    /// The plan as it is written down.
    pub fn write(&self) -> PlanForm {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        PlanForm {
            at: self.at.nanos(),
            want: self.want,
            from: self.from,
            bound: self.bound.clone(),
            zero: self.zero.clone(),
            min: self.min,
            max: self.max,
            proxied: self.proxied,
            ready: count(self.pods.ready),
            not_ready: count(self.pods.not_ready),
            pending: count(self.pods.pending),
            terminating: count(self.pods.terminating),
            trouble: self.trouble.clone(),
            stuck: self.stuck.clone(),
            differs: self.differs.clone(),
            gate: self.gate.map_or("", gate::State::word).to_owned(),
        }
    }

    /// The plan that was written down.
    pub fn read(form: PlanForm) -> Self {
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            at: Timestamp::from_nanos(form.at),
            want: form.want,
            from: form.from,
            bound: form.bound,
            zero: form.zero,
            min: form.min,
            max: form.max,
            proxied: form.proxied,
            pods: PodCounts {
                ready: count(form.ready),
                not_ready: count(form.not_ready),
                pending: count(form.pending),
                terminating: count(form.terminating),
            },
            trouble: form.trouble,
            stuck: form.stuck,
            differs: form.differs,
            gate: gate::State::read(&form.gate),
        }
    }
}

/// A [`Plan`] as a protocol buffer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[expect(missing_docs, reason = "each is the field of the same name in `Plan`")]
pub struct PlanForm {
    #[prost(sfixed64, tag = "1")]
    pub at: i64,
    #[prost(sint32, optional, tag = "2")]
    pub want: Option<i32>,
    #[prost(sint32, optional, tag = "3")]
    pub from: Option<i32>,
    #[prost(string, tag = "4")]
    pub bound: String,
    #[prost(string, tag = "5")]
    pub zero: String,
    #[prost(sint32, tag = "6")]
    pub min: i32,
    #[prost(sint32, tag = "7")]
    pub max: i32,
    #[prost(bool, tag = "8")]
    pub proxied: bool,
    #[prost(uint32, tag = "9")]
    pub ready: u32,
    #[prost(uint32, tag = "10")]
    pub not_ready: u32,
    #[prost(uint32, tag = "11")]
    pub pending: u32,
    #[prost(uint32, tag = "12")]
    pub terminating: u32,
    #[prost(string, tag = "13")]
    pub trouble: String,
    #[prost(string, tag = "14")]
    pub stuck: String,
    #[prost(string, tag = "15")]
    pub differs: String,
    #[prost(string, tag = "16")]
    pub gate: String,
}
