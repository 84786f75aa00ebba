//! Compaction and vacuum, beside writers and readers.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_become_one_sorted_file_and_nothing_is_lost() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    // more files than are merged at once, in two days; times run backwards so that rows interleave
    for round in 0..70 {
        writer.accept_times(&world, round * 3, &[NOW - round, NOW + round, NOW - DAY + round]).await;
        writer.commit().await.unwrap();
    }
    let before = lake.rows("host_metrics");
    assert_eq!(lake.files("host_metrics").len(), 140);
    let optimized = optimize_anyhow(&lake.config, &world.topics, &compacting()).await.unwrap();
    let metrics = optimized.iter().find(|table| table.table == "host_metrics").unwrap();
    assert_eq!((metrics.before.0, metrics.after.0, metrics.given_up), (140, 2, 0));
    // what was merged on the way has gone, too
    let stored: usize = ["dt=2025-11-20", "dt=2025-11-21"]
        .iter()
        .map(|day| fs_err::read_dir(lake.folder.path().join("host_metrics").join(day)).unwrap().count())
        .sum();
    assert_eq!(stored, 2);
    assert_eq!(lake.identities("host_metrics"), expected(1, 210));
    for batch in lake.rows("host_metrics") {
        let times = batch.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>();
        assert!(times.values().is_sorted());
    }
    let sum = |rows: &[RecordBatch]| -> f64 {
        let column = |batch: &RecordBatch| {
            let values = batch.column_by_name("cpu_percent").unwrap();
            arrow::compute::sum(values.as_primitive::<arrow::datatypes::Float64Type>()).unwrap()
        };
        rows.iter().map(column).sum()
    };
    assert!((sum(&before) - sum(&lake.rows("host_metrics"))).abs() < 1e-6);
    let verified = lake.verified(&world, "host_metrics").await;
    assert_eq!((verified.problems, verified.rows, verified.files), (vec![], 210, 2));
    let table = info(&lake.config, &world.topics).await.unwrap().remove(0);
    assert!(table.days.values().all(|day| day.small == 1 && day.files == 1), "{:?}", table.days);
    // a writer goes on beside it, and a second run finds nothing to do
    writer.accept_times(&world, 210, &[NOW]).await;
    writer.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 211));
    let table = info(&lake.config, &world.topics).await.unwrap().remove(0);
    assert_eq!((table.table.as_str(), table.total().rows, table.total().files), ("host_metrics", 211, 3));
    assert_eq!(table.days.keys().collect::<Vec<_>>(), ["2025-11-20", "2025-11-21"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_table_does_not_keep_the_others_from_being_optimised() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    for from in [0, 10] {
        writer.accept(&world, from, from + 10).await;
        writer.commit().await.unwrap();
    }
    let others: Vec<String> = super::tables(&world.topics)
        .into_iter()
        .map(|(name, ..)| name)
        .filter(|name| name != "host_metrics")
        .collect();
    for name in &others {
        let log = lake.folder.path().join(name).join("_delta_log");
        fs_err::create_dir_all(&log).unwrap();
        fs_err::write(log.join("00000000000000000000.json"), "no log entry").unwrap();
    }
    let optimized = optimize_anyhow(&lake.config, &world.topics, &compacting()).await.unwrap();
    assert_eq!(optimized.len(), others.len() + 1);
    for table in optimized {
        assert_eq!(table.failed.is_none(), table.table == "host_metrics", "{table:?}");
    }
    assert_eq!(lake.files("host_metrics").len(), 1);
}

/// Two monitors take turns; in files, merged or not, what each says stands together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_monitor_says_again_and_again_stands_together() {
    let (world, lake) = (World::new(1), Lake::new());
    let topic = world.topics.events(Family::HostMetrics);
    let (running, stop) = lake.start(&world, world.log.handle());
    for round in 0..2_i64 {
        for seq in round * 40..(round + 1) * 40 {
            let (kind, payload) = match seq % 2 {
                0 if seq % 4 == 0 => ("disk_usage", r#"{"disk":"/","disk_used_bytes":4096}"#),
                0 => ("disk_usage", r#"{"disk":"/home","disk_used_bytes":8192}"#),
                _ => ("cpu_usage", r#"{"cpu_percent":1.5}"#),
            };
            let (agent, time) = (seq % 3, NOW + seq * 1000);
            let event = format!(
                r#"{{"agent_id":"a{agent}","session":7,"lane":"normal","seq":{seq},"event_time":{time},
                    "event_type":"{kind}","source":"s","payload":{payload}}}"#
            );
            world.send(&topic, 0, world.event(&event));
        }
        let rows = (round as usize + 1) * 40;
        until("the round", || lake.identities("host_metrics").len() == rows).await;
    }
    stop.request();
    running.await.unwrap().unwrap();
    let are_sorted = || {
        for file in lake.files("host_metrics") {
            assert_eq!(order_of(&lake, &file), SORTED);
        }
        for batch in lake.rows("host_metrics") {
            let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
            let (agents, kinds, disks) = (text("agent_id"), text("event_type"), text("disk"));
            let times = batch.column_by_name("event_time").unwrap();
            let times = times.as_primitive::<TimestampMicrosecondType>().clone();
            let key = |row: usize| (agents.value(row), kinds.value(row), disks.value(row), times.value(row));
            assert!((1..batch.num_rows()).all(|row| key(row - 1) < key(row)), "{batch:?}");
        }
    };
    are_sorted();
    assert!(lake.files("host_metrics").len() > 1);
    optimize_anyhow(&lake.config, &world.topics, &compacting()).await.unwrap();
    assert_eq!(lake.files("host_metrics").len(), 1);
    assert_eq!(lake.rows("host_metrics").iter().map(RecordBatch::num_rows).sum::<usize>(), 80);
    are_sorted();
}

const SORTED: [&str; 7] = ["agent_id", "event_type", "disk", "net_interface", "sensor", "event_time", "seq"];

/// Columns by which a file says that it is sorted.
fn order_of(lake: &Lake, file: &str) -> Vec<String> {
    let file = fs_err::File::open(lake.folder.path().join("host_metrics").join(file)).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.into_parts().0).unwrap();
    let columns = reader.metadata().row_group(0).sorting_columns().cloned().unwrap_or_default();
    let name = |column: i32| reader.schema().field(column as usize).name().clone();
    columns.iter().map(|column| name(column.column_idx)).collect()
}

