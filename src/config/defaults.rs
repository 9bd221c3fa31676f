//! `config-defaults`: what a revision gets that does not say, and the bounds of what it may say. Knative's webhook
//! reads it, the autoscaler does not; `ebb check` judges with it.

use crate::config::deployment::is_quantity;
use crate::config::{ConfigError, Data, Origin, Reader, Setting};
use crate::units::Compat;

/// The name of the ConfigMap.
pub const NAME: &str = "config-defaults";

/// Every key the map may have.
pub const KEYS: [&str; 16] = [
    "revision-timeout-seconds",
    "max-revision-timeout-seconds",
    "revision-response-start-timeout-seconds",
    "revision-idle-timeout-seconds",
    "container-name-template",
    "init-container-name-template",
    "container-concurrency",
    "container-concurrency-max-limit",
    "allow-container-concurrency-zero",
    "enable-service-links",
    CPU_REQUEST,
    "revision-memory-request",
    "revision-ephemeral-storage-request",
    "revision-cpu-limit",
    "revision-memory-limit",
    "revision-ephemeral-storage-limit",
];
const CPU_REQUEST: &str = "revision-cpu-request";
/// From here on [`KEYS`] are quantities.
const QUANTITIES: usize = 10;

/// What is taken from the map.
#[derive(Clone, PartialEq, Debug)]
pub struct Defaults {
    /// Requests a pod takes at once when its revision does not say; 0 is no limit.
    pub container_concurrency: Setting<i64>,
    /// The most it may say.
    pub container_concurrency_max: i64,
    /// Whether it may say 0, which is no limit.
    pub allow_unlimited: bool,
    /// The most seconds a request may be given.
    pub timeout_max: i64,
    /// Whether containers that ask for no CPU get a request all the same.
    pub requests_cpu: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            container_concurrency: Setting { value: 0, origin: Origin::Default },
            container_concurrency_max: 1000,
            allow_unlimited: true,
            timeout_max: 600,
            requests_cpu: false,
        }
    }
}

impl Defaults {
    /// Reads the map; it is refused when Knative refuses it, except for templates of container names, which are not
    /// looked at.
    pub fn parse(data: &Data) -> Result<Self, ConfigError> {
        let mut this = Self::default();
        let mut reader = Reader::new(NAME, data, Compat::STRICT);
        reader.boolean("allow-container-concurrency-zero", &mut this.allow_unlimited);
        let (mut timeout, mut idle) = (300, 0);
        reader.int64("revision-timeout-seconds", &mut timeout);
        reader.int64("max-revision-timeout-seconds", &mut this.timeout_max);
        reader.int64("revision-idle-timeout-seconds", &mut idle);
        let mut start = timeout;
        reader.int64("revision-response-start-timeout-seconds", &mut start);
        reader.int64("container-concurrency", &mut this.container_concurrency.value);
        reader.int64("container-concurrency-max-limit", &mut this.container_concurrency_max);
        for key in &KEYS[QUANTITIES..] {
            reader.read(key, &mut (), "a quantity, such as \"25m\" or \"400Mi\"", |text| {
                if is_quantity(text) { Ok(()) } else { Err("is not a quantity".to_owned()) }
            });
        }

        let keys = ["revision-timeout-seconds", "max-revision-timeout-seconds"];
        let most = format!("at most {}", this.timeout_max);
        reader.refuse_if(timeout > this.timeout_max, &keys, "is more than the most allowed", &most);
        for (key, seconds) in
            [("revision-response-start-timeout-seconds", start), ("revision-idle-timeout-seconds", idle)]
        {
            let problem = format!("is more than the revision-timeout-seconds of {timeout}");
            reader.refuse_if(seconds > 0 && seconds > timeout, &[key], &problem, &format!("at most {timeout}"));
        }
        let most = this.container_concurrency_max;
        reader.refuse_if(most < 1, &["container-concurrency-max-limit"], "is less than 1", "a whole number from 1");
        let concurrency = this.container_concurrency.value;
        reader.refuse_if(
            concurrency < 0 || concurrency > most,
            &["container-concurrency"],
            &format!("is not between 0 and {most}"),
            &format!("a whole number from 0 (no limit) to {most}"),
        );
        if data.contains_key("container-concurrency") {
            this.container_concurrency.origin = Origin::ConfigMap("container-concurrency");
        }
        this.requests_cpu = data.contains_key(CPU_REQUEST);
        reader.finish(this)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Defaults, ConfigError> {
        Defaults::parse(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn an_empty_map_is_the_defaults() {
        assert_eq!(parse(&[]), Ok(Defaults::default()));
    }

    #[test]
    fn what_is_written_counts_and_is_held_to_its_bounds() {
        let read = parse(&[("container-concurrency", "7"), ("revision-cpu-request", "25m")]).expect("good settings");
        let seven = Setting { value: 7, origin: Origin::ConfigMap("container-concurrency") };
        assert_eq!((read.container_concurrency, read.requests_cpu), (seven, true));
        for (pairs, key) in [
            (&[("revision-timeout-seconds", "601")][..], "revision-timeout-seconds"),
            (&[("revision-idle-timeout-seconds", "301")], "revision-idle-timeout-seconds"),
            (&[("revision-response-start-timeout-seconds", "301")], "revision-response-start-timeout-seconds"),
            (&[("container-concurrency", "1001")], "container-concurrency"),
            (&[("container-concurrency-max-limit", "0")], "container-concurrency-max-limit"),
            (&[("allow-container-concurrency-zero", "no")], "allow-container-concurrency-zero"),
            (&[("revision-memory-limit", "much")], "revision-memory-limit"),
        ] {
            assert_eq!(parse(pairs).expect_err("a fault").problems[0].keys[0], key);
        }
        let longer = [("revision-timeout-seconds", "900"), ("max-revision-timeout-seconds", "900")];
        assert_eq!(parse(&longer).map(|read| read.timeout_max), Ok(900));
    }
}
