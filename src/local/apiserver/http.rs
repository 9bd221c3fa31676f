//! The API over HTTP: from a request to what is asked, and from what came of it to a response.

use super::builtin::Strictness;
use super::faults::{Effect, Verb};
use super::object::Object;
use super::patch::{self, Patch};
use super::resource::Resource;
use super::selector::Selector;
use super::status::{self, Answer, Cause};
use super::store::{ShardId, Store};
use super::view::{self, Form, View};
use super::watch::{self, Start, Wanted};
use super::write::{DeleteOptions, Ownership, Part, Propagation, Target, Written};
use super::{apply, collect, discovery, events, protobuf, scale};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::core::Status;
use serde_json::Value;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once; the next one waits to be accepted.
const MOST_CONNECTIONS: usize = 4096;
/// Streams at once on one HTTP/2 connection.
const MOST_STREAMS: u32 = 1000;
/// How long a client may take to send the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long connections may take to finish when the server stops.
const STOP_TIME: Duration = Duration::from_secs(2);
/// Warnings in one answer, at most.
const MOST_WARNINGS: usize = 20;
/// Bytes of a list gathered into one frame.
const FRAME: usize = 64 << 10;

/// The API of `store`, to be served by any HTTP server. Nothing is collected unless [`serve`] runs.
pub fn router(store: Arc<Store>) -> axum::Router {
    axum::Router::new().fallback(answer).with_state(store)
}

/// Serves `store` on `listener`, HTTP/1.1 and HTTP/2 in the clear, until it is cancelled; watches end then, and what
/// else is under way may take two more seconds. It also runs the collector of what lost its owner.
pub async fn serve(listener: TcpListener, store: Arc<Store>, cancel: CancellationToken) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let collector = connections.spawn({
        let (store, cancel) = (store.clone(), cancel.clone());
        async move { collect::run(&store, &cancel).await }
    });
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let stream = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely; some come back.
                    tracing::warn!(%error, "a connection to the API was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays with Nagle's algorithm");
        }
        let (store, cancel) = (store.clone(), cancel.clone());
        connections.spawn(async move {
            connection(stream, store, cancel).await;
            drop(slot);
        });
    }
    store.closing.cancel();
    connections.close();
    if tokio::time::timeout(STOP_TIME, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections to the API are cut");
    }
    collector.abort();
}

/// A kubeconfig with one cluster, user and context, named `ebb`, for the API at `addr`.
pub fn kubeconfig(addr: std::net::SocketAddr) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: ebb\n  \
           cluster:\n    \
             server: http://{addr}\n\
         users:\n\
         - name: ebb\n  \
           user: {{}}\n\
         contexts:\n\
         - name: ebb\n  \
           context:\n    \
             cluster: ebb\n    \
             user: ebb\n    \
             namespace: default\n\
         current-context: ebb\n"
    )
}

async fn connection(stream: tokio::net::TcpStream, store: Arc<Store>, cancel: CancellationToken) {
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let store = store.clone();
        async move {
            let response = answer(State(store), request.map(Body::new)).await;
            // There is no other way to hyper's own closing of a connection without an answer.
            if response.extensions().get::<Lost>().is_some() {
                Err("the answer is lost on purpose")
            } else {
                Ok(response)
            }
        }
    });
    let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(MOST_STREAMS);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection to the API broke");
    }
}

/// Marks a response that must not reach the client.
#[derive(Clone, Copy)]
struct Lost;

/// A request that is about objects.
struct Call {
    store: Arc<Store>,
    /// As asked for.
    resource: Arc<Resource>,
    /// Where the objects are; differs from the resource for events only.
    id: ShardId,
    stored: Arc<Resource>,
    namespace: String,
    /// Empty for a call about many.
    name: String,
    subresource: Option<String>,
    query: HashMap<String, String>,
    headers: HeaderMap,
}

/// A part of a list.
struct Page {
    limit: Option<usize>,
    /// The version of the first page, and the last object of the page before.
    after: Option<(u64, String, String)>,
}

/// Where a list goes on.
struct Next {
    token: String,
    rest: usize,
}

