//! The pipeline against a Kafka and a broker that behave as badly as they may.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;
use eventlog::LogError;
use eventlog::LogErrorKind;
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use runtime::config::ByteSize;
use schemas::mqtt::batch_topic;
use schemas::topics::Topics;
use schemas::translate::Translator;
use uuid::Uuid;

use super::*;
use crate::intake::{Mint, WriterIds};

/// A Kafka whose queue has a size and whose answers come when the test says so, in any order.
#[derive(Default)]
struct Queue {
    room: usize,
    in_flight: Vec<(NewRecord, usize)>,
    /// Marks such as `<17.1>` of all events that were delivered.
    marks: HashSet<String>,
}

#[derive(Clone)]
struct FakeKafka(Arc<Mutex<Queue>>);

impl Appender for FakeKafka {
    fn append(&self, record: NewRecord, token: usize) -> Result<(), AppendError> {
        let mut queue = self.0.lock().unwrap();
        if queue.in_flight.len() >= queue.room {
            return Err(AppendError::QueueFull(record));
        }
        queue.in_flight.push((record, token));
        Ok(())
    }

    fn flush(&self, _: Duration) -> Result<(), LogError> {
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.0.lock().unwrap().in_flight.len()
    }
}

impl FakeKafka {
    fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue { room, ..Queue::default() })))
    }

    /// Answers for the n-th record in flight.
    fn answer(&self, deliveries: &Deliveries, n: usize, failure: Option<LogErrorKind>) {
        let mut queue = self.0.lock().unwrap();
        if queue.in_flight.is_empty() {
            return;
        }
        let n = n % queue.in_flight.len();
        let (record, token) = queue.in_flight.swap_remove(n);
        match failure {
            None => {
                queue.marks.extend(record.value.iter().flat_map(|value| marks(value)));
                drop(queue);
                deliveries.settle(token, Ok((0, 0)));
            }
            Some(kind) => {
                drop(queue);
                deliveries.settle(token, Err(LogError::new(kind, "broken")));
            }
        }
    }

    fn answer_all(&self, deliveries: &Deliveries) {
        while self.in_flight() > 0 {
            self.answer(deliveries, 0, None);
        }
    }

    fn has(&self, number: u64, index: u64) -> bool {
        self.0.lock().unwrap().marks.contains(&format!("<{number}.{index}>"))
    }

    fn events(&self) -> usize {
        self.0.lock().unwrap().marks.len()
    }
}

fn marks(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let is_mark = |inner: &str| inner.contains('.') && inner.bytes().all(|b| b == b'.' || b.is_ascii_digit());
    let starts = text.match_indices('<').map(|(at, _)| at);
    let inner = starts.filter_map(|at| text[at + 1..].split_once('>').map(|(inner, _)| inner));
    inner.filter(|inner| is_mark(inner)).map(|inner| format!("<{inner}>")).collect()
}

/// What the bridge sent.
#[derive(Default)]
struct Sent {
    room: usize,
    pubacks: Vec<u16>,
    confirmations: Vec<(String, Vec<u8>)>,
}

impl Outlet for Sent {
    fn acknowledge(&mut self, packet_id: u16) -> bool {
        let has_room = self.room > 0;
        if has_room {
            self.room -= 1;
            self.pubacks.push(packet_id);
        }
        has_room
    }

    fn publish(&mut self, topic: String, payload: Vec<u8>) -> bool {
        self.confirmations.push((topic, payload));
        true
    }
}

fn ids() -> WriterIds {
    WriterIds::new(|_| 1)
}

struct Bench {
    kafka: FakeKafka,
    deliveries: Arc<Deliveries>,
    pipeline: Pipeline<FakeKafka>,
    sent: Sent,
    now: Instant,
}

fn bench(window: u16, bytes: u64, room: usize) -> Bench {
    let mut config = BridgeConfig::default();
    config.in_flight.messages = window;
    config.in_flight.bytes = ByteSize(bytes);
    config.confirmations.gather = Duration::ZERO;
    let kafka = FakeKafka::new(room);
    let deliveries = Arc::new(Deliveries::new(slots(window)));
    let now = Instant::now();
    let intake = Intake::new("bridge-1", Translator::new(), ids(), &Topics::default());
    let mut pipeline = Pipeline::new(&config, intake, kafka.clone(), Arc::clone(&deliveries), now);
    pipeline.connected(false);
    Bench { kafka, deliveries, pipeline, sent: Sent { room: usize::MAX, ..Sent::default() }, now }
}

/// A message of three events, as batch.
fn payload(number: u64) -> Bytes {
    let event = |index: u64| {
        format!(
            r#"{{"session":5,"lane":"normal","seq":{},"event_time":1763683200000000,"event_type":"cpu_usage","source":"<{number}.{index}>","payload":{{"cpu_percent":1}}}}"#,
            3 * number + index
        )
    };
    format!("[{},{},{}]", event(0), event(1), event(2)).into()
}

