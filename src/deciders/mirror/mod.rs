//! Fail-over without amnesia: a standby mirrors the windows and deciders of a bucket it does not own, and goes on with
//! them when it becomes the owner.
//!
//! ```text
//! owner                                                     standby
//! Deciders ─ log ─► serve ── websocket, one frame each 100 ms ──► Mirror ── activate ──► Deciders
//! ```
//!
//! The standby asks the holder of the bucket for `GET /ebb/v1/mirror?bucket=NAME&version=1` on the stat port and gets
//! the state of each of its revisions, then every input as it is applied. It applies them too, so its [`Mirror`] has the
//! owner's windows, panic, delays, ticks and published numbers bit for bit. It ticks, scrapes and writes nothing by
//! itself. Nobody can push a mirror into a replica: it is always the standby that connects, to the address the Lease
//! names.
//!
//! # What a fail-over costs
//!
//! - **A clean stop** costs no decision. The owner stops reconciling, then lets the bucket go: from that moment it
//!   neither records nor decides. It sends what is left and an end mark, the standby confirms, and only then is the
//!   Lease released. The standby goes on with the same ticks. Scrapes that were due in between count as the last good
//!   one ([`keep`](crate::engine::keep)), and the next one comes when it would have come.
//! - **A killed owner** costs what it had not sent, a tenth of a second of stats. The gap until the standby owns the bucket
//!   is filled likewise, and reports of activators wait for the new owner in the meantime, but not all are there in time
//!   for the first decision. So what was last wanted is kept until a stable window of load was seen, as by an owner that
//!   knows nothing ([`Compat::takeover_hold`](crate::units::Compat::takeover_hold)).
//! - **Without a usable mirror** the new owner starts as Knative's does, in panic for more than one ready pod, and keeps
//!   what was last wanted likewise.
//!
//! # When a mirror is not used
//!
//! When it is not complete, or nothing was heard for [`MOST_AGE`] before the takeover (a holder that is there sends
//! something each second), or the holder's clock is off by more than [`MOST_SKEW`], which would count seconds twice or
//! not at all. A frame that does not fit, by version, size, order or content, ends the connection and drops the mirror.
//! Each is counted and logged.
//!
//! A holder that is not an Ebb of this version does not offer the protocol: a Knative autoscaler takes the request for
//! an activator's and accepts it, or refuses it. Both are noticed before anything is sent, and it is asked again only
//! after [`ASK_AGAIN`](standby::ASK_AGAIN), or when the holder changes.
//!
//! Reading order: this file (the mirror itself), [`frame`] (what travels), [`serve`] (the owner's side), [`standby`].

pub mod frame;
pub mod serve;
pub mod standby;

use crate::engine::written::Refused;
use crate::engine::{Event, Input, Revision};
use crate::ownership::ring::Ring;
use crate::units::{Compat, RevisionKey, Span, Timestamp};
use frame::Frame;
use std::collections::HashMap;

/// How long ago the holder may have been heard of for its mirror to be used. The gap is filled with the last good scrapes;
/// beyond half of the usual stable window there would be more filling than data.
pub const MOST_AGE: Span = Span::from_seconds(30);
/// How long ago the holder may have been heard of for the reports since to be on their way here. A holder that stops says
/// so in its last words; one that is killed is waited for until its Lease has expired.
pub const HAND_OVER: Span = Span::from_seconds(2);
/// How far the holder's clock may be off.
pub const MOST_SKEW: Span = Span::SECOND;
/// Revisions of one bucket that are mirrored.
pub const MOST_REVISIONS: usize = 100_000;
/// Memory the windows and delays of one mirror may take: 100,000 revisions of one-minute windows take half of it.
pub const MOST_BYTES: usize = 256 << 20;

/// The windows and deciders of one bucket, as its owner has them.
#[derive(Debug)]
pub struct Mirror {
    bucket: usize,
    revisions: HashMap<RevisionKey, Revision>,
    names: HashMap<u32, RevisionKey>,
    bytes: usize,
    /// The holder's time of the last frame.
    time: Option<Timestamp>,
    /// When the last input was made.
    input: Option<Timestamp>,
    /// Our time when it arrived.
    heard: Timestamp,
    complete: bool,
    ended: bool,
}

/// Why a frame is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MirrorError {
    /// What is in it cannot be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A name that no revision can have.
    #[error("{0:?} is not the name of a revision")]
    Name(String),
    /// A revision of another bucket.
    #[error("revision {0} does not belong to the bucket")]
    Foreign(RevisionKey),
    /// A number nobody gave a name to.
    #[error("revision {0} has no name")]
    Unnamed(u32),
    /// Time went back.
    #[error("a frame is older than the one before")]
    Backwards,
    /// More than is kept in memory.
    #[error("more than {MOST_REVISIONS} revisions, or than {MOST_BYTES} bytes of windows and delays")]
    TooLarge,
    /// Another version of the protocol.
    #[error("version {0} is spoken there, and {version} here", version = frame::VERSION)]
    Version(u32),
    /// Something after the end.
    #[error("a frame after the end mark")]
    AfterTheEnd,
}

/// Why a mirror is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unusable {
    /// The holder had not sent every revision yet.
    #[error("it is not complete")]
    Incomplete,
    /// Nothing was heard for too long.
    #[error("nothing was heard of the holder for {0}; at most {MOST_AGE}")]
    Old(Span),
    /// The holder's clock is another.
    #[error("the holder's clock is off by {0}; at most {MOST_SKEW}")]
    Skewed(Span),
}