async fn answer(State(store): State<Arc<Store>>, request: Request<Body>) -> Response {
    match carry_out(store, request).await {
        Ok(response) => response,
        Err(status) => failure(&status),
    }
}

async fn carry_out(store: Arc<Store>, request: Request<Body>) -> Answer<Response> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    check_caller(&head.uri, &head.headers)?;
    if let Some(response) = discovery::answer(&store, &head.method, path, &head.headers)? {
        return Ok(response);
    }
    let query: HashMap<String, String> = Query::<Vec<(String, String)>>::try_from_uri(&head.uri)
        .map_err(|error| status::bad_request(&format!("the query cannot be read: {error}")))?
        .0
        .into_iter()
        .collect();
    let place = Place::parse(path).ok_or_else(status::no_such_path)?;
    let (id, resource) = store.find(&place.group, &place.version, &place.plural).ok_or_else(status::no_such_path)?;
    if resource.namespaced && place.namespace.is_empty() && !place.name.is_empty()
        || !resource.namespaced && !place.namespace.is_empty()
    {
        return Err(status::no_such_path());
    }
    let (id, stored) = if resource.is_events_view() {
        store.find("", "v1", "events").ok_or_else(status::no_such_path)?
    } else {
        (id, resource.clone())
    };
    let call = Call {
        store,
        resource,
        id,
        stored,
        namespace: place.namespace,
        name: place.name,
        subresource: place.subresource,
        query,
        headers: head.headers,
    };
    let verb = call.verb(&head.method)?;
    let counted = match &call.subresource {
        Some(subresource) => format!("{}/{subresource}", call.resource.qualified()),
        None => call.resource.qualified(),
    };
    let mut lost = false;
    match call.store.faults.meet(verb, &counted, &call.name) {
        None => {}
        Some(Effect::Fail(status)) => return Err(status),
        Some(Effect::Delay(time)) => tokio::time::sleep(time).await,
        Some(Effect::LoseAnswer) => lost = true,
    }
    let response = call.carry_out(verb, body).await;
    if lost {
        let mut response = response.unwrap_or_else(|status| failure(&status));
        response.extensions_mut().insert(Lost);
        return Ok(response);
    }
    response
}

/// Refuses what a web page makes a browser send. There is no log-in here, so whoever reaches the port may write; but the
/// sites its user happens to visit are not meant by that. Clients of Kubernetes send no `Origin`, and they call this
/// server by its address, as a page that had its own name point here could not.
fn check_caller(uri: &http::Uri, headers: &HeaderMap) -> Answer<()> {
    let forbidden = |why: &str| Err(status::failure(403, "Forbidden", why));
    if headers.contains_key(header::ORIGIN) {
        return forbidden("requests from web pages are not served");
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<http::uri::Authority>().ok());
    let Some(host) = host.as_ref().or(uri.authority()).map(http::uri::Authority::host) else { return Ok(()) };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
    if address || host == "localhost" || host.ends_with(".localhost") {
        return Ok(());
    }
    forbidden(&format!("{host:?} is not a name of this server; use its address or localhost"))
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    group: String,
    version: String,
    namespace: String,
    plural: String,
    name: String,
    subresource: Option<String>,
}

impl Place {
    fn parse(path: &str) -> Option<Self> {
        let mut parts = Vec::new();
        for part in path.trim_start_matches('/').trim_end_matches('/').split('/') {
            parts.push(percent_decoded(part)?);
        }
        let mut parts = parts.into_iter();
        let (group, version) = match parts.next()?.as_str() {
            "api" => (String::new(), parts.next()?),
            "apis" => (parts.next()?, parts.next()?),
            _ => return None,
        };
        let rest: Vec<String> = parts.collect();
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        let (namespace, rest) = match rest.as_slice() {
            // `namespaces/NAME` and its own subresources are about the namespace itself.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest.as_slice()),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, "", None),
            [plural, name] => (*plural, *name, None),
            [plural, name, subresource] => (*plural, *name, Some((*subresource).to_owned())),
            _ => return None,
        };
        if plural.is_empty() || (1 < rest.len() && !super::names::is_path_segment(name)) {
            return None;
        }
        Some(Self {
            group,
            version,
            namespace: namespace.to_owned(),
            plural: plural.to_owned(),
            name: name.to_owned(),
            subresource,
        })
    }
}

