//! What every write goes through: the parts of an object that are not the client's to set, defaults, admission,
//! validation, field ownership, and only then the commit.
//!
//! A write reads a version, works on a copy without any lock, and commits only when that version is still the newest;
//! otherwise it starts again on the newer one. So a patch is never lost, and a replacement that names the version it
//! stands on fails with 409.

use super::admission::{Operation, Review};
use super::object::{Object, metadata_mut, metadata_text};
use super::resource::{Generation, Naming, Resource};
use super::status::{self, Answer, Cause};
use super::store::{Refused, ShardId, Store};
use super::{builtin, fields, names};
use crate::units::{Span, Timestamp};
use kube::core::Status;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The finalizer that keeps an owner until its dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that keeps an owner until its dependents no longer name it.
pub(super) const ORPHAN: &str = "orphan";
/// Who the API itself writes as.
pub(super) const OURSELVES: &str = "apiserver";

/// Tries of one write against newer versions before it is given up; only a store of endless writers gets there.
const MOST_TRIES: usize = 100;
/// Tries of a generated name.
const MOST_NAMES: usize = 8;

/// Which object is written, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) store: &'a Store,
    pub(super) id: ShardId,
    pub(super) resource: &'a Resource,
    /// Empty outside namespaces.
    pub(super) namespace: &'a str,
    /// Empty on create; the object then brings its own.
    pub(super) name: &'a str,
    pub(super) part: Part,
    /// Who owns the fields this write sets.
    pub(super) manager: &'a str,
    /// Only say what would happen.
    pub(super) dry_run: bool,
    /// Whether fields the type does not have are an error, a warning, or nothing.
    pub(super) strict: builtin::Strictness,
}

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Status,
    Scale,
}

impl Part {
    pub(super) fn subresource(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::Status => Some("status"),
            Self::Scale => Some("scale"),
        }
    }
}

/// What a write came to.
#[derive(Debug)]
pub(super) struct Written {
    /// The object as it is now, or as it last was.
    pub(super) object: Arc<Object>,
    /// Whether it is gone.
    pub(super) gone: bool,
    /// Whether it is new.
    pub(super) created: bool,
    /// What the client should know though the write succeeded.
    pub(super) warnings: Vec<String>,
}

