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

/// What tells one state of the file from another: a rename gives another inode. Without a file it is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

fn stamp(path: &Path) -> Stamp {
    let Ok(found) = fs_err::metadata(path) else {
        return Stamp::default();
    };
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&found);
    #[cfg(not(unix))]
    let inode = 0;
    Stamp { modified: found.modified().ok(), bytes: found.len(), inode }
}

/// Whoever looks at a file of keys and hands on what it holds.
pub(crate) struct Watcher {
    path: PathBuf,
    keys: watch::Sender<Option<Arc<KeySet>>>,
    health: Component,
    looked_at: Option<Stamp>,
}

impl Watcher {
    /// Has looked once.
    pub(crate) fn new(path: &Path, health: Component) -> (Self, Keys) {
        let (keys, receiver) = watch::channel(None);
        let mut watcher = Self { path: path.to_owned(), keys, health, looked_at: None };
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

    /// A file that cannot be used changes nothing: the keys before it stay good, and health says why.
    fn look(&mut self) {
        let found = stamp(&self.path);
        if self.looked_at == Some(found) {
            return;
        }
        self.looked_at = Some(found);
        match load(&self.path) {
            Ok(set) => {
                tracing::info!(path = %self.path.display(), keys = set.len(), "read the keys");
                self.health.ready();
                self.keys.send_replace(Some(Arc::new(set)));
            }
            Err(error) => {
                tracing::error!(%error, "the file of keys cannot be used; those read before stay good");
                self.health.waiting(error.to_string());
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
}
