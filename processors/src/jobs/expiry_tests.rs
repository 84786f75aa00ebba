//! An agent that nobody hears of for the whole hold, and what comes of it afterwards.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};

use super::*;

const GONE: &str = "gone";
pub(super) const HOLD: Hold = Hold(400 * SECOND);
/// When it comes back, s: in an hour of which nothing was closed.
const BACK: i64 = 2_860;

/// A job that soon drops who is not heard.
pub(super) fn impatient() -> Shared {
    static IMPATIENT: OnceLock<Shared> = OnceLock::new();
    let made = || job_that_holds(HOLD, Offer::new(RuleSet::shipped().unwrap(), 1));
    IMPATIENT.get_or_init(made).clone()
}

fn run(rows: &Rows, run: &Run) -> Outputs {
    outputs(&run_jobs(rows, run, Box::new(impatient)))
}

fn measured(agent: &str, session: i64, seq: i64, at: i64) -> serde_json::Value {
    json!({"agent_id": agent, "session": START + session * SECOND, "lane": "normal", "seq": seq,
        "event_time": START + at * SECOND, "event_type": "cpu_usage", "source": "system/procfs", "host": "pc",
        "payload": {"cpu_percent": seq + 10}})
}

/// It sends for two minutes, is dropped, and returns: first with what its outbox had, then restarted.
pub(super) fn gone_and_back(ids: SchemaIds) -> Vec<(i64, Option<i32>, String, Bytes)> {
    let mut script = Script::new(ids);
    let mut send = |arrives: i64, message: &serde_json::Value| {
        script.event(START + arrives * SECOND, message);
    };
    for seq in 0..200 {
        send(15 * seq, &measured("stays", 0, seq, 15 * seq));
    }
    for seq in 0..8 {
        send(15 * seq, &measured(GONE, 0, seq, 15 * seq));
    }
    for (seq, at) in [(3, 45), (8, 118), (9, BACK), (9, BACK)] {
        send(BACK, &measured(GONE, 0, seq, at));
    }
    for seq in 0..8 {
        let at = BACK + 30 + 15 * seq;
        send(at, &measured(GONE, BACK, seq, at));
        send(at, &measured(GONE, BACK, seq, at));
    }
    for at in (0..3_040).step_by(5) {
        script.clock("b", START + at * SECOND);
    }
    script.rows.sort_by_key(|row| (row.0, row.1));
    script.rows.into_iter().map(|(at, _, partition, key, value)| (at, partition, key, value)).collect()
}

/// A record of partition 0.
fn record(at: i64, key: &str, value: Bytes) -> Record {
    Record {
        topic: Topics::default().raw(),
        partition: 0,
        offset: 0,
        timestamp: at / 1_000,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(value),
        headers: Vec::new(),
    }
}

fn decoded(records: &[Record]) -> RecordBatch {
    let job = impatient();
    let mut decoded = job.0.lock().decoder.decode(records).unwrap();
    assert_eq!((decoded.groups.len(), decoded.poison.len()), (1, 0));
    decoded.groups.remove(0).batch
}

/// What of the agent that was gone is in a topic.
fn rows(outputs: &Outputs, topic: &str) -> RecordBatch {
    let of_topic = outputs.keys().filter(|(name, key, ..)| name == topic && &key[..] == GONE.as_bytes());
    let records: Vec<Record> = of_topic.map(|(_, _, value, _)| record(0, GONE, value.clone())).collect();
    decoded(&records)
}

