//! A client that obeys the API server.
//!
//! An API server that has too much to do answers 429, or 5xx with `Retry-After`, and so says when to come back. That is
//! meant for everybody who sends in its name, so here a refusal of one request holds back the others too: a refused
//! write holds back all requests, a refused read the other reads. (Reads alone are refused while the server fills its
//! watch cache, which is no reason to keep a revision at zero.) Without a `Retry-After` the pause doubles from refusal
//! to refusal. Nothing is sent again here; who sent the request decides that.
//!
//! kube's own retry layer knows nothing of other requests, of dates in `Retry-After` or of urgency, and holds a refused
//! request for up to 1,000 s; so it must be off in the client given to [`Pace::client`], as [`connect`] makes it.

use crate::clock::Clock;
use crate::k8s::token;
use crate::units::{Span, Timestamp};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use kube::Client;
use kube::client::Body;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The longest pause taken from a `Retry-After`: a server that asks for more is asked again after this.
const LONGEST_ASKED: Span = Span::from_seconds(30);
/// The first pause after a refusal that says nothing of time …
const FIRST: Span = Span::from_millis(100);
/// … and the longest.
const LONGEST: Span = Span::from_seconds(5);
/// Requests in a row that the server did not answer, or answered with 502, 503 or 504, before all wait.
const MISSES: u32 = 5;

/// A client of the API server that leaves every retry to whoever sends.
///
/// # Errors
/// When the configuration names what cannot be read or used.
pub fn connect(mut config: kube::Config) -> kube::Result<Client> {
    config.default_retry = false;
    token::connect(config)
}

/// When requests may be sent. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Pace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    state: Mutex<State>,
    /// Changes when a pause begins or gets longer.
    began: watch::Sender<()>,
    throttled: AtomicU64,
    missed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    reads: Pause,
    writes: Pause,
    /// Requests in a row that went unanswered.
    misses: u32,
}

#[derive(Debug, Default)]
struct Pause {
    until: Timestamp,
    /// Pauses in a row without a request answered in between.
    refusals: u32,
}

/// What a request does, as far as the server tells its loads apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Changes nothing.
    Read,
    /// Changes something.
    Write,
}

impl Kind {
    fn of(method: &Method) -> Self {
        if *method == Method::GET || *method == Method::HEAD { Self::Read } else { Self::Write }
    }
}

impl Pace {
    /// No pause yet.
    pub fn new(clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                state: Mutex::default(),
                began: watch::Sender::new(()),
                throttled: AtomicU64::new(0),
                missed: AtomicU64::new(0),
            }),
        }
    }

    /// A client whose requests wait for the end of a pause and whose answers may begin one. `client` must not retry by
    /// itself.
    pub fn client(&self, client: Client) -> Client {
        let (namespace, valid_until) = (client.default_namespace().to_owned(), *client.valid_until());
        let pace = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (pace, client) = (pace.clone(), client.clone());
            async move {
                let kind = Kind::of(request.method());
                pace.clear(kind).await;
                let answer = client.send(request).await;
                match &answer {
                    Ok(response) => pace.note(kind, response),
                    Err(_) => pace.note_no_answer(),
                }
                answer
            }
        });
        Client::new(service, namespace).with_valid_until(valid_until)
    }

    /// Waits until nothing holds back requests of this kind.
    pub async fn clear(&self, kind: Kind) {
        while let Some(until) = self.paused_until(kind) {
            tokio::time::sleep_until(self.shared.clock.instant(until)).await;
        }
    }

    /// Until when requests of this kind are held back, if they are.
    pub fn paused_until(&self, kind: Kind) -> Option<Timestamp> {
        let now = self.shared.clock.now();
        let until = {
            let state = self.lock();
            match kind {
                Kind::Read => state.reads.until,
                Kind::Write => state.writes.until,
            }
        };
        (now < until).then_some(until)
    }

    /// Changes when a pause begins or gets longer.
    pub fn pauses(&self) -> watch::Receiver<()> {
        self.shared.began.subscribe()
    }

    /// How many requests were answered with 429, or with 5xx and a time to come back at.
    pub fn throttled(&self) -> u64 {
        self.shared.throttled.load(Ordering::Relaxed)
    }

    /// How many requests got no answer, or 502, 503 or 504.
    pub fn missed(&self) -> u64 {
        self.shared.missed.load(Ordering::Relaxed)
    }

    fn note<B>(&self, kind: Kind, response: &Response<B>) {
        let now = self.shared.clock.now();
        let status = response.status();
        let asked = retry_after(response.headers(), now);
        let refused = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() && asked.is_some();
        if refused {
            self.shared.throttled.fetch_add(1, Ordering::Relaxed);
            {
                let mut state = self.lock();
                if kind == Kind::Write {
                    state.writes.begin(now, asked);
                }
                state.reads.begin(now, asked);
            }
            self.shared.began.send_replace(());
            return;
        }
        if matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) {
            self.note_no_answer();
            return;
        }
        let mut state = self.lock();
        state.misses = 0;
        state.reads.refusals = 0;
        if kind == Kind::Write {
            state.writes.refusals = 0;
        }
    }

    fn note_no_answer(&self) {
        self.shared.missed.fetch_add(1, Ordering::Relaxed);
        let now = self.shared.clock.now();
        {
            let mut state = self.lock();
            state.misses = state.misses.saturating_add(1);
            if state.misses < MISSES {
                return;
            }
            state.writes.begin(now, None);
            state.reads.begin(now, None);
        }
        self.shared.began.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pause {
    /// Begins a pause, or lets the present one last longer. What was sent before it and is refused during it says
    /// nothing new, unless it names a later time.
    fn begin(&mut self, now: Timestamp, asked: Option<Span>) {
        let under_way = now < self.until;
        let length = match asked {
            // Never earlier than asked; later by a little, so that those refused together do not come back together.
            Some(asked) => jittered(asked.min(LONGEST_ASKED), 1.0, 1.1),
            None if under_way => return,
            None => jittered(back_off(FIRST, LONGEST, self.refusals), 0.5, 1.0),
        };
        if !under_way {
            self.refusals = self.refusals.saturating_add(1);
        }
        self.until = self.until.max(now + length);
    }
}

/// `first`, doubled `times` times, at most `longest`.
pub(crate) fn back_off(first: Span, longest: Span, times: u32) -> Span {
    Span::from_nanos(first.nanos().saturating_mul(1_i64 << times.min(30))).min(longest)
}

/// A random share between `from` and `to` of a length of time.
pub(crate) fn jittered(span: Span, from: f64, to: f64) -> Span {
    Span::from_std(span.to_std().mul_f64(from + (to - from) * rand::random::<f64>()))
}

/// How long the server asks to wait: seconds, or a date, counted from the server's own `Date` where there is one.
/// `None` when it does not say, says something else, or asks for no time at all.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Span> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse::<u64>() {
        Ok(seconds) => Span::from_seconds(i64::try_from(seconds).unwrap_or(i64::MAX)),
        // More digits than fit, which is a long time all the same.
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => LONGEST_ASKED,
        Err(_) => {
            let date = headers.get(header::DATE).and_then(|date| http_date(date.to_str().ok()?));
            http_date(text)?.since(date.unwrap_or(now))
        }
    };
    (asked > Span::ZERO).then_some(asked)
}

