//! The runner with a sink that can be told to fail.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use async_trait::async_trait;
use eventlog::{
    Consumer as _, NewRecord, Polled, Position, StartAt, TopicPartition, TransactionalProducer as _,
    memory::MemoryLog,
};
use schemas::family::Family;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    Flush, Start,
    batch::Batch,
    testing::{Shared, World, until},
};

/// What the store has, and what it is told to do.
#[derive(Default)]
struct Store {
    /// Offsets stored by topic-partition, in order of arrival.
    rows: BTreeMap<(String, i32), Vec<i64>>,
    /// Where to go on, by topic-partition.
    next: BTreeMap<(String, i32), i64>,
    /// While shut, a flush neither ends nor fails.
    gate: Option<tokio::sync::watch::Receiver<bool>>,
    poison: usize,
    away_opens: usize,
    away_flushes: usize,
    stale_flushes: usize,
    keeps_offsets: bool,
    flushes: usize,
    /// Most rows that were held at a flush.
    most_held: usize,
}

struct FakeSink {
    store: Shared<Store>,
    held: BTreeMap<(Arc<str>, i32), (i64, Vec<i64>)>,
    poison: usize,
}

#[async_trait]
impl Sink for FakeSink {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        let mut store = self.store.lock();
        if store.away_opens > 0 {
            store.away_opens -= 1;
            return Err(SinkError::unavailable("fake", "not started"));
        }
        Ok(())
    }

    async fn starts(&mut self, of: &[TopicPartition]) -> Result<Vec<Start>, SinkError> {
        let store = self.store.lock();
        if !store.keeps_offsets {
            return Ok(vec![Start::Committed; of.len()]);
        }
        let start = |of: &TopicPartition| {
            let next = store.next.get(&(of.topic.to_string(), of.partition));
            next.map_or(Start::Beginning, |next| Start::At(*next))
        };
        Ok(of.iter().map(start).collect())
    }

    async fn accept(&mut self, batch: Batch) -> Result<(), SinkError> {
        for span in &batch.spans {
            self.held.entry((Arc::clone(&batch.topic), span.partition)).or_default().0 = span.to;
        }
        for place in batch.rows.iter().flat_map(|rows| rows.places.iter()) {
            self.held.entry((Arc::clone(&batch.topic), place.partition)).or_default().1.push(place.offset);
        }
        self.poison += batch.poison.len();
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        (!self.held.is_empty()).then(Instant::now)
    }

    async fn flush(&mut self, _: Flush) -> Result<Vec<Position>, SinkError> {
        let gate = {
            let mut store = self.store.lock();
            store.flushes += 1;
            store.gate.clone()
        };
        if let Some(mut gate) = gate {
            gate.wait_for(|open| *open).await.unwrap();
        }
        let mut store = self.store.lock();
        let held: usize = self.held.values().map(|(_, offsets)| offsets.len()).sum();
        store.most_held = store.most_held.max(held);
        if store.away_flushes > 0 {
            store.away_flushes -= 1;
            return Err(SinkError::unavailable("fake", "gone"));
        }
        if store.stale_flushes > 0 {
            store.stale_flushes -= 1;
            return Err(SinkError::Stale("told so".to_owned()));
        }
        store.poison += std::mem::take(&mut self.poison);
        let mut positions = Vec::new();
        for ((topic, partition), (next, offsets)) in std::mem::take(&mut self.held) {
            store.rows.entry((topic.to_string(), partition)).or_default().extend(offsets);
            store.next.insert((topic.to_string(), partition), next);
            positions.push(Position { topic, partition, offset: next });
        }
        Ok(if store.keeps_offsets { Vec::new() } else { positions })
    }

    fn discard(&mut self, of: &[TopicPartition]) {
        self.held.retain(|(topic, partition), _| {
            !of.iter().any(|gone| gone.topic == *topic && gone.partition == *partition)
        });
    }
}

struct Running {
    task: JoinHandle<Result<(), SinkError>>,
    shutdown: Shutdown,
    health: Health,
}

impl Running {
    async fn stop(self) -> Result<(), SinkError> {
        self.shutdown.request();
        self.task.await.unwrap()
    }
}

fn start(world: &World, log: MemoryLog, store: &Shared<Store>) -> Running {
    let feed = Feed {
        group: "g".to_owned(),
        instance: None,
        decoded: vec![world.topics.events(Family::HostMetrics).to_string()],
        plain: vec![],
        poll_rows: 100,
        poll_bytes: 1 << 20,
        drain: Duration::from_secs(2),
    };
    let (shutdown, health) = (Shutdown::new(), Health::new());
    let sink = FakeSink { store: Arc::clone(store), held: BTreeMap::new(), poison: 0 };
    let registry = Arc::clone(&world.registry);
    let task = tokio::spawn(run(sink, feed, log, registry, health.clone(), shutdown.clone()));
    Running { task, shutdown, health }
}

