//! Which items a channel tells. Pure.

use serde::Deserialize;

use super::item::{Item, Kind, Severity};

/// What a channel is for. Everything that is set must hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Alerts at least as bad.
    pub severity: Severity,
    /// Alerts that stand for at least so many rows.
    pub count: i64,
    /// Rules whose alerts are told; empty: all.
    pub rules: Vec<String>,
    /// Rules whose alerts are not told.
    pub exclude_rules: Vec<String>,
    /// Agents that are told of; empty: all.
    pub agents: Vec<String>,
    /// Users that are not told of, whatever their case.
    pub exclude_users: Vec<String>,
    /// Whether alerts are told.
    pub alerts: bool,
    /// Whether starts of tracked programs are told.
    pub starts: bool,
    /// Programs whose starts are told, whatever their case; empty: all that are tracked.
    pub programs: Vec<String>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            severity: Severity::Medium,
            count: 1,
            rules: Vec::new(),
            exclude_rules: Vec::new(),
            agents: Vec::new(),
            exclude_users: Vec::new(),
            alerts: true,
            starts: true,
            programs: Vec::new(),
        }
    }
}

impl Filter {
    /// Whether anything could pass; the error names the key and what is wrong. `updated`: it is kept for telling that a
    /// finding goes on.
    pub(super) fn check(&self, updated: bool) -> Result<(), (&'static str, String)> {
        if self.alerts && self.count > 1 && !updated {
            let error = "an alert begins with 1 and would never be told: set `updated = true`, which tells that it grows";
            return Err(("filter.count", error.to_owned()));
        }
        Ok(())
    }

    /// Whether the channel tells this.
    pub(super) fn wants(&self, item: &Item) -> bool {
        let listed = |list: &[String], value: &str| list.iter().any(|entry| entry == value);
        let named = |list: &[String], value: Option<&String>| {
            value.is_some_and(|value| list.iter().any(|entry| entry.to_lowercase() == value.to_lowercase()))
        };
        if !self.agents.is_empty() && !listed(&self.agents, &item.agent_id)
            || named(&self.exclude_users, item.user.as_ref())
        {
            return false;
        }
        match item.kind {
            Kind::Alert => {
                self.alerts
                    && item.severity >= self.severity
                    && item.count >= self.count
                    && (self.rules.is_empty() || listed(&self.rules, &item.rule_id))
                    && !listed(&self.exclude_rules, &item.rule_id)
            }
            Kind::ProgramStart => {
                self.starts && (self.programs.is_empty() || named(&self.programs, item.program.as_ref()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::line::tests::{alert, start},
        *,
    };

    #[test]
    fn alerts_by_severity_count_rule_and_agent() {
        let low = alert(1, "r", "a", Severity::Low);
        let high = alert(2, "r", "a", Severity::High);
        let filter = Filter::default();
        assert!(!filter.wants(&low) && filter.wants(&high));
        let more = Filter { count: 2, ..Filter::default() };
        assert!(!more.wants(&high) && more.wants(&Item { count: 2, ..high.clone() }));
        assert!(!Filter { rules: vec!["other".to_owned()], ..Filter::default() }.wants(&high));
        assert!(!Filter { exclude_rules: vec!["r".to_owned()], ..Filter::default() }.wants(&high));
        assert!(!Filter { agents: vec!["b".to_owned()], ..Filter::default() }.wants(&high));
        assert!(!Filter { alerts: false, ..Filter::default() }.wants(&high));
    }

    #[test]
    fn starts_by_program_and_user_whatever_their_case() {
        let start = start("Alice", "Chrome.exe");
        assert!(Filter::default().wants(&start));
        assert!(Filter { programs: vec!["chrome.EXE".to_owned()], ..Filter::default() }.wants(&start));
        assert!(!Filter { programs: vec!["telegram.exe".to_owned()], ..Filter::default() }.wants(&start));
        assert!(!Filter { exclude_users: vec!["ALICE".to_owned()], ..Filter::default() }.wants(&start));
        assert!(!Filter { starts: false, ..Filter::default() }.wants(&start));
    }
}
