//! Which programs this machine has ever started, as far as the agent remembers: what `first_seen` is told by.
//!
//! A program is its path; one that was replaced in place is the same one. Of a path nothing is kept but a hash, and when
//! the program was started last. Those that were not started for longest make room, and are new when they come again.
//!
//! **Rather twice than never.** The file is written at a look after the one that found the program, when that start is in
//! the outbox; an agent that is killed in between calls the program new once more.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::whole;

/// Programs that are remembered at most; a line of the file takes 43 bytes.
const MOST: usize = 8192;
/// Shortest time between two writes of the file, in µs.
const SAVE_EVERY_US: i64 = 10_000_000;
/// How exactly it is known when a program was started last, in s: a start of a known one is no reason to write.
const EXACT_S: u32 = 24 * 3600;
/// First word of the file, with the version of its form.
const FORM: &str = "varta-programs-1";

type Hash = [u8; 16];

/// See the module's description.
#[derive(Debug, Default)]
pub struct Programs {
    /// `None`: nothing is kept over a restart.
    file: Option<PathBuf>,
    /// While the memory is younger than this nothing is called new, in µs.
    learn_us: i64,
    /// When the memory began, in µs since 1970-01-01 UTC.
    since: Option<i64>,
    /// When each was started last, in s since 1970-01-01 UTC.
    started: HashMap<Hash, u32>,
    is_changed: bool,
    saved_at: i64,
    is_told: bool,
}

impl Programs {
    /// What is remembered in a file. One that cannot be used is told, and the memory begins anew.
    pub fn open(file: &Path, learn: Duration) -> Self {
        let learn_us = i64::try_from(learn.as_micros()).unwrap_or(i64::MAX);
        let anew = Self { file: Some(file.to_owned()), learn_us, ..Self::default() };
        let text = match fs_err::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return anew,
            Err(error) => {
                tracing::warn!(%error, "the programs seen so far cannot be read, they are learnt anew");
                return anew;
            }
        };
        let Some((since, started)) = parse(&text) else {
            tracing::warn!(file = %file.display(), "the programs seen so far are not in order, they are learnt anew");
            return anew;
        };
        Self { since: Some(since), started, ..anew }
    }

    /// A program is started. Whether it never was before; `None`: that is not known yet.
    pub(super) fn meet(&mut self, path: &str, now: i64) -> Option<bool> {
        let since = *self.since.get_or_insert(now);
        let (hash, seconds) = (hash(path), u32::try_from(now / 1_000_000).unwrap_or(0));
        let before = self.started.insert(hash, seconds);
        self.is_changed |= before.is_none_or(|before| seconds.saturating_sub(before) > EXACT_S);
        if self.started.len() > MOST + MOST / 8 {
            self.make_room();
        }
        match before {
            Some(_) => Some(false),
            None if now.saturating_sub(since) < self.learn_us => None,
            None => Some(true),
        }
    }

    fn make_room(&mut self) {
        let mut all: Vec<(Hash, u32)> = self.started.drain().collect();
        all.sort_unstable_by_key(|(hash, seconds)| (Reverse(*seconds), *hash));
        all.truncate(MOST);
        self.started = all.into_iter().collect();
    }

    /// Writes the file if there is something new in it, and not too often. What is new since the last look is in the outbox
    /// when this is called.
    pub(super) fn keep(&mut self, now: i64) {
        let is_due = self.is_changed && now.saturating_sub(self.saved_at) >= SAVE_EVERY_US;
        let (Some(file), true) = (&self.file, is_due) else { return };
        self.saved_at = now;
        match whole::replace(file, &self.text()) {
            Ok(()) => (self.is_changed, self.is_told) = (false, false),
            Err(error) => {
                if !self.is_told {
                    tracing::warn!(%error, "the programs seen so far cannot be kept");
                }
                self.is_told = true;
            }
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{FORM} {} {}\n", self.since.unwrap_or(0), self.started.len());
        for (hash, seconds) in &self.started {
            // A String takes everything.
            let _ = writeln!(text, "{:032x} {seconds}", u128::from_be_bytes(*hash));
        }
        text
    }
}

fn hash(path: &str) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(&Sha256::digest(path.as_bytes())[..16]);
    hash
}

