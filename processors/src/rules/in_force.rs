//! Which rules hold for a partition: written into its state, so that a restart repeats them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, UInt8Array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use serde::{Deserialize, Serialize};

use super::set::{RuleSet, Sources};
use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, column, definition_hash, ops, schema_text, state_schema,
};
use crate::engine::pieces::{Pieces, one, pieces};

const NAME: &str = "rules";
const META: &str = "meta";
/// Most bytes of the rules' text in a row: a row must fit into a chunk.
const PIECE: usize = 64 * 1024;
/// More sets before the present one are not remembered.
const HISTORY: usize = 16;

/// A set, and from where it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Hash of the set.
    pub rule_set: String,
    /// When the process that offered it had loaded it: the later one wins. µs of its wall clock, used for nothing else.
    pub version: i64,
    /// Offset of the first record that it holds for.
    pub from_offset: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    held: Held,
    /// Sets before, the oldest first.
    before: Vec<Held>,
    /// Rows that the text is cut into.
    pieces: usize,
}

/// The rules in force; nothing before the first record of the partition.
#[derive(Debug)]
pub(super) struct InForce {
    held: Option<(Held, Arc<Sources>)>,
    before: Vec<Held>,
    /// Rows of text that the changelog has.
    written: usize,
    changed: bool,
    restoring: BTreeMap<String, String>,
    schema: SchemaRef,
}

impl Default for InForce {
    fn default() -> Self {
        let schema = state_schema([
            Field::new("part", DataType::Utf8, false),
            Field::new("text", DataType::Utf8, true),
        ]);
        let (before, restoring) = (Vec::new(), BTreeMap::new());
        Self { held: None, before, written: 0, changed: false, restoring, schema }
    }
}

impl InForce {
    /// The set that holds.
    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref().map(|(held, _)| held)
    }

    /// Its files.
    pub(super) fn sources(&self) -> Option<&Arc<Sources>> {
        self.held.as_ref().map(|(_, sources)| sources)
    }

    /// Sets that held before, the oldest first, and the present one.
    #[cfg(test)]
    pub(super) fn history(&self) -> Vec<Held> {
        self.before.iter().chain(self.held()).cloned().collect()
    }

    /// Makes the text one that no program reads.
    #[cfg(test)]
    pub(super) fn spoil(&mut self) {
        if let Some((_, sources)) = &mut self.held {
            *sources =
                Arc::new(serde_json::from_str(r#"{"files":[["r.yaml","id: ["]],"lists":[]}"#).unwrap());
        }
    }

    /// Another set holds from this offset on.
    pub(super) fn take(&mut self, set: &RuleSet, version: i64, from_offset: i64) {
        let held = Held { rule_set: set.hash().to_string(), version, from_offset };
        let before = self.held.replace((held, Arc::clone(set.sources())));
        self.before.extend(before.map(|(held, _)| held));
        let surplus = self.before.len().saturating_sub(HISTORY);
        self.before.drain(..surplus);
        self.changed = true;
    }

    fn rows(&mut self) -> Result<Vec<(String, Option<String>)>, StateError> {
        let Some((held, sources)) = &self.held else {
            return Ok(Vec::new());
        };
        let malformed =
            |error: serde_json::Error| StateError::Malformed { operator: NAME, what: error.to_string() };
        let text = serde_json::to_string(&**sources).map_err(malformed)?;
        let pieces = cut(&text);
        let meta = Meta { held: held.clone(), before: self.before.clone(), pieces: pieces.len() };
        let mut rows = vec![(META.to_owned(), Some(serde_json::to_string(&meta).map_err(malformed)?))];
        let written = std::mem::replace(&mut self.written, pieces.len());
        let surplus = (pieces.len()..written).map(|number| (part(number), None));
        rows.extend(surplus);
        rows.extend(
            pieces.into_iter().enumerate().map(|(number, text)| (part(number), Some(text.to_owned()))),
        );
        Ok(rows)
    }

    fn pieces(&mut self) -> Pieces<'_> {
        let rows = match self.rows() {
            Ok(rows) => rows,
            Err(error) => return one(Err(error)),
        };
        pieces(rows.into_iter(), |piece| {
            let mut rows = Vec::new();
            while let Some((part, text)) = piece.next() {
                piece.took(part.len() + text.as_ref().map_or(0, String::len));
                rows.push((part, text));
            }
            self.batch(&rows)
        })
    }

    fn batch(&self, rows: &[(String, Option<String>)]) -> Result<RecordBatch, StateError> {
        let op = |text: &Option<String>| if text.is_some() { Op::Put as u8 } else { Op::Delete as u8 };
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![
                Arc::new(rows.iter().map(|(_, text)| Some(op(text))).collect::<UInt8Array>()),
                Arc::new(rows.iter().map(|(part, _)| Some(part.as_str())).collect::<StringArray>()),
                Arc::new(rows.iter().map(|(_, text)| text.as_deref()).collect::<StringArray>()),
            ],
        )
        .map_err(arrow_error(NAME))
    }
}

