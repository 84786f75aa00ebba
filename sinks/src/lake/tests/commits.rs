//! A commit and its offsets: whatever crashes, sleeps or races, each row is there once, and what is held is bounded.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_slept_skips_what_another_has_committed() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut sleeper = Writer::open(&lake, &world).await;
    sleeper.accept(&world, 0, 30).await;
    sleeper.table.cut().await.unwrap();
    sleeper.table.prepare(Scope::Everything).await.unwrap();

    let mut other = Writer::open(&lake, &world).await;
    other.accept(&world, 0, 20).await;
    other.commit().await.unwrap();

    // It wakes exactly between its check and its commit: the version is taken.
    assert_eq!(sleeper.table.append(Scope::Everything).await.unwrap(), Attempt::Conflict);
    sleeper.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 30));
    // And long after, with rows that are all there.
    other.accept(&world, 20, 25).await;
    other.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 30));
    let verified = lake.verified(&world, "host_metrics").await;
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.rows, 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_lost_is_no_second_commit() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut first = Writer::open(&lake, &world).await;
    first.accept(&world, 0, 10).await;
    first.commit().await.unwrap();
    // The same process believes that the commit failed: it holds the rows still.
    let mut again = Writer::open(&lake, &world).await;
    again.accept(&world, 0, 10).await;
    again.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_crash_before_the_commit_are_invisible() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut crashed = Writer::open(&lake, &world).await;
    crashed.accept(&world, 0, 10).await;
    crashed.table.cut().await.unwrap();
    crashed.table.prepare(Scope::Everything).await.unwrap();
    drop(crashed);
    assert!(lake.files("host_metrics").is_empty());
    let mut next = Writer::open(&lake, &world).await;
    next.accept(&world, 0, 10).await;
    next.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 10));
    assert_eq!(lake.verified(&world, "host_metrics").await.problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_rows_wait_for_company_and_survive_a_crash() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    for minute in 0..10 {
        // one row of today, one of each of three days long past
        let times = [NOW + minute, NOW - 5 * DAY, NOW - 6 * DAY, NOW - 7 * DAY];
        writer.accept_times(&world, minute * 4, &times).await;
        writer.commit_fresh().await;
    }
    assert_eq!(lake.files("host_metrics").len(), 10, "late rows have made files");
    // it dies with thirty late rows in memory; its successor reads on where the first of them is
    drop(writer);
    let mut successor = Writer::open(&lake, &world).await;
    let start = successor.table.next_offsets(&[0]).await.unwrap();
    assert_eq!(start, [Some(1)]);
    for minute in 0..10 {
        let times = [NOW + minute, NOW - 5 * DAY, NOW - 6 * DAY, NOW - 7 * DAY];
        successor.accept_times(&world, minute * 4, &times).await;
    }
    successor.commit().await.unwrap();
    assert_eq!(lake.files("host_metrics").len(), 13);
    assert_eq!(lake.identities("host_metrics"), expected(1, 40));
    assert_eq!(successor.table.next_offsets(&[0]).await.unwrap(), [Some(40)]);
    let verified = lake.verified(&world, "host_metrics").await;
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.covered, verified.covered_late);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_offsets_of_late_rows_goes_on_where_all_ended() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    writer.accept_times(&world, 0, &[NOW, NOW - 5 * DAY]).await;
    writer.commit().await.unwrap();
    let entry = lake.folder.path().join("host_metrics/_delta_log/00000000000000000001.json");
    let text = fs_err::read_to_string(&entry).unwrap();
    let older: Vec<&str> = text.lines().filter(|line| !line.contains(":0:late")).collect();
    assert_eq!(older.len() + 1, text.lines().count());
    fs_err::write(&entry, older.join("\n")).unwrap();
    let mut writer = Writer::open(&lake, &world).await;
    assert_eq!(writer.table.next_offsets(&[0]).await.unwrap(), [Some(2)]);
    writer.accept_times(&world, 0, &[NOW, NOW - 5 * DAY, NOW, NOW - 5 * DAY]).await;
    writer.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 4));
}

