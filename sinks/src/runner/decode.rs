//! Records of one topic become a batch.

use std::sync::Arc;

use eventlog::{Record, batches::BatchDecoder};

use crate::batch::{Batch, Place, Poison, Rows, Span};

/// Decodes Avro; what is none of ours is set apart. Fails only while the registry is away.
pub(crate) fn decode(
    topic: &Arc<str>,
    records: &[Record],
    spans: &[Span],
    decoder: &mut BatchDecoder,
) -> Result<Batch, String> {
    let decoded = decoder.decode(records).map_err(|error| error.to_string())?;
    let place = |row: u32| {
        let record = &records[row as usize];
        Place { partition: record.partition, offset: record.offset, timestamp: record.timestamp }
    };
    let rows = decoded.groups.into_iter().map(|group| Rows {
        kind: Some(group.kind),
        places: group.rows.iter().map(|row| place(*row)).collect(),
        batch: group.batch,
    });
    let poison = decoded.poison.into_iter().map(|(row, reason)| {
        let record = &records[row as usize];
        Poison {
            place: place(row),
            reason,
            key: record.key.clone(),
            original: record.value.clone().unwrap_or_default(),
            headers: record.headers.clone(),
        }
    });
    Ok(Batch {
        topic: Arc::clone(topic),
        spans: spans.to_vec(),
        rows: rows.collect(),
        poison: poison.collect(),
        plain: Vec::new(),
    })
}
