//! The services that carry messages, alike: a message goes in, an [`Answer`] comes out, nothing ever fails otherwise.

mod email;
mod http;
#[cfg(test)]
mod servers;
mod slack;
mod smtp_stream;
mod telegram;
#[cfg(test)]
mod tests;
mod webhook;

use std::time::Duration;

pub(super) use self::http::LONGEST_BLOCK;
use self::{email::Email, slack::Slack, telegram::Telegram, webhook::Webhook};
use super::{
    compose::Message,
    config::{EmailConfig, SlackConfig, TelegramConfig, WebhookConfig},
};
use crate::SinkError;

/// What a service made of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has it.
    Taken,
    /// It has it, but not for these. Whoever has it must not get it again.
    TakenInPart(Vec<Missed>),
    /// Never: what is wrong with the message, or with what the service knows of us.
    Refused(String),
    /// Not now: away, busy, or it could not be heard whether it has it.
    Later { reason: String, retry_after: Option<Duration> },
}

/// A mailbox that did not get a message which others have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missed {
    /// Its address.
    pub(super) mailbox: String,
    /// The server's words.
    pub(super) reason: String,
    /// Whether it never will; else it may later.
    pub(super) is_for_good: bool,
}

/// Who missed a message and why, in one line.
pub(super) fn words<'a>(missed: impl IntoIterator<Item = &'a Missed>) -> String {
    let one = |missed: &Missed| format!("{}: {}", missed.mailbox, missed.reason);
    let all: Vec<String> = missed.into_iter().map(one).collect();
    super::line::clean(&all.join("; "), 600)
}

impl Answer {
    fn later(reason: impl Into<String>) -> Self {
        Self::Later { reason: reason.into(), retry_after: None }
    }
}

/// One of them, ready to be used; nothing is connected before a message goes.
pub(super) enum Service {
    Telegram(Telegram),
    Email(Box<Email>),
    Slack(Slack),
    Webhook(Webhook),
}

impl Service {
    pub(super) fn telegram(config: &TelegramConfig, timeout: Duration) -> Result<Self, SinkError> {
        Ok(Self::Telegram(Telegram::new(config, timeout)?))
    }

    pub(super) fn email(config: &EmailConfig, timeout: Duration) -> Result<Self, SinkError> {
        Ok(Self::Email(Box::new(Email::new(config, timeout)?)))
    }

    pub(super) fn slack(config: &SlackConfig, timeout: Duration) -> Result<Self, SinkError> {
        Ok(Self::Slack(Slack::new(config, timeout)?))
    }

    pub(super) fn webhook(config: &WebhookConfig, timeout: Duration) -> Result<Self, SinkError> {
        Ok(Self::Webhook(Webhook::new(config, timeout)?))
    }

    /// Its kind, for people and metrics.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Telegram(_) => "telegram",
            Self::Email(_) => "email",
            Self::Slack(_) => "slack",
            Self::Webhook(_) => "webhook",
        }
    }

    /// Characters that it takes in one message, as [`super::compose::Space`] counts them; a little less.
    pub(super) fn characters(&self) -> usize {
        match self {
            // Telegram: 4096 UTF-16 units. Source: <https://core.telegram.org/bots/api#sendmessage>.
            // Slack cuts longer ones far later, and advises 4,000.
            // Source: <https://docs.slack.dev/reference/methods/chat.postMessage>.
            Self::Telegram(_) | Self::Slack(_) => 3500,
            Self::Email(_) | Self::Webhook(_) => 16_000,
        }
    }

    /// Sends it. Ends within the timeout.
    pub(super) async fn send(&self, message: &Message) -> Answer {
        match self {
            Self::Telegram(service) => service.send(message).await,
            Self::Email(service) => service.send(message).await,
            Self::Slack(service) => service.send(message).await,
            Self::Webhook(service) => service.send(message).await,
        }
    }
}
