//! Objects as an API server sends them, read for the few fields that are used.
//!
//! A pod or a Deployment is several kilobytes of JSON, of which a hundred bytes matter here. What is not read is skipped
//! by the parser and never becomes a value. [`Guarded`] lets one object be wrong without harm to the list or the watch
//! it comes in.

use crate::api::names::REVISION_LABEL;
use crate::api::pods::{Hindrance, Phase, PodFacts, first};
use crate::units::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::ApiResource;
use kube::core::{DynamicResourceScope, NamespaceResourceScope};
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// An object, or what can be said of one that cannot be understood.
///
/// It reads JSON only, and an event of a watch only when its `type` comes before its `object`, which is how every API
/// server writes it. (kube's own `DeserializeGuard` reads anything, by way of a tree of all that was sent, twice.)
#[derive(Clone, Debug)]
pub struct Guarded<K>(pub Result<K, Box<Unreadable>>);

/// An object that cannot be understood.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unreadable {
    /// What is wrong with it.
    pub error: String,
    /// Its name, namespace and version.
    pub metadata: ObjectMeta,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        match serde_json::from_str(text.get()) {
            Ok(object) => Ok(Self(Ok(object))),
            Err(error) => {
                let Named { metadata } = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
                let metadata = metadata.into_meta();
                Ok(Self(Err(Box::new(Unreadable { error: error.to_string(), metadata }))))
            }
        }
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unreadable| &unreadable.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|unreadable| &mut unreadable.metadata, K::meta_mut)
    }
}

/// What is read of a pod.
#[derive(Clone, Debug)]
pub struct SlimPod {
    meta: ObjectMeta,
    facts: PodFacts,
}

impl SlimPod {
    /// What is kept of it.
    pub fn into_facts(self) -> PodFacts {
        self.facts
    }
}

impl<'de> Deserialize<'de> for SlimPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let PodForm { metadata, status } = PodForm::deserialize(deserializer)?;
        let facts = PodFacts {
            namespace: metadata.namespace.0.as_ref().into(),
            name: metadata.name.0.as_ref().into(),
            revision: metadata.labels.revision.0.as_ref().into(),
            phase: match &*status.phase.0 {
                "Pending" => Phase::Pending,
                "Running" => Phase::Running,
                _ => Phase::Other,
            },
            ready: status.conditions.first_ready_is_true,
            terminating: metadata.deletion_timestamp.is_some(),
            ip: status.pod_ip.0.parse().ok(),
            started: status.start_time.as_ref().and_then(|time| {
                let time: jiff::Timestamp = time.0.parse().ok()?;
                Some(Timestamp::from_nanos(i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)))
            }),
            hindered: first(status.container_statuses.waiting.into_iter().chain(status.conditions.unschedulable))
                .map(Arc::new),
        };
        Ok(Self { meta: metadata.into_meta(), facts })
    }
}

impl Resource for SlimPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// What is read of an object with replicas, of whatever kind.
#[derive(Clone, Debug)]
pub struct SlimTarget {
    meta: ObjectMeta,
    /// `spec.replicas`; Kubernetes takes null for 1.
    pub replicas: Option<i32>,
}

impl<'de> Deserialize<'de> for SlimTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let TargetForm { metadata, spec } = TargetForm::deserialize(deserializer)?;
        Ok(Self { meta: metadata.into_meta(), replicas: spec.and_then(|spec| spec.replicas) })
    }
}

impl Resource for SlimTarget {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(dt: &ApiResource) -> Cow<'_, str> {
        dt.kind.as_str().into()
    }

    fn group(dt: &ApiResource) -> Cow<'_, str> {
        dt.group.as_str().into()
    }

    fn version(dt: &ApiResource) -> Cow<'_, str> {
        dt.version.as_str().into()
    }

    fn plural(dt: &ApiResource) -> Cow<'_, str> {
        dt.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// A text that is not copied where that can be helped. Null is empty.
#[derive(Debug, Default)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Present<'a>(#[serde(borrow)] Cow<'a, str>);
        Ok(Self(Option::<Present<'de>>::deserialize(deserializer)?.map(|text| text.0).unwrap_or_default()))
    }
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, default)]
    metadata: MetaForm<'a>,
}

#[derive(Deserialize)]
struct PodForm<'a> {
    #[serde(borrow, default)]
    metadata: MetaForm<'a>,
    #[serde(borrow, default)]
    status: PodStatusForm<'a>,
}

#[derive(Deserialize)]
struct TargetForm<'a> {
    #[serde(borrow, default)]
    metadata: MetaForm<'a>,
    #[serde(default)]
    spec: Option<TargetSpecForm>,
}

#[derive(Deserialize)]
struct TargetSpecForm {
    #[serde(default)]
    replicas: Option<i32>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct MetaForm<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    namespace: Text<'a>,
    #[serde(borrow, default)]
    resource_version: Text<'a>,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
    #[serde(borrow, default)]
    labels: LabelsForm<'a>,
}

