//! How long something takes: laws of chance, as they are written in a scenario and as they are drawn from.
//!
//! Two ways of writing are understood, `{ law: lognormal, mean: 500ms, p99: 2s }` and
//! `{ lognormal: { mean: 500ms, p99: 2s } }`.
//!
//! | law | parameters |
//! |---|---|
//! | `constant` | `value` |
//! | `uniform` | `min`, `max` |
//! | `exponential` | `mean` |
//! | `lognormal` | two of `mean`, `median`, `p99`, or `mean` and `cv` |
//! | `gamma` | `mean` and `cv`, or `shape` and `scale` |
//! | `weibull` | `shape`, and `mean` or `scale` |
//! | `hyperexponential` | `phases`, each a `share` and a `mean` |
//! | `empirical` | `percentiles`, such as `{ "50": 100ms, "99": 1s }`, with straight lines between |
//!
//! `cv` is the coefficient of variation: standard deviation over mean.

use super::random::{Stream, unit};
use super::time::{Length, Micros, Share, from_seconds, seconds};
use rand::RngExt as _;
use rand_distr::{Distribution as _, Exp1, Gamma, StandardNormal, Weibull};
use serde::{Deserialize, Serialize};
use statrs::distribution::ContinuousCDF as _;
use std::collections::BTreeMap;

/// The 99th percentile of the standard normal distribution.
const Z99: f64 = 2.326_347_874_040_840_8;

/// A law as it is written: by its name in [`law`](Self::law) with its parameters beside it, or as a key of its name with its
/// parameters within.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Written {
    /// Which law, when its parameters stand beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub law: Option<String>,
    /// Always the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant: Option<Box<Written>>,
    /// All alike between two lengths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uniform: Option<Box<Written>>,
    /// Without memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exponential: Option<Box<Written>>,
    /// Its logarithm is normal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lognormal: Option<Box<Written>>,
    /// A gamma distribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<Box<Written>>,
    /// A Weibull distribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weibull: Option<Box<Written>>,
    /// One of several exponential ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hyperexponential: Option<Box<Written>>,
    /// A table of percentiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empirical: Option<Box<Written>>,
    /// The one length there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Length>,
    /// The shortest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Length>,
    /// The longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Length>,
    /// The mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Length>,
    /// Half are shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median: Option<Length>,
    /// 99 of 100 are shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<Length>,
    /// Standard deviation over mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cv: Option<f64>,
    /// The shape of a gamma or Weibull distribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<f64>,
    /// The scale of a gamma or Weibull distribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<Length>,
    /// The exponential distributions it is mixed of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phases: Option<Vec<Phase>>,
    /// Percentiles, by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentiles: Option<BTreeMap<String, Length>>,
}

/// One exponential part of a mixture.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Phase {
    /// How often it is drawn; all shares add up to 1.
    pub share: Share,
    /// Its mean.
    pub mean: Length,
}

/// A law that can be drawn from. Lengths are in seconds.
#[derive(Clone, PartialEq, Debug)]
pub enum Law {
    /// Always the same.
    Constant(f64),
    /// All alike between two lengths.
    Uniform(f64, f64),
    /// Exponential with this mean.
    Exponential(f64),
    /// `exp(mu + sigma Z)` seconds.
    LogNormal {
        /// Mean of the logarithm.
        mu: f64,
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
    /// Gamma.
    Gamma {
        /// Shape.
        shape: f64,
        /// Scale.
        scale: f64,
    },
    /// Weibull.
    Weibull {
        /// Shape.
        shape: f64,
        /// Scale.
        scale: f64,
    },
    /// With these shares, added up, exponential with these means.
    HyperExponential(Vec<(f64, f64)>),
    /// Points `(part of all, length)`, rising in both, from 0 to 1.
    Empirical(Vec<(f64, f64)>),
}

impl Written {
    /// A law by name with its parameters.
    pub fn new(law: &str, parameters: Self) -> Self {
        Self { law: Some(law.to_owned()), ..parameters }
    }

