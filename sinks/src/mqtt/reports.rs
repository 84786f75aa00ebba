//! Reports on the bus: `reports/fleet/{kind}`, `reports/agent/{agent_id}/{kind}`, `reports/user/{name}/{kind}`, QoS 1, JSON.
//!
//! The broker keeps the newest period of each topic for whoever subscribes later. An older period that was computed again,
//! because an agent brought what it had seen long ago, passes by those who listen and is not kept.
//!
//! At least once: the table `reports` says of each report which version the broker has acknowledged, and that is written
//! after the acknowledgement. One process publishes at a time, by a lock of the transaction that reads and marks; another
//! version that is computed meanwhile differs from what is marked and is published next.
//!
//! A topic that the broker refuses keeps back no other: it is left alone for a while ([`super::aside`]), and what was
//! acknowledged beside it is marked at once.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, NaiveDate, Utc};
use runtime::{backoff::Backoff, failpoint, fate::Fate, health::Health, shutdown::Shutdown};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::{
    aside::{Aside, Topic},
    config::{MqttConfig, Scope},
    payload,
    publisher::{Message, Publisher},
    refusal::{Failed, Verdict},
};
use crate::{
    SinkError,
    postgres::{PostgresConfig, answered, connect_migrated, failed},
};

/// Reports that are published in one transaction.
const ROUND: usize = 20;
/// Held by the process that publishes; any number that nothing else uses.
const LOCK: i64 = 0x7661_7262_7573;

/// Which report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    topic: Topic,
    period_start: NaiveDate,
}

/// A version of a report that the broker has not acknowledged.
struct Report {
    id: Id,
    computed_at: DateTime<Utc>,
    is_newest: bool,
    body: Value,
}

/// What the broker said of messages.
#[derive(Default)]
struct Answer {
    /// Of the first ones, in their order.
    verdicts: Vec<Verdict>,
    /// Why it said nothing of some of the others, or that these must wait.
    failure: Option<SinkError>,
}

pub(super) struct Reports {
    config: MqttConfig,
    postgres: PostgresConfig,
    connection: Option<PgConnection>,
    publisher: Option<Publisher>,
    /// Given to the broker, and not known to be marked: another process may have published a newer version meanwhile,
    /// which ours has then replaced.
    doubtful: BTreeSet<Id>,
    aside: Aside,
    /// In this pass over the table reports up to here are not looked at again: some of them were refused and there is no
    /// room to remember their topics.
    passed: Option<Id>,
}

impl Reports {
    pub(super) fn new(config: MqttConfig, postgres: PostgresConfig) -> Self {
        Self {
            config,
            postgres,
            connection: None,
            publisher: None,
            doubtful: BTreeSet::new(),
            aside: Aside::default(),
            passed: None,
        }
    }