impl MetaForm<'_> {
    fn into_meta(self) -> ObjectMeta {
        let text = |text: Text<'_>| (!text.0.is_empty()).then(|| text.0.into_owned());
        ObjectMeta {
            name: text(self.name),
            namespace: text(self.namespace),
            resource_version: text(self.resource_version),
            ..ObjectMeta::default()
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PodStatusForm<'a> {
    #[serde(borrow, default)]
    phase: Text<'a>,
    #[serde(borrow, default, rename = "podIP")]
    pod_ip: Text<'a>,
    #[serde(borrow, default)]
    start_time: Option<Text<'a>>,
    #[serde(default)]
    conditions: ConditionsForm,
    #[serde(default)]
    container_statuses: ContainersForm,
}

/// The one label that is read.
#[derive(Debug, Default)]
struct LabelsForm<'a> {
    revision: Text<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for LabelsForm<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Labels;
        impl<'de> Visitor<'de> for Labels {
            type Value = LabelsForm<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("labels")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(LabelsForm::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut labels = LabelsForm::default();
                while let Some(name) = map.next_key::<Text<'de>>()? {
                    if name.0 == REVISION_LABEL {
                        labels.revision = map.next_value()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(labels)
            }
        }
        deserializer.deserialize_any(Labels)
    }
}

/// Of the conditions of a pod, whether the first of type `Ready` is `True`, and whether no node has room.
#[derive(Debug, Default)]
struct ConditionsForm {
    first_ready_is_true: bool,
    unschedulable: Option<Hindrance>,
}

impl<'de> Deserialize<'de> for ConditionsForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Condition<'a> {
            #[serde(borrow, default, rename = "type")]
            type_: Text<'a>,
            #[serde(borrow, default)]
            status: Text<'a>,
            #[serde(borrow, default)]
            reason: Text<'a>,
            #[serde(borrow, default)]
            message: Text<'a>,
        }
        let conditions = Option::<Vec<Condition<'de>>>::deserialize(deserializer)?.unwrap_or_default();
        let find = |type_| conditions.iter().find(|condition| condition.type_.0 == type_);
        let unschedulable = find("PodScheduled").and_then(|Condition { status, reason, message, .. }| {
            Hindrance::of_scheduling(&status.0, &reason.0, &message.0)
        });
        Ok(Self { first_ready_is_true: find("Ready").is_some_and(|ready| ready.status.0 == "True"), unschedulable })
    }
}

/// What containers of a pod wait for that does not pass by itself.
#[derive(Debug, Default)]
struct ContainersForm {
    waiting: Vec<Hindrance>,
}

