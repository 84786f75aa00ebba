//! What may be set for notifications.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use lettre::message::Mailbox;
use runtime::config::{Check, Problems, Secret, key};
use serde::Deserialize;

use super::{
    filter::Filter,
    item::Severity,
    line::{Lines, SPECIFICATION},
    pace::{Limits, Pace},
    quiet::Quiet,
};

/// Section `[sinks.notifier]`. The processes that run the PostgreSQL sink and those that run the notifier must read the
/// same one: the former write what is to be told, the latter tell it. Without a channel nothing is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifierConfig {
    /// Whether people are told at all.
    pub enabled: bool,
    /// The database of the PostgreSQL sink; without one that of `[sinks.postgres]`.
    pub url: Option<Secret>,
    /// Names of programs whose starts are told, whatever their case.
    pub programs: Vec<String>,
    /// Accounts whose program starts are not told, whatever their case: those of the system.
    pub exclude_users: Vec<String>,
    /// Starts of one program by one user on one machine within such a span of event time are told once. `0s`: each.
    #[serde(with = "humantime_serde")]
    pub repeat: Duration,
    /// Least severity of alerts that are kept for telling; channels may ask for more.
    pub severity: Severity,
    /// Whether people are told that a finding is over.
    pub closed: bool,
    /// Whether people are told that a finding goes on.
    pub updated: bool,
    /// Template of a program start.
    pub line: String,
    /// Time zone of times in messages and of quiet hours: an IANA name or an offset.
    pub zone: String,
    /// How often the outbox is looked at.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// Longest wait for a service's answer, and for the database's. When a notifier is killed while it sends, another takes
    /// up the message and its channel after this and five seconds.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long what was told is kept.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// Telegram chats.
    pub telegram: Vec<TelegramConfig>,
    /// E-mail.
    pub email: Vec<EmailConfig>,
    /// Slack channels by incoming webhooks.
    pub slack: Vec<SlackConfig>,
    /// Anything that takes JSON by HTTP.
    pub webhook: Vec<WebhookConfig>,
}

/// How often a channel speaks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaceConfig {
    /// Messages that may go one after the other [5].
    pub burst: Option<u32>,
    /// After these, one message in such a time, with everything that has come since [30s].
    #[serde(with = "humantime_serde")]
    pub digest_every: Option<Duration>,
    /// Items told in full in one message [5].
    pub lines: Option<usize>,
    /// Items in one message at most, those counted among them [10000].
    pub digest_rows: Option<u32>,
    /// Shortest time between two messages, if the service's own is another.
    #[serde(with = "humantime_serde")]
    pub interval: Option<Duration>,
    /// Messages in a minute at most, if the service's own is another.
    pub per_minute: Option<u32>,
}

/// Hours in which only what is urgent is told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietConfig {
    /// Begin, such as `22:00`.
    pub from: String,
    /// End, such as `07:00`; not after the begin: on the next day.
    pub to: String,
    /// Days on which they begin, such as `Mon`; empty: all.
    #[serde(default)]
    pub days: Vec<String>,
    /// Alerts at least as bad are told all the same.
    #[serde(default = "urgent")]
    pub passes: Severity,
}

const fn urgent() -> Severity {
    Severity::High
}

/// What every channel has.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    pub(super) name: String,
    pub(super) filter: Filter,
    pub(super) pace: Pace,
    pub(super) quiet: Option<Quiet>,
    pub(super) lines: usize,
    pub(super) digest_rows: u32,
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

impl Default for NotifierConfig {
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            enabled: true,
            url: None,
            // Yandex's browser calls itself browser.exe.
            programs: owned(&[
                "chrome.exe",
                "chrome",
                "google-chrome",
                "browser.exe",
                "yandex_browser",
                "yandex-browser",
                "telegram.exe",
                "telegram",
                "telegram-desktop",
                "explorer.exe",
                "explorer",
            ]),
            exclude_users: owned(&[
                "SYSTEM",
                "LOCAL SERVICE",
                "NETWORK SERVICE",
                "NT AUTHORITY\\SYSTEM",
                "NT AUTHORITY\\LOCAL SERVICE",
                "NT AUTHORITY\\NETWORK SERVICE",
                "daemon",
                "nobody",
            ]),
            repeat: Duration::from_mins(1),
            severity: Severity::Low,
            closed: true,
            updated: false,
            line: SPECIFICATION.to_owned(),
            zone: "+00:00".to_owned(),
            poll: Duration::from_millis(250),
            timeout: Duration::from_secs(15),
            retention: Duration::from_hours(30 * 24),
            telegram: Vec::new(),
            email: Vec::new(),
            slack: Vec::new(),
            webhook: Vec::new(),
        }
    }
}

impl NotifierConfig {
    /// Whether there is anybody to tell.
    pub fn is_on(&self) -> bool {
        self.enabled && !self.channel_names().is_empty()
    }

