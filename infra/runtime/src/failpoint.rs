//! Named places where a test kills the process, or suspends it.
//!
//! `VARTA_FAILPOINT="worker.in_commit=3,lake.after_files=1"` makes the process end itself with `SIGKILL` at the
//! third hit of the first name or the first hit of the second: nothing is flushed, no destructor runs, exactly as
//! if the power had gone. With `lake.after_files=1:stop` it is `SIGSTOP`: every thread stands still with all that it holds,
//! as on a machine that is suspended, until somebody sends `SIGCONT`.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const UNREAD: u8 = 0;
const DISARMED: u8 = 1;
const ARMED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNREAD);
static POINTS: OnceLock<HashMap<String, Point>> = OnceLock::new();

/// What is to happen at a place.
struct Point {
    /// Hits that are left until then.
    left: AtomicU64,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Killed,
    Suspended,
}

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
    match due(points, name) {
        Some(Fate::Killed) => die(name),
        Some(Fate::Suspended) => sleep(name),
        None => {}
    }
}

/// Counts down; what happens at exactly the hit that was asked for.
fn due(points: &HashMap<String, Point>, name: &str) -> Option<Fate> {
    let point = points.get(name)?;
    (point.left.fetch_sub(1, Ordering::Relaxed) == 1).then_some(point.fate)
}

fn parse(text: &str) -> HashMap<String, Point> {
    let mut points = HashMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, count) = part.split_once('=').unwrap_or((part, "1"));
        let (count, fate) = match count.trim().strip_suffix(":stop") {
            Some(count) => (count, Fate::Suspended),
            None => (count.trim(), Fate::Killed),
        };
        match count.parse::<u64>() {
            Ok(count) if count > 0 => {
                points.insert(name.trim().to_owned(), Point { left: AtomicU64::new(count), fate });
            }
            _ => tracing::error!(
                part,
                "failpoint ignored: expected NAME=N or NAME=N:stop with N of at least 1"
            ),
        }
    }
    points
}

/// What a process says last on standard error, so that this death can be told from any other.
pub fn last_words(name: &str) -> String {
    format!("killed at failpoint {name}")
}

/// What a process says on standard error before it falls asleep.
pub fn words_before_sleep(name: &str) -> String {
    format!("suspended at failpoint {name}")
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

/// The signal stops all threads, if not at once: this one does nothing more before it has been stopped and woken.
#[cfg(unix)]
fn sleep(name: &str) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{}", words_before_sleep(name));
    let _ = kill(Pid::this(), Signal::SIGSTOP);
}

#[cfg(not(unix))]
fn die(_: &str) {
    std::process::abort();
}

#[cfg(not(unix))]
fn sleep(_: &str) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_at_exactly_the_asked_hit() {
        let points = parse("a=3, b ,c=0,d=x,e=2:stop,f=:stop");
        assert_eq!(points.len(), 3);
        let fired: Vec<_> = (0..5).map(|_| due(&points, "a")).collect();
        assert_eq!(fired, [None, None, Some(Fate::Killed), None, None]);
        assert_eq!(due(&points, "b"), Some(Fate::Killed));
        let fired: Vec<_> = (0..3).map(|_| due(&points, "e")).collect();
        assert_eq!(fired, [None, Some(Fate::Suspended), None]);
        assert_eq!(due(&points, "unknown"), None);
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

    #[cfg(unix)]
    #[test]
    fn a_suspended_process_stands_still_and_goes_on_when_it_is_woken() {
        use nix::sys::{
            signal::{Signal, kill},
            wait::{WaitPidFlag, WaitStatus, waitpid},
        };
        use nix::unistd::Pid;
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["failpoint::tests::the_process_is_killed_not_ended", "--exact"])
            .env("VARTA_FAILPOINT_TEST_CHILD", "1")
            .env("VARTA_FAILPOINT", "here=1:stop")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        kill(pid, Signal::SIGCONT).unwrap();
        assert!(child.wait().unwrap().success());
    }
}
