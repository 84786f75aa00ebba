//! Where a backfill begins or ends, as a person writes it and as offsets.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat};
use eventlog::{Log, LogError, TopicPartition};
use thiserror::Error;

use crate::engine::Stretch;

/// A place in the input: `earliest`, `latest`, a time such as `2026-01-02T03:04:05Z`, or an offset for each
/// partition such as `0:1200,1:1187`. A time is that at which records were appended to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first record that is still there.
    Earliest,
    /// Behind the last record.
    Latest,
    /// The first record appended then or later, µs since the Unix epoch.
    Time(i64),
    /// By partition.
    Offsets(BTreeMap<i32, i64>),
}

/// A text that names no place.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is no place: write `earliest`, `latest`, a time such as 2026-01-02T03:04:05Z, or offsets such as 0:1200,1:1187"
)]
pub struct NoPlace(String);

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let refuse = || NoPlace(text.to_owned());
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::Time(time.timestamp_micros()));
        }
        let mut offsets = BTreeMap::new();
        for part in text.split(',') {
            let (partition, offset) = part.trim().split_once(':').ok_or_else(refuse)?;
            let partition = partition.parse().ok().filter(|number: &i32| *number >= 0).ok_or_else(refuse)?;
            let offset = offset.parse().ok().filter(|number: &i64| *number >= 0).ok_or_else(refuse)?;
            if offsets.insert(partition, offset).is_some() {
                return Err(refuse());
            }
        }
        Ok(Self::Offsets(offsets))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Time(at) => f.write_str(&written(*at)),
            Self::Offsets(offsets) => {
                for (number, (partition, offset)) in offsets.iter().enumerate() {
                    write!(f, "{}{partition}:{offset}", if number > 0 { "," } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

/// A time, µs since the Unix epoch, as a person writes it.
fn written(at: i64) -> String {
    DateTime::from_timestamp_micros(at)
        .map_or_else(|| format!("{at} µs"), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// Why no stretch of the input lies between two places.
#[derive(Debug, Error)]
pub enum RangeError {
    /// The log did not answer.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What was asked for is gone.
    #[error("{of}: offsets {wanted} to {} are gone: removed by retention; --from {of_number}:{earliest} is the first that is left, `earliest` takes what is there", earliest - 1, of_number = of.partition)]
    LostOffsets {
        /// Of which partition.
        of: TopicPartition,
        /// Asked for.
        wanted: i64,
        /// The first that is left.
        earliest: i64,
    },
    /// What was appended at the beginning of the time asked for may be gone.
    #[error(
        "{of}: what was appended from {} to {} is gone: retention has removed all below offset {earliest}; ask for a later time, or for `earliest` to take what is there",
        written(*wanted), written(*first)
    )]
    LostTime {
        /// Of which partition.
        of: TopicPartition,
        /// Asked for, µs.
        wanted: i64,
        /// When the first record that is left was appended, µs.
        first: i64,
        /// Its offset.
        earliest: i64,
    },
    /// An offset beyond the end.
    #[error("{of}: offset {wanted} is not there yet, the log ends at {end}")]
    BeyondEnd {
        /// Of which partition.
        of: TopicPartition,
        /// Asked for.
        wanted: i64,
        /// One more than the last offset.
        end: i64,
    },
    /// The end lies before the beginning.
    #[error("{of}: it would end at offset {to}, before it begins at {from}")]
    Backwards {
        /// Of which partition.
        of: TopicPartition,
        /// First offset.
        from: i64,
        /// End.
        to: i64,
    },
    /// Offsets must be given for all partitions, for a forgotten one would be left out silently.
    #[error("{what} names partitions {named:?}, but {topic} has {partitions}: name each of them")]
    Partitions {
        /// `--from` or `--to`.
        what: &'static str,
        /// Which topic.
        topic: String,
        /// Those named.
        named: Vec<i32>,
        /// How many there are.
        partitions: i32,
    },
}

/// The offsets between two places, by partition. Each end is moved back to the last record that is there, so that a
/// reader of committed records can reach it; this waits for transactions that are open below it.
pub(super) fn stretches<L: Log>(
    log: &L,
    topic: &str,
    from: &Place,
    to: &Place,
) -> Result<BTreeMap<i32, Stretch>, RangeError> {
    let partitions = log.partitions(topic)?;
    for (what, place) in [("--from", from), ("--to", to)] {
        if let Place::Offsets(offsets) = place
            && !offsets.keys().copied().eq(0..partitions)
        {
            let named = offsets.keys().copied().collect();
            return Err(RangeError::Partitions { what, topic: topic.to_owned(), named, partitions });
        }
    }
    (0..partitions)
        .map(|partition| {
            let of = TopicPartition::new(topic, partition);
            Ok((partition, stretch(log, &of, from, to)?))
        })
        .collect()
}

fn stretch<L: Log>(log: &L, of: &TopicPartition, from: &Place, to: &Place) -> Result<Stretch, RangeError> {
    let (earliest, end) = log.bounds(of)?;
    let find = |place: &Place| -> Result<i64, RangeError> {
        let wanted = match place {
            Place::Earliest => earliest,
            Place::Latest => end,
            Place::Time(at) => log.offset_at(of, milliseconds(*at))?.clamp(earliest, end),
            Place::Offsets(offsets) => offsets.get(&of.partition).copied().unwrap_or(end),
        };
        if wanted > end {
            return Err(RangeError::BeyondEnd { of: of.clone(), wanted, end });
        }
        Ok(wanted)
    };
    let begin = find(from)?;
    if begin < earliest {
        return Err(RangeError::LostOffsets { of: of.clone(), wanted: begin, earliest });
    }
    if let Place::Time(wanted) = from
        && begin == earliest
        && earliest > 0
    {
        // Whether the last record that is gone was of that time is not known any more.
        let first = first_time(log, of, earliest, end)?.unwrap_or(i64::MAX);
        if first > *wanted {
            return Err(RangeError::LostTime { of: of.clone(), wanted: *wanted, first, earliest });
        }
    }
    let to = find(to)?;
    if to < begin {
        return Err(RangeError::Backwards { of: of.clone(), from: begin, to });
    }
    Ok(Stretch { from: begin, to: last_record(log, of, begin, to)?.map_or(begin, |last| last + 1) })
}

/// Kafka counts in whole milliseconds: the first of them that is not before `at` µs.
fn milliseconds(at: i64) -> i64 {
    at.div_euclid(1_000) + i64::from(at.rem_euclid(1_000) > 0)
}

/// When the first record was appended, µs.
fn first_time<L: Log>(log: &L, of: &TopicPartition, from: i64, end: i64) -> Result<Option<i64>, LogError> {
    let mut first = None;
    let mut to = from;
    while first.is_none() && to < end {
        to = (to + 64).min(end);
        log.read_partition(of, from, to, &mut |record| {
            first.get_or_insert(record.timestamp.saturating_mul(1_000));
            Ok(())
        })?;
    }
    Ok(first)
}

/// The last committed record of a range. Markers of transactions and aborted records take up offsets, too.
fn last_record<L: Log>(log: &L, of: &TopicPartition, from: i64, to: i64) -> Result<Option<i64>, LogError> {
    let mut last = None;
    let mut step = 16;
    let mut begin = to;
    while last.is_none() && begin > from {
        let end = begin;
        begin = (begin - step).max(from);
        step *= 8;
        log.read_partition(of, begin, end, &mut |record| {
            last = Some(record.offset);
            Ok(())
        })?;
    }
    Ok(last)
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
