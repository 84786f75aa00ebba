//! The log as traits, as small as both implementations need.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use schemas::topics::TopicSpec;

use crate::error::{AppendError, LogError};
use crate::record::{NewRecord, Position, Record, TopicPartition};

/// What a poll brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Polled {
    /// Records, each partition's in offset order; none when nothing came in time.
    Records(Vec<Record>),
    /// This consumer now owns exactly these partitions, maybe none. Nothing is fetched before
    /// [`Consumer::start`].
    Assigned(Vec<TopicPartition>),
    /// These partitions are being taken away. Until the next poll they are still owned unless `lost`: commit what
    /// is ready with the token at hand, or abort.
    Revoked {
        /// All that were owned.
        partitions: Vec<TopicPartition>,
        /// Whether somebody else may own them already; commits will fail.
        lost: bool,
    },
}

/// Where a group begins that has never committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartAt {
    /// At the first record that is still there.
    #[default]
    Earliest,
    /// Behind the last record.
    Latest,
}

/// Membership in a group at one moment. A commit made with it fails after any later rebalance.
#[derive(Clone)]
pub struct GroupToken(pub(crate) Arc<dyn Any + Send + Sync>);

impl fmt::Debug for GroupToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupToken")
    }
}

/// A member of a consumer group. It sees committed records only.
pub trait Consumer: Send {
    /// Waits up to `max_wait` for the first record and takes what is there, at most `max_records`. Rebalances come
    /// alone and before any further records; they are noticed only here, on the caller's thread.
    ///
    /// # Errors
    /// `OffsetOutOfRange` when retention has removed what was to be read next.
    fn poll(&mut self, max_records: usize, max_wait: Duration) -> Result<Polled, LogError>;

    /// Begins to read the assigned partitions at the given positions, or moves there if they are being read (after
    /// an abort). Partitions that are assigned, not named and not being read begin at the group's committed offset
    /// or, when there is none, where the consumer was told to begin.
    fn start(&mut self, at: &[Position]) -> Result<(), LogError>;

    /// Where reading stands in each partition that was started: all records below were handed out. Moves past markers
    /// and aborted records too, which no poll brings.
    fn positions(&mut self) -> Vec<Position>;

    /// Stops delivering records of these partitions; rebalances are still noticed by polling.
    fn pause(&mut self, of: &[TopicPartition]);

    /// Undoes [`Consumer::pause`].
    fn resume(&mut self, of: &[TopicPartition]);

    /// The offsets that the group has committed, one for each partition asked for, `None` where it never has.
    /// Offsets in a transaction that is not yet settled make this wait, and then fail with `Unavailable`.
    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError>;

    /// The first offset that exists and the true end: one more than the last offset, open transactions included.
    fn bounds(&mut self, of: &TopicPartition) -> Result<(i64, i64), LogError>;

    /// Commits offsets outside any transaction, for those who keep none of their own.
    fn commit(&mut self, at: &[Position]) -> Result<(), LogError>;

    /// The membership captured when the present partitions were assigned.
    fn group_token(&mut self) -> Result<GroupToken, LogError>;
}

/// Writes records and input offsets in transactions. After any error but `Fenced` and `Fatal` of a call between
/// `begin` and `commit`, [`TransactionalProducer::abort`] comes next.
pub trait TransactionalProducer: Send {
    /// Opens a transaction.
    fn begin(&mut self) -> Result<(), LogError>;

    /// Adds a record to the transaction; waits while the queue is full.
    fn send(&mut self, record: NewRecord) -> Result<(), LogError>;

    /// Makes records and offsets visible together. On `Unavailable` the outcome is unknown
    /// (see [`crate::LogErrorKind::Unavailable`]).
    fn commit(&mut self, offsets: &[Position], group: &GroupToken) -> Result<(), LogError>;

    /// Discards the transaction. Does nothing when none is open.
    fn abort(&mut self) -> Result<(), LogError>;
}

/// Told once for each record that was taken: its token, and partition and offset or what went wrong. Runs on a
/// thread of the log and must not block.
pub type OnDelivery = Box<dyn Fn(usize, Result<(i32, i64), LogError>) + Send + Sync>;

/// Appends single records, each exactly once in the order of calls, without transactions.
pub trait Appender: Send + Sync {
    /// Takes a record; its fate comes later, with `token`. Retries for ever while the log is away.
    fn append(&self, record: NewRecord, token: usize) -> Result<(), AppendError>;

    /// Waits until nothing is in flight.
    ///
    /// # Errors
    /// `Unavailable` when the deadline passes first; the records stay in flight.
    fn flush(&self, deadline: Duration) -> Result<(), LogError>;

    /// How many records were taken and not yet delivered.
    fn in_flight(&self) -> usize;
}

/// A difference between a topic as it is and as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Kafka's name of the setting.
    pub setting: String,
    /// As it should be.
    pub wanted: String,
    /// As it is.
    pub found: String,
}

/// What became of a topic that was to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Full name.
    pub topic: Arc<str>,
    /// True if it was made just now, false if it was there.
    pub is_new: bool,
    /// Settings of a topic that was there and differs. It is left as it is.
    pub drift: Vec<Drift>,
}

/// A log; clones are handles of the same one.
pub trait Log: Clone + Send + Sync + 'static {
    /// Its consumers.
    type Consumer: Consumer + 'static;
    /// Its transactional producers.
    type Producer: TransactionalProducer + 'static;
    /// Its appenders.
    type Appender: Appender + 'static;

    /// Joins a group. `instance` makes the membership static: a restart within the session timeout gets its
    /// partitions back without a rebalance. `reset` matters only where the group has never committed.
    fn consumer(
        &self,
        group: &str,
        topics: &[&str],
        instance: Option<&str>,
        reset: StartAt,
    ) -> Result<Self::Consumer, LogError>;

    /// A producer that is ready to begin. Older ones with the same id are fenced, their open transaction is
    /// aborted, and one that is being committed is finished first.
    fn transactional_producer(&self, transactional_id: &str) -> Result<Self::Producer, LogError>;

    /// An idempotent appender.
    fn appender(&self, on_delivery: OnDelivery) -> Result<Self::Appender, LogError>;

    /// Gives the committed records of one partition from `from` up to, not including, `to`, which is a true end as
    /// [`Consumer::bounds`] gives it: waits until the transactions open below it are settled.
    ///
    /// # Errors
    /// What `each` returns ends the reading. `Unavailable` when transactions stay open or the log is away.
    fn read_partition(
        &self,
        of: &TopicPartition,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(Record) -> Result<(), LogError>,
    ) -> Result<(), LogError>;

    /// The first offset that exists and the true end, as [`Consumer::bounds`] gives them to a member of a group.
    fn bounds(&self, of: &TopicPartition) -> Result<(i64, i64), LogError>;

    /// The offset of the first record whose timestamp is `at` (ms since the Unix epoch) or later; the true end when
    /// there is none.
    fn offset_at(&self, of: &TopicPartition, at: i64) -> Result<i64, LogError>;

    /// How many partitions a topic has.
    fn partitions(&self, topic: &str) -> Result<i32, LogError>;

    /// Makes the topics that are missing. Idempotent.
    ///
    /// # Errors
    /// `Fatal` when a topic is there with another number of partitions: keys would change their place.
    fn create_topics(&self, specs: &[TopicSpec], partitions: i32) -> Result<Vec<Created>, LogError>;
}
