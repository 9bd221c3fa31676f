//! Connections to Services without DNS.

use crate::dataplane::services::{Services, service_of};
use crate::k8s::dial::{Dial, SystemDial};
use futures::future::BoxFuture;
use std::io;
use tokio::net::TcpStream;

/// Connects to `SERVICE.NAMESPACE[.svc[.DOMAIN]]` by its endpoints, and to addresses directly.
#[derive(Clone, Debug)]
pub struct LocalDial {
    services: Services,
}

impl LocalDial {
    /// Dials what `services` knows.
    pub fn new(services: Services) -> Self {
        Self { services }
    }
}

impl Dial for LocalDial {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(async move {
            let Some(service) = service_of(host) else { return SystemDial.dial(host, port).await };
            let backends = self.services.backends(&service, i32::from(port)).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("there is no port {port} of Service {service}"))
            })?;
            let mut last = io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("Service {service} has no ready endpoint for port {port}"),
            );
            let start = rand::random_range(0..backends.addresses.len().max(1));
            for address in backends.addresses.iter().cycle().skip(start).take(backends.addresses.len()) {
                match SystemDial.dial(&address.ip().to_string(), address.port()).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}
