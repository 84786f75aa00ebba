//! A report as text for a terminal or a message.

use super::{
    Body,
    units::{bytes, change, count, duration, known, percent, share},
};
use crate::notifier::clean;

/// Characters of a line at most.
const LONGEST: usize = 1000;

/// The report as lines of text.
pub fn text(body: &Body) -> String {
    let mut page = Page(String::new());
    let zone = &body.zone;
    page.line(format!("{}, {} ({zone})", body.about(), body.days()));
    if body.is_empty() {
        page.line("Nothing was seen in this period.");
        return page.0;
    }
    activity(&mut page, body);
    load(&mut page, body);
    programs(&mut page, body);
    alerts(&mut page, body);
    coverage(&mut page, body);
    course(&mut page, body);
    pattern(&mut page, body);
    page.0
}

struct Page(String);

impl Page {
    /// Machines name what is in it: a name must neither command the terminal nor look like a line of its own.
    fn line(&mut self, line: impl AsRef<str>) {
        self.0.push_str(clean(line.as_ref(), LONGEST).trim_end());
        self.0.push('\n');
    }

    fn section(&mut self, name: &str) {
        self.0.push('\n');
        self.line(name);
    }

    fn row(&mut self, name: &str, value: &str, beside: &str) {
        self.line(format!("  {name:<24} {value:>14}  {beside}"));
    }
}

fn trend(body: &Body, name: &str) -> String {
    body.trend.get(name).copied().map(change).unwrap_or_default()
}

fn activity(page: &mut Page, body: &Body) {
    let of = &body.activity;
    page.section("Activity");
    page.row("time with input", &known(of.active_s, duration), &trend(body, "active_s"));
    page.row("hours with input", &format!("{} of {}", of.active_hours, of.hours), "");
    page.row("work load", &known(of.work_load, share), &trend(body, "work_load"));
    if let (Some(first), Some(last)) = (&of.first_hour, &of.last_hour) {
        page.row("first and last hour", "", &format!("{first}, {last}"));
    }
    page.row("pauses", &known(of.idle_runs, count), "");
    page.row("mouse, keyboard", &known(of.mouse_events, count), &known(of.keyboard_events, count));
    for user in &of.users {
        page.line(format!(
            "    {:<22} {:>14}  work load {}, {} machines",
            user.username,
            known(user.active_s, duration),
            known(user.work_load, share),
            user.agents
        ));
    }
}

fn load(page: &mut Page, body: &Body) {
    let of = &body.load;
    page.section("Load of the machines");
    page.row("processor, mean", &known(of.cpu_mean, percent), &trend(body, "cpu_mean"));
    page.row("processor, highest", &known(of.cpu_max, percent), "");
    page.row("processor at its limit", &known(of.cpu_over_share, share), "of the readings");
    page.row("memory, mean", &known(of.mem_used_mean_bytes, bytes), &trend(body, "mem_used_mean_bytes"));
    page.row("memory, highest", &known(of.mem_used_max_bytes, bytes), "");
    page.row("disks, highest", &known(of.disk_used_max_percent, percent), "filled");
    let rate = |value: f64| format!("{}/s", bytes(value));
    page.row("received, mean", &known(of.net_rx_mean_bytes_per_s, rate), "of one interface");
    page.row("sent, mean", &known(of.net_tx_mean_bytes_per_s, rate), "of one interface");
    for machine in &of.machines {
        page.line(format!(
            "    {:<22} {:>14}  highest {}, memory {}, {} h",
            machine.host.as_deref().unwrap_or(&machine.agent_id),
            known(machine.cpu_mean, percent),
            known(machine.cpu_max, percent),
            known(machine.mem_used_max_bytes, bytes),
            machine.hours
        ));
    }
}

fn programs(page: &mut Page, body: &Body) {
    let of = &body.programs;
    page.section("Programs");
    page.row("starts", &count(of.starts), &trend(body, "starts"));
    page.row("different names", &count(of.distinct), "");
    page.row("new to their machine", &known(of.first_seen_starts, count), "");
    page.row("from suspicious places", &known(of.suspicious_paths, count), "");
    for program in &of.top {
        page.line(format!(
            "    {:<22} {:>14}  {} machines, {} users",
            program.name,
            count(program.starts),
            program.agents,
            program.users
        ));
    }
    for program in &of.new {
        let path = program.path.as_deref().unwrap_or("");
        page.line(format!("    new: {} {path}", program.name));
    }
}

fn alerts(page: &mut Page, body: &Body) {
    let of = &body.alerts;
    page.section("Alerts");
    page.row("findings", &count(of.findings), &trend(body, "alerts"));
    page.row("open", &count(of.open), "");
    let said = of.verdicts;
    if said.tp + said.fp + said.benign > 0 {
        page.row("judged", "", &format!("{} right, {} wrong, {} benign", said.tp, said.fp, said.benign));
    }
    for rule in &of.by_rule {
        page.line(format!("    {:<22} {:>14}  {}", rule.rule_id, count(rule.findings), rule.severity));
    }
    for finding in &of.worst {
        let at = finding.event_time.format("%Y-%m-%d %H:%M:%SZ");
        page.line(format!("    {at} [{}] {}", finding.severity, finding.message));
    }
}

fn coverage(page: &mut Page, body: &Body) {
    let of = &body.coverage;
    page.section("Coverage");
    let known_agents = known(of.agents_known, count);
    page.row("machines heard", &format!("{} of {known_agents}", of.agents_seen), "");
    let expected = known(of.hours_expected, count);
    page.row("machine hours", &format!("{} of {expected}", of.hours_seen), "");
    page.row("observed", &known(of.share.or(of.coverage_mean), share), "");
    page.row("events", &known(of.events, count), "");
    page.row("late, lost", &known(of.late, count), &known(of.lost, count));
    for silent in &of.silent {
        page.line(format!("    silent: {}", silent.host.as_deref().unwrap_or(&silent.agent_id)));
    }
}

/// A bar of blocks, one of eight heights a value; a dot where nothing is known.
fn bar(values: impl Iterator<Item = Option<f64>> + Clone) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = values.clone().flatten().fold(0.0, f64::max);
    let block = |value: f64| match highest {
        highest if highest > 0.0 => BLOCKS[((value / highest * 7.0).round() as usize).min(7)],
        _ => BLOCKS[0],
    };
    values.map(|value| value.map_or('·', block)).collect()
}

fn course(page: &mut Page, body: &Body) {
    page.section(match body.kind {
        super::Kind::Day => "Hour by hour",
        super::Kind::Week => "Day by day",
    });
    page.row("time with input", &bar(body.series.iter().map(|step| step.active_s)), "");
    page.row("processor", &bar(body.series.iter().map(|step| step.cpu_mean)), "");
    page.row("alerts", &bar(body.series.iter().map(|step| Some(step.alerts as f64))), "");
}

fn pattern(page: &mut Page, body: &Body) {
    if body.pattern.is_empty() {
        return;
    }
    page.section("Eight weeks by weekday and hour, time with input");
    let name = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let cell = |weekday: u32, hour: u32| {
        let found = body.pattern.iter().find(|cell| (cell.weekday, cell.hour) == (weekday, hour));
        found.and_then(|cell| cell.active_share)
    };
    for (weekday, name) in (1..).zip(name) {
        page.row(name, &bar((0..24).map(|hour| cell(weekday, hour))), "");
    }
}
