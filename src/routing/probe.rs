//! One question to one address of a load balancer, on a connection of its own.
//!
//! A question goes through a rule to whatever stands behind it, and that answers it itself: activators and queue-proxies
//! know Knative's probes and pass them on to nobody, so a question wakes nothing. Certificates are not verified: the
//! address is dialled by number, and what is asked is which server answers, not whether to trust it.

use crate::api::names::{AUTOSCALER_PROBE_AGENT, NETWORK_PROBE_HEADER};
use crate::routing::gate::Answer;
use crate::routing::gate::rules::Ask;
use crate::routing::model::Rule;
use crate::units::{RevisionKey, Span};
use futures::future::BoxFuture;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The header in which an activator says for which revision it answered, as `NAMESPACE/REVISION`, perhaps with `;` and
/// more behind it.
pub const IDENTITY_HEADER: &str = "k-alb-identity";
/// The header that tells versions of rules apart.
const HASH_HEADER: &str = "k-network-hash";
/// How long it may take to connect …
const CONNECT: Span = Span::from_seconds(1);
/// … and how long all of it.
const WHOLE: Span = Span::from_seconds(2);
/// The longest answer worth reading; the right one has nine bytes.
const MOST_BODY: usize = 1024;

/// How the addresses of a load balancer are found.
pub trait Vips: Send + Sync {
    /// Where requests under this name are answered, over TLS or without: one for each address. Addresses, comma-separated,
    /// stand for themselves.
    fn resolve<'a>(&'a self, name: &'a str, secure: bool) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// Asks the operating system; the ports are 80 and 443.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemVips;

impl Vips for SystemVips {
    fn resolve<'a>(&'a self, name: &'a str, secure: bool) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let port = if secure { 443 } else { 80 };
        let named: Result<Vec<IpAddr>, _> = name.split(',').map(str::parse).collect();
        Box::pin(async move {
            Ok(match named {
                Ok(addresses) => addresses.into_iter().map(|address| (address, port).into()).collect(),
                Err(_) => tokio::net::lookup_host((name, port)).await?.collect(),
            })
        })
    }
}

/// A request that one rule takes and no other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Question {
    /// Whether the listener speaks TLS.
    pub secure: bool,
    /// Whether it is asked over HTTP/2, which gRPC rules take only.
    pub http2: bool,
    /// The host; also the server's name for TLS.
    pub host: String,
    /// The path.
    pub path: String,
    /// Headers the rule asks for.
    pub headers: Vec<(String, String)>,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    /// Who is there: an activator or a pod.
    Who,
    /// Which version of the rules it came by.
    Version,
    /// Nothing but the request itself, which goes to whoever serves it.
    Request,
}

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The version of the rules.
    pub hash: Option<String>,
    /// For whom an activator answered.
    pub identity: Option<String>,
    /// The first bytes of the body.
    pub body: Bytes,
}

impl Question {
    /// A request that this rule takes, with whatever value its conditions leave open.
    pub fn of(rule: &Rule, secure: bool, http2: bool) -> Self {
        Self::by(Ask::of(rule), secure, http2)
    }

    /// The same of what a rule is asked by.
    pub fn by(ask: Ask, secure: bool, http2: bool) -> Self {
        let Ask { host, path, headers } = ask;
        Self { secure, http2, host, path, headers }
    }

    /// Asks it of an address.
    ///
    /// # Errors
    /// When no answer comes in time.
    pub async fn ask(&self, address: SocketAddr, topic: Topic) -> anyhow::Result<Reply> {
        let asked = async {
            let stream = timeout(CONNECT.to_std(), TcpStream::connect(address)).await??;
            stream.set_nodelay(true)?;
            if !self.secure {
                return self.exchange(stream, topic).await;
            }
            let name = ServerName::try_from(self.host.clone())?;
            let stream = TlsConnector::from(Arc::clone(tls(self.http2))).connect(name, stream).await?;
            self.exchange(stream, topic).await
        };
        timeout(WHOLE.to_std(), asked).await?
    }

