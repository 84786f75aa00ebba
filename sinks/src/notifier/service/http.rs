//! One request and its answer, for the services that speak HTTP. No secret ever gets into a text of ours: URLs, which may
//! hold one, are taken out of errors, and what the other side repeats is blotted out.

use std::time::Duration;

use reqwest::{RequestBuilder, header, redirect};

use super::Answer;
use crate::SinkError;

/// Bytes of an answer that are read; an answer has no end if the other side wants it so.
const MOST_BYTES: usize = 64 * 1024;
/// Characters of its words that are kept.
const MOST_WORDS: usize = 300;
/// Longest pause that a service may ask for.
pub(in super::super) const LONGEST_BLOCK: Duration = Duration::from_hours(1);

pub(super) struct Http {
    pub(super) client: reqwest::Client,
    secrets: Vec<String>,
}

/// What the server said.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: String,
}

impl Http {
    /// `secrets` never appear in what this says.
    pub(super) fn new(timeout: Duration, secrets: Vec<String>) -> Result<Self, SinkError> {
        runtime::tls::install_crypto();
        let client = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout.min(Duration::from_secs(5)))
            // A redirect would carry the message, and what is in the URL, to somebody else.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("varta/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| {
                SinkError::Fatal(format!("notifier: no HTTP client: {}", error.without_url()))
            })?;
        Ok(Self { client, secrets: secrets.into_iter().filter(|secret| !secret.is_empty()).collect() })
    }

    /// Sends and reads the beginning of the answer.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Reply, Answer> {
        let failed = |error: reqwest::Error| Answer::later(self.blot(&chain(&error.without_url())));
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let mut body = Vec::new();
        while body.len() < MOST_BYTES {
            // When it breaks off: the status has been heard, and only it says whether the message was taken.
            let Ok(Some(chunk)) = response.chunk().await else { break };
            body.extend_from_slice(&chunk[..chunk.len().min(MOST_BYTES - body.len())]);
        }
        Ok(Reply { status, retry_after, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// What a status means. `words` are the server's own.
    pub(super) fn judge(&self, reply: &Reply, words: &str) -> Answer {
        let words = self.blot(words);
        let reason = if words.is_empty() {
            format!("answers {}", reply.status)
        } else {
            format!("answers {}: {words}", reply.status)
        };
        match reply.status {
            200..=299 => Answer::Taken,
            408 | 425 | 429 | 500..=599 => Answer::Later { reason, retry_after: reply.retry_after },
            _ => Answer::Refused(reason),
        }
    }

    /// One short line without secrets.
    pub(super) fn blot(&self, text: &str) -> String {
        let mut text = text.trim().to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), "***");
        }
        super::super::line::clean(&text, MOST_WORDS)
    }
}

/// The whole chain of causes; reqwest's own text says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Seconds; the other form, a date, is not used by these services.
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(pause(seconds))
}

/// A pause asked for, bounded.
pub(super) fn pause(seconds: u64) -> Duration {
    Duration::from_secs(seconds).min(LONGEST_BLOCK)
}
