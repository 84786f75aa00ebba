//! The file of keys: TOML, readable by its owner only, always whole.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{KeyFile, KeySet, KeysError};

/// What stands above the rows.
const HEAD: &str = "# API keys of Varta, written by `varta keys`. Only hashes are kept; a key that is lost is\n\
                    # revoked and issued anew.\n\n";

/// Reads a file of keys. One that is not there holds none.
pub fn read(path: &Path) -> Result<KeyFile, KeysError> {
    let text = match fs_err::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(KeyFile::default()),
        Err(error) => return Err(error.into()),
    };
    check_mode(path)?;
    let malformed = |what: String| KeysError::Malformed { path: path.display().to_string(), what };
    // The parser's message quotes the line, which holds no secret.
    let file: KeyFile = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    KeySet::new(file.clone()).map_err(malformed)?;
    Ok(file)
}

/// Changes a file of keys, or makes it. Whoever else changes it waits; whoever reads it sees the old or the new
/// whole, even after a loss of power. It stays whose it was, and as readable: a bridge that could no longer read it
/// would hold a key for good that was revoked. Who may not give it back to its owner changes nothing.
pub fn change<T>(
    path: &Path,
    edit: impl FnOnce(&mut KeyFile) -> Result<T, KeysError>,
) -> Result<T, KeysError> {
    let lock = private(&beside(path, ".lock"), false)?;
    lock.file().lock()?;
    let before = owned(path)?;
    if let Some(before) = &before {
        before.keep_lock(lock.file())?;
    }
    let mut file = read(path)?;
    let answer = edit(&mut file)?;
    let text = toml::to_string(&file).map_err(|error| KeysError::Malformed {
        path: path.display().to_string(),
        what: error.to_string(),
    })?;
    let fresh = beside(path, ".new");
    match fs_err::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut written = private(&fresh, true)?;
    written.write_all(HEAD.as_bytes())?;
    written.write_all(text.as_bytes())?;
    if let Some(before) = &before {
        before.keep(written.file())?;
    }
    written.sync_all()?;
    fs_err::rename(&fresh, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::File::open(folder)?.sync_all()?;
    Ok(answer)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens a file that only its owner may read.
fn private(path: &Path, is_new: bool) -> std::io::Result<fs_err::File> {
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create(!is_new).create_new(is_new).truncate(false);
    #[cfg(unix)]
    {
        use fs_err::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

/// Whose a file is, and who may read it.
#[cfg(unix)]
struct Owned(std::fs::Metadata);

#[cfg(not(unix))]
struct Owned;

/// `None`: there is no such file.
fn owned(path: &Path) -> std::io::Result<Option<Owned>> {
    match fs_err::metadata(path) {
        #[cfg(unix)]
        Ok(found) => Ok(Some(Owned(found))),
        #[cfg(not(unix))]
        Ok(_) => Ok(Some(Owned)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
impl Owned {
    /// Makes a new file as this one is.
    fn keep(&self, file: &std::fs::File) -> std::io::Result<()> {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (self.0.uid(), self.0.gid()) {
            fchown(file, Some(self.0.uid()), Some(self.0.gid()))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(self.0.mode() & 0o777))
    }

    /// Lets the owner take the lock as well.
    fn keep_lock(&self, lock: &std::fs::File) -> std::io::Result<()> {
        use std::os::unix::fs::{MetadataExt as _, fchown};
        if lock.metadata()?.uid() == self.0.uid() { Ok(()) } else { fchown(lock, Some(self.0.uid()), None) }
    }
}

#[cfg(not(unix))]
impl Owned {
    fn keep(&self, _: &std::fs::File) -> std::io::Result<()> {
        Ok(())
    }

    fn keep_lock(&self, _: &std::fs::File) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), KeysError> {
    use std::os::unix::fs::PermissionsExt as _;
    if fs_err::metadata(path)?.permissions().mode() & 0o022 != 0 {
        return Err(KeysError::Exposed { path: path.display().to_string() });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_: &Path) -> Result<(), KeysError> {
    Ok(())
}
