//! What will happen: a heap ordered by time, then class, then the order in which it was foreseen.
//!
//! An entry is one 128-bit number, so that ordering is one comparison:
//!
//! ```text
//! time, µs (50 bits) | class (4) | sequence (34) | kind (8) | argument (32)
//! ```

use super::time::Micros;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Breaks ties between things of one instant. Arrivals come after all of them and are not in the heap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// A request is done, or given up.
    Completion,
    /// A pod changes.
    Pod,
    /// An activator reports.
    Report,
    /// Pods are scraped.
    Scrape,
    /// The scaler ticks.
    Tick,
    /// Something that was decided takes effect.
    Control,
}

/// A thing that will happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The service of a request ends, one way or another.
    Done(u32),
    /// Somebody who waits may have lost patience.
    Patience(Queue),
    /// A caller tries a request again.
    Retry(u32),
    /// The demand of a request that is served late ends.
    Demand,
    /// A pod gets a node.
    Scheduled(u32),
    /// A pod is ready, or its start fails.
    Started(u32),
    /// An activator's probe of a pod succeeds.
    Probed(u32),
    /// The endpoints have a pod.
    Published(u32),
    /// The endpoints have a pod no more.
    Withdrawn(u32),
    /// A stopping pod may be done.
    Drained(u32),
    /// A stopping pod's grace period is over.
    Killed(u32),
    /// A pod is lost with its requests.
    Lost(u32),
    /// An activator reports.
    Report(u32),
    /// The pods are scraped.
    Scrape,
    /// What was scraped or reported arrives late.
    Metrics,
    /// The scaler looks.
    Tick,
    /// The controller looks again.
    Look,
    /// The number of pods that was wanted reaches whoever makes them.
    Replicas,
    /// The ingress follows a change of mode.
    Mode,
    /// A line of the series is written.
    Sample,
    /// A cell of requests that are only counted ends.
    Cell,
}

/// A queue whose members lose patience in the order they came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// By the caller's patience.
    Caller,
    /// By the revision's, at the activator.
    Activator,
    /// By the revision's, at the queue-proxy.
    QueueProxy,
}

impl Event {
    fn class(self) -> Class {
        match self {
            Self::Done(_) | Self::Patience(_) | Self::Retry(_) | Self::Demand | Self::Cell => Class::Completion,
            Self::Scheduled(_)
            | Self::Started(_)
            | Self::Probed(_)
            | Self::Published(_)
            | Self::Withdrawn(_)
            | Self::Drained(_)
            | Self::Killed(_)
            | Self::Lost(_) => Class::Pod,
            Self::Report(_) => Class::Report,
            Self::Scrape | Self::Metrics => Class::Scrape,
            Self::Tick => Class::Tick,
            Self::Look | Self::Replicas | Self::Mode | Self::Sample => Class::Control,
        }
    }

    fn code(self) -> u64 {
        let (kind, argument) = match self {
            Self::Done(request) => (0, request),
            Self::Patience(Queue::Caller) => (1, 0),
            Self::Patience(Queue::Activator) => (1, 1),
            Self::Patience(Queue::QueueProxy) => (1, 2),
            Self::Retry(request) => (2, request),
            Self::Demand => (3, 0),
            Self::Scheduled(pod) => (4, pod),
            Self::Started(pod) => (5, pod),
            Self::Probed(pod) => (6, pod),
            Self::Published(pod) => (7, pod),
            Self::Withdrawn(pod) => (8, pod),
            Self::Drained(pod) => (9, pod),
            Self::Killed(pod) => (10, pod),
            Self::Lost(pod) => (11, pod),
            Self::Report(activator) => (12, activator),
            Self::Scrape => (13, 0),
            Self::Metrics => (14, 0),
            Self::Tick => (15, 0),
            Self::Look => (16, 0),
            Self::Replicas => (17, 0),
            Self::Mode => (18, 0),
            Self::Sample => (19, 0),
            Self::Cell => (20, 0),
        };
        kind << 32 | u64::from(argument)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the argument is the lower half")]
    fn decode(code: u64) -> Self {
        let argument = code as u32;
        match code >> 32 {
            0 => Self::Done(argument),
            1 => Self::Patience(match argument {
                0 => Queue::Caller,
                1 => Queue::Activator,
                _ => Queue::QueueProxy,
            }),
            2 => Self::Retry(argument),
            3 => Self::Demand,
            4 => Self::Scheduled(argument),
            5 => Self::Started(argument),
            6 => Self::Probed(argument),
            7 => Self::Published(argument),
            8 => Self::Withdrawn(argument),
            9 => Self::Drained(argument),
            10 => Self::Killed(argument),
            11 => Self::Lost(argument),
            12 => Self::Report(argument),
            13 => Self::Scrape,
            14 => Self::Metrics,
            15 => Self::Tick,
            16 => Self::Look,
            17 => Self::Replicas,
            18 => Self::Mode,
            19 => Self::Sample,
            _ => Self::Cell,
        }
    }
}

const CODE_BITS: u32 = 40;
const SEQUENCE_BITS: u32 = 34;
const CLASS_BITS: u32 = 4;

/// Everything foreseen.
#[derive(Debug, Default)]
pub struct Agenda {
    heap: BinaryHeap<Reverse<u128>>,
    sequence: u64,
}

impl Agenda {
    /// Foresees `event` at an instant.
    #[inline]
    pub fn add(&mut self, at: Micros, event: Event) {
        let sequence = self.sequence & ((1 << SEQUENCE_BITS) - 1);
        self.sequence += 1;
        let head = (u128::from(at) << CLASS_BITS | event.class() as u128) << SEQUENCE_BITS | u128::from(sequence);
        self.heap.push(Reverse(head << CODE_BITS | u128::from(event.code())));
    }

    /// When the next thing happens.
    #[inline]
    pub fn next_at(&self) -> Option<Micros> {
        self.heap.peek().map(|Reverse(entry)| time_of(*entry))
    }

    /// Takes the next thing out.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the code is the lower part")]
    pub fn pop(&mut self) -> Option<(Micros, Event)> {
        let Reverse(entry) = self.heap.pop()?;
        Some((time_of(entry), Event::decode(entry as u64 & ((1 << CODE_BITS) - 1))))
    }
}

fn time_of(entry: u128) -> Micros {
    (entry >> (CODE_BITS + SEQUENCE_BITS + CLASS_BITS)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_of_one_instant_keep_the_order_of_their_classes_and_then_their_own() {
        let mut agenda = Agenda::default();
        let later = [
            Event::Sample,
            Event::Tick,
            Event::Scrape,
            Event::Report(3),
            Event::Started(1),
            Event::Scheduled(7),
            Event::Done(u32::MAX),
            Event::Patience(Queue::QueueProxy),
        ];
        for event in later {
            agenda.add(5, event);
        }
        agenda.add(4, Event::Mode);
        agenda.add(1 << 49, Event::Demand);
        let order: Vec<_> = std::iter::from_fn(|| agenda.pop()).collect();
        assert_eq!(order.first(), Some(&(4, Event::Mode)));
        let five: Vec<_> = order[1..9].iter().map(|(at, event)| (*at, *event)).collect();
        assert_eq!(
            five,
            [
                (5, Event::Done(u32::MAX)),
                (5, Event::Patience(Queue::QueueProxy)),
                (5, Event::Started(1)),
                (5, Event::Scheduled(7)),
                (5, Event::Report(3)),
                (5, Event::Scrape),
                (5, Event::Tick),
                (5, Event::Sample),
            ]
        );
        assert_eq!(order.last(), Some(&(1 << 49, Event::Demand)));
    }
}
