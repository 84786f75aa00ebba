use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use schemas::event::Payload;
use serde_json::Value;
use tempfile::TempDir;

use super::*;

fn owner() -> Owner {
    Owner { agent_id: "a-1".into(), host: "pc001".into(), clock: EventClock::new(), last_session: None }
}

fn fact(lane: Lane, number: u64, padding: usize) -> Observation {
    let payload = Payload::Custom(serde_json::json!({ "n": number, "pad": "x".repeat(padding) }));
    Observation::new(number as i64, lane, "made_up", "test", payload)
}

fn row(lane: Lane, number: u64, padding: usize) -> NewRow {
    NewRow::new(&fact(lane, number, padding), "pc001").unwrap()
}

fn small() -> OutboxConfig {
    OutboxConfig {
        limit: ByteSize(6_000),
        max_event_size: ByteSize(1_000),
        sync_interval: Duration::from_secs(5),
    }
}

/// An outbox whose writer is driven by hand, and what must be true of it.
struct World {
    folder: TempDir,
    writer: Option<(Outbox, Writer)>,
    config: OutboxConfig,
    session: i64,
    number: u64,
    /// (session, lane, seq) of rows that were confirmed.
    delivered: BTreeSet<(i64, usize, i64)>,
    /// The same, named by an `events_shed` event.
    explained: BTreeSet<(i64, usize, i64)>,
    /// Last seq given out.
    tails: BTreeMap<(i64, usize), i64>,
    /// Order of rows as given in.
    given: BTreeMap<(usize, u64), (i64, i64)>,
}

impl World {
    fn new(config: OutboxConfig) -> Self {
        let mut world = Self {
            folder: tempfile::tempdir().unwrap(),
            writer: None,
            config,
            session: 0,
            number: 0,
            delivered: BTreeSet::new(),
            explained: BTreeSet::new(),
            tails: BTreeMap::new(),
            given: BTreeMap::new(),
        };
        world.open();
        world
    }

    fn open(&mut self) {
        let path = self.folder.path().join("outbox.db");
        let (outbox, writer, start) =
            Outbox::open(&path, &self.config, &owner(), |_| fact(Lane::Critical, 0, 0)).unwrap();
        assert!(start.session > self.session, "a session is later than all before it");
        if self.session != 0 {
            assert_eq!(start.previous.session, Some(self.session));
            for (lane, seq) in start.previous.tails {
                assert_eq!(self.tails.get(&(self.session, lane_index(lane))), Some(&seq));
            }
        }
        self.session = start.session;
        self.writer = Some((outbox, writer));
        self.check();
    }

    /// Dies as by kill -9: what the next process finds is what is in the files now.
    fn kill(&mut self) {
        let next = tempfile::tempdir().unwrap();
        for name in ["outbox.db", "outbox.db-wal"] {
            let from = self.folder.path().join(name);
            if from.exists() {
                std::fs::copy(&from, next.path().join(name)).unwrap();
            }
        }
        self.writer = None;
        self.folder = next;
        self.open();
    }

    fn serve<T>(&mut self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (reply, answer) = oneshot::channel();
        self.writer.as_mut().unwrap().1.serve(vec![command(reply)]);
        answer.blocking_recv().unwrap()
    }

    fn append(&mut self, rows: &[(Lane, usize)]) {
        let mut batch = Batch::default();
        for (lane, padding) in rows {
            self.number += 1;
            batch.rows.push(row(*lane, self.number, *padding));
        }
        batch.low_water = Some(self.number as i64);
        self.serve(|reply| Command::Append(Arc::new(batch), reply)).unwrap();
        self.check();
    }

    fn confirm(&mut self, range: LaneRange) {
        let before = self.present();
        self.serve(|reply| Command::Confirm(vec![range], reply)).unwrap();
        let after: BTreeSet<_> = self.present().into_iter().collect();
        let gone = before.into_iter().filter(|place| !after.contains(place));
        for (session, lane, seq) in gone {
            let named = (session, lane) == (range.session, lane_index(range.lane));
            // Others may have been shed in the same transaction: `check` finds out.
            if named && range.from <= seq && seq <= range.to {
                self.delivered.insert((session, lane, seq));
            }
        }
        self.check();
    }

    fn rows(&mut self, lane: Lane) -> Vec<Row> {
        let request = ReadRequest {
            lane,
            after: Place::START,
            up_to: END,
            max_rows: usize::MAX,
            max_bytes: usize::MAX,
        };
        self.serve(|reply| Command::Read(request, reply)).unwrap()
    }

    fn present(&mut self) -> Vec<(i64, usize, i64)> {
        let mut all = Vec::new();
        for (index, lane) in LANES.into_iter().enumerate() {
            all.extend(self.rows(lane).into_iter().map(|row| (row.place.session, index, row.place.seq)));
        }
        all
    }

