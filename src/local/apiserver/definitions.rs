//! Knative's kinds as CustomResourceDefinitions, for an API server that does not know them.
//!
//! They are made from the same table this API serves ([`super::built_in`]), so that both serve the same: names, short
//! names, categories, columns, and a status of its own.

use super::columns;
use super::resource::Resource;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

/// The definition of every Knative kind of the table.
///
/// Their schemas say no more than that spec and status are objects: like this API, a server then stores fields nobody
/// here knows, such as those of a newer Knative, and Ebb has to live with whatever somebody writes into a known one.
pub fn knative_definitions() -> Vec<CustomResourceDefinition> {
    super::built_in().iter().filter(|resource| resource.custom).map(definition).collect()
}

fn definition(resource: &Resource) -> CustomResourceDefinition {
    serde_json::from_value(describe(resource)).expect("a literal of its kind")
}

fn describe(resource: &Resource) -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "metadata": {
            "name": resource.qualified(),
            "labels": {"app.kubernetes.io/name": "knative-serving"},
        },
        "spec": {
            "group": resource.group,
            "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
            "names": {
                "kind": resource.kind,
                "listKind": format!("{}List", resource.kind),
                "plural": resource.plural,
                "singular": resource.singular,
                "shortNames": resource.short_names,
                "categories": resource.categories,
            },
            "versions": [{
                "name": resource.version,
                "served": true,
                "storage": true,
                "subresources": if resource.status { json!({"status": {}}) } else { json!({}) },
                "additionalPrinterColumns": columns::to_definition(&resource.columns),
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open, "status": open}}},
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::resource::from_definition;
    use super::*;

    #[test]
    fn a_definition_means_the_resource_it_was_made_from() {
        let definitions = knative_definitions();
        assert!(definitions.len() >= 8, "{}", definitions.len());
        for definition in definitions {
            let name = definition.metadata.name.clone().expect("a name");
            let stored = serde_json::to_value(&definition).expect("an object");
            let read = from_definition(&stored).expect("a definition");
            let table = super::super::built_in();
            let resource = table.iter().find(|resource| resource.qualified() == name).expect("in the table");
            assert_eq!(format!("{read:?}"), format!("{resource:?}"), "{name}");
        }
    }
}
