//! Writes the JSON Schemas of events, or checks that those in the folder are up to date.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("json");
    let documents = schemas::json_schema::documents();
    match std::env::args().nth(1).as_deref() {
        Some("--write") => {
            for (name, text) in documents {
                if let Err(error) = std::fs::write(folder.join(&name), text) {
                    eprintln!("{name}: {error}");
                    return ExitCode::FAILURE;
                }
                println!("wrote {name}");
            }
            ExitCode::SUCCESS
        }
        Some("--check") => {
            let is_stale = |(name, text): &&(String, String)| {
                std::fs::read_to_string(folder.join(name)).ok().as_ref() != Some(text)
            };
            let stale: Vec<_> = documents.iter().filter(is_stale).map(|(name, _)| name.as_str()).collect();
            if stale.is_empty() {
                println!("{} JSON Schemas are up to date", documents.len());
                return ExitCode::SUCCESS;
            }
            eprintln!("stale: {}; run this with --write", stale.join(", "));
            ExitCode::FAILURE
        }
        _ => {
            eprintln!("usage: json_schemas --check | --write");
            ExitCode::from(2)
        }
    }
}
