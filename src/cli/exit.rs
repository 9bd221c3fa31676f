//! What the process answers with.

use std::process::ExitCode;

/// The ways a command can end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Done.
    Done,
    /// It answered, and the answer is no: what was checked has problems.
    AnswerIsNo,
    /// It could not answer: wrong usage, unreadable input, something it needs is missing.
    CouldNotAnswer,
    /// A server did not end in order: a part of it failed, or it was told to stop a second time.
    CutShort,
    /// Interrupted a second time, before everything had stopped in order.
    Interrupted,
}

impl Exit {
    /// The number the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::AnswerIsNo | Self::CutShort => 1,
            Self::CouldNotAnswer => 2,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
