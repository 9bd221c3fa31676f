//! Who holds a bucket, and how a holder is named. Pure.

use std::net::IpAddr;
use std::sync::Arc;

/// The port on which every replica takes in stats.
pub const STATS_PORT: u16 = 8080;

/// A replica, as it signs its Leases: `POD_POD-IP`, from which the others learn where to reach it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    text: String,
    pod: String,
    ip: IpAddr,
}

/// A pod's name or address that cannot sign a Lease.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdentityError {
    /// The name is empty, or has an underscore, so that others would take part of it for the address.
    #[error("POD_NAME: {0:?} is not the name of a pod; take it from metadata.name by the downward API")]
    Pod(String),
    /// The address is not one.
    #[error("POD_IP: {0:?} is not an IP address; take it from status.podIP by the downward API")]
    Ip(String),
}

impl Identity {
    /// The replica in the pod of this name and address. The address is signed as it is written here.
    pub fn new(pod: &str, ip: &str) -> Result<Self, IdentityError> {
        if pod.is_empty() || pod.contains('_') {
            return Err(IdentityError::Pod(pod.to_owned()));
        }
        let address = ip.parse().map_err(|_| IdentityError::Ip(ip.to_owned()))?;
        Ok(Self { text: format!("{pod}_{ip}"), pod: pod.to_owned(), ip: address })
    }

    /// Reads a signature: the address is what follows the first underscore. `None` when there is no address.
    pub fn parse(text: &str) -> Option<Self> {
        let (pod, ip) = text.split_once('_')?;
        Some(Self { text: text.to_owned(), pod: pod.to_owned(), ip: ip.parse().ok()? })
    }

    /// The signature.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The pod's name.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// The pod's address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }
}

/// Who holds a bucket, as far as this replica knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Holder {
    /// Nobody, or nobody known yet. Stats wait.
    #[default]
    Nobody,
    /// This replica, which is the only one that may write for the bucket's revisions.
    Local,
    /// Another replica.
    Remote(Arc<Remote>),
}

impl Holder {
    /// The other replica that holds it, if one does.
    pub fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Remote(remote) => Some(remote),
            Self::Nobody | Self::Local => None,
        }
    }
}

/// Another replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Its pod's name; in StatefulSet mode the name of the bucket, which is its URL.
    pub name: String,
    /// Where it is reached: an IP address without brackets, in StatefulSet mode a DNS name.
    pub host: String,
    /// The websocket URLs to try for its stat server, in this order.
    pub urls: Vec<String>,
}

impl Remote {
    /// The name of its pod.
    pub fn pod(&self) -> &str {
        // A member of a StatefulSet has it in its address.
        if self.name.contains("://") { self.host.split('.').next().unwrap_or(&self.host) } else { &self.name }
    }

    /// The holder of a Lease: reached by its address and, where a mesh keeps pods from each other, by the bucket's
    /// Service in `namespace`.
    pub fn of_lease(holder: &Identity, bucket: &str, namespace: &str, cluster_domain: &str) -> Self {
        let by_ip = match holder.ip() {
            IpAddr::V4(ip) => format!("ws://{ip}:{STATS_PORT}"),
            IpAddr::V6(ip) => format!("ws://[{ip}]:{STATS_PORT}"),
        };
        let by_service = format!("ws://{bucket}.{namespace}.svc.{cluster_domain}:{STATS_PORT}");
        Self { name: holder.pod().to_owned(), host: holder.ip().to_string(), urls: vec![by_ip, by_service] }
    }

    /// The member of a StatefulSet whose bucket has this URL for a name. Whatever protocol it names, stats travel over
    /// websockets; the reference fails on any but `ws`.
    pub fn of_stateful_set(bucket: &str) -> Self {
        let authority = bucket.split_once("://").map_or(bucket, |(_, rest)| rest);
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        Self { name: bucket.to_owned(), host: host.to_owned(), urls: vec![format!("ws://{authority}")] }
    }
}

/// StatefulSet mode: replica `i` of the set owns bucket `i` for good, and no Lease is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatefulSet {
    set: String,
    ordinal: u32,
    service: String,
    port: String,
    protocol: String,
}