    /// Names of all channels.
    pub fn channel_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        names.extend(self.telegram.iter().map(|channel| channel.name.as_str()));
        names.extend(self.email.iter().map(|channel| channel.name.as_str()));
        names.extend(self.slack.iter().map(|channel| channel.name.as_str()));
        names.extend(self.webhook.iter().map(|channel| channel.name.as_str()));
        names
    }

    /// Names of all channels, those of single mailboxes among them.
    pub(super) fn queues(&self) -> Vec<String> {
        let spares = self.email.iter().flat_map(|email| email.spares().into_values().map(|spare| spare.name));
        self.channel_names().into_iter().map(str::to_owned).chain(spares).collect()
    }

    /// How lines are written.
    pub(super) fn lines(&self) -> Result<Lines, String> {
        Lines::parse(&self.line, &self.zone)
    }

    /// How long a message belongs to the notifier that claimed it.
    pub(super) fn lease(&self) -> Duration {
        self.timeout + Duration::from_secs(5)
    }

    /// What every channel has; the error says what is wrong and with which key.
    pub(super) fn channel(
        &self,
        name: &str,
        filter: &Filter,
        pace: &PaceConfig,
        quiet: Option<&QuietConfig>,
        limits: Limits,
    ) -> Result<Channel, (&'static str, String)> {
        filter.check(self.updated)?;
        let quiet = quiet
            .map(|quiet| Quiet::parse(&self.zone, &quiet.days, &quiet.from, &quiet.to, quiet.passes))
            .transpose()
            .map_err(|error| ("quiet", error))?;
        let per_minute = pace.per_minute.unwrap_or(limits.per_minute);
        let digest_rows = pace.digest_rows.unwrap_or(10_000);
        let (burst, lines) = (pace.burst.unwrap_or(5), pace.lines.unwrap_or(5));
        if per_minute == 0 || burst == 0 || lines == 0 || !(1..=100_000).contains(&digest_rows) {
            return Err(("pace", "numbers must be at least 1, digest_rows at most 100000".to_owned()));
        }
        if per_minute > 6000 {
            return Err(("pace.per_minute", "at most 6000".to_owned()));
        }
        Ok(Channel {
            name: name.to_owned(),
            filter: filter.clone(),
            pace: Pace {
                limits: Limits { interval: pace.interval.unwrap_or(limits.interval), per_minute },
                burst,
                digest_every: pace.digest_every.unwrap_or(Duration::from_secs(30)),
            },
            quiet,
            lines,
            digest_rows,
        })
    }

    fn check_url(at: &str, what: &str, text: &str, problems: &mut Problems) {
        // The text may be a secret and is not repeated.
        let is_url = reqwest::Url::parse(text)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !is_url {
            problems.add(key(at, what), "is not an http or https URL", None);
        }
    }
}

impl TelegramConfig {
    /// One message a second, twenty a minute in a group, as Telegram's FAQ for bots says. Source:
    /// <https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this>.
    pub(super) fn limits(&self) -> Limits {
        let is_group = self.chat.starts_with(['-', '@']);
        Limits { interval: Duration::from_millis(1050), per_minute: if is_group { 19 } else { 55 } }
    }
}

impl SlackConfig {
    /// One message a second. Source: <https://docs.slack.dev/apis/web-api/rate-limits/>.
    pub(super) const LIMITS: Limits = Limits { interval: Duration::from_millis(1050), per_minute: 55 };
}

impl WebhookConfig {
    /// Ours, for nobody has said anything.
    pub(super) const LIMITS: Limits = Limits { interval: Duration::from_millis(100), per_minute: 300 };
}

impl EmailConfig {
    /// Ours: what no server takes for a flood.
    pub(super) const LIMITS: Limits = Limits { interval: Duration::from_secs(1), per_minute: 20 };

