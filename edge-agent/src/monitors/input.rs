//! Whether keyboard and mouse are in use: counts and booleans, never which key or where.
//!
//! Built with the feature `input` it listens through X11 on a thread of its own; the callback only
//! adds to a counter and drops the event with all that it carries. Without the feature or without
//! a display the capability is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use schemas::event::{Payload, UserActivity, event_type};
use schemas::identity::Lane;

use super::{Capability, Monitor};
use crate::observation::Observation;

const SOURCE: &str = "input/x11";

/// An idle user is reported so often.
const IDLE_REPORT_US: i64 = 300_000_000;

#[derive(Debug, Default)]
struct Counts {
    mouse: AtomicU64,
    keyboard: AtomicU64,
    /// Ends of the listening thread, e.g. because the display went away.
    failed: AtomicBool,
}

pub(super) struct InputMonitor {
    counts: Arc<Counts>,
    /// Whose keyboard and mouse they are.
    user: Option<Arc<str>>,
    interval: Duration,
    missing: Option<String>,
    state: Activity,
}

impl InputMonitor {
    /// Begins to listen where that is possible.
    pub(super) fn start(interval: Duration) -> Self {
        let counts = Arc::new(Counts::default());
        let missing = listen(&counts).err();
        Self { counts, user: user(), interval, missing, state: Activity::default() }
    }
}

impl Monitor for InputMonitor {
    fn name(&self) -> &'static str {
        "input"
    }

    fn source(&self) -> &'static str {
        SOURCE
    }

    fn capability(&self) -> Capability {
        match &self.missing {
            Some(why) => Capability::Missing(why.clone()),
            None if self.counts.failed.load(Ordering::Relaxed) => {
                Capability::Missing("the display does not let us listen".to_owned())
            }
            None => Capability::Present,
        }
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn sample(&mut self, now: i64) -> Vec<Observation> {
        if self.capability() != Capability::Present {
            return Vec::new();
        }
        let mouse = self.counts.mouse.swap(0, Ordering::Relaxed);
        let keyboard = self.counts.keyboard.swap(0, Ordering::Relaxed);
        let activity = self.state.interval(now, self.interval, mouse, keyboard);
        let event = activity.map(|activity| {
            let payload = Payload::UserActivity(activity);
            Observation::new(now, Lane::Normal, event_type::USER_ACTIVITY, SOURCE, payload)
                .with_user(self.user.clone())
        });
        event.into_iter().collect()
    }
}

/// Who sits at the display that is listened to.
#[cfg(target_os = "linux")]
fn user() -> Option<Arc<str>> {
    let key = std::env::var_os("XAUTHORITY").map(std::path::PathBuf::from);
    let account = account(key.as_deref(), owner("/proc/self".as_ref())?)?;
    Some(super::users::Users::default().name(account))
}

/// The owner of the key to the display, or else whoever the agent runs as. Whose display root hears without such a key,
/// nobody knows.
#[cfg(target_os = "linux")]
fn account(key: Option<&std::path::Path>, own: u32) -> Option<u32> {
    Some(key.and_then(owner).unwrap_or(own)).filter(|account| *account != 0)
}

#[cfg(target_os = "linux")]
fn owner(path: &std::path::Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|file| file.uid())
}

#[cfg(not(target_os = "linux"))]
fn user() -> Option<Arc<str>> {
    let name = ["USER", "USERNAME"].iter().find_map(|name| std::env::var(name).ok())?;
    (!name.is_empty()).then(|| name.into())
}

/// Turns counts of intervals into reports: each active interval, the first idle one, then rarely.
#[derive(Debug, Default)]
struct Activity {
    active_before: bool,
    last_active: Option<i64>,
    last_report: Option<i64>,
}

