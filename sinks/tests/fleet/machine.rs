//! A machine that repeats a recording from a place of its own.
//!
//! No two machines and no two passes through the recording are alike: levels (memory, disk) begin elsewhere and go on by
//! the recorded steps, loads and rates are the recorded ones times a factor of the machine and the pass. Times are those
//! of a scheduler that wakes within a tenth of a millisecond; metrics travel in a message each, samples of
//! programs together.

use std::fmt::Write as _;

use bytes::Bytes;
use eventlog::registry::SchemaIds;
use schemas::event::{HostMetrics, Payload, ProcessSample};
use schemas::family::Family;
use schemas::record::RecordKind;
use schemas::translate::{Context, Translator};
use schemas::wire;

use super::recording::{Recording, Seen};

/// Numbers that look like chance and are the same each time.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as i64 % limit.max(1)
    }

    /// From a half to one and a half.
    fn factor(&mut self) -> f64 {
        0.5 + self.below(1001) as f64 / 1000.0
    }
}

/// Turns JSON of events into framed Avro, as the bridge does.
#[derive(Debug)]
pub(crate) struct Encoder {
    translator: Translator,
    ids: SchemaIds,
}

impl Encoder {
    pub(crate) fn new(ids: SchemaIds) -> Self {
        Self { translator: Translator::new(), ids }
    }

    fn encode(&self, agent: &str, json: String, received_at: i64, sent_at: i64) -> (Family, Bytes) {
        let mut mint = String::new;
        let context = Context {
            topic_agent: agent,
            topic_event_type: None,
            received_at,
            sent_at: Some(sent_at),
            mint: &mut mint,
        };
        let row = self.translator.single(&Bytes::from(json), context).unwrap();
        let mut value = Vec::with_capacity(row.datum.len() + wire::PREFIX);
        wire::frame(self.ids.id(RecordKind::Family(row.family)), &row.datum, &mut value);
        (row.family, value.into())
    }
}

/// An event in the log.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) family: Family,
    pub(crate) value: Bytes,
    /// µs.
    pub(crate) received_at: i64,
}

/// One machine of a fleet.
#[derive(Debug)]
pub(crate) struct Machine {
    id: String,
    host: String,
    session: i64,
    /// Next number of each lane: normal, bulk.
    next: [i64; 2],
    dice: Dice,
    /// Places in the recording: looks, events.
    at: [usize; 2],
    memory: i64,
    memory_total: i64,
    disk: i64,
    /// Of the machine, and of this pass.
    factors: [f64; 2],
    /// How far its clock is from the bridge's, in µs.
    skew: i64,
    /// Added to what processes were called.
    pids: i64,
    last: Option<i64>,
}

impl Machine {
    pub(crate) fn new(number: usize, recording: &Recording, session: i64) -> Self {
        let mut dice = Dice(number as u64 * 7919 + 1);
        let id = uuid::Uuid::from_u64_pair((number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15), 7);
        let memory_total = [8, 16, 16, 32][number % 4] * 1_073_741_824 - 4096 * dice.below(90_000);
        Self {
            id: id.to_string(),
            host: format!("pc-{number:04}"),
            session: session + dice.below(86_400_000_000),
            next: [0; 2],
            at: [
                dice.below(recording.looks.len() as i64) as usize,
                dice.below(recording.events.len() as i64) as usize,
            ],
            memory: memory_total / 4 + 4096 * dice.below(300_000),
            memory_total,
            disk: 20_000_000_000 + 4096 * dice.below(20_000_000),
            factors: [dice.factor(), dice.factor()],
            skew: dice.below(400_000) - 200_000,
            pids: dice.below(3000),
            last: None,
            dice,
        }
    }

    /// What its monitors say of one look, which the scheduler has asked for at `time` (µs), and now and then a single event.
    pub(crate) fn look(&mut self, recording: &Recording, time: i64, encoder: &Encoder, made: &mut Vec<Made>) {
        let count = recording.looks.len();
        let before = self.at[0];
        self.at[0] = (before + 1) % count;
        if self.at[0] == 0 {
            self.factors[1] = self.dice.factor();
        }
        let woken = time + self.dice.below(100);
        let interval = self.last.replace(woken).map(|last| ((woken - last) as f64 / 1e3).round() / 1e3);
        let travel = 1000 + self.dice.below(9000) + self.skew;
        let mut sent_at = woken + 400;
        let (mut asked, mut at) = (-1, woken);
        for seen in &recording.looks[self.at[0]] {
            // what one monitor says at once has one time
            if seen.delay != asked {
                (asked, at) = (seen.delay, woken + seen.delay + self.dice.below(20));
            }
            let is_sample = matches!(seen.payload, Payload::ProcessSample(_));
            let payload = match &seen.payload {
                Payload::HostMetrics(metrics) => {
                    let previous = like(&recording.looks[before], metrics);
                    Payload::HostMetrics(self.metrics(metrics, previous, interval))
                }
                Payload::ProcessSample(sample) => Payload::ProcessSample(self.sample(sample, at)),
                other => other.clone(),
            };
            if !is_sample {
                sent_at = sent_at.max(at) + 100 + self.dice.below(300);
            }
            self.send(seen, &payload, is_sample, [at, sent_at, sent_at + travel], encoder, made);
        }
        if self.dice.below(4) == 0 && !recording.events.is_empty() {
            self.at[1] = (self.at[1] + 1) % recording.events.len();
            let seen = &recording.events[self.at[1]];
            let at = woken - self.dice.below(1_000_000);
            self.send(seen, &seen.payload, false, [at, sent_at + 200, sent_at + 200 + travel], encoder, made);
        }
    }

