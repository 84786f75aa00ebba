//! Items become one message: a line, a few lines, or a digest. Pure.
//!
//! A digest tells the worst items in full and *names the rest*: how many of which rule on which agent. When even that
//! is too much for the service, what is left is counted by rule, and at last in one line; the numbers of a digest always
//! add up to the items in it.

use std::{collections::HashMap, fmt::Write as _};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    item::{Item, Severity},
    line::Lines,
};

/// Lines that count by rule and agent at most; a person does not read more.
const MOST_GROUPS: usize = 20;
/// Lines that count by rule at most.
const MOST_RULES: usize = 20;
/// Groups that a message carries for programs that read it.
const CARRIED_GROUPS: usize = 500;
/// Characters kept free for what is counted.
const ROOM_FOR_COUNTS: usize = 1500;

/// What goes to a service in one piece. It is stored before it is sent, so that a repetition is the same message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    /// Identity: a repetition has the same.
    pub(super) id: Uuid,
    /// Whether items are counted that are not told in full.
    pub(super) is_digest: bool,
    /// What the worst item is.
    pub(super) severity: Severity,
    /// One line, for an e-mail.
    pub(super) subject: String,
    /// The text.
    pub(super) text: String,
    /// Items in it.
    pub(super) total: usize,
    /// Those told in full, the worst first.
    pub(super) items: Vec<Item>,
    /// All of them, counted by rule and agent, the worst first; the most numerous 500 groups.
    pub(super) groups: Vec<Group>,
    /// When it was made, in µs since 1970-01-01 UTC.
    pub(super) made_at: i64,
}

/// Items of one rule on one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    /// The rule, or `program-start`.
    pub(super) rule_id: String,
    /// What a person reads of it.
    pub(super) heading: String,
    /// The agent.
    pub(super) agent_id: String,
    /// Its machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<String>,
    /// How bad.
    pub(super) severity: Severity,
    /// How many.
    pub(super) count: usize,
}

/// How much a message may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    /// Items told in full.
    pub(super) lines: usize,
    /// Characters of the text; what lies outside of Unicode's first plane counts twice, as Telegram counts.
    pub(super) characters: usize,
}

/// Makes a message of at least one item. `items` come the worst first.
pub(super) fn compose(id: Uuid, items: &[Item], space: Space, lines: &Lines, now: i64) -> Message {
    let severity = items.iter().map(|item| item.severity).max().unwrap_or(Severity::Informational);
    let mut groups = groups(items);
    let mut told = 0;
    let mut text = String::new();
    let first_lines: Vec<String> = items.iter().take(space.lines).map(|item| lines.line(item)).collect();
    let needed: usize = first_lines.iter().map(|line| length_of(line) + 1).sum();
    let is_all = items.len() == first_lines.len() && needed <= space.characters;
    let room = if is_all { space.characters } else { space.characters.saturating_sub(ROOM_FOR_COUNTS) };
    let mut length = 0;
    for line in &first_lines {
        let longer = length + length_of(line) + 1;
        if longer > room && told > 0 {
            break;
        }
        if told > 0 {
            text.push('\n');
        }
        text += line;
        length = longer;
        told += 1;
    }
    let is_digest = told < items.len();
    let subject = if items.len() == 1 {
        super::line::clean(text.split_once("] ").map_or(text.as_str(), |(_, rest)| rest), 150)
    } else {
        format!("{} notifications, the worst {}", items.len(), severity.name())
    };
    if is_digest {
        let first = items.iter().map(|item| item.event_time).min().unwrap_or(now);
        let last = items.iter().map(|item| item.event_time).max().unwrap_or(now);
        let head =
            format!("{} notifications from {} to {}", items.len(), lines.time(first), lines.time(last));
        let rest = counted(&rest_of(&groups, &items[..told]), space.characters.saturating_sub(length + 120));
        text = format!("{head}\n{text}\nand by rule and agent:\n{rest}");
    }
    groups.truncate(CARRIED_GROUPS);
    Message {
        id,
        is_digest,
        severity,
        subject,
        text: cut(text, space.characters),
        total: items.len(),
        items: items[..told].to_vec(),
        groups,
        made_at: now,
    }
}