/// Start (s), revision, whether partial, and samples of each window, sorted.
fn windows(features: &RecordBatch) -> Vec<(i64, i32, bool, i64)> {
    let column = |name: &str| features.column_by_name(name).unwrap();
    let (starts, partial) = (
        column("window_start").as_primitive::<TimestampMicrosecondType>(),
        column("is_partial").as_boolean(),
    );
    let (revisions, samples) =
        (column("revision").as_primitive::<Int32Type>(), column("samples").as_primitive::<Int64Type>());
    let mut found: Vec<_> = (0..features.num_rows())
        .map(|row| {
            let start = (starts.value(row) - START) / SECOND;
            (start, revisions.value(row), partial.value(row), samples.value(row))
        })
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn windows_of_an_agent_that_is_dropped_are_closed_and_it_comes_back_above_them() {
    let (_, ids) = registry();
    let input = gone_and_back(ids);
    let expected = run(&input, &CALM);
    let topics = Topics::default();

    // Closed in time; emitted as it stood when the agent fell silent; closed for good when it was dropped; then the one
    // that tells of two late rows, and those of its return, which hold nothing of before.
    let closed = [
        (0, 0, false, 4),
        (60, 0, true, 4),
        (60, 1, false, 4),
        (2_760, 0, false, 0),
        (2_820, 0, false, 1),
        (2_880, 0, false, 4),
    ];
    assert_eq!(windows(&rows(&expected, &topics.features("1m"))), closed);

    let events = rows(&expected, &topics.events(Family::HostMetrics));
    let column = |name: &str| events.column_by_name(name).unwrap();
    let flags = column("flags").as_string::<i32>();
    let (sessions, times) = (
        column("session").as_primitive::<Int64Type>(),
        column("event_time").as_primitive::<TimestampMicrosecondType>(),
    );
    let mut flagged: Vec<_> = (0..events.num_rows())
        .filter(|row| flags.is_valid(*row) && flags.value(*row).contains("dedup_uncertain"))
        .map(|row| (sessions.value(row) - START, (times.value(row) - START) / SECOND))
        .collect();
    flagged.sort_unstable();
    assert_eq!(events.num_rows(), 8 + 3 + 8, "what comes twice passes once since it is back");
    assert_eq!(flagged, [(0, 45), (0, 118), (0, BACK)]);
    // Two of them fell into windows that were closed.
    assert_eq!(rows(&expected, &topics.late()).num_rows(), 2);

    for (batch, commit_ms) in [(1, 50), (7, 20)] {
        compare(&run(&input, &Run { batch, commit_ms, ..CALM }), &expected, &format!("batches of {batch}"));
    }
    for seed in 0..3 {
        let chaos = Run { workers: 2, batch: 40, commit_ms: 30, chaos: Some(seed), ..CALM };
        compare(&run(&input, &chaos), &expected, &format!("seed {seed}"));
    }
}

type Written = Vec<(&'static str, RecordBatch)>;

/// One life of a worker: restored from what earlier ones wrote, it processes and writes. Answers the features.
fn life(written: &mut Written, input: &[Record]) -> Vec<Record> {
    let mut job = impatient();
    let mut state = job.open(0).unwrap();
    for operator in state.operators() {
        let own = operator.name();
        for (_, rows) in written.iter().filter(|(name, _)| *name == own) {
            operator.restore(rows).unwrap();
        }
        operator.restored().unwrap();
    }
    let features = Topics::default().features("1m");
    let mut sent = Vec::new();
    let mut sink = |made: NewRecord| {
        if made.topic == features {
            sent.push(record(0, GONE, made.value.unwrap()));
        }
        Ok(())
    };
    let mut output = Output::new(&mut sink);
    job.process(&mut state, input, &mut output).unwrap();
    job.settle(&mut state, Share::All, &mut output).unwrap();
    for operator in state.operators() {
        let changes = operator.drain_changes().unwrap();
        written.extend(changes.map(|rows| (operator.name(), rows)));
    }
    sent
}

/// After a rebuild of dedup's state, or when the floor of an agent had to go, nobody knows any more which of its
/// windows were closed.
#[test]
fn a_window_that_opens_once_more_survives_a_restart() {
    let (_, ids) = registry();
    let mut script = Script::new(ids);
    let mut input = |seq: i64, at: i64| {
        let mut message = measured(GONE, 0, seq, at);
        if seq == 0 {
            message["event_type"] = json!("agent_started");
            message["payload"] = json!({"lanes": r#"["normal"]"#});
        }
        let value = script.event(START + at * SECOND, &message);
        record(START + at * SECOND, GONE, value)
    };
    let mut written = Written::new();
    let closed = life(&mut written, &[input(0, 0), input(1, 1), input(2, 70)]);
    assert_eq!(windows(&decoded(&closed)), [(0, 0, false, 1)]);
    written.retain(|(name, _)| *name != "agents");
    assert!(life(&mut written, &[input(0, 0), input(1, 1)]).is_empty());
    let closed = life(&mut written, &[input(2, 130)]);
    assert_eq!(windows(&decoded(&closed)), [(0, 0, false, 1), (60, 0, false, 1)]);
}
