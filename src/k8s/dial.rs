//! Opening a connection to a name in the cluster.
//!
//! Everything that connects to a Service or a pod does it through [`Dial`], so that where there is no cluster DNS names
//! can be resolved in another way.

use futures::future::BoxFuture;
use std::io;
use tokio::net::TcpStream;

/// Opens TCP connections.
pub trait Dial: Send + Sync {
    /// Connects to `port` of `host`: a DNS name or an address, the latter without brackets.
    ///
    /// There is no time limit here; the caller sets one on all it does with the connection.
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<TcpStream>>;
}

/// Resolves names as the operating system does.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDial;

impl Dial for SystemDial {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect((host, port)).await?;
            // Every message is one small write that should leave at once.
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }
}