    async fn exchange<S>(&self, stream: S, topic: Topic) -> anyhow::Result<Reply>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        if self.http2 {
            let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            let request = self.request(topic, true)?;
            // The sender is dropped at the end of the exchange, which ends the connection too.
            let exchange = async move { read(send.send_request(request).await?).await };
            return tokio::join!(exchange, connection).0;
        }
        let (mut send, connection) = hyper::client::conn::http1::handshake(io).await?;
        let request = self.request(topic, false)?;
        let exchange = async move { read(send.send_request(request).await?).await };
        tokio::join!(exchange, connection).0
    }

    fn request(&self, topic: Topic, http2: bool) -> anyhow::Result<http::Request<Empty<Bytes>>> {
        let mut request = if http2 {
            let scheme = if self.secure { "https" } else { "http" };
            http::Request::get(format!("{scheme}://{}{}", self.host, self.path))
        } else {
            http::Request::get(&self.path).header(HOST, &self.host).header(CONNECTION, "close")
        };
        request = match topic {
            // A queue-proxy answers this to the agents it knows only; another's would reach the user's process.
            Topic::Who => request.header(USER_AGENT, AUTOSCALER_PROBE_AGENT).header(NETWORK_PROBE_HEADER, "activator"),
            Topic::Request => request,
            Topic::Version => {
                let request = request.header(USER_AGENT, "Knative-Ingress-Probe").header(NETWORK_PROBE_HEADER, "probe");
                if self.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(HASH_HEADER)) {
                    request
                } else {
                    request.header(HASH_HEADER, "override")
                }
            }
        };
        for (key, value) in &self.headers {
            request = request.header(key, value);
        }
        Ok(request.body(Empty::new())?)
    }
}

impl Reply {
    /// Who is there, asked about `revision`.
    pub fn who(&self, revision: &RevisionKey) -> Answer {
        match self.status {
            200 if self.body == b"activator"[..] => {
                let identity = self.identity.as_deref().map(|identity| identity.split(';').next().unwrap_or(""));
                match identity {
                    Some(other) if other != revision.as_str() => Answer::Elsewhere,
                    _ => Answer::Activator,
                }
            }
            // A queue-proxy is not who was asked for.
            400 if self.body.starts_with(b"unexpected probe header value") => Answer::Pod,
            404 => Answer::NoRoute,
            503 => Answer::Unavailable,
            200..500 => Answer::Elsewhere,
            _ => Answer::Failed,
        }
    }
}

async fn read(response: http::Response<hyper::body::Incoming>) -> anyhow::Result<Reply> {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
    let (status, hash, identity) = (response.status().as_u16(), header(HASH_HEADER), header(IDENTITY_HEADER));
    let body = Limited::new(response.into_body(), MOST_BODY).collect().await.map_err(anyhow::Error::from_boxed);
    Ok(Reply { status, hash, identity, body: body.map(http_body_util::Collected::to_bytes).unwrap_or_default() })
}

/// TLS for whoever answers, over HTTP/2 or HTTP/1.1.
fn tls(http2: bool) -> &'static Arc<ClientConfig> {
    static CONFIGS: LazyLock<[Arc<ClientConfig>; 2]> = LazyLock::new(|| {
        ["http/1.1", "h2"].map(|protocol| {
            let provider = Arc::new(ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .expect("ring has what the protocol versions need")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
                .with_no_client_auth();
            config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
            Arc::new(config)
        })
    });
    &CONFIGS[usize::from(http2)]
}

/// Takes every certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_who_is_there() {
        let revision = RevisionKey::new("default", "web-1");
        let reply = |status, body: &'static str, identity: Option<&str>| Reply {
            status,
            hash: None,
            identity: identity.map(ToOwned::to_owned),
            body: Bytes::from_static(body.as_bytes()),
        };
        for (reply, answer) in [
            (reply(200, "activator", None), Answer::Activator),
            (reply(200, "activator", Some("default/web-1;42")), Answer::Activator),
            (reply(200, "activator", Some("default/web-2;42")), Answer::Elsewhere),
            (reply(400, "unexpected probe header value: activator", None), Answer::Pod),
            (reply(400, "bad request", None), Answer::Elsewhere),
            (reply(200, "Hello world!", None), Answer::Elsewhere),
            (reply(404, "no such route", None), Answer::NoRoute),
            (reply(503, "", None), Answer::Unavailable),
            (reply(502, "", None), Answer::Failed),
            (reply(504, "", None), Answer::Failed),
        ] {
            assert_eq!(reply.who(&revision), answer, "{reply:?}");
        }
    }
}
