//! The flags of whatever keeps a journal.

use crate::clock::Clock;
use crate::observe::journal::{Journal, LEAST_BYTES, Options};
use crate::units::Compat;
use anyhow::Context as _;
use std::path::PathBuf;

/// Whether and how a journal is kept.
#[derive(clap::Args, Debug)]
#[group(id = "recording")]
pub struct Args {
    /// Record every input and decision in this directory, for `ebb explain`. Without it nothing is recorded.
    #[arg(long, env = "EBB_JOURNAL", value_name = "DIR", help_heading = "Journal")]
    journal: Option<PathBuf>,

    /// The space the journal may take; the oldest part goes when it is full.
    #[arg(long, env = "EBB_JOURNAL_SIZE", value_name = "BYTES", default_value = "512Mi", value_parser = size, help_heading = "Journal")]
    journal_size: u64,
}

impl Args {
    /// Opens the journal, if one is to be kept.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(&self, compat: Compat, clock: Clock) -> anyhow::Result<Option<Journal>> {
        let Some(options) = self.options(compat, "") else { return Ok(None) };
        let directory = options.directory.clone();
        let journal = Journal::open(options, clock).with_context(|| {
            format!(
                "no journal can be kept in {}; name a directory that can be written with --journal DIR, or leave it out",
                directory.display()
            )
        })?;
        Ok(Some(journal))
    }

    /// The same for what has to run without one too: a directory that cannot be written is tried again and again.
    ///
    /// # Errors
    /// When no journal could ever be kept.
    pub fn open_when_possible(&self, compat: Compat, pod: &str, clock: Clock) -> anyhow::Result<Option<Journal>> {
        let journal = self.options(compat, pod).map(|options| Journal::open_when_possible(options, clock));
        Ok(journal.transpose()?)
    }

    fn options(&self, compat: Compat, pod: &str) -> Option<Options> {
        let (most_bytes, pod) = (self.journal_size, pod.to_owned());
        Some(Options { most_bytes, pod, ..Options::new(self.journal.clone()?, compat) })
    }
}

/// A number of bytes as Kubernetes writes it: `536870912`, `512Mi`, `2Gi`.
fn size(text: &str) -> Result<u64, String> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let unit = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, *bits)));
    let (number, bits) = unit.unwrap_or((text, 0));
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << bits));
    match bytes {
        Some(bytes) if bytes >= LEAST_BYTES => Ok(bytes),
        Some(_) => Err(format!("{text:?} is too small; a journal takes at least 1Mi")),
        None => Err(format!("{text:?} is not a number of bytes; write it as 512Mi or 2Gi")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_kubernetes_writes_them() {
        for (text, bytes) in [("1048576", Some(1 << 20)), ("512Mi", Some(512 << 20)), ("2Gi", Some(2 << 30))] {
            assert_eq!(size(text).ok(), bytes, "{text}");
        }
        for text in ["", "1", "4Ki", "x", "-1Mi", "1.5Gi", "99999999999Ti", "1MB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
