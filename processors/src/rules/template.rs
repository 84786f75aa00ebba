use arrow::record_batch::RecordBatch;
use serde::Serialize;

use crate::alerts::rows;

/// A sentence with columns of a row in it: `{user} started {name}`. `{{` and `}}` stand for braces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.text
    }
}

impl Template {
    /// Reads a template; the error says what is wrong with the braces.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            let after = &rest[at + 1..];
            if after.starts_with(brace) {
                literal.push_str(brace);
                rest = &after[1..];
                continue;
            }
            if brace == "}" {
                return Err("a `}` that nothing opens; write `}}` for the character".to_owned());
            }
            let Some((column, after)) = after.split_once('}') else {
                return Err("a `{` that nothing closes; write `{{` for the character".to_owned());
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Column(column.trim().to_owned()));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The columns that it names.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Column(column) => Some(column.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The sentence about one row; a column without value is `-`.
    pub fn fill(&self, batch: &RecordBatch, row: usize) -> String {
        let mut sentence = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => sentence.push_str(text),
                Part::Column(column) => {
                    sentence.push_str(rows::display(batch, column, row).as_deref().unwrap_or("-"));
                }
            }
        }
        sentence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: &str) -> Vec<String> {
        Template::parse(text).unwrap().columns().map(str::to_owned).collect()
    }

    #[test]
    fn columns_and_braces() {
        assert_eq!(columns("{user} started { name }"), ["user", "name"]);
        assert_eq!(columns("{{user}} {name}"), ["name"]);
        assert!(columns("").is_empty());
    }

    #[test]
    fn broken_braces_are_refused() {
        assert!(Template::parse("a } b").unwrap_err().contains("nothing opens"));
        assert!(Template::parse("a { b").unwrap_err().contains("nothing closes"));
    }
}
