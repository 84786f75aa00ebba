//! Small files that are there as a whole or as they were before.

use std::io::{self, Write as _};
use std::path::Path;

/// Puts `text` in the place of a file; on disk when this returns. The draft beside it, `NAME.new`, may be left by a
/// power cut and is written over the next time.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let mut file = fs_err::File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs_err::rename(&draft, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::File::open(folder)?.sync_all()
}
