//! Groups: who reads what, and what a rebalance takes away.

use super::*;

pub fn whoever_leaves_gives_way<W: World>(world: &W) {
    let (log, topic, group) = (world.log(), world.topic(2), world.name("group"));
    fill(&log, &topic, 0, 0..4);
    fill(&log, &topic, 1, 10..14);
    let mut first = reading(&log, &group, &topic);
    let both = [TopicPartition::new(topic.as_str(), 0), TopicPartition::new(topic.as_str(), 1)];
    take(&mut first, 8);
    first.commit(&[both[0].at(1), both[1].at(3)]).unwrap();
    drop(first);
    let mut second = log.consumer(&group, &[&topic], None, StartAt::Latest).unwrap();
    assert_eq!(assigned(&mut second).into_iter().collect::<BTreeSet<_>>(), both.iter().cloned().collect());
    assert_eq!(second.committed(&both).unwrap(), [Some(1), Some(3)]);
    second.start(&[]).unwrap();
    let mut seen = numbers(&take(&mut second, 4));
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 13]);
}

pub fn records_fetched_before_a_rebalance_are_not_handed_out_after_it<W: World>(world: &W) {
    let (log, topic, group) = (world.log(), world.topic(2), world.name("group"));
    fill(&log, &topic, 0, 0..500);
    fill(&log, &topic, 1, 500..1000);
    let mut first = reading(&log, &group, &topic);
    let mut read: Vec<usize> = numbers(&take(&mut first, 10));
    let mut second = log.consumer(&group, &[&topic], None, StartAt::Earliest).unwrap();
    until("revocation", || {
        let _ = second.poll(10, STEP).unwrap();
        match first.poll(1, STEP).unwrap() {
            Polled::Records(records) => {
                read.extend(numbers(&records));
                None
            }
            Polled::Revoked { .. } => Some(()),
            Polled::Assigned(_) => panic!("assigned without having been revoked"),
        }
    });
    // Neither member may bring a record before it has been started anew.
    let mut started = 0;
    until("both assignments", || {
        for member in [&mut first, &mut second] {
            match member.poll(10, STEP).unwrap() {
                Polled::Assigned(_) => started += 1,
                Polled::Records(records) => assert!(records.is_empty()),
                Polled::Revoked { .. } => {}
            }
        }
        (started >= 2).then_some(())
    });
    // The group has committed nothing, so together they read everything.
    first.start(&[]).unwrap();
    second.start(&[]).unwrap();
    let mut all = numbers(&take(&mut first, 500));
    all.extend(numbers(&take(&mut second, 500)));
    all.sort_unstable();
    assert_eq!(all, (0..1000).collect::<Vec<_>>());
}

pub fn a_static_member_comes_back_without_a_rebalance<W: World>(world: &W) {
    let (log, topic, group) = (world.log(), world.topic(2), world.name("group"));
    fill(&log, &topic, 0, 0..3);
    fill(&log, &topic, 1, 3..6);
    let mut stays = log.consumer(&group, &[&topic], Some("stays"), StartAt::Earliest).unwrap();
    let mut goes = log.consumer(&group, &[&topic], Some("goes"), StartAt::Earliest).unwrap();
    let mut owned: [Vec<TopicPartition>; 2] = [Vec::new(), Vec::new()];
    until("one partition each", || {
        for (owned, member) in owned.iter_mut().zip([&mut stays, &mut goes]) {
            match member.poll(10, STEP).unwrap() {
                Polled::Assigned(partitions) => *owned = partitions,
                Polled::Revoked { .. } => owned.clear(),
                Polled::Records(_) => {}
            }
        }
        (owned[0].len() == 1 && owned[1].len() == 1).then_some(())
    });
    stays.start(&[]).unwrap();
    take(&mut stays, 3);
    drop(goes);
    let mut back = log.consumer(&group, &[&topic], Some("goes"), StartAt::Earliest).unwrap();
    assert_eq!(assigned(&mut back), owned[1]);
    assert_quiet(&mut stays);
    back.start(&[]).unwrap();
    assert_eq!(take(&mut back, 3).len(), 3);
}

pub fn paused_partitions_wait_and_lose_nothing<W: World>(world: &W) {
    let (log, topic) = (world.log(), world.topic(2));
    fill(&log, &topic, 0, 0..50);
    fill(&log, &topic, 1, 100..150);
    let mut consumer = reading(&log, &world.name("group"), &topic);
    let mut seen = numbers(&take(&mut consumer, 7));
    let quiet = [TopicPartition::new(topic.as_str(), 0)];
    consumer.pause(&quiet);
    let rest = 50 - seen.iter().filter(|number| **number >= 100).count();
    let records = take(&mut consumer, rest);
    assert!(records.iter().all(|record| record.partition == 1));
    seen.extend(numbers(&records));
    assert_quiet(&mut consumer);
    consumer.resume(&quiet);
    let rest = 100 - seen.len();
    seen.extend(numbers(&take(&mut consumer, rest)));
    assert_quiet(&mut consumer);
    seen.sort_unstable();
    assert_eq!(seen, (0..50).chain(100..150).collect::<Vec<_>>());
}

pub fn a_group_without_offsets_begins_where_it_is_told<W: World>(world: &W) {
    let (log, topic, group) = (world.log(), world.topic(1), world.name("group"));
    fill(&log, &topic, 0, 0..3);
    let mut consumer = log.consumer(&group, &[&topic], None, StartAt::Latest).unwrap();
    assigned(&mut consumer);
    consumer.start(&[]).unwrap();
    assert_quiet(&mut consumer);
    fill(&log, &topic, 0, 3..5);
    assert_eq!(numbers(&take(&mut consumer, 2)), [3, 4]);
    let stranger = TopicPartition::new(topic.as_str(), 7);
    assert_eq!(consumer.start(&[stranger.at(0)]).unwrap_err().kind, LogErrorKind::Rebalanced);
}

pub fn what_retention_took_is_an_error_that_names_it<W: World>(world: &W) {
    let (log, topic, group) = (world.log(), world.topic(1), world.name("group"));
    let of = TopicPartition::new(topic.as_str(), 0);
    fill(&log, &topic, 0, 0..10);
    let mut consumer = reading(&log, &group, &topic);
    take(&mut consumer, 2);
    consumer.commit(&[of.at(2)]).unwrap();
    drop(consumer);
    world.trim(&of, 6);
    let mut consumer = reading(&log, &group, &topic);
    assert_eq!(consumer.bounds(&of).unwrap(), (6, 10));
    let error = until("error", || match consumer.poll(10, STEP) {
        Ok(polled) => {
            assert_eq!(polled, Polled::Records(Vec::new()));
            None
        }
        Err(error) => Some(error),
    });
    let expected =
        LogErrorKind::OffsetOutOfRange { topic: topic.clone(), partition: 0, wanted: 2, earliest: 6 };
    assert_eq!(error.kind, expected);
    assert!(error.message.contains("2 to 5"), "{error}");
    consumer.start(&[of.at(6)]).unwrap();
    assert_eq!(numbers(&take(&mut consumer, 4)), [6, 7, 8, 9]);
    let error = log.read_partition(&of, 0, 10, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error.kind, LogErrorKind::OffsetOutOfRange { wanted: 0, earliest: 6, .. }), "{error}");
}
