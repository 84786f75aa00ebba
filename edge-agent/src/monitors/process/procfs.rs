//! Processes as Linux tells them under `/proc`.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::source::{Details, ProcessSource, Stat};
use crate::monitors::users::Users;

/// Ticks of processor time a second: `USER_HZ` is 100 on every Linux.
const TICKS: u64 = 100;
/// Flag of kernel threads in `/proc/PID/stat`.
const PF_KTHREAD: u64 = 0x0020_0000;
/// Arguments are read up to here.
const MAX_ARGUMENTS: usize = 16 << 10;

/// Reads a mounted proc file system.
pub(super) struct ProcFs {
    root: PathBuf,
    /// Boot time in µs since 1970-01-01 UTC.
    boot: i64,
    page_bytes: u64,
    newest_pid: Option<u32>,
    repeats: bool,
    users: Users,
}

impl ProcFs {
    /// Opens `/proc` or, in tests, a folder like it.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let stat = fs_err::read_to_string(root.join("stat"))?;
        let boot = stat
            .lines()
            .find_map(|line| line.strip_prefix("btime "))
            .and_then(|seconds| seconds.trim().parse::<i64>().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no btime in /proc/stat"))?;
        Ok(Self {
            root: root.to_owned(),
            boot: boot * 1_000_000,
            page_bytes: page_size(),
            newest_pid: None,
            repeats: true,
            users: Users::default(),
        })
    }

    fn file(&self, pid: u32, name: &str) -> PathBuf {
        let mut path = self.root.join(pid.to_string());
        path.push(name);
        path
    }

    /// The last pid given out: the fifth word of `loadavg`.
    fn newest(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.root.join("loadavg")).ok()?;
        text.split_ascii_whitespace().nth(4)?.parse().ok()
    }
}

/// Page size without asking libc: resident pages of ourselves are told in both units.
fn page_size() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let status = std::fs::read_to_string("/proc/self/status").ok();
    let measured = pages.zip(status).and_then(|(pages, status)| {
        let pages: u64 = pages.split_ascii_whitespace().next()?.parse().ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        (kib * 1024).checked_div(pages)
    });
    let nearest = measured.unwrap_or(4096).checked_next_power_of_two().unwrap_or(4096);
    nearest.clamp(4096, 65536)
}

impl ProcessSource for ProcFs {
    fn label(&self) -> &'static str {
        "process/procfs"
    }

    fn pids(&mut self) -> io::Result<Vec<u32>> {
        let newest = self.newest();
        // Pids are given out upwards: below the newest of before, the count began anew.
        self.repeats = match (self.newest_pid, newest) {
            (Some(before), Some(now)) => now < before,
            _ => true,
        };
        self.newest_pid = newest;
        let mut pids = Vec::with_capacity(256);
        for entry in fs_err::read_dir(&self.root)? {
            let name = entry?.file_name();
            pids.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        Ok(pids)
    }

    fn pids_may_repeat(&mut self) -> bool {
        self.repeats
    }

    fn stat(&mut self, pid: u32) -> Option<Stat> {
        let text = std::fs::read(self.file(pid, "stat")).ok()?;
        parse_stat(&String::from_utf8_lossy(&text), self.boot, self.page_bytes)
    }

    fn details(&mut self, pid: u32) -> Details {
        let path = std::fs::read_link(self.file(pid, "exe")).ok().map(|path| {
            let path = path.to_string_lossy();
            // A program that was replaced or removed while it runs.
            path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned()
        });
        let mut line = std::fs::read(self.file(pid, "cmdline")).unwrap_or_default();
        line.truncate(MAX_ARGUMENTS);
        let arguments = line
            .split(|byte| *byte == 0)
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect::<Vec<_>>();
        let arguments = match arguments.split_last() {
            Some((last, rest)) if last.is_empty() => rest.to_vec(),
            _ => arguments,
        };
        let owner = std::fs::metadata(self.root.join(pid.to_string())).ok().map(|folder| folder.uid());
        Details { path, arguments, user: owner.map(|uid| self.users.name(uid)) }
    }
}

/// Reads one line of `/proc/PID/stat`. The name stands in brackets and may hold brackets itself.
fn parse_stat(text: &str, boot: i64, page_bytes: u64) -> Option<Stat> {
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let name = text.get(open + 1..close)?.to_owned();
    let fields: Vec<&str> = text.get(close + 1..)?.split_ascii_whitespace().collect();
    // Numbered from 3 in proc(5), where the state is.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let birth = field(22)?;
    Some(Stat {
        birth,
        started_at: boot + (birth * (1_000_000 / TICKS)) as i64,
        parent: u32::try_from(field(4)?).ok()?,
        name,
        kernel: field(9)? & PF_KTHREAD != 0,
        cpu_us: (field(14)? + field(15)?) * (1_000_000 / TICKS),
        memory_bytes: field(24)? * page_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "4242 (a) b) c) S 17 4242 4242 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 12345 1000000 256 18446744073709551615";

    #[test]
    fn a_stat_line_with_brackets_in_the_name() {
        let stat = parse_stat(LINE, 1_000_000_000, 4096).unwrap();
        assert_eq!(stat.name, "a) b) c");
        assert_eq!((stat.parent, stat.birth, stat.kernel), (17, 12345, false));
        assert_eq!(stat.started_at, 1_000_000_000 + 123_450_000);
        assert_eq!((stat.cpu_us, stat.memory_bytes), (3_000_000, 256 * 4096));
        assert_eq!(parse_stat("4242 (x) S 1", 0, 4096), None);
        assert_eq!(parse_stat("", 0, 4096), None);
    }

    #[test]
    fn kernel_threads_are_recognised() {
        let line = LINE.replace("4194304", &(4_194_304 | PF_KTHREAD).to_string());
        assert!(parse_stat(&line, 0, 4096).unwrap().kernel);
    }

    #[test]
    fn this_process_is_found_with_its_details() {
        let mut source = ProcFs::open(Path::new("/proc")).unwrap();
        let me = std::process::id();
        assert!(source.pids().unwrap().contains(&me));
        let stat = source.stat(me).unwrap();
        assert!(stat.memory_bytes > 100_000 && !stat.kernel);
        let now = runtime::clock::now_us();
        assert!((now - stat.started_at).abs() < 3_600_000_000, "{}", now - stat.started_at);
        let details = source.details(me);
        assert_eq!(details.path.unwrap(), std::env::current_exe().unwrap().to_string_lossy());
        assert!(!details.arguments.is_empty() && details.user.is_some());
    }

    #[test]
    fn a_count_of_pids_that_began_anew_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("stat"), "cpu 1\nbtime 1000\n").unwrap();
        let loadavg =
            |pid: u32| std::fs::write(folder.path().join("loadavg"), format!("0 0 0 1/2 {pid}\n")).unwrap();
        let mut source = ProcFs::open(folder.path()).unwrap();
        for (pid, repeats) in [(100, true), (100, false), (150, false), (20, true), (21, false)] {
            loadavg(pid);
            source.pids().unwrap();
            assert_eq!(source.pids_may_repeat(), repeats, "{pid}");
        }
    }
}
