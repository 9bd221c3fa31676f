//! HTTPS through the double of a load balancer, as far as the annotations ask for it: certificates by host, redirects, gRPC,
//! and that it is seen over HTTPS which version is live.

use crate::alb::{create, kingress, settles, setup};
use crate::apiserver::Served;
use crate::dataplane::{App, text_of};
use crate::patience::eventually;
use crate::system::{Local, service};
use ebb::clock::Clock;
use ebb::dataplane::body::{self, Body};
use ebb::dataplane::server::Stop;
use ebb::dataplane::services::Services;
use ebb::local::alb::balancer::Manners;
use ebb::local::alb::{Alb, Options, objects};
use ebb::routing::controller::Controller;
use ebb::routing::probe::{Question, Topic, Vips};
use ebb::units::Span;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ListParams, PostParams};
use kube::runtime::watcher;
use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

const NAME: &str = "test";
const HOST: &str = "a.default.example.com";
const GRPC: &str = "b-grpc.default.example.com";

/// The addresses of the double: its HTTP listener, and the one for HTTPS.
#[derive(Clone, Copy)]
struct Listeners {
    http: SocketAddr,
    https: SocketAddr,
}

impl Vips for Listeners {
    fn resolve<'a>(&'a self, _name: &'a str, secure: bool) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(vec![if secure { self.https } else { self.http }]) })
    }
}

struct Rig {
    served: Served,
    at: Listeners,
    root: CertificateDer<'static>,
    _stop: [DropGuard; 2],
}

impl Rig {
    async fn start(redirect: &str) -> Self {
        let served = Served::start().await;
        let (definition, config) = objects(NAME);
        create(&served, &definition).await;
        let configs: Api<ebb::api::alb_config::AlbConfig> = Api::all(served.client());
        eventually("the kind to be served", async || configs.list(&ListParams::default()).await.ok()).await;
        create(&served, &config).await;
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "config-network", "namespace": "knative-serving"},
            "data": {"ingress-class": "alb.ingress.networking.knative.dev", "albconfig": NAME, "alb-redirect": redirect}});
        create(&served, &map).await;
        let key = certificate();
        let secret = secret(&key);
        Api::namespaced(served.client(), "default").create(&PostParams::default(), &secret).await.expect("created");

        let at_once = Span::ZERO..=Span::ZERO;
        let manners = Manners { membership: at_once.clone(), rules: at_once, ..Manners::default() };
        let options = Options { config: NAME.to_owned(), addresses: 1, manners, seed: 1 };
        let services = Services::default();
        let alb = Alb::new(options, Clock::system(), services.clone());
        let (cancel, stop) = (CancellationToken::new(), Stop::default());
        let bind = async |port: (&'static str, u16)| {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("an address");
            let (alb, stop) = (alb.clone(), stop.clone());
            tokio::spawn(async move { alb.serve(0, port, listener, stop).await });
            address
        };
        let at = Listeners { http: bind(("HTTP", 80)).await, https: bind(("HTTPS", 443)).await };
        let (client, token) = (served.client(), cancel.clone());
        tokio::spawn(async move {
            let following = services.follow(client.clone(), watcher::Config::default(), token.clone());
            tokio::join!(following, alb.follow(client, token));
        });
        let controller = Controller::new(setup(&served, Arc::new(at)), &cancel);
        tokio::spawn(controller.run(cancel.clone()));
        Self { served, at, root: key.cert.der().clone(), _stop: [cancel.drop_guard(), stop.kill.drop_guard()] }
    }

    /// The Services of a revision, led to a process that answers as a queue-proxy would.
    async fn revision(&self, name: &str) -> App {
        let app = App::start(|request: Request<Body>| async move {
            let hash = request.headers().get("k-network-hash").cloned();
            if request.headers().contains_key("k-network-probe")
                && let Some(hash) = hash
            {
                let mut response = Response::new(body::empty());
                response.headers_mut().insert("k-network-hash", hash);
                return response;
            }
            let proto = request.headers().get("x-forwarded-proto").and_then(|value| value.to_str().ok());
            Response::new(body::full(format!("{:?} {}", request.version(), proto.unwrap_or("none"))))
        })
        .await;
        let ports = json!([{"name": "http", "port": 80}, {"name": "http2", "port": 81}]);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": ports}});
        create(&self.served, &service).await;
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{name}-1"), "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": [{"addresses": [app.addr.ip()]}],
            "ports": [{"name": "http", "port": app.addr.port()}, {"name": "http2", "port": app.addr.port()}]});
        create(&self.served, &slice).await;
        app
    }

    async fn shake(&self, host: &str, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.at.https).await?;
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// A request over TLS, to a host whose certificate is verified.
    async fn get_secure(&self, host: &str, http2: bool) -> (u16, String) {
        let stream = self.shake(host, if http2 { b"h2" } else { b"http/1.1" }).await.expect("TLS");
        let io = TokioIo::new(stream);
        let request =
            Request::get(format!("https://{host}/")).header("Host", host).body(body::empty()).expect("a request");
        let response = if http2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
            tokio::spawn(connection);
            sender.send_request(request).await.expect("an answer")
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            sender.send_request(request).await.expect("an answer")
        };
        (response.status().as_u16(), text_of(body::boxed(response.into_body())).await)
    }
}

