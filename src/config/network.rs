//! `config-network`: whether pods can be reached by their own addresses, and how revisions are named and routed to.

use crate::config::{ConfigError, Data, Reader, template};
use crate::units::Compat;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// The name of the ConfigMap.
pub const NAME: &str = "config-network";

/// Whether the autoscaler asks pods directly or their Service, which a service mesh may leave no choice about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MeshMode {
    /// Pods first, and their Service once pods turn out to be out of reach.
    #[default]
    Auto,
    /// The Service only.
    Enabled,
    /// Pods only.
    Disabled,
}

/// What is done with requests over plain HTTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HttpProtocol {
    /// They are served.
    #[default]
    Enabled,
    /// They are refused.
    Disabled,
    /// They are sent to HTTPS.
    Redirected,
}

/// The cluster's network settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    /// Whether scraping goes to pods or to their Service.
    pub mesh_compatibility_mode: MeshMode,
    /// Whether pods can be reached by address although there is a mesh.
    pub enable_mesh_pod_addressability: bool,
    /// The ingress class of routes without an annotation.
    pub ingress_class: String,
    /// How a route's host is made: a Go template over `Name`, `Namespace`, `Domain`, `Annotations` and `Labels`.
    pub domain_template: String,
    /// How the name in a tagged route's host is made: a Go template over `Tag` and `Name`.
    pub tag_template: String,
    /// `http` or `https`, for URLs of routes that have no certificate of their own.
    pub default_external_scheme: String,
    /// What is done with requests over plain HTTP.
    pub http_protocol: HttpProtocol,
    /// Whether routes get certificates for their outside hosts.
    pub external_domain_tls: bool,
    /// Whether routes get certificates for their hosts inside the cluster.
    pub cluster_local_domain_tls: bool,
    /// Whether traffic between Knative's own components is encrypted.
    pub system_internal_tls: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            mesh_compatibility_mode: MeshMode::Auto,
            enable_mesh_pod_addressability: false,
            ingress_class: "istio.ingress.networking.knative.dev".to_owned(),
            domain_template: "{{.Name}}.{{.Namespace}}.{{.Domain}}".to_owned(),
            tag_template: "{{.Tag}}-{{.Name}}".to_owned(),
            default_external_scheme: "http".to_owned(),
            http_protocol: HttpProtocol::Enabled,
            external_domain_tls: false,
            cluster_local_domain_tls: false,
            system_internal_tls: false,
        }
    }
}

impl Network {
    /// Reads the map; all of it must be well formed, also what the autoscaler has no use for.
    ///
    /// A template that is more than text and fields is taken as it is: Knative's controller judges it.
    pub fn parse(data: &Data) -> Result<Self, ConfigError> {
        let mut this = Self::default();
        let mut reader = Reader::new(NAME, data, Compat::STRICT);
        // Where a setting has an older key, the newer one is read last and so wins.
        for key in ["ingress.class", "ingress-class"] {
            reader.text(key, &mut this.ingress_class);
        }
        for key in ["domainTemplate", "domain-template"] {
            reader.text(key, &mut this.domain_template);
        }
        for key in ["tagTemplate", "tag-template"] {
            reader.text(key, &mut this.tag_template);
        }
        for key in ["defaultExternalScheme", "default-external-scheme"] {
            reader.text(key, &mut this.default_external_scheme);
        }
        reader.boolean("enable-mesh-pod-addressability", &mut this.enable_mesh_pod_addressability);
        reader.read("mesh-compatibility-mode", &mut this.mesh_compatibility_mode, "", |text| {
            Ok(match text.to_lowercase().as_str() {
                "enabled" => MeshMode::Enabled,
                "disabled" => MeshMode::Disabled,
                // Anything else is taken for auto, as in the reference.
                _ => MeshMode::Auto,
            })
        });
        for key in ["httpProtocol", "http-protocol"] {
            let accepted = "\"enabled\", \"disabled\" or \"redirected\"";
            reader.read(key, &mut this.http_protocol, accepted, |text| match text.to_lowercase().as_str() {
                "" | "enabled" => Ok(HttpProtocol::Enabled),
                "disabled" => Ok(HttpProtocol::Disabled),
                "redirected" => Ok(HttpProtocol::Redirected),
                _ => Err("is not a way to treat plain HTTP".to_owned()),
            });
        }
        for key in ["autoTLS", "auto-tls", "external-domain-tls"] {
            reader.read(key, &mut this.external_domain_tls, "", |text| Ok(text.eq_ignore_ascii_case("enabled")));
        }
        let mut internal_encryption = false;
        reader.boolean("internal-encryption", &mut internal_encryption);
        reader.read("system-internal-tls", &mut this.system_internal_tls, ON_OR_OFF, on_or_off);
        this.system_internal_tls |= internal_encryption;
        reader.read("cluster-local-domain-tls", &mut this.cluster_local_domain_tls, ON_OR_OFF, on_or_off);
        for key in ["autocreateClusterDomainClaims", "autocreate-cluster-domain-claims"] {
            reader.boolean(key, &mut false);
        }

        let mut rollout_seconds = 0;
        let rollout_key = reader.either("rollout-duration", "rolloutDuration");
        for key in ["rolloutDuration", "rollout-duration"] {
            reader.int64(key, &mut rollout_seconds);
        }
        reader.refuse_if(rollout_seconds < 0, &[rollout_key], "is negative", "a number of seconds from 0");
        reader.read("namespace-wildcard-cert-selector", &mut (), "a label selector in YAML", |text| {
            let selector: Result<Option<LabelSelector>, _> = serde_saphyr::from_str(text);
            if text.is_empty() || selector.is_ok() { Ok(()) } else { Err("is not a label selector".to_owned()) }
        });
        if let Err(problem) = this.try_host() {
            let key = reader.either("domain-template", "domainTemplate");
            reader.problem(&[key], problem, "a template such as \"{{.Name}}.{{.Namespace}}.{{.Domain}}\"".to_owned());
        }
        if let Err(problem) = template::render(&this.tag_template, &[("Tag", "v2"), ("Name", "foo")]) {
            let key = reader.either("tag-template", "tagTemplate");
            reader.problem(&[key], problem, "a template such as \"{{.Tag}}-{{.Name}}\"".to_owned());
        }
        reader.finish(this)
    }

