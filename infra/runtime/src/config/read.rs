//! TOML to a typed value, noting each problem and going on behind it.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};
use toml::{Table, Value};

use super::{Problems, key};

/// More rounds than any sane file has problems; bounds a type whose errors cannot be located.
const MAX_ROUNDS: usize = 200;

/// `None` when no value could be made even with the offending keys taken out.
pub(super) fn read<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
) -> Option<T> {
    let table: Table = match toml::from_str(text) {
        Ok(table) => table,
        Err(error) => {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            problems.add(format!("{origin}:{line}"), error.message(), None);
            return None;
        }
    };
    let mut root = Value::Table(table);
    let mut from_env = HashSet::new();
    expand(&mut root, "", env, problems, &mut from_env);
    for _ in 0..MAX_ROUNDS {
        let error = match attempt::<T>(&root) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let message = error.inner().message().to_owned();
        let mut steps = steps(error.path());
        if let Some(name) = quoted_after(&message, "missing field ") {
            steps.push(Step::Key(name.to_owned()));
            problems.add(path_text(&steps), "missing", None);
            if !fill::<T>(&mut root, &steps) {
                return None;
            }
            continue;
        }
        let place = path_text(&steps);
        if from_env.remove(&place) && reread_as_scalar(&mut root, &steps) {
            continue;
        }
        problems.add(place, &message, nearest(&message));
        if steps.is_empty() || !(replace_element::<T>(&mut root, &steps) || remove(&mut root, &steps)) {
            return None;
        }
    }
    None
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

fn attempt<T: DeserializeOwned>(root: &Value) -> Result<T, serde_path_to_error::Error<toml::de::Error>> {
    serde_path_to_error::deserialize(root.clone())
}

/// Steps into the text; what a type adds of its own (enum variants) is not in the text and ends the path.
fn steps(path: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    for segment in path {
        match segment {
            Segment::Map { key } => steps.push(Step::Key(key.clone())),
            Segment::Seq { index } => steps.push(Step::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => break,
        }
    }
    steps
}

fn path_text(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Key(name) => text = key(&text, name),
            Step::Index(index) => text = format!("{text}[{index}]"),
        }
    }
    text
}

fn at<'a>(root: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    let mut value = root;
    for step in steps {
        value = match step {
            Step::Key(name) => value.as_table_mut()?.get_mut(name)?,
            Step::Index(index) => value.as_array_mut()?.get_mut(*index)?,
        };
    }
    Some(value)
}

/// Takes the last key out; an unknown table entry or a wrong value then no longer hides what follows.
fn remove(root: &mut Value, steps: &[Step]) -> bool {
    let Some((last, parents)) = steps.split_last() else {
        return false;
    };
    match (at(root, parents), last) {
        (Some(Value::Table(table)), Step::Key(name)) => table.remove(name).is_some(),
        (Some(Value::Array(array)), Step::Index(index)) if *index < array.len() => {
            array.remove(*index);
            true
        }
        _ => false,
    }
}

/// An element of a list gets a stand-in instead, so that the numbers of its neighbours stay right.
fn replace_element<T: DeserializeOwned>(root: &mut Value, steps: &[Step]) -> bool {
    matches!(steps.last(), Some(Step::Index(_))) && fill::<T>(root, steps)
}

/// Puts a value of whatever type is accepted at a place whose own value is missing. The result is never used:
/// a problem is noted already, and this only lets the reading reach the next one.
fn fill<T: DeserializeOwned>(root: &mut Value, steps: &[Step]) -> bool {
    let stand_ins = [
        Value::String(String::new()),
        Value::Integer(1),
        Value::Float(1.0),
        Value::Boolean(false),
        Value::Array(Vec::new()),
        Value::Table(Table::new()),
        Value::String("1s".to_owned()),
        Value::String("127.0.0.1:1".to_owned()),
    ];
    let Some((last, parents)) = steps.split_last() else {
        return false;
    };
    for stand_in in stand_ins {
        match (at(root, parents), last) {
            (Some(Value::Table(table)), Step::Key(name)) => {
                table.insert(name.clone(), stand_in);
            }
            (Some(Value::Array(array)), Step::Index(index)) if *index < array.len() => {
                array[*index] = stand_in;
            }
            _ => return false,
        }
        match attempt::<T>(root) {
            Ok(_) => return true,
            Err(error) => {
                let wrong = self::steps(error.path());
                let still_here = wrong == steps;
                if !still_here {
                    return true;
                }
                // A table that now lacks fields of its own is accepted as such.
                if error.inner().message().starts_with("missing field") {
                    return true;
                }
            }
        }
    }
    false
}