impl<'de> Deserialize<'de> for ContainersForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Container<'a> {
            #[serde(borrow, default)]
            state: Option<State<'a>>,
            #[serde(borrow, default, rename = "lastState")]
            last_state: Option<State<'a>>,
        }
        #[derive(Deserialize)]
        struct State<'a> {
            #[serde(borrow, default)]
            waiting: Option<Waiting<'a>>,
            #[serde(borrow, default)]
            terminated: Option<Terminated<'a>>,
        }
        #[derive(Deserialize)]
        struct Terminated<'a> {
            #[serde(default, rename = "exitCode")]
            exit_code: i32,
            #[serde(borrow, default)]
            reason: Text<'a>,
        }
        #[derive(Deserialize)]
        struct Waiting<'a> {
            #[serde(borrow, default)]
            reason: Text<'a>,
            #[serde(borrow, default)]
            message: Text<'a>,
        }
        let containers = Option::<Vec<Container<'de>>>::deserialize(deserializer)?.unwrap_or_default();
        let waiting = containers.into_iter().filter_map(|container| {
            let waiting = container.state?.waiting?;
            let ended = container.last_state.and_then(|state| state.terminated);
            let ended = ended.as_ref().map(|ended| (ended.exit_code, &*ended.reason.0));
            Hindrance::of_waiting(&waiting.reason.0, &waiting.message.0, ended)
        });
        Ok(Self { waiting: waiting.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::pod_autoscaler::PodAutoscaler;
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::WatchEvent;
    use kube::core::ObjectList;
    use serde_json::json;

    fn slim(value: &serde_json::Value) -> Result<SlimPod, Box<Unreadable>> {
        serde_json::from_str::<Guarded<SlimPod>>(&value.to_string()).expect("JSON").0
    }

    #[test]
    fn a_pod_read_for_its_facts_is_the_pod_read_whole() {
        let conditions = |ready: &[&str]| {
            let ready =
                ready.iter().map(|status| json!({"type": "Ready", "status": status, "message": "a \"b\" \u{e9}"}));
            let other = json!({"type": "Initialized", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"});
            std::iter::once(other).chain(ready).collect::<Vec<_>>()
        };
        let labels = json!({"app": "x", REVISION_LABEL: "shop-00003", "serving.knative.dev/revisionUID": "u"});
        let spec = json!({"containers": [{"name": "user", "image": "i", "env": [{"name": "A", "value": "{\"\\n"}]}]});
        for (name, pod) in [
            ("empty", json!({})),
            (
                "nulls",
                json!({"metadata": {"name": null, "labels": null}, "status": {"phase": null, "conditions": null}}),
            ),
            (
                "pending",
                json!({"metadata": {"name": "p", "namespace": "n", "labels": labels}, "status": {"phase": "Pending"}}),
            ),
            (
                "ready",
                json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": "p", "namespace": "n", "labels": labels, "resourceVersion": "7",
                                 "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]},
                    "spec": spec,
                    "status": {"phase": "Running", "podIP": "10.0.0.9", "startTime": "2026-01-02T03:04:05Z",
                               "conditions": conditions(&["True"])},
                }),
            ),
            (
                "the first of two",
                json!({"metadata": {"labels": labels}, "status": {"phase": "Running", "podIP": "fd00::9",
                       "conditions": conditions(&["False", "True"])}}),
            ),
            (
                "its image is not there",
                json!({"metadata": {"labels": labels}, "status": {"phase": "Pending", "containerStatuses": [
                    {"name": "queue-proxy", "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}}},
                    {"name": "other", "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
                    {"name": "user", "state": {"waiting": {"reason": "ErrImagePull", "message": "not \"found\"."}}},
                    {"name": "none", "state": null},
                ]}}),
            ),
            (
                "it ends again and again",
                json!({"status": {"phase": "Running", "containerStatuses": [
                    {"name": "user", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                     "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled",
                                                  "finishedAt": "2026-01-02T03:04:05Z"}}},
                ]}}),
            ),
            (
                "no room",
                json!({"status": {"phase": "Pending", "containerStatuses": null, "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "\u{e9}".repeat(400)},
                ]}}),
            ),
            (
                "on its way out",
                json!({"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}, "spec": spec,
                       "status": {"phase": "Running", "podIP": "not an address", "conditions": conditions(&["True"])}}),
            ),
        ] {
            let whole: Pod = serde_json::from_value(pod.clone()).expect("a pod");
            let slim = slim(&pod).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(slim.meta().name, whole.metadata.name, "{name}");
            assert_eq!(slim.meta().resource_version, whole.metadata.resource_version, "{name}");
            assert_eq!(slim.into_facts(), PodFacts::of(&whole), "{name}");
        }
    }

    #[test]
    fn one_bad_object_harms_neither_list_nor_watch() {
        let good = json!({"apiVersion": "a/b", "kind": "PodAutoscaler", "metadata": {"name": "good", "resourceVersion": "1"},
                          "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
        let mut bad = good.clone();
        bad["metadata"]["name"] = "bad".into();
        bad["spec"]["containerConcurrency"] = "ten".into();
        let list = json!({"apiVersion": "a/b", "kind": "PodAutoscalerList", "metadata": {"resourceVersion": "9"},
                          "items": [good, bad]});
        let list: ObjectList<Guarded<PodAutoscaler>> = serde_json::from_str(&list.to_string()).expect("a list");
        let names: Vec<_> = list.items.iter().map(|item| (item.meta().name.clone(), item.0.is_ok())).collect();
        assert_eq!(names, [(Some("good".to_owned()), true), (Some("bad".to_owned()), false)]);
        let error = list.items[1].0.as_ref().expect_err("a text is no number").to_string();
        assert!(error.contains("ten") && error.contains("i64"), "{error}");

        let line = format!(r#"{{"type":"MODIFIED","object":{bad}}}"#);
        let event: WatchEvent<Guarded<PodAutoscaler>> = serde_json::from_str(&line).expect("an event");
        assert!(matches!(event, WatchEvent::Modified(Guarded(Err(_)))));
    }

    #[test]
    fn replicas_are_read_of_any_kind() {
        for (spec, want) in [
            (json!({"replicas": 3, "template": {"spec": {}}}), Some(3)),
            (json!({"replicas": null}), None),
            (json!({}), None),
            (json!(null), None),
        ] {
            let object = json!({"metadata": {"name": "d"}, "spec": spec});
            let target: SlimTarget = serde_json::from_str(&object.to_string()).expect("a target");
            assert_eq!(target.replicas, want, "{spec}");
        }
        for spec in [json!({"replicas": "3"}), json!({"replicas": 3_000_000_000_u64}), json!(7)] {
            let object = json!({"metadata": {"name": "d"}, "spec": spec});
            assert!(serde_json::from_str::<SlimTarget>(&object.to_string()).is_err(), "{spec}");
        }
    }
}