    /// A channel for each mailbox, by its address, where mail goes to several: what one could not take for now is told by
    /// it, to that mailbox alone.
    pub(super) fn spares(&self) -> BTreeMap<String, Self> {
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

impl Check for NotifierConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        if let Err(error) = Lines::parse(&self.line, "+00:00") {
            problems.add(key(at, "line"), error, None);
        }
        if let Err(error) = Lines::parse("", &self.zone) {
            problems.add(key(at, "zone"), error, Some("Europe/Kyiv, +02:00".to_owned()));
        }
        if self.poll < Duration::from_millis(10) || self.poll > Duration::from_secs(10) {
            problems.add(key(at, "poll"), "must be between 10 ms and 10 s", None);
        }
        if self.timeout < Duration::from_millis(100) || self.timeout > Duration::from_mins(5) {
            problems.add(key(at, "timeout"), "must be between 100 ms and 5 min", None);
        }
        let names = self.channel_names();
        for (index, name) in names.iter().enumerate() {
            let is_name = !name.is_empty()
                && name.len() <= 64
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !is_name {
                problems.add(
                    key(at, &format!("{name:?}")),
                    "cannot name a channel",
                    Some("letters, digits, - _ .".to_owned()),
                );
            }
            if names[..index].contains(name) {
                problems.add(key(at, &format!("{name:?}")), "names two channels", None);
            }
        }
        let mut common = |list: &str, index: usize, outcome: Result<Channel, (&'static str, String)>| {
            if let Err((what, error)) = outcome {
                problems.add(key(at, &format!("{list}[{index}].{what}")), error, None);
            }
        };
        for (index, of) in self.telegram.iter().enumerate() {
            let channel = self.channel(&of.name, &of.filter, &of.pace, of.quiet.as_ref(), of.limits());
            common("telegram", index, channel);
        }
        for (index, of) in self.slack.iter().enumerate() {
            let limits = SlackConfig::LIMITS;
            common("slack", index, self.channel(&of.name, &of.filter, &of.pace, of.quiet.as_ref(), limits));
        }
        for (index, of) in self.webhook.iter().enumerate() {
            let limits = WebhookConfig::LIMITS;
            common("webhook", index, self.channel(&of.name, &of.filter, &of.pace, of.quiet.as_ref(), limits));
        }
        for (index, of) in self.email.iter().enumerate() {
            let limits = EmailConfig::LIMITS;
            common("email", index, self.channel(&of.name, &of.filter, &of.pace, of.quiet.as_ref(), limits));
        }
        for (index, of) in self.telegram.iter().enumerate() {
            let at = key(at, &format!("telegram[{index}]"));
            Self::check_url(&at, "api", &of.api, problems);
            let is_token = of.token.expose().split_once(':').is_some_and(|(bot, key)| {
                bot.chars().all(|c| c.is_ascii_digit())
                    && !key.is_empty()
                    && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
            });
            if !is_token {
                problems.add(key(&at, "token"), "is not a bot's token", Some("123456:ABC…".to_owned()));
            }
            if of.chat.parse::<i64>().is_err() && !of.chat.starts_with('@') {
                problems.add(key(&at, "chat"), "is neither a number nor @name", None);
            }
        }
        for (index, of) in self.slack.iter().enumerate() {
            Self::check_url(&key(at, &format!("slack[{index}]")), "url", of.url.expose(), problems);
        }
        for (index, of) in self.webhook.iter().enumerate() {
            Self::check_url(&key(at, &format!("webhook[{index}]")), "url", of.url.expose(), problems);
        }
        for (index, of) in self.email.iter().enumerate() {
            of.check(&key(at, &format!("email[{index}]")), problems);
        }
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

#[cfg(test)]
mod tests {
    use runtime::config::load;

    use super::*;

    #[test]
    fn nobody_is_told_by_default_and_the_defaults_are_right() {
        let config = load::<NotifierConfig>("", "test", &|_| None).unwrap();
        assert!(config.enabled && !config.is_on());
    }

    #[test]
    fn all_problems_are_named_at_once_and_no_secret_is_repeated() {
        let text = r#"
            line = "{who}"
            zone = "Mars"
            poll = "0s"
            [[telegram]]
            name = "a b"
            token = "hunter2"
            chat = "somewhere"
            api = "nowhere"
            quiet = { from = "25:00", to = "07:00" }
            [[slack]]
            name = "twice"
            url = "hunter2"
            pace = { burst = 0 }
            [[webhook]]
            name = "twice"
            url = "ftp://hunter2"
            [[email]]
            name = "mail"
            host = "mail.example.com"
            port = 25
            tls = "none"
            username = "u"
            password = "hunter2"
            from = "nobody"
            to = ["x"]
        "#;
        let problems = load::<NotifierConfig>(text, "test", &|_| None).unwrap_err();
        let said = problems.to_string();
        for place in [
            "line",
            "zone",
            "poll",
            "\"a b\"",
            "telegram[0].token",
            "telegram[0].chat",
            "telegram[0].api",
            "telegram[0].quiet",
            "slack[0].url",
            "slack[0].pace",
            "webhook[0].url",
            "email[0].tls",
            "email[0].from",
            "email[0].to[0]",
        ] {
            assert!(said.contains(place), "{place} is missing in:\n{said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
    }

    #[test]
    fn a_filter_that_nothing_could_pass_is_refused() {
        let load = |first: &str, filter: &str| {
            let text =
                format!("{first}\n[[webhook]]\nname = \"w\"\nurl = \"http://x/\"\nfilter = {{ {filter} }}");
            load::<NotifierConfig>(&text, "test", &|_| None)
        };
        let problems = load("", "count = 10").unwrap_err();
        assert_eq!(problems.iter().next().unwrap().at, "webhook[0].filter.count");
        assert!(load("updated = true", "count = 10").is_ok());
        assert!(load("", "count = 1").is_ok() && load("", "count = 10, alerts = false").is_ok());
    }

    #[test]
    fn a_group_of_telegram_is_slower_than_a_chat() {
        let telegram = |chat: &str| {
            let text = format!(
                "[[telegram]]\nname = \"t\"\ntoken = \"1:a\"\nchat = \"{chat}\"\n[telegram.filter]\nseverity = \"high\""
            );
            load::<NotifierConfig>(&text, "test", &|_| None).unwrap().telegram[0].clone()
        };
        assert!(telegram("-100").limits().per_minute < 20 && telegram("5").limits().per_minute > 20);
        assert_eq!(telegram("5").filter.severity, Severity::High);
    }
}
