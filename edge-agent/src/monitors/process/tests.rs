use std::sync::Mutex;

use super::*;

#[derive(Default, Clone)]
struct Fake(Arc<Mutex<FakeState>>);

#[derive(Default)]
struct FakeState {
    processes: HashMap<u32, Stat>,
    repeats: bool,
    fails: bool,
    stats_asked: usize,
}

impl Fake {
    fn put(&self, pid: u32, birth: u64, name: &str) {
        let stat = Stat {
            birth,
            started_at: birth as i64,
            parent: 1,
            name: name.to_owned(),
            kernel: name.starts_with('k'),
            cpu_us: 0,
            memory_bytes: 1000,
        };
        self.0.lock().unwrap().processes.insert(pid, stat);
    }

    fn with(&self, change: impl FnOnce(&mut FakeState)) {
        change(&mut self.0.lock().unwrap());
    }
}

impl ProcessSource for Fake {
    fn label(&self) -> &'static str {
        "process/fake"
    }

    fn pids(&mut self) -> io::Result<Vec<u32>> {
        let state = self.0.lock().unwrap();
        if state.fails {
            Err(io::Error::other("gone"))
        } else {
            Ok(state.processes.keys().copied().collect())
        }
    }

    fn pids_may_repeat(&mut self) -> bool {
        self.0.lock().unwrap().repeats
    }

    fn stat(&mut self, pid: u32) -> Option<Stat> {
        let mut state = self.0.lock().unwrap();
        state.stats_asked += 1;
        state.processes.get(&pid).cloned()
    }

    fn details(&mut self, pid: u32) -> Details {
        let name = self.0.lock().unwrap().processes[&pid].name.clone();
        Details {
            path: Some(format!("/bin/{name}")),
            arguments: vec![name, "--password=hunter2".to_owned()],
            user: Some("alice".into()),
        }
    }
}

fn monitor(config: ProcessConfig) -> (Fake, ProcessMonitor) {
    let fake = Fake::default();
    fake.put(1, 1, "init");
    let config = ProcessConfig { sample_interval: Duration::ZERO, ..config };
    (fake.clone(), ProcessMonitor::new(&config, Box::new(fake), Programs::default()))
}

fn told(seen: &[Observation]) -> Vec<(String, String, i64)> {
    let row = |event: &Observation| {
        let Payload::ProcessEvent(process) = &event.payload else { panic!("not a process event") };
        (event.event_type.to_string(), process.name.clone().unwrap(), event.event_time)
    };
    seen.iter().map(row).collect()
}

fn row(event_type: &str, name: &str, time: i64) -> (String, String, i64) {
    (event_type.to_owned(), name.to_owned(), time)
}

#[test]
fn start_and_stop_are_the_difference_of_polls() {
    let (fake, mut monitor) = monitor(ProcessConfig::default());
    assert!(monitor.sample(1_000).is_empty(), "the baseline makes no events");
    fake.put(10, 1_500, "editor");
    fake.put(11, 1_600, "kworker");
    let seen = monitor.sample(2_000);
    assert_eq!(told(&seen), [row("process_started", "editor", 1_500)], "kernel threads are left out");
    let Payload::ProcessEvent(event) = &seen[0].payload else { panic!("not a process event") };
    assert_eq!(event.parent_name.as_deref(), Some("init"));
    assert_eq!(event.command_line.as_deref(), Some("editor --password=***"));
    assert_eq!(seen[0].user.as_deref(), Some("alice"));

    fake.with(|state| drop(state.processes.remove(&10)));
    assert_eq!(told(&monitor.sample(3_000)), [row("process_stopped", "editor", 3_000)]);
}

#[test]
fn event_times_stay_after_the_last_poll_whatever_the_system_says() {
    let (fake, mut monitor) = monitor(ProcessConfig::default());
    monitor.sample(1_000);
    assert_eq!(monitor.low_water(1_200), 1_000);
    fake.put(10, 900, "early");
    fake.put(11, 9_999, "late");
    let times: Vec<i64> = monitor.sample(2_000).iter().map(|event| event.event_time).collect();
    assert_eq!(times, [1_001, 2_000]);
}

#[test]
fn a_pid_given_away_again_is_a_stop_and_a_start() {
    let (fake, mut monitor) = monitor(ProcessConfig::default());
    fake.put(10, 500, "old");
    monitor.sample(1_000);
    fake.put(10, 1_500, "new");
    fake.with(|state| state.repeats = true);
    let seen = told(&monitor.sample(2_000));
    assert_eq!(seen, [row("process_started", "new", 1_500), row("process_stopped", "old", 2_000)]);
}

#[test]
fn a_process_caught_between_fork_and_exec_is_told_again_with_its_own_name() {
    let (fake, mut monitor) = monitor(ProcessConfig::default());
    monitor.sample(1_000);
    fake.put(10, 1_999, "sh");
    assert_eq!(told(&monitor.sample(2_000)), [row("process_started", "sh", 1_999)]);
    fake.put(10, 1_999, "miner");
    assert_eq!(told(&monitor.sample(3_000)), [row("process_started", "miner", 3_000)]);
    assert!(monitor.sample(4_000).is_empty());
}

