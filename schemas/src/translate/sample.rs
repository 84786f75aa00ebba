//! Payloads of the sample topics, rewritten as events. Not a hot path: few senders use it.

use serde_json::{Map, Number, Value};

use super::Context;
use super::refused::{Refusal, RefusedReason};
use crate::event::event_type;
use crate::mqtt::Sample;

const BYTES_PER_MIB: i64 = 1024 * 1024;
/// Fields that a sample may carry beside its own; they belong to the envelope of the event.
const ENVELOPE: [&str; 7] = ["agent_id", "event_id", "event_time", "source", "host", "user", "replayed"];

/// The JSON text of the event that a sample stands for. Its remaining fields are kept as they are.
pub(super) fn canonical(sample: Sample, bytes: &[u8], ctx: &Context<'_>) -> Result<Vec<u8>, Refusal> {
    let parsed: Value = match serde_json::from_slice(bytes) {
        Ok(parsed) => parsed,
        Err(error) => {
            return Err(RefusedReason::NotJson { field: None, detail: error.to_string() }.into());
        }
    };
    let Value::Object(mut payload) = parsed else {
        return Err(RefusedReason::NotEvents { found: "an element that is no object" }.into());
    };
    let mut event = Map::new();
    for name in ENVELOPE {
        if let Some(value) = payload.remove(name) {
            event.insert(name.to_owned(), value);
        }
    }
    let event_type = match sample {
        Sample::SysinfoCpu => {
            rename(&mut payload, "usage", "cpu_percent");
            event_type::CPU_USAGE
        }
        Sample::SysinfoMem => {
            mib_to_bytes(&mut payload, "used", "mem_used_bytes");
            mib_to_bytes(&mut payload, "total", "mem_total_bytes");
            event_type::MEM_USAGE
        }
        Sample::SysinfoProcesses => {
            rename(&mut payload, "cpu", "cpu_percent");
            payload.entry("snapshot_id").or_insert_with(|| ctx.received_at.into());
            event_type::PROCESS_SAMPLE
        }
        Sample::UserActivity => event_type::USER_ACTIVITY,
        Sample::LogsOffline => return Ok(bytes.to_vec()),
    };
    event.entry("event_time").or_insert_with(|| ctx.received_at.into());
    event.entry("source").or_insert_with(|| format!("sample/{}", sample.path()).into());
    event.insert("event_type".to_owned(), event_type.into());
    event.insert("payload".to_owned(), payload.into());
    Ok(Value::Object(event).to_string().into_bytes())
}

fn rename(payload: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = payload.remove(from) {
        payload.insert(to.to_owned(), value);
    }
}

fn mib_to_bytes(payload: &mut Map<String, Value>, from: &str, to: &str) {
    let Some(value) = payload.remove(from) else { return };
    let whole = value.as_i64().and_then(|mib| mib.checked_mul(BYTES_PER_MIB)).map(Number::from);
    let bytes = whole.or_else(|| Number::from_f64((value.as_f64()? * BYTES_PER_MIB as f64).round()));
    payload.insert(to.to_owned(), bytes.map_or(value, Value::Number));
}
