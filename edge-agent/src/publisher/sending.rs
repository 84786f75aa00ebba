//! Carries out what the window asks: reads the rows, composes the message, hands it to the client.

use std::time::Duration;

use rumqttc::{AsyncClient, PublishOptions, PublishProperties, QoS};
use schemas::mqtt;
use tokio::time::sleep;

use super::window::{Ask, MessageId};
use super::{Message, PublishError, Publisher};
use crate::outbox::{LaneRange, OutboxError, Place, ReadRequest, Row};

impl Publisher {
    pub(super) async fn send(&mut self, client: &AsyncClient, ask: Ask) -> Result<(), PublishError> {
        match ask {
            Ask::Fresh { lane, after, up_to, max_rows, array } => {
                let request = ReadRequest { lane, after, up_to, max_rows, max_bytes: self.read_size() };
                let Some(rows) = self.read(request).await? else {
                    return Ok(());
                };
                if rows.is_empty() {
                    self.window.exhausted(lane, up_to);
                }
                let mut left = rows.as_slice();
                while !left.is_empty() {
                    let message = if array {
                        self.composer.array(lane, left, |row| self.is_replayed(row, 0))
                    } else {
                        self.composer.single(lane, &left[0], self.is_replayed(&left[0], 0))
                    };
                    let (now_sent, rest) = left.split_at(message.rows);
                    let (Some(range), bytes) = (range_of(lane, now_sent), message.payload.len()) else {
                        break;
                    };
                    left = rest;
                    let id = self.window.sent(range, bytes, self.start.elapsed());
                    self.publish(client, message, id).await;
                    if array {
                        break;
                    }
                }
            }
            Ask::Again { range: asked, attempt } => {
                let Some(before) = asked.from.checked_sub(1) else {
                    return Ok(());
                };
                let request = ReadRequest {
                    lane: asked.lane,
                    after: Place { session: asked.session, seq: before },
                    up_to: Place { session: asked.session, seq: asked.to },
                    max_rows: self.parts.publisher.batch_rows,
                    max_bytes: self.read_size(),
                };
                let Some(rows) = self.read(request).await? else {
                    return Ok(());
                };
                if rows.is_empty() {
                    self.window.gone(asked);
                    return Ok(());
                }
                let message = match rows.as_slice() {
                    [row] => self.composer.single(asked.lane, row, true),
                    rows => self.composer.array(asked.lane, rows, |_| true),
                };
                let Some(range) = range_of(asked.lane, &rows[..message.rows]) else {
                    return Ok(());
                };
                tracing::info!(
                    lane = asked.lane.as_str(),
                    session = range.session,
                    from = range.from,
                    to = range.to,
                    attempt = attempt + 1,
                    "not confirmed in time, sending again"
                );
                let id = self.window.sent_again(asked, range, message.payload.len(), self.start.elapsed());
                self.publish(client, message, id).await;
            }
        }
        Ok(())
    }

    fn read_size(&self) -> usize {
        usize::try_from(self.parts.publisher.batch_size.bytes()).unwrap_or(mqtt::MAX_BATCH_BYTES)
    }

    /// `None` if the file could not be read this time.
    async fn read(&self, request: ReadRequest) -> Result<Option<Vec<Row>>, PublishError> {
        match self.parts.outbox.read(request).await {
            Ok(rows) => Ok(Some(rows)),
            Err(error) if matches!(*error, OutboxError::Closed) => Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "cannot read the outbox, trying again");
                sleep(Duration::from_secs(1)).await;
                Ok(None)
            }
        }
    }

    fn is_replayed(&self, row: &Row, attempt: u32) -> bool {
        let age = runtime::clock::now_us().saturating_sub(row.event_time);
        let old = i64::try_from(self.parts.publisher.replayed_after().as_micros()).unwrap_or(i64::MAX);
        attempt > 0 || row.place.session < self.session || age > old
    }

    async fn publish(&mut self, client: &AsyncClient, message: Message, id: MessageId) {
        runtime::failpoint::hit("agent.publish.before");
        let options = PublishOptions::new(QoS::AtLeastOnce).properties(sent_now());
        let Message { topic, payload, rows } = message;
        match client.publish(topic, payload, options).await {
            Ok(()) => self.queued.push_back(Some(id)),
            Err(error) => {
                tracing::error!(%error, rows, "the client refuses a message; it will be sent again later");
                self.window.acknowledged(id);
            }
        }
        runtime::failpoint::hit("agent.publish.after");
    }
}

fn range_of(lane: schemas::identity::Lane, rows: &[Row]) -> Option<LaneRange> {
    let (first, last) = (rows.first()?, rows.last()?);
    Some(LaneRange { lane, session: first.place.session, from: first.place.seq, to: last.place.seq })
}

pub(super) fn sent_now() -> PublishProperties {
    PublishProperties {
        user_properties: vec![(mqtt::SENT_AT.to_owned(), runtime::clock::now_us().to_string())],
        ..PublishProperties::default()
    }
}
