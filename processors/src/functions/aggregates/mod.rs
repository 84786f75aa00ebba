//! Aggregates that do not depend on the order of their rows, nor on how rows were grouped before merging.
//!
//! Windows are put together from partial rows, and where a log is cut into batches decides which rows each of them
//! holds. So each of these keeps a [`Summary`] that is the same whatever the order: counts, sums of integers, and
//! bounded sets chosen by hash. A summary is also small however many rows it saw, for a row of state has to fit into a
//! record of the changelog whatever an agent sends.

mod earliest;
mod gauge;
mod quantile;
mod shares;

use std::fmt::{self, Debug};
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, exec_err, not_impl_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature,
};

/// What one group of rows is boiled down to.
///
/// `add` and `merge` in any order and grouping give equal bytes. Rows whose first argument is null are left out
/// before they come here.
trait Summary: Default + Send + 'static {
    /// Name of the SQL function.
    const NAME: &'static str;
    /// The argument columns with their types.
    type Columns<'a>;
    /// Literals among the arguments.
    type Literals: Clone + Send + 'static;

    fn signature() -> Signature;
    fn result_type() -> DataType;
    fn literals(args: &AccumulatorArgs<'_>) -> Result<Self::Literals>;
    fn columns(values: &[ArrayRef]) -> Result<Self::Columns<'_>>;
    fn add(&mut self, columns: &Self::Columns<'_>, row: usize);
    /// Whether nothing was added: written as null.
    fn is_empty(&self) -> bool;
    fn write(&self, out: &mut Vec<u8>);
    /// Adds what `write` wrote; `None` if the bytes cannot be that.
    fn merge(&mut self, bytes: &[u8]) -> Option<()>;
    /// One result for each summary.
    fn results(summaries: &[Self], literals: &Self::Literals) -> Result<ArrayRef>;
}

/// All aggregates of this module.
pub(super) fn all() -> [AggregateUDF; 4] {
    [
        AggregateUDF::from(Summarise::<gauge::Gauge>::new()),
        AggregateUDF::from(Summarise::<shares::Shares>::new()),
        AggregateUDF::from(Summarise::<quantile::Quantile>::new()),
        AggregateUDF::from(Summarise::<earliest::Earliest>::new()),
    ]
}

/// A summary as an SQL function.
struct Summarise<S> {
    signature: Signature,
    of: PhantomData<fn() -> S>,
}

impl<S: Summary> Summarise<S> {
    fn new() -> Self {
        Self { signature: S::signature(), of: PhantomData }
    }
}

impl<S: Summary> Debug for Summarise<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(S::NAME)
    }
}

impl<S> PartialEq for Summarise<S> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<S> Eq for Summarise<S> {}

impl<S: Summary> Hash for Summarise<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        S::NAME.hash(state);
    }
}

impl<S: Summary> AggregateUDFImpl for Summarise<S> {
    fn name(&self) -> &str {
        S::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(S::result_type())
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "summary"), DataType::Binary, true))])
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("{} needs GROUP BY", S::NAME)
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        if args.is_distinct {
            return not_impl_err!("{} of DISTINCT rows", S::NAME);
        }
        Ok(Box::new(Groups::<S> { groups: Vec::new(), literals: S::literals(&args)? }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// The summaries of all groups of one run.
struct Groups<S: Summary> {
    groups: Vec<S>,
    literals: S::Literals,
}

impl<S: Summary> Groups<S> {
    fn grow(&mut self, groups: usize) {
        if self.groups.len() < groups {
            self.groups.resize_with(groups, S::default);
        }
    }
}

impl<S: Summary> GroupsAccumulator for Groups<S> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.grow(groups);
        let first = &values[0];
        if first.null_count() == first.len() {
            return Ok(());
        }
        let columns = S::columns(values)?;
        for (row, group) in group_indices.iter().enumerate() {
            let wanted = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if wanted && first.is_valid(row) {
                self.groups[*group].add(&columns, row);
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], groups: usize) -> Result<()> {
        self.grow(groups);
        let Some(states) = values.first().and_then(|state| state.as_binary_opt::<i32>()) else {
            return exec_err!("{}: the state is not one column of bytes", S::NAME);
        };
        for (row, group) in group_indices.iter().enumerate() {
            if states.is_valid(row) && self.groups[*group].merge(states.value(row)).is_none() {
                return exec_err!("{}: a row of state cannot be read", S::NAME);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        S::results(&emit_to.take_needed(&mut self.groups), &self.literals)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let mut states = BinaryBuilder::new();
        let mut bytes = Vec::new();
        for summary in emit_to.take_needed(&mut self.groups) {
            if summary.is_empty() {
                states.append_null();
                continue;
            }
            bytes.clear();
            summary.write(&mut bytes);
            states.append_value(&bytes);
        }
        Ok(vec![Arc::new(states.finish())])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values.first().map_or(0, Array::len);
        let mut each = Self { groups: Vec::new(), literals: self.literals.clone() };
        each.update_batch(values, &(0..rows).collect::<Vec<_>>(), filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.groups.capacity() * size_of::<S>()
    }
}

/// Column `at` as the array type that the signature promises.
fn typed<T: 'static>(values: &[ArrayRef], at: usize) -> Result<&T> {
    let Some(array) = values.get(at).and_then(|array| array.as_any().downcast_ref::<T>()) else {
        return exec_err!("argument {} is missing or has another type", at + 1);
    };
    Ok(array)
}

/// Takes the first `N` bytes.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests;
