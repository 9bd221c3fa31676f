//! What the ALB Ingress controller documents of its annotations, read strictly: an unknown one, an unknown member or a
//! value the cloud would not take refuses the object. It is written from the documentation and shares nothing with what
//! Ebb writes annotations with, so that it can judge it.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// The prefix of all of them.
pub const PREFIX: &str = "alb.ingress.kubernetes.io/";
/// The name of a backend's port that leaves everything to the annotations.
pub const USE_ANNOTATION: &str = "use-annotation";

const LONGEST_HEADER: usize = 40;
const LONGEST_VALUE: usize = 128;
const MOST_GROUPS: usize = 5;
/// Actions a rule may have in the edition Standard.
pub const MOST_ACTIONS: usize = 5;
/// Values of conditions a rule may have in the edition Standard.
pub const MOST_CONDITIONS: usize = 10;

/// A condition. Separate conditions must all hold; of the values of one, any.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Condition {
    /// Beside the host of the rule.
    Host {
        /// The hosts.
        #[serde(rename = "hostConfig")]
        config: Values<String>,
    },
    /// Beside the path of the rule.
    Path {
        /// The patterns.
        #[serde(rename = "pathConfig")]
        config: Values<String>,
    },
    /// A header has one of the values.
    Header {
        /// Which.
        #[serde(rename = "headerConfig")]
        config: KeyValues,
    },
    /// One of the cookies is there.
    Cookie {
        /// Which.
        #[serde(rename = "cookieConfig")]
        config: Values<KeyValue>,
    },
    /// One of the parameters is there.
    QueryString {
        /// Which.
        #[serde(rename = "queryStringConfig")]
        config: Values<KeyValue>,
    },
    /// It is one of the methods.
    Method {
        /// Which.
        #[serde(rename = "methodConfig")]
        config: Values<String>,
    },
}

/// Values of which any will do.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values<T> {
    /// The values.
    pub values: Vec<T>,
}

/// A key and its values.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyValues {
    /// The key.
    pub key: String,
    /// The values.
    pub values: Vec<String>,
}

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

impl Condition {
    fn entries(&self) -> usize {
        match self {
            Self::Host { config } | Self::Path { config } | Self::Method { config } => config.values.len(),
            Self::Header { config } => config.values.len(),
            Self::Cookie { config } | Self::QueryString { config } => config.values.len(),
        }
    }
}

/// An action.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Action {
    /// Forwards by weight.
    ForwardGroup {
        /// Whereto.
        #[serde(rename = "ForwardConfig")]
        config: Forward,
    },
    /// Sets a header.
    InsertHeader {
        /// Which.
        #[serde(rename = "InsertHeaderConfig")]
        config: InsertHeader,
    },
    /// Takes a header off.
    RemoveHeader {
        /// Which.
        #[serde(rename = "RemoveHeaderConfig")]
        config: RemoveHeader,
    },
    /// Answers with another place.
    Redirect {
        /// Which.
        #[serde(rename = "RedirectConfig")]
        config: Redirect,
    },
    /// Answers itself.
    FixedResponse {
        /// What.
        #[serde(rename = "FixedResponseConfig")]
        config: Fixed,
    },
}

impl Action {
    fn ends(&self) -> bool {
        matches!(self, Self::ForwardGroup { .. } | Self::Redirect { .. } | Self::FixedResponse { .. })
    }
}

/// Where a rule forwards.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Forward {
    /// The groups.
    pub server_groups: Vec<ServerGroup>,
}

/// A Service and its share.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct ServerGroup {
    /// The Service.
    pub service_name: String,
    /// Its port.
    pub service_port: i32,
    /// 0 to 100.
    pub weight: u32,
}

/// A header to set.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InsertHeader {
    /// The header.
    pub key: String,
    /// Its value.
    pub value: String,
    /// `UserDefined`.
    pub value_type: String,
    /// Whether what the client sent is replaced.
    #[serde(default)]
    pub cover_enabled: bool,
}

/// A header to take off.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveHeader {
    /// The header.
    pub key: String,
}

/// Another place; what is empty stays.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    /// The host.
    #[serde(default)]
    pub host: String,
    /// The path.
    #[serde(default)]
    pub path: String,
    /// The port.
    #[serde(default)]
    pub port: String,
    /// `http` or `https`.
    #[serde(default)]
    pub protocol: String,
    /// The query.
    #[serde(default)]
    pub query: String,
    /// The status.
    pub http_code: String,
}

/// A fixed answer.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fixed {
    /// Of the body.
    pub content_type: String,
    /// The status.
    pub http_code: String,
    /// The body.
    pub content: String,
}

/// The annotations of one Ingress.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Annotations {
    /// Ports and what is spoken there.
    pub listen: Vec<(String, u16)>,
    /// 1 to 1000, and whether it was said.
    pub order: (u16, bool),
    /// Whether the servers speak HTTP/2.
    pub grpc: bool,
    /// Whether plain requests are sent to HTTPS.
    pub ssl_redirect: bool,
    /// By the name of a backend.
    pub conditions: BTreeMap<String, Vec<Condition>>,
    /// By the name of a backend.
    pub actions: BTreeMap<String, Vec<Action>>,
}

