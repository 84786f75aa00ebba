//! Answers that say no: a status, a reason for people, a label for counting, and when to come again.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::body::BodyRefused;
use crate::keys::Denied;

/// Most bad events that an answer names; of the rest it says how many. What waits to be read by its sender lies outside of
/// what is counted for requests, and must be little.
pub(super) const MAX_NAMED: usize = 100;
/// Longest reason told of one event, in bytes.
const MAX_REASON: usize = 300;
/// When to come again after an answer for which no better time is known.
pub(super) const SOON: Duration = Duration::from_secs(1);
/// When to come again while Kafka is away.
pub(super) const LATER: Duration = Duration::from_secs(5);

/// A request that is not taken.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// Few and fixed, for metrics.
    pub(super) label: &'static str,
    pub(super) error: String,
    pub(super) retry_after: Option<Duration>,
    pub(super) events: Vec<BadEvent>,
}

/// One event that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct BadEvent {
    /// Its place in the request, from 0; empty lines do not count.
    pub(super) index: usize,
    /// Why.
    pub(super) reason: String,
}

impl BadEvent {
    pub(super) fn new(index: usize, reason: &impl ToString) -> Self {
        let mut reason = reason.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        reason.shrink_to_fit();
        Self { index, reason }
    }
}

#[derive(Serialize)]
struct Told<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "<[BadEvent]>::is_empty")]
    events: &'a [BadEvent],
}

impl Refusal {
    pub(super) fn new(status: StatusCode, label: &'static str, error: impl Into<String>) -> Self {
        Self { status, label, error: error.into(), retry_after: None, events: Vec::new() }
    }

    pub(super) fn after(self, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..self }
    }

    /// Too much at once, of this key or of all.
    pub(super) fn busy(label: &'static str, error: &str, retry_after: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, label, error).after(retry_after)
    }

    /// Something that is needed is away.
    pub(super) fn unavailable(label: &'static str, error: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, label, error).after(LATER)
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let (label, error) = match denied {
            Denied::Unknown => ("unknown_key", "this key is not known"),
            Denied::Revoked => ("revoked_key", "this key was revoked"),
            Denied::Expired => ("expired_key", "this key has expired"),
        };
        Self::new(StatusCode::UNAUTHORIZED, label, error)
    }
}

impl From<BodyRefused> for Refusal {
    fn from(refused: BodyRefused) -> Self {
        match refused {
            BodyRefused::TooLarge => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                "the body has more bytes than are taken, as sent or inflated",
            ),
            BodyRefused::NoRoom => {
                Self::busy("bytes_in_flight", "all requests together hold as much as they may", SOON)
            }
            BodyRefused::Slow => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "slow_body", "the body did not come in time")
            }
            BodyRefused::Cut(error) => {
                Self::new(StatusCode::BAD_REQUEST, "cut_body", format!("the body broke off: {error}"))
            }
            BodyRefused::NotGzip(error) => {
                Self::new(StatusCode::BAD_REQUEST, "not_gzip", format!("the body is no gzip: {error}"))
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let told = Told { error: &self.error, events: &self.events };
        let mut response = (self.status, Json(told)).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(after)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Whole seconds, at least one.
fn seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_sent_away_hears_when_to_come_again() {
        let response = Refusal::busy("rate", "too fast", Duration::from_millis(1200)).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let response = Refusal::from(Denied::Revoked).into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()[header::WWW_AUTHENTICATE]),
            (401, &HeaderValue::from_static("Bearer"))
        );
        assert_eq!(seconds(Duration::ZERO), 1);
    }

    #[test]
    fn a_reason_is_bounded_at_a_character() {
        let event = BadEvent::new(3, &"ї".repeat(1000));
        assert!(event.reason.len() <= MAX_REASON && event.reason.ends_with('ї'));
    }
}
