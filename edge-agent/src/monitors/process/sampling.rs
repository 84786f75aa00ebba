//! Groups processes by program and picks the groups worth telling.

use std::collections::HashMap;

use schemas::event::ProcessSample;

/// What one process used since the last sample.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    pub(super) pid: u32,
    pub(super) name: String,
    pub(super) path: Option<String>,
    /// Percent of one processor.
    pub(super) cpu_percent: f64,
    pub(super) memory_bytes: u64,
}

/// Which groups are told: the first of each order, and all above a bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pick {
    pub(super) top: usize,
    pub(super) cpu_percent: f64,
    pub(super) memory_bytes: u64,
}

/// Name and path.
type Program = (String, Option<String>);
/// Pids, percent of one processor, bytes.
type Group = (Vec<u32>, f64, u64);

/// Pids listed of one group.
const MAX_PIDS: usize = 64;

/// One row per program (same name and path), the busiest first.
pub(super) fn sample(usages: Vec<Usage>, pick: Pick, snapshot_id: i64) -> Vec<ProcessSample> {
    let mut groups: HashMap<Program, Group> = HashMap::new();
    for usage in usages {
        let (pids, cpu, memory) = groups.entry((usage.name, usage.path)).or_default();
        pids.push(usage.pid);
        *cpu += usage.cpu_percent;
        *memory += usage.memory_bytes;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|a, b| (b.1.2, &a.0).cmp(&(a.1.2, &b.0)));
    let kth_memory = groups.get(pick.top.saturating_sub(1)).map_or(0, |(_, (_, _, memory))| *memory);
    groups.sort_by(|a, b| b.1.1.total_cmp(&a.1.1).then_with(|| a.0.cmp(&b.0)));
    let told = groups.into_iter().enumerate().filter(|(rank, (_, (_, cpu, memory)))| {
        let is_top = pick.top > 0 && (*rank < pick.top && *cpu > 0.0 || *memory >= kth_memory);
        is_top || *cpu >= pick.cpu_percent || *memory >= pick.memory_bytes
    });
    told.map(|(_, ((name, path), (mut pids, cpu, memory)))| {
        pids.sort_unstable();
        let size = pids.len();
        let listed: Vec<String> = pids.iter().take(MAX_PIDS).map(u32::to_string).collect();
        ProcessSample {
            snapshot_id: Some(snapshot_id),
            pid: (size == 1).then(|| i64::from(pids[0])),
            pids: (size > 1).then(|| listed.join(",")),
            group_size: Some(i32::try_from(size).unwrap_or(i32::MAX)),
            name: Some(name),
            path,
            cpu_percent: Some((cpu * 100.0).round() / 100.0),
            memory_bytes: Some(memory as i64),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(pid: u32, name: &str, cpu_percent: f64, memory_bytes: u64) -> Usage {
        Usage { pid, name: name.to_owned(), path: Some(format!("/bin/{name}")), cpu_percent, memory_bytes }
    }

    fn names(rows: &[ProcessSample]) -> Vec<&str> {
        rows.iter().map(|row| row.name.as_deref().unwrap()).collect()
    }

    #[test]
    fn programs_are_grouped_and_the_busiest_come_first() {
        let usages = vec![
            usage(9, "web", 1.0, 10),
            usage(3, "web", 2.5, 20),
            usage(5, "sh", 0.0, 1),
            usage(6, "db", 2.0, 90),
        ];
        let rows = sample(usages, Pick { top: 1, cpu_percent: 50.0, memory_bytes: 1000 }, 77);
        assert_eq!(names(&rows), ["web", "db"], "first by cpu, first by memory");
        assert_eq!(rows[0].pids.as_deref(), Some("3,9"));
        assert_eq!((rows[0].group_size, rows[0].pid), (Some(2), None));
        assert_eq!((rows[0].cpu_percent, rows[0].memory_bytes), (Some(3.5), Some(30)));
        assert_eq!((rows[1].pid, rows[1].snapshot_id), (Some(6), Some(77)));
    }

    #[test]
    fn everything_above_a_bound_is_told_however_many() {
        let usages = (0..30).map(|n| usage(n, &format!("p{n:02}"), 60.0, 5)).collect();
        assert_eq!(sample(usages, Pick { top: 2, cpu_percent: 50.0, memory_bytes: 1000 }, 1).len(), 30);
        let idle = vec![usage(1, "a", 0.0, 5), usage(2, "b", 0.0, 4)];
        assert_eq!(sample(idle, Pick { top: 0, cpu_percent: 50.0, memory_bytes: 1000 }, 1), []);
    }
}