impl Call {
    fn verb(&self, method: &Method) -> Answer<Verb> {
        let one = !self.name.is_empty();
        Ok(match *method {
            Method::GET if self.flag("watch") && self.subresource.is_none() => Verb::Watch,
            Method::GET if one => Verb::Get,
            Method::GET => Verb::List,
            Method::POST if !one || self.subresource.is_some() => Verb::Create,
            Method::PUT if one => Verb::Update,
            Method::PATCH if one && self.media().is_some_and(|media| media.starts_with("application/apply-patch+")) => {
                Verb::Apply
            }
            Method::PATCH if one => Verb::Patch,
            Method::DELETE if one => Verb::Delete,
            Method::DELETE => Verb::DeleteCollection,
            _ => return Err(status::method_not_allowed()),
        })
    }

    async fn carry_out(self, verb: Verb, body: Body) -> Answer<Response> {
        let part = match self.subresource.as_deref() {
            None => Part::Whole,
            Some("status") if self.stored.status => Part::Status,
            Some("scale") if self.stored.scale => Part::Scale,
            Some("eviction") if self.stored.kind == "Pod" && verb == Verb::Create => return self.evict(body).await,
            Some("binding") if self.stored.kind == "Pod" && verb == Verb::Create => return self.bind(body).await,
            Some("log" | "exec" | "attach" | "portforward" | "proxy") if self.stored.kind == "Pod" => {
                let what = self.subresource.as_deref().unwrap_or_default();
                let message =
                    format!("this API does not serve pods/{what}; what a pod prints is in the log of its host");
                return Err(status::failure(501, "NotImplemented", &message));
            }
            Some("finalize") if self.stored.kind == "Namespace" && verb == Verb::Update => Part::Whole,
            Some(_) => return Err(status::no_such_path()),
        };
        match verb {
            Verb::Get => {
                let object = self.store.get(self.id, &self.namespace, &self.name);
                let object = object.ok_or_else(|| status::not_found(&self.stored, &self.name))?;
                self.show(&object, part, StatusCode::OK)
            }
            Verb::List => self.list(),
            Verb::Watch => self.watch(),
            Verb::Create if part == Part::Whole => {
                let value = self.object(body).await?;
                self.view()?;
                let written = self.target("", part)?.create(value, &Ownership::OfChanges)?;
                self.written(&written, part)
            }
            Verb::Update => {
                let value = self.object(body).await?;
                let written = if part == Part::Scale {
                    self.target(&self.name, part)?
                        .update(&Ownership::OfChanges, |old| scale::replaced(&self.stored, old, &value))?
                } else {
                    self.target(&self.name, part)?.update(&Ownership::OfChanges, |_| Ok(value.clone()))?
                };
                self.written(&written, part)
            }
            Verb::Patch => {
                let patch = self.patch(body).await?;
                let shape = self.stored.shape;
                let written = self.target(&self.name, part)?.update(&Ownership::OfChanges, |old| {
                    let mut new = if part == Part::Scale { scale::of(old) } else { old.clone() };
                    patch
                        .change(&mut new, shape)
                        .map_err(|wrong| status::unprocessable(&self.stored, &self.name, &wrong))?;
                    if part == Part::Scale { scale::replaced(&self.stored, old, &new) } else { Ok(new) }
                })?;
                self.written(&written, part)
            }
            Verb::Apply => {
                if self.query.get("fieldManager").is_none_or(String::is_empty) {
                    let cause = Cause::required("fieldManager", "is required for apply patch");
                    return Err(status::invalid("meta.k8s.io", "PatchOptions", "", &[cause]));
                }
                let config = self.applied(body).await?;
                let config = if part == Part::Scale { scale::as_config(&self.stored, &config)? } else { config };
                let force = self.flag("force");
                let written = apply::apply(&self.target(&self.name, part)?, &config, force)?;
                self.written(&written, part)
            }
            Verb::Delete if part == Part::Whole => {
                let options = self.delete_options(body).await?;
                let written = self.target(&self.name, part)?.delete(&options)?;
                if written.gone {
                    let uid = super::names::format_uid(written.object.uid);
                    Ok(json_response(StatusCode::OK, &status::success(&self.resource, &self.name, &uid)))
                } else {
                    self.show(&written.object, part, StatusCode::OK)
                }
            }
            Verb::DeleteCollection => self.delete_many(body).await,
            Verb::Create | Verb::Delete => Err(status::method_not_allowed()),
        }
    }

