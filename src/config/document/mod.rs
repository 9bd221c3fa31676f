//! YAML as people write it: every value knows where it stands, and a type read out of it tells every field it does not
//! know and what was probably meant.
//!
//! Reading order: `yaml` (the tree), `strict` (a type out of the tree), this file (how a problem is told).

pub(crate) mod strict;
pub(crate) mod yaml;

pub use yaml::Place;

pub(crate) use strict::{Besides, Fault, faults, read};
pub(crate) use yaml::{Content, Node};

use std::fmt::{self, Write as _};

/// Where in which file something stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The file, or words for what was no file.
    pub file: String,
    /// Where in it.
    pub place: Place,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place { line: 0, .. } => f.write_str(&self.file),
            Place { line, column } => write!(f, "{}:{line}:{column}", self.file),
        }
    }
}

/// One thing that is wrong with a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where.
    pub source: Source,
    /// Which field; empty when it is not about one.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        if !self.path.is_empty() {
            // A key can hold line breaks, and what moves a terminal's cursor.
            for letter in self.path.chars() {
                if letter.is_control() { write!(f, "{}", letter.escape_default())? } else { f.write_char(letter)? }
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a set of manifests; never empty.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_whatever_the_key_is() {
        let source = Source { file: "a.yaml".to_owned(), place: Place { line: 4, column: 1 } };
        let problem =
            Problem { source, path: "größe.ra\n\u{1b}[2Jte".to_owned(), message: "unknown field".to_owned() };
        assert_eq!(problem.to_string(), r"a.yaml:4:1: größe.ra\n\u{1b}[2Jte: unknown field");
    }
}