fn part(number: usize) -> String {
    format!("text/{number:05}")
}

/// Cuts a text between characters.
fn cut(mut text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let most = text.len().min(PIECE);
        let end = (1..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let (piece, rest) = text.split_at(end);
        pieces.push(piece);
        text = rest;
    }
    pieces
}

impl Operator for InForce {
    fn name(&self) -> &'static str {
        NAME
    }

    fn definition_hash(&self) -> u64 {
        definition_hash(&[NAME, "1", &schema_text(&self.schema)])
    }

    fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        let parts = column::<StringArray>(NAME, rows, 1)?;
        let texts = column::<StringArray>(NAME, rows, 2)?;
        for (row, op) in ops(NAME, rows)?.values().iter().enumerate() {
            if Op::of(*op) == Some(Op::Delete) {
                self.restoring.remove(parts.value(row));
            } else {
                self.restoring.insert(parts.value(row).to_owned(), texts.value(row).to_owned());
            }
        }
        Ok(())
    }

    fn restored(&mut self) -> Result<(), StateError> {
        let mut parts = std::mem::take(&mut self.restoring);
        let malformed = |what: String| StateError::Malformed { operator: NAME, what };
        let Some(meta) = parts.remove(META) else {
            return Ok(());
        };
        let meta: Meta = serde_json::from_str(&meta).map_err(|error| malformed(error.to_string()))?;
        let text: String = (0..meta.pieces).filter_map(|number| parts.remove(&part(number))).collect();
        let sources = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        self.held = Some((meta.held, Arc::new(sources)));
        self.before = meta.before;
        self.written = meta.pieces;
        Ok(())
    }

    fn changes(&mut self) -> Pieces<'_> {
        if std::mem::take(&mut self.changed) { self.pieces() } else { Box::new(std::iter::empty()) }
    }

    fn all(&mut self) -> Pieces<'_> {
        self.changed = false;
        // a new generation has nothing to delete
        self.written = 0;
        self.pieces()
    }

    fn live_rows(&self) -> usize {
        self.held.as_ref().map_or(0, |_| self.written + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(description: &str) -> RuleSet {
        let text = format!(
            "id: r\ntitle: R\nseverity: low\ndescription: {description}\nkind: match\nfamily: process_event\n\
             where: 'true'\nmessage: m\n"
        );
        RuleSet::parse([("r.yaml", text.as_str())], [("known", "a.exe")]).unwrap()
    }

    fn restored(batches: &[RecordBatch]) -> InForce {
        let mut state = InForce::default();
        for batch in batches {
            state.restore(batch).unwrap();
        }
        state.restored().unwrap();
        state
    }

    #[test]
    fn a_restart_finds_the_same_rules_however_long_they_are() {
        let (long, short) = (set(&"я".repeat(3 * PIECE)), set("short"));
        let mut state = InForce::default();
        assert!(state.drain_changes().unwrap().is_none());
        state.take(&long, 5, 100);
        let first = state.drain_changes().unwrap().unwrap();
        assert!(first.num_rows() > 6, "several pieces");
        let again = restored(std::slice::from_ref(&first));
        assert_eq!(again.history(), state.history());
        let rebuilt = again.sources().unwrap().parse().unwrap();
        assert_eq!(rebuilt.hash(), long.hash());

        state.take(&short, 6, 200);
        let second = state.drain_changes().unwrap().unwrap();
        assert!(state.drain_changes().unwrap().is_none());
        for mut state in [restored(&[first, second]), state] {
            assert_eq!(state.sources().unwrap().parse().unwrap().hash(), short.hash());
            assert_eq!(state.live_rows(), 2);
            assert_eq!(state.history().iter().map(|held| held.from_offset).collect::<Vec<_>>(), [100, 200]);
            let snapshot = restored(&[state.snapshot().unwrap()]);
            assert_eq!(snapshot.history(), state.history());
        }
    }

    #[test]
    fn the_history_is_bounded() {
        let (set, mut state) = (set("d"), InForce::default());
        (0..40).for_each(|number| state.take(&set, number, number));
        assert_eq!(state.history().len(), HISTORY + 1);
        assert_eq!(state.held().unwrap().from_offset, 39);
    }
}
