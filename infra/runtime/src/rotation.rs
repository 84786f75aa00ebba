//! A log file that starts anew when it is full.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fs_err::{File, OpenOptions};
use tracing_subscriber::fmt::MakeWriter;

/// `agent.log`, then `agent.log.1` (the newest full one) to `agent.log.{keep}`. A line is never split.
#[derive(Clone)]
pub(crate) struct RotatingFile {
    current: Arc<Mutex<Current>>,
}

struct Current {
    path: PathBuf,
    file: File,
    written: u64,
    max_bytes: u64,
    keep: usize,
}

impl RotatingFile {
    /// Opens for appending and makes missing folders.
    pub(crate) fn open(path: &Path, max_bytes: u64, keep: usize) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs_err::create_dir_all(folder)?;
        }
        let file = append_to(path)?;
        let written = file.metadata()?.len();
        let current = Current { path: path.to_owned(), file, written, max_bytes, keep };
        Ok(Self { current: Arc::new(Mutex::new(current)) })
    }
}

impl Current {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written + line.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.written += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.keep == 0 {
            self.file.set_len(0)?;
        } else {
            for number in (1..self.keep).rev() {
                let older = numbered(&self.path, number + 1);
                rename_if_there(&numbered(&self.path, number), &older)?;
            }
            rename_if_there(&self.path, &numbered(&self.path, 1))?;
            self.file = append_to(&self.path)?;
        }
        self.written = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs_err::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl<'a> MakeWriter<'a> for RotatingFile {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter { target: self.clone(), line: Vec::new() }
    }
}

/// Gathers one formatted line and writes it whole when dropped, so that rotation never splits it.
pub(crate) struct LineWriter {
    target: RotatingFile,
    line: Vec<u8>,
}

impl Write for LineWriter {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        let mut current = self.target.current.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not end the process; there is no other place to say so.
        let _ = current.write_line(&self.line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_files_and_every_line_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/agent.log");
        let file = RotatingFile::open(&path, 20, 2).unwrap();
        for number in 0..9 {
            writeln!(file.make_writer(), "line {number}").unwrap();
        }
        let read = |path: &Path| fs_err::read_to_string(path).unwrap();
        assert_eq!(read(&path), "line 8\n");
        assert_eq!(read(&numbered(&path, 1)), "line 6\nline 7\n");
        assert_eq!(read(&numbered(&path, 2)), "line 4\nline 5\n");
        assert!(!numbered(&path, 3).exists());
        drop(file);
        // A restart appends and remembers how full the file was.
        let again = RotatingFile::open(&path, 20, 2).unwrap();
        writeln!(again.make_writer(), "line 9").unwrap();
        writeln!(again.make_writer(), "line 10").unwrap();
        assert_eq!(read(&numbered(&path, 1)), "line 8\nline 9\n");
    }
}