    /// Always `value`.
    pub fn constant(value: Length) -> Self {
        Self::new("constant", Self { value: Some(value), ..Self::default() })
    }

    /// Exponential with this mean.
    pub fn exponential(mean: Length) -> Self {
        Self::new("exponential", Self { mean: Some(mean), ..Self::default() })
    }

    /// Log-normal with this median and 99th percentile.
    pub fn lognormal(median: Length, p99: Length) -> Self {
        Self::new("lognormal", Self { median: Some(median), p99: Some(p99), ..Self::default() })
    }

    /// The law that is written here.
    ///
    /// # Errors
    /// With the field that is wrong, and what is.
    pub fn read(&self) -> Result<Law, (&'static str, String)> {
        let mut within = self.within().into_iter().filter_map(|(name, parameters)| Some((name, parameters.as_ref()?)));
        let alone = self.given().is_empty();
        match (&self.law, within.next(), within.next()) {
            (None, Some((name, parameters)), None) if alone => {
                let named = parameters.law.is_some().then_some("law");
                let nested = parameters.within().into_iter().find(|(_, nested)| nested.is_some());
                match named.or(nested.map(|(nested, _)| nested)) {
                    Some(second) => Err((name, format!("{second} stands beside {name}, not within it"))),
                    None => parameters.read_as(name),
                }
            }
            (None, Some((name, _)), None) => Err((name, format!("parameters stand within {name}, not beside it"))),
            (None, None, None) if alone => Err(("", format!("no law is named; known are {}", known()))),
            (None, None, None) => Err(("law", format!("missing; known are {}", known()))),
            (Some(name), None, None) => match self.within().into_iter().find(|(known, _)| known == name) {
                Some((name, _)) => self.read_as(name),
                None => Err(("law", format!("{name:?} is not a law; known are {}", known()))),
            },
            _ => Err(("", "more than one law is named; one is to stay".to_owned())),
        }
    }

    /// Every law by its name, and its parameters where they stand within it.
    fn within(&self) -> [(&'static str, &Option<Box<Self>>); 8] {
        [
            ("constant", &self.constant),
            ("uniform", &self.uniform),
            ("exponential", &self.exponential),
            ("lognormal", &self.lognormal),
            ("gamma", &self.gamma),
            ("weibull", &self.weibull),
            ("hyperexponential", &self.hyperexponential),
            ("empirical", &self.empirical),
        ]
    }

    /// The parameters that are given.
    fn given(&self) -> Vec<&'static str> {
        let given = [
            ("value", self.value.is_some()),
            ("min", self.min.is_some()),
            ("max", self.max.is_some()),
            ("mean", self.mean.is_some()),
            ("median", self.median.is_some()),
            ("p99", self.p99.is_some()),
            ("cv", self.cv.is_some()),
            ("shape", self.shape.is_some()),
            ("scale", self.scale.is_some()),
            ("phases", self.phases.is_some()),
            ("percentiles", self.percentiles.is_some()),
        ];
        given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect()
    }