fn stored(store: &Shared<Store>) -> Vec<Vec<i64>> {
    store.lock().rows.values().cloned().collect()
}

fn total(store: &Shared<Store>) -> usize {
    stored(store).iter().map(Vec::len).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_waited_for_and_misses_nothing() {
    let world = World::new(2);
    let store =
        Shared::new(parking_lot::Mutex::new(Store { away_opens: 2, away_flushes: 3, ..Store::default() }));
    world.send_metrics(0, 0, 250);
    world.send_metrics(1, 0, 50);
    let running = start(&world, world.log.clone(), &store);
    until("all rows", || total(&store) == 300).await;
    assert!(running.health.is_ready());
    running.stop().await.unwrap();
    assert_eq!(stored(&store), [(0..250).collect::<Vec<_>>(), (0..50).collect()]);
    let of = TopicPartition::new(world.topics.events(Family::HostMetrics), 0);
    assert_eq!(world.log.committed_offset("g", &of), Some(250));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_flushed_before_more_is_taken() {
    let world = World::new(1);
    let store = Shared::new(parking_lot::Mutex::new(Store::default()));
    // more than the queue holds, so that there is always something to take
    world.send_metrics(0, 0, 3000);
    let running = start(&world, world.log.clone(), &store);
    until("all rows", || total(&store) == 3000).await;
    running.stop().await.unwrap();
    // one poll; this sink is due as soon as it holds anything
    let most = store.lock().most_held;
    assert!(most <= 100, "{most} rows were held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_from_the_committed_offsets() {
    let world = World::new(1);
    let store = Shared::new(parking_lot::Mutex::new(Store::default()));
    for round in 0..3 {
        world.send_metrics(0, round * 10, 10);
        let running = start(&world, world.log.clone(), &store);
        until("the round", || total(&store) == (round as usize + 1) * 10).await;
        running.stop().await.unwrap();
    }
    assert_eq!(stored(&store), [(0..30).collect::<Vec<_>>()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_sink_reads_again_from_what_the_store_has() {
    let world = World::new(3);
    let store = Shared::new(parking_lot::Mutex::new(Store {
        keeps_offsets: true,
        stale_flushes: 2,
        ..Store::default()
    }));
    for partition in 0..3 {
        world.send_metrics(partition, 0, 120);
    }
    let running = start(&world, world.log.clone(), &store);
    until("all rows", || total(&store) >= 360).await;
    running.stop().await.unwrap();
    assert_eq!(stored(&store), vec![(0..120).collect::<Vec<_>>(); 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_is_set_apart_and_its_neighbours_arrive() {
    let world = World::new(1);
    let topic = world.topics.events(Family::HostMetrics);
    world.send_metrics(0, 0, 3);
    world.send(&topic, 0, bytes::Bytes::from_static(b"\0\0\0\0\x01half"));
    world.send(&topic, 0, bytes::Bytes::from_static(b"no avro at all"));
    world.send_metrics(0, 3, 3);
    let store = Shared::new(parking_lot::Mutex::new(Store::default()));
    let running = start(&world, world.log.clone(), &store);
    until("the rows", || total(&store) == 6).await;
    running.stop().await.unwrap();
    assert_eq!(stored(&store), [vec![0, 1, 2, 5, 6, 7]]);
    assert_eq!(store.lock().poison, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_away_is_waited_for() {
    let world = World::new(1);
    world.send_metrics(0, 0, 20);
    world.registry.set_down(true);
    let store = Shared::new(parking_lot::Mutex::new(Store::default()));
    let running = start(&world, world.log.clone(), &store);
    let health = running.health.clone();
    until("the health to say so", || format!("{:?}", health.snapshot()).contains("decode")).await;
    world.registry.set_down(false);
    until("the rows", || total(&store) == 20).await;
    running.stop().await.unwrap();
    assert_eq!(stored(&store), [(0..20).collect::<Vec<_>>()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_that_retention_has_removed_are_an_error_with_their_range() {
    let world = World::new(1);
    world.send_metrics(0, 0, 20);
    let of = TopicPartition::new(world.topics.events(Family::HostMetrics), 0);
    let store = Shared::new(parking_lot::Mutex::new(Store { keeps_offsets: true, ..Store::default() }));
    store.lock().next.insert((of.topic.to_string(), 0), 5);
    world.log.trim(&of, 9);
    let running = start(&world, world.log.clone(), &store);
    let error = running.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("offsets 5..9"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_share_partitions_and_every_call_of_the_log_may_fail_once() {
    let world = World::new(4);
    for partition in 0..4 {
        world.send_metrics(partition, 0, 60);
    }
    let store = Shared::new(parking_lot::Mutex::new(Store { keeps_offsets: true, ..Store::default() }));
    for n in 1..12 {
        let log = world.log.handle();
        log.fail_at(n, eventlog::memory::Fault::Unavailable);
        let (first, second) = (start(&world, log, &store), start(&world, world.log.handle(), &store));
        for partition in 0..4 {
            world.send_metrics(partition, 60 * n as i64, 60);
        }
        until("the round", || total(&store) as u64 >= 240 * (n + 1)).await;
        first.stop().await.unwrap();
        second.stop().await.unwrap();
    }
    // This store accepts repeats, and two members may overlap; so only losses are judged here, the rest by the real stores.
    for mut rows in stored(&store) {
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows, (0..720).collect::<Vec<_>>());
    }
}

/// One transaction of events, as the processors write them.
fn transact(world: &World, of: &TopicPartition, seqs: std::ops::Range<i64>) {
    let mut worker = world.log.consumer("worker", &[&of.topic], None, StartAt::Earliest).unwrap();
    while !matches!(worker.poll(1, Duration::ZERO).unwrap(), Polled::Assigned(_)) {}
    let mut producer = world.log.transactional_producer("worker").unwrap();
    producer.begin().unwrap();
    for seq in seqs {
        let value = world.metric("a0", seq, crate::testing::NOW);
        producer.send(NewRecord::keyed(&*of.topic, "key", value).to_partition(of.partition)).unwrap();
    }
    producer.commit(&[], &worker.group_token().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_partition_is_read_past_its_last_marker_and_retention_takes_nothing() {
    for keeps_offsets in [true, false] {
        let world = World::new(1);
        let of = TopicPartition::new(world.topics.events(Family::HostMetrics), 0);
        let name = (of.topic.to_string(), 0);
        transact(&world, &of, 0..3);
        let store = Shared::new(parking_lot::Mutex::new(Store { keeps_offsets, ..Store::default() }));
        // As one that stopped before it had seen the marker.
        store.lock().next.insert(name.clone(), 3);
        store.lock().rows.insert(name.clone(), vec![0, 1, 2]);
        if !keeps_offsets {
            store.lock().rows.clear();
        }
        let running = start(&world, world.log.handle(), &store);
        until("the marker to be passed", || store.lock().next.get(&name) == Some(&4)).await;
        if !keeps_offsets {
            until("its offset", || world.log.committed_offset("g", &of) == Some(4)).await;
        }
        running.stop().await.unwrap();
        world.log.trim(&of, 4);
        transact(&world, &of, 3..4);
        let running = start(&world, world.log.handle(), &store);
        until("the next record", || total(&store) == 4).await;
        running.stop().await.unwrap();
        assert_eq!(stored(&store), [vec![0, 1, 2, 4]]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_is_tried_again_and_again_lets_partitions_go() {
    let world = World::new(2);
    let away = Shared::new(parking_lot::Mutex::new(Store { away_flushes: usize::MAX, ..Store::default() }));
    let there = Shared::new(parking_lot::Mutex::new(Store::default()));
    for partition in 0..2 {
        world.send_metrics(partition, 0, 60);
    }
    let first = start(&world, world.log.handle(), &away);
    // All that is there is held, and cannot be written.
    until("attempts to write", || away.lock().flushes > 3).await;
    let second = start(&world, world.log.handle(), &there);
    until("the other's rows", || total(&there) == 60).await;
    away.lock().away_flushes = 0;
    until("what is left", || total(&away) == 60).await;
    first.stop().await.unwrap();
    second.stop().await.unwrap();
    assert_eq!((stored(&away).len(), stored(&there).len()), (1, 1), "a partition was written by both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_of_an_earlier_assignment_are_not_stored() {
    let world = World::new(1);
    let of = TopicPartition::new(world.topics.events(Family::HostMetrics), 0);
    let (open, gate) = tokio::sync::watch::channel(false);
    let slow = Shared::new(parking_lot::Mutex::new(Store { gate: Some(gate), ..Store::default() }));
    let quick = Shared::new(parking_lot::Mutex::new(Store::default()));
    world.send_metrics(0, 0, 50);
    let log = world.log.handle();
    let first = start(&world, log.clone(), &slow);
    until("a flush that hangs", || slow.lock().flushes == 1).await;
    // The partition goes to another, which gets further, and comes back.
    world.log.pin("g", &[vec![], vec![of.clone()]]);
    let second = start(&world, world.log.handle(), &quick);
    until("the other's rows", || total(&quick) == 50).await;
    world.send_metrics(0, 50, 50);
    until("more of them", || world.log.committed_offset("g", &of) == Some(100)).await;
    world.log.pin("g", &[vec![of.clone()]]);
    second.stop().await.unwrap();
    let calls = log.calls().len();
    until("the partition to be back", || log.calls().len() > calls + 20).await;
    open.send(true).unwrap();
    world.send_metrics(0, 100, 1);
    until("what came since", || world.log.committed_offset("g", &of) == Some(101)).await;
    first.stop().await.unwrap();
    // The flush that hung wrote what was held; nothing that the other stored was read again.
    assert_eq!(stored(&slow), [(0..50).chain(100..101).collect::<Vec<_>>()]);
}
