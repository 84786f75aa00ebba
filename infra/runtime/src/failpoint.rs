//! Named places where a test kills the process.
//!
//! `VARTA_FAILPOINT="worker.in_commit=3,lake.after_files=1"` makes the process end itself with `SIGKILL` at the
//! third hit of the first name or the first hit of the second: nothing is flushed, no destructor runs, exactly as
//! if the power had gone.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const UNREAD: u8 = 0;
const DISARMED: u8 = 1;
const ARMED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNREAD);
static POINTS: OnceLock<HashMap<String, AtomicU64>> = OnceLock::new();

/// Marks a place by name. Costs one atomic load unless a failpoint is armed.
#[inline]
pub fn hit(name: &'static str) {
    if STATE.load(Ordering::Relaxed) != DISARMED {
        hit_slow(name);
    }
}

#[cold]
fn hit_slow(name: &str) {
    let points = POINTS.get_or_init(|| {
        let points = parse(&std::env::var("VARTA_FAILPOINT").unwrap_or_default());
        STATE.store(if points.is_empty() { DISARMED } else { ARMED }, Ordering::Relaxed);
        points
    });
    if is_last(points, name) {
        die(name);
    }
}

/// Counts down; true at exactly the hit that was asked for.
fn is_last(points: &HashMap<String, AtomicU64>, name: &str) -> bool {
    points.get(name).is_some_and(|left| left.fetch_sub(1, Ordering::Relaxed) == 1)
}

fn parse(text: &str) -> HashMap<String, AtomicU64> {
    let mut points = HashMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, count) = part.split_once('=').unwrap_or((part, "1"));
        match count.trim().parse::<u64>() {
            Ok(count) if count > 0 => {
                points.insert(name.trim().to_owned(), AtomicU64::new(count));
            }
            _ => tracing::error!(part, "failpoint ignored: expected NAME=N with N of at least 1"),
        }
    }
    points
}

/// What a process says last on standard error, so that this death can be told from any other.
pub fn last_words(name: &str) -> String {
    format!("killed at failpoint {name}")
}

#[cfg(unix)]
fn die(name: &str) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{}", last_words(name));
    let _ = kill(Pid::this(), Signal::SIGKILL);
    // The signal is on its way; nothing after the failpoint may happen before it arrives.
    loop {
        std::thread::park();
    }
}

#[cfg(not(unix))]
fn die(_: &str) {
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_at_exactly_the_asked_hit() {
        let points = parse("a=3, b ,c=0,d=x");
        assert_eq!(points.len(), 2);
        let fired: Vec<bool> = (0..5).map(|_| is_last(&points, "a")).collect();
        assert_eq!(fired, [false, false, true, false, false]);
        assert!(is_last(&points, "b"));
        assert!(!is_last(&points, "unknown"));
    }

    #[cfg(unix)]
    #[test]
    fn the_process_is_killed_not_ended() {
        use std::os::unix::process::ExitStatusExt;
        const CHILD: &str = "VARTA_FAILPOINT_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            hit("other");
            hit("here");
            hit("here");
            return;
        }
        let run = |spec: &str| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["failpoint::tests::the_process_is_killed_not_ended", "--exact"])
                .env(CHILD, "1")
                .env("VARTA_FAILPOINT", spec)
                .output()
                .unwrap()
        };
        let said = |output: &std::process::Output| {
            String::from_utf8_lossy(&output.stderr).contains(&last_words("here"))
        };
        let killed = run("here=2");
        assert_eq!((killed.status.signal(), said(&killed)), (Some(9), true));
        for spec in ["here=3", ""] {
            let ended = run(spec);
            assert_eq!((ended.status.success(), said(&ended)), (true, false));
        }
    }
}
