//! What a load balancer was seen to do: the answers of `ebb alb self-test`, which stand in the ConfigMap [`MAP`] in the
//! namespace of Knative's own objects. Pure.
//!
//! # Rule
//!
//! `alb-data-plane: auto` is `port` where servers of another namespace and two ports in one Endpoints object were seen to
//! work and Ebb's activators are installed; `header` where servers of another namespace were, or where nobody has tried;
//! and `hold` where they were seen not to. What nobody has tried changes nothing: a cluster without a self-test goes on as
//! before.

use crate::routing::model::{Mode, Settings};
use std::collections::BTreeMap;

/// The ConfigMap.
pub const MAP: &str = "knative-alb-capabilities";
/// When the load balancer was tried, in that map.
pub const TESTED_AT: &str = "tested-at";
/// Everything that was seen, as JSON, in that map.
pub const REPORT: &str = "report";

/// Something of a load balancer and its controller that all else rests on, or that their documentation leaves open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Capability {
    /// Annotations in the documented form take effect.
    ArrayJson,
    /// What a client sends under the name of a header that is set is replaced.
    CoverEnabled,
    /// Further hosts of a rule are served as its first one.
    MergedHosts,
    /// A path is a prefix of characters.
    CharacterPrefix,
    /// Of two cookies in two blocks both must be there.
    TwoCookies,
    /// Servers of another namespace than the Service's are used.
    ForeignPods,
    /// Servers of two ports in one Endpoints object are used.
    TwoPorts,
    /// A host that nobody serves is answered with 404.
    NotFound,
}

impl Capability {
    /// All of them, in the order they are tried.
    pub const ALL: [Self; 8] = [
        Self::ArrayJson,
        Self::CoverEnabled,
        Self::MergedHosts,
        Self::CharacterPrefix,
        Self::TwoCookies,
        Self::ForeignPods,
        Self::TwoPorts,
        Self::NotFound,
    ];

    /// Its key in the map.
    pub fn key(self) -> &'static str {
        match self {
            Self::ArrayJson => "array-json",
            Self::CoverEnabled => "cover-enabled",
            Self::MergedHosts => "merged-hosts",
            Self::CharacterPrefix => "character-prefix",
            Self::TwoCookies => "two-cookies",
            Self::ForeignPods => "foreign-pods",
            Self::TwoPorts => "two-ports",
            Self::NotFound => "not-found",
        }
    }

    /// What it is, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::ArrayJson => "annotations take effect",
            Self::CoverEnabled => "a header that is set replaces the client's",
            Self::MergedHosts => "hosts share a rule",
            Self::CharacterPrefix => "/foo* takes /foobar and no other path",
            Self::TwoCookies => "of two cookies both must be there",
            Self::ForeignPods => "servers of another namespace are used",
            Self::TwoPorts => "servers of two ports are used",
            Self::NotFound => "a host nobody serves is a 404",
        }
    }

    /// What follows where it does not hold.
    pub fn otherwise(self) -> &'static str {
        match self {
            Self::ArrayJson => "nothing works; is the ALB Ingress controller 2.5.0 or newer?",
            Self::CoverEnabled => "clients can choose revisions by their headers; use the data plane port or hold",
            Self::MergedHosts => "set alb-rule-layout to split",
            Self::CharacterPrefix => "paths lead elsewhere than with Knative's own gateways",
            Self::TwoCookies => "entries with several cookies are refused",
            Self::ForeignPods => "alb-data-plane auto is hold, and no routed revision goes to zero",
            Self::TwoPorts => "alb-data-plane auto is not port",
            Self::NotFound => "no such route looks like a route without servers; is a first service published?",
        }
    }

    /// Whether Ebb relies on it, however it is set.
    pub fn is_needed(self) -> bool {
        !matches!(self, Self::TwoCookies | Self::TwoPorts | Self::NotFound)
    }
}

/// What was seen of a load balancer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Capabilities(BTreeMap<Capability, bool>);

impl Capabilities {
    /// Reads the map. What it does not say, or not so that it can be understood, was not seen.
    pub fn read(data: &BTreeMap<String, String>) -> Self {
        let said = |capability: Capability| Some((capability, data.get(capability.key())?.trim().parse().ok()?));
        Self(Capability::ALL.into_iter().filter_map(said).collect())
    }

    /// Whether it holds; nothing where that was not seen.
    pub fn holds(&self, capability: Capability) -> Option<bool> {
        self.0.get(&capability).copied()
    }

    /// Settles what is left to Ebb. Says how revisions are reached, and why, where that was.
    pub fn settle(&self, settings: &mut Settings, activators: bool) -> Option<String> {
        settings.several_cookies = self.holds(Capability::TwoCookies) != Some(false);
        if !settings.auto {
            return None;
        }
        let (mode, why) = self.data_plane(activators);
        settings.mode = mode;
        Some(format!("alb-data-plane auto is {}: {why}", mode.word()))
    }

    /// How revisions are reached where that is left to Ebb, and why. `activators` says whether Ebb's are installed.
    pub fn data_plane(&self, activators: bool) -> (Mode, &'static str) {
        match (self.holds(Capability::ForeignPods), self.holds(Capability::TwoPorts), activators) {
            (None, ..) => (Mode::Header, "no self-test has said what the load balancer does"),
            (Some(false), ..) => (Mode::Hold, "the self-test saw that servers of another namespace are not used"),
            (Some(true), Some(true), true) => {
                (Mode::Port, "the self-test saw servers of another namespace and of two ports used")
            }
            (Some(true), Some(true), false) => (Mode::Header, "Ebb's activators are not installed"),
            (Some(true), ..) => (Mode::Header, "the self-test did not see servers of two ports used"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_revisions_are_reached_follows_what_was_seen() {
        for (foreign, two, activators, mode) in [
            ("", "", true, Mode::Header),
            ("", "true", true, Mode::Header),
            ("perhaps", "true", true, Mode::Header),
            ("false", "true", true, Mode::Hold),
            ("false", "", false, Mode::Hold),
            ("true", "true", true, Mode::Port),
            ("true", "true", false, Mode::Header),
            ("true", "false", true, Mode::Header),
            ("true", "", true, Mode::Header),
        ] {
            let said = [("foreign-pods", foreign), ("two-ports", two), ("tomorrow", "true")];
            let data = said.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            let capabilities = Capabilities::read(&data);
            assert_eq!(capabilities.data_plane(activators).0, mode, "{foreign} {two} {activators}");
        }
    }
}
