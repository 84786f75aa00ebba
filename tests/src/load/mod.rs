//! A load of events that anyone can compute again: event number `n` is a pure function of `n`.

mod mix;
mod source;

pub use mix::{Made, Mix};
pub use source::Synthetic;
