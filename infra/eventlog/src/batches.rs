//! Records of the log as Arrow batches, and back.
//!
//! A batch mixes record kinds and schema versions, and any record may be broken. arrow-avro's decoder is fast but
//! gives up the whole batch for one bad record, sometimes only at the end, and is unusable afterwards. So records
//! are first put together by schema id; each id has a decoder of its own; and when one is tainted it is thrown
//! away, apache-avro names the culprits one by one, and the rest is decoded again.

mod decode;
mod encode;

pub use decode::{BatchDecoder, Decoded, Group};
pub use encode::{BatchEncoder, EncodeError};
