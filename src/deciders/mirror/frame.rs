//! What travels from an owner to a standby: protocol buffers, one [`Frame`] in one binary websocket message.
//!
//! A revision's name travels once; after that a number stands for it, for as long as the connection lasts or until the
//! owner begins afresh, which it does before it runs out of numbers.

use crate::deciders::log::News;
use crate::engine::written::{self, InputForm, RevisionForm};
use crate::units::{RevisionKey, Timestamp};
use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{decode_key, skip_field};
use std::collections::HashMap;

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
/// Numbers given out before the owner begins afresh.
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
    numbers: HashMap<RevisionKey, u32>,
    last: u32,
    begun: bool,
}

impl Writer {
    /// What is sent from now on does not build on what was sent.
    pub fn begin_afresh(&mut self) {
        self.numbers.clear();
        self.begun = false;
    }

    /// Whether it is time to begin afresh.
    pub fn is_full(&self) -> bool {
        self.numbers.len() >= MOST_NAMES - MOST_ITEMS
    }

    /// The frames that carry `news`; at least one, which then only says that we are here.
    pub fn write(&mut self, news: News) -> Vec<Bytes> {
        let mut frames = Vec::new();
        let mut frame = self.next(news.now);
        let mut length = 0;
        let mut items = 0;
        for (key, state) in news.states {
            let state = State { number: self.number(&key, &mut frame, &mut length), revision: Some(state) };
            length += state.encoded_len();
            items += 2;
            frame.states.push(state);
            if length >= ENOUGH || items >= MOST_ITEMS - 2 {
                frames.push(std::mem::replace(&mut frame, self.next(news.now)).encode_to_vec().into());
                (length, items) = (0, 0);
            }
        }
        for (key, input) in news.inputs {
            let number = self.number(&key, &mut frame, &mut length);
            let form = input.write(number, news.now);
            length += form.encoded_len() + 2;
            items += 2;
            frame.inputs.push(form);
            if length >= ENOUGH || items >= MOST_ITEMS - 2 {
                frames.push(std::mem::replace(&mut frame, self.next(news.now)).encode_to_vec().into());
                (length, items) = (0, 0);
            }
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

    fn number(&mut self, key: &RevisionKey, frame: &mut Frame, length: &mut usize) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        self.last = self.last.wrapping_add(1);
        self.numbers.insert(key.clone(), self.last);
        let name = Name { number: self.last, key: key.to_string() };
        *length += name.encoded_len() + 2;
        frame.names.push(name);
        self.last
    }
}
