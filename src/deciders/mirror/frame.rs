//! What travels from an owner to a standby: protocol buffers, one [`Frame`] in one binary websocket message.
//!
//! A revision's name travels once; after that a number stands for it, for as long as the connection lasts or until the
//! owner begins afresh, which it does before there are more of them than a standby keeps.

use crate::deciders::log::News;
use crate::engine::written::{self, InputForm, RevisionForm};
use crate::units::{Numbered, Timestamp};
use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{decode_key, skip_field};

/// The version of the protocol. It changes with that of what is written, and whenever frames change otherwise than by an
/// additional field that may be left out.
pub const VERSION: u32 = written::VERSION;
/// Where an owner is asked, on its stat port.
pub const PATH: &str = "/ebb/v1/mirror";
/// The websocket protocol, by which an owner that understands the question is told from any other stat server.
pub const PROTOCOL: &str = "ebb.mirror.v1";
/// The longest frame: one revision with four windows of a day takes 2.8 MiB.
pub const MOST_FRAME: usize = 4 << 20;
/// Names, states and inputs in one frame.
pub const MOST_ITEMS: usize = 20_000;
/// Names told before the owner begins afresh.
pub const MOST_NAMES: usize = 200_000;
/// The longest `NAMESPACE/NAME`.
pub const MOST_KEY: usize = 2 * 253 + 1;
/// From this length on states and inputs go to the next frame.
const ENOUGH: usize = 256 << 10;

/// One message of an owner to a standby.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Frame {
    /// [`VERSION`].
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The owner's time, in nanoseconds since 1970; nothing in the frame is later.
    #[prost(sfixed64, tag = "2")]
    pub time: i64,
    /// Whether all that was sent before is void, because inputs were lost.
    #[prost(bool, tag = "3")]
    pub afresh: bool,
    /// New numbers.
    #[prost(message, repeated, tag = "4")]
    pub names: Vec<Name>,
    /// States of revisions that were not told of before.
    #[prost(message, repeated, tag = "5")]
    pub states: Vec<State>,
    /// Inputs, in the order they acted, after the states.
    #[prost(message, repeated, tag = "6")]
    pub inputs: Vec<InputForm>,
    /// Whether every revision has been told of.
    #[prost(bool, tag = "7")]
    pub complete: bool,
    /// Whether this is the last frame, because the owner has let the bucket go.
    #[prost(bool, tag = "8")]
    pub ended: bool,
}

/// The number that stands for a revision from now on.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Name {
    /// The number.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// `NAMESPACE/NAME`.
    #[prost(string, tag = "2")]
    pub key: String,
}

/// The state of one revision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct State {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Its state.
    #[prost(message, optional, tag = "2")]
    pub revision: Option<RevisionForm>,
}

/// Bytes that are not a frame.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Not a protocol buffer of this type.
    #[error("not a frame of a mirror")]
    Malformed(#[from] prost::DecodeError),
    /// Too long.
    #[error("a frame of {0} bytes; at most {MOST_FRAME} are read")]
    TooLong(usize),
    /// Too much in it.
    #[error("more than {MOST_ITEMS} names, states and inputs in one frame")]
    TooMany,
}

impl Frame {
    /// The frame in `bytes`.
    ///
    /// # Errors
    /// When there is none, or one beyond the bounds. Nothing is allocated for what is in it before that is known.
    pub fn read(bytes: &Bytes) -> Result<Self, FrameError> {
        if bytes.len() > MOST_FRAME {
            return Err(FrameError::TooLong(bytes.len()));
        }
        // An empty message takes two bytes there and some hundred here.
        let mut rest = bytes.clone();
        let mut items = 0;
        while !rest.is_empty() {
            let (field, wire_type) = decode_key(&mut rest)?;
            skip_field(wire_type, field, &mut rest, prost::encoding::DecodeContext::default())?;
            items += 1;
            if items > MOST_ITEMS + 8 {
                return Err(FrameError::TooMany);
            }
        }
        Ok(Self::decode(bytes.clone())?)
    }
}

/// Writes one connection's frames.
#[derive(Debug, Default)]
pub struct Writer {
    names: usize,
    begun: bool,
}

impl Writer {
    /// What is sent from now on does not build on what was sent.
    pub fn begin_afresh(&mut self) {
        self.names = 0;
        self.begun = false;
    }

    /// Whether it is time to begin afresh.
    pub fn is_full(&self) -> bool {
        self.names >= MOST_NAMES - MOST_ITEMS
    }

    /// The frames that carry `news`; at least one, which then only says that we are here.
    pub fn write(&mut self, news: News) -> Vec<Bytes> {
        let mut frames = Vec::new();
        let mut frame = self.next(news.now);
        let (mut length, mut items) = (0, 0);
        let mut add = |frame: &mut Frame, this: &mut Self, bytes: usize, more: usize| {
            (length, items) = (length + bytes, items + more);
            if length >= ENOUGH || items >= MOST_ITEMS - 2 {
                frames.push(std::mem::replace(frame, this.next(news.now)).encode_to_vec().into());
                (length, items) = (0, 0);
            }
        };
        for (name, state) in news.states {
            let state = State { number: name.number, revision: Some(state) };
            let bytes = self.name(&name, &mut frame) + state.encoded_len();
            frame.states.push(state);
            add(&mut frame, self, bytes, 2);
        }
        for (name, state) in news.begun {
            let mut bytes = self.name(&name, &mut frame);
            if let Some(state) = state {
                let state = State { number: name.number, revision: Some(state) };
                bytes += state.encoded_len();
                frame.states.push(state);
            }
            add(&mut frame, self, bytes, 2);
        }
        for (number, input) in news.inputs {
            let form = input.write(number, news.now);
            let bytes = form.encoded_len() + 2;
            frame.inputs.push(form);
            add(&mut frame, self, bytes, 1);
        }
        frame.complete = news.complete;
        frame.ended = news.ended;
        frames.push(frame.encode_to_vec().into());
        frames
    }

    fn next(&mut self, now: Timestamp) -> Frame {
        let afresh = !std::mem::replace(&mut self.begun, true);
        Frame { version: VERSION, time: now.nanos(), afresh, ..Frame::default() }
    }

    /// Adds a name and says how long it is.
    fn name(&mut self, Numbered { number, key }: &Numbered, frame: &mut Frame) -> usize {
        self.names += 1;
        let name = Name { number: *number, key: key.to_string() };
        let length = name.encoded_len() + 2;
        frame.names.push(name);
        length
    }
}
