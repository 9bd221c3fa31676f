//! Whatever is in a file, it is taken or refused; nothing panics, and a refusal says where.

use super::library::library;
use ebb::sim::trace::{Reading, Trace};
use ebb::sim::{Case, Detail, run, scenario};
use proptest::prelude::*;
use std::fs;

/// Every scenario of the library, as it is written.
fn texts() -> Vec<String> {
    let directory = crate::root().join("simulations");
    let files = fs::read_dir(directory).expect("simulations").map(|entry| entry.expect("an entry").path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let mut texts: Vec<String> = files.map(|path| fs::read_to_string(path).expect("a file")).collect();
    texts.sort();
    texts
}

/// What people and machines do to a file: a piece is missing, doubled, or something else.
fn harmed(text: &[u8], from: usize, length: usize, by: &[u8]) -> Vec<u8> {
    let from = from % (text.len() + 1);
    let to = (from + length).min(text.len());
    [&text[..from], by, &text[to..]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_harmed_scenario_is_run_or_refused_with_a_place(
        which in any::<prop::sample::Index>(),
        from in any::<usize>(),
        length in 0_usize..40,
        by in prop_oneof![
            Just(String::new()),
            "[ -~\n]{1,12}",
            prop::sample::select(vec![
                "0", "-1", "1e308", "NaN", "null", "~", "[]", "{}", "0s", "-5m", "99999999999999h", "18446744073709551616",
                "100%", "&a", "*a", "- ", ": ", "\t", "\u{0}", "é",
            ]).prop_map(str::to_owned),
        ],
    ) {
        let texts = texts();
        let text = which.get(&texts);
        let text = String::from_utf8_lossy(&harmed(text.as_bytes(), from, length, by.as_bytes())).into_owned();
        match scenario::parse("harmed.yaml", &text) {
            Err(problems) => {
                let told = problems.to_string();
                prop_assert!(told.starts_with("harmed.yaml"), "{told}");
            }
            Ok(scenario) if scenario.load.trace.is_none() => {
                if let Ok(case) = Case::new(scenario, None) {
                    // A minute of what is not too much to simulate in a test.
                    let policy = case.scenario.policies[0].clone();
                    let case = case.part(0, 10_000_000, 0);
                    let busy = ebb::sim::arrivals::Arrivals::new(
                        &case.scenario.load,
                        None,
                        ebb::sim::arrivals::Part { from: 0, to: 10_000_000, rate: 1.0 },
                        1,
                        "",
                    );
                    if busy.take(100_000).count() < 100_000 {
                        let outcome = run(&case, &policy, 1, Detail::Measures);
                        let requests = outcome.requests;
                        prop_assert_eq!(requests.arrived, requests.completed + requests.failed + requests.censored);
                    }
                }
            }
            Ok(_) => {}
        }
    }

    #[test]
    fn a_harmed_trace_is_read_or_refused_with_a_place(
        which in any::<prop::sample::Index>(),
        from in any::<usize>(),
        length in 0_usize..200,
        by in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let directory = crate::root().join("simulations/traces");
        let mut files: Vec<_> = fs::read_dir(directory).expect("traces").map(|entry| entry.expect("an entry").path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "gz"));
        files.sort();
        // The smaller ones, for speed.
        files.retain(|path| fs::metadata(path).expect("a file").len() < 40_000);
        let bytes = harmed(&fs::read(which.get(&files)).expect("a file"), from, length, &by);
        if let Err(error) = Trace::read("harmed.csv.gz", bytes.as_slice(), &Reading::default()) {
            let told = error.to_string();
            prop_assert!(told.starts_with("harmed.csv.gz"), "{told}");
        }
    }
}

#[test]
fn a_trace_that_is_cut_short_is_no_trace() {
    for (name, case) in library() {
        let Some(trace) = case.scenario.load.trace.as_ref() else { continue };
        let Ok(bytes) = fs::read(crate::root().join("simulations").join(&trace.file)) else { continue };
        if std::path::Path::new(&trace.file).extension().is_none_or(|extension| extension != "gz") {
            continue;
        }
        for left in [0, 1, 9, bytes.len() / 2, bytes.len() - 9, bytes.len() - 1] {
            let read = Trace::read(&trace.file, &bytes[..left], &case.scenario.load.reading());
            let error = read.expect_err(&format!("{name}: the first {left} bytes of {} are no trace", bytes.len()));
            assert!(error.to_string().contains(&trace.file), "{error}");
        }
    }
}