/// Since when, and what; `None` if it is not whole.
fn parse(text: &str) -> Option<(i64, HashMap<Hash, u32>)> {
    let (head, lines) = text.split_once('\n')?;
    let mut head = head.split(' ');
    let (form, since, count) = (head.next()?, head.next()?, head.next()?);
    let started: Option<HashMap<Hash, u32>> = lines
        .lines()
        .map(|line| {
            let (hash, seconds) = line.split_once(' ')?;
            Some((u128::from_str_radix(hash, 16).ok()?.to_be_bytes(), seconds.parse().ok()?))
        })
        .collect();
    let (since, started) = (since.parse().ok()?, started?);
    (form == FORM && started.len() == count.parse::<usize>().ok()?).then_some((since, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const NOW: i64 = 1_795_168_800 * SECOND;

    fn opened(folder: &tempfile::TempDir, learn: Duration) -> Programs {
        Programs::open(&folder.path().join("programs"), learn)
    }

    #[test]
    fn a_program_is_new_once_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let mut programs = opened(&folder, Duration::ZERO);
        assert_eq!(programs.meet("/bin/a", NOW), Some(true));
        assert_eq!(programs.meet("/bin/a", NOW + 1), Some(false));
        programs.keep(NOW + 2);
        assert_eq!(programs.meet("/bin/b", NOW + 3), Some(true));
        // Too soon to be written.
        programs.keep(NOW + 4);

        let mut after_a_kill = opened(&folder, Duration::ZERO);
        assert_eq!(after_a_kill.meet("/bin/a", NOW + 5), Some(false));
        assert_eq!(after_a_kill.meet("/bin/b", NOW + 6), Some(true), "rather twice than never");
        after_a_kill.keep(NOW + 7);
        assert_eq!(opened(&folder, Duration::ZERO).meet("/bin/b", NOW + 8), Some(false));
    }

    #[test]
    fn while_it_learns_nothing_is_called_new() {
        let folder = tempfile::tempdir().unwrap();
        let mut programs = opened(&folder, Duration::from_secs(10));
        assert_eq!(programs.meet("/bin/a", NOW), None);
        assert_eq!(programs.meet("/bin/a", NOW + SECOND), Some(false), "what it has seen it knows");
        programs.keep(NOW + SECOND);
        // It goes on learning where it was.
        let mut programs = opened(&folder, Duration::from_secs(10));
        assert_eq!(programs.meet("/bin/b", NOW + 9 * SECOND), None);
        assert_eq!(programs.meet("/bin/c", NOW + 10 * SECOND), Some(true));
    }

    #[test]
    fn memory_and_file_are_bounded_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut programs = opened(&folder, Duration::ZERO);
        for number in 0..3 * MOST as i64 {
            programs.meet(&format!("/tmp/build-{number}"), NOW + number * SECOND);
            programs.meet("/bin/daily", NOW + number * SECOND);
            assert!(programs.started.len() <= MOST + MOST / 8);
        }
        let end = NOW + 3 * MOST as i64 * SECOND;
        assert_eq!(programs.meet("/bin/daily", end), Some(false));
        assert_eq!(programs.meet("/tmp/build-1", end), Some(true), "long ago");
        programs.keep(end);
        let text = fs_err::read_to_string(folder.path().join("programs")).unwrap();
        assert!(text.len() <= (MOST + MOST / 8 + 2) * 45, "{} bytes", text.len());
        assert!(!text.contains("build") && !text.contains("daily"), "no path is kept");
        assert_eq!(opened(&folder, Duration::ZERO).meet("/bin/daily", end), Some(false));
    }

    #[test]
    fn a_file_that_is_not_whole_is_learnt_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut programs = opened(&folder, Duration::ZERO);
        programs.meet("/bin/a", NOW);
        programs.meet("/bin/b", NOW);
        programs.keep(NOW);
        let file = folder.path().join("programs");
        let whole = fs_err::read(&file).unwrap();
        let other_form = [b"another".as_slice(), &whole].concat();
        for broken in [&whole[..whole.len() / 2], &whole[..1], b"", b"\xff\xfe", &other_form] {
            fs_err::write(&file, broken).unwrap();
            let mut programs = opened(&folder, Duration::from_secs(10));
            assert_eq!(programs.meet("/bin/a", NOW + SECOND), None, "{broken:?}");
        }
        // And one that cannot be written stops nobody.
        let mut nowhere = Programs::open(Path::new("/proc/none/programs"), Duration::ZERO);
        assert_eq!(nowhere.meet("/bin/a", NOW), Some(true));
        nowhere.keep(NOW);
        assert_eq!(nowhere.meet("/bin/a", NOW), Some(false));
    }
}
