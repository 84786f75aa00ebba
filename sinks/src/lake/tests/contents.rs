//! What is in the tables: everything of the topics, proved, made anew, with columns of tomorrow.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_sorted_and_absurd_dates_go_by_their_arrival() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    let day = 86_400_000_000;
    let long_ago = NOW - 9000 * day;
    writer.accept_times(&world, 0, &[NOW + 9, NOW - day, NOW + 5, long_ago, NOW + 4000 * day]).await;
    writer.commit().await.unwrap();
    let files = lake.files("host_metrics");
    assert_eq!(files.len(), 2);
    assert!(files[0].starts_with("dt=2025-11-20/") && files[1].starts_with("dt=2025-11-21/"), "{files:?}");
    let batches = lake.rows("host_metrics");
    let times = batches[1].column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.values(), &[long_ago, NOW + 5, NOW + 9, NOW + 4000 * day]);
    let marks = batches[1].column_by_name("dt_by_arrival").unwrap().as_boolean();
    let marks: Vec<Option<bool>> = marks.iter().collect();
    assert_eq!(marks, [Some(true), None, None, Some(true)]);
    assert_eq!(batches[0].column_by_name("dt_by_arrival").unwrap().null_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_an_older_version_gets_the_new_columns() {
    let lake = Lake::new();
    let columns = Shape::new(Content::Raw).unwrap().delta_columns().unwrap();
    let older = columns[..columns.len() - 4].iter().chain(columns.last()).cloned().collect();
    table::Table::open(&lake.root(), "raw", older, 10).await.unwrap();
    table::Table::open(&lake.root(), "raw", columns.clone(), 10).await.unwrap();
    // The third finds nothing to do and nothing to complain about.
    table::Table::open(&lake.root(), "raw", columns, 10).await.unwrap();
    assert_eq!(fs_err::read_dir(lake.folder.path().join("raw/_delta_log")).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_finds_what_was_tampered_with() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    for from in [0, 10, 20] {
        writer.accept(&world, from, from + 10).await;
        writer.commit().await.unwrap();
    }
    assert_eq!(lake.verified(&world, "host_metrics").await.problems, Vec::<String>::new());
    let files = lake.files("host_metrics");
    let path = |file: &str| lake.folder.path().join("host_metrics").join(file);
    let mut content = fs_err::read(path(&files[0])).unwrap();
    content[100] ^= 1;
    fs_err::write(path(&files[0]), content).unwrap();
    fs_err::remove_file(path(&files[1])).unwrap();
    let entry = lake.folder.path().join("host_metrics/_delta_log/00000000000000000003.json");
    let text = fs_err::read_to_string(&entry).unwrap().replace("\"from\":20", "\"from\":21");
    fs_err::write(&entry, text).unwrap();
    let problems = lake.verified(&world, "host_metrics").await.problems.join("\n");
    for part in ["its hash differs", "missing", "misses offsets 20..21"] {
        assert!(problems.contains(part), "{part} not in {problems}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_of_the_topics_is_in_the_tables() {
    let (world, lake) = (World::new(2), Lake::new());
    world.send_metrics(0, 0, 150);
    world.send_metrics(1, 0, 80);
    let raw = world.topics.raw();
    let event = r#"{"agent_id":"a9","session":7,"lane":"bulk","seq":1,"event_time":1763683200000000,
        "event_type":"process_started","source":"s","user":"eve","payload":{"pid":4,"name":"x\"y"}}"#;
    world.send(&raw, 0, world.event(event));
    world.send(&raw, 0, world.clock());
    world.send(&raw, 1, world.clock());
    world.send(&raw, 0, bytes::Bytes::from_static(b"garbage"));
    world.send(&world.topics.late(), 0, bytes::Bytes::from_static(b"late row"));
    let (task, shutdown) = lake.start(&world, world.log.clone());
    until("the rows", || lake.identities("host_metrics").len() == 230).await;
    until("raw", || lake.identities("raw").len() == 1).await;
    until("late", || !lake.files("late").is_empty()).await;
    until("the dead letter in the lake", || !lake.files("dead_letters").is_empty()).await;
    shutdown.request();
    task.await.unwrap().unwrap();

    assert_eq!(
        lake.identities("host_metrics"),
        expected(1, 150).into_iter().chain((0..80).map(|seq| ("a1".to_owned(), seq))).collect::<Vec<_>>()
    );
    let rows = lake.rows("raw");
    let text = |name: &str| rows[0].column_by_name(name).unwrap().as_string::<i32>().value(0).to_owned();
    assert_eq!(text("family"), "process_event");
    assert_eq!(text("body"), r#"{"pid":4,"name":"x\"y"}"#);
    assert_eq!(text("user"), "eve");
    let letters = world.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].value.as_deref(), Some(&b"garbage"[..]));
    let rows = lake.rows("dead_letters");
    let cell = |name: &str| rows[0].column_by_name(name).unwrap().as_string::<i32>().value(0).to_owned();
    assert_eq!((cell("stage"), cell("origin")), ("lake".to_owned(), format!("{raw}-0-2")));
    assert!(!cell("reason").is_empty());
    assert!(rows[0].column_by_name("at").unwrap().as_primitive::<TimestampMicrosecondType>().value(0) > NOW);
    assert_eq!(rows[0].column_by_name("value").unwrap().as_binary::<i32>().value(0), b"garbage");
    for table in verify(&lake.config, &world.topics, true).await.unwrap() {
        assert_eq!(table.problems, Vec::<String>::new(), "{}", table.table);
    }
    let covered = lake.verified(&world, "raw").await.covered;
    assert_eq!(covered.get(&(raw.to_string(), 0)), Some(&(0, 3)));
    assert_eq!(covered.get(&(raw.to_string(), 1)), Some(&(0, 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_made_anew_from_given_offsets() {
    let (world, lake, fresh) = (World::new(2), Lake::new(), Lake::new());
    world.send_metrics(0, 0, 50);
    world.send_metrics(1, 0, 30);
    let topic = world.topics.events(Family::HostMetrics);
    world.send(&topic, 1, bytes::Bytes::from_static(b"garbage"));
    world.send(&world.topics.dlq(), 0, bytes::Bytes::from_static(b"a letter"));
    let what = Rebuilding {
        tables: vec![],
        from: [((topic.to_string(), 0), 20)].into(),
        dead_lettered: [((topic.to_string(), 1), 31)].into(),
    };
    let again = || {
        let registry: Arc<dyn SchemaRegistry> =
            Arc::<eventlog::registry::MemoryRegistry>::clone(&world.registry);
        rebuild(fresh.config.clone(), world.log.clone(), registry, &world.topics, what.clone())
    };
    let rebuilt = again().await.unwrap();
    let metrics = rebuilt.iter().find(|part| part.of == (topic.to_string(), 0)).unwrap();
    assert_eq!((metrics.from, metrics.to), (20, 50));
    let mut all: Vec<Identity> = (20..50).map(|seq| ("a0".to_owned(), seq)).collect();
    all.extend((0..30).map(|seq| ("a1".to_owned(), seq)));
    assert_eq!(fresh.identities("host_metrics"), all);
    assert_eq!(fresh.rows("dead_letters").len(), 1);
    assert_eq!(world.dead_letters().len(), 1, "poison was dead-lettered a second time");
    // a second time reads only what has come since
    world.send_metrics(0, 50, 5);
    again().await.unwrap();
    assert_eq!(fresh.identities("host_metrics").len(), all.len() + 5);
    let verified = fresh.verified(&world, "host_metrics").await;
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.covered.get(&(topic.to_string(), 0)), Some(&(20, 55)));
    assert_eq!(verified.covered.get(&(topic.to_string(), 1)), Some(&(0, 31)));
    assert!(lake.files("host_metrics").is_empty());
}

/// The event of [`World::metric`] as a version of tomorrow writes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_that_no_lake_has_read_is_dead_lettered_when_tables_are_made_anew() {
    let (world, fresh) = (World::new(1), Lake::new());
    let topic = world.topics.events(Family::HostMetrics);
    world.send(&topic, 0, bytes::Bytes::from_static(b"garbage of old"));
    world.send(&topic, 0, bytes::Bytes::from_static(b"garbage of new"));
    let what = Rebuilding {
        tables: vec!["host_metrics".to_owned()],
        dead_lettered: [((topic.to_string(), 0), 1)].into(),
        ..Rebuilding::default()
    };
    let registry: Arc<dyn SchemaRegistry> = Arc::<eventlog::registry::MemoryRegistry>::clone(&world.registry);
    rebuild(fresh.config.clone(), world.log.clone(), registry, &world.topics, what).await.unwrap();
    let letters = world.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].value.as_deref(), Some(&b"garbage of new"[..]));
    let verified = fresh.verified(&world, "host_metrics").await;
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.covered.get(&(topic.to_string(), 0)), Some(&(0, 2)));
}

fn of_tomorrow(world: &World, seq: i64) -> bytes::Bytes {
    let mut schema: serde_json::Value =
        serde_json::from_str(RecordKind::Family(Family::HostMetrics).avsc()).unwrap();
    schema["fields"].as_array_mut().unwrap().push(
        serde_json::json!({"name": "rack", "type": ["null", "string"], "default": null, "doc": "Where it stands."}),
    );
    let kind = RecordKind::Family(Family::HostMetrics);
    let id = world.registry.register(kind.subject(), &schema.to_string()).unwrap();
    let today = world.metric("a0", seq, NOW + seq * 1000);
    let mut datum = today[schemas::wire::PREFIX..].to_vec();
    datum.extend([2, 4, b'r', b'7']);
    let mut value = Vec::new();
    schemas::wire::frame(id, &datum, &mut value);
    value.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_grows_when_a_newer_version_arrives_and_nobody_stops() {
    let (world, lake) = (World::new(1), Lake::new());
    let topic = world.topics.events(Family::HostMetrics);
    let (first, stop) = lake.start(&world, world.log.handle());
    world.send_metrics(0, 0, 40);
    until("today's rows", || lake.identities("host_metrics").len() == 40).await;
    for seq in 40..60 {
        world.send(&topic, 0, of_tomorrow(&world, seq));
    }
    // both versions in one batch
    world.send_metrics(0, 60, 10);
    world.send(&topic, 0, of_tomorrow(&world, 70));
    until("tomorrow's rows", || lake.identities("host_metrics").len() == 71).await;
    stop.request();
    first.await.unwrap().unwrap();
    let racks = || {
        let mut racks = [0, 0];
        for batch in lake.rows("host_metrics") {
            match batch.column_by_name("rack") {
                None => racks[0] += batch.num_rows(),
                Some(column) => {
                    racks[0] += column.null_count();
                    let column = column.as_string::<i32>();
                    racks[1] += column.iter().flatten().filter(|rack| *rack == "r7").count();
                }
            }
        }
        racks
    };
    assert_eq!(racks(), [50, 21]);
    let columns = info(&lake.config, &world.topics).await.unwrap();
    let columns = columns.iter().find(|table| table.table == "host_metrics").unwrap().columns;
    let known = schemas::columns::arrow_schema(RecordKind::Family(Family::HostMetrics)).fields().len();
    assert_eq!(columns, known + 3, "dt, dt_by_arrival and rack");
    // a process that knows only today's version goes on with the table that has grown
    let (second, stop) = lake.start(&world, world.log.handle());
    world.send_metrics(0, 71, 9);
    until("more rows", || lake.identities("host_metrics").len() == 80).await;
    stop.request();
    second.await.unwrap().unwrap();
    optimize_anyhow(&lake.config, &world.topics, &compacting()).await.unwrap();
    assert_eq!(lake.files("host_metrics").len(), 1);
    assert_eq!((racks(), lake.identities("host_metrics")), ([59, 21], expected(1, 80)));
    assert_eq!(lake.verified(&world, "host_metrics").await.problems, Vec::<String>::new());
}
