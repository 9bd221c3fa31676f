//! Lines, and on a terminal a table kept below them.

use crossterm::cursor::MoveToPreviousLine;
use crossterm::terminal::{self, Clear, ClearType};
use crossterm::{QueueableCommand as _, queue};
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Standard output. Cheap to clone; all clones are one. Everything that writes to the terminal goes through it, so that
/// nothing is torn.
#[derive(Clone, Debug)]
pub struct Screen {
    shared: Arc<Mutex<Drawn>>,
    terminal: bool,
}

#[derive(Debug, Default)]
struct Drawn {
    table: Vec<String>,
    /// How many lines of it are on the terminal.
    lines: u16,
}

impl Screen {
    /// The process's standard output.
    pub fn new() -> Self {
        Self { shared: Arc::default(), terminal: io::stdout().is_terminal() }
    }

    /// Whether there is a person to draw for.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints a line above the table.
    pub fn line(&self, text: &str) {
        // Not locked here: a log line locks what is drawn first and standard output after it.
        self.above(&mut io::stdout(), text.as_bytes(), true);
    }

    /// Shows this table below the lines from now on.
    pub fn table(&self, lines: Vec<String>) {
        if !self.terminal {
            return;
        }
        let mut drawn = self.lock();
        let mut out = io::stdout().lock();
        let _ = erase(&mut out, &mut drawn);
        drawn.table = lines;
        let _ = draw(&mut out, &mut drawn);
    }

    /// Takes the table away.
    pub fn clear_table(&self) {
        self.table(Vec::new());
    }

    /// Where log lines go: standard error, above the table.
    pub fn log_writer(&self) -> LogWriter {
        LogWriter(self.clone())
    }

    /// Output that cannot be written (a closed pipe) is nobody's any more.
    fn above(&self, to: &mut dyn Write, bytes: &[u8], newline: bool) {
        let mut drawn = self.lock();
        if self.terminal {
            let mut out = io::stdout();
            // Flushed, because `to` may be another stream: a table erased after the line would take the line with it.
            let _ = erase(&mut out, &mut drawn).and_then(|()| out.flush());
        }
        let _ = to.write_all(bytes);
        if newline {
            let _ = to.write_all(b"\n");
        }
        let _ = to.flush();
        if self.terminal {
            let _ = draw(&mut io::stdout(), &mut drawn);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Drawn> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes log lines above the table.
#[derive(Clone, Debug)]
pub struct LogWriter(Screen);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.above(&mut io::stderr(), bytes, false);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn erase(out: &mut impl Write, drawn: &mut Drawn) -> io::Result<()> {
    if drawn.lines > 0 {
        queue!(out, MoveToPreviousLine(drawn.lines), Clear(ClearType::FromCursorDown))?;
        drawn.lines = 0;
    }
    Ok(())
}

fn draw(out: &mut impl Write, drawn: &mut Drawn) -> io::Result<()> {
    let (columns, rows) = terminal::size().unwrap_or((80, 24));
    for line in fitting(&drawn.table, rows, columns) {
        writeln!(out, "{line}")?;
        drawn.lines += 1;
    }
    out.queue(Clear(ClearType::FromCursorDown))?;
    out.flush()
}

/// As much of a table as a terminal of that size shows. Room for at least one line above it is left; a line that wrapped
/// could not be erased, so it is cut; and lines that are left out are counted in the last one.
fn fitting(table: &[String], rows: u16, columns: u16) -> Vec<String> {
    let room = usize::from(rows.saturating_sub(2));
    let shown = if table.len() <= room { table.len() } else { room.saturating_sub(1) };
    let left_out = (shown < table.len() && room > 0).then(|| format!(" and {} more", table.len() - shown));
    let cut = |line: &str| line.chars().take(usize::from(columns.saturating_sub(1))).collect();
    table[..shown].iter().map(String::as_str).chain(left_out.as_deref()).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let table: Vec<String> = ["", "REVISION", "a", "b", "c"].map(str::to_owned).into();
        assert_eq!(fitting(&table, 7, 80), table);
        assert_eq!(fitting(&table, 6, 80), ["", "REVISION", "a", " and 2 more"]);
        assert_eq!(fitting(&table, 6, 5), ["", "REVI", "a", " and"]);
        for rows in 0..3 {
            assert!(fitting(&table, rows, 80).len() <= usize::from(rows.saturating_sub(2)), "{rows}");
        }
    }
}