fn incoming(number: u64, packet_id: Option<u16>) -> Incoming {
    let arrival = Arrival {
        topic: Bytes::from(batch_topic("pc001")),
        payload: payload(number),
        sent_at: None,
        received_at: 1_763_683_200_000_000,
        mint: Mint { process: Uuid::nil(), message: number },
    };
    Incoming { arrival, packet_id, is_retained: false }
}

impl Bench {
    fn arrive(&mut self, number: u64, packet_id: u16) {
        self.pipeline.arrive(incoming(number, Some(packet_id)), self.now);
    }

    fn pump(&mut self) {
        self.pipeline.pump(&mut self.sent, self.now).unwrap();
    }
}

/// A broker: sends within its window what nobody acknowledged, again after each reconnect.
#[derive(Default)]
struct Broker {
    /// Not yet acknowledged, in order.
    held: VecDeque<u64>,
    /// Sent on this connection and not acknowledged: packet identifier and message.
    sent: VecDeque<(u16, u64)>,
    next_packet_id: u16,
    seen_pubacks: usize,
}

impl Broker {
    fn send(&mut self, window: usize) -> Option<(u16, u64)> {
        let number = *self.held.get(self.sent.len())?;
        if self.sent.len() >= window {
            return None;
        }
        // Small numbers, so that they are used again and again.
        self.next_packet_id = self.next_packet_id % 7 + 1;
        self.sent.push_back((self.next_packet_id, number));
        Some((self.next_packet_id, number))
    }

    fn reconnect(&mut self, pubacks: usize) {
        self.sent.clear();
        self.seen_pubacks = pubacks;
        self.next_packet_id = 0;
    }

    /// Takes new PUBACKs; answers the messages that they let go.
    fn take(&mut self, pubacks: &[u16]) -> Result<Vec<u64>, TestCaseError> {
        let mut released = Vec::new();
        for packet_id in &pubacks[self.seen_pubacks..] {
            let (expected, number) =
                self.sent.pop_front().ok_or_else(|| TestCaseError::fail("PUBACK for nothing"))?;
            prop_assert_eq!(*packet_id, expected, "out of order");
            prop_assert_eq!(self.held.pop_front(), Some(number));
            released.push(number);
        }
        self.seen_pubacks = pubacks.len();
        Ok(released)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish,
    Send,
    Answer(usize),
    Fail(usize),
    KafkaRoom(usize),
    OutletRoom(usize),
    Reconnect { session_present: bool },
    Later,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Publish),
        8 => Just(Step::Send),
        12 => any::<usize>().prop_map(Step::Answer),
        1 => any::<usize>().prop_map(Step::Fail),
        1 => (0..12_usize).prop_map(Step::KafkaRoom),
        1 => (0..4_usize).prop_map(Step::OutletRoom),
        1 => Just(Step::Reconnect { session_present: true }),
        3 => Just(Step::Later),
    ];
    proptest::collection::vec(step, 0..150)
}

const WINDOW: usize = 5;

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_acknowledged_before_kafka_has_it_and_everything_is_in_the_end(
        steps in steps(),
        bytes in 400..6_000_u64,
    ) {
        play(steps, bytes, false)?;
    }
}

/// The model is worth something only if it finds what is planted.
#[test]
fn a_puback_before_kafka_has_it_is_found() {
    let mut runner = TestRunner::deterministic();
    let found = runner.run(&(steps(), 400..6_000_u64), |(steps, bytes)| play(steps, bytes, true));
    let Err(TestError::Fail(why, _)) = found else { panic!("it was not found: {found:?}") };
    assert!(why.message().contains("acknowledged too early"), "{why}");
}

