//! The broker's own counters, exported as ours.
//!
//! A broker whose queues overflow drops messages that it has acknowledged to their senders. Nothing is lost by
//! that, for the agents wait for our confirmation, but a person should know.

use metrics::gauge;

/// The number in a text such as `17`, `3.5` or `120 seconds`.
fn number(payload: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(payload).ok()?;
    let number: f64 = text.split_whitespace().next()?.parse().ok()?;
    number.is_finite().then_some(number)
}

/// Exports the number on one of the broker's own topics; what is none is ignored. `false` for all other topics.
pub(crate) fn export(topic: &[u8], payload: &[u8]) -> bool {
    if !topic.starts_with(b"$SYS/") {
        return false;
    }
    if let (Ok(topic), Some(number)) = (std::str::from_utf8(topic), number(payload)) {
        gauge!("varta_bridge_broker_statistic", "topic" => topic.to_owned()).set(number);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_nothing_else() {
        assert_eq!(number(b"17"), Some(17.0));
        assert_eq!(number(b"3600 seconds"), Some(3600.0));
        assert_eq!(number(b"mosquitto version 2.0.11"), None);
        assert_eq!(number(b"NaN"), None);
        assert_eq!(number(b""), None);
        assert_eq!(number(&[0xff]), None);
        assert!(export(b"$SYS/broker/clients/connected", b"17"));
        assert!(export(b"$SYS/broker/version", b"mosquitto"));
        assert!(!export(b"agent/a/status", b"17"));
    }
}
