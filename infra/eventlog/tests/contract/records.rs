//! Records: what is appended, how a partition is read to its end, what topics are.

use super::*;

pub fn appended_records_arrive_once_in_order_with_all_they_carry<W: World>(world: &W) {
    let (log, topic) = (world.log(), world.topic(3));
    let delivered = Arc::new(Mutex::new(BTreeMap::new()));
    let told = Arc::clone(&delivered);
    let appender = log
        .appender(Box::new(move |token, outcome| {
            assert!(told.lock().unwrap().insert(token, outcome.unwrap()).is_none(), "{token} reported twice");
        }))
        .unwrap();
    for number in 0..300 {
        let key = format!("agent-{}", number % 20);
        let mut new = NewRecord::keyed(topic.as_str(), key, value(number));
        new.headers =
            vec![("trace".to_owned(), Bytes::from(number.to_string())), ("none".to_owned(), Bytes::new())];
        appender.append(new, number).unwrap();
    }
    let tombstone = NewRecord {
        topic: topic.as_str().into(),
        partition: Some(1),
        key: Some("gone".into()),
        value: None,
        headers: vec![],
    };
    appender.append(tombstone, 300).unwrap();
    appender.flush(PATIENCE).unwrap();
    assert_eq!(appender.in_flight(), 0);

    let mut consumer = log.consumer(&world.name("group"), &[&topic], None, StartAt::Earliest).unwrap();
    let partitions = assigned(&mut consumer);
    assert_eq!(partitions.len(), 3);
    assert_quiet(&mut consumer);
    consumer.start(&[]).unwrap();
    let records = take(&mut consumer, 301);
    assert_quiet(&mut consumer);

    let delivered = delivered.lock().unwrap();
    let mut last = BTreeMap::new();
    for record in &records {
        assert_eq!(&*record.topic, topic);
        assert!(last.insert(record.partition, record.offset).is_none_or(|before| before < record.offset));
        let Some(value) = &record.value else {
            assert_eq!((record.partition, record.key.as_deref()), (1, Some("gone".as_bytes())));
            continue;
        };
        let key = record.key.as_ref().unwrap();
        assert_eq!(record.partition, partition_of(key, 3));
        let number: usize = std::str::from_utf8(record.header("trace").unwrap()).unwrap().parse().unwrap();
        assert_eq!(*value, self::value(number));
        assert_eq!(record.header("none").unwrap().len(), 0);
        assert_eq!(delivered[&number], (record.partition, record.offset));
    }
    let origins: BTreeSet<String> = records.iter().map(Record::origin).collect();
    assert_eq!(origins.len(), 301);
}

pub fn a_partition_is_read_to_its_true_end<W: World>(world: &W) {
    let (log, input, state) = (world.log(), world.topic(1), world.topic(2));
    let of = TopicPartition::new(state.as_str(), 0);
    let mut worker = reading(&log, &world.name("group"), &input);
    let token = worker.group_token().unwrap();
    let mut producer = log.transactional_producer(&world.name("id")).unwrap();
    let read = |from: i64, to: i64| {
        let mut records = Vec::new();
        log.read_partition(&of, from, to, &mut |record| {
            records.push(record);
            Ok(())
        })
        .map(|()| records)
    };
    assert_eq!(read(0, 0).unwrap(), []);
    transact(&mut producer, &state, 0..3, &[], &token).unwrap();
    producer.begin().unwrap();
    producer.send(record(&state, 0, 99)).unwrap();
    producer.abort().unwrap();
    transact(&mut producer, &state, 3..5, &[], &token).unwrap();
    producer.begin().unwrap();
    producer.send(record(&state, 0, 98)).unwrap();
    producer.abort().unwrap();
    // 3 + marker, 1 + marker, 2 + marker, 1 + marker; what an abort purged unsent leaves no trace.
    let end = end_of(&mut worker, &of);
    assert!((7..=11).contains(&end), "{end}");
    assert_eq!(numbers(&read(0, end).unwrap()), [0, 1, 2, 3, 4]);
    assert_eq!(numbers(&read(1, 3).unwrap()), [1, 2]);
    // A second reading is as good as the first, and an unwilling listener ends it.
    assert_eq!(read(0, end).unwrap().len(), 5);
    let mut calls = 0;
    let error = log
        .read_partition(&of, 0, end, &mut |_| {
            calls += 1;
            Err(LogError::fatal("enough"))
        })
        .unwrap_err();
    assert_eq!((error.message.as_str(), calls), ("enough", 1));
}

pub fn a_moment_has_an_offset<W: World>(world: &W) {
    let (log, topic) = (world.log(), world.topic(2));
    let of = TopicPartition::new(topic.as_str(), 1);
    assert_eq!((log.bounds(&of).unwrap(), log.offset_at(&of, 0).unwrap()), ((0, 0), 0));
    fill(&log, &topic, 1, 0..5);
    assert_eq!(log.bounds(&of).unwrap(), (0, 5));
    let mut times = Vec::new();
    log.read_partition(&of, 0, 5, &mut |record| {
        times.push(record.timestamp);
        Ok(())
    })
    .unwrap();
    for at in [times[0], times[2], times[4]] {
        let first = times.iter().position(|time| *time >= at).unwrap() as i64;
        assert_eq!(log.offset_at(&of, at).unwrap(), first, "{at} in {times:?}");
    }
    assert_eq!(log.offset_at(&of, times[4] + 1).unwrap(), 5);
}