    fn list(&self) -> Answer<Response> {
        let view = self.view()?;
        let selector = self.selector()?;
        let page = self.page()?;
        if page.after.is_none() {
            self.check_list_version()?;
        }
        let (version, mut objects) = self.store.list(self.id, &selector);
        // Later pages tell the version of the first, so that a watch from it tells of all that happened meanwhile.
        let mut version = version;
        if let Some((first, namespace, name)) = &page.after {
            version = *first;
            let after = (namespace.as_str(), name.as_str());
            objects.drain(..objects.partition_point(|object| (&*object.namespace, &*object.name) <= after));
        }
        let mut rest = None;
        if let Some(limit) = page.limit.filter(|limit| *limit < objects.len() && !view.is_table()) {
            rest = Some(objects.len() - limit);
            objects.truncate(limit);
        }
        let next = rest
            .zip(objects.last())
            .map(|(rest, last)| Next { token: format!("{version}/{}/{}", last.namespace, last.name), rest });
        Ok(list_response(view, version, next.as_ref(), objects, &self.store))
    }

    /// Which part of a list is asked for.
    fn page(&self) -> Answer<Page> {
        let asked = |name: &str| self.query.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let limit = asked("limit").map(|limit| limit.parse().map_err(|_| status::bad_request("limit is not a number")));
        let after = asked("continue").map(|token| {
            let mut parts = token.splitn(3, '/');
            let version = parts.next().and_then(|version| version.parse().ok());
            match (version, parts.next(), parts.next()) {
                (Some(version), Some(namespace), Some(name)) => Ok((version, namespace.to_owned(), name.to_owned())),
                _ => Err(status::bad_request("continue key is not valid: it is none of this server's")),
            }
        });
        Ok(Page { limit: limit.transpose()?.filter(|limit| 0 < *limit), after: after.transpose()? })
    }

