//! What Ebb may do, and how somebody gets to be allowed it.

use crate::audit::Asked;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use std::fmt;

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
        asked.resource() == self.resource
            && asked.verb == self.verb
            && asked.object_ref.api_group == self.group
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

/// What is shipped, object by object.
pub(crate) fn manifest() -> Vec<Value> {
    let deploy = crate::root().join("deploy/base");
    let text = ["service-account.yaml", "rbac.yaml"].map(|file| {
        let path = deploy.join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    });
    serde_saphyr::from_multiple(&text.join("\n---\n")).expect("YAML")
}

/// What Ebb is shipped with.
pub(crate) fn shipped() -> Vec<Rule> {
    let of = |kind: &str, scope: Scope| {
        let roles = manifest().into_iter().filter(|object| object["kind"] == kind).collect::<Vec<_>>();
        roles.into_iter().flat_map(move |role| {
            let rules: Vec<PolicyRule> = serde_json::from_value(role["rules"].clone()).expect("rules");
            rules.into_iter().map(move |policy| Rule { scope, policy })
        })
    };
    of("ClusterRole", Scope::Cluster).chain(of("Role", Scope::System)).collect()
}

/// Installs what is shipped, as it is.
pub(crate) async fn install(client: &Client) {
    let discovery = kube::discovery::Discovery::new(client.clone()).run().await.expect("discovery");
    for object in manifest() {
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        let types = object.types.clone().expect("a type");
        let kind = GroupVersionKind::try_from(&types).expect("a kind");
        let (resource, _) = discovery.resolve_gvk(&kind).unwrap_or_else(|| panic!("no {kind:?}"));
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.create(&PostParams::default(), &object).await.expect("created");
    }
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