impl Annotations {
    /// Reads those of the controller; all others are none of its business.
    pub fn read(all: &BTreeMap<String, String>, tls: bool) -> Result<Self, String> {
        let default = if tls { ("HTTPS", 443) } else { ("HTTP", 80) };
        let mut this = Self {
            listen: vec![(default.0.to_owned(), default.1)],
            order: (10, false),
            grpc: false,
            ssl_redirect: false,
            conditions: BTreeMap::new(),
            actions: BTreeMap::new(),
        };
        for (key, value) in all {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let wrong = |accepted: &str| format!("{key}: {value:?} is not accepted; it must be {accepted}");
            match name.split_once('.').unwrap_or((name, "")) {
                ("listen-ports", "") => {
                    let ports: Vec<BTreeMap<String, u16>> = json(key, value)?;
                    this.listen = ports.into_iter().flatten().collect();
                    let known = |(protocol, _): &(String, u16)| ["HTTP", "HTTPS"].contains(&protocol.as_str());
                    if this.listen.is_empty() || !this.listen.iter().all(known) {
                        return Err(wrong("a list of HTTP or HTTPS with a port"));
                    }
                }
                ("order", "") => match value.parse() {
                    Ok(order @ 1..=1000) => this.order = (order, true),
                    _ => return Err(wrong("from 1 to 1000")),
                },
                ("backend-protocol", "") => match value.as_str() {
                    "http" => this.grpc = false,
                    "grpc" => this.grpc = true,
                    _ => return Err(wrong("http or grpc")),
                },
                ("ssl-redirect", "") => {
                    this.ssl_redirect = value.parse().map_err(|_| wrong("true or false"))?;
                }
                ("healthcheck-enabled" | "connection-drain-enabled", "") => {
                    value.parse::<bool>().map_err(|_| wrong("true or false"))?;
                }
                ("healthcheck-protocol", "") if value == "TCP" => {}
                ("connection-drain-timeout", "") => {
                    value.parse::<u16>().map_err(|_| wrong("seconds"))?;
                }
                ("rule-direction", name) if !name.is_empty() && value == "Request" => {}
                ("conditions", name) if !name.is_empty() => {
                    let conditions: Vec<Condition> = json(key, value)?;
                    check_conditions(&conditions).map_err(|why| format!("{key}: {why}"))?;
                    this.conditions.insert(name.to_owned(), conditions);
                }
                ("actions", name) if !name.is_empty() => {
                    let actions: Vec<Action> = json(key, value)?;
                    check_actions(&actions).map_err(|why| format!("{key}: {why}"))?;
                    this.actions.insert(name.to_owned(), actions);
                }
                _ => return Err(format!("{key}: not an annotation this controller knows, or not with {value:?}")),
            }
        }
        Ok(this)
    }
}

/// How many values the conditions of a rule have.
pub fn entries(conditions: &[Condition]) -> usize {
    conditions.iter().map(Condition::entries).sum()
}

fn json<T: DeserializeOwned>(key: &str, value: &str) -> Result<T, String> {
    serde_json::from_str(value).map_err(|error| format!("{key}: {error}"))
}

fn check_conditions(conditions: &[Condition]) -> Result<(), String> {
    if conditions.iter().any(|condition| condition.entries() == 0) {
        return Err("a condition without a value".to_owned());
    }
    for condition in conditions {
        match condition {
            Condition::Header { config } => {
                header(&config.key)?;
                config.values.iter().try_for_each(|value| header_value(value))?;
            }
            Condition::Cookie { config } => {
                for KeyValue { key, value } in &config.values {
                    let lengths = (1..=100).contains(&key.len()) && (1..=LONGEST_VALUE).contains(&value.len());
                    let plain = |text: &str| !text.chars().any(|c| c.is_whitespace() || "[]{}<>\\#|&".contains(c));
                    if !lengths || !plain(key) || !plain(value) {
                        return Err(format!("the cookie {key}={value} is not taken"));
                    }
                }
            }
            Condition::Host { .. }
            | Condition::Path { .. }
            | Condition::QueryString { .. }
            | Condition::Method { .. } => {}
        }
    }
    Ok(())
}

