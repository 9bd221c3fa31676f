//! What a registered revision keeps in memory, and that recording and deciding take none:
//! `cargo bench --bench memory`.
//!
//! Counts every byte asked of the allocator, and the bytes of the values themselves.

#![expect(clippy::print_stdout, reason = "what a bench is for")]

use ebb::engine::{Collection, Decider, Load, MetricSpec, Spec};
use ebb::units::{Aggregation, Compat, Span, Timestamp};
use std::hint::black_box;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// 2026-08-01T00:00:00Z.
const START: Timestamp = Timestamp::from_seconds(1_785_542_400);

const REVISIONS: usize = 1000;

fn main() {
    let _profiler = dhat::Profiler::builder().testing().build();
    println!("bytes per revision, and what 1000 s of stats and decisions add:");
    println!("{:<34} {:>7} {:>7} {:>7} {:>6} {:>12}", "", "values", "heap", "sum", "blocks", "allocations");
    for (name, window, delay) in [
        ("60 s window", 60, 0),
        ("60 s window, scale-down delay 15 m", 60, 900),
        ("10 m window", 600, 0),
        ("1 h window", 3600, 0),
    ] {
        measure(name, Span::from_seconds(window), Span::from_seconds(delay));
    }
}

fn measure(name: &str, window: Span, delay: Span) {
    let mut revisions = Vec::with_capacity(REVISIONS);
    let before = dhat::HeapStats::get();
    for _ in 0..REVISIONS {
        revisions.push(revision(window, delay));
    }
    let made = dhat::HeapStats::get();
    let load = Load { concurrency: 70.0, proxied_concurrency: 35.0, requests: 140.0, proxied_requests: 70.0 };
    for second in 0..1000 {
        let now = START + Span::from_seconds(second);
        for (collection, decider) in &mut revisions {
            collection.record(now, &load);
            let observed = collection.observe(decider.spec().metric, now).expect("the window has data");
            black_box(decider.decide(now, 1, observed));
        }
    }
    let driven = dhat::HeapStats::get();

    let values = size_of::<(Collection, Decider)>();
    let heap = (made.curr_bytes - before.curr_bytes) / REVISIONS;
    let blocks = (made.curr_blocks - before.curr_blocks) / REVISIONS;
    let allocations = driven.total_blocks - made.total_blocks;
    println!("{name:<34} {values:>7} {heap:>7} {:>7} {blocks:>6} {allocations:>12}", values + heap);
}

fn revision(window: Span, delay: Span) -> (Collection, Decider) {
    let metric = MetricSpec {
        stable_window: window,
        panic_window: Span::from_nanos(window.nanos() / 10),
        scraped: true,
        aggregation: Aggregation::Linear,
    };
    let spec = Spec { stable_window: window, scale_down_delay: delay, ..Spec::default() };
    (Collection::new(&metric), Decider::new(spec, 1, START, Compat::IMPROVED))
}
