//! The server on real sockets, in front of a Kafka that does as it is told.

mod bounds;
mod description;
mod outage;
mod requests;
mod stand;
