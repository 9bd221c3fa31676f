//! What Ebb may do, and how somebody gets to be allowed it.

use crate::audit::Asked;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;

/// Where a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Cluster,
    /// The namespace of Knative's system.
    System,
}

/// One entry of a role.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    pub(crate) scope: Scope,
    pub(crate) policy: PolicyRule,
}

/// One verb on one resource, or on one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Right {
    pub(crate) scope: Scope,
    pub(crate) group: String,
    /// `resource` or `resource/subresource`; or a path.
    pub(crate) resource: String,
    pub(crate) verb: String,
}

impl Rule {
    /// Everything it allows, one by one.
    pub(crate) fn rights(&self) -> Vec<Right> {
        let PolicyRule { api_groups, resources, non_resource_urls, verbs, .. } = &self.policy;
        let mut rights = Vec::new();
        let mut add = |group: &str, resource: &str| {
            rights.extend(verbs.iter().map(|verb| Right {
                scope: self.scope,
                group: group.to_owned(),
                resource: resource.to_owned(),
                verb: verb.clone(),
            }));
        };
        for group in api_groups.iter().flatten() {
            resources.iter().flatten().for_each(|resource| add(group, resource));
        }
        non_resource_urls.iter().flatten().for_each(|path| add("", path));
        rights
    }
}

impl Right {
    /// Whether it is what a request needed; `system` is the system's namespace.
    pub(crate) fn allows(&self, asked: &Asked, system: &str) -> bool {
        if self.resource.starts_with('/') {
            return asked.verb == self.verb && asked.uri.split('?').next() == Some(&self.resource);
        }
        let resource = asked.resource();
        let same = resource == self.resource
            || self.resource.strip_prefix('*').is_some_and(|subresource| resource.ends_with(subresource));
        same && asked.verb == self.verb
            && (self.group == "*" || asked.object_ref.api_group == self.group)
            && (self.scope == Scope::Cluster || asked.object_ref.namespace == system)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, group, resource, verb } = self;
        write!(f, "{verb} {resource}")?;
        if !group.is_empty() {
            write!(f, " of {group}")?;
        }
        f.write_str(if *scope == Scope::Cluster { "" } else { " in the system's namespace" })
    }
}

/// What Ebb is shipped with: the rules of `deploy/base/rbac.yaml`.
pub(crate) fn shipped() -> Vec<Rule> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is"));
    let text = std::fs::read_to_string(root.join("deploy/base/rbac.yaml")).expect("the shipped roles");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let scope = |object: &Value| match object["kind"].as_str() {
        Some("ClusterRole") => Some(Scope::Cluster),
        Some("Role") => Some(Scope::System),
        _ => None,
    };
    let rules = objects.iter().filter_map(|object| Some((scope(object)?, object["rules"].as_array()?)));
    let rules = rules.flat_map(|(scope, rules)| rules.iter().map(move |rule| (scope, rule.clone())));
    rules.map(|(scope, rule)| Rule { scope, policy: serde_json::from_value(rule).expect("a rule") }).collect()
}

/// Allows `user` these rules and nothing else. `name` is that of the roles.
pub(crate) async fn allow(client: &Client, name: &str, user: &str, system: &str, rules: &[Rule]) {
    let of = |scope| rules.iter().filter(|rule| rule.scope == scope).map(|rule| &rule.policy).collect::<Vec<_>>();
    let params = PatchParams::apply("cluster-test").force();
    let object = |kind: &str, key: &str, value: Value| {
        let mut object =
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}});
        object[key] = value;
        object
    };
    let binding = |kind: &str, role: &str| {
        let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": name});
        let mut binding = object(kind, "roleRef", reference);
        binding["subjects"] = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]);
        Patch::Apply(binding)
    };
    let role = Patch::Apply(object("ClusterRole", "rules", json!(of(Scope::Cluster))));
    Api::<ClusterRole>::all(client.clone()).patch(name, &params, &role).await.expect("a role");
    let binds = binding("ClusterRoleBinding", "ClusterRole");
    Api::<ClusterRoleBinding>::all(client.clone()).patch(name, &params, &binds).await.expect("a binding");
    let role = Patch::Apply(object("Role", "rules", json!(of(Scope::System))));
    Api::<Role>::namespaced(client.clone(), system).patch(name, &params, &role).await.expect("a role");
    let binds = binding("RoleBinding", "Role");
    Api::<RoleBinding>::namespaced(client.clone(), system).patch(name, &params, &binds).await.expect("a binding");
}
