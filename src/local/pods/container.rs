//! What a pod's container is to this machine: the built-in sample app, or a command with an environment.

use crate::api::names::{QUEUE_CONTAINER, USER_CONTAINER};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use std::collections::BTreeMap;

/// The image of the sample app that is part of this program.
pub const SAMPLE_IMAGE: &str = "ebb.local/hello";
/// The image named for the queue-proxy, which is part of this program too.
pub const QUEUE_PROXY_IMAGE: &str = "ebb.local/queue-proxy";

/// Whether a container can run here; when not, why, and what would help.
pub fn runnable(container: &Container) -> Result<(), String> {
    if has_command(container) || is_sample(container) {
        return Ok(());
    }
    Err(format!(
        "image {:?} cannot be run here: there is no container runtime, a container's command runs as a process of \
         this machine. Add \"command\" (and \"args\") to container {:?}, listening on $PORT, or use image {SAMPLE_IMAGE:?}, \
         the built-in sample app",
        container.image.as_deref().unwrap_or_default(),
        if container.name.is_empty() { USER_CONTAINER } else { &container.name },
    ))
}

/// Whether a container runs the built-in sample app.
pub fn is_sample(container: &Container) -> bool {
    let image = container.image.as_deref().unwrap_or_default();
    let untagged = image.split_once('@').map_or(image, |(image, _)| image);
    let untagged = untagged.strip_prefix(SAMPLE_IMAGE).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    untagged && !has_command(container)
}

/// The container of a pod that is not the queue-proxy.
pub fn user_container(pod: &Pod) -> Option<&Container> {
    pod.spec.as_ref()?.containers.iter().find(|container| container.name != QUEUE_CONTAINER)
}

/// What is known of a pod before its container starts; references to its fields resolve to these.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its address.
    pub ip: std::net::Ipv4Addr,
    /// The port the user process is to listen on, on that address.
    pub port: u16,
}

/// The environment and the words of a command, ready to be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandLine {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables added to this program's own.
    pub environment: BTreeMap<String, String>,
    /// Where it runs; here when absent.
    pub directory: Option<String>,
}

/// The command of a container with references resolved. `PORT` and `HOST` say where to listen, whatever the container
/// says of them: pods share one machine, so each needs a port of its own.
///
/// # Errors
/// Names the variable or the field that only a cluster can provide.
pub fn command_line(container: &Container, facts: Surroundings<'_>) -> Result<CommandLine, String> {
    let environment = environment(container, facts)?;
    let mut words = container
        .command
        .iter()
        .chain(&container.args)
        .flatten()
        .map(|word| expand(word, &environment))
        .collect::<Vec<_>>()
        .into_iter();
    let program = words.next().ok_or_else(|| "the command is empty".to_owned())?;
    if container.volume_mounts.as_ref().is_some_and(|mounts| !mounts.is_empty()) {
        return Err(format!(
            "container {:?} mounts volumes, which only a cluster has; use the files of this machine instead",
            container.name
        ));
    }
    Ok(CommandLine {
        program,
        arguments: words.collect(),
        environment,
        directory: container.working_dir.clone().filter(|directory| !directory.is_empty()),
    })
}

/// The environment of a container with references resolved.
///
/// # Errors
/// Names the variable whose value only a cluster can provide.
pub fn environment(container: &Container, facts: Surroundings<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut environment = BTreeMap::new();
    if container.env_from.as_ref().is_some_and(|sources| !sources.is_empty()) {
        return Err(format!(
            "container {:?} takes its environment from ConfigMaps or Secrets (envFrom), which is not available here; list \
             the variables under env",
            container.name
        ));
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => expand(variable.value.as_deref().unwrap_or_default(), &environment),
            Some(_) => referenced(variable, facts).ok_or_else(|| {
                format!(
                    "variable {:?} takes its value from something only a cluster has; give it a value, or a fieldRef to \
                     metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], metadata.annotations['KEY'], \
                     status.podIP or status.hostIP",
                    variable.name
                )
            })?,
        };
        environment.insert(variable.name.clone(), value);
    }
    environment.insert("PORT".to_owned(), facts.port.to_string());
    environment.insert("HOST".to_owned(), facts.ip.to_string());
    environment.insert("POD_IP".to_owned(), facts.ip.to_string());
    environment.entry("POD_NAME".to_owned()).or_insert_with(|| facts.pod.metadata.name.clone().unwrap_or_default());
    environment
        .entry("POD_NAMESPACE".to_owned())
        .or_insert_with(|| facts.pod.metadata.namespace.clone().unwrap_or_default());
    Ok(environment)
}