/// A message that asks for nothing.
pub(super) fn trial(channel: &str, lines: &Lines, now: i64) -> Message {
    let text = format!("[{}] A test message of varta on the channel {channel}", lines.time(now));
    Message {
        id: Uuid::new_v4(),
        is_digest: false,
        severity: Severity::Informational,
        subject: format!("Test of the channel {channel}"),
        text,
        total: 0,
        items: Vec::new(),
        groups: Vec::new(),
        made_at: now,
    }
}

fn key(item: &Item) -> (&str, String, &str) {
    (&item.rule_id, Lines::heading(item), &item.agent_id)
}

/// Counted by rule and agent; the worst and the most numerous first.
fn groups(items: &[Item]) -> Vec<Group> {
    let mut index: HashMap<(&str, String, &str), usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for item in items {
        let at = *index.entry(key(item)).or_insert_with(|| {
            groups.push(Group {
                rule_id: item.rule_id.clone(),
                heading: Lines::heading(item),
                agent_id: item.agent_id.clone(),
                host: item.host.clone(),
                severity: item.severity,
                count: 0,
            });
            groups.len() - 1
        });
        groups[at].count += 1;
    }
    groups.sort_by(|a, b| {
        (b.severity, b.count).cmp(&(a.severity, a.count)).then_with(|| a.agent_id.cmp(&b.agent_id))
    });
    groups
}

/// The groups without the items that are told in full.
fn rest_of(groups: &[Group], told: &[Item]) -> Vec<Group> {
    let mut rest = groups.to_vec();
    for item in told {
        let (rule, heading, agent) = key(item);
        let of = |group: &&mut Group| {
            group.rule_id == rule && group.heading == heading && group.agent_id == agent && group.count > 0
        };
        if let Some(group) = rest.iter_mut().find(of) {
            group.count -= 1;
        }
    }
    rest.retain(|group| group.count > 0);
    rest
}

/// The counts as lines that fit: by rule and agent, then by rule, then one number.
fn counted(groups: &[Group], room: usize) -> String {
    let mut text = Fitting { text: String::new(), left: room.saturating_sub(60) };
    let mut done = 0;
    for group in groups.iter().take(MOST_GROUPS) {
        let place = group.host.as_deref().unwrap_or(&group.agent_id);
        let place = super::line::clean(place, 60);
        if !text.push(&format!("{} × {} on {place}", group.count, group.heading)) {
            break;
        }
        done += 1;
    }
    let rest = &groups[done..];
    let mut by_rule: Vec<(&str, usize, usize)> = Vec::new();
    let mut index: HashMap<&str, usize> = HashMap::new();
    for group in rest {
        let at = *index.entry(&group.heading).or_insert_with(|| {
            by_rule.push((&group.heading, 0, 0));
            by_rule.len() - 1
        });
        by_rule[at].1 += group.count;
        by_rule[at].2 += 1;
    }
    by_rule.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
    let mut named = 0;
    for (heading, count, agents) in by_rule.iter().take(MOST_RULES) {
        if !text.push(&format!("{count} × {heading} on {agents} more agents")) {
            break;
        }
        named += 1;
    }
    let left: usize = by_rule[named..].iter().map(|(_, count, _)| count).sum();
    let mut text = text.text;
    if left > 0 {
        // Writing into a String does not fail.
        let _ = write!(text, "{left} × other");
    }
    text.trim_end().to_owned()
}

