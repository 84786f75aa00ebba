//! A part as a child process, with its CPU time and memory as Linux counts them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Clock ticks a second in `/proc/PID/stat`; fixed at 100 on Linux for user space.
const TICKS: u64 = 100;

/// A running part. Dropping it kills it.
pub struct Part {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Part {
    /// Starts the program; what it prints goes to `folder/NAME.log`.
    pub fn start(
        name: &str,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, String)],
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = fs_err::OpenOptions::new().create(true).append(true).open(&log)?.into_file();
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its name, as in its log's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How often its log says that a process of this name was killed at a named place.
    pub fn deaths_at(&self, failpoint: &str) -> anyhow::Result<usize> {
        self.lines_that_end(&runtime::failpoint::last_words(failpoint))
    }

    /// How often its log says that a process of this name fell asleep at a named place.
    pub fn sleeps_at(&self, failpoint: &str) -> anyhow::Result<usize> {
        self.lines_that_end(&runtime::failpoint::words_before_sleep(failpoint))
    }

    fn lines_that_end(&self, words: &str) -> anyhow::Result<usize> {
        let log = fs_err::read(&self.log)?;
        Ok(log.split(|byte| *byte == b'\n').filter(|line| line.ends_with(words.as_bytes())).count())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the process has ended, naming its log.
    pub fn must_run(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}; see {}", self.name, self.log.display());
        }
        Ok(())
    }

    /// CPU time so far, user and system, of all its threads.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs_err::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // the command's name is in brackets and may hold spaces
        let fields: Vec<&str> =
            stat.rsplit_once(')').context("stat without name")?.1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS))
    }

    /// Resident memory: now and at its largest, bytes.
    pub fn rss(&self) -> anyhow::Result<(u64, u64)> {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kib = |field: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(field))
                .and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok())
                .map_or(0, |kib| kib * 1024)
        };
        Ok((kib("VmRSS:"), kib("VmHWM:")))
    }

    /// Asks it to drain and waits; the exit code.
    pub fn stop(mut self, within: Duration) -> anyhow::Result<i32> {
        kill(Pid::from_raw(self.pid() as i32), Signal::SIGTERM).ok();
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} did not end within {within:?}; see {}", self.name, self.log.display());
    }

    /// Stops it without its knowledge, as a machine that is suspended, or wakes it.
    pub fn suspend(&self, asleep: bool) -> anyhow::Result<()> {
        let signal = if asleep { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(self.pid() as i32), signal).with_context(|| format!("{signal} for {}", self.name))
    }

    /// Whether it is stopped, every thread of it.
    pub fn is_suspended(&self) -> anyhow::Result<bool> {
        let stat = fs_err::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        Ok(stat.rsplit_once(')').context("stat without name")?.1.trim_start().starts_with('T'))
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it ends by itself; the exit code, or none if a signal ended it.
    pub fn wait(&mut self) -> anyhow::Result<Option<i32>> {
        Ok(self.child.wait()?.code())
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