/// Files that a reader of an older version or a writer before its commit needs stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vacuum_leaves_what_somebody_may_need() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    for from in [0, 10] {
        writer.accept(&world, from, from + 10).await;
        writer.commit().await.unwrap();
    }
    writer.accept(&world, 20, 30).await;
    writer.table.cut().await.unwrap();
    writer.table.prepare(Scope::Everything).await.unwrap();
    let how = Optimizing { retention: LEAST_RETENTION, ..Optimizing::default() };
    let optimized = optimize(&lake.config, &world.topics, &how).await.unwrap();
    assert_eq!((optimized[0].after.0, optimized[0].vacuumed.0), (1, 0));
    let folder = lake.folder.path().join("host_metrics/dt=2025-11-21");
    assert_eq!(fs_err::read_dir(&folder).unwrap().count(), 4);
    writer.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 30));
    let too_short = Optimizing { retention: Duration::from_secs(1), ..Optimizing::default() };
    assert!(matches!(optimize(&lake.config, &world.topics, &too_short).await, Err(SinkError::Fatal(_))));
}

/// Two writers of different partitions and two optimisers, all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_optimisers_at_once_lose_nothing() {
    let (world, lake) = (World::new(2), Lake::new());
    let (first, stop_first) = lake.start(&world, world.log.handle());
    let (second, stop_second) = lake.start(&world, world.log.handle());
    let how = Optimizing { retention: Duration::from_hours(1), ..Optimizing::default() };
    let optimisers = [0, 1].map(|_| {
        let (config, topics, how) = (lake.config.clone(), world.topics.clone(), how.clone());
        tokio::spawn(async move {
            let mut merges = 0;
            for _ in 0..20 {
                let done = optimize_anyhow(&config, &topics, &how).await.unwrap();
                merges += done.iter().map(|table| table.merges).sum::<usize>();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            merges
        })
    });
    for round in 0..20 {
        world.send_metrics(0, round * 50, 50);
        world.send_metrics(1, round * 50, 50);
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let mut merges = 0;
    for optimiser in optimisers {
        merges += optimiser.await.unwrap();
    }
    assert!(merges > 0, "nothing was merged beside the writers");
    until("all rows", || lake.identities("host_metrics").len() >= 2000).await;
    stop_first.request();
    stop_second.request();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(2, 1000));
    let verified = lake.verified(&world, "host_metrics").await;
    assert_eq!((verified.problems, verified.rows), (vec![], 2000));
}
