use std::sync::Mutex;
use std::sync::mpsc::sync_channel;

use schemas::event::Payload;
use schemas::identity::Lane;

use super::*;
use crate::monitors::Capability;
use crate::observation::Observation;
use crate::outbox::{END, OutboxConfig, Owner, Place, ReadRequest, Row, Writer};

/// Counts from its cursor; says that it is complete up to its last event only.
struct Counter {
    next: i64,
    until: i64,
    resumed: Arc<Mutex<Option<i64>>>,
}

impl Monitor for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn source(&self) -> &'static str {
        "counter/test"
    }

    fn capability(&self) -> Capability {
        Capability::Present
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn sample(&mut self, _now: i64) -> Vec<Observation> {
        if self.next >= self.until {
            return Vec::new();
        }
        self.next += 1;
        let payload = Payload::Custom(serde_json::json!({ "n": self.next }));
        vec![Observation::new(self.next * 10, Lane::Normal, "counted", "counter/test", payload)]
    }

    fn low_water(&self, _now: i64) -> i64 {
        self.next * 10
    }

    fn cursor(&self) -> Option<i64> {
        Some(self.next)
    }

    fn resume(&mut self, cursor: i64) {
        *self.resumed.lock().unwrap() = Some(cursor);
        self.next = cursor;
    }
}

fn open(path: &std::path::Path, clock: &EventClock) -> (Outbox, Writer, Vec<(String, i64)>) {
    let owner =
        Owner { agent_id: "a-1".into(), host: "pc001".into(), clock: clock.clone(), last_session: None };
    let (outbox, writer, start) = Outbox::open(path, &OutboxConfig::default(), &owner, |start| {
        started(start, &[], Duration::from_secs(10), clock.now())
    })
    .unwrap();
    (outbox, writer, start.cursors)
}

fn run_until(path: &std::path::Path, until: i64) -> (Option<i64>, Vec<Row>, Vec<Row>, i64) {
    let clock = EventClock::new();
    let (outbox, writer, cursors) = open(path, &clock);
    let writing = std::thread::spawn(move || writer.run());
    let resumed = Arc::new(Mutex::new(None));
    let counter = Counter { next: 0, until, resumed: resumed.clone() };
    let scheduler = Scheduler::new(
        &SchedulerConfig::default(),
        vec![Box::new(counter)],
        &cursors,
        outbox.clone(),
        clock,
        "pc001".into(),
        Link::default(),
    );
    let (stop, stopped) = sync_channel(1);
    let scheduling = std::thread::spawn(move || scheduler.run(&stopped));
    let deadline = Instant::now() + Duration::from_secs(20);
    let wanted = until * 10;
    while outbox.stats().marks.is_none_or(|marks| marks[1].time < wanted) {
        assert!(Instant::now() < deadline, "the mark did not arrive");
        std::thread::yield_now();
    }
    let mark_seq = outbox.stats().marks.unwrap()[1].seq;
    drop(stop);
    scheduling.join().unwrap().unwrap();
    let read = |lane| {
        let request =
            ReadRequest { lane, after: Place::START, up_to: END, max_rows: 1000, max_bytes: 1 << 20 };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(outbox.read(request)).unwrap()
    };
    let (normal, critical) = (read(Lane::Normal), read(Lane::Critical));
    drop(outbox);
    writing.join().unwrap().unwrap();
    let resumed = *resumed.lock().unwrap();
    (resumed, normal, critical, mark_seq)
}

#[test]
fn a_source_with_a_cursor_continues_exactly_and_marks_follow_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let (resumed, normal, critical, mark_seq) = run_until(&path, 5);
    assert_eq!(resumed, None);
    assert_eq!(normal.iter().map(|row| row.event_time).collect::<Vec<_>>(), [10, 20, 30, 40, 50]);
    assert_eq!(mark_seq, 4);
    let types: Vec<&str> = critical.iter().map(|row| row.event_type.as_str()).collect();
    assert_eq!(types, ["agent_started", "agent_stopped"]);

    let (resumed, normal, critical, _) = run_until(&path, 8);
    assert_eq!(resumed, Some(5));
    assert_eq!(normal.iter().map(|row| row.event_time).collect::<Vec<_>>(), [10, 20, 30, 40, 50, 60, 70, 80]);
    let started = std::str::from_utf8(&critical[2].body).unwrap();
    assert!(started.contains(r#""tails":"{\"critical\":1,\"normal\":4}""#), "{started}");
}
