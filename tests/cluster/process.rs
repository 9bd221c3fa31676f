//! A program of this machine that never outlives the test that started it.

use ebb::clock::Clock;
use ebb::units::Span;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Starts the program in its own process group beside a watchdog, which kills the group once nobody holds the other
/// end of its input any more: that also happens when the tests are killed and can clean up nothing.
const BESIDE_A_WATCHDOG: &str = r#"exec 3<&0; { read -r _ <&3; kill -KILL 0; } & exec 3<&-; exec "$@" </dev/null"#;

/// Lines of its log that are told when something went wrong.
const LAST_LINES: usize = 30;

/// How a Go program begins to tell that it crashed.
const CRASHES: [&str; 4] = ["panic: ", "fatal error: ", "runtime: ", "unexpected fault "];

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    _watchdog: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it writes goes to the file `log`, behind what is there.
    pub(crate) fn start(program: &Path, arguments: &[String], environment: &[(&str, &str)], log: PathBuf) -> Self {
        let output = File::options().create(true).append(true).open(&log).expect("a log file");
        let mut command = Command::new("sh");
        command.args(["-c", BESIDE_A_WATCHDOG, "sh"]).arg(program).args(arguments);
        command.envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(output.try_clone().expect("a file")).stderr(output).process_group(0);
        let mut child = command.spawn().expect("a shell");
        let watchdog = child.stdin.take();
        Self { child, _watchdog: watchdog, log }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// Kills it and whatever it started, as a machine that loses power does.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }

    /// Asks it to stop, and waits until it has; it is killed when that takes longer than `patience`.
    pub(crate) async fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        let clock = Clock::system();
        self.signal(Signal::TERM);
        let until = clock.now() + Span::from_std(patience);
        while clock.now() < until {
            if let Some(status) = self.child.try_wait().expect("a child") {
                self.kill();
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.kill();
        None
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().expect("a child")?;
        let how = status.code().map_or_else(|| format!("signal {:?}", status.signal()), |code| format!("code {code}"));
        Some(format!("ended with {how}:\n{}", self.last_lines()))
    }

    /// The end of its log; of a Go program that crashed, the beginning of what it says of that.
    pub(crate) fn last_lines(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let crash = lines.iter().position(|line| CRASHES.iter().any(|crash| line.starts_with(crash)));
        let from = crash.unwrap_or(lines.len().saturating_sub(LAST_LINES));
        lines[from..].iter().take(LAST_LINES).copied().collect::<Vec<_>>().join("\n")
    }

    fn pid(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("the id of a process")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
