//! Transactions: all or nothing, one owner, one membership.

use super::*;

pub fn a_transaction_shows_all_or_nothing<W: World>(world: &W) {
    let (log, input, output, group) = (world.log(), world.topic(1), world.topic(1), world.name("group"));
    fill(&log, &input, 0, 0..10);
    let mut worker = reading(&log, &group, &input);
    let token = worker.group_token().unwrap();
    let mut reader = reading(&log, &world.name("reader"), &output);
    let (in0, out0) = (TopicPartition::new(input.as_str(), 0), TopicPartition::new(output.as_str(), 0));
    let mut producer = log.transactional_producer(&world.name("id")).unwrap();
    take(&mut worker, 10);
    assert_eq!(committed(&mut worker, &in0), None);

    producer.begin().unwrap();
    producer.send(record(&output, 0, 1)).unwrap();
    producer.send(record(&output, 0, 2)).unwrap();
    assert_quiet(&mut reader);
    producer.commit(&[in0.at(4)], &token).unwrap();
    assert_eq!(numbers(&take(&mut reader, 2)), [1, 2]);
    assert_eq!(committed(&mut worker, &in0), Some(4));
    assert!(end_of(&mut worker, &out0) >= 3, "the marker has an offset of its own");

    producer.begin().unwrap();
    producer.send(record(&output, 0, 3)).unwrap();
    producer.abort().unwrap();
    producer.abort().unwrap();
    transact(&mut producer, &output, 4..5, &[in0.at(10)], &token).unwrap();
    assert_eq!(numbers(&take(&mut reader, 1)), [4]);
    assert_eq!(committed(&mut worker, &in0), Some(10));

    // After the abort of its commit a worker goes back and reads the same again.
    worker.start(&[in0.at(4)]).unwrap();
    assert_eq!(numbers(&take(&mut worker, 6)), [4, 5, 6, 7, 8, 9]);
    assert_quiet(&mut worker);

    // An empty transaction moves offsets only.
    transact(&mut producer, &output, 0..0, &[in0.at(7)], &token).unwrap();
    assert_eq!(committed(&mut worker, &in0), Some(7));
}

pub fn a_large_transaction_can_be_aborted_in_full_flight<W: World>(world: &W) {
    // On Kafka the smaller limit makes the broker refuse whole batches, so that records fail under way.
    for max_message_bytes in [1 << 20, 64 * 1024] {
        let (log, topic) = (world.log(), world.name("topic"));
        log.create_topics(&[TopicSpec { max_message_bytes, ..spec(&topic) }], 1).unwrap();
        let mut reader = reading(&log, &world.name("group"), &topic);
        let token = reader.group_token().unwrap();
        let mut producer = log.transactional_producer(&world.name("id")).unwrap();
        for round in 0..3 {
            producer.begin().unwrap();
            for number in 0..20_000 {
                if producer.send(record(&topic, 0, number)).is_err() {
                    break;
                }
            }
            producer.abort().unwrap();
            transact(&mut producer, &topic, round..round + 1, &[], &token).unwrap();
        }
        assert_eq!(numbers(&take(&mut reader, 3)), [0, 1, 2]);
        assert_quiet(&mut reader);
    }
}

pub fn the_newer_producer_fences_the_older<W: World>(world: &W) {
    let (log, input, output, group, id) =
        (world.log(), world.topic(1), world.topic(1), world.name("group"), world.name("id"));
    let mut worker = reading(&log, &group, &input);
    let token = worker.group_token().unwrap();
    let in0 = TopicPartition::new(input.as_str(), 0);
    let mut older = log.transactional_producer(&id).unwrap();
    older.begin().unwrap();
    older.send(record(&output, 0, 1)).unwrap();
    let mut newer = log.transactional_producer(&id).unwrap();
    transact(&mut newer, &output, 2..3, &[in0.at(0)], &token).unwrap();
    let error = older.commit(&[in0.at(0)], &token).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Fenced, "{error}");
    let mut reader = reading(&log, &world.name("reader"), &output);
    assert_eq!(numbers(&take(&mut reader, 1)), [2]);
    assert_quiet(&mut reader);
    transact(&mut newer, &output, 3..4, &[in0.at(0)], &token).unwrap();
    assert_eq!(numbers(&take(&mut reader, 1)), [3]);
}

pub fn a_commit_with_an_old_membership_fails<W: World>(world: &W) {
    let (log, input, output, group) = (world.log(), world.topic(2), world.topic(1), world.name("group"));
    fill(&log, &input, 0, 0..5);
    let mut first = reading(&log, &group, &input);
    let before = first.group_token().unwrap();
    let in0 = TopicPartition::new(input.as_str(), 0);
    let mut producer = log.transactional_producer(&world.name("id")).unwrap();
    take(&mut first, 5);

    let mut second = log.consumer(&group, &[&input], None, StartAt::Earliest).unwrap();
    let (given_back, lost) = until("revocation", || {
        assert!(matches!(second.poll(10, STEP).unwrap(), Polled::Records(records) if records.is_empty()));
        match first.poll(10, STEP).unwrap() {
            Polled::Revoked { partitions, lost } => Some((partitions, lost)),
            other => {
                assert_eq!(other, Polled::Records(Vec::new()));
                None
            }
        }
    });
    assert_eq!((given_back.len(), lost), (2, false));
    // Until the next poll the partitions are still ours.
    transact(&mut producer, &output, 0..1, &[in0.at(5)], &before).unwrap();

    let (mut of_first, mut of_second) = (None, None);
    until("both assignments", || {
        if let Polled::Assigned(partitions) = first.poll(10, STEP).unwrap() {
            of_first = Some(partitions);
        }
        if let Polled::Assigned(partitions) = second.poll(10, STEP).unwrap() {
            of_second = Some(partitions);
        }
        (of_first.is_some() && of_second.is_some()).then_some(())
    });
    let (of_first, of_second) = (of_first.unwrap(), of_second.unwrap());
    assert_eq!((of_first.len(), of_second.len()), (1, 1));
    assert_ne!(of_first, of_second);

    let error = transact(&mut producer, &output, 1..2, &[in0.at(1)], &before).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Rebalanced, "{error}");
    producer.abort().unwrap();
    let now = first.group_token().unwrap();
    transact(&mut producer, &output, 2..3, &[], &now).unwrap();
    let mut reader = reading(&log, &world.name("reader"), &output);
    assert_eq!(numbers(&take(&mut reader, 2)), [0, 2]);
    assert_eq!(committed(&mut second, &in0), Some(5));

    // What the new owner reads begins where the old one ended.
    fill(&log, &input, 0, 5..7);
    let owner = if of_first.contains(&in0) { &mut first } else { &mut second };
    owner.start(&[]).unwrap();
    assert_eq!(numbers(&take(owner, 2)), [5, 6]);
}