    /// Order is kept, counts are right, and every seq ever given out is delivered, present or explained.
    fn check(&mut self) {
        let stats = self.writer.as_ref().unwrap().0.stats();
        let mut present = BTreeSet::new();
        for (index, lane) in LANES.into_iter().enumerate() {
            let rows = self.rows(lane);
            assert!(rows.is_sorted_by(|a, b| a.place < b.place));
            assert_eq!(rows.len() as u64, stats.rows[index]);
            let bytes: u64 = rows.iter().map(|row| row.body.len() as u64 + ROW_OVERHEAD).sum();
            assert_eq!(bytes, stats.bytes[index]);
            let mut last_number = 0;
            for row in rows {
                present.insert((row.place.session, index, row.place.seq));
                let members: Value =
                    serde_json::from_str(&format!("{{{}", std::str::from_utf8(&row.body).unwrap())).unwrap();
                if row.event_type == "events_shed" {
                    self.explain(row.place.session, &members["payload"]);
                    continue;
                }
                let number = members["payload"]["n"].as_u64().unwrap();
                if number > 0 {
                    assert!(number > last_number, "rows of a lane keep the order in which they were given");
                    last_number = number;
                    let place = (row.place.session, row.place.seq);
                    assert_eq!(
                        *self.given.entry((index, number)).or_insert(place),
                        place,
                        "identity is constant"
                    );
                }
            }
            self.tails.insert((stats.session, index), stats.last_seq[index]);
        }
        for (&(session, lane), &tail) in &self.tails {
            for seq in 0..=tail {
                let place = (session, lane, seq);
                let known = present.contains(&place)
                    || self.delivered.contains(&place)
                    || self.explained.contains(&place);
                assert!(known, "seq {seq} of lane {lane}, session {session} is nowhere");
            }
        }
        for place in &present {
            assert!(
                !self.delivered.contains(place) && !self.explained.contains(place),
                "{place:?} is in two places"
            );
        }
    }

