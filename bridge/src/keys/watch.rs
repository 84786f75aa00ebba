//! Keys that change while the bridge runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use runtime::health::Component;
use runtime::shutdown::Shutdown;
use tokio::sync::watch;

use super::{KeyFile, KeySet, KeysError, read};

/// How often the file is looked at: so long a key that was revoked is good at most.
const LOOK: Duration = Duration::from_secs(1);

/// The keys as they are now; `None` until they could be read.
pub(crate) type Keys = watch::Receiver<Option<Arc<KeySet>>>;

/// What tells one state of the file from another: a rename gives another inode, another owner or mode another time of
/// change. Without a file it is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    changed: (i64, i64),
}

fn stamp(path: &Path) -> Stamp {
    let Ok(found) = fs_err::metadata(path) else {
        return Stamp::default();
    };
    #[cfg(unix)]
    let (inode, changed) = {
        use std::os::unix::fs::MetadataExt as _;
        (found.ino(), (found.ctime(), found.ctime_nsec()))
    };
    #[cfg(not(unix))]
    let (inode, changed) = (0, (0, 0));
    Stamp { modified: found.modified().ok(), bytes: found.len(), inode, changed }
}

/// Whoever looks at a file of keys and hands on what it holds.
pub(crate) struct Watcher {
    path: PathBuf,
    keys: watch::Sender<Option<Arc<KeySet>>>,
    health: Component,
    /// The state of the file that was read last.
    read_at: Option<Stamp>,
    /// Why it could not be read at the last look; nothing is told twice in a row.
    told: Option<String>,
}

impl Watcher {
    /// Has looked once.
    pub(crate) fn new(path: &Path, health: Component) -> (Self, Keys) {
        let (keys, receiver) = watch::channel(None);
        let mut watcher = Self { path: path.to_owned(), keys, health, read_at: None, told: None };
        watcher.look();
        (watcher, receiver)
    }

    /// Looks at the file until shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => self.look(),
                () = shutdown.wait() => return,
            }
        }
    }

    /// A file that cannot be used changes nothing: the keys before it stay good, and health says why. It is tried again
    /// at each look: what a key was revoked by must not be missed for want of a file descriptor.
    fn look(&mut self) {
        self.look_by(load);
    }

    fn look_by(&mut self, load: impl FnOnce(&Path) -> Result<KeySet, KeysError>) {
        // Before it is read: what changes meanwhile is seen at the next look.
        let found = stamp(&self.path);
        if self.read_at == Some(found) {
            return;
        }
        match load(&self.path) {
            Ok(set) => {
                tracing::info!(path = %self.path.display(), keys = set.len(), "read the keys");
                self.read_at = Some(found);
                self.told = None;
                self.health.ready();
                self.keys.send_replace(Some(Arc::new(set)));
            }
            Err(error) => {
                let why = error.to_string();
                if self.told.as_ref() != Some(&why) {
                    tracing::error!(%error, "the file of keys cannot be used; those read before stay good");
                    self.health.waiting(&why);
                    self.told = Some(why);
                }
            }
        }
    }
}

/// Reads the file into a set.
fn load(path: &Path) -> Result<KeySet, KeysError> {
    let file: KeyFile = read(path)?;
    KeySet::new(file).map_err(|what| KeysError::Malformed { path: path.display().to_string(), what })
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use runtime::health::{Health, State};

    use super::*;
    use crate::keys::{Wanted, change};

    #[test]
    fn a_file_that_breaks_leaves_the_keys_that_were_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let health = Health::new();
        let issue = || {
            let wanted = Wanted { agents: vec!["a".to_owned()], ..Wanted::default() };
            change(&path, |file| file.issue(wanted, Utc::now())).unwrap()
        };
        fs_err::write(&path, "nonsense").unwrap();
        let (mut watcher, keys) = Watcher::new(&path, health.component("keys"));
        assert!(keys.borrow().is_none(), "nobody is told that a key is not known");
        fs_err::remove_file(&path).unwrap();
        watcher.look();
        assert_eq!(keys.borrow().as_ref().unwrap().len(), 0);
        let text = issue();
        watcher.look();
        fs_err::write(&path, "nonsense").unwrap();
        watcher.look();
        assert!(keys.borrow().as_ref().unwrap().authenticate(&text, Utc::now()).is_ok());
        assert!(matches!(&health.snapshot()["keys"], State::Waiting(why) if why.contains("keys.toml")));
    }

    #[test]
    fn a_key_that_is_revoked_is_worth_nothing_although_the_first_look_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let health = Health::new();
        let wanted = Wanted { agents: vec!["a".to_owned()], ..Wanted::default() };
        let text = change(&path, |file| file.issue(wanted, Utc::now())).unwrap();
        let (mut watcher, keys) = Watcher::new(&path, health.component("keys"));
        let is_good = || keys.borrow().as_ref().unwrap().authenticate(&text, Utc::now()).is_ok();
        assert!(is_good());
        let id = text.split('_').nth(1).unwrap();
        change(&path, |file| file.revoke(id, Utc::now()).map(drop)).unwrap();
        watcher.look_by(|_| Err(std::io::Error::other("too many open files").into()));
        assert!(is_good(), "nothing is known of the revocation");
        assert!(matches!(&health.snapshot()["keys"], State::Waiting(_)));
        watcher.look();
        assert!(!is_good());
        assert_eq!(health.snapshot()["keys"], State::Ready);
    }

    #[cfg(unix)]
    #[test]
    fn another_mode_is_another_state_of_the_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        fs_err::write(&path, "").unwrap();
        let mode = |mode| fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o600);
        let health = Health::new();
        let (mut watcher, _keys) = Watcher::new(&path, health.component("keys"));
        assert_eq!(health.snapshot()["keys"], State::Ready);
        // Others may write to it now.
        mode(0o622);
        watcher.look();
        assert!(matches!(&health.snapshot()["keys"], State::Waiting(_)));
        mode(0o600);
        watcher.look();
        assert_eq!(health.snapshot()["keys"], State::Ready);
    }
}
