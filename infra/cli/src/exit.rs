//! What the process says to whoever started it.

use std::process::ExitCode;

/// The documented exit codes of `varta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or stopped when asked to.
    Done,
    /// 1: something failed while running.
    Failed,
    /// 2: the configuration or the call is wrong; nothing was started.
    WrongConfiguration,
    /// 3: a check was made and did not hold.
    NotMet,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::WrongConfiguration => 2,
            Exit::NotMet => 3,
        })
    }
}
