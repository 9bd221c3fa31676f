//! A client that reads its token anew when the API server does not take it any more.
//!
//! kube reads the file of a token again each minute. That is soon enough for tokens that are replaced before they run
//! out, as Kubernetes does it for pods. One that is taken back before, because its account was made anew or the server
//! has another key, is answered with 401. Then the file is looked at at once, as client-go does, and what is sent next
//! goes with the token that is there by now. Nothing is sent again here; who sent the request decides that.

use http::{HeaderValue, Request, StatusCode};
use kube::client::Body;
use kube::{Client, Config};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::{info, warn};

/// A client made from `config`; with a token from a file, one that follows the file.
///
/// # Errors
/// When the configuration names what cannot be read or used.
pub fn connect(config: Config) -> kube::Result<Client> {
    let first = Client::try_from(config.clone())?;
    let Some(path) = config.auth_info.token_file.clone().filter(|_| config.auth_info.token.is_none()) else {
        return Ok(first);
    };
    let (namespace, valid_until) = (first.default_namespace().to_owned(), *first.valid_until());
    let token = std::fs::read_to_string(&path).unwrap_or_default();
    let follower = Arc::new(Follower { config, path, present: Mutex::new(Present { client: first, token }) });
    let service = tower::service_fn(move |request: Request<Body>| {
        let follower = Arc::clone(&follower);
        async move {
            let client = follower.lock().client.clone();
            let answer = client.send(request).await;
            if answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::UNAUTHORIZED) {
                follower.look();
            }
            answer
        }
    });
    Ok(Client::new(service, namespace).with_valid_until(valid_until))
}

struct Follower {
    config: Config,
    path: String,
    present: Mutex<Present>,
}

struct Present {
    client: Client,
    /// As it was read when the client was made.
    token: String,
}

impl Follower {
    /// Makes the client anew if its file holds another token than it was made with.
    fn look(&self) {
        // It is small, and in a pod it is in memory.
        let Ok(token) = std::fs::read_to_string(&self.path) else { return };
        let mut present = self.lock();
        // Half of one, or one with a line break, would be taken for good: what is not sent is not refused.
        if token == present.token || HeaderValue::from_str(&token).is_err() {
            return;
        }
        match Client::try_from(self.config.clone()) {
            Ok(client) => {
                info!(file = self.path, "the API server refused the token; going on with the one that is there now");
                *present = Present { client, token };
            }
            Err(error) => warn!(file = self.path, %error, "no client can be made with the token that is there now"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
