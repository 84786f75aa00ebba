//! The agent as a process: arguments, exit codes, and what is on disk after a kill.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use edge_agent::clock::EventClock;
use edge_agent::observation::Observation;
use edge_agent::outbox::{END, LANES, Outbox, OutboxConfig, Owner, Place, ReadRequest, Row, lane_index};
use schemas::event::Payload;
use schemas::identity::Lane;

fn agent() -> Command {
    Command::new(env!("CARGO_BIN_EXE_varta-agent"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A configuration with a broker that does not exist and a monitor that always has something new.
fn configure(folder: &Path) -> std::path::PathBuf {
    let file = folder.join("agent.toml");
    let state = folder.join("state");
    let config = format!(
        "agent_id = \"a-1\"\nstate_dir = \"{}\"\n[mqtt]\nhost = \"127.0.0.1\"\nport = 1\n\
         [publisher]\ndrain = \"100ms\"\n\
         [scheduler]\nreport_interval = \"1s\"\noffline_report_interval = \"1s\"\n\
         [scheduler.gauges.cpu_usage]\ndead_band = -1.0\n\
         [monitors.system]\ncpu_interval = \"100ms\"\nmemory_interval = \"0s\"\n",
        state.display()
    );
    fs::write(&file, config).unwrap();
    file
}

fn run(config: &Path, failpoint: Option<&str>) -> Output {
    let mut command = agent();
    command.arg("--config").arg(config).stdout(Stdio::null());
    if let Some(failpoint) = failpoint {
        command.env("VARTA_FAILPOINT", failpoint);
    }
    command.output().unwrap()
}

/// All rows by lane, and the tails of the session before, as the next start finds them.
fn look(state: &Path) -> (Vec<Vec<Row>>, Vec<(Lane, i64)>) {
    let owner =
        Owner { agent_id: "a-1".into(), host: "pc001".into(), clock: EventClock::new(), last_session: None };
    let mut tails = Vec::new();
    let (outbox, writer, _) =
        Outbox::open(&state.join("outbox.db"), &OutboxConfig::default(), &owner, |start| {
            tails.clone_from(&start.previous.tails);
            Observation::new(0, Lane::Critical, "looked", "test", Payload::Custom(serde_json::Value::Null))
        })
        .unwrap();
    let writing = std::thread::spawn(move || writer.run());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let read = |lane| {
        let request = ReadRequest {
            lane,
            after: Place::START,
            up_to: END,
            max_rows: usize::MAX,
            max_bytes: usize::MAX,
        };
        runtime.block_on(outbox.read(request)).unwrap()
    };
    let rows = LANES.map(read).to_vec();
    drop(outbox);
    writing.join().unwrap().unwrap();
    (rows, tails)
}

#[test]
fn a_kill_before_or_after_a_commit_leaves_no_gap_and_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = configure(folder.path());
    let state = folder.path().join("state");
    for failpoint in ["before_commit=3", "after_commit=5", "before_commit=8", "after_commit=2"] {
        let output = run(&config, Some(&format!("agent.outbox.{failpoint}")));
        assert_eq!(output.status.signal(), Some(9), "{failpoint}: {}", text(&output.stderr));

        let (rows, tails) = look(&state);
        for (lane, rows) in LANES.into_iter().zip(rows) {
            let mut sessions: Vec<i64> = rows.iter().map(|row| row.place.session).collect();
            sessions.dedup();
            assert!(sessions.is_sorted(), "sessions follow each other");
            for session in &sessions {
                let seqs = rows.iter().filter(|row| row.place.session == *session).map(|row| row.place.seq);
                assert!(
                    seqs.enumerate().all(|(at, seq)| at as i64 == seq),
                    "{lane}: a gap in session {session}"
                );
            }
            // The last session but the one that looks.
            let killed = sessions.iter().rev().nth(usize::from(lane_index(lane) == 0));
            if let (Some((_, tail)), Some(killed)) = (tails.iter().find(|(of, _)| *of == lane), killed) {
                let last = rows.iter().rev().find(|row| row.place.session == *killed).unwrap();
                assert_eq!(last.place.seq, *tail, "{lane}: the tail is the last row on disk");
            }
        }
    }
}

#[test]
fn a_clean_stop_without_a_broker_keeps_everything_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = configure(folder.path());
    let mut child =
        agent().arg("--config").arg(&config).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let state = folder.path().join("state");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !state.join("agent.json").exists() {
        assert!(Instant::now() < deadline, "the agent did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = i32::try_from(child.id()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    let (rows, _) = look(&state);
    let types: Vec<&str> = rows[0].iter().map(|row| row.event_type.as_str()).collect();
    assert_eq!(types.first(), Some(&"agent_started"));
    assert!(types.contains(&"agent_stopped"), "{types:?}");
}

#[test]
fn a_wrong_configuration_is_told_whole_and_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.toml");
    let state = folder.path().join("state");
    fs::write(
        &config,
        format!("state_dir = \"{}\"\nbogus = 1\n[mqtt]\nport = 0\nhost = \"\"\n", state.display()),
    )
    .unwrap();
    for arguments in [&["--check"][..], &[]] {
        let output = agent().arg("--config").arg(&config).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = text(&output.stderr);
        for problem in ["bogus", "mqtt.port", "mqtt.host"] {
            assert!(said.contains(problem), "{problem} is missing in {said}");
        }
    }
    assert!(!state.exists(), "nothing was started");
}

#[test]
fn the_printed_configuration_passes_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let printed = agent().arg("--print-config").output().unwrap();
    assert!(printed.status.success());
    let config = folder.path().join("agent.toml");
    fs::write(&config, &printed.stdout).unwrap();
    let checked = agent().arg("--check").arg("--config").arg(&config).output().unwrap();
    assert!(checked.status.success(), "{}", text(&checked.stderr));
}
