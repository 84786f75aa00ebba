//! The services by which people are told, and what each of them asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use lettre::message::Mailbox;
use runtime::config::{Check, Problems, Secret, key};
use serde::Deserialize;

use super::{Channel, NotifierConfig, PaceConfig, QuietConfig, Wrong};
use crate::notifier::{filter::Filter, pace::Limits};

/// A service in the configuration.
pub(in crate::notifier) trait ChannelConfig: Check {
    /// What every channel has; the error says what is wrong and with which key.
    fn channel(&self, all: &NotifierConfig) -> Result<Channel, Wrong>;
}

/// A Telegram chat.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelegramConfig {
    /// Name of the channel; what is not yet told is kept under it.
    pub name: String,
    /// The bot's token.
    pub token: Secret,
    /// Number of the chat (groups have negative ones) or `@name` of a channel.
    pub chat: String,
    /// The Bot API.
    #[serde(default = "telegram_api")]
    pub api: String,
    /// What is told.
    #[serde(default)]
    pub filter: Filter,
    /// How often.
    #[serde(default)]
    pub pace: PaceConfig,
    /// When not.
    #[serde(default)]
    pub quiet: Option<QuietConfig>,
}

fn telegram_api() -> String {
    "https://api.telegram.org".to_owned()
}

/// A Slack incoming webhook.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackConfig {
    /// Name of the channel; what is not yet told is kept under it.
    pub name: String,
    /// The webhook's URL, which is a secret.
    pub url: Secret,
    /// What is told.
    #[serde(default)]
    pub filter: Filter,
    /// How often.
    #[serde(default)]
    pub pace: PaceConfig,
    /// When not.
    #[serde(default)]
    pub quiet: Option<QuietConfig>,
}

/// Anything that takes JSON by HTTP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Name of the channel; what is not yet told is kept under it.
    pub name: String,
    /// Where to.
    pub url: Secret,
    /// Bearer token, if it asks for one.
    #[serde(default)]
    pub token: Option<Secret>,
    /// Key of the signature: the header `X-Varta-Signature` is then `sha256=` and the HMAC-SHA256 of the body in hex.
    #[serde(default)]
    pub key: Option<Secret>,
    /// What is told.
    #[serde(default)]
    pub filter: Filter,
    /// How often.
    #[serde(default)]
    pub pace: PaceConfig,
    /// When not.
    #[serde(default)]
    pub quiet: Option<QuietConfig>,
}

/// How the connection to the mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// TLS from the first byte, usually on port 465.
    Implicit,
    /// Upgraded before anything else is said, usually on port 587. A server that does not is refused.
    Starttls,
    /// Not at all.
    None,
}

/// A mail server and who gets mail by it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailConfig {
    /// Name of the channel; what is not yet told is kept under it.
    pub name: String,
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    #[serde(default = "starttls")]
    pub tls: MailTls,
    /// Certificates (PEM) that may sign the server's; without: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// User name.
    #[serde(default)]
    pub username: Option<String>,
    /// Password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Sender.
    pub from: String,
    /// Recipients.
    pub to: Vec<String>,
    /// What we call ourselves to the server.
    #[serde(default = "localhost")]
    pub hello: String,
    /// What is told.
    #[serde(default)]
    pub filter: Filter,
    /// How often.
    #[serde(default)]
    pub pace: PaceConfig,
    /// When not.
    #[serde(default)]
    pub quiet: Option<QuietConfig>,
}

const fn starttls() -> MailTls {
    MailTls::Starttls
}

fn localhost() -> String {
    "localhost".to_owned()
}

impl TelegramConfig {
    /// One message a second, twenty a minute in a group, as Telegram's FAQ for bots says. Source:
    /// <https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this>.
    pub(in crate::notifier) fn limits(&self) -> Limits {
        let is_group = self.chat.starts_with(['-', '@']);
        Limits { interval: Duration::from_millis(1050), per_minute: if is_group { 19 } else { 55 } }
    }
}

impl SlackConfig {
    /// One message a second. Source: <https://docs.slack.dev/apis/web-api/rate-limits/>.
    pub(in crate::notifier) const LIMITS: Limits =
        Limits { interval: Duration::from_millis(1050), per_minute: 55 };
}

