//! The messages on the wire: protocol buffers, package `metrics`, as Knative's activator and queue-proxy write them.
//!
//! Text fields are bytes here, because the reference does not check them for UTF-8 and a name that is not text must
//! not cost us the numbers beside it.
//!
//! A message that decodes is not yet one to believe: see [`Stat::check`].

use crate::engine::Load;
use crate::units::RevisionKey;
use bytes::{Buf as _, Bytes};
use prost::Message as _;
use prost::encoding::{DecodeContext, decode_key, message, skip_field};
use std::borrow::Cow;

/// The most bytes of a scrape answer that are read: five doubles and a varint with their tags, and a pod name.
pub const MOST_SCRAPE_BODY: usize = 6 * 10 + 256 + 20;

/// The most messages of one frame that are kept in memory at once. A frame with more is refused: at two bytes for an
/// empty message, a frame of the greatest size would otherwise grow a hundredfold when decoded.
pub const MOST_MESSAGES: usize = 50_000;

/// The largest load one reporter is believed to have. A window keeps a running total, so a value near the largest
/// double would leave it wrong (or infinite) for ever; at this bound what rounding leaves is below the sixth decimal.
pub const MOST_LOAD: f64 = 1e9;

/// The load one reporter saw during one second.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stat {
    /// Who reports: a pod's name. Not necessarily UTF-8; see [`Stat::pod`].
    #[prost(bytes = "bytes", tag = "1")]
    pub pod_name: Bytes,
    /// Requests in flight, averaged over the second.
    #[prost(double, tag = "2")]
    pub average_concurrent_requests: f64,
    /// The part of these that came through an activator.
    #[prost(double, tag = "3")]
    pub average_proxied_concurrent_requests: f64,
    /// Requests that arrived in the second.
    #[prost(double, tag = "4")]
    pub request_count: f64,
    /// The part of these that came through an activator.
    #[prost(double, tag = "5")]
    pub proxied_request_count: f64,
    /// Seconds since the reporter started. Scrapes only.
    #[prost(double, tag = "6")]
    pub process_uptime: f64,
    /// Unix seconds; 0 asks the receiver to fill it in.
    #[prost(int64, tag = "7")]
    pub timestamp: i64,
}

impl Stat {
    /// The reporter's name, with what is not UTF-8 replaced.
    pub fn pod(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.pod_name)
    }

    /// What the reporter saw.
    pub fn load(&self) -> Load {
        Load {
            concurrency: self.average_concurrent_requests,
            proxied_concurrency: self.average_proxied_concurrent_requests,
            requests: self.request_count,
            proxied_requests: self.proxied_request_count,
        }
    }

    /// Whether the numbers can be load: finite, not negative, at most [`MOST_LOAD`].
    ///
    /// One negative number is legitimate. An activator announces a first request at once and takes it off the count of
    /// its next report, so `request_count` may be as low as −1.
    pub fn check(&self) -> Result<(), BadValue> {
        let fields = [
            ("average_concurrent_requests", self.average_concurrent_requests, 0.0),
            ("average_proxied_concurrent_requests", self.average_proxied_concurrent_requests, 0.0),
            ("request_count", self.request_count, -1.0),
            ("proxied_request_count", self.proxied_request_count, 0.0),
            ("process_uptime", self.process_uptime, 0.0),
        ];
        for (field, value, least) in fields {
            // Written so that NaN fails.
            if !(least <= value && value <= MOST_LOAD) {
                return Err(BadValue { field, value, least });
            }
        }
        Ok(())
    }
}

/// A number that no reporter can have measured.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
#[error("{field} is {value}; a stat has numbers from {least} to {MOST_LOAD:e}")]
pub struct BadValue {
    /// The field's name on the wire.
    pub field: &'static str,
    /// What it holds.
    pub value: f64,
    /// The least it may be.
    pub least: f64,
}

/// The load of one revision at one reporter.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireStatMessage {
    /// The revision's namespace.
    #[prost(bytes = "bytes", tag = "1")]
    pub namespace: Bytes,
    /// The revision's name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// Its load; a message without is skipped.
    #[prost(message, optional, tag = "3")]
    pub stat: Option<Stat>,
}

impl WireStatMessage {
    /// The stat of one revision.
    pub fn new(key: &RevisionKey, stat: Stat) -> Self {
        Self {
            namespace: Bytes::copy_from_slice(key.namespace().as_bytes()),
            name: Bytes::copy_from_slice(key.name().as_bytes()),
            stat: Some(stat),
        }
    }
}

/// One frame of the stat websocket.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireStatMessages {
    /// In the order they were reported.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<WireStatMessage>,
}

/// The number of [`WireStatMessages::messages`].
const MESSAGES: u32 = 1;

/// Bytes that are not the message they should be.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not this protocol buffer message.
    #[error("not a protocol buffer of the expected type")]
    Malformed(#[from] prost::DecodeError),
    /// More messages than one frame may carry.
    #[error("more than {MOST_MESSAGES} messages in one frame")]
    TooMany,
}

/// The frame that carries `messages`.
pub fn encode_batch(messages: Vec<WireStatMessage>) -> Bytes {
    WireStatMessages { messages }.encode_to_vec().into()
}

/// The messages of a frame, all or none.
pub fn decode_frame(mut frame: Bytes) -> Result<Vec<WireStatMessage>, DecodeError> {
    // As the derived `WireStatMessages::decode` does it, but counting.
    let context = DecodeContext::default();
    let mut messages = Vec::new();
    while frame.has_remaining() {
        let (field, wire_type) = decode_key(&mut frame)?;
        if field == MESSAGES {
            if messages.len() == MOST_MESSAGES {
                return Err(DecodeError::TooMany);
            }
            let mut message = WireStatMessage::default();
            message::merge(wire_type, &mut message, &mut frame, context.clone())?;
            messages.push(message);
        } else {
            skip_field(wire_type, field, &mut frame, context.clone())?;
        }
    }
    Ok(messages)
}

/// The stat in the body of a scrape answer, of which no more than [`MOST_SCRAPE_BODY`] bytes are looked at, as the
/// reference does: a longer one is cut, which almost always makes it undecodable.
pub fn decode_scrape(body: &[u8]) -> Result<Stat, DecodeError> {
    Ok(Stat::decode(&body[..body.len().min(MOST_SCRAPE_BODY)])?)
}