impl Mirror {
    /// Nothing is known yet of the bucket, by its index.
    pub fn new(bucket: usize, now: Timestamp) -> Self {
        Self {
            bucket,
            revisions: HashMap::new(),
            names: HashMap::new(),
            bytes: 0,
            time: None,
            input: None,
            heard: now,
            complete: false,
            ended: false,
        }
    }

    /// What this replica itself knew when it let the bucket go at `now`.
    pub fn of_our_own(bucket: usize, revisions: Vec<(RevisionKey, Revision)>, now: Timestamp) -> Self {
        let revisions = revisions.into_iter().collect();
        Self { revisions, time: Some(now), complete: true, ended: true, ..Self::new(bucket, now) }
    }

    /// Takes in what the holder sent, as it arrives at `now`.
    ///
    /// # Errors
    /// When it cannot be. The mirror is of no use then.
    pub fn take_in(&mut self, frame: Frame, now: Timestamp, ring: &Ring, compat: Compat) -> Result<(), MirrorError> {
        if frame.version != frame::VERSION {
            return Err(MirrorError::Version(frame.version));
        }
        if self.ended {
            return Err(MirrorError::AfterTheEnd);
        }
        let sent = Timestamp::from_nanos(frame.time);
        if self.time.is_some_and(|time| sent < time) {
            return Err(MirrorError::Backwards);
        }
        for frame::Name { number, key } in frame.names {
            let key: RevisionKey = key.parse().map_err(|_| MirrorError::Name(key))?;
            if key.as_str().len() > frame::MOST_KEY {
                return Err(MirrorError::Name(key.to_string()));
            }
            if ring.owner(key.as_str()) != self.bucket {
                return Err(MirrorError::Foreign(key));
            }
            self.names.insert(number, key);
            if self.names.len() > frame::MOST_NAMES {
                return Err(MirrorError::TooLarge);
            }
        }
        for state in frame.states {
            let key = self.names.get(&state.number).cloned().ok_or(MirrorError::Unnamed(state.number))?;
            let form = state.revision.unwrap_or_default();
            let revision = Revision::read(&form, sent, compat)?;
            self.put(key, revision)?;
        }
        // Inputs of one process never go back in time. The frame before may have been made later than the first of
        // these, since one look can be as many frames as it takes.
        for form in &frame.inputs {
            let input = Input::read(form, sent, self.input.unwrap_or(sent - MOST_AGE))?;
            self.input = Some(input.now);
            self.apply(form.revision, &input, compat)?;
        }
        self.time = Some(sent);
        self.heard = now;
        self.complete |= frame.complete;
        self.ended = frame.ended;
        Ok(())
    }

    /// Whether every revision was told of.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the holder has let the bucket go and this is all.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Revisions in it.
    pub fn len(&self) -> usize {
        self.revisions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// What is known of one revision.
    pub fn revision(&self, key: &RevisionKey) -> Option<&Revision> {
        self.revisions.get(key)
    }

    /// Whether load that was reported since can have been lost by `now`: the next owner had to wait for the bucket.
    pub fn is_lossy(&self, now: Timestamp) -> bool {
        now.since(self.heard) > HAND_OVER
    }

    /// Hands out the revisions at `now`, to be gone on with.
    ///
    /// # Errors
    /// When they had better not be.
    pub fn activate(self, now: Timestamp) -> Result<HashMap<RevisionKey, Revision>, Unusable> {
        self.usable(now).map(|()| self.revisions)
    }

    /// Whether the revisions could be gone on with at `now`.
    ///
    /// # Errors
    /// When they had better not be.
    pub fn usable(&self, now: Timestamp) -> Result<(), Unusable> {
        let Some(time) = self.time.filter(|_| self.complete) else { return Err(Unusable::Incomplete) };
        let age = now.since(self.heard);
        if age > MOST_AGE {
            return Err(Unusable::Old(age));
        }
        let skew = self.heard.since(time);
        if !(-MOST_SKEW.nanos() <= skew.nanos() && skew <= MOST_SKEW) {
            return Err(Unusable::Skewed(skew));
        }
        Ok(())
    }

    fn put(&mut self, key: RevisionKey, revision: Revision) -> Result<(), MirrorError> {
        self.bytes += revision.heap_bytes();
        if let Some(before) = self.revisions.insert(key, revision) {
            self.bytes -= before.heap_bytes();
        }
        self.within_bounds()
    }

    fn apply(&mut self, number: u32, input: &Input, compat: Compat) -> Result<(), MirrorError> {
        let key = self.names.get(&number).ok_or(MirrorError::Unnamed(number))?;
        let resizes =
            matches!(input.event, Event::Windows(_) | Event::NoWindows | Event::Decider { .. } | Event::NoDecider);
        if !resizes {
            if let Some(revision) = self.revisions.get_mut(key) {
                revision.apply(input, compat);
            }
            return Ok(());
        }
        let revision = self.revisions.entry(key.clone()).or_default();
        let before = revision.heap_bytes();
        revision.apply(input, compat);
        self.bytes = self.bytes + revision.heap_bytes() - before;
        if revision.is_empty() {
            self.revisions.remove(key);
        }
        self.within_bounds()
    }

    fn within_bounds(&self) -> Result<(), MirrorError> {
        let fits = self.revisions.len() <= MOST_REVISIONS && self.bytes <= MOST_BYTES;
        if fits { Ok(()) } else { Err(MirrorError::TooLarge) }
    }
}
