//! A container's command as a process of this machine, with everything it starts in turn.

use crate::local::pods::container::CommandLine;
use crate::local::pods::guard::{Guard, Watched};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span, info};

/// The longest line of output kept in one piece, in bytes.
const LONGEST_LINE: u64 = 8 * 1024;
/// How many of the last lines are kept to say why a process ended.
const LAST_LINES: usize = 5;
/// How long the output of a process that ended is still read: something it started may hold it open.
const OUTPUT_LINGERS: Duration = Duration::from_millis(200);

/// A process, alone in its process group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Option<Pid>,
    watched: Option<Watched>,
    output: TaskTracker,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

/// How a process ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// What it returned, or 128 and the signal.
    pub exit_code: i32,
    /// The last lines it wrote; may be empty.
    pub last_lines: String,
}

impl Process {
    /// Starts a command. Its output goes line by line to the log, in the present span. `guard` ends it should this
    /// program be killed.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(line: &CommandLine, guard: Option<&Guard>) -> io::Result<Self> {
        let mut command = Command::new(&line.program);
        command.args(&line.arguments).envs(&line.environment).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        if let Some(directory) = &line.directory {
            command.current_dir(directory);
        }
        let mut child = command.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let watched = guard.zip(group).map(|(guard, group)| guard.watch(group));
        let last_lines = Arc::default();
        let output = TaskTracker::new();
        if let Some(stdout) = child.stdout.take() {
            output.spawn(forward(stdout, "stdout", Arc::clone(&last_lines)).instrument(Span::current()));
        }
        if let Some(stderr) = child.stderr.take() {
            output.spawn(forward(stderr, "stderr", Arc::clone(&last_lines)).instrument(Span::current()));
        }
        output.close();
        Ok(Self { child, group, watched, output, last_lines })
    }

    /// Waits until it ends by itself. What it started and left behind is killed.
    pub async fn ended(&mut self) -> Ended {
        let status = self.child.wait().await;
        self.signal(Signal::KILL);
        // Taken only after it was reaped; the group has no other member then.
        self.group = None;
        self.watched = None;
        let _ = tokio::time::timeout(OUTPUT_LINGERS, self.output.wait()).await;
        let lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        Ended {
            exit_code: status.map_or(-1, exit_code),
            last_lines: lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n"),
        }
    }

    /// Asks it to stop, kills what is left after `grace`, and waits until it is gone.
    pub async fn stop(mut self, grace: Duration) -> Ended {
        self.signal(Signal::TERM);
        if let Ok(ended) = tokio::time::timeout(grace, self.ended()).await {
            return ended;
        }
        info!(grace = ?grace, "process did not stop when asked; killed");
        self.signal(Signal::KILL);
        self.ended().await
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // The only failure there is, that nobody is left, is what was wanted.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The ports pods' processes get: below those Linux, macOS and Windows give to outgoing connections, so that no
/// connection takes a process's port while it is being restarted.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port nobody listens on, on any address; another one each time.
pub fn free_port() -> io::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = rand::random_range(PORTS);
    let _ = NEXT.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed);
    let mut last = io::Error::other("no port was tried");
    for _ in PORTS {
        let step = |port: u16| Some(if port + 1 < PORTS.end { port + 1 } else { PORTS.start });
        let port = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or(start);
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

async fn forward(output: impl AsyncRead + Unpin, stream: &'static str, last_lines: Arc<Mutex<VecDeque<String>>>) {
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match (&mut output).take(LONGEST_LINE).read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let line = String::from_utf8_lossy(&bytes);
                let line = line.trim_end_matches(['\n', '\r']);
                info!(target: "pod", stream, "{line}");
                let mut lines = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == LAST_LINES {
                    lines.pop_front();
                }
                lines.push_back(line.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn shell(script: &str) -> Option<CommandLine> {
        if !std::path::Path::new("/bin/sh").exists() {
            eprintln!("skipped: this machine has no /bin/sh");
            return None;
        }
        Some(CommandLine {
            program: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: BTreeMap::from([("WORD".to_owned(), "gone".to_owned())]),
            directory: Some("/".to_owned()),
        })
    }

    #[tokio::test]
    async fn its_end_is_told_with_its_last_words() {
        let script = "for n in 1 2 3 4 5 6; do echo line $n; done; echo $WORD from $(pwd) >&2; exit 7";
        let Some(line) = shell(script) else { return };
        let mut process = Process::start(&line, None).expect("a process");
        let ended = process.ended().await;
        assert_eq!(ended.exit_code, 7);
        assert_eq!(ended.last_lines.lines().count(), LAST_LINES);
        assert!(ended.last_lines.contains("gone from /"), "{}", ended.last_lines);
    }

    #[tokio::test]
    async fn stopping_takes_everything_it_started_along() {
        let Some(line) = shell("sleep 600 & echo $!; wait") else { return };
        let process = Process::start(&line, None).expect("a process");
        let child = loop {
            let lines = process.last_lines.lock().expect("no panic").clone();
            match lines.front() {
                Some(pid) => break pid.parse().ok().and_then(Pid::from_raw).expect("a process id"),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        assert_eq!(process.stop(Duration::from_secs(20)).await.exit_code, 128 + 15);
        // Nobody has waited for the grandchild but init, so it may be a moment until its entry is gone.
        let deadline = tokio::time::sleep(Duration::from_secs(20));
        tokio::pin!(deadline);
        while rustix::process::test_kill_process(child).is_ok() && !is_zombie(child) {
            tokio::select! {
                () = &mut deadline => panic!("the grandchild {child:?} still lives"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    }

    #[tokio::test]
    async fn one_that_does_not_listen_is_killed() {
        let Some(line) = shell("trap '' TERM; echo ready; while true; do sleep 0.05; done") else { return };
        let process = Process::start(&line, None).expect("a process");
        while process.last_lines.lock().expect("no panic").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(process.stop(Duration::from_millis(50)).await.exit_code, 128 + 9);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told() {
        let line = CommandLine {
            program: "/no/such/program".to_owned(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            directory: None,
        };
        assert_eq!(Process::start(&line, None).expect_err("no program").kind(), io::ErrorKind::NotFound);
    }

    fn is_zombie(pid: Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    }
}
