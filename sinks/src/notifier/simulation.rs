//! A flood on virtual time: what the parts decide together, without services and without a database.

use std::{collections::VecDeque, time::Duration};

use uuid::Uuid;

use super::{
    compose::{Message, Space, compose},
    config::{EmailConfig, SlackConfig, WebhookConfig},
    item::{Item, Severity},
    line::{
        Lines, SPECIFICATION,
        tests::{alert, start},
    },
    pace::{Limits, Pace, Paced},
    quiet::Quiet,
};

const SECOND: i64 = 1_000_000;
/// 2026-11-20 10:00:00 UTC.
const BEGIN: i64 = 1_795_168_800_000_000;

/// What a channel does with items that come at given times: the loop of `channel.rs` on the decisions of `store.rs`.
fn run(pace: Pace, quiet: Option<&Quiet>, arrivals: &[(i64, Item)], until: i64) -> Vec<(i64, Message)> {
    let lines = Lines::parse(SPECIFICATION, "+00:00").unwrap();
    let (mut paced, mut waiting, mut sent) = (Paced::default(), Vec::<Item>::new(), Vec::new());
    let mut arrivals: VecDeque<_> = arrivals.iter().cloned().collect();
    let mut now = BEGIN;
    while now < until {
        while arrivals.front().is_some_and(|(at, _)| *at <= now) {
            waiting.extend(arrivals.pop_front().map(|(_, item)| item));
        }
        let bound = quiet.and_then(|quiet| quiet.bound(now)).unwrap_or(Severity::Informational);
        let mut items: Vec<Item> = waiting.iter().filter(|item| item.severity >= bound).cloned().collect();
        items.sort_by_key(|item| (std::cmp::Reverse(item.severity), item.id));
        items.truncate(10_000);
        if !items.is_empty() && pace.next_new(&paced) <= now {
            pace.speaks(&mut paced, now);
            let message = compose(Uuid::nil(), &items, Space { lines: 5, characters: 3500 }, &lines, now);
            let told: std::collections::HashSet<i64> = items.iter().map(|item| item.id).collect();
            waiting.retain(|item| !told.contains(&item.id));
            sent.push((now, message));
        }
        now += SECOND / 10;
    }
    assert!(arrivals.is_empty());
    sent
}

fn pace(limits: Limits) -> Pace {
    Pace { limits, burst: 5, digest_every: Duration::from_secs(30) }
}

fn most_within(sent: &[(i64, Message)], span: i64) -> usize {
    let within = |from: i64| sent.iter().filter(|(at, _)| (from..from + span).contains(at)).count();
    sent.iter().map(|(at, _)| within(*at)).max().unwrap_or(0)
}

#[test]
fn ten_thousand_alerts_in_a_minute_stay_within_each_services_limits_and_all_are_named() {
    let arrivals: Vec<(i64, Item)> = (0..10_000i64)
        .map(|n| {
            let severity = if n == 7_000 { Severity::Critical } else { Severity::Medium };
            (BEGIN + n * 6_000, alert(n, &format!("rule-{}", n % 7), &format!("agent-{}", n % 50), severity))
        })
        .collect();
    let telegram_group = Limits { interval: Duration::from_millis(1050), per_minute: 19 };
    for (limits, a_second, a_minute) in [
        (telegram_group, 1, 20),
        (SlackConfig::LIMITS, 1, 60),
        (EmailConfig::LIMITS, 1, 20),
        (WebhookConfig::LIMITS, 10, 300),
    ] {
        let sent = run(pace(limits), None, &arrivals, BEGIN + 300 * SECOND);
        assert!(sent[0].0 - BEGIN <= SECOND, "the first after {} µs", sent[0].0 - BEGIN);
        assert!(most_within(&sent, SECOND) <= a_second, "{} within a second", most_within(&sent, SECOND));
        assert!(most_within(&sent, 60 * SECOND) <= a_minute);
        // And people are not drowned either: some at once, then one each half minute.
        assert!(sent.len() <= 5 + 4, "{} messages", sent.len());
        assert_eq!(sent.iter().map(|(_, message)| message.total).sum::<usize>(), 10_000);
        for (_, message) in &sent {
            assert!(message.text.chars().count() <= 3500);
            let counted: usize =
                message.text.lines().filter_map(|line| line.split_once(" × ")?.0.parse::<usize>().ok()).sum();
            assert_eq!(counted + message.items.len(), message.total, "{}", message.text);
        }
        let largest = sent.iter().map(|(_, message)| message).max_by_key(|message| message.total).unwrap();
        for rule in 0..7 {
            assert!(largest.text.contains(&format!("Title of rule-{rule} ")), "{}", largest.text);
        }
        // What is worst is told in full although thousands were first.
        let digest = sent.iter().find(|(_, message)| message.severity == Severity::Critical).unwrap();
        assert_eq!(digest.1.items[0].id, 7_000);
        // What is kept beside the text is bounded whatever is in it.
        assert!(serde_json::to_vec(&digest.1).unwrap().len() < 256 * 1024);
    }
}

#[test]
fn what_is_rare_is_told_at_once_and_by_itself() {
    let arrivals: Vec<(i64, Item)> =
        (0..10).map(|n| (BEGIN + n * 60 * SECOND, Item { id: n, ..start("alice", "chrome.exe") })).collect();
    let sent = run(pace(SlackConfig::LIMITS), None, &arrivals, BEGIN + 700 * SECOND);
    assert_eq!(sent.len(), 10);
    for ((at, message), (came, _)) in sent.iter().zip(&arrivals) {
        assert!(at - came < SECOND && !message.is_digest);
    }
}

#[test]
fn in_quiet_hours_only_the_urgent_is_told_and_the_rest_when_they_end() {
    let quiet = Quiet::parse("+00:00", &[], "09:00", "10:10", Severity::High).unwrap();
    let mut arrivals: Vec<(i64, Item)> =
        (0..40).map(|n| (BEGIN + n * SECOND, alert(n, "low", "a", Severity::Medium))).collect();
    arrivals.push((BEGIN + 60 * SECOND, alert(100, "urgent", "a", Severity::Critical)));
    let sent = run(pace(SlackConfig::LIMITS), Some(&quiet), &arrivals, BEGIN + 900 * SECOND);
    let told: Vec<(i64, usize)> =
        sent.iter().map(|(at, message)| ((at - BEGIN) / SECOND, message.total)).collect();
    assert_eq!(told, [(60, 1), (600, 40)]);
}
