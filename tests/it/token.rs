//! A token that is taken back, and the file that holds another one by then.

use crate::apiserver::Served;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use ebb::k8s::pace;
use http::{StatusCode, header};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::ListParams;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// An API that takes one token only, and a file with the token somebody is given.
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    taken: Arc<Mutex<String>>,
    directory: tempfile::TempDir,
    _open: DropGuard,
}

impl Door {
    /// In front of `served`; both sides have the token `first`.
    pub(crate) async fn of(served: &Served) -> Self {
        let taken = Arc::new(Mutex::new("first".to_owned()));
        let routes = ebb::local::apiserver::router(Arc::clone(&served.store))
            .layer(from_fn_with_state(Arc::clone(&taken), look_at_token));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let open = CancellationToken::new();
        let closed = open.clone().cancelled_owned();
        tokio::spawn(async move { axum::serve(listener, routes).with_graceful_shutdown(closed).await });
        let directory = tempfile::tempdir().expect("a directory");
        let this = Self { address, taken, directory, _open: open.drop_guard() };
        this.give("first");
        this
    }

    /// The file with the token.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    /// From now on the API takes this token and no other.
    pub(crate) fn take(&self, token: &str) {
        token.clone_into(&mut self.taken.lock().expect("no panic above"));
    }

    /// From now on this token is in the file.
    pub(crate) fn give(&self, token: &str) {
        std::fs::write(self.file(), token).expect("a writable directory");
    }
}

async fn look_at_token(State(taken): State<Arc<Mutex<String>>>, request: Request, next: Next) -> Response {
    let wanted = format!("Bearer {}", taken.lock().expect("no panic above"));
    if request.headers().get(header::AUTHORIZATION).is_some_and(|token| *token == *wanted) {
        return next.run(request).await;
    }
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "Unauthorized", "reason": "Unauthorized",
        "code": 401,
    });
    (StatusCode::UNAUTHORIZED, axum::Json(status)).into_response()
}

#[tokio::test]
async fn a_token_that_is_refused_is_read_again_from_its_file_at_once() {
    let served = Served::start().await;
    let door = Door::of(&served).await;
    let mut config = kube::Config::new(format!("http://{}", door.address).parse().expect("an address"));
    config.auth_info.token_file = Some(door.file().display().to_string());
    let maps: Api<ConfigMap> = Api::namespaced(pace::connect(config).expect("a client"), "default");
    let ask = async || match maps.list(&ListParams::default()).await {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{error:?}"),
    };
    assert_eq!(ask().await, 200);
    // The file is behind: the refusal is told.
    door.take("second");
    assert_eq!([ask().await, ask().await], [401, 401]);
    // With the next refusal it is looked at.
    door.give("second");
    assert_eq!([ask().await, ask().await, ask().await], [401, 200, 200]);
    // And once more.
    door.take("third");
    door.give("third");
    assert_eq!([ask().await, ask().await], [401, 200]);
    // One that cannot be read, or is no token, changes nothing for the worse.
    door.take("fourth");
    std::fs::remove_file(door.file()).expect("it was there");
    assert_eq!([ask().await, ask().await], [401, 401]);
    door.give("no\ntoken");
    assert_eq!(ask().await, 401);
    door.give("fourth");
    assert_eq!([ask().await, ask().await], [401, 200]);
}