/// The store is away in the middle of several files: what is there already is neither written again nor left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_failed_goes_on_where_it_was() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    writer.accept_times(&world, 0, &[NOW - 2 * DAY, NOW - DAY, NOW]).await;
    // a file where a folder must be
    let blocked = lake.folder.path().join("host_metrics/dt=2025-11-20");
    fs_err::write(&blocked, "").unwrap();
    for _ in 0..3 {
        assert!(matches!(writer.commit().await, Err(SinkError::Unavailable { .. })));
    }
    fs_err::remove_file(&blocked).unwrap();
    writer.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 3));
    let days = ["dt=2025-11-19", "dt=2025-11-20", "dt=2025-11-21"];
    for day in days {
        let folder = lake.folder.path().join("host_metrics").join(day);
        assert_eq!(fs_err::read_dir(folder).unwrap().count(), 1, "{day}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_between_table_and_memory_is_read_again() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    writer.accept(&world, 0, 10).await;
    writer.commit().await.unwrap();
    writer.accept(&world, 15, 20).await;
    assert!(matches!(writer.commit().await, Err(SinkError::Stale(_))));
    assert_eq!(lake.identities("host_metrics"), expected(1, 10));
}

/// Two processes; one is killed again and again at another moment, rebalances come at random.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_and_rebalances_leave_each_row_once() {
    let (world, lake) = (World::new(3), Lake::new());
    let survivor_log = world.log.handle();
    let (survivor, shutdown) = lake.start(&world, survivor_log);
    let rounds = 8;
    for round in 0..rounds {
        let log = world.log.handle();
        let (victim, _) = lake.start(&world, log.clone());
        for partition in 0..3 {
            // every seventh row is three days old
            let at = |seq| if seq % 7 == 0 { NOW - 3 * DAY + seq } else { NOW + seq * 1000 };
            world.send_metrics_of(partition, round * 90..(round + 1) * 90, at);
        }
        tokio::time::sleep(Duration::from_millis(17 * (round as u64 % 5))).await;
        if round % 3 == 0 {
            world.log.rebalance("varta-lake");
        }
        log.kill();
        victim.abort();
        let _ = victim.await;
    }
    let all = expected(3, rounds * 90);
    until("all rows", || lake.identities("host_metrics").len() >= all.len()).await;
    shutdown.request();
    survivor.await.unwrap().unwrap();
    assert_eq!(lake.identities("host_metrics"), all);
    let verified = lake.verified(&world, "host_metrics").await;
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.rows, all.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_never_grows_beyond_its_limit() {
    const LIMIT: u64 = 1 << 20;
    let (world, lake) = (World::new(1), Lake::new());
    // nothing but the limit makes it commit
    let hour = Duration::from_hours(1);
    let config = LakeConfig {
        memory: ByteSize(LIMIT),
        commit_rows: usize::MAX,
        commit_age: hour,
        late_age: hour,
        ..lake.config.clone()
    };
    let letters = DeadLetters::open(&world.log, &world.topics, "lake").unwrap();
    let mut sink = LakeSink::new(config, tables(&world.topics), letters).unwrap();
    sink.open().await.unwrap();
    let topic = world.topics.late();
    sink.starts(&[TopicPartition::new(Arc::clone(&topic), 0)]).await.unwrap();
    let rows = 100;
    for number in 0..30 {
        // thirty days, one after the other
        let record = |offset: i64| eventlog::Record {
            topic: Arc::clone(&topic),
            partition: 0,
            offset,
            timestamp: (NOW - number * DAY) / 1000,
            key: None,
            value: Some(vec![1; 4096].into()),
            headers: vec![],
        };
        let (from, to) = (number * rows, (number + 1) * rows);
        let plain = (from..to).map(record).collect();
        let spans = vec![Span { partition: 0, from, to }];
        let topic = Arc::clone(&topic);
        sink.accept(Batch { topic, spans, rows: vec![], poison: vec![], plain }).await.unwrap();
        if sink.memory() > LIMIT {
            assert!(sink.due().is_some_and(|due| due <= Instant::now()));
            sink.flush(Flush::Due).await.unwrap();
        }
        assert!(sink.memory() <= LIMIT, "{} bytes are held", sink.memory());
    }
    // twelve megabytes came, and one at most is not in the table
    assert!(lake.files("late").len() >= 20);
}
