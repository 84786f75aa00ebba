//! Windows over event time: any SQL aggregate, kept as partial rows until its window closes.

mod aggregate;
mod tumbling;

pub use aggregate::{Aggregate, WINDOW_START};
pub use tumbling::{Closing, Tumbling};
