//! The five sample topics.

use apache_avro::types::Value as Avro;
use schemas::family::Family;
use schemas::identity::Lane;
use schemas::mqtt::Sample;

use crate::support::{RECEIVED_AT, decode_row, sound, translate_sample};

fn text(value: &str) -> Avro {
    Avro::String(value.to_owned())
}

#[test]
fn cpu_and_memory_become_metrics() {
    let rows = translate_sample(Sample::SysinfoCpu, br#"{ "usage": 37.5 }"#);
    let row = rows[0].as_ref().unwrap();
    assert_eq!((row.family, row.lane, row.event_time), (Family::HostMetrics, Lane::Foreign, RECEIVED_AT));
    let fields = decode_row(row);
    assert_eq!(fields["event_type"], text("cpu_usage"));
    assert_eq!(fields["cpu_percent"], Avro::Double(37.5));
    assert_eq!(fields["source"], text("sample/sysinfo/cpu"));
    assert_eq!(fields["event_id"], text("minted-1"));

    let rows = translate_sample(Sample::SysinfoMem, br#"{ "used": 4096, "total": 8192.5, "free": 1 }"#);
    let fields = decode_row(rows[0].as_ref().unwrap());
    assert_eq!(fields["event_type"], text("mem_usage"));
    assert_eq!(fields["mem_used_bytes"], Avro::Long(4096 << 20));
    assert_eq!(fields["mem_total_bytes"], Avro::Long((8192 << 20) + (1 << 19)));
    assert_eq!(fields["extra"], text(r#"{"free":1}"#));
}

#[test]
fn activity_and_each_process_become_events() {
    let rows = translate_sample(Sample::UserActivity, br#"{ "mouse": true, "keyboard": false }"#);
    let fields = decode_row(rows[0].as_ref().unwrap());
    assert_eq!((&fields["mouse"], &fields["keyboard"]), (&Avro::Boolean(true), &Avro::Boolean(false)));

    let both =
        br#"[{"name": "chrome", "cpu": 10.2}, {"name": "dwm.exe", "cpu": "idle"}, {"name": "x", "cpu": 1}]"#;
    let rows = translate_sample(Sample::SysinfoProcesses, both);
    assert_eq!(rows.len(), 3);
    let fields = decode_row(rows[0].as_ref().unwrap());
    assert_eq!(fields["event_type"], text("process_sample"));
    assert_eq!(fields["name"], text("chrome"));
    assert_eq!(fields["cpu_percent"], Avro::Double(10.2));
    assert_eq!(fields["snapshot_id"], Avro::Long(RECEIVED_AT));
    let refused = rows[1].as_ref().unwrap_err();
    assert_eq!(refused.reason.to_string(), "payload.cpu_percent: expected a finite number, found a string");
    assert_eq!(&refused.original[..], br#"{"name": "dwm.exe", "cpu": "idle"}"#);
    assert_eq!(decode_row(rows[2].as_ref().unwrap())["event_id"], text("minted-3"));
}

#[test]
fn events_of_an_outage_keep_identity_and_time() {
    let event = serde_json::Value::Object(sound());
    let rows = translate_sample(Sample::LogsOffline, format!("[{event},{event}]").as_bytes());
    assert_eq!(rows.len(), 2);
    let row = rows[0].as_ref().unwrap();
    assert_eq!(
        (row.session, row.lane, row.seq, row.event_time),
        (5, Lane::Normal, 17, 1_732_147_201_000_000)
    );
    assert_eq!(decode_row(row)["replayed"], Avro::Boolean(true));
}

#[test]
fn what_is_no_sample_is_refused() {
    for sample in [Sample::SysinfoCpu, Sample::SysinfoProcesses] {
        for payload in [&b"{ usage: 37.5 }"[..], b"37.5", b"[1]", b"", b"\xff", b"[[]]"] {
            let results = translate_sample(sample, payload);
            assert_eq!(results.len(), 1);
            assert!(results[0].is_err(), "{payload:?}");
        }
    }
    let other = translate_sample(Sample::SysinfoCpu, br#"{"usage": 1, "agent_id": "pc002"}"#);
    assert!(other[0].as_ref().unwrap_err().agent_mismatch);
}
