//! The pure core: stats in, a decision out.
//!
//! No async, no clock, no logging, no Kubernetes, no randomness; whoever calls passes `now`. The same calls give the
//! same decisions bit for bit, live, in replay and in simulation. Recording and deciding never allocate.
//!
//! Reading order:
//!
//! 1. [`spec`]: what is asked; [`decision`]: what is answered, and why.
//! 2. [`window`] and [`average`]: load over time; [`collection`]: the four windows of a revision.
//! 3. [`decider`]: from averages to a number of pods, with [`mod@panic`], [`delay`] and [`burst`].
//! 4. [`keep`]: what is kept while the load is not known.
//! 5. [`revision`]: all of it for one revision, driven by inputs, with [`cadence`] and what is [`published`];
//!    [`written`]: that state and those inputs as bytes.
//! 6. [`forecast`]: a floor under that number from what the load did before, for revisions that ask for one.
//! 7. [`bounds`] and [`zero`]: from that number to the one that is applied.
//! 8. [`subset`]: how many activators a revision gets, and which.

pub mod average;
pub mod bounds;
pub mod burst;
pub mod cadence;
pub mod collection;
pub mod decider;
pub mod decision;
pub mod delay;
pub mod forecast;
pub mod keep;
pub mod panic;
pub mod published;
pub mod revision;
pub mod spec;
pub mod subset;
pub mod window;
pub mod written;
pub mod zero;

pub use bounds::Bounds;
pub use collection::{Collection, Load, NoData};
pub use decider::Decider;
pub use decision::{Decision, Observed, Print, Reason};
pub use revision::{Applied, Event, Input, Revision};
pub use spec::{MetricSpec, Spec};
pub use window::Window;
