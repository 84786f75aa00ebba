//! Processes as the `sysinfo` crate tells them: for systems without `/proc`.

use std::io;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System, ThreadKind, UpdateKind, Users};

use super::source::{Details, ProcessSource, Stat};

/// All processes in one refresh.
pub(super) struct Portable {
    system: System,
    users: Users,
}

impl Portable {
    /// Nothing is read before the first list.
    pub(super) fn open() -> io::Result<Self> {
        let system = System::new().map_err(io::Error::other)?;
        let users = Users::new_with_refreshed_list().map_err(io::Error::other)?;
        Ok(Self { system, users })
    }
}

impl ProcessSource for Portable {
    fn label(&self) -> &'static str {
        "process/sysinfo"
    }

    fn pids(&mut self) -> io::Result<Vec<u32>> {
        let wanted = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::All, true, wanted);
        Ok(self.system.processes().keys().map(|pid| pid.as_u32()).collect())
    }

    fn pids_may_repeat(&mut self) -> bool {
        true
    }

    fn stat(&mut self, pid: u32) -> Option<Stat> {
        let process = self.system.process(Pid::from_u32(pid))?;
        Some(Stat {
            birth: process.start_time(),
            started_at: process.start_time() as i64 * 1_000_000,
            parent: process.parent().map_or(0, Pid::as_u32),
            name: process.name().to_string_lossy().into_owned(),
            kernel: process.thread_kind() == Some(ThreadKind::Kernel),
            cpu_us: process.accumulated_cpu_time() * 1_000,
            memory_bytes: process.memory(),
        })
    }

    fn details(&mut self, pid: u32) -> Details {
        let pid = Pid::from_u32(pid);
        let once = UpdateKind::OnlyIfNotSet;
        let wanted =
            ProcessRefreshKind::nothing().with_exe(once).with_cmd(once).with_user(once).without_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, wanted);
        let Some(process) = self.system.process(pid) else {
            return Details::default();
        };
        Details {
            path: process.exe().map(|path| path.to_string_lossy().into_owned()),
            arguments: process.cmd().iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            user: process
                .user_id()
                .and_then(|id| self.users.get_user_by_id(id))
                .map(|user| user.name().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_details() {
        let mut source = Portable::open().unwrap();
        let me = std::process::id();
        assert!(source.pids().unwrap().contains(&me));
        let stat = source.stat(me).unwrap();
        assert!(stat.memory_bytes > 100_000 && !stat.kernel && stat.birth > 0);
        let details = source.details(me);
        assert_eq!(details.path.unwrap(), std::env::current_exe().unwrap().to_string_lossy());
        assert!(!details.arguments.is_empty());
    }
}
