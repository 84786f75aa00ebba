//! One file a command.

pub(crate) mod backfill;
pub(crate) mod check;
pub(crate) mod feedback;
pub(crate) mod keys;
pub(crate) mod lake;
pub(crate) mod notify;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod rules;
pub(crate) mod run;
pub(crate) mod tap;
pub(crate) mod topics;
pub(crate) mod watch;
