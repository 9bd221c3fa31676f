//! The data path over real sockets.

mod activator;
mod processes;
mod queue_proxy;

use bytes::Bytes;
use ebb::clock::Clock;
use ebb::dataplane::body::{self, Body, BoxError};
use ebb::dataplane::limit::Limit;
use ebb::dataplane::queue_proxy::{Addresses, Bound, Config, Counters, Ports, QueueProxy};
use ebb::dataplane::server::{self, Stop};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a condition may take to come true before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Waits for a future, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// Waits until `condition` gives a value.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    soon(what, async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// A user's process: an HTTP server in this one.
pub(crate) struct App {
    pub(crate) addr: SocketAddr,
    _stop: DropGuard,
}

impl App {
    pub(crate) async fn start<F, A>(handler: F) -> Self
    where
        F: Fn(Request<Body>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind((LOCALHOST, 0)).await.expect("a port");
        Self::on(listener, handler)
    }

    pub(crate) fn on<F, A>(listener: TcpListener, handler: F) -> Self
    where
        F: Fn(Request<Body>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let addr = listener.local_addr().expect("an address");
        let stop = Stop::default();
        tokio::spawn(server::serve(listener, 10_000, handler, stop.clone()));
        Self { addr, _stop: stop.kill.drop_guard() }
    }

    /// Answers every request with its own body, frame by frame, trailers included.
    pub(crate) async fn echo() -> Self {
        Self::start(|request: Request<Body>| async move {
            let (parts, body) = request.into_parts();
            let mut response = Response::new(body);
            if let Some(trailer) = parts.headers.get("trailer") {
                response.headers_mut().insert("trailer", trailer.clone());
            }
            response
        })
        .await
    }

    /// Answers with the headers it saw, one per line.
    pub(crate) async fn mirror() -> Self {
        Self::start(|request: Request<Body>| async move {
            let mut lines: Vec<String> = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
                .chain(request.uri().authority().map(|authority| format!("host: {authority}")))
                .collect();
            lines.sort();
            Response::new(body::full(lines.join("\n")))
        })
        .await
    }

    /// Holds every request until told how many to let go.
    pub(crate) async fn gate() -> (Self, Gate) {
        let (open, gate) = watch::channel(0);
        let (came, arrivals) = watch::channel(Vec::new());
        let (open, came) = (Arc::new(open), Arc::new(came));
        let handler = {
            let came = Arc::clone(&came);
            move |request: Request<Body>| {
                let (mut gate, came) = (gate.clone(), Arc::clone(&came));
                async move {
                    let mut place = 0;
                    came.send_modify(|all| {
                        all.push(request.uri().path().to_owned());
                        place = all.len();
                    });
                    let _ = gate.wait_for(|open| place <= *open).await;
                    Response::new(body::full(request.uri().path().to_owned()))
                }
            }
        };
        (Self::start(handler).await, Gate { open, arrivals })
    }
}

/// Lets the requests at [`App::gate`] go, in the order they came.
pub(crate) struct Gate {
    open: Arc<watch::Sender<usize>>,
    arrivals: watch::Receiver<Vec<String>>,
}

impl Gate {
    pub(crate) fn open(&self, up_to: usize) {
        self.open.send_replace(up_to);
    }

    /// Waits until `count` requests have come and returns their paths in order.
    pub(crate) async fn came(&mut self, count: usize) -> Vec<String> {
        let arrivals = &mut self.arrivals;
        soon("requests to come to the app", arrivals.wait_for(|all| all.len() >= count)).await.expect("the app").clone()
    }

    pub(crate) fn so_far(&self) -> usize {
        self.arrivals.borrow().len()
    }
}

/// A queue-proxy under test.
pub(crate) struct Pod {
    pub(crate) addrs: Addresses,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) limit: Limit,
    pub(crate) cancel: CancellationToken,
    pub(crate) running: JoinHandle<()>,
    _stop: DropGuard,
}

impl Pod {
    pub(crate) async fn start(user: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new("default", "hello-00001", "hello-00001-pod", LOCALHOST, user);
        config.ports = Ports::ANY;
        config.quiet_period = Duration::from_millis(50);
        change(&mut config);
        let bound: Bound = QueueProxy::bind(config, Clock::system()).await.expect("free ports");
        let (addrs, ready, counters, limit) = (bound.addrs(), bound.readiness(), bound.counters(), bound.limit());
        let cancel = CancellationToken::new();
        let running = tokio::spawn(bound.run(cancel.clone()));
        Self { addrs, ready, counters, limit, _stop: cancel.clone().drop_guard(), cancel, running }
    }

    /// Waits until so many requests are in line for the app.
    pub(crate) async fn queued(&self, count: usize) {
        until(&format!("{count} requests in line"), async || (self.limit.queued() == count).then_some(())).await;
    }

    pub(crate) fn http1(&self) -> SocketAddr {
        self.addrs.http1.expect("a listener")
    }

    pub(crate) fn h2c(&self) -> SocketAddr {
        self.addrs.h2c.expect("a listener")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http1())
    }
}

/// A client that shares nothing with the proxy but hyper.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

pub(crate) fn h2c_client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client")
}

/// One exchange over a connection of its own, trailers and all.
pub(crate) async fn exchange(addr: SocketAddr, h2: bool, mut request: Request<Body>) -> Response<Body> {
    let stream = tokio::net::TcpStream::connect(addr).await.expect("a connection");
    let io = hyper_util::rt::TokioIo::new(stream);
    if h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.expect("HTTP/2");
        tokio::spawn(connection);
        *request.uri_mut() = format!("http://{addr}{}", request.uri().path()).parse().expect("a URI");
        sender.send_request(request).await.expect("an answer").map(body::boxed)
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP/1");
        tokio::spawn(connection);
        request.headers_mut().entry("host").or_insert_with(|| addr.to_string().parse().expect("a host"));
        sender.send_request(request).await.expect("an answer").map(body::boxed)
    }
}

/// A body written while it is being sent.
pub(crate) fn written() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel::<Frame<Bytes>>(8);
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (Ok::<_, BoxError>(frame), receiver))
    });
    (sender, body::boxed(StreamBody::new(frames)))
}

pub(crate) async fn text_of(body: Body) -> String {
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

pub(crate) fn header_map(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| ((*name).parse().expect("a name"), value.parse().expect("a value"))).collect()
}

/// A websocket server that sends back every message.
pub(crate) async fn websocket_echo() -> SocketAddr {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close() || socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}
