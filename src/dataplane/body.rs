//! Bodies as they pass through: streamed frame by frame, never collected.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// Any error at all, as bodies report theirs.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request or response body: frames of data, then perhaps trailers.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// `body` behind the one type used on the data path.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

/// No bytes.
pub fn empty() -> Body {
    boxed(Empty::new())
}

/// These bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    boxed(Full::new(bytes.into()))
}

/// A short plain answer.
pub fn text(status: StatusCode, message: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(message));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// All of a short body; `None` when it is longer than `limit` bytes or breaks off.
pub(crate) async fn read_short<B>(mut body: B, limit: usize) -> Option<Vec<u8>>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            if all.len() + data.len() > limit {
                return None;
            }
            all.extend_from_slice(&data);
        }
    }
    Some(all)
}

/// A request body on its way to a backend, which can be had back as long as no frame of it was taken.
///
/// The HTTP client consumes what it is given even when its connection turns out to be dead; this keeps the body on our
/// side, so that the same request can go to another pod.
pub(crate) enum Outgoing {
    /// There is no body; it can be sent any number of times.
    Nothing,
    /// The body, shared with [`Spare`].
    Shared(Arc<Mutex<Source>>),
}

/// The other end of an [`Outgoing`].
pub(crate) enum Spare {
    /// There was no body.
    Nothing,
    /// The body, if it is still whole.
    Shared(Arc<Mutex<Source>>),
}

pub(crate) struct Source {
    body: Option<Body>,
    touched: bool,
}

impl Outgoing {
    /// Wraps `body`.
    pub(crate) fn new(body: Body) -> Self {
        if body.is_end_stream() {
            Self::Nothing
        } else {
            Self::Shared(Arc::new(Mutex::new(Source { body: Some(body), touched: false })))
        }
    }

    /// A handle by which the body can be had back.
    pub(crate) fn spare(&self) -> Spare {
        match self {
            Self::Nothing => Spare::Nothing,
            Self::Shared(source) => Spare::Shared(Arc::clone(source)),
        }
    }
}

impl Spare {
    /// The body, unless a frame of it was taken.
    pub(crate) fn recover(self) -> Option<Outgoing> {
        match self {
            Self::Nothing => Some(Outgoing::Nothing),
            Self::Shared(source) => {
                let whole = {
                    let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
                    if source.touched { None } else { source.body.take() }
                };
                // A new source, so that a poll through the old wrapper cannot reach it any more.
                whole.map(Outgoing::new)
            }
        }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self::Shared(source) = self.get_mut() else { return Poll::Ready(None) };
        let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(body) = &mut source.body else {
            return Poll::Ready(Some(Err("the request body went to another connection".into())));
        };
        let polled = Pin::new(body).poll_frame(context);
        if polled.is_ready() {
            source.touched = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Shared(source) => {
                let source = source.lock().unwrap_or_else(PoisonError::into_inner);
                source.body.as_ref().is_none_or(http_body::Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Shared(source) => {
                let source = source.lock().unwrap_or_else(PoisonError::into_inner);
                source.body.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
            }
        }
    }
}

/// A body that keeps something alive until it has ended or was given up.
pub(crate) struct Guarded<B, G> {
    body: B,
    guard: Option<G>,
    at_end: fn(G),
}

impl<B, G> Guarded<B, G> {
    /// `body`, with `guard` dropped when it is over. A body that ended as it should hands the guard to `at_end`.
    pub(crate) fn new(body: B, guard: G, at_end: fn(G)) -> Self {
        Self { body, guard: Some(guard), at_end }
    }

    fn ended(&mut self) {
        if let Some(guard) = self.guard.take() {
            (self.at_end)(guard);
        }
    }
}

impl<B, G> http_body::Body for Guarded<B, G>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
    G: Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = std::task::ready!(Pin::new(&mut this.body).poll_frame(context));
        Poll::Ready(match polled {
            None => {
                this.ended();
                None
            }
            Some(Err(error)) => {
                this.guard = None;
                Some(Err(error.into()))
            }
            Some(Ok(frame)) => {
                if this.body.is_end_stream() {
                    this.ended();
                }
                Some(Ok(frame))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B, G> Guarded<B, G>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    /// The same body when it has more to give; when it is over already the guard is done with at once.
    pub(crate) fn settled(mut self) -> Self {
        if self.body.is_end_stream() {
            self.ended();
        }
        self
    }
}
