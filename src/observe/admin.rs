//! The admin port: health, readiness, the present state as JSON, profiles, and the page. It serves nothing that changes state.
//!
//! Whoever looks must not be felt by what decides. What takes longer than some microseconds to put together is made apart
//! and bounded in memory by [`heavy`](crate::observe::heavy), connections and slow readers are bounded by [`mod@serve`].

use crate::api::duration;
use crate::observe::explain::{Account, unknown};
use crate::observe::heavy::Heavy;
use crate::observe::metrics::{Registry, server};
use crate::observe::profile::{self, Turn};
use crate::observe::serve::{self, Limits, Served};
use crate::observe::ui::{self, History};
use crate::units::{RevisionKey, Span};
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRef, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the admin port asks of the process.
pub trait Inspect: Send + Sync + 'static {
    /// The parts that are not ready yet, by name; none when all are.
    fn not_ready(&self) -> Vec<&'static str>;
    /// Every revision with its last decision, sorted by name.
    fn revisions(&self) -> Value;
    /// Why a revision has the pods it has, with the changes in the time `since`; `None` where it is not known.
    fn explain(&self, key: &RevisionKey, since: Span) -> Option<Account>;
    /// The revisions that are known.
    fn keys(&self) -> Vec<RevisionKey>;
    /// What revisions looked like in the last hour.
    fn history(&self) -> &History;
    /// How a shadow agrees with the running autoscaler; nothing where there is no shadow.
    fn shadow(&self) -> Option<Value> {
        None
    }
    /// Whether profiles may be taken now.
    fn profiling(&self) -> bool {
        false
    }
    /// What is counted; shown at `/metrics` here too, where it needs no setting.
    fn metrics(&self) -> &Registry;
}

/// Connections open at once. A browser has up to six for each page, and few people look at once.
const MOST_CONNECTIONS: usize = 512;
/// How long a client may take to send the head of a request, waiting idle included: long enough for a page between two
/// looks.
const HEAD: Duration = Duration::from_secs(30);

/// What the routes work with.
#[derive(Clone)]
pub(in crate::observe) struct Admin {
    pub(in crate::observe) inspect: Arc<dyn Inspect>,
    pub(in crate::observe) heavy: Heavy,
    pub(in crate::observe) lists: Arc<ui::Lists>,
    pub(in crate::observe) profiles: Turn,
}

impl FromRef<Admin> for Arc<dyn Inspect> {
    fn from_ref(admin: &Admin) -> Self {
        Arc::clone(&admin.inspect)
    }
}

/// The routes.
pub fn router(inspect: Arc<dyn Inspect>) -> Router {
    routes(inspect, Heavy::default())
}

fn routes(inspect: Arc<dyn Inspect>, heavy: Heavy) -> Router {
    let admin = Admin { inspect, heavy, lists: Arc::default(), profiles: profile::turn() };
    Router::new()
        .merge(ui::routes())
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/revisions", get(revisions))
        .route("/explain/{namespace}/{name}", get(explain))
        .route("/shadow", get(shadow))
        .route("/metrics", get(metrics))
        .route("/debug/pprof/", get(profile::index))
        .route("/debug/pprof/{*profile}", get(profile::profile))
        .fallback(nothing_there)
        .with_state(admin)
}

/// Serves the admin port until `cancel`.
pub async fn serve(listener: TcpListener, inspect: Arc<dyn Inspect>, cancel: CancellationToken) {
    let (served, heavy) = (Arc::<Served>::default(), Heavy::default());
    inspect.metrics().register(Arc::clone(&served));
    inspect.metrics().register(heavy.clone());
    let limits = Limits { connections: MOST_CONNECTIONS, head: HEAD, unread: serve::UNREAD };
    serve::serve(listener, routes(inspect, heavy), limits, served, cancel).await;
}

async fn ready(State(inspect): State<Arc<dyn Inspect>>) -> Response {
    let missing = inspect.not_ready();
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    let mut text = String::new();
    for part in missing {
        writeln!(text, "not ready: {part}").expect("writing to a string");
    }
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    server::answer(admin.inspect.metrics().clone(), &admin.heavy, &headers).await
}

async fn nothing_there() -> Response {
    refused(
        StatusCode::NOT_FOUND,
        "nothing is here; there are / (the page), /explain/NAMESPACE/REVISION, /revisions, /metrics, /healthz and /readyz",
    )
}

/// What `/explain` is asked for.
#[derive(Deserialize)]
struct Question {
    /// `text` or `json`.
    format: Option<String>,
    /// How far back changes are told of, such as `15m`.
    last: Option<String>,
    /// A moment, of which only a journal knows.
    at: Option<String>,
}

/// How far back changes are told of unless it is said.
pub const USUAL_LAST: Span = Span::from_seconds(15 * 60);

async fn explain(
    State(admin): State<Admin>,
    Path((namespace, name)): Path<(String, String)>,
    question: Result<Query<Question>, QueryRejection>,
) -> Response {
    let question = match question {
        Ok(Query(question)) => question,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    if let Some(at) = question.at {
        let why = format!(
            "at={at}: a running autoscaler explains the present; what was then is in its journal, if it keeps one: ebb explain \
             {namespace}/{name} --journal DIR --at TIME"
        );
        return refused(StatusCode::BAD_REQUEST, &why);
    }
    let last = question.last.as_deref();
    let since = match last.map(duration::parse) {
        None => USUAL_LAST,
        Some(Ok(since)) if since > Span::ZERO => since,
        Some(_) => {
            let last = last.unwrap_or_default();
            let why = format!("last={last} is not a length of time from 1ns; write it as 15m or 1h30m");
            return refused(StatusCode::BAD_REQUEST, &why);
        }
    };
    let key = RevisionKey::new(&namespace, &name);
    let Some(account) = admin.inspect.explain(&key, since) else { return admin.unknown(key).await };
    match question.format.as_deref() {
        Some("json") => axum::Json(account.json()).into_response(),
        None | Some("text") => account.text().into_response(),
        Some(format) => refused(StatusCode::BAD_REQUEST, &format!("format={format} is neither text nor json")),
    }
}

/// A refusal with its reason.
pub(in crate::observe) fn refused(status: StatusCode, why: &str) -> Response {
    (status, format!("{why}\n")).into_response()
}

impl Admin {
    /// That there is no such revision, and what is called nearly so.
    pub(in crate::observe) async fn unknown(&self, key: RevisionKey) -> Response {
        let inspect = Arc::clone(&self.inspect);
        self.heavy.make(move || refused(StatusCode::NOT_FOUND, &unknown(&key, &inspect.keys()))).await
    }
}

async fn shadow(State(inspect): State<Arc<dyn Inspect>>) -> Response {
    match inspect.shadow() {
        Some(report) => axum::Json(report).into_response(),
        None => (StatusCode::NOT_FOUND, "this is no shadow; start one with: ebb run --shadow\n").into_response(),
    }
}

async fn revisions(State(admin): State<Admin>) -> Response {
    let inspect = Arc::clone(&admin.inspect);
    admin.heavy.make(move || axum::Json(inspect.revisions()).into_response()).await
}
