//! Waiting for what is to come, and for whoever runs tests without the usual harness, what that does otherwise.

use ebb::clock::Clock;
use ebb::units::Span;
use std::io::Write as _;
use std::time::Duration;

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// What a look brings: what was looked for, or what there was in its place.
pub(crate) trait Look<T> {
    fn found(self) -> Result<T, String>;
}

impl<T> Look<T> for Option<T> {
    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "not there".to_owned())
    }
}

impl<T> Look<T> for Result<T, String> {
    fn found(self) -> Self {
        self
    }
}

/// Looks until there is an answer; says what it waited for and what it saw last when there never is.
pub(crate) async fn eventually<T, L: Look<T>>(what: &str, mut look: impl AsyncFnMut() -> L) -> T {
    let clock = Clock::system();
    let until = clock.now() + Span::from_std(PATIENCE);
    loop {
        match look().await.found() {
            Ok(found) => return found,
            Err(seen) => assert!(clock.now() < until, "waited {PATIENCE:?} in vain: {what}; last: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a test to its end.
pub(crate) fn wait_for<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(test)
}

/// A line on standard output, where the results of the tests are.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