/// A text that came whole from the environment may stand for a number or a boolean: `port = "${PORT}"`.
fn reread_as_scalar(root: &mut Value, steps: &[Step]) -> bool {
    let Some(value) = at(root, steps) else {
        return false;
    };
    let Some(text) = value.as_str().map(str::trim) else {
        return false;
    };
    let scalar = text
        .parse()
        .map(Value::Integer)
        .or_else(|_| text.parse().map(Value::Float))
        .or_else(|_| text.parse().map(Value::Boolean));
    let Ok(scalar) = scalar else { return false };
    *value = scalar;
    true
}

/// Replaces `${NAME}` in every string; `$${` stays `${`. Paths of strings that were nothing but one `${NAME}` are
/// added to `whole`.
fn expand(
    value: &mut Value,
    path: &str,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
    whole: &mut HashSet<String>,
) {
    match value {
        Value::String(text) => {
            if let Some(expanded) = expanded(text, path, env, problems) {
                if text.starts_with("${") && text.find('}') == Some(text.len() - 1) {
                    whole.insert(path.to_owned());
                }
                *text = expanded;
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand(item, &format!("{path}[{index}]"), env, problems, whole);
            }
        }
        Value::Table(table) => {
            for (name, item) in table.iter_mut() {
                expand(item, &key(path, name), env, problems, whole);
            }
        }
        _ => {}
    }
}

fn expanded(
    text: &str,
    path: &str,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
) -> Option<String> {
    if !text.contains("${") {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start - 1]);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let Some(length) = rest[start..].find('}') else {
            problems.add(path, "`${` without `}`", None);
            return None;
        };
        let name = &rest[start + 2..start + length];
        match env(name) {
            Some(found) => out.push_str(&found),
            None => problems.add(path, format!("environment variable `{name}` is not set"), None),
        }
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    Some(out)
}

fn quoted_after<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.split('`').nth(1)
}

