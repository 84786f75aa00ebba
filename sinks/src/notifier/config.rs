//! What may be set for notifications.

mod services;

use std::time::Duration;

use runtime::config::{Check, Problems, Secret, key};
use serde::Deserialize;

pub(super) use self::services::ChannelConfig;
pub use self::services::{EmailConfig, MailTls, SlackConfig, TelegramConfig, WebhookConfig};
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

/// The key that is wrong, and what is wrong with it.
pub(super) type Wrong = (&'static str, String);

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

    fn check_each(&self, at: &str, list: &str, services: &[impl ChannelConfig], problems: &mut Problems) {
        for (index, of) in services.iter().enumerate() {
            let at = key(at, &format!("{list}[{index}]"));
            if let Err((what, error)) = of.channel(self) {
                problems.add(key(&at, what), error, None);
            }
            of.check(&at, problems);
        }
    }

    /// What every channel has; the error says what is wrong and with which key.
    fn channel(
        &self,
        name: &str,
        filter: &Filter,
        pace: &PaceConfig,
        quiet: Option<&QuietConfig>,
        limits: Limits,
    ) -> Result<Channel, Wrong> {
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
        self.check_each(at, "telegram", &self.telegram, problems);
        self.check_each(at, "slack", &self.slack, problems);
        self.check_each(at, "webhook", &self.webhook, problems);
        self.check_each(at, "email", &self.email, problems);
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
