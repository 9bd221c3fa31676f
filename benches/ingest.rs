//! What one reported stat costs, in CPU time: `cargo bench --bench ingest`.
//!
//! `decode` is a frame turned into messages. `receive` is everything from the socket to the consumer: the websocket, the
//! frame, the check of its values, the key, the queue. One peer reports 1,000 revisions per frame, as an activator does.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]
#![expect(clippy::disallowed_methods, reason = "a bench measures real time")]

use bytes::Bytes;
use ebb::clock::Clock;
use ebb::stats::server::{Counters, Received, Server, serve};
use ebb::stats::wire::{Stat, WireStatMessage, decode_frame, encode_batch};
use ebb::units::{Compat, RevisionKey};
use futures::SinkExt as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

const REVISIONS: u32 = 1000;
const FRAMES: u32 = 2000;

fn main() {
    let messages = f64::from(REVISIONS) * f64::from(FRAMES);
    println!("{:<10} {:>14}", "step", "CPU ns/message");

    let frame = frame();
    let before = cpu();
    for _ in 0..FRAMES {
        black_box(decode_frame(black_box(frame.clone())).expect("a frame"));
    }
    println!("{:<10} {:>14.0}", "decode", (cpu() - before) / messages);

    let start = Instant::now();
    let cost = receive(frame);
    println!("{:<10} {:>14.0}", "receive", cost / messages);
    println!("{:.0} messages a second", messages / start.elapsed().as_secs_f64());
}

/// CPU time of this thread so far, in nanoseconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux, with scheduler statistics");
    stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number")
}

fn frame() -> Bytes {
    let messages = (0..REVISIONS).map(|number| {
        let stat = Stat {
            pod_name: Bytes::from_static(b"activator-6f8d9c7b5d-x7abc"),
            average_concurrent_requests: 3.25,
            request_count: f64::from(number),
            ..Stat::default()
        };
        WireStatMessage::new(&RevisionKey::new("customers", &format!("service-{number}-00001")), stat)
    });
    encode_batch(messages.collect())
}

/// Server and consumer on this thread, the peer on another.
fn receive(frame: Bytes) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("ws://{}", listener.local_addr().expect("an address"));
        let (queue, mut received) = mpsc::channel::<Received>(1000);
        let cancel = CancellationToken::new();
        let server = Server {
            also: axum::Router::new(),
            queue,
            owns: Arc::new(|_| true),
            counters: Arc::new(Counters::default()),
            clock: Clock::system(),
            compat: Compat::IMPROVED,
        };
        tokio::spawn(serve(listener, server, cancel.clone()));
        std::thread::spawn(move || peer(&url, &frame));
        let mut left = REVISIONS * FRAMES;
        black_box(received.recv().await);
        left -= 1;
        let before = cpu();
        while left > 0 {
            black_box(received.recv().await.expect("the server is open"));
            left -= 1;
        }
        let spent = cpu() - before;
        cancel.cancel();
        spent
    })
}

fn peer(url: &str, frame: &Bytes) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("a connection");
        for _ in 0..FRAMES {
            socket.send(Message::Binary(frame.clone())).await.expect("a frame");
        }
    });
}
