//! People are told, soon, once, and no more than they can read.
//!
//! ```text
//!  PostgreSQL sink ─ one transaction with the rows ─▶ notification_outbox
//!  dealer: filters ─▶ notification_deliveries, a queue for each channel
//!  channel: pace ─ compose ─▶ notification_messages ─ send ─▶ Telegram, e-mail, Slack, webhook ─ mark
//! ```
//!
//! **At least once.** A message is stored before it is sent and marked after the service has it; a notifier that dies
//! between the two leaves a lease that runs out, and the same message goes again under the same id. Webhooks get it as
//! idempotency key, mail as `Message-ID`; Telegram and Slack have no such thing.
//!
//! **A dead service delays only itself.** Each channel has its own queue, pace and task. All queues lie in PostgreSQL, so
//! memory does not grow with what waits. What a service refuses for good is marked *failed* with its words and counted.
//!
//! **A mailbox that cannot take mail for now** keeps nobody else from hearing, and misses nothing: what it did not get
//! waits in a queue of its own.
//!
//! **Nobody drowns.** [`pace`] says when a channel may speak, [`compose`] what it says of many things at once.

mod channel;
mod compose;
mod config;
mod dealer;
mod filter;
mod item;
mod line;
mod pace;
mod quiet;
mod service;
#[cfg(test)]
mod simulation;
mod store;
mod upkeep;

use std::sync::Arc;

pub(crate) use self::line::clean;
use self::{
    channel::{Spare, Speaker},
    config::{Channel, ChannelConfig as _},
    dealer::Dealer,
    service::Service,
};
pub use self::{
    config::{
        EmailConfig, MailTls, NotifierConfig, PaceConfig, QuietConfig, SlackConfig, TelegramConfig,
        WebhookConfig,
    },
    filter::Filter,
    item::Severity,
    upkeep::Standing,
};
use crate::{SinkError, postgres};
use futures::future::try_join_all;
use runtime::{health::Health, shutdown::Shutdown};

impl NotifierConfig {
    /// What the PostgreSQL sink is to write into the outbox; nothing when nobody is told.
    pub fn notify(&self) -> Option<postgres::Notify> {
        let lower = |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect();
        self.is_on().then(|| postgres::Notify {
            programs: lower(&self.programs),
            exclude_users: lower(&self.exclude_users),
            repeat: self.repeat,
            severity_id: self.severity.id(),
            closed: self.closed,
            updated: self.updated,
        })
    }

    /// All channels with their services.
    fn channels(&self) -> Result<Vec<(Channel, Service)>, SinkError> {
        let wrong = |name: &str, (what, error): (&str, String)| {
            SinkError::Fatal(format!("notifier: {name}: {what}: {error}"))
        };
        let mut channels = Vec::new();
        for of in &self.telegram {
            let channel = of.channel(self).map_err(|error| wrong(&of.name, error))?;
            channels.push((channel, Service::telegram(of, self.timeout)?));
        }
        for of in &self.email {
            let channel = of.channel(self).map_err(|error| wrong(&of.name, error))?;
            channels.push((channel, Service::email(of, self.timeout)?));
        }
        for of in &self.slack {
            let channel = of.channel(self).map_err(|error| wrong(&of.name, error))?;
            channels.push((channel, Service::slack(of, self.timeout)?));
        }
        for of in &self.webhook {
            let channel = of.channel(self).map_err(|error| wrong(&of.name, error))?;
            channels.push((channel, Service::webhook(of, self.timeout)?));
        }
        Ok(channels)
    }
}

/// Tells people until `shutdown`. Any number of processes may do so at once.
pub async fn run(config: NotifierConfig, health: Health, shutdown: Shutdown) -> Result<(), SinkError> {
    if !config.is_on() {
        return Ok(());
    }
    runtime::tls::install_crypto();
    let lines = config.lines().map_err(|error| SinkError::Fatal(format!("notifier: {error}")))?;
    let config = Arc::new(config);
    let (mut speakers, mut filters, mut dealt) = (Vec::new(), Vec::new(), Vec::new());
    let speaker = |channel: Channel, service: Service, spares: Vec<Spare>| Speaker {
        component: health.component(format!("notifier.{}", channel.name)),
        config: Arc::clone(&config),
        channel,
        service,
        lines: lines.clone(),
        dealt: Arc::default(),
        spares,
        is_spare: false,
    };
    for (channel, service) in config.channels()? {
        let mut spares = Vec::new();
        let email = config.email.iter().find(|email| email.name == channel.name);
        for (mailbox, email) in email.map(EmailConfig::spares).unwrap_or_default() {
            let alone = Channel { name: email.name.clone(), ..channel.clone() };
            let alone = speaker(alone, Service::email(&email, config.timeout)?, Vec::new());
            spares.push(Spare { mailbox, queue: email.name, deferred: Arc::clone(&alone.dealt) });
            speakers.push(Speaker { is_spare: true, ..alone }.run(shutdown.clone()));
        }
        filters.push((channel.name.clone(), channel.filter.clone()));
        let speaker = speaker(channel, service, spares);
        dealt.push(Arc::clone(&speaker.dealt));
        speakers.push(speaker.run(shutdown.clone()));
    }
    let dealer = Dealer {
        config: Arc::clone(&config),
        channels: filters,
        dealt,
        component: health.component("notifier"),
    };
    tokio::try_join!(dealer.run(shutdown), try_join_all(speakers))?;
    Ok(())
}

/// What became of one test message on one channel.
#[derive(Debug)]
pub struct Trial {
    /// The channel.
    pub channel: String,
    /// Its service.
    pub service: &'static str,
    /// Nothing if the service took it, else what it said.
    pub problem: Option<String>,
}

/// Sends one test message through each channel, past outbox, pace and quiet hours.
pub async fn try_out(config: &NotifierConfig) -> Result<Vec<Trial>, SinkError> {
    runtime::tls::install_crypto();
    let lines = config.lines().map_err(|error| SinkError::Fatal(format!("notifier: {error}")))?;
    let now = runtime::clock::now_us();
    let trials = config.channels()?.into_iter().map(|(channel, service)| {
        let lines = &lines;
        async move {
            let message = compose::trial(&channel.name, lines, now);
            let problem = match service.send(&message).await {
                service::Answer::Taken => None,
                service::Answer::TakenInPart(missed) => Some(service::words(&missed)),
                service::Answer::Refused(reason) | service::Answer::Later { reason, .. } => Some(reason),
            };
            Trial { channel: channel.name, service: service.kind(), problem }
        }
    });
    Ok(futures::future::join_all(trials).await)
}

/// How each channel that was ever used stands.
pub async fn standing(config: &NotifierConfig) -> Result<Vec<Standing>, SinkError> {
    upkeep::standing(&mut store::connect(config).await?).await
}

/// Tries again what a channel's service has refused, for a token that was wrong. How many messages.
pub async fn try_again(config: &NotifierConfig, channel: &str) -> Result<u64, SinkError> {
    upkeep::reopen(&mut store::connect(config).await?, channel).await
}
