//! A proxy in front of an API server of before 1.21, which serves EndpointSlices as `v1beta1` only: whoever goes through
//! it sees them as `v1`, which is what Ebb speaks. Nothing else is changed, who asks neither.

use crate::World;
use crate::plane::{ADMIN, Plane};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use kube::Client;
use serde_json::json;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

const NEW_PATH: &str = "/apis/discovery.k8s.io/v1/";
const OLD_PATH: &str = "/apis/discovery.k8s.io/v1beta1/";
const NEW_VERSION: &str = "\"discovery.k8s.io/v1\"";
const OLD_VERSION: &str = "\"discovery.k8s.io/v1beta1\"";

/// How clients reach a control plane: straight, unless something must be done to what they say.
pub(crate) struct Front<'a> {
    plane: &'a Plane,
    proxy: Option<Proxy>,
}

impl<'a> Front<'a> {
    /// By way of a proxy where EndpointSlices must be translated.
    pub(crate) async fn start(plane: &'a Plane, world: &World) -> Self {
        let old = world.assets.minor("kube-apiserver") < 21;
        let proxy = if old { Some(Proxy::start(plane, old, false).await) } else { None };
        Self { plane, proxy }
    }

    /// By way of a proxy on which the first writing of every status is a conflict, as when somebody else was faster.
    pub(crate) async fn with_conflicts(plane: &'a Plane, world: &World) -> Self {
        let old = world.assets.minor("kube-apiserver") < 21;
        Self { plane, proxy: Some(Proxy::start(plane, old, true).await) }
    }

    /// A client of `user`.
    pub(crate) async fn client(&self, user: &str) -> Client {
        let mut config = self.plane.config(user).await;
        if let Some(proxy) = &self.proxy {
            config.cluster_url = proxy.url().parse().expect("an address");
        }
        Client::try_from(config).expect("a client")
    }

    /// Writes a kubeconfig for `user`.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        match &self.proxy {
            Some(proxy) => self.plane.kubeconfig_by_way_of(&proxy.url(), user),
            None => self.plane.kubeconfig(user),
        }
    }

    /// Adds what was translated to the summary.
    pub(crate) fn count(&self, world: &World) {
        let translated = self.proxy.as_ref().map_or(0, |proxy| proxy.passage.translated.load(Ordering::Relaxed));
        world.translated.fetch_add(translated, Ordering::Relaxed);
    }
}

/// A running proxy; it ends when this is dropped.
struct Proxy {
    passage: Arc<Passage>,
    address: SocketAddr,
    _stop: DropGuard,
}

/// What a proxy does.
struct Passage {
    upstream: Client,
    translates: bool,
    /// Requests for EndpointSlices so far.
    translated: AtomicU64,
    /// The paths on which there was a conflict already, if there are to be any.
    conflicts: Option<Mutex<HashSet<String>>>,
}

impl Proxy {
    async fn start(plane: &Plane, translates: bool, conflicts: bool) -> Self {
        let mut config = plane.config(ADMIN).await;
        // Everybody says himself who he is.
        config.auth_info = kube::config::AuthInfo::default();
        config.default_retry = false;
        let passage = Arc::new(Passage {
            upstream: Client::try_from(config).expect("a client"),
            translates,
            translated: AtomicU64::new(0),
            conflicts: conflicts.then(Mutex::default),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let app = axum::Router::new().fallback(pass_on).with_state(Arc::clone(&passage));
        let stop = CancellationToken::new();
        let ends = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                served = axum::serve(listener, app) => served.expect("it serves for ever"),
                () = ends.cancelled() => {}
            }
        });
        Self { passage, address, _stop: stop.drop_guard() }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Passage {
    /// Whether this request is to be a conflict.
    fn conflicts(&self, request: &Request) -> bool {
        let path = request.uri().path();
        let Some(had) = &self.conflicts else { return false };
        request.method() == Method::PUT
            && path.ends_with("/status")
            && had.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned())
    }
}

async fn pass_on(State(passage): State<Arc<Passage>>, request: Request) -> Response {
    if passage.conflicts(&request) {
        let status = json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409,
            "message": "the object has been modified; please apply your changes to the latest version and try again",
        });
        return (StatusCode::CONFLICT, Json(status)).into_response();
    }
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let translate = passage.translates && path.starts_with(NEW_PATH);
    let path = if translate { path.replacen(NEW_PATH, OLD_PATH, 1) } else { path };
    head.uri = path.parse().expect("a path as good as the one before");
    // Theirs lead here, and to a body of another length.
    head.headers.remove(header::HOST);
    let Ok(body) = body.collect().await else { return StatusCode::BAD_REQUEST.into_response() };
    let mut body = body.to_bytes();
    if translate {
        passage.translated.fetch_add(1, Ordering::Relaxed);
        head.headers.remove(header::CONTENT_LENGTH);
        body = replace(&body, NEW_VERSION, OLD_VERSION);
    }
    match passage.upstream.send(http::Request::from_parts(head, kube::client::Body::from(body))).await {
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        Ok(response) => {
            let (mut head, body) = response.into_parts();
            if !translate {
                return Response::from_parts(head, Body::new(body));
            }
            head.headers.remove(header::CONTENT_LENGTH);
            Response::from_parts(head, Body::from_stream(lines(body)))
        }
    }
}

/// The lines of a body as they arrive, translated; a watch sends one event a line.
fn lines(body: kube::client::Body) -> impl futures::Stream<Item = Result<Bytes, kube::Error>> + Send + 'static {
    let chunks = body.into_data_stream().map_ok(Some).chain(futures::stream::once(async { Ok(None) }));
    let mut waiting = Vec::new();
    chunks.map_ok(move |chunk| {
        let whole = match chunk {
            Some(chunk) => {
                waiting.extend_from_slice(&chunk);
                waiting.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
            }
            None => waiting.len(),
        };
        let rest = waiting.split_off(whole);
        replace(&std::mem::replace(&mut waiting, rest), OLD_VERSION, NEW_VERSION)
    })
}

fn replace(body: &[u8], from: &str, to: &str) -> Bytes {
    let Ok(text) = std::str::from_utf8(body) else { return Bytes::copy_from_slice(body) };
    Bytes::from(text.replace(from, to))
}