#[test]
fn a_long_name_is_completed_by_the_path_and_told_once() {
    assert_eq!(full_name("gnome-terminal-", Some("/usr/bin/gnome-terminal-server")), "gnome-terminal-server");
    assert_eq!(full_name("sh", Some("/usr/bin/dash")), "sh");
    let (fake, mut monitor) = monitor(ProcessConfig::default());
    monitor.sample(1_000);
    fake.put(10, 1_500, "a-very-long-nam");
    assert_eq!(monitor.sample(2_000).len(), 1);
    assert!(monitor.sample(3_000).is_empty());
}

#[test]
fn a_quiet_poll_asks_for_no_statistics() {
    let (fake, mut monitor) = monitor(ProcessConfig::default());
    (2..100).for_each(|pid| fake.put(pid, 1, "idle"));
    monitor.sample(1_000);
    fake.with(|state| state.stats_asked = 0);
    monitor.sample(2_000);
    assert_eq!(fake.0.lock().unwrap().stats_asked, 0);
}

#[test]
fn lists_decide_lane_and_whether_it_is_told() {
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let tell = Tell::new(&ProcessConfig {
        important: names(&["Backup.exe"]),
        forbidden: names(&["miner"]),
        exclude: names(&["svchost.exe"]),
        ..ProcessConfig::default()
    });
    assert_eq!(tell.lane("backup"), Some(Lane::Critical));
    assert_eq!(tell.lane("MINER.EXE"), Some(Lane::Critical));
    assert_eq!(tell.lane("svchost"), None);
    assert_eq!(tell.lane("chrome"), Some(Lane::Normal));
    let tracked = Tell::new(&ProcessConfig { only: names(&["chrome"]), ..ProcessConfig::default() });
    assert_eq!((tracked.lane("Chrome.exe"), tracked.lane("bash")), (Some(Lane::Normal), None));
}

#[test]
fn when_the_list_fails_the_capability_is_missing_and_marks_go_on() {
    let (fake, mut monitor) = monitor(ProcessConfig::default());
    monitor.sample(1_000);
    fake.with(|state| state.fails = true);
    assert!(monitor.sample(2_000).is_empty());
    assert_eq!(monitor.capability(), Capability::Missing("gone".to_owned()));
    assert_eq!(monitor.low_water(2_500), 2_000);
    fake.with(|state| state.fails = false);
    monitor.sample(3_000);
    assert_eq!(monitor.capability(), Capability::Present);
}

#[test]
fn samples_show_what_was_used_since_the_last_one() {
    let fake = Fake::default();
    fake.put(10, 1, "work");
    let config = ProcessConfig { sample_interval: Duration::from_secs(1), ..ProcessConfig::default() };
    let mut monitor = ProcessMonitor::new(&config, Box::new(fake.clone()), Programs::default());
    assert!(monitor.sample(1_000_000).is_empty(), "the first has nothing to compare with");
    fake.with(|state| state.processes.get_mut(&10).unwrap().cpu_us = 250_000);
    let seen = monitor.sample(2_000_000);
    let Payload::ProcessSample(sample) = &seen[0].payload else { panic!("not a sample") };
    assert_eq!((sample.cpu_percent, sample.pid, seen[0].lane), (Some(25.0), Some(10), Lane::Bulk));
}

#[test]
fn a_program_is_told_as_new_at_its_first_start_and_never_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("programs");
    let config = ProcessConfig { sample_interval: Duration::ZERO, ..ProcessConfig::default() };
    let fake = Fake::default();
    fake.put(1, 1, "init");
    let mut monitor =
        ProcessMonitor::new(&config, Box::new(fake.clone()), Programs::open(&file, Duration::ZERO));
    let firsts = |seen: Vec<Observation>| -> Vec<Option<bool>> {
        let first = |event: &Observation| {
            let Payload::ProcessEvent(process) = &event.payload else { panic!("not a process event") };
            process.first_seen
        };
        seen.iter().filter(|event| event.event_type == "process_started").map(first).collect()
    };
    let second = |number: i64| number * 1_000_000;
    monitor.sample(second(1));
    fake.put(10, 1_500_000, "editor");
    fake.put(11, 1_500_001, "init");
    assert_eq!(firsts(monitor.sample(second(2))), [Some(true), Some(false)], "the baseline is not new");
    fake.with(|state| drop(state.processes.remove(&10)));
    fake.put(12, 2_500_000, "editor");
    assert_eq!(firsts(monitor.sample(second(3))), [Some(false)]);
    // It is written when the start is surely stored.
    monitor.sample(second(20));

    let mut next =
        ProcessMonitor::new(&config, Box::new(fake.clone()), Programs::open(&file, Duration::ZERO));
    next.sample(second(30));
    fake.with(|state| drop(state.processes.remove(&12)));
    fake.put(13, 30_500_000, "editor");
    fake.put(14, 30_500_001, "other");
    assert_eq!(firsts(next.sample(second(31))), [Some(false), Some(true)]);
}