    /// Publishes what is not on the bus, until `shutdown` or a fatal error. A database or broker that is away is waited for.
    pub(super) async fn run(mut self, health: Health, shutdown: Shutdown) -> Result<(), SinkError> {
        if self.config.reports.is_empty() || !self.postgres.enabled {
            return Ok(());
        }
        let component = health.component("mqtt.reports");
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        // what was told last; nothing is told twice in a row
        let mut told = String::new();
        while !shutdown.is_requested() {
            let limit = 10 * self.postgres.timeout + self.config.timeout;
            let outcome = tokio::select! {
                outcome = answered(limit, self.round()) => outcome,
                () = shutdown.wait() => return Ok(()),
            };
            let pause = match outcome {
                Ok(true) => Duration::ZERO,
                Ok(false) => {
                    backoff.reset();
                    told.clear();
                    self.aside.tell(&component);
                    self.config.reports_every
                }
                Err(error) if error.fate() == Fate::Transient => {
                    // Their state is not known.
                    (self.connection, self.publisher) = (None, None);
                    let why = error.to_string();
                    component.waiting(&why);
                    if told != why {
                        tracing::warn!(%error, "reports are not on the bus yet");
                        told = why;
                    }
                    backoff.next_delay()
                }
                Err(error) => {
                    component.failed(error.to_string());
                    return Err(error);
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.wait() => {}
            }
        }
        Ok(())
    }

    /// Publishes some of what waits; nothing while another process publishes. True: more may wait.
    async fn round(&mut self) -> Result<bool, SinkError> {
        let mut connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            connect_migrated(&self.postgres, "varta-mqtt-reports").await?
        };
        let mut transaction = connection.begin().await.map_err(failed)?;
        let is_ours: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
        if !is_ours {
            transaction.commit().await.map_err(failed)?;
            self.connection = Some(connection);
            return Ok(false);
        }
        for id in &self.doubtful {
            mark(&mut transaction, id, None).await?;
        }
        let now = Instant::now();
        let (scopes, passed) = (&self.config.reports, self.passed.as_ref());
        let reports = waiting(&mut transaction, scopes, &self.aside.at(now), passed).await?;
        let messages: Vec<Message> = reports.iter().map(|report| self.message(report)).collect();
        // From here on they may be on the bus, whatever becomes of the transaction.
        self.doubtful.extend(reports.iter().map(|report| report.id.clone()));
        let Answer { verdicts, failure } = self.publish(&messages).await?;
        failpoint::hit("mqtt.reports_after_publish");
        let more_may_wait = self.judge(&reports, &verdicts, now);
        let mut published = 0;
        for (report, verdict) in reports.iter().zip(&verdicts) {
            if *verdict == Verdict::Taken {
                mark(&mut transaction, &report.id, Some(report.computed_at)).await?;
                published += 1;
            }
        }
        transaction.commit().await.map_err(failed)?;
        metrics::counter!("varta_sinks_mqtt_reports_total").increment(published);
        self.doubtful = unclear(&reports, &verdicts);
        self.connection = Some(connection);
        failure.map_or(Ok(more_may_wait), Err)
    }

    /// Learns from what the broker said of reports that waited at `now`. True: more may wait.
    fn judge(&mut self, reports: &[Report], verdicts: &[Verdict], now: Instant) -> bool {
        let more_may_wait = reports.len() == ROUND;
        if !more_may_wait && self.passed.is_none() {
            let given: BTreeSet<&Topic> = reports.iter().map(|report| &report.id.topic).collect();
            self.aside.forget_all_but(&given, now);
        }
        let topics = reports.iter().map(|report| &report.id.topic);
        let are_remembered = self.aside.judge(topics.zip(verdicts), now);
        if !more_may_wait {
            // The next pass begins with the oldest.
            self.passed = None;
            return false;
        }
        if !are_remembered {
            self.passed = reports.last().map(|report| report.id.clone());
        }
        true
    }

    fn message(&self, report: &Report) -> Message {
        let with_people = self.config.reports.contains(&Scope::User);
        Message {
            topic: report.id.topic.name(),
            payload: payload::report(
                report.body.clone(),
                report.computed_at,
                with_people,
                self.config.max_payload.bytes() as usize,
            ),
            is_retained: report.is_newest,
        }
    }