fn check_actions(actions: &[Action]) -> Result<(), String> {
    if actions.iter().filter(|action| action.ends()).count() != 1 || actions.last().is_none_or(|last| !last.ends()) {
        return Err("exactly one action ends a rule, the last".to_owned());
    }
    if actions.len() > MOST_ACTIONS {
        return Err(format!("{} actions and {MOST_ACTIONS} are the most", actions.len()));
    }
    for action in actions {
        match action {
            Action::ForwardGroup { config } => {
                let groups = &config.server_groups;
                if groups.is_empty() || groups.len() > MOST_GROUPS {
                    return Err(format!("{} server groups, of 1 to {MOST_GROUPS}", groups.len()));
                }
                if groups.iter().any(|group| group.weight > 100) || groups.iter().all(|group| group.weight == 0) {
                    return Err("weights are from 0 to 100, and not all 0".to_owned());
                }
            }
            Action::InsertHeader { config } => {
                header(&config.key)?;
                header_value(&config.value)?;
                if config.value_type != "UserDefined" {
                    return Err(format!("valueType {:?} is not UserDefined", config.value_type));
                }
            }
            Action::RemoveHeader { config } => header(&config.key)?,
            Action::Redirect { config } => {
                if !["301", "302", "303", "307", "308"].contains(&config.http_code.as_str()) {
                    return Err(format!("httpCode {:?} is no redirect", config.http_code));
                }
                let said = [&config.host, &config.path, &config.port, &config.protocol, &config.query];
                if said.iter().all(|text| text.is_empty()) {
                    return Err("a redirect to where the request came from".to_owned());
                }
            }
            Action::FixedResponse { config } => {
                if !config.http_code.parse().is_ok_and(|code: u16| (200..600).contains(&code)) {
                    return Err(format!("httpCode {:?} is no status", config.http_code));
                }
            }
        }
    }
    Ok(())
}

fn header(key: &str) -> Result<(), String> {
    const RESERVED: [&str; 10] = [
        "host",
        "cookie",
        "connection",
        "upgrade",
        "content-length",
        "transfer-encoding",
        "keep-alive",
        "te",
        "authority",
        "remoteip",
    ];
    let lower = key.to_ascii_lowercase();
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if key.is_empty() || key.len() > LONGEST_HEADER || !plain {
        return Err(format!("{key:?} is no header of 1 to {LONGEST_HEADER} letters, digits, - and _"));
    }
    if RESERVED.contains(&lower.as_str()) || lower.starts_with("slb-") || lower.starts_with("x-forwarded-") {
        return Err(format!("the header {key} is reserved"));
    }
    Ok(())
}

fn header_value(value: &str) -> Result<(), String> {
    if value.is_empty() || value.len() > LONGEST_VALUE || value.trim() != value {
        return Err(format!("{value:?} is no value of 1 to {LONGEST_VALUE} characters without blanks around it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_documentation_does_not_say_is_refused() {
        let forward = r#"{"type":"ForwardGroup","ForwardConfig":{"ServerGroups":[{"ServiceName":"a","ServicePort":80,"Weight":100}]}}"#;
        let insert = |key: &str, value: &str| {
            format!(
                r#"{{"type":"InsertHeader","InsertHeaderConfig":{{"key":"{key}","value":"{value}","valueType":"UserDefined","coverEnabled":true}}}}"#
            )
        };
        let many = vec![insert("a", "b"); 5].join(",");
        for (key, value, good) in [
            ("order", "10".to_owned(), true),
            ("order", "0".to_owned(), false),
            ("order", "1001".to_owned(), false),
            ("listen-ports", r#"[{"HTTP":80},{"HTTPS":443}]"#.to_owned(), true),
            ("listen-ports", r#"[{"http":80}]"#.to_owned(), false),
            ("backend-protocol", "grpc".to_owned(), true),
            ("backend-protocol", "GRPC".to_owned(), false),
            ("no-such-thing", "1".to_owned(), false),
            ("actions.a", format!("[{forward}]"), true),
            ("actions.a", forward.to_owned(), false),
            ("actions.a", format!("[{forward},{forward}]"), false),
            ("actions.a", format!("[{}]", insert("a", "b")), false),
            ("actions.a", format!("[{},{forward}]", insert("host", "b")), false),
            ("actions.a", format!("[{},{forward}]", insert("a", " b")), false),
            ("actions.a", format!("[{many},{forward}]"), false),
            ("actions.a", forward.replace("100", "101"), false),
            ("actions.a", forward.replace("ServerGroups", "serverGroups"), false),
            ("actions.a", r#"[{"type":"forward","forwardConfig":{"targetGroups":[]}}]"#.to_owned(), false),
            ("conditions.a", r#"[{"type":"Host","hostConfig":{"values":["a.b"]}}]"#.to_owned(), true),
            ("conditions.a", r#"[{"type":"Host","hostConfig":{"values":[]}}]"#.to_owned(), false),
            ("conditions.a", r#"[{"type":"Host","HostConfig":{"values":["a.b"]}}]"#.to_owned(), false),
            (
                "conditions.a",
                r#"[{"type":"Cookie","cookieConfig":{"values":[{"key":"a b","value":"c"}]}}]"#.to_owned(),
                false,
            ),
        ] {
            let all = BTreeMap::from([(format!("{PREFIX}{key}"), value.clone())]);
            assert_eq!(Annotations::read(&all, false).is_ok(), good, "{key}: {value}");
        }
    }
}
