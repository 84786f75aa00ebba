//! A small file system below a store's folder, filled and emptied.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

const MIB: usize = 1 << 20;

/// Lies over a folder, and is gone with the value.
pub(super) struct Disk {
    folder: PathBuf,
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

impl Disk {
    /// Over an existing folder that nobody uses now; what is in it is moved onto the disk. Only root may mount.
    pub(super) fn over(folder: &Path, mib: u32) -> anyhow::Result<Self> {
        let aside = folder.with_extension("aside");
        fs_err::rename(folder, &aside)?;
        fs_err::create_dir(folder)?;
        let owner = fs_err::metadata(&aside)?;
        let options = format!("size={mib}m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder))
            .context("a small file system; this test must be run by root")?;
        let disk = Self { folder: folder.to_owned() };
        run(Command::new("cp").args(["-a", "--"]).arg(aside.join(".")).arg(folder))?;
        Ok(disk)
    }

    /// Takes all the room that there is.
    pub(super) fn fill(&self) -> anyhow::Result<()> {
        let mut ballast = fs_err::OpenOptions::new().create(true).append(true).open(self.ballast())?;
        for size in [MIB, 4096] {
            let piece = vec![1; size];
            loop {
                match ballast.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Gives back what [`Disk::fill`] took.
    pub(super) fn free(&self) -> anyhow::Result<()> {
        Ok(fs_err::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
