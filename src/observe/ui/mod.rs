//! The page: every revision at a glance, and one of them with its last hour on one time axis and the decisions beneath it
//! in words.
//!
//! | path | what |
//! |---|---|
//! | `/` | the page |
//! | `/ui/page.css`, `/ui/page.js`, `/ui/icon.svg` | its parts, by relative addresses, so that it works behind a port-forward and behind a proxy |
//! | `/ui/revisions?since=LOOK` | the rows of the list that changed since a look, or all |
//! | `/ui/revision/NAMESPACE/NAME?last=15m` | one revision: its account, as `ebb explain` tells it, and the points of its history |
//!
//! One page is one file of each kind, written by hand and part of the binary; nothing is fetched from elsewhere, and the
//! policy it is served with forbids it to.
//!
//! # Decisions
//!
//! 2026-11: The page asks every two seconds, which is how often revisions are decided on. A stream for each page would be
//! no fresher, and would have to be bounded, kept and given up; a question that is not asked costs nothing. A list of
//! 10,000 rows is sent once, then what changed in it; pages that ask for the same get the same bytes.

pub mod history;

pub use history::History;

use crate::api::conditions::to_jiff;
use crate::api::duration;
use crate::observe::admin::{Admin, USUAL_LAST, refused};
use crate::units::{RevisionKey, Span, Timestamp};
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use history::{EVERY, LONGEST, News, Point, Row, Sight};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// What a page may do: run its own script, use its own style, ask where it came from.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The shortest time that is drawn.
const SHORTEST: Span = Span::from_seconds(60);
/// Lists that are kept for whoever asks for the same: of pages that missed one look, or two.
const MOST_LISTS: usize = 4;

pub(in crate::observe) fn routes() -> Router<Admin> {
    let part = |kind: &'static str, text: &'static str| get(move || async move { asset(kind, text) });
    Router::new()
        .route("/", part("text/html; charset=utf-8", include_str!("page.html")))
        .route("/ui/page.css", part("text/css; charset=utf-8", include_str!("page.css")))
        .route("/ui/page.js", part("text/javascript; charset=utf-8", include_str!("page.js")))
        .route("/ui/icon.svg", part("image/svg+xml", include_str!("icon.svg")))
        .route("/ui/revisions", get(revisions))
        .route("/ui/revision/{namespace}/{name}", get(revision))
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 6] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
        // Another version of the autoscaler has another page.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}

fn data(json: Bytes) -> Response {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, json).into_response()
}

/// Answers of the list that were made already.
#[derive(Debug, Default)]
pub(in crate::observe) struct Lists {
    made: Mutex<VecDeque<(Asked, Bytes)>>,
}

/// What a list is of: rows changed since one look, as of another.
type Asked = (u64, u64);

impl Lists {
    fn find(&self, asked: Asked) -> Option<Bytes> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter().find(|(of, _)| *of == asked).map(|(_, list)| list.clone())
    }

    fn keep(&self, asked: Asked, list: &Bytes) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.truncate(MOST_LISTS - 1);
        made.push_front((asked, list.clone()));
    }
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn revisions(State(admin): State<Admin>, asked: Result<Query<Since>, QueryRejection>) -> Response {
    let Ok(Query(Since { since })) = asked else {
        return refused(StatusCode::BAD_REQUEST, "since is not the number of a look; leave it out for all revisions");
    };
    let (lists, inspect) = (Arc::clone(&admin.lists), Arc::clone(&admin.inspect));
    let look = inspect.history().look();
    if let Some(list) = lists.find((since, look)) {
        return data(list);
    }
    let make = move || {
        let history = inspect.history();
        // Somebody may have made it meanwhile.
        let list = lists.find((since, history.look())).unwrap_or_else(|| {
            let news = history.since(since);
            let look = news.look;
            let list = list(news);
            lists.keep((since, look), &list);
            list
        });
        data(list)
    };
    admin.heavy.make(make).await
}

/// The rows as the page reads them. What is not rounded goes out as it is kept: 32 bits, in as few digits as tell it.
#[derive(Serialize)]
struct List<'r> {
    look: u64,
    at: i64,
    every: i64,
    whole: bool,
    elsewhere: usize,
    rows: Vec<Line<'r>>,
}