    fn check_list_version(&self) -> Answer<()> {
        let asked = self.query.get("resourceVersion").map_or("", String::as_str);
        let how = self.query.get("resourceVersionMatch").map_or("", String::as_str);
        if asked.is_empty() {
            return if how.is_empty() {
                Ok(())
            } else {
                Err(status::bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided"))
            };
        }
        let asked = parse_version(asked)?;
        let current = self.store.check_not_newer(asked)?;
        match how {
            "" | "NotOlderThan" => Ok(()),
            "Exact" if asked == current => Ok(()),
            // Only the newest state is kept.
            "Exact" => Err(status::expired(asked, current)),
            _ => Err(status::bad_request("resourceVersionMatch must be Exact or NotOlderThan")),
        }
    }

    fn watch(self) -> Answer<Response> {
        let view = self.view()?;
        let mut selector = self.selector()?;
        if !self.name.is_empty() {
            selector = Selector::of_one(&self.namespace, &self.name);
        }
        let asked = self.query.get("resourceVersion").map_or("", String::as_str);
        let version = if asked.is_empty() { 0 } else { parse_version(asked)? };
        let how = self.query.get("resourceVersionMatch").map(String::as_str);
        let bookmarks = self.flag("allowWatchBookmarks");
        let start = match self.query.get("sendInitialEvents").map(String::as_str) {
            None if how.is_some() => {
                return Err(status::bad_request(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            Some(_) if how != Some("NotOlderThan") => {
                return Err(status::bad_request(
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            Some("true" | "1") => {
                self.store.check_not_newer(version)?;
                if bookmarks { Start::EverythingMarked } else { Start::Everything }
            }
            None if version == 0 => Start::Everything,
            Some(_) if version == 0 => Start::After(self.store.version()),
            _ => {
                self.store.check_version(self.id, version)?;
                Start::After(version)
            }
        };
        let lasts = match self.query.get("timeoutSeconds").map(|text| text.parse::<u32>()) {
            None | Some(Ok(0)) => watch::LASTS,
            Some(Ok(seconds)) => Duration::from_secs(seconds.into()),
            Some(Err(_)) => return Err(status::bad_request("timeoutSeconds must be a number of seconds")),
        };
        let wanted = Wanted { selector, view, start, bookmarks, lasts };
        let lines = watch::lines(self.store.clone(), self.id, wanted);
        Ok(response(StatusCode::OK, Body::from_stream(lines)))
    }

    async fn delete_many(&self, body: Body) -> Answer<Response> {
        let view = self.view()?;
        let options = self.delete_options(body).await?;
        let selector = self.selector()?;
        let (version, objects) = self.store.list(self.id, &selector);
        for object in &objects {
            let target = Target { namespace: &object.namespace, ..self.target(&object.name, Part::Whole)? };
            match target.delete(&options) {
                Err(status) if !status.is_not_found() => return Err(status),
                _ => {}
            }
        }
        Ok(list_response(view, version, None, objects, &self.store))
    }

    /// Deletes a pod the way `kubectl drain` asks for it. There are no disruption budgets to ask.
    async fn evict(&self, body: Body) -> Answer<Response> {
        let eviction = self.json(body).await?;
        let options = parse_delete_options(&eviction["deleteOptions"], &self.query)?;
        let call = Target { ..self.target(&self.name, Part::Whole)? };
        call.delete(&options)?;
        let uid = "";
        Ok(json_response(StatusCode::CREATED, &status::success(&self.resource, &self.name, uid)))
    }

    /// Gives a pod its node, once.
    async fn bind(&self, body: Body) -> Answer<Response> {
        let binding = self.json(body).await?;
        let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
        if node.is_empty() {
            return Err(status::bad_request("Binding: target.name: Required value"));
        }
        self.target(&self.name, Part::Whole)?.update(&Ownership::OfChanges, |pod| {
            if pod["spec"]["nodeName"].as_str().is_some_and(|bound| !bound.is_empty()) {
                let why = format!("pod {} is already assigned to node {}", self.name, pod["spec"]["nodeName"]);
                return Err(status::conflict(&self.stored, &self.name, &why));
            }
            let mut pod = pod.clone();
            pod["spec"]["nodeName"] = node.as_str().into();
            Ok(pod)
        })?;
        Ok(json_response(StatusCode::CREATED, &status::success(&self.resource, &self.name, "")))
    }

    fn target<'a>(&'a self, name: &'a str, part: Part) -> Answer<Target<'a>> {
        let dry_run = match self.query.get("dryRun").map(String::as_str) {
            None | Some("") => false,
            Some("All") => true,
            Some(other) => return Err(status::bad_request(&format!("dryRun: {other:?} is not supported; use All"))),
        };
        let strict = match self.query.get("fieldValidation").map(String::as_str) {
            Some("Strict") => Strictness::Strict,
            Some("Ignore") => Strictness::Ignore,
            None | Some("" | "Warn") => Strictness::Warn,
            Some(other) => {
                return Err(status::bad_request(&format!("fieldValidation: {other:?} is not Ignore, Warn or Strict")));
            }
        };
        let manager = match self.query.get("fieldManager").filter(|manager| !manager.is_empty()) {
            Some(manager) if 128 < manager.len() => {
                return Err(status::bad_request("fieldManager: must have at most 128 bytes"));
            }
            Some(manager) => manager,
            None => self.user_agent(),
        };
        Ok(Target {
            store: &self.store,
            id: self.id,
            resource: &self.stored,
            namespace: &self.namespace,
            name,
            part,
            manager,
            dry_run,
            strict,
        })
    }

    /// Who writes when no field manager is named: the program's name.
    fn user_agent(&self) -> &str {
        let agent = self.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let name = agent.split('/').next().unwrap_or_default();
        if name.is_empty() { "unknown" } else { name.get(..128).unwrap_or(name) }
    }

    fn view(&self) -> Answer<View> {
        let accept = self.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        let include = self.query.get("includeObject").map(String::as_str);
        let form = Form::of_accept(accept, include).ok_or_else(|| status::not_acceptable(view::ACCEPTED))?;
        Ok(View { form, resource: self.resource.clone() })
    }

    fn selector(&self) -> Answer<Selector> {
        let namespace = (!self.namespace.is_empty()).then_some(self.namespace.as_str());
        let text = |key: &str| self.query.get(key).map(String::as_str);
        let fields = text("fieldSelector").unwrap_or_default();
        let fields = if self.resource.is_events_view() { events::fields_to_core(fields) } else { fields.to_owned() };
        Selector::parse(&self.stored, namespace, text("labelSelector"), Some(&fields))
    }

    fn flag(&self, key: &str) -> bool {
        self.query.get(key).is_some_and(|value| value == "true" || value == "1")
    }

    fn written(&self, written: &Written, part: Part) -> Answer<Response> {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = self.show(&written.object, part, code)?;
        for warning in written.warnings.iter().take(MOST_WARNINGS) {
            // A quoted string: quotes and backslashes are escaped, and what no header may hold is left out.
            let words: String = warning.chars().filter(|letter| matches!(letter, ' '..='~')).collect();
            let text = format!("299 - \"{}\"", words.replace('\\', "\\\\").replace('"', "\\\""));
            if let Ok(text) = HeaderValue::from_str(&text) {
                response.headers_mut().append(header::WARNING, text);
            }
        }
        Ok(response)
    }

    fn show(&self, object: &Object, part: Part, code: StatusCode) -> Answer<Response> {
        let view = self.view()?;
        if part == Part::Scale {
            return Ok(json_response(code, &scale::of(&object.value())));
        }
        Ok(response(code, Body::from(view.object(object, self.store.clock.now()))))
    }

    fn media(&self) -> Option<&str> {
        let media = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        Some(media.split(';').next().unwrap_or_default().trim())
    }

    async fn bytes(&self, body: Body) -> Answer<Bytes> {
        let limit = self.store.limits.body_bytes;
        match Limited::new(body, limit).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(status::too_large(limit)),
            Err(error) => Err(status::bad_request(&format!("the body broke off: {error}"))),
        }
    }

    /// The object in the body of a create or an update.
    async fn object(&self, body: Body) -> Answer<Value> {
        let mut value = self.json(body).await?;
        if self.subresource.as_deref() != Some("scale") {
            // As in Go, an object in the body may leave out its type: the path says it.
            if let Value::Object(object) = &mut value {
                for (key, text) in [("apiVersion", self.resource.api_version()), ("kind", self.resource.kind.clone())] {
                    if object.get(key).is_none_or(|value| value.is_null() || value == "") {
                        object.insert(key.to_owned(), text.into());
                    }
                }
            }
        }
        self.to_stored(&mut value);
        Ok(value)
    }

    /// JSON, or YAML where the client says so.
    async fn json(&self, body: Body) -> Answer<Value> {
        match self.media() {
            None | Some("application/json") => parse_json(&self.bytes(body).await?),
            Some("application/yaml") => parse_yaml(&self.bytes(body).await?),
            Some(protobuf::MEDIA) => protobuf::parse(&self.bytes(body).await?),
            Some(_) => Err(status::unsupported_media_type("application/json, application/yaml")),
        }
    }

    async fn patch(&self, body: Body) -> Answer<Patch> {
        let accepted = if self.stored.custom {
            "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
        } else {
            "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
             application/apply-patch+yaml"
        };
        match self.media() {
            Some("application/json-patch+json") => {
                let bytes = self.bytes(body).await?;
                let patch: json_patch::Patch = serde_json::from_slice(&bytes)
                    .map_err(|error| status::bad_request(&format!("error decoding patch: {error}")))?;
                if patch::MOST_OPERATIONS < patch.0.len() {
                    return Err(status::too_large(patch::MOST_OPERATIONS));
                }
                Ok(Patch::Json(patch))
            }
            Some("application/merge-patch+json") => {
                let mut value = parse_json(&self.bytes(body).await?)?;
                self.to_stored(&mut value);
                Ok(Patch::Merge(value))
            }
            Some("application/strategic-merge-patch+json") if !self.stored.custom => {
                let mut value = parse_json(&self.bytes(body).await?)?;
                self.to_stored(&mut value);
                Ok(Patch::Strategic(value))
            }
            _ => Err(status::unsupported_media_type(accepted)),
        }
    }

    async fn applied(&self, body: Body) -> Answer<Value> {
        let bytes = self.bytes(body).await?;
        let mut value = parse_json(&bytes).or_else(|_| parse_yaml(&bytes))?;
        self.to_stored(&mut value);
        Ok(value)
    }

    fn to_stored(&self, value: &mut Value) {
        if self.resource.is_events_view() {
            events::to_core(value);
        }
    }

    async fn delete_options(&self, body: Body) -> Answer<DeleteOptions> {
        let bytes = self.bytes(body).await?;
        let options = if bytes.iter().all(u8::is_ascii_whitespace) { Value::Null } else { parse_json(&bytes)? };
        parse_delete_options(&options, &self.query)
    }
}

fn parse_delete_options(options: &Value, query: &HashMap<String, String>) -> Answer<DeleteOptions> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let propagation = text(&options["propagationPolicy"]).or_else(|| query.get("propagationPolicy").cloned());
    let orphan =
        options["orphanDependents"].as_bool().or_else(|| query.get("orphanDependents").map(|word| word == "true"));
    let grace = query.get("gracePeriodSeconds").and_then(|seconds| seconds.parse().ok());
    Ok(DeleteOptions {
        grace_seconds: options["gracePeriodSeconds"].as_i64().or(grace),
        uid: text(&options["preconditions"]["uid"]),
        resource_version: text(&options["preconditions"]["resourceVersion"]),
        propagation: match (propagation.as_deref(), orphan) {
            (Some("Foreground"), _) => Propagation::Foreground,
            (Some("Orphan"), _) | (None, Some(true)) => Propagation::Orphan,
            (Some("Background") | None, _) => Propagation::Background,
            (Some(other), _) => {
                let message = format!("propagationPolicy: {other:?} is not Background, Foreground or Orphan");
                return Err(status::bad_request(&message));
            }
        },
    })
}

fn parse_version(text: &str) -> Answer<u64> {
    text.parse().map_err(|_| status::bad_request(&format!("resourceVersion: Invalid value: {text:?}: it is a number")))
}

fn parse_json(bytes: &[u8]) -> Answer<Value> {
    serde_json::from_slice(bytes).map_err(|error| status::bad_request(&format!("the body is not JSON: {error}")))
}

fn parse_yaml(bytes: &[u8]) -> Answer<Value> {
    serde_saphyr::from_slice(bytes).map_err(|error| status::bad_request(&format!("the body is not YAML: {error}")))
}

fn percent_decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn list_response(view: View, version: u64, next: Option<&Next>, objects: Vec<Arc<Object>>, store: &Store) -> Response {
    let now = store.clock.now();
    let (head, tail) = view.list(version, next.map(|next| (next.token.as_str(), next.rest)));
    let mut objects = objects.into_iter();
    let mut frame = Some(head.into_bytes());
    let mut first = true;
    // Made as it is sent, so that a long list is never in memory twice.
    let frames = futures::stream::iter(std::iter::from_fn(move || {
        let mut bytes = frame.take()?;
        for object in objects.by_ref() {
            if !std::mem::take(&mut first) {
                bytes.push(b',');
            }
            bytes.extend_from_slice(&view.item(&object, now));
            if FRAME <= bytes.len() {
                frame = Some(Vec::with_capacity(FRAME));
                return Some(Ok::<_, Infallible>(Bytes::from(bytes)));
            }
        }
        bytes.extend_from_slice(tail.as_bytes());
        bytes.push(b'\n');
        Some(Ok(Bytes::from(bytes)))
    }));
    response(StatusCode::OK, Body::from_stream(frames))
}

/// A response with a JSON body.
pub(super) fn json_response(code: StatusCode, value: &Value) -> Response {
    response(code, Body::from(value.to_string()))
}

fn response(code: StatusCode, body: Body) -> Response {
    let mut response = (code, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

fn failure(status: &Status) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(code, &status::to_json(status));
    let retry = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if 0 < retry {
        response.headers_mut().insert(header::RETRY_AFTER, retry.into());
    }
    response
}
