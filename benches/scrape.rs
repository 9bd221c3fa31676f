//! What one scrape costs, in CPU time of the asking thread: `cargo bench --bench scrape [-- SECONDS]`.
//!
//! The same endpoints are asked in one run by: a bare loop that writes and reads on blocking sockets; our client; our
//! whole scraper, three pods to a revision; hyper on one kept connection per pod; and a general pooled client. Endpoints
//! are addresses of 127/8 served by one thread, so that each client holds as many connections as there are pods. Requests
//! are spread evenly over each second, as scrapes of many revisions are. Late is what was not answered within a second.
//! Each row is the best of three rounds.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]
#![expect(clippy::disallowed_methods, reason = "a bench measures real time")]

use bytes::Bytes;
use ebb::api::pods::ReadyPod;
use ebb::clock::Clock;
use ebb::k8s::dial::Dial;
use ebb::stats::fetch::{Client, Fetch as _, Limits};
use ebb::stats::scrape::{MeshMode, Scraper, Settings};
use ebb::stats::wire::Stat;
use ebb::units::{Compat, Span};
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const REQUEST: &[u8] =
    b"GET /metrics HTTP/1.1\r\nHost: 127.1.0.1:9090\r\nUser-Agent: ebb\r\nAccept: application/protobuf\r\n\r\n";

fn main() {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(5);
    let port = serve();
    println!("{:>9}  {:<22} {:>14} {:>9} {:>9}", "pods/s", "client", "CPU µs/scrape", "ratio", "late");
    for pods in [300, 3000, 4998] {
        let run = Run { pods, seconds, port };
        let measure: [(&str, Measure); 5] = [
            ("bare socket loop", Box::new(move || bare(run))),
            ("ebb", Box::new(move || on_one_thread(run, run.pods, ebb))),
            ("ebb, whole scraper", Box::new(move || on_one_thread(run, run.pods / PODS_PER_REVISION, whole_scraper))),
            ("hyper, kept", Box::new(move || on_one_thread(run, run.pods, kept_hyper))),
            ("reqwest", Box::new(move || on_one_thread(run, run.pods, pooled))),
        ];
        // In turn, and the best of three: a busy neighbour on the machine costs one client a round, not the comparison.
        let rounds: [_; 3] = std::array::from_fn(|_| measure.each_ref().map(|(_, measure)| measure()));
        let best = |client: usize| {
            let costs = rounds.map(|round| round[client]);
            costs.into_iter().min_by(|one, other| one.micros.total_cmp(&other.micros)).expect("three rounds")
        };
        let bare = best(0);
        let rows = measure.iter().enumerate().map(|(client, (name, _))| (name, best(client)));
        for (name, Cost { micros, late }) in rows {
            println!("{pods:>9}  {name:<22} {micros:>14.1} {:>9.2} {late:>9}", micros / bare.micros);
        }
    }
}

/// Measures one client, once.
type Measure = Box<dyn Fn() -> Cost>;

const PODS_PER_REVISION: u32 = 3;

/// What a scrape cost, in CPU time, and how many were late.
#[derive(Clone, Copy)]
struct Cost {
    micros: f64,
    late: usize,
}

/// How much is asked, and where.
#[derive(Clone, Copy)]
struct Run {
    pods: u32,
    seconds: u32,
    port: u16,
}

impl Run {
    fn address(self, pod: u32) -> SocketAddr {
        (Ipv4Addr::from_bits(0x7f01_0001 + pod), self.port).into()
    }

    /// When a scrape is due after the start, the warming second included.
    fn due(self, second: u32, pod: u32) -> Duration {
        Duration::from_secs(second.into()) + Duration::from_secs(1) * pod / self.pods
    }

    fn scrapes(self) -> f64 {
        f64::from(self.pods) * f64::from(self.seconds)
    }
}

/// Answers like a queue-proxy, on every loopback address.
fn serve() -> u16 {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let port = listener.local_addr().expect("an address").port();
    let stat = Stat {
        pod_name: Bytes::from_static(b"hello-00001-deployment-5d4f9c7b8d-x7abc"),
        average_concurrent_requests: 3.5,
        average_proxied_concurrent_requests: 1.25,
        request_count: 10.0,
        proxied_request_count: 4.0,
        process_uptime: 1234.5,
        timestamp: 0,
    }
    .encode_to_vec();
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\nDate: Sat, 01 Aug 2026 00:00:00 GMT\r\n\
         Content-Length: {}\r\n\r\n",
        stat.len()
    )
    .into_bytes();
    answer.extend(stat);
    let answer = Bytes::from(answer);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    while let Ok(1..) = stream.read(&mut request).await {
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
    port
}

/// CPU time of this thread so far, in microseconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux, with scheduler statistics");
    stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).expect("a number") / 1e3
}

fn bare(run: Run) -> Cost {
    let mut sockets: Vec<std::net::TcpStream> = (0..run.pods)
        .map(|pod| {
            let socket = std::net::TcpStream::connect(run.address(pod)).expect("a connection");
            socket.set_nodelay(true).expect("a socket");
            socket
        })
        .collect();
    let start = Instant::now();
    let mut late = 0;
    let mut before = 0.0;
    let mut answer = [0; 4096];
    for second in 0..=run.seconds {
        if second == 1 {
            before = cpu();
        }
        for (pod, socket) in (0..).zip(&mut sockets) {
            std::thread::sleep(run.due(second, pod).saturating_sub(start.elapsed()));
            socket.write_all(REQUEST).expect("a request");
            assert!(socket.read(&mut answer).expect("an answer") > 100);
            late += usize::from(start.elapsed() > run.due(second + 1, pod));
        }
    }
    Cost { micros: (cpu() - before) / run.scrapes(), late }
}

