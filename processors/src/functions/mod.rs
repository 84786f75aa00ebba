//! SQL functions of normalisation and rules.
//!
//! | function | result |
//! |---|---|
//! | `path_class(path)` | class of the place, see [`PathClass`](crate::paths::PathClass) |
//! | `is_under(path, directory, …)` | whether the file lies below one of the directories |
//! | `is_in(path, directory, …)` | whether the file lies directly in one of the directories |
//! | `basename(path)` | last segment |
//! | `program_name(name, path)` | the name, else the last segment of the path; in lower case where it is a Windows program |
//! | `clean(text)` | the text without blanks around it; null if nothing is left |
//! | `entropy(text)` | Shannon entropy of the characters, in bits per character |
//! | `in_list(text, 'list')` | whether the list has this entry, without regard to case |
//! | `regexp_like(text, 'pattern'[, 'flags'])` | whether the pattern matches somewhere in the text; flags `i`, `m`, `s`, `x`, `U` |
//! | `in_hours(time, 'list')` | whether the time falls into the hours of the list, such as `Mon-Fri 20:00-07:00` |
//!
//! A directory is a literal in any spelling that a path may have, or `'@list'` for all entries of a list; what cannot
//! be read, and a list that does not exist, is refused at planning. Null in, null out. All take `Utf8`, `LargeUtf8`
//! and `Utf8View`.
//!
//! Aggregates, for windows:
//!
//! | function | result |
//! |---|---|
//! | `gauge(value, is_over, event_time, seq)` | samples, sum, mean, min, max, standard deviation, last, share over a limit |
//! | `shares(key, weight)` | distinct keys, entropy of their shares, the largest share |
//! | `quantile(value, q)` | a percentile within one percent |
//! | `earliest(key, event_time, text)` | the first row of each key, of the first ten keys, as a JSON array |

mod aggregates;
mod directories;
mod hours;
mod lists;
mod membership;
mod pattern;
mod text;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionContext;

pub use lists::{List, Lists};

/// The functions that a plan may call.
#[derive(Debug, Clone)]
pub struct Functions {
    functions: Vec<Arc<ScalarUDF>>,
}

impl Default for Functions {
    fn default() -> Self {
        Self::new()
    }
}

impl Functions {
    /// The functions, without any list.
    pub fn new() -> Self {
        Self::with_lists(&Arc::new(Lists::default()))
    }

    /// The functions, with the lists that `in_list` and `'@list'` may name.
    pub fn with_lists(lists: &Arc<Lists>) -> Self {
        let functions = [
            ScalarUDF::from(text::PathClassOf::new()),
            ScalarUDF::from(text::Basename::new()),
            ScalarUDF::from(text::ProgramName::new()),
            ScalarUDF::from(text::Clean::new()),
            ScalarUDF::from(text::Entropy::new()),
            ScalarUDF::from(directories::InDirectory::below(Arc::clone(lists))),
            ScalarUDF::from(directories::InDirectory::directly(Arc::clone(lists))),
            ScalarUDF::from(membership::InList::new(Arc::clone(lists))),
            ScalarUDF::from(hours::InHours::new(Arc::clone(lists))),
            ScalarUDF::from(pattern::RegexpLike::new()),
        ];
        Self { functions: functions.into_iter().map(Arc::new).collect() }
    }

    /// Makes the functions known to a session.
    pub(crate) fn register(&self, context: &SessionContext) {
        for function in &self.functions {
            context.register_udf(function.as_ref().clone());
        }
        for aggregate in aggregates::all() {
            context.register_udaf(aggregate);
        }
    }
}

#[cfg(test)]
mod tests;
