//! Agreement with the reference: recorded answers of the real Knative against ours, in strict compatibility.
//!
//! `tests/golden/` is always run; `../shared/golden` is run too when it is there; `EBB_GOLDEN_DIR=DIR` runs only the
//! files of `DIR`. A file is named for its kind, `KIND.jsonl.gz` or `KIND.jsonl`.

mod config;
mod control;
mod engine;
mod stats;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};

/// Runs every line of one file.
type Run = fn(&mut Lines, &mut Tally);

/// Every kind of vector, in the order of the data's flow.
const KINDS: &[(&str, Run)] = &[
    ("config", config::config),
    ("validate", config::validate),
    ("resolve", config::resolve),
    ("hash", config::hash),
    ("wire", stats::wire),
    ("sample_size", stats::sample_size),
    ("pods", stats::pods),
    ("scrape", stats::scrape),
    ("windows", engine::windows),
    ("max_window", engine::max_window),
    ("decisions", engine::decisions),
    ("num_activators", engine::num_activators),
    ("multiscaler", control::multiscaler),
    ("scale_to_zero", control::scale_to_zero),
    ("status", control::status),
];

/// How many mismatches of one kind are printed in full.
const SHOWN: usize = 20;

/// The lines of one file, parsed on demand.
struct Lines {
    reader: Box<dyn BufRead>,
    number: usize,
}

impl Lines {
    fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let reader: Box<dyn BufRead> = if path.extension().is_some_and(|extension| extension == "gz") {
            Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file)))
        } else {
            Box::new(BufReader::new(file))
        };
        Self { reader, number: 0 }
    }

    /// The next line as a `T`.
    fn next<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a readable golden file");
        if line.is_empty() {
            return None;
        }
        self.number += 1;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("line {}: {error}: {line}", self.number)))
    }
}

/// What running one file came to.
#[derive(Default)]
struct Tally {
    /// Results compared.
    vectors: u64,
    /// Differences on ticks marked fragile or overflow, which the data's README excuses.
    excused: u64,
    /// Differences.
    mismatches: u64,
    /// The first few, in full.
    shown: String,
}

impl Tally {
    /// Counts one comparison; `describe` says what differs: case, tick, both values and our reasons.
    fn check(&mut self, agrees: bool, describe: impl FnOnce() -> String) {
        self.vectors += 1;
        if !agrees {
            self.mismatches += 1;
            if self.mismatches <= SHOWN as u64 {
                writeln!(self.shown, "{}", describe()).expect("writing to a string");
            }
        }
    }

    /// Counts a difference the data's README excuses.
    fn excuse(&mut self) {
        self.vectors += 1;
        self.excused += 1;
    }
}

fn directories() -> Vec<PathBuf> {
    if let Some(directory) = std::env::var_os("EBB_GOLDEN_DIR") {
        return vec![PathBuf::from(directory)];
    }
    let root = crate::root();
    [root.join("tests/golden"), root.join("../shared/golden")].into_iter().filter(|path| path.is_dir()).collect()
}

#[test]
fn agrees_with_the_reference() {
    let mut summary = Vec::new();
    let mut mismatches = 0;
    let mut vectors = 0;
    for directory in directories() {
        for (kind, run) in KINDS {
            let Some(path) = [format!("{kind}.jsonl.gz"), format!("{kind}.jsonl")]
                .iter()
                .map(|name| directory.join(name))
                .find(|path| path.is_file())
            else {
                continue;
            };
            let mut tally = Tally::default();
            run(&mut Lines::open(&path), &mut tally);
            if tally.mismatches > 0 {
                eprintln!("{}: {} mismatches\n{}", path.display(), tally.mismatches, tally.shown);
            }
            let excused = if tally.excused > 0 { format!(" ({} excused)", tally.excused) } else { String::new() };
            summary.push(format!("{kind} {}/{}{excused}", tally.vectors, tally.mismatches));
            vectors += tally.vectors;
            mismatches += tally.mismatches;
        }
    }
    // Written past the test runner's capture, so that a passing run shows it too.
    let line = format!(
        "golden: {vectors} vectors, {mismatches} mismatches; vectors/mismatches by kind: {}\n",
        summary.join(", ")
    );
    std::io::stdout().write_all(line.as_bytes()).expect("standard output");
    assert!(vectors > 0, "no golden files found; set EBB_GOLDEN_DIR to a directory of KIND.jsonl.gz files");
    assert_eq!(mismatches, 0, "answers that differ from the reference; see above");
}
