//! When an exchange is given up.

use crate::dataplane::body::{self, Body, BoxError};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep, timeout};

/// When requests are given up with a 504.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// `REVISION_TIMEOUT_SECONDS`: the whole exchange, waiting in line included.
    pub request: Duration,
    /// `REVISION_RESPONSE_START_TIMEOUT_SECONDS`: until the response begins; 0 is none.
    pub response_start: Option<Duration>,
    /// `REVISION_IDLE_TIMEOUT_SECONDS`: the longest silence, before the response and within it; 0 is none.
    pub idle: Option<Duration>,
}

impl Default for Timeouts {
    /// Knative's: five minutes for the whole exchange.
    fn default() -> Self {
        Self { request: Duration::from_mins(5), response_start: None, idle: None }
    }
}

/// The exchange took too long and no response had begun: a 504.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedOut;

impl Timeouts {
    /// Gives `exchange` up when it takes too long. A response that has begun is cut off, never ended as if it were
    /// whole. `count` is told once in either case. A connection that was upgraded is left alone.
    pub async fn keep<E>(
        self,
        exchange: impl Future<Output = Result<Response<Body>, E>>,
        count: impl FnOnce() + Send + Unpin + 'static,
    ) -> Result<Result<Response<Body>, E>, TimedOut> {
        let mut deadline = Box::pin(sleep(self.request));
        // Silence before the response counts as silence too.
        let start_within = [self.response_start, self.idle].into_iter().flatten().min();
        let exchange = async {
            match start_within {
                Some(length) => timeout(length, exchange).await.map_err(|_| TimedOut),
                None => Ok(exchange.await),
            }
        };
        let answered = tokio::select! {
            answered = exchange => answered,
            () = deadline.as_mut() => Err(TimedOut),
        };
        match answered {
            Ok(Ok(response)) if response.status() != StatusCode::SWITCHING_PROTOCOLS => {
                Ok(Ok(response.map(|body| body::boxed(Watched::new(body, deadline, self.idle, count)))))
            }
            Ok(other) => Ok(other),
            Err(TimedOut) => {
                count();
                Err(TimedOut)
            }
        }
    }
}

/// A response that is given up when the exchange takes too long or is silent for too long.
struct Watched<C> {
    body: Option<Body>,
    deadline: Pin<Box<Sleep>>,
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    count: Option<C>,
}

impl<C> Watched<C> {
    fn new(body: Body, deadline: Pin<Box<Sleep>>, idle: Option<Duration>, count: C) -> Self {
        let idle = idle.map(|length| (length, Box::pin(sleep(length))));
        Self { body: Some(body), deadline, idle, count: Some(count) }
    }
}

impl<C: FnOnce() + Unpin> http_body::Body for Watched<C> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            if let Some((length, silence)) = &mut this.idle {
                silence.set(sleep(*length));
            }
            return Poll::Ready(frame);
        }
        let over = this.deadline.as_mut().poll(context).is_ready()
            || this.idle.as_mut().is_some_and(|(_, silence)| silence.as_mut().poll(context).is_ready());
        if !over {
            return Poll::Pending;
        }
        // Ends the exchange with the user's process, and gives back what it held, at once.
        this.body = None;
        if let Some(count) = this.count.take() {
            count();
        }
        Poll::Ready(Some(Err("the exchange took too long".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}
