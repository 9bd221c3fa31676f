//! `config-leader-election`: into how many buckets revisions are divided, and how fast a lost owner is replaced.

use crate::api::goparse;
use crate::config::{ConfigError, Data, Reader};
use crate::units::{Compat, Span};

/// The name of the ConfigMap, unless `CONFIG_LEADERELECTION_NAME` says otherwise.
pub const NAME: &str = "config-leader-election";

/// The most buckets there may be.
pub const MOST_BUCKETS: u32 = 10;

/// How replicas share the revisions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderElection {
    /// Buckets, each owned by one replica; 1 to 10.
    pub buckets: u32,
    /// How long a lease is respected without being renewed; longer than `renew_deadline`.
    pub lease_duration: Span,
    /// How long an owner tries to renew before it gives up; longer than 1.2 times `retry_period`.
    pub renew_deadline: Span,
    /// How often a lease is tried for or renewed.
    pub retry_period: Span,
}

impl Default for LeaderElection {
    fn default() -> Self {
        Self {
            buckets: 1,
            lease_duration: Span::from_seconds(60),
            renew_deadline: Span::from_seconds(40),
            retry_period: Span::from_seconds(10),
        }
    }
}

impl LeaderElection {
    /// What holds where nobody has set anything.
    pub fn defaults(compat: Compat) -> Self {
        let reference = Self::default();
        if !compat.fast_takeover {
            return reference;
        }
        Self {
            lease_duration: Span::from_seconds(4),
            renew_deadline: Span::from_seconds(3),
            retry_period: Span::from_seconds(1),
            ..reference
        }
    }

    /// Reads the map. The order of the three times is checked too, which the reference leaves to its first election.
    /// Where one of the three is set, the others are the reference's: they were chosen to go together.
    pub fn parse(data: &Data, compat: Compat) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(NAME, data, Compat::STRICT);
        let times =
            ["lease-duration", "leaseDuration", "renew-deadline", "renewDeadline", "retry-period", "retryPeriod"];
        let any_set = times.iter().any(|key| data.contains_key(*key));
        let mut this = if any_set { Self::default() } else { Self::defaults(compat) };
        for (older, newer, target) in [
            ("leaseDuration", "lease-duration", &mut this.lease_duration),
            ("renewDeadline", "renew-deadline", &mut this.renew_deadline),
            ("retryPeriod", "retry-period", &mut this.retry_period),
        ] {
            reader.span(older, target);
            reader.span(newer, target);
        }
        let accepted = "a whole number from 1 to 10";
        reader.read("buckets", &mut this.buckets, accepted, |text| match goparse::uint32(text) {
            Ok(buckets) if (1..=MOST_BUCKETS).contains(&buckets) => Ok(buckets),
            Ok(_) => Err("is not between 1 and 10".to_owned()),
            Err(error) => Err(format!("is {error}")),
        });

        let lease = reader.either("lease-duration", "leaseDuration");
        let renew = reader.either("renew-deadline", "renewDeadline");
        let retry = reader.either("retry-period", "retryPeriod");
        let problem = format!("is not more than the renew-deadline of {}", this.renew_deadline);
        let accepted = format!("a duration above {}", this.renew_deadline);
        reader.refuse_if(this.lease_duration <= this.renew_deadline, &[lease, renew], &problem, &accepted);
        let least = Span::from_nanos(this.retry_period.nanos().saturating_mul(6) / 5);
        let problem = format!("is not more than 1.2 times the retry-period of {}", this.retry_period);
        reader.refuse_if(this.renew_deadline <= least, &[renew, retry], &problem, &format!("a duration above {least}"));
        reader.refuse_if(this.retry_period <= Span::ZERO, &[retry], "is not positive", "a duration above 0s");
        reader.finish(this)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<LeaderElection, ConfigError> {
        parse_as(pairs, Compat::STRICT)
    }

    fn parse_as(pairs: &[(&str, &str)], compat: Compat) -> Result<LeaderElection, ConfigError> {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        LeaderElection::parse(&data, compat)
    }

    #[test]
    fn newer_keys_win() {
        assert_eq!(parse(&[("map-lease-prefix.a.b", "c")]), Ok(LeaderElection::default()));
        let want = LeaderElection {
            buckets: 3,
            lease_duration: Span::from_seconds(15),
            renew_deadline: Span::from_seconds(10),
            retry_period: Span::from_seconds(2),
        };
        let pairs = [
            ("buckets", "3"),
            ("leaseDuration", "1h"),
            ("lease-duration", "15s"),
            ("renewDeadline", "10s"),
            ("retry-period", "2s"),
        ];
        assert_eq!(parse(&pairs), Ok(want));
    }

    #[test]
    fn takeover_is_fast_only_where_nobody_chose_times() {
        let seconds = |election: LeaderElection| {
            [election.lease_duration, election.renew_deadline, election.retry_period].map(Span::seconds_f64)
        };
        for (pairs, strict, improved) in [
            (&[][..], [60.0, 40.0, 10.0], [4.0, 3.0, 1.0]),
            (&[("buckets", "3")], [60.0, 40.0, 10.0], [4.0, 3.0, 1.0]),
            // The times of the reference's own tests.
            (
                &[("lease-duration", "15s"), ("renew-deadline", "10s"), ("retry-period", "2s")],
                [15.0, 10.0, 2.0],
                [15.0, 10.0, 2.0],
            ),
            (&[("retryPeriod", "5s")], [60.0, 40.0, 5.0], [60.0, 40.0, 5.0]),
        ] {
            assert_eq!(parse_as(pairs, Compat::STRICT).map(seconds), Ok(strict), "{pairs:?}");
            assert_eq!(parse_as(pairs, Compat::IMPROVED).map(seconds), Ok(improved), "{pairs:?}");
        }
    }

    #[test]
    fn times_that_cannot_work_are_refused() {
        for (pairs, keys) in [
            (&[("buckets", "0")][..], &["buckets"][..]),
            (&[("buckets", "11")], &["buckets"]),
            (&[("buckets", "+1")], &["buckets"]),
            (&[("lease-duration", "40s")], &["lease-duration", "renew-deadline"]),
            (&[("renewDeadline", "12s")], &["renewDeadline", "retry-period"]),
            (&[("retry-period", "0")], &["retry-period"]),
            (&[("retry-period", "ten")], &["retry-period"]),
        ] {
            assert_eq!(parse(pairs).expect_err("a fault").problems[0].keys, keys, "{pairs:?}");
        }
    }
}
