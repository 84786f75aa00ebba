//! What an error asks of the one who gets it.

/// The three things one can do about a failure; there is no fourth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The same attempt may succeed later: back off and retry.
    Transient,
    /// This input will never succeed: put it with the dead letters and go on with the next.
    Poison,
    /// Nothing here can repair it: stop the task and let a person look.
    Fatal,
}
