//! The report of `ebb sim`, a file that needs nothing else.

use crate::browser::{Browser, LOOKS, Tools};
use std::path::Path;
use std::process::{Command, Stdio};

/// The report on a scenario, written to `directory`.
fn written(scenario: &str, directory: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = Command::new(env!("CARGO_BIN_EXE_ebb"))
        .args(["sim", "run", "--repetitions", "2", "--output"])
        .arg(directory)
        .arg(root.join("simulations").join(scenario))
        .stdout(Stdio::null())
        .status()
        .expect("the ebb binary");
    assert!(status.success(), "{scenario}: {status}");
    format!("file://{}", directory.join("report.html").display())
}

pub(crate) async fn accessible(tools: &Tools) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let browser = Browser::start(tools).await;
    // One that breaks its promise, with many kinds of plots; one that foresees.
    for scenario in ["trouble.yaml", "predictive/llm-code.yaml"] {
        let url = written(scenario, directory.path());
        for look in LOOKS {
            browser.open(&url, look).await;
            let sideways = browser.run("return document.documentElement.scrollWidth > innerWidth").await;
            assert_eq!(sideways, false, "{scenario} {look:?}: the page is wider than the window");
            browser.judge(&format!("report-{}", scenario.replace(['/', '.'], "-")), look).await;
        }
    }
}
