//! One watch: what is there already, if that was asked for, and then every change from the history, for as long as the
//! client reads.

use super::faults::Faults;
use super::object::{Happened, event_line};
use super::selector::Selector;
use super::status;
use super::store::{ShardId, Store};
use super::view::View;
use bytes::Bytes;
use futures::Stream;
use kube::core::Status;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Events read from the history at once; between such reads the store is free for others.
const BATCH: usize = 64;
/// How often a watch with bookmarks says how far it has come.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
/// How long a watch lasts when the client does not say; the real one draws from 30 to 60 minutes.
pub(super) const LASTS: Duration = Duration::from_mins(45);

/// What a client asks of a watch.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) selector: Selector,
    pub(super) view: View,
    pub(super) start: Start,
    pub(super) bookmarks: bool,
    pub(super) lasts: Duration,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// After this version.
    After(u64),
    /// With everything there is.
    Everything,
    /// With everything there is, and a bookmark behind it.
    EverythingMarked,
}

/// The lines of a watch. Ends after its time, when the client is too slow (with a 410), or when the store closes.
pub(super) fn lines(
    store: Arc<Store>,
    id: ShardId,
    wanted: Wanted,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let watching = Watching::begin(store, id, wanted);
    futures::stream::unfold(watching, |mut watching| async move {
        let line = watching.next().await?;
        Some((Ok(line), watching))
    })
}

struct Watching {
    store: Arc<Store>,
    id: ShardId,
    wanted: Wanted,
    /// Read up to here.
    version: u64,
    changed: watch::Receiver<u64>,
    dropped: watch::Receiver<(u64, Option<String>)>,
    qualified: String,
    ready: VecDeque<Bytes>,
    initial: std::vec::IntoIter<Arc<super::object::Object>>,
    initial_end: bool,
    first: bool,
    over: bool,
    ends_at: Instant,
    bookmark_at: Instant,
}

impl Watching {
    fn begin(store: Arc<Store>, id: ShardId, wanted: Wanted) -> Self {
        // Subscribed before the first look, so that nothing falls between.
        let changed = store.subscribe(id);
        let dropped = Faults::dropped(&store.faults);
        let (version, initial) = match wanted.start {
            Start::After(version) => (version, Vec::new()),
            Start::Everything | Start::EverythingMarked => store.list(id, &wanted.selector),
        };
        let now = store.clock.instant(store.clock.now());
        Self {
            version,
            changed,
            dropped,
            qualified: wanted.view.resource.qualified(),
            ready: VecDeque::new(),
            initial: initial.into_iter(),
            initial_end: wanted.start == Start::EverythingMarked,
            first: true,
            over: false,
            ends_at: now + wanted.lasts,
            bookmark_at: now + BOOKMARK_EVERY,
            store,
            id,
            wanted,
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            if let Some(object) = self.initial.next() {
                return Some(self.line(Happened::Added, &object));
            }
            if std::mem::take(&mut self.initial_end) {
                return Some(self.wanted.view.bookmark(self.version, true));
            }
            self.changed.borrow_and_update();
            match self.store.read_on(self.id, self.version, &self.wanted.selector, BATCH) {
                Err(expired) => {
                    self.over = true;
                    return Some(error_line(&expired));
                }
                Ok((version, seen)) => {
                    self.version = version;
                    for event in &seen {
                        let line = self.line(event.happened, &event.object);
                        self.ready.push_back(line);
                    }
                    if !seen.is_empty() {
                        continue;
                    }
                }
            }
            self.wait().await;
        }
    }

    /// Until there may be something to say.
    async fn wait(&mut self) {
        let bookmark = self.wanted.bookmarks.then_some(self.bookmark_at);
        let until = bookmark.map_or(self.ends_at, |bookmark| bookmark.min(self.ends_at));
        tokio::select! {
            changed = self.changed.changed() => self.over |= changed.is_err(),
            () = self.store.closing.cancelled() => self.over = true,
            dropped = self.dropped.changed() => {
                let of = self.dropped.borrow_and_update().1.clone();
                self.over |= dropped.is_err() || of.is_none_or(|of| of == self.qualified);
            }
            () = tokio::time::sleep_until(until) => {
                self.over = until == self.ends_at;
                if self.wanted.bookmarks {
                    self.ready.push_back(self.wanted.view.bookmark(self.version, false));
                    self.bookmark_at = until + BOOKMARK_EVERY;
                }
            }
        }
    }

    fn line(&mut self, happened: Happened, object: &super::object::Object) -> Bytes {
        let first = std::mem::take(&mut self.first);
        self.wanted.view.event(happened, object, first, self.store.clock.now())
    }
}

fn error_line(status: &Status) -> Bytes {
    event_line("ERROR", status::to_json(status).to_string().as_bytes())
}