/// Units of UTF-16.
fn length_of(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

fn cut(mut text: String, longest: usize) -> String {
    let mut length = 0;
    let end = text.char_indices().find(|(_, character)| {
        length += character.len_utf16();
        length > longest
    });
    if let Some((end, _)) = end {
        text.truncate(end);
    }
    text
}

struct Fitting {
    text: String,
    left: usize,
}

impl Fitting {
    fn push(&mut self, line: &str) -> bool {
        let length = length_of(line) + 1;
        if length > self.left {
            return false;
        }
        self.left -= length;
        self.text += line;
        self.text.push('\n');
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::line::{
            SPECIFICATION,
            tests::{alert, start},
        },
        *,
    };

    fn lines() -> Lines {
        Lines::parse(SPECIFICATION, "+00:00").unwrap()
    }

    const SPACE: Space = Space { lines: 5, characters: 4000 };

    fn of(items: &[Item]) -> Message {
        compose(Uuid::nil(), items, SPACE, &lines(), 0)
    }

    /// The numbers before `×` and the lines told in full.
    pub(super) fn adds_up(message: &Message) -> usize {
        let counted: usize = message
            .text
            .lines()
            .filter_map(|line| line.split_once(" × "))
            .filter_map(|(count, _)| count.parse::<usize>().ok())
            .sum();
        counted + message.items.len()
    }

    #[test]
    fn one_is_a_line_and_a_few_are_lines() {
        let one = of(&[start("alice", "chrome.exe")]);
        assert_eq!(one.text, "[2026-11-20 10:15:02] Пользователь alice запустил chrome.exe");
        assert_eq!(one.subject, "Пользователь alice запустил chrome.exe");
        let few = of(&[alert(1, "r", "a", Severity::High), start("alice", "x"), start("bob", "y")]);
        assert_eq!((few.text.lines().count(), few.is_digest, few.items.len()), (3, false, 3));
        assert_eq!(few.subject, "3 notifications, the worst high");
    }

    #[test]
    fn a_digest_tells_the_worst_and_names_the_rest_by_rule_agent_and_count() {
        let mut items = vec![alert(1, "worst", "a1", Severity::Critical)];
        items.extend((0..30).map(|n| alert(n, "noisy", "a2", Severity::Medium)));
        items.extend((0..12).map(|_| start("alice", "chrome.exe")));
        let digest = of(&items);
        assert!(digest.is_digest);
        assert!(digest.text.starts_with("43 notifications from 2026-11-20 10:15:02 to "), "{}", digest.text);
        assert!(digest.text.contains("CRITICAL Title of worst"), "{}", digest.text);
        assert!(digest.text.contains("26 × Title of noisy (medium) on host-of-a2"), "{}", digest.text);
        assert!(digest.text.contains("12 × alice запустил chrome.exe on a1"), "{}", digest.text);
        assert_eq!(adds_up(&digest), 43);
        let noisy = digest.groups.iter().find(|group| group.rule_id == "noisy").unwrap();
        assert_eq!((noisy.count, noisy.agent_id.as_str()), (30, "a2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_comes_fits_and_the_numbers_add_up(
            rules in prop::collection::vec((0..40u8, 0..200u8, 1..7i32, 0..300usize), 1..300),
            characters in 2500..5000usize,
        ) {
            let mut items: Vec<Item> = Vec::new();
            for (rule, agent, severity, extra) in rules {
                let mut item = alert(1, &format!("rule-{rule}"), &format!("agent-{agent}"), Severity::of(severity));
                item.title += &"x".repeat(extra);
                // Each counts twice.
                item.message = "🦀".repeat(extra * 5);
                items.push(item);
            }
            items.sort_by_key(|item| std::cmp::Reverse(item.severity));
            let message = compose(Uuid::nil(), &items, Space { lines: 5, characters }, &lines(), 0);
            prop_assert!(message.text.encode_utf16().count() <= characters);
            prop_assert!(adds_up(&message) == items.len(), "{} of {}: {}", adds_up(&message), items.len(), message.text);
        }
    }
}
