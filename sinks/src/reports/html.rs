//! A report as one page of HTML: no script, no font, no address of anybody.

use super::{
    Body, Kind,
    body::Change,
    plots::{self, Bars},
    units::{bytes, change, count, duration, known, percent, share},
};
use crate::SinkError;

/// The page. Every text that came from a machine is escaped.
pub fn html(body: &Body) -> Result<String, SinkError> {
    let title = format!("{}, {}", body.about(), body.days());
    let mut page = Page(String::new());
    page.add(&format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{style}</style></head><body><main>\n\
         <header><p class=\"kind\">{kind} report</p><h1>{about}</h1><p>{days} · {zone}</p></header>\n",
        title = escaped(&title),
        style = include_str!("page.css"),
        kind = match body.kind {
            Kind::Day => "Daily",
            Kind::Week => "Weekly",
        },
        about = escaped(&body.about()),
        days = escaped(&body.days()),
        zone = escaped(&body.zone),
    ));
    if body.is_empty() {
        page.add("<p class=\"empty\">Nothing was seen in this period.</p>");
    } else {
        tiles(&mut page, body);
        course(&mut page, body)?;
        activity(&mut page, body);
        load(&mut page, body);
        programs(&mut page, body);
        alerts(&mut page, body);
        coverage(&mut page, body);
        pattern(&mut page, body)?;
    }
    page.add("</main></body></html>\n");
    Ok(page.0)
}

struct Page(String);

impl Page {
    fn add(&mut self, text: &str) {
        self.0.push_str(text);
    }

    fn section(&mut self, name: &str) {
        self.add(&format!("<h2>{name}</h2>\n"));
    }

    fn figure(&mut self, caption: &str, svg: &str) {
        self.add(&format!("<figure><figcaption>{caption}</figcaption>{svg}</figure>\n"));
    }

    /// Names and values beside each other.
    fn facts(&mut self, facts: &[(&str, String)]) {
        self.add("<dl>");
        for (name, value) in facts {
            self.add(&format!("<div><dt>{name}</dt><dd>{}</dd></div>", escaped(value)));
        }
        self.add("</dl>\n");
    }

