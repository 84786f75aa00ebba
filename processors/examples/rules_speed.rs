//! What rules cost when nothing matches: `cargo run --release -p processors --example rules_speed`.
//!
//! A batch of process events, a twentieth of them starts, the rest stops and changes of services, is shown to sets of
//! rules that look at starts; printed is the time for each row of the batch and for each rule and start.
#![allow(clippy::print_stdout, reason = "a command line program")]

use std::fmt::Write as _;
use std::time::Instant;

use processors::rules::testing::rows_of;
use processors::rules::{Judge, Place, RuleSet};
use schemas::family::Family;
use schemas::record::RecordKind;
use serde_json::json;

const ROWS: usize = 2_000;
const STARTS: usize = ROWS / 20;
const TURNS: u32 = 50;

fn rules(count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        let what = match number % 4 {
            0 => format!("name = 'tool{number}.exe' AND command_line LIKE '%--flag{number}%'"),
            1 => "in_list(name, 'names') AND path_class = 'temp'".to_owned(),
            2 => format!("path LIKE '%\\Folder{number}\\%'"),
            _ => format!("parent_name = 'parent{number}' AND \"user\" <> 'system'"),
        };
        let _ = write!(
            text,
            "---\nid: rule-{number}\ntitle: R\nseverity: low\ndescription: D\nkind: match\nfamily: process_event\n\
             where: |\n  event_type = 'process_started' AND {what}\nmessage: m\n"
        );
    }
    text
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows = (0..ROWS).map(|row| {
        let event_type = match row % 20 {
            0 => "process_started",
            row if row % 2 == 0 => "process_stopped",
            _ => "service_changed",
        };
        json!({"event_type": event_type, "seq": row, "pid": row, "name": format!("program{}", row % 50),
               "path": format!("C:\\Program Files\\Acme\\program{}.exe", row % 50), "path_class": "program",
               "command_line": format!("program{} --verbose --config=C:\\x.ini", row % 50), "user": "anna"})
    });
    let batch = rows_of(RecordKind::Family(Family::ProcessEvent), &rows.collect::<Vec<_>>())?;
    for count in [1, 50, 500] {
        let text = rules(count);
        let set = RuleSet::parse([("rules.yaml", text.as_str())], [("names", "a.exe\nb.exe")])
            .map_err(|problems| format!("{problems:?}"))?;
        let mut judge = Judge::new(&set)?;
        let place = |row: usize| Place { at: row as u32, time: 0, watermark: 0 };
        judge.rows(Family::ProcessEvent, &batch, place)?;
        let began = Instant::now();
        for _ in 0..TURNS {
            judge.rows(Family::ProcessEvent, &batch, place)?;
        }
        let nanos = began.elapsed().as_nanos() as f64 / f64::from(TURNS);
        println!(
            "{count:>4} rules: {:>8.1} ns a row, {:>6.1} ns a rule and start",
            nanos / ROWS as f64,
            nanos / (STARTS * count) as f64
        );
    }
    Ok(())
}
