//! The wall clock, for those who may read it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch, UTC. Before 1970 (a machine without a set clock) it is negative.
///
/// Processors never call this: their time comes with the log.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now_us() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_micros() as i64,
        Err(before) => -(before.duration().as_micros() as i64),
    }
}
