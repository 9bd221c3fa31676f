//! The connection to an autoscaler that comes back.

use super::{eventually, soon};
use bytes::Bytes;
use ebb::clock::Clock;
use ebb::k8s::dial::SystemDial;
use ebb::stats::client::{Handle, SendError, spawn};
use ebb::units::{Span, Timestamp};
use futures::{SinkExt as _, StreamExt as _};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, accept_async};
use tokio_util::sync::CancellationToken;

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

fn client(address: SocketAddr, cancel: &CancellationToken) -> Handle {
    spawn(&format!("ws://{address}"), Arc::new(SystemDial), cancel.clone()).expect("an address")
}

async fn accept(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = soon("a connection", listener.accept()).await.expect("a connection");
    soon("a handshake", accept_async(stream)).await.expect("a handshake")
}

async fn until(handle: &Handle, connected: bool) {
    soon("the state changes", handle.connected().wait_for(|now| *now == connected)).await.expect("the client runs");
}

/// The next frame with data.
async fn frame(socket: &mut WebSocketStream<TcpStream>) -> Bytes {
    soon("a frame", async {
        loop {
            if let Message::Binary(frame) = socket.next().await.expect("open").expect("a message") {
                return frame;
            }
        }
    })
    .await
}

#[tokio::test]
async fn frames_arrive_and_nothing_is_kept_for_later() {
    let (listener, address) = listen().await;
    let cancel = CancellationToken::new();
    let handle = client(address, &cancel);
    assert_eq!(handle.send(Bytes::from_static(b"early")), Err(SendError::NotConnected));
    let mut socket = accept(&listener).await;
    until(&handle, true).await;
    handle.send(Bytes::from_static(b"one")).expect("connected");
    handle.send(Bytes::from_static(b"two")).expect("connected");
    assert_eq!(frame(&mut socket).await, "one");
    assert_eq!(frame(&mut socket).await, "two");
    cancel.cancel();
    soon("the goodbye", async { while let Some(Ok(_)) = socket.next().await {} }).await;
    eventually("sending fails", || handle.send(Bytes::new()).is_err()).await;
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let (listener, address) = listen().await;
    let cancel = CancellationToken::new();
    let handle = client(address, &cancel);
    for ending in ["restart", "cut", "last"] {
        let mut socket = accept(&listener).await;
        until(&handle, true).await;
        handle.send(Bytes::from_static(ending.as_bytes())).expect("connected");
        assert_eq!(frame(&mut socket).await, ending);
        if ending == "restart" {
            let goodbye = CloseFrame { code: CloseCode::Restart, reason: "Restarting".into() };
            socket.send(Message::Close(Some(goodbye))).await.expect("sent");
        }
        drop(socket);
    }
    until(&handle, false).await;
    cancel.cancel();
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_tried_again() {
    let (listener, address) = listen().await;
    drop(listener);
    let cancel = CancellationToken::new();
    let handle = client(address, &cancel);
    tokio::task::yield_now().await;
    assert_eq!(handle.send(Bytes::new()), Err(SendError::NotConnected));
    let listener = TcpListener::bind(address).await.expect("the same port");
    let _socket = accept(&listener).await;
    until(&handle, true).await;
    cancel.cancel();
}

#[tokio::test]
async fn a_refused_handshake_is_tried_again() {
    let (listener, address) = listen().await;
    let cancel = CancellationToken::new();
    let handle = client(address, &cancel);
    for _ in 0..2 {
        let (mut stream, _) = soon("a connection", listener.accept()).await.expect("a connection");
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await.expect("written");
    }
    let _socket = accept(&listener).await;
    until(&handle, true).await;
    cancel.cancel();
}

/// Accepts a connection and reads the request for a handshake.
async fn asked(listener: &TcpListener) -> (TcpStream, String) {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_buf(&mut request).await.expect("a request");
    }
    (stream, String::from_utf8(request).expect("text"))
}

#[tokio::test(start_paused = true)]
async fn a_server_without_pongs_is_left_after_ten_seconds() {
    let (listener, address) = listen().await;
    let cancel = CancellationToken::new();
    let handle = client(address, &cancel);
    let (mut stream, request) = asked(&listener).await;
    let headers = request.lines().filter_map(|line| line.split_once(": "));
    let mut keys = headers.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    let accept = derive_accept_key(keys.next().expect("a key").1.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.expect("written");
    handle.connected().wait_for(|now| *now).await.expect("the client runs");
    let clock = Clock::starting_at(Timestamp::default());
    handle.connected().wait_for(|now| !*now).await.expect("the client runs");
    let silent = clock.now().since(Timestamp::default());
    assert!(Span::from_seconds(9) < silent && silent < Span::from_seconds(11), "{silent}");
    cancel.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_finish_the_handshake_is_left_after_three_seconds() {
    let (listener, address) = listen().await;
    let cancel = CancellationToken::new();
    let handle = client(address, &cancel);
    let clock = Clock::starting_at(Timestamp::default());
    let (_first, request) = asked(&listener).await;
    assert!(request.to_ascii_lowercase().contains(&format!("\r\nhost: {address}\r\n")), "{request}");
    let _second = asked(&listener).await;
    let waited = clock.now().since(Timestamp::default());
    assert!(Span::from_seconds(3) <= waited && waited < Span::from_seconds(4), "{waited}");
    assert!(!*handle.connected().borrow());
    cancel.cancel();
}
