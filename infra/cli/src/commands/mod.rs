//! One file a command.

pub mod check;
pub mod replay;
pub mod run;
pub mod tap;
pub mod topics;
pub mod watch;
