//! Daily and weekly reports of the fleet, of each machine and of each user, computed by SQL from what the PostgreSQL
//! sink stores.
//!
//! *What it is*: one query a section (`sql/`), all of one report in one snapshot of the database ([`compute()`]); a task
//! that finds out which reports are due and stores them ([`run`]); the same report for people as text and as a page of
//! HTML that needs nothing else ([`text`], [`html`]).
//!
//! *Time*: a report is a function of its period and the tables. The clock, that of the database, decides only which
//! periods are over. An agent that was offline brings rows of days that are long past: whatever is younger than a report
//! makes it due again, and computing replaces it.
//!
//! Sections and their units are the types of [`body`].

pub mod body;
mod compute;
mod config;
mod due;
mod html;
mod period;
mod plots;
mod text;
mod units;

pub use self::{
    body::Body,
    compute::{Report, compute, store},
    config::{Cadence, ReportsConfig},
    due::{Due, due, run},
    html::html,
    period::{Kind, Period, Subject},
    text::text,
};
