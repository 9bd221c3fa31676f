//! How many pods are asked, and what a few answers say about all.
//!
//! Of a hundred pods, asking fourteen tells the mean within 10 % at 95 % confidence, for as much variation between
//! pods as Knative assumes.

use crate::engine::Load;
use crate::units::{count_f64, saturating_i32};

/// 1.96² · 100 / 25: the squared quantile for 95 % confidence, times the assumed variance, over the squared margin of
/// error.
const UNBOUNDED: f64 = 15.3664;

/// How many of `population` pods are asked: all of up to three, else `ceil(N·X / (N + X − 1))`, which approaches 16.
pub fn size(population: usize) -> usize {
    if population <= 3 {
        return population;
    }
    let n = count_f64(population);
    usize::try_from(saturating_i32((n * UNBOUNDED / (n + UNBOUNDED - 1.0)).ceil())).unwrap_or(0)
}

/// The load of `population` pods of which `asked` were asked: summed in the given order, divided by their number, times
/// the population, in this order and field by field, so that the last bit is the reference's.
///
/// Nobody asked, no load.
pub fn of_population(asked: &[Load], population: usize) -> Load {
    let (part, all) = (count_f64(asked.len().max(1)), count_f64(population));
    let whole = |field: fn(&Load) -> f64| asked.iter().map(field).fold(0.0, |sum, value| sum + value) / part * all;
    Load {
        concurrency: whole(|load| load.concurrency),
        proxied_concurrency: whole(|load| load.proxied_concurrency),
        requests: whole(|load| load.requests),
        proxied_requests: whole(|load| load.proxied_requests),
    }
}
