//! Answers that are large, or take long to put together: all metrics, all revisions.
//!
//! They are made on threads of their own, two at a time, so that whoever looks is not felt by what decides. And there are
//! never more than [`MOST_ANSWERS`] of them in memory, however many ask and however slowly they read: who finds no place in
//! time is told to ask again, and who does not read to the end in time is cut off.

use crate::observe::metrics::{Page, Source, count};
use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};

/// Answers made at once.
const MOST_MADE: usize = 2;
/// Answers in memory at once. With 10,000 revisions the longest, all metrics, has some tens of megabytes.
pub const MOST_ANSWERS: usize = 8;
/// How long a request waits for a place.
const WAIT: Duration = Duration::from_secs(5);
/// How long a client may take to read an answer, at however many bytes a second.
const READ: Duration = Duration::from_secs(30);
/// How much of an answer is handed on at once.
const PIECE: usize = 64 << 10;

/// Where such answers are made. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(in crate::observe) struct Heavy {
    making: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    /// Requests that were told to ask again.
    refused: Arc<AtomicU64>,
}

impl Default for Heavy {
    fn default() -> Self {
        Self {
            making: Arc::new(Semaphore::new(MOST_MADE)),
            answers: Arc::new(Semaphore::new(MOST_ANSWERS)),
            refused: Arc::default(),
        }
    }
}

/// Of the admin port: nobody but Prometheus has business at the other one.
impl Source for Heavy {
    fn show(&self, page: &mut Page<'_>) {
        page.counter(
            "ebb_admin_answers_refused_total",
            "Requests for all metrics or all revisions at the admin port that were told to ask again, because too many such \
             answers were still being read.",
            count(&self.refused),
        );
    }
}

impl Heavy {
    /// Makes an answer once there is a place for it.
    pub(in crate::observe) async fn make(&self, answer: impl FnOnce() -> Response + Send + 'static) -> Response {
        let Ok(place) = timeout(WAIT, Arc::clone(&self.answers).acquire_owned()).await else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let again = [(header::RETRY_AFTER, HeaderValue::from_static("5"))];
            let why = "too many answers are being read; ask again in a few seconds\n";
            return (StatusCode::SERVICE_UNAVAILABLE, again, why).into_response();
        };
        let place = place.expect("the semaphore is never closed");
        let turn = Arc::clone(&self.making).acquire_owned().await.expect("the semaphore is never closed");
        let made = tokio::task::spawn_blocking(move || {
            let answer = answer();
            drop(turn);
            answer
        });
        let Ok(answer) = made.await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
        let (head, body) = answer.into_parts();
        // It is all there, so nothing is waited for.
        let Ok(rest) = to_bytes(body, usize::MAX).await else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        Response::from_parts(head, Body::new(Answer { rest, until: Box::pin(sleep(READ)), _place: place }))
    }
}

/// An answer that keeps its place until it is read.
struct Answer {
    rest: Bytes,
    until: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if self.until.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let piece = PIECE.min(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::units::Span;
    use http_body_util::BodyExt as _;

    async fn large(heavy: &Heavy) -> Response {
        heavy.make(|| "x".repeat(1 << 20).into_response()).await
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_are_not_read_keep_their_places_and_others_are_told() {
        let heavy = Heavy::default();
        let mut unread = Vec::new();
        for _ in 0..MOST_ANSWERS {
            unread.push(large(&heavy).await);
        }
        let clock = Clock::system();
        let began = clock.now();
        let refused = large(&heavy).await;
        assert_eq!((refused.status(), count(&heavy.refused)), (StatusCode::SERVICE_UNAVAILABLE, 1));
        // Timers are exact to the millisecond.
        let waited = clock.now().since(began);
        assert!(Span::from_std(WAIT) <= waited && waited <= Span::from_std(WAIT) + Span::from_millis(1), "{waited}");
        // Whoever waits gets the place of the first that goes.
        let (answer, ()) = tokio::join!(large(&heavy), async {
            sleep(WAIT / 2).await;
            drop(unread.pop());
        });
        let read = answer.into_body().collect().await.expect("read in time").to_bytes();
        assert_eq!(read.len(), 1 << 20);
        // One piece every few seconds is too slow.
        drop(unread);
        let mut slow = large(&heavy).await.into_body();
        let mut pieces = 0;
        let error = loop {
            sleep(Duration::from_secs(9)).await;
            match slow.frame().await.expect("it is not over") {
                Ok(_) => pieces += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(pieces, 3, "{error}");
    }
}