/// Who keeps the ownership of fields for a write.
pub(super) enum Ownership {
    /// Whatever differs from before belongs to the target's manager.
    OfChanges,
    /// The change has settled it already, as server-side apply does.
    Settled,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub(super) struct DeleteOptions {
    pub(super) grace_seconds: Option<i64>,
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) propagation: Propagation,
}

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Propagation {
    /// They are deleted after it.
    #[default]
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// Makes a namespace that is there from the start.
pub(super) fn make_namespace(store: &Store, name: &str) {
    let (id, resource) = store.find("", "v1", "namespaces").expect("namespaces are built in");
    let target = Target {
        store,
        id,
        resource: &resource,
        namespace: "",
        name: "",
        part: Part::Whole,
        manager: OURSELVES,
        dry_run: false,
        strict: builtin::Strictness::Ignore,
    };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    target.create(namespace, &Ownership::OfChanges).expect("a new store takes its first namespaces");
}

impl Target<'_> {
    /// Makes an object.
    pub(super) fn create(&self, mut value: Value, ownership: &Ownership) -> Answer<Written> {
        self.check_type(&value)?;
        drop_nulls(&mut value);
        self.place(&mut value)?;
        let prefix = metadata_text(&value, "generateName").to_owned();
        let generated = metadata_text(&value, "name").is_empty() && !prefix.is_empty();
        for attempt in 1.. {
            let mut object = value.clone();
            if generated {
                metadata_mut(&mut object).insert("name".to_owned(), names::generate(&prefix).into());
            }
            let name = metadata_text(&object, "name").to_owned();
            self.check_new(&object, &name)?;
            self.begin(&mut object);
            let object = self.admit(Operation::Create, &name, None, object)?;
            let (mut object, warnings) = self.settle(&name, None, object)?;
            if matches!(ownership, Ownership::OfChanges) {
                metadata_mut(&mut object).remove("managedFields");
                fields::after_update(self.resource, None, &mut object, self.manager, self.part, self.now());
            }
            if self.dry_run {
                if self.store.get(self.id, self.namespace, &name).is_some() {
                    return Err(status::already_exists(self.resource, &name));
                }
                return Ok(Written { created: true, warnings, ..self.imagined(object, None) });
            }
            match self.store.insert(self.id, object) {
                Ok(object) => return Ok(Written { object, gone: false, created: true, warnings }),
                Err(Refused::Full) => return Err(full()),
                Err(Refused::Exists | Refused::Stale) => {
                    if !generated || attempt == MOST_NAMES {
                        return Err(status::already_exists(self.resource, &name));
                    }
                }
            }
        }
        unreachable!("the loop returns")
    }

    /// Changes an object; `change` makes the new version out of the old one.
    pub(super) fn update(
        &self,
        ownership: &Ownership,
        mut change: impl FnMut(&Value) -> Answer<Value>,
    ) -> Answer<Written> {
        for _ in 0..MOST_TRIES {
            let before = self.existing()?;
            let old = before.value();
            let mut new = change(&old)?;
            drop_nulls(&mut new);
            self.check_type(&new)?;
            self.carry_over(&old, &mut new)?;
            let new = self.admit(Operation::Update, self.name, Some(&old), new)?;
            let (mut new, warnings) = self.settle(self.name, Some(&old), new)?;
            self.count_generation(&old, &mut new);
            if matches!(ownership, Ownership::OfChanges) {
                fields::after_update(self.resource, Some(&old), &mut new, self.manager, self.part, self.now());
            }
            if fields::same(&old, &new) {
                return Ok(Written { object: before, gone: false, created: false, warnings });
            }
            let gone = nothing_holds(self.resource, &new);
            if self.dry_run {
                return Ok(Written { gone, warnings, ..self.imagined(new, Some(&before)) });
            }
            let committed =
                if gone { self.store.remove(self.id, &before, new) } else { self.store.replace(self.id, &before, new) };
            match committed {
                Ok(object) => return Ok(Written { object, gone, created: false, warnings }),
                Err(Refused::Full) => return Err(full()),
                Err(Refused::Stale | Refused::Exists) => {}
            }
        }
        Err(status::stale(self.resource, self.name))
    }

    /// Deletes an object, or marks it for those whose finalizers or grace period it must wait for.
    pub(super) fn delete(&self, options: &DeleteOptions) -> Answer<Written> {
        for _ in 0..MOST_TRIES {
            let before = self.existing()?;
            let old = before.value();
            self.check_preconditions(options, &old)?;
            self.admit(Operation::Delete, self.name, Some(&old), old.clone())?;
            let Some(new) = self.marked(options, &old) else {
                return Ok(Written { object: before, gone: false, created: false, warnings: Vec::new() });
            };
            let gone = nothing_holds(self.resource, &new);
            if self.dry_run {
                return Ok(Written { gone, ..self.imagined(new, Some(&before)) });
            }
            // What goes at once was never seen waiting.
            let committed = if gone {
                let last = if before.deleting { new } else { old };
                self.store.remove(self.id, &before, last)
            } else {
                self.store.replace(self.id, &before, new)
            };
            match committed {
                Ok(object) => return Ok(Written { object, gone, created: false, warnings: Vec::new() }),
                Err(Refused::Full) => return Err(full()),
                Err(Refused::Stale | Refused::Exists) => {}
            }
        }
        Err(status::stale(self.resource, self.name))
    }

    /// The time as objects carry it.
    pub(super) fn now(&self) -> Timestamp {
        self.store.clock.now()
    }

    fn existing(&self) -> Answer<Arc<Object>> {
        self.store.get(self.id, self.namespace, self.name).ok_or_else(|| status::not_found(self.resource, self.name))
    }

    /// An object that was never stored, as an answer to a dry run.
    fn imagined(&self, value: Value, before: Option<&Object>) -> Written {
        let version = before.map_or_else(|| self.store.version(), |before| before.version);
        let happened = super::object::Happened::Modified;
        Written {
            object: Arc::new(Object::write(self.resource, value, version, happened, before)),
            gone: false,
            created: false,
            warnings: Vec::new(),
        }
    }

    fn check_type(&self, value: &Value) -> Answer<()> {
        let (api_version, kind) = (&value["apiVersion"], &value["kind"]);
        let expected = self.resource.api_version();
        if !value.is_object() {
            return Err(status::bad_request("the object provided is not a JSON object"));
        }
        if *api_version == expected.as_str() && *kind == self.resource.kind.as_str() {
            return Ok(());
        }
        let (api_version, kind) = (api_version.as_str().unwrap_or_default(), kind.as_str().unwrap_or_default());
        Err(status::bad_request(&format!(
            "{kind:?} in version {api_version:?} cannot be handled as a {}: the expected API version is {expected:?}",
            self.resource.kind
        )))
    }

    /// Puts a new object into the namespace of the path.
    fn place(&self, value: &mut Value) -> Answer<()> {
        let stated = metadata_text(value, "namespace").to_owned();
        if self.resource.namespaced {
            if !stated.is_empty() && stated != self.namespace {
                return Err(self.wrong_namespace(&stated));
            }
            metadata_mut(value).insert("namespace".to_owned(), self.namespace.into());
        } else {
            metadata_mut(value).remove("namespace");
        }
        if !metadata_text(value, "resourceVersion").is_empty() {
            // Not the client's fault by its number, but this is what every API server answers.
            return Err(status::failure(500, "", "resourceVersion should not be set on objects to be created"));
        }
        Ok(())
    }

    fn wrong_namespace(&self, stated: &str) -> Box<Status> {
        status::bad_request(&format!(
            "the namespace of the provided object does not match the namespace sent on the request: {stated:?} is not {:?}",
            self.namespace
        ))
    }

    fn check_new(&self, value: &Value, name: &str) -> Answer<()> {
        if !self.name.is_empty() && name != self.name {
            return Err(self.wrong_name(name));
        }
        let cause = |why: &str| Err(self.invalid(name, &[Cause::invalid("metadata.name", &name.into(), why)]));
        if name.is_empty() {
            let why = "name or generateName is required";
            return Err(self.invalid(name, &[Cause::required("metadata.name", why)]));
        }
        match self.resource.naming {
            Naming::Subdomain if !names::is_subdomain(name) => {
                return cause(
                    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                     must start and end with an alphanumeric character",
                );
            }
            Naming::Label if !names::is_label(name) => {
                return cause(
                    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                     start and end with an alphanumeric character, 63 characters at most",
                );
            }
            Naming::Service if !names::is_service_name(name) => {
                return cause(
                    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                     alphabetic character, and end with an alphanumeric character, 63 characters at most",
                );
            }
            Naming::Subdomain | Naming::Label | Naming::Service => {}
        }
        if value["metadata"].get("deletionTimestamp").is_some() {
            // As the real one: such an object would be born dying; the field is not the client's.
            return Err(status::bad_request("metadata.deletionTimestamp may not be set on objects to be created"));
        }
        if self.resource.namespaced {
            self.check_namespace(name)?;
        }
        Ok(())
    }

    fn check_namespace(&self, name: &str) -> Answer<()> {
        let Some((id, namespaces)) = self.store.find("", "v1", "namespaces") else {
            return Err(status::no_such_path());
        };
        let namespace =
            self.store.get(id, "", self.namespace).ok_or_else(|| status::not_found(&namespaces, self.namespace))?;
        if namespace.deleting {
            let why =
                format!("unable to create new content in namespace {} because it is being terminated", self.namespace);
            let mut forbidden = status::forbidden(self.resource, name, &why);
            if let Some(details) = &mut forbidden.details {
                details.causes.push(kube::core::response::StatusCause {
                    reason: "NamespaceTerminating".to_owned(),
                    message: format!("namespace {} is being terminated", self.namespace),
                    field: "metadata.namespace".to_owned(),
                });
            }
            return Err(forbidden);
        }
        Ok(())
    }

    /// What the API itself writes into a new object.
    fn begin(&self, value: &mut Value) {
        if self.resource.status && self.resource.kind != "Node" {
            value.as_object_mut().expect("checked").remove("status");
        }
        let now = rfc3339(self.now());
        let metadata = metadata_mut(value);
        for key in ["resourceVersion", "selfLink", "deletionGracePeriodSeconds", "generation"] {
            metadata.remove(key);
        }
        metadata.insert("uid".to_owned(), names::format_uid(names::uid()).into());
        metadata.insert("creationTimestamp".to_owned(), now.into());
        if self.resource.generation != Generation::Absent {
            metadata.insert("generation".to_owned(), 1.into());
        }
        builtin::begin(self.resource, value);
    }

    /// Puts back what an update may not change, and checks what it claims to know of the object.
    fn carry_over(&self, old: &Value, new: &mut Value) -> Answer<()> {
        let claims = &new["metadata"];
        let claim = |key: &str| claims[key].as_str().filter(|text| !text.is_empty());
        if let Some(name) = claim("name").filter(|name| *name != self.name) {
            return Err(self.wrong_name(name));
        }
        if let Some(namespace) = claim("namespace").filter(|namespace| *namespace != self.namespace) {
            return Err(self.wrong_namespace(namespace));
        }
        if let Some(uid) = claim("uid").filter(|uid| *uid != metadata_text(old, "uid")) {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                metadata_text(old, "uid")
            );
            return Err(status::conflict(self.resource, self.name, &why));
        }
        match claim("resourceVersion") {
            Some(version) if version != metadata_text(old, "resourceVersion") => {
                return Err(status::stale(self.resource, self.name));
            }
            None if self.resource.custom && self.part != Part::Scale => {
                let cause = Cause::invalid("metadata.resourceVersion", &0.into(), "must be specified for an update");
                return Err(self.invalid(self.name, &[cause]));
            }
            _ => {}
        }

        match self.part {
            Part::Status => {
                let status = new.get_mut("status").map(Value::take);
                let managed = new["metadata"].get("managedFields").cloned();
                *new = old.clone();
                match status {
                    Some(status) if !status.is_null() => new["status"] = status,
                    _ => {
                        new.as_object_mut().expect("checked").remove("status");
                    }
                }
                if let Some(managed) = managed {
                    new["metadata"]["managedFields"] = managed;
                }
                return Ok(());
            }
            Part::Whole if self.resource.status => match old.get("status") {
                Some(status) => new["status"] = status.clone(),
                None => {
                    new.as_object_mut().expect("checked").remove("status");
                }
            },
            Part::Whole | Part::Scale => {}
        }

        let kept = &old["metadata"];
        let metadata = metadata_mut(new);
        metadata.remove("selfLink");
        for key in [
            "name",
            "namespace",
            "generateName",
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            match kept.get(key) {
                Some(value) => metadata.insert(key.to_owned(), value.clone()),
                None => metadata.remove(key),
            };
        }
        if !metadata.contains_key("managedFields")
            && let Some(managed) = kept.get("managedFields")
        {
            metadata.insert("managedFields".to_owned(), managed.clone());
        }
        if kept.get("deletionTimestamp").is_some() {
            let known = list_of_texts(&kept["finalizers"]);
            let new = list_of_texts(&metadata.get("finalizers").cloned().unwrap_or_default());
            let added: Vec<String> = new.into_iter().filter(|finalizer| !known.contains(finalizer)).collect();
            if !added.is_empty() {
                let why = format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
                );
                return Err(self.invalid(self.name, &[Cause::forbidden("metadata.finalizers", &why)]));
            }
        }
        Ok(())
    }

    fn wrong_name(&self, stated: &str) -> Box<Status> {
        status::bad_request(&format!(
            "the name of the object ({stated}) does not match the name on the URL ({})",
            self.name
        ))
    }

    fn admit(&self, operation: Operation, name: &str, old: Option<&Value>, value: Value) -> Answer<Value> {
        let Some(admit) = self.store.admission.get() else { return Ok(value) };
        let review = Review {
            operation,
            resource: self.resource,
            subresource: self.part.subresource(),
            namespace: self.namespace,
            name,
            old,
            dry_run: self.dry_run,
        };
        admit.admit(&review, value)
    }

    /// Defaults and validation.
    fn settle(&self, name: &str, old: Option<&Value>, mut value: Value) -> Answer<(Value, Vec<String>)> {
        let warnings = builtin::settle(self.resource, &mut value, self.strict)?;
        let mut causes = builtin::validate(self.resource, &value, old);
        causes.extend(metadata_causes(&value));
        if causes.is_empty() { Ok((value, warnings)) } else { Err(self.invalid(name, &causes)) }
    }

    fn invalid(&self, name: &str, causes: &[Cause]) -> Box<Status> {
        status::invalid(&self.resource.group, &self.resource.kind, name, causes)
    }

    fn count_generation(&self, old: &Value, new: &mut Value) {
        let differs = |key: &str| old.get(key) != new.get(key);
        let counts = self.part != Part::Status
            && match self.resource.generation {
                Generation::Absent => false,
                Generation::Spec => differs("spec"),
                Generation::SpecAndAnnotations => {
                    differs("spec") || old["metadata"].get("annotations") != new["metadata"].get("annotations")
                }
                Generation::AllButStatus => {
                    let part = |key: &str| !["metadata", "status", "apiVersion", "kind"].contains(&key);
                    let keys = |object: &Value| -> Vec<String> {
                        object.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
                    };
                    keys(old).iter().chain(&keys(new)).any(|key| part(key) && differs(key))
                }
            };
        if counts {
            new["metadata"]["generation"] = (old["metadata"]["generation"].as_i64().unwrap_or_default() + 1).into();
        }
    }

    fn check_preconditions(&self, options: &DeleteOptions, old: &Value) -> Answer<()> {
        for (wanted, key, word) in
            [(&options.uid, "uid", "UID"), (&options.resource_version, "resourceVersion", "ResourceVersion")]
        {
            let is = metadata_text(old, key);
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != is) {
                let why = format!("Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {is}");
                return Err(status::conflict(self.resource, self.name, &why));
            }
        }
        Ok(())
    }

    /// The object as it waits to be gone; absent when it waits for that already and nothing about it changes.
    fn marked(&self, options: &DeleteOptions, old: &Value) -> Option<Value> {
        let mut new = old.clone();
        let deleting = old["metadata"].get("deletionTimestamp").is_some();
        let grace = self.grace_seconds(options, old);
        let now = self.now();

        let mut finalizers = list_of_texts(&old["metadata"]["finalizers"]);
        finalizers.retain(|finalizer| finalizer != FOREGROUND && finalizer != ORPHAN);
        match options.propagation {
            Propagation::Background => {}
            Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
            Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
        }
        if deleting && options.propagation == Propagation::Background {
            // The second request does not take back what the first one asked for.
            finalizers = list_of_texts(&old["metadata"]["finalizers"]);
        }

        let metadata = metadata_mut(&mut new);
        if finalizers.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".to_owned(), finalizers.into());
        }
        let waiting = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
        if !deleting || waiting.is_some_and(|waiting| grace < waiting) {
            let at = rfc3339(now + Span::from_seconds(grace));
            metadata.insert("deletionTimestamp".to_owned(), at.into());
            metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
            if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
                metadata.insert("generation".to_owned(), (generation + 1).into());
            }
            if self.resource.kind == "Namespace" && self.resource.group.is_empty() {
                new["status"]["phase"] = "Terminating".into();
            }
        }
        let gone = nothing_holds(self.resource, &new);
        (gone || new != *old).then_some(new)
    }

    /// How long a pod may take to stop; everything else goes at once.
    fn grace_seconds(&self, options: &DeleteOptions, old: &Value) -> i64 {
        if self.resource.kind != "Pod" || !self.resource.group.is_empty() {
            return 0;
        }
        let unbound = old["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
        let ended = ["Succeeded", "Failed"].iter().any(|phase| old["status"]["phase"] == *phase);
        if unbound || ended {
            return 0;
        }
        let own = old["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        options.grace_seconds.unwrap_or(own).max(0)
    }
}

/// An instant as objects carry it: RFC 3339, whole seconds, UTC.
pub(super) fn rfc3339(at: Timestamp) -> String {
    let at = jiff::Timestamp::from_second(at.second()).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The texts of a list.
pub(super) fn list_of_texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// Whether an object that is to go can go now.
fn nothing_holds(resource: &Resource, value: &Value) -> bool {
    let metadata = &value["metadata"];
    let namespace_content = resource.kind == "Namespace"
        && resource.group.is_empty()
        && value["spec"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
    metadata.get("deletionTimestamp").is_some()
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() == 0
        && metadata["finalizers"].as_array().is_none_or(Vec::is_empty)
        && !namespace_content
}

/// In an API object a null member is an absent member.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn metadata_causes(value: &Value) -> Vec<Cause> {
    let empty = Map::new();
    let metadata = value["metadata"].as_object().unwrap_or(&empty);
    let mut causes = Vec::new();
    for (key, value) in metadata.get("labels").and_then(Value::as_object).into_iter().flatten() {
        if !super::selector::is_label_key(key) {
            causes.push(Cause::invalid(
                "metadata.labels",
                &key.as_str().into(),
                "not a label key: [DNS subdomain/]name",
            ));
        }
        if !value.as_str().is_some_and(super::selector::is_label_value) {
            let why = "a label value is empty, or alphanumeric characters, '-', '_' or '.' between alphanumeric ones, 63 at most";
            causes.push(Cause::invalid("metadata.labels", value, why));
        }
    }
    let annotations = metadata.get("annotations").and_then(Value::as_object);
    for (key, value) in annotations.into_iter().flatten() {
        if !super::selector::is_label_key(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &key.as_str().into(), "not a qualified name"));
        }
        if !value.is_string() {
            causes.push(Cause::invalid(format!("metadata.annotations[{key}]"), value, "must be a string"));
        }
    }
    let owners = metadata.get("ownerReferences").and_then(Value::as_array);
    for (index, owner) in owners.into_iter().flatten().enumerate() {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if owner[key].as_str().is_none_or(str::is_empty) {
                causes.push(Cause::invalid(
                    format!("metadata.ownerReferences[{index}].{key}"),
                    &owner[key],
                    "must not be empty",
                ));
            }
        }
    }
    let controllers = owners.into_iter().flatten().filter(|owner| owner["controller"] == true).count();
    if 1 < controllers {
        let why = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid("metadata.ownerReferences", &controllers.into(), why));
    }
    causes
}

fn full() -> Box<Status> {
    status::failure(507, "InsufficientStorage", "the store holds as much as it may; delete objects to make room")
}
