//! Topics of reports that the broker refuses: each is left alone for a while, longer after each refusal, and the reports of
//! other topics go.
//!
//! Nothing is held here: what is not on the bus stands in the table, which gives its newest version when the topic is tried
//! again. Topics are bounded in number; one beyond is tried with each pass over the table. A process that starts tries all.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use runtime::health::Component;

use super::{config::Scope, payload, refusal::Verdict};

/// Topics that are remembered at most.
pub(super) const MOST: usize = 10_000;
/// How long a topic is left alone after its first refusal …
const FIRST: Duration = Duration::from_mins(1);
/// … and at most.
const LONGEST: Duration = Duration::from_hours(1);

/// Where reports of one kind go that are about the fleet, a machine or a person.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Topic {
    pub(super) scope: String,
    pub(super) key: String,
    pub(super) kind: String,
}

impl Topic {
    /// As the broker knows it.
    pub(super) fn name(&self) -> String {
        payload::report_topic(&self.scope, &self.key, &self.kind)
    }

    /// As log and health tell it: people are not named there.
    fn told(&self) -> String {
        if self.is_of_a_person() {
            return format!("reports/{}/+/{}", self.scope, self.kind);
        }
        self.name()
    }

    fn is_of_a_person(&self) -> bool {
        self.scope == Scope::User.as_str()
    }
}

/// How long a topic is left alone.
struct Wait {
    pause: Duration,
    until: Instant,
}

#[derive(Default)]
pub(super) struct Aside {
    topics: BTreeMap<Topic, Wait>,
    /// That there is no room for more was said.
    has_told_of_more: bool,
}

impl Aside {
    /// Topics to be left alone at `now`.
    pub(super) fn at(&self, now: Instant) -> Vec<&Topic> {
        self.topics.iter().filter(|(_, wait)| wait.until > now).map(|(topic, _)| topic).collect()
    }

    /// What the broker said of reports, each with its topic, which were published at `now`. A topic that it takes is
    /// forgotten, one of which it refuses any report is left alone from `now`; several refusals at once are one. False:
    /// some of these cannot be remembered.
    pub(super) fn judge<'a>(
        &mut self,
        said: impl IntoIterator<Item = (&'a Topic, &'a Verdict)>,
        now: Instant,
    ) -> bool {
        let mut taken: BTreeSet<&Topic> = BTreeSet::new();
        let mut refused: BTreeMap<&Topic, &Verdict> = BTreeMap::new();
        for (topic, verdict) in said {
            match verdict {
                Verdict::Taken => {
                    taken.insert(topic);
                }
                Verdict::Later(_) => {}
                Verdict::Unauthorized | Verdict::Refused(_) => {
                    metrics::counter!("varta_sinks_mqtt_reports_refused_total").increment(1);
                    refused.entry(topic).or_insert(verdict);
                }
            }
        }
        for topic in taken {
            if !refused.contains_key(topic) {
                self.topics.remove(topic);
            }
        }
        let mut are_remembered = true;
        for (topic, verdict) in refused {
            are_remembered &= self.leave(topic, verdict, now);
        }
        are_remembered
    }

    fn leave(&mut self, topic: &Topic, verdict: &Verdict, now: Instant) -> bool {
        if let Some(wait) = self.topics.get_mut(topic) {
            wait.pause = (2 * wait.pause).min(LONGEST);
            wait.until = now + wait.pause;
            return true;
        }
        if self.topics.len() >= MOST {
            if !self.has_told_of_more {
                tracing::error!(topics = MOST, "the broker refuses reports of even more topics");
                self.has_told_of_more = true;
            }
            return false;
        }
        if self.is_news(topic) {
            tell_once(&topic.told(), verdict);
        }
        self.topics.insert(topic.clone(), Wait { pause: FIRST, until: now + FIRST });
        true
    }

    /// Whether the log has not told the same of another topic: it names those of all people alike.
    fn is_news(&self, topic: &Topic) -> bool {
        let is_alike = |other: &Topic| other.is_of_a_person() && other.kind == topic.kind;
        !topic.is_of_a_person() || !self.topics.keys().any(is_alike)
    }

    /// Of topics that are not left alone at `now` only these have reports that wait: the others are forgotten. Their
    /// reports are gone, or another process has published them.
    pub(super) fn forget_all_but(&mut self, waiting: &BTreeSet<&Topic>, now: Instant) {
        self.topics.retain(|topic, wait| wait.until > now || waiting.contains(topic));
    }

    /// Says in health what waits.
    pub(super) fn tell(&self, component: &Component) {
        metrics::gauge!("varta_sinks_mqtt_barred_report_topics").set(self.topics.len() as f64);
        let Some(first) = self.topics.keys().next() else {
            component.ready();
            return;
        };
        let others = match self.topics.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} other topics"),
        };
        component.waiting(format!("the broker refuses reports to {}{others}: they wait", first.told()));
    }
}

fn tell_once(topic: &str, verdict: &Verdict) {
    if let Verdict::Refused(reason) = verdict {
        tracing::error!(topic, %reason, "the broker refuses reports: its own log may say why");
        return;
    }
    tracing::error!(
        topic,
        "the broker's access list forbids reports: let the account of this sink write to the topic"
    );
}

