//! Prometheus and promtool, where they are: in the directory `$EBB_PROMETHEUS`, or installed.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A program of the Prometheus project; says so where there is none. What `$EBB_PROMETHEUS` promises has to be there.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("EBB_PROMETHEUS") {
        let path = PathBuf::from(directory).join(program);
        assert!(path.is_file(), "EBB_PROMETHEUS has no {program}: {}", path.display());
        return Some(path);
    }
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.is_ok_and(|status| status.success()) {
        return Some(PathBuf::from(program));
    }
    skipped(&format!(
        "no {program} on this machine; Debian's package prometheus has it, and tests/prometheus/run brings it"
    ));
    None
}

/// Written past the test runner's capture, so that a run shows what it left out.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(std::io::stdout(), "skipped: {why}");
}