/// A broker, a bridge and a Kafka take these steps, then calm ones until nothing is left.
fn play(steps: Vec<Step>, bytes: u64, acknowledges_early: bool) -> Result<(), TestCaseError> {
    let mut bench = bench(WINDOW as u16, bytes, 8);
    bench.pipeline.acknowledges_early = acknowledges_early;
    let mut broker = Broker::default();
    let mut published = 0;
    let calm = [Step::Send, Step::Answer(0), Step::Answer(0), Step::Answer(0), Step::Later];
    let calm = [Step::KafkaRoom(usize::MAX), Step::OutletRoom(usize::MAX)]
        .into_iter()
        .chain(std::iter::repeat_n(calm, 4000).flatten());
    let largest = payload(1_000_000).len() as u64 + 40 + OVERHEAD;
    for step in steps.into_iter().chain(calm) {
        match step {
            Step::Publish => {
                broker.held.push_back(published);
                published += 1;
            }
            Step::Send => {
                if let Some((packet_id, number)) = broker.send(WINDOW) {
                    bench.arrive(number, packet_id);
                }
            }
            Step::Answer(n) => bench.kafka.answer(&bench.deliveries, n, None),
            Step::Fail(n) => bench.kafka.answer(&bench.deliveries, n, Some(LogErrorKind::Unavailable)),
            Step::KafkaRoom(room) => bench.kafka.0.lock().unwrap().room = room,
            Step::OutletRoom(room) => bench.sent.room = room,
            Step::Reconnect { session_present } => {
                bench.pipeline.disconnected();
                broker.reconnect(bench.sent.pubacks.len());
                bench.pump();
                bench.pipeline.connected(session_present);
            }
            Step::Later => bench.now += Duration::from_secs(11),
        }
        bench.pump();
        bench.pipeline.confirm(&mut bench.sent, bench.now, false);
        if bench.pipeline.needs_new_connection() {
            bench.pipeline.disconnected();
            broker.reconnect(bench.sent.pubacks.len());
            bench.pipeline.connected(true);
        }
        prop_assert!(bench.pipeline.held_bytes <= bytes.max(largest));
        for number in broker.take(&bench.sent.pubacks)? {
            for index in 0..3 {
                prop_assert!(bench.kafka.has(number, index), "{number}.{index} acknowledged too early");
            }
        }
        for (topic, payload) in bench.sent.confirmations.drain(..) {
            prop_assert_eq!(topic, "agent/pc001/ack");
            let confirmation: Confirmation = serde_json::from_slice(&payload).unwrap();
            for seq in confirmation.acks.iter().flat_map(|ack| ack.ranges.iter().flat_map(|&(a, b)| a..=b)) {
                let seq = seq as u64;
                prop_assert!(bench.kafka.has(seq / 3, seq % 3), "{seq} confirmed too early");
            }
        }
        if broker.held.is_empty() && bench.pipeline.is_drained() && bench.sent.room == usize::MAX {
            break;
        }
    }
    prop_assert!(broker.held.is_empty(), "{} left of {}", broker.held.len(), published);
    prop_assert!(bench.pipeline.is_drained());
    prop_assert_eq!(bench.pipeline.held_bytes, 0);
    prop_assert_eq!(bench.deliveries.records(), 0);
    prop_assert_eq!(bench.pipeline.free.len(), bench.deliveries.capacity() - 1);
    prop_assert_eq!(bench.kafka.events() as u64, 3 * published);
    Ok(())
}

#[test]
fn without_kafka_nothing_is_acknowledged_and_memory_is_bounded() {
    let mut bench = bench(100, 2_000, 4);
    for number in 0..100 {
        bench.arrive(number, number as u16 + 1);
        bench.pump();
    }
    assert!(bench.sent.pubacks.is_empty());
    assert!(bench.pipeline.held_bytes <= 2_000);
    assert!(bench.kafka.in_flight() <= 4);
    assert!(!bench.pipeline.needs_new_connection(), "there is no room for what fell yet");
    // Kafka is back: what is held goes, then the broker is to send again what fell.
    bench.kafka.0.lock().unwrap().room = usize::MAX;
    while !bench.pipeline.is_drained() {
        bench.kafka.answer_all(&bench.deliveries);
        bench.pump();
    }
    let held = bench.sent.pubacks.len();
    assert!(held > 0 && held < 100);
    assert_eq!(bench.sent.pubacks, (1..=held as u16).collect::<Vec<_>>());
    assert!(bench.pipeline.needs_new_connection());
}

#[test]
fn a_broker_that_oversteps_the_window_is_borne_as_far_as_there_are_bytes() {
    let mut bench = bench(10, 1_000_000, 20);
    for number in 0..500 {
        bench.arrive(number, number as u16 + 1);
        bench.pump();
    }
    bench.kafka.0.lock().unwrap().room = usize::MAX;
    while !bench.pipeline.is_drained() {
        bench.kafka.answer_all(&bench.deliveries);
        bench.pump();
    }
    assert_eq!(bench.sent.pubacks, (1..=500).collect::<Vec<u16>>(), "all of it, in order");
    assert!(!bench.pipeline.needs_new_connection(), "nothing fell");
}

