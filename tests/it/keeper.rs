//! The keeper of gates by itself: before a load balancer that answers as it is told, over real sockets, with TLS or without.

use axum::response::IntoResponse as _;
use ebb::clock::Clock;
use ebb::routing::gate::contract::{Asked, Keep as _, Leave, Marked, OBSERVED_PATH, ROUTES};
use ebb::routing::gate::{Answer, Members, Path, Pods, Reason, State, Timers};
use ebb::routing::keeper::{Keeper, Published, Routes, Way};
use ebb::routing::model::{Action, Forward, InsertHeader, Mode, Rule, ServerGroup};
use ebb::routing::probe::{Question, Topic, Vips};
use ebb::units::{RevisionKey, Span, Timestamp};
use futures::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A load balancer with one address, and what stands behind it.
#[derive(Clone, Default)]
struct Behind {
    /// Pods answer, and not activators.
    pods: Arc<AtomicBool>,
    /// The heads of the probes that came.
    asked: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Behind {
    async fn serve(&self, tls: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let this = self.clone();
        let app = axum::Router::new().fallback(move |headers: HeaderMap| {
            let this = this.clone();
            async move {
                this.asked.lock().expect("no panic above").push(headers);
                if this.pods.load(Ordering::Relaxed) {
                    (StatusCode::BAD_REQUEST, "unexpected probe header value: activator").into_response()
                } else {
                    "activator".into_response()
                }
            }
        });
        let acceptor = tls.then(acceptor);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (app, acceptor) = (TowerToHyperService::new(app.clone()), acceptor.clone());
                tokio::spawn(async move {
                    let builder = Builder::new(TokioExecutor::new());
                    // A probe that does not wait for its answer is none of the server's concern.
                    let _ = match acceptor {
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => builder.serve_connection(TokioIo::new(stream), app).await,
                            Err(_) => return,
                        },
                        None => builder.serve_connection(TokioIo::new(stream), app).await,
                    };
                });
            }
        });
        address
    }
}

/// TLS with a certificate nobody has signed.
fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["nobody.invalid".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

struct At(SocketAddr);

impl Vips for At {
    fn resolve<'a>(&'a self, _: &'a str, _: bool) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Ok(vec![self.0]) })
    }
}

fn key() -> RevisionKey {
    RevisionKey::new("default", "web-00001")
}

fn rule(service: &str) -> Rule {
    let group = ServerGroup { service_name: service.to_owned(), service_port: 80, weight: 100 };
    Rule {
        name: "forward-default".to_owned(),
        host: Some("web.default.example.com".to_owned()),
        path: "/".to_owned(),
        conditions: Vec::new(),
        actions: vec![
            Action::InsertHeader {
                config: InsertHeader {
                    key: "K-Network-Hash".to_owned(),
                    value: service.to_owned(),
                    value_type: "UserDefined".to_owned(),
                    cover_enabled: true,
                },
            },
            Action::ForwardGroup { config: Forward { server_groups: vec![group] } },
        ],
    }
}

fn routes(secure: bool, live: bool) -> Routes {
    let way = Way {
        ingress: "web".to_owned(),
        balancer: Some("alb.example.com".to_owned()),
        secure,
        grpc: false,
        rules: vec![rule("web-00001")],
    };
    let kingress = RevisionKey::new("default", "web");
    let published =
        Published { key: kingress, ways: vec![way], before: Vec::new(), live, askable: true, written: true };
    Routes { kingresses: vec![published], ..Routes::default() }
}

struct Rig {
    keeper: Keeper,
    behind: Behind,
    clock: Clock,
    members: Mutex<(Members, Timestamp)>,
    _stop: DropGuard,
}

impl Rig {
    async fn start(tls: bool, timers: Timers) -> Self {
        let (behind, clock, stop) = (Behind::default(), Clock::system(), CancellationToken::new());
        let address = behind.serve(tls).await;
        let keeper = Keeper::new(clock, timers, Arc::new(At(address)));
        tokio::spawn(keeper.clone().run(stop.clone()));
        keeper.set_activators(2);
        let members = Mutex::new((Members::Pods, clock.now() - Span::from_seconds(3600)));
        Self { keeper, behind, clock, members, _stop: stop.drop_guard() }
    }