    /// A table; nothing if it has no rows. The first column is text, the others are numbers unless `is_text`.
    fn table(&mut self, head: &[&str], rows: &[Vec<String>], is_text: bool) {
        if rows.is_empty() {
            return;
        }
        self.add(if is_text { "<table class=\"text\"><thead><tr>" } else { "<table><thead><tr>" });
        for name in head {
            self.add(&format!("<th>{name}</th>"));
        }
        self.add("</tr></thead><tbody>\n");
        for row in rows {
            self.add("<tr>");
            for cell in row {
                self.add(&format!("<td>{}</td>", escaped(cell)));
            }
            self.add("</tr>\n");
        }
        self.add("</tbody></table>\n");
    }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other if other.is_control() => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

fn tiles(page: &mut Page, body: &Body) {
    let tiles: [(&str, String, &str); 6] = [
        ("time with input", known(body.activity.active_s, duration), "active_s"),
        ("work load", known(body.activity.work_load, share), "work_load"),
        ("processor", known(body.load.cpu_mean, percent), "cpu_mean"),
        ("program starts", count(body.programs.starts), "starts"),
        ("alerts", count(body.alerts.findings), "alerts"),
        // of the hours that could have been seen, which is no number of the trend
        ("observed", known(body.coverage.share.or(body.coverage.coverage_mean), share), ""),
    ];
    page.add("<section class=\"tiles\">");
    for (name, value, metric) in tiles {
        let trend = body.trend.get(metric).copied();
        let class = match trend.and_then(|change: Change| change.rose()) {
            Some(true) => "up",
            Some(false) => "down",
            None => "same",
        };
        let change = trend.map(change).unwrap_or_default();
        page.add(&format!(
            "<div class=\"tile\"><span>{name}</span><strong>{}</strong><em class=\"{class}\">{}</em></div>",
            escaped(&value),
            escaped(&change)
        ));
    }
    page.add("</section>\n");
}

fn course(page: &mut Page, body: &Body) -> Result<(), SinkError> {
    let (kind, steps) = (body.kind, body.series.as_slice());
    let (each, minutes_or_hours): (_, fn(&super::body::Step) -> Option<f64>) = match kind {
        Kind::Day => ("hour", |step| step.active_s.map(|seconds| seconds / 60.0)),
        Kind::Week => ("day", |step| step.active_s.map(|seconds| seconds / 3600.0)),
    };
    page.section("Course");
    let (unit, least) = if kind == Kind::Day { ("min", 60.0) } else { ("h", 8.0) };
    let active = Bars { kind, steps, bar: minutes_or_hours, mark: |_| None, least, unit, is_activity: true };
    page.figure(&format!("Time with input by {each}"), &plots::bars(&active)?);
    let busy = Bars {
        kind,
        steps,
        bar: |step| step.cpu_mean,
        mark: |step| step.cpu_max,
        least: 100.0,
        unit: "%",
        is_activity: false,
    };
    page.figure(
        &format!("Processor by {each}: mean, and the highest reading of a machine as a line"),
        &plots::bars(&busy)?,
    );
    if steps.iter().any(|step| step.alerts > 0) {
        let found = Bars {
            kind,
            steps,
            bar: |step| Some(step.alerts as f64),
            mark: |_| None,
            least: 4.0,
            unit: "",
            is_activity: false,
        };
        page.figure(&format!("Alerts by {each}"), &plots::bars(&found)?);
    }
    Ok(())
}

fn activity(page: &mut Page, body: &Body) {
    let of = &body.activity;
    page.section("Activity and work load");
    page.facts(&[
        ("time with input", known(of.active_s, duration)),
        ("hours with input", format!("{} of {}", of.active_hours, of.hours)),
        ("work load", known(of.work_load, share)),
        ("first hour", known(of.first_hour.clone(), |hour| hour)),
        ("last hour", known(of.last_hour.clone(), |hour| hour)),
        ("pauses", known(of.idle_runs, count)),
        ("mouse events", known(of.mouse_events, count)),
        ("keyboard events", known(of.keyboard_events, count)),
    ]);
    page.add(
        "<p class=\"note\">Work load is time with input divided by the length of the hours in which there was any.</p>\n",
    );
    let users: Vec<Vec<String>> = of
        .users
        .iter()
        .map(|user| {
            vec![
                user.username.clone(),
                known(user.active_s, duration),
                user.active_hours.to_string(),
                known(user.work_load, share),
                user.agents.to_string(),
            ]
        })
        .collect();
    page.table(&["User", "Time with input", "Hours", "Work load", "Machines"], &users, false);
}

fn load(page: &mut Page, body: &Body) {
    let of = &body.load;
    page.section("Load of the machines");
    let rate = |value: f64| format!("{}/s of one interface", bytes(value));
    page.facts(&[
        ("processor, mean", known(of.cpu_mean, percent)),
        ("processor, highest", known(of.cpu_max, percent)),
        ("processor at its limit", known(of.cpu_over_share, share)),
        ("memory, mean", known(of.mem_used_mean_bytes, bytes)),
        ("memory, highest", known(of.mem_used_max_bytes, bytes)),
        ("disks, highest", known(of.disk_used_max_percent, percent)),
        ("received, mean", known(of.net_rx_mean_bytes_per_s, rate)),
        ("sent, mean", known(of.net_tx_mean_bytes_per_s, rate)),
    ]);
    let machines: Vec<Vec<String>> = of
        .machines
        .iter()
        .map(|machine| {
            vec![
                machine.host.clone().unwrap_or_else(|| machine.agent_id.clone()),
                known(machine.cpu_mean, percent),
                known(machine.cpu_max, percent),
                known(machine.mem_used_max_bytes, bytes),
                known(machine.disk_used_max_percent, percent),
                machine.hours.to_string(),
            ]
        })
        .collect();
    let head = ["Machine", "Processor, mean", "Highest", "Memory, highest", "Disks", "Hours"];
    page.table(&head, &machines, false);
}

fn programs(page: &mut Page, body: &Body) {
    let of = &body.programs;
    page.section("Programs");
    page.facts(&[
        ("starts", count(of.starts)),
        ("different names", count(of.distinct)),
        ("new to their machine", known(of.first_seen_starts, count)),
        ("from suspicious places", known(of.suspicious_paths, count)),
    ]);
    let top: Vec<Vec<String>> = of
        .top
        .iter()
        .map(|program| {
            vec![
                program.name.clone(),
                count(program.starts),
                program.agents.to_string(),
                program.users.to_string(),
            ]
        })
        .collect();
    page.table(&["Started most", "Starts", "Machines", "Users"], &top, false);
    let new: Vec<Vec<String>> = of
        .new
        .iter()
        .map(|program| {
            vec![
                program.name.clone(),
                program.path.clone().unwrap_or_default(),
                program.path_class.clone().unwrap_or_default(),
                program.first_seen.format("%Y-%m-%d %H:%MZ").to_string(),
            ]
        })
        .collect();
    page.table(&["Started for the first time", "Path", "Place", "At"], &new, true);
}

fn alerts(page: &mut Page, body: &Body) {
    let of = &body.alerts;
    page.section("Alerts");
    let said = of.verdicts;
    page.facts(&[
        ("findings", count(of.findings)),
        ("open", count(of.open)),
        ("judged right", count(said.tp)),
        ("judged wrong", count(said.fp)),
        ("judged benign", count(said.benign)),
    ]);
    let rules: Vec<Vec<String>> = of
        .by_rule
        .iter()
        .map(|rule| {
            vec![rule.title.clone(), rule.rule_id.clone(), rule.severity.clone(), count(rule.findings)]
        })
        .collect();
    page.table(&["Rule", "Id", "Severity", "Findings"], &rules, true);
    let worst: Vec<Vec<String>> = of
        .worst
        .iter()
        .map(|finding| {
            vec![
                finding.event_time.format("%Y-%m-%d %H:%M:%SZ").to_string(),
                finding.severity.clone(),
                finding.host.clone().unwrap_or_default(),
                finding.username.clone().unwrap_or_default(),
                finding.message.clone(),
            ]
        })
        .collect();
    page.table(&["Worst findings", "Severity", "Machine", "User", "What"], &worst, true);
}

fn coverage(page: &mut Page, body: &Body) {
    let of = &body.coverage;
    page.section("Coverage");
    page.facts(&[
        ("machines heard", format!("{} of {}", of.agents_seen, known(of.agents_known, count))),
        ("machine hours", format!("{} of {}", of.hours_seen, known(of.hours_expected, count))),
        ("observed of all hours", known(of.share, share)),
        ("observed of hours seen", known(of.coverage_mean, share)),
        ("incomplete hours", count(of.partial_hours)),
        ("events", known(of.events, count)),
        ("late", known(of.late, count)),
        ("lost", known(of.lost, count)),
    ]);
    let silent: Vec<Vec<String>> = of
        .silent
        .iter()
        .map(|machine| vec![machine.host.clone().unwrap_or_default(), machine.agent_id.clone()])
        .collect();
    page.table(&["Not heard", "Agent"], &silent, true);
}

fn pattern(page: &mut Page, body: &Body) -> Result<(), SinkError> {
    if body.pattern.is_empty() {
        return Ok(());
    }
    page.section("Eight weeks by weekday and hour");
    let told =
        |value: fn(&super::body::Cell) -> Option<f64>| body.pattern.iter().filter_map(value).reduce(f64::max);
    let active: fn(&super::body::Cell) -> Option<f64> = |cell| cell.active_share;
    if let Some(highest) = told(active) {
        let caption = format!("Share of each hour with input; darkest: {}", share(highest));
        page.figure(&caption, &plots::pattern(&body.pattern, active, true)?);
    }
    let busy: fn(&super::body::Cell) -> Option<f64> = |cell| cell.cpu_mean;
    if let Some(highest) = told(busy) {
        let caption = format!("Mean of the processor; darkest: {}", percent(highest));
        page.figure(&caption, &plots::pattern(&body.pattern, busy, false)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_sent_never_becomes_markup() {
        assert_eq!(
            escaped("<script>alert('x')</script> & \"y\"\u{1b}"),
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;y&quot;\u{fffd}"
        );
    }
}