impl WebhookConfig {
    /// Ours, for nobody has said anything.
    pub(in crate::notifier) const LIMITS: Limits =
        Limits { interval: Duration::from_millis(100), per_minute: 300 };
}

impl EmailConfig {
    /// Ours: what no server takes for a flood.
    pub(in crate::notifier) const LIMITS: Limits =
        Limits { interval: Duration::from_secs(1), per_minute: 20 };

    /// A channel for each mailbox, by its address, where mail goes to several: what one could not take for now is told by
    /// it, to that mailbox alone.
    pub(in crate::notifier) fn spares(&self) -> BTreeMap<String, Self> {
        // An address that is none is told when the service is made.
        let addresses = self.to.iter().filter_map(|to| Some(to.parse::<Mailbox>().ok()?.email.to_string()));
        let addresses: BTreeSet<String> = addresses.collect();
        if addresses.len() < 2 {
            return BTreeMap::new();
        }
        let spare = |address: String| {
            let name = format!("{}/{address}", self.name);
            (address.clone(), Self { name, to: vec![address], ..self.clone() })
        };
        addresses.into_iter().map(spare).collect()
    }
}

impl ChannelConfig for TelegramConfig {
    fn channel(&self, all: &NotifierConfig) -> Result<Channel, Wrong> {
        all.channel(&self.name, &self.filter, &self.pace, self.quiet.as_ref(), self.limits())
    }
}

impl ChannelConfig for SlackConfig {
    fn channel(&self, all: &NotifierConfig) -> Result<Channel, Wrong> {
        all.channel(&self.name, &self.filter, &self.pace, self.quiet.as_ref(), Self::LIMITS)
    }
}

impl ChannelConfig for WebhookConfig {
    fn channel(&self, all: &NotifierConfig) -> Result<Channel, Wrong> {
        all.channel(&self.name, &self.filter, &self.pace, self.quiet.as_ref(), Self::LIMITS)
    }
}

impl ChannelConfig for EmailConfig {
    fn channel(&self, all: &NotifierConfig) -> Result<Channel, Wrong> {
        all.channel(&self.name, &self.filter, &self.pace, self.quiet.as_ref(), Self::LIMITS)
    }
}

impl Check for TelegramConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        check_url(at, "api", &self.api, problems);
        let is_token = self.token.expose().split_once(':').is_some_and(|(bot, key)| {
            bot.chars().all(|c| c.is_ascii_digit())
                && !key.is_empty()
                && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        });
        if !is_token {
            problems.add(key(at, "token"), "is not a bot's token", Some("123456:ABC…".to_owned()));
        }
        if self.chat.parse::<i64>().is_err() && !self.chat.starts_with('@') {
            problems.add(key(at, "chat"), "is neither a number nor @name", None);
        }
    }
}

impl Check for SlackConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        check_url(at, "url", self.url.expose(), problems);
    }
}

impl Check for WebhookConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        check_url(at, "url", self.url.expose(), problems);
    }
}

impl Check for EmailConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        let is_address = |text: &str| text.parse::<lettre::message::Mailbox>().is_ok();
        if !is_address(&self.from) {
            problems.add(key(at, "from"), format!("{:?} is no address", self.from), None);
        }
        for (index, to) in self.to.iter().enumerate() {
            if !is_address(to) {
                problems.add(key(at, &format!("to[{index}]")), format!("{to:?} is no address"), None);
            }
        }
        if self.to.is_empty() {
            problems.add(key(at, "to"), "names nobody", None);
        }
        if let Some(ca) = &self.ca {
            problems.file(key(at, "ca"), ca);
        }
        if self.host.is_empty() || self.port == 0 {
            problems.add(key(at, "host"), "is no server", None);
        }
        if self.password.is_some() != self.username.is_some() {
            problems.add(key(at, "password"), "`username` and `password` belong together", None);
        }
        let is_here = matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        if self.password.is_some() && self.tls == MailTls::None && !is_here {
            problems.add(
                key(at, "tls"),
                "a password is not sent without TLS",
                Some("implicit or starttls".to_owned()),
            );
        }
    }
}

fn check_url(at: &str, what: &str, text: &str, problems: &mut Problems) {
    // The text may be a secret and is not repeated.
    let is_url =
        reqwest::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if !is_url {
        problems.add(key(at, what), "is not an http or https URL", None);
    }
}