fn http_date(text: &str) -> Option<Timestamp> {
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp::from_seconds(date.as_second()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn answer(code: u16, retry_after: Option<&str>) -> Response<()> {
        let mut response = Response::builder().status(code);
        if let Some(text) = retry_after {
            response = response.header("retry-after", text);
        }
        response.body(()).expect("a response")
    }

    fn held_back(pace: &Pace, kind: Kind) -> Option<Span> {
        pace.paused_until(kind).map(|until| until.since(pace.shared.clock.now()))
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = Timestamp::from_seconds(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        let seconds = |text: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().expect("a header value"));
            if let Some(date) = date {
                headers.insert(header::DATE, date.parse().expect("a header value"));
            }
            retry_after(&headers, now).map(|span| span.nanos() / 1_000_000_000)
        };
        for (text, date, want) in [
            ("3", None, Some(3)),
            (" 1 ", None, Some(1)),
            ("0", None, None),
            ("-1", None, None),
            ("soon", None, None),
            ("", None, None),
            ("1.5", None, None),
            ("Sun, 06 Nov 1994 08:49:40 GMT", None, Some(3)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", None, None),
            // The server's clock is an hour ahead of ours; what counts is the difference of its own two times.
            ("Sun, 06 Nov 1994 09:49:42 GMT", Some("Sun, 06 Nov 1994 09:49:37 GMT"), Some(5)),
            ("99999999999999999999999999", None, Some(30)),
        ] {
            assert_eq!(seconds(text, date), want, "{text:?} {date:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_write_holds_back_everything_and_a_refused_read_only_reads() {
        let pace = Pace::new(Clock::starting_at(Timestamp::from_seconds(1_000)));
        pace.note(Kind::Read, &answer(429, Some("2")));
        assert!(held_back(&pace, Kind::Read).is_some_and(|left| left >= Span::from_seconds(2)));
        assert_eq!(held_back(&pace, Kind::Write), None);
        pace.note(Kind::Write, &answer(503, Some("4")));
        for kind in [Kind::Read, Kind::Write] {
            let left = held_back(&pace, kind).expect("a pause");
            assert!(Span::from_seconds(4) <= left && left <= Span::from_millis(4_400), "{left}");
        }
        let before = pace.shared.clock.now();
        pace.clear(Kind::Write).await;
        assert!(pace.shared.clock.now().since(before) >= Span::from_seconds(4));
        assert_eq!(pace.throttled(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_the_pause_doubles_from_refusal_to_refusal_and_an_answer_ends_the_row() {
        let pace = Pace::new(Clock::starting_at(Timestamp::from_seconds(1_000)));
        for longest in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            // A hundred refused at once are one refusal.
            for _ in 0..100 {
                pace.note(Kind::Write, &answer(429, None));
            }
            let left = held_back(&pace, Kind::Write).expect("a pause");
            assert!(Span::from_millis(longest / 2) <= left && left <= Span::from_millis(longest), "{longest}: {left}");
            pace.clear(Kind::Write).await;
        }
        pace.note(Kind::Write, &answer(200, None));
        pace.note(Kind::Write, &answer(429, None));
        assert!(held_back(&pace, Kind::Write).is_some_and(|left| left <= Span::from_millis(100)));
        tokio::time::advance(Duration::from_secs(1)).await;
        pace.note(Kind::Write, &answer(429, Some("99999")));
        assert!(held_back(&pace, Kind::Write).is_some_and(|left| left <= Span::from_seconds(33)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_is_not_hammered_and_one_bad_object_stops_nobody() {
        let pace = Pace::new(Clock::starting_at(Timestamp::from_seconds(1_000)));
        for _ in 0..100 {
            // A broken webhook, a conflict: answers, though not the ones hoped for.
            pace.note(Kind::Write, &answer(500, None));
            pace.note(Kind::Write, &answer(409, None));
        }
        for _ in 0..4 {
            pace.note_no_answer();
        }
        assert_eq!(held_back(&pace, Kind::Write), None);
        pace.note(Kind::Write, &answer(503, None));
        for kind in [Kind::Read, Kind::Write] {
            assert!(held_back(&pace, kind).is_some(), "{kind:?}");
        }
    }
}