impl StatefulSet {
    /// Reads `STATEFUL_CONTROLLER_ORDINAL`, `STATEFUL_SERVICE_NAME`, `STATEFUL_SERVICE_PORT` (80) and
    /// `STATEFUL_SERVICE_PROTOCOL` (`http`) through `variable`. `None` when the first two are not there or the first
    /// does not end in a number, upon which owners are elected, as in Knative.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let pod = variable("STATEFUL_CONTROLLER_ORDINAL")?;
        let (set, ordinal) = pod.rsplit_once('-')?;
        Some(Self {
            set: set.to_owned(),
            ordinal: ordinal.parse().ok()?,
            service: variable("STATEFUL_SERVICE_NAME")?,
            port: variable("STATEFUL_SERVICE_PORT").unwrap_or_else(|| "80".to_owned()),
            protocol: variable("STATEFUL_SERVICE_PROTOCOL").unwrap_or_else(|| "http".to_owned()),
        })
    }

    /// The names of `buckets` buckets, and the index of this replica's own once they are sorted as text: with the
    /// eleven replicas Knative does not allow, it would not be the one of its own name. `None` when there are more
    /// replicas than buckets and this is one too many.
    pub fn buckets(&self, buckets: u32, namespace: &str, cluster_domain: &str) -> Option<(Vec<String>, usize)> {
        let Self { set, service, port, protocol, ordinal } = self;
        let own = usize::try_from(*ordinal).ok().filter(|_| *ordinal < buckets)?;
        let name = |i: u32| format!("{protocol}://{set}-{i}.{service}.{namespace}.svc.{cluster_domain}:{port}");
        Some(((0..buckets).map(name).collect(), own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_as_knative_writes_them() {
        let recorded = "autoscaler-5ffdb95f79-k2xpq_10.244.1.6";
        let identity = Identity::parse(recorded).expect("a signature");
        assert_eq!(identity, Identity::new("autoscaler-5ffdb95f79-k2xpq", "10.244.1.6").expect("a pod"));
        assert_eq!(identity.as_str(), recorded);
        for bad in ["", "autoscaler", "autoscaler_", "autoscaler_x", "a_10.0.0.1_2"] {
            assert_eq!(Identity::parse(bad), None, "{bad:?}");
        }
        assert!(matches!(Identity::new("", "10.0.0.1"), Err(IdentityError::Pod(_))));
        assert!(matches!(Identity::new("a", "localhost"), Err(IdentityError::Ip(_))));
    }

    #[test]
    fn a_holder_is_tried_by_address_then_by_service() {
        let bucket = "autoscaler-bucket-00-of-01";
        for (ip, url) in [("10.0.0.1", "ws://10.0.0.1:8080"), ("fd00::1", "ws://[fd00::1]:8080")] {
            let holder = Identity::new("a", ip).expect("a pod");
            let remote = Remote::of_lease(&holder, bucket, "knative-serving", "cluster.local");
            let service = "ws://autoscaler-bucket-00-of-01.knative-serving.svc.cluster.local:8080";
            assert_eq!((remote.host.as_str(), &*remote.urls), (ip, &[url.to_owned(), service.to_owned()][..]));
        }
    }

    #[test]
    fn a_stateful_set_names_its_buckets_by_urls() {
        let table = [
            (&[("STATEFUL_CONTROLLER_ORDINAL", "as-1")][..], false),
            (&[("STATEFUL_SERVICE_NAME", "autoscaler")], false),
            (&[("STATEFUL_CONTROLLER_ORDINAL", "as"), ("STATEFUL_SERVICE_NAME", "autoscaler")], false),
            (&[("STATEFUL_CONTROLLER_ORDINAL", "as-x"), ("STATEFUL_SERVICE_NAME", "autoscaler")], false),
            (&[("STATEFUL_CONTROLLER_ORDINAL", "my-as-1"), ("STATEFUL_SERVICE_NAME", "autoscaler")], true),
        ];
        let read = |pairs: &[(&str, &str)]| {
            StatefulSet::from_env(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        for (pairs, active) in table {
            assert_eq!(read(pairs).is_some(), active, "{pairs:?}");
        }
        let set = read(table[4].0).expect("complete");
        let (names, own) = set.buckets(2, "knative-serving", "cluster.local").expect("ordinal 1 of 2");
        assert_eq!(names[1], "http://my-as-1.autoscaler.knative-serving.svc.cluster.local:80");
        assert_eq!(own, 1);
        assert_eq!(set.buckets(1, "knative-serving", "cluster.local"), None);

        let remote = Remote::of_stateful_set(&names[0]);
        assert_eq!(remote.host, "my-as-0.autoscaler.knative-serving.svc.cluster.local");
        assert_eq!(remote.urls, ["ws://my-as-0.autoscaler.knative-serving.svc.cluster.local:80"]);
    }
}
