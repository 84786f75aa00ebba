//! Anything that takes JSON by HTTP.
//!
//! The body is the stored [`Message`]. `Idempotency-Key` is its id: a repetition has the same key and the same body, so who
//! remembers keys sees each message once. With a key configured `X-Varta-Signature` is `sha256=` and the HMAC-SHA256 of the
//! body in hex.

use std::{fmt::Write as _, time::Duration};

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Url, header};
use runtime::config::Secret;
use sha2::Sha256;

use super::{Answer, http::Http};
use crate::{
    SinkError,
    notifier::{compose::Message, config::WebhookConfig},
};

pub(in super::super) struct Webhook {
    http: Http,
    url: Url,
    token: Option<Secret>,
    key: Option<Secret>,
}

impl Webhook {
    pub(super) fn new(config: &WebhookConfig, timeout: Duration) -> Result<Self, SinkError> {
        let url = Url::parse(config.url.expose())
            .map_err(|_| SinkError::Fatal(format!("notifier: {}: the URL cannot be used", config.name)))?;
        let mut secrets = vec![config.url.expose().to_owned()];
        secrets.extend(url.query().map(str::to_owned));
        secrets.extend(url.password().map(str::to_owned));
        // Many a receiver knows its sender by the path alone. What is shorter hides nothing, and would blot out words.
        let named = [url.path().trim_matches('/'), url.username()];
        secrets.extend(named.into_iter().filter(|text| text.len() > 3).map(str::to_owned));
        secrets.extend(config.token.iter().chain(&config.key).map(|secret| secret.expose().to_owned()));
        Ok(Self {
            http: Http::new(timeout, secrets)?,
            url,
            token: config.token.clone(),
            key: config.key.clone(),
        })
    }

    pub(super) async fn send(&self, message: &Message) -> Answer {
        let body = match serde_json::to_vec(message) {
            Ok(body) => body,
            Err(error) => return Answer::Refused(format!("cannot be written as JSON: {error}")),
        };
        let mut request = self
            .http
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", message.id.to_string());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(key) = &self.key {
            request = request.header("X-Varta-Signature", signature(key.expose().as_bytes(), &body));
        }
        match self.http.send(request.body(body)).await {
            // Its words are not repeated: it may say what it was sent, and that is of people.
            Ok(reply) => self.http.judge(&reply, ""),
            Err(answer) => answer,
        }
    }
}

/// `sha256=` and 64 hex digits.
fn signature(key: &[u8], body: &[u8]) -> String {
    let mut text = "sha256=".to_owned();
    // A key of any length is taken.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) {
        mac.update(body);
        for byte in mac.finalize().into_bytes() {
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_signature_is_that_of_rfc_4231() {
        // Test case 2.
        assert_eq!(
            super::signature(b"Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
