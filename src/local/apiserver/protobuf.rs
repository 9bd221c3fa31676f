//! Bodies in Kubernetes' protobuf form, for the few kinds that `kubectl create KIND NAME` sends in it without asking.
//!
//! Answers are always JSON, which those clients accept. A body with anything beyond the tables below is refused with
//! 415 and the name of what is not known, so that nothing is lost in silence.

use super::status::{self, Answer};
use kube::core::Status;
use prost::encoding::{WireType, decode_key, decode_varint};
use serde_json::{Map, Value};

/// The media type.
pub(super) const MEDIA: &str = "application/vnd.kubernetes.protobuf";
/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// A field's name in JSON and what it holds.
type Field = (u32, &'static str, Holds);
/// A message by its fields.
type Message = &'static [Field];

/// What a field holds. Go's encoder writes fields that are empty; in JSON they are absent.
#[derive(Clone, Copy)]
enum Holds {
    Text,
    /// Absent when 0.
    Number,
    /// 0 is a value.
    OptionalNumber,
    /// Absent when false.
    Flag,
    /// False is a value.
    OptionalFlag,
    Bytes,
    Message(Message),
    Texts,
    Messages(Message),
    /// From text to text.
    TextMap,
    /// From text to bytes.
    BytesMap,
    /// From text to a quantity.
    QuantityMap,
    /// A number or a text.
    NumberOrText,
    /// Of no use in a request.
    Ignored,
}

use Holds::{
    Bytes, BytesMap, Flag, Ignored, Messages, Number, NumberOrText, OptionalFlag, OptionalNumber, QuantityMap, Text,
    TextMap, Texts,
};

const OWNER: Message = &[
    (1, "kind", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "controller", OptionalFlag),
    (7, "blockOwnerDeletion", OptionalFlag),
];
const METADATA: Message = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (4, "selfLink", Ignored),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Ignored),
    (8, "creationTimestamp", Ignored),
    (11, "labels", TextMap),
    (12, "annotations", TextMap),
    (13, "ownerReferences", Messages(OWNER)),
    (14, "finalizers", Texts),
];
const NAMESPACE: Message = &[(1, "metadata", Holds::Message(METADATA)), (2, "spec", Ignored), (3, "status", Ignored)];
const CONFIG_MAP: Message = &[
    (1, "metadata", Holds::Message(METADATA)),
    (2, "data", TextMap),
    (3, "binaryData", BytesMap),
    (4, "immutable", OptionalFlag),
];
const SECRET: Message = &[
    (1, "metadata", Holds::Message(METADATA)),
    (2, "data", BytesMap),
    (3, "type", Text),
    (4, "stringData", TextMap),
    (5, "immutable", OptionalFlag),
];
const NAMED: Message = &[(1, "name", Text)];
const SERVICE_ACCOUNT: Message = &[
    (1, "metadata", Holds::Message(METADATA)),
    (3, "imagePullSecrets", Messages(NAMED)),
    (4, "automountServiceAccountToken", OptionalFlag),
];
const SERVICE_PORT: Message = &[
    (1, "name", Text),
    (2, "protocol", Text),
    (3, "port", Number),
    (4, "targetPort", NumberOrText),
    (5, "nodePort", Number),
    (6, "appProtocol", Text),
];
const SERVICE_SPEC: Message = &[
    (1, "ports", Messages(SERVICE_PORT)),
    (2, "selector", TextMap),
    (3, "clusterIP", Text),
    (4, "type", Text),
    (5, "externalIPs", Texts),
    (7, "sessionAffinity", Text),
    (8, "loadBalancerIP", Text),
    (10, "externalName", Text),
    (11, "externalTrafficPolicy", Text),
    (12, "healthCheckNodePort", Number),
    (13, "publishNotReadyAddresses", Flag),
    (18, "clusterIPs", Texts),
    (22, "internalTrafficPolicy", Text),
];
const SERVICE: Message =
    &[(1, "metadata", Holds::Message(METADATA)), (2, "spec", Holds::Message(SERVICE_SPEC)), (3, "status", Ignored)];
