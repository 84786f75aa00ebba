use serde::Serialize;

/// A sentence with columns of a row in it: `{user} started {name}`; `{1.name}` is the column of the first step of a
/// sequence. `{{` and `}}` stand for braces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Column { step: Option<usize>, name: String },
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
            let column = column.trim();
            let numbered = column.split_once('.').and_then(|(step, name)| Some((step.parse().ok()?, name)));
            let (step, name) = numbered.map_or((None, column), |(step, name)| (Some(step), name));
            parts.push(Part::Column { step, name: name.to_owned() });
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The columns that it names, each with the step of a sequence, from 1, if it names one.
    pub fn columns(&self) -> impl Iterator<Item = (Option<usize>, &str)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Column { step, name } => Some((*step, name.as_str())),
            Part::Text(_) => None,
        })
    }

    /// The sentence with the values that `value` knows for step and column; one without value is `-`.
    pub fn fill(&self, value: impl Fn(Option<usize>, &str) -> Option<String>) -> String {
        let mut sentence = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => sentence.push_str(text),
                Part::Column { step, name } => {
                    sentence.push_str(value(*step, name).as_deref().unwrap_or("-"));
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
        Template::parse(text).unwrap().columns().map(|(_, name)| name.to_owned()).collect()
    }

    #[test]
    fn columns_and_braces() {
        assert_eq!(columns("{user} started { name }"), ["user", "name"]);
        assert_eq!(columns("{{user}} {name}"), ["name"]);
        assert!(columns("").is_empty());
    }

    #[test]
    fn columns_of_steps() {
        let template = Template::parse("{2.name} after {1.path}, {name} {v1.2}").unwrap();
        let columns: Vec<_> = template.columns().collect();
        assert_eq!(columns, [(Some(2), "name"), (Some(1), "path"), (None, "name"), (None, "v1.2")]);
        let value = |step: Option<usize>, name: &str| (name == "name").then(|| format!("{step:?}"));
        assert_eq!(template.fill(value), "Some(2) after -, None -");
    }

    #[test]
    fn broken_braces_are_refused() {
        assert!(Template::parse("a } b").unwrap_err().contains("nothing opens"));
        assert!(Template::parse("a { b").unwrap_err().contains("nothing closes"));
    }
}