pub fn the_end_counts_what_is_not_yet_visible<W: World>(world: &W) {
    let (log, topic) = (world.log(), world.topic(1));
    let of = TopicPartition::new(topic.as_str(), 0);
    let mut consumer = reading(&log, &world.name("group"), &topic);
    let mut producer = log.transactional_producer(&world.name("id")).unwrap();
    producer.begin().unwrap();
    for number in 0..3 {
        producer.send(record(&topic, 0, number)).unwrap();
    }
    until("open records to arrive", || (end_of(&mut consumer, &of) == 3).then_some(()));
    assert_quiet(&mut consumer);
    producer.abort().unwrap();
    until("the marker to arrive", || (end_of(&mut consumer, &of) == 4).then_some(()));
    assert_quiet(&mut consumer);
}

/// Whoever notes only what he was handed stops before the marker, and retention deletes it in front of him.
pub fn positions_go_past_markers_and_go_back_when_told<W: World>(world: &W) {
    let (log, topic) = (world.log(), world.topic(1));
    let of = TopicPartition::new(topic.as_str(), 0);
    let mut consumer = reading(&log, &world.name("group"), &topic);
    let token = consumer.group_token().unwrap();
    let mut producer = log.transactional_producer(&world.name("id")).unwrap();
    transact(&mut producer, &topic, 0..3, &[], &token).unwrap();
    let position = |consumer: &mut <W::Log as Log>::Consumer| {
        let positions = consumer.positions();
        assert_eq!(positions.len(), 1);
        positions[0].offset
    };
    assert_eq!(numbers(&take(&mut consumer, 3)), [0, 1, 2]);
    until("the marker to be passed", || {
        assert_quiet(&mut consumer);
        (position(&mut consumer) == 4).then_some(())
    });
    // Where only the marker is left to read.
    consumer.start(&[of.at(3)]).unwrap();
    assert!((3..=4).contains(&position(&mut consumer)));
    // Back before it: the position may not say that what comes again was handed out.
    consumer.start(&[of.at(1)]).unwrap();
    assert_eq!(position(&mut consumer), 1);
    assert_eq!(numbers(&take(&mut consumer, 2)), [1, 2]);
    transact(&mut producer, &topic, 3..4, &[], &token).unwrap();
    assert_eq!(numbers(&take(&mut consumer, 1)), [3]);
    until("the second marker to be passed", || {
        assert_quiet(&mut consumer);
        (position(&mut consumer) == 6).then_some(())
    });
}

pub fn a_record_that_is_too_large_is_poison<W: World>(world: &W) {
    let (log, topic) = (world.log(), world.topic(1));
    let large = NewRecord::keyed(topic.as_str(), "key", random_bytes(200 * 1024)).to_partition(0);
    let (told, outcome) = std::sync::mpsc::sync_channel(1);
    let appender = log.appender(Box::new(move |_, outcome| told.send(outcome).unwrap())).unwrap();
    let error = match appender.append(large, 1) {
        Ok(()) => outcome.recv_timeout(PATIENCE).unwrap().unwrap_err(),
        Err(AppendError::Log(error)) => error,
        Err(AppendError::QueueFull(_)) => panic!("one record fills no queue"),
    };
    assert_eq!(error.kind, LogErrorKind::TooLarge, "{error}");
    // The appender goes on.
    drop(appender);
    fill(&log, &topic, 0, 0..1);
}

/// Bytes that no compression makes smaller.
fn random_bytes(count: usize) -> Bytes {
    let mut state = 88_172_645_463_325_252_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..count).map(next).collect()
}

pub fn topics_are_made_once_and_compared_after<W: World>(world: &W) {
    let (log, name) = (world.log(), world.name("topic"));
    let unknown = log.partitions(&name).unwrap_err();
    assert_eq!(unknown.kind, LogErrorKind::UnknownTopic, "{unknown}");
    let made = log.create_topics(&[spec(&name)], 3).unwrap();
    assert_eq!((made[0].is_new, made[0].drift.len()), (true, 0));
    assert_eq!(log.partitions(&name).unwrap(), 3);
    let other = TopicSpec { retention: Some(Duration::from_hours(2)), ..spec(&name) };
    let again = log.create_topics(&[other, spec(&world.name("topic"))], 3).unwrap();
    assert_eq!((again[0].is_new, again[1].is_new), (false, true));
    let drift = &again[0].drift;
    assert_eq!(drift.len(), 1, "{drift:?}");
    assert_eq!((drift[0].setting.as_str(), drift[0].found.as_str()), ("retention.ms", "3600000"));
    let error = log.create_topics(&[spec(&name)], 4).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Fatal);
    assert!(error.message.contains("has 3 partitions, not 4"), "{error}");
}

/// Makes a test of each promise.
#[macro_export]
macro_rules! promises {
    ($world:expr) => {
        $crate::promises!(@ $world;
            appended_records_arrive_once_in_order_with_all_they_carry
            a_transaction_shows_all_or_nothing
            a_large_transaction_can_be_aborted_in_full_flight
            the_newer_producer_fences_the_older
            a_commit_with_an_old_membership_fails
            whoever_leaves_gives_way
            records_fetched_before_a_rebalance_are_not_handed_out_after_it
            a_static_member_comes_back_without_a_rebalance
            paused_partitions_wait_and_lose_nothing
            a_group_without_offsets_begins_where_it_is_told
            what_retention_took_is_an_error_that_names_it
            a_partition_is_read_to_its_true_end
            a_moment_has_an_offset
            the_end_counts_what_is_not_yet_visible
            positions_go_past_markers_and_go_back_when_told
            a_record_that_is_too_large_is_poison
            topics_are_made_once_and_compared_after
        );
    };
    (@ $world:expr; $($name:ident)*) => {
        $(#[test] fn $name() { contract::$name(&$world); })*
    };
}