    /// The law of this name with these parameters.
    fn read_as(&self, law: &'static str) -> Result<Law, (&'static str, String)> {
        let length = |value: Option<Length>| value.map(|length| seconds(length.0));
        let given = self.given();
        let positive = |name: &'static str, value: Option<f64>| match value {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            Some(value) => Err((name, format!("{value} is not above 0"))),
            None => Err((name, "missing".to_owned())),
        };
        let mean = || positive("mean", length(self.mean));
        let median = || positive("median", length(self.median));
        let p99 = || positive("p99", length(self.p99));
        let cv = || positive("cv", self.cv);
        let shape = || positive("shape", self.shape);
        let scale = || positive("scale", length(self.scale));
        match (law, given.as_slice()) {
            ("constant", ["value"]) => Ok(Law::Constant(length(self.value).unwrap_or_default())),
            ("uniform", ["min", "max"]) => {
                let (min, max) = (length(self.min).unwrap_or_default(), length(self.max).unwrap_or_default());
                if max < min {
                    return Err(("max", format!("{max}s is below min, {min}s")));
                }
                Ok(Law::Uniform(min, max))
            }
            ("exponential", ["mean"]) => Ok(Law::Exponential(mean()?)),
            ("lognormal", ["mean", "median"]) => {
                let (mean, median) = (mean()?, median()?);
                if mean < median {
                    return Err(("mean", "the mean of a log-normal law is not below its median".to_owned()));
                }
                Ok(Law::LogNormal { mu: median.ln(), sigma: (2.0 * (mean / median).ln()).sqrt() })
            }
            ("lognormal", ["mean", "p99"]) => {
                let (mean, p99) = (mean()?, p99()?);
                let ratio = (p99 / mean).ln();
                // The largest ratio of p99 to mean any log-normal law has: exp(z² / 2) = 14.97.
                let rest = Z99 * Z99 - 2.0 * ratio;
                if ratio < 0.0 || rest < 0.0 {
                    let most = (Z99 * Z99 / 2.0).exp();
                    return Err(("p99", format!("p99 of a log-normal law is from 1 to {most:.2} times its mean")));
                }
                let sigma = Z99 - rest.sqrt();
                Ok(Law::LogNormal { mu: mean.ln() - sigma * sigma / 2.0, sigma })
            }
            ("lognormal", ["median", "p99"]) => {
                let (median, p99) = (median()?, p99()?);
                if p99 < median {
                    return Err(("p99", "p99 is not below the median".to_owned()));
                }
                Ok(Law::LogNormal { mu: median.ln(), sigma: (p99 / median).ln() / Z99 })
            }
            ("lognormal", ["mean", "cv"]) => {
                let variance = (1.0 + cv()?.powi(2)).ln();
                Ok(Law::LogNormal { mu: mean()?.ln() - variance / 2.0, sigma: variance.sqrt() })
            }
            ("gamma", ["mean", "cv"]) => {
                let shape = cv()?.powi(-2);
                Ok(Law::Gamma { shape, scale: mean()? / shape })
            }
            ("gamma", ["shape", "scale"]) => Ok(Law::Gamma { shape: shape()?, scale: scale()? }),
            ("weibull", ["shape", "scale"]) => Ok(Law::Weibull { shape: shape()?, scale: scale()? }),
            ("weibull", ["mean", "shape"]) => {
                let shape = shape()?;
                Ok(Law::Weibull { shape, scale: mean()? / statrs::function::gamma::gamma(1.0 + 1.0 / shape) })
            }
            ("hyperexponential", ["phases"]) => mixture(self.phases.as_deref().unwrap_or_default()),
            ("empirical", ["percentiles"]) => table(self.percentiles.as_ref()),
            _ => {
                let wanted = match law {
                    "constant" => "value",
                    "uniform" => "min and max",
                    "exponential" => "mean",
                    "lognormal" => "two of mean, median and p99, or mean and cv",
                    "gamma" => "mean and cv, or shape and scale",
                    "weibull" => "shape, and mean or scale",
                    "hyperexponential" => "phases",
                    _ => "percentiles",
                };
                let has = if given.is_empty() { "nothing".to_owned() } else { given.join(", ") };
                Err(("", format!("{law} takes {wanted}, and has {has}")))
            }
        }
    }
}

fn known() -> &'static str {
    "constant, uniform, exponential, lognormal, gamma, weibull, hyperexponential, empirical"
}

