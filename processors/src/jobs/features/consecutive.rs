//! The state of the threshold rules as an operator.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray, UInt8Array, UInt32Array};
use arrow::datatypes::{DataType, Field, SchemaRef};

use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, column, definition_hash, ops, schema_text, state_schema,
};
use crate::rules::{ConsecutiveKey, ConsecutiveState, Run};

const NAME: &str = "consecutive";

/// Windows in a row for which threshold rules held.
#[derive(Debug)]
pub(in crate::jobs) struct Consecutive {
    pub(in crate::jobs) state: ConsecutiveState,
    schema: SchemaRef,
}

impl Default for Consecutive {
    fn default() -> Self {
        let schema = state_schema([
            Field::new("agent_id", DataType::Utf8, false),
            Field::new("rule_id", DataType::Utf8, false),
            Field::new("count", DataType::UInt32, false),
            Field::new("first_start", DataType::Int64, false),
            Field::new("last_end", DataType::Int64, false),
        ]);
        Self { state: ConsecutiveState::new(), schema }
    }
}

impl Consecutive {
    fn batch(&self, rows: &[(ConsecutiveKey, Option<Run>)]) -> Result<RecordBatch, StateError> {
        let op = |run: &Option<Run>| {
            if run.is_some() { Op::Put as u8 } else { Op::Delete as u8 }
        };
        let run = |run: &Option<Run>| run.unwrap_or(Run { count: 0, first_start: 0, last_end: 0 });
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![
                Arc::new(rows.iter().map(|row| Some(op(&row.1))).collect::<UInt8Array>()),
                Arc::new(rows.iter().map(|row| Some(&*row.0.agent_id)).collect::<StringArray>()),
                Arc::new(rows.iter().map(|row| Some(&*row.0.rule_id)).collect::<StringArray>()),
                Arc::new(rows.iter().map(|row| Some(run(&row.1).count)).collect::<UInt32Array>()),
                Arc::new(rows.iter().map(|row| Some(run(&row.1).first_start)).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|row| Some(run(&row.1).last_end)).collect::<Int64Array>()),
            ],
        )
        .map_err(arrow_error(NAME))
    }
}

impl Operator for Consecutive {
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
        let agents = column::<StringArray>(NAME, rows, 1)?;
        let rules = column::<StringArray>(NAME, rows, 2)?;
        let counts = column::<UInt32Array>(NAME, rows, 3)?;
        let firsts = column::<Int64Array>(NAME, rows, 4)?;
        let lasts = column::<Int64Array>(NAME, rows, 5)?;
        for (row, op) in ops(NAME, rows)?.values().iter().enumerate() {
            let key = ConsecutiveKey {
                agent_id: Arc::from(agents.value(row)),
                rule_id: Arc::from(rules.value(row)),
            };
            let run = (Op::of(*op) != Some(Op::Delete)).then(|| Run {
                count: counts.value(row),
                first_start: firsts.value(row),
                last_end: lasts.value(row),
            });
            self.state.put(key, run);
        }
        Ok(())
    }

    fn drain_changes(&mut self) -> Result<Option<RecordBatch>, StateError> {
        let changes = self.state.take_changes();
        if changes.is_empty() { Ok(None) } else { self.batch(&changes).map(Some) }
    }

    fn snapshot(&mut self) -> Result<RecordBatch, StateError> {
        self.state.take_changes();
        let rows: Vec<_> = self.state.rows().map(|(key, run)| (key.clone(), Some(*run))).collect();
        self.batch(&rows)
    }

    fn live_rows(&self) -> usize {
        self.state.len()
    }
}