fn certificate() -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed(vec![HOST.to_owned(), GRPC.to_owned()]).expect("a certificate")
}

fn secret(key: &CertifiedKey<KeyPair>) -> Secret {
    let data = [("tls.crt", key.cert.pem()), ("tls.key", key.signing_key.serialize_pem())];
    Secret {
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))).into()),
        metadata: serde_json::from_value(json!({"name": "cert", "namespace": "default"})).expect("a name"),
        ..Secret::default()
    }
}

fn secured(mut object: Value, host: &str, option: &str) -> Value {
    object["spec"]["tls"] = json!([{"hosts": [host], "secretName": "cert", "secretNamespace": "default"}]);
    object["spec"]["httpOption"] = option.into();
    object
}

#[tokio::test]
async fn https_is_served_by_certificate_and_plain_http_is_sent_there() {
    for (redirect, status) in [("308", 308), ("301", 301)] {
        let rig = Rig::start(redirect).await;
        let _app = rig.revision("a-1").await;
        create(&rig.served, &secured(kingress("a", &[("a-1", 100)], None, false, true), HOST, "Redirected")).await;
        settles(&rig.served, "a", ["True", "True"]).await;
        assert_eq!(rig.get_secure(HOST, false).await, (200, "HTTP/1.1 https".to_owned()));
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        let asked = client.get(format!("http://{}/path?x=1", rig.at.http)).header("Host", HOST);
        let answer = asked.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers()["location"], format!("https://{HOST}/path?x=1"));
        // Names inside the cluster have no certificate and are not sent to where they would need one.
        let inside = client.get(format!("http://{}/", rig.at.http)).header("Host", "a.default.svc.cluster.local");
        let answer = inside.send().await.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.text().await.expect("text")), (200, "HTTP/1.1 http".to_owned()));
        rig.shake("other.example.com", b"http/1.1").await.expect_err("a host without a certificate");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ebb_local_answers_https_through_the_double() {
    let flags = ["--gateway-mode", "alb", "--gateway-https", "127.0.0.1:0", "--startup-delay", "100ms"];
    let local = Local::start(&service("web", ""), &flags).await;
    let https = local.endpoint("gateway-https").trim_start_matches("https://").parse().expect("an address");
    let kingress = secured(kingress("a", &[("web-00001", 100)], None, false, true), HOST, "Redirected");
    let secret = serde_json::to_value(secret(&certificate())).expect("JSON");
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    for (path, object) in [
        ("/api/v1/namespaces/default/secrets", secret),
        ("/apis/networking.internal.knative.dev/v1alpha1/namespaces/default/ingresses", kingress),
    ] {
        let request = client.post(format!("{}{path}", local.api)).json(&object);
        assert_eq!(request.send().await.expect("an answer").status(), 201, "{path}");
    }
    let question =
        Question { secure: true, http2: false, host: HOST.to_owned(), path: "/".to_owned(), headers: Vec::new() };
    eventually("an answer over HTTPS", async || {
        let reply = question.ask(https, Topic::Request).await.map_err(|error| error.to_string())?;
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        if reply.status == 200 && body.contains("web-00001") { Ok(()) } else { Err(format!("{reply:?}")) }
    })
    .await;
    let plain = client.get(&local.gateway).header("Host", HOST).send().await.expect("an answer");
    assert_eq!(
        (plain.status().as_u16(), &plain.headers()["location"]),
        (308, &format!("https://{HOST}/").parse().expect("a value"))
    );
    local.stop();
}

#[tokio::test]
async fn grpc_reaches_its_backend_over_https_as_http2() {
    let rig = Rig::start("308").await;
    let _app = rig.revision("b-1").await;
    create(&rig.served, &secured(kingress("b-grpc", &[("b-1", 100)], None, false, true), GRPC, "Enabled")).await;
    settles(&rig.served, "b-grpc", ["True", "True"]).await;
    assert_eq!(rig.get_secure(GRPC, true).await, (200, "HTTP/2.0 https".to_owned()));
    // There is no gRPC on the plain listener: nobody's host.
    let asked = reqwest::Client::new().get(format!("http://{}/", rig.at.http)).header("Host", GRPC);
    assert_eq!(asked.send().await.expect("an answer").status(), 404);
}