/// Key, state, pods wanted, ready and not ready, both loads, target, flags, when the pods wanted changed.
type Line<'r> = (&'r str, &'static str, u16, u16, u16, f32, f32, f32, u8, i64);

fn list(mut news: News) -> Bytes {
    news.rows.sort_by(|one, other| one.key.cmp(&other.key));
    let list = List {
        look: news.look,
        at: millis(news.at),
        every: millis_of(EVERY),
        whole: news.whole,
        elsewhere: news.elsewhere,
        rows: news.rows.iter().map(line).collect(),
    };
    bytes(&list)
}

fn line(row: &Row) -> Line<'_> {
    let Row { key, sight, turned } = row;
    let Sight { stable, panic, target, wanted, ready, not_ready, state, flags } = *sight;
    (key.as_str(), state.word(), wanted, ready, not_ready, stable, panic, target, flags, millis(*turned))
}

fn bytes(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("numbers and texts").into()
}

#[derive(Deserialize)]
struct Last {
    last: Option<String>,
}

async fn revision(
    State(admin): State<Admin>,
    Path((namespace, name)): Path<(String, String)>,
    asked: Result<Query<Last>, QueryRejection>,
) -> Response {
    let last = match asked {
        Ok(Query(Last { last: None })) => Ok(USUAL_LAST),
        Ok(Query(Last { last: Some(last) })) => read(&last),
        Err(error) => Err(error.body_text()),
    };
    let last = match last {
        Ok(last) => last,
        Err(why) => return refused(StatusCode::BAD_REQUEST, &why),
    };
    let key = RevisionKey::new(&namespace, &name);
    let Some(account) = admin.inspect.explain(&key, last) else { return admin.unknown(key).await };
    let mut points = admin.inspect.history().points(&key, account.at - last).unwrap_or_default();
    // As of this answer rather than of the last look, so that all of the page is of one moment.
    points.pop();
    let sight = Sight::of(account.decision.as_ref(), account.plan.as_ref(), account.pods.unwrap_or_default());
    points.push(Point { at: account.at, sight });
    let points = Columns::of(&points);
    data(bytes(&One { every: millis_of(EVERY), account: account.json(), points }))
}

/// A length of time that can be drawn.
fn read(last: &str) -> Result<Span, String> {
    match duration::parse(last) {
        Ok(last) if SHORTEST <= last && last <= LONGEST => Ok(last),
        Ok(_) => Err(format!(
            "last={last} cannot be drawn; the page knows from {SHORTEST} to {LONGEST}. What is older is in the journal, if \
             there is one: ebb explain NAMESPACE/NAME --journal DIR --at TIME"
        )),
        Err(_) => Err(format!("last={last} is not a length of time; write it as 15m or 1h")),
    }
}

/// One revision as the page reads it.
#[derive(Serialize)]
struct One {
    every: i64,
    account: Value,
    points: Columns,
}

/// One array for each thing that is drawn.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Columns {
    at: Vec<i64>,
    stable: Vec<f32>,
    panic: Vec<f32>,
    target: Vec<f32>,
    wanted: Vec<u16>,
    ready: Vec<u16>,
    not_ready: Vec<u16>,
    state: Vec<&'static str>,
    flags: Vec<u8>,
}

impl Columns {
    fn of(points: &[Point]) -> Self {
        let mut columns = Self::default();
        for Point { at, sight } in points {
            columns.at.push(millis(*at));
            columns.stable.push(sight.stable);
            columns.panic.push(sight.panic);
            columns.target.push(sight.target);
            columns.wanted.push(sight.wanted);
            columns.ready.push(sight.ready);
            columns.not_ready.push(sight.not_ready);
            columns.state.push(sight.state.word());
            columns.flags.push(sight.flags);
        }
        columns
    }
}

/// Milliseconds since 1970, as scripts count.
fn millis(at: Timestamp) -> i64 {
    to_jiff(at).as_millisecond()
}

fn millis_of(span: Span) -> i64 {
    span.nanos() / 1_000_000
}