    /// As the autoscaler does: asks, and writes what is to be written.
    fn ask(&self, want: Path, marked: Option<Marked>) -> Leave {
        let written = *self.members.lock().expect("no panic above");
        let asked = Asked { want, pods: Pods { all: 1, ready: 1 }, room: true, written: Some(written), marked };
        let leave = self.keeper.ask(&key(), &asked);
        if let Some(members) = leave.members.filter(|members| *members != written.0) {
            *self.members.lock().expect("no panic above") = (members, self.clock.now());
        }
        leave
    }

    async fn until(&self, what: &str, want: Path, holds: impl Fn(&Leave) -> bool) -> Leave {
        let until = self.clock.now() + Span::from_seconds(60);
        loop {
            let leave = self.ask(want, None);
            if holds(&leave) {
                return leave;
            }
            assert!(self.clock.now() < until, "waited in vain until {what}; last seen: {leave:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn quick() -> Timers {
    Timers::default().scaled(1, 20)
}

#[tokio::test]
async fn a_proof_is_made_by_asking_and_is_nobody_elses() {
    for tls in [false, true] {
        let rig = Rig::start(tls, quick()).await;
        assert_eq!(rig.ask(Path::Cold, None).zero, Err(Reason::RulesUnknown), "nobody has told the rules");
        rig.keeper.take(routes(tls, true));
        rig.behind.pods.store(true, Ordering::Relaxed);
        let leave = rig.until("an address is known", Path::Cold, |leave| leave.state == State::Draining).await;
        assert!(leave.zero.is_err() && leave.pin, "{leave:?}");
        rig.behind.pods.store(false, Ordering::Relaxed);
        let leave = rig.until("it is proven", Path::Cold, |leave| leave.zero.is_ok()).await;
        assert_eq!((leave.state, leave.routes.first().map(String::as_str)), (State::ColdConfirmed, Some("web")));
        assert_eq!(rig.keeper.may_scale_to_zero(&key(), leave.epoch), Ok(()));
        assert!(rig.keeper.may_scale_to_zero(&key(), leave.epoch - 1).is_err(), "an older request");

        // The process starts anew between the proof and the write, or another owns the revision.
        rig.keeper.let_go(&|_| true);
        assert!(rig.keeper.may_scale_to_zero(&key(), leave.epoch).is_err());
        let anew = rig.ask(Path::Cold, Some(Marked { epoch: leave.epoch, routed: true, mode: None }));
        assert!(anew.zero.is_err() && leave.epoch < anew.epoch, "{anew:?}");
        assert!(rig.keeper.may_scale_to_zero(&key(), leave.epoch).is_err());
        rig.until("it is proven once more", Path::Cold, |leave| leave.zero.is_ok()).await;

        // A request at an activator undoes it.
        rig.keeper.traffic(&key());
        assert!(rig.keeper.may_scale_to_zero(&key(), anew.epoch).is_err());

        // What was sent wakes nothing: it is a probe that activators and queue-proxies keep for themselves.
        let asked = rig.behind.asked.lock().expect("no panic above");
        assert!(!asked.is_empty());
        for headers in asked.iter() {
            assert_eq!(headers["k-network-probe"], "activator");
            assert_eq!(headers["user-agent"], "Knative-Autoscaling-Probe");
            assert_eq!(headers["host"], "web.default.example.com");
        }
    }
}

#[tokio::test]
async fn rules_of_a_kingress_that_is_gone_count_until_nobody_can_have_them() {
    let timers = Timers { horizon: Span::from_seconds(2), ..quick() };
    let rig = Rig::start(false, timers).await;
    rig.behind.pods.store(true, Ordering::Relaxed);
    rig.keeper.take(routes(false, true));
    assert_ne!(rig.ask(Path::Cold, None).state, State::Unrouted);
    let gone = rig.clock.now();
    rig.keeper.take(Routes::default());
    assert_ne!(rig.ask(Path::Cold, None).state, State::Unrouted, "a load balancer may still have them");
    let leave = rig.until("nobody has them", Path::Cold, |leave| leave.state == State::Unrouted).await;
    assert!(Span::from_seconds(2) <= rig.clock.now().since(gone));
    assert_eq!((leave.zero, leave.members), (Ok(()), None));
}

#[tokio::test]
async fn what_an_earlier_process_knew_as_routed_waits_until_the_rules_are_seen() {
    let rig = Rig::start(false, quick()).await;
    // Another revision of the namespace is routed, and its rules were not seen in force yet.
    rig.keeper.take(routes(false, false));
    let marked = Some(Marked { epoch: 7, routed: true, mode: None });
    let other = RevisionKey::new("default", "old-00001");
    let asked = Asked { want: Path::Cold, pods: Pods { all: 1, ready: 1 }, room: true, written: None, marked };
    assert_eq!(rig.keeper.ask(&other, &asked).zero, Err(Reason::RulesUnknown));
    rig.keeper.take(routes(false, true));
    // No rule leads to it. Before its last pod goes the record says so, since by that others publish.
    let leave = rig.keeper.ask(&other, &asked);
    assert_eq!((leave.state, leave.zero.clone()), (State::Unrouted, Err(Reason::OnRecord)));
    let there = [(OBSERVED_PATH.to_owned(), "cold".to_owned()), (ROUTES.to_owned(), "web".to_owned())].into();
    let marks: BTreeMap<&str, Option<String>> = leave.marks(Some(&there)).into_iter().collect();
    assert_eq!((marks[OBSERVED_PATH].as_deref(), marks[ROUTES].as_deref()), (Some("unrouted"), None));
    let off_record = Asked { marked: Some(Marked { epoch: 7, routed: false, mode: None }), ..asked };
    assert_eq!(rig.keeper.ask(&other, &off_record).zero, Ok(()));
    // One that was never routed need not wait.
    let asked = Asked { marked: None, ..asked };
    assert_eq!(rig.keeper.ask(&RevisionKey::new("default", "never-00001"), &asked).zero, Ok(()));
}

#[tokio::test]
async fn what_is_led_to_still_waits_for_the_rules_an_earlier_process_may_have_left() {
    let rig = Rig::start(false, quick()).await;
    let woken = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&woken);
    rig.keeper.on_change(Box::new(move |of| _ = seen.fetch_or(*of == key(), Ordering::Relaxed)));
    // A rule leads to it, and is the only one that is known. An address may still have others.
    rig.keeper.take(routes(false, false));
    let marked = Some(Marked { epoch: 7, routed: true, mode: None });
    rig.ask(Path::Cold, marked);
    let leave = rig.until("it is proven", Path::Cold, |leave| leave.state == State::ColdConfirmed).await;
    assert_eq!(leave.zero, Err(Reason::EarlierRules));
    assert_eq!(rig.keeper.may_scale_to_zero(&key(), leave.epoch), Err(Reason::EarlierRules));
    woken.store(false, Ordering::Relaxed);
    rig.keeper.take(routes(false, true));
    assert!(woken.load(Ordering::Relaxed), "whoever waits looks again");
    let leave = rig.until("all rules were seen", Path::Cold, |leave| leave.zero.is_ok()).await;
    assert_eq!(rig.keeper.may_scale_to_zero(&key(), leave.epoch), Ok(()));
}

#[tokio::test]
async fn rules_an_earlier_process_may_have_left_are_waited_for_up_to_the_horizon() {
    let timers = Timers { horizon: Span::from_seconds(4), ..quick() };
    let rig = Rig::start(false, timers).await;
    let began = rig.clock.now();
    rig.keeper.take(routes(false, false));
    rig.ask(Path::Cold, Some(Marked { epoch: 7, routed: true, mode: None }));
    rig.until("nobody can have others", Path::Cold, |leave| leave.zero.is_ok()).await;
    assert!(Span::from_seconds(4) <= rig.clock.now().since(began));
}

#[tokio::test]
async fn what_rests_is_not_woken_while_it_is_not_known_what_activators_there_are() {
    for mode in [Mode::Header, Mode::Port] {
        let (behind, clock, stop) = (Behind::default(), Clock::system(), CancellationToken::new());
        let address = behind.serve(false).await;
        let keeper = Keeper::new(clock, quick(), Arc::new(At(address)));
        tokio::spawn(keeper.clone().run(stop.clone()));
        let _stop = stop.drop_guard();
        keeper.take(Routes { mode, ..routes(false, true) });
        let marked = Some(Marked { epoch: 7, routed: true, mode: Some(mode) });
        let asked = Asked { want: Path::Cold, pods: Pods::default(), room: true, written: None, marked };
        let until = clock.now() + Span::from_seconds(60);
        loop {
            let leave = keeper.ask(&key(), &asked);
            assert!(!leave.pin, "{mode:?}: {leave:?}");
            if leave.state == State::Cold {
                break;
            }
            assert!(clock.now() < until, "its address is never known: {leave:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if mode == Mode::Header {
            // Nobody is there to take a request.
            keeper.set_activators(0);
            let leave = keeper.ask(&key(), &asked);
            assert_eq!((leave.state, leave.pin), (State::Waking, true), "{leave:?}");
        }
    }
}

#[tokio::test]
async fn a_mode_that_keeps_pods_and_a_pin_say_so() {
    let rig = Rig::start(false, quick()).await;
    rig.keeper.take(Routes { mode: Mode::Hold, ..routes(false, true) });
    let held = rig.ask(Path::Cold, None);
    assert_eq!((held.stands(), held.pin), (Some(&Reason::HoldMode), true));
    rig.keeper.take(Routes { pinned: [key()].into(), ..routes(false, true) });
    let pinned = rig.until("it is pinned", Path::Cold, |leave| leave.stands() == Some(&Reason::Pinned)).await;
    assert!(pinned.pin);
    assert_eq!((held.auto, pinned.auto), (None, None), "somebody has set it");

    // Where that was left to Ebb, it is told why it is so, and of nothing else.
    let auto = |mode, why: &str| Routes { mode, chosen: Some(why.to_owned()), ..routes(false, true) };
    let pin = |routes: Routes| Routes { pinned: [key()].into(), ..routes };
    rig.keeper.take(pin(auto(Mode::Header, "no self-test")));
    let pinned = rig.until("it is pinned", Path::Cold, |leave| leave.stands() == Some(&Reason::Pinned)).await;
    assert_eq!(pinned.auto.as_deref(), Some("no self-test"));
    rig.keeper.take(auto(Mode::Header, "no self-test"));
    let free = rig.until("it is not", Path::Cold, |leave| leave.stands().is_none()).await;
    assert_eq!(free.auto, None);
    rig.keeper.take(auto(Mode::Hold, "not used"));
    let held = rig.until("it is held", Path::Cold, |leave| leave.stands() == Some(&Reason::HoldMode)).await;
    assert_eq!(held.auto.as_deref(), Some("not used"));
    // One for which no port is left.
    let hold = [(key(), Mode::Hold)].into();
    rig.keeper.take(Routes { modes: hold, ..auto(Mode::Port, "all used") });
    let exhausted = rig.ask(Path::Cold, None);
    assert_eq!((exhausted.stands(), &exhausted.auto), (Some(&Reason::HoldMode), &None));
}

#[tokio::test]
async fn a_question_is_answered_over_tls_and_http2_whoever_has_signed() {
    let behind = Behind::default();
    let address = behind.serve(true).await;
    for http2 in [false, true] {
        let question = Question { http2, ..Question::of(&rule("web-00001"), true, http2) };
        let reply = question.ask(address, Topic::Who).await.expect("an answer");
        assert_eq!(reply.who(&key()), Answer::Activator, "{http2}");
    }
    // Nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("an address");
    assert!(Question::of(&rule("web-00001"), false, false).ask(nobody, Topic::Who).await.is_err());
}
