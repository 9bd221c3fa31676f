//! Pods' processes end even when this program is killed: a second one waits for its end and kills what it left.
//!
//! The second one is this program again, started as [`COMMAND`] when the first process of a pod is. It is told of each
//! process group over a pipe, and the pipe's end, which no kind of death can keep from coming, is its signal. It stands
//! in a process group of its own, so that Ctrl-C does not reach it.

use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::HashSet;
use std::io::{self, BufRead, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// The argument that makes this program the guard of another.
pub const COMMAND: &str = "guard-pods";

/// The other end of the pipe. Cheap to clone; the guard acts when all clones are gone.
#[derive(Clone, Debug)]
pub struct Guard {
    pipe: Arc<Mutex<ChildStdin>>,
}

impl Guard {
    /// Starts the guard of this process.
    ///
    /// # Errors
    /// When the program cannot be started again.
    pub fn start() -> io::Result<Self> {
        let mut child = Command::new(own_program()?)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().ok_or_else(|| io::Error::other("the guard has no standard input"))?;
        Ok(Self { pipe: Arc::new(Mutex::new(pipe)) })
    }

    /// Kills `group` should this program end before the result is dropped.
    pub(super) fn watch(&self, group: Pid) -> Watched {
        self.tell('+', group);
        Watched { guard: self.clone(), group }
    }

    fn tell(&self, what: char, group: Pid) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        // A guard that was killed guards nothing; the pods run all the same.
        let _ = pipe.write_all(format!("{what}{}\n", group.as_raw_nonzero()).as_bytes());
    }
}

/// A process group the guard knows of.
#[derive(Debug)]
pub(super) struct Watched {
    guard: Guard,
    group: Pid,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.guard.tell('-', self.group);
    }
}

/// Is the guard: reads what it is told until the end, then kills every group that was not taken back.
pub fn run(told: impl BufRead) {
    for group in left(told) {
        // The only failure there is, that nobody is left, is what was wanted.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// The groups that were told of and not taken back.
fn left(told: impl BufRead) -> HashSet<Pid> {
    let mut groups = HashSet::new();
    for line in told.lines().map_while(Result::ok) {
        let pid = |text: &str| text.parse().ok().and_then(Pid::from_raw);
        if let Some(group) = line.strip_prefix('+').and_then(pid) {
            groups.insert(group);
        } else if let Some(group) = line.strip_prefix('-').and_then(pid) {
            groups.remove(&group);
        }
    }
    groups
}

/// This program's file, also when it was replaced since it was started.
fn own_program() -> io::Result<PathBuf> {
    let link = Path::new("/proc/self/exe");
    if link.exists() { Ok(link.to_owned()) } else { std::env::current_exe() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_taken_back_is_left() {
        for (told, want) in
            [("", &[][..]), ("+10\n+11\n-10\n", &[11]), ("+10\n-10\n+10\n", &[10]), ("x\n+\n+0\n-7\n+12", &[12])]
        {
            let want = want.iter().copied().filter_map(Pid::from_raw).collect();
            assert_eq!(left(told.as_bytes()), want, "{told:?}");
        }
    }
}