const CONTAINER_PORT: Message = &[
    (1, "name", Text),
    (2, "hostPort", Number),
    (3, "containerPort", Number),
    (4, "protocol", Text),
    (5, "hostIP", Text),
];
const ENV: Message = &[(1, "name", Text), (2, "value", Text)];
const RESOURCES: Message = &[(1, "limits", QuantityMap), (2, "requests", QuantityMap)];
const CONTAINER: Message = &[
    (1, "name", Text),
    (2, "image", Text),
    (3, "command", Texts),
    (4, "args", Texts),
    (5, "workingDir", Text),
    (6, "ports", Messages(CONTAINER_PORT)),
    (7, "env", Messages(ENV)),
    (8, "resources", Holds::Message(RESOURCES)),
    (13, "terminationMessagePath", Text),
    (14, "imagePullPolicy", Text),
    (16, "stdin", Flag),
    (17, "stdinOnce", Flag),
    (18, "tty", Flag),
    (20, "terminationMessagePolicy", Text),
];
const POD_SPEC: Message = &[
    (2, "containers", Messages(CONTAINER)),
    (3, "restartPolicy", Text),
    (4, "terminationGracePeriodSeconds", OptionalNumber),
    (6, "dnsPolicy", Text),
    (7, "nodeSelector", TextMap),
    (8, "serviceAccountName", Text),
    (9, "serviceAccount", Text),
    (10, "nodeName", Text),
    (11, "hostNetwork", Flag),
    (12, "hostPID", Flag),
    (13, "hostIPC", Flag),
    (15, "imagePullSecrets", Messages(NAMED)),
    (16, "hostname", Text),
    (17, "subdomain", Text),
    (19, "schedulerName", Text),
    (24, "priorityClassName", Text),
];
const POD_TEMPLATE: Message = &[(1, "metadata", Holds::Message(METADATA)), (2, "spec", Holds::Message(POD_SPEC))];
const REQUIREMENT: Message = &[(1, "key", Text), (2, "operator", Text), (3, "values", Texts)];
const SELECTOR: Message = &[(1, "matchLabels", TextMap), (2, "matchExpressions", Messages(REQUIREMENT))];
const ROLLING_UPDATE: Message = &[(1, "maxUnavailable", NumberOrText), (2, "maxSurge", NumberOrText)];
const STRATEGY: Message = &[(1, "type", Text), (2, "rollingUpdate", Holds::Message(ROLLING_UPDATE))];
const DEPLOYMENT_SPEC: Message = &[
    (1, "replicas", OptionalNumber),
    (2, "selector", Holds::Message(SELECTOR)),
    (3, "template", Holds::Message(POD_TEMPLATE)),
    (4, "strategy", Holds::Message(STRATEGY)),
    (5, "minReadySeconds", Number),
    (6, "revisionHistoryLimit", OptionalNumber),
    (7, "paused", Flag),
    (9, "progressDeadlineSeconds", OptionalNumber),
];
const DEPLOYMENT: Message =
    &[(1, "metadata", Holds::Message(METADATA)), (2, "spec", Holds::Message(DEPLOYMENT_SPEC)), (3, "status", Ignored)];

const TYPE: Message = &[(1, "apiVersion", Text), (2, "kind", Text)];
const ENVELOPE: Message =
    &[(1, "type", Holds::Message(TYPE)), (2, "raw", Bytes), (3, "contentEncoding", Text), (4, "contentType", Text)];

/// The object in a body.
pub(super) fn parse(bytes: &[u8]) -> Answer<Value> {
    let body = bytes.strip_prefix(MAGIC).ok_or_else(|| status::bad_request("the body is not Kubernetes' protobuf"))?;
    let envelope = message(ENVELOPE, body, "the envelope")?;
    let (api_version, kind) = (envelope["type"]["apiVersion"].clone(), envelope["type"]["kind"].clone());
    let fields = match (api_version.as_str().unwrap_or_default(), kind.as_str().unwrap_or_default()) {
        ("v1", "Namespace") => NAMESPACE,
        ("v1", "ConfigMap") => CONFIG_MAP,
        ("v1", "Secret") => SECRET,
        ("v1", "ServiceAccount") => SERVICE_ACCOUNT,
        ("v1", "Service") => SERVICE,
        ("apps/v1", "Deployment") => DEPLOYMENT,
        (api_version, kind) => return Err(unknown(&format!("{kind} of {api_version}"))),
    };
    let raw = raw_field(body)?;
    let mut object = message(fields, raw, kind.as_str().unwrap_or_default())?;
    object["apiVersion"] = api_version;
    object["kind"] = kind;
    Ok(object)
}

/// The bytes of the envelope's object.
fn raw_field(envelope: &[u8]) -> Answer<&[u8]> {
    let mut rest = envelope;
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).map_err(|_| broken())?;
        let bytes = take(&mut rest, wire)?;
        if let (2, Taken::Bytes(bytes)) = (number, bytes) {
            return Ok(bytes);
        }
    }
    Ok(&[])
}

enum Taken<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

fn take<'a>(rest: &mut &'a [u8], wire: WireType) -> Answer<Taken<'a>> {
    match wire {
        WireType::Varint => Ok(Taken::Varint(decode_varint(rest).map_err(|_| broken())?)),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(rest).map_err(|_| broken())?).map_err(|_| broken())?;
            let (bytes, after) = rest.split_at_checked(length).ok_or_else(broken)?;
            *rest = after;
            Ok(Taken::Bytes(bytes))
        }
        WireType::SixtyFourBit | WireType::StartGroup | WireType::EndGroup | WireType::ThirtyTwoBit => Err(broken()),
    }
}

