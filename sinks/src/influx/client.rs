//! The write APIs over HTTP, and what their answers mean.

use std::{io::Write as _, time::Duration};

use flate2::{Compression, write::GzEncoder};
use reqwest::{StatusCode, Url, header};

use super::config::{InfluxConfig, WriteApi};
use crate::SinkError;

/// Bytes that are read of an answer.
const WORTH_READING: usize = 64 << 10;

/// What the server said to a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has the lines.
    Written,
    /// Something in the request is wrong for good; other lines of it may have been stored.
    Refused(String),
    /// More at once than it takes.
    TooLarge,
    /// Not now: away, busy, or not set up (yet).
    Later { reason: String, retry_after: Option<Duration> },
}

/// One server.
pub(super) struct Client {
    http: reqwest::Client,
    write: Url,
    config: InfluxConfig,
}

impl Client {
    /// No connection is made yet.
    pub(super) fn new(config: &InfluxConfig) -> Result<Self, SinkError> {
        runtime::tls::install_crypto();
        let wrong = |error: &dyn std::fmt::Display| SinkError::Fatal(format!("influx: {error}"));
        let http = reqwest::Client::builder()
            .timeout(config.timeout)
            .connect_timeout(config.timeout.min(Duration::from_secs(5)))
            .build()
            .map_err(|error| wrong(&error))?;
        let mut write = Url::parse(&config.url).map_err(|error| wrong(&error))?;
        let base = write.path().trim_end_matches('/').to_owned();
        {
            let (path, pairs) = match config.api {
                WriteApi::V2 => ("/api/v2/write", vec![("org", &config.org), ("bucket", &config.bucket)]),
                WriteApi::V1 => {
                    let mut pairs = vec![("db", &config.bucket)];
                    pairs.extend(config.retention_policy.iter().map(|policy| ("rp", policy)));
                    ("/write", pairs)
                }
            };
            write.set_path(&format!("{base}{path}"));
            write.query_pairs_mut().extend_pairs(pairs).append_pair("precision", "ns");
        }
        Ok(Self { http, write, config: config.clone() })
    }

    /// An empty write, which shows that the server is there and that it knows organisation, bucket and token: it comes to
    /// the lines last. `Err` is what stands in the way.
    pub(super) async fn try_out(&self) -> Result<(), (String, Option<Duration>)> {
        match self.write(b"").await {
            Answer::Written => Ok(()),
            Answer::Refused(reason) if misses_lines(&reason) => Ok(()),
            Answer::Refused(reason) => Err((format!("an empty write is refused: {reason}"), None)),
            Answer::TooLarge => Err(("an empty write is too large for it".to_owned(), None)),
            Answer::Later { reason, retry_after } => Err((reason, retry_after)),
        }
    }

    /// Writes lines. Never fails: every failure is an [`Answer`].
    pub(super) async fn write(&self, lines: &[u8]) -> Answer {
        let mut request =
            self.http.post(self.write.clone()).header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
        // InfluxDB 2 takes its tokens by the old API, too.
        if let Some(token) = &self.config.token {
            request = request.header(header::AUTHORIZATION, format!("Token {}", token.expose()));
        } else if let Some(user) = &self.config.username {
            request = request.basic_auth(user, self.config.password.as_ref().map(|p| p.expose().to_owned()));
        }
        let compressed = if self.config.gzip { gzip(lines) } else { None };
        request = match compressed {
            Some(body) => request.header(header::CONTENT_ENCODING, "gzip").body(body),
            None => request.body(lines.to_vec()),
        };
        match request.send().await {
            Ok(response) => {
                let status = response.status();
                let retry_after = retry_after(response.headers());
                judge(status, retry_after, &beginning(response).await)
            }
            Err(error) => Answer::Later { reason: chain(&error), retry_after: None },
        }
    }
}

/// As much of an answer as is worth reading, whatever its length.
async fn beginning(mut response: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk[..chunk.len().min(WORTH_READING - bytes.len())]);
        if bytes.len() == WORTH_READING {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
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

fn gzip(lines: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(lines.len() / 4), Compression::fast());
    encoder.write_all(lines).ok()?;
    encoder.finish().ok()
}

/// Seconds; the other form, a date, is not used by these servers.
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(300)))
}

/// What an answer means. Only 400 and 422 are about the lines. All else speaks of the server, of its set-up (no bucket
/// yet, no right) or of something on the way to it, and is waited out: the lines are innocent.
fn judge(status: StatusCode, retry_after: Option<Duration>, text: &str) -> Answer {
    if status.is_success() {
        return Answer::Written;
    }
    let message = message(text);
    match status.as_u16() {
        413 => Answer::TooLarge,
        400 | 422 => Answer::Refused(message),
        code => Answer::Later { reason: format!("{code}: {message}"), retry_after },
    }
}

/// Whether it only says that there was nothing to write, in the words of InfluxDB 2, or of 3 and others.
fn misses_lines(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    ["requires points", "no lines", "no points", "empty body", "empty write", "body is empty"]
        .iter()
        .any(|words| reason.contains(words))
}

/// The server's words, at most 500 characters of them.
fn message(text: &str) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let field = |name: &str| json.as_ref().and_then(|json| json.get(name)?.as_str().map(str::to_owned));
    let message = field("message").or_else(|| field("error")).unwrap_or_else(|| text.trim().to_owned());
    message.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_about_the_server_are_waited_out_and_those_about_lines_are_not() {
        let later =
            |code| matches!(judge(StatusCode::from_u16(code).unwrap(), None, ""), Answer::Later { .. });
        for code in [401, 402, 403, 404, 405, 407, 408, 410, 411, 415, 418, 429, 431, 451, 500, 502, 503, 302]
        {
            assert!(later(code), "{code}");
        }
        let text = r#"{"code":"invalid","message":"unable to parse 'x': missing fields"}"#;
        let refused = Answer::Refused("unable to parse 'x': missing fields".to_owned());
        assert_eq!(judge(StatusCode::BAD_REQUEST, None, text), refused);
        let text = r#"{"error":"partial write: field type conflict"}"#;
        assert_eq!(
            judge(StatusCode::UNPROCESSABLE_ENTITY, None, text),
            Answer::Refused("partial write: field type conflict".to_owned())
        );
        assert_eq!(judge(StatusCode::NO_CONTENT, None, ""), Answer::Written);
        assert_eq!(judge(StatusCode::PAYLOAD_TOO_LARGE, None, ""), Answer::TooLarge);
    }

    #[test]
    fn the_wait_asked_for_is_read_and_bounded() {
        let mut headers = header::HeaderMap::new();
        headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("7"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(7)));
        headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("100000"));
        assert_eq!(retry_after(&headers), Some(Duration::from_mins(5)));
    }
}
