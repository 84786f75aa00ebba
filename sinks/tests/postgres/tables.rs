//! What stands in the tables after records have come in any order, more than once, through one process or two.

use schemas::family::Family;
use schemas::record::RecordKind;
use serde_json::{Value, json};

use crate::database::Database;
use crate::log::{World, until};

const HOUR: i64 = 3_600_000_000;
/// 2026-01-05T09:00:00Z, a Monday, in µs.
const NINE: i64 = 1_767_603_600_000_000;

fn hour(agent: &str, revision: i32, cpu_mean: f64) -> Value {
    json!({
        "agent_id": agent, "host": "pc", "window_start": NINE, "window_end": NINE + HOUR, "revision": revision,
        "is_partial": revision == 0, "samples": 60, "cpu_mean": cpu_mean, "active_s": 900.0, "coverage": 0.5,
    })
}

fn user_hour(user: &str, start: i64, revision: i32, active_s: f64) -> Value {
    json!({
        "agent_id": "a", "user": user, "window_start": start, "window_end": start + HOUR, "revision": revision,
        "active_s": active_s, "starts": 2,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_revision_is_kept_whatever_the_order() {
    let (world, database) = (World::new(), Database::create().await);
    let running = world.start(&database);
    let (machines, users) = (world.topics.features("1h"), world.topics.user_features("1h"));
    // newer first, in one batch and in the next
    world.send(
        &machines,
        RecordKind::Feature1h,
        &[hour("a", 1, 20.0), hour("a", 0, 10.0), hour("b", 2, 50.0)],
    );
    world.send(&users, RecordKind::UserFeature1h, &[user_hour("alice", NINE, 3, 600.0)]);
    let seen = "select string_agg(agent_id || revision || ' ' || cpu_mean || ' ' || is_partial, ', ' order by agent_id) \
                from features_1h";
    until(&database, seen, "a1 20 false, b2 50 false").await;
    world.send(
        &machines,
        RecordKind::Feature1h,
        &[hour("b", 1, 40.0), hour("a", 2, 30.0), hour("c", 0, 1.0)],
    );
    until(&database, seen, "a2 30 false, b2 50 false, c0 1 true").await;
    world.send(
        &users,
        RecordKind::UserFeature1h,
        &[
            user_hour("alice", NINE, 2, 1.0),
            user_hour("alice", NINE + HOUR, 0, 60.0),
            user_hour("bob", NINE, 0, 0.0),
        ],
    );
    let days = "select string_agg(concat_ws(' ', username, day, active_s, active_hours, starts), ', ' order by username) \
                from activity_days";
    until(&database, days, "alice 2026-01-05 660 2 4, bob 2026-01-05 0 0 2").await;
    let users = "select string_agg(username || to_char(first_seen, ' HH24') || to_char(last_seen, '-HH24'), ', ' \
                 order by username) from users";
    until(&database, "select set_config('timezone', 'UTC', false)", "UTC").await;
    until(&database, users, "alice 09-11, bob 09-10").await;
    running.stop().await;
}

fn finding(revision: i32, activity_id: i32, status_id: i32) -> Value {
    json!({
        "finding_uid": "f", "revision": revision, "rule_id": "cpu", "rule_title": "CPU", "agent_id": "a",
        "severity_id": 3, "severity": "Medium", "activity_id": activity_id, "status_id": status_id,
        "event_time": NINE, "created_at": NINE, "first_seen": NINE, "last_seen": NINE, "count": 1,
        "message": format!("revision {revision}"), "evidence": "[]", "labels": "{}",
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finding_that_closes_without_a_new_row_is_closed() {
    let (world, database) = (World::new(), Database::create().await);
    let running = world.start(&database);
    let topic = world.topics.alerts();
    let stands = "select message || ' status ' || status_id from alerts";
    world.send(&topic, RecordKind::Alert, &[finding(0, 1, 1)]);
    until(&database, stands, "revision 0 status 1").await;
    world.send(&topic, RecordKind::Alert, &[finding(2, 3, 4)]);
    until(&database, stands, "revision 2 status 4").await;
    // what comes again, or late, opens it no more: the row behind it is stored, and the finding stands
    world.send(&topic, RecordKind::Alert, &[finding(1, 2, 1), finding(0, 1, 1)]);
    let mut other = finding(0, 1, 1);
    other["finding_uid"] = json!("g");
    world.send(&topic, RecordKind::Alert, &[other]);
    until(&database, "select count(*)::text from alerts", "2").await;
    until(
        &database,
        "select message || ' status ' || status_id from alerts where finding_uid = 'f'",
        "revision 2 status 4",
    )
    .await;
    running.stop().await;
}

fn start(seq: i64, user: &str, name: &str, path: Option<&str>) -> Value {
    json!({
        "agent_id": "a", "session": 7, "lane": "normal", "seq": seq, "event_time": NINE + seq * 1_000_000,
        "event_type": "process_started", "source": "process/poll", "user": user, "name": name, "path": path,
        "path_class": "system", "received_at": NINE,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_make_known_who_and_what_there_is() {
    let (world, database) = (World::new(), Database::create().await);
    let running = world.start(&database);
    let topic = world.topics.events(Family::ProcessEvent);
    let stopped = {
        let mut stopped = start(9, "carol", "cron", None);
        stopped["event_type"] = json!("process_stopped");
        stopped
    };
    let rows = [
        start(3, "alice", "vim", Some("/usr/bin/vim")),
        start(1, "alice", "vim", Some("/usr/bin/vim")),
        start(2, "bob", "vim", Some("/tmp/vim")),
        start(3, "alice", "vim", Some("/usr/bin/vim")),
        stopped,
    ];
    world.send(&topic, RecordKind::Family(Family::ProcessEvent), &rows);
    until(&database, "select count(*)::text from program_starts", "3").await;
    let programs = "select string_agg(concat_ws(' ', name, path, path_class, \
                    extract(second from first_seen)::int, extract(second from last_seen)::int), ', ' order by path) \
                    from programs";
    until(&database, programs, "vim /tmp/vim system 2 2, vim /usr/bin/vim system 1 3").await;
    until(&database, "select string_agg(username, ', ' order by username) from users", "alice, bob").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_processes_that_start_at_once_store_each_row_once() {
    let (world, database) = (World::new(), Database::create().await);
    let topic = world.topics.features("1h");
    let rows: Vec<Value> = (0..200).map(|agent| hour(&format!("agent-{agent}"), 0, 1.0)).collect();
    world.send(&topic, RecordKind::Feature1h, &rows);
    let (one, other) = (world.start(&database), world.start(&database));
    until(&database, "select count(*)::text from features_1h", "200").await;
    world.send(&topic, RecordKind::Feature1h, &[hour("agent-0", 1, 2.0)]);
    until(&database, "select count(*) || ' ' || max(cpu_mean) from features_1h", "200 2").await;
    until(&database, "select max(next_offset)::text from offsets where topic = 'varta.features.1h'", "201")
        .await;
    one.stop().await;
    world.send(&topic, RecordKind::Feature1h, &[hour("agent-1", 1, 3.0)]);
    until(&database, "select count(*) || ' ' || max(cpu_mean) from features_1h", "200 3").await;
    other.stop().await;
}

/// The server's own words for a full disk, class 53; the count of attempts survives what is rolled back.
const DISK_IS_FULL: &str = "create sequence attempts; \
    create function refuse() returns trigger language plpgsql as $$ begin perform nextval('attempts'); \
    raise exception 'could not extend file \"base/1\": No space left on device' using errcode = 'disk_full'; end $$; \
    create trigger full_disk before insert or update on features_1h for each row execute function refuse()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_is_waited_for_and_nothing_is_buried() {
    let (world, database) = (World::new(), Database::migrated().await);
    let mut owner = database.connect().await;
    sqlx::raw_sql(DISK_IS_FULL).execute(&mut owner).await.unwrap();
    let running = world.start(&database);
    let (machines, users) = (world.topics.features("1h"), world.topics.user_features("1h"));
    world.send(&users, RecordKind::UserFeature1h, &[user_hour("alice", NINE, 0, 60.0)]);
    world.send(&machines, RecordKind::Feature1h, &[hour("a", 0, 1.0), hour("b", 0, 2.0)]);
    until(&database, "select (last_value >= 3)::text from attempts", "true").await;
    until(&database, "select count(*)::text from features_1h", "0").await;
    sqlx::raw_sql("drop trigger full_disk on features_1h").execute(&mut owner).await.unwrap();
    until(&database, "select string_agg(agent_id, ' ' order by agent_id) from features_1h", "a b").await;
    until(&database, "select count(*)::text from user_features_1h", "1").await;
    running.stop().await;
    assert!(world.log.records(&world.topics.dlq()).is_empty(), "a row was buried for the server's sake");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_word_in_the_log_holds_whatever_the_clocks_say() {
    let (world, database) = (World::new(), Database::create().await);
    let running = world.start(&database);
    let topic = world.topics.feedback();
    let word = |verdict: &str, given_at: i64| json!({ "alert_id": "f", "author": "ann", "verdict": verdict, "verdict_id": 1, "given_at": given_at });
    let said = "select verdict from alert_feedback";
    world.send(&topic, RecordKind::Feedback, &[word("tp", NINE)]);
    until(&database, said, "tp").await;
    // The clock was wrong by an hour, and is put right.
    world.send(&topic, RecordKind::Feedback, &[word("benign", NINE + HOUR)]);
    until(&database, said, "benign").await;
    world.send(&topic, RecordKind::Feedback, &[word("fp", NINE + 60_000_000)]);
    until(&database, said, "fp").await;
    // In one batch as well.
    world.send(
        &topic,
        RecordKind::Feedback,
        &[word("fp", NINE + HOUR), word("tp", NINE), word("benign", NINE)],
    );
    until(&database, said, "benign").await;
    running.stop().await;
}