fn referenced(variable: &EnvVar, facts: Surroundings<'_>) -> Option<String> {
    let path = &variable.value_from.as_ref()?.field_ref.as_ref()?.field_path;
    let meta = &facts.pod.metadata;
    let keyed = |path: &str, prefix: &str| {
        path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']").map(ToOwned::to_owned)
    };
    let pick = |words: Option<&BTreeMap<String, String>>, key: &str| {
        words.and_then(|words| words.get(key)).cloned().unwrap_or_default()
    };
    match path.as_str() {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "status.podIP" => Some(facts.ip.to_string()),
        "status.hostIP" => Some(super::HOST_IP.to_string()),
        path => keyed(path, "metadata.labels")
            .map(|key| pick(meta.labels.as_ref(), &key))
            .or_else(|| keyed(path, "metadata.annotations").map(|key| pick(meta.annotations.as_ref(), &key))),
    }
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar, and what names no variable stays as it is.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        let name = after.strip_prefix('(').and_then(|inner| inner.split_once(')')).map(|(name, _)| name);
        if let Some(behind) = after.strip_prefix('$') {
            expanded.push('$');
            rest = behind;
        } else if let Some((name, value)) = name.and_then(|name| Some((name, environment.get(name)?))) {
            expanded.push_str(value);
            rest = &after[name.len() + 2..];
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded.push_str(rest);
    expanded
}

fn has_command(container: &Container) -> bool {
    container.command.as_ref().is_some_and(|command| !command.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{EnvVarSource, ObjectFieldSelector};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn container(image: &str, command: &[&str]) -> Container {
        Container {
            name: "user-container".to_owned(),
            image: Some(image.to_owned()),
            command: Some(command.iter().map(ToString::to_string).collect()),
            ..Container::default()
        }
    }

    #[test]
    fn only_the_sample_image_runs_without_a_command() {
        for (image, command, sample, runs) in [
            ("ebb.local/hello", &[][..], true, true),
            ("ebb.local/hello:v1", &[], true, true),
            ("ebb.local/hello@sha256:00", &[], true, true),
            ("ebb.local/hello", &["./app"], false, true),
            ("ebb.local/hello-world", &[], false, false),
            ("nginx", &[], false, false),
            ("nginx", &["nginx"], false, true),
        ] {
            let container = container(image, command);
            assert_eq!((is_sample(&container), runnable(&container).is_ok()), (sample, runs), "{image} {command:?}");
        }
    }

    #[test]
    fn references_are_resolved_and_the_port_is_the_pods_own() {
        let mut container = container("app", &["serve", "--at=$(HOST):$(PORT)", "$$(PORT)", "$(NONE)", "$"]);
        let field = |path: &str| EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: None, field_path: path.to_owned() }),
            ..EnvVarSource::default()
        };
        container.env = Some(vec![
            EnvVar { name: "PORT".into(), value: Some("8080".into()), value_from: None },
            EnvVar { name: "A".into(), value: Some("a".into()), value_from: None },
            EnvVar { name: "B".into(), value: Some("$(A)b".into()), value_from: None },
            EnvVar { name: "ME".into(), value: None, value_from: Some(field("metadata.name")) },
            EnvVar { name: "APP".into(), value: None, value_from: Some(field("metadata.labels['app']")) },
        ]);
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some("pod-1".into()),
                labels: Some([("app".into(), "shop".into())].into()),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        };
        let facts = Surroundings { pod: &pod, ip: [127, 1, 0, 2].into(), port: 40_001 };
        let line = command_line(&container, facts).expect("everything is known");
        assert_eq!(line.program, "serve");
        assert_eq!(line.arguments, ["--at=127.1.0.2:40001", "$(PORT)", "$(NONE)", "$"]);
        for (name, value) in [("PORT", "40001"), ("B", "ab"), ("ME", "pod-1"), ("APP", "shop"), ("POD_IP", "127.1.0.2")]
        {
            assert_eq!(line.environment.get(name).map(String::as_str), Some(value), "{name}");
        }

        container.env =
            Some(vec![EnvVar { name: "KEY".into(), value: None, value_from: Some(EnvVarSource::default()) }]);
        assert!(command_line(&container, facts).is_err_and(|message| message.contains("\"KEY\"")));
    }
}