    /// The host of a route, or nothing if the template is more than text and fields.
    pub fn host(&self, name: &str, namespace: &str, domain: &str) -> Option<String> {
        let fields = [("Name", name), ("Namespace", namespace), ("Domain", domain)];
        template::render(&self.domain_template, &fields).ok().flatten()
    }

    /// The name a tagged route has in its host, or nothing if the template is more than text and fields.
    pub fn tagged_name(&self, tag: &str, name: &str) -> Option<String> {
        template::render(&self.tag_template, &[("Tag", tag), ("Name", name)]).ok().flatten()
    }

    /// Makes a host of the template and looks whether it is one.
    fn try_host(&self) -> Result<(), String> {
        let fields =
            [("Name", "foo"), ("Namespace", "bar"), ("Domain", "baz.com"), ("Annotations", ""), ("Labels", "")];
        let Some(rendered) = template::render(&self.domain_template, &fields)? else { return Ok(()) };
        let before_fragment = rendered.split('#').next().unwrap_or_default();
        let host = before_fragment.strip_suffix('/').unwrap_or(before_fragment);
        if host.is_empty() {
            Err("makes an empty host".to_owned())
        } else if host.contains(['/', '?']) {
            Err("makes a host with a path".to_owned())
        } else if host.contains(|character: char| character.is_whitespace() || "<>\"{}|\\^`".contains(character)) {
            Err("makes something that is not a host".to_owned())
        } else {
            Ok(())
        }
    }
}

const ON_OR_OFF: &str = "\"enabled\" or \"disabled\"";

fn on_or_off(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "" | "disabled" => Ok(false),
        "enabled" => Ok(true),
        _ => Err("is neither enabled nor disabled".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Network, ConfigError> {
        Network::parse(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_the_autoscaler_needs_is_read() {
        assert_eq!(parse(&[]), Ok(Network::default()));
        let network = parse(&[
            ("mesh-compatibility-mode", "ENABLED"),
            ("enable-mesh-pod-addressability", "true"),
            ("ingress.class", "old"),
            ("ingress-class", " alb.ingress.networking.knative.dev\n"),
            ("domain-template", "{{.Name}}-{{.Namespace}}.{{.Domain}}"),
            ("internal-encryption", "true"),
            ("auto-tls", "Enabled"),
            ("external-domain-tls", "no"),
            ("http-protocol", "Redirected"),
            ("_example", "anything"),
        ])
        .expect("a good map");
        assert_eq!(network.mesh_compatibility_mode, MeshMode::Enabled);
        assert!(network.enable_mesh_pod_addressability && network.system_internal_tls);
        assert!(!network.external_domain_tls, "the newer key wins");
        assert_eq!(network.http_protocol, HttpProtocol::Redirected);
        assert_eq!(network.ingress_class, "alb.ingress.networking.knative.dev");
        assert_eq!(network.host("web", "demo", "example.com").as_deref(), Some("web-demo.example.com"));
        assert_eq!(network.tagged_name("blue", "web").as_deref(), Some("blue-web"));
        let unknown = parse(&[("mesh-compatibility-mode", "maybe")]);
        assert_eq!(unknown.map(|network| network.mesh_compatibility_mode), Ok(MeshMode::Auto));
    }

    #[test]
    fn the_whole_map_must_be_well_formed() {
        for (key, value) in [
            ("enable-mesh-pod-addressability", "yes"),
            ("http-protocol", "off"),
            ("system-internal-tls", "true"),
            ("cluster-local-domain-tls", "1"),
            ("rollout-duration", "-1"),
            ("rollout-duration", "10s"),
            ("autocreate-cluster-domain-claims", ""),
            ("internal-encryption", "enabled"),
            ("domain-template", "{{.Name}"),
            ("domain-template", "{{.Tag}}.example.com"),
            ("domain-template", "{{.Name}}/{{.Namespace}}"),
            ("domain-template", ""),
            ("tag-template", "{{.Namespace}}"),
            ("namespace-wildcard-cert-selector", "[1, 2]"),
        ] {
            let error = parse(&[(key, value)]).expect_err(value);
            assert_eq!(error.problems.len(), 1, "{error}");
            assert_eq!(error.problems[0].keys, [key], "{value}");
        }
        for (key, value) in [
            ("domain-template", "{{.Name}}.{{index .Annotations \"sub\"}}.{{.Domain}}"),
            ("namespace-wildcard-cert-selector", "matchExpressions: [{key: a, operator: NotIn, values: [b]}]"),
            ("namespace-wildcard-cert-selector", ""),
            ("rollout-duration", "+120"),
        ] {
            assert!(parse(&[(key, value)]).is_ok(), "{key}: {value}");
        }
        let all = parse(&[("rollout-duration", "x"), ("http-protocol", "x"), ("tag-template", "{{")]);
        assert_eq!(all.expect_err("three faults").problems.len(), 3);
    }
}