fn mixture(phases: &[Phase]) -> Result<Law, (&'static str, String)> {
    let total: f64 = phases.iter().map(|phase| phase.share.0).sum();
    if phases.is_empty() || (total - 1.0).abs() > 1e-6 {
        return Err(("phases", format!("the shares add up to {total} and must add up to 1")));
    }
    if phases.iter().any(|phase| phase.mean.0 == 0) {
        return Err(("phases", "the mean of a phase is above 0s".to_owned()));
    }
    let mut sum = 0.0;
    let mut parts: Vec<(f64, f64)> = phases
        .iter()
        .map(|phase| {
            sum += phase.share.0;
            (sum, seconds(phase.mean.0))
        })
        .collect();
    if let Some(last) = parts.last_mut() {
        last.0 = 1.0;
    }
    Ok(Law::HyperExponential(parts))
}

fn table(percentiles: Option<&BTreeMap<String, Length>>) -> Result<Law, (&'static str, String)> {
    let mut points = Vec::new();
    for (name, length) in percentiles.into_iter().flatten() {
        let number = name.trim_start_matches('p').parse::<f64>().ok().filter(|number| (0.0..=100.0).contains(number));
        let Some(number) = number else {
            return Err(("percentiles", format!("{name:?} is not a percentile; write \"50\" or \"99.9\"")));
        };
        points.push((number / 100.0, seconds(length.0)));
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    if points.len() < 2 {
        return Err(("percentiles", "at least two percentiles are needed".to_owned()));
    }
    if let Some(pair) = points.windows(2).find(|pair| pair[1].1 < pair[0].1 || pair[1].0 <= pair[0].0) {
        let (low, high) = (pair[0].0 * 100.0, pair[1].0 * 100.0);
        return Err(("percentiles", format!("percentile {high} is not above percentile {low}")));
    }
    // Beyond the outermost percentiles nothing is known, so nothing is made up.
    let (first, last) = (points[0].1, points[points.len() - 1].1);
    if points[0].0 > 0.0 {
        points.insert(0, (0.0, first));
    }
    if points[points.len() - 1].0 < 1.0 {
        points.push((1.0, last));
    }
    Ok(Law::Empirical(points))
}

impl Law {
    /// The mean, in seconds.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Constant(value) => *value,
            Self::Uniform(min, max) => f64::midpoint(*min, *max),
            Self::Exponential(mean) => *mean,
            Self::LogNormal { mu, sigma } => (mu + sigma * sigma / 2.0).exp(),
            Self::Gamma { shape, scale } => shape * scale,
            Self::Weibull { shape, scale } => scale * statrs::function::gamma::gamma(1.0 + 1.0 / shape),
            Self::HyperExponential(parts) => {
                let mut before = 0.0;
                let mut mean = 0.0;
                for (share, part) in parts {
                    mean += (share - before) * part;
                    before = *share;
                }
                mean
            }
            Self::Empirical(points) => {
                points.windows(2).map(|pair| (pair[1].0 - pair[0].0) * f64::midpoint(pair[0].1, pair[1].1)).sum()
            }
        }
    }

    /// The length that a part `share` of all stays below, in seconds; none where it has no simple form.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        match self {
            Self::Constant(value) => Some(*value),
            Self::Uniform(min, max) => Some(min + share * (max - min)),
            Self::Exponential(mean) => Some(-mean * (1.0 - share).ln()),
            Self::LogNormal { mu, sigma } if *sigma > 0.0 => {
                statrs::distribution::LogNormal::new(*mu, *sigma).ok().map(|law| law.inverse_cdf(share))
            }
            Self::LogNormal { mu, .. } => Some(mu.exp()),
            Self::Gamma { shape, scale } => {
                statrs::distribution::Gamma::new(*shape, 1.0 / scale).ok().map(|law| law.inverse_cdf(share))
            }
            Self::Weibull { shape, scale } => Some(scale * (-(1.0 - share).ln()).powf(1.0 / shape)),
            Self::HyperExponential(_) => None,
            Self::Empirical(points) => Some(between(points, share)),
        }
    }

    /// The same law with every length `factor` times as long.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        match self {
            Self::Constant(value) => Self::Constant(value * factor),
            Self::Uniform(min, max) => Self::Uniform(min * factor, max * factor),
            Self::Exponential(mean) => Self::Exponential(mean * factor),
            Self::LogNormal { mu, sigma } => Self::LogNormal { mu: mu + factor.ln(), sigma: *sigma },
            Self::Gamma { shape, scale } => Self::Gamma { shape: *shape, scale: scale * factor },
            Self::Weibull { shape, scale } => Self::Weibull { shape: *shape, scale: scale * factor },
            Self::HyperExponential(parts) => {
                Self::HyperExponential(parts.iter().map(|(share, mean)| (*share, mean * factor)).collect())
            }
            Self::Empirical(points) => {
                Self::Empirical(points.iter().map(|(share, value)| (*share, value * factor)).collect())
            }
        }
    }

    /// Ready to be drawn from.
    pub fn sampler(&self) -> Sampler {
        match self {
            Self::Constant(value) => Sampler::Constant(from_seconds(*value)),
            Self::Uniform(min, max) => Sampler::Uniform(*min, max - min),
            Self::Exponential(mean) => Sampler::Exponential(*mean),
            Self::LogNormal { mu, sigma } => Sampler::LogNormal { mu: mu + 1e6_f64.ln(), sigma: *sigma },
            Self::Gamma { shape, scale } => {
                Gamma::new(*shape, *scale).map_or(Sampler::Constant(from_seconds(shape * scale)), Sampler::Gamma)
            }
            Self::Weibull { shape, scale } => {
                Weibull::new(*scale, *shape).map_or(Sampler::Constant(from_seconds(self.mean())), Sampler::Weibull)
            }
            Self::HyperExponential(parts) => Sampler::HyperExponential(parts.clone()),
            Self::Empirical(points) => Sampler::Empirical(points.clone()),
        }
    }
}

