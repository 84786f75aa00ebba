//! MQTT topics of agents, and the five sample topics of the published description of such agents.

/// Largest MQTT payload that brokers are configured to take, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 2 * 1024 * 1024;
/// Largest message that an agent sends, in bytes.
pub const MAX_BATCH_BYTES: usize = 256 * 1024;
/// Longest agent id, in bytes.
pub const MAX_AGENT_ID_BYTES: usize = 128;
/// Name of the MQTT 5 user property with the time of sending, in µs as decimal text.
pub const SENT_AT: &str = "sent_at";

/// Subscriptions to events and status of all agents.
pub const EVENT_TOPICS: [&str; 2] = ["agent/+/event/+", "agent/+/status"];
/// Subscriptions to the sample topics of all agents; with [`EVENT_TOPICS`] this is everything that [`parse`] reads.
pub const SAMPLE_TOPICS: [&str; 5] = [
    "agent/+/sysinfo/cpu",
    "agent/+/sysinfo/mem",
    "agent/+/sysinfo/processes",
    "agent/+/user/activity",
    "agent/+/logs/offline",
];

/// A topic on which an agent publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MqttTopic<'a> {
    /// Which agent.
    pub agent_id: &'a str,
    /// What it publishes there.
    pub kind: MqttKind<'a>,
}

/// What an agent publishes on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttKind<'a> {
    /// Events of one type.
    Event(&'a str),
    /// An array of events of any types, in order.
    Batch,
    /// The retained event about the agent itself.
    Status,
    /// A payload in one of the sample shapes, without envelope.
    Sample(Sample),
}

/// The five sample topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sample {
    /// `sysinfo/cpu`: `{"usage": 37.5}`, in percent.
    SysinfoCpu,
    /// `sysinfo/mem`: `{"used": 4096, "total": 8192}`, in MiB.
    SysinfoMem,
    /// `sysinfo/processes`: `[{"name": "chrome", "cpu": 10.2}]`, in percent of one processor.
    SysinfoProcesses,
    /// `user/activity`: `{"mouse": true, "keyboard": false}`.
    UserActivity,
    /// `logs/offline`: an array of events of an outage.
    LogsOffline,
}

impl Sample {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::SysinfoCpu, Self::SysinfoMem, Self::SysinfoProcesses, Self::UserActivity, Self::LogsOffline];

    /// The topic below `agent/{agent_id}/`.
    pub const fn path(self) -> &'static str {
        match self {
            Self::SysinfoCpu => "sysinfo/cpu",
            Self::SysinfoMem => "sysinfo/mem",
            Self::SysinfoProcesses => "sysinfo/processes",
            Self::UserActivity => "user/activity",
            Self::LogsOffline => "logs/offline",
        }
    }
}

/// Topic of single events of a type.
pub fn event_topic(agent_id: &str, event_type: &str) -> String {
    format!("agent/{agent_id}/event/{event_type}")
}

/// Topic of arrays of events.
pub fn batch_topic(agent_id: &str) -> String {
    format!("agent/{agent_id}/event/batch")
}

/// Topic of confirmations to an agent.
pub fn ack_topic(agent_id: &str) -> String {
    format!("agent/{agent_id}/ack")
}

/// Topic of the retained status of an agent.
pub fn status_topic(agent_id: &str) -> String {
    format!("agent/{agent_id}/status")
}

/// Topic of commands to an agent.
pub fn command_topic(agent_id: &str) -> String {
    format!("agent/{agent_id}/command")
}

/// Topic of a sample payload.
pub fn sample_topic(agent_id: &str, sample: Sample) -> String {
    format!("agent/{agent_id}/{}", sample.path())
}

/// True if the text can be an agent id: 1 to 128 bytes, no control characters and none of `/`, `+`, `#`.
pub fn is_agent_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_AGENT_ID_BYTES
        && !text.chars().any(|c| c.is_control() || matches!(c, '/' | '+' | '#'))
}

/// Reads a topic on which agents publish; `None` for every other topic and for impossible agent ids.
pub fn parse(topic: &str) -> Option<MqttTopic<'_>> {
    let (agent_id, rest) = topic.strip_prefix("agent/")?.split_once('/')?;
    if !is_agent_id(agent_id) {
        return None;
    }
    let kind = match rest {
        "event/batch" => MqttKind::Batch,
        "status" => MqttKind::Status,
        _ => match rest.strip_prefix("event/") {
            Some(event_type) if !event_type.is_empty() && !event_type.contains('/') => {
                MqttKind::Event(event_type)
            }
            Some(_) => return None,
            None => MqttKind::Sample(Sample::ALL.into_iter().find(|sample| sample.path() == rest)?),
        },
    };
    Some(MqttTopic { agent_id, kind })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_built_is_understood() {
        let kind = |topic: &str| {
            let parsed = parse(topic).unwrap();
            assert_eq!(parsed.agent_id, "pc001");
            format!("{:?}", parsed.kind)
        };
        assert_eq!(kind(&event_topic("pc001", "cpu_usage")), "Event(\"cpu_usage\")");
        assert_eq!(kind(&batch_topic("pc001")), "Batch");
        assert_eq!(kind(&status_topic("pc001")), "Status");
        for sample in Sample::ALL {
            assert_eq!(kind(&sample_topic("pc001", sample)), format!("Sample({sample:?})"));
        }
    }

    #[test]
    fn topics_to_agents_and_strange_topics_are_not_input() {
        for topic in [
            "agent/pc001/ack",
            "agent/pc001/command",
            "agent//status",
            "agent/pc001",
            "agent/pc001/event/",
            "agent/pc001/event/a/b",
            "agent/pc+/status",
            "other/pc001/status",
            "",
        ] {
            assert_eq!(parse(topic), None, "{topic}");
        }
        assert_eq!(parse(&status_topic(&"x".repeat(MAX_AGENT_ID_BYTES + 1))), None);
    }

    #[test]
    fn every_topic_that_is_understood_is_subscribed_to() {
        let matches = |filter: &str, topic: &str| {
            let (filter, topic): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
            filter.len() == topic.len() && filter.iter().zip(&topic).all(|(f, t)| *f == "+" || f == t)
        };
        let mut topics = vec![event_topic("a", "hid"), batch_topic("a"), status_topic("a")];
        topics.extend(Sample::ALL.map(|sample| sample_topic("a", sample)));
        for topic in topics {
            let filters = EVENT_TOPICS.iter().chain(&SAMPLE_TOPICS);
            assert_eq!(filters.filter(|filter| matches(filter, &topic)).count(), 1, "{topic}");
        }
    }

    proptest! {
        #[test]
        fn any_topic_is_judged_without_panic(topic in ".*") {
            if let Some(parsed) = parse(&topic) {
                prop_assert!(is_agent_id(parsed.agent_id));
            }
        }
    }
}
