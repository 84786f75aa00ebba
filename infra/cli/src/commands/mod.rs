//! One file a command.

pub(crate) mod check;
pub(crate) mod replay;
pub(crate) mod rules;
pub(crate) mod run;
pub(crate) mod tap;
pub(crate) mod topics;
pub(crate) mod watch;
