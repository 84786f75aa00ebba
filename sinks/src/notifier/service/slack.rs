//! Slack's incoming webhooks. Source: <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>.
//!
//! They know no idempotency key: a message whose answer was lost is sent twice.

use std::time::Duration;

use reqwest::Url;
use serde_json::json;

use super::{Answer, http::Http};
use crate::{
    SinkError,
    notifier::{compose::Message, config::SlackConfig},
};

pub(in super::super) struct Slack {
    http: Http,
    url: Url,
}

impl Slack {
    pub(super) fn new(config: &SlackConfig, timeout: Duration) -> Result<Self, SinkError> {
        let url = Url::parse(config.url.expose())
            .map_err(|_| SinkError::Fatal(format!("notifier: {}: the URL cannot be used", config.name)))?;
        let secrets = vec![config.url.expose().to_owned(), url.path().trim_start_matches('/').to_owned()];
        Ok(Self { http: Http::new(timeout, secrets)?, url })
    }

    pub(super) async fn send(&self, message: &Message) -> Answer {
        // What a machine calls its programs is not to be formatted.
        let body = json!({ "text": escape(&message.text), "mrkdwn": false });
        let reply = match self.http.send(self.http.client.post(self.url.clone()).json(&body)).await {
            Ok(reply) => reply,
            Err(answer) => return answer,
        };
        match self.http.judge(&reply, &reply.body) {
            // Whoever stands before Slack may answer 200 for himself.
            Answer::Taken if reply.body.trim() != "ok" => Answer::later("answers 200, but not as Slack does"),
            answer => answer,
        }
    }
}

/// The three characters that have a meaning: names must not become links or mentions.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
