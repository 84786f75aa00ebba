//! Telegram's Bot API. Source: <https://core.telegram.org/bots/api#making-requests>.
//!
//! `sendMessage` knows no idempotency key: a message whose answer was lost is sent twice.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Answer, http, http::Http};
use crate::{
    SinkError,
    notifier::{compose::Message, config::TelegramConfig, item::Severity},
};

pub(in super::super) struct Telegram {
    http: Http,
    url: String,
    chat: Value,
}

impl Telegram {
    pub(super) fn new(config: &TelegramConfig, timeout: Duration) -> Result<Self, SinkError> {
        let token = config.token.expose();
        Ok(Self {
            http: Http::new(timeout, vec![token.to_owned()])?,
            url: format!("{}/bot{token}/sendMessage", config.api.trim_end_matches('/')),
            chat: config.chat.parse::<i64>().map_or_else(|_| json!(config.chat), |number| json!(number)),
        })
    }

    pub(super) async fn send(&self, message: &Message) -> Answer {
        let body = json!({
            "chat_id": self.chat,
            "text": message.text,
            "link_preview_options": { "is_disabled": true },
            "disable_notification": message.severity < Severity::Medium,
        });
        let reply = match self.http.send(self.http.client.post(&self.url).json(&body)).await {
            Ok(reply) => reply,
            Err(answer) => return answer,
        };
        let said: Value = serde_json::from_str(&reply.body).unwrap_or(Value::Null);
        let words = said["description"].as_str().unwrap_or_default();
        match self.http.judge(&reply, words) {
            Answer::Later { reason, retry_after } => {
                let asked = said["parameters"]["retry_after"].as_u64().map(http::pause);
                Answer::Later { reason, retry_after: asked.or(retry_after) }
            }
            // Whoever stands before the API may answer 200 for himself.
            Answer::Taken if said["ok"] != Value::Bool(true) => {
                Answer::later("answers 200, but not as the Bot API does")
            }
            answer => answer,
        }
    }
}
