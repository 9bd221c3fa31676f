//! The cluster's settings, from Knative's ConfigMaps: read at the start, followed while running.
//!
//! Some are in force as soon as they are written ([`Settings`], [`Process`]); the others of [`Start`] count until the
//! process ends, as in Knative.

use crate::api::names::SYSTEM_NAMESPACE;
use crate::api::setting::SettingError;
use crate::config::autoscaler::{self, Autoscaler};
use crate::config::deployment::{self, Deployment};
use crate::config::leader_election::{self, LeaderElection};
use crate::config::logging::{self, Logging};
use crate::config::network::{self, Network};
use crate::config::observability::{self, Observability};
use crate::config::{ConfigError, Data, Live};
use crate::controllers::writes::in_words;
use crate::k8s::events::Events;
use crate::k8s::follow::{Change, follow};
use crate::k8s::slim::Guarded;
use crate::units::Compat;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher;
use kube::{Api, Client, Resource as _};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How often a map is asked for that the API server does not give …
const READ_TRIES: u32 = 5;
/// … and how long to wait in between.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// Where the settings stand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maps {
    /// The namespace of Knative's own ConfigMaps, Leases and Services.
    pub namespace: String,
    /// The name of `config-logging`.
    pub logging: String,
    /// The name of `config-observability`.
    pub observability: String,
    /// The name of `config-leader-election`.
    pub leader_election: String,
}

impl Default for Maps {
    /// As in an installation of Knative that nobody changed.
    fn default() -> Self {
        Self {
            namespace: SYSTEM_NAMESPACE.to_owned(),
            logging: logging::NAME.to_owned(),
            observability: observability::NAME.to_owned(),
            leader_election: leader_election::NAME.to_owned(),
        }
    }
}

/// The settings of scaling at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// `config-autoscaler`.
    pub autoscaler: Autoscaler,
    /// `config-deployment`.
    pub deployment: Deployment,
}

/// The settings of scaling as they change.
pub type Current = watch::Receiver<Arc<Settings>>;

/// The settings of the process itself at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Process {
    /// `config-logging`.
    pub logging: Logging,
    /// `config-observability`.
    pub observability: Observability,
}

/// Everything that was set when the process started.
#[derive(Clone, PartialEq, Debug)]
pub struct Start {
    /// Of scaling.
    pub settings: Settings,
    /// Of the process itself.
    pub process: Process,
    /// `config-network`; in force until the process ends.
    pub network: Network,
    /// `config-leader-election`; in force until the process ends.
    pub leader_election: LeaderElection,
}

/// A ConfigMap that could not be used at the start.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It is not there.
    #[error(
        "ConfigMap {namespace}/{map} does not exist. {}: kubectl -n {namespace} create configmap {map}{}. If Knative \
         Serving lives in another namespace, set SYSTEM_NAMESPACE to that",
        if map == deployment::NAME { "It must be there, with the image of the queue-proxy" }
            else { "It may be empty, but it must be there" },
        if map == deployment::NAME { " --from-literal=queue-sidecar-image=IMAGE" } else { "" }
    )]
    Missing {
        /// The namespace it was looked for in.
        namespace: String,
        /// Its name.
        map: String,
    },
    /// The API server did not give it.
    #[error("ConfigMap {namespace}/{map} cannot be read: {}", in_words(source))]
    Unreadable {
        /// The namespace.
        namespace: String,
        /// Its name.
        map: String,
        /// What the API server said last.
        source: kube::Error,
    },
    /// It has values that cannot be used.
    #[error("ConfigMap {namespace}/{map} cannot be used:{}", Lines(problems))]
    Invalid {
        /// The namespace.
        namespace: String,
        /// Its name.
        map: String,
        /// Everything that is wrong.
        problems: Vec<SettingError>,
    },
}

/// Why an autoscaler does not start: every ConfigMap that cannot be used.
#[derive(Debug)]
pub struct StartError(pub Vec<SettingsError>);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for StartError {}

struct Lines<'a>(&'a [SettingError]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Reads the settings of the process itself. A map that is not there leaves the defaults; whether it must be is for
/// [`read`] to say.
///
/// # Errors
/// Each map that cannot be read or used.
pub async fn read_process(client: &Client, maps: &Maps, compat: Compat) -> Result<Process, StartError> {
    let mut reader = Reader { client, namespace: &maps.namespace, errors: Vec::new() };
    let logging = reader.optional(&maps.logging, Logging::parse).await;
    let observability = reader.optional(&maps.observability, |data| Observability::parse(data, compat)).await;
    reader.finish(Process { logging: logging.unwrap_or_default(), observability: observability.unwrap_or_default() })
}

/// Reads everything. An autoscaler does not start on settings nobody wrote: all maps but the one of leader election must
/// be there, and all must be such as can be used.
///
/// # Errors
/// Each map that is missing, cannot be read or cannot be used.
pub async fn read(client: &Client, maps: &Maps, compat: Compat) -> Result<Start, StartError> {
    let mut reader = Reader { client, namespace: &maps.namespace, errors: Vec::new() };
    let logging = reader.required(&maps.logging, Logging::parse).await;
    let observability = reader.required(&maps.observability, |data| Observability::parse(data, compat)).await;
    let network = reader.required(network::NAME, Network::parse).await;
    let autoscaler = reader.required(autoscaler::NAME, |data| Autoscaler::parse(data, compat)).await;
    let deployment = reader.required(deployment::NAME, Deployment::parse).await;
    let leader_election = reader.optional(&maps.leader_election, |data| LeaderElection::parse(data, compat)).await;
    match (logging, observability, network, autoscaler, deployment) {
        (Some(logging), Some(observability), Some(network), Some(autoscaler), Some(deployment)) => {
            reader.finish(Start {
                settings: Settings { autoscaler, deployment },
                process: Process { logging, observability },
                network,
                leader_election: leader_election.unwrap_or_else(|| LeaderElection::defaults(compat)),
            })
        }
        _ => Err(StartError(reader.errors)),
    }
}

