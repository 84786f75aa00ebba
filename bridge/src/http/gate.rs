//! What every request passes before its body is looked at, and how what it brings gets to Kafka.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use eventlog::NewRecord;
use schemas::translate::Form;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::body::{self, Packing};
use super::config::LimitsConfig;
use super::courier::{Outage, Outcome, Shipment};
use super::limits::{Rates, Room, Share};
use super::refusal::{LATER, Refusal, SOON};
use crate::intake::{Intake, Mint};
use crate::keys::{Key, Keys};
use crate::metrics::Metrics;

/// Header by which a sender names a request that it may send again.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest of these.
const MAX_IDEMPOTENCY_KEY: usize = 200;

/// What all requests share.
pub(super) struct Gate {
    pub(super) intake: Intake,
    pub(super) metrics: Metrics,
    pub(super) limits: LimitsConfig,
    keys: Keys,
    room: Room,
    rates: Rates,
    shipments: mpsc::Sender<Shipment>,
    outage: Outage,
    process: Uuid,
    requests: AtomicU64,
}

/// A body and the memory that is counted for it.
pub(super) struct Loaded {
    pub(super) bytes: Bytes,
    pub(super) share: Share,
}

impl Gate {
    pub(super) fn new(
        intake: Intake,
        limits: LimitsConfig,
        keys: Keys,
        shipments: mpsc::Sender<Shipment>,
        outage: Outage,
    ) -> Self {
        Self {
            intake,
            metrics: Metrics::new(),
            keys,
            room: Room::new(limits.bytes_in_flight.bytes()),
            rates: Rates::new(limits.requests_per_second, limits.burst),
            shipments,
            outage,
            process: Uuid::new_v4(),
            requests: AtomicU64::new(0),
            limits,
        }
    }

    /// The key that the request shows, if it is good and not too busy.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Arc<Key>, Refusal> {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let text = shown.and_then(|shown| {
            let (scheme, text) = shown.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| text.trim())
        });
        let Some(text) = text else {
            let error = "show a key: `Authorization: Bearer varta_…`";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "no_key", error));
        };
        // Not 401: the key may be good.
        let unread = || Refusal::unavailable("keys_unread", "the keys cannot be read");
        let set = self.keys.borrow().clone().ok_or_else(unread)?;
        let key = set.authenticate(text, now())?;
        self.rates
            .take(&key.id, Instant::now())
            .map_err(|wait| Refusal::busy("rate", "this key sends too many requests", wait))?;
        if self.outage.lasts() {
            return Err(Refusal::unavailable("kafka_away", "kafka does not answer"));
        }
        Ok(key)
    }

    /// Takes the body out and reads it. What is refused by its head alone is left.
    pub(super) async fn load(&self, parts: &Parts, body: &mut Option<Body>) -> Result<Loaded, Refusal> {
        let packing = packing(&parts.headers)?;
        let (limit, time) = (self.limits.body.bytes() as usize, self.limits.body_timeout);
        // The server has made sure that it is a number, if it is there.
        let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let declared: u64 = declared.and_then(|text| text.parse().ok()).unwrap_or(0);
        if declared > limit as u64 {
            return Err(body::BodyRefused::TooLarge.into());
        }
        // At once, so that requests that do not fit together do not each get half-way.
        let mut share = self.room.share();
        Self::reserve(&mut share, declared)?;
        let body = body.take().unwrap_or_default();
        let bytes = body::read(body, packing, declared as usize, limit, time, &mut share).await?;
        Ok(Loaded { bytes, share })
    }

    /// Counts more memory for what became of a body.
    pub(super) fn reserve(share: &mut Share, bytes: u64) -> Result<(), Refusal> {
        if share.grow_to(bytes) { Ok(()) } else { Err(body::BodyRefused::NoRoom.into()) }
    }

    /// Ends when Kafka has all records, or with the answer for the sender.
    pub(super) async fn deliver(&self, records: Vec<NewRecord>, share: Share) -> Result<(), Refusal> {
        if records.is_empty() {
            return Ok(());
        }
        let (answer, outcome) = oneshot::channel();
        let shipment = Shipment { records, answer, share, since: Instant::now() };
        self.shipments.try_send(shipment).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Refusal::busy("requests_in_flight", "too many requests wait for kafka", SOON)
            }
            mpsc::error::TrySendError::Closed(_) => Refusal::unavailable("stopping", "this server stops"),
        })?;
        match tokio::time::timeout(self.limits.kafka_timeout, outcome).await {
            Ok(Ok(Outcome::Stored)) => Ok(()),
            Ok(Ok(Outcome::Unavailable(error))) => {
                tracing::warn!(%error, "kafka did not take a request");
                Err(Refusal::unavailable("kafka_failed", "kafka did not take all of it"))
            }
            Ok(Ok(Outcome::Refused(error))) => {
                tracing::error!(%error, "kafka refuses a record of a request for good");
                let error = "kafka refuses one of its records for good; it may have the others";
                Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "kafka_refused", error))
            }
            Ok(Err(_)) => Err(Refusal::unavailable("stopping", "this server stops")),
            Err(_) => Err(Refusal::unavailable("kafka_slow", "kafka did not confirm in time").after(LATER)),
        }
    }

    /// Reads and forgets the rest of a request that is refused, so that its sender can hear the answer.
    pub(super) async fn dismiss(&self, headers: &HeaderMap, body: Body) {
        // Who asked first is waiting and has sent nothing.
        if !headers.contains_key(header::EXPECT) {
            body::discard(body, 2 * self.limits.body.bytes()).await;
        }
    }

    /// Root of the identifiers of a request's events. The same for the same body that is sent again by the same key
    /// under the same `Idempotency-Key`; another body under it must not be taken for a repetition.
    pub(super) fn mint(&self, key: &Key, headers: &HeaderMap, body: &[u8]) -> Result<Mint, Refusal> {
        let Some(name) = headers.get(IDEMPOTENCY_KEY) else {
            let message = self.requests.fetch_add(1, Ordering::Relaxed);
            return Ok(Mint { process: self.process, message });
        };
        if name.is_empty() || name.len() > MAX_IDEMPOTENCY_KEY {
            let error = format!("Idempotency-Key: expected 1 to {MAX_IDEMPOTENCY_KEY} bytes");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "idempotency_key", error));
        }
        let digest = Sha256::new().chain_update(&key.id).chain_update([0]).chain_update(name.as_bytes());
        let digest: [u8; 32] = digest.chain_update([0]).chain_update(body).finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Ok(Mint { process: uuid::Builder::from_custom_bytes(id).into_uuid(), message: 0 })
    }

    /// Bytes that all requests hold.
    pub(super) fn held(&self) -> u64 {
        self.room.held()
    }
}

/// How the events are put together, by the type of the body.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Ok(Form::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Form::Lines),
        _ => {
            let error = "Content-Type: expected application/json or application/x-ndjson";
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", error))
        }
    }
}

fn packing(headers: &HeaderMap) -> Result<Packing, Refusal> {
    let mut named = headers.get_all(header::CONTENT_ENCODING).iter();
    let packing = match named.next().map(|value| value.as_bytes().trim_ascii()) {
        None => Some(Packing::Plain),
        Some(name) if name.eq_ignore_ascii_case(b"identity") => Some(Packing::Plain),
        Some(name) if name.eq_ignore_ascii_case(b"gzip") => Some(Packing::Gzip),
        Some(_) => None,
    };
    packing.filter(|_| named.next().is_none()).ok_or_else(|| {
        let error = "Content-Encoding: expected gzip, or none";
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", error)
    })
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(runtime::clock::now_us()).unwrap_or_default()
}
