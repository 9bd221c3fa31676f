//! The certificates of a double: by host, from the Secrets its Ingresses name.

use k8s_openapi::api::core::v1::Secret;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The kind of Secret that holds a certificate.
const KIND: &str = "kubernetes.io/tls";

/// The certificates there are, by host. One may be for all hosts of a domain: `*.example.com`.
#[derive(Debug, Default)]
pub(super) struct Certificates(RwLock<HashMap<String, Arc<CertifiedKey>>>);

impl Certificates {
    pub(super) fn set(&self, by_host: HashMap<String, Arc<CertifiedKey>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = by_host;
    }

    fn of(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let wildcard = || known.get(&format!("*.{}", host.split_once('.')?.1));
        known.get(host).or_else(wildcard).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of(&hello.server_name()?.to_ascii_lowercase())
    }
}

/// How a listener speaks TLS with these certificates, HTTP/2 or HTTP/1.1.
pub(super) fn config(certificates: Arc<Certificates>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions");
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The certificate a Secret holds, and its key.
pub(super) fn certificate(secret: &Secret) -> Result<CertifiedKey, String> {
    if secret.type_.as_deref() != Some(KIND) {
        return Err(format!("it is of the type {:?} and not {KIND}", secret.type_.as_deref().unwrap_or_default()));
    }
    let part = |name: &str| {
        let found = secret.data.as_ref().and_then(|data| data.get(name));
        found.map(|bytes| bytes.0.as_slice()).ok_or_else(|| format!("it has no {name}"))
    };
    let wrong = |name: &'static str| move |error: rustls::pki_types::pem::Error| format!("{name}: {error}");
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(part("tls.crt")?).collect();
    let key = PrivateKeyDer::from_pem_slice(part("tls.key")?).map_err(wrong("tls.key"))?;
    let chain = chain.map_err(wrong("tls.crt"))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| error.to_string())
}