    /// Fails when the broker has neither taken nor refused any.
    async fn publish(&mut self, messages: &[Message]) -> Result<Answer, SinkError> {
        if messages.is_empty() {
            return Ok(Answer::default());
        }
        let mut publisher = match self.publisher.take() {
            Some(publisher) if !publisher.has_ended() => publisher,
            _ => Publisher::start(&self.config, format!("{}-reports", self.config.client_id))?,
        };
        let mut acknowledged = 0;
        let publishing = publisher.publish(messages, || acknowledged += 1);
        let outcome = tokio::time::timeout(self.config.timeout, publishing).await;
        let mut verdicts = vec![Verdict::Taken; acknowledged];
        let reason = match outcome {
            Ok(Ok(())) => {
                self.publisher = Some(publisher);
                None
            }
            Ok(Err(Failed::Refused(of_the_next))) => {
                self.publisher = Some(publisher);
                verdicts.extend(of_the_next);
                verdicts.iter().find_map(Verdict::why_later)
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("it acknowledges nothing".to_owned()),
        };
        match reason.map(|why| SinkError::unavailable(self.config.broker(), why)) {
            Some(error) if verdicts.is_empty() => Err(error),
            failure => Ok(Answer { verdicts, failure }),
        }
    }
}

/// Reports that may be on the bus or not: the broker has neither taken nor refused them.
fn unclear(reports: &[Report], verdicts: &[Verdict]) -> BTreeSet<Id> {
    let is_unclear = |at: usize| matches!(verdicts.get(at), None | Some(Verdict::Later(_)));
    let those = reports.iter().enumerate().filter(|(at, _)| is_unclear(*at));
    those.map(|(_, report)| report.id.clone()).collect()
}

/// The oldest periods first, so that the newest of a topic is published last. Without those whose topics are aside, and
/// behind `passed`.
async fn waiting(
    connection: &mut PgConnection,
    scopes: &[Scope],
    aside: &[&Topic],
    passed: Option<&Id>,
) -> Result<Vec<Report>, SinkError> {
    let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    let aside_scopes: Vec<&str> = aside.iter().map(|topic| topic.scope.as_str()).collect();
    let aside_keys: Vec<&str> = aside.iter().map(|topic| topic.key.as_str()).collect();
    let aside_kinds: Vec<&str> = aside.iter().map(|topic| topic.kind.as_str()).collect();
    // `not in`: PostgreSQL hashes a subquery that names nothing outside, however short it takes the lists to be.
    let rows = sqlx::query(
        "select r.kind, r.period_start, r.scope, r.key, r.computed_at, r.body, not exists \
         (select from reports n where n.kind = r.kind and n.scope = r.scope and n.key = r.key \
         and n.period_start > r.period_start) as is_newest \
         from reports r where r.on_bus is distinct from r.computed_at and r.scope = any($1) \
         and (r.scope, r.key, r.kind) not in (select * from unnest($2::text[], $3::text[], $4::text[])) \
         and ($5::date is null or (r.period_start, r.kind, r.scope, r.key) > ($5, $6, $7, $8)) \
         order by r.period_start, r.kind, r.scope, r.key limit $9",
    )
    .bind(scopes)
    .bind(aside_scopes)
    .bind(aside_keys)
    .bind(aside_kinds)
    .bind(passed.map(|id| id.period_start))
    .bind(passed.map(|id| id.topic.kind.as_str()))
    .bind(passed.map(|id| id.topic.scope.as_str()))
    .bind(passed.map(|id| id.topic.key.as_str()))
    .bind(ROUND as i64)
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let report = |row: &sqlx::postgres::PgRow| {
        Ok(Report {
            id: Id {
                topic: Topic { kind: row.try_get(0)?, scope: row.try_get(2)?, key: row.try_get(3)? },
                period_start: row.try_get(1)?,
            },
            computed_at: row.try_get(4)?,
            body: row.try_get(5)?,
            is_newest: row.try_get(6)?,
        })
    };
    rows.iter().map(report).collect::<Result<_, sqlx::Error>>().map_err(failed)
}

async fn mark(
    connection: &mut PgConnection,
    id: &Id,
    on_bus: Option<DateTime<Utc>>,
) -> Result<(), SinkError> {
    sqlx::query(
        "update reports set on_bus = $5 where kind = $1 and period_start = $2 and scope = $3 and key = $4",
    )
    .bind(&id.topic.kind)
    .bind(id.period_start)
    .bind(&id.topic.scope)
    .bind(&id.topic.key)
    .bind(on_bus)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mqtt::{
        aside,
        refusal::Verdict::{Taken, Unauthorized},
        tests::{Broker, NOT_AUTHORIZED, QUOTA_EXCEEDED},
    };

    /// A broker that forbids one topic and has had enough of another.
    async fn broker() -> Broker {
        let mood = |payload: &str| match payload {
            payload if payload.contains("barred") => NOT_AUTHORIZED,
            payload if payload.contains("enough") => QUOTA_EXCEEDED,
            _ => 0,
        };
        Broker::start(mood, 1 << 20).await
    }

    fn reports(port: u16) -> Reports {
        runtime::tls::install_crypto();
        Reports::new(MqttConfig { port, ..MqttConfig::default() }, PostgresConfig::default())
    }

    fn report(key: &str) -> Report {
        let (scope, kind) = ("agent".to_owned(), "day".to_owned());
        Report {
            id: Id {
                topic: Topic { scope, key: key.to_owned(), kind },
                period_start: NaiveDate::from_ymd_opt(2026, 3, 2).unwrap(),
            },
            computed_at: DateTime::from_timestamp(1_772_500_000, 0).unwrap(),
            is_newest: true,
            body: json!({ "key": key }),
        }
    }

    fn all(keys: &[&str]) -> Vec<Report> {
        keys.iter().map(|key| report(key)).collect()
    }

    fn keys<'a>(ids: impl IntoIterator<Item = &'a Id>) -> Vec<&'a str> {
        ids.into_iter().map(|id| id.topic.key.as_str()).collect()
    }

    async fn publish(reports: &mut Reports, those: &[Report]) -> Result<Answer, SinkError> {
        let messages: Vec<Message> = those.iter().map(|report| reports.message(report)).collect();
        reports.publish(&messages).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_taken_beside_a_forbidden_topic_is_known_and_goes_once() {
        let broker = broker().await;
        let mut reports = reports(broker.port);
        let those = all(&["pc-1", "barred", "pc-2", "barred", "pc-3"]);
        let now = Instant::now();
        let answer = publish(&mut reports, &those).await.unwrap();
        assert_eq!(answer.verdicts, [Taken, Unauthorized, Taken, Unauthorized, Taken]);
        assert!(answer.failure.is_none());
        assert!(unclear(&those, &answer.verdicts).is_empty());
        assert!(!reports.judge(&those, &answer.verdicts, now));
        assert_eq!(reports.aside.at(now), [&those[1].id.topic]);
        // The connection goes on.
        let answer = publish(&mut reports, &all(&["pc-4"])).await.unwrap();
        assert_eq!(answer.verdicts, [Taken]);
        let took: Vec<Value> = broker.took().iter().map(|body| body["key"].clone()).collect();
        assert_eq!(took, ["pc-1", "pc-2", "pc-3", "pc-4"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_must_wait_is_neither_taken_nor_refused() {
        let broker = broker().await;
        let mut reports = reports(broker.port);
        let those = all(&["pc-1", "barred", "enough", "pc-2"]);
        let answer = publish(&mut reports, &those).await.unwrap();
        assert_eq!(answer.verdicts.len(), 4);
        assert!(answer.failure.is_some_and(|error| error.to_string().contains("Quota")));
        assert_eq!(keys(&unclear(&those, &answer.verdicts)), ["enough"]);

        let those = all(&["pc-3", "enough", "pc-4"]);
        let answer = publish(&mut reports, &those).await.unwrap();
        assert_eq!(answer.verdicts, [Taken]);
        assert!(answer.failure.is_some_and(|error| error.fate() == Fate::Transient));
        assert_eq!(
            keys(&unclear(&those, &answer.verdicts)),
            ["enough", "pc-4"],
            "nothing was heard of the last"
        );

        assert!(publish(&mut reports, &all(&["enough"])).await.is_err());
    }

    #[test]
    fn what_cannot_be_remembered_is_passed_by_until_the_next_pass() {
        let (mut reports, now) = (reports(1), Instant::now());
        let forbidden = vec![Unauthorized; ROUND];
        for n in 0..aside::MOST {
            let topic = report(&n.to_string()).id.topic;
            assert!(reports.aside.judge([(&topic, &Unauthorized)], now));
        }
        let beyond: Vec<Report> = (0..ROUND).map(|n| report(&format!("beyond {n}"))).collect();
        assert!(reports.judge(&beyond, &forbidden, now));
        assert_eq!(reports.passed, Some(beyond[ROUND - 1].id.clone()));
        let known: Vec<Report> = (0..ROUND).map(|n| report(&n.to_string())).collect();
        assert!(reports.judge(&known, &forbidden, now));
        assert_eq!(reports.passed, Some(beyond[ROUND - 1].id.clone()), "it does not go back");
        assert!(!reports.judge(&[], &[], now));
        assert_eq!(reports.passed, None);
    }
}