fn between(points: &[(f64, f64)], share: f64) -> f64 {
    let at = points.partition_point(|point| point.0 <= share).clamp(1, points.len() - 1);
    let (low, high) = (points[at - 1], points[at]);
    low.1 + (high.1 - low.1) * ((share - low.0) / (high.0 - low.0)).clamp(0.0, 1.0)
}

/// A law being drawn from.
#[derive(Clone, Debug)]
pub enum Sampler {
    /// So many microseconds.
    Constant(Micros),
    /// The shortest, and the longest beyond it, in seconds.
    Uniform(f64, f64),
    /// The mean, in seconds.
    Exponential(f64),
    /// Of the logarithm of microseconds.
    LogNormal {
        /// Mean.
        mu: f64,
        /// Standard deviation.
        sigma: f64,
    },
    /// In seconds.
    Gamma(Gamma<f64>),
    /// In seconds.
    Weibull(Weibull<f64>),
    /// Shares added up, and means in seconds.
    HyperExponential(Vec<(f64, f64)>),
    /// Parts of all, and seconds.
    Empirical(Vec<(f64, f64)>),
}

impl Sampler {
    /// One length.
    #[inline]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative, and `as` saturates")]
    pub fn draw(&self, stream: &mut Stream) -> Micros {
        match self {
            Self::Constant(value) => *value,
            Self::Uniform(min, width) => from_seconds(min + width * unit(stream)),
            Self::Exponential(mean) => {
                let value: f64 = stream.sample(Exp1);
                (mean * value * 1e6 + 0.5) as u64
            }
            Self::LogNormal { mu, sigma } => {
                let value: f64 = stream.sample(StandardNormal);
                ((mu + sigma * value).exp() + 0.5) as u64
            }
            Self::Gamma(law) => from_seconds(law.sample(stream)),
            Self::Weibull(law) => from_seconds(law.sample(stream)),
            Self::HyperExponential(parts) => {
                let share = unit(stream);
                let mean = parts.iter().find(|part| share < part.0).or(parts.last()).map_or(0.0, |part| part.1);
                let value: f64 = stream.sample(Exp1);
                from_seconds(mean * value)
            }
            Self::Empirical(points) => from_seconds(between(points, unit(stream))),
        }
    }
}
