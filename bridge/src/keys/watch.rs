//! Keys that change while the bridge runs.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use runtime::health::Component;
use runtime::shutdown::Shutdown;
use tokio::sync::watch;

use super::{KeyFile, KeySet, KeysError, read};

/// How often the file is looked at: so long a key that was revoked is good at most.
const LOOK: Duration = Duration::from_secs(1);

/// The keys as they are now.
pub(crate) type Keys = watch::Receiver<Arc<KeySet>>;

/// What tells one state of the file from another: a rename gives another inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// `None`: there is no file.
fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs_err::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&found);
    #[cfg(not(unix))]
    let inode = 0;
    Some(Stamp { modified: found.modified().ok(), bytes: found.len(), inode })
}

/// Looks at the file until shutdown and hands on what it holds. A file that cannot be used changes nothing: the keys
/// before it stay good, and health says why.
pub(crate) async fn watch(
    path: &Path,
    keys: watch::Sender<Arc<KeySet>>,
    health: Component,
    shutdown: Shutdown,
) {
    let mut looked_at: Option<Option<Stamp>> = None;
    loop {
        let found = stamp(path);
        if looked_at != Some(found) {
            looked_at = Some(found);
            match load(path) {
                Ok(set) => {
                    tracing::info!(path = %path.display(), keys = set.len(), "read the keys");
                    health.ready();
                    keys.send_replace(Arc::new(set));
                }
                Err(error) => {
                    tracing::error!(%error, "the file of keys cannot be used; those read before stay good");
                    health.waiting(error.to_string());
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.wait() => return,
        }
    }
}

/// Reads the file into a set.
fn load(path: &Path) -> Result<KeySet, KeysError> {
    let file: KeyFile = read(path)?;
    KeySet::new(file).map_err(|what| KeysError::Malformed { path: path.display().to_string(), what })
}