#[cfg(test)]
mod tests {
    use runtime::health::{Health, State};

    use super::*;

    fn topic(scope: &str, key: &str) -> Topic {
        Topic { scope: scope.to_owned(), key: key.to_owned(), kind: "day".to_owned() }
    }

    fn health(aside: &Aside) -> State {
        let health = Health::new();
        aside.tell(&health.component("reports"));
        health.snapshot()["reports"].clone()
    }

    #[test]
    fn a_refused_topic_is_left_alone_twice_as_long_each_time_up_to_an_hour() {
        let (free, barred) = (topic("fleet", ""), topic("agent", "pc-1"));
        let (mut aside, mut now) = (Aside::default(), Instant::now());
        let mut minutes = Vec::new();
        for _ in 0..8 {
            // Of one topic many reports may wait.
            let said = [
                (&free, &Verdict::Taken),
                (&barred, &Verdict::Unauthorized),
                (&barred, &Verdict::Unauthorized),
            ];
            assert!(aside.judge(said, now));
            let until = aside.topics[&barred].until;
            assert_eq!(aside.at(until.checked_sub(Duration::from_millis(1)).unwrap()), [&barred]);
            assert!(aside.at(until).is_empty());
            minutes.push((until - now).as_secs() / 60);
            now = until;
        }
        assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(aside.topics.len(), 1);
    }

    #[test]
    fn a_topic_that_the_broker_takes_is_forgotten_unless_it_also_refuses_some() {
        let (one, other) = (topic("agent", "pc-1"), topic("agent", "pc-2"));
        let (mut aside, now) = (Aside::default(), Instant::now());
        let never = Verdict::Refused("PayloadFormatInvalid".to_owned());
        assert!(aside.judge([(&one, &Verdict::Unauthorized), (&other, &never)], now));
        let later = Verdict::Later("the connection has ended".to_owned());
        assert!(aside.judge([(&one, &Verdict::Taken), (&other, &Verdict::Taken), (&other, &never)], now));
        assert_eq!(aside.at(now), [&other]);
        assert_eq!(aside.topics[&other].pause, 2 * FIRST);
        assert!(aside.judge([(&other, &later)], now));
        assert_eq!(aside.topics[&other].pause, 2 * FIRST, "nothing is known");
    }

    #[test]
    fn topics_of_which_nothing_waits_are_forgotten_when_their_time_comes() {
        let topics = [topic("agent", "pc-1"), topic("agent", "pc-2"), topic("agent", "pc-3")];
        let (mut aside, now) = (Aside::default(), Instant::now());
        for first in &topics[..2] {
            assert!(aside.judge([(first, &Verdict::Unauthorized)], now));
        }
        assert!(aside.judge([(&topics[2], &Verdict::Unauthorized)], now + FIRST));
        aside.forget_all_but(&BTreeSet::new(), now);
        assert_eq!(aside.topics.len(), 3, "they are left alone, so nothing is known");
        aside.forget_all_but(&BTreeSet::from([&topics[0]]), now + FIRST);
        let left: Vec<&Topic> = aside.topics.keys().collect();
        assert_eq!(left, [&topics[0], &topics[2]]);
    }

    #[test]
    fn topics_are_bounded_in_number() {
        let (mut aside, now) = (Aside::default(), Instant::now());
        for n in 0..MOST {
            assert!(aside.judge([(&topic("agent", &n.to_string()), &Verdict::Unauthorized)], now));
        }
        let beyond = topic("agent", "beyond");
        assert!(!aside.judge([(&beyond, &Verdict::Unauthorized)], now));
        assert_eq!(aside.at(now).len(), MOST);
        assert!(aside.judge([(&topic("agent", "7"), &Verdict::Unauthorized)], now), "it is known");
        let said = [(&topic("agent", "7"), &Verdict::Taken), (&beyond, &Verdict::Unauthorized)];
        assert!(aside.judge(said, now), "there is room again");
        assert_eq!(aside.at(now).len(), MOST);
    }

    #[test]
    fn health_tells_what_waits_and_names_no_person() {
        let (mut aside, now) = (Aside::default(), Instant::now());
        assert_eq!(health(&aside), State::Ready);
        let (ann, bob) = (topic("user", "ann"), topic("user", "bob"));
        assert!(aside.is_news(&ann));
        aside.judge([(&ann, &Verdict::Unauthorized)], now);
        assert_eq!(
            health(&aside),
            State::Waiting("the broker refuses reports to reports/user/+/day: they wait".to_owned())
        );
        assert!(!aside.is_news(&bob), "the log would say the same again");
        assert!(aside.is_news(&Topic { kind: "week".to_owned(), ..bob.clone() }));
        let machine = topic("agent", "pc-1");
        assert!(aside.is_news(&machine));
        aside.judge([(&bob, &Verdict::Unauthorized), (&machine, &Verdict::Unauthorized)], now);
        let told = health(&aside).to_string();
        assert!(told.contains("reports/agent/pc-1/day and 2 other topics"), "{told}");
        aside.judge([(&ann, &Verdict::Taken), (&bob, &Verdict::Taken), (&machine, &Verdict::Taken)], now);
        assert_eq!(health(&aside), State::Ready);
    }
}