    fn metrics(
        &mut self,
        now: &HostMetrics,
        before: Option<&HostMetrics>,
        interval: Option<f64>,
    ) -> HostMetrics {
        let factor = self.factors[0] * self.factors[1];
        let hundredths = |value: f64| (value * factor * 100.0).round() / 100.0;
        let whole = |value: f64| (value * factor).round();
        let step = |of: fn(&HostMetrics) -> Option<i64>| {
            of(now).zip(before.and_then(of)).map_or(0, |(now, before)| now - before)
        };
        if now.mem_used_bytes.is_some() {
            let wanted = self.memory + step(|metrics| metrics.mem_used_bytes);
            self.memory = wanted.clamp(self.memory_total / 8, self.memory_total);
        }
        if now.disk_used_bytes.is_some() {
            self.disk = (self.disk + step(|metrics| metrics.disk_used_bytes)).max(4_000_000_000);
        }
        HostMetrics {
            cpu_percent: now.cpu_percent.map(|percent| hundredths(percent).min(100.0)),
            load_1: now.load_1.map(hundredths),
            load_5: now.load_5.map(hundredths),
            load_15: now.load_15.map(hundredths),
            mem_used_bytes: now.mem_used_bytes.map(|_| self.memory),
            mem_total_bytes: now.mem_total_bytes.map(|_| self.memory_total),
            disk_used_bytes: now.disk_used_bytes.map(|_| self.disk),
            disk_read_bytes_per_s: now.disk_read_bytes_per_s.map(whole),
            disk_write_bytes_per_s: now.disk_write_bytes_per_s.map(whole),
            net_rx_bytes_per_s: now.net_rx_bytes_per_s.map(whole),
            net_tx_bytes_per_s: now.net_tx_bytes_per_s.map(whole),
            interval_s: interval,
            samples: Some(1),
            ..now.clone()
        }
    }

    fn sample(&mut self, now: &ProcessSample, at: i64) -> ProcessSample {
        let factor = self.factors[0] * self.factors[1];
        ProcessSample {
            snapshot_id: Some(at),
            pid: now.pid.map(|pid| pid + self.pids),
            cpu_percent: now.cpu_percent.map(|percent| (percent * factor * 100.0).round() / 100.0),
            memory_bytes: now.memory_bytes.map(|bytes| (bytes as f64 * self.factors[0]) as i64 / 4096 * 4096),
            ..now.clone()
        }
    }

    /// Times in µs: of the event, when it was sent, when the bridge had it.
    fn send(
        &mut self,
        seen: &Seen,
        payload: &Payload,
        is_bulk: bool,
        [at, sent_at, received_at]: [i64; 3],
        encoder: &Encoder,
        made: &mut Vec<Made>,
    ) {
        let seq = self.next[usize::from(is_bulk)];
        self.next[usize::from(is_bulk)] += 1;
        let mut json = String::with_capacity(512);
        let _ = write!(
            json,
            r#"{{"agent_id":"{}","session":{},"lane":"{}","seq":{seq},"event_time":{at},"event_type":"{}","source":"{}","host":"{}""#,
            self.id,
            self.session,
            if is_bulk { "bulk" } else { "normal" },
            seen.event_type,
            seen.source,
            self.host,
        );
        if let Some(user) = &seen.user {
            let _ = write!(json, r#","user":{}"#, serde_json::Value::from(user.as_str()));
        }
        let _ = write!(json, r#","payload":{}}}"#, serde_json::to_string(payload).unwrap());
        let (family, value) = encoder.encode(&self.id, json, received_at, sent_at);
        made.push(Made { family, value, received_at });
    }
}

/// What an earlier look said of the same thing.
fn like<'a>(look: &'a [Seen], metrics: &HostMetrics) -> Option<&'a HostMetrics> {
    look.iter().find_map(|seen| match &seen.payload {
        Payload::HostMetrics(found)
            if found.disk == metrics.disk
                && found.net_interface == metrics.net_interface
                && found.mem_used_bytes.is_some() == metrics.mem_used_bytes.is_some() =>
        {
            Some(found)
        }
        _ => None,
    })
}