/// Reads maps one by one and collects what is wrong with them.
struct Reader<'a> {
    client: &'a Client,
    namespace: &'a str,
    errors: Vec<SettingsError>,
}

impl Reader<'_> {
    async fn required<T>(&mut self, map: &str, parse: impl FnOnce(&Data) -> Result<T, ConfigError>) -> Option<T> {
        let before = self.errors.len();
        let found = self.optional(map, parse).await;
        if found.is_none() && self.errors.len() == before {
            self.errors.push(SettingsError::Missing { namespace: self.namespace.to_owned(), map: map.to_owned() });
        }
        found
    }

    async fn optional<T>(&mut self, map: &str, parse: impl FnOnce(&Data) -> Result<T, ConfigError>) -> Option<T> {
        let namespace = self.namespace.to_owned();
        let error = match self.get(map).await {
            Ok(None) => return None,
            Ok(Some(data)) => match parse(&data) {
                Ok(value) => return Some(value),
                Err(ConfigError { problems, .. }) => {
                    SettingsError::Invalid { namespace, map: map.to_owned(), problems }
                }
            },
            Err(source) => SettingsError::Unreadable { namespace, map: map.to_owned(), source },
        };
        self.errors.push(error);
        None
    }

    async fn get(&self, map: &str) -> Result<Option<Data>, kube::Error> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.namespace);
        let mut tries = 1;
        loop {
            match maps.get_opt(map).await {
                Err(error) if tries < READ_TRIES => {
                    warn!(map, error = in_words(&error), "ConfigMap not read; tried again in {READ_PAUSE:?}");
                    tokio::time::sleep(READ_PAUSE).await;
                    tries += 1;
                }
                found => return Ok(found?.map(|map| map.data.unwrap_or_default())),
            }
        }
    }

    fn finish<T>(self, value: T) -> Result<T, StartError> {
        if self.errors.is_empty() { Ok(value) } else { Err(StartError(self.errors)) }
    }
}

/// Who is told of settings that are in force as soon as they are written.
#[derive(Debug)]
pub struct Tell {
    /// Of scaling.
    pub settings: watch::Sender<Arc<Settings>>,
    /// Of the process itself.
    pub process: watch::Sender<Process>,
}

/// Follows the ConfigMaps until `cancel`. A map that cannot be used leaves the last good values in force; its owner
/// finds every problem in the log and in an Event on the map. Semantically equal settings are not told again.
pub async fn keep_current(
    client: Client,
    maps: Maps,
    compat: Compat,
    start: Start,
    tell: Tell,
    events: Events,
    cancel: CancellationToken,
) {
    let mut autoscaler = Live::new(start.settings.autoscaler);
    let mut deployment = Live::new(start.settings.deployment);
    let mut logging = Live::new(start.process.logging);
    let mut observability = Live::new(start.process.observability);
    let mut network = Live::new(start.network);
    let mut leader_election = Live::new(start.leader_election);
    let api: Api<Guarded<ConfigMap>> = Api::namespaced(client, &maps.namespace);
    follow(api, watcher::Config::default(), cancel, |change: Change<ConfigMap>| {
        let Change::Put(key, map) = change else {
            // A deleted map leaves its last good values in force.
            return;
        };
        let nothing = Data::new();
        let data = map.data.as_ref().unwrap_or(&nothing);
        let name = key.name();
        let mut at_once = true;
        let updated = if name == autoscaler::NAME {
            autoscaler.update(Autoscaler::parse(data, compat))
        } else if name == deployment::NAME {
            deployment.update(Deployment::parse(data))
        } else if name == maps.logging {
            logging.update(Logging::parse(data))
        } else if name == maps.observability {
            observability.update(Observability::parse(data, compat))
        } else if name == network::NAME {
            at_once = false;
            network.update(Network::parse(data))
        } else if name == maps.leader_election {
            at_once = false;
            leader_election.update(LeaderElection::parse(data, compat))
        } else {
            return;
        };
        match updated {
            Ok(false) => {}
            Ok(true) if at_once => {
                info!(map = %key, "settings changed");
                let settings = Settings { autoscaler: autoscaler.get().clone(), deployment: deployment.get().clone() };
                let process = Process { logging: *logging.get(), observability: observability.get().clone() };
                tell.settings.send_if_modified(|told| {
                    let differs = **told != settings;
                    if differs {
                        *told = Arc::new(settings);
                    }
                    differs
                });
                tell.process.send_if_modified(|told| {
                    let differs = *told != process;
                    *told = process;
                    differs
                });
            }
            Ok(true) => warn!(map = %key, "settings changed; they take effect when the autoscaler is restarted"),
            Err(error) => {
                error!(map = %key, %error, "settings not taken over; the last good ones stay in force");
                events.warn(map.object_ref(&()), "InvalidSettings", &error.to_string());
            }
        }
    })
    .await;
}