/// What a client does every second: the n-th of `units` asks and answers.
type Ask = Box<dyn Fn() -> BoxFuture<'static, ()> + Send>;

/// Runs a client's units as tasks on this thread, and measures it from the second second on.
fn on_one_thread(run: Run, units: u32, client: fn(Run) -> Box<dyn Fn(u32) -> Ask>) -> Cost {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = client(run);
        let start = tokio::time::Instant::now();
        let each = run.pods / units;
        let tasks: Vec<_> = (0..units)
            .map(|unit| {
                let ask = client(unit);
                tokio::spawn(async move {
                    let mut late = 0;
                    for second in 0..=run.seconds {
                        tokio::time::sleep_until(start + run.due(second, unit * each)).await;
                        ask().await;
                        late += usize::from(start.elapsed() > run.due(second + 1, unit * each));
                    }
                    late
                })
            })
            .collect();
        tokio::time::sleep_until(start + Duration::from_secs(1)).await;
        let before = cpu();
        let mut late = 0;
        for task in tasks {
            late += task.await.expect("no panic");
        }
        Cost { micros: (cpu() - before) / run.scrapes(), late }
    })
}

/// Goes to the port the endpoints listen on here.
struct ToPort(u16);

impl Dial for ToPort {
    fn dial<'a>(&'a self, host: &'a str, _port: u16) -> BoxFuture<'a, std::io::Result<TcpStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect((host, self.0)).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }
}

fn ebb(run: Run) -> Box<dyn Fn(u32) -> Ask> {
    let client = client(run);
    Box::new(move |pod| {
        let (client, ip) = (client.clone(), run.address(pod).ip());
        Box::new(move || {
            let client = client.clone();
            Box::pin(async move {
                client.pod(ip, None).await.expect("a stat");
            })
        })
    })
}

fn whole_scraper(run: Run) -> Box<dyn Fn(u32) -> Ask> {
    let client = client(run);
    let clock = Clock::system();
    Box::new(move |revision| {
        let settings = Settings { mode: MeshMode::Auto, passthrough: false, compat: Compat::IMPROVED };
        let scraper = Arc::new(Scraper::new(client.clone(), "revision-private", "default", settings));
        let pods: Arc<Vec<_>> = Arc::new(
            (revision * PODS_PER_REVISION..(revision + 1) * PODS_PER_REVISION)
                .map(|pod| ReadyPod {
                    name: format!("pod-{pod}").into(),
                    ip: Some(run.address(pod).ip()),
                    started: Some(clock.now()),
                })
                .collect(),
        );
        Box::new(move || {
            let (scraper, pods) = (scraper.clone(), pods.clone());
            Box::pin(async move {
                scraper.scrape(&pods, clock.now(), Span::from_seconds(60)).await.expect("a load");
            })
        })
    })
}

fn client(run: Run) -> Client {
    Client::new(Arc::new(ToPort(run.port)), Clock::system(), Limits::default(), Compat::IMPROVED)
}

/// Hyper without its pool. The connection is driven by a task, as it has to be while it is idle.
fn kept_hyper(run: Run) -> Box<dyn Fn(u32) -> Ask> {
    Box::new(move |pod| {
        let kept: Arc<tokio::sync::Mutex<Option<SendRequest<Empty<Bytes>>>>> = Arc::default();
        Box::new(move || {
            let kept = kept.clone();
            Box::pin(async move {
                let mut kept = kept.lock().await;
                if kept.is_none() {
                    let stream = TcpStream::connect(run.address(pod)).await.expect("a connection");
                    stream.set_nodelay(true).expect("a socket");
                    let (sender, connection) =
                        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
                    tokio::spawn(connection);
                    *kept = Some(sender);
                }
                let sender = kept.as_mut().expect("just made");
                let request = hyper::Request::get("/metrics")
                    .header("host", "127.1.0.1:9090")
                    .header("accept", "application/protobuf")
                    .body(Empty::new())
                    .expect("a request");
                let exchange = async {
                    let body = sender.send_request(request).await.expect("an answer").into_body();
                    Stat::decode(body.collect().await.expect("a body").to_bytes()).expect("a stat")
                };
                tokio::time::timeout(Duration::from_secs(3), exchange).await.expect("in time");
            })
        })
    })
}

/// A client with a pool of its own.
fn pooled(run: Run) -> Box<dyn Fn(u32) -> Ask> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .timeout(Duration::from_secs(3))
        .build()
        .expect("a client");
    Box::new(move |pod| {
        let client = client.clone();
        let url = format!("http://{}/metrics", run.address(pod));
        Box::new(move || {
            let asking = client.get(&url).header("accept", "application/protobuf").send();
            Box::pin(async move {
                let answer = asking.await.expect("an answer");
                Stat::decode(answer.bytes().await.expect("a body")).expect("a stat");
            })
        })
    })
}
