//! The scenarios in `simulations/`: each is the same on every machine, run after run and on any number of threads.

use ebb::sim::batch::{self, Job, Watch};
use ebb::sim::time::{HOUR, MINUTE};
use ebb::sim::{Case, Detail, Outcome, Trace, scenario};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Every scenario of the library, in the order of their names.
pub(super) fn library() -> Vec<(String, Case)> {
    let of = |directory: &str| {
        let directory = crate::root().join(directory);
        let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        entries.map(|entry| entry.expect("an entry").path())
    };
    let mut files: Vec<PathBuf> = of("simulations")
        .chain(of("simulations/elsewhere"))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort_by_key(|path| path.file_stem().map(ToOwned::to_owned));
    assert!(files.len() >= 10, "{files:?}");
    let named = |path: &PathBuf| path.file_stem().expect("a name").display().to_string();
    files.into_iter().filter_map(|path| load(&path).map(|case| (named(&path), case))).collect()
}

/// A scenario; none where its trace is not part of the repository, and not there.
fn load(path: &PathBuf) -> Option<Case> {
    let name = path.file_name().expect("a name").display().to_string();
    let text = fs::read_to_string(path).expect("a file");
    let scenario = scenario::parse(&name, &text).unwrap_or_else(|problems| panic!("{problems}"));
    if let Some(trace) = &scenario.load.trace
        && let Some(origin) = &trace.origin
        && !path.with_file_name(&trace.file).exists()
    {
        eprintln!("{name} is left out: {} is not there; {origin}", trace.file);
        return None;
    }
    let trace = scenario.load.trace.as_ref().map(|trace| {
        let file = path.with_file_name(&trace.file);
        let opened = File::open(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Trace::read(&trace.file, opened, &scenario.load.reading()).unwrap_or_else(|error| panic!("{error}"))
    });
    Some(Case::new(scenario, trace).unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn run(case: &Case, threads: usize) -> Vec<Outcome> {
    // Enough of each for everything in it to happen; all of them whole would take minutes.
    let case = case.part(0, 2 * HOUR, 10 * MINUTE);
    let jobs: Vec<Job> = case
        .scenario
        .policies
        .iter()
        .map(|policy| Job { case: case.clone(), policy: policy.clone(), seed: case.seed(0), detail: Detail::Series })
        .collect();
    batch::run(&jobs, NonZeroUsize::new(threads).expect("not 0"), &Watch::default()).expect("nobody stops it")
}

#[test]
fn each_scenario_gives_the_same_bytes_on_one_thread_and_on_two() {
    let mut digests = String::new();
    let library = library();
    for (name, case) in &library {
        let bytes = serde_json::to_string(&run(case, 1)).expect("JSON");
        let again = serde_json::to_string(&run(case, 2)).expect("JSON");
        assert!(bytes == again, "{name}: two threads give something else than one");
        let digest = Sha256::digest(&bytes);
        let hex: String = digest.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string");
            hex
        });
        writeln!(digests, "{hex}  {name}").expect("writing to a string");
    }
    let path = crate::root().join("tests/expected/sim/digests.txt");
    if std::env::var_os("EBB_WRITE_EXPECTED").is_some() {
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, &digests).expect("a file");
    }
    let expected: String = fs::read_to_string(&path)
        .unwrap_or_default()
        .lines()
        .filter(|line| library.iter().any(|(name, _)| line.ends_with(&format!("  {name}"))))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert!(
        digests == expected,
        "outcomes are not those of {}. Where the change is meant, write it with EBB_WRITE_EXPECTED=1.\n{}",
        path.display(),
        similar::TextDiff::from_lines(&expected, &digests).unified_diff()
    );
}

#[test]
fn each_scenario_adds_up() {
    for (name, case) in library() {
        for outcome in run(&case, 2) {
            let requests = outcome.requests;
            assert_eq!(requests.arrived, requests.completed + requests.failed + requests.censored, "{name}");
            assert!(outcome.little.iter().all(|layer| layer.equal), "{name}: {:?}", outcome.little);
        }
    }
}