fn message(fields: Message, mut rest: &[u8], at: &str) -> Answer<Value> {
    let mut object = Map::new();
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).map_err(|_| broken())?;
        let taken = take(&mut rest, wire)?;
        let Some((_, name, holds)) = fields.iter().find(|(known, ..)| *known == number) else {
            // An empty message says nothing that could be lost.
            if matches!(taken, Taken::Bytes([])) || matches!(taken, Taken::Varint(0)) {
                continue;
            }
            return Err(unknown(&format!("field {number} of {at}")));
        };
        let below = format!("{at}.{name}");
        let list = |object: &mut Map<String, Value>, item: Value| {
            let list = object.entry(*name).or_insert_with(|| Value::Array(Vec::new()));
            list.as_array_mut().expect("only lists are made here").push(item);
        };
        match (*holds, taken) {
            (Ignored, _) | (Text, Taken::Bytes([])) | (Bytes, Taken::Bytes(_)) | (Number | Flag, Taken::Varint(0)) => {}
            (Text, Taken::Bytes(bytes)) => set(&mut object, name, text(bytes)?),
            (Number | OptionalNumber, Taken::Varint(number)) => set(&mut object, name, number.cast_signed().into()),
            (Flag | OptionalFlag, Taken::Varint(flag)) => set(&mut object, name, (flag != 0).into()),
            (Holds::Message(fields), Taken::Bytes(bytes)) => {
                let value = message(fields, bytes, &below)?;
                if value.as_object().is_some_and(|value| !value.is_empty()) {
                    set(&mut object, name, value);
                }
            }
            (Texts, Taken::Bytes(bytes)) => list(&mut object, text(bytes)?),
            (Messages(fields), Taken::Bytes(bytes)) => list(&mut object, message(fields, bytes, &below)?),
            (TextMap | BytesMap | QuantityMap, Taken::Bytes(bytes)) => {
                let (key, value) = entry(*holds, bytes)?;
                let map = object.entry(*name).or_insert_with(|| Value::Object(Map::new()));
                map.as_object_mut().expect("only maps are made here").insert(key, value);
            }
            (NumberOrText, Taken::Bytes(bytes)) => {
                const PARTS: Message = &[(1, "type", Number), (2, "number", Number), (3, "text", Text)];
                let parts = message(PARTS, bytes, &below)?;
                let value = if parts["type"] == 1 { &parts["text"] } else { &parts["number"] };
                // A number of 0 is how Go says that there is none.
                if !value.is_null() {
                    set(&mut object, name, value.clone());
                }
            }
            _ => return Err(broken()),
        }
    }
    Ok(Value::Object(object))
}

fn entry(holds: Holds, mut rest: &[u8]) -> Answer<(String, Value)> {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).map_err(|_| broken())?;
        match (number, take(&mut rest, wire)?) {
            (1, Taken::Bytes(bytes)) => key = bytes,
            (2, Taken::Bytes(bytes)) => value = bytes,
            _ => return Err(broken()),
        }
    }
    let key = text(key)?.as_str().unwrap_or_default().to_owned();
    let value = match holds {
        BytesMap => serde_json::to_value(k8s_openapi::ByteString(value.to_vec())).map_err(|_| broken())?,
        QuantityMap => message(&[(1, "string", Text)], value, "a quantity")?["string"].take(),
        _ => text(value)?,
    };
    Ok((key, value))
}

fn set(object: &mut Map<String, Value>, name: &str, value: Value) {
    object.insert(name.to_owned(), value);
}

fn text(bytes: &[u8]) -> Answer<Value> {
    Ok(std::str::from_utf8(bytes).map_err(|_| broken())?.into())
}

fn broken() -> Box<Status> {
    status::bad_request("the protobuf in the body is broken")
}

fn unknown(what: &str) -> Box<Status> {
    status::failure(
        415,
        "UnsupportedMediaType",
        &format!(
            "{what} is not understood in protobuf; send application/json (with kubectl: write a file and apply it)"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What `kubectl create namespace demo` sends.
    const NAMESPACE_DEMO: &[u8] = b"k8s\0\n\x0f\n\x02v1\x12\tNamespace\x12\x1c\n\x14\n\x04demo\x12\0\x1a\0\"\0*\x002\08\0B\0\x12\0\x1a\x02\n\0\x1a\0\"\0";

    #[test]
    fn a_namespace() {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}});
        assert_eq!(parse(NAMESPACE_DEMO).expect("understood"), namespace);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let pod = b"k8s\0\n\x09\n\x02v1\x12\x03Pod";
        assert_eq!(parse(pod).expect_err("refused").code, 415);
        let cut = &NAMESPACE_DEMO[..30];
        assert_eq!(parse(cut).expect_err("refused").code, 400);
        assert_eq!(parse(b"{}").expect_err("refused").code, 400);
    }
}