    fn explain(&mut self, session: i64, payload: &Value) {
        let lane = lane_index(Lane::parse(payload["shed_lane"].as_str().unwrap()).unwrap());
        let of = payload["previous_session"].as_i64().unwrap_or(session);
        let (from, to) = (payload["shed_from"].as_i64().unwrap(), payload["shed_to"].as_i64().unwrap());
        self.explained.extend((from..=to).map(|seq| (of, lane, seq)));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(Lane, usize)>),
    Confirm { lane: Lane, session_back: i64, from: i64, to: i64 },
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lane = || prop_oneof![Just(Lane::Critical), Just(Lane::Normal), Just(Lane::Bulk)];
    let padding = prop_oneof![10 => 0_usize..600, 1 => Just(1_500_usize)];
    let edge = || prop_oneof![8 => -3_i64..40, 1 => Just(i64::MIN), 1 => Just(i64::MAX)];
    let step = prop_oneof![
        6 => proptest::collection::vec((lane(), padding), 0..6).prop_map(Step::Append),
        4 => (lane(), -1_i64..3, edge(), edge())
            .prop_map(|(lane, session_back, from, to)| Step::Confirm { lane, session_back, from, to }),
        1 => Just(Step::Kill),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_seq_is_delivered_present_or_explained_whatever_happens(steps in steps()) {
        let mut world = World::new(small());
        let mut sessions = vec![world.session];
        for step in steps {
            match step {
                Step::Append(rows) => world.append(&rows),
                Step::Confirm { lane, session_back, from, to } => {
                    let session = match session_back {
                        later if later < 0 => i64::MAX,
                        back => sessions[sessions.len().saturating_sub(1 + back as usize)],
                    };
                    world.confirm(LaneRange { lane, session, from, to });
                }
                Step::Kill => {
                    world.kill();
                    sessions.push(world.session);
                }
            }
        }
    }
}

#[test]
fn bulk_is_shed_first_then_normal_and_critical_last() {
    let mut world = World::new(small());
    world.append(&[(Lane::Critical, 300), (Lane::Normal, 300), (Lane::Bulk, 300), (Lane::Bulk, 300)]);
    let shed = |world: &World, lane| world.explained.iter().any(|(_, index, _)| *index == lane_index(lane));
    for _ in 0..40 {
        world.append(&[(Lane::Critical, 300)]);
        assert!(!shed(&world, Lane::Normal) || world.rows(Lane::Bulk).is_empty());
        assert!(!shed(&world, Lane::Critical) || world.rows(Lane::Normal).is_empty());
    }
    assert!(LANES.into_iter().all(|lane| shed(&world, lane)), "all three in the end");
    let (outbox, _) = world.writer.as_ref().unwrap();
    assert_eq!(outbox.stats().shed_total as usize, world.explained.len());
}

#[test]
fn an_event_that_is_too_large_leaves_an_explained_hole() {
    let mut world = World::new(small());
    world.append(&[(Lane::Normal, 10), (Lane::Normal, 2_000), (Lane::Normal, 10)]);
    assert_eq!(world.rows(Lane::Normal).iter().map(|row| row.place.seq).collect::<Vec<_>>(), [0, 2]);
    assert!(world.explained.contains(&(world.session, 1, 1)));
}

#[test]
fn cursors_and_rows_are_stored_together() {
    let mut world = World::new(small());
    let batch = Batch {
        rows: vec![row(Lane::Normal, 1, 0)],
        cursors: vec![("synthetic".to_owned(), 42)],
        low_water: None,
    };
    world.serve(|reply| Command::Append(Arc::new(batch), reply)).unwrap();
    world.writer = None;
    let path = world.folder.path().join("outbox.db");
    let (_, _, start) = Outbox::open(&path, &small(), &owner(), |_| fact(Lane::Critical, 0, 0)).unwrap();
    assert_eq!(start.cursors, [("synthetic".to_owned(), 42)]);
}

#[test]
fn marks_name_what_was_committed_with_them() {
    let mut world = World::new(small());
    world.append(&[(Lane::Normal, 0), (Lane::Normal, 0)]);
    let marks = world.writer.as_ref().unwrap().0.stats().marks.unwrap();
    assert_eq!(marks.map(|mark| mark.seq), [0, 1, -1]);
    assert_eq!(marks[1].time, 2);
    let empty = Batch { low_water: Some(77), ..Batch::default() };
    world.serve(|reply| Command::Append(Arc::new(empty), reply)).unwrap();
    let marks = world.writer.as_ref().unwrap().0.stats().marks.unwrap();
    assert_eq!(marks[1], Mark { seq: 1, time: 77 });
}

#[test]
fn a_second_agent_on_the_same_file_is_refused() {
    let world = World::new(small());
    let path = world.folder.path().join("outbox.db");
    let error = Outbox::open(&path, &small(), &owner(), |_| fact(Lane::Critical, 0, 0)).unwrap_err();
    assert!(matches!(error, OutboxError::InUse(_)), "{error}");
}

#[test]
fn rows_of_another_agent_are_not_adopted() {
    let mut world = World::new(small());
    world.writer = None;
    let path = world.folder.path().join("outbox.db");
    let other = Owner { agent_id: "a-2".into(), ..owner() };
    let error = Outbox::open(&path, &small(), &other, |_| fact(Lane::Critical, 0, 0)).unwrap_err();
    assert!(matches!(error, OutboxError::Foreign { .. }), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    std::fs::write(&path, "this is not a database, it is a text of some length".repeat(50)).unwrap();
    let last = Owner { last_session: Some(i64::MAX - 10), ..owner() };
    let (_, _, start) = Outbox::open(&path, &small(), &last, |_| fact(Lane::Critical, 0, 0)).unwrap();
    assert_eq!(start.session, i64::MAX - 9, "the session known elsewhere is not repeated");
    let kept = std::fs::read_dir(folder.path()).unwrap();
    assert!(kept.into_iter().any(|file| file.unwrap().file_name().to_string_lossy().contains("broken-")));
}

#[tokio::test]
async fn the_thread_serves_many_and_ends_when_all_handles_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let (outbox, writer, start) =
        Outbox::open(&path, &OutboxConfig::default(), &owner(), |_| fact(Lane::Critical, 0, 0)).unwrap();
    let writing = std::thread::spawn(move || writer.run());
    let appenders: Vec<_> = (0..4_u64)
        .map(|thread| {
            let outbox = outbox.clone();
            std::thread::spawn(move || {
                for n in 0..50 {
                    let rows = (0..20).map(|i| row(Lane::Normal, thread * 1_000 + n * 20 + i, 100)).collect();
                    outbox.append(Batch { rows, ..Batch::default() }).unwrap();
                }
            })
        })
        .collect();
    for appender in appenders {
        tokio::task::spawn_blocking(|| appender.join().unwrap()).await.unwrap();
    }
    assert_eq!(outbox.stats().last_seq[1], 3_999);
    let all = LaneRange { lane: Lane::Normal, session: start.session, from: 0, to: 2_999 };
    assert_eq!(outbox.confirm(vec![all, all]).await.unwrap(), 3_000);
    let request =
        ReadRequest { lane: Lane::Normal, after: Place::START, up_to: END, max_rows: 10, max_bytes: 1 << 20 };
    assert_eq!(outbox.read(request).await.unwrap()[0].place.seq, 3_000);
    drop(outbox);
    writing.join().unwrap().unwrap();
}
