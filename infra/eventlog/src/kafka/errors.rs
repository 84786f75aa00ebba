//! What librdkafka says, by what one can do about it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::error::{LogError, LogErrorKind};

/// `doing` names what was attempted, with topic, group or id.
pub(super) fn of(error: &KafkaError, doing: &str) -> LogError {
    match error {
        KafkaError::Transaction(inner) => {
            let code = inner.code();
            let kind = match kind_of(code) {
                LogErrorKind::Fenced => LogErrorKind::Fenced,
                _ if inner.is_fatal() => LogErrorKind::Fatal,
                LogErrorKind::Rebalanced => LogErrorKind::Rebalanced,
                _ if inner.txn_requires_abort() => LogErrorKind::Aborted,
                _ if inner.is_retriable() => LogErrorKind::Unavailable,
                kind => kind,
            };
            LogError::new(kind, format!("{doing}: {}", inner.string()))
        }
        KafkaError::ClientConfig(_, why, name, value) => {
            LogError::fatal(format!("{doing}: property {name} = {value}: {why}"))
        }
        KafkaError::ClientCreation(why) => LogError::fatal(format!("{doing}: {why}")),
        KafkaError::MessageConsumptionFatal(code) => {
            let kind = if kind_of(*code) == LogErrorKind::Fenced {
                LogErrorKind::Fenced
            } else {
                LogErrorKind::Fatal
            };
            LogError::new(kind, format!("{doing}: {code}"))
        }
        other => match other.rdkafka_error_code() {
            Some(code) => of_code(code, doing),
            None => LogError::unavailable(format!("{doing}: {other}")),
        },
    }
}

pub(super) fn of_code(code: Code, doing: &str) -> LogError {
    LogError::new(kind_of(code), format!("{doing}: {code}"))
}

fn kind_of(code: Code) -> LogErrorKind {
    match code {
        Code::ProducerFenced | Code::Fenced | Code::InvalidProducerEpoch | Code::FencedInstanceId => {
            LogErrorKind::Fenced
        }
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::RebalanceInProgress
        | Code::AssignmentLost
        | Code::StaleMemberEpoch => LogErrorKind::Rebalanced,
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => LogErrorKind::TooLarge,
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            LogErrorKind::UnknownTopic
        }
        Code::Fatal
        | Code::InvalidArgument
        | Code::InvalidTopic
        | Code::InvalidConfig
        | Code::InvalidReplicationFactor
        | Code::PolicyViolation
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::UnsupportedSASLMechanism
        | Code::InvalidTransactionTimeout
        | Code::InvalidProducerIdMapping
        | Code::State => LogErrorKind::Fatal,
        _ => LogErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_judged_by_what_one_can_do() {
        let kind = |code| of(&KafkaError::ConsumerCommit(code), "commit").kind;
        assert_eq!(kind(Code::IllegalGeneration), LogErrorKind::Rebalanced);
        assert_eq!(kind(Code::BrokerTransportFailure), LogErrorKind::Unavailable);
        assert_eq!(kind(Code::TopicAuthorizationFailed), LogErrorKind::Fatal);
        let error = of(&KafkaError::MessageProduction(Code::MessageSizeTooLarge), "varta.dlq");
        assert_eq!(error.kind, LogErrorKind::TooLarge);
        assert!(error.message.starts_with("varta.dlq: "), "{error}");
    }
}