/// From "unknown field `prot`, expected one of `host`, `port`": the name that was most likely meant.
fn nearest(message: &str) -> Option<String> {
    let is_choice = message.starts_with("unknown field") || message.starts_with("unknown variant");
    if !is_choice {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let wrong = quoted.next()?;
    let best = quoted.min_by_key(|name| distance(wrong, name))?;
    (distance(wrong, best) <= wrong.len().max(best.len()) / 3 + 1).then(|| format!("did you mean `{best}`?"))
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use serde::Deserialize;

    use super::super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Mqtt {
        host: String,
        port: u16,
        #[serde(with = "humantime_serde")]
        keep_alive: Duration,
        password: Option<Secret>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Config {
        mqtt: Mqtt,
        listen: SocketAddr,
        #[serde(default)]
        limits: Vec<ByteSize>,
        mode: Mode,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Fast,
        Safe,
    }

    impl Check for Config {
        fn check(&self, at: &str, problems: &mut Problems) {
            if self.mqtt.host.is_empty() {
                problems.add(key(at, "mqtt.host"), "is empty", None);
            }
            if self.mqtt.keep_alive > Duration::from_mins(10) {
                problems.add(key(at, "mqtt.keep_alive"), "longer than 10 minutes", None);
            }
        }
    }

    fn env(name: &str) -> Option<String> {
        match name {
            "PASSWORD" => Some("hunter2".to_owned()),
            "PORT" => Some("1884".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn a_number_may_come_from_the_environment() {
        let text = |port: &str| {
            format!(
                "mode = 'fast'\nlisten = '1.2.3.4:5'\n[mqtt]\nhost = '${{PORT}}'\nport = '{port}'\nkeep_alive = '1s'"
            )
        };
        let config: Config = load(&text("${PORT}"), "test.toml", &env).unwrap();
        assert_eq!((config.mqtt.port, config.mqtt.host.as_str()), (1884, "1884"));
        for wrong in ["${PASSWORD}", "1884", "${PORT}9"] {
            let problems = load::<Config>(&text(wrong), "test.toml", &env).unwrap_err();
            assert_eq!(problems.0[0].at, "mqtt.port");
        }
    }

    #[test]
    fn a_good_text_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"
            listen = "127.0.0.1:80"
            mode = "safe"
            limits = ["1 KiB", 7]
            [mqtt]
            host = "a$${b}"
            port = 1883
            keep_alive = "30s"
            password = "x${PASSWORD}y"
        "#;
        let config: Config = load(text, "test.toml", &env).unwrap();
        assert_eq!(config.mqtt.host, "a${b}");
        assert_eq!(config.mqtt.password.unwrap().expose(), "xhunter2y");
        assert_eq!(config.limits, [ByteSize::kib(1), ByteSize(7)]);
        assert_eq!(config.mode, Mode::Safe);
        let path = folder.path().join("secret");
        fs_err::write(&path, "s3cret\n").unwrap();
        let text = text.replace("x${PASSWORD}y", &format!("file:{}", path.display()));
        let config: Config = load(&text, "test.toml", &env).unwrap();
        assert_eq!(config.mqtt.password.unwrap().expose(), "s3cret");
    }

    #[test]
    fn all_problems_come_at_once() {
        let text = r#"
            mode = "saef"
            limits = ["1 KiB", "two", 3, "4 acres"]
            colour = "red"
            [mqtt]
            hots = "a"
            port = "many"
            keep_alive = "30 potatoes"
            password = "${UNSET}"
        "#;
        let problems = load::<Config>(text, "test.toml", &env).unwrap_err();
        let mut at: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        at.sort_unstable();
        let expected = [
            "colour",
            "limits[1]",
            "limits[3]",
            "listen",
            "mode",
            "mqtt.host",
            "mqtt.hots",
            "mqtt.keep_alive",
            "mqtt.password",
            "mqtt.port",
        ];
        assert_eq!(at, expected, "{problems}");
        let hint = |at: &str| problems.iter().find(|problem| problem.at == at).unwrap().hint.clone();
        assert_eq!(hint("mqtt.hots").unwrap(), "did you mean `host`?");
        assert_eq!(hint("mode").unwrap(), "did you mean `safe`?");
        assert_eq!(hint("mqtt.port"), None);
        assert!(problems.to_string().contains("mqtt.password: environment variable `UNSET` is not set"));
    }

    #[test]
    fn a_missing_section_tells_what_it_needs() {
        let problems = load::<Config>("mode = 'fast'\nlisten = '1.2.3.4:5'", "test.toml", &env).unwrap_err();
        let mut at: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        at.sort_unstable();
        assert_eq!(at, ["mqtt", "mqtt.host", "mqtt.keep_alive", "mqtt.port"]);
    }

    #[test]
    fn checks_run_beside_other_problems() {
        let text = "mode = 'fast'\n[mqtt]\nhost = ''\nport = 1\nkeep_alive = '1h'";
        let problems = load::<Config>(text, "test.toml", &env).unwrap_err();
        let at: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        assert_eq!(at, ["listen", "mqtt.host", "mqtt.keep_alive"]);
    }

    #[test]
    fn text_that_is_not_toml_names_file_and_line() {
        let problems = load::<Config>("a = 1\nb = = 2\n", "test.toml", &env).unwrap_err();
        assert_eq!(problems.0[0].at, "test.toml:2");
    }
}
