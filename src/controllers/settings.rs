//! The cluster's settings in force, from its ConfigMaps: read at the start, followed while running.

use crate::api::names::SYSTEM_NAMESPACE;
use crate::config::autoscaler::Autoscaler;
use crate::config::deployment::Deployment;
use crate::config::{ConfigError, Live};
use crate::k8s::events::Events;
use crate::k8s::follow::{Change, follow};
use crate::units::Compat;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, Client, Resource as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// The ConfigMap of the autoscaler's own settings.
pub const AUTOSCALER_MAP: &str = "config-autoscaler";
/// The ConfigMap that holds the progress deadline.
pub const DEPLOYMENT_MAP: &str = "config-deployment";

/// The settings of one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// `config-autoscaler`.
    pub autoscaler: Autoscaler,
    /// `config-deployment`.
    pub deployment: Deployment,
}

/// The settings as they change.
pub type Current = watch::Receiver<Arc<Settings>>;

/// The settings could not be read at the start.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The API server did not give the map.
    #[error("ConfigMap {SYSTEM_NAMESPACE}/{map} cannot be read")]
    Unreadable {
        /// Which map.
        map: &'static str,
        /// What the API server said.
        source: kube::Error,
    },
    /// The map has values that cannot be used.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
}

/// Reads the ConfigMaps.
///
/// # Errors
/// When one is missing or cannot be used: an autoscaler does not start on settings nobody wrote.
pub async fn read(client: &Client, compat: Compat) -> Result<Settings, SettingsError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let data = async |map: &'static str| match maps.get(map).await {
        Ok(found) => Ok(found.data.unwrap_or_default()),
        Err(source) => Err(SettingsError::Unreadable { map, source }),
    };
    Ok(Settings {
        autoscaler: Autoscaler::parse(&data(AUTOSCALER_MAP).await?, compat)?,
        deployment: Deployment::parse(&data(DEPLOYMENT_MAP).await?)?,
    })
}

/// Follows the ConfigMaps until `cancel`. A map that cannot be used leaves the last good values in force; its owner
/// finds every problem in the log and in an Event on the map. Semantically equal settings are not told again.
pub async fn keep_current(
    client: Client,
    compat: Compat,
    start: Settings,
    tell: watch::Sender<Arc<Settings>>,
    events: Events,
    cancel: CancellationToken,
) {
    let mut autoscaler = Live::new(start.autoscaler);
    let mut deployment = Live::new(start.deployment);
    let api: Api<DeserializeGuard<ConfigMap>> = Api::namespaced(client, SYSTEM_NAMESPACE);
    follow(api, watcher::Config::default(), cancel, |change: Change<ConfigMap>| {
        let Change::Put(key, map) = change else {
            // A deleted map leaves its last good values in force.
            return;
        };
        let data: BTreeMap<String, String> = map.data.clone().unwrap_or_default();
        let updated = match key.name() {
            AUTOSCALER_MAP => autoscaler.update(Autoscaler::parse(&data, compat)),
            DEPLOYMENT_MAP => deployment.update(Deployment::parse(&data)),
            _ => return,
        };
        match updated {
            Ok(false) => {}
            Ok(true) => {
                info!(map = %key, "settings changed");
                let settings = Settings { autoscaler: autoscaler.get().clone(), deployment: deployment.get().clone() };
                tell.send_replace(Arc::new(settings));
            }
            Err(error) => {
                error!(map = %key, %error, "settings not taken over; the last good ones stay in force");
                events.warn(map.object_ref(&()), "InvalidSettings", &error.to_string());
            }
        }
    })
    .await;
}
