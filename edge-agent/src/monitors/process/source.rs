//! Where the list of processes comes from.

use std::io;
use std::sync::Arc;

/// What is cheap to know about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Tells two processes with one pid apart; constant over the life of a process.
    pub birth: u64,
    /// When it started, in µs since 1970-01-01 UTC, as exact as the system tells.
    pub started_at: i64,
    /// Parent pid.
    pub parent: u32,
    /// Name of the program, possibly shortened by the system.
    pub name: String,
    /// True for a thread of the kernel.
    pub kernel: bool,
    /// Processor time used so far, in µs.
    pub cpu_us: u64,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
}

/// What is dearer to know, asked once per process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Path of the executable, where we may see it.
    pub path: Option<String>,
    /// Arguments, as given. Not to be passed on without [`super::scrub::command_line`].
    pub arguments: Vec<String>,
    /// Account it runs as.
    pub user: Option<Arc<str>>,
}

/// A list of processes that can be asked step by step, so that a poll in which nothing happened
/// costs one directory listing.
pub trait ProcessSource: Send {
    /// Method, as part of the events' source: `process/procfs`.
    fn label(&self) -> &'static str;

    /// Pids now alive, in any order.
    fn pids(&mut self) -> io::Result<Vec<u32>>;

    /// Whether a pid of the last list may since have been given to another process.
    fn pids_may_repeat(&mut self) -> bool;

    /// Statistics of one process; `None` if it has ended.
    fn stat(&mut self, pid: u32) -> Option<Stat>;

    /// Details of one process; empty where we may not look.
    fn details(&mut self, pid: u32) -> Details;
}