impl Activity {
    fn interval(&mut self, now: i64, length: Duration, mouse: u64, keyboard: u64) -> Option<UserActivity> {
        let active = mouse + keyboard > 0;
        if active {
            self.last_active = Some(now);
        }
        let due = self.last_report.is_none_or(|last| now - last >= IDLE_REPORT_US);
        let tell = active || self.active_before || due;
        self.active_before = active;
        if !tell {
            return None;
        }
        self.last_report = Some(now);
        let idle_s = self.last_active.map(|last| (now - last) as f64 / 1e6);
        Some(UserActivity {
            mouse: Some(mouse > 0),
            keyboard: Some(keyboard > 0),
            mouse_events: Some(mouse as i64),
            keyboard_events: Some(keyboard as i64),
            active_s: Some(if active { length.as_secs_f64() } else { 0.0 }),
            idle_s,
            injected: None,
        })
    }
}

#[cfg(not(feature = "input"))]
fn listen(_counts: &Arc<Counts>) -> Result<(), String> {
    Err("not built in (feature `input`)".to_owned())
}

#[cfg(feature = "input")]
fn listen(counts: &Arc<Counts>) -> Result<(), String> {
    use rdev::EventType::{ButtonPress, ButtonRelease, KeyPress, KeyRelease, MouseMove, Wheel};
    if cfg!(target_os = "linux") && std::env::var_os("DISPLAY").is_none() {
        return Err("no display".to_owned());
    }
    let counts = Arc::clone(counts);
    let listening = move || {
        let counting = Arc::clone(&counts);
        let outcome = rdev::listen(move |event| match event.event_type {
            KeyPress(_) => drop(counting.keyboard.fetch_add(1, Ordering::Relaxed)),
            ButtonPress(_) | MouseMove { .. } | Wheel { .. } => {
                counting.mouse.fetch_add(1, Ordering::Relaxed);
            }
            KeyRelease(_) | ButtonRelease(_) => {}
        });
        if let Err(error) = outcome {
            tracing::warn!(?error, "user input cannot be listened to");
            counts.failed.store(true, Ordering::Relaxed);
        }
    };
    // It cannot be asked to stop: it ends with the process.
    let started = std::thread::Builder::new().name("input".to_owned()).spawn(listening);
    started.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    #[test]
    fn active_intervals_the_first_idle_one_and_then_rarely() {
        let mut activity = Activity::default();
        let mut at = |second: i64, mouse, keyboard| {
            activity.interval(second * S, Duration::from_secs(10), mouse, keyboard)
        };
        assert_eq!(at(10, 5, 0).unwrap().mouse, Some(true));
        let idle = at(20, 0, 0).unwrap();
        assert_eq!((idle.active_s, idle.idle_s), (Some(0.0), Some(10.0)));
        assert_eq!(at(30, 0, 0), None);
        assert_eq!(at(320, 0, 0).unwrap().idle_s, Some(310.0));
        let keys = at(330, 0, 7).unwrap();
        assert_eq!((keys.mouse, keys.keyboard_events, keys.active_s), (Some(false), Some(7), Some(10.0)));
    }

    #[test]
    fn each_report_names_whose_input_it_was() {
        let (counts, interval) = (Arc::new(Counts::default()), Duration::from_secs(10));
        let (user, state) = (Some("alice".into()), Activity::default());
        let mut monitor = InputMonitor { counts, user, interval, missing: None, state };
        let seen = monitor.sample(S);
        assert_eq!(seen[0].user.as_deref(), Some("alice"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn whoever_owns_the_key_to_the_display_sits_at_it() {
        let folder = tempfile::tempdir().unwrap();
        let own = owner(folder.path()).filter(|own| *own != 0);
        assert_eq!(account(Some(folder.path()), 1_000), own);
        assert_eq!(account(Some(&folder.path().join("none")), 1_000), Some(1_000));
        assert_eq!((account(None, 1_000), account(None, 0)), (Some(1_000), None));
    }

    #[cfg(not(feature = "input"))]
    #[test]
    fn without_the_feature_the_capability_is_missing_and_nothing_is_reported() {
        let mut monitor = InputMonitor::start(Duration::from_secs(1));
        assert!(matches!(monitor.capability(), Capability::Missing(why) if why.contains("feature")));
        assert!(monitor.sample(1).is_empty());
    }
}
