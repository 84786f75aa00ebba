//! What becomes of a rule: for people who want to know why it fires, or why it does not.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::predicates::Predicates;
use super::reads::Reads;
use super::rule::{Condition, Rule};
use super::{RuleError, RuleSet, compile};

/// A rule with what it was compiled to.
#[derive(Debug)]
pub struct Explanation {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Hash of the set that it stands in.
    pub rule_set: Arc<str>,
    /// What it reads, the predicate with its exceptions as SQL, and the physical plans that judge rows; one for each
    /// step of a sequence.
    pub predicates: Vec<(Reads, String, String)>,
    /// Lists that it asks, with their numbers of entries.
    pub lists: Vec<(String, usize)>,
    /// The sentence of an alert, from a test that expects one; the template where there is none.
    pub example: String,
}

/// Explains the rule of this id; `None` if the set has no such rule.
///
/// `example` is the sentence of an alert that this rule gave, if one is known.
pub fn explain(set: &RuleSet, id: &str, example: Option<String>) -> Result<Option<Explanation>, RuleError> {
    let Some(rule) = set.get(id) else {
        return Ok(None);
    };
    let functions = set.functions();
    let (mut predicates, mut names) = (Vec::new(), BTreeSet::new());
    for (step, (reads, sql)) in rule.sql().into_iter().enumerate() {
        // the rule was checked when it was read
        names.extend(compile::needs(&sql, reads, &functions).unwrap_or_default().lists);
        let planned = Predicates::of_step(rule, step, &functions)?;
        predicates.push((reads, sql, planned.map_or_else(String::new, |planned| planned.text())));
    }
    let size = |name: String| {
        let entries = set.lists().get(&name).map_or(0, crate::functions::List::len);
        (name, entries)
    };
    Ok(Some(Explanation {
        rule: Arc::clone(rule),
        rule_set: Arc::clone(set.hash()),
        predicates,
        lists: names.into_iter().map(size).collect(),
        example: example.unwrap_or_else(|| rule.message.text().to_owned()),
    }))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = &self.rule;
        writeln!(f, "{}: {} ({})", rule.id, rule.title, rule.severity)?;
        writeln!(f, "  stands at   {}", rule.origin)?;
        writeln!(f, "  rule set    {}", self.rule_set)?;
        let reads: Vec<_> = self.predicates.iter().map(|(reads, ..)| reads.name()).collect();
        writeln!(f, "  kind        {}, reads {}", rule.condition.kind(), reads.join(", then "))?;
        if let Some(suppress) = &rule.suppress {
            let (by, period) = (suppress.by.join(", "), humantime::format_duration(suppress.period));
            let each = match &rule.condition {
                Condition::Fleet { group_by, .. } if group_by.is_empty() => "the fleet".to_owned(),
                Condition::Fleet { group_by, .. } => format!("each {}", group_by.join(", ")),
                _ if by.is_empty() => "each agent".to_owned(),
                _ => format!("each agent, {by}"),
            };
            writeln!(f, "  told        once in {period} for {each}")?;
        }
        if let Some(attack) = &rule.attack {
            writeln!(f, "  ATT&CK      {} (version {})", attack.techniques.join(", "), attack.version)?;
        }
        for reference in &rule.references {
            writeln!(f, "  see         {reference}")?;
        }
        for (name, entries) in &self.lists {
            writeln!(f, "  list        {name}, {entries} entries")?;
        }
        writeln!(f, "  example     {}", self.example)?;
        section(f, "why it matters", &rule.description)?;
        for (step, (_, sql, plan)) in self.predicates.iter().enumerate() {
            let of_step =
                if self.predicates.len() > 1 { format!(" of step {}", step + 1) } else { String::new() };
            section(f, &format!("predicate{of_step}"), sql)?;
            section(f, &format!("plan{of_step}"), plan)?;
        }
        Ok(())
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, text: &str) -> fmt::Result {
    writeln!(f, "\n{title}")?;
    text.lines().try_for_each(|line| writeln!(f, "  {line}"))
}
