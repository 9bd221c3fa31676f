//! What would this configuration have done on this traffic?
//!
//! A discrete-event simulator around the production engine: each request is an event, and the scaler is not modelled but
//! run, under a virtual clock.
//!
//! ```text
//! scenario file ─► Scenario ─► Case (with its trace) ──┐
//! policies ────────────────────────────────────────────┼─► run ─► Outcome ─► statistics, report, tuner
//! seed ────────────────────────────────────────────────┘
//! ```
//!
//! # Reading order
//!
//! 1. [`time`], [`random`], [`law`]: instants, streams of chance, how long something takes.
//! 2. [`scenario`]: what is simulated, as it is written; [`trace`]: recorded traffic; [`case`](mod@case): both, ready to be run.
//! 3. [`arrivals`]: when requests come; [`queue`]: what happens next.
//! 4. [`world`]: the run itself; [`screen`]: the same with counts in place of requests; [`oracle`]: the floor below every
//!    policy; [`batch`]: many runs on several threads.
//! 5. [`histogram`], [`outcome`]: what came of it.
//! 6. [`stats`], [`mod@compare`]: how sure that is, and policies side by side; [`report`]: the page on it; [`tune`]: the
//!    search for a better configuration.
//! 7. [`replay`]: from what an autoscaler recorded to a case.
//!
//! # Invariants
//!
//! - A run is a function of (scenario, trace, policy, seed, version). It reads no clock, starts no thread, and iterates
//!   over nothing whose order is not its own. The same seed gives the same bytes, however many threads run cases.
//! - Streams of chance are separate by purpose, so two policies under one seed see the same arrivals and the same service
//!   time for the same request.
//! - Requests that came are those that were answered, failed or are still there; Little's law holds to the microsecond.
//! - Memory does not depend on how many requests there are, only on how many are there at a time.
//!
//! # Decisions
//!
//! - 2026-11: reports of queue-proxies are not scheduled. Each keeps account of the second that is open and closes it
//!   when its number changes or somebody reads, which costs nothing where nothing happens.
//! - 2026-11: what a request would have been in service without waiting (the demand) ends with its service wherever it
//!   began at once, which is nearly always; only the others have an event of their own for it.
//! - 2026-11: the need is judged by the scenario's own target for every policy, so that a candidate with another target
//!   is not judged by that.

pub mod arrivals;
pub mod batch;
pub mod case;
pub mod compare;
pub mod histogram;
pub mod law;
pub mod oracle;
pub mod outcome;
pub mod queue;
pub mod random;
pub mod replay;
pub mod report;
pub mod scenario;
pub mod screen;
pub mod stats;
pub mod time;
pub mod trace;
pub mod tune;
pub mod world;

pub use case::{Case, CaseError, Strain};
pub use outcome::Outcome;
pub use scenario::{Entry, Scenario};
pub use trace::{Reading, Trace, TraceError};
pub use world::{Detail, run};