#[test]
fn reconnecting_while_kafka_is_gone_neither_acknowledges_nor_grows() {
    let mut bench = bench(10, 100_000, 6);
    for generation in 0..50 {
        for number in 0..10 {
            bench.arrive(number, number as u16 + 1);
        }
        bench.pump();
        bench.pipeline.disconnected();
        bench.pipeline.connected(true);
        assert!(bench.pipeline.held_bytes <= 100_000, "generation {generation}");
    }
    bench.kafka.0.lock().unwrap().room = usize::MAX;
    bench.arrive(10, 1);
    while !bench.pipeline.is_drained() {
        bench.kafka.answer_all(&bench.deliveries);
        bench.pump();
    }
    assert_eq!(bench.sent.pubacks, [1], "packet identifiers of ended connections mean nothing");
    // But what Kafka got of them is confirmed to the agent.
    bench.pipeline.confirm(&mut bench.sent, bench.now, true);
    let confirmation: Confirmation = serde_json::from_slice(&bench.sent.confirmations[0].1).unwrap();
    let ranges: BTreeSet<i64> = confirmation.acks[0].ranges.iter().flat_map(|&(a, b)| a..=b).collect();
    assert!(ranges.contains(&0) && ranges.contains(&32));
}

#[test]
fn a_lost_session_keeps_what_the_broker_will_not_send_again() {
    let mut bench = bench(10, 100_000, 0);
    bench.arrive(0, 1);
    bench.arrive(1, 2);
    bench.pipeline.disconnected();
    bench.kafka.0.lock().unwrap().room = usize::MAX;
    bench.pipeline.connected(false);
    while !bench.pipeline.is_drained() {
        bench.kafka.answer_all(&bench.deliveries);
        bench.pump();
    }
    assert_eq!(bench.kafka.events(), 6);
    assert!(bench.sent.pubacks.is_empty());
}

#[test]
fn what_kafka_refuses_for_good_becomes_a_dead_letter_and_twice_is_the_end() {
    let mut bench = bench(10, 100_000, 100);
    bench.arrive(0, 1);
    bench.kafka.answer(&bench.deliveries, 0, Some(LogErrorKind::TooLarge));
    bench.kafka.answer(&bench.deliveries, 0, None);
    bench.kafka.answer(&bench.deliveries, 0, None);
    bench.pump();
    assert!(bench.sent.pubacks.is_empty());
    let letter = bench.kafka.0.lock().unwrap().in_flight[0].0.clone();
    assert_eq!(&*letter.topic, "varta.dlq");
    assert_eq!(letter.value, Some(payload(0)));
    // The letter alone does not settle the message: the markers for its numbers are on their way.
    bench.kafka.answer(&bench.deliveries, 0, None);
    bench.pump();
    assert!(bench.sent.pubacks.is_empty());
    bench.kafka.answer_all(&bench.deliveries);
    bench.pump();
    assert_eq!(bench.sent.pubacks, [1]);

    bench.arrive(1, 2);
    // three records, then the letter and three markers
    let ended = (0..7).any(|_| {
        bench.kafka.answer(&bench.deliveries, 0, Some(LogErrorKind::TooLarge));
        matches!(bench.pipeline.pump(&mut bench.sent, bench.now), Err(BridgeError::Delivery(_)))
    });
    assert!(ended, "a letter that is refused too ends the bridge");
    assert_eq!(bench.sent.pubacks, [1], "what has no place to go is never acknowledged");
}

#[test]
fn retained_replays_are_acknowledged_and_not_taken() {
    let mut bench = bench(10, 100_000, 100);
    let replay = Incoming { is_retained: true, ..incoming(0, Some(1)) };
    bench.pipeline.arrive(replay, bench.now);
    bench.pump();
    assert_eq!(bench.sent.pubacks, [1]);
    assert_eq!(bench.kafka.in_flight(), 0);
}

#[test]
fn a_stopping_bridge_finishes_what_is_with_kafka_and_leaves_the_rest_to_the_broker() {
    let mut bench = bench(10, 100_000, 3);
    bench.arrive(0, 1);
    bench.arrive(1, 2);
    bench.arrive(2, 3);
    bench.pipeline.stop();
    bench.arrive(3, 4);
    while !bench.pipeline.is_drained() {
        bench.kafka.answer_all(&bench.deliveries);
        bench.pump();
    }
    // The second was on its way already; the third was not.
    assert_eq!(bench.sent.pubacks, [1, 2]);
    let records = vec![NewRecord::keyed("varta.raw", "k", "v")];
    bench.pipeline.append_goodbye(records).unwrap();
    assert!(!bench.pipeline.has_said_goodbye());
    bench.kafka.answer_all(&bench.deliveries);
    assert!(bench.pipeline.has_said_goodbye());
}

#[test]
fn silence_counts_from_when_something_began_to_wait() {
    let mut bench = bench(10, 100_000, 100);
    assert_eq!(bench.pipeline.silence(bench.now + Duration::from_hours(1)), None);
    bench.now += Duration::from_hours(1);
    bench.arrive(0, 1);
    assert_eq!(bench.pipeline.silence(bench.now + Duration::from_secs(2)), Some(Duration::from_secs(2)));
}
